/* SPDX-License-Identifier: MIT */
/*
 * The life of a Redis client, and the tick that decides what happens next to it. See redis.h for
 * the picture.
 */
#include <errno.h>

#include "pools/ledger.h"
#include "pools/pool.h"
#include "proxy/core/sm.h"
#include "proxy/front/redis.h"

static const struct sm_row rows[REDIS_STATES] = {
#define TO(s) SM_TO(REDIS_##s)
    [REDIS_TLS] = {"tls", TO(FREE)},
    [REDIS_FREE] = {"free", TO(ASKING) | TO(SHARED) | TO(ASKING_OWN) | TO(ENDING)},
    [REDIS_ASKING] = {"asking", TO(SHARED) | TO(FREE)},
    [REDIS_SHARED] = {"shared", TO(FREE)},
    [REDIS_ASKING_OWN] = {"asking_own", TO(OWN) | TO(FREE)},
    [REDIS_OWN] = {"own", TO(FREE)},
    [REDIS_ENDING] = {"ending", 0},
#undef TO
};

void redis_become(struct redis_client *c, enum redis_state to)
{
    CHECK(sm_allows(rows, c->state, to));
    c->state = to;
}

void redis_doom(struct redis_client *c, const struct err *err)
{
    if (c->doomed)
        return;
    c->doomed = true;
    if (redis_work_begin(c) && err != &c->work->why)
        c->work->why = *err;
    redis_wake(c);
}

/* ---- reading ---- */

static void keep(struct redis_client *c, struct span rest)
{
    if (c->base.closed || rest.n == 0)
        return;
    struct err err;
    if (c->carry.len + rest.n <= LOOP_CARRY_MAX &&
        bufq_append(&redis_loop(c)->chunks, &c->carry, rest))
        return;
    err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory for what the client sent");
    redis_doom(c, &err);
}

/* What was carried over, now that more may be done. */
static void read_on(struct redis_client *c)
{
    struct loop *loop = redis_loop(c);
    size_t n = bufq_peek(&c->carry, loop->scratch, c->carry.len);
    bufq_clear(&loop->chunks, &c->carry);
    c->read_us = loop_usec(loop);
    keep(c, redis_walk(c, span_of(loop->scratch, n)));
}

/*
 * End of file, or worse. A client that has shut down its side may still read: requests on shared
 * servers are answered, they are soon over. Nobody is to be blocked for one that left.
 */
static void client_left(struct redis_client *c, ssize_t n)
{
    bool busy = !list_empty(&c->requests) || c->stalled;
    if (n == 0 && busy && c->state != REDIS_OWN && !c->hold && !c->base.io.broken) {
        c->leaving = true;
        io_pause(&c->base.io);
        return;
    }
    struct err err;
    err_set(&err, CAUSE_CLIENT_GONE, STAGE_CLIENT, n < 0 ? (int)-n : 0,
            "the client left without a word (%u requests under way)", c->n_requests);
    session_close(&c->base, busy ? &err : NULL);
}

static void say_and_end(struct redis_client *c, const struct err *err)
{
    uint8_t buf[512];
    struct redis_out out = redis_out_of(buf, sizeof buf);
    if (!redis_work_begin(c))
        return;
    redis_put_err(&out, err);
    redis_answer(c, redis_out_span(&out));
    c->work->why = *err;
    c->closing = c->failed = true;
    redis_wake(c);
}

static void come_in(struct redis_client *c)
{
    redis_become(c, REDIS_FREE);
    if (c->base.refusal)
        say_and_end(c, c->base.refusal);
    redis_wake(c);
}

static void shake_hands(struct redis_client *c)
{
    struct err err;
    switch (io_handshake(&c->base.io, &err)) {
    case IO_HS_AGAIN:
        return;
    case IO_HS_DONE:
        come_in(c);
        return;
    case IO_HS_FAILED:
        session_close(&c->base, &err);
        return;
    }
}

static void discard(struct redis_client *c)
{
    ssize_t n = io_read(&c->base.io, redis_loop(c)->scratch, LOOP_READ_MAX);
    if (n <= 0 && n != -EAGAIN)
        session_close(&c->base, redis_why(c));
}

