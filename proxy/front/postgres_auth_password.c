/* SPDX-License-Identifier: MIT */
/*
 * password: the client sends the password itself, so only where nobody can listen in. It is always
 * compared through a verifier (a millisecond of hashing), whatever the secret, so that neither the
 * kind of secret nor whether the user exists shows in the time; a job of that size is done on the
 * helper's thread and comes back by post.
 *
 * md5: PostgreSQL's old challenge, md5(md5(password, user), salt). Cheap on both sides.
 */
#include <stdlib.h>

#include "proxy/core/loop.h"
#include "proxy/core/post.h"
#include "proxy/front/postgres_auth.h"
#include "proxy/wire/postgres_read.h"

/* ---- the comparison, elsewhere ---- */

struct pg_auth_job {
    struct post_msg msg;
    struct loop *home;
    struct pg_auth *auth; /* home's thread alone looks at it; NULL: nobody waits any more */
    struct pg_user user;  /* a copy: the guard may be gone by then */
    struct span name;     /* in `text`, behind the password */
    struct span password;
    bool tried, right;
    size_t size;
    uint8_t text[];
};

static void job_free(struct pg_auth_job *job)
{
    crypto_wipe(job, sizeof *job + job->size);
    free(job);
}

static void on_discarded(struct post_msg *msg)
{
    struct pg_auth_job *job = OWNER(msg, struct pg_auth_job, msg);
    if (job->auth)
        job->auth->job = NULL;
    job_free(job);
}

/* Back at home. */
static void on_compared(struct post_msg *msg)
{
    struct pg_auth_job *job = OWNER(msg, struct pg_auth_job, msg);
    struct pg_auth *a = job->auth;
    bool tried = job->tried, right = job->right;
    const struct pg_out nothing = {0};
    struct err err = {0};
    job_free(job);
    if (!a)
        return;
    a->job = NULL;
    a->waiting = false;
    if (!tried) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "out of memory for a hash");
        a->on_answer(a, PG_AUTH_BAD, &nothing, &err);
    } else if (!right) {
        a->on_answer(a, pg_auth_denied(a, "password", &err), &nothing, &err);
    } else {
        a->on_answer(a, PG_AUTH_PROVEN, &nothing, NULL);
    }
}

/* On the helper's thread. Both comparisons always: a mock fails in the one, or in both. */
static void on_compare(struct post_msg *msg)
{
    struct pg_auth_job *job = OWNER(msg, struct pg_auth_job, msg);
    struct pg_user *u = &job->user;
    char md5[CRYPTO_MD5_HEX + 1] = "";
    bool scram = false, old = false;
    job->tried = scram_verifier_check(&u->verifier, job->password, &scram);
    if (job->tried && u->secret == PG_SECRET_MD5) {
        job->tried = crypto_md5_hex(span_of(job->text, job->size), md5);
        old = job->tried &&
              crypto_equal(span_of(md5, CRYPTO_MD5_HEX), span_of(u->md5, CRYPTO_MD5_HEX));
    }
    job->right = !u->mock && (scram || old);
    post_init(&job->msg, on_compared, on_discarded);
    post(job->home, &job->msg);
}

/* The helper stops, and by then every session has ended. */
static void on_helper_gone(struct post_msg *msg)
{
    job_free(OWNER(msg, struct pg_auth_job, msg));
}

void pg_auth_job_drop(struct pg_auth_job *job)
{
    job->auth = NULL;
}

static enum pg_auth_step compare(struct pg_auth *a, struct span password, struct err *err)
{
    size_t size = password.n + a->name.n;
    struct pg_auth_job *job = calloc(1, sizeof *job + size);
    if (!job) {
        err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "out of memory");
        return PG_AUTH_BAD;
    }
    job->home = a->io->loop;
    job->auth = a;
    job->user = *a->user;
    job->size = size;
    memcpy(job->text, password.p, password.n);
    memcpy(job->text + password.n, a->name.p, a->name.n);
    job->password = span_of(job->text, password.n);
    a->job = job;
    a->waiting = true;
    post_init(&job->msg, on_compare, on_helper_gone);
    post(a->helper, &job->msg);
    return PG_AUTH_WAIT;
}

/* ---- password ---- */

/* PostgreSQL's own rule: what came is a string, and an empty one is no password. */
static bool read_password(struct span body, struct span *password, struct err *err)
{
    if (pg_read_password(body, password) && password->n > 0)
        return true;
    return err_set(err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0,
                   "a malformed or empty password message");
}

static enum pg_auth_step start_password(struct pg_auth *a, struct pg_out *out, struct err *err)
{
    if (!a->io->tls && !a->near_by) {
        err_set(err, CAUSE_DENIED, STAGE_CLIENT, 0,
                "this door asks for the password itself: only over TLS (sslmode=require)");
        return PG_AUTH_BAD;
    }
    pg_put_auth_cleartext(out);
    return PG_AUTH_GO_ON;
}

static bool keep(struct pg_auth *a, struct span password)
{
    CHECK(!a->password);
    a->password = malloc(password.n);
    if (!a->password)
        return false;
    memcpy(a->password, password.p, password.n);
    a->password_n = password.n;
    return true;
}

static enum pg_auth_step hear_password(struct pg_auth *a, struct span body, struct pg_out *out,
                                       struct err *err)
{
    (void)out;
    struct span password;
    if (!read_password(body, &password, err))
        return PG_AUTH_BAD;
    if (a->keeps_password && !keep(a, password)) {
        err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "out of memory");
        return PG_AUTH_BAD;
    }
    return a->server_judges ? PG_AUTH_PROVEN : compare(a, password, err);
}

const struct pg_auth_method pg_auth_password = {
    .name = "password",
    .sqlstate = "28P01",
    .start = start_password,
    .hear = hear_password,
};

/* ---- md5 ---- */

static enum pg_auth_step start_md5(struct pg_auth *a, struct pg_out *out, struct err *err)
{
    if (!crypto_random(a->salt, sizeof a->salt)) {
        err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "cannot begin authentication");
        return PG_AUTH_BAD;
    }
    pg_put_auth_md5(out, a->salt);
    return PG_AUTH_GO_ON;
}

static enum pg_auth_step hear_md5(struct pg_auth *a, struct span body, struct pg_out *out,
                                  struct err *err)
{
    (void)out;
    struct span given;
    char want[3 + CRYPTO_MD5_HEX + 1] = "md5";
    uint8_t both[CRYPTO_MD5_HEX + sizeof a->salt];
    if (!read_password(body, &given, err))
        return PG_AUTH_BAD;
    memcpy(both, a->user->md5, CRYPTO_MD5_HEX);
    memcpy(both + CRYPTO_MD5_HEX, a->salt, sizeof a->salt);
    if (!crypto_md5_hex(span_of(both, sizeof both), want + 3)) {
        bool can = crypto_md5_hex(span_of(NULL, 0), want + 3);
        err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0,
                can ? "out of memory for a hash" : "md5 is switched off on this machine");
        return PG_AUTH_BAD;
    }
    bool right = crypto_equal(given, span_of(want, 3 + CRYPTO_MD5_HEX));
    crypto_wipe(want, sizeof want);
    crypto_wipe(both, sizeof both);
    if (!right || a->user->mock || !a->user->md5[0])
        return pg_auth_denied(a, "password", err);
    return PG_AUTH_PROVEN;
}

const struct pg_auth_method pg_auth_md5 = {
    .name = "md5",
    .sqlstate = "28P01",
    .start = start_md5,
    .hear = hear_md5,
};
