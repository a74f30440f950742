/* SPDX-License-Identifier: MIT */
/*
 * The Redis driver: the queue of calls of a server. Its own round trips are in redis_check.c.
 *
 *   settle   clean: keep, or reset after a client that may have left something. Tombstones left:
 *            verify, so that what is overdue is swallowed first, and a server that says nothing at
 *            all is dropped when the check's time is over
 */
#include "pools/dial.h"
#include "pools/redis.h"

#include <stdlib.h>

#include "pools/ledger.h"
#include "pools/pool_private.h"

#define RESET_SINCE 602 /* 6.2 */
#define IOV_MAX_TURN 64

static struct loop *loop_of(const struct redis_server *rs)
{
    return rs->base.io.loop;
}

/* ---- writing: once per turn ---- */

/* What the log holds behind the bytes that were handed out already. */
static int unsent_iov(const struct redis_server *rs, struct iovec *iov, size_t *bytes)
{
    int n = 0;
    struct chunk *c = rs->at ? rs->at : rs->log.head;
    uint32_t from = rs->at ? rs->at_off : (c ? c->start : 0);
    *bytes = 0;
    for (; c && n < IOV_MAX_TURN; c = c->next, from = c ? c->start : 0) {
        if (c->end == from)
            continue;
        iov[n++] = (struct iovec){c->data + from, c->end - from};
        *bytes += c->end - from;
    }
    return n;
}

static void advance(struct redis_server *rs, size_t bytes)
{
    if (!rs->at) {
        rs->at = rs->log.head;
        rs->at_off = rs->at->start;
    }
    rs->handed += bytes;
    while (bytes > rs->at->end - rs->at_off) {
        bytes -= rs->at->end - rs->at_off;
        rs->at = rs->at->next;
        rs->at_off = rs->at->start;
    }
    rs->at_off += (uint32_t)bytes;
}

/*
 * Only while the io holds nothing back: then a write that fails has taken none of what it was
 * given, and exactly that much is known to be unsent.
 */
static void flush(struct redis_server *rs)
{
    struct io *io = &rs->base.io;
    while (rs->handed < rs->log.len && io_unsent(io) == 0 && !io->broken) {
        struct iovec iov[IOV_MAX_TURN];
        size_t bytes;
        int n = unsent_iov(rs, iov, &bytes);
        if (!server_sendv(&rs->base, iov, n))
            return; /* reading will tell */
        advance(rs, bytes);
    }
}

static void on_turn(struct deferred *d)
{
    struct redis_server *rs = OWNER(d, struct redis_server, turn);
    if (rs->base.state == SERVER_BUSY || rs->base.state == SERVER_CHECKING)
        flush(rs);
}

static void drained(struct server *sv)
{
    flush(redis_server_of(sv));
}

/* ---- the queue ---- */

bool redis_call_send(struct redis_server *rs, struct redis_call *call, struct span bytes)
{
    CHECK(call->replies > 0 && bytes.n <= UINT32_MAX);
    if (!bufq_append(&loop_of(rs)->chunks, &rs->log, bytes))
        return false;
    list_init(&call->node);
    list_push_back(&rs->calls, &call->node);
    call->server = rs;
    call->bytes = (uint32_t)bytes.n;
    call->open = false;
    rs->n_calls++;
    loop_defer(loop_of(rs), &rs->turn);
    return true;
}

void redis_server_stream(struct redis_server *rs, struct span bytes)
{
    flush(rs);
    /* What the flush left goes first; the io keeps the order. */
    while (rs->handed < rs->log.len && !rs->base.io.broken) {
        struct iovec iov[IOV_MAX_TURN];
        size_t n_bytes;
        int n = unsent_iov(rs, iov, &n_bytes);
        if (!server_sendv(&rs->base, iov, n))
            return;
        advance(rs, n_bytes);
    }
    server_send(&rs->base, bytes.p, bytes.n);
}

