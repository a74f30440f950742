/* SPDX-License-Identifier: MIT */
/* A bound over several pools: shared fairly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/unit/pools/town.h"

#include <cmocka.h>

enum { A, B, C, D, E, F };

/* Everybody has used up his servers' first turn: what is above the share is gone. */
static void until_fair(void)
{
    turns(12);
}

/* ---- fairness ---- */

static void two_who_want_all_have_half_each(void **state)
{
    (void)state;
    town_open(1, 2, 10);
    come(A, 60);
    assert_int_equal(having(A), 10);
    come(B, 50);
    assert_int_equal(having(B), 0);
    for (unsigned i = 0; i < 5; i++)
        one_turn(A);
    assert_int_equal(having(A), 5);
    assert_int_equal(having(B), 5);
    assert_int_equal(open_of_all(), 10);
    unsigned dialed = dials_of_all();
    turns(100);
    town_pass(10000);
    turns(100);
    assert_int_equal(dials_of_all(), dialed); /* and so it stays */
    assert_int_equal(open_at(A), 5);
    town_close();
}

static void who_wants_less_gets_all_of_it(void **state)
{
    (void)state;
    town_open(1, 3, 10);
    come(A, 50);
    come(B, 50);
    until_fair();
    come(C, 1);
    until_fair();
    assert_int_equal(having(C), 1);
    assert_int_equal(open_at(C), 1);
    assert_int_equal(open_at(A) + open_at(B), 9);
    assert_true(open_at(A) >= 4 && open_at(B) >= 4);
    unsigned dialed = dials_of_all();
    turns(50);
    assert_int_equal(dials_of_all(), dialed);
    town_close();
}

static void five_share_as_evenly_as_can_be(void **state)
{
    (void)state;
    town_open(2, 5, 13);
    for (unsigned i = A; i <= E; i++)
        come(i, 40);
    until_fair();
    for (unsigned i = A; i <= E; i++)
        assert_in_range(open_at(i), 2, 3);
    assert_int_equal(open_of_all(), 13);
    town_close();
}

static void what_one_does_not_want_any_more_goes_to_the_other(void **state)
{
    (void)state;
    town_open(1, 2, 10);
    come(A, 40);
    come(B, 40);
    until_fair();
    assert_int_equal(having(B), 5);
    give_up(B);
    while (one_ends(B))
        continue;
    assert_int_equal(open_at(B), 5); /* its clients may come back any moment */
    town_pass(2 * GROUP_REST_MS);
    assert_int_equal(having(A), 10);
    assert_int_equal(open_at(B), 0);
    town_close();
}

/* A client that thinks between its transactions does not lose its server each time. */
static void short_pauses_cost_nothing(void **state)
{
    (void)state;
    town_open(1, 2, 10);
    come(A, 40);
    come(B, 5);
    until_fair();
    assert_int_equal(having(B), 5);
    unsigned dialed = dials_of_all();
    for (unsigned i = 0; i < 50; i++) {
        for (unsigned k = 0; k < 5; k++)
            one_ends(B);
        town_pass(20);
        crowds[B].n = 0;
        come(B, 5);
        assert_int_equal(having(B), 5);
        one_turn(A);
    }
    assert_int_equal(dials_of_all(), dialed);
    town_close();
}

/* ---- who gives ---- */

static void idle_servers_go_before_busy_ones(void **state)
{
    unsigned workers = *(unsigned *)*state;
    town(state);
    town_open(workers, 3, 10);
    come(A, 5);
    come(B, 5);
    while (one_ends(B))
        continue;
    town_pass(1000);
    come(C, 4);
    assert_int_equal(having(C), 4);
    assert_int_equal(open_at(A), 5);
    assert_int_equal(having(A), 5);
    assert_int_equal(open_at(B), 1);
    town_close();
}

/* Of idle ones above the share none has to be old. */
static void idle_servers_above_the_share_go_at_once(void **state)
{
    (void)state;
    town_open(1, 2, 10);
    come(A, 10);
    while (one_ends(A))
        continue;
    come(B, 4);
    assert_int_equal(having(B), 4);
    assert_int_equal(open_at(A), 6);
    town_close();
}

