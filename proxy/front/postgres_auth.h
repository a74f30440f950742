/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * How a Postgres client proves who it is. A door names a method, the user's secret may narrow it
 * down (md5), and a method is a row: start, what the client sends, outcome. Nothing here knows of
 * sessions, so that every way in can share it.
 *
 *     postgres_auth.c           the method for a user, the exchange
 *     postgres_auth_guard.c     who may log in: made once per load
 *     postgres_auth_sasl.c      scram: SCRAM-SHA-256 and SCRAM-SHA-256-PLUS
 *     postgres_auth_password.c  password and md5
 *     postgres_auth_named.c     peer and cert: somebody else says who it is
 *     postgres_auth_query.h     users that only the database knows
 *     postgres_auth_limit.c     failures per address
 *
 *     pg_auth_begin()                    pg_auth_hear()            on_answer()
 *        |  GO_ON: send, wait for the client  ^  WAIT: elsewhere      ^
 *        +------------------------------------+-----------------------+--> PROVEN, DENIED, BAD
 *
 * An unknown user takes part in the same exchange as a known one, at the same cost, and fails.
 */
#include "proxy/core/io.h"
#include "proxy/front/front_conf.h"
#include "proxy/front/postgres_auth_query.h"
#include "proxy/wire/postgres_write.h"
#include "proxy/wire/scram.h"

struct pool_conf;
struct pg_auth;

/* ---- who may log in ---- */

enum pg_secret {
    PG_SECRET_NONE,  /* only others can say who it is: peer, cert */
    PG_SECRET_PLAIN, /* a password: serves every method */
    PG_SECRET_MD5,   /* md5<hex>: md5 and password */
    PG_SECRET_SCRAM  /* SCRAM-SHA-256$...: scram and password */
};

struct pg_user {
    const char *name;
    enum pg_secret secret;
    bool mock;                      /* of an unknown user: never let in */
    char md5[CRYPTO_MD5_HEX + 1];   /* of password and name, for md5; "" if it cannot be had */
    struct scram_verifier verifier; /* for scram and password; a mock for md5 secrets */
};

struct pg_guard; /* immutable, shared by all workers */

/* relay_ops: control's thread, once per load. Derives what the doors' methods need. */
void *pg_guard_new(const struct front_conf *front, const struct pool_conf *pool, struct err *err);
void pg_guard_free(void *guard);
/* Is this a database, or the pool's name, that is served here? */
bool pg_guard_serves(const struct pg_guard *g, struct span database);
const char *pg_guard_database(const struct pg_guard *g);
/* The user of that name; else NULL. */
const struct pg_user *pg_guard_user(const struct pg_guard *g, struct span name);
/* The password the configuration names for a user; p NULL: none, or only a verifier. */
struct span pg_guard_password(const struct pg_guard *g, struct span name);
/* One that cannot log in and looks like the others; false: the library failed. */
MUST_USE bool pg_guard_mock(const struct pg_guard *g, struct span name, struct pg_user *out);
/* A user the guard does not know, from what auth.query gave. A plain password serves md5 alone:
 * deriving a verifier would hold up a worker. */
MUST_USE bool pg_guard_make(const struct pg_guard *g, struct span name, struct span secret,
                            struct pg_user *out);
/* May the process of this user id, or the holder of a certificate with this name, be `user`? */
bool pg_guard_peer(const struct pg_guard *g, uid_t uid, struct span user);
bool pg_guard_named(const struct pg_guard *g, struct span name, struct span user);

/* ---- an exchange ---- */

enum pg_auth_step {
    PG_AUTH_GO_ON,  /* send what was written, then pg_auth_hear() with the client's next message */
    PG_AUTH_WAIT,   /* on_answer() is called once, later, from the loop */
    PG_AUTH_PROVEN, /* send what was written: that user it is */
    PG_AUTH_DENIED, /* it is not; *err says what to tell: auth_failed */
    PG_AUTH_BAD     /* not the protocol, or it could not be tried; *err says which */
};

