/* SPDX-License-Identifier: MIT */
/* Pools of one group with the Nth allocation failing: books right, the bound kept, and service
 * afterwards. */
#include <setjmp.h>
#include <stdarg.h>

#include "tests/unit/pools/nomem.h"
#include "tests/unit/pools/town.h"

#include <cmocka.h>

enum { A, B, C };

static void everybody_comes_and_goes(void)
{
    come(A, 6);
    town_pass(200);
    come(B, 6);
    turns(6);
    town_pass(200);
    come(C, 2);
    turns(6);
    group_reconf(group, 2);
    turns(3);
    group_reconf(group, 5);
    town_pass(500);
}

/* False: there were not so many. */
static bool scene_without(unsigned nth, unsigned workers)
{
    town_open(workers, 3, 4);
    countdown = nth;
    everybody_comes_and_goes();
    bool failed = countdown == 0;
    countdown = 0;
    town_settle();
    assert_true(open_of_all() <= 5);
    assert_true(fake_open_peak() <= 5);
    give_up(A);
    while (one_ends(A))
        continue;
    for (unsigned round = 0; round < 5; round++) {
        town_pass(12000);
        turns(12);
    }
    assert_int_equal(having(B), 3);
    assert_int_equal(having(C), 2);
    town_close();
    return failed;
}

static void nth_allocation_fails(void **state)
{
    unsigned workers = *(unsigned *)*state, nth = 0;
    do
        town(state);
    while (scene_without(++nth, workers));
    assert_true(nth > 8);
}

static void making_a_member_fails_cleanly(void **state)
{
    (void)state;
    countdown = 1;
    assert_null(group_new(3));
    countdown = 0;
    town_open(1, 1, 3);
    struct snapshot *snap = snapshot_take(members[A].ledger->snap);
    struct group_view view;
    struct ledger *l = NULL;
    for (unsigned nth = 1; !l; nth++) {
        group_view(group, &view);
        assert_int_equal(view.members, 1);
        countdown = nth;
        l = ledger_new(&fake_driver, &conf, snap, 1, &members[A].dialer, house_now(), group);
        countdown = 0;
    }
    group_view(group, &view);
    assert_int_equal(view.members, 2);
    ledger_free(l);
    snapshot_drop(&snap);
    town_close();
}

static unsigned one = 1, two = 2;

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(nth_allocation_fails, &one),
        cmocka_unit_test_prestate(nth_allocation_fails, &two),
        TOWN_TEST(making_a_member_fails_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
