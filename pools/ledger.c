/* SPDX-License-Identifier: MIT */
#include "pools/ledger.h"

#include <stdlib.h>
#include <string.h>

#include "pools/dialer.h"
#include "pools/pool_private.h"
#include "pools/server.h"

#define PERMIT_HOLD_MS 10000
#define BUSY_HOLD_MS 2000
#define DIAL_BACKOFF_MIN_MS 100
#define DIAL_BACKOFF_MAX_MS 10000

/* What a match decided, done after the lock is gone. */
struct act {
    bool dial;       /* else: ask `worker` to hand servers over */
    bool promised;
    unsigned worker;
    size_t endpoint;
};

#define ACTS_MAX 8

struct acts {
    unsigned n;
    struct act v[ACTS_MAX];
    const struct pool_conf *conf;
    struct snapshot *snap;
    unsigned generation;
};

static void lock(struct ledger *l, uint64_t now)
{
    pthread_mutex_lock(&l->mutex);
    if (now > l->now_ms)
        l->now_ms = now;
}

static void unlock(struct ledger *l)
{
    CHECK(l->dialing + l->closing <= l->open);
    pthread_mutex_unlock(&l->mutex);
}

static unsigned live(const struct ledger *l)
{
    return l->open - l->dialing - l->closing;
}

/* ---- matching ---- */

/* Exclusive leases of servers that could be shared are a class of their own, with its own bound. */
static bool class_full(const struct ledger *l)
{
    unsigned max = l->conf->size.max;
    return l->pinned >= (max > 1 ? max - 1 : 1);
}

/* Whom a server more would help: while their class is full, not those who want a whole one. */
static unsigned unfulfilled(const struct ledger *l, const struct ledger_worker *w)
{
    unsigned waiters = atomic_load(&w->waiters);
    unsigned nothing = w->promised + (class_full(l) ? atomic_load(&w->wholes) : 0);
    return waiters > nothing ? waiters - nothing : 0;
}

/* Raised before idle counts are read: a worker that gives back sees the flag, or we see its idle. */
static void raise_foreign(struct ledger *l)
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
static int oldest_waiting(const struct ledger *l, int except)
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

static void retry_at(struct ledger *l, uint64_t at)
{
    if (at != UINT64_MAX && (l->retry_ms == 0 || at < l->retry_ms))
        l->retry_ms = at > l->now_ms ? at : l->now_ms + 1;
}

/* The first endpoint that may be dialed now; notes when that may change. */
static int pick_endpoint(struct ledger *l)
{
    for (size_t i = 0; i < l->n_endpoints && i < l->conf->n_endpoints; i++) {
        struct ledger_endpoint *e = &l->endpoints[i];
        breaker_tick(&e->door, l->now_ms);
        if (e->next_dial_ms > l->now_ms) {
            retry_at(l, e->next_dial_ms);
            continue;
        }
        /* One trial at a time while half open: the dial itself is the permit. */
        if (e->door.state == BREAKER_HALF_OPEN && l->dialing > 0)
            continue;
        uint64_t next = breaker_next(&e->door);
        if (e->door.state == BREAKER_OPEN || e->door.state == BREAKER_FORCED_OPEN) {
            retry_at(l, next);
            continue;
        }
        return (int)i;
    }
    return -1;
}

static bool can_dial(struct ledger *l, int *endpoint)
{
    if (l->stopping || l->dialing >= LEDGER_DIALS_MAX)
        return false;
    if (l->open >= limit(l)) {
        if (l->open < l->conf->size.max)
            retry_at(l, l->busy_until);
        return false;
    }
    *endpoint = pick_endpoint(l);
    return *endpoint >= 0;
}

static void grant_dial(struct ledger *l, struct acts *acts, unsigned worker, int endpoint,
                       bool promised)
{
    l->open++;
    l->dialing++;
    l->dials++;
    if (promised)
        l->workers[worker].promised++;
    acts->v[acts->n++] = (struct act){true, promised, worker, (size_t)endpoint};
}

/* A server for the worker of the oldest waiter: somebody's idle one, or a new one. */
static bool grant_to_waiter(struct ledger *l, struct acts *acts)
{
    int w = oldest_waiting(l, -1);
    if (w < 0)
        return false;
    int v = idle_elsewhere(l, (unsigned)w);
    if (v >= 0) {
        l->workers[v].owes[w]++;
        l->workers[v].asked++;
        l->workers[w].promised++;
        acts->v[acts->n++] = (struct act){.worker = (unsigned)v};
        return true;
    }
    int endpoint;
    if (!can_dial(l, &endpoint))
        return false;
    grant_dial(l, acts, (unsigned)w, endpoint, true);
    return true;
}

