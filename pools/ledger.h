/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The books of one identity over all workers: how many slots are taken, who waits, what was
 * promised to whom, whether dialing makes sense now. A few instructions behind a mutex that is
 * never held over a system call or a callback.
 *
 *   slots       dialing + live + closing <= max, always, over all workers
 *   promises    one thing (a dial or a moved server) per oldest waiter; each ends exactly once:
 *               arrived, none (nothing left to move) or failed; then the books are matched again
 *   breakers    per endpoint: the door and the backoff of dials, the service of exchanges. They
 *               are judged here, under the same mutex, so that no verdict or permit is ever on its
 *               way
 *
 * A worker's own counts (idle, waiters, oldest) are atomics it alone writes; the ledger reads them
 * when it matches. Every entry ends in match() (ledger_match.c), which hands out what to do; the
 * doing (posts, allocations) comes after the lock is gone.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "health/backoff.h"
#include "health/breaker.h"
#include "pools/driver.h"
#include "pools/group.h"
#include "pools/pool_conf.h"
#include "proxy/core/loop.h"
#include "proxy/core/snapshot.h"

#define LEDGER_WORKERS_MAX 64
#define LEDGER_DIALS_MAX 4 /* in flight per pool */
#define LEDGER_YIELD_MS 5  /* a foreign waiter this much older goes first */

struct dialer;
struct pool;
struct server;

struct ledger_worker {
    struct loop *loop;
    struct pool *pool;
    /* written by the worker alone (but `stale`, which the group sets to none) */
    _Atomic unsigned idle, waiters;
    _Atomic unsigned wholes; /* waiters that want a whole server, also where servers are shared */
    _Atomic unsigned fresh;  /* of them want a server used lately, or a new one */
    _Atomic uint64_t oldest_ms; /* arrival of its oldest waiter */
    _Atomic unsigned stale; /* of the idle: unused for GROUP_REST_MS; while the group is tight */
    /* written under the mutex */
    _Atomic bool foreign;              /* somebody else waits for what it may give back */
    bool grow;                         /* it shares its servers thinner than it likes */
    unsigned promised;                 /* dials and moves on their way to it */
    unsigned asked;                    /* moves it was asked for and did not make yet */
    unsigned owes[LEDGER_WORKERS_MAX]; /* to each worker; sums up to asked */
};

/* Whether the endpoint's server has the role that the pool's `target` wants. */
enum fitness { FITNESS_UNKNOWN, FITNESS_FIT, FITNESS_UNFIT };

struct ledger_endpoint {
    struct breaker door, service;
    enum breaker_state door_said, service_said; /* as of the latest news */
    uint64_t door_said_ms, service_said_ms;
    const char *service_why; /* the service's last failure, in a word; NULL: none yet */
    enum fitness fitness;
    unsigned fail_streak; /* dials that failed in a row */
    unsigned busy_streak; /* dials in a row that found it busy */
    uint64_t next_dial_ms;
    unsigned turn;          /* of a name with several addresses: the one that answered last */
    bool refused;           /* the last dial failed as waiting does not heal: pool_is_refused() */
    bool doubted;           /* where its name leads to is to be asked anew */
    unsigned dialing;       /* of the ledger's dials, those to this one */
    unsigned open;          /* of the ledger's slots, those of its servers */
    uint64_t dialing_since; /* when the earliest of them began */
};

/* A breaker has changed its state: noted under the mutex, written to the log by the first
 * worker. */
struct ledger_news {
    enum breaker_role role;
    enum breaker_state from, to;
    enum breaker_reason reason;
    uint64_t held_ms;  /* it was in `from` for so long */
    char endpoint[96]; /* its label */
    enum cause cause;  /* of a dial's failure; else CAUSE_NONE */
    char why[168];     /* the failure that was heard of last; "": none that it is about */
};

#define LEDGER_NEWS_MAX 8 /* not yet written; what comes while so many wait is counted only */

