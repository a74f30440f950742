/* SPDX-License-Identifier: MIT */
#include "proxy/core/loop.h"

#include <stdlib.h>

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
        uv_async_send(&to->async);
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

static void on_async(uv_async_t *async)
{
    struct loop *loop = async->data;
    loop_turn(loop);
    inbox_run(loop);
}

/* ---- timers ---- */

static void on_wake(uv_timer_t *wake)
{
    struct loop *loop = wake->data;
    loop_turn(loop);
    loop->wake_at = UINT64_MAX;
    timers_advance(&loop->timers, loop_now(loop));
}

static void arm_wake(struct loop *loop)
{
    uint64_t due = timers_next(&loop->timers);
    if (due == loop->wake_at)
        return;
    loop->wake_at = due;
    if (due == UINT64_MAX) {
        uv_timer_stop(&loop->wake);
        return;
    }
    uint64_t now = loop_now(loop);
    uv_timer_start(&loop->wake, on_wake, due > now ? due - now : 0, 0);
}

/* ---- the end of a turn ---- */

void deferred_init(struct deferred *d, void (*run)(struct deferred *))
{
    list_init(&d->node);
    d->run = run;
}

static void on_awake(uv_idle_t *awake)
{
    struct loop *loop = awake->data;
    struct list *n;
    loop_turn(loop);
    uv_idle_stop(awake);
    while ((n = list_first(&loop->next))) {
        list_remove(n);
        list_push_back(&loop->deferred, n);
    }
}

void loop_defer_next(struct loop *loop, struct deferred *d)
{
    if (list_linked(&d->node))
        return;
    list_push_back(&loop->next, &d->node);
    uv_idle_start(&loop->awake, on_awake);
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

static void on_prepare(uv_prepare_t *prepare)
{
    struct loop *loop = prepare->data;
    run_deferred(loop);
    arm_wake(loop);
    if (loop->turn_ns) {
        hist_record(&loop->lag, (uv_hrtime() - loop->turn_ns) / 1000);
        loop->turn_ns = 0;
    }
}

/* ---- life ---- */

void loop_init(struct loop *loop, const char *name, struct log_ring *log)
{
    *loop = (struct loop){.name = name, .log = log, .wake_at = UINT64_MAX};
    loop->scratch = malloc(LOOP_CARRY_MAX + LOOP_READ_MAX);
    CHECK(loop->scratch != NULL);
    CHECK(uv_loop_init(&loop->uv) == 0);
    CHECK(uv_timer_init(&loop->uv, &loop->wake) == 0);
    CHECK(uv_async_init(&loop->uv, &loop->async, on_async) == 0);
    CHECK(uv_prepare_init(&loop->uv, &loop->prepare) == 0);
    CHECK(uv_idle_init(&loop->uv, &loop->awake) == 0);
    loop->wake.data = loop->async.data = loop->prepare.data = loop->awake.data = loop;
    uv_prepare_start(&loop->prepare, on_prepare);
    list_init(&loop->deferred);
    list_init(&loop->next);
    timers_init(&loop->timers, loop_now(loop));
    chunk_pool_init(&loop->chunks, 512);
}

void loop_run(struct loop *loop)
{
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *loop)
{
    run_deferred(loop);
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->async, NULL);
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    uv_close((uv_handle_t *)&loop->awake, NULL);
}

void loop_fini(struct loop *loop)
{
    loop->discarding = true;
    inbox_run(loop);
    CHECK(uv_loop_close(&loop->uv) == 0);
    chunk_pool_fini(&loop->chunks);
    free(loop->scratch);
}
