/* SPDX-License-Identifier: MIT */
/* What becomes of servers: looked at, reset, held, retired, closed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/unit/pools/stage.h"

#include <cmocka.h>

/* ---- looking at servers ---- */

static void checkout_looks_at_what_was_idle_long(void **state)
{
    (void)state;
    conf.check.checkout_after_ms = 100;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    ask(&b);
    int of_a = fd_of(&a), of_b = fd_of(&b);
    uint32_t fresh = 0;
    ends(&a, OUTCOME_KEEP);
    ends(&b, OUTCOME_KEEP);
    house_pass(&house, 100);
    /* The news is in the socket, but no event has been seen yet. */
    fake_end(of_b);
    fake_say(of_a, "z");
    struct guest c = {0};
    assert_int_equal(guest_ask(&house, 0, &c, true), LEASE_WAITING);
    assert_int_equal(house_verdicts(&house, PHASE_CHECKOUT, OUTCOME_DROP_EOF), 1);
    assert_int_equal(house_verdicts(&house, PHASE_CHECKOUT, OUTCOME_DROP_UNREAD), 1);
    house_settle(&house);
    fresh = guest_server(&c)->id;
    ends(&c, OUTCOME_KEEP);
    house_pass(&house, 100);
    assert_int_equal(guest_ask(&house, 0, &c, true), LEASE_GRANTED);
    assert_int_equal(guest_server(&c)->id, fresh);
    assert_int_equal(house_verdicts(&house, PHASE_CHECKOUT, OUTCOME_KEEP), 1);
    ends(&c, OUTCOME_KEEP);
    close_house();
}

/* An upstream that stops ends its connections one after another. */
static void one_that_goes_makes_others_suspect(void **state)
{
    (void)state;
    open_house(1);
    struct guest g[3] = {{.calls = 0}}, next = {0};
    for (unsigned i = 0; i < 3; i++)
        ask(&g[i]);
    uint32_t well = guest_server(&g[0])->id;
    int gone = fd_of(&g[1]), first = fd_of(&g[2]);
    for (unsigned i = 0; i < 3; i++)
        ends(&g[i], OUTCOME_KEEP);
    fake_end(first);
    house_settle(&house);
    fake_end(gone); /* no event has been seen of this one */
    assert_int_equal(guest_ask(&house, 0, &next, true), LEASE_GRANTED);
    assert_int_equal(guest_server(&next)->id, well);
    assert_int_equal(house_verdicts(&house, PHASE_CHECKOUT, OUTCOME_DROP_EOF), 1);
    ends(&next, OUTCOME_KEEP);
    house_pass(&house, 1000);
    ask(&next);
    assert_int_equal(house_verdicts(&house, PHASE_CHECKOUT, OUTCOME_KEEP), 1); /* not any more */
    ends(&next, OUTCOME_KEEP);
    close_house();
}

static void idle_server_is_pinged(void **state)
{
    (void)state;
    conf.check.idle_ms = 2000;
    open_house(1);
    struct guest a = {0};
    ask(&a);
    int fd = fd_of(&a);
    ends(&a, OUTCOME_KEEP);
    assert_string_equal(fake_heard(fd), "");
    house_pass(&house, 3000);
    assert_string_equal(fake_heard(fd), "p");
    assert_int_equal(house_verdicts(&house, PHASE_IDLE, OUTCOME_KEEP), 1);
    assert_int_equal(idle_on(0), 1);
    close_house();
}

struct idle_row {
    const char *says;         /* unasked; NULL: end-of-file */
    struct fake_peer becomes; /* before its ping */
    enum outcome outcome;     /* KEEP: stays */
};

