/* SPDX-License-Identifier: MIT */
/*
 * The client's bytes: messages are looked at where they begin, told to the flow, and forwarded as
 * they come. What cannot be used yet is carried over.
 */
#include <errno.h>
#include <stdio.h>

#include "pools/ledger.h"
#include "proxy/front/postgres.h"
#include "proxy/wire/postgres_read.h"

/* ---- from the client ---- */

enum step { STEP_ON, STEP_STOP, STEP_ASKED, STEP_CLOSED };

/* One pass over a client's bytes: `from`..`in` was looked at and goes out as it is. */
struct walk {
    struct span from, in;
    const uint8_t *leased; /* what the server of this lease has to hear begins here */
    struct pg_outbox out;
};

/* What was looked at is on its way. */
static void forward(struct pg_session *s, struct walk *w)
{
    pg_outbox_add(&w->out, span_of(w->from.p, w->from.n - w->in.n));
    w->from = w->in;
    pg_outbox_flush(&w->out);
    if (!s->server || io_unsent(&s->server->base.io) <= pg_high_water(s))
        return;
    io_pause(&s->base.io);
    if (s->deadline == PG_DEADLINE_NONE)
        pg_watch_stall(s);
}

static ASIDE enum step refuse(struct pg_session *s, enum cause cause, const char *what)
{
    struct err err;
    err_set(&err, cause, STAGE_CLIENT, 0, "%s", what);
    pg_refuse(s, &err, NULL);
    return STEP_CLOSED;
}

/* A message that the server gets as the client said it. */
static enum step pass_one(struct pg_session *s, struct walk *w, const struct pg_msg *m)
{
    switch (pg_flow_client(&s->server->flow, m->type, m->body)) {
    case PG_FLOW_OK:
    case PG_FLOW_READY:
    case PG_FLOW_ASYNC:
        w->in = span_skip(w->in, m->raw.n);
        return STEP_ON;
    case PG_FLOW_FULL:
        return STEP_STOP;
    case PG_FLOW_VIOLATION:
        break;
    }
    struct err err;
    err_set(&err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "message %c is not allowed here",
            m->type);
    pg_refuse(s, &err, NULL);
    return STEP_CLOSED;
}

/* Answers of ours that nothing of the server's goes before. They may free what is in the outbox. */
static ASIDE void answer_locally(struct pg_session *s, struct walk *w)
{
    struct pg_outbox out;
    pg_outbox_flush(&w->out);
    pg_outbox_init(&out, s, false);
    if (!pg_rename_local(s, &out))
        return;
    s->unheard = false; /* nor could it be said again */
    pg_outbox_flush(&out);
}

/* A message that may name a prepared statement. */
static enum step rename_one(struct pg_session *s, struct walk *w, const struct pg_msg *m)
{
    pg_outbox_add(&w->out, span_of(w->from.p, w->from.n - w->in.n));
    w->from = w->in;
    switch (pg_rename(s, m, &w->out)) {
    case PG_NAMED_PASS:
    case PG_NAMED_OTHER:
        return pass_one(s, w, m);
    case PG_NAMED_SENT:
        w->from = w->in = span_skip(w->in, m->raw.n);
        if (m->type == 'P' || m->type == 'C')
            answer_locally(s, w);
        return STEP_ON;
    case PG_NAMED_FULL:
        return STEP_STOP;
    case PG_NAMED_TOO_MANY:
        return refuse(s, CAUSE_TOO_LARGE,
                      "too many prepared statements, or too long ones, for one client "
                      "(limits.statements, limits.statement_bytes)");
    case PG_NAMED_TOO_LONG:
        return refuse(s, CAUSE_TOO_LARGE, "the names of portal and statement are too long");
    case PG_NAMED_NO_MEMORY:
        break;
    }
    return refuse(s, CAUSE_INTERNAL, "out of memory");
}

/* The statement is not to be done: the server is sent one that fails, so that the transaction is
 * what it would be. */