/* Nobody waits for the next tick, or for a server that works. */
static void idle_servers_go_at_once_also_later(void **state)
{
    (void)state;
    town_open(1, 3, 6);
    come(A, 3);
    come(B, 5);
    while (one_ends(A))
        continue;
    come(C, 1);
    assert_int_equal(having(C), 1);
    assert_int_equal(having(B), 3);
    assert_int_equal(open_at(A), 2);
    town_close();
}

static void old_idle_servers_go_at_once(void **state)
{
    (void)state;
    town_open(1, 2, 8);
    come(A, 5);
    come(B, 3);
    while (one_ends(B))
        continue;
    town_pass(GROUP_REST_MS);
    come(A, 3);
    assert_int_equal(having(A), 8);
    town_close();
}

/* Of somebody who has no more than his share, after a rest and not much later. */
static void fresh_idle_servers_go_after_a_rest(void **state)
{
    (void)state;
    town_open(1, 2, 2);
    come(A, 3);
    come(B, 1);
    one_turn(A);
    assert_int_equal(having(B), 1);
    town_pass(150); /* its next tick is far */
    one_ends(B);
    town_pass(GROUP_REST_MS - 1);
    assert_int_equal(having(A), 1);
    town_pass(2);
    assert_int_equal(having(A), 2);
    town_close();
}

static void the_server_idle_longest_goes_first(void **state)
{
    (void)state;
    town_open(1, 2, 3);
    come(A, 3);
    int oldest = fd_of(&crowds[A].guests[0]), latest = fd_of(&crowds[A].guests[2]);
    for (unsigned i = 0; i < 3; i++) {
        one_ends(A);
        town_pass(1000);
    }
    come(B, 1);
    assert_int_equal(having(B), 1);
    crowds[A].n = 0;
    come(A, 1);
    assert_int_equal(fd_of(&crowds[A].guests[0]), latest);
    assert_int_not_equal(latest, oldest);
    town_close();
}

static void nothing_is_taken_that_nobody_wants_any_more(void **state)
{
    (void)state;
    town_open(1, 2, 4);
    come(A, 8);
    come(B, 2);
    give_up(B);
    unsigned dialed = dials_of_all();
    turns(20);
    assert_int_equal(having(A), 4);
    assert_int_equal(dials_of_all(), dialed);
    town_close();
}

/* A server more for one and one less for the other: that is no gain. */
static void nobody_gives_to_swap_places(void **state)
{
    (void)state;
    town_open(1, 2, 5);
    come(A, 2);
    come(B, 3);
    come(A, 20);
    come(B, 20);
    for (unsigned i = 0; i < 20; i++) {
        turns(5);
        town_pass(200);
    }
    assert_int_equal(open_at(B), 3);
    assert_int_equal(dials_of_all(), 5);
    town_close();
}

/* ---- who gets ---- */

static void a_free_slot_goes_to_who_has_least_at_once(void **state)
{
    (void)state;
    town_open(2, 3, 7);
    come(A, 4);
    come(B, 2);
    come(C, 1);
    come(A, 4);
    come(B, 4);
    come(C, 4);
    unsigned b = open_at(B), c = open_at(C);
    for (unsigned i = 0; i < crowds[A].n; i++) {
        if (!guest_has(&crowds[A].guests[i]))
            continue;
        fake_reset(fd_of(&crowds[A].guests[i]));
        break;
    }
    town_settle(); /* no time has passed */
    assert_int_equal(open_at(C), c + 1);
    assert_int_equal(open_at(B), b);
    assert_int_equal(open_of_all(), 7);
    town_close();
}