static void unlink_call(struct redis_server *rs, struct redis_call *call)
{
    list_remove(&call->node);
    CHECK(rs->n_calls > 0);
    rs->n_calls--;
}

void redis_call_end(struct redis_server *rs, struct redis_call *call)
{
    CHECK(list_first(&rs->calls) == &call->node && rs->handed >= call->bytes);
    unlink_call(rs, call);
    bufq_consume(&loop_of(rs)->chunks, &rs->log, call->bytes);
    rs->handed -= call->bytes;
    if (rs->handed == 0)
        rs->at = NULL;
}

struct redis_call *redis_server_oldest(const struct redis_server *rs)
{
    struct list *n = list_first(&rs->calls);
    return n ? OWNER(n, struct redis_call, node) : NULL;
}

void redis_call_forget(struct redis_server *rs, struct redis_call *call)
{
    unlink_call(rs, call);
    rs->torn = true;
}

/* Nobody has more to say to this server. */
static void clear_log(struct redis_server *rs, struct loop *loop)
{
    bufq_clear(&loop->chunks, &rs->log);
    rs->handed = 0;
    rs->at = NULL;
}

void redis_server_lost(struct redis_server *rs, const struct err *err, enum outcome why)
{
    struct loop *loop = loop_of(rs);
    const struct io *io = &rs->base.io;
    struct redis_loss loss = {.err = err, .why = why, .log = &rs->log};
    /* A broken io has forgotten how much of what it held was sent: take it that all was. */
    size_t sent = rs->handed - (io->broken || io_unsent(io) > rs->handed ? 0 : io_unsent(io));
    struct redis_call *call;
    while ((call = redis_server_oldest(rs))) {
        uint32_t bytes = call->bytes;
        unlink_call(rs, call);
        loss.unsent = sent == 0 && bytes > 0;
        call->ops->on_lost(call, &loss);
        bufq_consume(&loop->chunks, &rs->log, bytes);
        sent = sent > bytes ? sent - bytes : 0;
    }
    clear_log(rs, loop);
}

/* Shared: every lease ends here. Once per lost server with work in flight, the service has
 * failed. */
static void lost(struct server *sv, const struct err *err)
{
    struct redis_server *rs = redis_server_of(sv);
    struct pool *p = sv->pool;
    struct redis_loss loss = {.err = err, .why = sv->retire, .log = NULL};
    if (rs->n_calls > rs->n_tombs)
        pool_service_failed(p, sv, cause_word(err->cause), 0);
    redis_server_lost(rs, err, sv->retire);
    struct list *n;
    while ((n = list_first(&rs->users))) {
        struct redis_user *user = OWNER(n, struct redis_user, node);
        list_remove(n);
        pool_drop(&user->server, loss.why);
        user->on_lost(user, &loss);
    }
}

/* ---- tombstones ---- */

static void tomb_reply(struct redis_call *call, const struct redis_reply_piece *piece);
static void tomb_lost(struct redis_call *call, const struct redis_loss *loss);

static const struct redis_call_ops tomb_ops = {.on_reply = tomb_reply, .on_lost = tomb_lost};

static void tomb_end(struct redis_call *call)
{
    struct redis_server *rs = call->server;
    CHECK(rs->n_tombs > 0);
    if (--rs->n_tombs == 0 && timer_armed(&rs->stall))
        loop_timer_stop(loop_of(rs), &rs->stall);
    free(call);
}

static void tomb_reply(struct redis_call *call, const struct redis_reply_piece *piece)
{
    if (piece->ends && call->replies == 0)
        tomb_end(call);
}

static void tomb_lost(struct redis_call *call, const struct redis_loss *loss)
{
    (void)loss;
    tomb_end(call);
}

static uint64_t stall_ms(const struct redis_server *rs)
{
    return pool_conf(rs->base.pool)->timeouts.request_ms;
}

