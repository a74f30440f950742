/* SPDX-License-Identifier: MIT */
/* Deadlines: the earliest counts, 0 is none. */
#include <setjmp.h>
#include <stdarg.h>

#include "health/deadline.h"
#include "proxy/core/base.h"

#include <cmocka.h>

static void a_timeout_of_zero_is_no_deadline(void **state)
{
    (void)state;
    assert_int_equal(deadline_after(1000, 0), 0);
    assert_false(deadline_passed(0, UINT64_MAX));
}

static void it_passes_at_its_millisecond(void **state)
{
    (void)state;
    uint64_t d = deadline_after(1000, 500);
    assert_false(deadline_passed(d, 1499));
    assert_true(deadline_passed(d, 1500));
    assert_true(deadline_passed(d, 99999));
}

static void a_very_long_timeout_does_not_wrap(void **state)
{
    (void)state;
    assert_int_equal(deadline_after(UINT64_MAX - 10, 500), UINT64_MAX);
    assert_int_equal(deadline_after(5, UINT64_MAX), UINT64_MAX);
    assert_int_equal(deadline_after(UINT64_MAX - 10, 10), UINT64_MAX);
    assert_false(deadline_passed(deadline_after(UINT64_MAX - 10, 500), UINT64_MAX - 1));
}

static void the_earlier_counts(void **state)
{
    (void)state;
    static const struct {
        uint64_t a, b, both;
    } rows[] = {
        {0, 0, 0}, {100, 0, 100}, {0, 100, 100}, {50, 100, 50}, {100, 50, 50}, {100, 100, 100},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(deadline_earlier(rows[i].a, rows[i].b), rows[i].both);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_timeout_of_zero_is_no_deadline),
        cmocka_unit_test(it_passes_at_its_millisecond),
        cmocka_unit_test(a_very_long_timeout_does_not_wrap),
        cmocka_unit_test(the_earlier_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