static void read_client(struct redis_client *c)
{
    struct loop *loop = redis_loop(c);
    bool walk = redis_may_read(c);
    if (walk && c->stalled) {
        redis_wake(c); /* first what is here already */
        return;
    }
    if (!walk && (c->carry.len > REDIS_CARRY_HIGH || c->closing) && !c->base.io.broken) {
        c->stalled = true;
        io_pause(&c->base.io);
        redis_wake(c);
        return;
    }
    /* What is carried and what comes must fit into the carry again, if nothing is used. */
    size_t room = LOOP_CARRY_MAX - c->carry.len;
    if (room == 0) {
        redis_wake(c);
        return;
    }
    size_t had = walk ? bufq_peek(&c->carry, loop->scratch, c->carry.len) : 0;
    ssize_t n =
        io_read(&c->base.io, loop->scratch + had, room < LOOP_READ_MAX ? room : LOOP_READ_MAX);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        client_left(c, n);
        return;
    }
    c->read_us = loop_usec(loop);
    c->active_ms = c->passed_ms = loop_now(loop);
    redis_wake(c);
    struct span in = span_of(loop->scratch, had + (size_t)n);
    if (walk) {
        bufq_clear(&loop->chunks, &c->carry);
        in = redis_walk(c, in);
    } else {
        c->stalled = true;
    }
    keep(c, in);
}

static void on_readable(struct session *base)
{
    struct redis_client *c = redis_client_of(base);
    if (c->state == REDIS_TLS)
        shake_hands(c);
    else if (c->state == REDIS_ENDING)
        discard(c);
    else
        read_client(c);
}

static void on_drained(struct session *base)
{
    struct redis_client *c = redis_client_of(base);
    if (c->state == REDIS_TLS) {
        shake_hands(c);
        return;
    }
    redis_wake(c);
}

/* ---- the tick ---- */

static void on_lease(struct waiter *w)
{
    struct redis_client *c = w->holder;
    if (c->state == REDIS_ASKING)
        redis_on_shared_lease(c);
    else
        redis_on_own_lease(c);
}

void redis_waiter_init(struct redis_client *c, struct waiter *w)
{
    *w = (struct waiter){.holder_ops = &redis_holder_ops, .holder = c, .on_lease = on_lease};
}

static void tend(struct redis_client *c)
{
    redis_deliver(c);
    redis_tend_shared(c);
    redis_tend_own(c);
}

/* Nothing is open: a drain may end the client here. What it has asked meanwhile is done first. */
static bool may_drain(struct redis_client *c)
{
    return c->base.draining && list_empty(&c->requests) && !c->carry.len && !c->streaming &&
           !c->session.sent.multi && io_unsent(&c->base.io) == 0 &&
           io_probe(&c->base.io) != IO_PEEK_BYTES;
}

/* True: the client has ended, or is about to. */
static bool end(struct redis_client *c)
{
    if (c->doomed) {
        session_close(&c->base, redis_why(c));
        return true;
    }
    if (c->state == REDIS_ENDING)
        return false;
    bool done = list_empty(&c->requests) && io_unsent(&c->base.io) == 0;
    bool refused = c->base.refusal != NULL;
    if (refused && c->closing) {
        /* As Redis: no place is taken up by waiting. What it has said would turn the close to a
         * reset. */
        (void)io_read(&c->base.io, redis_loop(c)->scratch, LOOP_READ_MAX);
        session_close(&c->base, redis_why(c));
        return true;
    }
    if (c->closing && c->failed && done && c->state == REDIS_FREE) {
        io_shutdown(&c->base.io);
        io_resume(&c->base.io);
        c->end_ms = loop_now(redis_loop(c)) + REDIS_LINGER_MS;
        redis_become(c, REDIS_ENDING);
        return false;
    }
    if ((c->closing && done) || (c->leaving && done && !c->stalled) || may_drain(c)) {
        session_close(&c->base, c->failed ? redis_why(c) : NULL);
        return true;
    }
    return false;
}

static bool is_idle(const struct redis_client *c)
{
    return c->state == REDIS_FREE && list_empty(&c->requests) && c->carry.len == 0 && !c->hold &&
           !c->doomed && !c->closing && !c->stalled && !c->discarding;
}

