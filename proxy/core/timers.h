/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Timers for one thread: a hierarchical wheel without a clock of its own. Time is an argument, in
 * milliseconds of any clock that never goes back. Arming, re-arming and stopping are O(1) however
 * many timers there are; a timer fires in the first timers_advance() whose `now` reached its `due`.
 *
 * A timer is embedded in the object it belongs to and must be stopped before that object is freed.
 * A `struct timers` links to itself: it must not be moved in memory.
 *
 *     timers_advance(w, now);                 fires what is due
 *     wait until timers_next(w), or for ever if that is TIMERS_NONE
 */
#include "proxy/core/base.h"
#include "proxy/core/list.h"

/* 6 levels of 64 slots: 2^36 ms, a little over two years; what is due later waits in `far`. */
#define TIMERS_LEVELS 6
#define TIMERS_SLOTS 64
#define TIMERS_NONE UINT64_MAX

struct timer {
    struct list node;
    uint64_t due;                 /* ms; meaningful while armed */
    void (*fire)(struct timer *); /* runs with the timer no longer armed */
};

struct timers {
    struct list slots[TIMERS_LEVELS * TIMERS_SLOTS];
    uint64_t occupied[TIMERS_LEVELS]; /* bit n: slot n of the level is not empty */
    struct list far;                  /* due in another block of 2^36 ms */
    struct list soon;                 /* was due when it was set: fires at the next advance */
    struct list firing;               /* taken out by the running advance, not fired yet */
    uint64_t now;                     /* how far the wheel has turned */
    uint64_t target;                  /* what the running advance goes to; otherwise = now */
    bool advancing;
};

void timers_init(struct timers *w, uint64_t now);
void timer_init(struct timer *t, void (*fire)(struct timer *));

/*
 * Arms t for `due`, or arms it anew. One that is already due fires at the next timers_advance(),
 * also when it is set by a callback: the running advance never fires what was set during it.
 */
void timer_set(struct timers *w, struct timer *t, uint64_t due);

/* Stops t; w is the wheel t is armed on. Nothing happens if it is not armed. */
void timer_stop(struct timers *w, struct timer *t);

static inline bool timer_armed(const struct timer *t)
{
    return list_linked(&t->node);
}

/*
 * When timers_advance() has work next: never later than the earliest due, possibly earlier (one far
 * in the future comes nearer in up to seven steps); not after `now` if something is due already;
 * TIMERS_NONE if no timer is armed.
 */
uint64_t timers_next(const struct timers *w);

/*
 * Turns the wheel to `now` (nothing turns back if it is older than the last one) and fires what is
 * due, in order of `due` and, where that is equal, in the order of setting; what was past already
 * when it was set comes first. A callback may set, stop and free any timer including its own; it
 * must not call timers_advance() again. Returns how many fired.
 */
size_t timers_advance(struct timers *w, uint64_t now);