static ASIDE enum step refuse_statement(struct pg_session *s, struct walk *w,
                                        const struct pg_msg *m, enum pg_leaves why)
{
    static const char query[] = "Q\0\0\0\x16" PG_REFUSED "?";
    static const char parse[] = "P\0\0\0\x19\0" PG_REFUSED "?\0\0";
    static const char named[] = "P\0\0\0\x1a_\0" PG_REFUSED "?\0\0";
    bool is_parse = m->type == 'P', is_named = is_parse && m->body.p[0] != 0;
    const char *words = is_named ? named : is_parse ? parse : query;
    size_t n = is_named ? sizeof named : is_parse ? sizeof parse : sizeof query;
    if (!m->whole) {
        struct err err;
        err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
                "%s would stay in the session (session_state: refuse)", pg_pin_word(why));
        pg_refuse(s, &err, NULL);
        return STEP_CLOSED;
    }
    pg_outbox_add(&w->out, span_of(w->from.p, w->from.n - w->in.n));
    w->from = w->in;
    if (pg_flow_client(&s->server->flow, m->type, m->body) != PG_FLOW_OK)
        return STEP_STOP;
    uint8_t *own = pg_outbox_own(&w->out, n);
    memcpy(own, words, n);
    *(uint8_t *)memchr(own, '?', n) = (uint8_t)('a' + why);
    w->from = w->in = span_skip(w->in, m->raw.n);
    return STEP_ON;
}

/* What a query or a statement leaves behind. NOTHING: nothing to refuse. */
static enum pg_leaves trace(struct pg_session *s, const struct pg_msg *m)
{
    /* What nobody has read may leave anything: the end of a text too long to be looked at; what
       follows a COPY that may have failed already, and so be done after all. */
    if (!m->whole || s->server->flow.copy == PG_COPY_IN)
        s->server->reset_needed = true;
    if (pg_flow_discards(&s->server->flow))
        return PG_LEAVES_NOTHING;
    s->drops = false;
    if (m->type == 'Q')
        return pg_follow_query(s, m->body);
    const uint8_t *nul = m->body.n ? memchr(m->body.p, 0, m->body.n) : NULL;
    if (!nul)
        return PG_LEAVES_NOTHING;
    size_t n = (size_t)(nul - m->body.p);
    return pg_follow_parse(s, span_skip(m->body, n + 1), n == 0);
}

/* Does the message speak of prepared statements, or end the unnamed one? */
static bool speaks_of_statements(uint8_t type)
{
    return type == 'P' || type == 'B' || type == 'D' || type == 'C' || type == 'Q';
}

/* What comes now hangs on what became of a COPY. Of an extended one the server would not say it
 * before the Sync, which stands behind what is held here: it is asked to, once. */
static ASIDE enum step await_copy(struct pg_session *s, struct walk *w)
{
    static const uint8_t flush[] = {'H', 0, 0, 0, 4};
    pg_outbox_add(&w->out, span_of(w->from.p, w->from.n - w->in.n));
    w->from = w->in;
    if (!s->asked_copy)
        pg_outbox_add(&w->out, span_of(flush, sizeof flush));
    return STEP_ASKED;
}

/* In statement mode: what begins a statement waits until the one before is over, which may turn out
 * to have opened a transaction block; nothing is to be done inside that. (But COPY FROM STDIN would
 * wait for us: the server says what is wrong.) */
static bool must_wait_its_turn(const struct pg_session *s, uint8_t type)
{
    const struct pg_flow *flow = &s->server->flow;
    bool begins = speaks_of_statements(type) || type == 'F';
    return begins && s->base.gate->conf->mode == FRONT_STATEMENT && flow->copy != PG_COPY_IN &&
           pg_flow_is_busy(flow) && !pg_flow_in_batch(flow);
}

/* Behind a RESET comes what the client's own settings are to hold for: they are set again first. In
 * its batch there is no place for that. */
static bool must_wait_for_reset(const struct pg_session *s, uint8_t type)
{
    const struct pg_flow *flow = &s->server->flow;
    return s->reset_sent && (speaks_of_statements(type) || type == 'F') &&
           (pg_flow_is_busy(flow) || s->ready_late) && !pg_flow_in_batch(flow) &&
           flow->copy == PG_COPY_NONE;
}

/* What was not done in time is over, and our cancel of it is still on its way: what comes next is
 * not to feel it. */
static bool must_wait_for_cancel(const struct pg_session *s)
{
    return s->cancelled && s->server->base.holds > 0 && !pg_flow_is_busy(&s->server->flow);
}

