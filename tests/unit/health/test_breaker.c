/* SPDX-License-Identifier: MIT */
/* The breaker: when it opens, for how long, how it finds the way back, and what never happens. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include "health/breaker.h"

#include <cmocka.h>

static const struct breaker_conf usual = {
    .consecutive = 5,
    .failure_ratio = 50,
    .min_requests = 20,
    .open_min_ms = 1000,
    .open_max_ms = 30000,
};

#define HOLD 5000 /* how long a permit lasts in these tests */

static struct breaker fresh(enum breaker_role role)
{
    struct breaker b;
    breaker_init(&b, role, &usual, 0, 12345);
    return b;
}

static enum breaker_answer ask(struct breaker *b, uint64_t now)
{
    uint32_t permit;
    enum breaker_answer answer = breaker_ask(b, now, HOLD, &permit);
    assert_int_equal(permit != 0, answer == BREAKER_TRIAL);
    return answer;
}

static void fail_times(struct breaker *b, uint64_t now, int times)
{
    for (int i = 0; i < times; i++)
        breaker_failure(b, now, BREAKER_HARD);
}

/* Opens it at `now` and returns when it wants to be half open. */
static uint64_t trip(struct breaker *b, uint64_t now)
{
    assert_int_equal(b->state, BREAKER_CLOSED);
    fail_times(b, now, 5);
    assert_int_equal(b->state, BREAKER_OPEN);
    return breaker_next(b);
}