/* A server that owes replies nobody waits for any more, and says nothing at all, is beyond hope. */
static void on_stall(struct timer *t)
{
    struct redis_server *rs = OWNER(t, struct redis_server, stall);
    struct server *sv = &rs->base;
    uint64_t now = loop_now(loop_of(rs)), limit = stall_ms(rs);
    if (sv->state != SERVER_BUSY || sv->exclusive || !limit)
        return;
    if (now - rs->progress_ms < limit) {
        loop_timer_set(loop_of(rs), t, limit - (now - rs->progress_ms));
        return;
    }
    struct err err;
    err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0, "%s has said nothing for %llu ms",
            sv->endpoint->label, (unsigned long long)(now - rs->progress_ms));
    server_retire(sv, OUTCOME_DROP_TIMEOUT);
    pool_unsettle(sv->pool, sv, &err); /* the replies that may still come are none of theirs */
    lost(sv, &err);
}

void redis_call_bury(struct redis_server *rs, struct redis_call *call)
{
    call->ops = &tomb_ops;
    rs->n_tombs++;
    if (timer_armed(&rs->stall) || !stall_ms(rs))
        return;
    rs->progress_ms = loop_now(loop_of(rs));
    loop_timer_set(loop_of(rs), &rs->stall, stall_ms(rs));
}

/* ---- users ---- */

void redis_user_join(struct redis_user *user)
{
    list_init(&user->node);
    list_push_back(&redis_server_of(user->server)->users, &user->node);
}

void redis_user_leave(struct redis_user *user)
{
    list_remove(&user->node);
    pool_give_back(&user->server);
}

/* ---- reading ---- */

ssize_t redis_server_fill(struct redis_server *rs, struct span *in)
{
    struct loop *loop = loop_of(rs);
    size_t had = bufq_peek(&rs->carry, loop->scratch, rs->carry.len);
    ssize_t n = server_read(&rs->base, loop->scratch + had, LOOP_READ_MAX);
    *in = span_of(loop->scratch, 0);
    if (n <= 0)
        return n;
    bufq_clear(&loop->chunks, &rs->carry);
    *in = span_of(loop->scratch, had + (size_t)n);
    rs->progress_ms = loop_now(loop);
    return n;
}

bool redis_server_carry(struct redis_server *rs, struct span rest)
{
    return rs->carry.len + rest.n <= LOOP_CARRY_MAX &&
           bufq_append(&loop_of(rs)->chunks, &rs->carry, rest);
}

/* Bytes that were read for us go behind what was carried over. */
static struct span join(struct redis_server *rs, struct span bytes)
{
    size_t had = rs->carry.len;
    if (had == 0)
        return bytes;
    struct loop *loop = loop_of(rs);
    CHECK(bytes.p == loop->scratch && bytes.n <= LOOP_READ_MAX);
    memmove(loop->scratch + had, loop->scratch, bytes.n);
    bufq_peek(&rs->carry, loop->scratch, had);
    bufq_clear(&loop->chunks, &rs->carry);
    return span_of(loop->scratch, had + bytes.n);
}

/* Messages of a subscription that RESET has not ended yet. */
static bool is_noise(const struct redis_server *rs, const struct redis_reply_piece *piece)
{
    return rs->noisy && rs->base.state == SERVER_CHECKING && rs->check_at == 0 &&
           (piece->type == '*' || piece->kind == REDIS_KIND_PUSH);
}

static bool take_piece(struct redis_server *rs, const struct redis_reply_piece *piece,
                       struct err *err)
{
    if (is_noise(rs, piece))
        return true;
    struct redis_call *call = redis_server_oldest(rs);
    if (!call || piece->kind != REDIS_KIND_REPLY || rs->handed < call->bytes)
        return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
                       "%s sent a reply (type %c) that nothing asked for", rs->base.endpoint->label,
                       piece->type);
    call->open = !piece->ends;
    if (piece->ends && --call->replies == 0)
        redis_call_end(rs, call);
    call->ops->on_reply(call, piece);
    return true;
}

