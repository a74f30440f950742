/* SPDX-License-Identifier: MIT */
#include "tests/unit/relays/turns.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "tests/unit/relays/memory.h"
#include "tests/unit/relays/wires.h"

#define WATCHED 512
#define LOOPS 16

/* What the kernel keeps of a set; places are used again. */
struct watched {
    bool used, told; /* told: of an error, which is told once if nothing else is watched */
    int set, fd;
    uint32_t events;
    struct source *source;
};

/* Descriptors of the world's own, far from those of wires. */
enum { SETS = 2000000, BELLS = 3000000, LIBUV = 4000000 };

static struct {
    struct watched watched[WATCHED];
    unsigned n_watched; /* places ever used */
    struct loop *loops[LOOPS];
    unsigned n_sets, n_bells;
    bool rung[LOOPS];
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

/* ---- libuv: its clocks, where everything takes a microsecond, and loops without handles ---- */

uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return world.now_ms;
}

uint64_t uv_hrtime(void)
{
    return world.now_ms * MSEC_NS + ++world.us * 1000;
}

void uv_update_time(uv_loop_t *loop)
{
    (void)loop;
}

int uv_loop_init(uv_loop_t *uv)
{
    unsigned i = 0;
    memset(uv, 0, sizeof *uv);
    while (world.loops[i])
        CHECK(++i < LOOPS);
    world.loops[i] = OWNER(uv, struct loop, uv);
    return 0;
}

int uv_loop_close(uv_loop_t *uv)
{
    const struct loop *loop = OWNER(uv, struct loop, uv);
    for (unsigned i = 0; i < LOOPS; i++)
        if (world.loops[i] == loop)
            world.loops[i] = NULL;
    for (unsigned i = 0; i < world.n_watched; i++) /* its set is closed next */
        if (world.watched[i].set == loop->set)
            world.watched[i].used = false;
    return 0;
}

int uv_loop_alive(const uv_loop_t *uv)
{
    (void)uv;
    return 0;
}

int uv_backend_fd(const uv_loop_t *uv)
{
    (void)uv;
    return LIBUV;
}

int uv_backend_timeout(const uv_loop_t *uv)
{
    (void)uv;
    return -1;
}

int uv_run(uv_loop_t *uv, uv_run_mode mode)
{
    (void)uv, (void)mode;
    CHECK(!"nothing of libuv's is here");
    return 0;
}

/* ---- the kernel's sets ---- */

int epoll_create1(int flags)
{
    (void)flags;
    return SETS + (int)world.n_sets++;
}

static struct watched *place_of(int set, int fd)
{
    for (unsigned i = 0; i < world.n_watched; i++)
        if (world.watched[i].used && world.watched[i].set == set && world.watched[i].fd == fd)
            return &world.watched[i];
    return NULL;
}

static struct watched *add(int set, int fd)
{
    unsigned i = 0;
    CHECK(!place_of(set, fd));
    while (i < world.n_watched && world.watched[i].used)
        i++;
    CHECK(i < WATCHED);
    if (i == world.n_watched)
        world.n_watched++;
    world.watched[i] = (struct watched){.used = true, .set = set, .fd = fd};
    return &world.watched[i];
}

int epoll_ctl(int set, int what, int fd, struct epoll_event *event)
{
    struct watched *w = what == EPOLL_CTL_ADD ? add(set, fd) : place_of(set, fd);
    CHECK(w != NULL);
    world.calls++;
    w->used = what != EPOLL_CTL_DEL;
    w->told = false;
    if (w->used) {
        w->events = event->events;
        w->source = event->data.ptr;
    }
    return 0;
}

int eventfd(unsigned count, int flags)
{
    (void)count, (void)flags;
    return BELLS + (int)(world.n_bells++ % LOOPS);
}

int eventfd_write(int fd, eventfd_t n)
{
    (void)n;
    world.calls++;
    world.rung[fd - BELLS] = true;
    return 0;
}

int eventfd_read(int fd, eventfd_t *n)
{
    *n = 1;
    world.rung[fd - BELLS] = false;
    return 0;
}

static uint32_t events_of(struct watched *w)
{
    if (w->fd == LIBUV)
        return 0;
    if (w->fd >= BELLS)
        return world.rung[w->fd - BELLS] ? EPOLLIN : 0;
    unsigned said = wire_events(w->fd);
    uint32_t events = 0;
    if (said & WIRE_IN)
        events |= EPOLLIN;
    if (said & WIRE_OUT)
        events |= EPOLLOUT;
    if (said & WIRE_RDHUP)
        events |= EPOLLRDHUP;
    events &= w->events;
    if (said & WIRE_ERR)
        events |= EPOLLERR;
    if (said & WIRE_HUP)
        events |= EPOLLHUP;
    if (w->events != EPOLLET)
        return events;
    bool news = events && !w->told;
    w->told |= events != 0;
    return news ? events : 0;
}

/* What is ready now, in the order in which it was added, or the other way round. */
static unsigned find_events(int set, struct watched *found[WATCHED], uint32_t events[WATCHED])
{
    unsigned n = 0;
    for (unsigned i = 0; i < world.n_watched; i++) {
        struct watched *w = &world.watched[world.reverse ? world.n_watched - 1 - i : i];
        uint32_t said = w->used && w->set == set ? events_of(w) : 0;
        if (!said)
            continue;
        found[n] = w;
        events[n++] = said;
    }
    return n;
}

int epoll_wait(int set, struct epoll_event *events, int max, int timeout)
{
    struct watched *found[WATCHED];
    uint32_t said[WATCHED];
    unsigned n = find_events(set, found, said);
    CHECK(n <= (unsigned)max);
    CHECK(n > 0 || timeout == 0); /* nobody would ever wake it */
    for (unsigned i = 0; i < n; i++)
        events[i] = (struct epoll_event){.events = said[i], .data.ptr = found[i]->source};
    return (int)n;
}

/* ---- one turn ---- */

static bool run_events(struct loop *loop)
{
    struct watched *found[WATCHED];
    struct source *sources[WATCHED];
    uint32_t events[WATCHED];
    unsigned n = find_events(loop->set, found, events);
    for (unsigned i = 0; i < n; i++)
        sources[i] = found[i]->source;
    for (unsigned i = 0; i < n; i++) {
        tick();
        sources[i]->on_events(sources[i], events[i]);
    }
    return n > 0;
}

static bool run_timers(struct loop *loop)
{
    if (timers_next(&loop->timers) > world.now_ms)
        return false;
    tick();
    timers_advance(&loop->timers, world.now_ms);
    return true;
}

bool turn(struct loop *loop)
{
    bool any = run_timers(loop), due = !list_empty(&loop->deferred) || !list_empty(&loop->next);
    if (due)
        tick();
    (void)loop_prepare(loop);
    any |= due;
    any |= run_events(loop);
    any |= !list_empty(&loop->deferred);
    return any;
}

uint64_t turns_due(void)
{
    uint64_t due = UINT64_MAX;
    for (unsigned i = 0; i < LOOPS; i++) {
        uint64_t next = world.loops[i] ? timers_next(&world.loops[i]->timers) : UINT64_MAX;
        due = next < due ? next : due;
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
