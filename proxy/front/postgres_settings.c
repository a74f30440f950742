/* SPDX-License-Identifier: MIT */
/*
 * Parameters follow the client: before a server works for a client, it is set to what the client
 * wants, by one query of ours whose answer the client does not see. Most clients want what the
 * server has already.
 */
#include "pools/ledger.h"
#include "proxy/front/postgres.h"
#include "proxy/wire/postgres_read.h"

void pg_sql_text(struct pg_out *o, const char *text)
{
    size_t n = strlen(text);
    if (o->cap - o->n < n) {
        o->overflow = true;
        return;
    }
    memcpy(o->p + o->n, text, n);
    o->n += n;
}

/* In dollars: nothing in it needs an escape, which encodings with a backslash as the second half of
 * a character would not survive. */
void pg_sql_literal(struct pg_out *o, struct span v)
{
    char tag[] = "$cp0$";
    const size_t n = sizeof tag - 1;
    while (tag[3] <= '9' && memmem(v.p, v.n, tag, n - 1))
        tag[3]++;
    if (tag[3] > '9' || o->cap - o->n < v.n + 2 * n) {
        o->overflow = true;
        return;
    }
    pg_sql_text(o, tag);
    if (v.n)
        memcpy(o->p + o->n, v.p, v.n);
    o->n += v.n;
    pg_sql_text(o, tag);
}

static void put_setting(struct pg_out *o, struct span name, const struct span *value)
{
    pg_sql_text(o, o->n == 0 ? "SELECT " : ", ");
    pg_sql_text(o, "pg_catalog.set_config(");
    pg_sql_literal(o, name);
    pg_sql_text(o, ", ");
    if (value)
        pg_sql_literal(o, *value);
    else
        pg_sql_text(o, "NULL");
    pg_sql_text(o, ", false)");
}

static bool is_role(struct span name)
{
    return span_ieq(name, SPAN_LIT("role"));
}

/* What the client does not want goes back to what the login has. */
static void put_resets(const struct pg_session *s, struct pg_out *o)
{
    const struct pg_params *want = s->params, *have = s->server->params;
    struct span name, value, other;
    for (size_t i = 0; i < pg_params_count(have); i++) {
        pg_params_at(have, i, &name, &value);
        if (!pg_param_reported_only(name) && !is_role(name) && !pg_params_get(want, name, &other))
            put_setting(o, name, pg_params_get(s->server->origin, name, &other) ? &other : NULL);
    }
}

/*
 * What must be set on the server for this client; false: nothing, or (overflow) too much. It is
 * done as the login: a role may lack the rights, so it is left first and taken last.
 */
static bool make_settings(const struct pg_session *s, struct pg_out *o)
{
    const struct pg_params *want = s->params, *have = s->server->params;
    const struct span role = SPAN_LIT("role");
    struct span name, value, other;
    if (pg_params_get(have, role, &other))
        put_setting(o, role, NULL);
    for (size_t i = 0; i < pg_params_count(want); i++) {
        pg_params_at(want, i, &name, &value);
        if (pg_param_reported_only(name) || is_role(name) ||
            (pg_params_get(have, name, &other) && span_eq(value, other)))
            continue;
        put_setting(o, name, &value);
    }
    put_resets(s, o);
    if (pg_params_get(want, role, &value))
        put_setting(o, role, &value);
    return o->n > 0;
}

bool pg_settings_send(struct pg_session *s, const struct pg_out *text)
{
    struct pg_server *ps = s->server;
    uint8_t head[PG_HEADER];
    s->put_off = !text->overflow && ps->base.holds > 0;
    if (s->put_off) {
        pg_become(s, PG_SETTING);
        return true;
    }
    pg_store_head(head, 'Q', text->n + 1);
    if (text->overflow || pg_flow_client(&ps->flow, 'Q', pg_out_span(text)) != PG_FLOW_OK)
        return false;
    ps->asked = true;
    ps->check_failed = false;
    ps->unnamed_of = 0; /* a simple query ends it */
    pg_become(s, PG_SETTING);
    pg_set_deadline(s, PG_DEADLINE_SETTING, pool_conf(session_pool(&s->base))->check.timeout_ms);
    struct iovec iov[] = {{head, sizeof head}, {text->p, text->n}, {(char[]){0}, 1}};
    server_sendv(&ps->base, iov, 3);
    return true;
}

