/* SPDX-License-Identifier: MIT */
/*
 * Servers shared by many clients. A client with requests in flight keeps to one server, so that it
 * reads its own writes and its replies come in order; with none it has no server at all.
 *
 *   lost   unsent             asks again elsewhere, silently; at once the first time
 *          read-only          asks again within attempts and budget, after a pause (retry.backoff)
 *          everything else    fails; whether it was executed is not known, and that is said
 *
 * All tries of a request share the time of one (timeouts.request, from when it was sent first).
 */
#include "health/deadline.h"
#include "pools/ledger.h"
#include "pools/pool.h"
#include "proxy/front/redis.h"

static const struct pool_conf *conf_of(const struct redis_client *c)
{
    return pool_conf(session_pool(&c->base));
}

/* ---- leases ---- */

bool redis_may_stay(const struct redis_client *c)
{
    const struct server *sv = c->user.server;
    return !sv->leaving && sv->retire == OUTCOME_KEEP;
}

static void take_lease(struct redis_client *c)
{
    c->user.server = c->work->waiter.server;
    c->work->waiter.server = NULL;
    redis_user_join(&c->user);
    redis_become(c, REDIS_SHARED);
}

/* Until when may the lease take? What is tried again has its time since the first try. */
static uint64_t lease_due(const struct redis_client *c)
{
    uint64_t request_ms = conf_of(c)->timeouts.request_ms;
    LIST_EACH(n, &c->requests) {
        const struct redis_request *r = OWNER(n, struct redis_request, node);
        if (r->state == REDIS_REQ_QUEUED && r->tries > 0)
            return deadline_after(r->since_ms, request_ms);
    }
    return deadline_after(loop_now(redis_loop(c)), request_ms);
}

enum lease_result redis_ask_shared(struct redis_client *c)
{
    c->work->waiter.exclusive = false;
    c->work->waiter.due_ms = lease_due(c);
    enum lease_result result = pool_lease(session_pool(&c->base), &c->work->waiter);
    if (result == LEASE_GRANTED)
        take_lease(c);
    else if (result == LEASE_WAITING)
        redis_become(c, REDIS_ASKING);
    return result;
}

void redis_leave_shared(struct redis_client *c)
{
    redis_become(c, REDIS_FREE);
    redis_user_leave(&c->user);
}

/* ---- sending ---- */

void redis_send(struct redis_client *c, struct redis_request *r, struct span bytes)
{
    struct redis_server *rs = redis_server_of(c->user.server);
    r->call.ops = &redis_call_ops;
    if (!redis_call_send(rs, &r->call, bytes)) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_EXCHANGE, 0, "out of memory");
        redis_fail(c, r, &err);
        return;
    }
    r->state = REDIS_REQ_FLYING;
    if (r->tries == 0)
        r->since_ms = loop_now(redis_loop(c));
    c->n_flying++;
}

/* Uses the scratch memory. */
static void send_queued(struct redis_client *c)
{
    struct loop *loop = redis_loop(c);
    LIST_EACH(n, &c->requests) {
        struct redis_request *r = OWNER(n, struct redis_request, node);
        if (r->state != REDIS_REQ_QUEUED || r == c->hold)
            continue;
        size_t size = bufq_peek(&c->work->queued, loop->scratch, r->call.bytes);
        bufq_consume(&loop->chunks, &c->work->queued, size);
        c->n_queued--;
        r->wait_us = loop_usec(loop) - r->since_us;
        redis_send(c, r, span_of(loop->scratch, size));
    }
    CHECK(c->n_queued == 0 && c->work->queued.len == 0);
}

static void fail_queued(struct redis_client *c, const struct err *err)
{
    LIST_EACH(n, &c->requests) {
        struct redis_request *r = OWNER(n, struct redis_request, node);
        if (r->state != REDIS_REQ_QUEUED || r == c->hold)
            continue;
        redis_fail(c, r, err);
    }
    bufq_clear(&redis_loop(c)->chunks, &c->work->queued);
    c->n_queued = 0;
}

/* What is sent a second time goes before what was not sent yet. Both are chains of chunks. */
static void join_again(struct redis_client *c)
{
    if (!c->work || !c->work->again.len)
        return;
    if (c->work->queued.len) {
        c->work->again.tail->next = c->work->queued.head;
        c->work->again.tail = c->work->queued.tail;
        c->work->again.len += c->work->queued.len;
    }
    c->work->queued = c->work->again;
    c->work->again = (struct bufq){0};
}

