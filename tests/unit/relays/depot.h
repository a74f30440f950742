/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One pool with its ledger, dialer, workers and doors, in a world of memory (turns.h, wires.h):
 * everything is carpool's own but the dials, which end in a far end of the test's, a millisecond
 * later.
 */
#include "pools/dialer.h"
#include "pools/ledger.h"
#include "pools/pool_private.h"
#include "proxy/front/front.h"

#define DEPOT_WORKERS 2

struct depot_plan {
    const struct relay_ops *relay;
    const struct driver_ops *driver; /* but for its dials */
    /* A server is logged in: what its dial would have left there. False: no memory. */
    bool (*born)(struct server *sv, int far);
    unsigned workers;
    struct pool_conf pool;
    struct front_conf front;
};

/* Short deadlines, two servers, a door that trusts. */
struct depot_plan depot_plan(void);
/* The same, with another endpoint like the first. */
void depot_two_endpoints(struct depot_plan *plan);

/* on_server: a server was dialed, or carpool connected by itself; its far end. */
void depot_open(const struct depot_plan *plan, void (*on_server)(int far));
/* One turn of every loop; did anything happen? */
bool depot_turn(void);
/* Until nothing happens any more. */
void depot_settle(void);
/* A client comes to a worker's door; its far end, or -1. */
int depot_connect(unsigned worker);

/* ---- what may happen to it at any tick ---- */

/* So many exchanges have failed that the next ones are trials. */
void depot_trip(void);
/* Dials fail from now on, or work again. */
void depot_refuse_dials(bool refuse);
/* An operator drains the pool, or lets clients in again. */
void depot_drain(bool drain);
/* A reload: the pool is in the new configuration with other bounds... */
void depot_reload(void);
/* ... or not at all: sessions have some seconds. One worker hears of it before the other. */
void depot_remove(unsigned first);
/* The process is to end: within some seconds, or at once. */
void depot_stop(bool at_once);
bool depot_is_ending(void);
/* Servers of before now are not used again. */
void depot_recycle(void);
/* Nobody gets a server, until it is resumed. */
void depot_pause(bool pause);

/* ---- books ---- */

/* Nobody is there but idle servers: no lease, no waiter, no clock that still runs. */
void depot_is_at_rest(void);
/* The end, if it has not begun; then nothing may be left. `go_on`: one round of everything, far
 * ends included; did anything happen? */
void depot_close(bool (*go_on)(void));