/* The server reads a query in the encoding that it is set to at that moment. */
static bool is_plain(struct span text)
{
    for (size_t i = 0; i < text.n; i++)
        if (text.p[i] >= 0x80)
            return false;
    return true;
}

static bool wants_other_encoding(const struct pg_session *s, struct span *want)
{
    const struct span name = SPAN_LIT("client_encoding");
    struct span have;
    return pg_params_get(s->params, name, want) &&
           !(pg_params_get(s->server->params, name, &have) && span_eq(have, *want));
}

/* What the client wants is sent to the server, if it must be: if that is more than plain letters in
 * another encoding than the server's, the encoding first. False: it cannot be sent. */
static ASIDE bool send_settings(struct pg_session *s)
{
    uint8_t buf[PG_PARAMS_BYTES * 2];
    struct pg_out text = pg_out_of(buf, sizeof buf);
    struct span encoding;
    if (s->replication == PG_REPLICATION_PHYSICAL) /* no SQL there; its name came with the dial */
        return true;
    if (!make_settings(s, &text))
        return true;
    bool first = !s->encoded && !is_plain(pg_out_span(&text)) && wants_other_encoding(s, &encoding);
    if (first) {
        text = pg_out_of(buf, sizeof buf);
        put_setting(&text, SPAN_LIT("client_encoding"), &encoding);
    }
    s->encoded = first;
    return pg_settings_send(s, &text);
}

static bool set_server(struct pg_session *s)
{
    return pg_params_same(s->params, s->server->params) || send_settings(s);
}

static void tell_parameter(struct pg_outbox *o, struct span name, struct span value)
{
    size_t n = PG_HEADER + name.n + 1 + value.n + 1;
    if (n > PG_OUTBOX_OWN)
        return;
    struct pg_out out = pg_out_of(pg_outbox_own(o, n), n);
    pg_put_parameter(&out, name, value);
}

/* Who wants what the server has shares its map. */
static void share_map(struct pg_session *s)
{
    struct pg_params *of = s->server->params;
    if (!pg_params_same(s->params, of))
        return;
    pg_params_drop(&s->params);
    s->params = pg_params_take(of);
}

/* What only servers decide (in_hot_standby, server_version), and this one reports otherwise than
 * the client has heard: it hears of it before the server's first answer. */
static ASIDE void tell_reported(struct pg_session *s)
{
    const struct pg_params *ps = s->server->params;
    struct span name, value, had;
    struct pg_outbox o;
    pg_outbox_init(&o, s, false);
    for (size_t i = 0; i < pg_params_count(ps); i++) {
        pg_params_at(ps, i, &name, &value);
        if (!pg_param_reported_only(name) ||
            (pg_params_get(s->params, name, &had) && span_eq(had, value)))
            continue;
        tell_parameter(&o, name, value);
        if (!pg_params_set(&s->params, name, value))
            break; /* no memory, or no room: it is told once more */
    }
    pg_outbox_flush(&o);
    share_map(s);
}

/* The server is what the client wants. */
static void linked(struct pg_session *s)
{
    if (!pg_params_report_same(s->params, s->server->params))
        tell_reported(s);
    pg_become(s, PG_LINKED);
}

static ASIDE void refuse_settings(struct pg_session *s)
{
    struct err err;
    err_set(&err, CAUSE_TOO_LARGE, STAGE_EXCHANGE, 0, "too many settings for one server");
    pg_give_back(s, err.cause);
    pg_refuse(s, &err, NULL);
}

void pg_link_up(struct pg_session *s)
{
    struct server *sv = s->waiter.server;
    s->waiter.server = NULL;
    s->server = pg_server_of(sv);
    s->errand = PG_ERRAND_LINK;
    s->encoded = false;
    if (!s->renames)
        s->server->unnamed_of = 0; /* nobody will note what becomes of it */
    if (!s->startup)
        s->startup = pg_params_take(s->params);
    if (!set_server(s))
        refuse_settings(s);
    else if (s->state != PG_SETTING)
        linked(s);
}

/*
 * Behind RESET and DISCARD ALL, for what follows on the same server. (In a transaction that is
 * rolled back, so is this, and the server reports both.)
 */
bool pg_settings_again(struct pg_session *s)
{
    if (pg_params_same(s->params, s->server->params) || s->server->flow.tx == PG_TX_FAILED)
        return false;
    s->errand = PG_ERRAND_AGAIN;
    s->encoded = false;
    return set_server(s) && s->state == PG_SETTING;
}

