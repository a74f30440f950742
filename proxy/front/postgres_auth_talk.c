/* SPDX-License-Identifier: MIT */
/*
 * The server may have been left by any client with any search_path, role or timeout; within the
 * talk's own transaction (a batch up to Sync) these are set to what nobody can have touched. The
 * pipeline, all in one write:
 *
 *     Close carpool_auth | Parse, Bind, Execute: set_config | Close | Parse, Bind($1 = name),
 *     Execute: the query | Close | Sync
 *
 * Named, since the unnamed statement may be one that a client counts on.
 */
#include "proxy/front/postgres_auth_talk.h"

#include <math.h>
#include <stdlib.h>

#include "proxy/core/crypto.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_write.h"

#define STATEMENT "carpool_auth"

static const char neutral[] =
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),"
    " pg_catalog.set_config('role', 'none', true),"
    " pg_catalog.set_config('statement_timeout', '4s', true)";

/* `query: roles`. Infinity has an epoch, but no difference. */
static const char roles[] =
    "SELECT rolname, rolpassword, EXTRACT(epoch FROM rolvaliduntil)"
    " OPERATOR(pg_catalog.-) EXTRACT(epoch FROM pg_catalog.now())"
    " FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin";

/* ---- what is asked ---- */

static void put_bind(struct pg_out *o, struct span name)
{
    uint8_t body[64 + PG_TALK_NAME] = "\0" STATEMENT "\0\0\0\0\1\0\0\0";
    size_t n = 1 + sizeof STATEMENT + 2 + 2 + 3; /* portal, statement, formats, one value */
    body[n++] = (uint8_t)name.n;
    memcpy(body + n, name.p, name.n);
    n += name.n;
    body[n++] = 0;
    body[n++] = 0;
    pg_put_raw(o, 'B', span_of(body, n));
}

static bool ask(struct pg_talk *t)
{
    uint8_t buf[8192];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    const char *query = strcmp(t->query, "roles") == 0 ? roles : t->query;
    pg_put_target(&out, 'C', 'S', STATEMENT);
    pg_put_parse(&out, STATEMENT, neutral);
    pg_put_bind(&out, "", STATEMENT);
    pg_put_execute(&out, "", 0);
    pg_put_target(&out, 'C', 'S', STATEMENT);
    pg_put_parse(&out, STATEMENT, query);
    put_bind(&out, span_of(t->name, t->name_n));
    pg_put_execute(&out, "", 2);
    pg_put_target(&out, 'C', 'S', STATEMENT);
    pg_put_sync(&out);
    if (out.overflow)
        return err_set(&t->err, CAUSE_TOO_LARGE, STAGE_EXCHANGE, 0, "auth.query is too long");
    for (struct span rest = pg_out_span(&out); rest.n > 0;) {
        size_t len = pg_be32(rest.p + 1) + 1;
        struct span body = span_of(rest.p + PG_HEADER, len - PG_HEADER);
        if (pg_flow_client(&t->server->flow, rest.p[0], body) != PG_FLOW_OK)
            return err_set(&t->err, CAUSE_INTERNAL, STAGE_EXCHANGE, 0, "the server has no room");
        rest = span_skip(rest, len);
    }
    server_send(&t->server->base, buf, out.n);
    return true;
}

/* ---- the end ---- */

static void finish(struct pg_talk *t)
{
    struct err err = t->err;
    loop_timer_stop(t->loop, &t->timer);
    deferred_cancel(&t->later);
    free(t->query);
    t->query = NULL;
    t->on_done(t, err.cause == CAUSE_NONE ? NULL : &err);
}

/* The server is lost, or must not be used again. */
static void break_off(struct pg_talk *t, const struct err *err, enum outcome why)
{
    struct server *sv = &t->server->base;
    t->err = *err;
    t->server = NULL;
    pool_drop(&sv, why);
    finish(t);
}

/* ---- what comes back ---- */

