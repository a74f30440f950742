/* SPDX-License-Identifier: MIT */
/*
 * The server's bytes: every message is told to the flow, what changes the session is noted, and all of it
 * goes on to the client in one write per read; then the server may be free.
 */
#include <errno.h>

#include "pools/ledger.h"
#include "proxy/front/postgres.h"
#include "proxy/wire/postgres_read.h"

/* ---- from the server ---- */

void pg_note_parameter(struct pg_session *s, struct span body)
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

static void flush_to_client(struct pg_session *s, struct span from, struct span rest)
{
    size_t n = from.n - rest.n;
    if (!n || s->base.closed)
        return;
    io_send(&s->base.io, from.p, n);
    if (!s->server || io_unsent(&s->base.io) <= pg_high_water(s))
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
    } else if (pg_may_release(s))
        pg_transaction_end(s);
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
            pg_lose_server(s, &err, OUTCOME_DROP_PROTOCOL);
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
            pg_lose_server(s, &err, OUTCOME_DROP_CLOSING);
            return false;
        }
        enum pg_flow_step step = pg_flow_server(&ps->flow, m.type, m.body);
        if (step == PG_FLOW_VIOLATION || step == PG_FLOW_FULL) {
            err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
                    "the server sent message %c that answers nothing", m.type);
            flush_to_client(s, from, *in);
            pg_lose_server(s, &err, OUTCOME_DROP_PROTOCOL);
            return false;
        }
        if (s->state == PG_SETTING) {
            bool done = pg_setting_one(s, &m, step);
            *in = from = span_skip(*in, m.raw.n);
            if (!done)
                continue;
            pg_settings_done(s);
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
            pg_note_parameter(s, m.body);
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
    if (!in->n && (ready || (!pg_keeps_server(s) && pg_may_release(s)))) {
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
        pg_lose_server(s, &err, OUTCOME_DROP_EOF);
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
        pg_lose_server(s, &err, OUTCOME_DROP_PROTOCOL);
    }
}

static void on_server_drained(struct server *sv)
{
    struct pg_session *s = sv->holder;
    if (s->state == PG_LINKED)
        pg_relay_input(s);
}

static void on_holder_lost(struct server *sv, const struct err *err)
{
    pg_lose_server(sv->holder, err, OUTCOME_DROP_DRAINING);
}

const struct holder_ops pg_holder_ops = {
    .on_readable = on_server_readable,
    .on_drained = on_server_drained,
    .on_lost = on_holder_lost,
};
