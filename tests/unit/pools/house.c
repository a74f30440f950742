/* SPDX-License-Identifier: MIT */
#include "tests/unit/pools/house.h"

#include <errno.h>
#include <stdlib.h>

/* ---- the clock: loop_now() is uv_now(), which this one stands in for ---- */

static _Atomic uint64_t frozen = 0; /* 0: time runs */

uint64_t uv_now(const uv_loop_t *loop)
{
    uint64_t at = atomic_load_explicit(&frozen, memory_order_relaxed);
    return at ? at : loop->time;
}

uint64_t house_now(void)
{
    return atomic_load(&frozen);
}

/* ---- configurations ---- */

struct house_snap {
    struct snapshot snap;
    struct pool_conf conf;
    struct endpoint_conf endpoints[HOUSE_ENDPOINTS];
};

static const struct endpoint_conf default_endpoint = {
    .label = "peer:1", .host = "127.0.0.1", .port = 1, .literal = true};

struct pool_conf house_conf(uint32_t max)
{
    return (struct pool_conf){
        .name = "test",
        .endpoints = &default_endpoint,
        .n_endpoints = 1,
        .on_down = ON_DOWN_WAIT,
        .size = {.max = max, .waiters = 10000, .acquire_timeout_ms = 60000},
        .check = {.on_return = CHECK_FAST, .checkout_after_ms = 1000000, .timeout_ms = 1000},
        .timeouts = {.connect_ms = 5000, .outage_wait_ms = 60000, .close_ms = 5000},
        .retry = {.attempts = 3, .backoff_min_ms = 25, .backoff_max_ms = 250, .budget = 20},
        .breaker = {.open_min_ms = 1000, .open_max_ms = 4000},
    };
}

static void snap_free(struct snapshot *snap)
{
    free(OWNER(snap, struct house_snap, snap));
}

struct house_snap *house_prepare(const struct pool_conf *conf)
{
    struct house_snap *s = calloc(1, sizeof *s);
    CHECK(s != NULL && conf->n_endpoints <= HOUSE_ENDPOINTS);
    atomic_store(&s->snap.refs, 1);
    s->snap.free = snap_free;
    s->conf = *conf;
    for (size_t i = 0; i < conf->n_endpoints; i++)
        s->endpoints[i] = conf->endpoints[i];
    s->conf.endpoints = s->endpoints;
    return s;
}

void house_ask_all(struct house *h)
{
    for (unsigned i = 0; i < h->n; i++)
        pool_ask(h->pools[i]);
}

void house_apply(struct house *h, struct house_snap *s)
{
    struct snapshot *ref = &s->snap;
    ledger_reconf(h->ledger, &s->conf, ref, loop_now(h->pools[0]->loop));
    snapshot_drop(&ref);
    house_ask_all(h);
}

void house_reconf(struct house *h, const struct pool_conf *conf)
{
    house_apply(h, house_prepare(conf));
}

/* ---- life ---- */

static void on_stand(struct post_msg *msg);

static void on_leave(struct post_msg *msg)
{
    loop_stop(OWNER(msg, struct house_thread, leave)->loop);
}

static void open_loop(struct house *h, unsigned i, struct loop *loop, const char *name)
{
    h->log[i] = log_ring_new(name, LOG_ERROR);
    loop_init(loop, name, h->log[i]);
    h->threads[i] = (struct house_thread){.house = h, .loop = loop};
    post_init(&h->threads[i].stand, on_stand, NULL);
    post_init(&h->threads[i].leave, on_leave, NULL);
}

static void make_pools(struct house *h, struct house *host, const struct pool_conf *conf,
                       struct group *group)
{
    struct house_snap *s = house_prepare(conf);
    struct snapshot *ref = &s->snap;
    h->ledger = ledger_new(&fake_driver, &s->conf, ref, h->n, &host->dialer, house_now(), group);
    CHECK(h->ledger != NULL);
    snapshot_drop(&ref);
    for (unsigned i = 0; i < h->n; i++) {
        h->pools[i] = pool_new(h->ledger, i, &host->loops[i]);
        CHECK(h->pools[i] != NULL);
    }
}

void house_open(struct house *h, unsigned workers, const struct pool_conf *conf)
{
    house_open_in(h, workers, conf, NULL);
}

void house_open_in(struct house *h, unsigned workers, const struct pool_conf *conf,
                   struct group *group)
{
    *h = (struct house){.n = workers};
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->cond, NULL);
    atomic_store(&frozen, 100000);
    for (unsigned i = 0; i < workers; i++)
        open_loop(h, i, &h->loops[i], "worker");
    open_loop(h, workers, &h->dialer_loop, "dialer");
    dialer_init(&h->dialer, &h->dialer_loop);
    make_pools(h, h, conf, group);
    for (unsigned i = 0; i < workers; i++)
        pool_start(h->pools[i]);
    ledger_start(h->ledger, house_now());
}

void house_lodge(struct house *h, struct house *host, const struct pool_conf *conf,
                 struct group *group)
{
    *h = (struct house){.n = host->n};
    make_pools(h, host, conf, group);
}

void house_unlodge(struct house *h)
{
    for (unsigned i = 0; i < h->n; i++)
        pool_free(h->pools[i]);
    ledger_free(h->ledger);
}

static void on_quiet(struct pool *p, void *arg)
{
    (void)p;
    struct house *h = arg;
    atomic_fetch_add(&h->quiet, 1);
}

void house_stop(struct house *h)
{
    if (h->stopped)
        return;
    h->stopped = true;
    dialer_stop(&h->dialer);
    for (unsigned i = 0; i < h->n; i++)
        pool_stop(h->pools[i], on_quiet, h);
}

