/* SPDX-License-Identifier: MIT */
/* The ten-second window: what counts, and when it stops counting. */
#include <setjmp.h>
#include <stdarg.h>

#include "health/window.h"

#include <cmocka.h>

static void assert_sum(const struct window *w, uint64_t now, uint64_t good, uint64_t bad)
{
    struct window_sum sum = window_sum(w, now);
    assert_int_equal(sum.good, good);
    assert_int_equal(sum.bad, bad);
}

static void counts_until_ten_seconds_have_passed(void **state)
{
    (void)state;
    /* The clock may be young or old, and begin anywhere in a second. */
    static const uint64_t starts[] = {0, 1, 999, 1000, 12345, UINT64_C(1) << 40};
    for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
        struct window w = {0};
        uint64_t begin = starts[i] / 1000 * 1000;
        assert_sum(&w, starts[i], 0, 0);
        window_add(&w, starts[i], 3, 1);
        assert_sum(&w, starts[i], 3, 1);
        assert_sum(&w, begin + 9999, 3, 1);
        assert_sum(&w, begin + 10000, 0, 0);
        assert_sum(&w, begin + 20000, 0, 0); /* the same cell, a round later */
    }
}

static void each_second_ends_alone(void **state)
{
    (void)state;
    struct window w = {0};
    for (uint64_t s = 0; s < 100; s++) {
        window_add(&w, s * 1000 + 500, 1, s % 2);
        uint64_t seconds = s < 10 ? s + 1 : 10;
        struct window_sum sum = window_sum(&w, s * 1000 + 999);
        assert_int_equal(sum.good, seconds);
        assert_int_equal(sum.bad, s < 10 ? seconds / 2 : 5);
    }
}

static void an_older_time_does_not_bring_old_counts_back(void **state)
{
    (void)state;
    struct window w = {0};
    window_add(&w, 5000, 7, 0);
    assert_sum(&w, 4000, 0, 0); /* not from the future */
    assert_sum(&w, 5000, 7, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_until_ten_seconds_have_passed),
        cmocka_unit_test(each_second_ends_alone),
        cmocka_unit_test(an_older_time_does_not_bring_old_counts_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
