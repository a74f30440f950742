/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), the server's side, as PostgreSQL
 * speaks it. Pure: the caller brings random bytes and, for PLUS, the channel binding data.
 *
 *     client-first (SASLInitialResponse)  --> scram_first() --> server-first (SASLContinue)
 *     client-final (SASLResponse)         --> scram_final() --> server-final (SASLFinal)
 *
 * The user name inside the client's message is ignored: Postgres takes it from the startup packet.
 *
 * Passwords are not run through SASLprep. For ASCII that changes nothing; other bytes are used as
 * they are, as PostgreSQL does when a password is not valid UTF-8. A password with characters that
 * SASLprep would rewrite (compatibility forms, decomposed accents, no-break spaces) must be given
 * in its prepared form; composed letters as keyboards make them are prepared already.
 */
#include "proxy/core/crypto.h"
#include "proxy/core/err.h"

enum {
    SCRAM_SALT_MAX = 64,
    SCRAM_SALT = 16, /* of our own verifiers */
    SCRAM_ITERATIONS = 4096,
    SCRAM_ITERATIONS_MAX = 10000000,
    SCRAM_NONCE = 18,         /* random bytes the caller gives */
    SCRAM_MESSAGE_MAX = 1024, /* a client's message */
    SCRAM_CBIND_MAX = 64,     /* tls-server-end-point: one hash */
    SCRAM_OUT_MAX = 1280      /* enough for every message to the client */
};

#define SCRAM_MECHANISM "SCRAM-SHA-256"
#define SCRAM_MECHANISM_PLUS "SCRAM-SHA-256-PLUS"

/* What a server keeps instead of a password. Plain data; made when the config is loaded. */
struct scram_verifier {
    uint32_t iterations;
    uint8_t salt_n;
    bool mock; /* of an unknown user: takes part in the exchange, never succeeds */
    uint8_t salt[SCRAM_SALT_MAX];
    uint8_t stored_key[CRYPTO_SHA256];
    uint8_t server_key[CRYPTO_SHA256];
};

/* From a password: PBKDF2, about a millisecond. False: salt empty or too long, iterations out of
 * range, or OpenSSL failed. */
MUST_USE bool scram_verifier_derive(struct scram_verifier *v, struct span password,
                                    struct span salt, uint32_t iterations);
/* Is it this password? Costs as much as deriving. False: OpenSSL failed. */
MUST_USE bool scram_verifier_check(const struct scram_verifier *v, struct span password,
                                   bool *right);
/* PostgreSQL's form: SCRAM-SHA-256$4096:salt$StoredKey:ServerKey, salt and keys in base64. */
MUST_USE bool scram_verifier_parse(struct scram_verifier *v, struct span text);
/* The same for every login of `user` and unlike for others, so that it tells nobody who exists.
 * `secret`: what nobody outside knows, and does not change while users keep theirs. */
MUST_USE bool scram_verifier_mock(struct scram_verifier *v, struct span secret, struct span user);

enum scram_state { SCRAM_START, SCRAM_SENT_FIRST, SCRAM_DONE, SCRAM_FAILED };

/* One exchange. Plain data, about 3 KiB, needed only during a login; scram_fini() wipes it. */
struct scram {
    enum scram_state state;
    const struct scram_verifier *verifier; /* borrowed */
    struct span cbind;                     /* borrowed; empty without TLS */
    bool plus;                             /* the client binds to the channel */
    char nonce[512];                       /* the client's and ours */
    size_t nonce_n;
    char gs2[32]; /* the client's gs2 header, to be repeated in its final message */
    size_t gs2_n;
    char auth[2048]; /* client-first-bare, server-first */
    size_t auth_n;
};

/* `random`: SCRAM_NONCE fresh bytes. `cbind`: the tls-server-end-point data if SCRAM-SHA-256-PLUS
 * is offered, else empty; at most SCRAM_CBIND_MAX bytes. */
MUST_USE bool scram_init(struct scram *s, const struct scram_verifier *verifier,
                         const uint8_t random[SCRAM_NONCE], struct span cbind);

enum scram_verdict {
    SCRAM_GO_ON,  /* send `out` and wait for the client */
    SCRAM_PROVEN, /* by scram_final(): the password is right; send `out`, then AuthenticationOk */
    SCRAM_DENIED, /* wrong password or unknown user: 28P01 */
    SCRAM_BAD     /* malformed or unacceptable message, *err says why: 08P01 */
};

/* `mechanism`: as the client named it. `out` takes up to SCRAM_OUT_MAX bytes. */
MUST_USE enum scram_verdict scram_first(struct scram *s, struct span mechanism, struct span message,
                                        char *out, size_t cap, size_t *out_n, struct err *err);
MUST_USE enum scram_verdict scram_final(struct scram *s, struct span message, char *out, size_t cap,
                                        size_t *out_n, struct err *err);
void scram_fini(struct scram *s);
