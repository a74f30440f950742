/* SPDX-License-Identifier: MIT */
/*
 * Sessions of Postgres clients: their states, the lease per transaction (or session), the rule of
 * when a server is free again (proxy/wire/postgres_flow.h), and their end.
 */
#include <errno.h>
#include <stdlib.h>

#include "pools/ledger.h"
#include "proxy/core/sm.h"
#include "proxy/front/postgres.h"
#include "proxy/front/postgres_users.h"
#include "proxy/front/postgres_auth.h"
#include "proxy/front/postgres_statements.h"

static const struct sm_row rows[PG_STATES] = {
#define TO(s) SM_TO(PG_##s)
    [PG_STARTUP] = {"startup", TO(TLS) | TO(LOGIN) | TO(PLACING) | TO(WELCOME) | TO(IDLE)},
    [PG_TLS] = {"tls", TO(STARTUP)},
    [PG_LOGIN] = {"login", TO(PLACING) | TO(WELCOME) | TO(IDLE)},
    [PG_PLACING] = {"placing", TO(WELCOME) | TO(IDLE)},
    [PG_WELCOME] = {"welcome", TO(IDLE)},
    [PG_IDLE] = {"idle", TO(WAITING) | TO(SETTING) | TO(LINKED) | TO(SWALLOWING)},
    [PG_WAITING] = {"waiting", TO(SETTING) | TO(LINKED) | TO(SWALLOWING)},
    [PG_SETTING] = {"setting", TO(SETTING) | TO(LINKED) | TO(IDLE) | TO(FAILED) | TO(SWALLOWING)},
    [PG_LINKED] = {"linked", TO(IDLE) | TO(FAILED) | TO(SETTING) | TO(SWALLOWING)},
    [PG_SWALLOWING] = {"swallowing", TO(IDLE)},
    [PG_FAILED] = {"failed", TO(IDLE)},
#undef TO
};

const char *pg_state_name(enum pg_state state)
{
    return rows[state].name;
}

void pg_become(struct pg_session *s, enum pg_state to)
{
    CHECK(sm_allows(rows, s->state, to));
    s->state = to;
    if (to != PG_LINKED && to != PG_SETTING) {
        s->transaction_due_ms = 0;
        s->reset_sent = s->ready_late = false;
    }
    const struct timeouts_conf *t = &pool_conf(session_pool(&s->base))->timeouts;
    s->unheard = to == PG_LINKED && s->errand == PG_ERRAND_LINK;
    if (to == PG_IDLE || to == PG_SWALLOWING)
        pg_await_client(s);
    else if (to == PG_LINKED && t->request_ms)
        pg_set_deadline(s, PG_DEADLINE_REQUEST, t->request_ms);
    else if (to != PG_TLS && to != PG_STARTUP && to != PG_LOGIN && to != PG_PLACING && s->deadline)
        pg_set_deadline(s, PG_DEADLINE_NONE, 0);
}

size_t pg_high_water(const struct pg_session *s)
{
    return s->base.gate->conf->limits.buffer;
}

/* ---- the end of a link ---- */

/* The release rule, as far as the client has a part in it: it sent nothing since, not even half. */
bool pg_may_release(const struct pg_session *s)
{
    return pg_flow_is_idle(&s->server->flow) && pg_at_boundary(&s->framer) &&
           pg_server_is_whole(s->server);
}

bool pg_keeps_server(const struct pg_session *s)
{
    return s->pins || pg_unnamed_stays(s) || s->base.gate->conf->mode == FRONT_SESSION;
}

static struct span user_of(const struct pg_session *s)
{
    const struct pg_route *r = s->base.route->state;
    return pg_user_of(r->users, s->user);
}

void pg_note_access(struct pg_session *s, enum cause cause)
{
    cause = cause ? cause : s->told;
    s->told = CAUSE_NONE;
    if (session_access_on(&s->base, cause != CAUSE_NONE))
        session_access_write(&s->base,
                             &(struct access_line){.server = s->server ? &s->server->base : NULL,
                                                   .waiter = &s->waiter,
                                                   .user = user_of(s),
                                                   .cause = cause});
}

void pg_exchange_over(struct pg_session *s)
{
    struct pool *p = session_pool(&s->base);
    pool_service_neutral(p, NULL, s->permit);
    s->permit = 0;
    if (s->admitted)
        session_exchange_over(&s->base);
    s->admitted = false;
}

/*
 * The service breaker hears of exchanges that show a sick server: it breaks the protocol, or
 * answers not even a cancel. A lost connection is none of them: whether the database is up, the
 * door finds out, and clients can wait for that.
 */
