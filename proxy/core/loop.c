/* SPDX-License-Identifier: MIT */
#include "proxy/core/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS 256 /* told in one turn; the others in the next */

/* ---- the mailbox: a stack swapped out whole, run oldest first ---- */

void post_init(struct post_msg *msg, void (*run)(struct post_msg *),
               void (*discard)(struct post_msg *))
{
    msg->next = NULL;
    msg->run = run;
    msg->discard = discard;
    atomic_store(&msg->posted, false);
}

bool post_once(struct loop *to, struct post_msg *msg)
{
    if (atomic_exchange(&msg->posted, true))
        return false;
    struct post_msg *first = atomic_load(&to->inbox);
    do
        msg->next = first;
    while (!atomic_compare_exchange_weak(&to->inbox, &first, msg));
    if (!first)
        CHECK(eventfd_write(to->bell, 1) == 0);
    return true;
}

void post(struct loop *to, struct post_msg *msg)
{
    bool fresh = post_once(to, msg);
    CHECK(fresh);
}

static void inbox_run(struct loop *loop)
{
    struct post_msg *stack = atomic_exchange(&loop->inbox, NULL), *first = NULL;
    while (stack) {
        struct post_msg *next = stack->next;
        stack->next = first;
        first = stack;
        stack = next;
    }
    while (first) {
        struct post_msg *msg = first;
        first = msg->next;
        atomic_store(&msg->posted, false);
        if (loop->discarding && msg->discard)
            msg->discard(msg);
        else
            msg->run(msg);
    }
}

static void on_bell(struct source *s, uint32_t events)
{
    struct loop *loop = OWNER(s, struct loop, of_bell);
    eventfd_t rung;
    (void)events;
    (void)eventfd_read(loop->bell, &rung);
    inbox_run(loop);
}

/* ---- the set ---- */

static bool control(struct loop *loop, int what, int fd, struct source *s, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = s};
    return epoll_ctl(loop->set, what, fd, &event) == 0;
}

bool loop_watch(struct loop *loop, int fd, struct source *s, uint32_t events)
{
    if (!control(loop, EPOLL_CTL_ADD, fd, s, events))
        return false;
    loop->n_sources++;
    return true;
}

void loop_rewatch(struct loop *loop, int fd, struct source *s, uint32_t events)
{
    bool changed = control(loop, EPOLL_CTL_MOD, fd, s, events);
    CHECK(changed);
}

/* Closing the descriptor would not do: a process that is being made may have a copy of it. */
void loop_unwatch(struct loop *loop, int fd)
{
    bool out = control(loop, EPOLL_CTL_DEL, fd, NULL, 0);
    CHECK(out);
    loop->n_sources--;
}

/* ---- deferred work ---- */

void deferred_init(struct deferred *d, void (*run)(struct deferred *))
{
    list_init(&d->node);
    d->run = run;
}

void loop_defer_next(struct loop *loop, struct deferred *d)
{
    if (!list_linked(&d->node))
        list_push_back(&loop->next, &d->node);
}

static void run_deferred(struct loop *loop)
{
    struct list *n;
    while ((n = list_first(&loop->deferred))) {
        list_remove(n);
        struct deferred *d = OWNER(n, struct deferred, node);
        d->run(d);
    }
}

/* ---- libuv ---- */

/* Its set is ready: it is asked in the next turn, before the loop sleeps. */
static void on_uv(struct source *s, uint32_t events)
{
    struct loop *loop = OWNER(s, struct loop, of_uv);
    (void)events;
    loop->uv_called = true;
}

/* One look. What its callbacks have begun it does not watch yet: who was called calls again. */
static void run_uv(struct loop *loop)
{
    bool due = loop->uv_called || uv_loop_alive(&loop->uv);
    loop->uv_called = false;
    if (due)
        uv_run(&loop->uv, UV_RUN_NOWAIT);
}

/* ---- a turn ---- */

