/* SPDX-License-Identifier: MIT */
/*
 * Exchanges of Postgres clients: a lease per transaction (or session), bytes both ways, and the rule of
 * when a server is free again (proxy/wire/postgres_flow.h). Messages are looked at where they begin and
 * forwarded as they come; nothing is buffered but what a peer does not take.
 */
#include <errno.h>
#include <stdlib.h>
#include <stdio.h>

#include "pools/ledger.h"
#include "proxy/core/sm.h"
#include "proxy/front/postgres.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_text.h"

static const struct sm_row rows[PG_STATES] = {
#define TO(s) SM_TO(PG_##s)
    [PG_STARTUP] = {"startup", TO(TLS) | TO(LOGIN) | TO(WELCOME) | TO(IDLE)},
    [PG_TLS] = {"tls", TO(STARTUP)},
    [PG_LOGIN] = {"login", TO(WELCOME) | TO(IDLE)},
    [PG_WELCOME] = {"welcome", TO(IDLE)},
    [PG_IDLE] = {"idle", TO(WAITING) | TO(SETTING) | TO(LINKED)},
    [PG_WAITING] = {"waiting", TO(SETTING) | TO(LINKED) | TO(IDLE)},
    [PG_SETTING] = {"setting", TO(LINKED) | TO(IDLE)},
    [PG_LINKED] = {"linked", TO(IDLE) | TO(FAILED)},
    [PG_FAILED] = {"failed", TO(IDLE)},
#undef TO
};

void pg_become(struct pg_session *s, enum pg_state to)
{
    CHECK(sm_allows(rows, s->state, to));
    s->state = to;
    const struct timeouts_conf *t = &pool_conf(session_pool(&s->base))->timeouts;
    if (to == PG_IDLE)
        pg_set_deadline(s, PG_DEADLINE_IDLE, t->client_idle_ms);
    else if (to == PG_LINKED && t->request_ms)
        pg_set_deadline(s, PG_DEADLINE_REQUEST, t->request_ms);
    else if (to != PG_TLS && to != PG_STARTUP && to != PG_LOGIN && s->deadline)
        pg_set_deadline(s, PG_DEADLINE_NONE, 0);
}

void pg_set_deadline(struct pg_session *s, enum pg_deadline kind, uint64_t ms)
{
    s->deadline = ms ? (uint8_t)kind : PG_DEADLINE_NONE;
    session_deadline(&s->base, ms);
}

static size_t high_water(const struct pg_session *s)
{
    return s->base.gate->conf->limits.buffer;
}

static const struct holder_ops pg_holder_ops;

/* ---- the end of a link ---- */

static bool keeps_server(const struct pg_session *s)
{
    return s->pinned || s->base.gate->conf->mode == FRONT_SESSION;
}

static void exchange_over(struct pg_session *s)
{
    struct pool *p = session_pool(&s->base);
    if (s->permit)
        ledger_service_result(pool_ledger(p), NULL, 0, SERVICE_NEUTRAL, s->permit,
                              loop_now(session_loop(&s->base)));
    s->permit = 0;
    if (s->admitted)
        session_exchange_over(&s->base);
    s->admitted = false;
}

/*
 * The service breaker hears of exchanges that show a sick server: it breaks the protocol, or answers not even
 * a cancel. A lost connection is none of them: whether the database is up, the door finds out, and clients
 * can wait for that.
 */
static void tell_service(struct pg_session *s, bool well)
{
    pool_service_result(session_pool(&s->base), &s->server->base, well, s->permit);
    s->permit = 0;
}

static void give_back(struct pg_session *s)
{
    tell_service(s, true);
    exchange_over(s);
    struct pg_server *ps = s->server;
    struct server *sv = &ps->base;
    s->server = NULL;
    if (keeps_server(s))
        ps->reset_needed = true;
    if (pg_at_boundary(&s->framer))
        pool_give_back(&sv);
    else
        pool_drop(&sv, OUTCOME_DROP_DIRTY); /* it has the first half of a message */
    io_resume(&s->base.io);
}

/* The server owes nothing and is in no transaction. */
static void on_transaction_end(struct pg_session *s)
{
    if (s->base.draining) {
        struct err err;
        err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "carpool is stopping");
        pg_refuse(s, &err, NULL);
        return;
    }
    if (keeps_server(s)) {
        pg_set_deadline(s, PG_DEADLINE_IDLE,
                        pool_conf(session_pool(&s->base))->timeouts.client_idle_ms);
        return;
    }
    give_back(s);
    pg_become(s, PG_IDLE);
    pg_relay_input(s);
}

/*
 * The server is gone in the middle of things. Every request gets its answer; inside a transaction the
 * client is told 'E' and only ROLLBACK helps: 'I' would commit the second half on another server.
 */
