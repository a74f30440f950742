/* SPDX-License-Identifier: MIT */
/*
 * The welcome: AuthenticationOk, the server's parameters with the client's wishes on top, a cancel
 * key, ReadyForQuery. One write, together with what the authentication had to say last.
 */
#include <errno.h>
#include <stdio.h>

#include "pools/ledger.h"
#include "proxy/front/postgres_login.h"
#include "proxy/front/postgres_users.h"

enum { NAME_KEPT = 63 }; /* what the server keeps of an application_name */

/*
 * An application_name as the server spells it: what is not printable ASCII becomes "?", since
 * version 16 "\xf6". In a startup packet it may be in any encoding; a query that sets it where it
 * is wrong in the client's, or cut inside a letter, would be refused.
 */
static struct span clean_name(struct span v, bool hex, char buf[NAME_KEPT + 1])
{
    size_t n = 0, odd = 0;
    for (size_t i = 0; i < v.n; i++)
        odd += v.p[i] < ' ' || v.p[i] > '~';
    if (!odd)
        return v;
    for (size_t i = 0; i < v.n && n + (hex ? 4 : 1) <= NAME_KEPT; i++) {
        if (v.p[i] >= ' ' && v.p[i] <= '~')
            buf[n++] = (char)v.p[i];
        else if (hex)
            n += (size_t)snprintf(buf + n, 5, "\\x%02x", v.p[i]);
        else
            buf[n++] = '?';
    }
    return span_of(buf, n);
}

static bool is_since_16(const struct pg_params *welcome)
{
    struct span v;
    return pg_params_get(welcome, SPAN_LIT("server_version"), &v) && v.n >= 2 && v.p[1] >= '0' &&
           v.p[1] <= '9' && (v.p[0] > '1' || v.p[1] >= '6');
}

/* The server's parameters with the client's wishes on top. */
static bool make_params(struct pg_session *s, struct pg_params *welcome, struct err *err)
{
    const struct pg_params *wants = s->login->wants;
    s->params = pg_params_take(welcome);
    for (size_t i = 0; i < pg_params_count(wants); i++) {
        struct span name, value, known;
        char buf[PG_PARAM_SPELLED], clean[NAME_KEPT + 1];
        pg_params_at(wants, i, &name, &value);
        if (pg_param_reported_only(name))
            continue;
        if (span_ieq(name, SPAN_LIT("application_name")))
            value = clean_name(value, is_since_16(welcome), clean);
        else if (pg_params_get(welcome, name, &known))
            value = pg_param_spelled(name, value, known, buf);
        if (!pg_login_set(&s->params, name, value, err))
            return false;
    }
    return true;
}

/* "orders-api - 10.0.0.7:40122", in the 63 bytes that the server keeps: the address is whole, the
 * name is cut. */
static bool add_host(struct pg_session *s, struct err *err)
{
    char peer[64], text[2 * NAME_KEPT + 8];
    struct span name;
    session_peer(&s->base, peer, sizeof peer);
    size_t room = NAME_KEPT - (sizeof " - " - 1), n = strlen(peer);
    room = n < room ? room - n : 0;
    if (!pg_params_get(s->params, SPAN_LIT("application_name"), &name))
        name = span_of(NULL, 0);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(name.n < room ? name.n : room),
             name.n ? (const char *)name.p : "", name.n ? " - " : "", peer);
    return pg_login_set(&s->params, SPAN_LIT("application_name"), span_str(text), err);
}

static void welcome(struct pg_session *s, struct pg_params *known, struct span said)
{
    uint8_t buf[PG_PARAMS_BYTES + PG_AUTH_OUT + 2048];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    struct err err;
    bool well = make_params(s, known, &err) && (!s->base.gate->conf->add_host || add_host(s, &err));
    if (well && !pg_keys_add(s))
        well = err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
    if (!well) {
        pg_refuse(s, &err, NULL);
        return;
    }
    CHECK(said.n <= PG_AUTH_OUT);
    if (said.n)
        memcpy(buf, said.p, said.n);
    out.n = said.n;
    pg_put_auth_ok(&out);
    for (size_t i = 0; i < pg_params_count(s->params); i++) {
        struct span name, value, reported;
        pg_params_at(s->params, i, &name, &value);
        if (pg_params_get(known, name, &reported))
            pg_put_parameter(&out, name, value);
    }
    pg_put_backend_key(&out, s->key_pid, span_of(s->key, s->key_n));
    pg_put_ready(&out, PG_TX_IDLE);
    struct pg_route *r = s->base.route->state;
    s->user = pg_user_take(&r->users, span_of(s->login->user, s->login->user_n));
    pg_login_free(s);
    pg_say(s, &out);
    if (s->base.closed)
        return;
    pg_framer_init(&s->framer, PG_SIDE_CLIENT);
    pg_become(s, PG_IDLE);
    if (s->base.draining && !s->carry.len) { /* else what it has asked already is answered first */
        s->base.gate->ops->drain(&s->base);
        return;
    }
    pg_relay_input(s);
}

static bool recall_welcome(struct pg_session *s, struct span said)
{
    struct snapshot *memo = ledger_recall(pool_ledger(session_pool(&s->base)));
    if (!memo)
        return false;
    struct pg_params *known = pg_params_of(memo);
    welcome(s, known, said);
    pg_params_drop(&known);
    return true;
}

/* The first client of all waits for the first server: only a server knows its parameters. */
void pg_login_welcome(struct pg_session *s, struct span said)
{
    if (recall_welcome(s, said))
        return;
    io_send(&s->base.io, said.p, said.n);
    pg_become(s, PG_WELCOME);
    switch (pool_lease(session_pool(&s->base), &s->waiter)) {
    case LEASE_GRANTED:
    case LEASE_REFUSED:
        pg_login_lease(s);
        return;
    case LEASE_WAITING:
        return;
    }
}

void pg_login_lease(struct pg_session *s)
{
    if (!s->waiter.server) {
        struct err err = s->waiter.err;
        /* With login_as: client the server has judged the client's own password. */
        if (err.cause == CAUSE_UPSTREAM_AUTH &&
            s->base.gate->conf->login_as == FRONT_LOGIN_CLIENT) {
            err.cause = CAUSE_AUTH_FAILED;
            pg_login_failed(s);
        }
        pg_refuse(s, &err, NULL);
        return;
    }
    pool_give_back(&s->waiter.server);
    if (!recall_welcome(s, span_of(NULL, 0))) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "no parameters of a server");
        pg_refuse(s, &err, NULL);
    }
}
