/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One worker's view of an identity: its servers by state, its waiters, its counters. The books over
 * all workers are the ledger's. Everything here belongs to the worker's thread unless it says
 * otherwise.
 *
 *     waiter w = {...};
 *     switch (pool_lease(pool, &w)) {
 *     case LEASE_GRANTED:  w.server is yours until pool_give_back(&w.server)
 *     case LEASE_WAITING:  w.on_lease() is called once, later; or pool_cancel(&w)
 *     case LEASE_REFUSED:  w.err says why
 *     }
 */
#include "pools/server.h"
#include "proxy/core/hist.h"

struct pool;

enum waiter_state { WAITER_NONE, WAITER_QUEUED, WAITER_SETTLED };

struct waiter {
    /* the caller's, before pool_lease() */
    bool exclusive; /* the whole server, also where servers can be shared */
    /*
     * What it will send cannot be sent twice: no server that may be closing just now. One that was
     * used lately (server_is_stale()), else a new one, for which the server idle longest makes
     * room; an old one only where no new one can be had.
     */
    bool fresh;
    uint64_t due_ms; /* give up then, if earlier than the pool's own timeout; 0: none */
    const struct holder_ops *holder_ops;
    void *holder;
    /* Exactly once, never inside pool_lease(): server is set, or err says why not. */
    void (*on_lease)(struct waiter *w);
    /* the result */
    struct server *server;
    struct err err;
    /* the pool's */
    enum waiter_state state;
    struct pool *pool;
    struct list node;
    struct timer timer;
    uint64_t since_us, since_ms;
    uint64_t failures_at;
};

enum lease_result { LEASE_GRANTED, LEASE_WAITING, LEASE_REFUSED };

/* A waiter may be used again after its lease or refusal; it must not be freed while
 * LEASE_WAITING. */
MUST_USE enum lease_result pool_lease(struct pool *p, struct waiter *w);

/* Withdraws a LEASE_WAITING: on_lease will not be called. A server it was just given goes back. */
void pool_cancel(struct waiter *w);
/* What it would be told now if it gave up; false: it does not wait. */
MUST_USE bool pool_why_waiting(const struct waiter *w, struct err *err);

/* The lease is over; the driver says what becomes of the server. Nulls the caller's pointer. */
void pool_give_back(struct server **sv);

/* The lease is over and the server must not be used again. */
COLD void pool_drop(struct server **sv, enum outcome why);

/* Bounds that follow the configuration in force; valid until the thread returns to its loop. */
const struct pool_conf *pool_conf(const struct pool *p);
struct ledger *pool_ledger(const struct pool *p);

/* Counts an error that a client saw, or was closed for. */
void pool_count_error(struct pool *p, enum cause cause);
void pool_count_retry(struct pool *p);
/* An exchange of a shared lease took this long (exclusive leases are measured by the pool). */
void pool_count_exchange(struct pool *p, uint64_t us);
/*
 * What an exchange showed of its server's endpoint, for the service breaker: it is well, it is sick
 * (`why`: a word or two that live for ever, for the log), or nothing. `permit` is what
 * ledger_service_allows() gave, which is settled by this; sv may be NULL only with one.
 */
void pool_service_well(struct pool *p, struct server *sv, uint32_t permit);
void pool_service_failed(struct pool *p, struct server *sv, const char *why, uint32_t permit);
void pool_service_neutral(struct pool *p, struct server *sv, uint32_t permit);

/* Is a retry within the budget? Then it is paid for. pool_request() earns it. */
void pool_request(struct pool *p);
bool pool_may_retry(struct pool *p);
/* How long to wait before try number `tried` + 1 (retry.backoff, with full jitter), in ms. */
uint64_t pool_retry_wait(const struct pool *p, unsigned tried);

/* ---- life ---- */

/* Control's thread, before ledger_start(). */
struct pool *pool_new(struct ledger *l, unsigned worker, struct loop *loop);
/* The worker's thread, once. */
void pool_start(struct pool *p);
/* No more leases; waiters are refused (draining); servers close as they come free. on_quiet, from
 * this thread, when none is left; a second call only replaces on_quiet. */
void pool_stop(struct pool *p, void (*on_quiet)(struct pool *p, void *arg), void *arg);
/* With pool_stop() under way: closes leased servers too (a deadline passed). */
void pool_kill(struct pool *p);
/* After on_quiet. */
void pool_free(struct pool *p);

/* Any thread: the worker looks at what is owed, reconfigured, paused, recycled. */
void pool_ask(struct pool *p);

/* ---- figures; any thread may read ---- */

struct pool_stats {
    struct counter leases, waits, retries, moved_in;
    struct counter from_servers, to_servers; /* bytes */
    struct counter errors[CAUSE_COUNT];
    struct counter verdicts[PHASE_COUNT][OUTCOME_COUNT];
    struct counter idle, busy, checking, closing, waiting, leased; /* now */
    struct hist acquire, exchange;
};
const struct pool_stats *pool_stats(const struct pool *p);

/*
 * How crowded the identity is, over all workers, for whoever got no server. Of moments that lie
 * close together, not of one: other workers go on meanwhile.
 */
struct pool_crowd {
    unsigned open, max; /* slots taken, dialing and closing servers included; of so many */
    unsigned group_open, group_max; /* the same of the group; group_max 0: no bound there */
    unsigned busy, dialing;
    unsigned waiting;   /* waiters in the queues */
    uint64_t oldest_ms; /* so long the oldest of them has waited; 0: nobody waits */
};
/* The worker's thread. Takes the ledger's mutex: not for every exchange. */
void pool_crowd(const struct pool *p, struct pool_crowd *out);

/* Every server of this worker, for admin and audits; the worker's thread. */
void pool_each_server(struct pool *p, void (*each)(const struct server *sv, void *arg), void *arg);