static void lose_server(struct pg_session *s, const struct err *why, enum outcome outcome)
{
    struct pg_server *ps = s->server;
    struct server *sv = &ps->base;
    tell_service(s, outcome != OUTCOME_DROP_PROTOCOL && outcome != OUTCOME_DROP_TIMEOUT);
    exchange_over(s);
    if (s->state == PG_SETTING) {
        /* Not a byte of the client's has reached it: another server will do. */
        s->server = NULL;
        pool_drop(&sv, outcome);
        pg_become(s, PG_IDLE);
        pg_relay_input(s);
        return;
    }
    bool commit = pg_flow_commit_in_flight(&ps->flow);
    bool in_tx = ps->flow.tx != PG_TX_IDLE;
    struct err err = *why;
    if (commit) {
        err_set(&err, CAUSE_OUTCOME_UNKNOWN, STAGE_EXCHANGE, why->sys,
                "the server was lost during COMMIT, whose outcome is unknown: %.90s", why->note);
        in_tx = false;
    }
    session_error(&s->base, &err);
    /* What was begun towards the client cannot be finished: then it cannot be kept. */
    bool torn = !pg_at_boundary(&ps->framer) || ps->flow.copy == PG_COPY_BOTH || s->dropping_body;
    struct pg_swallow swallow = {0};
    enum pg_swallow_step step;
    s->server = NULL;
    s->loss_untold = true;
    while (!torn && pg_flow_abandon(&ps->flow, &swallow, &step)) {
        s->loss_untold = false;
        torn = step == PG_SWALLOW_END; /* what is due cannot be known any more */
        if (step == PG_SWALLOW_ERROR || step == PG_SWALLOW_ERROR_READY)
            pg_say_error(s, &err, "ERROR", pg_sqlstate(err.cause, commit));
        if (step == PG_SWALLOW_READY || step == PG_SWALLOW_ERROR_READY)
            pg_say_ready(s, in_tx ? PG_TX_FAILED : PG_TX_IDLE);
    }
    pool_drop(&sv, outcome);
    s->cancelled = false;
    if (torn || s->base.draining || keeps_server(s)) {
        /* What the session had on that server is gone for good. */
        pg_say_error(s, &err, "FATAL", pg_sqlstate(err.cause, commit));
        session_close(&s->base, &err);
        return;
    }
    io_resume(&s->base.io);
    pg_framer_init(&s->framer, PG_SIDE_CLIENT);
    s->swallow = swallow;
    s->waiter.err = err;
    s->swallowing = !in_tx && swallow.till_sync;
    pg_become(s, in_tx ? PG_FAILED : PG_IDLE);
    pg_relay_input(s);
}

static void on_holder_lost(struct server *sv, const struct err *err)
{
    lose_server(sv->holder, err, OUTCOME_DROP_DRAINING);
}

/* ---- messages nobody but carpool answers ---- */

/* The checkout failed or the server is gone: errors where errors are due, up to Sync. */
static void swallow_one(struct pg_session *s, const struct pg_msg *m)
{
    bool first = !s->swallow.till_sync;
    switch (pg_swallow_next(&s->swallow, m->type)) {
    case PG_SWALLOW_NOTHING:
        break;
    case PG_SWALLOW_ERROR:
        if (first)
            pg_say_error(s, &s->waiter.err, "ERROR", NULL);
        break;
    case PG_SWALLOW_ERROR_READY:
        pg_say_error(s, &s->waiter.err, "ERROR", NULL);
        pg_say_ready(s, PG_TX_IDLE);
        break;
    case PG_SWALLOW_READY:
        pg_say_ready(s, PG_TX_IDLE);
        break;
    case PG_SWALLOW_END:
        session_close(&s->base, NULL);
        return;
    }
    s->swallowing = s->swallow.till_sync;
}

enum ending { ENDING_NONE, ENDING_ROLLBACK, ENDING_LOST_COMMIT };

/*
 * Does this end the lost transaction? A COMMIT that is the first to hear of the loss ends it with the error:
 * many clients do not look whether COMMIT was answered with ROLLBACK, and none expects that a COMMIT, well
 * or failed, leaves the transaction open.
 */
static enum ending ending_of(const struct pg_session *s, struct span text)
{
    struct pg_text t = pg_text_look(text);
    if ((t.verb != PG_VERB_ROLLBACK && t.verb != PG_VERB_COMMIT) || !t.single || t.chain)
        return ENDING_NONE;
    return t.verb == PG_VERB_COMMIT && s->loss_untold ? ENDING_LOST_COMMIT : ENDING_ROLLBACK;
}