/* In `clients`: the pool is going, nobody may join it any more. */
#define LEDGER_RETIRED (UINT32_C(1) << 31)

struct ledger {
    /* fixed */
    char *name;
    struct ledger *head; /* of several pools behind a listener, that of the whole; NULL: no such */
    struct span key;     /* its own copy of the conf's */
    const struct driver_ops *ops;
    unsigned n_workers;
    struct dialer *dialer;
    struct ledger_worker *workers;

    pthread_mutex_t mutex;
    struct snapshot *snap; /* keeps conf alive */
    const struct pool_conf *conf;
    uint64_t now_ms; /* the latest time anybody brought: never goes back */
    unsigned open;   /* slots taken */
    unsigned dialing, closing;
    struct group_member member; /* of the group whose bound is above `max` */
    unsigned shedding;          /* servers that are to close for its sake and do not yet */
    bool refused;               /* in this match the group had no slot for a waiter */
    unsigned pinned;            /* exclusive leases of servers that could be shared */
    unsigned next_worker;       /* who gets the next server that nobody waits for */
    unsigned busy_limit;        /* the upstream said "too many connections": not above this... */
    uint64_t busy_until;        /* ... until then */
    uint64_t next_warm_ms;      /* `min` is not refilled faster than this allows */
    uint64_t warm_gap_ms;       /* grows while servers close before anybody used them; 0: no wait */
    uint64_t retry_ms;          /* blocked by time alone: match again then; 0: not blocked */
    struct ledger_endpoint *endpoints;
    size_t n_endpoints;
    unsigned endpoints_since; /* the generation of the first servers dialed to these */
    struct ledger_news news[LEDGER_NEWS_MAX];
    unsigned n_news, news_lost;
    size_t primary; /* target primary: the endpoint it was found at last, plus 1; 0: nowhere */
    struct err last_dial; /* of the last dial that failed; cause NONE after one that did not */
    uint64_t dials, dial_failures, abandoned;
    uint64_t dial_causes[CAUSE_COUNT];
    struct snapshot *memo; /* what the driver wants remembered of the identity */
    bool started;          /* every worker has its pool */
    bool warmed;           /* `min` was reached once */
    unsigned stopped;      /* workers whose part of the pool has stopped */

    uint64_t way_made_ms;  /* when it last let a server go to look for better ones */
    _Atomic bool makes_do; /* target prefer-replica: the last server had is only second best */
    _Atomic bool paused;
    _Atomic bool drained;      /* an operator wants no clients here: read by the front */
    _Atomic bool service_shut; /* some service breaker is not closed: ask before an exchange */
    _Atomic unsigned generation;
    _Atomic unsigned renewed; /* servers of generations before this take no lease at all */
    uint64_t renewed_ms;      /* when that was last moved */
    _Atomic uint32_t clients; /* the front's: sessions that count against limits.clients; with a
                                 head: those that are here */
    _Atomic uint32_t leases;  /* lease numbers, in the order of service */
};

/* Control's thread. The workers' loops and pools are registered by pool_new(). group: whose bound
 * holds above that of the pool, or NULL. */
struct ledger *ledger_new(const struct driver_ops *ops, const struct pool_conf *conf,
                          struct snapshot *snap, unsigned n_workers, struct dialer *dialer,
                          uint64_t now, struct group *group);
/* Control's thread, before anybody knows of it: one of several pools behind a listener. What an
 * operator has ordered for the whole holds for it too. */
void ledger_behind(struct ledger *l, struct ledger *head);
/* Control's thread: an operator has ordered for it what does not hold for the whole. */
bool ledger_has_orders(struct ledger *l);
/* Control's thread. True: nobody is here and nobody can come any more. */
bool ledger_retire(struct ledger *l);
/* Any thread, with a head: one more client, or one less. False: it is going. */
MUST_USE bool ledger_join(struct ledger *l);
void ledger_part(struct ledger *l);
/* Every worker's pool is registered: dialing may begin. */
void ledger_start(struct ledger *l, uint64_t now);
/* All slots must be free and all pools gone. */
void ledger_free(struct ledger *l);

