/* SPDX-License-Identifier: MIT */
#include "tests/unit/relays/turns.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/relays/memory.h"
#include "tests/unit/relays/wires.h"

#define HANDLES 512

enum kind { KIND_NONE, KIND_POLL, KIND_TIMER, KIND_ASYNC, KIND_PREPARE, KIND_IDLE };

/* What libuv keeps inside of its handles; places are used again. */
struct handle {
    enum kind kind;
    uv_loop_t *loop;
    uv_handle_t *uv;
    bool active, closing;
    int fd, events;
    uint64_t due;
    uv_poll_cb on_poll;
    uv_timer_cb on_timer;
    uv_async_cb on_async;
    uv_prepare_cb on_prepare;
    uv_idle_cb on_idle;
    uv_close_cb on_close;
};

static struct {
    struct handle handles[HANDLES];
    unsigned n_handles; /* places ever used */
    unsigned n_idle, n_closing;
    uint64_t now_ms, us;
    unsigned ticks, at, calls;
    void (*act)(void);
    bool reverse;
} world;

void turns_begin(uint64_t now, unsigned at, void (*act)(void))
{
    world.now_ms = now;
    world.us = 0;
    world.ticks = 0;
    world.at = at;
    world.act = act;
}

void turns_again(unsigned later)
{
    world.at = world.ticks - 1 + later;
}

unsigned turns_ticks(void)
{
    return world.ticks;
}

void turns_reverse(bool reverse)
{
    world.reverse = reverse;
}

unsigned turns_calls(void)
{
    return world.calls;
}

uint64_t turns_now(void)
{
    return world.now_ms;
}

void turns_pass(uint64_t now)
{
    CHECK(now >= world.now_ms);
    world.now_ms = now;
}

static void tick(void)
{
    if (world.ticks++ == world.at && world.act)
        world.act();
}

/* ---- libuv's clocks; everything takes a microsecond ---- */

uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return world.now_ms;
}

uint64_t uv_hrtime(void)
{
    return world.now_ms * MSEC_NS + ++world.us * 1000;
}

/* ---- handles ---- */

static struct handle *add(uv_loop_t *loop, uv_handle_t *uv, enum kind kind)
{
    unsigned i = 0;
    while (i < world.n_handles && world.handles[i].kind != KIND_NONE)
        i++;
    CHECK(i < HANDLES);
    if (i == world.n_handles)
        world.n_handles++;
    world.handles[i] = (struct handle){.kind = kind, .loop = loop, .uv = uv};
    uv->loop = loop;
    return &world.handles[i];
}

static struct handle *find(const void *uv)
{
    for (unsigned i = 0; i < world.n_handles; i++)
        if (world.handles[i].kind != KIND_NONE && world.handles[i].uv == uv)
            return &world.handles[i];
    CHECK(!"a handle that was never initialised, or is closed");
    return NULL;
}

int uv_poll_init(uv_loop_t *loop, uv_poll_t *poll, int fd)
{
    add(loop, (uv_handle_t *)poll, KIND_POLL)->fd = fd;
    world.calls++;
    return 0;
}

int uv_poll_start(uv_poll_t *poll, int events, uv_poll_cb cb)
{
    struct handle *h = find(poll);
    CHECK(!h->closing);
    world.calls++;
    h->events = events;
    h->on_poll = cb;
    h->active = events != 0;
    return 0;
}

int uv_poll_stop(uv_poll_t *poll)
{
    find(poll)->active = false;
    world.calls++;
    return 0;
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer)
{
    add(loop, (uv_handle_t *)timer, KIND_TIMER);
    return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb cb, uint64_t timeout, uint64_t repeat)
{
    struct handle *h = find(timer);
    CHECK(repeat == 0);
    h->due = world.now_ms + timeout;
    h->on_timer = cb;
    h->active = true;
    return 0;
}

int uv_timer_stop(uv_timer_t *timer)
{
    find(timer)->active = false;
    return 0;
}

int uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb cb)
{
    add(loop, (uv_handle_t *)async, KIND_ASYNC)->on_async = cb;
    return 0;
}

int uv_async_send(uv_async_t *async)
{
    find(async)->active = true;
    world.calls++;
    return 0;
}

int uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare)
{
    add(loop, (uv_handle_t *)prepare, KIND_PREPARE);
    return 0;
}

int uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb cb)
{
    find(prepare)->on_prepare = cb;
    find(prepare)->active = true;
    return 0;
}

int uv_idle_init(uv_loop_t *loop, uv_idle_t *idle)
{
    add(loop, (uv_handle_t *)idle, KIND_IDLE);
    return 0;
}

int uv_idle_start(uv_idle_t *idle, uv_idle_cb cb)
{
    struct handle *h = find(idle);
    world.n_idle += !h->active;
    h->on_idle = cb;
    h->active = true;
    return 0;
}

int uv_idle_stop(uv_idle_t *idle)
{
    struct handle *h = find(idle);
    world.n_idle -= h->active;
    h->active = false;
    return 0;
}

void uv_close(uv_handle_t *uv, uv_close_cb cb)
{
    struct handle *h = find(uv);
    CHECK(!h->closing);
    world.n_closing++;
    world.calls += h->kind == KIND_POLL;
    world.n_idle -= h->kind == KIND_IDLE && h->active;
    h->closing = true;
    h->active = false;
    h->on_close = cb;
}

/* ---- loops ---- */

