/* SPDX-License-Identifier: MIT */
/* The books of a pool over its workers: slots, promises, whose turn it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/unit/pools/stage.h"

#include <cmocka.h>

static void ended(struct guest *g)
{
    ends(g, OUTCOME_KEEP);
}

static unsigned moved_in(unsigned worker)
{
    return (unsigned)counter_get(&pool_stats(house.pools[worker])->moved_in);
}

static unsigned promised(unsigned worker)
{
    return house.ledger->workers[worker].promised;
}

/* ---- who is given what: the rules of matching, one row each ---- */

#define GUESTS 12

struct match_row {
    const char *rule;
    unsigned max, min;
    unsigned busy[2], idle[2]; /* before */
    unsigned asks[2];          /* then so many ask for a lease */
    unsigned dialing;          /* what follows: dials that begin (none ends) */
    unsigned served[2];
    unsigned moved[2];
};

static const struct match_row match_rows[] = {
    {"nobody asks: nothing", 5, 0, {0, 0}, {0, 0}, {0, 0}, 0, {0, 0}, {0, 0}},
    {"one asks: one dial", 5, 0, {0, 0}, {0, 0}, {1, 0}, 1, {0, 0}, {0, 0}},
    {"one's own idle server: no dial", 5, 0, {0, 0}, {1, 0}, {1, 0}, 0, {1, 0}, {0, 0}},
    {"an idle server elsewhere: a move, no dial", 5, 0, {0, 0}, {0, 1}, {1, 0}, 0, {1, 0}, {1, 0}},
    {"more ask than are idle: move and dial", 5, 0, {0, 0}, {0, 1}, {2, 0}, 1, {1, 0}, {1, 0}},
    {"own, then moved, then dialed", 5, 0, {0, 0}, {1, 1}, {3, 0}, 1, {2, 0}, {1, 0}},
    {"not more than max", 2, 0, {0, 0}, {0, 0}, {4, 0}, 2, {0, 0}, {0, 0}},
    {"busy ones count", 2, 0, {1, 0}, {0, 0}, {2, 1}, 1, {0, 0}, {0, 0}},
    {"full: wait", 2, 0, {1, 1}, {0, 0}, {2, 2}, 0, {0, 0}, {0, 0}},
    {"four dials in flight", 9, 0, {0, 0}, {0, 0}, {5, 4}, 4, {0, 0}, {0, 0}},
    {"not more dials than waiters", 9, 0, {0, 0}, {0, 0}, {1, 1}, 2, {0, 0}, {0, 0}},
    {"idle ones cross over", 4, 0, {0, 0}, {2, 2}, {4, 0}, 0, {4, 0}, {2, 0}},
    {"both ask, both have", 4, 0, {0, 0}, {2, 2}, {2, 2}, 0, {2, 2}, {0, 0}},
    {"min is no reason while it is reached", 5, 2, {0, 0}, {1, 1}, {0, 0}, 0, {0, 0}, {0, 0}},
};

static void matches(void **state)
{
    for (size_t r = 0; r < ARRAY_LEN(match_rows); r++) {
        const struct match_row *row = &match_rows[r];
        struct guest busy[2][4] = {{{.calls = 0}}}, guests[2][GUESTS] = {{{.calls = 0}}};
        stage(state);
        conf.size.max = row->max;
        conf.size.min = row->min;
        dials.ms = 0;
        open_house(2);
        for (unsigned w = 0; w < 2; w++) {
            for (unsigned i = 0; i < row->busy[w]; i++)
                ask_on(w, &busy[w][i]);
        }
        /* Leased before any is given back, or one would do for both. */
        struct guest fill[2][4] = {{{.calls = 0}}};
        for (unsigned w = 0; w < 2; w++)
            for (unsigned i = 0; i < row->idle[w]; i++)
                ask_on(w, &fill[w][i]);
        for (unsigned w = 0; w < 2; w++)
            for (unsigned i = 0; i < row->idle[w]; i++)
                ended(&fill[w][i]);
        unsigned moved[2] = {moved_in(0), moved_in(1)};
        dials.ms = FAKE_NEVER;
        unsigned served[2] = {0, 0};
        for (unsigned w = 0; w < 2; w++)
            for (unsigned i = 0; i < row->asks[w]; i++)
                ask_on(w, &guests[w][i]);
        for (unsigned w = 0; w < 2; w++)
            for (unsigned i = 0; i < row->asks[w]; i++)
                served[w] += guest_has(&guests[w][i]);
        struct ledger_view view = house_view(&house);
        if (view.dialing != row->dialing || served[0] != row->served[0] ||
            served[1] != row->served[1] || moved_in(0) - moved[0] != row->moved[0] ||
            moved_in(1) - moved[1] != row->moved[1])
            fail_msg("%s: %u dialing, %u and %u served, %u and %u moved in", row->rule,
                     view.dialing, served[0], served[1], moved_in(0) - moved[0],
                     moved_in(1) - moved[1]);
        assert_true(view.open <= view.max);
        house_audit(&house);
        for (unsigned w = 0; w < 2; w++) {
            for (unsigned i = 0; i < GUESTS; i++) {
                pool_cancel(&guests[w][i].waiter);
                if (guest_has(&guests[w][i]))
                    ended(&guests[w][i]);
            }
            for (unsigned i = 0; i < row->busy[w]; i++)
                ended(&busy[w][i]);
        }
        close_house();
    }
}

