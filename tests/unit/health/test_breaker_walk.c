/* SPDX-License-Identifier: MIT */
/* The breaker on every sequence of six steps from half open: what holds whatever came before. */
#include <setjmp.h>
#include <stdarg.h>

#include "health/breaker.h"

#include <cmocka.h>

#define HOLD 5000 /* how long a permit lasts */
#define LENGTH 6

static const struct breaker_conf quick = {
    .consecutive = 2,
    .failure_ratio = 50,
    .min_requests = 20,
    .open_min_ms = 1000,
    .open_max_ms = 30000,
};

enum step {
    STEP_SUCCESS,
    STEP_HARD,
    STEP_SOFT,
    STEP_ASK,
    STEP_TRIAL_PASSED,
    STEP_TRIAL_FAILED,
    STEP_TRIAL_NEUTRAL,
    STEP_WAIT,
    STEP_FORCE_OPEN,
    STEP_FORCE_AUTO,
    STEP_COUNT,
};

struct walk {
    struct breaker b;
    uint64_t now;
    uint32_t permit; /* what a worker holds */
    uint64_t permit_until;
    int passed; /* trials since it is half open */
    int hard;   /* hard failures in a row while closed */
};

static void walk_ask(struct walk *w)
{
    enum breaker_state before = w->b.state;
    uint32_t permit;
    switch (breaker_ask(&w->b, w->now, HOLD, &permit)) {
    case BREAKER_PASS:
        assert_int_equal(before, BREAKER_CLOSED);
        break;
    case BREAKER_TRIAL:
        assert_int_equal(before, BREAKER_HALF_OPEN);
        assert_true(w->permit == 0 || w->now >= w->permit_until);
        w->permit = permit;
        w->permit_until = w->now + HOLD;
        break;
    case BREAKER_REFUSE:
        assert_int_not_equal(before, BREAKER_CLOSED);
        assert_true(breaker_next(&w->b) > w->now);
        break;
    }
    assert_int_equal(w->b.state, before);
}

static bool walk_fail(struct walk *w)
{
    w->hard += w->b.state == BREAKER_CLOSED;
    bool opens = w->b.state == BREAKER_CLOSED && w->hard == 2;
    assert_int_equal(breaker_failure(&w->b, w->now, BREAKER_HARD), opens);
    return opens;
}

static bool walk_trial(struct walk *w, enum breaker_outcome outcome)
{
    bool held = w->permit != 0;
    w->passed += held && outcome == BREAKER_PASSED;
    bool decides = held && (outcome == BREAKER_FAILED || w->passed == 3);
    assert_int_equal(breaker_trial(&w->b, w->now, w->permit, outcome), decides);
    w->permit = 0;
    return decides;
}

static bool walk_wait(struct walk *w)
{
    w->now += 1200; /* the longest first open time */
    bool due = w->b.state == BREAKER_OPEN && w->now >= breaker_next(&w->b);
    assert_int_equal(breaker_tick(&w->b, w->now), due);
    return due;
}

/* Returns whether the state changed, as the breaker said. */
static bool walk_do(struct walk *w, enum step step)
{
    switch (step) {
    case STEP_SUCCESS:
        breaker_success(&w->b, w->now, 1);
        w->hard = 0;
        return false;
    case STEP_HARD:
        return walk_fail(w);
    case STEP_SOFT:
        return breaker_failure(&w->b, w->now, BREAKER_SOFT);
    case STEP_ASK:
        walk_ask(w);
        return false;
    case STEP_TRIAL_PASSED:
        return walk_trial(w, BREAKER_PASSED);
    case STEP_TRIAL_FAILED:
        return walk_trial(w, BREAKER_FAILED);
    case STEP_TRIAL_NEUTRAL:
        return walk_trial(w, BREAKER_NEUTRAL);
    case STEP_WAIT:
        return walk_wait(w);
    case STEP_FORCE_OPEN:
        return breaker_force(&w->b, w->now, BREAKER_FORCE_OPEN);
    case STEP_FORCE_AUTO:
        return breaker_force(&w->b, w->now, BREAKER_FORCE_AUTO);
    case STEP_COUNT:
        break;
    }
    return false;
}

static void walk_step(struct walk *w, enum step step)
{
    enum breaker_state before = w->b.state;
    bool changed = walk_do(w, step);
    assert_int_equal(changed, w->b.state != before);
    if (!changed)
        return;
    assert_int_equal(w->b.since, w->now);
    w->permit = 0;
    w->passed = w->hard = 0;
}

static void every_sequence_of_six_steps(void **state)
{
    (void)state;
    unsigned reached[BREAKER_STATE_COUNT] = {0};
    uint32_t sequences = 1;
    for (int i = 0; i < LENGTH; i++)
        sequences *= STEP_COUNT;
    /* From half open, as that is the most involved; closed and open come soon enough. */
    for (uint32_t n = 0; n < sequences; n++) {
        struct walk w = {.now = 1000};
        breaker_init(&w.b, BREAKER_SERVICE, &quick, 0, n);
        walk_step(&w, STEP_HARD);
        walk_step(&w, STEP_HARD);
        walk_step(&w, STEP_WAIT);
        uint32_t rest = n;
        for (int i = 0; i < LENGTH; i++, rest /= STEP_COUNT)
            walk_step(&w, (enum step)(rest % STEP_COUNT));
        reached[w.b.state]++;
    }
    for (int s = 0; s < BREAKER_FORCED_CLOSED; s++)
        assert_true(reached[s] > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sequence_of_six_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
