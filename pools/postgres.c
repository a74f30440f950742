/* SPDX-License-Identifier: MIT */
/*
 * The Postgres driver: round trips of our own on servers that nobody has leased.
 *
 *   verify   an empty query: the cheapest thing that goes through the whole backend
 *   reset    ROLLBACK if a transaction is open, DISCARD ALL after a session
 *   idle     notices and parameter changes are read and noted; an error is the server's last word
 */
#include "pools/dial.h"
#include "pools/postgres.h"

#include <stdlib.h>

#include "pools/ledger.h"
#include "pools/pool.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_write.h"

/* What the first server reported is what new clients are told, without waiting for a server. */
static unsigned arrive(struct server *sv)
{
    ledger_remember(sv->ledger, pg_params_snapshot(pg_server_of(sv)->origin));
    return 1;
}

static enum outcome settle(struct server *sv)
{
    struct pg_server *ps = pg_server_of(sv);
    if (sv->io.broken)
        return OUTCOME_DROP_EOF;
    if (ps->asked && pg_flow_due(&ps->flow) == 1)
        return OUTCOME_RESET; /* the session is over, what it was asked is not: stand behind that */
    if (!pg_server_is_whole(ps) || pg_flow_is_busy(&ps->flow) || pg_flow_is_doubtful(&ps->flow) ||
        pg_flow_in_batch(&ps->flow) || sv->io.out.len)
        return OUTCOME_DROP_DIRTY;
    if (ps->flow.tx != PG_TX_IDLE || ps->reset_needed)
        return OUTCOME_RESET;
    return ps->role_doubted ? OUTCOME_VERIFY : OUTCOME_KEEP;
}

/* A query of our own, told to the flow like anybody's. */
static void ask(struct pg_server *ps, const char *text)
{
    uint8_t buf[CHECK_STATEMENT_MAX + PG_HEADER + 1];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    pg_put_query(&out, text);
    ps->check_failed = false;
    ps->unnamed_of = 0; /* a simple query ends it */
    if (out.overflow ||
        pg_flow_client(&ps->flow, 'Q', span_of(buf + PG_HEADER, out.n - PG_HEADER)) != PG_FLOW_OK) {
        server_checked(&ps->base, false, OUTCOME_DROP_FAILED);
        return;
    }
    server_send(&ps->base, buf, out.n); /* if it is broken, reading will tell */
}

static void verify(struct server *sv, const char *statement)
{
    struct pg_server *ps = pg_server_of(sv);
    ask(ps, ps->role_doubted ? PG_ROLE_QUERY : statement ? statement : "");
}

static void reset(struct server *sv)
{
    struct pg_server *ps = pg_server_of(sv);
    if (ps->flow.tx != PG_TX_IDLE) {
        ask(ps, "ROLLBACK"); /* the session's rest follows when this is answered */
        return;
    }
    ps->reset_needed = false;
    ask(ps, "DISCARD ALL");
}

/* ---- bytes that nobody has asked for, or that answer our own query ---- */

static void note_parameter(struct pg_server *ps, struct span body)
{
    struct span name, value;
    if (!pg_read_parameter(body, &name, &value))
        return;
    if (!pg_params_set(&ps->params, name, value))
        server_retire(&ps->base, OUTCOME_DROP_DIRTY);
    else
        pg_role_reported(ps, name, value);
}

/* Also of a statement of the user's that is run on return. ROLLBACK alone is no reset. */
static void note_tag(struct pg_server *ps, struct span body)
{
    struct span tag;
    if (!pg_read_complete(body, &tag))
        return;
    bool discarded = span_eq(tag, SPAN_LIT("DISCARD ALL"));
    if (discarded || span_eq(tag, SPAN_LIT("DEALLOCATE ALL")))
        pg_prepared_forget(ps->prepared, UINT32_MAX);
    if (!discarded)
        return;
    /* That brought back what it had at login, also what it does not report. */
    pg_params_drop(&ps->params);
    ps->params = pg_params_take(ps->origin);
}

/* `last`: nothing follows what has been read; else somebody speaks out of turn. */
static bool on_ready(struct pg_server *ps, bool last)
{
    ps->asked = false;
    if (ps->base.state != SERVER_CHECKING || ps->base.check_step == OUTCOME_KEEP ||
        !pg_flow_is_idle(&ps->flow))
        return true;
    if (ps->check_failed) {
        server_checked(&ps->base, false, OUTCOME_DROP_FAILED);
        return false;
    }
    if (ps->base.check_step == OUTCOME_RESET && ps->reset_needed) {
        reset(&ps->base);
        return true;
    }
    server_checked(&ps->base, last, OUTCOME_DROP_UNREAD);
    return false;
}