/* Statements that are the server's own: one is prepared, or bound. */
static void note_own(struct pg_session *s, const struct pg_msg *m)
{
    struct pg_parse parse;
    struct pg_bind bind;
    if (m->type == 'P' && m->body.n && m->body.p[0] != 0) {
        pg_pin(s, PG_LEAVES_STATEMENT);
        if (m->whole && pg_read_parse(m->body, &parse))
            pg_follow_parse_named(s, parse.name, parse.text);
    }
    if (m->type != 'B')
        return;
    if (pg_read_bind(m->body, &bind) && bind.statement.n)
        pg_follow_bind_named(s, bind.statement);
    else
        pg_follow_bind(s, NULL);
}

/* One message or piece while LINKED. */
static enum step linked_one(struct pg_session *s, struct walk *w, enum pg_step what,
                            const struct pg_msg *m)
{
    if (what == PG_BODY) {
        w->in = span_skip(w->in, m->raw.n);
        return STEP_ON;
    }
    if (m->type == 'X')
        return STEP_CLOSED;
    if (must_wait_its_turn(s, m->type) || must_wait_for_cancel(s) ||
        must_wait_for_reset(s, m->type))
        return STEP_STOP;
    if (speaks_of_statements(m->type) && pg_flow_copy_ends(&s->server->flow))
        return await_copy(s, w);
    if (speaks_of_statements(m->type) && !pg_rename_room(s))
        return STEP_STOP; /* before anything is noted of it: it comes again */
    if (m->type == 'Q' || m->type == 'P') {
        enum pg_leaves why = trace(s, m);
        if (why != PG_LEAVES_NOTHING)
            return refuse_statement(s, w, m, why);
    }
    if (m->type == 'C' && s->pins & PG_LEFT(CURSOR))
        pg_pins_close(s, m->body);
    if (speaks_of_statements(m->type) && s->renames)
        return rename_one(s, w, m);
    note_own(s, m);
    return pass_one(s, w, m);
}

/* Late words of a COPY that has failed, Flush, and a Sync that ends nothing. (What is wrong with a
 * Sync that has a body, the server says.) */
static bool needs_no_server(struct pg_session *s, const struct pg_msg *m)
{
    bool sync = m->type == 'S' && m->len == 0;
    if (sync)
        pg_say_ready(s, PG_TX_IDLE);
    return sync || m->type == 'H' || m->type == 'd' || m->type == 'c' || m->type == 'f';
}

/* One message or piece without a server: the framer stands behind it, so anything that is not used
 * must be un-framed. */
static enum step unlinked_one(struct pg_session *s, struct walk *w, enum pg_step what,
                              const struct pg_msg *m)
{
    if (what == PG_BODY || s->state == PG_FAILED || s->state == PG_SWALLOWING) {
        if (what == PG_MESSAGE && s->state == PG_FAILED)
            pg_failed_one(s, m);
        else if (what == PG_MESSAGE)
            pg_swallow_one(s, m);
    } else if (m->type == 'X') {
        session_close(&s->base, NULL);
        return STEP_STOP;
    } else if (!needs_no_server(s, m)) {
        pg_framer_init(&s->framer, PG_SIDE_CLIENT);
        w->leased = w->in.p;
        pg_want_server(s);
        return s->state == PG_LINKED && m->whole ? linked_one(s, w, what, m) : STEP_ON;
    }
    w->from = w->in = span_skip(w->in, m->raw.n);
    return STEP_ON;
}

/* Walks the client's bytes; what could not be used yet stays in w->in. */
static void walk_client(struct pg_session *s, struct walk *w)
{
    enum step step = STEP_ON;
    while (!s->base.closed && step == STEP_ON) {
        struct pg_msg m;
        struct err err;
        if (s->state == PG_WAITING || s->state == PG_SETTING)
            return;
        enum pg_step what = pg_next(&s->framer, &pg_whole_client, w->in, &m, &err);
        if (what == PG_WAIT)
            break;
        if (what == PG_BAD) {
            forward(s, w);
            pg_refuse(s, &err, NULL);
            return;
        }
        step = s->state == PG_LINKED ? linked_one(s, w, what, &m) : unlinked_one(s, w, what, &m);
    }
    s->asked_copy = step == STEP_ASKED && !s->base.closed;
    s->held = s->asked_copy || (step == STEP_STOP && !s->base.closed);
    if (s->held) {
        pg_framer_init(&s->framer, PG_SIDE_CLIENT);
        io_pause(&s->base.io);
    }
    if (s->state == PG_LINKED)
        forward(s, w);
    if (step == STEP_CLOSED)
        session_close(&s->base, NULL);
}

