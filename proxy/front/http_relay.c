/* SPDX-License-Identifier: MIT */
/*
 * A client's life. Callbacks report to the files that carry requests and responses; every one of
 * them ends in hr_advance(), which goes on with what had to wait and decides whether the client is
 * read.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/core/crypto.h"
#include "proxy/core/sm.h"
#include "proxy/front/http.h"

static const struct sm_row rows[HR_STATES] = {
#define TO(s) SM_TO(HR_##s)
    [HR_TLS] = {"tls", TO(IDLE)},
    [HR_IDLE] = {"idle", TO(HEAD) | TO(LINGER)},
    [HR_HEAD] = {"head", TO(IDLE) | TO(WAITING) | TO(LINKED) | TO(DISCARD) | TO(LINGER)},
    [HR_WAITING] = {"waiting", TO(WAITING) | TO(LINKED) | TO(IDLE) | TO(DISCARD) | TO(LINGER)},
    [HR_LINKED] = {"linked",
                   TO(LINKED) | TO(WAITING) | TO(PAUSE) | TO(IDLE) | TO(DISCARD) | TO(LINGER)},
    [HR_PAUSE] = {"pause", TO(WAITING) | TO(LINKED) | TO(IDLE) | TO(DISCARD) | TO(LINGER)},
    [HR_DISCARD] = {"discard", TO(IDLE) | TO(LINGER)},
    [HR_LINGER] = {"linger", 0},
#undef TO
};

void hr_become(struct hr_session *s, enum hr_state to)
{
    CHECK(sm_allows(rows, s->state, to));
    s->state = to;
    if (s->base.in_flight && to != HR_HEAD && to != HR_WAITING && to != HR_LINKED && to != HR_PAUSE)
        session_exchange_over(&s->base);
}

/* ---- names ---- */

struct guard {
    char pseudonym[HR_PSEUDONYM + 1];
};

struct span hr_pseudonym(const struct hr_session *s)
{
    const struct guard *g = s->base.gate->guard;
    return span_of(g->pseudonym, HR_PSEUDONYM);
}

/* A request that comes back to this pool carries its name in Via. */
static void *guard_new(const struct front_conf *front, const struct pool_conf *pool,
                       struct err *err)
{
    (void)front;
    (void)pool;
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz012345";
    uint8_t random[HR_PSEUDONYM - 8];
    struct guard *g = calloc(1, sizeof *g);
    if (!g || !crypto_random(random, sizeof random)) {
        free(g);
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, ENOMEM, "out of memory, or of random bytes");
        return NULL;
    }
    memcpy(g->pseudonym, "carpool-", 8);
    for (size_t i = 0; i < sizeof random; i++)
        g->pseudonym[8 + i] = letters[random[i] % 32];
    return g;
}

static void guard_free(void *guard)
{
    free(guard);
}

static void note_address(struct hr_session *s)
{
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
    if (!s->base.peer)
        return;
    if (s->base.peer->sa_family == AF_INET) {
        memcpy(&in4, s->base.peer, sizeof in4);
        inet_ntop(AF_INET, &in4.sin_addr, s->client, sizeof s->client);
    } else if (s->base.peer->sa_family == AF_INET6) {
        memcpy(&in6, s->base.peer, sizeof in6);
        inet_ntop(AF_INET6, &in6.sin6_addr, s->client, sizeof s->client);
    }
}

/* ---- going on ---- */

void hr_client_gone(struct hr_session *s, ssize_t n)
{
    struct err err;
    if (s->state == HR_LINGER || (s->state == HR_IDLE && !io_unsent(&s->base.io))) {
        session_close(&s->base, NULL);
        return;
    }
    err_set(&err, CAUSE_CLIENT_GONE, STAGE_CLIENT, n < 0 ? (int)-n : 0,
            "the client left in the middle of things (state %s)", rows[s->state].name);
    session_close(&s->base, &err);
}

