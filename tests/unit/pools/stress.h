/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One pool under clients that lease, wait, cancel, hold, give back and drop at random, and peers
 * that fail, linger, hang and take their time; for the runs with threads (test_stress.c) and
 * without (test_stress_turns.c).
 */
#include "tests/unit/pools/house.h"

#define STRESS_CLIENTS 24 /* of a worker */
#define STARVED_MS 20000

/* ---- dice ---- */

struct dice {
    uint64_t x;
};

static inline unsigned roll(struct dice *d, unsigned n)
{
    d->x ^= d->x << 13;
    d->x ^= d->x >> 7;
    d->x ^= d->x << 17;
    return (unsigned)((d->x >> 11) % n);
}

/* One in `n`. */
static inline bool chance(struct dice *d, unsigned n)
{
    return roll(d, n) == 0;
}

/* ---- the run ---- */

enum ending { END_DRAINED, END_STOPPED, END_KILLED };

struct stress_run {
    const char *name;
    unsigned workers, capacity;
    enum on_down on_down;
    enum ending ending;
};

enum client_state { REST, WAITING, HOLDING };

struct client {
    struct crew *crew;
    enum client_state state;
    struct waiter waiter;
    struct server *server;   /* an exclusive lease */
    struct fake_rider rider; /* or a shared one */
    bool asking;             /* of the exclusive one */
    unsigned turns;
    uint64_t ticket, since_ms;
};

/* The clients of one worker. */
struct crew {
    struct pool *pool;
    struct loop *loop;
    struct dice dice;
    uint64_t tickets;
    uint64_t leases, refused, cancelled, longest_ms;
    struct client clients[STRESS_CLIENTS];
};

struct stress {
    struct house house;
    struct stress_run run;
    struct crew crews[HOUSE_WORKERS];
    struct dice dial_dice;
    _Atomic bool calm;    /* dials go well, for now */
    _Atomic bool winding; /* no new leases */
    unsigned above;       /* slots were never more than this; under fake_lock() */
    uint64_t checks;      /* under fake_lock() */
};

extern struct stress st;

/* Opens the house, its crews at rest; dice for what else happens. */
void stress_open(const struct stress_run *run, uint64_t seed, struct dice *dice);
/* One of the crew's clients does something. */
void crew_step(struct crew *crew);
bool crew_rests(const struct crew *crew);

/* The upstream's own count never exceeds the slots taken, slots never exceed `max` (never grow
 * while above one that was lowered). */
void stress_bound_holds(void);
/* Another configuration, at random. */
void stress_reload(struct dice *d);
/* Something befalls one of the connections. */
void stress_harm(struct dice *d);
/* What came of it; it was enough to be worth the name. */
void stress_report(uint64_t seed);

/* CARPOOL_STRESS_..., if it is set. */
uint64_t stress_number(const char *name, uint64_t otherwise);

/* A whole test program: each kind of run, which is the test's state. What main() returns. */
int stress_all(void (*test)(void **state));