static void idle_server_that_is_not_well_goes(void **state)
{
    (void)state;
    static const struct idle_row rows[] = {
        {"!", {.answer_ms = 0}, OUTCOME_KEEP},
        {"z", {.answer_ms = 0}, OUTCOME_DROP_UNREAD},
        {NULL, {.answer_ms = 0}, OUTCOME_DROP_EOF},
        {"", {.answer_ms = FAKE_NEVER}, OUTCOME_DROP_TIMEOUT},
        {"", {.refuses = true}, OUTCOME_DROP_FAILED},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct idle_row *row = &rows[i];
        stage(state);
        conf.check.idle_ms = 2000;
        open_house(1);
        struct guest a = {0};
        ask(&a);
        int fd = fd_of(&a);
        ends(&a, OUTCOME_KEEP);
        fake_become(fd, &row->becomes);
        if (row->says)
            fake_say(fd, row->says);
        else
            fake_end(fd);
        house_settle(&house);
        house_pass(&house, 4000);
        assert_int_equal(idle_on(0), row->outcome == OUTCOME_KEEP);
        assert_true(house_verdicts(&house, PHASE_IDLE, row->outcome) >= 1);
        close_house();
    }
}

struct return_row {
    enum check_return policy;
    enum outcome settles;
    bool refuses, mute;
    const char *heard;    /* by the peer, until the verdict */
    enum outcome outcome; /* of the return */
};

static void what_happens_on_return(void **state)
{
    (void)state;
    static const struct return_row rows[] = {
        {CHECK_FAST, OUTCOME_KEEP, false, false, "", OUTCOME_KEEP},
        {CHECK_FAST, OUTCOME_RESET, false, false, "r", OUTCOME_KEEP},
        {CHECK_FAST, OUTCOME_VERIFY, false, false, "p", OUTCOME_KEEP},
        {CHECK_VERIFIED, OUTCOME_KEEP, false, false, "p", OUTCOME_KEEP},
        {CHECK_VERIFIED, OUTCOME_RESET, false, false, "rp", OUTCOME_KEEP},
        {CHECK_CLEAN, OUTCOME_KEEP, false, false, "rp", OUTCOME_KEEP},
        {CHECK_FAST, OUTCOME_DROP_DIRTY, false, false, "q", OUTCOME_DROP_DIRTY},
        {CHECK_VERIFIED, OUTCOME_KEEP, true, false, "pq", OUTCOME_DROP_FAILED},
        {CHECK_CLEAN, OUTCOME_KEEP, true, false, "rq", OUTCOME_DROP_FAILED},
        {CHECK_VERIFIED, OUTCOME_KEEP, false, true, "pq", OUTCOME_DROP_TIMEOUT},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct return_row *row = &rows[i];
        stage(state);
        conf.check.on_return = row->policy;
        peer.refuses = row->refuses;
        peer.answer_ms = row->mute ? FAKE_NEVER : 0;
        peer.eof_ms = 100000; /* stays to be looked at */
        open_house(1);
        struct guest a = {0};
        ask(&a);
        int fd = fd_of(&a);
        fake_server_of(guest_server(&a))->settle = row->settles;
        ends(&a, OUTCOME_KEEP);
        house_pass(&house, 1500);
        assert_string_equal(fake_heard(fd), row->heard);
        assert_int_equal(house_verdicts(&house, PHASE_RETURN, row->outcome), 1);
        assert_int_equal(idle_on(0), row->outcome == OUTCOME_KEEP);
        close_house();
    }
}

/* ---- servers end ---- */

static void lifetime_ends_idle_and_busy_ones(void **state)
{
    (void)state;
    conf.size.max_lifetime_ms = 10000;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    ask(&b);
    uint32_t of_a = guest_server(&a)->id;
    ends(&b, OUTCOME_KEEP);
    house_pass(&house, 8900); /* jitter takes away a tenth at most */
    assert_int_equal(idle_on(0), 1);
    house_pass(&house, 2200);
    assert_int_equal(idle_on(0), 0);
    assert_int_equal(house_verdicts(&house, PHASE_IDLE, OUTCOME_DROP_LIFETIME), 1);
    assert_int_equal(guest_server(&a)->id, of_a); /* a lease is never cut */
    ends(&a, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 0);
    assert_int_equal(house_view(&house).open, 0);
    close_house();
}

static void recycle_replaces_as_they_come_free(void **state)
{
    (void)state;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    ask(&b);
    uint32_t of_a = guest_server(&a)->id;
    ends(&b, OUTCOME_KEEP);
    ledger_recycle(house.ledger);
    house_ask_all(&house);
    house_settle(&house);
    assert_int_equal(idle_on(0), 0);
    assert_int_equal(house_verdicts(&house, PHASE_IDLE, OUTCOME_DROP_RECYCLED), 1);
    ends(&a, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 0);
    ask(&a);
    assert_int_not_equal(guest_server(&a)->id, of_a);
    ends(&a, OUTCOME_KEEP);
    close_house();
}

