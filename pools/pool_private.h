/* SPDX-License-Identifier: MIT */
#pragma once
/* What the files of pool and server share. For this folder only. */
#include "health/budget.h"
#include "pools/ledger.h"
#include "pools/pool.h"
#include "proxy/core/log_quota.h"

#define POOL_MAGIC UINT32_C(0x706f6f6c)
#define SERVER_MAGIC UINT32_C(0x73727672)
#define WARY_MS 1000

struct pool {
    uint32_t magic;
    /* fixed */
    struct ledger *ledger;
    struct ledger_worker *books; /* this worker's part of the ledger */
    struct loop *loop;
    unsigned worker;
    /* changes */
    struct snapshot *snap;
    const struct pool_conf *conf;
    struct list idle, busy, checking, closing; /* idle: latest first */
    struct list waiters;                       /* oldest first */
    unsigned n_waiters;
    unsigned n_wholes;   /* of them want a whole server */
    unsigned n_fresh;    /* of them want a fresh one */
    unsigned n_held;     /* servers that something under way still points to */
    struct list settled; /* waiters whose callback is due at the end of the turn */
    struct deferred deliver;
    struct timer tick;
    struct post_msg ask;
    struct budget budget;
    uint64_t requests; /* since the budget was told */
    /* since the service breaker was told: good exchanges, and a server of their endpoint's */
    uint64_t successes;
    size_t successes_at;
    struct log_quota news;  /* lines about breakers; the first worker's */
    uint64_t wary_until_ms; /* servers have just gone: each is looked at before it is leased */
    unsigned seen_renewed;  /* of the ledger, as far as busy servers were told */
    bool shares;            /* its servers carry many leases at once */
    bool over_max;          /* a reload may have lowered max: look before keeping a server */
    bool stopping, killing;
    void (*on_quiet)(struct pool *p, void *arg);
    void *quiet_arg;
    struct deferred quiet;
    struct pool_stats stats;
};

/* server.c */
void server_move(struct server *sv, enum server_state to);
void server_close(struct server *sv, enum outcome why, bool eof);
void server_free(struct server *sv);                  /* whose dial has failed, or that is gone */
void server_adopt(struct server *sv, struct pool *p); /* attaches it here, then server_ready() */
void server_send_away(struct server *sv, unsigned worker);
void server_check(struct server *sv, enum phase phase, enum outcome step);
void server_verdict(struct server *sv, enum phase phase, enum outcome outcome);

/* pool_lease.c */
/* The idle or shared server to lease now, or NULL. */
struct server *pool_take(struct pool *p, const struct waiter *w);
/* May this server be leased as a whole? Counts it as such if it could be shared. */
bool pool_may_pin(struct pool *p, const struct server *sv);
/* Closes the server idle longest, so that whoever wants a fresh one may have it dialed. */
void pool_make_room(struct pool *p);
/* For a queued waiter that wants a fresh server, when none can be had: any; or NULL. */
struct server *pool_take_stale(struct pool *p, const struct waiter *w);
/* Lets the least loaded shared server run empty, for whoever needs all of it. */
void pool_free_one_up(struct pool *p);
void pool_deliver(struct deferred *d);

/* Of several endpoints: may it be leased, does it have to go? */
enum service_gate pool_gate(const struct pool *p, const struct server *sv);
/* The lease ends: a trial that nobody told about was none. */
void pool_end_trial(struct pool *p, struct server *sv);

/* pool_return.c: a server of this pool is free and well: the oldest waiter, another worker, or
 * idle. */
void pool_ready(struct pool *p, struct server *sv);
/* Gives queued waiters what can be given now. */
void pool_serve(struct pool *p);
void pool_settle_waiter(struct waiter *w, struct server *sv, const struct err *err);
/* A shared server is lost: waiters that were to get it, but do not know yet, get err instead. */
COLD void pool_unsettle(struct pool *p, struct server *sv, const struct err *err);
/* The lease is over and the driver has said `outcome`. */
void pool_settle_server(struct pool *p, struct server *sv, enum outcome outcome);
void pool_maybe_quiet(struct pool *p);

/* What went well since the service breaker heard of it. */
void pool_tell_successes(struct pool *p);

/* pool_tend.c */
void pool_tick(struct timer *t);
void pool_rearm(struct pool *p, uint64_t in_ms);
void pool_judge_waiters(struct pool *p);
/* A refused login or certificate does not heal by waiting. */
bool pool_is_refused(const struct err *dial);
/* What a waiter hears whose patience (timeouts.outage_wait) is over. */
void pool_outage_err(const struct waiter *w, uint64_t now, const struct ledger_outlook *look,
                     struct err *err);
void pool_obey(struct post_msg *ask);
/* How long a closing server may take to say end-of-file. */
uint64_t pool_close_ms(const struct pool *p);

/* pool.c: this worker's share of the retries a second that are always allowed, rounded up. */
unsigned pool_budget_floor(const struct pool *p);
bool pool_ok(const struct pool *p);