/* ---- entries by workers; each matches the books before it returns ---- */

/* Somebody waits, or may go on: look for something to give. */
void ledger_tend(struct ledger *l, uint64_t now);
/* As ledger_tend(), by any thread, for the group: a slot may be had, or servers are to go. Not once
 * ledger_stop() has returned. */
void ledger_hear(struct ledger *l, uint64_t now);

/* What a worker's waiters have to hope for. */
struct ledger_outlook {
    unsigned live;          /* servers that exist and are not closing, over all workers */
    unsigned stuck;         /* waiters that get nothing before somebody gives a server back: nothing
                               is on its way to them, nor is there room for one more */
    bool down;              /* nothing is live and the last dial failed */
    bool busy;              /* ... since the upstream is busy with others: that is no outage */
    bool refused;           /* down, and each endpoint refuses the login or shows a certificate that
                               is not trusted: waiting does not heal it */
    bool shut;              /* every door refuses */
    uint64_t retry_ms;      /* 0, or when the books should be matched again */
    uint64_t dial_failures; /* so far */
    unsigned group_max;     /* waiters get nothing since the group's servers are taken, so many */
    struct err last_dial;
    struct err unanswered; /* nothing is live, no dial failed, but one is under way: its story; else
                              cause NONE */
};

/* As ledger_tend(), and tells one worker how its waiters stand. */
void ledger_look(struct ledger *l, unsigned worker, uint64_t now, struct ledger_outlook *out);

/* A worker would like one more server to share its load over. */
void ledger_grow(struct ledger *l, unsigned worker, uint64_t now);

/* A dial ended (err, or NULL) on its home worker. A failed one frees its slot here and ends its
 * promise; of one that went well the promise ends in ledger_arrived(). A primary found at another
 * endpoint than before renews the pool: what is open elsewhere takes no more leases. */
void ledger_dialed(struct ledger *l, struct server *sv, const struct err *err, uint64_t now);

/* A promised server, dialed or moved, has come and was put to use: only now, or the waiter it was
 * meant for would be promised another. */
void ledger_arrived(struct ledger *l, unsigned worker, uint64_t now);

/* To which worker does this one owe a server? -1: none, or have_one is false: then what it owed is
   called off. */
int ledger_owed(struct ledger *l, unsigned worker, bool have_one, uint64_t now);

/* Should a server given back here go to another worker? Then that is promised: its number, or
 * -1. */
int ledger_foreign(struct ledger *l, unsigned worker, uint64_t now);

/* A live server starts to close; later its slot is free, or taken from it after
 * timeouts.close. */
void ledger_closing(struct ledger *l);
/* It closes by itself and was never leased: an upstream that does not like idle connections. */
void ledger_wasted(struct ledger *l, bool wasted);
void ledger_freed(struct ledger *l, const struct server *sv, bool abandoned, uint64_t now);

/* One more exclusive lease of a server that others could share; false: the class is full. */
bool ledger_pin(struct ledger *l);
void ledger_unpin(struct ledger *l, uint64_t now);

/* Is one server to go because a reload lowered max? And may an idle one go (open > min)? */
bool ledger_above_max(struct ledger *l);
bool ledger_above_min(struct ledger *l);
/* Makes do with servers of the second best role, and would look for better ones, had it a slot for
   it: is one of them to go? Not often, and not twice for one look. */
bool ledger_wants_room(struct ledger *l, uint64_t now);
/* While that is so: is a server that is free now to go, for the sake of the group? It must. */
static inline bool ledger_is_tight(const struct ledger *l)
{
    return group_is_tight(&l->member);
}
bool ledger_sheds(struct ledger *l, uint64_t now);

