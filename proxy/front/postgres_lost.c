/* SPDX-License-Identifier: MIT */
/*
 * What a client hears when there is no server behind it: its server was lost in the middle of
 * things, or none could be had. Every request gets the answer a server would give after an error,
 * up to Sync; inside a transaction only its end helps.
 */
#include <errno.h>

#include "pools/ledger.h"
#include "proxy/front/postgres_rename.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_text.h"

struct loss {
    struct err err;
    bool commit; /* one was under way: nobody knows */
    bool in_tx;
    bool torn; /* what was begun towards the client cannot be finished: it cannot be kept ... */
    bool half; /* ... nor told: it has half a message, and would take our words for the rest */
};

static struct loss loss_of(const struct pg_session *s, const struct err *why)
{
    const struct pg_server *ps = s->server;
    struct loss loss = {.err = *why,
                        .commit = pg_flow_commit_in_flight(&ps->flow),
                        .in_tx = ps->flow.tx != PG_TX_IDLE,
                        .torn = !pg_at_boundary(&ps->framer) || ps->flow.copy == PG_COPY_BOTH ||
                                s->dropping_body};
    bool hidden = s->dropping_body || (s->state == PG_SETTING && ps->framer.type != 'A');
    loss.half = !hidden && !pg_at_boundary(&ps->framer);
    if (!loss.commit)
        return loss;
    err_set(&loss.err, CAUSE_OUTCOME_UNKNOWN, STAGE_EXCHANGE, why->sys,
            "the server was lost during COMMIT, whose outcome is unknown: %.90s", why->note);
    loss.in_tx = false;
    return loss;
}

/* Every request that is due gets its answer. */
static void answer_due(struct pg_session *s, struct pg_flow *flow, struct loss *loss)
{
    enum pg_swallow_step step;
    while (!loss->torn && pg_flow_abandon(flow, &s->swallow, &step)) {
        s->loss_untold = false;
        loss->torn = step == PG_SWALLOW_END; /* what is due cannot be known any more */
        if (step == PG_SWALLOW_ERROR || step == PG_SWALLOW_ERROR_READY)
            pg_say_error(s, &loss->err, "ERROR", pg_sqlstate(loss->err.cause, loss->commit));
        if (step == PG_SWALLOW_READY || step == PG_SWALLOW_ERROR_READY)
            pg_say_ready(s, loss->in_tx ? PG_TX_FAILED : PG_TX_IDLE);
    }
}

/* Not a byte of the client's has reached it: another server will do. An idle connection that was
 * closing costs nothing; what else fails comes out of `retry`. */
static void try_another(struct pg_session *s, const struct err *why, enum outcome outcome)
{
    struct server *sv = &s->server->base;
    struct pool *p = sv->pool;
    bool closing = s->tries == 0 && sv->uses > 1;
    s->server = NULL;
    pool_drop(&sv, outcome);
    s->tries++;
    if (s->tries >= pool_conf(p)->retry.attempts || !(closing || pool_may_retry(p))) {
        pg_refuse_exchange(s, why, true);
    } else {
        pool_count_retry(p);
        pg_become(s, PG_IDLE);
    }
    pg_relay_input(s);
}

void pg_lose_unheard(struct pg_session *s)
{
    struct err err;
    server_lost_err(&s->server->base, -s->server->base.io.broken, &err);
    pg_exchange_over(s);
    pg_rename_unlink(s);
    pg_follow_lost(s);
    pg_framer_init(&s->framer, PG_SIDE_CLIENT);
    try_another(s, &err, OUTCOME_DROP_EOF);
}

/*
 * The server is gone in the middle of things. Every request gets its answer; inside a transaction
 * the client is told 'E' and only ROLLBACK helps: 'I' would commit the second half on another
 * server.
 */