/* ---- promises end exactly once ---- */

static void promise_ends_when_the_dial_arrives(void **state)
{
    (void)state;
    dials.ms = 50;
    open_house(2);
    struct guest a = {0};
    ask_on(1, &a);
    assert_int_equal(promised(1), 1);
    house_pass(&house, 50);
    assert_int_equal(promised(1), 0);
    assert_true(guest_has(&a));
    ended(&a);
    close_house();
}

static void promise_ends_when_the_dial_fails_and_is_made_again(void **state)
{
    (void)state;
    dials.cause = CAUSE_DIAL_FAILED;
    open_house(2);
    struct guest a = {0};
    ask_on(1, &a);
    assert_int_equal(promised(1), 0); /* backoff first */
    assert_int_equal(house_view(&house).open, 0);
    dials.cause = CAUSE_NONE;
    house_pass(&house, 200); /* the first one is at most 100 ms, then the waiting tick */
    assert_true(guest_has(&a));
    assert_int_equal(promised(1), 0);
    ended(&a);
    close_house();
}

static void promise_of_a_move_ends_when_it_was_taken_meanwhile(void **state)
{
    (void)state;
    conf.size.max = 2;
    open_house(2);
    house_fill(&house, 0, 1);
    struct guest here = {0}, there = {0};
    dials.ms = 50;
    /* Worker 1 is promised worker 0's idle server, which is leased before worker 0 hears of it. */
    assert_int_equal(guest_ask(&house, 1, &there, true), LEASE_WAITING);
    assert_int_equal(promised(1), 1);
    assert_int_equal(guest_ask(&house, 0, &here, true), LEASE_GRANTED);
    house_settle(&house);
    assert_int_equal(house.ledger->workers[0].asked, 0);
    assert_int_equal(promised(1), 1); /* now a dial */
    assert_int_equal(house_view(&house).dialing, 1);
    house_pass(&house, 50);
    assert_true(guest_has(&there));
    ended(&here);
    ended(&there);
    close_house();
}

static void promised_server_goes_on_if_its_waiter_left(void **state)
{
    (void)state;
    conf.size.max = 1;
    dials.ms = 50;
    open_house(2);
    struct guest a = {0}, b = {0};
    ask_on(0, &a);
    pool_cancel(&a.waiter);
    ask_on(1, &b); /* no slot left: hopes for the one under way */
    assert_int_equal(house_view(&house).dials, 1);
    house_pass(&house, 50);
    assert_true(guest_has(&b));
    assert_int_equal(moved_in(1), 1);
    ended(&b);
    close_house();
}

/* ---- whose turn it is ---- */

struct turn_row {
    unsigned first;    /* the worker that asks first */
    unsigned later_ms; /* the other one, so much later */
    unsigned winner;   /* when worker 0 gives back */
};

