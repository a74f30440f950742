/* SPDX-License-Identifier: MIT */
/*
 * A server of the client's own, for what belongs to a connection: MULTI and WATCH, blocking calls,
 * subscriptions, commands nobody knows, and values too big to travel between other clients'
 * commands. The client keeps it until the replies say that nothing is left there
 * (redis_session_may_release()).
 *
 * It is read here, with backpressure both ways: nobody else waits for it.
 */
#include <errno.h>

#include "health/deadline.h"
#include "pools/ledger.h"
#include "pools/pool.h"
#include "proxy/front/redis.h"

static struct redis_server *own_of(const struct redis_client *c)
{
    return redis_server_of(c->own);
}

/* ---- sending ---- */

void redis_send_own(struct redis_client *c, struct redis_request *r, struct span bytes, bool last)
{
    struct redis_server *rs = own_of(c);
    struct err err;
    r->call.ops = &redis_call_ops;
    if (!redis_call_send(rs, &r->call, last ? bytes : span_of(bytes.p, 0))) {
        err_set(&err, CAUSE_INTERNAL, STAGE_EXCHANGE, 0, "out of memory");
        redis_doom(c, &err);
        return;
    }
    r->state = REDIS_REQ_FLYING;
    r->since_ms = loop_now(redis_loop(c));
    c->n_flying++;
    rs->noisy = rs->noisy || redis_session_subscribed(&c->session);
    rs->sticky = rs->sticky || c->session.sticky;
    if (!last)
        redis_stream_own(c, bytes, false);
}

void redis_stream_own(struct redis_client *c, struct span bytes, bool last)
{
    if (c->state != REDIS_OWN)
        return;
    struct redis_server *rs = own_of(c);
    struct list *n = list_last(&c->requests);
    if (n)
        OWNER(n, struct redis_request, node)->since_ms = loop_now(redis_loop(c));
    rs->torn = !last;
    redis_server_stream(rs, bytes);
    c->streaming = !last;
    redis_wake(c);
}

/* ---- the lease ---- */

static void send_held(struct redis_client *c)
{
    struct loop *loop = redis_loop(c);
    struct redis_request *r = c->hold;
    size_t n = bufq_peek(&c->work->held, loop->scratch, c->work->held.len);
    bufq_clear(&loop->chunks, &c->work->held);
    c->hold = NULL;
    r->wait_us = loop_usec(loop) - r->since_us;
    redis_send_own(c, r, span_of(loop->scratch, n), !c->streaming);
}

static void take_lease(struct redis_client *c)
{
    c->own = c->work->waiter.server;
    c->work->waiter.server = NULL;
    redis_become(c, REDIS_OWN);
    send_held(c);
}

static void refuse_held(struct redis_client *c)
{
    struct redis_request *r = c->hold;
    c->hold = NULL;
    bufq_clear(&redis_loop(c)->chunks, &c->work->held);
    redis_fail(c, r, &c->work->waiter.err);
    /* What follows in a transaction must not be executed by itself. Who was refused a subscription
     * has none to wait for. */
    (void)redis_session_lost(&c->session);
    c->discarding = c->streaming;
    c->streaming = c->dirty = false;
}

static void ask_own(struct redis_client *c)
{
    uint64_t request_ms = pool_conf(session_pool(&c->base))->timeouts.request_ms;
    bool bounded = !c->hold->slot.blocking;
    c->work->waiter.exclusive = true;
    c->work->waiter.due_ms = bounded ? deadline_after(loop_now(redis_loop(c)), request_ms) : 0;
    redis_become(c, REDIS_ASKING_OWN);
    switch (pool_lease(session_pool(&c->base), &c->work->waiter)) {
    case LEASE_GRANTED:
        take_lease(c);
        return;
    case LEASE_WAITING:
        return;
    case LEASE_REFUSED:
        redis_become(c, REDIS_FREE);
        refuse_held(c);
        return;
    }
}

void redis_on_own_lease(struct redis_client *c)
{
    redis_wake(c);
    if (c->work->waiter.server) {
        take_lease(c);
        return;
    }
    redis_become(c, REDIS_FREE);
    refuse_held(c);
}

static void give_back(struct redis_client *c, bool reset)
{
    struct redis_server *rs = own_of(c);
    rs->reset_needed = rs->reset_needed || reset || c->dirty;
    c->dirty = false;
    redis_become(c, REDIS_FREE);
    pool_give_back(&c->own);
}

void redis_tend_own(struct redis_client *c)
{
    if (c->state == REDIS_OWN && c->n_flying == 0 && !c->streaming && !c->barrier &&
        redis_session_may_release(&c->session)) {
        give_back(c, false);
        redis_session_released(&c->session);
    }
    if (c->barrier && list_empty(&c->requests)) {
        if (c->state == REDIS_OWN)
            give_back(c, true);
        redis_session_released(&c->session);
        c->barrier = false;
    }
    if (c->state == REDIS_FREE && c->hold && list_first(&c->requests) == &c->hold->node)
        ask_own(c);
}

