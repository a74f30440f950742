/* SPDX-License-Identifier: MIT */
/*
 * The server's bytes: every message is told to the flow, what changes the session is noted, and all
 * of it goes on to the client in one write per read; then the server may be free.
 */
#include <errno.h>

#include "pools/ledger.h"
#include "proxy/front/postgres.h"
#include "proxy/wire/postgres_read.h"

/* ---- from the server ---- */

/* The server's answer to our cancel: said in our words, since the deadline was ours. */
static ASIDE bool replace_cancel_error(struct pg_session *s, const struct pg_msg *m)
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
    s->told = CAUSE_REQUEST_TIMEOUT;
    session_error(&s->base, &err);
    pg_say_error(s, &err, "ERROR", NULL);
    s->dropping_body = !m->whole;
    return true;
}

/*
 * FATAL is the end of the server's session, not of the client's: it is told as a loss. A parameter
 * of the client's that a server refuses is never FATAL.
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

/* A statement has opened a transaction block, in statement mode. */
static bool is_forbidden_block(const struct pg_session *s)
{
    return s->state == PG_LINKED && s->base.gate->conf->mode == FRONT_STATEMENT &&
           s->server->flow.tx != PG_TX_IDLE;
}

static ASIDE void refuse_block(struct pg_session *s)
{
    struct err err;
    err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
            "transaction blocks are not allowed in statement mode");
    pg_refuse(s, &err, NULL);
}

/* A query of ours is no part of a batch of the client's, nor of a message that is half sent: it
 * would commit what the batch has done, or be discarded with it. Nor is its answer to tear one of
 * the server's apart. */
static bool is_between(const struct pg_session *s)
{
    const struct pg_flow *flow = &s->server->flow;
    return !pg_flow_is_busy(flow) && !pg_flow_in_batch(flow) && pg_at_boundary(&s->framer) &&
           pg_server_is_whole(s->server);
}

static void after_ready(struct pg_session *s)
{
    const struct timeouts_conf *t = &pool_conf(session_pool(&s->base))->timeouts;
    struct pg_flow *flow = &s->server->flow;
    if (s->held) { /* its next words are here: in the same transaction, or batch, for all we know */
        if (is_between(s))
            (void)pg_settings_again(s);
    } else if (pg_may_release(s))
        pg_transaction_end(s);
    else if (is_between(s) && pg_settings_again(s))
        return;
    else if (!pg_flow_is_busy(flow) && flow->tx != PG_TX_IDLE && t->idle_transaction_ms)
        pg_set_deadline(s, PG_DEADLINE_IDLE_TX, t->idle_transaction_ms);
    else if (!pg_flow_is_busy(flow) &&
             (s->deadline == PG_DEADLINE_REQUEST || s->deadline == PG_DEADLINE_CANCEL))
        pg_set_deadline(s, PG_DEADLINE_NONE, 0);
}

/* One pass over a server's bytes: `from`..`in` was looked at and goes out as it is. */
struct walk {
    struct span from, in;
    struct pg_outbox out;
    bool rows;       /* the last message was a row: so may be the next ones */
    bool ready;      /* a ReadyForQuery was among them */
    bool linked_now; /* the settings were answered: the client's bytes may go on */
};

/* What was looked at goes into the outbox. */
static void collect(struct walk *w)
{
    pg_outbox_add(&w->out, span_of(w->from.p, w->from.n - w->in.n));
    w->from = w->in;
}

static void flush_to_client(struct pg_session *s, struct walk *w)
{
    collect(w);
    pg_outbox_flush(&w->out);
    if (s->base.closed || !s->server || io_unsent(&s->base.io) <= pg_high_water(s))
        return;
    io_pause(&s->server->base.io);
    if (s->deadline == PG_DEADLINE_NONE)
        pg_watch_stall(s);
}

/* The session is done with this server: what went before is told, then the loss. */
static ASIDE bool end_walk(struct pg_session *s, struct walk *w, const struct err *err,
                           enum outcome outcome)
{
    flush_to_client(s, w);
    pg_framer_init(&s->server->framer,
                   PG_SIDE_SERVER); /* nothing half said is left towards the client */
    pg_lose_server(s, err, outcome);
    return false;
}

static void skip(struct walk *w, size_t n, bool drop)
{
    w->in = span_skip(w->in, n);
    if (drop)
        w->from = w->in;
}

