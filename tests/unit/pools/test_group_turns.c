/* SPDX-License-Identifier: MIT */
/* Three pools short of servers, turn by turn of each loop, with something happening at the Nth:
 * books right after each, the bound kept, and everybody served in the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/unit/pools/town.h"

#include <cmocka.h>

enum { A, B, C, MEMBERS };

#define TOTAL 4
#define GUESTS 4 /* of each member */
#define VISITS 3 /* of each guest */

enum act {
    ACT_GO,
    ACT_GIVE_UP,
    ACT_LESS,
    ACT_MORE,
    ACT_RESET,
    ACT_RECYCLE,
    ACT_PAUSE,
    ACT_NOTHING
};

static unsigned visits[MEMBERS][GUESTS];
static bool gone; /* B is, or is about to */
static unsigned quiet;

static void on_quiet(struct pool *p, void *arg)
{
    (void)p;
    (void)arg;
    quiet++;
}

static bool is_here(unsigned at)
{
    return at != B || !gone;
}

/* Everybody gives back what he has got, and asks again; true once all have come often enough. */
static bool all_act(void)
{
    bool done = true;
    for (unsigned m = 0; m < MEMBERS; m++) {
        for (unsigned i = 0; is_here(m) && i < GUESTS; i++) {
            struct guest *g = &crowds[m].guests[i];
            if (guest_has(g))
                guest_end(g, OUTCOME_KEEP);
            else if (g->waiter.state == WAITER_NONE && visits[m][i]++ < VISITS)
                guest_ask(&members[m], i % members[m].n, g, true);
            done = done && g->waiter.state == WAITER_NONE && visits[m][i] >= VISITS;
        }
    }
    return done;
}

static void everybody_of_b_goes(void)
{
    for (unsigned i = 0; i < GUESTS; i++) {
        struct guest *g = &crowds[B].guests[i];
        pool_cancel(&g->waiter);
        if (guest_has(g))
            guest_end(g, OUTCOME_KEEP);
    }
}

static void act_now(enum act act)
{
    int fd;
    switch (act) {
    case ACT_GO:
        everybody_of_b_goes();
        gone = true;
        for (unsigned i = 0; i < members[B].n; i++)
            pool_stop(members[B].pools[i], on_quiet, NULL);
        return;
    case ACT_GIVE_UP:
        everybody_of_b_goes();
        return;
    case ACT_LESS:
        group_reconf(group, 1);
        return;
    case ACT_MORE:
        group_reconf(group, 0);
        return;
    case ACT_RESET:
        fd = fake_any(0);
        if (fd >= 0)
            fake_reset(fd);
        return;
    case ACT_RECYCLE:
        ledger_recycle(members[B].ledger);
        house_ask_all(&members[B]);
        return;
    case ACT_PAUSE:
        ledger_pause(members[B].ledger, true, house_now());
        return;
    case ACT_NOTHING:
        return;
    }
}

static void b_is_away(void)
{
    if (!gone)
        return;
    assert_int_equal(quiet, members[B].n);
    town_forget(B);
}

/* How many turns it took. */
static unsigned play(enum act act, unsigned nth, unsigned workers)
{
    unsigned turn = 0, calm = 0, most = TOTAL;
    gone = false;
    quiet = 0;
    memset(visits, 0, sizeof visits);
    town_open(workers, MEMBERS, TOTAL);
    for (; calm < 3 * (workers + 1) && turn < 3000; turn++) {
        if (turn % 5 == 4)
            calm = all_act() ? calm + 1 : 0;
        house_turn(&members[0], turn);
        unsigned open = open_of_all();
        assert_true(open <= most || act == ACT_MORE);
        if (act == ACT_LESS && turn > nth)
            most = open > 1 ? open : 1;
        if (turn == nth)
            act_now(act);
        if (turn == nth + 40 && act == ACT_PAUSE)
            ledger_pause(members[B].ledger, false, house_now());
        if (turn > 300 && turn % 10 == 0)
            town_pass(50); /* there may be servers for too few: by turns */
    }
    assert_true(turn < 3000); /* or somebody was never served */
    town_settle();
    b_is_away();
    town_close();
    return turn;
}

static void something_happens_at_every_turn(void **state)
{
    unsigned workers = *(unsigned *)*state;
    town(state);
    unsigned turns = play(ACT_NOTHING, 0, workers);
    assert_true(turns > 50);
    for (enum act act = ACT_GO; act < ACT_NOTHING; act++) {
        for (unsigned nth = 0; nth < turns; nth++) {
            town(state);
            play(act, nth, workers);
        }
    }
}

static unsigned one = 1, two = 2;

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(something_happens_at_every_turn, &one),
        cmocka_unit_test_prestate(something_happens_at_every_turn, &two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
