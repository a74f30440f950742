/* SPDX-License-Identifier: MIT */
/* When dialing makes sense: busy and broken upstreams, breakers, pauses; what a ledger
 * remembers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/unit/pools/stage.h"

#include <cmocka.h>

static void ended(struct guest *g)
{
    ends(g, OUTCOME_KEEP);
}

/* ---- busy, down, and which endpoint ---- */

static void busy_upstream_shrinks_and_never_trips(void **state)
{
    (void)state;
    conf.size.max = 5;
    conf.breaker.consecutive = 1;
    open_house(1);
    struct guest g[3] = {{.calls = 0}};
    ask_on(0, &g[0]);
    ask_on(0, &g[1]);
    dials.cause = CAUSE_UPSTREAM_BUSY;
    ask_on(0, &g[2]);
    struct ledger_view view = house_view(&house);
    assert_int_equal(view.door, BREAKER_CLOSED);
    assert_int_equal(view.dial_causes[CAUSE_UPSTREAM_BUSY], 1);
    house_pass(&house, 1900);
    assert_int_equal(house_view(&house).dials, 3); /* not asked again for two seconds */
    assert_false(guest_has(&g[2]));
    dials.cause = CAUSE_NONE;
    house_pass(&house, 400);
    assert_true(guest_has(&g[2]));
    for (unsigned i = 0; i < 3; i++)
        ended(&g[i]);
    close_house();
}

static void door_opens_and_lets_one_trial_in(void **state)
{
    (void)state;
    conf.size.max = 5;
    conf.breaker =
        (struct breaker_conf){.consecutive = 3, .open_min_ms = 1000, .open_max_ms = 1000};
    dials.cause = CAUSE_DIAL_FAILED;
    open_house(2);
    struct guest g[4] = {{.calls = 0}};
    for (unsigned i = 0; i < 4; i++)
        ask_on(i % 2, &g[i]);
    unsigned steps = 0;
    while (house_view(&house).door != BREAKER_OPEN && steps++ < 1000)
        house_pass(&house, 1);
    assert_int_equal(house_view(&house).door, BREAKER_OPEN);
    uint64_t before = house_view(&house).dials;
    assert_true(before >= 3 && before <= 3 + LEDGER_DIALS_MAX);
    house_pass(&house, 400); /* the open time is at least half of what is said */
    assert_int_equal(house_view(&house).dials, before);
    dials = (struct fake_dial){.ms = 300};
    steps = 0;
    while (house_view(&house).dials == before && steps++ < 3000)
        house_pass(&house, 1);
    assert_int_equal(house_view(&house).door, BREAKER_HALF_OPEN);
    house_pass(&house, 200);
    assert_int_equal(house_view(&house).dialing, 1); /* one trial, though four wait */
    house_pass(&house, 1000);
    assert_int_equal(house_view(&house).door, BREAKER_CLOSED);
    for (unsigned i = 0; i < 4; i++) {
        assert_true(guest_has(&g[i]));
        ended(&g[i]);
    }
    close_house();
}

static const struct endpoint_conf two_endpoints[HOUSE_ENDPOINTS] = {
    {.label = "first:1", .host = "127.0.0.1", .port = 1, .literal = true, .priority = 1},
    {.label = "second:2", .host = "127.0.0.1", .port = 2, .literal = true, .priority = 2},
};

static void plan_first_is_down(const struct server *sv, struct fake_dial *dial, struct fake_peer *p)
{
    staged_plan(sv, dial, p);
    dial->cause = sv->endpoint_at == 0 ? CAUSE_DIAL_FAILED : CAUSE_NONE;
}

static void second_endpoint_serves_while_the_first_is_down(void **state)
{
    (void)state;
    conf.endpoints = two_endpoints;
    conf.n_endpoints = 2;
    fake_world_set(&(struct fake_world){.capacity = 1, .plan = plan_first_is_down});
    open_house(1);
    struct guest a = {0};
    ask_on(0, &a);
    assert_true(guest_has(&a)); /* at once: the first one's backoff is not waited for */
    assert_string_equal(guest_server(&a)->endpoint->label, "second:2");
    assert_int_equal(sockets[0], 1);
    ended(&a);
    close_house();
}