static void who_has_more_does_not_come_first(void **state)
{
    (void)state;
    town_open(1, 3, 6);
    come(C, 5);
    come(A, 1);
    come(A, 4);
    come(B, 4);
    group->telling = true; /* another thread goes round with the news, and has not come far */
    one_ends(C);
    assert_int_equal(open_of_all(), 5);
    ledger_tend(members[A].ledger, house_now());
    assert_int_equal(open_at(A), 1);
    ledger_tend(members[B].ledger, house_now());
    assert_int_equal(open_at(B), 1);
    group->telling = false;
    town_close();
}

static void min_is_kept_only_while_nobody_wants_more(void **state)
{
    (void)state;
    conf.size.min = 5;
    conf.size.idle_timeout_ms = 3000;
    town_open(1, 2, 10);
    town_pass(3000);
    assert_int_equal(open_at(A), 5);
    assert_int_equal(open_at(B), 5);
    come(A, 20);
    town_pass(1000);
    assert_int_equal(having(A), 10);
    assert_int_equal(open_at(B), 0);
    turns(20);
    town_pass(5000);
    assert_int_equal(open_at(B), 0);
    come(B, 1); /* and nobody starves for another's min */
    until_fair();
    assert_int_equal(having(B), 1);
    give_up(A);
    while (one_ends(A))
        continue;
    one_ends(B);
    town_pass(20000);
    assert_int_equal(open_at(A), 5);
    assert_int_equal(open_at(B), 5);
    town_close();
}

static void a_pool_is_warm_with_what_it_can_have(void **state)
{
    (void)state;
    town_open(1, 2, 4);
    come(A, 8);
    conf.size.min = 3;
    town_add(C);
    town_pass(3000);
    assert_int_equal(open_at(C), 0);
    assert_true(house_view(&members[C]).warmed);
    town_close();
}

/* More members than servers: they take turns. */
static void who_has_none_gets_his_turn(void **state)
{
    unsigned total = *(unsigned *)*state;
    town(state);
    town_open(1, 5, total);
    unsigned had[5] = {0}, rounds = 600;
    for (unsigned i = A; i <= E; i++)
        come(i, 10);
    for (unsigned round = 0; round < rounds; round++) {
        turns(1);
        town_pass(10);
        for (unsigned i = A; i <= E; i++)
            had[i] += having(i);
    }
    for (unsigned i = A; i <= E; i++)
        assert_in_range(had[i], rounds * total / 7, rounds * total / 4);
    assert_true(dials_of_all() < total * (10 * rounds / GROUP_REST_MS + 2));
    town_close();
}

static unsigned one = 1, two = 2, four = 4;

int main(void)
{
    const struct CMUnitTest tests[] = {
        TOWN_TEST(two_who_want_all_have_half_each),
        TOWN_TEST(who_wants_less_gets_all_of_it),
        TOWN_TEST(five_share_as_evenly_as_can_be),
        TOWN_TEST(what_one_does_not_want_any_more_goes_to_the_other),
        TOWN_TEST(short_pauses_cost_nothing),
        cmocka_unit_test_prestate(idle_servers_go_before_busy_ones, &one),
        cmocka_unit_test_prestate(idle_servers_go_before_busy_ones, &two),
        TOWN_TEST(idle_servers_above_the_share_go_at_once),
        TOWN_TEST(idle_servers_go_at_once_also_later),
        TOWN_TEST(old_idle_servers_go_at_once),
        TOWN_TEST(fresh_idle_servers_go_after_a_rest),
        TOWN_TEST(the_server_idle_longest_goes_first),
        TOWN_TEST(nothing_is_taken_that_nobody_wants_any_more),
        TOWN_TEST(nobody_gives_to_swap_places),
        TOWN_TEST(a_free_slot_goes_to_who_has_least_at_once),
        TOWN_TEST(who_has_more_does_not_come_first),
        TOWN_TEST(min_is_kept_only_while_nobody_wants_more),
        TOWN_TEST(a_pool_is_warm_with_what_it_can_have),
        cmocka_unit_test_prestate(who_has_none_gets_his_turn, &two),
        cmocka_unit_test_prestate(who_has_none_gets_his_turn, &four),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
