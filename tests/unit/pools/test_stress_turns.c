/* SPDX-License-Identifier: MIT */
/*
 * The same random life as in test_stress.c, on one thread: each step is one client's, one turn of
 * one loop, a millisecond that one loop hears of, or a misfortune. After each of them all books are
 * compared with each other and with the truth. The same seed is the same run.
 *
 * CARPOOL_STRESS_STEPS lengthens each run, CARPOOL_STRESS_SEED repeats one.
 */
#include <setjmp.h>
#include <stdarg.h>

#include "tests/unit/pools/stress.h"

#include <cmocka.h>

#define STEPS 100000

static bool paused, forced;

static void something_happens(struct dice *d)
{
    struct ledger *l = st.house.ledger;
    switch (roll(d, 12)) {
    case 0:
        stress_reload(d);
        return;
    case 1:
        paused = !paused && chance(d, 4);
        ledger_pause(l, paused, house_now());
        house_ask_all(&st.house);
        return;
    case 2:
        ledger_recycle(l);
        house_ask_all(&st.house);
        return;
    case 3:
        forced = !forced && chance(d, 4);
        ledger_force_breaker(l, forced ? BREAKER_FORCE_OPEN : BREAKER_FORCE_AUTO, house_now());
        return;
    case 4:
        atomic_store(&st.calm, !chance(d, 3));
        return;
    default:
        stress_harm(d);
        return;
    }
}

static void step(struct dice *d)
{
    unsigned loops = st.run.workers + 1;
    switch (roll(d, 16)) {
    case 0:
        if (!atomic_load(&st.winding) && chance(d, 4))
            something_happens(d);
        break;
    case 1:
        house_tick(&st.house, 1);
        break;
    case 2:
    case 3:
    case 4:
        house_hear(&st.house, roll(d, loops));
        break;
    case 5:
    case 6:
    case 7:
    case 8:
        crew_step(&st.crews[roll(d, st.run.workers)]);
        break;
    default:
        house_turn(&st.house, roll(d, loops));
        break;
    }
    stress_bound_holds();
    house_audit(&st.house);
}

static bool all_rest(void)
{
    for (unsigned i = 0; i < st.run.workers; i++)
        if (!crew_rests(&st.crews[i]))
            return false;
    return true;
}

/* No misfortunes any more: whoever wants something gets it, or is told. */
static void wind_up(struct dice *d)
{
    paused = forced = false;
    ledger_pause(st.house.ledger, false, house_now());
    ledger_force_breaker(st.house.ledger, BREAKER_FORCE_AUTO, house_now());
    house_ask_all(&st.house);
    atomic_store(&st.calm, true);
    atomic_store(&st.winding, true);
    if (st.run.ending != END_DRAINED)
        house_stop(&st.house);
    for (unsigned i = 0; st.run.ending == END_KILLED && i < st.run.workers; i++)
        pool_kill(st.house.pools[i]);
    for (unsigned i = 0; !all_rest(); i++) {
        CHECK(i < 1000000);
        step(d);
    }
}

static void audited(void **state)
{
    const struct stress_run *run = *state;
    uint64_t seed = stress_number("CARPOOL_STRESS_SEED", uv_hrtime() >> 8);
    uint64_t steps = stress_number("CARPOOL_STRESS_STEPS", STEPS);
    struct dice dice;
    print_message("%s: seed %llu\n", run->name, (unsigned long long)seed);
    stress_open(run, seed, &dice);
    paused = forced = false;
    while (steps--)
        step(&dice);
    wind_up(&dice);
    stress_report(seed);
    house_close(&st.house);
}

int main(void)
{
    return stress_all(audited);
}
