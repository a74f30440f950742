/* SPDX-License-Identifier: MIT */
/* What a startup packet asks for: a database that is served, parameters that can be understood. */
#include <errno.h>

#include "proxy/front/postgres_login.h"

bool pg_login_set(struct pg_params **p, struct span name, struct span value, struct err *err)
{
    if (pg_params_set(p, name, value))
        return true;
    if (pg_params_fits(*p, name, value))
        return err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
    return err_set(err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0, "too many startup parameters");
}

static bool read_options(struct pg_params **wants, struct span options, struct err *err)
{
    uint8_t text[PG_STARTUP_MAX];
    struct span name, value;
    enum pg_option what;
    while ((what = pg_option_next(&options, text, &name, &value)) == PG_OPTION_SETTING)
        if (!pg_login_set(wants, name, value, err))
            return false;
    return what == PG_OPTION_END ||
           err_set(err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0,
                   "startup options that cannot be understood: only -c name=value and "
                   "--name=value can");
}

static bool read_wants(struct pg_login *lg, const struct pg_startup *st, struct err *err)
{
    static const char *const ours[] = {"user", "database", "options", "replication"};
    lg->wants = pg_params_new();
    if (!lg->wants)
        return err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
    if (st->options.n && !read_options(&lg->wants, st->options, err))
        return false;
    struct span rest = st->params, name, value;
    while (pg_param_next(&rest, &name, &value)) {
        bool skip = pg_param_is_protocol_option(name);
        for (size_t i = 0; i < ARRAY_LEN(ours); i++)
            skip = skip || span_eq(name, span_str(ours[i]));
        if (!skip && !pg_login_set(&lg->wants, name, value, err))
            return false;
    }
    return true;
}

/* ---- the packet ---- */

bool pg_login_read(struct pg_session *s, const struct pg_startup *st, struct err *err,
                   const char **sqlstate)
{
    const struct pg_guard *g = s->base.gate->guard;
    struct pg_login *lg = s->login;
    const struct front_conf *f = s->base.gate->conf;
    *sqlstate = NULL;
    if (s->base.refusal) {
        *err = *s->base.refusal;
        return false;
    }
    if (s->base.gate->conf->tls.required && !s->base.io.tls) {
        *sqlstate = "28000";
        return err_set(err, CAUSE_DENIED, STAGE_CLIENT, 0, "this door wants TLS (sslmode=require)");
    }
    s->replication = (uint8_t)st->replication;
    if (s->replication && f->mode != FRONT_SESSION)
        return err_set(err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
                       "replication needs a server of its own: use a pool with mode: session");
    bool physical = st->replication == PG_REPLICATION_PHYSICAL; /* knows no database */
    if (!physical && f->n_databases && !front_database(f, st->database))
        return err_set(err, CAUSE_NO_ROUTE, STAGE_CLIENT, 0,
                       "database \"%.*s\" is not served here (pools[].databases)",
                       (int)(st->database.n > 63 ? 63 : st->database.n),
                       (const char *)st->database.p);
    if (!physical && !f->n_databases && !pg_guard_serves(g, st->database))
        return err_set(err, CAUSE_NO_ROUTE, STAGE_CLIENT, 0,
                       "database \"%.*s\" is not served here, only \"%s\"",
                       (int)(st->database.n > 63 ? 63 : st->database.n),
                       (const char *)st->database.p, pg_guard_database(g));
    if (!read_wants(lg, st, err))
        return false;
    if (st->user.n > sizeof lg->user || st->database.n > sizeof lg->database)
        return err_set(err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0,
                       "a name of a user or database longer than %d bytes", PG_NAME_MAX);
    lg->user_n = st->user.n;
    memcpy(lg->user, st->user.p, lg->user_n);
    lg->database_n = st->database.n;
    if (lg->database_n)
        memcpy(lg->database, st->database.p, lg->database_n);
    return true;
}
