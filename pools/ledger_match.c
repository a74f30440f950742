/* SPDX-License-Identifier: MIT */
/*
 * Who gets what: the oldest waiter of all workers gets somebody's idle server or a dial; then
 * workers that share thinly, then `min`. Decided under the mutex, done after it.
 */
#include <stdlib.h>

#include "pools/dialer.h"
#include "pools/ledger_private.h"
#include "pools/pool_private.h"

/* What a match decided, done after the lock is gone. */
struct act {
    bool dial; /* else: ask `worker` to hand servers over */
    unsigned worker;
    struct dial_order order;
};

#define ACTS_MAX 8

struct acts {
    unsigned n;
    struct act v[ACTS_MAX];
    const struct pool_conf *conf;
    struct snapshot *snap;
};

void ledger_lock(struct ledger *l, uint64_t now)
{
    pthread_mutex_lock(&l->mutex);
    if (now > l->now_ms)
        l->now_ms = now;
}

void ledger_unlock(struct ledger *l)
{
    CHECK(l->dialing + l->closing <= l->open);
    bool news = ledger_note_news(l);
    pthread_mutex_unlock(&l->mutex);
    if (news)
        pool_ask(l->workers[0].pool);
}

unsigned ledger_live(const struct ledger *l)
{
    return l->open - l->dialing - l->closing;
}

/* ---- the group ---- */

void ledger_free_slot(struct ledger *l)
{
    l->open--;
    if (l->member.group)
        group_free(&l->member);
}

struct group_need ledger_need(const struct ledger *l, unsigned want)
{
    struct group_need need = {.leaving = l->closing + l->shedding, .want = want};
    for (unsigned i = 0; i < l->n_workers; i++) {
        need.promised += l->workers[i].promised;
        need.asked += l->workers[i].asked;
    }
    return need;
}

void ledger_tell_group(struct ledger *l, unsigned want)
{
    if (!l->member.group)
        return;
    struct group_need need = ledger_need(l, want);
    group_tell(&l->member, &need, l->now_ms);
}

/* ---- matching ---- */

/* Exclusive leases of servers that could be shared are a class of their own, with its own bound. */
bool ledger_class_full(const struct ledger *l)
{
    unsigned max = l->conf->size.max;
    return l->pinned >= (max > 1 ? max - 1 : 1);
}

/* Whom a server more would help: while their class is full, not those who want a whole one. */
static unsigned unfulfilled(const struct ledger *l, const struct ledger_worker *w)
{
    unsigned waiters = atomic_load(&w->waiters);
    unsigned nothing = w->promised + (ledger_class_full(l) ? atomic_load(&w->wholes) : 0);
    return waiters > nothing ? waiters - nothing : 0;
}

/* Raised before idle counts are read: a worker that gives back sees the flag, or we see its
 * idle. */
void ledger_raise_foreign(struct ledger *l)
{
    unsigned who_waits = 0, last = 0;
    for (unsigned i = 0; i < l->n_workers; i++) {
        if (unfulfilled(l, &l->workers[i])) {
            who_waits++;
            last = i;
        }
    }
    for (unsigned i = 0; i < l->n_workers; i++) {
        bool foreign = who_waits > 1 || (who_waits == 1 && last != i);
        atomic_store(&l->workers[i].foreign, foreign);
    }
}

/* The worker whose oldest waiter waits longest, of those not promised enough; -1: none. */
int ledger_oldest_waiting(const struct ledger *l, int except)
{
    int best = -1;
    uint64_t since = UINT64_MAX;
    for (unsigned i = 0; i < l->n_workers; i++) {
        uint64_t oldest = atomic_load(&l->workers[i].oldest_ms);
        if ((int)i != except && unfulfilled(l, &l->workers[i]) && (best < 0 || oldest < since)) {
            best = (int)i;
            since = oldest;
        }
    }
    return best;
}

