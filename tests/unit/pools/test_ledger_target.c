/* SPDX-License-Identifier: MIT */
/* Endpoints whose servers have one role or the other, and a pool that wants one of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/unit/pools/stage.h"

#include <cmocka.h>

static const struct endpoint_conf two_endpoints[HOUSE_ENDPOINTS] = {
    {.label = "first:1", .host = "127.0.0.1", .port = 1, .literal = true, .priority = 1},
    {.label = "second:2", .host = "127.0.0.1", .port = 2, .literal = true, .priority = 2},
};

/* How the endpoints are now. */
static struct fake_dial now[HOUSE_ENDPOINTS];

static void plan(const struct server *sv, struct fake_dial *dial, struct fake_peer *p)
{
    staged_plan(sv, dial, p);
    *dial = now[sv->endpoint_at];
}

static void set_up(enum pool_target target, enum server_role first, enum server_role second)
{
    conf.endpoints = two_endpoints;
    conf.n_endpoints = 2;
    conf.target = target;
    now[0] = (struct fake_dial){.role = first};
    now[1] = (struct fake_dial){.role = second};
    fake_world_set(&(struct fake_world){.capacity = 1, .plan = plan});
    open_house(1);
}

static const char *label_of(const struct guest *g)
{
    return guest_server(g)->endpoint->label;
}

/* Milliseconds until it is served. */
static unsigned served_after(const struct guest *g, unsigned most)
{
    unsigned ms = 0;
    while (!guest_has(g) && ms++ < most)
        house_pass(&house, 1);
    assert_true(guest_has(g));
    return ms;
}

static void the_right_role_is_found_at_once_and_kept_to(void **state)
{
    (void)state;
    set_up(TARGET_PRIMARY, ROLE_STANDBY, ROLE_PRIMARY);
    struct guest g[3] = {{.calls = 0}};
    for (unsigned i = 0; i < 3; i++) {
        ask(&g[i]);
        assert_true(guest_has(&g[i]));
        assert_string_equal(label_of(&g[i]), "second:2");
        house_pass(&house, 5000);
    }
    assert_int_equal(sockets[0], 1);
    for (unsigned i = 0; i < 3; i++)
        ends(&g[i], OUTCOME_KEEP);
    close_house();
}

static void replicas_are_taken_in_their_order(void **state)
{
    (void)state;
    set_up(TARGET_REPLICA, ROLE_STANDBY, ROLE_STANDBY);
    struct guest a = {0}, b = {0}, c = {0};
    ask(&a);
    assert_string_equal(label_of(&a), "first:1");
    now[0].cause = CAUSE_DIAL_FAILED;
    ask(&b);
    assert_string_equal(label_of(&b), "second:2");
    now[0].cause = CAUSE_NONE; /* back: it goes first again */
    house_pass(&house, 60000);
    ask(&c);
    assert_string_equal(label_of(&c), "first:1");
    ends(&a, OUTCOME_KEEP);
    ends(&b, OUTCOME_KEEP);
    ends(&c, OUTCOME_KEEP);
    close_house();
}

static void a_wrong_role_is_looked_at_again_and_is_not_down(void **state)
{
    (void)state;
    conf.breaker =
        (struct breaker_conf){.consecutive = 1, .open_min_ms = 9000, .open_max_ms = 9000};
    set_up(TARGET_PRIMARY, ROLE_STANDBY, ROLE_STANDBY);
    struct guest a = {0};
    ask(&a);
    house_pass(&house, 30000);
    assert_false(guest_has(&a));
    assert_int_equal(house_view(&house).door, BREAKER_CLOSED);
    assert_true(sockets[0] >= 25 && sockets[0] <= 300);
    assert_true(sockets[1] >= 25 && sockets[1] <= 300);
    now[1].role = ROLE_PRIMARY;
    assert_true(served_after(&a, 3000) <= 1200);
    assert_string_equal(label_of(&a), "second:2");
    ends(&a, OUTCOME_KEEP);
    close_house();
}