/* Nothing more will come of the client, and without that nothing can go on. */
static void starve(struct hr_session *s)
{
    switch (s->state) {
    case HR_IDLE:
        hr_linger(s); /* what was answered may still be on its way */
        return;
    case HR_LINGER:
        if (!io_unsent(&s->base.io))
            session_close(&s->base, NULL);
        return;
    case HR_LINKED:
    case HR_WAITING:
    case HR_PAUSE:
        if (http_parser_is_done(hr_parser(s)))
            return;
        break;
    case HR_TLS:
    case HR_HEAD:
    case HR_DISCARD:
    case HR_STATES:
        break;
    }
    hr_client_gone(s, 0);
}

/* Nothing is under way: not a byte of a request has come, or none is wanted any more. */
static bool is_at_rest(const struct hr_session *s)
{
    return s->work && !s->carry.len &&
           (s->state == HR_LINGER || (s->state == HR_IDLE && http_parser_is_new(hr_parser(s))));
}

void hr_advance(struct hr_session *s)
{
    struct loop *loop = session_loop(&s->base);
    while (!s->base.closed && (s->head_due || (s->carry.len && hr_takes_input(s)))) {
        size_t n = bufq_peek(&s->carry, loop->scratch, s->carry.len);
        bufq_clear(&loop->chunks, &s->carry);
        hr_walk(s, span_of(loop->scratch, n));
    }
    if (s->base.closed)
        return;
    if (s->client_eof && !s->carry.len)
        starve(s);
    if (s->base.closed)
        return;
    if (is_at_rest(s))
        hr_work_end(s);
    else if (hr_is_greedy(s) && s->carry.len && (s->state == HR_IDLE || s->state == HR_HEAD))
        loop_defer_next(loop, &s->work->more);
    if (s->client_eof || s->carry.len >= hr_carry_max(s))
        io_pause(&s->base.io);
    else
        io_resume(&s->base.io);
}

/* ---- TLS ---- */

static void admit(struct hr_session *s)
{
    hr_become(s, HR_IDLE);
    if (s->base.refusal)
        hr_set_deadline(s, HR_DEADLINE_REFUSE, HR_REFUSE_MS);
}

/* True: done, and what follows may be there already. */
static bool shake_hands(struct hr_session *s)
{
    struct err err;
    switch (io_handshake(&s->base.io, &err)) {
    case IO_HS_AGAIN:
        return false;
    case IO_HS_DONE:
        admit(s);
        return true;
    case IO_HS_FAILED:
        break;
    }
    session_close(&s->base, &err);
    return false;
}

void hr_send_down(struct hr_session *s, const struct iovec *iov, int n)
{
    for (int i = 0; i < n; i++)
        s->given += iov[i].iov_len;
    (void)io_sendv(&s->base.io, iov, n);
}

/* ---- callbacks ---- */

void hr_turn_away(struct hr_session *s)
{
    struct err err = *s->base.refusal;
    hr_become(s, HR_HEAD);
    hr_refuse(s, &err, 0, 0);
}

static void on_open(struct session *base)
{
    struct hr_session *s = hr_session_of(base);
    struct err err;
    note_address(s);
    bool tls = base->gate->tls && base->peer;
    if (tls)
        base->io.tls = tls_accept(base->gate->tls, base->io.fd);
    if (tls && !base->io.tls) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        session_close(base, &err);
        return;
    }
    hr_set_deadline(s, HR_DEADLINE_HEAD, hr_timeouts(s)->client_login_ms);
    if (!tls)
        admit(s);
}

/* The answer is given; what still comes only keeps the client from hearing it. */
static void read_away(struct hr_session *s)
{
    struct io *io = &s->base.io;
    ssize_t n = io_read(io, io->loop->scratch, LOOP_READ_MAX);
    if (n > 0 || n == -EAGAIN)
        return;
    if (n < 0 || io->broken || !io_unsent(io)) {
        session_close(&s->base, NULL);
        return;
    }
    s->client_eof = true;
    io_pause(io);
}

