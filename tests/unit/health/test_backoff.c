/* SPDX-License-Identifier: MIT */
/* Backoff and jitter: within their bounds for every random number, and reaching both ends. */
#include <setjmp.h>
#include <stdarg.h>

#include "health/backoff.h"

#include <cmocka.h>

static void doubles_up_to_the_cap(void **state)
{
    (void)state;
    static const struct {
        uint64_t base, cap;
        unsigned attempt;
        uint64_t limit; /* what the largest random number gives */
    } rows[] = {
        {100, 10000, 0, 100},    {100, 10000, 1, 200},
        {100, 10000, 6, 6400},   {100, 10000, 7, 10000},
        {100, 10000, 8, 10000},  {100, 10000, 63, 10000},
        {100, 10000, 64, 10000}, {100, 10000, UINT32_MAX, 10000},
        {25, 250, 3, 200},       {25, 250, 4, 250},
        {500, 250, 0, 250},      {1, UINT64_MAX, 31, UINT64_C(1) << 31},
        {0, 250, 5, 0},          {25, 0, 5, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t least = backoff_ms(rows[i].base, rows[i].cap, rows[i].attempt, 0);
        uint64_t most = backoff_ms(rows[i].base, rows[i].cap, rows[i].attempt, UINT32_MAX);
        assert_int_equal(least, rows[i].limit ? 1 : 0);
        assert_int_equal(most, rows[i].limit);
    }
}

static void full_jitter_is_even(void **state)
{
    (void)state;
    unsigned tenth[10] = {0};
    for (uint32_t i = 0; i < 10000; i++) {
        uint64_t ms = backoff_ms(1000, 10000, 0, i * (UINT32_MAX / 10000));
        assert_in_range(ms, 1, 1000);
        tenth[(ms - 1) / 100]++;
    }
    for (size_t i = 0; i < ARRAY_LEN(tenth); i++)
        assert_in_range(tenth[i], 990, 1010);
}

/* Those who fail together ask within microseconds: they must not come back together. */
static void neighbours_on_the_clock_are_spread(void **state)
{
    (void)state;
    unsigned tenth[10] = {0};
    for (uint64_t ns = 0; ns < 10000; ns++) {
        uint64_t ms = backoff_ms(1000, 1000, 0, jitter_seed(UINT64_C(123456789012345) + ns * 100));
        assert_in_range(ms, 1, 1000);
        tenth[(ms - 1) / 100]++;
    }
    for (size_t i = 0; i < ARRAY_LEN(tenth); i++)
        assert_in_range(tenth[i], 850, 1150);
}

static uint64_t around(uint64_t ms, unsigned percent, uint32_t random)
{
    return jitter_within(ms, percent, 0, UINT64_MAX - 1, random);
}

static void jitter_stays_around(void **state)
{
    (void)state;
    assert_int_equal(around(1000, 20, 0), 800);
    assert_int_equal(around(1000, 20, UINT32_MAX), 1200);
    assert_int_equal(around(1000, 20, UINT32_MAX / 2), 1000);
    assert_int_equal(around(1000, 0, 0), 1000);
    assert_int_equal(around(1000, 0, UINT32_MAX), 1000);
    assert_int_equal(around(30000, 100, 0), 0);
    assert_int_equal(around(0, 20, UINT32_MAX), 0);
    /* Huge values neither wrap nor come out small. */
    assert_true(around(UINT64_MAX, 20, UINT32_MAX) >= UINT64_MAX / 10 * 9);
    assert_true(around(UINT64_MAX, 20, 0) >= UINT64_MAX / 10 * 7);
}

/* At a bound it is spread over the other side, not heaped up on the bound. */
static void written_bounds_hold_and_values_stay_spread(void **state)
{
    (void)state;
    static const struct {
        uint64_t ms, least, most, from, to;
    } rows[] = {
        {1000, 1000, 30000, 1000, 1200},    {2000, 1000, 30000, 1600, 2400},
        {30000, 1000, 30000, 24000, 30000}, {60000, 60000, 60000, 60000, 60000},
        {1000, 950, 1050, 950, 1050},       {5, 5, 3, 3, 3},
        {1000, 2000, 3000, 2000, 2000},     {4000, 2000, 3000, 3000, 3000},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        unsigned low = 0, high = 0;
        uint64_t middle = (rows[i].from + rows[i].to) / 2;
        for (uint32_t r = 0; r < 1000; r++) {
            uint64_t ms = jitter_within(rows[i].ms, 20, rows[i].least, rows[i].most, r * 4294967);
            assert_in_range(ms, rows[i].from, rows[i].to);
            low += ms < middle;
            high += ms > middle;
        }
        if (rows[i].from < rows[i].to) {
            assert_in_range(low, 450, 550);
            assert_in_range(high, 450, 550);
        }
    }
}

/* What two carpools' retry.backoff and dials may wait at most is what is written, at every try. */
static void no_try_waits_longer_than_the_written_maximum(void **state)
{
    (void)state;
    for (unsigned attempt = 0; attempt < 80; attempt++)
        for (uint32_t r = 0; r < 100; r++) {
            assert_in_range(backoff_ms(25, 250, attempt, r * 42949672), 1, 250);
            assert_in_range(backoff_ms(60000, 60000, attempt, ~(r * 42949672)), 1, 60000);
        }
}

static void a_lifetime_never_exceeds_the_limit(void **state)
{
    (void)state;
    assert_int_equal(lifetime_jitter(1800000, 0), 1800000);
    assert_int_equal(lifetime_jitter(1800000, UINT32_MAX), 1620000);
    for (uint32_t r = 0; r < 1000; r++)
        assert_in_range(lifetime_jitter(1800000, r * 4294967), 1620000, 1800000);
    assert_int_equal(lifetime_jitter(0, UINT32_MAX), 0); /* no limit stays none */
    assert_int_equal(lifetime_jitter(1, UINT32_MAX), 1); /* and a short one does not become none */
    assert_true(lifetime_jitter(UINT64_MAX, UINT32_MAX) > UINT64_MAX / 10 * 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(doubles_up_to_the_cap),
        cmocka_unit_test(full_jitter_is_even),
        cmocka_unit_test(neighbours_on_the_clock_are_spread),
        cmocka_unit_test(jitter_stays_around),
        cmocka_unit_test(written_bounds_hold_and_values_stay_spread),
        cmocka_unit_test(no_try_waits_longer_than_the_written_maximum),
        cmocka_unit_test(a_lifetime_never_exceeds_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
