/* SPDX-License-Identifier: MIT */
/*
 * What timers cost: the same with ten thousand as with a hundred. The wheel is compiled in here,
 * with its list counting every node that is linked, unlinked or looked at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "proxy/core/list.h"

static unsigned long touched;

#define list_push_back(l, n) (touched++, list_push_back(l, n))
#define list_remove(n) (touched++, list_remove(n))
#undef LIST_EACH
#define LIST_EACH(pos, head)                                                                       \
    for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head);                  \
         touched++, pos = pos##_next, pos##_next = pos->next)

#include "proxy/core/timers.c"

#undef list_push_back
#undef list_remove

#include <cmocka.h>

#define FEW 100
#define MANY 10000
#define STEPS 20000

/* The most that a call has cost. */
struct cost {
    unsigned long set, stop, next;
    unsigned long calm; /* an advance that fires nothing */
    unsigned calms;     /* there were so many of these */
};

static struct timer timers[MANY];
static uint64_t seed;

static uint64_t draw(uint64_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (seed >> 11) % below;
}

static void nothing(struct timer *t)
{
    (void)t;
}

static void note(unsigned long *most)
{
    *most = touched > *most ? touched : *most;
    touched = 0;
}

/* Deadlines as connections have them: up to seconds or hours, set anew again and again. */
static uint64_t draw_due(uint64_t now)
{
    return now + 1 + draw(UINT64_C(1) << (10 + draw(15)));
}

static struct cost run(size_t crowd)
{
    struct timers w;
    struct cost cost = {0};
    uint64_t now = seed = 4242;
    timers_init(&w, now);
    for (size_t i = 0; i < crowd; i++) {
        timer_init(&timers[i], nothing);
        timer_set(&w, &timers[i], draw_due(now));
    }
    touched = 0;
    for (unsigned i = 0; i < STEPS; i++) {
        struct timer *t = &timers[draw(crowd)];
        timer_set(&w, t, draw_due(now));
        note(&cost.set);
        timer_stop(&w, t);
        note(&cost.stop);
        timer_set(&w, t, draw_due(now));
        touched = 0;
        uint64_t next = timers_next(&w);
        note(&cost.next);
        assert_true(next > now);
        if (next - 1 > now) { /* time goes on, and nothing is due */
            now = next - 1;
            assert_int_equal(timers_advance(&w, now), 0);
            note(&cost.calm);
            cost.calms++;
        }
        if (i % 16 == 0) {
            now = next;
            timers_advance(&w, now);
            touched = 0;
        }
    }
    return cost;
}

/* A call touches as many, however many there are. */
static void a_call_costs_the_same(void **state)
{
    (void)state;
    struct cost few = run(FEW), many = run(MANY);
    assert_int_equal(few.set, 2); /* off its place, to another */
    assert_int_equal(many.set, 2);
    assert_int_equal(few.stop, 1);
    assert_int_equal(many.stop, 1);
    assert_int_equal(few.next, 0);
    assert_int_equal(many.next, 0);
    assert_int_equal(few.calm, 0);
    assert_int_equal(many.calm, 0);
    assert_true(few.calms > 100 && many.calms > 100);
}

/* All that a timer costs from being set to firing: it comes nearer once a level at most. */
static unsigned long cost_of_firing(size_t crowd, uint64_t reach, uint64_t step)
{
    struct timers w;
    size_t fired = 0;
    uint64_t now = seed = 2424;
    timers_init(&w, now);
    for (size_t i = 0; i < crowd; i++) {
        timer_init(&timers[i], nothing);
        timer_set(&w, &timers[i], now + 1 + draw(reach));
    }
    touched = 0;
    for (uint64_t end = now + reach; now < end;) {
        now = now + step < end ? now + step : end;
        fired += timers_advance(&w, now);
    }
    assert_int_equal(fired, crowd);
    return touched;
}

static void a_timer_costs_the_same(void **state)
{
    (void)state;
    static const uint64_t reaches[] = {50, 3000, 200000, 10000000};
    enum { A_STEP = 3 }; /* looked at, off one list, on another */
    for (size_t i = 0; i < ARRAY_LEN(reaches); i++) {
        uint64_t reach = reaches[i], step = 1 + reach / 5000;
        unsigned long few = cost_of_firing(FEW, reach, step);
        unsigned long many = cost_of_firing(MANY, reach, step);
        assert_true(many <= MANY * (A_STEP * TIMERS_LEVELS + 1));
        assert_true(many / MANY <= few / FEW + 1);
    }
}

/* Those of the next two years do not cost those after them anything. */
static void what_is_far_away_costs_nothing(void **state)
{
    (void)state;
    struct timers w;
    timers_init(&w, 1000);
    for (size_t i = 0; i < MANY; i++) {
        timer_init(&timers[i], nothing);
        timer_set(&w, &timers[i], (UINT64_C(1) << 36) + i);
    }
    touched = 0;
    for (uint64_t now = 1000; now < 1000000; now += 7) {
        timers_advance(&w, now);
        (void)timers_next(&w);
    }
    assert_int_equal(touched, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_costs_the_same),
        cmocka_unit_test(a_timer_costs_the_same),
        cmocka_unit_test(what_is_far_away_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
