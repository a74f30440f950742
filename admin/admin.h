/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What people and machines see and say: HTTP/1.1 on a Unix socket (0600) and, if asked, on TCP.
 * Control's thread. Reads figures that workers publish (counters, histograms, ledgers); changes
 * things through the pools' own entries and through what control hands down.
 */
#include "pools/ledger.h"
#include "pools/pool.h"
#include "proxy/core/admin_conf.h"
#include "proxy/core/snapshot.h"
#include "proxy/front/front.h"

struct admin;

/* One pool as control knows it: its ledger, and per worker its pool and route. */
struct admin_pool {
    struct ledger *ledger;
    const char *kind; /* "postgres", ... */
    unsigned n_workers;
    struct pool *const *pools;
    struct route *const *routes;
    const struct front_conf *front; /* of the configuration in force */
};

/* One thread, for its loop lag and dropped log lines. */
struct admin_thread {
    const char *name;
    const struct loop *loop;
};

struct admin_view {
    const char *version;
    const char *source; /* where the configuration came from */
    uint64_t started_unix_ms;
    unsigned n_workers;
    struct front *const *fronts;    /* one per worker; NULL: they have ended */
    const struct admin_pool *pools; /* in the order of the configuration */
    size_t n_pools;
    const struct admin_thread *threads;
    size_t n_threads;
    bool bound; /* every listener is open */
    bool draining;
    uint64_t up_ms;
};

enum admin_reload {
    ADMIN_RELOAD_DONE,
    ADMIN_RELOAD_REFUSED, /* the configuration cannot be used */
    ADMIN_RELOAD_BUSY, /* the last one is not in force everywhere yet: a matter of milliseconds */
};

struct admin_hooks {
    void *arg;
    /* The state of things now; valid until the thread returns to its loop. */
    const struct admin_view *(*view)(void *arg);
    /* Loads the configuration again. But for DONE nothing changed; of REFUSED `report` says what is
       wrong, of DONE what changes (lines). */
    enum admin_reload (*reload)(void *arg, char *report, size_t cap);
    /* Begins the drain; returns at once. */
    void (*shutdown)(void *arg);
    /* The configuration in force as YAML without secrets, malloc()ed; NULL without memory. */
    char *(*config)(void *arg);
};

/* Opens the listeners. NULL and *err if an address cannot be bound. A stale socket file is
   replaced, one that somebody listens on is an error. */
struct admin *admin_open(struct loop *loop, const struct admin_conf *conf,
                         const struct admin_hooks *hooks, struct err *err);
/* After a reload: another token, or none (NULL). It is copied. False: out of memory, the old
   one stays. */
bool admin_retoken(struct admin *admin, const char *token);
/* Stops listening, ends what is open (an answer under way may finish first); on_closed later,
   once. */
void admin_close(struct admin *admin, void (*on_closed)(void *arg), void *arg);
