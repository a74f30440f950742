/* SPDX-License-Identifier: MIT */
/* A bound over several pools: exact, whatever changes, and said to whoever waits. Who gets how much
 * of it: test_group_shares.c. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TOWN_TEST(no_more_than_the_total_over_all),
        TOWN_TEST(a_bound_of_0_is_none),
        TOWN_TEST(ones_own_bound_holds_below_the_total),
        TOWN_TEST(closing_servers_hold_their_slots),
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
