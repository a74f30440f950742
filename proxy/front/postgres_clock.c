/* SPDX-License-Identifier: MIT */
/*
 * Deadlines of a session. One kind at a time, what it waits for now, and beside it the clock of the
 * transaction, which no answer in between stops. Both share the session's one timer.
 */
#include "proxy/front/postgres.h"

static uint64_t now_of(const struct pg_session *s)
{
    return loop_now(session_loop(&s->base));
}

static void arm(struct pg_session *s)
{
    uint64_t now = now_of(s), due = s->deadline ? s->deadline_ms : 0;
    if (s->transaction_due_ms && (!due || s->transaction_due_ms < due))
        due = s->transaction_due_ms;
    session_deadline(&s->base, due > now ? due - now : due > 0);
}

void pg_set_deadline(struct pg_session *s, enum pg_deadline kind, uint64_t ms)
{
    s->deadline = ms ? (uint8_t)kind : PG_DEADLINE_NONE;
    s->deadline_ms = now_of(s) + ms;
    arm(s);
}

static bool in_transaction(const struct pg_session *s)
{
    const struct pg_flow *flow = &s->server->flow;
    return flow->tx != PG_TX_IDLE || pg_flow_is_busy(flow) || pg_flow_in_batch(flow);
}

void pg_watch_transaction(struct pg_session *s, bool anew)
{
    uint64_t limit = pool_conf(session_pool(&s->base))->timeouts.transaction_ms;
    uint64_t due = s->transaction_due_ms;
    if (!limit && !due)
        return;
    if (!limit || !s->server || !in_transaction(s))
        s->transaction_due_ms = 0;
    else if (anew || !due)
        s->transaction_due_ms = now_of(s) + limit;
    if (s->transaction_due_ms != due)
        arm(s);
}

void pg_watch_idle(struct pg_session *s)
{
    const struct timeouts_conf *t = &pool_conf(session_pool(&s->base))->timeouts;
    if (s->deadline != PG_DEADLINE_NONE && s->deadline != PG_DEADLINE_REQUEST)
        return;
    bool quiet = s->state == PG_LINKED && !s->held && !pg_flow_is_busy(&s->server->flow) &&
                 !pg_flow_in_batch(&s->server->flow);
    if (quiet && s->server->flow.tx != PG_TX_IDLE)
        pg_set_deadline(s, PG_DEADLINE_IDLE_TX, t->idle_transaction_ms);
    else if (quiet || s->state == PG_IDLE || s->state == PG_SWALLOWING)
        pg_set_deadline(s, PG_DEADLINE_IDLE, t->client_idle_ms);
}

/* Towards a peer that leaves anything unsent: what it has not taken. */
static size_t untaken(const struct io *io)
{
    return io_unsent(io) ? io_untaken(io) : 0;
}

static size_t untaken_by_server(const struct pg_session *s)
{
    return s->server ? untaken(&s->server->base.io) : 0;
}

void pg_watch_stall(struct pg_session *s)
{
    s->stall_client = (uint32_t)untaken(&s->base.io);
    s->stall_server = (uint32_t)untaken_by_server(s);
    pg_set_deadline(s, PG_DEADLINE_STALL,
                    pool_conf(session_pool(&s->base))->timeouts.write_stall_ms);
}

/* The client is behind, and its server waits for it: not the other way round. */
static bool is_held_up(const struct pg_session *s)
{
    return io_unsent(&s->base.io) > pg_high_water(s);
}

static void await_cancel(struct pg_session *s)
{
    pg_set_deadline(s, PG_DEADLINE_CANCEL,
                    pool_conf(session_pool(&s->base))->check.timeout_ms + 1000);
}

void pg_stall_over(struct pg_session *s)
{
    if (s->server && s->cancelled && pg_flow_is_busy(&s->server->flow))
        await_cancel(s);
    else if (s->state == PG_IDLE || s->state == PG_SWALLOWING)
        pg_set_deadline(s, PG_DEADLINE_IDLE,
                        pool_conf(session_pool(&s->base))->timeouts.client_idle_ms);
    else
        pg_set_deadline(s, PG_DEADLINE_NONE, 0);
}

void pg_watch_if_held_up(struct pg_session *s)
{
    if (is_held_up(s))
        pg_watch_stall(s);
}