void pg_lose_server(struct pg_session *s, const struct err *why, enum outcome outcome)
{
    struct pg_server *ps = s->server;
    struct server *sv = &ps->base;
    if (outcome == OUTCOME_DROP_PROTOCOL || outcome == OUTCOME_DROP_TIMEOUT)
        pg_tell_service(s, cause_word(why->cause));
    pg_exchange_over(s);
    bool own = s->state == PG_SETTING; /* what is due is ours alone */
    if (own && s->errand == PG_ERRAND_LINK) {
        try_another(s, why, outcome);
        return;
    }
    struct loss loss = loss_of(s, why);
    bool keeps = pg_keeps_server(s) || pg_follow_unasked(s);
    session_error(&s->base, &loss.err);
    pg_note_access(s, loss.err.cause);
    pg_rename_unlink(s);
    pg_follow_lost(s);
    if (!loss.half)
        pg_settings_lost(s, loss.in_tx);
    s->server = NULL;
    s->loss_untold = true;
    s->local_rollback = s->rolled_back = false;
    s->swallow = (struct pg_swallow){0};
    if (!own)
        answer_due(s, &ps->flow, &loss);
    pool_drop(&sv, outcome);
    s->cancelled = false;
    bool asked = own && s->errand == PG_ERRAND_ASK;
    if (loss.torn || asked || s->base.draining || keeps) {
        /* What the session had on that server is gone for good. */
        if (!loss.half)
            pg_say_error(s, &loss.err, "FATAL", pg_sqlstate(loss.err.cause, loss.commit));
        session_close(&s->base, NULL); /* counted and logged above */
        return;
    }
    io_resume(&s->base.io);
    /* The client may be in the middle of a message: the framer stays, and its rest is dropped. */
    s->waiter.err = loss.err;
    bool swallows = s->swallow.till_sync || s->swallow.untold;
    pg_become(s, loss.in_tx ? PG_FAILED : swallows ? PG_SWALLOWING : PG_IDLE);
    pg_watch_if_held_up(s);
    pg_relay_input(s);
}

/* ---- messages nobody but carpool answers ---- */

