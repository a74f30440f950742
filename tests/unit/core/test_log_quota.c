/* SPDX-License-Identifier: MIT */
/* Lines of one kind a second, and what is said of those left out. */
#include <setjmp.h>
#include <stdarg.h>

#include "proxy/core/log_quota.h"

#include <cmocka.h>

static void the_rest_of_a_second_is_counted(void **state)
{
    (void)state;
    struct log_quota q = {0};
    uint32_t left_out = 99;
    for (int i = 0; i < 3; i++) {
        assert_true(log_quota_take(&q, 5000 + (uint64_t)i, 3, &left_out));
        assert_int_equal(left_out, 0);
    }
    for (int i = 0; i < 7; i++)
        assert_false(log_quota_take(&q, 5999, 3, &left_out));
    assert_true(log_quota_take(&q, 6000, 3, &left_out));
    assert_int_equal(left_out, 7);
    assert_true(log_quota_take(&q, 6000, 3, &left_out));
    assert_int_equal(left_out, 0); /* said once */
}

static void the_first_second_has_a_quota_too(void **state)
{
    (void)state;
    struct log_quota q = {0};
    uint32_t left_out;
    assert_true(log_quota_take(&q, 0, 1, &left_out));
    assert_false(log_quota_take(&q, 0, 1, &left_out));
    assert_true(log_quota_take(&q, 90000, 1, &left_out)); /* what nobody used is not saved up */
    assert_int_equal(left_out, 1);
    assert_false(log_quota_take(&q, 90000, 1, &left_out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rest_of_a_second_is_counted),
        cmocka_unit_test(the_first_second_has_a_quota_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