static void foreign_waiter_goes_first_if_older_by_five_ms(void **state)
{
    static const struct turn_row rows[] = {
        {0, 0, 0}, {0, 50, 0}, {1, 0, 0}, {1, 4, 0}, {1, 5, 1}, {1, 50, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct turn_row *row = &rows[i];
        stage(state);
        conf.size.max = 1;
        open_house(2);
        struct guest holder = {0}, g[2] = {{.calls = 0}};
        ask_on(0, &holder);
        ask_on(row->first, &g[row->first]);
        house_pass(&house, row->later_ms);
        ask_on(1 - row->first, &g[1 - row->first]);
        ended(&holder);
        assert_true(guest_has(&g[row->winner]));
        assert_false(guest_has(&g[1 - row->winner]));
        ended(&g[row->winner]);
        assert_true(guest_has(&g[1 - row->winner]));
        ended(&g[1 - row->winner]);
        close_house();
    }
}

static void worker_without_waiters_hands_over_at_once(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_house(3);
    struct guest a = {0}, b = {0}, c = {0};
    ask_on(0, &a);
    ask_on(2, &c);
    house_pass(&house, 1);
    ask_on(1, &b);
    ended(&a);
    assert_true(guest_has(&c)); /* the oldest of all */
    ended(&c);
    assert_true(guest_has(&b));
    ended(&b);
    assert_int_equal(house_view(&house).dials, 1);
    close_house();
}

/* Waiters that only an exclusive lease helps, while their class is full, keep nobody from
 * anything. */
static void full_class_does_not_stand_in_the_way(void **state)
{
    (void)state;
    conf.size.max = 3;
    fake_world_set(&(struct fake_world){.capacity = 8, .plan = staged_plan});
    open_house(2);
    struct guest whole[3] = {{.calls = 0}}, rider = {0};
    ask_on(0, &whole[0]);
    ask_on(0, &whole[1]);
    ask_on(0, &whole[2]); /* the class is full: max - 1 */
    assert_false(guest_has(&whole[2]));
    assert_int_equal(house_view(&house).open, 2); /* and a dial would not help */
    house_pass(&house, 50);
    guest_ask(&house, 1, &rider, false);
    house_settle(&house);
    assert_true(guest_has(&rider));
    ended(&rider);
    house_pass(&house, 500);
    assert_int_equal(idle_on(1), 1); /* nor does it help to move it */
    ended(&whole[0]);
    assert_true(guest_has(&whole[2]));
    ended(&whole[1]);
    ended(&whole[2]);
    close_house();
}

/* ---- the bound over time ---- */

static void raised_max_helps_who_waits(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_house(2);
    struct guest a = {0}, b = {0};
    ask_on(0, &a);
    ask_on(1, &b);
    conf.size.max = 2;
    house_reconf(&house, &conf);
    house_settle(&house);
    assert_true(guest_has(&b));
    ended(&a);
    ended(&b);
    close_house();
}

static void other_endpoint_replaces_servers(void **state)
{
    (void)state;
    static const struct endpoint_conf other = {
        .label = "peer:2", .host = "127.0.0.1", .port = 2, .literal = true};
    open_house(2);
    house_fill(&house, 0, 1);
    conf.endpoints = &other;
    house_reconf(&house, &conf);
    house_settle(&house);
    assert_int_equal(house_view(&house).open, 0);
    struct guest a = {0};
    ask_on(0, &a);
    assert_string_equal(guest_server(&a)->endpoint->label, "peer:2");
    ended(&a);
    close_house();
}

static void failed_dial_keeps_its_slot_until_its_socket_is_gone(void **state)
{
    (void)state;
    conf.size.max = 1;
    dials = (struct fake_dial){.cause = CAUSE_DIAL_FAILED, .linger = true};
    peer.eof_ms = 300;
    open_house(1);
    struct guest a = {0};
    ask_on(0, &a);
    house_pass(&house, 299);
    assert_int_equal(house_view(&house).open, 1);
    assert_int_equal(house_view(&house).dial_failures, 0);
    house_pass(&house, 1);
    assert_int_equal(house_view(&house).open, 0);
    assert_int_equal(house_view(&house).dial_failures, 1);
    pool_cancel(&a.waiter);
    close_house();
}

static void silent_dial_ends_at_the_connect_timeout(void **state)
{
    (void)state;
    conf.timeouts.connect_ms = 700;
    dials.ms = FAKE_NEVER;
    open_house(1);
    struct guest a = {0};
    ask_on(0, &a);
    house_pass(&house, 699);
    assert_int_equal(house_view(&house).dial_failures, 0);
    house_pass(&house, 1);
    assert_int_equal(house_view(&house).dial_failures, 1);
    assert_int_equal(house_view(&house).last_dial.cause, CAUSE_DIAL_FAILED);
    pool_cancel(&a.waiter);
    close_house();
}

/* ---- min ---- */

static void min_is_warmed_without_being_asked(void **state)
{
    (void)state;
    conf.size.max = 5;
    conf.size.min = 3;
    open_house(2);
    struct ledger_view view = house_view(&house);
    assert_int_equal(view.open, 3);
    assert_true(view.warmed);
    assert_int_equal(idle_on(0) + idle_on(1), 3);
    assert_true(idle_on(0) >= 1 && idle_on(1) >= 1); /* spread over the workers */
    /* One that is lost is replaced. */
    fake_end(fake_any(0));
    house_settle(&house);
    house_pass(&house, 1100);
    assert_int_equal(house_view(&house).open, 3);
    close_house();
}

static void not_warmed_before_min_is_there(void **state)
{
    (void)state;
    conf.size.min = 2;
    dials.ms = 100;
    open_house(1);
    assert_false(house_view(&house).warmed);
    house_pass(&house, 100);
    assert_true(house_view(&house).warmed);
    close_house();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(matches),
        TEST(promise_ends_when_the_dial_arrives),
        TEST(promise_ends_when_the_dial_fails_and_is_made_again),
        TEST(promise_of_a_move_ends_when_it_was_taken_meanwhile),
        TEST(promised_server_goes_on_if_its_waiter_left),
        TEST(foreign_waiter_goes_first_if_older_by_five_ms),
        TEST(worker_without_waiters_hands_over_at_once),
        TEST(full_class_does_not_stand_in_the_way),
        TEST(raised_max_helps_who_waits),
        TEST(other_endpoint_replaces_servers),
        TEST(failed_dial_keeps_its_slot_until_its_socket_is_gone),
        TEST(silent_dial_ends_at_the_connect_timeout),
        TEST(min_is_warmed_without_being_asked),
        TEST(not_warmed_before_min_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