/* The checkout failed or the server is gone: errors where errors are due, up to Sync. */
void pg_swallow_one(struct pg_session *s, const struct pg_msg *m)
{
    switch (pg_swallow_next(&s->swallow, m->type)) {
    case PG_SWALLOW_NOTHING:
        break;
    case PG_SWALLOW_ERROR:
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
    if (!s->swallow.till_sync && !s->swallow.untold)
        pg_become(s, PG_IDLE);
}

enum ending { ENDING_NONE, ENDING_ROLLBACK, ENDING_LOST_COMMIT };

/*
 * Does this end the lost transaction? A COMMIT that is the first to hear of the loss ends it with
 * the error: many clients do not look whether COMMIT was answered with ROLLBACK, and none expects
 * that a COMMIT, well or failed, leaves the transaction open.
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

/* What a statement that the client has prepared would do. It was on servers in general, so that it
 * is not lost with one. */
static enum ending ending_of_prepared(const struct pg_session *s, struct span name)
{
    const struct pg_client_statements *c = s->statements;
    const struct pg_statement *st = c && name.n ? pg_names_get(c->names, name) : NULL;
    if (st)
        return ending_of(s, span_of(st->body, st->n));
    if (c && !name.n && c->now.there && c->now.kept)
        return ending_of(s, span_of(c->now.body, c->now.n));
    return ENDING_NONE;
}

/* The statement that a message is about; for Parse the one it brings. */
static enum ending ending_in(const struct pg_session *s, const struct pg_msg *m)
{
    struct pg_parse parse;
    struct pg_bind bind;
    struct span name;
    uint8_t kind;
    if (m->type == 'P' && m->whole && pg_read_parse(m->body, &parse))
        return ending_of(s, parse.text);
    if (m->type == 'B' && pg_read_bind(m->body, &bind))
        return ending_of_prepared(s, bind.statement);
    if (m->type == 'D' && pg_read_target(m->body, &kind, &name) && kind == 'S')
        return ending_of_prepared(s, name);
    return ENDING_NONE;
}

/* It is prepared here and now, and may be used under its name ever after. False: no room. */
static bool note_prepared(struct pg_session *s, const struct pg_msg *m)
{
    struct pg_route *route = s->base.route->state;
    struct pg_parse parse;
    if (!pg_read_parse(m->body, &parse) || !s->renames)
        return true;
    if (!parse.name.n)
        return pg_unnamed_local(s, span_skip(m->body, 1));
    if (!s->shares)
        return true;
    struct pg_client_statements *c = pg_rename_statements(s);
    const struct limits_conf *limits = &s->base.gate->conf->limits;
    struct span body = span_skip(m->body, parse.name.n + 1);
    if (!c || pg_names_get(c->names, parse.name) ||
        pg_names_count(c->names) >= limits->statements ||
        pg_names_bytes(c->names) + body.n > limits->statement_bytes)
        return false;
    struct pg_statement *st = pg_statement_take(route->statements, body);
    bool well = st && pg_names_put(&c->names, parse.name, st);
    pg_statement_drop(&st);
    return well;
}

/* By the next Parse of it or simple query, whatever comes of that. */
static void end_unnamed(struct pg_session *s)
{
    if (s->statements)
        s->statements->now.there = false;
}

/* Closing a statement does not hang on the transaction. */
static void note_closed(struct pg_session *s, const struct pg_msg *m)
{
    struct span name;
    uint8_t kind;
    if (!s->statements || !pg_read_target(m->body, &kind, &name) || kind != 'S')
        return;
    if (name.n)
        pg_names_remove(s->statements->names, name);
    else
        end_unnamed(s);
}

static void say_described(struct pg_session *s, bool statement)
{
    uint8_t buf[16];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    if (statement)
        pg_put_raw(&out, 't', span_of((const uint8_t[]){0, 0}, 2)); /* no parameters */
    pg_put_bare(&out, 'n');
    pg_say(s, &out);
}

/* FAILED: extended messages; ROLLBACK may come as Parse, Bind, Execute, or be prepared already. */
static void failed_extended(struct pg_session *s, const struct pg_msg *m)
{
    if (m->type == 'H')
        return;
    enum ending ending = s->local_rollback && m->type != 'P' ? ENDING_ROLLBACK : ending_in(s, m);
    if (ending == ENDING_LOST_COMMIT) {
        say_aborted(s);
        s->local_rollback = true;
        s->swallow.till_sync = true;
    } else if (ending == ENDING_ROLLBACK && m->type == 'P' && note_prepared(s, m)) {
        s->local_rollback = true;
        say_bare(s, '1');
    } else if (ending == ENDING_ROLLBACK && m->type == 'B') {
        s->local_rollback = true;
        say_bare(s, '2');
    } else if (ending == ENDING_ROLLBACK && m->type == 'D') {
        say_described(s, m->body.n && m->body.p[0] == 'S');
    } else if (ending == ENDING_ROLLBACK && m->type == 'E') {
        s->rolled_back = true;
        say_rolled_back(s);
    } else if (m->type == 'C') {
        note_closed(s, m);
        say_bare(s, '3');
    } else {
        if (m->type == 'P' && m->body.n && m->body.p[0] == 0)
            end_unnamed(s);
        s->local_rollback = s->rolled_back = false;
        s->swallow.till_sync = true;
        say_aborted(s);
    }
}

void pg_failed_one(struct pg_session *s, const struct pg_msg *m)
{
    struct span text;
    if (m->type == 'X') {
        session_close(&s->base, NULL);
    } else if (m->type == 'S') {
        s->swallow.till_sync = false;
        bool over = s->rolled_back; /* it may have been prepared only */
        s->local_rollback = s->rolled_back = false;
        pg_say_ready(s, over ? PG_TX_IDLE : PG_TX_FAILED);
        if (over)
            pg_become(s, PG_IDLE);
    } else if (s->swallow.till_sync || m->type == 'd' || m->type == 'c' || m->type == 'f') {
        s->rolled_back |= s->local_rollback && m->type == 'E';
    } else if (m->type == 'Q') {
        enum ending ending = ENDING_NONE;
        if (m->whole && pg_read_query(m->body, &text))
            ending = ending_of(s, text);
        end_unnamed(s);
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