static void say_aborted(struct pg_session *s)
{
    struct err err;
    if (s->loss_untold) {
        s->loss_untold = false;
        pg_say_error(s, &s->waiter.err, "ERROR", pg_sqlstate(s->waiter.err.cause, false));
        return;
    }
    err_set(&err, CAUSE_UPSTREAM_CLOSED, STAGE_EXCHANGE, 0,
            "current transaction is aborted, its server was lost; commands are ignored until "
            "ROLLBACK");
    pg_say_error(s, &err, "ERROR", "25P02");
}

static void say_rolled_back(struct pg_session *s)
{
    uint8_t buf[64];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    pg_put_complete(&out, "ROLLBACK");
    pg_say(s, &out);
}

static void say_bare(struct pg_session *s, uint8_t type)
{
    uint8_t buf[8];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    pg_put_bare(&out, type);
    pg_say(s, &out);
}

/* FAILED: extended messages; ROLLBACK may come as Parse, Bind, Execute. */
static void failed_extended(struct pg_session *s, const struct pg_msg *m)
{
    struct pg_parse parse;
    enum ending ending = ENDING_NONE;
    if (m->type == 'H')
        return;
    if (m->type == 'P' && m->whole && pg_read_parse(m->body, &parse))
        ending = ending_of(s, parse.text);
    if (ending == ENDING_ROLLBACK) {
        s->local_rollback = true;
        say_bare(s, '1');
    } else if (ending == ENDING_LOST_COMMIT) {
        say_aborted(s);
        s->local_rollback = true;
        s->swallow.till_sync = true;
    } else if (s->local_rollback && m->type == 'B') {
        say_bare(s, '2');
    } else if (s->local_rollback && m->type == 'D') {
        say_bare(s, 'n');
    } else if (s->local_rollback && m->type == 'E') {
        say_rolled_back(s);
    } else if (m->type == 'C') {
        say_bare(s, '3');
    } else {
        s->local_rollback = false;
        s->swallow.till_sync = true;
        say_aborted(s);
    }
}

static void failed_one(struct pg_session *s, const struct pg_msg *m)
{
    struct span text;
    if (m->type == 'X') {
        session_close(&s->base, NULL);
    } else if (m->type == 'S') {
        s->swallow.till_sync = false;
        bool over = s->local_rollback;
        s->local_rollback = false;
        pg_say_ready(s, over ? PG_TX_IDLE : PG_TX_FAILED);
        if (over)
            pg_become(s, PG_IDLE);
    } else if (s->swallow.till_sync || m->type == 'd' || m->type == 'c' || m->type == 'f') {
        return;
    } else if (m->type == 'Q') {
        enum ending ending = ENDING_NONE;
        if (m->whole && pg_read_query(m->body, &text))
            ending = ending_of(s, text);
        if (ending == ENDING_ROLLBACK)
            say_rolled_back(s);
        else
            say_aborted(s);
        pg_say_ready(s, ending ? PG_TX_IDLE : PG_TX_FAILED);
        if (ending)
            pg_become(s, PG_IDLE);
    } else if (m->type == 'F') {
        say_aborted(s);
        pg_say_ready(s, PG_TX_FAILED);
    } else {
        failed_extended(s, m);
    }
}

/* ---- getting a server ---- */

static void link_up(struct pg_session *s);

/* No server for what the client asks: told with the first message, then swallowed up to Sync. */
static void refuse_exchange(struct pg_session *s, const struct err *err)
{
    s->waiter.err = *err;
    exchange_over(s);
    session_error(&s->base, &s->waiter.err);
    s->swallow = (struct pg_swallow){0};
    s->swallowing = true;
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
        link_up(s);
        pg_relay_input(s);
        return;
    }
    refuse_exchange(s, &w->err);
    pg_become(s, PG_IDLE);
    pg_relay_input(s);
}

/* The session has a server now, or waits for one, or swallows up to Sync. */
static void want_server(struct pg_session *s)
{
    struct pool *p = session_pool(&s->base);
    struct err err;
    uint64_t wait_ms;
    if (!ledger_service_allows(pool_ledger(p), loop_now(session_loop(&s->base)), &s->permit,
                               &wait_ms)) {
        err_set(&err, CAUSE_BREAKER_OPEN, STAGE_WAIT, 0,
                "pool %s: its breaker is open, for %llu ms more", pool_ledger(p)->name,
                (unsigned long long)wait_ms);
        refuse_exchange(s, &err);
        return;
    }
    s->admitted = session_admit(&s->base, &err);
    if (!s->admitted) {
        refuse_exchange(s, &err);
        return;
    }
    switch (pool_lease(p, &s->waiter)) {
    case LEASE_GRANTED:
        link_up(s);
        return;
    case LEASE_WAITING:
        pg_become(s, PG_WAITING);
        return;
    case LEASE_REFUSED:
        refuse_exchange(s, &s->waiter.err);
        return;
    }
}

