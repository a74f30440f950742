/* SPDX-License-Identifier: MIT */
#include "pools/ledger.h"

#include <stdlib.h>
#include <string.h>

#include "pools/ledger_private.h"
#include "pools/pool_private.h"
#include "pools/server.h"
#include "proxy/core/crypto.h"

/* ---- life ---- */

bool ledger_make_endpoints(struct ledger *l, const struct pool_conf *conf)
{
    struct ledger_endpoint *e = calloc(conf->n_endpoints, sizeof *e);
    if (!e)
        return false;
    /* An operator's word is for the pool, wherever it leads. */
    enum breaker_force force =
        l->endpoints ? breaker_forced(&l->endpoints[0].door) : BREAKER_FORCE_AUTO;
    for (size_t i = 0; i < conf->n_endpoints; i++) {
        uint32_t seed = (uint32_t)(uv_hrtime() >> 4) + (uint32_t)i;
        breaker_init(&e[i].door, BREAKER_DOOR, &conf->breaker, l->now_ms, seed);
        breaker_init(&e[i].service, BREAKER_SERVICE, &conf->breaker, l->now_ms, ~seed);
        breaker_force(&e[i].door, l->now_ms, force);
        breaker_force(&e[i].service, l->now_ms, force);
        e[i].door_said = e[i].door.state; /* it was said then */
        e[i].service_said = e[i].service.state;
        e[i].door_said_ms = e[i].service_said_ms = l->now_ms;
    }
    free(l->endpoints);
    l->endpoints = e;
    l->n_endpoints = conf->n_endpoints;
    l->primary = 0;
    atomic_store(&l->makes_do, false);
    return true;
}

struct ledger *ledger_new(const struct driver_ops *ops, const struct pool_conf *conf,
                          struct snapshot *snap, unsigned n_workers, struct dialer *dialer,
                          uint64_t now, struct group *group)
{
    CHECK(n_workers >= 1 && n_workers <= LEDGER_WORKERS_MAX);
    struct ledger *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->ops = ops;
    l->n_workers = n_workers;
    l->dialer = dialer;
    l->conf = conf;
    l->now_ms = now;
    l->warmed = conf->size.min == 0;
    l->name = strdup(conf->name);
    l->workers = calloc(n_workers, sizeof *l->workers);
    uint8_t *key = malloc(conf->key.n + 1);
    l->key = span_of(key, conf->key.n);
    if (!l->name || !l->workers || !key || !ledger_make_endpoints(l, conf)) {
        free(key);
        free(l->workers);
        free(l->name);
        free(l);
        return NULL;
    }
    if (conf->key.n)
        memcpy(key, conf->key.p, conf->key.n);
    l->snap = snapshot_take(snap);
    pthread_mutex_init(&l->mutex, NULL);
    if (group)
        group_join(&l->member, group);
    return l;
}

void ledger_start(struct ledger *l, uint64_t now)
{
    ledger_lock(l, now);
    l->started = true;
    ledger_leave(l);
}

void ledger_free(struct ledger *l)
{
    if (l->member.group)
        group_leave(&l->member);
    CHECK(l->open == 0 && l->dialing == 0 && l->closing == 0 && l->pinned == 0);
    snapshot_drop(&l->snap);
    snapshot_drop(&l->memo);
    pthread_mutex_destroy(&l->mutex);
    free(l->endpoints);
    free(l->workers);
    crypto_wipe((void *)(uintptr_t)l->key.p, l->key.n);
    free((void *)(uintptr_t)l->key.p);
    free(l->name);
    free(l);
}

/* ---- entries ---- */

void ledger_tend(struct ledger *l, uint64_t now)
{
    ledger_lock(l, now);
    ledger_leave(l);
}

void ledger_hear(struct ledger *l, uint64_t now)
{
    ledger_tend(l, now);
    for (unsigned i = 0; i < l->n_workers; i++)
        if (atomic_load(&l->workers[i].idle))
            pool_ask(l->workers[i].pool);
}