void redis_tend_shared(struct redis_client *c)
{
    if (c->state == REDIS_SHARED && c->n_flying == 0)
        redis_leave_shared(c);
    join_again(c);
    if (c->state != REDIS_FREE || c->n_queued == 0 || loop_now(redis_loop(c)) < c->again_ms)
        return;
    c->again_ms = 0;
    switch (redis_ask_shared(c)) {
    case LEASE_GRANTED:
        send_queued(c);
        return;
    case LEASE_WAITING:
        return;
    case LEASE_REFUSED:
        fail_queued(c, &c->work->waiter.err);
        return;
    }
}

void redis_on_shared_lease(struct redis_client *c)
{
    redis_wake(c);
    if (c->work->waiter.server) {
        take_lease(c);
        send_queued(c);
        return;
    }
    redis_become(c, REDIS_FREE);
    fail_queued(c, &c->work->waiter.err);
}

/* ---- replies ---- */

/* After a failover the name may lead elsewhere: who asks next is to come to the new primary. */
static void renew(struct server *sv, struct span line)
{
    struct pool *p = sv->pool;
    struct loop *loop = sv->io.loop;
    if (!ledger_renew(pool_ledger(p), loop_now(loop)))
        return;
    server_retire(sv, OUTCOME_DROP_RECYCLED);
    log_write(loop->log, LOG_WARN, "servers_renewed", "pool=%s endpoint=%s reason=\"%.*s\"",
              pool_ledger(p)->name, sv->endpoint->label, line.n < 100 ? (int)line.n : 100,
              (const char *)line.p);
}

void redis_note_trouble(struct redis_request *r, const struct redis_reply_piece *piece,
                        struct server *sv)
{
    if (piece->type != '-' || !piece->ends || r->slot.script)
        return;
    switch (redis_error_trouble(piece->line)) {
    case REDIS_TROUBLE_LOADING:
        r->ill = true;
        renew(sv, piece->line);
        return;
    case REDIS_TROUBLE_READONLY:
        renew(sv, piece->line);
        return;
    case REDIS_TROUBLE_BUSY:
        r->ill = true;
        return;
    case REDIS_TROUBLE_AUTH:
        server_retire(sv, OUTCOME_DROP_FAILED); /* it is not who it was */
        return;
    case REDIS_TROUBLE_NONE:
    case REDIS_TROUBLE_CLIENTS:
        return;
    }
}

void redis_answered(struct redis_client *c, struct redis_request *r, struct server *sv)
{
    struct pool *p = session_pool(&c->base);
    c->n_flying--;
    redis_access(c, r, CAUSE_NONE);
    if (r->ill)
        pool_service_failed(p, sv, "it answers that it cannot serve now", r->permit);
    else
        pool_service_well(p, sv, r->permit);
    r->permit = 0;
    redis_request_free(c, r);
    redis_deliver(c);
    redis_wake(c);
}

/* A reply may take more room than a client is given, the next one may not begin then. */
static void mind_room(struct redis_client *c)
{
    if (c->doomed || io_unsent(&c->base.io) <= redis_high_water(c) * REDIS_REPLY_ROOM)
        return;
    struct err err;
    err_set(&err, CAUSE_WRITE_STALL, STAGE_CLIENT, 0,
            "the client does not read: %zu bytes of replies wait for it (limits.buffer)",
            io_unsent(&c->base.io));
    redis_doom(c, &err);
}

static void on_reply(struct redis_call *call, const struct redis_reply_piece *piece)
{
    struct redis_request *r = OWNER(call, struct redis_request, call);
    struct redis_client *c = r->client;
    c->passed_ms = loop_now(redis_loop(c));
    if (piece->begins)
        mind_room(c);
    if (!r->slot.mute)
        redis_say(c, piece->raw);
    redis_note_trouble(r, piece, c->user.server);
    r->told += piece->raw.n;
    r->since_ms = loop_now(redis_loop(c));
    if (!piece->ends || call->replies > 0)
        return;
    pool_count_exchange(session_pool(&c->base), call->server->fed_us - r->since_us);
    redis_answered(c, r, c->user.server);
}

/* ---- losses ---- */

/* When the next try may begin: the requests of a client wait together. False: too late then. */
static bool pause_before(struct redis_client *c, const struct redis_request *r, bool unsent,
                         uint64_t *at)
{
    uint64_t now = loop_now(redis_loop(c)), request_ms = conf_of(c)->timeouts.request_ms;
    *at = c->again_ms;
    if (unsent && r->tries == 0)
        return true; /* the server had closed while idle, say: no sign of trouble */
    if (*at <= now)
        *at = now + pool_retry_wait(session_pool(&c->base), r->tries + 1u);
    return !request_ms || *at < r->since_ms + request_ms;
}

