/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A thread's event loop: libuv, one timing wheel, a mailbox, deferred work, and the scratch memory
 * that everything on the thread shares. Each thread has exactly one; everything here but post()
 * belongs to that thread.
 *
 * A turn: sleep in poll -> callbacks -> deferred work (flushes, frees) -> timers are armed ->
 * sleep.
 */
#include <pthread.h>
#include <uv.h>

#include "proxy/core/bufq.h"
#include "proxy/core/hist.h"
#include "proxy/core/list.h"
#include "proxy/core/log.h"
#include "proxy/core/post.h"
#include "proxy/core/timers.h"

/* One read() fetches at most this much; what a framer could not use yet is put in front of it. */
#define LOOP_READ_MAX ((size_t)64 * 1024)
#define LOOP_CARRY_MAX ((size_t)192 * 1024)

/* Work for the end of this turn, before the loop sleeps. */
struct deferred {
    struct list node;
    void (*run)(struct deferred *d);
};

struct loop {
    uv_loop_t uv;
    const char *name; /* "control", "dialer", "worker 0": for logs */

    struct timers timers;
    uv_timer_t wake;
    uint64_t wake_at; /* what `wake` is armed for, UINT64_MAX if not */

    uv_async_t async;
    _Atomic(struct post_msg *) inbox; /* newest first */
    bool discarding;                  /* messages are discarded, not run */

    uv_prepare_t prepare;
    struct list deferred;
    uv_idle_t awake;  /* while `next` is not empty: the loop does not sleep */
    struct list next; /* deferred once more, behind a look at all sockets */

    uint64_t turn_ns; /* when this turn's first callback began, 0 while asleep */
    struct hist lag;  /* how long each turn kept later events waiting */

    struct log_ring *log;
    struct chunk_pool chunks;
    uint8_t *scratch; /* LOOP_CARRY_MAX + LOOP_READ_MAX */
};

/* Aborts the process if libuv cannot make a loop: nothing can be done without one. */
void loop_init(struct loop *loop, const char *name, struct log_ring *log);

/* Runs until loop_stop() and until every handle is closed. */
void loop_run(struct loop *loop);

/* From a callback of this loop: closes the loop's own handles; loop_run returns when all others
 * are. */
void loop_stop(struct loop *loop);

/* After loop_run returned; discards messages that came late. */
void loop_fini(struct loop *loop);

void deferred_init(struct deferred *d, void (*run)(struct deferred *));
static inline void loop_defer(struct loop *loop, struct deferred *d)
{
    if (!list_linked(&d->node))
        list_push_back(&loop->deferred, &d->node);
}
/* The same behind the next look at all sockets, for who would go on and on. */
void loop_defer_next(struct loop *loop, struct deferred *d);
static inline void deferred_cancel(struct deferred *d)
{
    list_remove(&d->node);
}

/* Every callback from libuv says so first: starts the turn's clock. */
static inline void loop_turn(struct loop *loop)
{
    if (loop->turn_ns == 0)
        loop->turn_ns = uv_hrtime();
}

/* Milliseconds of a monotonic clock, as old as this turn. */
static inline uint64_t loop_now(const struct loop *loop)
{
    return uv_now(&loop->uv);
}

/* Microseconds of the same clock; fresh. For histograms. */
static inline uint64_t loop_usec(void)
{
    return uv_hrtime() / 1000;
}

static inline void loop_timer_set(struct loop *loop, struct timer *t, uint64_t in_ms)
{
    timer_set(&loop->timers, t, loop_now(loop) + in_ms);
}

static inline void loop_timer_stop(struct loop *loop, struct timer *t)
{
    timer_stop(&loop->timers, t);
}
