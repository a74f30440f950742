/* SPDX-License-Identifier: MIT */
/*
 * scram: SCRAM-SHA-256, and over TLS also SCRAM-SHA-256-PLUS, which binds the proof to our
 * certificate (tls-server-end-point), so that nobody between can pass it on. The wire part is
 * proxy/wire/scram.c.
 */
#include "proxy/core/tls.h"
#include "proxy/front/postgres_auth.h"
#include "proxy/wire/postgres_read.h"

static enum pg_auth_step start(struct pg_auth *a, struct pg_out *out, struct err *err)
{
    static const char *const mechanisms[] = {SCRAM_MECHANISM_PLUS, SCRAM_MECHANISM};
    uint8_t random[SCRAM_NONCE];
    size_t bind = a->io->tls ? tls_end_point(a->tls, a->cbind, sizeof a->cbind) : 0;
    if (!crypto_random(random, sizeof random) ||
        !scram_init(&a->scram, &a->user->verifier, random, span_of(a->cbind, bind))) {
        err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "cannot begin authentication");
        return PG_AUTH_BAD;
    }
    if (bind)
        pg_put_auth_sasl(out, mechanisms, 2);
    else
        pg_put_auth_sasl(out, mechanisms + 1, 1);
    return PG_AUTH_GO_ON;
}

static enum scram_verdict take(struct pg_auth *a, struct span body, char *reply, size_t cap,
                               size_t *n, struct err *err)
{
    struct span mechanism, data;
    bool has_data;
    if (a->heard_first)
        return scram_final(&a->scram, body, reply, cap, n, err);
    a->heard_first = true;
    if (!pg_read_sasl_initial(body, &mechanism, &has_data, &data) || !has_data) {
        err_set(err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "a malformed SASLInitialResponse");
        return SCRAM_BAD;
    }
    return scram_first(&a->scram, mechanism, data, reply, cap, n, err);
}

static enum pg_auth_step hear(struct pg_auth *a, struct span body, struct pg_out *out,
                              struct err *err)
{
    char reply[SCRAM_OUT_MAX];
    size_t n = 0;
    switch (take(a, body, reply, sizeof reply, &n, err)) {
    case SCRAM_GO_ON:
        pg_put_auth_sasl_continue(out, span_of(reply, n));
        return PG_AUTH_GO_ON;
    case SCRAM_PROVEN:
        pg_put_auth_sasl_final(out, span_of(reply, n));
        return PG_AUTH_PROVEN;
    case SCRAM_DENIED:
        return pg_auth_denied(a, "password", err);
    case SCRAM_BAD:
        break;
    }
    return PG_AUTH_BAD;
}

const struct pg_auth_method pg_auth_scram = {
    .name = "scram",
    .sqlstate = "28P01",
    .start = start,
    .hear = hear,
};