/* A string constant that means the same whatever standard_conforming_strings is. */
static void put_literal(struct pg_out *o, struct span v)
{
    if (o->cap - o->n < 2 * v.n + 4) {
        o->overflow = true;
        return;
    }
    o->p[o->n++] = 'E';
    o->p[o->n++] = '\'';
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] == '\'' || v.p[i] == '\\')
            o->p[o->n++] = v.p[i];
        o->p[o->n++] = v.p[i];
    }
    o->p[o->n++] = '\'';
}

static void put_text(struct pg_out *o, const char *text)
{
    size_t n = strlen(text);
    if (o->cap - o->n < n) {
        o->overflow = true;
        return;
    }
    memcpy(o->p + o->n, text, n);
    o->n += n;
}

static void put_setting(struct pg_out *o, bool *first, struct span name, const struct span *value)
{
    put_text(o, *first ? "SELECT " : ", ");
    *first = false;
    put_text(o, "pg_catalog.set_config(");
    put_literal(o, name);
    put_text(o, ", ");
    if (value)
        put_literal(o, *value);
    else
        put_text(o, "NULL");
    put_text(o, ", false)");
}

/* What must be set on the server for this client; false: nothing, or (overflow) too much. */
static bool make_settings(const struct pg_session *s, struct pg_out *o)
{
    const struct pg_params *want = s->params, *have = s->server->params;
    struct span name, value, other;
    bool first = true;
    for (size_t i = 0; i < pg_params_count(want); i++) {
        pg_params_at(want, i, &name, &value);
        if (pg_param_reported_only(name) ||
            (pg_params_get(have, name, &other) && span_eq(value, other)))
            continue;
        put_setting(o, &first, name, &value);
    }
    for (size_t i = 0; i < pg_params_count(have); i++) {
        pg_params_at(have, i, &name, &value);
        if (pg_param_reported_only(name) || pg_params_get(want, name, &other))
            continue;
        put_setting(o, &first, name, pg_params_get(s->server->origin, name, &other) ? &other : NULL);
    }
    return !first;
}

static void link_up(struct pg_session *s)
{
    struct server *sv = s->waiter.server;
    struct pg_server *ps = pg_server_of(sv);
    uint8_t buf[PG_PARAMS_BYTES * 2];
    s->waiter.server = NULL;
    s->server = ps;
    ps->check_failed = false;
    if (pg_params_same(s->params, ps->params)) {
        pg_become(s, PG_LINKED);
        return;
    }
    struct pg_out text = pg_out_of(buf + PG_HEADER, sizeof buf - PG_HEADER - 1);
    if (!make_settings(s, &text)) {
        pg_become(s, PG_LINKED);
        return;
    }
    buf[PG_HEADER + text.n] = 0;
    uint32_t len = (uint32_t)text.n + 5;
    buf[0] = 'Q';
    for (int i = 0; i < 4; i++)
        buf[1 + i] = (uint8_t)(len >> (24 - 8 * i));
    pg_become(s, PG_SETTING);
    if (text.overflow ||
        pg_flow_client(&ps->flow, 'Q', span_of(buf + PG_HEADER, text.n + 1)) != PG_FLOW_OK) {
        struct err err;
        err_set(&err, CAUSE_TOO_LARGE, STAGE_EXCHANGE, 0, "too many settings for one server");
        give_back(s);
        pg_refuse(s, &err, NULL);
        return;
    }
    server_send(sv, buf, text.n + 6);
}

/* ---- from the client ---- */

/* SQL that leaves something behind in the server's session keeps the client there. */
static void note_client(struct pg_session *s, const struct pg_msg *m)
{
    /* Parse with a name: prepared statements live on one server. */
    if (m->type == 'P' && m->body.n && m->body.p[0] != 0)
        s->pinned = true;
}

enum step { STEP_ON, STEP_STOP, STEP_CLOSED };

/* One message or piece while LINKED. */
static enum step linked_one(struct pg_session *s, enum pg_step what, const struct pg_msg *m)
{
    if (what == PG_BODY)
        return STEP_ON;
    note_client(s, m);
    if (m->type == 'X')
        return STEP_CLOSED;
    switch (pg_flow_client(&s->server->flow, m->type, m->body)) {
    case PG_FLOW_OK:
    case PG_FLOW_READY:
    case PG_FLOW_ASYNC:
        return STEP_ON;
    case PG_FLOW_FULL:
        return STEP_STOP;
    case PG_FLOW_VIOLATION:
        break;
    }
    struct err err;
    err_set(&err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "message %c is not allowed here", m->type);
    pg_refuse(s, &err, NULL);
    return STEP_CLOSED;
}

static void forward_to_server(struct pg_session *s, struct span from, struct span rest)
{
    size_t n = from.n - rest.n;
    if (!n || !s->server)
        return;
    server_send(&s->server->base, from.p, n);
    if (io_unsent(&s->server->base.io) > high_water(s))
        io_pause(&s->base.io);
}