static void recycle_reaches_a_shared_server_under_load(void **state)
{
    (void)state;
    conf.size.max = 2;
    open_shared(8);
    struct guest g[2] = {{.calls = 0}};
    guest_ask(&house, 0, &g[0], false);
    house_settle(&house);
    uint32_t before = guest_server(&g[0])->id;
    ledger_recycle(house.ledger);
    house_ask_all(&house);
    /* There is always somebody aboard. */
    for (unsigned i = 1; i < 20; i++) {
        house_pass(&house, 200);
        struct guest *next = &g[i % 2], *last = &g[(i + 1) % 2];
        guest_ask(&house, 0, next, false);
        house_settle(&house);
        assert_true(guest_has(next));
        ends(last, OUTCOME_KEEP);
    }
    assert_int_not_equal(guest_server(&g[1])->id, before);
    assert_int_equal(house_view(&house).open, 1);
    ends(&g[1], OUTCOME_KEEP);
    close_house();
}

static void idle_timeout_shrinks_to_min(void **state)
{
    (void)state;
    conf.size.min = 1;
    conf.size.idle_timeout_ms = 5000;
    conf.check.idle_ms = 1500; /* a ping is no work */
    open_house(1);
    house_fill(&house, 0, 3);
    assert_int_equal(idle_on(0), 3);
    house_pass(&house, 4000);
    assert_int_equal(idle_on(0), 3);
    house_pass(&house, 2100);
    assert_int_equal(idle_on(0), 1);
    house_pass(&house, 60000);
    assert_int_equal(idle_on(0), 1);
    close_house();
}

static void slot_is_held_until_the_end_of_file(void **state)
{
    (void)state;
    conf.size.max = 1;
    peer.eof_ms = 700;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    int fd = fd_of(&a);
    ends(&a, OUTCOME_DROP_DIRTY);
    assert_string_equal(fake_heard(fd), "q");
    ask(&b);
    house_pass(&house, 699);
    assert_int_equal(house_view(&house).closing, 1);
    assert_int_equal(house_view(&house).dials, 1);
    assert_false(guest_has(&b));
    house_pass(&house, 1);
    assert_true(guest_has(&b));
    assert_int_equal(house_view(&house).abandoned, 0);
    ends(&b, OUTCOME_KEEP);
    close_house();
}

static void slot_of_a_stuck_peer_is_abandoned(void **state)
{
    (void)state;
    conf.size.max = 1;
    conf.timeouts.close_ms = 400;
    peer.eof_ms = FAKE_NEVER;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    ends(&a, OUTCOME_DROP_DIRTY);
    ask(&b);
    house_pass(&house, 399);
    assert_false(guest_has(&b));
    house_pass(&house, 1);
    assert_true(guest_has(&b));
    assert_int_equal(house_view(&house).abandoned, 1);
    ends(&b, OUTCOME_KEEP);
    close_house();
}

static void lowered_max_closes_what_is_too_many(void **state)
{
    (void)state;
    open_house(1);
    struct guest a = {0}, b = {0};
    house_fill(&house, 0, 3);
    ask(&a);
    ask(&b);
    conf.size.max = 1;
    house_reconf(&house, &conf);
    house_settle(&house);
    assert_int_equal(idle_on(0), 0);
    assert_int_equal(house_view(&house).open, 2); /* leases are not cut */
    ends(&a, OUTCOME_KEEP);
    assert_int_equal(house_view(&house).open, 1);
    ends(&b, OUTCOME_KEEP);
    assert_int_equal(house_view(&house).open, 1);
    assert_int_equal(idle_on(0), 1);
    close_house();
}

static void server_with_unsent_bytes_is_not_reused(void **state)
{
    (void)state;
    peer.deaf = true;
    open_house(1);
    struct guest a = {0};
    ask(&a);
    guest_work(&a);
    ends(&a, OUTCOME_KEEP);
    assert_int_equal(idle_on(0), 0);
    house_pass(&house, 10000);
    close_house();
}