static uint32_t permit_at(struct breaker *b, uint64_t now)
{
    uint32_t permit;
    assert_int_equal(breaker_ask(b, now, HOLD, &permit), BREAKER_TRIAL);
    return permit;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void starts_closed(void **state)
{
    (void)state;
    struct breaker b = fresh(BREAKER_DOOR);
    assert_int_equal(b.state, BREAKER_CLOSED);
    assert_int_equal(b.reason, BREAKER_NEW);
    assert_int_equal(ask(&b, 0), BREAKER_PASS);
    assert_int_equal(breaker_next(&b), 0);
    assert_false(breaker_tick(&b, UINT64_MAX));
}

static void scripts(void **state)
{
    (void)state;
    /* g: success, G: ten of them, h: hard failure, s: soft failure, '.': a second passes */
    static const struct {
        const char *script;
        enum breaker_state end;
        enum breaker_reason reason;
    } rows[] = {
        {"hhhh", BREAKER_CLOSED, BREAKER_NEW},
        {"hhhhh", BREAKER_OPEN, BREAKER_CONSECUTIVE},
        {"hhhhghhhh", BREAKER_CLOSED, BREAKER_NEW}, /* a success ends the run */
        {"hh.hh.h", BREAKER_OPEN, BREAKER_CONSECUTIVE},
        {"h............h............h............h............h", BREAKER_OPEN,
         BREAKER_CONSECUTIVE},                         /* a quiet pool counts as well */
        {"hhhhsh", BREAKER_OPEN, BREAKER_CONSECUTIVE}, /* soft ones do not end the run */
        {"ssssss", BREAKER_CLOSED, BREAKER_NEW},       /* nor make one */
        {"hhhhssss", BREAKER_CLOSED, BREAKER_NEW},
        {"Gssssssssss", BREAKER_OPEN, BREAKER_RATIO},         /* 10 of 20 */
        {"Ggsssssssss", BREAKER_CLOSED, BREAKER_NEW},         /* 9 of 20 */
        {"sssssssssssssssssss", BREAKER_CLOSED, BREAKER_NEW}, /* 19 calls are too few */
        {"ssssssssssssssssssss", BREAKER_OPEN, BREAKER_RATIO},
        {"GGssssssssss", BREAKER_CLOSED, BREAKER_NEW},
        {"GG..........ssssssssssssssssssss", BREAKER_OPEN, BREAKER_RATIO}, /* old ones forgotten */
        {"GG.........ssssssssssssssssss", BREAKER_CLOSED, BREAKER_NEW}, /* nine seconds: not yet */
        {"hhhhghhhhghhhhghhhhgh", BREAKER_OPEN, BREAKER_RATIO},
        {"ssssssssssssssssssg", BREAKER_CLOSED, BREAKER_NEW},
        {"sssssssssssssssssssg", BREAKER_CLOSED, BREAKER_NEW}, /* a success never opens it */
        {"sssssssssssssssssssgs", BREAKER_OPEN, BREAKER_RATIO},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct breaker b = fresh(BREAKER_SERVICE);
        uint64_t now = 777;
        for (const char *c = rows[i].script; *c; c++) {
            bool last = c[1] == '\0', opened = false;
            if (*c == 'g' || *c == 'G')
                breaker_success(&b, now, *c == 'G' ? 10 : 1);
            else if (*c == 'h' || *c == 's')
                opened = breaker_failure(&b, now, *c == 'h' ? BREAKER_HARD : BREAKER_SOFT);
            else
                now += 1000;
            /* Not before the last step, and the call that opens it says so. */
            assert_int_equal(opened, last && rows[i].end == BREAKER_OPEN);
            assert_int_equal(b.state, opened ? BREAKER_OPEN : BREAKER_CLOSED);
        }
        assert_int_equal(b.state, rows[i].end);
        assert_int_equal(b.reason, rows[i].reason);
    }
}

static void rules_can_be_switched_off(void **state)
{
    (void)state;
    static const struct {
        uint32_t consecutive, ratio;
        int opens_at; /* hard failures, all calls fail; 0: never */
    } rows[] = {{0, 0, 0}, {0, 50, 20}, {30, 0, 30}, {30, 50, 20}, {1, 50, 1}, {0, 100, 20}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct breaker b = fresh(BREAKER_SERVICE);
        struct breaker_conf conf = usual;
        conf.consecutive = rows[i].consecutive;
        conf.failure_ratio = rows[i].ratio;
        breaker_reconf(&b, &conf);
        int opened_at = 0;
        for (int n = 1; n <= 100 && !opened_at; n++)
            opened_at = breaker_failure(&b, 0, BREAKER_HARD) ? n : 0;
        assert_int_equal(opened_at, rows[i].opens_at);
    }
}

/* ---- open time ------------------------------------------------------------------------------- */

static void open_refuses_until_its_time(void **state)
{
    (void)state;
    struct breaker b = fresh(BREAKER_DOOR);
    uint64_t until = trip(&b, 1000);
    assert_in_range(until, 1000 + 800, 1000 + 1200);
    assert_int_equal(ask(&b, until - 1), BREAKER_REFUSE);
    assert_false(breaker_tick(&b, until - 1));
    assert_int_equal(ask(&b, until), BREAKER_REFUSE); /* only the tick moves it */
    assert_true(breaker_tick(&b, until));
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_int_equal(b.reason, BREAKER_TIME_OVER);
    assert_int_equal(b.since, until);
    assert_int_equal(breaker_next(&b), 0); /* a trial may begin */
    assert_false(breaker_tick(&b, until));
}

static void open_time_doubles_to_its_cap_and_starts_over(void **state)
{
    (void)state;
    static const uint64_t steps[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000};
    struct breaker b = fresh(BREAKER_DOOR);
    uint64_t now = 5000;
    for (int round = 0; round < 2; round++) {
        uint64_t until = trip(&b, now);
        for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
            uint64_t least = steps[i] - steps[i] / 5, most = steps[i] + steps[i] / 5;
            assert_in_range(until - now, least < 1000 ? 1000 : least, most > 30000 ? 30000 : most);
            now = until;
            assert_true(breaker_tick(&b, now));
            assert_true(breaker_trial(&b, now, permit_at(&b, now), BREAKER_FAILED));
            assert_int_equal(b.reason, BREAKER_TRIAL_FAILED);
            until = breaker_next(&b);
        }
        now = until;
        breaker_tick(&b, now);
        assert_true(breaker_trial(&b, now, permit_at(&b, now), BREAKER_PASSED));
        assert_int_equal(b.state, BREAKER_CLOSED);
    }
}

static void many_carpools_do_not_come_back_together(void **state)
{
    (void)state;
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t seed = 0; seed < 200; seed++) {
        struct breaker b;
        breaker_init(&b, BREAKER_DOOR, &usual, 0, seed * 2654435761U);
        uint64_t until = trip(&b, 0);
        least = until < least ? until : least;
        most = until > most ? until : most;
    }
    assert_in_range(least, 1000, 1020);
    assert_in_range(most, 1180, 1200);
}