static void bad_client(struct pg_session *s, const struct err *err)
{
    pg_refuse(s, err, NULL);
}

/* Late words of a COPY that has failed, Flush, and a Sync that ends nothing. */
static bool needs_no_server(struct pg_session *s, const struct pg_msg *m)
{
    if (m->type == 'S')
        pg_say_ready(s, PG_TX_IDLE);
    return m->type == 'S' || m->type == 'H' || m->type == 'd' || m->type == 'c' || m->type == 'f';
}

/* The release rule, as far as the client has a part in it: it sent nothing since, not even half. */
static bool may_release(const struct pg_session *s)
{
    return pg_flow_is_idle(&s->server->flow) && pg_at_boundary(&s->framer) &&
           pg_at_boundary(&s->server->framer) && !s->server->carry.len;
}

/* Walks the client's bytes; returns what could not be used yet. */
static struct span walk_client(struct pg_session *s, struct span in)
{
    struct span from = in;
    while (!s->base.closed) {
        struct pg_msg m;
        struct err err;
        if (s->state == PG_WAITING || s->state == PG_SETTING)
            return in;
        enum pg_step what = pg_next(&s->framer, &pg_whole_client, in, &m, &err);
        if (what == PG_WAIT)
            break;
        if (what == PG_BAD) {
            forward_to_server(s, from, in);
            bad_client(s, &err);
            break;
        }
        if (s->state == PG_LINKED) {
            enum step step = linked_one(s, what, &m);
            if (step == STEP_CLOSED) {
                forward_to_server(s, from, in);
                session_close(&s->base, NULL);
                break;
            }
            if (step == STEP_STOP) {
                pg_framer_init(&s->framer, PG_SIDE_CLIENT);
                io_pause(&s->base.io);
                break;
            }
            in = span_skip(in, m.raw.n);
            continue;
        }
        /* No server: the framer stands behind the piece, so anything not used must be un-framed. */
        if (what == PG_BODY || s->state == PG_FAILED || s->swallowing) {
            if (what == PG_MESSAGE && s->state == PG_FAILED)
                failed_one(s, &m);
            else if (what == PG_MESSAGE)
                swallow_one(s, &m);
            in = from = span_skip(in, m.raw.n);
            continue;
        }
        if (m.type == 'X') {
            session_close(&s->base, NULL);
            break;
        }
        if (needs_no_server(s, &m)) {
            in = from = span_skip(in, m.raw.n);
            continue;
        }
        pg_framer_init(&s->framer, PG_SIDE_CLIENT);
        want_server(s);
        from = in;
    }
    if (s->state == PG_LINKED)
        forward_to_server(s, from, in);
    return in;
}

static void take_input(struct pg_session *s, struct span in)
{
    struct loop *loop = session_loop(&s->base);
    bool was_linked = s->state == PG_LINKED && !keeps_server(s);
    struct span rest = walk_client(s, in);
    if (s->base.closed)
        return;
    if (s->carry.len + rest.n > LOOP_CARRY_MAX / 2 && s->state == PG_WAITING)
        io_pause(&s->base.io);
    if (!bufq_append(&loop->chunks, &s->carry, rest)) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        pg_refuse(s, &err, NULL);
        return;
    }
    /* Only words that nobody answers were sent: no ReadyForQuery will come to release it. */
    if (s->state == PG_LINKED && was_linked && may_release(s))
        on_transaction_end(s);
}

void pg_relay_input(struct pg_session *s)
{
    struct loop *loop = session_loop(&s->base);
    if (s->base.closed)
        return;
    if (s->state != PG_WAITING && s->state != PG_SETTING)
        io_resume(&s->base.io);
    if (!s->carry.len)
        return;
    uint8_t *scratch = loop->scratch;
    size_t n = bufq_peek(&s->carry, scratch, s->carry.len);
    bufq_clear(&loop->chunks, &s->carry);
    take_input(s, span_of(scratch, n));
}

static void client_left(struct pg_session *s, ssize_t n)
{
    struct err err;
    err_set(&err, CAUSE_CLIENT_GONE, STAGE_CLIENT, n < 0 ? (int)-n : 0,
            "the client left without a word (state %s)", rows[s->state].name);
    session_close(&s->base, s->state == PG_IDLE ? NULL : &err);
}