/* A dial that nobody answers says so only at its own timeout; who waits may have to know before. */
static void tell_unanswered(const struct ledger *l, struct err *err)
{
    if (ledger_live(l) || l->last_dial.cause != CAUSE_NONE)
        return;
    for (size_t i = 0; i < l->n_endpoints && i < l->conf->n_endpoints; i++) {
        const struct ledger_endpoint *e = &l->endpoints[i];
        if (!e->dialing)
            continue;
        uint64_t ms = l->now_ms - e->dialing_since;
        err_set(err, CAUSE_DIAL_FAILED, STAGE_CONNECT, 0, "dialing %s for %llu.%llu s, no answer",
                l->conf->endpoints[i].label, (unsigned long long)(ms / 1000),
                (unsigned long long)(ms % 1000 / 100));
        return;
    }
}

void ledger_look(struct ledger *l, unsigned worker, uint64_t now, struct ledger_outlook *out)
{
    ledger_tend(l, now);
    ledger_lock(l, now);
    *out = (struct ledger_outlook){
        .live = ledger_live(l),
        .stuck = ledger_stuck(l, worker),
        .down = ledger_live(l) == 0 && l->last_dial.cause != CAUSE_NONE,
        .busy = l->last_dial.cause == CAUSE_UPSTREAM_BUSY,
        .refused = ledger_live(l) == 0 && l->last_dial.cause != CAUSE_NONE,
        .shut = true,
        .retry_ms = l->retry_ms,
        .dial_failures = l->dial_failures,
        .last_dial = l->last_dial,
    };
    for (size_t i = 0; i < l->n_endpoints; i++) {
        enum breaker_state s = l->endpoints[i].door.state;
        if (s != BREAKER_OPEN && s != BREAKER_FORCED_OPEN)
            out->shut = false;
        if (!l->endpoints[i].refused || l->endpoints[i].dialing)
            out->refused = false;
    }
    if (l->refused) {
        struct group_view group;
        group_view(l->member.group, &group);
        out->group_max = group.max;
    }
    tell_unanswered(l, &out->unanswered);
    ledger_unlock(l);
}

void ledger_grow(struct ledger *l, unsigned worker, uint64_t now)
{
    ledger_lock(l, now);
    if (l->dialing == 0)
        l->workers[worker].grow = true;
    ledger_leave(l);
}

static void door_well(struct ledger *l, struct ledger_endpoint *e)
{
    uint32_t permit;
    if (e->door.state == BREAKER_HALF_OPEN &&
        breaker_ask(&e->door, l->now_ms, PERMIT_HOLD_MS, &permit) == BREAKER_TRIAL)
        breaker_trial(&e->door, l->now_ms, permit, BREAKER_PASSED);
    else
        breaker_success(&e->door, l->now_ms, 1);
}

/*
 * Others have what it would like to have, and only by its dials it learns when they have not any
 * more. Who has servers can do with fewer and asks seldom; who has none asks more often, to come
 * first, yet each time it is refused half as often as before.
 */
static void note_busy(struct ledger *l, struct ledger_endpoint *e)
{
    uint32_t random = jitter_seed(uv_hrtime());
    uint64_t hold = (uint64_t)BUSY_HOLD_MS << e->busy_streak;
    if (e->busy_streak < 8)
        e->busy_streak++;
    if (hold > DIAL_BACKOFF_MAX_MS)
        hold = DIAL_BACKOFF_MAX_MS;
    l->busy_limit = l->open > 1 ? l->open - 1 : 1;
    l->busy_until = l->now_ms + jitter_within(hold, 20, BUSY_HOLD_MS, UINT64_MAX, random);
    e->next_dial_ms =
        l->now_ms + backoff_ms(DIAL_BACKOFF_MIN_MS, BUSY_HOLD_MS, 1 + e->busy_streak, ~random);
}

