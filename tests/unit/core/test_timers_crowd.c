/* SPDX-License-Identifier: MIT */
/* Ten thousand timers under random use, compared with a plain array after every advance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "proxy/core/timers.h"

#include <cmocka.h>

#define BLOCK (UINT64_C(1) << 36) /* what the levels span */
#define CROWD 10000

struct member {
    struct timer timer;
    struct crowd *crowd;
    uint64_t set_no; /* counts timer_set() calls, for the order among equals */
    bool armed, past;
};

struct crowd {
    struct timers wheel;
    struct member members[CROWD];
    uint64_t random, now, sets, armed;
    uint64_t last_due, last_set;
    size_t fired;
};

static uint64_t draw(struct crowd *c, uint64_t below)
{
    c->random = c->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (c->random >> 11) % below;
}

/* Mostly near, sometimes very far, sometimes past. */
static uint64_t draw_due(struct crowd *c)
{
    uint64_t reach = UINT64_C(1) << draw(c, 39);
    return draw(c, 20) == 0 ? c->now - draw(c, c->now < 50 ? c->now + 1 : 50)
                            : c->now + draw(c, reach);
}

static void member_set(struct member *m, uint64_t due)
{
    m->crowd->armed += !m->armed;
    m->armed = true;
    m->past = due <= m->crowd->now;
    m->set_no = ++m->crowd->sets;
    timer_set(&m->crowd->wheel, &m->timer, due);
}

static void member_stop(struct member *m)
{
    m->crowd->armed -= m->armed;
    m->armed = false;
    timer_stop(&m->crowd->wheel, &m->timer);
}

static void member_fired(struct timer *t)
{
    struct member *m = OWNER(t, struct member, timer);
    struct crowd *c = m->crowd;
    assert_true(m->armed);
    m->armed = false;
    c->armed--;
    c->fired++;
    assert_true(t->due <= c->now);
    /* What was past when it was set comes first, in the order of setting. */
    uint64_t due = m->past ? 0 : t->due;
    assert_true(due >= c->last_due);
    assert_true(due != c->last_due || m->set_no > c->last_set);
    c->last_due = due;
    c->last_set = m->set_no;
    struct member *other = &c->members[draw(c, CROWD)];
    switch (draw(c, 6)) {
    case 0:
        member_set(m, c->now + 1 + draw(c, 100000));
        break;
    case 1:
        member_stop(other);
        break;
    case 2:
        member_set(other, c->now + 1 + draw(c, 100000));
        break;
    default:
        break;
    }
}

static uint64_t earliest_due(const struct crowd *c)
{
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < CROWD; i++)
        if (c->members[i].armed && c->members[i].timer.due < first)
            first = c->members[i].timer.due;
    return first;
}

static void crowd_run(struct crowd *c, uint64_t start, int rounds)
{
    *c = (struct crowd){.random = start ^ 42, .now = start};
    timers_init(&c->wheel, start);
    for (size_t i = 0; i < CROWD; i++) {
        c->members[i].crowd = c;
        timer_init(&c->members[i].timer, member_fired);
    }
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 300; i++) {
            struct member *m = &c->members[draw(c, CROWD)];
            if (draw(c, 4) == 0)
                member_stop(m);
            else
                member_set(m, draw_due(c));
        }
        uint64_t first = earliest_due(c), next = timers_next(&c->wheel);
        assert_true(next <= (first < c->now ? c->now : first));
        assert_int_equal(next == TIMERS_NONE, c->armed == 0);
        c->now += draw(c, UINT64_C(1) << draw(c, round % 40 == 39 ? 37 : 16));
        c->last_due = c->last_set = 0;
        timers_advance(&c->wheel, c->now);
        assert_true(earliest_due(c) > c->now); /* nothing was forgotten */
    }
    for (size_t i = 0; i < CROWD; i++)
        assert_int_equal(timer_armed(&c->members[i].timer), c->members[i].armed);
    assert_true(c->fired > 1000);
    for (size_t i = 0; i < CROWD; i++)
        member_stop(&c->members[i]);
    assert_int_equal(timers_next(&c->wheel), TIMERS_NONE);
}

static void ten_thousand_against_a_plain_array(void **state)
{
    (void)state;
    struct crowd *c = malloc(sizeof *c);
    assert_non_null(c);
    crowd_run(c, 0, 200);
    crowd_run(c, BLOCK - 100000, 200);
    crowd_run(c, UINT64_C(0x123456789abcdef), 200);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_thousand_against_a_plain_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
