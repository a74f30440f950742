/* SPDX-License-Identifier: MIT */
/* Timers: when they fire, in which order, and what callbacks may do to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "proxy/core/timers.h"

#include <cmocka.h>

#define BLOCK (UINT64_C(1) << 36) /* what the levels span */

/* A timer that writes down when it fired. */
struct probe {
    struct timer timer;
    struct timers *wheel;
    struct log *log;
    int id;
};

struct log {
    int ids[64];
    size_t n;
};

static void on_fire(struct timer *t)
{
    struct probe *p = OWNER(t, struct probe, timer);
    assert_false(timer_armed(t));
    assert_true(p->log->n < ARRAY_LEN(p->log->ids));
    p->log->ids[p->log->n++] = p->id;
}

static void probe_init(struct probe *p, struct timers *w, struct log *log, int id)
{
    *p = (struct probe){.wheel = w, .log = log, .id = id};
    timer_init(&p->timer, on_fire);
}

static void fires_at_its_time_and_once(void **state)
{
    (void)state;
    struct timers w;
    struct log log = {0};
    struct probe p;
    timers_init(&w, 1000);
    probe_init(&p, &w, &log, 1);
    assert_false(timer_armed(&p.timer));
    assert_int_equal(timers_next(&w), TIMERS_NONE);

    timer_set(&w, &p.timer, 1005);
    assert_true(timer_armed(&p.timer));
    assert_int_equal(timers_next(&w), 1005);
    assert_int_equal(timers_advance(&w, 1004), 0);
    assert_int_equal(timers_advance(&w, 1005), 1);
    assert_int_equal(log.n, 1);
    assert_false(timer_armed(&p.timer));
    assert_int_equal(timers_next(&w), TIMERS_NONE);
    assert_int_equal(timers_advance(&w, 99999), 0);
}