static void on_readable(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    if (s->state < PG_WELCOME) {
        pg_login_readable(s);
        return;
    }
    if (s->carry.len > LOOP_CARRY_MAX / 2) {
        io_pause(&base->io);
        if (!base->io.broken)
            return;
    }
    struct span in;
    ssize_t n = pg_fill(&base->io, &s->carry, &in);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        client_left(s, n);
        return;
    }
    if (s->deadline == PG_DEADLINE_IDLE_TX || s->deadline == PG_DEADLINE_IDLE)
        pg_set_deadline(s, PG_DEADLINE_NONE, 0);
    uint64_t request_ms = pool_conf(session_pool(base))->timeouts.request_ms;
    if (request_ms && s->state == PG_LINKED && s->deadline == PG_DEADLINE_NONE)
        pg_set_deadline(s, PG_DEADLINE_REQUEST, request_ms);
    if (s->state == PG_WELCOME) {
        if (!pg_carry(session_loop(base), &s->carry, in))
            io_pause(&base->io);
        return;
    }
    take_input(s, in);
}

/* ---- from the server ---- */

static void note_parameter(struct pg_session *s, struct span body)
{
    struct pg_server *ps = s->server;
    struct span name, value;
    if (!pg_read_parameter(body, &name, &value))
        return;
    bool fits = pg_params_set(&ps->params, name, value);
    if (s->state == PG_SETTING)
        return;
    if (!fits || !pg_params_set(&s->params, name, value)) {
        server_retire(&ps->base, OUTCOME_DROP_DIRTY);
    } else if (pg_params_same(s->params, ps->params)) {
        pg_params_drop(&s->params);
        s->params = pg_params_take(ps->params);
    }
}

static void note_complete(struct pg_session *s, struct span body)
{
    struct span tag;
    if (!pg_read_complete(body, &tag))
        return;
    if (span_eq(tag, SPAN_LIT("PREPARE")) || span_eq(tag, SPAN_LIT("LISTEN")))
        s->pinned = true;
}

/* Our own settings were answered. */
static void on_settings_done(struct pg_session *s)
{
    struct pg_server *ps = s->server;
    if (ps->check_failed) {
        struct err err = s->waiter.err;
        give_back(s);
        pg_refuse(s, &err, "22023");
        return;
    }
    /* Now it is what the client wants; what the server reports counts in the server's spelling. */
    struct span name, value, other;
    for (size_t i = 0; i < pg_params_count(s->params); i++) {
        pg_params_at(s->params, i, &name, &value);
        if (!pg_params_get(ps->origin, name, &other) && !pg_params_set(&ps->params, name, value))
            server_retire(&ps->base, OUTCOME_DROP_DIRTY);
    }
    for (size_t i = pg_params_count(ps->params); i-- > 0;) {
        pg_params_at(ps->params, i, &name, &value);
        if (!pg_params_get(s->params, name, &other) && !pg_params_get(ps->origin, name, &other)) {
            char copy[256];
            size_t n = name.n < sizeof copy ? name.n : 0;
            memcpy(copy, name.p, n);
            if (!n || !pg_params_set(&ps->params, span_of(copy, n), span_of(NULL, 0)))
                server_retire(&ps->base, OUTCOME_DROP_DIRTY);
        }
    }
    pg_params_drop(&s->params);
    s->params = pg_params_take(ps->params);
    pg_become(s, PG_LINKED);
}

static void note_error(struct pg_session *s, struct span body)
{
    struct pg_fields f;
    s->server->check_failed = true;
    if (pg_read_error(body, &f))
        err_set(&s->waiter.err, CAUSE_CLIENT_PROTOCOL, STAGE_EXCHANGE, 0,
                "the server refuses a startup parameter: %.*s",
                (int)(f.message.n > 100 ? 100 : f.message.n), (const char *)f.message.p);
}

/* While SETTING nothing reaches the client but changed parameters. True: settings done. */
static bool setting_one(struct pg_session *s, const struct pg_msg *m, enum pg_flow_step step)
{
    if (m->type == 'S') {
        note_parameter(s, m->body);
        io_send(&s->base.io, m->raw.p, m->raw.n);
    }
    if (m->type == 'E')
        note_error(s, m->body);
    return step == PG_FLOW_READY;
}

/* The server's answer to our cancel: said in our words, since the deadline was ours. */
static bool replace_cancel_error(struct pg_session *s, const struct pg_msg *m)
{
    struct pg_fields f;
    if (!s->cancelled || m->type != 'E' || !pg_read_error(m->body, &f) ||
        !span_eq(f.sqlstate, SPAN_LIT("57014")))
        return false;
    s->cancelled = false;
    struct err err;
    err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0,
            "the statement was cancelled: not done within %llu ms (timeouts.request)",
            (unsigned long long)pool_conf(session_pool(&s->base))->timeouts.request_ms);
    session_error(&s->base, &err);
    pg_say_error(s, &err, "ERROR", NULL);
    s->dropping_body = !m->whole;
    return true;
}

/*
 * FATAL is the end of the server's session, not of the client's: it is told as a loss. A parameter of the
 * client's that a server refuses is never FATAL.
 */
