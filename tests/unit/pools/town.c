/* SPDX-License-Identifier: MIT */
#include "tests/unit/pools/town.h"

struct group *group;
struct house members[TOWN_MEMBERS];
struct crowd crowds[TOWN_MEMBERS];

static bool lives[TOWN_MEMBERS];

int town(void **state)
{
    stage(state);
    conf.size.max = 10;
    memset(crowds, 0, sizeof crowds);
    memset(lives, 0, sizeof lives);
    return 0;
}

/* ---- life ---- */

void town_open(unsigned workers, unsigned n, unsigned total)
{
    group = group_new(total);
    CHECK(group != NULL);
    house_open_in(&members[0], workers, &conf, group);
    lives[0] = true;
    for (unsigned i = 1; i < n; i++)
        town_add(i);
    town_settle();
}

void town_add(unsigned at)
{
    struct house *h = &members[at];
    house_lodge(h, &members[0], &conf, group);
    for (unsigned i = 0; i < h->n; i++)
        pool_start(h->pools[i]);
    ledger_start(h->ledger, house_now());
    lives[at] = true;
}

static void on_quiet(struct pool *p, void *arg)
{
    (void)p;
    struct house *h = arg;
    atomic_fetch_add(&h->quiet, 1);
}

static void all_leave(unsigned at)
{
    give_up(at);
    while (one_ends(at))
        continue;
    crowds[at].n = 0;
}

void town_remove(unsigned at)
{
    struct house *h = &members[at];
    CHECK(at > 0);
    all_leave(at);
    for (unsigned i = 0; i < h->n; i++)
        pool_stop(h->pools[i], on_quiet, h);
    town_settle();
    if (atomic_load(&h->quiet) < h->n) /* a server that does not say goodbye */
        town_pass(6000);
    CHECK(atomic_load(&h->quiet) == h->n);
    town_forget(at);
}

void town_forget(unsigned at)
{
    house_unlodge(&members[at]);
    lives[at] = false;
}

void town_close(void)
{
    (void)open_of_all();
    for (unsigned i = TOWN_MEMBERS; --i > 0;)
        if (lives[i])
            town_remove(i);
    all_leave(0);
    house_audit(&members[0]);
    house_close(&members[0]);
    struct group_view view;
    group_view(group, &view);
    CHECK(view.open == 0 && view.members == 0);
    group_drop(&group);
}

void town_settle(void)
{
    house_settle(&members[0]);
}

void town_pass(uint64_t ms)
{
    house_pass(&members[0], ms);
}

/* ---- guests ---- */

void come(unsigned at, unsigned n)
{
    struct crowd *c = &crowds[at];
    for (; n; n--) {
        CHECK(c->n < TOWN_GUESTS);
        struct guest *g = &c->guests[c->n];
        guest_ask(&members[at], c->n++ % members[at].n, g, true);
    }
    town_settle();
}

static bool waits(const struct guest *g)
{
    return g->waiter.state != WAITER_NONE;
}

void give_up(unsigned at)
{
    for (unsigned i = 0; i < crowds[at].n; i++)
        if (waits(&crowds[at].guests[i]))
            pool_cancel(&crowds[at].guests[i].waiter);
    town_settle();
}

unsigned having(unsigned at)
{
    unsigned n = 0;
    for (unsigned i = 0; i < crowds[at].n; i++)
        n += guest_has(&crowds[at].guests[i]);
    return n;
}

unsigned waiting(unsigned at)
{
    unsigned n = 0;
    for (unsigned i = 0; i < crowds[at].n; i++)
        n += waits(&crowds[at].guests[i]);
    return n;
}

/* Who was served first ends first. */
static struct guest *next_to_end(unsigned at)
{
    struct guest *first = NULL;
    for (unsigned i = 0; i < crowds[at].n; i++) {
        struct guest *g = &crowds[at].guests[i];
        if (guest_has(g) && (!first || g->turn < first->turn))
            first = g;
    }
    return first;
}

bool one_ends(unsigned at)
{
    struct guest *g = next_to_end(at);
    if (g)
        guest_end(g, OUTCOME_KEEP);
    town_settle();
    return g != NULL;
}

bool one_turn(unsigned at)
{
    struct guest *g = next_to_end(at);
    if (!g)
        return false;
    unsigned worker = (unsigned)(g - crowds[at].guests) % members[at].n;
    guest_end(g, OUTCOME_KEEP);
    town_settle();
    guest_ask(&members[at], worker, g, true);
    town_settle();
    return true;
}

void turns(unsigned n)
{
    for (; n; n--)
        for (unsigned i = 0; i < TOWN_MEMBERS; i++)
            if (lives[i])
                (void)one_turn(i);
}

/* ---- figures ---- */

unsigned open_at(unsigned at)
{
    return house_view(&members[at]).open;
}

unsigned dials_of_all(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < TOWN_MEMBERS; i++)
        n += lives[i] ? (unsigned)house_view(&members[i]).dials : 0;
    return n;
}

unsigned open_of_all(void)
{
    struct group_view view;
    unsigned n = 0;
    group_view(group, &view);
    for (unsigned i = 0; i < TOWN_MEMBERS; i++) {
        if (!lives[i])
            continue;
        house_audit(&members[i]);
        n += open_at(i);
    }
    CHECK(n == view.open);
    return n;
}
