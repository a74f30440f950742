/* SPDX-License-Identifier: MIT */
/* The far ends, and the upstream's own count of them. */
#include "tests/unit/pools/fake_io_private.h"

#include <limits.h>
#include <pthread.h>

#define FIRST_FD 1000000
#define PEERS 1024

static struct {
    pthread_mutex_t mutex;
    struct peer peers[PEERS];
    unsigned open, peak, next;
} world = {.mutex = PTHREAD_MUTEX_INITIALIZER};

void fake_lock(void)
{
    pthread_mutex_lock(&world.mutex);
}

void fake_unlock(void)
{
    pthread_mutex_unlock(&world.mutex);
}

unsigned fake_open_count(void)
{
    return world.open;
}

unsigned fake_open_peak(void)
{
    fake_lock();
    unsigned peak = world.peak;
    fake_unlock();
    return peak;
}

struct peer *fake_peer_of(int fd)
{
    CHECK(fd >= FIRST_FD && fd < FIRST_FD + PEERS);
    struct peer *p = &world.peers[fd - FIRST_FD];
    CHECK(p->used);
    return p;
}

static bool is_peer(int fd)
{
    return fd >= FIRST_FD && fd < FIRST_FD + PEERS && world.peers[fd - FIRST_FD].used;
}

void fake_not_open(struct peer *p)
{
    if (!p->open)
        return;
    p->open = false;
    world.open--;
}

bool fake_readable(const struct peer *p)
{
    return p->said_n || p->ended || p->reset;
}

void fake_wake(struct peer *p)
{
    if (p->watch)
        post_once(p->watch->loop, &p->watch->poke);
}

static void say(struct peer *p, const char *bytes, size_t n)
{
    if (p->ended || p->reset)
        return;
    CHECK(p->said_n + n <= SAID_MAX);
    memcpy(p->said + p->said_n, bytes, n);
    p->said_n += n;
    fake_wake(p);
}

static char answer_to(const struct peer *p, char question)
{
    switch (question) {
    case 'p':
        return p->how.refuses ? '-' : '+';
    case 'r':
        return p->how.refuses ? '-' : '=';
    case 'x':
        return '.';
    default:
        return 0;
    }
}

void fake_step(struct peer *p, uint64_t now)
{
    if (p->answer_at && now >= p->answer_at) {
        p->answer_at = 0;
        say(p, p->owed, p->owed_n);
        p->owed_n = 0;
    }
    if (p->our_end && !p->ended && !p->end_at && p->how.eof_ms != FAKE_NEVER)
        p->end_at = now + p->how.eof_ms;
    if (p->end_at && now >= p->end_at) {
        p->end_at = 0;
        p->ended = true;
        fake_wake(p);
    }
    if (!p->watch)
        return;
    uint64_t next = p->answer_at;
    if (p->end_at && (!next || p->end_at < next))
        next = p->end_at;
    if (next)
        timer_set(&p->watch->loop->timers, &p->watch->clock, next);
}

void fake_hear(struct peer *p, const char *bytes, size_t n)
{
    uint64_t now = loop_now(p->watch->loop);
    for (size_t i = 0; i < n; i++) {
        size_t had = strlen(p->heard);
        if (had + 1 == HEARD_MAX)
            memmove(p->heard, p->heard + 1, had--);
        p->heard[had] = bytes[i];
        p->heard[had + 1] = 0;
        char answer = answer_to(p, bytes[i]);
        if (!answer || p->how.answer_ms == FAKE_NEVER || p->ended)
            continue;
        CHECK(p->owed_n < sizeof p->owed);
        p->owed[p->owed_n++] = answer;
        if (!p->answer_at)
            p->answer_at = now + p->how.answer_ms;
    }
    fake_step(p, now);
}

/* ---- peers as tests see them ---- */

int fake_open(const struct fake_peer *how)
{
    fake_lock();
    unsigned i = world.next;
    unsigned tries = 0;
    while (world.peers[i].used && tries++ < PEERS)
        i = (i + 1) % PEERS;
    CHECK(!world.peers[i].used);
    world.next = (i + 1) % PEERS;
    world.peers[i] = (struct peer){.used = true, .open = true, .how = *how};
    if (++world.open > world.peak)
        world.peak = world.open;
    fake_unlock();
    return FIRST_FD + (int)i;
}

void fake_close(int fd)
{
    fake_lock();
    struct peer *p = fake_peer_of(fd);
    CHECK(!p->watch);
    fake_not_open(p);
    p->used = false;
    fake_unlock();
}

void fake_say(int fd, const char *bytes)
{
    fake_lock();
    if (is_peer(fd))
        say(fake_peer_of(fd), bytes, strlen(bytes));
    fake_unlock();
}

void fake_end(int fd)
{
    fake_lock();
    if (is_peer(fd)) {
        fake_peer_of(fd)->ended = true;
        fake_wake(fake_peer_of(fd));
    }
    fake_unlock();
}

void fake_reset(int fd)
{
    fake_lock();
    if (is_peer(fd)) {
        fake_peer_of(fd)->reset = true;
        fake_peer_of(fd)->said_n = 0;
        fake_wake(fake_peer_of(fd));
    }
    fake_unlock();
}

void fake_become(int fd, const struct fake_peer *how)
{
    fake_lock();
    if (is_peer(fd))
        fake_peer_of(fd)->how = *how;
    fake_unlock();
}

const char *fake_heard(int fd)
{
    return fake_peer_of(fd)->heard;
}

int fake_any(unsigned pick)
{
    fake_lock();
    int fd = -1;
    unsigned n = 0;
    for (int i = 0; i < PEERS; i++)
        n += world.peers[i].open;
    unsigned left = n ? pick % n : 0;
    for (int i = 0; n && i < PEERS && fd < 0; i++)
        if (world.peers[i].open && left-- == 0)
            fd = FIRST_FD + i;
    fake_unlock();
    return fd;
}