static int idle_elsewhere(const struct ledger *l, unsigned not_here)
{
    for (unsigned i = 0; i < l->n_workers; i++)
        if (i != not_here && atomic_load(&l->workers[i].idle) > l->workers[i].asked)
            return (int)i;
    return -1;
}

static unsigned limit(const struct ledger *l)
{
    unsigned max = l->conf->size.max;
    if (l->busy_until > l->now_ms && l->busy_limit < max)
        max = l->busy_limit;
    return max;
}

unsigned ledger_stuck(const struct ledger *l, unsigned worker)
{
    unsigned bound = limit(l), room = 0, want = 0, mine = 0;
    if (!atomic_load(&l->paused) && bound > l->open)
        room = bound - l->open;
    if (room && l->member.group) {
        unsigned left = group_room(&l->member);
        room = room < left ? room : left;
    }
    for (unsigned i = 0; i < l->n_workers; i++) {
        const struct ledger_worker *w = &l->workers[i];
        unsigned waiters = atomic_load(&w->waiters), n = 0;
        if (waiters > w->promised)
            n = waiters - w->promised;
        want += n;
        if (i == worker)
            mine = n;
    }
    unsigned over = want > room ? want - room : 0;
    return mine < over ? mine : over;
}

static void retry_at(struct ledger *l, uint64_t at)
{
    if (at != UINT64_MAX && (l->retry_ms == 0 || at < l->retry_ms))
        l->retry_ms = at > l->now_ms ? at : l->now_ms + 1;
}

bool ledger_may_dial(struct ledger *l, struct ledger_endpoint *e)
{
    breaker_tick(&e->door, l->now_ms);
    if (e->next_dial_ms > l->now_ms) {
        retry_at(l, e->next_dial_ms);
        return false;
    }
    /* One trial at a time while half open: the dial itself is the permit. */
    if (e->door.state == BREAKER_HALF_OPEN && e->dialing > 0)
        return false;
    if (e->door.state == BREAKER_OPEN || e->door.state == BREAKER_FORCED_OPEN) {
        retry_at(l, breaker_next(&e->door));
        return false;
    }
    uint64_t better = ledger_waits_for_better(l, e);
    if (better > l->now_ms) {
        retry_at(l, better);
        return false;
    }
    return ledger_service_dials(l, e) && !ledger_must_look_first(l, e);
}

/* One whose service waits to be tried, else the first endpoint that may be dialed now, of those
 * that promise most. */
static int pick_endpoint(struct ledger *l)
{
    for (size_t i = 0; i < l->n_endpoints && i < l->conf->n_endpoints; i++)
        if (ledger_wants_trial(l, &l->endpoints[i]) && ledger_may_dial(l, &l->endpoints[i]))
            return (int)i;
    for (unsigned rank = 0; rank < LEDGER_RANKS; rank++)
        for (size_t i = 0; i < l->n_endpoints && i < l->conf->n_endpoints; i++)
            if (ledger_rank(l, &l->endpoints[i]) == rank && ledger_may_dial(l, &l->endpoints[i]))
                return (int)i;
    return -1;
}

/* The servers it would dial now, one at least. */
static unsigned servers_wanted(const struct ledger *l)
{
    unsigned n = 0, dials = LEDGER_DIALS_MAX - l->dialing, room = limit(l) - l->open;
    for (unsigned i = 0; i < l->n_workers; i++)
        n += unfulfilled(l, &l->workers[i]);
    n = n < dials ? n : dials;
    return n < room ? n : room;
}

/* The group's slot, too, which is taken then. */
static bool claim(struct ledger *l, bool waits)
{
    if (!l->member.group)
        return true;
    unsigned want = waits || l->refused ? servers_wanted(l) : 0;
    struct group_need need = ledger_need(l, want);
    bool ok = group_claim(&l->member, &need, waits, l->now_ms);
    if (!ok && waits)
        l->refused = true;
    return ok;
}

bool ledger_is_full(const struct ledger *l)
{
    return l->open >= limit(l);
}