/* Its server was gone at the first word: the kernel took not a byte of it. */
static bool is_unheard(const struct pg_session *s)
{
    int broken = s->state == PG_LINKED ? s->server->base.io.broken : 0;
    return s->unheard && broken && broken != ENOMEM;
}

static void take_input(struct pg_session *s, struct span in)
{
    struct loop *loop = session_loop(&s->base);
    bool was_linked = s->state == PG_LINKED && !pg_keeps_server(s);
    struct walk w;
    w.from = w.in = in;
    w.leased = in.p;
    pg_outbox_init(&w.out, s, true);
    walk_client(s, &w);
    if (s->base.closed)
        return;
    bool unheard = is_unheard(s);
    struct span rest = unheard ? span_of(w.leased, in.n - (size_t)(w.leased - in.p)) : w.in;
    if (s->carry.len + rest.n > LOOP_CARRY_MAX / 2 && s->state == PG_WAITING)
        io_pause(&s->base.io);
    if (rest.n && !bufq_append(&loop->chunks, &s->carry, rest)) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        pg_refuse(s, &err, NULL);
        return;
    }
    if (unheard) {
        pg_lose_unheard(s);
        return;
    }
    if (s->state == PG_LINKED)
        pg_watch_transaction(s, false);
    /* Only words that nobody answers were sent: no ReadyForQuery will come to release it. */
    if (s->state == PG_LINKED && was_linked && pg_may_release(s))
        pg_transaction_end(s);
    else if (s->state == PG_IDLE && s->base.draining)
        s->base.gate->ops->drain(&s->base); /* what was asked was refused, or needed no server */
    else
        pg_watch_idle(s);
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

/* All that it asked for is answered; its Terminate waits behind a question of ours. */
static bool has_said_goodbye(const struct pg_session *s)
{
    uint8_t word[PG_HEADER];
    return s->state == PG_SETTING && s->errand == PG_ERRAND_ASK && s->carry.len == sizeof word &&
           bufq_peek(&s->carry, word, sizeof word) == sizeof word && word[0] == 'X';
}

static void client_left(struct pg_session *s, ssize_t n)
{
    struct err err;
    err_set(&err, CAUSE_CLIENT_GONE, STAGE_CLIENT, n < 0 ? (int)-n : 0,
            "the client left without a word (state %s)", pg_state_name(s->state));
    session_close(&s->base, s->state == PG_IDLE || has_said_goodbye(s) ? NULL : &err);
}

void pg_begin(struct deferred *d)
{
    pg_relay_input(OWNER(d, struct pg_session, begin));
}

/*
 * What clients begin in a turn, they begin together at its end, in the order in which they spoke.
 * To send wakes a server's process, a long way through the kernel, which is shorter when it has
 * just been gone. And that process may take the processor from us: by then the answers of the turn
 * are on their way to those who waited for them. False: no memory.
 */
static bool begin_later(struct pg_session *s, struct span in)
{
    struct loop *loop = session_loop(&s->base);
    if (!bufq_append(&loop->chunks, &s->carry, in))
        return false;
    loop_defer(loop, &s->begin);
    return true;
}

void pg_client_readable(struct session *base)
{
    struct pg_session *s = pg_session_of(base);
    if (s->state < PG_WELCOME) {
        pg_login_readable(s);
        return;
    }
    if (s->carry.len > LOOP_CARRY_MAX / 2) {
        io_pause(&base->io);
        if (base->io.broken) /* the end would never be read, behind more than can be carried */
            client_left(s, -base->io.broken);
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
        struct err err;
        if (!pg_carry(session_loop(base), &s->carry, in)) {
            err_set(&err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0,
                    "too much sent before a server was there");
            pg_refuse(s, &err, NULL);
        }
        return;
    }
    if (s->state == PG_IDLE && begin_later(s, in))
        return;
    take_input(s, in);
}