static void odd_limits_never_mean_open_for_ever_or_not_at_all(void **state)
{
    (void)state;
    static const struct {
        uint64_t min, max, most;
    } rows[] = {{0, 0, 1}, {0, 1000, 1}, {5, 3, 3}, {1, UINT64_MAX, 2}, {1000, 1000, 1000}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct breaker b = fresh(BREAKER_DOOR);
        struct breaker_conf conf = usual;
        conf.open_min_ms = rows[i].min;
        conf.open_max_ms = rows[i].max;
        breaker_reconf(&b, &conf);
        uint64_t until = trip(&b, 7000);
        assert_in_range(until, 7001, 7000 + rows[i].most);
    }
}

/* `open: 1m..1m` is a minute, at each relapse. */
static void a_written_maximum_holds(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed < 100; seed++) {
        struct breaker b;
        struct breaker_conf conf = usual;
        conf.open_min_ms = conf.open_max_ms = 60000;
        breaker_init(&b, BREAKER_DOOR, &conf, 0, seed * 2654435761U);
        uint64_t now = 0, until = trip(&b, 0);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(until - now, 60000);
            now = until;
            breaker_tick(&b, now);
            breaker_trial(&b, now, permit_at(&b, now), BREAKER_FAILED);
            until = breaker_next(&b);
        }
    }
}

/* ---- the way back ---------------------------------------------------------------------------- */

static struct breaker half_open(enum breaker_role role, uint64_t *now)
{
    struct breaker b = fresh(role);
    *now = trip(&b, 1000);
    assert_true(breaker_tick(&b, *now));
    return b;
}

static void trials_close_it(void **state)
{
    (void)state;
    static const int needed[BREAKER_ROLE_COUNT] = {[BREAKER_DOOR] = 1, [BREAKER_SERVICE] = 3};
    for (int role = 0; role < BREAKER_ROLE_COUNT; role++) {
        uint64_t now;
        struct breaker b = half_open((enum breaker_role)role, &now);
        for (int i = 1; i <= needed[role]; i++) {
            assert_int_equal(b.state, BREAKER_HALF_OPEN);
            now++;
            bool closed = breaker_trial(&b, now, permit_at(&b, now), BREAKER_PASSED);
            assert_int_equal(closed, i == needed[role]);
        }
        assert_int_equal(b.state, BREAKER_CLOSED);
        assert_int_equal(b.reason, BREAKER_TRIALS_PASSED);
        /* Old failures are forgotten: it takes as many to open it as at first. */
        fail_times(&b, now, 4);
        assert_int_equal(b.state, BREAKER_CLOSED);
        fail_times(&b, now, 1);
        assert_int_equal(b.state, BREAKER_OPEN);
    }
}

static void calls_of_before_it_opened_are_out_of_the_ratio(void **state)
{
    (void)state;
    struct breaker b = fresh(BREAKER_DOOR);
    for (int i = 0; i < 20; i++)
        breaker_failure(&b, 1000, BREAKER_SOFT);
    assert_int_equal(b.reason, BREAKER_RATIO);
    uint64_t now = breaker_next(&b); /* within the ten seconds */
    breaker_tick(&b, now);
    assert_true(breaker_trial(&b, now, permit_at(&b, now), BREAKER_PASSED));
    assert_false(breaker_failure(&b, now, BREAKER_SOFT));
    assert_int_equal(b.state, BREAKER_CLOSED);
}

static void a_failed_trial_starts_the_count_over(void **state)
{
    (void)state;
    uint64_t now;
    struct breaker b = half_open(BREAKER_SERVICE, &now);
    breaker_trial(&b, now, permit_at(&b, now), BREAKER_PASSED);
    breaker_trial(&b, now, permit_at(&b, now), BREAKER_PASSED);
    assert_true(breaker_trial(&b, now, permit_at(&b, now), BREAKER_FAILED));
    assert_int_equal(b.state, BREAKER_OPEN);
    now = breaker_next(&b);
    breaker_tick(&b, now);
    breaker_trial(&b, now, permit_at(&b, now), BREAKER_PASSED);
    breaker_trial(&b, now, permit_at(&b, now), BREAKER_PASSED);
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
}