static bool has_work(const struct loop *loop)
{
    return loop->uv_called || !list_empty(&loop->deferred) || !list_empty(&loop->next);
}

static void run_timers(struct loop *loop)
{
    uint64_t now = loop_now(loop);
    if (loop->stopping || timers_next(&loop->timers) > now)
        return;
    if (loop->turn_ns == 0)
        loop->turn_ns = uv_hrtime();
    timers_advance(&loop->timers, now);
}

/* Until a timer is due: the loop's, or one of libuv's. */
static int patience(struct loop *loop)
{
    uint64_t due = loop->stopping ? TIMERS_NONE : timers_next(&loop->timers);
    uint64_t now = loop_now(loop);
    int uv = uv_loop_alive(&loop->uv) ? uv_backend_timeout(&loop->uv) : -1;
    uint64_t mine = due > now ? due - now : 0;
    int ms = due == TIMERS_NONE ? -1 : mine < INT_MAX ? (int)mine : INT_MAX;
    return ms < 0 || (uv >= 0 && uv < ms) ? uv : ms;
}

int loop_prepare(struct loop *loop)
{
    uv_update_time(&loop->uv);
    run_timers(loop);
    list_splice(&loop->deferred, &loop->next);
    run_deferred(loop);
    run_uv(loop);
    if (loop->turn_ns) {
        hist_record(&loop->lag, (uv_hrtime() - loop->turn_ns) / 1000);
        loop->turn_ns = 0;
    }
    return has_work(loop) ? 0 : patience(loop);
}

void loop_poll(struct loop *loop, int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(loop->set, events, EVENTS, timeout_ms);
    CHECK(n >= 0 || errno == EINTR);
    uv_update_time(&loop->uv);
    if (n > 0)
        loop->turn_ns = uv_hrtime();
    for (int i = 0; i < n; i++) {
        struct source *s = events[i].data.ptr;
        s->on_events(s, events[i].events);
    }
}

/* ---- life ---- */

static void watch_own(struct loop *loop, int fd, struct source *s,
                      void (*on_events)(struct source *, uint32_t))
{
    s->on_events = on_events;
    CHECK(fd >= 0);
    CHECK(loop_watch(loop, fd, s, EPOLLIN));
    loop->n_sources--;
}

void loop_init(struct loop *loop, const char *name, struct log_ring *log)
{
    *loop = (struct loop){.name = name, .log = log};
    loop->scratch = malloc(LOOP_CARRY_MAX + LOOP_READ_MAX);
    CHECK(loop->scratch != NULL);
    CHECK(uv_loop_init(&loop->uv) == 0);
    loop->set = epoll_create1(EPOLL_CLOEXEC);
    CHECK(loop->set >= 0);
    loop->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watch_own(loop, loop->bell, &loop->of_bell, on_bell);
    watch_own(loop, uv_backend_fd(&loop->uv), &loop->of_uv, on_uv);
    list_init(&loop->deferred);
    list_init(&loop->next);
    timers_init(&loop->timers, loop_now(loop));
    chunk_pool_init(&loop->chunks, 512);
}

static bool is_over(const struct loop *loop)
{
    return loop->stopping && loop->n_sources == 0 && list_empty(&loop->deferred) &&
           !loop->uv_called && !uv_loop_alive(&loop->uv);
}

void loop_run(struct loop *loop)
{
    for (;;) {
        int timeout = loop_prepare(loop);
        if (is_over(loop))
            return;
        loop_poll(loop, timeout);
    }
}

void loop_stop(struct loop *loop)
{
    loop->stopping = true;
}

void loop_fini(struct loop *loop)
{
    loop->discarding = true;
    inbox_run(loop);
    CHECK(uv_loop_close(&loop->uv) == 0);
    close(loop->bell);
    close(loop->set);
    chunk_pool_fini(&loop->chunks);
    free(loop->scratch);
}
