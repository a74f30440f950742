/* SPDX-License-Identifier: MIT */
/* Who gets a server of a pool when, and what others are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/unit/pools/stage.h"

#include <cmocka.h>

/* ---- order ---- */

static void latest_idle_first(void **state)
{
    (void)state;
    open_house(1);
    struct guest a = {0}, b = {0}, c = {0};
    ask(&a);
    ask(&b);
    uint32_t of_a = guest_server(&a)->id, of_b = guest_server(&b)->id;
    assert_int_not_equal(of_a, of_b);
    ends(&a, OUTCOME_KEEP);
    ends(&b, OUTCOME_KEEP);
    assert_int_equal(guest_ask(&house, 0, &c, true), LEASE_GRANTED);
    assert_int_equal(guest_server(&c)->id, of_b);
    assert_int_equal(guest_ask(&house, 0, &a, true), LEASE_GRANTED);
    assert_int_equal(guest_server(&a)->id, of_a);
    assert_int_equal(house_view(&house).dials, 2);
    ends(&a, OUTCOME_KEEP);
    ends(&c, OUTCOME_KEEP);
    close_house();
}

static void first_come_first_served(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_house(1);
    struct guest g[5] = {{.calls = 0}};
    for (unsigned i = 0; i < 5; i++)
        ask(&g[i]);
    for (unsigned i = 0; i < 5; i++) {
        assert_true(guest_has(&g[i]));
        assert_int_equal(g[i].turn, i + 1);
        assert_int_equal(guest_server(&g[i])->lease_no, i + 1);
        for (unsigned k = i + 1; k < 5; k++)
            assert_false(guest_has(&g[k]));
        ends(&g[i], OUTCOME_KEEP);
    }
    assert_int_equal(house_view(&house).dials, 1);
    close_house();
}

static void callbacks_never_run_inside_calls(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    assert_int_equal(guest_ask(&house, 0, &b, true), LEASE_WAITING);
    guest_end(&a, OUTCOME_KEEP);
    assert_int_equal(b.calls, 0); /* a's caller finds nothing changed */
    house_settle(&house);
    assert_int_equal(b.calls, 1);
    ends(&b, OUTCOME_KEEP);
    close_house();
}

/* ---- waiting ends, with its cause ---- */

static void wait_ends_at_the_acquire_timeout(void **state)
{
    (void)state;
    conf.size.max = 1;
    conf.size.acquire_timeout_ms = 300;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    ask(&b);
    house_pass(&house, 299);
    assert_int_equal(b.calls, 0);
    house_pass(&house, 1);
    assert_int_equal(b.calls, 1);
    assert_int_equal(b.why, CAUSE_ACQUIRE_TIMEOUT);
    ends(&a, OUTCOME_KEEP);
    house_pass(&house, 1000);
    assert_int_equal(b.calls, 1);
    close_house();
}

static void own_deadline_comes_first(void **state)
{
    (void)state;
    conf.size.max = 1;
    conf.size.acquire_timeout_ms = 300;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    b.waiter.due_ms = house_now() + 50;
    ask(&b);
    house_pass(&house, 50);
    assert_int_equal(b.why, CAUSE_ACQUIRE_TIMEOUT);
    ends(&a, OUTCOME_KEEP);
    close_house();
}

static void outage_lets_wait_longer(void **state)
{
    (void)state;
    conf.size.acquire_timeout_ms = 300;
    conf.timeouts.outage_wait_ms = 2000;
    dials.cause = CAUSE_DIAL_FAILED;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    b.waiter.due_ms = house_now() + 1000; /* between the two */
    ask(&b);
    house_pass(&house, 999);
    assert_int_equal(a.calls + b.calls, 0);
    house_pass(&house, 1);
    assert_int_equal(b.why, CAUSE_DIAL_FAILED);
    house_pass(&house, 999);
    assert_int_equal(a.calls, 0);
    house_pass(&house, 1);
    assert_int_equal(a.why, CAUSE_OUTAGE);
    close_house();
}

static void outage_that_ends_serves(void **state)
{
    (void)state;
    conf.size.acquire_timeout_ms = 300;
    dials.cause = CAUSE_DIAL_FAILED;
    open_house(1);
    struct guest a = {0};
    ask(&a);
    house_pass(&house, 5000);
    assert_int_equal(a.calls, 0);
    dials.cause = CAUSE_NONE;
    house_pass(&house, 10500); /* the longest backoff */
    assert_true(guest_has(&a));
    ends(&a, OUTCOME_KEEP);
    close_house();
}