static void lost_server_is_told_to_its_holder(void **state)
{
    (void)state;
    open_house(1);
    struct guest a = {0};
    ask(&a);
    fake_reset(fd_of(&a));
    house_settle(&house);
    assert_int_equal(a.lost, 1);
    assert_int_equal(a.why, CAUSE_UPSTREAM_CLOSED);
    assert_int_equal(house_view(&house).open, 0);
    close_house();
}

/* ---- holds ---- */

static void held_server_is_not_reused(void **state)
{
    (void)state;
    conf.size.max = 1;
    open_house(1);
    struct guest a = {0}, b = {0};
    ask(&a);
    struct server *sv = guest_server(&a);
    server_hold(sv);
    server_hold(sv);
    ends(&a, OUTCOME_KEEP);
    ask(&b);
    assert_false(guest_has(&b));
    server_release_hold(sv);
    house_settle(&house);
    assert_false(guest_has(&b));
    server_release_hold(sv);
    house_settle(&house);
    assert_ptr_equal(guest_server(&b), sv);
    ends(&b, OUTCOME_KEEP);
    close_house();
}

static void held_server_is_not_freed(void **state)
{
    (void)state;
    open_house(1);
    struct guest a = {0};
    ask(&a);
    struct server *sv = guest_server(&a);
    server_hold(sv);
    ends(&a, OUTCOME_DROP_DIRTY);
    assert_int_equal(sv->state, SERVER_GONE); /* its memory is still there */
    assert_int_equal(house_view(&house).open, 0);
    server_release_hold(sv);
    house_settle(&house);
    close_house();
}

static void make_stale(struct fake_server *fs, void *arg)
{
    (void)arg;
    fs->base.stale_ms = 1;
}

/* Each check that ends at once makes room for who wants a fresh server, at another's cost, which
 * may be the next to be checked. */
static void checks_while_somebody_wants_a_fresh_server(void **state)
{
    (void)state;
    conf.size.max = 3;
    conf.size.acquire_timeout_ms = 60000;
    conf.check.idle_ms = 30000;
    conf.timeouts.close_ms = 50; /* peers that are slow to close */
    fake_world_set(
        &(struct fake_world){.capacity = 1, .plan = staged_plan, .checks_at_once = true});
    open_house(1);
    struct guest before[3] = {{.calls = 0}};
    for (unsigned i = 0; i < 3; i++)
        ask(&before[i]);
    for (unsigned i = 0; i < 3; i++) {
        house_pass(&house, 10); /* each idle a little longer than the next */
        ends(&before[i], OUTCOME_KEEP);
    }
    house_pass(&house, 29900);
    fake_each_server(make_stale, NULL);
    dials.ms = 5000;
    struct guest g = {.waiter = {.fresh = true}};
    ask(&g);
    assert_false(guest_has(&g));
    assert_int_equal(idle_on(0), 2); /* one has made room */
    house_pass(&house, 2500);
    assert_false(guest_has(&g));
    house_pass(&house, 5000);
    assert_true(guest_has(&g));
    ends(&g, OUTCOME_KEEP);
    close_house();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(checkout_looks_at_what_was_idle_long),
        TEST(one_that_goes_makes_others_suspect),
        TEST(idle_server_is_pinged),
        TEST(idle_server_that_is_not_well_goes),
        TEST(what_happens_on_return),
        TEST(lifetime_ends_idle_and_busy_ones),
        TEST(recycle_replaces_as_they_come_free),
        TEST(recycle_reaches_a_shared_server_under_load),
        TEST(idle_timeout_shrinks_to_min),
        TEST(slot_is_held_until_the_end_of_file),
        TEST(slot_of_a_stuck_peer_is_abandoned),
        TEST(lowered_max_closes_what_is_too_many),
        TEST(server_with_unsent_bytes_is_not_reused),
        TEST(lost_server_is_told_to_its_holder),
        TEST(held_server_is_not_reused),
        TEST(held_server_is_not_freed),
        TEST(checks_while_somebody_wants_a_fresh_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