/* True: the pool was renewed. */
static bool dial_failed(struct ledger *l, struct ledger_endpoint *e, const struct server *sv,
                        const struct err *err)
{
    /* A wrong role that is news costs no waiter a try: another endpoint is asked at once. */
    if (!sv->unfit || !e || e->fitness == FITNESS_UNFIT)
        l->dial_failures++;
    l->dial_causes[err->cause]++;
    if (!e)
        return false; /* they are other endpoints since a reload */
    l->last_dial = *err;
    e->refused = pool_is_refused(err);
    if (err->cause == CAUSE_UPSTREAM_BUSY) {
        /* Busy is not down: shrink to what it bears, try again later, never trip. */
        note_busy(l, e);
        return false;
    }
    if (err->cause == CAUSE_KILLED)
        return false; /* we are stopping: says nothing about the endpoint */
    /* Memory or descriptors are short here: no fault of the endpoint's. */
    if (err->cause == CAUSE_INTERNAL) {
        e->next_dial_ms = l->now_ms + DIAL_LOCAL_MS;
        return false;
    }
    e->turn = sv->turn + 1;
    e->doubted = true;
    bool renewed = sv->unfit && ledger_found_unfit(l, e);
    if (!sv->unfit)
        ledger_found_down(l, e);
    if (e->fail_streak < 32)
        e->fail_streak++;
    e->next_dial_ms = l->now_ms + backoff_ms(DIAL_BACKOFF_MIN_MS,
                                             sv->unfit ? UNFIT_BACKOFF_MAX_MS : DIAL_BACKOFF_MAX_MS,
                                             e->fail_streak - 1, jitter_seed(uv_hrtime()));
    if (sv->unfit) {
        door_well(l, e);
        return renewed;
    }
    uint32_t permit;
    if (e->door.state == BREAKER_HALF_OPEN &&
        breaker_ask(&e->door, l->now_ms, PERMIT_HOLD_MS, &permit) == BREAKER_TRIAL)
        breaker_trial(&e->door, l->now_ms, permit, BREAKER_FAILED);
    else
        breaker_failure(&e->door, l->now_ms, BREAKER_HARD);
    return false;
}

/* True: the pool was renewed. */
static bool dial_well(struct ledger *l, struct ledger_endpoint *e, struct server *sv)
{
    e->turn = sv->turn;
    e->fail_streak = e->busy_streak = 0;
    e->next_dial_ms = 0;
    e->refused = false;
    l->last_dial.cause = CAUSE_NONE;
    door_well(l, e);
    return ledger_found_fit(l, sv, e);
}

void ledger_dialed(struct ledger *l, struct server *sv, const struct err *err, uint64_t now)
{
    ledger_lock(l, now);
    CHECK(l->dialing > 0);
    if (sv->abandoned)
        l->abandoned++;
    l->dialing--;
    struct ledger_endpoint *e = ledger_endpoint_of(l, sv);
    if (e) {
        CHECK(e->dialing > 0 && e->open > 0);
        e->dialing--;
        e->open -= err != NULL;
    }
    if (!err) {
        bool renewed = e && dial_well(l, e, sv);
        ledger_unlock(l);
        if (renewed)
            ledger_say_renewed(l);
        return;
    }
    CHECK(l->open > 0);
    ledger_free_slot(l);
    bool renewed = dial_failed(l, e, sv, err);
    if (sv->promised) {
        CHECK(l->workers[sv->home].promised > 0);
        l->workers[sv->home].promised--;
    }
    ledger_leave(l);
    if (renewed)
        ledger_say_renewed(l);
}

void ledger_arrived(struct ledger *l, unsigned worker, uint64_t now)
{
    ledger_lock(l, now);
    CHECK(l->workers[worker].promised > 0);
    l->workers[worker].promised--;
    ledger_leave(l);
}

int ledger_owed(struct ledger *l, unsigned worker, bool have_one, uint64_t now)
{
    ledger_lock(l, now);
    struct ledger_worker *v = &l->workers[worker];
    for (unsigned i = 0; i < l->n_workers && v->asked; i++) {
        if (!v->owes[i])
            continue;
        if (have_one) {
            v->owes[i]--;
            v->asked--;
            ledger_unlock(l);
            return (int)i;
        }
        CHECK(l->workers[i].promised >= v->owes[i]);
        l->workers[i].promised -= v->owes[i];
        v->asked -= v->owes[i];
        v->owes[i] = 0;
    }
    ledger_leave(l);
    return -1;
}

