/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A worker: one thread, one loop, the client side of every pool and its share of the servers.
 * Control makes it, gives it orders by post, and hears back by post; everything else happens
 * inside.
 *
 *     attach (per pool) ...  apply (per pool, after a reload) ...
 *     detach -> "empty and quiet" -> release (per pool that a reload has removed)
 *     drain -> "front quiet" -> stop pools -> "pools quiet" -> leave
 */
#include "proxy/front/front.h"

struct control;
struct worker;

/* One pool on one worker, as control and worker hand it to and fro. */
struct worker_pool {
    struct worker *worker;
    struct pool *pool;
    struct route *route; /* made by the worker when attached */
    struct gate *gate;   /* to come in by; a reference for the order under way */
    /* sockets to accept on; they belong to control and outlive the order */
    const struct door_socket *doors;
    size_t n_doors;
    struct post_msg attach, apply, detach, release, done;
    enum worker_order { WORKER_ATTACH, WORKER_APPLY, WORKER_DETACH, WORKER_RELEASE } last;
    struct timer deadline; /* of a detach */
    uint64_t deadline_ms;
    bool ok;
};

struct worker {
    unsigned index;
    char name[24];
    struct loop loop;
    struct front front;
    pthread_t thread;
    struct control *control;
    struct worker_pool **pools; /* control's; in attach order, the worker reads up to n_pools */
    size_t n_pools;
    size_t pools_quiet;
    struct post_msg drain, kill, stop_pools, leave; /* orders */
    struct post_msg front_quiet, all_quiet;         /* answers */
    bool killed;
};

void worker_init(struct worker *w, unsigned index, unsigned n, struct front **peers,
                 struct log_ring *log, struct control *control);
/* Starts its thread. Orders posted before are done first. */
void worker_start(struct worker *w);
/* After leave: joins the thread. */
void worker_join(struct worker *w);
/* Once every thread that may post to it is joined. */
void worker_fini(struct worker *w);

void worker_pool_init(struct worker_pool *wp, struct worker *w, struct pool *pool);

/* What control does with the answers; control's thread. */
void control_on_attached(struct worker_pool *wp);
void control_on_front_quiet(struct worker *w);
void control_on_all_quiet(struct worker *w);
struct loop *control_loop(struct control *c);