static bool may_repeat(struct redis_client *c, struct redis_request *r,
                       const struct redis_loss *loss)
{
    uint64_t at;
    if (c->state != REDIS_SHARED || r->tries + 1u >= conf_of(c)->retry.attempts ||
        !pause_before(c, r, loss->unsent, &at))
        return false;
    if (!loss->unsent && (!r->slot.retryable || loss->why == OUTCOME_DROP_TIMEOUT ||
                          !pool_may_retry(session_pool(&c->base))))
        return false;
    c->again_ms = at;
    return true;
}

/* The call's bytes are at the front of the lost server's log. */
static bool take_back(struct redis_client *c, struct redis_request *r, const struct bufq *log)
{
    struct iovec iov[40]; /* a command that may share fits into 33 chunks and two parts */
    int n = bufq_iov(log, iov, (int)ARRAY_LEN(iov));
    size_t left = r->call.bytes, before = c->work->again.len;
    for (int i = 0; i < n && left > 0; i++) {
        size_t part = iov[i].iov_len < left ? iov[i].iov_len : left;
        if (!bufq_append(&redis_loop(c)->chunks, &c->work->again, span_of(iov[i].iov_base, part)))
            break;
        left -= part;
    }
    if (left == 0)
        return true;
    struct err err;
    err_set(&err, CAUSE_INTERNAL, STAGE_EXCHANGE, 0, "out of memory (%zu bytes queued)", before);
    redis_doom(c, &err);
    return false;
}

static enum redis_fate fate_of(const struct redis_request *r, const struct redis_loss *loss)
{
    if (loss->unsent)
        return REDIS_FATE_UNSENT;
    return r->slot.retryable ? REDIS_FATE_NONE : REDIS_FATE_UNKNOWN;
}

static void on_lost(struct redis_call *call, const struct redis_loss *loss)
{
    struct redis_request *r = OWNER(call, struct redis_request, call);
    struct redis_client *c = r->client;
    c->n_flying--;
    redis_wake(c);
    redis_permit_result(c, r, cause_word(loss->err->cause));
    if (call->open) {
        /* Half a reply is out: nothing that follows would be understood. */
        redis_access(c, r, loss->err->cause);
        r->state = REDIS_REQ_FAILED;
        redis_doom(c, loss->err);
        return;
    }
    if (may_repeat(c, r, loss) && take_back(c, r, loss->log)) {
        if (!loss->unsent)
            pool_count_retry(session_pool(&c->base));
        r->tries++;
        r->state = REDIS_REQ_QUEUED;
        c->n_queued++;
        return;
    }
    r->fate = (uint8_t)fate_of(r, loss);
    redis_fail(c, r, loss->err);
}

const struct redis_call_ops redis_call_ops = {.on_reply = on_reply, .on_lost = on_lost};

void redis_user_lost(struct redis_user *user, const struct redis_loss *loss)
{
    (void)loss;
    struct redis_client *c = OWNER(user, struct redis_client, user);
    redis_become(c, REDIS_FREE);
    redis_wake(c);
}

/* ---- too late ---- */

void redis_time_out(struct redis_client *c, struct redis_request *r)
{
    struct redis_server *rs = r->call.server;
    struct err err;
    err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0, "no reply within %llu ms",
            (unsigned long long)conf_of(c)->timeouts.request_ms);
    if (r->permit)
        redis_permit_result(c, r, cause_word(err.cause));
    else
        pool_service_failed(session_pool(&c->base), &rs->base, cause_word(err.cause), 0);
    if (r->call.open) {
        redis_doom(c, &err);
        return;
    }
    /* The list keeps the place, the server keeps the call. */
    struct redis_request *failed = redis_request_new(c, REDIS_REQ_FAILED);
    if (!failed)
        return;
    list_remove(&failed->node);
    list_insert_between(&failed->node, &c->requests, c->requests.next);
    failed->slot = r->slot;
    failed->call.replies = r->call.replies;
    failed->call.server = rs; /* to be named in the access log */
    failed->since_us = r->since_us;
    failed->admitted = r->admitted;
    r->admitted = false;
    failed->fate = r->slot.retryable ? REDIS_FATE_NONE : REDIS_FATE_UNKNOWN;
    redis_fail(c, failed, &err);
    list_remove(&r->node);
    c->n_requests--;
    c->n_flying--;
    c->bytes -= r->size;
    redis_call_bury(rs, &r->call);
    redis_deliver(c);
}
