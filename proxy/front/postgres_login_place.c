/* SPDX-License-Identifier: MIT */
/*
 * Where several databases are behind one listener: whose pool the client goes to. It came in by the
 * listener's own; it moves to that of its database (and user), which is made if it is not there.
 */
#include <stdlib.h>

#include "pools/ledger.h"
#include "proxy/core/crypto.h"
#include "proxy/front/postgres_login.h"
#include "proxy/front/postgres_statements.h"

/* What the server is to be shown: as the client sent it, else what the configuration names. */
static struct span password_of(const struct pg_session *s)
{
    const struct pg_login *lg = s->login;
    if (lg->auth.password)
        return span_of(lg->auth.password, lg->auth.password_n);
    return pg_guard_password(s->base.gate->guard, span_of(lg->user, lg->user_n));
}

/* Appends to the key, with a NUL behind it. */
static void add(struct pool_identity *id, uint8_t *key, struct span s)
{
    if (s.n)
        memcpy(key + id->key.n, s.p, s.n);
    key[id->key.n + s.n] = 0;
    id->key = span_of(key, id->key.n + s.n + 1);
}

static void add_replication(const struct pg_session *s, struct pool_identity *id, uint8_t *key)
{
    bool physical = s->replication == PG_REPLICATION_PHYSICAL;
    struct span name;
    id->replication = physical ? "true" : "database";
    if (pg_params_get(s->login->wants, SPAN_LIT("application_name"), &name))
        id->application = span_of(name.p, name.n < PG_NAME_MAX ? name.n : PG_NAME_MAX);
    add(id, key, span_str(id->replication));
    add(id, key, id->application);
}

/* What of the startup packet and the login makes it another pool than others. A wrong password
 * leads to none that a right one has opened. */
static bool identify(const struct pg_session *s, struct pool_identity *id,
                     uint8_t key[PG_PLACE_KEY])
{
    const struct pg_login *lg = s->login;
    const struct front_conf *conf = s->base.gate->conf;
    *id = (struct pool_identity){.key = span_of(key, 0)};
    if (s->replication != PG_REPLICATION_PHYSICAL)
        id->database = conf->n_databases ? span_of(lg->database, lg->database_n)
                                         : span_str(pg_guard_database(s->base.gate->guard));
    if (id->database.n > PG_NAME_MAX) /* the configuration's only one: what is left will do */
        id->database.n = PG_NAME_MAX;
    add(id, key, id->database);
    if (conf->login_as == FRONT_LOGIN_CLIENT) {
        uint8_t hash[CRYPTO_SHA256] = {0};
        id->user = span_of(lg->user, lg->user_n);
        id->password = password_of(s);
        add(id, key, id->user);
        if (id->password.p &&
            !crypto_hmac_sha256(id->password, SPAN_LIT("carpool: one pool"), hash))
            return false;
        add(id, key, span_of(hash, sizeof hash));
    }
    if (s->replication)
        add_replication(s, id, key);
    return true;
}

static void refuse(struct pg_session *s, enum cause cause, const char *why)
{
    struct err err;
    err_set(&err, cause, STAGE_CLIENT, 0, "%s", why);
    pg_refuse(s, &err, NULL);
}

/* True: it is where it belongs. */
static bool move(struct pg_session *s, const struct pool_identity *id)
{
    struct route *to = route_behind(s->base.route, id->key);
    if (!to || !session_move(&s->base, to))
        return false;
    s->shares = s->renames && pool_conf(to->pool)->size.statements > 0;
    return true;
}

static void wish(struct pg_session *s, const struct pool_identity *id)
{
    if (!wish_for(s->base.route, id, &s->login->seat))
        refuse(s, CAUSE_INTERNAL, "out of memory");
}

static void welcome(struct pg_session *s, struct span said)
{
    if (atomic_load(&pool_ledger(session_pool(&s->base))->drained))
        refuse(s, CAUSE_DRAINING, "an operator drains this pool: it takes no clients for now");
    else
        pg_login_welcome(s, said);
}

static void on_pool(struct seat *seat, const struct err *err)
{
    struct pg_session *s = OWNER(seat, struct pg_login, seat)->session;
    struct pool_identity id;
    uint8_t key[PG_PLACE_KEY];
    if (err)
        pg_refuse(s, err, NULL);
    else if (!identify(s, &id, key))
        refuse(s, CAUSE_INTERNAL, "out of memory for a hash");
    else if (move(s, &id))
        welcome(s, span_of(NULL, 0));
    else
        wish(s, &id); /* it has come and gone */
    crypto_wipe(key, sizeof key);
}

void pg_login_place(struct pg_session *s, struct span said)
{
    struct pool_identity id;
    uint8_t key[PG_PLACE_KEY];
    if (s->base.gate->conf->n_databases == 0 && !s->replication) {
        pg_login_welcome(s, said);
        return;
    }
    if (!identify(s, &id, key)) {
        refuse(s, CAUSE_INTERNAL, "out of memory for a hash");
    } else if (move(s, &id)) {
        welcome(s, said);
    } else {
        if (said.n)
            io_send(&s->base.io, said.p, said.n);
        s->login->session = s;
        s->login->seat.on_pool = on_pool;
        pg_become(s, PG_PLACING);
        wish(s, &id);
    }
    crypto_wipe(key, sizeof key);
}