int ledger_foreign(struct ledger *l, unsigned worker, uint64_t now)
{
    ledger_lock(l, now);
    int w = atomic_load(&l->paused) ? -1 : ledger_oldest_waiting(l, (int)worker);
    if (w >= 0 && atomic_load(&l->workers[worker].waiters)) {
        uint64_t mine = atomic_load(&l->workers[worker].oldest_ms);
        if (atomic_load(&l->workers[w].oldest_ms) + LEDGER_YIELD_MS > mine)
            w = -1;
    }
    if (w >= 0)
        l->workers[w].promised++;
    ledger_raise_foreign(l);
    ledger_unlock(l);
    return w;
}

void ledger_closing(struct ledger *l)
{
    ledger_lock(l, 0);
    l->closing++;
    l->shedding -= l->shedding > 0;
    ledger_tell_group(l, l->member.need.want);
    ledger_leave_as_is(l);
}

void ledger_wasted(struct ledger *l, bool wasted)
{
    ledger_lock(l, 0);
    l->warm_gap_ms = !wasted ? 0 : l->warm_gap_ms ? l->warm_gap_ms * 2 : WARM_GAP_MIN_MS;
    if (l->warm_gap_ms > WARM_GAP_MAX_MS)
        l->warm_gap_ms = WARM_GAP_MAX_MS;
    if (wasted)
        l->next_warm_ms = l->now_ms + l->warm_gap_ms;
    ledger_unlock(l);
}

struct ledger_endpoint *ledger_endpoint_of(struct ledger *l, const struct server *sv)
{
    if ((int)(sv->generation - l->endpoints_since) < 0)
        return NULL;
    CHECK(sv->endpoint_at < l->n_endpoints);
    return &l->endpoints[sv->endpoint_at];
}

void ledger_freed(struct ledger *l, const struct server *sv, bool abandoned, uint64_t now)
{
    ledger_lock(l, now);
    CHECK(l->open > 0 && l->closing > 0);
    struct ledger_endpoint *e = ledger_endpoint_of(l, sv);
    if (e) {
        CHECK(e->open > 0);
        e->open--;
    }
    ledger_free_slot(l);
    l->closing--;
    if (abandoned)
        l->abandoned++;
    ledger_leave(l);
}

bool ledger_pin(struct ledger *l)
{
    ledger_lock(l, 0);
    bool ok = !ledger_class_full(l);
    if (ok)
        l->pinned++;
    ledger_unlock(l);
    return ok;
}

void ledger_unpin(struct ledger *l, uint64_t now)
{
    ledger_lock(l, now);
    CHECK(l->pinned > 0);
    l->pinned--;
    /* Who waits for the class to have room may have what it needs in front of it. */
    int w = ledger_oldest_waiting(l, -1);
    bool own = w >= 0 && atomic_load(&l->workers[w].idle) > l->workers[w].asked;
    ledger_leave(l);
    if (own)
        pool_ask(l->workers[w].pool);
}

bool ledger_above_max(struct ledger *l)
{
    ledger_lock(l, 0);
    bool above = l->open - l->closing > l->conf->size.max;
    ledger_unlock(l);
    return above;
}

bool ledger_sheds(struct ledger *l, uint64_t now)
{
    if (!atomic_load(&l->member.shed))
        return false;
    ledger_lock(l, now);
    struct group_need need = ledger_need(l, l->member.need.want);
    bool sheds = group_sheds(&l->member, &need, l->now_ms);
    l->shedding += sheds;
    ledger_leave_as_is(l);
    return sheds;
}

bool ledger_above_min(struct ledger *l)
{
    ledger_lock(l, 0);
    bool above = l->open - l->closing > l->conf->size.min;
    ledger_unlock(l);
    return above;
}

void ledger_remember(struct ledger *l, struct snapshot *memo)
{
    ledger_lock(l, 0);
    struct snapshot *old = l->memo;
    l->memo = snapshot_take(memo);
    ledger_unlock(l);
    snapshot_drop(&old);
}

struct snapshot *ledger_recall(struct ledger *l)
{
    ledger_lock(l, 0);
    struct snapshot *memo = l->memo ? snapshot_take(l->memo) : NULL;
    ledger_unlock(l);
    return memo;
}
