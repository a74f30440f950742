/* SPDX-License-Identifier: MIT */
/*
 * Random leases, failures, moves and reloads over one to three workers, on threads of their own.
 *
 *   crews     per worker: clients that lease, wait, cancel, hold, give back, drop
 *   chaos     the main thread: reloads, pauses, recycles, peers that end, reset, talk out of turn
 *   dialer    dials that fail, linger, hang and take their time
 *
 * After each step the bound is looked at (stress_bound_holds). Again and again the world is stopped
 * and all books are compared; test_stress_turns.c does that after each step. At the end everything
 * is back: slots, leases, connections, memory.
 *
 * CARPOOL_STRESS_SECONDS lengthens each run, CARPOOL_STRESS_SEED repeats one's dice (not its
 * threads).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <poll.h>

#include "tests/unit/pools/stress.h"

#include <cmocka.h>

/* ---- crews on their threads ---- */

struct shift {
    struct crew *crew;
    struct timer step;
    struct post_msg start, stop, kill;
    _Atomic bool resting; /* nobody holds or waits for anything */
};

static struct shift shifts[HOUSE_WORKERS];

static void on_step(struct timer *t)
{
    struct shift *s = OWNER(t, struct shift, step);
    for (unsigned i = 0; i < STRESS_CLIENTS / 2; i++) {
        crew_step(s->crew);
        CHECK(pool_ok(s->crew->pool));
    }
    stress_bound_holds();
    if (atomic_load(&st.winding) && crew_rests(s->crew)) {
        atomic_store(&s->resting, true);
        return;
    }
    loop_timer_set(s->crew->loop, &s->step, 1);
}

static void on_start(struct post_msg *msg)
{
    on_step(&OWNER(msg, struct shift, start)->step);
}

static void on_quiet(struct pool *p, void *arg)
{
    (void)p;
    (void)arg;
    atomic_fetch_add(&st.house.quiet, 1);
}

static void on_stop(struct post_msg *msg)
{
    pool_stop(OWNER(msg, struct shift, stop)->crew->pool, on_quiet, NULL);
}

static void on_kill(struct post_msg *msg)
{
    pool_kill(OWNER(msg, struct shift, kill)->crew->pool);
}

static void shift_begin(unsigned i)
{
    struct shift *s = &shifts[i];
    *s = (struct shift){.crew = &st.crews[i]};
    timer_init(&s->step, on_step);
    post_init(&s->start, on_start, NULL);
    post_init(&s->stop, on_stop, NULL);
    post_init(&s->kill, on_kill, NULL);
    post(s->crew->loop, &s->start);
}

/* ---- chaos ---- */

static uint64_t real_ms(void)
{
    return uv_hrtime() / MSEC_NS;
}

static void look_at_everything(void)
{
    house_stand(&st.house);
    house_audit(&st.house);
    house_go_on(&st.house);
}

static void chaos_step(struct dice *d)
{
    struct ledger *l = st.house.ledger;
    uint64_t now = loop_now(&st.house.dialer_loop);
    switch (roll(d, 14)) {
    case 0:
        stress_reload(d);
        return;
    case 1:
        ledger_pause(l, true, now);
        poll(NULL, 0, (int)roll(d, 5));
        ledger_pause(l, false, now);
        house_ask_all(&st.house);
        return;
    case 2:
        ledger_recycle(l);
        house_ask_all(&st.house);
        return;
    case 3:
        if (chance(d, 4)) {
            ledger_force_breaker(l, BREAKER_FORCE_OPEN, now);
            poll(NULL, 0, 5);
            ledger_force_breaker(l, BREAKER_FORCE_AUTO, now);
        }
        return;
    case 4:
        look_at_everything();
        return;
    case 5:
        atomic_store(&st.calm, !chance(d, 3));
        return;
    case 6:
    case 7:
        return;
    default:
        stress_harm(d);
        return;
    }
}

/* ---- one run ---- */

static bool all_resting(void)
{
    bool all = true;
    for (unsigned i = 0; i < st.run.workers; i++)
        all = all && atomic_load(&shifts[i].resting);
    return all;
}

static bool all_quiet(void)
{
    return atomic_load(&st.house.quiet) == st.run.workers;
}

static void await(bool (*done)(void))
{
    for (uint64_t end = real_ms() + STARVED_MS + 10000; !done();) {
        CHECK(real_ms() < end);
        poll(NULL, 0, 2);
    }
}

static void on_dialer_stop(struct post_msg *msg)
{
    (void)msg;
    dialer_stop(&st.house.dialer);
}

static void end_pools(void)
{
    static struct post_msg stop_dials; /* the dialer may be last to hear of it */
    post_init(&stop_dials, on_dialer_stop, NULL);
    post(&st.house.dialer_loop, &stop_dials);
    for (unsigned i = 0; i < st.run.workers; i++)
        post(&st.house.loops[i], &shifts[i].stop);
    if (st.run.ending == END_KILLED) {
        poll(NULL, 0, 5);
        for (unsigned i = 0; i < st.run.workers; i++)
            post(&st.house.loops[i], &shifts[i].kill);
    }
    await(all_quiet);
    await(all_resting); /* clients that wait learn of it, those that hold end in their own time */
}

static void stress(void **state)
{
    const struct stress_run *run = *state;
    uint64_t seed = stress_number("CARPOOL_STRESS_SEED", uv_hrtime() >> 8);
    uint64_t ms = stress_number("CARPOOL_STRESS_SECONDS", 0) * 1000;
    struct dice dice;
    print_message("%s: seed %llu\n", run->name, (unsigned long long)seed);
    stress_open(run, seed, &dice);
    for (unsigned i = 0; i < run->workers; i++)
        shift_begin(i);
    house_run(&st.house);

    for (uint64_t end = real_ms() + (ms ? ms : 1200); real_ms() < end;) {
        chaos_step(&dice);
        poll(NULL, 0, (int)roll(&dice, 12));
    }
    atomic_store(&st.calm, true);
    atomic_store(&st.winding, true);
    if (run->ending == END_DRAINED)
        await(all_resting);
    look_at_everything();
    end_pools();
    look_at_everything();
    house_join(&st.house);
    stress_report(seed);
    house_free(&st.house);
}

int main(void)
{
    return stress_all(stress);
}
