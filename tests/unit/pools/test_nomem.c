/* SPDX-License-Identifier: MIT */
/*
 * A few leases over two workers, again and again: with the Nth allocation failing, and with
 * something ended at the Nth turn of a loop. No crash, no leak, books right, and service
 * afterwards.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/pools/house.h"
#include "tests/unit/pools/nomem.h"

#include <cmocka.h>

/* ---- the scene ---- */

static struct house house;
static struct guest guests[4];
static unsigned dials;

/* Every third dial fails and lingers; every fourth server does not answer checks. */
static void plan(const struct server *sv, struct fake_dial *dial, struct fake_peer *peer)
{
    (void)sv;
    dials++;
    if (dials % 3 == 0)
        *dial = (struct fake_dial){.cause = CAUSE_DIAL_FAILED, .linger = true};
    if (dials % 4 == 0)
        peer->refuses = true;
}

static struct pool_conf scene_conf(uint32_t max)
{
    struct pool_conf conf = house_conf(max);
    conf.check.on_return = CHECK_VERIFIED;
    conf.check.checkout_after_ms = 0;
    return conf;
}

static void open_scene(unsigned capacity)
{
    struct pool_conf conf = scene_conf(2);
    fake_world_set(&(struct fake_world){.capacity = capacity, .plan = plan});
    memset(guests, 0, sizeof guests);
    dials = 0;
    house_open(&house, 2, &conf);
}

/* What a guest does next; true once it has nothing left to do. */
static bool guest_acts(struct guest *g)
{
    if (!guest_has(g))
        return g->waiter.state == WAITER_NONE;
    if (g->answers == 0) {
        if (!g->rider.asking && g->lost != 99) {
            guest_work(g);
            g->lost = 99; /* asked */
        }
        return false;
    }
    g->answers = 0;
    guest_end(g, OUTCOME_KEEP);
    return false;
}

static bool all_act(void)
{
    bool done = true;
    for (unsigned i = 0; i < ARRAY_LEN(guests); i++)
        done = guest_acts(&guests[i]) && done;
    return done;
}

static void all_come(bool exclusive)
{
    for (unsigned i = 0; i < ARRAY_LEN(guests); i++)
        guest_ask(&house, i % 2, &guests[i], exclusive || i == 3);
}

static void all_leave(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(guests); i++) {
        pool_cancel(&guests[i].waiter);
        if (guest_has(&guests[i]))
            guest_end(&guests[i], OUTCOME_DROP_DIRTY);
    }
}

/* The pool serves as if nothing had been. */
static void serves_again(void)
{
    struct guest after[2] = {{.calls = 0}};
    for (unsigned i = 0; i < 2; i++)
        guest_ask(&house, i, &after[i], true);
    for (unsigned round = 0; round < 4; round++) {
        house_pass(&house, 12000);
        if (guest_has(&after[round % 2]))
            guest_end(&after[round % 2], OUTCOME_KEEP);
    }
    house_settle(&house);
    assert_true(after[0].turn && after[1].turn);
}

/* ---- memory ---- */

/* One cycle with the Nth allocation failing; false if there were not so many. */
static bool cycle_without(unsigned nth, unsigned capacity)
{
    open_scene(capacity);
    struct pool_conf conf = scene_conf(3);
    struct house_snap *reload = house_prepare(&conf);
    static const struct endpoint_conf moved = {
        .label = "peer:2", .host = "127.0.0.1", .port = 2, .literal = true};
    conf.endpoints = &moved;
    struct house_snap *move = house_prepare(&conf);
    countdown = nth;
    all_come(capacity == 1);
    for (unsigned round = 0; round < 6; round++) {
        if (round == 2)
            house_apply(&house, reload);
        if (round == 4)
            house_apply(&house, move);
        house_pass(&house, 300);
        all_act();
    }
    bool failed = countdown == 0;
    countdown = 0;
    house_settle(&house);
    house_audit(&house);
    all_leave();
    house_settle(&house);
    serves_again();
    house_audit(&house);
    house_close(&house);
    return failed;
}

static void nth_allocation_fails(void **state)
{
    unsigned capacity = *(unsigned *)*state;
    unsigned nth = 1;
    while (cycle_without(nth, capacity))
        nth++;
    assert_true(nth > 8); /* servers, watches, chunks, endpoints */
}

static void making_a_pool_fails_cleanly(void **state)
{
    (void)state;
    open_scene(1);
    struct pool_conf conf = scene_conf(1);
    struct snapshot *snap = snapshot_take(house.ledger->snap);
    struct ledger *l = NULL;
    unsigned nth = 1;
    for (; !l; nth++) {
        countdown = nth;
        l = ledger_new(&fake_driver, &conf, snap, 1, &house.dialer, house_now(), NULL);
        countdown = 0;
    }
    assert_true(nth > 3);
    countdown = 1;
    assert_null(pool_new(l, 0, &house.loops[0]));
    countdown = 0;
    ledger_free(l);
    snapshot_drop(&snap);
    house_close(&house);
}

/* ---- something ends at every turn ---- */

enum act { ACT_LEAVE, ACT_STOP, ACT_RESET, ACT_RECYCLE, ACT_PAUSE, ACT_NOTHING };

static void act_now(enum act act)
{
    int fd;
    switch (act) {
    case ACT_LEAVE:
        all_leave();
        return;
    case ACT_STOP:
        house_stop(&house);
        pool_kill(house.pools[0]);
        return;
    case ACT_RESET:
        fd = fake_any(0);
        if (fd >= 0)
            fake_reset(fd);
        return;
    case ACT_RECYCLE:
        ledger_recycle(house.ledger);
        house_ask_all(&house);
        return;
    case ACT_PAUSE:
        ledger_pause(house.ledger, true, house_now());
        return;
    case ACT_NOTHING:
        return;
    }
}

/* The scene, turn by turn, with `act` at the Nth; how many turns it took. */
static unsigned play(enum act act, unsigned nth, unsigned capacity)
{
    open_scene(capacity);
    all_come(capacity == 1);
    unsigned turns = 0, calm = 0;
    while (calm < 12 && turns < 300) {
        house_turn(&house, turns);
        house_audit(&house);
        calm = all_act() ? calm + 1 : 0;
        if (turns++ == nth)
            act_now(act);
    }
    if (act == ACT_PAUSE) {
        ledger_pause(house.ledger, false, house_now());
        house_ask_all(&house);
    }
    for (unsigned round = 0; round < 4; round++) {
        house_pass(&house, 300);
        all_act();
    }
    all_leave();
    house_settle(&house);
    if (act != ACT_STOP)
        serves_again();
    house_audit(&house);
    house_close(&house);
    return turns;
}

static void something_ends_at_every_turn(void **state)
{
    unsigned capacity = *(unsigned *)*state;
    unsigned turns = play(ACT_NOTHING, 0, capacity);
    assert_true(turns > 20);
    for (enum act act = ACT_LEAVE; act < ACT_NOTHING; act++)
        for (unsigned nth = 0; nth < turns; nth++)
            play(act, nth, capacity);
}

static unsigned one = 1, many = 4;

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(nth_allocation_fails, &one),
        cmocka_unit_test_prestate(nth_allocation_fails, &many),
        cmocka_unit_test(making_a_pool_fails_cleanly),
        cmocka_unit_test_prestate(something_ends_at_every_turn, &one),
        cmocka_unit_test_prestate(something_ends_at_every_turn, &many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
