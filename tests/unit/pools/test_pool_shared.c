/* SPDX-License-Identifier: MIT */
/* Servers that several use at once, and events around a grant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/unit/pools/stage.h"

#include <cmocka.h>

/* ---- shared servers ---- */

static void riders_share_up_to_the_capacity(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_shared(3);
    struct guest g[4] = {{.calls = 0}};
    for (unsigned i = 0; i < 4; i++) {
        guest_ask(&house, 0, &g[i], false);
        house_settle(&house);
    }
    assert_true(guest_has(&g[2]));
    assert_false(guest_has(&g[3]));
    guest_work(&g[0]);
    guest_work(&g[1]);
    house_settle(&house);
    assert_int_equal(g[0].answers + g[1].answers, 2);
    ends(&g[1], OUTCOME_KEEP);
    assert_ptr_equal(guest_server(&g[3]), guest_server(&g[0]));
    ends(&g[0], OUTCOME_KEEP);
    ends(&g[2], OUTCOME_KEEP);
    ends(&g[3], OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 1);
    close_house();
}

static void lost_shared_server_ends_all_its_leases(void **state)
{
    (void)state;
    open_shared(8);
    struct guest g[3] = {{.calls = 0}};
    for (unsigned i = 0; i < 3; i++) {
        guest_ask(&house, 0, &g[i], false);
        house_settle(&house);
    }
    guest_work(&g[1]);
    fake_say(fd_of(&g[0]), ".z"); /* an answer, then what nobody asked for */
    house_settle(&house);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(g[i].lost, 1);
    assert_int_equal(house_view(&house).open, 0);
    close_house();
}

static void one_place_is_kept_from_exclusive_leases(void **state)
{
    (void)state;
    conf.size.max = 3;
    open_shared(8);
    struct guest whole[3] = {{.calls = 0}}, rider = {0};
    for (unsigned i = 0; i < 3; i++)
        ask(&whole[i]);
    assert_true(guest_has(&whole[0]) && guest_has(&whole[1]));
    assert_false(guest_has(&whole[2]));
    assert_int_equal(house_view(&house).pinned, 2);
    guest_ask(&house, 0, &rider, false);
    house_settle(&house);
    assert_true(guest_has(&rider)); /* does not queue up behind the third */
    ends(&whole[0], OUTCOME_KEEP);
    assert_true(guest_has(&whole[2]));
    ends(&whole[1], OUTCOME_KEEP);
    ends(&whole[2], OUTCOME_KEEP);
    ends(&rider, OUTCOME_KEEP);
    assert_int_equal(house_view(&house).pinned, 0);
    close_house();
}

/* What leaves the class leaves the pool, too; but another server is idle already. */
static void room_in_the_class_serves_who_waits_for_it(void **state)
{
    (void)state;
    conf.size.max = 3;
    open_shared(8);
    struct guest whole[3] = {{.calls = 0}}, rider = {0};
    for (unsigned i = 0; i < 3; i++)
        ask(&whole[i]);
    guest_ask(&house, 0, &rider, false);
    house_settle(&house);
    ends(&rider, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 1);
    assert_false(guest_has(&whole[2]));
    dials.ms = FAKE_NEVER; /* there will be no other */
    ends(&whole[0], OUTCOME_DROP_DIRTY);
    assert_true(guest_has(&whole[2]));
    ends(&whole[1], OUTCOME_KEEP);
    ends(&whole[2], OUTCOME_KEEP);
    close_house();
}

/* An idle server, a full class and one of it waiting: who shares is served at once all the same. */
static void riders_pass_a_waiter_that_cannot_be_served(void **state)
{
    (void)state;
    conf.size.max = 2;
    open_shared(8);
    house_fill(&house, 0, 1);
    struct guest whole = {0}, next = {0}, rider = {0}, more = {0};
    ask(&whole);
    ask(&next);
    house_fill(&house, 0, 0);
    assert_false(guest_has(&next));
    guest_ask(&house, 0, &rider, false);
    house_settle(&house);
    assert_true(guest_has(&rider));
    ends(&rider, OUTCOME_KEEP);
    assert_int_equal(guest_ask(&house, 0, &rider, false), LEASE_GRANTED);
    assert_int_equal(guest_ask(&house, 0, &more, false), LEASE_GRANTED);
    ends(&rider, OUTCOME_KEEP);
    ends(&more, OUTCOME_KEEP);
    ends(&whole, OUTCOME_KEEP);
    assert_true(guest_has(&next));
    ends(&next, OUTCOME_KEEP);
    close_house();
}

static void shared_server_runs_empty_for_who_needs_all_of_it(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_shared(8);
    struct guest a = {0}, b = {0}, whole = {0};
    guest_ask(&house, 0, &a, false);
    house_settle(&house);
    ask(&whole);
    guest_ask(&house, 0, &b, false);
    house_settle(&house);
    assert_false(guest_has(&b)); /* takes no new riders */
    ends(&a, OUTCOME_KEEP);
    assert_true(guest_has(&whole));
    assert_true(guest_server(&whole)->exclusive);
    ends(&whole, OUTCOME_KEEP);
    assert_true(guest_has(&b));
    ends(&b, OUTCOME_KEEP);
    close_house();
}

/* ---- events around a grant ---- */

static void holder_hears_of_its_server_before_its_events(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    ask(&b);
    int fd = fd_of(&a);
    struct server *sv = guest_server(&a);
    guest_end(&a, OUTCOME_KEEP); /* b's now, but b does not know yet */
    fake_end(fd);
    sv->io.ops->on_readable(&sv->io); /* as if both were in one batch of events */
    assert_int_equal(b.calls, 0);
    house_settle(&house);
    assert_int_equal(b.calls, 1);
    assert_int_equal(b.lost, 1);
    close_house();
}

static void shared_server_lost_before_its_waiters_know(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_shared(2);
    struct guest a = {0}, b = {0}, c = {0};
    guest_ask(&house, 0, &a, false);
    house_settle(&house);
    guest_ask(&house, 0, &b, false);
    guest_ask(&house, 0, &c, false);
    assert_int_equal(c.result, LEASE_WAITING);
    struct server *sv = guest_server(&a);
    guest_end(&b, OUTCOME_KEEP); /* its place is c's now */
    fake_end(fake_server_of(sv)->fd);
    sv->io.ops->on_readable(&sv->io);
    house_settle(&house);
    assert_int_equal(a.lost, 1);
    assert_int_equal(c.calls, 1);
    assert_int_equal(c.why, CAUSE_UPSTREAM_CLOSED);
    assert_false(guest_has(&c));
    close_house();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(riders_share_up_to_the_capacity),
        TEST(lost_shared_server_ends_all_its_leases),
        TEST(one_place_is_kept_from_exclusive_leases),
        TEST(room_in_the_class_serves_who_waits_for_it),
        TEST(riders_pass_a_waiter_that_cannot_be_served),
        TEST(shared_server_runs_empty_for_who_needs_all_of_it),
        TEST(holder_hears_of_its_server_before_its_events),
        TEST(shared_server_lost_before_its_waiters_know),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