static void refused_login_is_said_so(void **state)
{
    (void)state;
    conf.on_down = ON_DOWN_FAIL;
    conf.retry.attempts = 2;
    dials.cause = CAUSE_UPSTREAM_AUTH;
    open_house(1);
    struct guest a = {0};
    ask(&a);
    house_pass(&house, 2000);
    assert_int_equal(a.why, CAUSE_UPSTREAM_AUTH);
    assert_int_equal(house_view(&house).dial_failures, 1); /* waiting does not heal it */
    close_house();
}

static void open_door_fails_at_once(void **state)
{
    (void)state;
    conf.on_down = ON_DOWN_FAIL;
    conf.breaker =
        (struct breaker_conf){.consecutive = 2, .open_min_ms = 9000, .open_max_ms = 9000};
    conf.retry.attempts = 100;
    dials.cause = CAUSE_DIAL_FAILED;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    house_pass(&house, 1000);
    assert_int_equal(a.why, CAUSE_BREAKER_OPEN);
    assert_int_equal(house_view(&house).door, BREAKER_OPEN);
    assert_int_equal(guest_ask(&house, 0, &b, true), LEASE_REFUSED);
    assert_int_equal(b.why, CAUSE_BREAKER_OPEN);
    close_house();
}

static void queue_has_an_end(void **state)
{
    (void)state;
    conf.size.max = 1;
    conf.size.waiters = 2;
    open_house(1);
    struct guest g[4] = {{.calls = 0}};
    for (unsigned i = 0; i < 4; i++)
        ask(&g[i]);
    assert_true(guest_has(&g[0]));
    assert_int_equal(g[2].result, LEASE_WAITING);
    assert_int_equal(g[3].result, LEASE_REFUSED);
    assert_int_equal(g[3].why, CAUSE_QUEUE_FULL);
    for (unsigned i = 0; i < 3; i++)
        ends(&g[i], OUTCOME_KEEP);
    close_house();
}

/* waiters: 0 refuses who would wait for others, not who waits for a dial. */
static void no_queue_but_dials(void **state)
{
    (void)state;
    for (unsigned workers = 1; workers <= 2; workers++) {
        conf.size.max = 6; /* more than may be dialed at once */
        conf.size.waiters = 0;
        dials.ms = 50;
        open_house(workers);
        struct guest g[7] = {{.calls = 0}};
        for (unsigned i = 0; i < 7; i++)
            ask_on(i % workers, &g[i]);
        assert_int_equal(g[6].result, LEASE_REFUSED);
        assert_int_equal(g[6].why, CAUSE_QUEUE_FULL);
        house_pass(&house, 200);
        for (unsigned i = 0; i < 6; i++)
            assert_true(guest_has(&g[i]));
        ends(&g[0], OUTCOME_KEEP);
        ask_on(0, &g[6]);
        assert_true(guest_has(&g[6]));
        struct guest late = {.calls = 0};
        ask_on(workers - 1, &late);
        assert_int_equal(late.why, CAUSE_QUEUE_FULL);
        for (unsigned i = 1; i < 7; i++)
            ends(&g[i], OUTCOME_KEEP);
        close_house();
    }
}

/* One server that comes serves many who share it. */
static void no_queue_but_shared_dials(void **state)
{
    (void)state;
    conf.size.max = 1;
    conf.size.waiters = 0;
    dials.ms = 50;
    open_shared(100);
    struct guest g[10] = {{.calls = 0}};
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(guest_ask(&house, 0, &g[i], false), LEASE_WAITING);
    house_settle(&house);
    house_pass(&house, 50);
    for (unsigned i = 0; i < 10; i++) {
        assert_true(guest_has(&g[i]));
        ends(&g[i], OUTCOME_KEEP);
    }
    close_house();
}

/* Nobody refuses, nobody answers: the first who wait hear of the dial, not of a busy pool. */
static void unanswered_dial_is_said_so(void **state)
{
    (void)state;
    conf.size.acquire_timeout_ms = 3000;
    dials.ms = FAKE_NEVER;
    for (int i = 0; i < 2; i++) {
        conf.on_down = i ? ON_DOWN_FAIL : ON_DOWN_WAIT;
        open_house(1);
        struct guest a = {0};
        ask(&a);
        house_pass(&house, 3000);
        assert_int_equal(a.why, CAUSE_DIAL_FAILED);
        assert_non_null(strstr(a.waiter.err.note, "dialing peer:1 for 3.0 s, no answer"));
        close_house();
    }
}