void pg_await_client(struct pg_session *s)
{
    if (is_held_up(s))
        pg_watch_stall(s);
    else
        pg_set_deadline(s, PG_DEADLINE_IDLE,
                        pool_conf(session_pool(&s->base))->timeouts.client_idle_ms);
}

static void on_stall(struct pg_session *s)
{
    unsigned long long ms = pool_conf(session_pool(&s->base))->timeouts.write_stall_ms;
    size_t client = untaken(&s->base.io), server = untaken_by_server(s);
    struct err err;
    if (client && client >= s->stall_client) {
        err_set(&err, CAUSE_WRITE_STALL, STAGE_CLIENT, 0,
                "the client took nothing for %llu ms (timeouts.write_stall)", ms);
        session_close(&s->base, &err);
    } else if (server && server >= s->stall_server) {
        err_set(&err, CAUSE_WRITE_STALL, STAGE_EXCHANGE, 0,
                "the server took nothing for %llu ms (timeouts.write_stall)", ms);
        pg_lose_server(s, &err, OUTCOME_DROP_TIMEOUT);
    } else if (client || server) {
        pg_watch_stall(s);
    }
}

static void judge(struct pg_session *s, enum pg_deadline kind)
{
    struct session *base = &s->base;
    const struct timeouts_conf *t = &pool_conf(session_pool(base))->timeouts;
    struct err err;
    if ((kind == PG_DEADLINE_REQUEST || kind == PG_DEADLINE_CANCEL) && s->server && is_held_up(s)) {
        pg_watch_stall(s); /* it is the client that holds things up */
        return;
    }
    switch (kind) {
    case PG_DEADLINE_NONE:
        return;
    case PG_DEADLINE_LOGIN:
        if (!pg_login_is_asking(s, &err))
            err_set(&err, CAUSE_CLIENT_TIMEOUT, STAGE_CLIENT, 0, "not logged in within %llu ms",
                    (unsigned long long)t->client_login_ms);
        pg_refuse(s, &err, NULL);
        return;
    case PG_DEADLINE_REQUEST:
        if (!s->server || !pg_flow_is_busy(&s->server->flow))
            return;
        s->cancelled = true;
        (void)pg_cancel(s->server);
        await_cancel(s);
        return;
    case PG_DEADLINE_CANCEL:
        err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0,
                "the server answers neither the statement nor its cancellation");
        if (s->server)
            pg_lose_server(s, &err, OUTCOME_DROP_TIMEOUT);
        return;
    case PG_DEADLINE_IDLE_TX:
        err_set(&err, CAUSE_IDLE_TIMEOUT, STAGE_CLIENT, 0,
                "idle in a transaction for %llu ms (timeouts.idle_transaction)",
                (unsigned long long)t->idle_transaction_ms);
        pg_refuse(s, &err, "25P03");
        return;
    case PG_DEADLINE_IDLE:
        err_set(&err, CAUSE_CLIENT_TIMEOUT, STAGE_CLIENT, 0,
                "idle for %llu ms (timeouts.client_idle)", (unsigned long long)t->client_idle_ms);
        pg_refuse(s, &err, NULL);
        return;
    case PG_DEADLINE_STALL:
        on_stall(s);
        return;
    case PG_DEADLINE_SETTING:
        err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0,
                "the server did not take the client's settings within %llu ms (check.timeout)",
                (unsigned long long)pool_conf(session_pool(base))->check.timeout_ms);
        if (s->server)
            pg_lose_server(s, &err, OUTCOME_DROP_TIMEOUT);
        return;
    }
}

/* As PostgreSQL ends a session over its transaction_timeout; the server is cancelled, and rolls
 * back, when it is let go of. */
static void on_long_transaction(struct pg_session *s)
{
    struct err err;
    s->transaction_due_ms = 0;
    if (!s->server)
        return;
    err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0,
            "the transaction took longer than %llu ms (timeouts.transaction)",
            (unsigned long long)pool_conf(session_pool(&s->base))->timeouts.transaction_ms);
    pg_break_off(s, &err, "25P04");
}

void pg_on_deadline(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    enum pg_deadline kind = s->deadline;
    uint64_t now = now_of(s);
    if (s->transaction_due_ms && now >= s->transaction_due_ms) {
        on_long_transaction(s);
    } else if (kind && now >= s->deadline_ms) {
        s->deadline = PG_DEADLINE_NONE;
        judge(s, kind);
    }
    if (!base->closed)
        arm(s);
}