static bool has_room(struct ledger *l)
{
    if (l->stopped == l->n_workers || l->dialing >= LEDGER_DIALS_MAX)
        return false;
    if (!ledger_is_full(l))
        return true;
    if (l->open < l->conf->size.max)
        retry_at(l, l->busy_until);
    return false;
}

/* True: grant_dial() has to follow. waits: it is for a waiter. */
static bool may_dial_one(struct ledger *l, bool waits, int *endpoint)
{
    *endpoint = has_room(l) ? pick_endpoint(l) : -1;
    return *endpoint >= 0 && claim(l, waits);
}

static void grant_dial(struct ledger *l, struct acts *acts, unsigned worker, int endpoint,
                       bool promised)
{
    struct ledger_endpoint *e = &l->endpoints[endpoint];
    l->open++;
    e->open++;
    l->dialing++;
    l->dials++;
    if (e->dialing++ == 0)
        e->dialing_since = l->now_ms;
    if (promised)
        l->workers[worker].promised++;
    acts->v[acts->n++] = (struct act){
        .dial = true,
        .worker = worker,
        .order = {.endpoint = (size_t)endpoint,
                  .turn = e->turn,
                  .home = worker,
                  .generation = atomic_load(&l->generation),
                  .promised = promised,
                  .anew = e->doubted,
                  .picky = ledger_is_picky(l, e)},
    };
    e->doubted = false;
}

/* While the pool makes do with a primary: a dial that finds a standby, and nothing else, if one may
   be there. It comes before waiters, who would take each slot for the primary, and is promised to
   none of them, since it may well find nothing. */
static bool grant_look(struct ledger *l, struct acts *acts)
{
    if (!atomic_load(&l->makes_do) || l->stopped)
        return false;
    int w = ledger_oldest_waiting(l, -1);
    if ((w < 0 && !ledger_live(l)) || !has_room(l))
        return false;
    for (size_t i = 0; i < l->n_endpoints && i < l->conf->n_endpoints; i++) {
        if (!ledger_has_hope(l, &l->endpoints[i]) || !ledger_may_dial(l, &l->endpoints[i]))
            continue;
        if (!claim(l, false))
            return false;
        unsigned home = w >= 0 ? (unsigned)w : l->next_worker++ % l->n_workers;
        grant_dial(l, acts, home, (int)i, false);
        acts->v[acts->n - 1].order.picky = true;
        return true;
    }
    return false;
}

/* A server for the worker of the oldest waiter: somebody's idle one, or a new one. */
static bool grant_to_waiter(struct ledger *l, struct acts *acts)
{
    int w = ledger_oldest_waiting(l, -1);
    if (w < 0)
        return false;
    /* Fresh ones are seldom idle elsewhere. */
    bool fresh = atomic_load(&l->workers[w].fresh) == atomic_load(&l->workers[w].waiters);
    int endpoint;
    bool dial = fresh && may_dial_one(l, true, &endpoint);
    int v = dial ? -1 : idle_elsewhere(l, (unsigned)w);
    if (v >= 0) {
        l->workers[v].owes[w]++;
        l->workers[v].asked++;
        l->workers[w].promised++;
        acts->v[acts->n++] = (struct act){.worker = (unsigned)v};
        return true;
    }
    if (!dial && !may_dial_one(l, true, &endpoint))
        return false;
    grant_dial(l, acts, (unsigned)w, endpoint, true);
    return true;
}

static bool grant_unasked(struct ledger *l, struct acts *acts)
{
    int endpoint;
    if (l->stopped)
        return false;
    for (unsigned i = 0; i < l->n_workers; i++) {
        struct ledger_worker *w = &l->workers[i];
        if (!w->grow)
            continue;
        if (!may_dial_one(l, false, &endpoint))
            return false;
        w->grow = false;
        grant_dial(l, acts, i, endpoint, false);
        return true;
    }
    if (l->open >= l->conf->size.min)
        return false;
    if (l->next_warm_ms > l->now_ms) {
        retry_at(l, l->next_warm_ms);
        return false;
    }
    if (!may_dial_one(l, false, &endpoint)) {
        l->warmed = l->warmed || ledger_is_tight(l); /* it cannot be had */
        return false;
    }
    if (l->warm_gap_ms)
        l->next_warm_ms = l->now_ms + l->warm_gap_ms;
    grant_dial(l, acts, l->next_worker++ % l->n_workers, endpoint, false);
    return true;
}

