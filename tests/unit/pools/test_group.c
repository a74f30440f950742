/* SPDX-License-Identifier: MIT */
/* A bound over several pools: exact, and shared fairly. */
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

/* ---- the bound ---- */

static void no_more_than_the_total_over_all(void **state)
{
    (void)state;
    town_open(1, 3, 7);
    for (unsigned i = 0; i < 3; i++) {
        come(A, 2);
        come(B, 2);
        come(C, 2);
        assert_true(open_of_all() <= 7);
    }
    assert_int_equal(open_of_all(), 7);
    assert_int_equal(fake_open_peak(), 7);
    town_close();
}

static void a_bound_of_0_is_none(void **state)
{
    (void)state;
    town_open(1, 2, 0);
    come(A, 10);
    come(B, 10);
    assert_int_equal(having(A) + having(B), 20);
    town_close();
}

static void ones_own_bound_holds_below_the_total(void **state)
{
    (void)state;
    conf.size.max = 3;
    town_open(1, 2, 5);
    come(A, 9);
    assert_int_equal(having(A), 3);
    come(B, 9);
    assert_int_equal(having(A) + having(B), 5);
    town_close();
}

static void closing_servers_hold_their_slots(void **state)
{
    (void)state;
    peer.eof_ms = 1000;
    town_open(1, 2, 2);
    come(A, 2);
    come(B, 1);
    one_ends(A);
    assert_int_equal(open_at(A), 2);
    assert_int_equal(having(B), 0);
    town_pass(1000);
    assert_int_equal(open_at(A), 1);
    assert_int_equal(having(B), 1);
    town_close();
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
    come(A, 20);
    come(B, 20);
    until_fair();
    unsigned dialed = dials_of_all(), a = open_at(A);
    for (unsigned i = 0; i < 20; i++) {
        turns(5);
        town_pass(200);
    }
    assert_int_equal(open_at(A), a);
    assert_int_equal(dials_of_all(), dialed);
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
    (void)state;
    town_open(1, 5, 3);
    bool served[5] = {false};
    for (unsigned i = A; i <= E; i++)
        come(i, 10);
    for (unsigned ms = 0; ms < 2000; ms += 10) {
        turns(1);
        town_pass(10);
        for (unsigned i = A; i <= E; i++)
            served[i] = served[i] || having(i);
    }
    for (unsigned i = A; i <= E; i++)
        assert_true(served[i]);
    assert_true(dials_of_all() < 3 + 3 * 2000 / GROUP_REST_MS + 3);
    town_close();
}

/* ---- changes ---- */

static void a_lower_total_is_met_as_servers_come_free(void **state)
{
    (void)state;
    town_open(1, 2, 10);
    come(A, 6);
    come(B, 4);
    one_ends(B); /* idle */
    group_reconf(group, 4);
    town_settle();
    assert_int_equal(open_of_all(), 9);
    while (one_ends(A) || one_ends(B))
        continue;
    town_pass(1000);
    assert_int_equal(open_of_all(), 4);
    crowds[A].n = 0;
    come(A, 10);
    town_pass(1000);
    assert_int_equal(open_of_all(), 4);
    group_reconf(group, 8);
    town_settle();
    assert_int_equal(having(A), 8);
    group_reconf(group, 0);
    town_settle();
    assert_int_equal(having(A), 10);
    town_close();
}

static void members_come_and_go(void **state)
{
    (void)state;
    town_open(2, 2, 6);
    come(A, 20);
    come(B, 20);
    until_fair();
    town_add(C);
    come(C, 20);
    until_fair();
    for (unsigned i = A; i <= C; i++)
        assert_int_equal(having(i), 2);
    town_remove(B);
    assert_int_equal(having(A), 3);
    assert_int_equal(having(C), 3);
    town_remove(C);
    assert_int_equal(having(A), 6);
    town_close();
}

static void a_paused_member_wants_nothing(void **state)
{
    (void)state;
    town_open(1, 2, 4);
    come(A, 8);
    ledger_pause(members[B].ledger, true, house_now());
    come(B, 4);
    turns(20);
    assert_int_equal(open_at(A), 4);
    ledger_pause(members[B].ledger, false, house_now());
    until_fair();
    assert_int_equal(having(B), 2);
    town_close();
}

static bool broken;

static void plan(const struct server *sv, struct fake_dial *dial, struct fake_peer *p)
{
    (void)p;
    if (broken && sv->ledger == members[B].ledger)
        dial->cause = CAUSE_DIAL_FAILED;
}

/* A member whose dials fail gets no more than the tries its backoff allows. */
static void who_cannot_dial_takes_nothing_away(void **state)
{
    (void)state;
    fake_world_set(&(struct fake_world){.capacity = 1, .plan = plan});
    broken = true;
    town_open(1, 2, 10);
    come(A, 30);
    come(B, 30);
    for (unsigned i = 0; i < 200; i++) {
        turns(2);
        town_pass(50);
    }
    assert_true(open_at(A) >= 9);
    broken = false;
    town_pass(20000);
    until_fair();
    assert_int_equal(having(A), 5);
    assert_int_equal(having(B), 5);
    town_close();
}

/* ---- what waiters hear ---- */

