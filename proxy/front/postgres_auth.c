/* SPDX-License-Identifier: MIT */
/* Chooses the method for a user and carries the exchange on. Plain calls; no thread of its own. */
#include "proxy/front/postgres_auth.h"

#include <stdlib.h>

/* A door that asks for md5 asks by SCRAM where that is what the user has, as PostgreSQL does. */
static const struct pg_auth_method *method_for(enum auth_method asked, const struct pg_user *user)
{
    switch (asked) {
    case AUTH_PASSWORD:
        return &pg_auth_password;
    case AUTH_MD5:
        return user->secret == PG_SECRET_SCRAM ? &pg_auth_scram : &pg_auth_md5;
    case AUTH_PEER:
        return &pg_auth_peer;
    case AUTH_CERT:
        return &pg_auth_cert;
    case AUTH_AUTO:
    case AUTH_TRUST:
    case AUTH_SCRAM:
        break;
    }
    return &pg_auth_scram;
}

static enum pg_auth_step start(struct pg_auth *a, struct pg_out *out, struct err *err)
{
    a->method = method_for(a->asked, a->user);
    return a->method->start(a, out, err);
}

/* Somebody the guard does not know: `found` by the database, or nobody at all. */
static enum pg_auth_step start_stranger(struct pg_auth *a, const struct pg_found *found,
                                        struct pg_out *out, struct err *err)
{
    struct span secret = span_of(found->secret, found->secret_n);
    bool made = found->exists ? pg_guard_make(a->guard, a->name, secret, &a->stranger)
                              : pg_guard_mock(a->guard, a->name, &a->stranger);
    if (!made) {
        err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "cannot begin authentication");
        return PG_AUTH_BAD;
    }
    a->user = &a->stranger;
    return start(a, out, err);
}

static void cannot_ask(const struct err *why, struct err *err)
{
    err_set(err, why->cause, STAGE_CLIENT, 0, "who may log in could not be asked: %.120s",
            why->cause == CAUSE_INTERNAL ? "auth.query failed, see carpool's log" : why->note);
}

static void on_found(struct pg_asker *asker, const struct pg_found *found, const struct err *why)
{
    struct pg_auth *a = OWNER(asker, struct pg_auth, asker);
    uint8_t buf[PG_AUTH_OUT];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    struct err err;
    enum pg_auth_step step = PG_AUTH_BAD;
    a->waiting = false;
    if (found)
        step = start_stranger(a, found, &out, &err);
    else
        cannot_ask(why, &err);
    a->on_answer(a, step, &out, &err);
}

static enum pg_auth_step look_up(struct pg_auth *a, struct pg_out *out, struct err *err)
{
    struct pg_found found;
    enum pg_auth_step step = PG_AUTH_BAD;
    a->asker.on_found = on_found;
    switch (pg_look_up(a->lookups, a->name, &a->asker, &found, err)) {
    case PG_LOOK_KNOWN:
        step = start_stranger(a, &found, out, err);
        crypto_wipe(&found, sizeof found);
        return step;
    case PG_LOOK_WAIT:
        a->waiting = true;
        return PG_AUTH_WAIT;
    case PG_LOOK_REFUSED:
        break;
    }
    return step;
}

enum pg_auth_step pg_auth_begin(struct pg_auth *a, enum auth_method asked, struct pg_out *out,
                                struct err *err)
{
    a->asked = asked;
    list_init(&a->asker.node);
    a->user = pg_guard_user(a->guard, a->name);
    if (a->user)
        return start(a, out, err);
    if (a->lookups)
        return look_up(a, out, err);
    return start_stranger(a, &(const struct pg_found){.exists = false}, out, err);
}

enum pg_auth_step pg_auth_hear(struct pg_auth *a, struct span body, struct pg_out *out,
                               struct err *err)
{
    CHECK(a->method && a->method->hear && !a->waiting);
    return a->method->hear(a, body, out, err);
}

bool pg_auth_is_asking(const struct pg_auth *a, struct err *err)
{
    struct err why;
    if (!a->waiting || a->job)
        return false;
    pg_lookups_why(a->lookups, &why);
    cannot_ask(&why, err);
    return true;
}

enum pg_auth_step pg_auth_denied(const struct pg_auth *a, const char *what, struct err *err)
{
    err_set(err, CAUSE_AUTH_FAILED, STAGE_CLIENT, 0, "%s authentication failed for user \"%.*s\"",
            what, (int)(a->name.n > 64 ? 64 : a->name.n), (const char *)a->name.p);
    return PG_AUTH_DENIED;
}

void pg_auth_fini(struct pg_auth *a)
{
    if (a->job)
        pg_auth_job_drop(a->job);
    if (a->waiting)
        pg_asker_drop(&a->asker);
    scram_fini(&a->scram);
    if (a->password)
        crypto_wipe(a->password, a->password_n);
    free(a->password);
    crypto_wipe(a, sizeof *a);
}