static struct span column(struct pg_cur *c, bool *null)
{
    int32_t n = pg_cur_i32(c);
    *null = n < 0;
    return *null ? span_of(NULL, 0) : pg_cur_bytes(c, (size_t)n);
}

/* name, secret, and if there is a third: the seconds until it expires. */
static bool read_row(struct pg_talk *t, struct span body)
{
    struct pg_found *f = &t->found;
    struct pg_cur c = pg_cur_of(body);
    uint16_t n = pg_cur_u16(&c);
    bool no_name, no_secret, no_end = true;
    struct span name = column(&c, &no_name), secret = column(&c, &no_secret), end = {0};
    char number[64] = "", *stop;
    if (n >= 3)
        end = column(&c, &no_end);
    if (c.bad || n < 2 || secret.n > sizeof f->secret || end.n >= sizeof number)
        return false;
    t->seconds = INFINITY;
    if (!no_end) {
        memcpy(number, end.p, end.n);
        t->seconds = strtod(number, &stop);
        if (end.n == 0 || *stop || isnan(t->seconds))
            return false;
    }
    f->exists = span_eq(name, span_of(t->name, t->name_n)) && t->seconds > 0;
    f->secret_n = f->exists ? secret.n : 0;
    if (f->secret_n)
        memcpy(f->secret, secret.p, secret.n);
    return true;
}

static bool bad_answer(struct pg_talk *t, const char *what)
{
    return err_set(&t->err, CAUSE_INTERNAL, STAGE_EXCHANGE, 0,
                   "auth.query must give name, secret and perhaps the seconds until it expires: %s",
                   what);
}

static void take_row(struct pg_talk *t, const struct pg_msg *m)
{
    if (t->completed == 0 || t->err.cause != CAUSE_NONE)
        return; /* the settings' own row */
    if (t->answered)
        (void)bad_answer(t, "it gave more than one row");
    else if (m->body.n < m->len || !read_row(t, m->body))
        (void)bad_answer(t, "its row cannot be read");
    t->answered = true;
}

static void take_error(struct pg_talk *t, struct span body)
{
    struct pg_fields f;
    if (t->err.cause == CAUSE_NONE && pg_read_error(body, &f))
        err_set(&t->err, CAUSE_INTERNAL, STAGE_EXCHANGE, 0, "auth.query failed: %.*s (%.5s)",
                (int)(f.message.n > 100 ? 100 : f.message.n), (const char *)f.message.p,
                (const char *)f.sqlstate.p);
}

static void take_parameter(struct pg_talk *t, struct span body)
{
    struct span name, value;
    if (pg_read_parameter(body, &name, &value) && !pg_params_set(&t->server->params, name, value))
        server_retire(&t->server->base, OUTCOME_DROP_DIRTY);
}

/* One message. False: the talk is over. */
static bool take(struct pg_talk *t, const struct pg_msg *m)
{
    struct err err;
    enum pg_flow_step step = pg_flow_server(&t->server->flow, m->type, m->body);
    if (step == PG_FLOW_VIOLATION || step == PG_FLOW_FULL) {
        err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
                "the server sent message %c that answers nothing", m->type);
        break_off(t, &err, OUTCOME_DROP_PROTOCOL);
        return false;
    }
    if (m->type == 'E')
        take_error(t, m->body);
    else if (m->type == 'S')
        take_parameter(t, m->body);
    else if (m->type == 'D')
        take_row(t, m);
    else if (m->type == 'C')
        t->completed++;
    if (step != PG_FLOW_READY || !pg_flow_is_idle(&t->server->flow))
        return true;
    struct server *sv = &t->server->base;
    t->server = NULL;
    pool_give_back(&sv);
    finish(t);
    return false;
}

/* False: the talk is over; else *in is what could not be used yet. */
static bool walk(struct pg_talk *t, struct span *in)
{
    for (;;) {
        struct pg_msg m;
        struct err err;
        switch (pg_next(&t->server->framer, &pg_whole_server, *in, &m, &err)) {
        case PG_WAIT:
            return true;
        case PG_BAD:
            break_off(t, &err, OUTCOME_DROP_PROTOCOL);
            return false;
        case PG_BODY:
            break;
        case PG_MESSAGE:
            if (!take(t, &m))
                return false;
            break;
        }
        *in = span_skip(*in, m.raw.n);
    }
}