/* One message; false: nothing more is to be done with this server here, which may be on its way to
   another thread. */
static bool on_message(struct pg_server *ps, const struct pg_msg *m, bool last, bool *well,
                       struct err *err)
{
    switch (pg_flow_server(&ps->flow, m->type, m->body)) {
    case PG_FLOW_OK:
        if (m->type == 'E')
            ps->check_failed = true;
        if (m->type == 'S')
            note_parameter(ps, m->body);
        if (m->type == 'D' && m->whole && ps->role_doubted && !ps->asked)
            pg_role_row(ps, m->body);
        if (m->type == 'C')
            note_tag(ps, m->body);
        return true;
    case PG_FLOW_READY:
        return on_ready(ps, last);
    case PG_FLOW_ASYNC:
        if (m->type == 'S')
            note_parameter(ps, m->body);
        if (m->type != 'E')
            return true;
        *well = err_set(err, CAUSE_UPSTREAM_CLOSED, STAGE_CHECK, 0, "the server ended the session");
        return false;
    case PG_FLOW_FULL:
    case PG_FLOW_VIOLATION:
        break;
    }
    *well = err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_CHECK, 0,
                    "a message of type %c that nothing asked for", m->type);
    return false;
}

static bool feed(struct server *sv, struct span bytes, struct err *err)
{
    struct pg_server *ps = pg_server_of(sv);
    struct loop *loop = sv->io.loop;
    if (ps->carry.len) {
        /* Rare (a message cut in two while idle): put both parts together in fresh memory. */
        if (!pg_carry(loop, &ps->carry, bytes))
            return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_CHECK, 0, "a message too large");
        bytes = span_of(loop->scratch, bufq_peek(&ps->carry, loop->scratch, PG_CARRY_MAX));
        bufq_clear(&loop->chunks, &ps->carry);
    }
    for (;;) {
        struct pg_msg m;
        switch (pg_next(&ps->framer, &pg_whole_server, bytes, &m, err)) {
        case PG_WAIT:
            if (!pg_carry(loop, &ps->carry, bytes))
                return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_CHECK, 0, "a message too large");
            return true;
        case PG_BAD:
            return false;
        case PG_BODY:
            break;
        case PG_MESSAGE: {
            bool well = true;
            if (!on_message(ps, &m, bytes.n == m.raw.n, &well, err))
                return well;
            break;
        }
        }
        bytes = span_skip(bytes, m.raw.n);
    }
}

/* ---- the end ---- */

static void goodbye(struct server *sv)
{
    struct pg_server *ps = pg_server_of(sv);
    /* A backend in the middle of a query does not notice that we left: stop it. */
    if (pg_flow_is_busy(&ps->flow))
        (void)pg_cancel(ps);
    uint8_t buf[8];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    pg_put_terminate(&out);
    server_send(sv, buf, out.n);
}

static void fini(struct server *sv)
{
    struct pg_server *ps = pg_server_of(sv);
    bufq_clear(&sv->ledger->workers[sv->home].loop->chunks, &ps->carry);
    pg_flow_fini(&ps->flow);
    pg_prepared_free(&ps->prepared);
    pg_params_drop(&ps->params);
    pg_params_drop(&ps->origin);
    if (ps->conn)
        pg_conn_free(ps->conn);
    ps->conn = NULL;
}

const struct driver_ops postgres_driver = {
    .name = "postgres",
    .server_size = sizeof(struct pg_server),
    .dial = pg_dial,
    .dial_abort = dial_abort,
    .arrive = arrive,
    .settle = settle,
    .verify = verify,
    .reset = reset,
    .feed = feed,
    .goodbye = goodbye,
    .fini = fini,
};

/* ---- reading with a carry ---- */

ssize_t pg_fill(struct io *io, struct bufq *carry, struct span *in)
{
    struct loop *loop = io->loop;
    CHECK(carry->len <= LOOP_CARRY_MAX);
    size_t had = carry->len ? bufq_peek(carry, loop->scratch, carry->len) : 0;
    ssize_t n = io_read(io, loop->scratch + had, LOOP_READ_MAX);
    *in = span_of(loop->scratch, 0);
    if (n <= 0)
        return n;
    if (had)
        bufq_clear(&loop->chunks, carry);
    *in = span_of(loop->scratch, had + (size_t)n);
    return n;
}

bool pg_carry(struct loop *loop, struct bufq *carry, struct span rest)
{
    return carry->len + rest.n <= PG_CARRY_MAX && bufq_append(&loop->chunks, carry, rest);
}