/* What comes while its server is set again is the client's, if it LISTENs. */
static bool is_news(const struct pg_session *s, uint8_t type)
{
    return type == 'A' && s->errand == PG_ERRAND_AGAIN;
}

/* The settings' answer. False: the session has ended over it. */
static ASIDE bool walk_setting(struct pg_session *s, struct walk *w, const struct pg_msg *m,
                               enum pg_flow_step step)
{
    if (is_news(s, m->type)) {
        skip(w, m->raw.n, false);
        collect(w);
        return true;
    }
    bool done = pg_setting_one(s, m, step);
    skip(w, m->raw.n, true);
    if (!done)
        return true;
    bool first = s->errand == PG_ERRAND_LINK;
    const struct pg_server *ps = s->server;
    pg_settings_done(s);
    if (s->base.closed || s->server != ps)
        return false;
    w->linked_now = s->state == PG_LINKED;
    w->ready = !first; /* it stood behind an answer to the client: what follows that comes now */
    return true;
}

static bool may_refuse(const struct pg_session *s)
{
    return s->base.gate->conf->session_state == FRONT_STATE_REFUSE;
}

/* The statement that was made to fail did. */
static ASIDE bool explain_refusal(struct pg_session *s, const struct pg_msg *m)
{
    const size_t n = sizeof PG_REFUSED - 1;
    struct pg_fields f;
    struct err err;
    if (!may_refuse(s) || !m->whole || !pg_read_error(m->body, &f) || f.message.n < n + 1)
        return false;
    const uint8_t *at = memmem(f.message.p, f.message.n - 1, PG_REFUSED, n);
    if (!at)
        return false;
    err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
            "%s would stay in the session (session_state: refuse)",
            pg_pin_word((enum pg_leaves)(at[n] - 'a')));
    s->told = CAUSE_UNSUPPORTED;
    session_error(&s->base, &err);
    pg_say_error(s, &err, "ERROR", NULL);
    return true;
}

/* An error that is told in other words than the server's. True: it has been. */
static ASIDE bool replace_error(struct pg_session *s, struct walk *w, const struct pg_msg *m)
{
    if (s->renames && pg_rename_error(s, m, &w->out))
        return true;
    if (!s->cancelled && !may_refuse(s))
        return false;
    flush_to_client(s, w);
    return explain_refusal(s, m) || replace_cancel_error(s, m);
}

/* A message begins. False: the session has let go of the server, or is gone. */
static bool walk_message(struct pg_session *s, struct walk *w, const struct pg_msg *m)
{
    struct err err;
    if (m->type == 'D' && w->rows) { /* the flow need not be told of each */
        skip(w, m->raw.n, false);
        return true;
    }
    if (m->type == 'E' && said_farewell(s, m, &err))
        return end_walk(s, w, &err, OUTCOME_DROP_CLOSING);
    enum pg_flow_step step = pg_flow_server(&s->server->flow, m->type, m->body);
    if (step == PG_FLOW_VIOLATION || step == PG_FLOW_FULL) {
        err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
                "the server sent message %c that answers nothing", m->type);
        return end_walk(s, w, &err, OUTCOME_DROP_PROTOCOL);
    }
    if (s->state == PG_SETTING)
        return walk_setting(s, w, m, step);
    bool drop = false;
    if (m->type == 'S') {
        collect(w);
        pg_follow_reset(s, &w->out);
        drop = !pg_settings_reported(s, m->body);
    } else if (m->type == 'C') {
        pg_outbox_add(&w->out, span_of(w->from.p, w->from.n - w->in.n + m->raw.n));
        w->from = span_skip(w->in, m->raw.n);
        pg_follow_tag(s, m->body, &w->out);
        if (s->base.closed)
            return false;
    } else if (m->type == 'Z') {
        if (s->follow)
            collect(w);
        pg_follow_reset(s, &w->out);
        s->resetting = false;
        pg_follow_ready(s);
        if (s->server->flow.tx == PG_TX_IDLE) {
            pg_watch_transaction(s, true);
            pg_params_drop(&s->settled);
        }
    } else if (m->type == 'E') {
        pg_role_error(s->server, m->body);
        if (s->follow)
            pg_follow_failed(s->follow);
        collect(w);
        drop = replace_error(s, w, m);
    }
    if (pg_rename_answer(s, m)) {
        collect(w);
        drop = true;
    }
    w->rows = m->type == 'D';
    w->ready = w->ready || step == PG_FLOW_READY;
    skip(w, m->raw.n, drop);
    if (s->renaming > 0) {
        collect(w);
        (void)pg_rename_local(s, &w->out);
    }
    return true;
}