void redis_leave_own(struct redis_client *c)
{
    struct redis_server *rs = own_of(c);
    LIST_EACH(n, &c->requests) {
        struct redis_request *r = OWNER(n, struct redis_request, node);
        if (r->state == REDIS_REQ_FLYING)
            redis_call_forget(rs, &r->call);
    }
    rs->torn = rs->torn || c->streaming;
    give_back(c, !redis_session_may_release(&c->session));
}

/* ---- losses ---- */

void redis_lose_own(struct redis_client *c, const struct err *err, enum outcome why)
{
    struct redis_server *rs = own_of(c);
    struct err end = *err;
    if (c->n_flying > 0)
        pool_service_failed(session_pool(&c->base), c->own, cause_word(err->cause), 0);
    else
        session_error(&c->base, err); /* nobody hears of it, yet something was lost */
    redis_server_lost(rs, err, why);
    redis_become(c, REDIS_FREE);
    pool_drop(&c->own, why);
    c->dirty = false;
    c->discarding = c->discarding || c->streaming;
    c->streaming = false;
    if (redis_session_lost(&c->session) && !c->doomed) {
        /* It would wait for messages that cannot come. */
        c->work->why = end;
        c->closing = c->failed = true;
    }
    redis_wake(c);
}

static void on_holder_lost(struct server *sv, const struct err *err)
{
    redis_lose_own(sv->holder, err, OUTCOME_DROP_DRAINING);
}

/* ---- replies ---- */

/* One piece. False: it answers nothing. */
static bool on_piece(struct redis_client *c, const struct redis_reply_piece *piece)
{
    c->passed_ms = loop_now(redis_loop(c));
    struct redis_server *rs = own_of(c);
    struct redis_call *call = redis_server_oldest(rs);
    struct redis_request *r = call ? OWNER(call, struct redis_request, call) : NULL;
    enum redis_reply_for whom = redis_session_reply(&c->session, r ? &r->slot : NULL, piece);
    if (whom == REDIS_FOR_NONE) {
        redis_say(c, piece->raw);
        return true;
    }
    if (whom == REDIS_FOR_BAD || !r || rs->handed < call->bytes)
        return false;
    if (!r->slot.mute)
        redis_say(c, piece->raw);
    r->told += piece->raw.n;
    call->open = !piece->ends;
    r->since_ms = loop_now(redis_loop(c));
    if (!piece->ends || whom != REDIS_FOR_SLOT)
        return true;
    redis_note_trouble(r, piece, c->own);
    redis_call_end(rs, call);
    redis_answered(c, r, c->own);
    /* The next one's time begins now: it may have waited behind a blocking call. */
    struct redis_call *next = redis_server_oldest(rs);
    if (next)
        OWNER(next, struct redis_request, call)->since_ms = loop_now(redis_loop(c));
    return true;
}

static void broken(struct redis_client *c, const struct err *err)
{
    redis_lose_own(c, err, OUTCOME_DROP_PROTOCOL);
}

static void on_own_readable(struct server *sv)
{
    struct redis_client *c = sv->holder;
    struct redis_server *rs = redis_server_of(sv);
    struct redis_reply_piece piece;
    struct err err;
    struct span in;
    ssize_t n = redis_server_fill(rs, &in);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        server_lost_err(sv, n, &err);
        redis_lose_own(c, &err, OUTCOME_DROP_EOF);
        return;
    }
    for (;;) {
        size_t hold = redis_session_subscribed(&c->session) ? REDIS_REPLY_SMALL : 0;
        enum redis_reply_step step = redis_reply_next(&rs->framer, in, hold, &piece, &err);
        if (step == REDIS_REPLY_WAIT)
            break;
        if (step == REDIS_REPLY_BAD) {
            broken(c, &err);
            return;
        }
        in = span_skip(in, piece.raw.n);
        if (on_piece(c, &piece))
            continue;
        err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
                "%s sent a reply (type %c) that nothing asked for", sv->endpoint->label,
                piece.type);
        broken(c, &err);
        return;
    }
    if (!redis_server_carry(rs, in)) {
        err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0, "a line too long");
        broken(c, &err);
        return;
    }
    if (io_unsent(&c->base.io) > redis_high_water(c))
        io_pause(&sv->io);
    redis_wake(c);
}

static void on_own_drained(struct server *sv)
{
    struct redis_client *c = sv->holder;
    sv->ops->drained(sv);
    c->passed_ms = loop_now(redis_loop(c));
    redis_wake(c);
}

const struct holder_ops redis_holder_ops = {
    .on_readable = on_own_readable,
    .on_drained = on_own_drained,
    .on_lost = on_holder_lost,
};