static bool said_farewell(const struct pg_session *s, const struct pg_msg *m, struct err *err)
{
    struct pg_fields f;
    if (!pg_read_error(m->body, &f) || !pg_fields_fatal(&f))
        return false;
    err_set(err, CAUSE_UPSTREAM_CLOSED, STAGE_EXCHANGE, 0, "%s ended the session: %.*s (%.5s)",
            s->server->base.endpoint->label, (int)(f.message.n > 100 ? 100 : f.message.n),
            (const char *)f.message.p, (const char *)f.sqlstate.p);
    return true;
}

static void broken_server(struct pg_session *s, const struct err *err)
{
    lose_server(s, err, OUTCOME_DROP_PROTOCOL);
}

static void flush_to_client(struct pg_session *s, struct span from, struct span rest)
{
    size_t n = from.n - rest.n;
    if (!n || s->base.closed)
        return;
    io_send(&s->base.io, from.p, n);
    if (!s->server || io_unsent(&s->base.io) <= high_water(s))
        return;
    io_pause(&s->server->base.io);
    if (s->deadline == PG_DEADLINE_NONE)
        pg_set_deadline(s, PG_DEADLINE_STALL,
                        pool_conf(session_pool(&s->base))->timeouts.write_stall_ms);
}

static void after_ready(struct pg_session *s)
{
    const struct timeouts_conf *t = &pool_conf(session_pool(&s->base))->timeouts;
    struct pg_flow *flow = &s->server->flow;
    if (flow->tx != PG_TX_IDLE && s->base.gate->conf->mode == FRONT_STATEMENT) {
        struct err err;
        err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
                "transaction blocks are not allowed in statement mode");
        pg_refuse(s, &err, NULL);
    } else if (may_release(s))
        on_transaction_end(s);
    else if (!pg_flow_is_busy(flow) && flow->tx != PG_TX_IDLE && t->idle_transaction_ms)
        pg_set_deadline(s, PG_DEADLINE_IDLE_TX, t->idle_transaction_ms);
    else if (!pg_flow_is_busy(flow) && s->deadline == PG_DEADLINE_REQUEST)
        pg_set_deadline(s, PG_DEADLINE_NONE, 0);
}

/* Walks a server's bytes. True: *in is what is left of them, to be carried over. */
static bool walk_server(struct pg_session *s, struct span *in)
{
    struct pg_server *ps = s->server;
    struct span from = *in;
    bool ready = false, linked_now = false;
    for (;;) {
        struct pg_msg m;
        struct err err;
        enum pg_step what = pg_next(&ps->framer, &pg_whole_server, *in, &m, &err);
        if (what == PG_WAIT)
            break;
        if (what == PG_BAD) {
            flush_to_client(s, from, *in);
            broken_server(s, &err);
            return false;
        }
        if (what == PG_BODY) {
            bool drop = s->dropping_body || s->state == PG_SETTING;
            *in = span_skip(*in, m.raw.n);
            if (drop)
                from = *in;
            if (m.whole)
                s->dropping_body = false;
            continue;
        }
        if (m.type == 'E' && said_farewell(s, &m, &err)) {
            flush_to_client(s, from, *in);
            pg_framer_init(&ps->framer, PG_SIDE_SERVER); /* its words end here for the client */
            lose_server(s, &err, OUTCOME_DROP_CLOSING);
            return false;
        }
        enum pg_flow_step step = pg_flow_server(&ps->flow, m.type, m.body);
        if (step == PG_FLOW_VIOLATION || step == PG_FLOW_FULL) {
            err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
                    "the server sent message %c that answers nothing", m.type);
            flush_to_client(s, from, *in);
            broken_server(s, &err);
            return false;
        }
        if (s->state == PG_SETTING) {
            bool done = setting_one(s, &m, step);
            *in = from = span_skip(*in, m.raw.n);
            if (!done)
                continue;
            on_settings_done(s);
            if (s->base.closed || s->state != PG_LINKED)
                return false;
            linked_now = true;
            continue;
        }
        if (m.type == 'E' && replace_cancel_error(s, &m)) {
            struct span rest = *in;
            *in = span_skip(*in, m.raw.n);
            flush_to_client(s, from, rest);
            from = *in;
            continue;
        }
        if (m.type == 'S')
            note_parameter(s, m.body);
        else if (m.type == 'C')
            note_complete(s, m.body);
        ready = ready || step == PG_FLOW_READY;
        *in = span_skip(*in, m.raw.n);
    }
    flush_to_client(s, from, *in);
    if (s->base.closed)
        return false;
    if (linked_now && !in->n) {
        pg_relay_input(s); /* uses the scratch memory that `in` was in */
        return false;
    }
    if (!in->n && (ready || (!keeps_server(s) && may_release(s)))) {
        after_ready(s);
        return false;
    }
    return true;
}