void house_close(struct house *h)
{
    house_stop(h);
    house_settle(h);
    house_pass(h, 120000);
    CHECK(atomic_load(&h->quiet) == h->n);
    loop_stop(&h->dialer_loop);
    for (unsigned i = 0; i < h->n; i++)
        loop_stop(&h->loops[i]);
    loop_run(&h->dialer_loop);
    for (unsigned i = 0; i < h->n; i++)
        loop_run(&h->loops[i]);
    house_free(h);
}

void house_free(struct house *h)
{
    loop_fini(&h->dialer_loop);
    for (unsigned i = 0; i < h->n; i++)
        loop_fini(&h->loops[i]);
    for (unsigned i = 0; i < h->n; i++)
        pool_free(h->pools[i]);
    ledger_free(h->ledger);
    for (unsigned i = 0; i <= h->n; i++)
        free(h->log[i]);
    fake_lock();
    CHECK(fake_open_count() == 0);
    fake_unlock();
    pthread_mutex_destroy(&h->mutex);
    pthread_cond_destroy(&h->cond);
}

/* ---- turns on one thread ---- */

static bool has_work(struct loop *loop)
{
    return atomic_load(&loop->inbox) || !list_empty(&loop->deferred);
}

void house_turn(struct house *h, unsigned tick)
{
    unsigned i = tick % (h->n + 1);
    loop_turn(i < h->n ? &h->loops[i] : &h->dialer_loop);
}

void house_tick(struct house *h, uint64_t ms)
{
    (void)h;
    atomic_fetch_add(&frozen, ms);
}

void house_hear(struct house *h, unsigned tick)
{
    unsigned i = tick % (h->n + 1);
    timers_advance(i < h->n ? &h->loops[i].timers : &h->dialer_loop.timers, house_now());
}

void house_settle(struct house *h)
{
    bool more;
    unsigned rounds = 0;
    do {
        CHECK(rounds++ < 10000); /* it never comes to rest */
        loop_turn(&h->dialer_loop);
        more = has_work(&h->dialer_loop);
        for (unsigned i = 0; i < h->n; i++)
            loop_turn(&h->loops[i]);
        for (unsigned i = 0; i < h->n; i++)
            more = more || has_work(&h->loops[i]);
        more = more || has_work(&h->dialer_loop);
    } while (more);
}

void house_pass(struct house *h, uint64_t ms)
{
    uint64_t until = house_now() + ms;
    for (bool last = false; !last;) {
        uint64_t next = timers_next(&h->dialer_loop.timers);
        for (unsigned i = 0; i < h->n; i++) {
            uint64_t due = timers_next(&h->loops[i].timers);
            next = due < next ? due : next;
        }
        last = next > until;
        uint64_t now = last ? until : next;
        if (now > house_now())
            atomic_store(&frozen, now);
        timers_advance(&h->dialer_loop.timers, house_now());
        for (unsigned i = 0; i < h->n; i++)
            timers_advance(&h->loops[i].timers, house_now());
        house_settle(h);
    }
}

struct ledger_view house_view(struct house *h)
{
    struct ledger_view view;
    ledger_view(h->ledger, &view);
    return view;
}

uint64_t house_verdicts(struct house *h, enum phase phase, enum outcome outcome)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < h->n; i++)
        n += counter_get(&pool_stats(h->pools[i])->verdicts[phase][outcome]);
    return n;
}

/* ---- threads ---- */

static void *run(void *arg)
{
    struct house_thread *t = arg;
    loop_run(t->loop);
    return NULL;
}

void house_run(struct house *h)
{
    atomic_store(&frozen, 0);
    for (unsigned i = 0; i <= h->n; i++)
        CHECK(pthread_create(&h->threads[i].thread, NULL, run, &h->threads[i]) == 0);
}

static void on_stand(struct post_msg *msg)
{
    struct house *h = OWNER(msg, struct house_thread, stand)->house;
    pthread_mutex_lock(&h->mutex);
    h->standing++;
    pthread_cond_broadcast(&h->cond);
    while (h->stop)
        pthread_cond_wait(&h->cond, &h->mutex);
    h->standing--;
    pthread_cond_broadcast(&h->cond);
    pthread_mutex_unlock(&h->mutex);
}

static void await_standing(struct house *h, unsigned n)
{
    pthread_mutex_lock(&h->mutex);
    while (h->standing != n)
        pthread_cond_wait(&h->cond, &h->mutex);
    pthread_mutex_unlock(&h->mutex);
}

/* Workers first: what they have posted to the dialer is done when the dialer stands. */
void house_stand(struct house *h)
{
    pthread_mutex_lock(&h->mutex);
    h->stop = true;
    pthread_mutex_unlock(&h->mutex);
    for (unsigned i = 0; i < h->n; i++)
        post(h->threads[i].loop, &h->threads[i].stand);
    await_standing(h, h->n);
    post(h->threads[h->n].loop, &h->threads[h->n].stand);
    await_standing(h, h->n + 1);
}

void house_go_on(struct house *h)
{
    pthread_mutex_lock(&h->mutex);
    h->stop = false;
    pthread_cond_broadcast(&h->cond);
    pthread_mutex_unlock(&h->mutex);
    await_standing(h, 0);
}

void house_join(struct house *h)
{
    for (unsigned i = 0; i <= h->n; i++)
        post(h->threads[i].loop, &h->threads[i].leave);
    for (unsigned i = 0; i <= h->n; i++)
        pthread_join(h->threads[i].thread, NULL);
}
