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
    house_pass(&house, 600);
    assert_int_equal(house_view(&house).dials, 4); /* and not so soon again after that */
    house_pass(&house, 2600); /* asked at 2.0 to 2.4 s, and not for 3.2 to 4.8 s more */
    assert_int_equal(house_view(&house).dials, 4);
    dials.cause = CAUSE_NONE;
    house_pass(&house, 2500);
    assert_true(guest_has(&g[2]));
    for (unsigned i = 0; i < 3; i++)
        ended(&g[i]);
    close_house();
}

/* Without a server of its own it asks more often, but not all the time. */
static void busy_upstream_is_asked_for_a_first_server(void **state)
{
    (void)state;
    dials.cause = CAUSE_UPSTREAM_BUSY;
    open_house(1);
    struct guest g = {.calls = 0};
    ask_on(0, &g);
    house_pass(&house, 10000);
    uint64_t before = house_view(&house).dials;
    house_pass(&house, 30000);
    uint64_t after = house_view(&house).dials;
    assert_in_range(after - before, 15, 60); /* one or two a second */
    dials.cause = CAUSE_NONE;
    house_pass(&house, 2100);
    assert_true(guest_has(&g));
    assert_int_equal(house_view(&house).door, BREAKER_CLOSED);
    ended(&g);
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

static struct server *on(const struct guest *g)
{
    return guest_server(g);
}

static void service_breaker_shuts_and_tries_again(void **state)
{
    (void)state;
    conf.breaker =
        (struct breaker_conf){.consecutive = 3, .open_min_ms = 1000, .open_max_ms = 1000};
    open_house(1);
    struct pool *p = house.pools[0];
    struct guest g = {0};
    ask_on(0, &g);
    uint32_t permit, other;
    uint64_t wait;
    for (unsigned i = 0; i < 3; i++) {
        assert_true(may_serve(&permit, &wait));
        assert_int_equal(permit, 0);
        pool_service_well(p, on(&g), 0); /* told with the next failure */
        pool_service_failed(p, on(&g), "sick", 0);
    }
    assert_true(may_serve(&permit, &wait)); /* successes between: no run of three */
    for (unsigned i = 0; i < 2; i++)
        pool_service_failed(p, on(&g), "sick", 0);
    assert_false(may_serve(&permit, &wait));
    assert_int_equal(wait, 1000); /* least and most are the same here: exactly that */
    assert_int_equal(house_view(&house).service, BREAKER_OPEN);
    assert_int_equal(house_view(&house).door, BREAKER_CLOSED); /* dials go on */
    house_pass(&house, wait);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(may_serve(&permit, &wait));
        assert_int_not_equal(permit, 0);
        assert_false(may_serve(&other, &wait)); /* one trial at a time */
        pool_service_well(p, on(&g), permit);
    }
    assert_true(may_serve(&permit, &wait));
    assert_int_equal(permit, 0);
    assert_int_equal(house_view(&house).service, BREAKER_CLOSED);
    ended(&g);
    close_house();
}

/* ---- the services of two endpoints ---- */

static void two_endpoints_house(unsigned workers)
{
    conf.breaker =
        (struct breaker_conf){.consecutive = 3, .open_min_ms = 1000, .open_max_ms = 1000};
    conf.endpoints = two_endpoints;
    conf.n_endpoints = 2;
    open_house(workers);
}

static const char *where(const struct guest *g)
{
    return guest_server(g)->endpoint->label;
}

/* One exchange on whatever server there is; says how it went, and ends. Returns the endpoint. */
static const char *exchange(bool well)
{
    uint32_t permit;
    uint64_t wait;
    struct guest g = {0};
    assert_true(may_serve(&permit, &wait));
    ask_on(0, &g);
    assert_true(guest_has(&g));
    const char *label = where(&g);
    if (well)
        pool_service_well(house.pools[0], on(&g), permit);
    else
        pool_service_failed(house.pools[0], on(&g), "sick", permit);
    ended(&g);
    house_settle(&house);
    return label;
}

static void sick_endpoint_is_left_for_the_other(void **state)
{
    (void)state;
    conf.size.max = 5;
    two_endpoints_house(1);
    struct guest held = {0};
    ask_on(0, &held); /* in use while its endpoint falls ill: it is not torn away */
    for (unsigned i = 0; i < 3; i++)
        assert_string_equal(exchange(false), "first:1");
    assert_int_equal(house_view(&house).service, BREAKER_OPEN);
    assert_int_equal(house_view(&house).open, 1); /* the idle one is gone */
    for (unsigned i = 0; i < 10; i++)
        assert_string_equal(exchange(true), "second:2");
    assert_string_equal(where(&held), "first:1");
    ended(&held);
    house_settle(&house);
    assert_int_equal(house_verdicts(&house, PHASE_RETURN, OUTCOME_DROP_BREAKER), 2);
    assert_int_equal(house_view(&house).open, 1); /* the second's */
    close_house();
}