void pg_tell_service(struct pg_session *s, const char *sick)
{
    struct pool *p = session_pool(&s->base);
    if (sick)
        pool_service_failed(p, &s->server->base, sick, s->permit);
    else
        pool_service_well(p, &s->server->base, s->permit);
    s->permit = 0;
}

void pg_give_back(struct pg_session *s, enum cause cause)
{
    pg_note_access(s, cause);
    pg_tell_service(s, NULL);
    pg_exchange_over(s);
    struct pg_server *ps = s->server;
    struct server *sv = &ps->base;
    pg_rename_unlink(s);
    s->server = NULL;
    if (pg_keeps_server(s) || pg_follow_owes(s) || ps->asked)
        ps->reset_needed = true;
    s->cancelled = false;
    pg_params_drop(&s->settled);
    if (pg_at_boundary(&s->framer) && !s->replication)
        pool_give_back(&sv);
    else
        pool_drop(&sv, OUTCOME_DROP_DIRTY); /* it has the first half of a message, or it was a
                                               replication server, which nobody else could use */
    io_resume(&s->base.io);
}

static ASIDE void refuse_draining(struct pg_session *s)
{
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "this pool is being drained");
    pg_refuse(s, &err, NULL);
}

/* The server owes nothing and is in no transaction. */
void pg_transaction_end(struct pg_session *s)
{
    if (s->base.draining) {
        refuse_draining(s);
        return;
    }
    if (pg_keeps_server(s)) {
        if (pg_settings_again(s))
            return;
        pg_await_client(s);
        return;
    }
    if (pg_follow_ask(s))
        return;
    pg_give_back(s, CAUSE_NONE);
    pg_become(s, PG_IDLE);
    pg_relay_input(s);
}

/* ---- getting a server ---- */

void pg_refuse_exchange(struct pg_session *s, const struct err *err, bool waited)
{
    s->tries = 0;
    s->waiter.err = *err;
    session_access(&s->base, &(struct access_line){.waiter = waited ? &s->waiter : NULL,
                                                   .user = user_of(s),
                                                   .cause = err->cause});
    pg_exchange_over(s);
    session_error(&s->base, &s->waiter.err);
    s->swallow = (struct pg_swallow){0};
    pg_become(s, PG_SWALLOWING);
}

static void on_lease(struct waiter *w)
{
    struct pg_session *s = OWNER(w, struct pg_session, waiter);
    if (s->state == PG_WELCOME) {
        pg_login_lease(s);
        return;
    }
    CHECK(s->state == PG_WAITING);
    if (w->server) {
        pg_link_up(s);
        pg_relay_input(s);
        return;
    }
    pg_refuse_exchange(s, &w->err, true);
    pg_relay_input(s);
}

bool pg_cancel_wait(struct pg_session *s)
{
    bool has = s->state == PG_SETTING && s->errand == PG_ERRAND_LINK;
    struct err err;
    if (s->state != PG_WAITING && !has)
        return false;
    err_set(&err, CAUSE_CANCELLED, STAGE_WAIT, 0,
            "cancelled by the client while it waited for a server");
    pool_cancel(&s->waiter);
    if (has)
        pg_give_back(s, CAUSE_CANCELLED);
    pg_refuse_exchange(s, &err, !has);
    pg_relay_input(s);
    return true;
}

/* `wait_ms`: until the breaker lets one try; 0: it was opened by hand. */
static ASIDE void refuse_by_breaker(struct pg_session *s, uint64_t wait_ms)
{
    const char *name = pool_ledger(session_pool(&s->base))->name;
    struct err err;
    if (wait_ms)
        err_set(&err, CAUSE_BREAKER_OPEN, STAGE_WAIT, 0,
                "pool %s: its breaker is open, for %llu ms more", name,
                (unsigned long long)wait_ms);
    else
        err_set(&err, CAUSE_BREAKER_OPEN, STAGE_WAIT, 0, "pool %s: its breaker was opened by hand",
                name);
    pg_refuse_exchange(s, &err, false);
}