static void without_a_queue_a_full_group_refuses(void **state)
{
    (void)state;
    conf.size.waiters = 0;
    town_open(1, 2, 4);
    come(A, 4);
    struct guest g = {.calls = 0};
    assert_int_equal(guest_ask(&members[B], 0, &g, true), LEASE_REFUSED);
    assert_int_equal(g.why, CAUSE_QUEUE_FULL);
    one_ends(A);
    assert_int_equal(guest_ask(&members[B], 0, &g, true), LEASE_WAITING);
    town_settle();
    assert_true(guest_has(&g));
    guest_end(&g, OUTCOME_KEEP);
    town_close();
}

static void a_timeout_names_the_group(void **state)
{
    (void)state;
    conf.size.acquire_timeout_ms = 500;
    town_open(1, 2, 4);
    come(A, 4);
    come(B, 1);
    town_pass(600);
    struct guest *g = &crowds[B].guests[0];
    assert_int_equal(g->why, CAUSE_ACQUIRE_TIMEOUT);
    assert_non_null(strstr(g->waiter.err.note, "all 4 of the group are taken (size.total)"));
    struct pool_crowd crowd;
    pool_crowd(members[B].pools[0], &crowd);
    assert_int_equal(crowd.open, 0);
    assert_int_equal(crowd.group_open, 4);
    assert_int_equal(crowd.group_max, 4);
    town_close();
}

static void what_the_group_says_of_itself(void **state)
{
    (void)state;
    town_open(1, 3, 4);
    come(A, 4);
    come(B, 2);
    struct group_view view;
    group_view(group, &view);
    assert_int_equal(view.open, 4);
    assert_int_equal(view.max, 4);
    assert_int_equal(view.members, 3);
    assert_int_equal(view.wanting, 1);
    assert_int_equal(house_view(&members[C]).group.max, 4);
    town_close();
}

/* ---- servers that many use at once ---- */

static void shared_servers_are_let_run_empty(void **state)
{
    (void)state;
    fake_world_set(&(struct fake_world){.capacity = 4, .plan = staged_plan});
    town_open(1, 2, 3);
    struct guest riders[12] = {{.calls = 0}}, whole = {.calls = 0};
    come(A, 0);
    for (unsigned i = 0; i < 12; i++) {
        guest_ask(&members[A], 0, &riders[i], false);
        town_settle();
    }
    assert_int_equal(open_at(A), 3);
    guest_ask(&members[B], 0, &whole, true);
    /* Under steady load none comes free by itself. */
    for (unsigned round = 0; round < 60 && !guest_has(&whole); round++) {
        for (unsigned i = 0; i < 12; i++) {
            if (!guest_has(&riders[i]))
                continue;
            guest_end(&riders[i], OUTCOME_KEEP);
            guest_ask(&members[A], 0, &riders[i], false);
            town_settle();
        }
        town_pass(100);
    }
    assert_true(guest_has(&whole));
    guest_end(&whole, OUTCOME_KEEP);
    for (unsigned i = 0; i < 12; i++) {
        pool_cancel(&riders[i].waiter);
        if (guest_has(&riders[i]))
            guest_end(&riders[i], OUTCOME_KEEP);
    }
    town_settle();
    town_close();
}

static unsigned one = 1, two = 2;

int main(void)
{
    const struct CMUnitTest tests[] = {
        TOWN_TEST(no_more_than_the_total_over_all),
        TOWN_TEST(a_bound_of_0_is_none),
        TOWN_TEST(ones_own_bound_holds_below_the_total),
        TOWN_TEST(closing_servers_hold_their_slots),
        TOWN_TEST(two_who_want_all_have_half_each),
        TOWN_TEST(who_wants_less_gets_all_of_it),
        TOWN_TEST(five_share_as_evenly_as_can_be),
        TOWN_TEST(what_one_does_not_want_any_more_goes_to_the_other),
        TOWN_TEST(short_pauses_cost_nothing),
        cmocka_unit_test_prestate(idle_servers_go_before_busy_ones, &one),
        cmocka_unit_test_prestate(idle_servers_go_before_busy_ones, &two),
        TOWN_TEST(idle_servers_above_the_share_go_at_once),
        TOWN_TEST(the_server_idle_longest_goes_first),
        TOWN_TEST(nothing_is_taken_that_nobody_wants_any_more),
        TOWN_TEST(nobody_gives_to_swap_places),
        TOWN_TEST(a_free_slot_goes_to_who_has_least_at_once),
        TOWN_TEST(min_is_kept_only_while_nobody_wants_more),
        TOWN_TEST(a_pool_is_warm_with_what_it_can_have),
        TOWN_TEST(who_has_none_gets_his_turn),
        TOWN_TEST(a_lower_total_is_met_as_servers_come_free),
        TOWN_TEST(members_come_and_go),
        TOWN_TEST(a_paused_member_wants_nothing),
        TOWN_TEST(who_cannot_dial_takes_nothing_away),
        TOWN_TEST(without_a_queue_a_full_group_refuses),
        TOWN_TEST(a_timeout_names_the_group),
        TOWN_TEST(what_the_group_says_of_itself),
        TOWN_TEST(shared_servers_are_let_run_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
