/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A worker's client side: for each pool one route (its sessions, its limits), for each listening
 * address one door that accepts.
 *
 *     listening socket (control's) --polled by every worker--> accept one --> session
 *                                                    \--> post to the worker with fewest clients
 *
 * The settings sessions come in by are a gate: immutable, counted, made by control at each load and
 * handed to every worker.
 */
#include "pools/ledger.h"
#include "pools/pool.h"
#include "proxy/core/log_quota.h"
#include "proxy/core/snapshot.h"
#include "proxy/core/tls.h"
#include "proxy/front/relay.h"
#include "proxy/front/session.h"

struct front;
struct route;
struct wish;

struct gate {
    struct snapshot snap; /* of the gate itself */
    struct snapshot *config;
    const struct front_conf *conf;
    const struct relay_ops *ops;
    void *guard;
    struct tls_ctx *tls; /* NULL: no TLS */
};

/* Control's thread. NULL and *err: a certificate or verifier cannot be used. */
struct gate *gate_new(const struct relay_ops *ops, const struct front_conf *conf,
                      const struct pool_conf *pool, struct snapshot *config, struct err *err);
void gate_drop(struct gate **gate);

/* A listening socket, owned by control, used by all workers. */
struct door_socket {
    int fd;
    const struct listen_conf *conf; /* of the gate that opened it */
    struct gate *gate;
};

struct front {
    struct loop *loop;
    unsigned worker, n_workers;
    struct front **peers; /* all workers' fronts, for handing clients over */
    _Atomic unsigned clients;
    uint32_t accepted;     /* here: makes the sessions' numbers, unique over workers */
    struct list routes;    /* changed by this worker alone... */
    pthread_mutex_t mutex; /* ... with this held: others look for theirs here, in route_on() */
    struct list wishes;    /* for pools that control is to make; wish.h */
    struct loop *control;
    void (*on_wish)(struct wish *w, void *arg); /* on control's thread; ends in wish_answer() */
    void *wish_arg;
    struct log_quota pauses; /* lines about doors that cannot accept */
    bool draining;
    void (*on_quiet)(struct front *f, void *arg);
    void *quiet_arg;
    struct deferred quiet;
};

struct route {
    struct front *front;
    struct pool *pool;
    struct route *head; /* of several pools behind a listener, that of the whole; NULL: no such */
    struct gate *gate;  /* in force */
    void *state;        /* the relay's own */
    struct list node;
    struct list sessions, doors;
    unsigned n_sessions;
    struct counter clients, accepted, refused; /* any thread may read */
    struct log_quota said[CAUSE_COUNT];        /* lines about clients */
    unsigned in_flight;                        /* exchanges admitted and not over */
    uint64_t rate_due_us; /* when the next exchange would be exactly on the rate (GCRA) */
    bool closing;
    void (*on_empty)(struct route *r, void *arg);
    void *empty_arg;
    struct deferred empty;
    struct post_msg mind;
};

void front_init(struct front *f, struct loop *loop, unsigned worker, unsigned n_workers,
                struct front **peers);

/* Control's thread before the worker runs, or the worker's thread. Takes a reference of the
 * gate. */
struct route *route_new(struct front *f, struct pool *pool, struct gate *gate);
/* The worker's thread: sessions from now on come in by this gate. */
void route_regate(struct route *r, struct gate *gate);
void route_free(struct route *r);

/* Of several pools behind the listener of `head`, the one with this key; NULL: not here yet. */
struct route *route_behind(const struct route *head, struct span key);
/* Where clients come in. */
static inline struct route *route_door(struct route *r)
{
    return r->head ? r->head : r;
}

/* The same pool's route on another worker: for messages to it. */
struct route *route_on(const struct route *r, unsigned worker);

/* Control's thread: the worker sees whether the pool is drained (ledger_drain), and obeys. */
void route_mind(struct route *r);

/* The worker's thread: starts and stops accepting on a socket. */
bool route_listen(struct route *r, const struct door_socket *socket);
void route_unlisten(struct route *r);

/* The worker's thread: stops accepting, lets sessions end as soon as they may; on_empty once, when
 * none is left. route_kill() ends those that remain. */
void route_close(struct route *r, void (*on_empty)(struct route *r, void *arg), void *arg);
void route_kill(struct route *r, const struct err *why);

/* The worker's thread: sessions end as soon as they may; on_quiet when none is left. */
void front_drain(struct front *f, void (*on_quiet)(struct front *f, void *arg), void *arg);
/* The drain's deadline has passed: ends what is left. */
void front_kill(struct front *f);
