/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Who is connected, to where and from where: asked of every worker by post, answered by post, so
 * that nobody looks at another thread's objects.
 *
 *     census_ask() --post--> each worker copies rows --post--> the asker's loop: on_done, once
 *
 * Each worker copies at most CENSUS_MAX rows and counts the rest: a bounded piece of its time.
 */
#include "proxy/front/front.h"

#define CENSUS_MAX 1000 /* rows of one answer */
#define CENSUS_TEXT 64

enum census_what { CENSUS_CLIENTS, CENSUS_SERVERS };

struct census_client {
    char pool[CENSUS_TEXT], client[CENSUS_TEXT], listener[CENSUS_TEXT];
    const char *kind; /* a literal, as are the words below */
    uint32_t conn;
    unsigned worker;
    bool tls;
    uint64_t age_ms;
    /* by the relay's describe() */
    const char *state;  /* login, idle, waiting, active, in_transaction, failed, ... */
    uint32_t server;    /* that it has; 0: none */
    uint64_t held_ms;   /* since when */
    const char *pinned; /* why it keeps the server between exchanges; NULL: it does not */
    char application[CENSUS_TEXT]; /* what the client calls itself; may be empty */
};

struct census_server {
    char pool[CENSUS_TEXT], endpoint[CENSUS_TEXT];
    const char *kind, *state;
    const char *role; /* "primary", "standby"; NULL: not known */
    uint32_t server;
    unsigned worker, leases;
    bool tls;
    uint64_t age_ms, uses; /* leases so far */
    uint64_t idle_ms;      /* since it was used last, while it is idle */
    uint64_t held_ms;      /* of a lease that has it for itself; 0: none has */
    const char *retiring;  /* why it gets no more leases; NULL: it does */
};

struct census_part; /* one worker's */

struct census {
    enum census_what what;
    char pool[CENSUS_TEXT]; /* only this one; empty: all */
    struct loop *asker;
    unsigned n_parts, due;
    struct census_part *parts;
    void (*on_done)(struct census *c, void *arg);
    void *arg;
};

/*
 * The asker's thread. The workers' loops must exist until their threads are joined. on_done is
 * called later, once, unless census_forget() comes first; the census is gone when it returns. NULL:
 * out of memory.
 */
struct census *census_ask(struct loop *asker, struct front *const *fronts, unsigned n,
                          enum census_what what, struct span pool,
                          void (*on_done)(struct census *c, void *arg), void *arg);
/* on_done will not be called. Nulls the caller's pointer; NULL is allowed. */
void census_forget(struct census **c);

/* For on_done: calls `each` for every row; returns how many were left out. */
uint64_t census_clients(const struct census *c,
                        void (*each)(const struct census_client *row, void *arg), void *arg);
uint64_t census_servers(const struct census *c,
                        void (*each)(const struct census_server *row, void *arg), void *arg);

/* For relays: the client has this server. */
void census_has(struct census_client *row, const struct server *sv, uint64_t now_ms);