static void pause_holds_back_and_resume_serves_in_order(void **state)
{
    (void)state;
    conf.size.acquire_timeout_ms = 100;
    conf.timeouts.outage_wait_ms = 300; /* which a pause is, for whom it keeps waiting */
    open_house(1);
    struct guest a = {0}, b = {0}, c = {0}, late = {0};
    ask(&a);
    ledger_pause(house.ledger, true, house_now());
    house_ask_all(&house);
    ends(&a, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 1);
    ask(&late);
    house_pass(&house, 200);
    ask(&b);
    ask(&c);
    assert_int_equal(b.calls + c.calls, 0);
    house_pass(&house, 100);
    assert_int_equal(late.why, CAUSE_PAUSED);
    ledger_pause(house.ledger, false, house_now());
    house_ask_all(&house);
    house_settle(&house);
    assert_true(guest_has(&b) && guest_has(&c));
    assert_true(b.turn < c.turn);
    ends(&b, OUTCOME_KEEP);
    ends(&c, OUTCOME_KEEP);
    close_house();
}

static void stop_refuses_who_waits_and_who_comes(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_house(1);
    struct guest a = {0}, b = {0}, c = {0};
    ask(&a);
    ask(&b);
    house_stop(&house);
    house_settle(&house);
    assert_int_equal(b.why, CAUSE_DRAINING);
    ask(&c);
    assert_int_equal(c.why, CAUSE_DRAINING);
    assert_true(guest_has(&a)); /* has its time */
    pool_kill(house.pools[0]);
    assert_int_equal(a.lost, 1);
    assert_int_equal(a.why, CAUSE_KILLED);
    close_house();
}

/* ---- withdrawing ---- */

static void cancel_before_and_after_the_grant(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_house(1);
    struct guest a = {0}, b = {0}, c = {0};
    ask(&a);
    ask(&b);
    ask(&c);
    pool_cancel(&b.waiter);
    guest_end(&a, OUTCOME_KEEP); /* granted to c, who does not know yet */
    pool_cancel(&c.waiter);
    house_settle(&house);
    house_pass(&house, 100000);
    assert_int_equal(b.calls + c.calls, 0);
    assert_int_equal(idle_on(0), 1);
    close_house();
}

/* ---- figures ---- */

static void counts_what_it_does(void **state)
{
    (void)state;
    open_house(1);
    struct guest a = {0};
    ask(&a);
    guest_work(&a);
    house_settle(&house);
    ends(&a, OUTCOME_KEEP);
    const struct pool_stats *s = pool_stats(house.pools[0]);
    assert_int_equal(counter_get(&s->leases), 1);
    assert_int_equal(counter_get(&s->waits), 1);
    assert_int_equal(counter_get(&s->leased), 0);
    assert_int_equal(counter_get(&s->to_servers), 1);
    assert_int_equal(counter_get(&s->from_servers), 1);
    pool_count_error(house.pools[0], CAUSE_KILLED);
    assert_int_equal(counter_get(&s->errors[CAUSE_KILLED]), 1);
    close_house();
}

static void retries_stay_within_the_budget(void **state)
{
    (void)state;
    open_house(1);
    unsigned got = 0;
    for (unsigned i = 0; i < 1000; i++) {
        pool_request(house.pools[0]);
        got += pool_may_retry(house.pools[0]);
    }
    assert_in_range(got, 200, 215); /* 20 percent, and a floor of ten a second */
    close_house();
}

/* The floor is the pool's: more workers do not retry more. */
static void workers_share_the_floor_of_the_budget(void **state)
{
    (void)state;
    conf.retry.budget = 0;
    open_house(3);
    for (unsigned w = 0; w < 3; w++) {
        unsigned got = 0;
        while (got < 100 && pool_may_retry(house.pools[w]))
            got++;
        assert_int_equal(got, 4); /* ten, divided and rounded up */
    }
    close_house();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(latest_idle_first),
        TEST(first_come_first_served),
        TEST(callbacks_never_run_inside_calls),
        TEST(wait_ends_at_the_acquire_timeout),
        TEST(own_deadline_comes_first),
        TEST(outage_lets_wait_longer),
        TEST(outage_that_ends_serves),
        TEST(refused_login_is_said_so),
        TEST(open_door_fails_at_once),
        TEST(queue_has_an_end),
        TEST(no_queue_but_dials),
        TEST(no_queue_but_shared_dials),
        TEST(unanswered_dial_is_said_so),
        TEST(pause_holds_back_and_resume_serves_in_order),
        TEST(stop_refuses_who_waits_and_who_comes),
        TEST(cancel_before_and_after_the_grant),
        TEST(counts_what_it_does),
        TEST(retries_stay_within_the_budget),
        TEST(workers_share_the_floor_of_the_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