int uv_loop_init(uv_loop_t *loop)
{
    memset(loop, 0, sizeof *loop);
    return 0;
}

int uv_loop_close(uv_loop_t *loop)
{
    for (unsigned i = 0; i < world.n_handles; i++)
        if (world.handles[i].kind != KIND_NONE && world.handles[i].loop == loop)
            return UV_EBUSY;
    return 0;
}

int uv_run(uv_loop_t *loop, uv_run_mode mode)
{
    CHECK(mode == UV_RUN_DEFAULT);
    unsigned turns = 0;
    while (uv_loop_close(loop) != 0) {
        turn(OWNER(loop, struct loop, uv));
        CHECK(++turns < 1000); /* a handle is never closed */
    }
    return 0;
}

/* ---- one turn ---- */

static inline bool is_of(const struct handle *h, const struct loop *loop, enum kind kind)
{
    return h->kind == kind && h->loop == &loop->uv && h->active;
}

static unsigned events_of(const struct handle *h)
{
    unsigned said = wire_events(h->fd), events = 0;
    if (said & WIRE_IN)
        events |= UV_READABLE;
    if (said & WIRE_OUT)
        events |= UV_WRITABLE;
    if (said & WIRE_RDHUP)
        events |= UV_DISCONNECT;
    events &= (unsigned)h->events;
    if (said & WIRE_ERR)
        return ~0u;
    return events == 0 && (said & WIRE_HUP) ? (unsigned)h->events : events;
}

static void tell(struct handle *h, unsigned events)
{
    uv_poll_t *poll = (uv_poll_t *)h->uv;
    if (events == ~0u) {
        h->active = false;
        h->on_poll(poll, UV_EBADF, 0);
        return;
    }
    if (events & (unsigned)h->events)
        h->on_poll(poll, 0, (int)(events & (unsigned)h->events));
}

static bool run_events(struct loop *loop)
{
    unsigned at[HANDLES], events[HANDLES], n = 0;
    for (unsigned i = 0; i < world.n_handles; i++) {
        struct handle *h = &world.handles[i];
        bool due = is_of(h, loop, KIND_ASYNC);
        unsigned said = is_of(h, loop, KIND_POLL) ? events_of(h) : 0;
        if (!due && !said)
            continue;
        at[n] = i;
        events[n++] = said;
    }
    for (unsigned i = 0; i < n; i++) {
        unsigned k = world.reverse ? n - 1 - i : i;
        struct handle *h = &world.handles[at[k]];
        if (!h->active)
            continue;
        tick();
        if (!h->active) /* what happened may have ended it */
            continue;
        if (h->kind == KIND_ASYNC) {
            h->active = false;
            h->on_async((uv_async_t *)h->uv);
        } else {
            tell(h, events[k]);
        }
    }
    return n > 0;
}

static bool run_closed(struct loop *loop)
{
    bool any = false;
    for (unsigned i = 0; i < world.n_handles && world.n_closing; i++) {
        struct handle *h = &world.handles[i];
        if (h->kind == KIND_NONE || h->loop != &loop->uv || !h->closing)
            continue;
        h->kind = KIND_NONE;
        world.n_closing--;
        if (h->on_close)
            h->on_close(h->uv);
        any = true;
    }
    return any;
}

static bool run_timers(struct loop *loop)
{
    bool any = false;
    for (unsigned i = 0; i < world.n_handles; i++) {
        struct handle *h = &world.handles[i];
        if (!is_of(h, loop, KIND_TIMER) || h->due > world.now_ms)
            continue;
        tick();
        if (!h->active)
            continue;
        h->active = false;
        h->on_timer((uv_timer_t *)h->uv);
        any = true;
    }
    return any;
}

static bool run_idle(struct loop *loop)
{
    bool any = false;
    for (unsigned i = 0; i < world.n_handles && world.n_idle; i++) {
        struct handle *h = &world.handles[i];
        if (!is_of(h, loop, KIND_IDLE))
            continue;
        tick();
        h->on_idle((uv_idle_t *)h->uv);
        any = true;
    }
    return any;
}

static bool run_prepare(struct loop *loop)
{
    bool due = !list_empty(&loop->deferred);
    if (due)
        tick();
    unsigned i = 0;
    while (!is_of(&world.handles[i], loop, KIND_PREPARE))
        if (++i == world.n_handles)
            return due; /* the loop is being closed */
    world.handles[i].on_prepare((uv_prepare_t *)world.handles[i].uv);
    return due;
}

bool turn(struct loop *loop)
{
    bool any = run_timers(loop);
    any |= run_idle(loop);
    any |= run_prepare(loop);
    any |= run_events(loop);
    any |= run_closed(loop);
    any |= !list_empty(&loop->deferred);
    return any;
}

uint64_t turns_due(void)
{
    uint64_t due = UINT64_MAX;
    for (unsigned i = 0; i < world.n_handles; i++) {
        const struct handle *h = &world.handles[i];
        if (h->kind == KIND_TIMER && h->active && h->due < due)
            due = h->due;
    }
    return due;
}

unsigned turns_armed(const struct loop *loop)
{
    const struct timers *w = &loop->timers;
    const struct list *lists[] = {&w->far, &w->soon, &w->firing};
    unsigned n = 0;
    for (size_t i = 0; i < ARRAY_LEN(w->slots); i++)
        LIST_EACH(pos, &w->slots[i])
            n++;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        LIST_EACH(pos, lists[i])
            n++;
    return n;
}