struct pg_auth_method {
    const char *name;
    const char *sqlstate; /* of a refusal */
    enum pg_auth_step (*start)(struct pg_auth *a, struct pg_out *out, struct err *err);
    /* A 'p' message's body. NULL: the client has nothing to say. */
    enum pg_auth_step (*hear)(struct pg_auth *a, struct span body, struct pg_out *out,
                              struct err *err);
};

extern const struct pg_auth_method pg_auth_scram, pg_auth_password, pg_auth_md5, pg_auth_peer,
    pg_auth_cert;

struct pg_auth {
    /* the caller's, before pg_auth_begin(); borrowed until pg_auth_fini() */
    const struct pg_guard *guard;
    struct io *io;              /* the client's: its TLS, its credentials */
    const struct tls_ctx *tls;  /* what io.tls was made of */
    bool near_by;               /* the client is on this machine: nobody listens in between */
    struct span name;           /* whom it says it is */
    bool keeps_password;        /* what the client sent as one is wanted afterwards */
    bool server_judges;         /* method password: nobody here knows what is right */
    struct loop *helper;        /* for arithmetic that would hold up a worker: the dialer's */
    struct pg_lookups *lookups; /* NULL: the guard knows all there are */
    void (*on_answer)(struct pg_auth *a, enum pg_auth_step step, const struct pg_out *out,
                      const struct err *err);
    /* its own */
    enum auth_method asked;
    bool waiting; /* WAIT: for the database, or a comparison */
    struct pg_asker asker;
    const struct pg_auth_method *method;
    const struct pg_user *user; /* the guard's, or `stranger` */
    struct pg_user stranger;
    struct pg_auth_job *job; /* a comparison under way */
    bool heard_first;
    uint8_t *password; /* as sent, with keeps_password; NULL: none was */
    size_t password_n;
    uint8_t salt[4];
    uint8_t cbind[SCRAM_CBIND_MAX];
    struct scram scram;
};

/* What is to be sent is written to `out`, of at least PG_AUTH_OUT bytes. */
enum { PG_AUTH_OUT = SCRAM_OUT_MAX + 64 };

MUST_USE enum pg_auth_step pg_auth_begin(struct pg_auth *a, enum auth_method asked,
                                         struct pg_out *out, struct err *err);
MUST_USE enum pg_auth_step pg_auth_hear(struct pg_auth *a, struct span body, struct pg_out *out,
                                        struct err *err);
/* Its time is over, and it is the database that has not said who may log in: *err says why. */
MUST_USE bool pg_auth_is_asking(const struct pg_auth *a, struct err *err);
/* At any time; nothing is called back afterwards. Wipes it. */
void pg_auth_fini(struct pg_auth *a);

/* "... authentication failed for user ..." into *err; returns PG_AUTH_DENIED. */
enum pg_auth_step pg_auth_denied(const struct pg_auth *a, const char *what, struct err *err);
/* For pg_auth_fini(): the answer is not wanted any more. */
void pg_auth_job_drop(struct pg_auth_job *job);

/* ---- failures per address ---- */

/*
 * How often logins failed lately, by where they came from: an address (IPv6: its /64); on this
 * machine, where applications share one address, the address or user id and the name tried. A
 * bounded table: the longest quiet makes room. A worker's own; the limit is divided by workers.
 */
struct pg_failures;

void pg_failures_free(struct pg_failures *f);

struct pg_origin {
    uint8_t bytes[16];
    uint32_t name; /* hash of the user's name, or 0 */
};

/* `peer` NULL: a Unix socket with this descriptor. */
struct pg_origin pg_origin_of(const struct sockaddr *peer, int fd, struct span user);
/* Is `peer` this machine itself? True for Unix sockets (NULL). */
bool pg_origin_is_near(const struct sockaddr *peer);

/* 0: go on; else in how many milliseconds this origin may try again. */
uint64_t pg_failures_wait(const struct pg_failures *f, const struct pg_origin *o,
                          uint32_t per_minute, uint64_t now_ms);
/* Makes the table with the first failure; without memory nothing is noted. */
void pg_failures_note(struct pg_failures **f, const struct pg_origin *o, uint32_t per_minute,
                      uint64_t now_ms);