/* What was learned of it while it was a standby is no reason to wait long when it restarts. */
static void a_standby_that_restarts_as_primary_is_found_soon(void **state)
{
    (void)state;
    set_up(TARGET_PRIMARY, ROLE_STANDBY, ROLE_STANDBY);
    struct guest a = {0};
    ask(&a);
    house_pass(&house, 30000);
    now[0].cause = now[1].cause = CAUSE_DIAL_FAILED;
    unsigned had = sockets[1];
    while (sockets[1] == had)
        house_pass(&house, 1);
    now[1] = (struct fake_dial){.role = ROLE_PRIMARY};
    assert_true(served_after(&a, 3000) <= 1200);
    ends(&a, OUTCOME_KEEP);
    close_house();
}

static void one_look_at_a_time(void **state)
{
    (void)state;
    set_up(TARGET_PRIMARY, ROLE_STANDBY, ROLE_PRIMARY);
    now[0].ms = now[1].ms = 100;
    struct guest g[3] = {{.calls = 0}};
    for (unsigned i = 0; i < 3; i++)
        ask(&g[i]);
    assert_int_equal(sockets[0], 1);
    assert_int_equal(sockets[1], 1);
    for (unsigned i = 0; i < 3; i++) {
        (void)served_after(&g[i], 500);
        assert_string_equal(label_of(&g[i]), "second:2");
    }
    for (unsigned i = 0; i < 3; i++)
        ends(&g[i], OUTCOME_KEEP);
    assert_int_equal(sockets[0], 1);
    close_house();
}

/* Connections of the one that was the primary may still be open, and look well. */
static void a_primary_found_elsewhere_renews_the_pool(void **state)
{
    (void)state;
    set_up(TARGET_PRIMARY, ROLE_PRIMARY, ROLE_STANDBY);
    struct guest a = {0}, b = {0}, c = {0};
    ask(&a);
    ask(&b);
    ends(&b, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 1);
    now[0].cause = CAUSE_DIAL_FAILED;
    now[1].role = ROLE_PRIMARY;
    ask(&b); /* the idle one */
    assert_string_equal(label_of(&b), "first:1");
    ask(&c);
    (void)served_after(&c, 3000);
    assert_string_equal(label_of(&c), "second:2");
    ends(&b, OUTCOME_KEEP);
    ends(&a, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 0);
    ends(&c, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 1); /* the news' own server is not renewed for them */
    ask(&a);
    assert_string_equal(label_of(&a), "second:2");
    assert_int_equal(sockets[1], 1);
    ends(&a, OUTCOME_KEEP);
    close_house();
}

static void an_endpoint_that_lost_the_role_renews_the_pool(void **state)
{
    (void)state;
    set_up(TARGET_PRIMARY, ROLE_PRIMARY, ROLE_STANDBY);
    struct guest a = {0}, b = {0};
    ask(&a);
    now[0].role = ROLE_STANDBY;
    ask(&b);
    house_pass(&house, 10);
    ends(&a, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 0);
    assert_false(guest_has(&b));
    now[1].role = ROLE_PRIMARY;
    assert_true(served_after(&b, 3000) <= 1200);
    ends(&b, OUTCOME_KEEP);
    close_house();
}

/* ---- prefer-replica ---- */

static void a_standby_goes_before_the_primary(void **state)
{
    (void)state;
    set_up(TARGET_PREFER_REPLICA, ROLE_PRIMARY, ROLE_STANDBY);
    struct guest g[3] = {{.calls = 0}};
    for (unsigned i = 0; i < 3; i++) {
        ask(&g[i]);
        assert_true(guest_has(&g[i]));
        assert_string_equal(label_of(&g[i]), "second:2");
        house_pass(&house, 5000);
    }
    assert_int_equal(sockets[0], 1);
    for (unsigned i = 0; i < 3; i++)
        ends(&g[i], OUTCOME_KEEP);
    close_house();
}

static void a_standby_has_a_moment_to_answer(void **state)
{
    (void)state;
    set_up(TARGET_PREFER_REPLICA, ROLE_STANDBY, ROLE_PRIMARY);
    now[0].ms = 400;
    struct guest g[3] = {{.calls = 0}};
    for (unsigned i = 0; i < 3; i++)
        ask(&g[i]);
    house_pass(&house, 900);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(guest_has(&g[i]));
        assert_string_equal(label_of(&g[i]), "first:1");
        ends(&g[i], OUTCOME_KEEP);
    }
    close_house();
}

