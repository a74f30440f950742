/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What a pool is made of: bounds, deadlines, socket options and the upstream's endpoints. Plain
 * immutable values, filled by proxy/conf and owned by the configuration snapshot; durations in
 * milliseconds, 0 means "none" where a line says so.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "health/health_conf.h"
#include "proxy/core/span.h"

struct size_conf {
    uint32_t min;        /* servers kept open, <= max */
    uint32_t max;        /* dialing + live + closing, over all workers; >= 1 */
    uint32_t waiters;    /* clients waiting for a server to be given back; 0: refuse them. Who waits
                            for a dial that `max` has room for is no such one */
    uint32_t total;      /* over all pools of a group; 0: no bound but their own */
    uint32_t statements; /* Postgres: prepared statements that clients share, kept on each server;
                            0: they are not shared */
    uint64_t statement_bytes;    /* their texts together */
    uint64_t acquire_timeout_ms; /* longest wait for a server; >= 1 */
    uint64_t idle_timeout_ms;    /* close a server idle this long, above min; 0: never */
    uint64_t max_lifetime_ms;    /* retire a server this old (with jitter); 0: never */
};

struct timeouts_conf {
    uint64_t connect_ms;          /* one dial, from socket to logged in */
    uint64_t request_ms;          /* one exchange; 0: none. HTTP: up to the response's head */
    uint64_t transaction_ms;      /* Postgres: from a transaction's begin to its end; 0: none */
    uint64_t idle_transaction_ms; /* Postgres: client silent inside a transaction; 0: none */
    uint64_t client_idle_ms;      /* client silent outside of an exchange; 0: none */
    uint64_t client_login_ms;     /* from accept to logged in; HTTP: to the end of a head */
    uint64_t write_stall_ms;      /* a peer that takes no byte */
    uint64_t read_stall_ms;       /* HTTP: nothing of a response that has begun; 0: none */
    uint64_t outage_wait_ms;      /* with ON_DOWN_WAIT: longest wait for an upstream that is down */
    uint64_t close_ms;            /* goodbye until the peer's end-of-file, then the slot is freed
                                     and counted as abandoned */
};

/* Which exchanges are written down: as log.access says, or as the pool does. */
enum pool_access { POOL_ACCESS_AS_LOG, POOL_ACCESS_OFF, POOL_ACCESS_ERRORS, POOL_ACCESS_ALL };

struct pool_log_conf {
    enum pool_access access;
    uint64_t slow_ms; /* longer exchanges are written down in any case; 0: none */
};

struct tcp_conf {
    uint64_t keepalive_ms;    /* idle time before probes, both sides; 0: off. Whole seconds */
    uint64_t user_timeout_ms; /* unacknowledged bytes until the socket dies; 0: the system's */
};

/* Which endpoints to use, by what each server says of itself when it is logged in to. */
enum pool_target { TARGET_ANY, TARGET_PRIMARY, TARGET_REPLICA, TARGET_PREFER_REPLICA };

/* While the door is open (dials fail): do clients wait up to outage_wait or fail at once? */
enum on_down { ON_DOWN_WAIT, ON_DOWN_FAIL };

/* libpq's words, for every protocol. */
enum endpoint_tls {
    ENDPOINT_TLS_DISABLE,
    ENDPOINT_TLS_ALLOW,       /* Postgres only */
    ENDPOINT_TLS_PREFER,      /* Postgres only */
    ENDPOINT_TLS_REQUIRE,     /* encrypted, nothing verified */
    ENDPOINT_TLS_VERIFY_CA,   /* chain verified */
    ENDPOINT_TLS_VERIFY_FULL, /* chain and name; the default of rediss:// and https:// */
};

struct conf_pair {
    const char *name, *value;
};

/* One upstream address. All endpoints of a pool have the same user and database. */
struct endpoint_conf {
    const char *label;     /* for people and metrics: "db:5432", "[::1]:5432", "/run/redis.sock" */
    const char *host;      /* name or literal, without brackets; NULL for a Unix socket */
    uint16_t port;         /* TCP port; Postgres over a Unix socket: the number in its file name */
    const char *unix_path; /* the socket's full path; NULL for TCP */
    bool literal;          /* host is an IPv4 or IPv6 literal: needs no resolving */
    const char *user;      /* NULL: none given (redis: the "default" user) */
    const char *password;  /* secret; NULL: none */
    const char *password_command;     /* Postgres: a shell's command that prints it; NULL: none */
    uint64_t password_command_ttl_ms; /* what it printed is good for so long */
    const char *database; /* Postgres: never NULL; Redis: "0" if none given; HTTP: NULL */
    enum endpoint_tls tls;
    const char *tls_ca;   /* PEM file; NULL: the system's store */
    const char *tls_cert; /* PEM file of our own certificate; NULL: none */
    const char *tls_key;
    const struct conf_pair *options; /* the URL's other options, decoded: application_name ... */
    size_t n_options;
    uint32_t priority;     /* lower is preferred */
    uint32_t line, column; /* where the file says it; 0: not from a file */
};

struct pool_conf {
    const char *name;
    struct span key; /* of one pool of a group: what tells it from the others; else empty */
    const struct endpoint_conf *endpoints; /* by priority, ties as written */
    size_t n_endpoints;                    /* >= 1 */
    enum on_down on_down;
    enum pool_target target; /* Postgres; others: TARGET_ANY */
    uint64_t dns_ttl_ms;     /* what a name leads to is good for so long; 0: for one dial */
    struct size_conf size;
    struct check_conf check;
    struct timeouts_conf timeouts;
    struct retry_conf retry;
    struct breaker_conf breaker;
    struct pool_log_conf log;
    struct tcp_conf tcp;
};