static void trial_is_settled_on_its_own_endpoint(void **state)
{
    (void)state;
    conf.size.max = 5;
    two_endpoints_house(1);
    for (unsigned i = 0; i < 3; i++)
        exchange(false);
    assert_string_equal(exchange(true), "second:2");
    house_pass(&house, 2100);
    assert_int_equal(house_view(&house).service, BREAKER_HALF_OPEN);
    assert_int_equal(house_view(&house).open, 1);
    assert_string_equal(exchange(true), "second:2"); /* who comes now brings a trial about */
    assert_int_equal(house_view(&house).open, 2);
    /* Two at a time: one is the trial, what the other comes to has no part in it. */
    struct guest trial = {0}, other = {0};
    ask_on(0, &trial);
    ask_on(0, &other);
    assert_string_equal(where(&trial), "first:1");
    assert_string_equal(where(&other), "second:2");
    for (unsigned i = 0; i < 2; i++)
        pool_service_failed(house.pools[0], on(&other), "sick", 0);
    pool_service_well(house.pools[0], on(&other), 0);
    assert_int_equal(house_view(&house).service, BREAKER_HALF_OPEN);
    ended(&other);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(house_view(&house).service, BREAKER_HALF_OPEN);
        pool_service_well(house.pools[0], on(&trial), 0);
    }
    assert_int_equal(house_view(&house).service, BREAKER_CLOSED);
    ended(&trial);
    assert_string_equal(exchange(true), "first:1");
    close_house();
}

static void trial_that_fails_shuts_its_endpoint_again(void **state)
{
    (void)state;
    two_endpoints_house(1);
    for (unsigned i = 0; i < 3; i++)
        exchange(false);
    assert_string_equal(exchange(true), "second:2");
    house_pass(&house, 2100);
    assert_string_equal(exchange(true), "second:2");
    assert_string_equal(exchange(false), "first:1");
    assert_int_equal(house_view(&house).service, BREAKER_OPEN);
    for (unsigned i = 0; i < 5; i++)
        assert_string_equal(exchange(true), "second:2");
    /* A trial that shows nothing is none: the next one is. */
    house_pass(&house, 2100);
    assert_string_equal(exchange(true), "second:2");
    struct guest g = {0};
    ask_on(0, &g);
    assert_string_equal(where(&g), "first:1");
    ended(&g);
    assert_int_equal(house_view(&house).service, BREAKER_HALF_OPEN);
    for (unsigned i = 0; i < 3; i++)
        assert_string_equal(exchange(true), "first:1");
    assert_int_equal(house_view(&house).service, BREAKER_CLOSED);
    close_house();
}

/* Its server is there, and nobody comes on that worker: others have to have their turn. */
static void trial_nobody_comes_to_is_anothers(void **state)
{
    (void)state;
    two_endpoints_house(2);
    for (unsigned i = 0; i < 3; i++)
        exchange(false);
    assert_string_equal(exchange(true), "second:2");
    house_pass(&house, 2100);
    assert_string_equal(exchange(true), "second:2");
    struct guest elsewhere = {0};
    ask_on(1, &elsewhere);
    assert_string_equal(where(&elsewhere), "second:2");
    ended(&elsewhere);
    house_pass(&house, 3000);
    for (unsigned i = 0; i < 2; i++) {
        ask_on(1, &elsewhere);
        assert_string_equal(where(&elsewhere), i == 0 ? "second:2" : "first:1");
        ended(&elsewhere);
        house_settle(&house);
    }
    close_house();
}

/* All slots are the other endpoint's: one of them makes room. */
static void trial_finds_room_in_a_full_pool(void **state)
{
    (void)state;
    conf.size.max = 2;
    two_endpoints_house(1);
    for (unsigned i = 0; i < 3; i++)
        exchange(false);
    house_fill(&house, 0, 2);
    assert_int_equal(house_view(&house).open, 2);
    house_pass(&house, 2100);
    assert_string_equal(exchange(true), "second:2");
    assert_string_equal(exchange(true), "second:2");
    assert_string_equal(exchange(true), "first:1");
    assert_int_equal(house_view(&house).open, 2);
    close_house();
}

static void all_endpoints_sick_refuses_until_one_may_be_tried(void **state)
{
    (void)state;
    two_endpoints_house(2);
    uint32_t permit;
    uint64_t wait;
    for (unsigned i = 0; i < 3; i++)
        assert_string_equal(exchange(false), "first:1");
    for (unsigned i = 0; i < 3; i++)
        assert_string_equal(exchange(false), "second:2");
    assert_false(may_serve(&permit, &wait));
    assert_in_range(wait, 1, 1000);
    house_pass(&house, wait);
    assert_true(may_serve(&permit, &wait));
    assert_int_equal(permit, 0); /* it comes with the server */
    struct guest a = {0}, b = {0};
    ask_on(0, &a);
    assert_string_equal(where(&a), "first:1");
    for (unsigned i = 0; i < 3; i++)
        pool_service_well(house.pools[0], on(&a), 0);
    ask_on(1, &b); /* on the other worker: nobody is tried any more */
    assert_true(guest_has(&b));
    ended(&a);
    ended(&b);
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
        TEST(busy_upstream_is_asked_for_a_first_server),
        TEST(door_opens_and_lets_one_trial_in),
        TEST(second_endpoint_serves_while_the_first_is_down),
        TEST(operator_opens_and_closes_the_door),
        TEST(paused_pool_dials_for_nobody),
        TEST(service_breaker_shuts_and_tries_again),
        TEST(sick_endpoint_is_left_for_the_other),
        TEST(trial_is_settled_on_its_own_endpoint),
        TEST(trial_that_fails_shuts_its_endpoint_again),
        TEST(trial_nobody_comes_to_is_anothers),
        TEST(trial_finds_room_in_a_full_pool),
        TEST(all_endpoints_sick_refuses_until_one_may_be_tried),
        TEST(memo_is_kept_until_another_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
