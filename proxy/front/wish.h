/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Pools made at run time. A client names a database (and a user) whose pool is not there yet; its
 * worker wishes for it, control makes it on all workers, and says so. However many clients want the
 * same on one worker, it is one wish; however many workers, it is one pool.
 *
 *     worker: wish_for() --post--> control: on_wish() ... wish_answer() --post--> worker: on_pool()
 */
#include "proxy/front/front.h"

/* Whoever waits for it; the worker's thread. */
struct seat {
    struct list node; /* list_init() before, list_remove() to leave */
    /* Once. err NULL: look again with route_behind(); else why there is none. */
    void (*on_pool)(struct seat *seat, const struct err *err);
};

struct wish {
    struct post_msg msg;
    struct front *front;
    struct ledger *head; /* which listener's; for comparison only, it may be going */
    struct list node;    /* of the front's wishes */
    struct list seats;
    struct list pending; /* control's, while it is not fulfilled */
    struct err err;      /* the answer; cause NONE: it is there */
    struct pool_identity id;
    size_t size;
    uint8_t text[];
};

/* The worker's thread. False: out of memory. */
MUST_USE bool wish_for(struct route *head, const struct pool_identity *id, struct seat *seat);

/* Control's thread: ends a wish, which is the worker's again. err NULL: the pool is there. */
void wish_answer(struct wish *w, const struct err *err);