static void but_not_for_ever(void **state)
{
    (void)state;
    set_up(TARGET_PREFER_REPLICA, ROLE_STANDBY, ROLE_PRIMARY);
    now[0].ms = FAKE_NEVER;
    struct guest g[2] = {{.calls = 0}};
    ask(&g[0]);
    ask(&g[1]);
    unsigned ms = served_after(&g[0], 2000);
    assert_true(ms >= 900 && ms <= 1200);
    assert_string_equal(label_of(&g[0]), "second:2");
    ends(&g[0], OUTCOME_KEEP);
    (void)served_after(&g[1], 500);
    ends(&g[1], OUTCOME_KEEP);
    close_house();
}

/* At once, and not after a second try at each standby. */
static void the_primary_will_do_while_no_standby_answers(void **state)
{
    (void)state;
    set_up(TARGET_PREFER_REPLICA, ROLE_STANDBY, ROLE_PRIMARY);
    now[0].cause = CAUSE_DIAL_FAILED;
    struct guest a = {0};
    ask(&a);
    assert_true(guest_has(&a));
    assert_string_equal(label_of(&a), "second:2");
    ends(&a, OUTCOME_DROP_CLOSING);
    house_pass(&house, 5000);
    assert_int_equal(house_view(&house).open, 0);
    now[0] = (struct fake_dial){.ms = FAKE_NEVER};
    ask(&a);
    assert_true(guest_has(&a));
    assert_string_equal(label_of(&a), "second:2");
    ends(&a, OUTCOME_KEEP);
    close_house();
}

static void a_primary_alone_will_do(void **state)
{
    (void)state;
    set_up(TARGET_PREFER_REPLICA, ROLE_PRIMARY, ROLE_PRIMARY);
    conf.n_endpoints = 1;
    struct guest a = {0};
    ask(&a);
    assert_true(served_after(&a, 1000) <= 300);
    ends(&a, OUTCOME_KEEP);
    close_house();
}

/* What is in use stays in use; what comes free, or is idle, goes. */
static void servers_of_the_primary_make_way_for_a_standby(void **state)
{
    (void)state;
    set_up(TARGET_PREFER_REPLICA, ROLE_STANDBY, ROLE_PRIMARY);
    now[0].cause = CAUSE_DIAL_FAILED;
    struct guest a = {0}, b = {0};
    ask(&a);
    ask(&b);
    ends(&b, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 1);
    now[0].cause = CAUSE_NONE;
    house_pass(&house, 15000); /* nobody asks: it is looked for all the same */
    assert_int_equal(idle_on(0), 1);
    assert_true(guest_has(&a));
    ask(&b);
    assert_string_equal(label_of(&b), "first:1");
    ends(&a, OUTCOME_KEEP);
    ends(&b, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 1);
    ask(&a);
    assert_string_equal(label_of(&a), "first:1");
    ends(&a, OUTCOME_KEEP);
    close_house();
}

static void a_full_pool_looks_for_a_standby_too(void **state)
{
    (void)state;
    conf.size.max = 2;
    set_up(TARGET_PREFER_REPLICA, ROLE_STANDBY, ROLE_PRIMARY);
    now[0].cause = CAUSE_DIAL_FAILED;
    struct guest g[2] = {{.calls = 0}};
    for (unsigned i = 0; i < 2; i++)
        ask(&g[i]);
    now[0].cause = CAUSE_NONE;
    unsigned had = sockets[0], ms = 0;
    while (sockets[0] == had && ms++ < 60000) {
        house_pass(&house, 1);
        for (unsigned i = 0; ms % 50 == 0 && i < 2; i++) {
            ends(&g[i], OUTCOME_KEEP);
            ask(&g[i]);
            (void)served_after(&g[i], 500);
        }
    }
    assert_true(ms < 15000);
    for (unsigned i = 0; i < 2; i++)
        ends(&g[i], OUTCOME_KEEP);
    for (unsigned i = 0; i < 2; i++) {
        ask(&g[i]);
        (void)served_after(&g[i], 500);
        assert_string_equal(label_of(&g[i]), "first:1");
    }
    for (unsigned i = 0; i < 2; i++)
        ends(&g[i], OUTCOME_KEEP);
    close_house();
}

