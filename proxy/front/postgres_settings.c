/* SPDX-License-Identifier: MIT */
/*
 * Parameters follow the client: before a server works for a client, it is set to what the client
 * wants, by one query of ours whose answer the client does not see. Most clients want what the
 * server has already.
 */
#include "pools/ledger.h"
#include "proxy/front/postgres.h"
#include "proxy/wire/postgres_read.h"

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
        put_setting(o, &first, name,
                    pg_params_get(s->server->origin, name, &other) ? &other : NULL);
    }
    return !first;
}

void pg_link_up(struct pg_session *s)
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
        pg_give_back(s);
        pg_refuse(s, &err, NULL);
        return;
    }
    server_send(sv, buf, text.n + 6);
}

/* Our own settings were answered. */
void pg_settings_done(struct pg_session *s)
{
    struct pg_server *ps = s->server;
    if (ps->check_failed) {
        struct err err = s->waiter.err;
        pg_give_back(s);
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
bool pg_setting_one(struct pg_session *s, const struct pg_msg *m, enum pg_flow_step step)
{
    if (m->type == 'S') {
        pg_note_parameter(s, m->body);
        io_send(&s->base.io, m->raw.p, m->raw.n);
    }
    if (m->type == 'E')
        note_error(s, m->body);
    return step == PG_FLOW_READY;
}