bool ledger_try(struct ledger *l, unsigned worker, uint64_t now)
{
    ledger_lock(l, now);
    bool wanted = false, full = ledger_is_full(l);
    for (size_t i = 0; i < l->n_endpoints; i++)
        wanted = wanted ||
                 (ledger_wants_trial(l, &l->endpoints[i]) && ledger_may_dial(l, &l->endpoints[i]));
    if (wanted && !full && l->dialing < LEDGER_DIALS_MAX)
        l->workers[worker].grow = true;
    ledger_leave(l);
    return !(wanted && full);
}

static void match(struct ledger *l, struct acts *acts)
{
    l->retry_ms = 0;
    retry_at(l, ledger_tick_service(l));
    l->refused = false;
    if (ledger_live(l) >= l->conf->size.min)
        l->warmed = true;
    if (!l->started)
        return;
    ledger_raise_foreign(l);
    bool paused = atomic_load(&l->paused);
    while (acts->n < ACTS_MAX && !paused && grant_look(l, acts))
        continue;
    while (acts->n < ACTS_MAX && !paused && grant_to_waiter(l, acts))
        continue;
    while (acts->n < ACTS_MAX && grant_unasked(l, acts))
        continue;
    ledger_raise_foreign(l);
    ledger_tell_group(l, l->refused ? servers_wanted(l) : 0);
    if (acts->n) {
        acts->conf = l->conf;
        acts->snap = snapshot_take(l->snap);
    }
}

void ledger_leave_as_is(struct ledger *l)
{
    uint64_t now = l->now_ms;
    ledger_unlock(l);
    if (l->member.group)
        group_poke(l->member.group, now);
}

static void dial_unstarted(struct ledger *l, const struct dial_order *order);

static void perform(struct ledger *l, struct acts *acts)
{
    for (unsigned i = 0; i < acts->n; i++) {
        const struct act *a = &acts->v[i];
        if (!a->dial)
            pool_ask(l->workers[a->worker].pool);
        else if (!dialer_start(l->dialer, l, acts->conf, snapshot_take(acts->snap), &a->order))
            dial_unstarted(l, &a->order);
    }
    if (acts->n)
        snapshot_drop(&acts->snap);
}

/* Ends every entry: match, unlock, do what was decided; again if there was too much for one go. */
void ledger_leave(struct ledger *l)
{
    for (;;) {
        struct acts acts = {0};
        match(l, &acts);
        uint64_t now = l->now_ms;
        ledger_unlock(l);
        perform(l, &acts);
        if (acts.n < ACTS_MAX) {
            if (l->member.group)
                group_poke(l->member.group, now);
            return;
        }
        ledger_lock(l, 0);
    }
}

/* Out of memory: give the slot and the promise back; the next tick of the pool tries again. */
static void dial_unstarted(struct ledger *l, const struct dial_order *order)
{
    ledger_lock(l, 0);
    ledger_free_slot(l);
    l->dialing--;
    if (order->promised)
        l->workers[order->home].promised--;
    if ((int)(order->generation - l->endpoints_since) >= 0) {
        struct ledger_endpoint *e = &l->endpoints[order->endpoint];
        e->dialing--;
        e->open--;
        e->next_dial_ms = l->now_ms + DIAL_BACKOFF_MIN_MS;
    }
    err_set(&l->last_dial, CAUSE_INTERNAL, STAGE_CONNECT, 0, "out of memory");
    ledger_tell_group(l, 0);
    ledger_unlock(l);
}