void pg_settings_unheld(struct pg_session *s)
{
    s->put_off = s->encoded = false;
    bool sent = s->errand == PG_ERRAND_ASK ? pg_follow_ask(s) : set_server(s);
    if (!sent || !pg_flow_is_busy(&s->server->flow))
        pg_become(s, PG_LINKED);
}

/*
 * What others left on the server may be the reason (a statement_timeout, say): it is reset, and the
 * client gets a server as it is after login, or another one to be reset: within
 * retry.attempts, but once in any case, since the others are not to be its fault.
 */
static void settings_failed(struct pg_session *s)
{
    struct pg_server *ps = s->server;
    struct err err = s->waiter.err;
    uint32_t attempts = pool_conf(session_pool(&s->base))->retry.attempts;
    bool others = s->errand == PG_ERRAND_LINK && !pg_params_same(ps->params, ps->origin) &&
                  ++s->tries < (attempts > 2 ? attempts : 2);
    ps->reset_needed = true;
    pg_give_back(s, others ? CAUSE_NONE : err.cause);
    if (!others) {
        pg_refuse(s, &err, "22023");
        return;
    }
    pg_become(s, PG_IDLE);
    pg_relay_input(s);
}

/* Our own settings were answered. */
void pg_settings_done(struct pg_session *s)
{
    struct pg_server *ps = s->server;
    if (s->errand == PG_ERRAND_ASK) {
        pg_follow_asked(s);
        if (!s->base.closed)
            pg_become(s, PG_LINKED);
        return;
    }
    if (ps->check_failed) {
        settings_failed(s);
        return;
    }
    if (s->encoded) { /* the rest */
        if (!set_server(s)) {
            err_set(&s->waiter.err, CAUSE_TOO_LARGE, STAGE_EXCHANGE, 0,
                    "too many settings for one server");
            settings_failed(s);
            return;
        }
        if (pg_flow_is_busy(&ps->flow))
            return;
    }
    s->encoded = false;
    /* Now it is what the client wants; what the server reports counts in the server's spelling. */
    struct span name, value, other;
    for (size_t i = 0; i < pg_params_count(s->params); i++) {
        pg_params_at(s->params, i, &name, &value);
        if (!pg_params_get(ps->origin, name, &other) && !pg_params_set(&ps->params, name, value))
            server_retire(&ps->base, OUTCOME_DROP_DIRTY);
    }
    for (size_t i = pg_params_count(ps->params); i-- > 0;) {
        pg_params_at(ps->params, i, &name, &value);
        if (!pg_param_reported_only(name) && !pg_params_get(s->params, name, &other) &&
            !pg_params_get(ps->origin, name, &other)) {
            char copy[256];
            size_t n = name.n < sizeof copy ? name.n : 0;
            memcpy(copy, name.p, n);
            if (!n || !pg_params_set(&ps->params, span_of(copy, n), span_of(NULL, 0)))
                server_retire(&ps->base, OUTCOME_DROP_DIRTY);
        }
    }
    linked(s);
    pg_params_drop(&s->params);
    s->params = pg_params_take(ps->params);
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

/* What the server has it set to cannot be told: no client wants this value. */
#define UNKNOWN SPAN_LIT("\x01")

/* One setting, that the server reset to its own value, goes back to the client's. */
static void reset_one(struct pg_session *s, struct span name, struct pg_outbox *o)
{
    struct pg_server *ps = s->server;
    struct span had, wish, own;
    bool reported = pg_params_get(ps->origin, name, &own);
    if (pg_param_reported_only(name))
        return;
    bool wished = pg_params_get(s->startup, name, &wish);
    bool has = pg_params_get(s->params, name, &had);
    bool news = reported && wished && !(has && span_eq(had, wish));
    bool well = pg_params_set(&s->params, name, wished ? wish : span_of(NULL, 0));
    if (!reported && pg_params_get(ps->params, name, &had))
        well &= pg_params_set(&ps->params, name, UNKNOWN);
    if (!well)
        server_retire(&ps->base, OUTCOME_DROP_DIRTY);
    if (news)
        tell_parameter(o, name, wish);
}

static void reset_all(struct pg_session *s, struct pg_params *names, struct pg_outbox *o)
{
    struct pg_params *of = pg_params_take(names); /* it may be replaced meanwhile */
    for (size_t i = 0; i < pg_params_count(of); i++) {
        struct span name, value;
        pg_params_at(of, i, &name, &value);
        if (!is_role(name)) /* RESET ALL leaves that */
            reset_one(s, name, o);
    }
    pg_params_drop(&of);
}

void pg_settings_reset(struct pg_session *s, struct span name, struct pg_outbox *o)
{
    if (!s->startup)
        return;
    s->resetting = true;
    if (name.n) {
        reset_one(s, name, o);
        return;
    }
    reset_all(s, s->params, o);
    reset_all(s, s->server->params, o);
}

static void restore_names(struct pg_session *s, const struct pg_params *before,
                          struct pg_params *names)
{
    struct pg_server *ps = s->server;
    struct pg_params *of = pg_params_take(names); /* it may be replaced meanwhile */
    for (size_t i = 0; i < pg_params_count(of); i++) {
        struct span name, value, had;
        pg_params_at(of, i, &name, &value);
        if (pg_params_get(ps->origin, name, &had))
            continue;
        value = pg_params_get(before, name, &had) ? had : span_of(NULL, 0);
        if (!pg_params_set(&s->params, name, value) || !pg_params_set(&ps->params, name, value))
            server_retire(&ps->base, OUTCOME_DROP_DIRTY);
    }
    pg_params_drop(&of);
}

void pg_settings_restore(struct pg_session *s, struct pg_params *before)
{
    restore_names(s, before, s->server->params);
    restore_names(s, before, s->params);
    restore_names(s, before, before);
}

static bool note_parameter(struct pg_session *s, struct span name, struct span value)
{
    struct pg_server *ps = s->server;
    uint64_t before = pg_params_planning(ps->params);
    bool fits = pg_params_set(&ps->params, name, value);
    if (before != pg_params_planning(ps->params)) /* who can tell which came first */
        pg_prepared_unsettled(ps->prepared, ps->flow.ends_seen, NULL, NULL);
    if (fits)
        pg_role_reported(ps, name, value);
    else
        server_retire(&ps->base, OUTCOME_DROP_DIRTY);
    return fits;
}

bool pg_settings_reported(struct pg_session *s, struct span body)
{
    struct pg_server *ps = s->server;
    struct span name, value, origin, had, wish;
    if (!pg_read_parameter(body, &name, &value) || !note_parameter(s, name, value))
        return true;
    bool known = pg_params_get(s->params, name, &had);
    if (s->resetting && known && pg_params_get(ps->origin, name, &origin) &&
        span_eq(value, origin) && pg_params_get(s->startup, name, &wish) && span_eq(had, wish))
        return false; /* the client was told what it goes back to */
    if (known && span_eq(had, value))
        return false;
    if (!s->settled)
        s->settled = pg_params_take(s->params);
    if (!pg_params_set(&s->params, name, value))
        server_retire(&ps->base, OUTCOME_DROP_DIRTY);
    else
        share_map(s);
    return true;
}

void pg_settings_lost(struct pg_session *s, bool rolled_back)
{
    struct span name, value, had;
    struct pg_params *now = s->params;
    struct pg_outbox o;
    if (!s->settled || !rolled_back) {
        pg_params_drop(&s->settled);
        return;
    }
    s->params = s->settled;
    s->settled = NULL;
    pg_outbox_init(&o, s, false);
    for (size_t i = 0; i < pg_params_count(now); i++) {
        pg_params_at(now, i, &name, &value);
        if (pg_params_get(s->server->origin, name, &had) && pg_params_get(s->params, name, &had) &&
            !span_eq(had, value))
            tell_parameter(&o, name, had);
    }
    pg_outbox_flush(&o);
    pg_params_drop(&now);
}

/* While SETTING nothing reaches the client but parameters that it did not know. True: done. */
bool pg_setting_one(struct pg_session *s, const struct pg_msg *m, enum pg_flow_step step)
{
    struct span name, value, had;
    if (m->type == 'S' && pg_read_parameter(m->body, &name, &value)) {
        (void)note_parameter(s, name, value);
        if (!pg_params_get(s->params, name, &had) || !span_eq(had, value))
            io_send(&s->base.io, m->raw.p, m->raw.n);
    }
    if (m->type == 'D' && s->errand == PG_ERRAND_ASK && m->whole)
        pg_follow_row(s, m->body);
    if (m->type == 'E')
        note_error(s, m->body);
    if (step != PG_FLOW_READY)
        return false;
    s->server->asked = false;
    return true;
}