/* One slot of a full pool in ten seconds at most is what the search for a standby costs. */
static void a_full_pool_does_not_look_all_the_time(void **state)
{
    (void)state;
    conf.size.max = 2;
    set_up(TARGET_PREFER_REPLICA, ROLE_STANDBY, ROLE_PRIMARY);
    now[0].cause = CAUSE_DIAL_FAILED;
    struct guest g[2] = {{.calls = 0}};
    for (unsigned i = 0; i < 2; i++)
        ask(&g[i]);
    unsigned had = sockets[1];
    for (unsigned ms = 0; ms < 60000; ms += 50) {
        house_pass(&house, 50);
        for (unsigned i = 0; i < 2; i++) {
            ends(&g[i], OUTCOME_KEEP);
            ask(&g[i]);
            (void)served_after(&g[i], 500);
            assert_string_equal(label_of(&g[i]), "second:2");
        }
    }
    assert_true(sockets[1] - had <= 7);
    for (unsigned i = 0; i < 2; i++)
        ends(&g[i], OUTCOME_KEEP);
    close_house();
}

/* Both have changed, and nobody has looked at the old primary meanwhile. */
static void after_a_switchover_the_old_primary_is_the_standby(void **state)
{
    (void)state;
    set_up(TARGET_PREFER_REPLICA, ROLE_PRIMARY, ROLE_STANDBY);
    struct guest a = {0}, b = {0};
    ask(&a);
    assert_string_equal(label_of(&a), "second:2");
    now[0].role = ROLE_STANDBY;
    now[1].role = ROLE_PRIMARY;
    ends(&a, OUTCOME_DROP_UNFIT); /* it has said so */
    ask(&a);
    (void)served_after(&a, 1000);
    house_pass(&house, 15000);
    assert_int_equal(idle_on(0), 1);
    ask(&b);
    assert_string_equal(label_of(&b), "first:1");
    ends(&a, OUTCOME_KEEP);
    ends(&b, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 1);
    close_house();
}

/* ---- any ---- */

static void who_is_refused_at_one_waits_for_the_other(void **state)
{
    (void)state;
    set_up(TARGET_ANY, ROLE_PRIMARY, ROLE_PRIMARY);
    now[0].cause = CAUSE_UPSTREAM_AUTH;
    now[1].ms = 500;
    struct guest a = {0};
    ask(&a);
    assert_true(served_after(&a, 1000) >= 400);
    assert_string_equal(label_of(&a), "second:2");
    ends(&a, OUTCOME_DROP_CLOSING);
    now[1] = (struct fake_dial){.cause = CAUSE_TLS_FAILED};
    house_pass(&house, 60000);
    ask(&a);
    house_pass(&house, 20000); /* both have been asked anew by then */
    assert_false(guest_has(&a));
    assert_true(a.why == CAUSE_UPSTREAM_AUTH || a.why == CAUSE_TLS_FAILED);
    close_house();
}

/* A name with several addresses: the next dial takes the next one. */
static void another_address_of_the_name_is_tried(void **state)
{
    (void)state;
    conf.target = TARGET_PRIMARY;
    dials.role = ROLE_STANDBY;
    open_house(1);
    struct guest a = {0};
    ask(&a);
    unsigned turn = house.ledger->endpoints[0].turn;
    assert_true(turn >= 1);
    dials.role = ROLE_PRIMARY;
    (void)served_after(&a, 1200);
    assert_true(guest_server(&a)->turn >= turn);
    ends(&a, OUTCOME_KEEP);
    close_house();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_right_role_is_found_at_once_and_kept_to),
        TEST(replicas_are_taken_in_their_order),
        TEST(a_wrong_role_is_looked_at_again_and_is_not_down),
        TEST(a_standby_that_restarts_as_primary_is_found_soon),
        TEST(one_look_at_a_time),
        TEST(a_primary_found_elsewhere_renews_the_pool),
        TEST(an_endpoint_that_lost_the_role_renews_the_pool),
        TEST(a_standby_goes_before_the_primary),
        TEST(a_standby_has_a_moment_to_answer),
        TEST(but_not_for_ever),
        TEST(the_primary_will_do_while_no_standby_answers),
        TEST(a_primary_alone_will_do),
        TEST(servers_of_the_primary_make_way_for_a_standby),
        TEST(a_full_pool_looks_for_a_standby_too),
        TEST(a_full_pool_does_not_look_all_the_time),
        TEST(after_a_switchover_the_old_primary_is_the_standby),
        TEST(who_is_refused_at_one_waits_for_the_other),
        TEST(another_address_of_the_name_is_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
