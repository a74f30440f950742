/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What carpool is doing now, as plain numbers: counters and histograms of all workers added up,
 * the ledgers' books copied. Pages are written from this and from nothing else, so each can be
 * tried with figures made up by a test. Control's thread makes them; whoever has them may read
 * them.
 */
#include "admin/admin.h"

/* Where a server is, in the words of metrics and pages. */
#define FIGURE_SERVERS(X)                                                                          \
    X(IDLE, "idle")                                                                                \
    X(BUSY, "busy") X(CHECKING, "checking") X(CLOSING, "closing") X(DIALING, "dialing")

enum figure_server {
#define X(name, word) FIGURE_##name,
    FIGURE_SERVERS(X)
#undef X
        FIGURE_SERVER_COUNT
};

/* How a pool is, in one word: the first that is true, in this order. */
#define POOL_MOODS(X)                                                                              \
    X(DRAINING, "draining")                                                                        \
    X(PAUSED, "paused")                                                                            \
    X(FORCED_OPEN, "forced_open")                                                                  \
    X(DOWN, "down")         /* no server lives, and dialing fails */                               \
    X(TRIPPED, "tripped")   /* the service breaker keeps requests away */                          \
    X(DEGRADED, "degraded") /* servers serve on, but no new one can be opened */                   \
    X(BUSY, "busy")         /* clients wait */                                                     \
    X(STARTING, "starting") /* size.min was not reached yet */                                     \
    X(OK, "ok")

enum pool_mood {
#define X(name, word) MOOD_##name,
    POOL_MOODS(X)
#undef X
        MOOD_COUNT
};

struct pool_figures {
    const char *name, *kind;
    const char *mode; /* how long a client keeps a server; NULL where it has no meaning */
    const struct front_conf *front; /* addresses; NULL: unknown. Borrowed from the view */
    const struct pool_conf *conf;   /* the upstream's addresses; kept alive by `ref` */
    struct snapshot *ref;
    uint64_t servers[FIGURE_SERVER_COUNT];
    uint64_t open, max, min;    /* slots; open may exceed the sum above while a server travels */
    uint64_t total_open, total; /* slots of all pools behind its listener (size.total); total 0: no
                                   such bound */
    bool shares_total;          /* `total` is the key of another pool, which tells of it */
    uint64_t waiting, leases;   /* clients in the queue; exchanges under way */
    uint64_t clients;           /* connected now */
    uint64_t accepted, refused; /* clients so far */
    uint64_t leases_total, waits, retries;
    uint64_t from_servers, to_servers; /* bytes */
    uint64_t errors[CAUSE_COUNT];
    uint64_t verdicts[PHASE_COUNT][OUTCOME_COUNT];
    uint64_t dials, dial_failures, dial_causes[CAUSE_COUNT], abandoned;
    struct err last_dial;             /* cause NONE: the last dial went well, or there was none */
    enum breaker_state door, service; /* the worst of its endpoints */
    bool shut;                        /* none of them takes requests */
    bool paused, drained, warmed, stopping;
    struct hist_snapshot acquire, exchange;
    enum pool_mood mood;
    char hint[320]; /* what is wrong and what to do about it; empty if nothing is */
};

struct thread_figures {
    const char *name;
    struct hist_snapshot lag;
    uint64_t log_dropped; /* lines */
};

struct figures {
    const char *version, *source;
    uint64_t started_unix_ms, up_ms;
    unsigned n_workers;
    bool bound, draining, ready;
    struct pool_figures *pools;
    size_t n_pools;
    struct thread_figures *threads;
    size_t n_threads;
};

/* False: out of memory, nothing to free. Names and addresses are borrowed from the view. */
MUST_USE bool figures_take(struct figures *f, const struct admin_view *view);
void figures_fini(struct figures *f);

/* Sets mood and hint from the numbers. */
void pool_figures_judge(struct pool_figures *p, bool draining);

const char *figure_server_word(enum figure_server state);
const char *pool_mood_word(enum pool_mood mood);