static void on_tick(struct deferred *d)
{
    struct redis_client *c = OWNER(d, struct redis_client, tick);
    struct io *io = &c->base.io;
    if (c->doomed || c->state == REDIS_TLS || c->state == REDIS_ENDING) {
        if (!end(c))
            redis_arm(c);
        return;
    }
    tend(c);
    io_flush(io);
    if (c->stalled && redis_may_read(c)) {
        read_on(c);
        redis_wake(c); /* and once more */
    }
    redis_note_progress(c);
    if (c->own && io_unsent(io) <= redis_high_water(c))
        io_resume(&c->own->io);
    if (end(c))
        return;
    if (!c->leaving && c->carry.len <= REDIS_CARRY_HIGH && !c->closing)
        io_resume(io);
    if (is_idle(c))
        redis_work_end(c);
    redis_arm(c);
}

/* ---- life ---- */

static void on_open(struct session *base)
{
    struct redis_client *c = redis_client_of(base);
    const struct redis_guard *g = base->gate->guard;
    redis_session_init(&c->session, base->door->auth == AUTH_TRUST ? &g->open : &g->locked,
                       base->id);
    list_init(&c->requests);
    list_init(&c->user.node);
    c->user.on_lost = redis_user_lost;
    deferred_init(&c->tick, on_tick);
    c->active_ms = c->moved_ms = c->passed_ms = loop_now(redis_loop(c));
    if (!base->gate->tls || !base->peer) {
        come_in(c);
        return;
    }
    base->io.tls = tls_accept(base->gate->tls, base->io.fd);
    if (!base->io.tls) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_TLS, ENOMEM, "out of memory");
        redis_doom(c, &err);
        return;
    }
    redis_wake(c);
    shake_hands(c);
}

static void on_drain(struct session *base)
{
    struct redis_client *c = redis_client_of(base);
    if (c->state != REDIS_TLS) {
        redis_wake(c);
        return;
    }
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "carpool is stopping");
    redis_doom(c, &err);
}

/* Requests on a shared server become tombstones there; all others are over. */
static void drop_requests(struct redis_client *c, enum cause cause)
{
    LIST_EACH(n, &c->requests) {
        struct redis_request *r = OWNER(n, struct redis_request, node);
        redis_permit_result(c, r, NULL);
        if (r->state == REDIS_REQ_FLYING || r->state == REDIS_REQ_QUEUED)
            redis_access(c, r, cause);
        if (r->state != REDIS_REQ_FLYING || !list_linked(&r->call.node)) {
            redis_request_free(c, r);
            continue;
        }
        list_remove(&r->node);
        c->n_requests--;
        redis_call_bury(r->call.server, &r->call);
    }
    c->n_flying = c->n_queued = 0;
}

static void on_fini(struct session *base, const struct err *err)
{
    struct redis_client *c = redis_client_of(base);
    struct chunk_pool *chunks = &redis_loop(c)->chunks;
    deferred_cancel(&c->tick);
    if (c->work)
        pool_cancel(&c->work->waiter);
    if (c->own)
        redis_leave_own(c);
    drop_requests(c, err ? err->cause : CAUSE_CLIENT_GONE);
    if (c->user.server)
        redis_user_leave(&c->user);
    bufq_clear(chunks, &c->carry);
    if (!c->work)
        return;
    bufq_clear(chunks, &c->work->queued);
    bufq_clear(chunks, &c->work->again);
    bufq_clear(chunks, &c->work->held);
    bufq_clear(chunks, &c->work->answers);
    redis_work_end(c);
}

/* A server of its own is not kept for a client that has left: BLPOP may never end. Whoever shares
   has its replies soon. */
static void on_hangup(struct session *base)
{
    struct redis_client *c = redis_client_of(base);
    if (c->state != REDIS_OWN && !c->hold)
        return;
    struct err err;
    err_set(&err, CAUSE_CLIENT_GONE, STAGE_CLIENT, 0,
            "the client left without a word (%u requests under way)", c->n_requests);
    session_close(base, &err);
}

const struct relay_ops redis_relay = {
    .name = "redis",
    .session_size = sizeof(struct redis_client),
    .guard_new = redis_guard_new,
    .guard_free = redis_guard_free,
    .state_new = redis_common_new,
    .state_free = redis_common_free,
    .open = on_open,
    .on_readable = on_readable,
    .on_drained = on_drained,
    .on_hangup = on_hangup,
    .on_deadline = redis_on_deadline,
    .drain = on_drain,
    .fini = on_fini,
    .describe = redis_describe,
};