static void operator_opens_and_closes_the_door(void **state)
{
    (void)state;
    open_house(1);
    ledger_force_breaker(house.ledger, BREAKER_FORCE_OPEN, house_now());
    struct guest a = {0};
    ask_on(0, &a);
    house_pass(&house, 20000);
    assert_false(guest_has(&a));
    assert_int_equal(house_view(&house).dials, 0);
    assert_int_equal(house_view(&house).door, BREAKER_FORCED_OPEN);
    ledger_force_breaker(house.ledger, BREAKER_FORCE_AUTO, house_now());
    house_settle(&house);
    assert_true(guest_has(&a));
    ended(&a);
    close_house();
}

static void paused_pool_dials_for_nobody(void **state)
{
    (void)state;
    open_house(2);
    ledger_pause(house.ledger, true, house_now());
    struct guest a = {0};
    ask_on(0, &a);
    house_pass(&house, 3000);
    assert_int_equal(house_view(&house).dials, 0);
    ledger_pause(house.ledger, false, house_now());
    house_settle(&house);
    assert_true(guest_has(&a));
    ended(&a);
    close_house();
}

/* ---- the service breaker ---- */

static bool may_serve(uint32_t *permit, uint64_t *wait_ms)
{
    return ledger_service_allows(house.ledger, house_now(), permit, wait_ms);
}

static void service_breaker_shuts_and_tries_again(void **state)
{
    (void)state;
    conf.breaker =
        (struct breaker_conf){.consecutive = 3, .open_min_ms = 1000, .open_max_ms = 1000};
    open_house(1);
    struct pool *p = house.pools[0];
    uint32_t permit, other;
    uint64_t wait;
    for (unsigned i = 0; i < 3; i++) {
        assert_true(may_serve(&permit, &wait));
        assert_int_equal(permit, 0);
        pool_service_result(p, NULL, true, 0); /* told with the next failure */
        pool_service_result(p, NULL, false, 0);
    }
    assert_true(may_serve(&permit, &wait)); /* successes between: no run of three */
    for (unsigned i = 0; i < 2; i++)
        pool_service_result(p, NULL, false, 0);
    assert_false(may_serve(&permit, &wait));
    assert_in_range(wait, 1, 1200); /* give or take a fifth */
    assert_int_equal(house_view(&house).service, BREAKER_OPEN);
    assert_int_equal(house_view(&house).door, BREAKER_CLOSED); /* dials go on */
    house_pass(&house, wait);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(may_serve(&permit, &wait));
        assert_int_not_equal(permit, 0);
        assert_false(may_serve(&other, &wait)); /* one trial at a time */
        pool_service_result(p, NULL, true, permit);
    }
    assert_true(may_serve(&permit, &wait));
    assert_int_equal(permit, 0);
    assert_int_equal(house_view(&house).service, BREAKER_CLOSED);
    close_house();
}

/* ---- what is remembered ---- */

static unsigned freed;

static void memo_free(struct snapshot *snap)
{
    (void)snap;
    freed++;
}

static void memo_is_kept_until_another_comes(void **state)
{
    (void)state;
    freed = 0;
    struct snapshot one = {.refs = 1, .free = memo_free}, two = {.refs = 1, .free = memo_free};
    open_house(1);
    assert_null(ledger_recall(house.ledger));
    struct snapshot *ref = &one;
    ledger_remember(house.ledger, ref);
    snapshot_drop(&ref);
    ref = ledger_recall(house.ledger);
    assert_ptr_equal(ref, &one);
    struct snapshot *fresh = &two;
    ledger_remember(house.ledger, fresh);
    snapshot_drop(&fresh);
    assert_int_equal(freed, 0); /* somebody still reads it */
    snapshot_drop(&ref);
    assert_int_equal(freed, 1);
    close_house();
    assert_int_equal(freed, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(busy_upstream_shrinks_and_never_trips),
        TEST(door_opens_and_lets_one_trial_in),
        TEST(second_endpoint_serves_while_the_first_is_down),
        TEST(operator_opens_and_closes_the_door),
        TEST(paused_pool_dials_for_nobody),
        TEST(service_breaker_shuts_and_tries_again),
        TEST(memo_is_kept_until_another_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