static void on_server_readable(struct server *sv)
{
    struct pg_session *s = sv->holder;
    struct pg_server *ps = pg_server_of(sv);
    struct span in;
    ssize_t n = pg_fill(&sv->io, &ps->carry, &in);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        struct err err;
        server_lost_err(sv, n, &err);
        lose_server(s, &err, OUTCOME_DROP_EOF);
        return;
    }
    server_note_read(sv, (size_t)n);
    struct span rest = in;
    if (!walk_server(s, &rest) || !rest.n)
        return;
    if (!pg_carry(session_loop(&s->base), &ps->carry, rest)) {
        struct err err;
        err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
                "the server sent a message too large to look at");
        broken_server(s, &err);
    }
}

static void on_server_drained(struct server *sv)
{
    struct pg_session *s = sv->holder;
    if (s->state == PG_LINKED)
        pg_relay_input(s);
}

static const struct holder_ops pg_holder_ops = {
    .on_readable = on_server_readable,
    .on_drained = on_server_drained,
    .on_lost = on_holder_lost,
};

/* ---- the rest of a session's life ---- */

static void on_drained(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    if (s->state == PG_TLS) {
        pg_login_readable(s);
        return;
    }
    if (s->deadline == PG_DEADLINE_STALL)
        pg_set_deadline(s, PG_DEADLINE_NONE, 0);
    if (s->server)
        io_resume(&s->server->base.io);
}

static void on_deadline(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    const struct timeouts_conf *t = &pool_conf(session_pool(base))->timeouts;
    enum pg_deadline kind = s->deadline;
    struct err err;
    s->deadline = PG_DEADLINE_NONE;
    switch (kind) {
    case PG_DEADLINE_NONE:
        return;
    case PG_DEADLINE_LOGIN:
        err_set(&err, CAUSE_CLIENT_TIMEOUT, STAGE_CLIENT, 0, "not logged in within %llu ms",
                (unsigned long long)t->client_login_ms);
        pg_refuse(s, &err, NULL);
        return;
    case PG_DEADLINE_REQUEST:
        if (!s->server || !pg_flow_is_busy(&s->server->flow))
            return;
        s->cancelled = true;
        (void)pg_cancel(s->server);
        pg_set_deadline(s, PG_DEADLINE_CANCEL, pool_conf(session_pool(base))->check.timeout_ms + 1000);
        return;
    case PG_DEADLINE_CANCEL:
        err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0,
                "the server answers neither the statement nor its cancellation");
        if (s->server)
            lose_server(s, &err, OUTCOME_DROP_TIMEOUT);
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
        err_set(&err, CAUSE_WRITE_STALL, STAGE_CLIENT, 0,
                "the client took nothing for %llu ms (timeouts.write_stall)",
                (unsigned long long)t->write_stall_ms);
        session_close(base, &err);
        return;
    }
}

static void on_open(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    struct err err;
    list_init(&s->key_node);
    s->waiter.exclusive = true;
    s->waiter.holder_ops = &pg_holder_ops;
    s->waiter.holder = s;
    s->waiter.on_lease = on_lease;
    s->login = calloc(1, sizeof *s->login);
    if (!s->login) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        session_close(base, &err);
        return;
    }
    pg_set_deadline(s, PG_DEADLINE_LOGIN,
                    pool_conf(session_pool(base))->timeouts.client_login_ms);
}

static void on_drain(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "carpool is stopping");
    if (s->state == PG_IDLE && !s->carry.len && pg_at_boundary(&s->framer))
        pg_refuse(s, &err, NULL);
    else if (s->state < PG_WELCOME)
        session_close(base, &err);
    else if (s->state == PG_LINKED && may_release(s) && !s->carry.len)
        on_transaction_end(s);
    else if (s->state == PG_FAILED)
        pg_refuse(s, &err, NULL);
}

static void on_fini(struct session *base, const struct err *err)
{
    (void)err;
    struct pg_session *s = pg_session_of(base);
    pool_cancel(&s->waiter);
    if (s->server)
        give_back(s);
    exchange_over(s);
    pg_keys_remove(s);
    pg_login_free(s);
    pg_params_drop(&s->params);
    bufq_clear(&session_loop(base)->chunks, &s->carry);
}

const struct relay_ops postgres_relay = {
    .name = "postgres",
    .session_size = sizeof(struct pg_session),
    .guard_new = pg_guard_new,
    .guard_free = pg_guard_free,
    .state_new = pg_keys_new,
    .state_free = pg_keys_free,
    .open = on_open,
    .on_readable = on_readable,
    .on_drained = on_drained,
    .on_deadline = on_deadline,
    .drain = on_drain,
    .fini = on_fini,
};
