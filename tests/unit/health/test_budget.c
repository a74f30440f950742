/* SPDX-License-Identifier: MIT */
/* Retry budget: how many retries a load of requests may bring with it. */
#include <setjmp.h>
#include <stdarg.h>

#include "health/budget.h"

#include <cmocka.h>

static uint64_t take_all(struct budget *b, uint64_t now)
{
    uint64_t taken = 0, promised = budget_left(b, now);
    while (budget_take(b, now))
        taken++;
    assert_int_equal(taken, promised);
    assert_int_equal(budget_left(b, now), 0);
    return taken;
}

static void at_once(void **state)
{
    (void)state;
    static const struct {
        unsigned percent, floor;
        uint64_t requests, retries;
    } rows[] = {
        {20, 0, 0, 0},     {20, 0, 4, 0},     {20, 0, 5, 1},   {20, 0, 1000, 200}, {20, 10, 0, 10},
        {20, 10, 100, 30}, {0, 10, 1000, 10}, {0, 0, 1000, 0}, {100, 0, 7, 7},     {1, 0, 199, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct budget b;
        budget_init(&b, rows[i].percent, rows[i].floor, 5000);
        budget_request(&b, 5000, rows[i].requests);
        assert_int_equal(take_all(&b, 5000), rows[i].retries);
    }
}

static void the_floor_comes_back_evenly_and_never_saves_up(void **state)
{
    (void)state;
    struct budget b;
    budget_init(&b, 0, 10, 0);
    assert_int_equal(take_all(&b, 0), 10);
    assert_int_equal(take_all(&b, 99), 0);
    assert_int_equal(take_all(&b, 100), 1);
    assert_int_equal(take_all(&b, 350), 2);
    assert_int_equal(take_all(&b, 400), 1); /* the half one of before was kept */
    assert_int_equal(take_all(&b, 60000), 10);
    budget_init(&b, 0, 10, 0);
    assert_int_equal(take_all(&b, 900), 10); /* full stays full */
}

static void a_floor_of_one_is_one_a_second(void **state)
{
    (void)state;
    struct budget b;
    budget_init(&b, 0, 1, 0);
    uint64_t taken = 0;
    for (uint64_t now = 0; now < 10000; now++)
        taken += budget_take(&b, now);
    assert_int_equal(taken, 10);
}

static void the_share_is_of_the_last_ten_seconds(void **state)
{
    (void)state;
    struct budget b;
    budget_init(&b, 20, 0, 0);
    budget_request(&b, 0, 100);
    assert_int_equal(budget_left(&b, 9999), 20);
    assert_int_equal(budget_left(&b, 10000), 0);

    /* A steady load with an upstream that fails everything: exactly the share, no more. */
    uint64_t retries = 0;
    for (uint64_t now = 20000; now < 50000; now++) {
        budget_request(&b, now, 1);
        retries += budget_take(&b, now);
    }
    assert_in_range(retries, 30000 / 5 - 10, 30000 / 5);
}

static void what_was_spent_comes_back_with_its_second(void **state)
{
    (void)state;
    struct budget b;
    budget_init(&b, 20, 0, 0);
    budget_request(&b, 500, 100);
    assert_int_equal(take_all(&b, 500), 20);
    budget_request(&b, 5000, 50);
    assert_int_equal(budget_left(&b, 5000), 10);
    /* Ten seconds later the 100 requests and the 20 retries are forgotten together. */
    assert_int_equal(budget_left(&b, 10000), 10);
}

static void the_floor_pays_first(void **state)
{
    (void)state;
    struct budget b;
    budget_init(&b, 20, 10, 0);
    budget_request(&b, 0, 100);
    for (int i = 0; i < 10; i++)
        assert_true(budget_take(&b, 0));
    assert_int_equal(budget_left(&b, 0), 20); /* the share is untouched */
}

static void new_limits_apply_to_what_was_counted(void **state)
{
    (void)state;
    struct budget b;
    budget_init(&b, 20, 10, 0);
    budget_request(&b, 0, 100);
    budget_reconf(&b, 50, 4);
    assert_int_equal(budget_left(&b, 0), 54);
    budget_reconf(&b, 0, 0);
    assert_int_equal(take_all(&b, 0), 0);
}

static void a_clock_that_goes_back_gives_nothing(void **state)
{
    (void)state;
    struct budget b;
    budget_init(&b, 0, 10, 5000);
    assert_int_equal(take_all(&b, 5000), 10);
    assert_int_equal(take_all(&b, 100), 0);
    assert_int_equal(take_all(&b, 5100), 1); /* nor afterwards */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(at_once),
        cmocka_unit_test(the_floor_comes_back_evenly_and_never_saves_up),
        cmocka_unit_test(a_floor_of_one_is_one_a_second),
        cmocka_unit_test(the_share_is_of_the_last_ten_seconds),
        cmocka_unit_test(what_was_spent_comes_back_with_its_second),
        cmocka_unit_test(the_floor_pays_first),
        cmocka_unit_test(new_limits_apply_to_what_was_counted),
        cmocka_unit_test(a_clock_that_goes_back_gives_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
