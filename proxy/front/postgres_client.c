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
    err_set(&err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "message %c is not allowed here",
            m->type);
    pg_refuse(s, &err, NULL);
    return STEP_CLOSED;
}

static void forward_to_server(struct pg_session *s, struct span from, struct span rest)
{
    size_t n = from.n - rest.n;
    if (!n || !s->server)
        return;
    server_send(&s->server->base, from.p, n);
    if (io_unsent(&s->server->base.io) <= pg_high_water(s))
        return;
    io_pause(&s->base.io);
    if (s->deadline == PG_DEADLINE_NONE)
        pg_watch_stall(s);
}

/* Late words of a COPY that has failed, Flush, and a Sync that ends nothing. */
static bool needs_no_server(struct pg_session *s, const struct pg_msg *m)
{
    if (m->type == 'S')
        pg_say_ready(s, PG_TX_IDLE);
    return m->type == 'S' || m->type == 'H' || m->type == 'd' || m->type == 'c' || m->type == 'f';
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
            pg_refuse(s, &err, NULL);
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
                pg_failed_one(s, &m);
            else if (what == PG_MESSAGE)
                pg_swallow_one(s, &m);
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
        pg_want_server(s);
        from = in;
    }
    if (s->state == PG_LINKED)
        forward_to_server(s, from, in);
    return in;
}

static void take_input(struct pg_session *s, struct span in)
{
    struct loop *loop = session_loop(&s->base);
    bool was_linked = s->state == PG_LINKED && !pg_keeps_server(s);
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
    if (s->state == PG_LINKED && was_linked && pg_may_release(s))
        pg_transaction_end(s);
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
            "the client left without a word (state %s)", pg_state_name(s->state));
    session_close(&s->base, s->state == PG_IDLE ? NULL : &err);
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