static void stopped_never_fires(void **state)
{
    (void)state;
    static const uint64_t dues[] = {0,    999,     1000,      1001,      1063,          1064,
                                    5096, 1000000, BLOCK - 1, BLOCK + 5, 7 * BLOCK + 9, UINT64_MAX};
    struct timers w;
    struct log log = {0};
    struct probe p[ARRAY_LEN(dues)];
    timers_init(&w, 1000);
    for (size_t i = 0; i < ARRAY_LEN(dues); i++) {
        probe_init(&p[i], &w, &log, (int)i);
        timer_set(&w, &p[i].timer, dues[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(dues); i++) {
        timer_stop(&w, &p[i].timer);
        timer_stop(&w, &p[i].timer); /* twice is nothing */
        assert_false(timer_armed(&p[i].timer));
    }
    /* No slot is left marked as in use: there is nothing to wake up for. */
    assert_int_equal(timers_next(&w), TIMERS_NONE);
    assert_int_equal(timers_advance(&w, UINT64_MAX), 0);
    assert_int_equal(log.n, 0);
}

static void stopping_one_of_a_slot_keeps_the_other(void **state)
{
    (void)state;
    for (int stop = 0; stop < 3; stop++) {
        struct timers w;
        struct log log = {0};
        struct probe p[3];
        timers_init(&w, 0);
        for (int i = 0; i < 3; i++) {
            probe_init(&p[i], &w, &log, i);
            timer_set(&w, &p[i].timer, 5000);
        }
        timer_stop(&w, &p[stop].timer);
        assert_true(timers_next(&w) <= 5000);
        assert_int_equal(timers_advance(&w, 5000), 2);
        assert_int_equal(log.ids[0], stop == 0 ? 1 : 0);
        assert_int_equal(log.ids[1], stop == 2 ? 1 : 2);
    }
}

static void set_again_moves_it(void **state)
{
    (void)state;
    struct timers w;
    struct log log = {0};
    struct probe p;
    timers_init(&w, 0);
    probe_init(&p, &w, &log, 1);
    timer_set(&w, &p.timer, 10);
    timer_set(&w, &p.timer, 100000); /* later */
    assert_int_equal(timers_advance(&w, 99999), 0);
    timer_set(&w, &p.timer, 200000);
    timer_set(&w, &p.timer, 150000); /* earlier */
    assert_int_equal(timers_advance(&w, 150000), 1);
    assert_int_equal(timers_advance(&w, 300000), 0);
}

static void order_is_due_then_setting(void **state)
{
    (void)state;
    /* Set in this order; what is equal stays in it, however far away it was when set. */
    static const struct {
        uint64_t due;
        int place;
    } rows[] = {{70000, 5}, {3, 0},    {4096, 2},      {70000, 6}, {64, 1},
                {4096, 3},  {5000, 4}, {BLOCK + 1, 8}, {BLOCK, 7}, {BLOCK + 1, 9}};
    struct timers w;
    struct log log = {0};
    struct probe p[ARRAY_LEN(rows)];
    timers_init(&w, 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        probe_init(&p[i], &w, &log, rows[i].place);
        timer_set(&w, &p[i].timer, rows[i].due);
    }
    assert_int_equal(timers_advance(&w, 2 * BLOCK), ARRAY_LEN(rows)); /* all in one jump */
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(log.ids[i], i);
}

static void equal_dues_set_from_afar_and_from_near(void **state)
{
    (void)state;
    struct timers w;
    struct log log = {0};
    struct probe p[3];
    timers_init(&w, 0);
    for (int i = 0; i < 3; i++)
        probe_init(&p[i], &w, &log, i);
    timer_set(&w, &p[0].timer, 5000); /* level 2 */
    timers_advance(&w, 4500);
    timer_set(&w, &p[1].timer, 5000);
    timers_advance(&w, 4999);
    timer_set(&w, &p[2].timer, 5000); /* level 0 */
    timers_advance(&w, 5000);
    assert_int_equal(log.n, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(log.ids[i], i);
}

static void sleeping_until_next_reaches_every_due(void **state)
{
    (void)state;
    static const uint64_t starts[] = {0, 1, 63, 64, 4095, 123456789, BLOCK - 1, BLOCK + 77};
    struct timers w;
    struct log log = {0};
    struct probe p;
    for (size_t s = 0; s < ARRAY_LEN(starts); s++)
        for (unsigned bit = 0; bit < 40; bit++)
            for (int off = -1; off <= 1; off++) {
                uint64_t due = starts[s] + (UINT64_C(1) << bit) + (uint64_t)(int64_t)off;
                timers_init(&w, starts[s]);
                probe_init(&p, &w, &log, 0);
                timer_set(&w, &p.timer, due);
                log.n = 0;
                uint64_t now = starts[s];
                int wakeups = 0;
                while (log.n == 0) {
                    assert_true(timers_next(&w) <= due);
                    assert_true(timers_next(&w) >= now);
                    now = timers_next(&w);
                    timers_advance(&w, now);
                    wakeups++;
                    assert_true(wakeups <= 20);
                }
                assert_int_equal(now, due);
                assert_true(wakeups <= 7 || due >= BLOCK);
            }
}

static void past_due_fires_at_the_next_advance(void **state)
{
    (void)state;
    struct timers w;
    struct log log = {0};
    struct probe late, later;
    timers_init(&w, 1000);
    probe_init(&late, &w, &log, 1);
    probe_init(&later, &w, &log, 2);
    timer_set(&w, &later.timer, 1001);
    timer_set(&w, &late.timer, 3);
    assert_true(timers_next(&w) <= 1000);
    assert_int_equal(timers_advance(&w, 1000), 1); /* time did not even pass */
    assert_int_equal(log.ids[0], 1);
    assert_int_equal(timers_next(&w), 1001);
}

static void a_clock_that_goes_back_turns_nothing_back(void **state)
{
    (void)state;
    struct timers w;
    struct log log = {0};
    struct probe p;
    timers_init(&w, 1000);
    timers_advance(&w, 2000);
    assert_int_equal(timers_advance(&w, 1500), 0);
    probe_init(&p, &w, &log, 1);
    timer_set(&w, &p.timer, 2010);
    assert_int_equal(timers_advance(&w, 1500), 0);
    assert_int_equal(timers_next(&w), 2010);
    assert_int_equal(timers_advance(&w, 2010), 1);
}

/* ---- what callbacks do --------------------------------------------------------------------- */

static void fire_and_set_at_once(struct timer *t)
{
    struct probe *p = OWNER(t, struct probe, timer);
    on_fire(t);
    timer_set(p->wheel, t, t->due); /* due already */
}

static void a_timer_that_sets_itself_due_does_not_spin(void **state)
{
    (void)state;
    struct timers w;
    struct log log = {0};
    struct probe p;
    timers_init(&w, 0);
    probe_init(&p, &w, &log, 1);
    p.timer.fire = fire_and_set_at_once;
    timer_set(&w, &p.timer, 50);
    assert_int_equal(timers_advance(&w, 100), 1);
    assert_true(timers_next(&w) <= 100);
    assert_int_equal(timers_advance(&w, 100), 1);
    assert_int_equal(timers_advance(&w, 101), 1);
    timer_stop(&w, &p.timer);
    assert_int_equal(timers_next(&w), TIMERS_NONE);
}

static void fire_and_set_a_period_later(struct timer *t)
{
    struct probe *p = OWNER(t, struct probe, timer);
    on_fire(t);
    timer_set(p->wheel, t, t->due + 100);
}

static void a_late_period_catches_up_once_per_advance(void **state)
{
    (void)state;
    struct timers w;
    struct log log = {0};
    struct probe p;
    timers_init(&w, 0);
    probe_init(&p, &w, &log, 1);
    p.timer.fire = fire_and_set_a_period_later;
    timer_set(&w, &p.timer, 100);
    assert_int_equal(timers_advance(&w, 350), 1);
    assert_int_equal(timers_advance(&w, 350), 1); /* the one of 200 */
    assert_int_equal(timers_advance(&w, 350), 1); /* the one of 300 */
    assert_int_equal(timers_advance(&w, 350), 0);
    assert_int_equal(timers_next(&w) <= 400, 1);
    assert_int_equal(timers_advance(&w, 400), 1);
}

/* A callback that stops another timer and sets a third. */
struct meddler {
    struct probe probe;
    struct timer *stop, *set;
    uint64_t set_due;
};

static void meddle(struct timer *t)
{
    struct meddler *m = OWNER(t, struct meddler, probe.timer);
    on_fire(t);
    timer_stop(m->probe.wheel, m->stop);
    timer_set(m->probe.wheel, m->set, m->set_due);
}

static void callbacks_may_stop_and_set_others(void **state)
{
    (void)state;
    /* The victim is due in the same millisecond, in the same advance, or much later. */
    static const uint64_t victims[] = {100, 101, 150, 100000};
    for (size_t i = 0; i < ARRAY_LEN(victims); i++) {
        struct timers w;
        struct log log = {0};
        struct meddler m;
        struct probe victim, moved;
        timers_init(&w, 0);
        probe_init(&m.probe, &w, &log, 1);
        m.probe.timer.fire = meddle;
        probe_init(&victim, &w, &log, 2);
        probe_init(&moved, &w, &log, 3);
        m.stop = &victim.timer;
        m.set = &moved.timer;
        m.set_due = 5000;
        timer_set(&w, &m.probe.timer, 100);
        timer_set(&w, &victim.timer, victims[i]);
        timer_set(&w, &moved.timer, 100); /* about to fire, but is put off */
        assert_int_equal(timers_advance(&w, 200), 1);
        assert_int_equal(timers_advance(&w, 200000), 1);
        assert_int_equal(log.n, 2);
        assert_int_equal(log.ids[0], 1);
        assert_int_equal(log.ids[1], 3);
    }
}

static void set_for_the_running_target_waits_for_the_next_advance(void **state)
{
    (void)state;
    struct timers w;
    struct log log = {0};
    struct meddler m;
    struct probe nobody, set;
    timers_init(&w, 0);
    probe_init(&m.probe, &w, &log, 1);
    m.probe.timer.fire = meddle;
    probe_init(&nobody, &w, &log, 2);
    probe_init(&set, &w, &log, 3);
    m.stop = &nobody.timer;
    m.set = &set.timer;
    m.set_due = 200;
    timer_set(&w, &m.probe.timer, 100);
    assert_int_equal(timers_advance(&w, 200), 1);
    assert_int_equal(timers_next(&w), 200);
    assert_int_equal(timers_advance(&w, 200), 1);
}

struct doomed {
    struct probe probe;
    struct doomed *other;
};

static void fire_and_free(struct timer *t)
{
    struct doomed *d = OWNER(t, struct doomed, probe.timer);
    on_fire(t);
    if (d->other) {
        timer_stop(d->probe.wheel, &d->other->probe.timer);
        free(d->other);
    }
    free(d);
}

static void callbacks_may_free_themselves_and_others(void **state)
{
    (void)state;
    for (uint64_t other_due = 99; other_due <= 101; other_due++) {
        struct timers w;
        struct log log = {0};
        timers_init(&w, 0);
        struct doomed *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
        assert_true(a && b);
        probe_init(&a->probe, &w, &log, 1);
        probe_init(&b->probe, &w, &log, 2);
        a->probe.timer.fire = b->probe.timer.fire = fire_and_free;
        a->other = other_due < 100 ? NULL : b;
        timer_set(&w, &a->probe.timer, 100);
        timer_set(&w, &b->probe.timer, other_due);
        size_t expected = other_due < 100 ? 2 : 1;
        assert_int_equal(timers_advance(&w, 500), expected);
        assert_int_equal(timers_next(&w), TIMERS_NONE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fires_at_its_time_and_once),
        cmocka_unit_test(stopped_never_fires),
        cmocka_unit_test(stopping_one_of_a_slot_keeps_the_other),
        cmocka_unit_test(set_again_moves_it),
        cmocka_unit_test(order_is_due_then_setting),
        cmocka_unit_test(equal_dues_set_from_afar_and_from_near),
        cmocka_unit_test(sleeping_until_next_reaches_every_due),
        cmocka_unit_test(past_due_fires_at_the_next_advance),
        cmocka_unit_test(a_clock_that_goes_back_turns_nothing_back),
        cmocka_unit_test(a_timer_that_sets_itself_due_does_not_spin),
        cmocka_unit_test(a_late_period_catches_up_once_per_advance),
        cmocka_unit_test(callbacks_may_stop_and_set_others),
        cmocka_unit_test(set_for_the_running_target_waits_for_the_next_advance),
        cmocka_unit_test(callbacks_may_free_themselves_and_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