static bool grant_unasked(struct ledger *l, struct acts *acts)
{
    int endpoint;
    for (unsigned i = 0; i < l->n_workers; i++) {
        struct ledger_worker *w = &l->workers[i];
        if (!w->grow)
            continue;
        if (!can_dial(l, &endpoint))
            return false;
        w->grow = false;
        grant_dial(l, acts, i, endpoint, false);
        return true;
    }
    if (l->open >= l->conf->size.min || !can_dial(l, &endpoint))
        return false;
    grant_dial(l, acts, l->next_worker++ % l->n_workers, endpoint, false);
    return true;
}

static void match(struct ledger *l, struct acts *acts)
{
    l->retry_ms = 0;
    if (live(l) >= l->conf->size.min)
        l->warmed = true;
    if (!l->started)
        return;
    raise_foreign(l);
    while (acts->n < ACTS_MAX && !atomic_load(&l->paused) && grant_to_waiter(l, acts))
        continue;
    while (acts->n < ACTS_MAX && grant_unasked(l, acts))
        continue;
    raise_foreign(l);
    if (acts->n) {
        acts->conf = l->conf;
        acts->snap = snapshot_take(l->snap);
        acts->generation = atomic_load(&l->generation);
    }
}

static void dial_unstarted(struct ledger *l, const struct act *act);

static void perform(struct ledger *l, struct acts *acts)
{
    for (unsigned i = 0; i < acts->n; i++) {
        const struct act *a = &acts->v[i];
        if (!a->dial)
            pool_ask(l->workers[a->worker].pool);
        else if (!dialer_start(l->dialer, l, acts->conf, snapshot_take(acts->snap), a->endpoint,
                               a->worker, a->promised, acts->generation))
            dial_unstarted(l, a);
    }
    if (acts->n)
        snapshot_drop(&acts->snap);
}

/* Ends every entry: match, unlock, do what was decided; again if there was too much for one go. */
static void leave(struct ledger *l)
{
    for (;;) {
        struct acts acts = {0};
        match(l, &acts);
        unlock(l);
        perform(l, &acts);
        if (acts.n < ACTS_MAX)
            return;
        lock(l, 0);
    }
}

/* Out of memory: give the slot and the promise back; the next tick of the pool tries again. */
static void dial_unstarted(struct ledger *l, const struct act *act)
{
    lock(l, 0);
    l->open--;
    l->dialing--;
    if (act->promised)
        l->workers[act->worker].promised--;
    l->endpoints[act->endpoint].next_dial_ms = l->now_ms + DIAL_BACKOFF_MIN_MS;
    err_set(&l->last_dial, CAUSE_INTERNAL, STAGE_CONNECT, 0, "out of memory");
    unlock(l);
}

/* ---- life ---- */

static bool make_endpoints(struct ledger *l, const struct pool_conf *conf)
{
    struct ledger_endpoint *e = calloc(conf->n_endpoints, sizeof *e);
    if (!e)
        return false;
    for (size_t i = 0; i < conf->n_endpoints; i++) {
        uint32_t seed = (uint32_t)(uv_hrtime() >> 4) + (uint32_t)i;
        breaker_init(&e[i].door, BREAKER_DOOR, &conf->breaker, l->now_ms, seed);
        breaker_init(&e[i].service, BREAKER_SERVICE, &conf->breaker, l->now_ms, ~seed);
    }
    free(l->endpoints);
    l->endpoints = e;
    l->n_endpoints = conf->n_endpoints;
    return true;
}

struct ledger *ledger_new(const struct driver_ops *ops, const struct pool_conf *conf,
                          struct snapshot *snap, unsigned n_workers, struct dialer *dialer,
                          uint64_t now)
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
    l->name = strdup(conf->name);
    l->workers = calloc(n_workers, sizeof *l->workers);
    if (!l->name || !l->workers || !make_endpoints(l, conf)) {
        free(l->workers);
        free(l->name);
        free(l);
        return NULL;
    }
    l->snap = snapshot_take(snap);
    pthread_mutex_init(&l->mutex, NULL);
    return l;
}

void ledger_start(struct ledger *l, uint64_t now)
{
    lock(l, now);
    l->started = true;
    leave(l);
}