static void read_request(struct hr_session *s)
{
    struct session *base = &s->base;
    struct loop *loop = session_loop(base);
    struct err err;
    ssize_t n = io_read(&base->io, loop->scratch, LOOP_READ_MAX);
    if (n == -EAGAIN)
        return;
    if (n < 0 || (n == 0 && (base->io.broken || s->client_eof))) {
        hr_client_gone(s, n);
        return;
    }
    if (n == 0) {
        s->client_eof = true;
        return;
    }
    if (base->refusal) {
        hr_turn_away(s);
        return;
    }
    struct span in = span_of(loop->scratch, (size_t)n);
    if (s->carry.len == 0) {
        hr_walk(s, in);
    } else if (!bufq_append(&loop->chunks, &s->carry, in)) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        session_close(base, &err);
    }
}

static void on_readable(struct session *base)
{
    struct hr_session *s = hr_session_of(base);
    if (s->state == HR_TLS && !shake_hands(s))
        return;
    if (s->state == HR_LINGER)
        read_away(s);
    else
        read_request(s);
    if (!base->closed)
        hr_advance(s);
}

static void on_drained(struct session *base)
{
    struct hr_session *s = hr_session_of(base);
    if (s->state == HR_TLS) {
        if (shake_hands(s))
            hr_advance(s);
        return;
    }
    if (s->deadline == HR_DEADLINE_STALL)
        hr_stall_over(s);
    if (s->state == HR_LINGER)
        hr_linger_drained(s);
    else if (s->state == HR_IDLE && s->deadline == HR_DEADLINE_NONE)
        hr_set_deadline(s, HR_DEADLINE_IDLE, hr_timeouts(s)->client_idle_ms);
    if (base->closed)
        return;
    if (s->server) {
        io_resume(&s->server->base.io);
        hr_watch(s);
    }
    hr_advance(s);
}

/* ---- the end ---- */

static void on_drain(struct session *base)
{
    struct hr_session *s = hr_session_of(base);
    switch (s->state) {
    case HR_TLS:
        session_close(base, NULL);
        return;
    case HR_IDLE:
        /* What has come already is answered, and that answer says that it is the last. */
        if (!s->carry.len && io_probe(&base->io) != IO_PEEK_BYTES)
            hr_linger(s);
        break;
    case HR_DISCARD:
        hr_linger(s);
        break;
    case HR_LINGER:
        if (base->io.sent_fin)
            session_close(base, NULL);
        return;
    case HR_PAUSE:
        hr_try_again(s); /* the drain does not wait for what could be tried now */
        break;
    case HR_HEAD:
    case HR_WAITING:
    case HR_LINKED:
    case HR_STATES:
        break;
    }
    if (!base->closed)
        hr_advance(s);
}

static void on_kill(struct session *base, const struct err *why)
{
    struct hr_session *s = hr_session_of(base);
    if (s->state == HR_LINKED) {
        hr_fail(s, why, OUTCOME_DROP_DIRTY, SERVICE_NEUTRAL);
    } else if (s->state == HR_WAITING || s->state == HR_PAUSE) {
        pool_cancel(&s->work->waiter);
        hr_refuse(s, why, 0, 0);
    } else {
        session_close(base, why);
    }
}

static void on_fini(struct session *base, const struct err *err)
{
    struct hr_session *s = hr_session_of(base);
    struct loop *loop = session_loop(base);
    if (s->server || s->state == HR_WAITING || s->state == HR_PAUSE)
        hr_access(s, err ? err->cause : CAUSE_CLIENT_GONE);
    if (s->work)
        pool_cancel(&s->work->waiter);
    hr_tell_service(s, SERVICE_NEUTRAL);
    if (s->server) {
        struct server *sv = &s->server->base;
        s->server = NULL;
        pool_drop(&sv, OUTCOME_DROP_DIRTY);
    }
    hr_work_end(s);
    bufq_clear(&loop->chunks, &s->carry);
    bufq_clear(&loop->chunks, &s->replay);
}

const struct relay_ops http_relay = {
    .name = "http",
    .session_size = sizeof(struct hr_session),
    .guard_new = guard_new,
    .guard_free = guard_free,
    .state_new = hr_stock_new,
    .state_free = hr_stock_free,
    .open = on_open,
    .on_readable = on_readable,
    .on_drained = on_drained,
    .on_deadline = hr_on_deadline,
    .drain = on_drain,
    .kill = on_kill,
    .fini = on_fini,
    .describe = hr_describe,
};
