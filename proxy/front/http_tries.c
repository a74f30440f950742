/* SPDX-License-Identifier: MIT */
/*
 * Getting a server, losing it, and second tries.
 *
 * A request is tried again on another server only where nobody can tell:
 *
 *   A  the server took not a byte of it: any request
 *   B  the server had been idle and closed without a byte of response: it was closing when the
 *      request came. Idempotent requests of which everything sent so far is kept
 *      (hr_replay_max)
 *
 * The first such retry from a server that had been idle is free and made at once: that one was
 * closing is no sign of trouble. All others come out of the pool's budget, after a pause
 * (retry.backoff) that ends before the request's time does. retry.attempts bounds all. Whatever
 * else is retried could be carried out twice, so it is not.
 */
#include "pools/pool.h"
#include "proxy/front/http.h"

/* ---- the service breaker ---- */

void hr_tell_service(struct hr_session *s, enum service_result result)
{
    struct pool *p = session_pool(&s->base);
    struct server *sv = s->server ? &s->server->base : NULL;
    uint32_t permit = s->permit;
    s->permit = 0;
    if (result == SERVICE_WELL)
        pool_service_well(p, sv, permit);
    else if (result == SERVICE_FAILED)
        pool_service_failed(p, sv, "it answers with 5xx", permit);
    else
        pool_service_neutral(p, sv, permit);
}

/* ---- getting a server ---- */

/* A server that may be closing already is not good enough for what cannot be sent twice. */
static bool is_fit(const struct hr_session *s, struct server *sv, enum outcome *why)
{
    *why = OUTCOME_DROP_EOF;
    if (!s->reused || (s->idempotent && s->tries == 0))
        return true;
    enum io_peek peek = io_probe(&sv->io);
    if (peek == IO_PEEK_BYTES)
        *why = OUTCOME_DROP_UNREAD;
    return peek == IO_PEEK_QUIET;
}

/* The waiter's server becomes the session's; false: it was not fit. */
static bool link_up(struct hr_session *s)
{
    struct server *sv = s->work->waiter.server;
    enum outcome why;
    s->work->waiter.server = NULL;
    s->reused = sv->uses > 1 || sv->leased_ms > sv->born_ms;
    if (!is_fit(s, sv, &why)) {
        pool_drop(&sv, why);
        return false;
    }
    s->server = http_server_of(sv);
    s->unsent = s->heard = s->interim = false;
    s->sent = 0;
    s->server_mark = INT64_MIN;
    /* What is kept already is kept on; else it pays only where a second try would be allowed. */
    s->storing = s->replay.len || (s->idempotent && s->reused && s->has_body &&
                                   s->tries + 1u < pool_conf(sv->pool)->retry.attempts);
    http_parser_lend(s->server->parser, &session_loop(&s->base)->chunks);
    http_parser_expect(s->server->parser, (struct http_asked){.head = s->is_head});
    hr_become(s, HR_LINKED);
    return true;
}

bool hr_want_server(struct hr_session *s)
{
    s->work->waiter.fresh = !s->idempotent || s->tries > 0;
    for (;;) {
        switch (pool_lease(session_pool(&s->base), &s->work->waiter)) {
        case LEASE_GRANTED:
            if (!link_up(s))
                continue;
            return true;
        case LEASE_WAITING:
            hr_become(s, HR_WAITING);
            return false;
        case LEASE_REFUSED:
            hr_refuse(s, &s->work->waiter.err, 0, 0);
            return false;
        }
    }
}

void hr_on_lease(struct waiter *w)
{
    struct hr_session *s = w->holder;
    CHECK(s->state == HR_WAITING);
    if (!w->server)
        hr_refuse(s, &w->err, 0, 0);
    else
        s->head_due = link_up(s) || hr_want_server(s);
    hr_advance(s);
}

bool hr_service_allows(struct hr_session *s)
{
    struct ledger *l = pool_ledger(session_pool(&s->base));
    uint64_t wait_ms;
    if (ledger_service_allows(l, loop_now(session_loop(&s->base)), &s->permit, &wait_ms))
        return true;
    struct err err;
    err_set(&err, CAUSE_BREAKER_OPEN, STAGE_WAIT, 0,
            "pool %s: too many of its last responses were failures", l->name);
    hr_refuse(s, &err, 0, wait_ms);
    return false;
}

/* ---- second tries ---- */

/* Asking pays for it. *wait_ms: after so long, 0: at once. */
static bool may_retry(struct hr_session *s, uint64_t *wait_ms)
{
    struct pool *p = session_pool(&s->base);
    bool closing = !s->heard && s->idempotent && s->reused && (s->storing || !s->has_body);
    *wait_ms = 0;
    if (s->answered || s->replay_lost || !(s->unsent || closing) ||
        s->tries + 1u >= pool_conf(p)->retry.attempts)
        return false;
    if (s->tries == 0 && s->reused)
        return true;
    if (!s->base.draining)
        *wait_ms = pool_retry_wait(p, s->tries + 1u);
    return hr_has_time(s, *wait_ms) && pool_may_retry(p);
}

void hr_try_again(struct hr_session *s)
{
    if (s->state == HR_PAUSE)
        hr_pause_over(s);
    pool_count_retry(session_pool(&s->base));
    s->head_due = hr_want_server(s);
}

bool hr_retry(struct hr_session *s, enum outcome why)
{
    uint64_t wait_ms;
    if (!may_retry(s, &wait_ms))
        return false;
    struct server *sv = &s->server->base;
    s->server = NULL;
    s->tries++;
    pool_drop(&sv, why);
    if (wait_ms)
        hr_pause(s, wait_ms);
    else
        hr_try_again(s);
    return true;
}

void hr_fail(struct hr_session *s, const struct err *why, enum outcome outcome,
             enum service_result result)
{
    struct server *sv = &s->server->base;
    struct err err = *why;
    if (s->judged)
        result = SERVICE_NEUTRAL;
    /* Never guessed, always said. */
    if (!s->answered && !s->idempotent && s->sent > 0)
        err_set(&err, why->cause, why->stage, why->sys,
                "%.110s; whether the request was carried out is unknown", why->note);
    if (result == SERVICE_FAILED) {
        pool_service_failed(sv->pool, sv, cause_word(err.cause), s->permit);
        s->permit = 0;
    }
    hr_tell_service(s, SERVICE_NEUTRAL);
    if (!s->answered) {
        bool close = hr_say_refusal(s, &err, 0, 0);
        if (s->base.closed)
            return; /* hr_say_refusal() could not, and its end took the server along */
        s->server = NULL;
        pool_drop(&sv, outcome);
        hr_end(s, close);
        return;
    }
    hr_access(s, err.cause);
    s->server = NULL;
    pool_drop(&sv, outcome);
    /* A response was torn. Where only end-of-file could end it, a reset shows that it did not. */
    struct linger reset = {.l_onoff = 1};
    if (s->framing == HTTP_BODY_CLOSE && s->base.peer)
        setsockopt(s->base.io.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    session_close(&s->base, &err);
}

void hr_lose_server(struct hr_session *s, const struct err *err, enum outcome why)
{
    if (!hr_retry(s, why))
        hr_fail(s, err, why, SERVICE_FAILED);
}