static bool feed(struct server *sv, struct span bytes, struct err *err)
{
    struct redis_server *rs = redis_server_of(sv);
    struct span in = join(rs, bytes);
    rs->progress_ms = loop_now(loop_of(rs));
    rs->fed_us = loop_usec(loop_of(rs));
    for (;;) {
        struct redis_reply_piece piece;
        /* Answers to checks are looked into: they come whole. */
        size_t hold = sv->state == SERVER_CHECKING ? REDIS_REPLY_SMALL : 0;
        enum redis_reply_step step = redis_reply_next(&rs->framer, in, hold, &piece, err);
        if (step == REDIS_REPLY_BAD)
            return false;
        if (step == REDIS_REPLY_WAIT)
            break;
        in = span_skip(in, piece.raw.n);
        if (!take_piece(rs, &piece, err))
            return false;
    }
    if (!redis_server_carry(rs, in))
        return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0, "a line too long");
    if (!rs->checked)
        return true;
    rs->checked = false;
    if (in.n)
        return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_CHECK, 0,
                       "bytes behind a check's reply");
    deferred_cancel(&rs->turn);
    server_checked(sv, rs->check_well, OUTCOME_DROP_FAILED);
    return true;
}

/* ---- life ---- */

static unsigned arrive(struct server *sv)
{
    struct redis_server *rs = redis_server_of(sv);
    redis_about_remember(rs);
    list_init(&rs->calls);
    list_init(&rs->users);
    deferred_init(&rs->turn, on_turn);
    timer_init(&rs->stall, on_stall);
    return REDIS_SHARES;
}

static enum outcome settle(struct server *sv)
{
    struct redis_server *rs = redis_server_of(sv);
    struct loop *loop = loop_of(rs);
    if (timer_armed(&rs->stall))
        loop_timer_stop(loop, &rs->stall);
    if (sv->io.broken)
        return OUTCOME_DROP_EOF;
    if (rs->torn || rs->sticky || rs->n_calls > rs->n_tombs)
        return OUTCOME_DROP_DIRTY;
    if (rs->n_tombs > 0)
        return OUTCOME_VERIFY;
    if (!redis_reply_idle(&rs->framer) || rs->carry.len || rs->log.len || io_unsent(&sv->io))
        return OUTCOME_DROP_DIRTY;
    deferred_cancel(&rs->turn);
    if (rs->reset_needed)
        return rs->version >= RESET_SINCE ? OUTCOME_RESET : OUTCOME_DROP_DIRTY;
    return OUTCOME_KEEP;
}

/* Redis wants no goodbye: it would only answer, to nobody. */
static void goodbye(struct server *sv)
{
    (void)sv;
}

static void fini(struct server *sv)
{
    struct redis_server *rs = redis_server_of(sv);
    struct loop *loop = sv->ledger->workers[sv->home].loop;
    struct err err;
    err_set(&err, CAUSE_UPSTREAM_CLOSED, STAGE_CLOSE, 0, "the server was closed");
    struct redis_loss loss = {.err = &err, .why = OUTCOME_DROP_EOF, .log = &rs->log};
    if (timer_armed(&rs->stall))
        loop_timer_stop(loop, &rs->stall);
    struct redis_call *call;
    while ((call = redis_server_oldest(rs))) { /* tombstones, and a check */
        unlink_call(rs, call);
        call->ops->on_lost(call, &loss);
    }
    clear_log(rs, loop);
    bufq_clear(&loop->chunks, &rs->carry);
    deferred_cancel(&rs->turn);
}

const struct driver_ops redis_driver = {
    .name = "redis",
    .server_size = sizeof(struct redis_server),
    .dial = redis_dial,
    .dial_abort = dial_abort,
    .arrive = arrive,
    .settle = settle,
    .verify = redis_verify,
    .reset = redis_reset,
    .feed = feed,
    .lost = lost,
    .drained = drained,
    .goodbye = goodbye,
    .fini = fini,
};
