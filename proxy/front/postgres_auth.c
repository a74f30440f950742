/* SPDX-License-Identifier: MIT */
/* Chooses the method for a user and carries the exchange on. Plain calls; no thread of its own. */
#include "proxy/front/postgres_auth.h"

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

enum pg_auth_step pg_auth_begin(struct pg_auth *a, enum auth_method asked, struct pg_out *out,
                                struct err *err)
{
    a->user = pg_guard_user(a->guard, a->name);
    if (!a->user) {
        if (!pg_guard_mock(a->guard, a->name, &a->stranger)) {
            err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "cannot begin authentication");
            return PG_AUTH_BAD;
        }
        a->user = &a->stranger;
    }
    a->method = method_for(asked, a->user);
    return a->method->start(a, out, err);
}

enum pg_auth_step pg_auth_hear(struct pg_auth *a, struct span body, struct pg_out *out,
                               struct err *err)
{
    CHECK(a->method && a->method->hear && !a->job);
    return a->method->hear(a, body, out, err);
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
    scram_fini(&a->scram);
    crypto_wipe(a, sizeof *a);
}