static void walk_body(struct pg_session *s, struct walk *w, const struct pg_msg *m)
{
    bool setting = s->state == PG_SETTING;
    skip(w, m->raw.n, s->dropping_body || (setting && !is_news(s, m->type)));
    if (setting)
        collect(w);
    if (m->whole)
        s->dropping_body = false;
}

/* False: the session has let go of the server, or is gone; else w->in is to be carried over. */
static bool walk_server(struct pg_session *s, struct walk *w)
{
    struct pg_framer *framer = &s->server->framer;
    for (;;) {
        struct pg_msg m;
        struct err err;
        const struct pg_whole *whole = s->state == PG_SETTING ? &pg_whole_answer : &pg_whole_server;
        switch (pg_next(framer, whole, w->in, &m, &err)) {
        case PG_WAIT:
            flush_to_client(s, w);
            return !s->base.closed;
        case PG_BAD:
            flush_to_client(s, w);
            pg_lose_server(s, &err, OUTCOME_DROP_PROTOCOL);
            return false;
        case PG_BODY:
            walk_body(s, w, &m);
            break;
        case PG_MESSAGE:
            if (!walk_message(s, w, &m))
                return false;
            break;
        }
    }
}

/* A query is over: what the client has sent behind it has a clock of its own. */
static void next_in_line(struct pg_session *s)
{
    bool timed = s->deadline == PG_DEADLINE_REQUEST || s->deadline == PG_DEADLINE_CANCEL;
    if (s->server->base.holds == 0)
        s->cancelled = false;
    if (timed && (s->held || pg_flow_is_busy(&s->server->flow)))
        pg_set_deadline(s, PG_DEADLINE_REQUEST,
                        pool_conf(session_pool(&s->base))->timeouts.request_ms);
}

static void on_server_readable(struct server *sv)
{
    struct pg_session *s = sv->holder;
    struct pg_server *ps = pg_server_of(sv);
    struct err err;
    struct span in;
    ssize_t n = pg_fill(&sv->io, &ps->carry, &in);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        server_lost_err(sv, n, &err);
        pg_lose_server(s, &err, OUTCOME_DROP_EOF);
        return;
    }
    server_note_read(sv, (size_t)n);
    struct walk w;
    w.from = w.in = in;
    w.rows = w.ready = w.linked_now = false;
    pg_outbox_init(&w.out, s, false);
    if (!walk_server(s, &w))
        return;
    if (w.in.n && !pg_carry(session_loop(&s->base), &ps->carry, w.in)) {
        err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
                "the server sent a message too large to look at");
        pg_lose_server(s, &err, OUTCOME_DROP_PROTOCOL);
        return;
    }
    if (w.ready)
        next_in_line(s);
    bool whole = pg_server_is_whole(ps), ready = w.ready || (whole && s->ready_late);
    s->ready_late = !whole && (w.ready || s->ready_late);
    s->reset_sent &= !whole || pg_flow_is_busy(&ps->flow);
    /* The scratch memory is free again for the client's bytes. */
    if (w.ready && is_forbidden_block(s)) {
        refuse_block(s);
        return;
    }
    bool resumes = w.linked_now || s->held;
    if (ready || (!resumes && !pg_keeps_server(s) && pg_may_release(s)))
        after_ready(s);
    if (resumes && s->state == PG_LINKED)
        pg_relay_input(s);
}

static void on_server_drained(struct server *sv)
{
    struct pg_session *s = sv->holder;
    if (s->state == PG_LINKED)
        pg_relay_input(s);
}

static void on_unheld(struct server *sv)
{
    struct pg_session *s = sv->holder;
    bool busy = pg_flow_is_busy(&pg_server_of(sv)->flow);
    s->cancelled &= busy; /* else nothing can feel it any more */
    if (s->state == PG_LINKED && s->held && !busy) {
        pg_set_deadline(s, PG_DEADLINE_REQUEST,
                        pool_conf(session_pool(&s->base))->timeouts.request_ms);
        pg_relay_input(s);
        return;
    }
    if (s->state != PG_SETTING || !s->put_off)
        return;
    pg_settings_unheld(s);
    if (s->state == PG_LINKED)
        after_ready(s);
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
    .on_unheld = on_unheld,
    .on_lost = on_holder_lost,
};