void ledger_free(struct ledger *l)
{
    CHECK(l->open == 0 && l->dialing == 0 && l->closing == 0 && l->pinned == 0);
    snapshot_drop(&l->snap);
    snapshot_drop(&l->memo);
    pthread_mutex_destroy(&l->mutex);
    free(l->endpoints);
    free(l->workers);
    free(l->name);
    free(l);
}

/* ---- entries ---- */

void ledger_tend(struct ledger *l, uint64_t now, struct ledger_outlook *out)
{
    lock(l, now);
    leave(l);
    if (!out)
        return;
    lock(l, now);
    *out = (struct ledger_outlook){
        .live = live(l),
        .down = live(l) == 0 && l->last_dial.cause != CAUSE_NONE,
        .shut = true,
        .retry_ms = l->retry_ms,
        .dial_failures = l->dial_failures,
        .last_dial = l->last_dial,
    };
    for (size_t i = 0; i < l->n_endpoints; i++) {
        enum breaker_state s = l->endpoints[i].door.state;
        if (s != BREAKER_OPEN && s != BREAKER_FORCED_OPEN)
            out->shut = false;
    }
    unlock(l);
}

void ledger_grow(struct ledger *l, unsigned worker, uint64_t now)
{
    lock(l, now);
    if (l->dialing == 0)
        l->workers[worker].grow = true;
    leave(l);
}

static void dial_failed(struct ledger *l, struct ledger_endpoint *e, const struct err *err)
{
    l->dial_failures++;
    l->dial_causes[err->cause]++;
    l->last_dial = *err;
    if (err->cause == CAUSE_UPSTREAM_BUSY) {
        /* Busy is not down: shrink to what it bears, try again later, never trip. */
        l->busy_limit = l->open > 1 ? l->open - 1 : 1;
        l->busy_until = l->now_ms + BUSY_HOLD_MS;
        e->next_dial_ms =
            l->now_ms + backoff_ms(DIAL_BACKOFF_MIN_MS, BUSY_HOLD_MS, 2, (uint32_t)uv_hrtime());
        return;
    }
    if (err->cause == CAUSE_KILLED)
        return; /* we are stopping: says nothing about the endpoint */
    if (e->fail_streak < 32)
        e->fail_streak++;
    e->next_dial_ms = l->now_ms + backoff_ms(DIAL_BACKOFF_MIN_MS, DIAL_BACKOFF_MAX_MS,
                                             e->fail_streak - 1, (uint32_t)uv_hrtime());
    uint32_t permit;
    if (e->door.state == BREAKER_HALF_OPEN &&
        breaker_ask(&e->door, l->now_ms, PERMIT_HOLD_MS, &permit) == BREAKER_TRIAL)
        breaker_trial(&e->door, l->now_ms, permit, BREAKER_FAILED);
    else
        breaker_failure(&e->door, l->now_ms, BREAKER_HARD);
}

static void dial_well(struct ledger *l, struct ledger_endpoint *e)
{
    e->fail_streak = 0;
    e->next_dial_ms = 0;
    l->last_dial.cause = CAUSE_NONE;
    uint32_t permit;
    if (e->door.state == BREAKER_HALF_OPEN &&
        breaker_ask(&e->door, l->now_ms, PERMIT_HOLD_MS, &permit) == BREAKER_TRIAL)
        breaker_trial(&e->door, l->now_ms, permit, BREAKER_PASSED);
    else
        breaker_success(&e->door, l->now_ms, 1);
}

void ledger_dialed(struct ledger *l, const struct server *sv, const struct err *err, uint64_t now)
{
    lock(l, now);
    CHECK(l->dialing > 0);
    l->dialing--;
    bool current = sv->conf == l->conf || sv->endpoint_at < l->n_endpoints;
    struct ledger_endpoint *e = &l->endpoints[current ? sv->endpoint_at : 0];
    if (!err) {
        dial_well(l, e);
        unlock(l);
        return;
    }
    CHECK(l->open > 0);
    l->open--;
    dial_failed(l, e, err);
    if (sv->promised) {
        CHECK(l->workers[sv->home].promised > 0);
        l->workers[sv->home].promised--;
    }
    leave(l);
}

void ledger_arrived(struct ledger *l, unsigned worker, uint64_t now)
{
    lock(l, now);
    CHECK(l->workers[worker].promised > 0);
    l->workers[worker].promised--;
    leave(l);
}

