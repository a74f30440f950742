/* SPDX-License-Identifier: MIT */
/* Deadlines: the earliest counts, and the client is told its cause. */
#include <setjmp.h>
#include <stdarg.h>

#include "health/deadline.h"

#include <cmocka.h>

#define REQUEST CAUSE_REQUEST_TIMEOUT
#define ACQUIRE CAUSE_ACQUIRE_TIMEOUT

static void a_timeout_of_zero_is_no_deadline(void **state)
{
    (void)state;
    struct deadline d = deadline_after(1000, 0, REQUEST);
    assert_int_equal(d.at, 0);
    assert_int_equal(d.cause, CAUSE_NONE);
    assert_false(deadline_passed(d, UINT64_MAX));
    assert_int_equal(deadline_left(d, 1000), DEADLINE_FOREVER);
}

static void it_passes_at_its_millisecond(void **state)
{
    (void)state;
    struct deadline d = deadline_after(1000, 500, ACQUIRE);
    assert_int_equal(d.cause, ACQUIRE);
    assert_int_equal(deadline_left(d, 1000), 500);
    assert_int_equal(deadline_left(d, 1499), 1);
    assert_false(deadline_passed(d, 1499));
    assert_true(deadline_passed(d, 1500));
    assert_int_equal(deadline_left(d, 1500), 0);
    assert_int_equal(deadline_left(d, 99999), 0);
}

static void a_very_long_timeout_does_not_wrap(void **state)
{
    (void)state;
    struct deadline d = deadline_after(UINT64_MAX - 10, 500, REQUEST);
    assert_false(deadline_passed(d, UINT64_MAX - 1));
    assert_int_equal(deadline_left(deadline_after(5, UINT64_MAX, REQUEST), 5), UINT64_MAX - 5);
}

static void the_earlier_wins_with_its_cause(void **state)
{
    (void)state;
    static const struct {
        uint64_t request, acquire, at;
        enum cause cause;
    } rows[] = {
        {0, 0, 0, CAUSE_NONE},  {100, 0, 100, REQUEST}, {0, 100, 100, ACQUIRE},
        {50, 100, 50, REQUEST}, {100, 50, 50, ACQUIRE}, {100, 100, 100, REQUEST},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct deadline request = deadline_after(0, rows[i].request, REQUEST);
        struct deadline acquire = deadline_after(0, rows[i].acquire, ACQUIRE);
        struct deadline both = deadline_earlier(request, acquire);
        assert_int_equal(both.at, rows[i].at);
        assert_int_equal(both.cause, rows[i].cause);
    }
}

static void tries_share_what_remains(void **state)
{
    (void)state;
    enum cause per_try = CAUSE_DIAL_FAILED;
    static const struct {
        uint64_t request, per_try, now;
        bool last;
        uint64_t at;
        enum cause cause;
    } rows[] = {
        {15000, 5000, 0, false, 5000, CAUSE_DIAL_FAILED},
        {15000, 5000, 9000, false, 14000, CAUSE_DIAL_FAILED},
        {15000, 5000, 12000, false, 15000, REQUEST}, /* never past the request */
        {15000, 5000, 1000, true, 15000, REQUEST},   /* the last gets all that remains */
        {15000, 0, 1000, false, 15000, REQUEST},
        {0, 5000, 1000, false, 6000, CAUSE_DIAL_FAILED},
        {0, 5000, 1000, true, 6000, CAUSE_DIAL_FAILED}, /* a last try must end, too */
        {0, 0, 1000, false, 0, CAUSE_NONE},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct deadline request = deadline_after(0, rows[i].request, REQUEST);
        struct deadline d =
            deadline_try(request, rows[i].now, rows[i].per_try, rows[i].last, per_try);
        assert_int_equal(d.at, rows[i].at);
        assert_int_equal(d.cause, rows[i].cause);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_timeout_of_zero_is_no_deadline),
        cmocka_unit_test(it_passes_at_its_millisecond),
        cmocka_unit_test(a_very_long_timeout_does_not_wrap),
        cmocka_unit_test(the_earlier_wins_with_its_cause),
        cmocka_unit_test(tries_share_what_remains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
