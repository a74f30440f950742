/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The client side of a pool: where it listens, who may come in, how sessions share servers. Plain
 * immutable values, filled by proxy/conf and owned by the configuration snapshot.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proxy/core/span.h"

/* The protocol. Its number is also the column of defaults in the schema. FRONT_OTHER: a protocol
 * registered from outside, told by its name. */
enum front_kind { FRONT_POSTGRES, FRONT_REDIS, FRONT_HTTP, FRONT_OTHER };

/* How long a Postgres client keeps a server. Other kinds: FRONT_TRANSACTION, meaningless. */
enum front_mode { FRONT_SESSION, FRONT_TRANSACTION, FRONT_STATEMENT };

enum auth_method {
    AUTH_AUTO,     /* decided per address; never in a listen_conf */
    AUTH_TRUST,    /* whoever reaches the address: loopback, Unix sockets, and HTTP anywhere */
    AUTH_SCRAM,    /* Postgres: SCRAM-SHA-256, over TLS also -PLUS */
    AUTH_PASSWORD, /* Redis: AUTH, HELLO AUTH. Postgres: the password itself; no eavesdroppers */
    AUTH_MD5,      /* Postgres: md5, or SCRAM where the secret is a verifier */
    AUTH_PEER,     /* Postgres, Unix sockets: the process' user */
    AUTH_CERT,     /* Postgres, TLS: a name in the client's certificate */
};

/* What a Postgres session may leave on its server where clients share them. */
enum front_state {
    FRONT_STATE_PIN,    /* the client keeps the server */
    FRONT_STATE_REFUSE, /* it is not done, and the client is told so */
    FRONT_STATE_ALLOW   /* it is left there, for whoever comes next */
};

/* As whom servers are logged in to. */
enum front_login {
    FRONT_LOGIN_POOL,  /* the upstream's own user: one pool per database */
    FRONT_LOGIN_CLIENT /* the client's user and password: one pool per database and user */
};

/* One of several databases behind a listener. */
struct database_conf {
    const char *name;             /* what clients call it; "*": every one that is not named */
    const char *upstream;         /* the server's name for it; NULL: the same */
    const struct pool_conf *pool; /* its bounds and deadlines; the name and the endpoints are those
                                     of the whole */
};

/* Which pool of several behind a listener: all that a client can say of it. Borrowed. */
struct pool_identity {
    struct span database;    /* as clients call it */
    struct span user;        /* with FRONT_LOGIN_CLIENT; else empty */
    struct span password;    /* the same; p NULL: none is known */
    struct span key;         /* what tells it from the others */
    const char *replication; /* "true" or "database", as libpq has it; NULL: an ordinary one */
    struct span application; /* with replication: how the server is to call it */
    unsigned nth;            /* of those that look alike, by their password: which; from 1 */
};

/* Who may log in. */
struct user_conf {
    const char *name; /* Redis without users_file and user: "default" */
    /* plain, or (Postgres) "SCRAM-SHA-256$...", "md5...", NULL for peer and cert; never printed */
    const char *secret;
};

/* Whoever is called `from` elsewhere (system, certificate) may log in as `to`. */
struct name_map {
    const char *from, *to;
};

struct auth_conf {
    enum auth_method method; /* as asked for */
    const char *users_file;  /* as written; NULL: none */
    const struct user_conf
        *users; /* sorted by name (bytes); from users_file, else the upstream's own */
    size_t n_users;
    const struct name_map *map; /* for peer and cert; empty: both names are the same */
    size_t n_map;
    const char *query; /* asks the database for other users; "roles": carpool's own; NULL: none */
    uint64_t query_ttl_ms; /* for so long an answer counts */
    uint32_t failures;     /* failed logins a minute from one address; 0: no limit */
};

/* One address. `localhost` and `*` were expanded to one entry for IPv4 and one for IPv6. */
struct listen_conf {
    const char *label; /* "127.0.0.1:6432", "[::1]:6432", "/run/carpool/pg.sock": the identity over
                               reloads */
    const char *host;  /* IPv4 or IPv6 literal, without brackets; NULL for a Unix socket. IPv6: bind
                               with IPV6_V6ONLY */
    uint16_t port;     /* >= 1; 0 for a Unix socket */
    const char *unix_path; /* NULL for TCP */
    mode_t mode;           /* Unix socket's file mode */
    uid_t uid;             /* its owner; (uid_t)-1: leave */
    gid_t gid;             /* its group; (gid_t)-1: leave */
    bool loopback;         /* 127.0.0.0/8, ::1 or a Unix socket */
    bool optional;         /* not written by anyone (a default, or half of `localhost` or `*`): an
                               address family the machine does not have is no error */
    enum auth_method auth; /* decided for this address, see docs/configuration.md */
    uint32_t line, column; /* where the file says it; 0: not from a file */
};

/*
 * TLS towards clients, on TCP addresses only. Redis and HTTP: the port speaks TLS from the first
 * byte; Postgres: when asked for (SSLRequest or direct).
 */
struct tls_conf {
    const char *cert; /* PEM file, chain included; NULL: no TLS */
    const char *key;  /* PEM file; set whenever cert is */
    const char
        *ca; /* PEM file that every client's certificate is verified by; NULL: none is asked for */
    bool required; /* Postgres: refuse clients that do not ask for TLS */
};

struct limits_conf {
    uint32_t clients;         /* connections of clients; >= 1 */
    uint32_t in_flight;       /* exchanges at once, waiting ones included; 0: no limit */
    uint32_t rate;            /* exchanges a second; 0: no limit */
    uint32_t statements;      /* Postgres: prepared statements of one client; >= 1 */
    uint64_t statement_bytes; /* and their names and texts */
    uint32_t pools;           /* Postgres: made for databases and users at once; >= 1 */
    uint64_t buffer; /* bytes a client or server may have buffered before its peer is paused */
};

struct front_conf {
    enum front_kind kind;
    const char *kind_name; /* "postgres", ... */
    enum front_mode mode;
    enum front_state session_state;
    enum front_login login_as; /* Postgres */
    bool add_host;             /* Postgres: a client's address is put behind its application_name */
    const struct database_conf *databases;
    size_t n_databases; /* 0 with FRONT_LOGIN_POOL: the upstream's alone, in a pool of its own */
    const struct listen_conf *listens;
    size_t n_listens; /* >= 1 */
    struct auth_conf auth;
    struct tls_conf tls;
    struct limits_conf limits;
};

/* The entry for what clients call a database: its own, else that of "*"; NULL: it is not served. */
const struct database_conf *front_database(const struct front_conf *front, struct span name);
/* Is the pool of this identity one that the configuration allows? */
bool front_serves(const struct front_conf *front, const struct pool_identity *id);
/* Is its pool there from the beginning, for as long as the configuration names it? */
bool front_is_listed(const struct front_conf *front, struct span database);
