/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * From accept to the first ReadyForQuery. What its files share:
 *
 *     postgres_login.c          bytes and states: TLS, packets, the authentication exchange
 *     postgres_login_startup.c  what the startup packet asks for, and whether it can be had
 *     postgres_login_place.c    of several pools behind the listener, which
 *     postgres_login_welcome.c  parameters, cancel key, ReadyForQuery
 */
#include "proxy/front/postgres.h"
#include "proxy/front/postgres_auth.h"
#include "proxy/front/wish.h"

#define PG_NAME_MAX 128 /* of users and databases; PostgreSQL itself cuts them at 63 bytes */
#define PG_PLACE_KEY (4 * PG_NAME_MAX + CRYPTO_SHA256)

/* Needed until logged in, then freed. */
struct pg_login {
    struct pg_startup_seen seen;
    bool direct_tls;         /* the client began with TLS: ALPN must have named the protocol */
    struct pg_params *wants; /* startup parameters */
    struct pg_auth auth;
    struct pg_session *session; /* that auth belongs to */
    struct pg_origin origin;    /* whom its failures count for */
    struct seat seat;           /* PLACING: waits for its pool to be made */
    size_t user_n, database_n;
    char user[PG_NAME_MAX], database[PG_NAME_MAX];
};

/* pg_params_set(), and why not: too many, or no memory. */
MUST_USE bool pg_login_set(struct pg_params **p, struct span name, struct span value,
                           struct err *err);

/* Reads the startup packet into the login. False: *err says why not, *sqlstate (NULL: by cause). */
MUST_USE bool pg_login_read(struct pg_session *s, const struct pg_startup *st, struct err *err,
                            const char **sqlstate);

/* Counts for where it came from (auth.failures). */
void pg_login_failed(struct pg_session *s);

/* Proven. `said` as below. Of several pools behind the listener it goes to its own. */
void pg_login_place(struct pg_session *s, struct span said);

/* Logged in. `said`: our last words of the authentication, to go out in the same write. */
void pg_login_welcome(struct pg_session *s, struct span said);
