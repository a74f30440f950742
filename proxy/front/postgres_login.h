/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * From accept to the first ReadyForQuery. What its files share:
 *
 *     postgres_login.c          bytes and states: TLS, packets, the authentication exchange
 *     postgres_login_startup.c  what the startup packet asks for, and whether it can be had
 *     postgres_login_welcome.c  parameters, cancel key, ReadyForQuery
 */
#include "proxy/front/postgres.h"
#include "proxy/front/postgres_auth.h"

/* Needed until logged in, then freed. */
struct pg_login {
    struct pg_startup_seen seen;
    bool direct_tls;         /* the client began with TLS: ALPN must have named the protocol */
    struct pg_params *wants; /* startup parameters */
    struct pg_auth auth;
    struct pg_session *session; /* that auth belongs to */
    struct pg_origin origin;    /* whom its failures count for */
    size_t user_n;
    char user[128];
};

/* Reads the startup packet into the login. False: *err says why not, *sqlstate (NULL: by cause). */
MUST_USE bool pg_login_read(struct pg_session *s, const struct pg_startup *st, struct err *err,
                            const char **sqlstate);

/* Logged in. `said`: our last words of the authentication, to go out in the same write. */
void pg_login_welcome(struct pg_session *s, struct span said);