/* The session has a server now, or waits for one, or swallows up to Sync. */
void pg_want_server(struct pg_session *s)
{
    struct pool *p = session_pool(&s->base);
    uint64_t wait_ms;
    if (s->tries == 0)
        pool_request(p);
    if (!ledger_service_allows(pool_ledger(p), loop_now(session_loop(&s->base)), &s->permit,
                               &wait_ms)) {
        refuse_by_breaker(s, wait_ms);
        return;
    }
    s->admitted = session_admit(&s->base, &s->waiter.err);
    if (!s->admitted) {
        pg_refuse_exchange(s, &s->waiter.err, false);
        return;
    }
    switch (pool_lease(p, &s->waiter)) {
    case LEASE_GRANTED:
        pg_link_up(s);
        return;
    case LEASE_WAITING:
        pg_become(s, PG_WAITING);
        return;
    case LEASE_REFUSED:
        pg_refuse_exchange(s, &s->waiter.err, true);
        return;
    }
}

/* ---- the rest of a session's life ---- */

static void on_drained(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    if (s->state == PG_TLS) {
        pg_login_readable(s);
        return;
    }
    if (s->deadline == PG_DEADLINE_STALL)
        pg_stall_over(s);
    if (s->server)
        io_resume(&s->server->base.io);
}

static void on_open(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    struct err err;
    list_init(&s->key_node);
    deferred_init(&s->begin, pg_begin);
    s->renames = base->gate->conf->mode != FRONT_SESSION;
    s->shares = s->renames && pool_conf(session_pool(base))->size.statements > 0;
    s->waiter.exclusive = true;
    s->waiter.holder_ops = &pg_holder_ops;
    s->waiter.holder = s;
    s->waiter.on_lease = on_lease;
    if (!pg_login_new(s)) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        session_close(base, &err);
        return;
    }
    pg_set_deadline(s, PG_DEADLINE_LOGIN, pool_conf(session_pool(base))->timeouts.client_login_ms);
}

static void on_drain(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "this pool is being drained");
    if ((s->state == PG_IDLE || s->state == PG_SWALLOWING) && !s->carry.len &&
        pg_at_boundary(&s->framer))
        pg_refuse(s, &err, NULL);
    else if (s->state == PG_LOGIN || s->state == PG_PLACING)
        pg_refuse(s, &err, NULL);
    else if (s->state < PG_WELCOME || s->replication) /* that would never end by itself */
        session_close(base, &err);
    else if (s->state == PG_LINKED && pg_may_release(s) && !s->carry.len)
        pg_transaction_end(s);
    else if (s->state == PG_FAILED)
        pg_refuse(s, &err, NULL);
}

static void on_kill(struct session *base, const struct err *why)
{
    pg_break_off(pg_session_of(base), why, NULL);
}

static void on_fini(struct session *base, const struct err *err)
{
    struct pg_session *s = pg_session_of(base);
    deferred_cancel(&s->begin);
    pool_cancel(&s->waiter);
    if (s->server)
        pg_give_back(s, err ? err->cause : CAUSE_NONE);
    pg_exchange_over(s);
    pg_keys_remove(s);
    pg_login_free(s);
    pg_user_drop(((struct pg_route *)base->route->state)->users, s->user);
    pg_params_drop(&s->params);
    pg_params_drop(&s->startup);
    pg_params_drop(&s->settled);
    pg_rename_free(s);
    pg_follow_free(s);
    bufq_clear(&session_loop(base)->chunks, &s->carry);
}

static void pool_state_free(void *state)
{
    struct pg_route *r = state;
    pg_keys_free(r->keys);
    pg_statements_free(r->statements);
    pg_failures_free(r->failures);
    pg_lookups_free(r->lookups);
    pg_users_free(r->users);
    free(r);
}

static void *pool_state_new(void)
{
    struct pg_route *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->statements = pg_statements_new();
    if (r->statements)
        return r;
    pool_state_free(r);
    return NULL;
}

/* libpq makes room for 8 KiB and reads a record once. What it leaves of a larger one no event of
 * the socket tells of, and who waits for the socket on his own (psycopg, asynchronous libpq) waits
 * for ever. Servers' own records were never longer, up to PostgreSQL 16. */
enum { LIBPQ_RECORD_MAX = 8192 };

const struct relay_ops postgres_relay = {
    .name = "postgres",
    .alpn = "postgresql",
    .tls_record_max = LIBPQ_RECORD_MAX,
    .session_size = sizeof(struct pg_session),
    .guard_new = pg_guard_new,
    .guard_free = pg_guard_free,
    .state_new = pool_state_new,
    .state_free = pool_state_free,
    .open = on_open,
    .on_readable = pg_client_readable,
    .on_drained = on_drained,
    .on_deadline = pg_on_deadline,
    .drain = on_drain,
    .kill = on_kill,
    .fini = on_fini,
    .describe = pg_describe,
};