int ledger_owed(struct ledger *l, unsigned worker, bool have_one, uint64_t now)
{
    lock(l, now);
    struct ledger_worker *v = &l->workers[worker];
    for (unsigned i = 0; i < l->n_workers && v->asked; i++) {
        if (!v->owes[i])
            continue;
        if (have_one) {
            v->owes[i]--;
            v->asked--;
            unlock(l);
            return (int)i;
        }
        CHECK(l->workers[i].promised >= v->owes[i]);
        l->workers[i].promised -= v->owes[i];
        v->asked -= v->owes[i];
        v->owes[i] = 0;
    }
    leave(l);
    return -1;
}

int ledger_foreign(struct ledger *l, unsigned worker, uint64_t now)
{
    lock(l, now);
    int w = atomic_load(&l->paused) ? -1 : oldest_waiting(l, (int)worker);
    if (w >= 0 && atomic_load(&l->workers[worker].waiters)) {
        uint64_t mine = atomic_load(&l->workers[worker].oldest_ms);
        if (atomic_load(&l->workers[w].oldest_ms) + LEDGER_YIELD_MS > mine)
            w = -1;
    }
    if (w >= 0)
        l->workers[w].promised++;
    raise_foreign(l);
    unlock(l);
    return w;
}

void ledger_closing(struct ledger *l)
{
    lock(l, 0);
    l->closing++;
    unlock(l);
}

void ledger_freed(struct ledger *l, bool abandoned, uint64_t now)
{
    lock(l, now);
    CHECK(l->open > 0 && l->closing > 0);
    l->open--;
    l->closing--;
    if (abandoned)
        l->abandoned++;
    leave(l);
}

bool ledger_pin(struct ledger *l)
{
    lock(l, 0);
    bool ok = !class_full(l);
    if (ok)
        l->pinned++;
    unlock(l);
    return ok;
}

void ledger_unpin(struct ledger *l, uint64_t now)
{
    lock(l, now);
    CHECK(l->pinned > 0);
    l->pinned--;
    leave(l);
}

bool ledger_above_max(struct ledger *l)
{
    lock(l, 0);
    bool above = l->open - l->closing > l->conf->size.max;
    unlock(l);
    return above;
}

bool ledger_above_min(struct ledger *l)
{
    lock(l, 0);
    bool above = l->open - l->closing > l->conf->size.min;
    unlock(l);
    return above;
}

/* ---- the service breaker ---- */

static void note_service(struct ledger *l)
{
    bool shut = false;
    for (size_t i = 0; i < l->n_endpoints; i++) {
        enum breaker_state s = l->endpoints[i].service.state;
        if (s != BREAKER_CLOSED && s != BREAKER_FORCED_CLOSED)
            shut = true;
    }
    atomic_store(&l->service_shut, shut);
}

bool ledger_service_allows(struct ledger *l, uint64_t now, uint32_t *permit, uint64_t *wait_ms)
{
    *permit = 0;
    *wait_ms = 0;
    if (!atomic_load_explicit(&l->service_shut, memory_order_relaxed))
        return true;
    lock(l, now);
    bool ok = false;
    uint64_t next = UINT64_MAX;
    for (size_t i = 0; i < l->n_endpoints && !ok; i++) {
        struct breaker *b = &l->endpoints[i].service;
        breaker_tick(b, l->now_ms);
        ok = breaker_ask(b, l->now_ms, PERMIT_HOLD_MS, permit) != BREAKER_REFUSE;
        if (!ok && breaker_next(b) < next)
            next = breaker_next(b);
    }
    if (!ok)
        *wait_ms = next == UINT64_MAX ? 0 : (next > l->now_ms ? next - l->now_ms : 1);
    unlock(l);
    return ok;
}

void ledger_service_result(struct ledger *l, const struct server *sv, uint64_t successes,
                           enum service_result result, uint32_t permit, uint64_t now)
{
    lock(l, now);
    size_t at = sv && sv->endpoint_at < l->n_endpoints ? sv->endpoint_at : 0;
    struct breaker *b = &l->endpoints[at].service;
    if (permit) {
        enum breaker_outcome o = result == SERVICE_WELL     ? BREAKER_PASSED
                                 : result == SERVICE_FAILED ? BREAKER_FAILED
                                                            : BREAKER_NEUTRAL;
        breaker_trial(b, l->now_ms, permit, o);
    } else {
        if (successes)
            breaker_success(b, l->now_ms, successes);
        if (result == SERVICE_FAILED)
            breaker_failure(b, l->now_ms, BREAKER_HARD);
    }
    note_service(l);
    unlock(l);
}