static void one_trial_at_a_time(void **state)
{
    (void)state;
    uint64_t now;
    struct breaker b = half_open(BREAKER_SERVICE, &now);
    uint32_t first = permit_at(&b, now);
    assert_int_equal(ask(&b, now), BREAKER_REFUSE);
    assert_int_equal(breaker_next(&b), now + HOLD);
    assert_int_equal(ask(&b, now + HOLD - 1), BREAKER_REFUSE);
    /* Nobody came back with it: the next one may try, and the late answer counts no more. */
    uint32_t second = permit_at(&b, now + HOLD);
    assert_int_not_equal(first, second);
    assert_false(breaker_trial(&b, now + HOLD, first, BREAKER_FAILED));
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_int_equal(ask(&b, now + HOLD), BREAKER_REFUSE); /* the second is still out */
    assert_true(breaker_trial(&b, now + HOLD, second, BREAKER_FAILED));
    assert_int_equal(b.state, BREAKER_OPEN);
}

static void a_late_trial_counts_if_nobody_else_tried(void **state)
{
    (void)state;
    uint64_t now;
    struct breaker b = half_open(BREAKER_DOOR, &now);
    uint32_t permit = permit_at(&b, now);
    assert_true(breaker_trial(&b, now + 10 * HOLD, permit, BREAKER_PASSED));
    assert_int_equal(b.state, BREAKER_CLOSED);
}

static void a_neutral_trial_frees_the_permit(void **state)
{
    (void)state;
    uint64_t now;
    struct breaker b = half_open(BREAKER_DOOR, &now);
    assert_false(breaker_trial(&b, now, permit_at(&b, now), BREAKER_NEUTRAL));
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_int_equal(ask(&b, now), BREAKER_TRIAL);
}

static void a_permit_is_settled_once(void **state)
{
    (void)state;
    uint64_t now;
    struct breaker b = half_open(BREAKER_SERVICE, &now);
    uint32_t permit = permit_at(&b, now);
    for (int i = 0; i < 10; i++)
        breaker_trial(&b, now, permit, BREAKER_PASSED);
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_false(breaker_trial(&b, now, 0, BREAKER_FAILED)); /* no permit, no say */
    assert_false(breaker_trial(&b, now, permit, BREAKER_FAILED));
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
}

static void calls_of_before_do_not_judge_the_trial(void **state)
{
    (void)state;
    uint64_t now;
    struct breaker b = half_open(BREAKER_DOOR, &now);
    uint32_t permit = permit_at(&b, now);
    fail_times(&b, now, 100);
    breaker_success(&b, now, 100);
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_true(breaker_trial(&b, now, permit, BREAKER_PASSED));
    fail_times(&b, now, 4); /* and left nothing behind */
    assert_int_equal(b.state, BREAKER_CLOSED);

    b = fresh(BREAKER_DOOR);
    uint64_t until = trip(&b, 1000);
    fail_times(&b, 1500, 100);
    breaker_success(&b, 1500, 100);
    assert_int_equal(b.state, BREAKER_OPEN);
    assert_int_equal(breaker_next(&b), until); /* no prolonging either */
}

static void permits_of_an_earlier_half_open_are_void(void **state)
{
    (void)state;
    uint64_t now;
    struct breaker b = half_open(BREAKER_DOOR, &now);
    uint32_t old = permit_at(&b, now);
    breaker_trial(&b, now + HOLD, permit_at(&b, now + HOLD), BREAKER_FAILED);
    now = breaker_next(&b);
    breaker_tick(&b, now);
    uint32_t young = permit_at(&b, now);
    assert_false(breaker_trial(&b, now, old, BREAKER_PASSED));
    assert_true(breaker_trial(&b, now, young, BREAKER_PASSED));
}

/* ---- the operator ---------------------------------------------------------------------------- */