/*
 * The service breakers, for exchanges (ledger_service.c). allows(): false with the time until it
 * may answer otherwise, or true, perhaps with a permit (not 0) that result() has to bring back.
 * Neutral: neither well nor failed. `why` names a failure in a word that lives for ever; NULL if
 * unknown.
 *
 * With one endpoint the permit is issued here, before there is a server. With several it belongs to
 * a server, since only then is it known which endpoint is tried: the pool takes it with the lease
 * (trial()), keeps it in the server, and settles it with what the server's exchange comes to.
 */
enum service_result { SERVICE_WELL, SERVICE_FAILED, SERVICE_NEUTRAL };
bool ledger_service_allows(struct ledger *l, uint64_t now, uint32_t *permit, uint64_t *wait_ms);
void ledger_service_result(struct ledger *l, const struct server *sv, enum service_result result,
                           const char *why, uint32_t permit, uint64_t now);
/* So many without a permit went well. Told before a failure that followed them. */
void ledger_service_well(struct ledger *l, size_t endpoint, uint64_t n, uint64_t now);

/* Of several endpoints: may this server be leased, as far as its endpoint's service goes? */
enum service_gate {
    SERVICE_PASSES, /* also where there is one endpoint only, and after a reload to others */
    SERVICE_TRIES,  /* as a trial, and nobody has the permit: lease it before others */
    SERVICE_SHUT,   /* close it when it comes free, others are to serve */
};
enum service_gate ledger_service_gate(struct ledger *l, const struct server *sv, uint64_t now);
/* This worker has exchanges for whichever endpoint: if one waits to be tried and has no server, the
 * worker gets one. False: there is no room for that. */
bool ledger_try(struct ledger *l, unsigned worker, uint64_t now);
/* The permit of a trial on this server, or 0: none is needed, or to be had. */
uint32_t ledger_service_trial(struct ledger *l, const struct server *sv, uint64_t now);

/*
 * What the names lead to has changed (a primary was demoted): servers of before now take no new
 * leases, on any worker, and dials resolve anew. At most once in a few seconds, so that an upstream
 * that always says so is not dialed all the time; false: not again so soon.
 */
bool ledger_renew(struct ledger *l, uint64_t now);

/* What every server of the identity says alike (Postgres' parameters), kept for sessions that have
 * no server yet. remember() takes a reference of its own; recall() gives one, or NULL. */
void ledger_remember(struct ledger *l, struct snapshot *memo);
struct snapshot *ledger_recall(struct ledger *l);

/* ---- entries by control ---- */

void ledger_pause(struct ledger *l, bool pause, uint64_t now);
/* The front then takes no clients, and lets those it has end. */
void ledger_drain(struct ledger *l, bool drain);
void ledger_recycle(struct ledger *l);
void ledger_force_breaker(struct ledger *l, enum breaker_force force, uint64_t now);
void ledger_reconf(struct ledger *l, const struct pool_conf *conf, struct snapshot *snap,
                   uint64_t now);
/* Once by each worker: it wants no servers any more, and no more are opened but for those who wait
 * at another worker. */
void ledger_stop(struct ledger *l);

/* Takes the oldest piece of news out, with the number of those that were lost before it. For the
 * first worker, which is asked (pool_ask()) when there is some. */
bool ledger_next_news(struct ledger *l, struct ledger_news *out, unsigned *lost);

/* A consistent copy of the numbers, for admin and tests. */
struct ledger_view {
    unsigned open, dialing, closing, max, min, pinned;
    enum breaker_state door, service; /* the worst of all endpoints */
    bool shut;                        /* no endpoint's service breaker lets requests through */
    uint64_t dials, dial_failures, abandoned;
    uint64_t dial_causes[CAUSE_COUNT];
    struct err last_dial;
    bool paused, drained, warmed, stopping;
    struct group_view group; /* all zero: none */
};
void ledger_view(struct ledger *l, struct ledger_view *out);

/* The conf in force, with a reference that the caller drops. Any thread. */
const struct pool_conf *ledger_conf(struct ledger *l, struct snapshot **ref);