void ledger_remember(struct ledger *l, struct snapshot *memo)
{
    lock(l, 0);
    struct snapshot *old = l->memo;
    l->memo = snapshot_take(memo);
    unlock(l);
    snapshot_drop(&old);
}

struct snapshot *ledger_recall(struct ledger *l)
{
    lock(l, 0);
    struct snapshot *memo = l->memo ? snapshot_take(l->memo) : NULL;
    unlock(l);
    return memo;
}

/* ---- control ---- */

void ledger_pause(struct ledger *l, bool pause, uint64_t now)
{
    lock(l, now);
    atomic_store(&l->paused, pause);
    leave(l);
}

void ledger_recycle(struct ledger *l)
{
    atomic_fetch_add(&l->generation, 1);
}

void ledger_force_breaker(struct ledger *l, enum breaker_force force, uint64_t now)
{
    lock(l, now);
    for (size_t i = 0; i < l->n_endpoints; i++) {
        breaker_force(&l->endpoints[i].door, l->now_ms, force);
        breaker_force(&l->endpoints[i].service, l->now_ms, force);
        if (force == BREAKER_FORCE_AUTO)
            l->endpoints[i].next_dial_ms = 0;
    }
    note_service(l);
    leave(l);
}

static bool same(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static bool same_endpoints(const struct pool_conf *a, const struct pool_conf *b)
{
    if (a->n_endpoints != b->n_endpoints)
        return false;
    for (size_t i = 0; i < a->n_endpoints; i++) {
        const struct endpoint_conf *x = &a->endpoints[i], *y = &b->endpoints[i];
        if (!same(x->host, y->host) || x->port != y->port || !same(x->unix_path, y->unix_path) ||
            !same(x->user, y->user) || !same(x->password, y->password) ||
            !same(x->database, y->database) || x->tls != y->tls || !same(x->tls_ca, y->tls_ca) ||
            !same(x->tls_cert, y->tls_cert) || !same(x->tls_key, y->tls_key))
            return false;
    }
    return true;
}

void ledger_reconf(struct ledger *l, const struct pool_conf *conf, struct snapshot *snap,
                   uint64_t now)
{
    lock(l, now);
    struct snapshot *old = l->snap;
    /* Other endpoints, or other words to log in with: what is open is replaced as it comes free. */
    if (!same_endpoints(l->conf, conf) && make_endpoints(l, conf))
        atomic_fetch_add(&l->generation, 1);
    for (size_t i = 0; i < l->n_endpoints; i++) {
        breaker_reconf(&l->endpoints[i].door, &conf->breaker);
        breaker_reconf(&l->endpoints[i].service, &conf->breaker);
    }
    l->conf = conf;
    l->snap = snapshot_take(snap);
    note_service(l);
    leave(l);
    snapshot_drop(&old);
}

void ledger_stop(struct ledger *l)
{
    lock(l, 0);
    l->stopping = true;
    unlock(l);
}

static enum breaker_state worse(enum breaker_state a, enum breaker_state b)
{
    static const int rank[BREAKER_STATE_COUNT] = {
        [BREAKER_CLOSED] = 0,    [BREAKER_FORCED_CLOSED] = 1, [BREAKER_HALF_OPEN] = 2,
        [BREAKER_OPEN] = 3,      [BREAKER_FORCED_OPEN] = 4,
    };
    return rank[a] >= rank[b] ? a : b;
}

void ledger_view(struct ledger *l, struct ledger_view *out)
{
    lock(l, 0);
    *out = (struct ledger_view){
        .open = l->open,
        .dialing = l->dialing,
        .closing = l->closing,
        .max = l->conf->size.max,
        .min = l->conf->size.min,
        .pinned = l->pinned,
        .dials = l->dials,
        .dial_failures = l->dial_failures,
        .abandoned = l->abandoned,
        .last_dial = l->last_dial,
        .paused = atomic_load(&l->paused),
        .warmed = l->warmed,
        .stopping = l->stopping,
    };
    memcpy(out->dial_causes, l->dial_causes, sizeof out->dial_causes);
    for (size_t i = 0; i < l->n_endpoints; i++) {
        out->door = worse(out->door, l->endpoints[i].door.state);
        out->service = worse(out->service, l->endpoints[i].service.state);
    }
    unlock(l);
}

const struct pool_conf *ledger_conf(struct ledger *l, struct snapshot **ref)
{
    lock(l, 0);
    const struct pool_conf *conf = l->conf;
    *ref = snapshot_take(l->snap);
    unlock(l);
    return conf;
}