static void on_readable(struct server *sv)
{
    struct pg_talk *t = sv->holder;
    struct bufq *carry = &t->server->carry;
    struct span in;
    struct err err;
    ssize_t n = pg_fill(&sv->io, carry, &in);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        server_lost_err(sv, n, &err);
        break_off(t, &err, OUTCOME_DROP_EOF);
        return;
    }
    server_note_read(sv, (size_t)n);
    if (!walk(t, &in) || in.n == 0 || pg_carry(t->loop, carry, in))
        return;
    err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0, "a message too large to look at");
    break_off(t, &err, OUTCOME_DROP_PROTOCOL);
}

static void on_lost(struct server *sv, const struct err *err)
{
    break_off(sv->holder, err, OUTCOME_DROP_DRAINING);
}

static const struct holder_ops talk_ops = {.on_readable = on_readable, .on_lost = on_lost};

static void on_timeout(struct timer *timer)
{
    struct pg_talk *t = OWNER(timer, struct pg_talk, timer);
    struct err err;
    err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0, "auth.query took longer than %d ms",
            PG_TALK_MS);
    if (t->server)
        break_off(t, &err, OUTCOME_DROP_TIMEOUT);
}

static void begin(struct pg_talk *t)
{
    if (!t->server) {
        t->err = t->waiter.err;
        finish(t);
        return;
    }
    loop_timer_set(t->loop, &t->timer, PG_TALK_MS);
    if (ask(t))
        return;
    struct err err = t->err;
    break_off(t, &err, OUTCOME_DROP_DIRTY);
}

static void take_server(struct pg_talk *t)
{
    t->server = t->waiter.server ? pg_server_of(t->waiter.server) : NULL;
    t->waiter.server = NULL;
}

static void on_lease(struct waiter *w)
{
    struct pg_talk *t = OWNER(w, struct pg_talk, waiter);
    take_server(t);
    begin(t);
}

static void on_later(struct deferred *d)
{
    begin(OWNER(d, struct pg_talk, later));
}

/* ---- life ---- */

void pg_talk_init(struct pg_talk *t, struct pool *p, struct loop *loop,
                  void (*on_done)(struct pg_talk *t, const struct err *err))
{
    *t = (struct pg_talk){.pool = p, .loop = loop, .on_done = on_done};
    t->waiter.exclusive = true;
    t->waiter.holder_ops = &talk_ops;
    t->waiter.holder = t;
    t->waiter.on_lease = on_lease;
    timer_init(&t->timer, on_timeout);
    deferred_init(&t->later, on_later);
}

void pg_talk_start(struct pg_talk *t, const char *query, struct span name)
{
    CHECK(!t->query && !t->server && name.n <= sizeof t->name);
    t->completed = 0;
    t->answered = false;
    t->seconds = INFINITY;
    t->err = (struct err){0};
    t->found = (struct pg_found){0};
    t->name_n = name.n;
    memcpy(t->name, name.p, name.n);
    t->query = strdup(query);
    t->waiter.server = NULL;
    if (!t->query)
        err_set(&t->waiter.err, CAUSE_INTERNAL, STAGE_WAIT, 0, "out of memory");
    else if (pool_lease(t->pool, &t->waiter) == LEASE_WAITING)
        return;
    take_server(t);
    loop_defer(t->loop, &t->later);
}

void pg_talk_abort(struct pg_talk *t)
{
    loop_timer_stop(t->loop, &t->timer);
    deferred_cancel(&t->later);
    pool_cancel(&t->waiter);
    struct server *sv = t->server ? &t->server->base : NULL;
    t->server = NULL;
    if (sv)
        pool_drop(&sv, OUTCOME_DROP_DRAINING);
    free(t->query);
    crypto_wipe(&t->found, sizeof t->found);
}
