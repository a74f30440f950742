/* SPDX-License-Identifier: MIT */
/*
 * The HTTP driver. HTTP/1.1 has no session and no ping: a connection is as good as the framing of
 * its last message, and an idle one is well as long as it is silent.
 *
 *   settle   what the relay said; retired sooner if the upstream announced its own idle timeout
 *   idle     any byte drops it: a 408 on the way out, or the rest of a response that did not end
 *            where its head said, which would answer somebody else's request
 *   verify   is it silent and open? That is all that can be asked without a request
 */
#include "pools/dial.h"
#include "pools/http.h"

#include "pools/pool.h"

#define FRESH_MS 1000

static unsigned arrive(struct server *sv)
{
    struct http_server *hs = http_server_of(sv);
    hs->after = OUTCOME_DROP_DIRTY;
    hs->lifetime_ms = sv->die_ms;
    sv->stale_ms = sv->born_ms + FRESH_MS;
    return 1;
}

/*
 * An upstream that says when it will close an idle connection (Keep-Alive: timeout=5) is left a
 * second earlier, so that no request meets the closing. One that says nothing may close whenever it
 * likes: what cannot be sent twice (waiter.fresh) gets only what has been idle for less than
 * FRESH_MS, or than half of what was announced.
 */
static void obey_keep_alive(struct http_server *hs)
{
    struct server *sv = &hs->base;
    uint64_t now = loop_now(sv->io.loop);
    sv->die_ms = hs->lifetime_ms;
    sv->stale_ms = now + (hs->keep_alive_s ? (uint64_t)hs->keep_alive_s * 500 : FRESH_MS);
    if (!hs->keep_alive_s)
        return;
    uint64_t stay = hs->keep_alive_s > 1 ? (uint64_t)(hs->keep_alive_s - 1) * 1000 : 500;
    uint64_t leave = now + stay;
    if (!sv->die_ms || leave < sv->die_ms)
        sv->die_ms = leave;
}

static enum outcome settle(struct server *sv)
{
    struct http_server *hs = http_server_of(sv);
    enum outcome after = hs->after;
    hs->after = OUTCOME_DROP_DIRTY;
    if (sv->io.broken)
        return OUTCOME_DROP_EOF;
    if (after != OUTCOME_KEEP)
        return after;
    if (sv->io.out.len || !http_parser_is_quiet(hs->parser))
        return OUTCOME_DROP_DIRTY;
    obey_keep_alive(hs);
    return OUTCOME_KEEP;
}

static void verify(struct server *sv, const char *statement)
{
    (void)statement; /* refused by the configuration */
    switch (io_probe(&sv->io)) {
    case IO_PEEK_QUIET:
        server_checked(sv, true, OUTCOME_KEEP);
        return;
    case IO_PEEK_BYTES:
        server_checked(sv, false, OUTCOME_DROP_UNREAD);
        return;
    case IO_PEEK_EOF:
        server_checked(sv, false, OUTCOME_DROP_EOF);
        return;
    }
}

/* settle() never asks for one. */
static void reset(struct server *sv)
{
    server_checked(sv, false, OUTCOME_DROP_FAILED);
}

static bool feed(struct server *sv, struct span bytes, struct err *err)
{
    return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_CHECK, 0,
                   "%s sent %zu bytes that answer no request", sv->endpoint->label, bytes.n);
}

static void goodbye(struct server *sv)
{
    (void)sv; /* end-of-file says it all */
}

static void fini(struct server *sv)
{
    struct http_server *hs = http_server_of(sv);
    http_parser_free(hs->parser);
    hs->parser = NULL;
}

const struct driver_ops http_driver = {
    .name = "http",
    .server_size = sizeof(struct http_server),
    .dial = http_dial,
    .dial_abort = dial_abort,
    .arrive = arrive,
    .settle = settle,
    .verify = verify,
    .reset = reset,
    .feed = feed,
    .goodbye = goodbye,
    .fini = fini,
};