static void bring_to(struct breaker *b, enum breaker_state to)
{
    *b = fresh(BREAKER_SERVICE);
    fail_times(b, 0, to == BREAKER_OPEN || to == BREAKER_HALF_OPEN ? 5 : 3);
    if (to == BREAKER_HALF_OPEN)
        breaker_tick(b, breaker_next(b));
    else if (to == BREAKER_FORCED_OPEN)
        breaker_force(b, 0, BREAKER_FORCE_OPEN);
    else if (to == BREAKER_FORCED_CLOSED)
        breaker_force(b, 0, BREAKER_FORCE_CLOSED);
    assert_int_equal(b->state, to);
}

static void the_operator_decides_from_every_state(void **state)
{
    (void)state;
    for (int s = 0; s < BREAKER_STATE_COUNT; s++) {
        enum breaker_state from = (enum breaker_state)s;
        struct breaker b;
        bring_to(&b, from);
        assert_int_equal(breaker_force(&b, 5000, BREAKER_FORCE_OPEN), from != BREAKER_FORCED_OPEN);
        assert_int_equal(b.state, BREAKER_FORCED_OPEN);
        assert_int_equal(b.reason, BREAKER_OPERATOR);
        assert_int_equal(ask(&b, UINT64_MAX), BREAKER_REFUSE);
        assert_int_equal(breaker_next(&b), UINT64_MAX);
        assert_false(breaker_tick(&b, UINT64_MAX));
        breaker_success(&b, 5000, 100);
        assert_int_equal(b.state, BREAKER_FORCED_OPEN);

        bring_to(&b, from);
        assert_int_equal(breaker_force(&b, 5000, BREAKER_FORCE_CLOSED),
                         from != BREAKER_FORCED_CLOSED);
        assert_int_equal(b.state, BREAKER_FORCED_CLOSED);
        fail_times(&b, 5000, 100);
        assert_int_equal(ask(&b, 5000), BREAKER_PASS);
        assert_int_equal(breaker_next(&b), 0);

        bool forced = from == BREAKER_FORCED_OPEN || from == BREAKER_FORCED_CLOSED;
        bring_to(&b, from);
        assert_int_equal(breaker_force(&b, 5000, BREAKER_FORCE_AUTO), forced);
        assert_int_equal(b.state, forced ? BREAKER_CLOSED : from);
        if (!forced)
            continue;
        fail_times(&b, 5000, 4); /* a clean record */
        assert_int_equal(b.state, BREAKER_CLOSED);
    }
}

static void words_are_labels(void **state)
{
    (void)state;
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz_";
    assert_string_equal(breaker_state_word(BREAKER_HALF_OPEN), "half_open");
    assert_string_equal(breaker_role_word(BREAKER_DOOR), "door");
    assert_string_equal(breaker_role_word(BREAKER_SERVICE), "service");
    for (int s = 0; s < BREAKER_STATE_COUNT; s++) {
        const char *word = breaker_state_word((enum breaker_state)s);
        assert_int_equal(strspn(word, letters), strlen(word));
    }
    for (int r = 0; r < BREAKER_REASON_COUNT; r++) {
        const char *word = breaker_reason_word((enum breaker_reason)r);
        assert_true(*word);
        assert_int_equal(strspn(word, letters), strlen(word));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_closed),
        cmocka_unit_test(scripts),
        cmocka_unit_test(rules_can_be_switched_off),
        cmocka_unit_test(open_refuses_until_its_time),
        cmocka_unit_test(open_time_doubles_to_its_cap_and_starts_over),
        cmocka_unit_test(many_carpools_do_not_come_back_together),
        cmocka_unit_test(odd_limits_never_mean_open_for_ever_or_not_at_all),
        cmocka_unit_test(a_written_maximum_holds),
        cmocka_unit_test(trials_close_it),
        cmocka_unit_test(calls_of_before_it_opened_are_out_of_the_ratio),
        cmocka_unit_test(a_failed_trial_starts_the_count_over),
        cmocka_unit_test(one_trial_at_a_time),
        cmocka_unit_test(a_late_trial_counts_if_nobody_else_tried),
        cmocka_unit_test(a_neutral_trial_frees_the_permit),
        cmocka_unit_test(a_permit_is_settled_once),
        cmocka_unit_test(calls_of_before_do_not_judge_the_trial),
        cmocka_unit_test(permits_of_an_earlier_half_open_are_void),
        cmocka_unit_test(the_operator_decides_from_every_state),
        cmocka_unit_test(words_are_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
