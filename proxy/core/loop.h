/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A thread's event loop: an epoll set, one timing wheel, a mailbox, deferred work, and the scratch
 * memory that everything on the thread shares. Each thread has exactly one; everything here but
 * post() belongs to that thread.
 *
 *     turn:  timers -> deferred work (flushes, frees) -> libuv, if anything of it is here -> sleep
 *            -> sockets and the mailbox, in the order they became ready
 *
 * libuv rides along for what it does well: names, processes, signals, the sockets of libraries
 * while they dial. Its own epoll set is one of the loop's sources, and a thread that has none of
 * its handles (a worker) never calls it. Sockets that relay are sources themselves: to add or move
 * one is a single system call, where libuv needs four, and their events take no detour.
 */
#include <pthread.h>
#include <sys/epoll.h>
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

/* What a descriptor in the loop's set belongs to. It must live until the end of the turn in which
 * it was taken out: events found before that may still be told to it. */
struct source {
    void (*on_events)(struct source *s, uint32_t events); /* EPOLLIN ... */
};

struct loop {
    uv_loop_t uv;
    const char *name; /* "control", "dialer", "worker 0": for logs */

    int set;            /* epoll */
    unsigned n_sources; /* but for the two below */
    struct source of_uv, of_bell;
    bool uv_called; /* libuv has called somebody, or is about to: it is asked again */
    bool stopping;

    struct timers timers;

    int bell;                         /* an eventfd: the inbox was empty, and is not any more */
    _Atomic(struct post_msg *) inbox; /* newest first */
    bool discarding;                  /* messages are discarded, not run */

    struct list deferred;
    struct list next; /* deferred once more, behind a look at all sockets */

    uint64_t turn_ns; /* when this turn's events were found, 0 while asleep */
    struct hist lag;  /* how long each turn kept later events waiting */

    struct log_ring *log;
    struct chunk_pool chunks;
    uint8_t *scratch; /* LOOP_CARRY_MAX + LOOP_READ_MAX */
};

/* Aborts the process if the system or libuv cannot make one: nothing can be done without. */
void loop_init(struct loop *loop, const char *name, struct log_ring *log);

/* Runs until loop_stop(), and until all sources are taken out and all handles of libuv's closed. */
void loop_run(struct loop *loop);

/* From a callback of this loop, or before it runs: loop_run returns as soon as nothing is left. */
void loop_stop(struct loop *loop);

/* The parts of a turn, for tests that take turns by hand. The first does all that is due and says
 * how long the loop may sleep, in milliseconds (-1: for ever). The second waits so long at most. */
int loop_prepare(struct loop *loop);
void loop_poll(struct loop *loop, int timeout_ms);
static inline void loop_turn(struct loop *loop)
{
    (void)loop_prepare(loop);
    loop_poll(loop, 0);
}

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

/* Puts fd into the set, changes what is watched of it, or takes it out: `events` is EPOLLIN ...,
 * level-triggered, and errors and hang-ups are told in any case; or LOOP_QUIET, nothing but these,
 * once. False: no memory in the kernel, too many watched, or it has no events (a file). */
#define LOOP_QUIET EPOLLET
MUST_USE bool loop_watch(struct loop *loop, int fd, struct source *s, uint32_t events);
void loop_rewatch(struct loop *loop, int fd, struct source *s, uint32_t events);
void loop_unwatch(struct loop *loop, int fd);

/* Every callback from libuv says so first, but those that only free: it starts the turn's clock,
 * and what it begins of libuv's is asked for before the loop sleeps. */
static inline void loop_called(struct loop *loop)
{
    loop->uv_called = true;
    if (loop->turn_ns == 0)
        loop->turn_ns = uv_hrtime();
}

/* Milliseconds of a monotonic clock, as old as this turn. */
static inline uint64_t loop_now(const struct loop *loop)
{
    return uv_now(&loop->uv);
}

/* Microseconds of the same clock, when this turn's events were found: all of them happened then, in
 * whatever order they are told. For histograms. */
static inline uint64_t loop_usec(const struct loop *loop)
{
    return (loop->turn_ns ? loop->turn_ns : uv_hrtime()) / 1000;
}

static inline void loop_timer_set(struct loop *loop, struct timer *t, uint64_t in_ms)
{
    timer_set(&loop->timers, t, loop_now(loop) + in_ms);
}

static inline void loop_timer_stop(struct loop *loop, struct timer *t)
{
    timer_stop(&loop->timers, t);
}
