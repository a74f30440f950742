/* SPDX-License-Identifier: MIT */
/* Figures are taken from real books and counters of two workers, and add up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "admin/figures.h"

static void keep(struct snapshot *snap)
{
    (void)snap;
}

/* Nothing is ever dialed here. */
static const struct driver_ops nobody = {.name = "nobody"};

struct house {
    struct log_ring *ring;
    struct loop loop;
    struct snapshot snap;
    struct endpoint_conf endpoint;
    struct pool_conf conf;
    struct front_conf front;
    struct ledger *ledger;
    struct pool *pools[2];
    struct route *routes[2], route;
    struct admin_pool pool;
    struct admin_thread thread;
    struct admin_view view;
};

static struct house *house_new(uint32_t min)
{
    struct house *h = calloc(1, sizeof *h);
    assert_non_null(h);
    h->ring = log_ring_new("control", LOG_ERROR);
    loop_init(&h->loop, "control", h->ring);
    atomic_store(&h->snap.refs, 1);
    h->snap.free = keep;
    h->endpoint = (struct endpoint_conf){.label = "db:5432"};
    h->conf = (struct pool_conf){.name = "orders",
                                 .endpoints = &h->endpoint,
                                 .n_endpoints = 1,
                                 .size = {.min = min, .max = 20, .waiters = 10}};
    h->front = (struct front_conf){.kind = FRONT_POSTGRES, .mode = FRONT_SESSION};
    h->ledger = ledger_new(&nobody, &h->conf, &h->snap, 2, NULL, 1000, NULL);
    assert_non_null(h->ledger);
    for (unsigned i = 0; i < 2; i++) {
        h->pools[i] = pool_new(h->ledger, i, &h->loop);
        assert_non_null(h->pools[i]);
    }
    h->routes[1] = &h->route; /* the first worker has not begun */
    h->pool = (struct admin_pool){.ledger = h->ledger,
                                  .kind = "postgres",
                                  .n_workers = 2,
                                  .pools = h->pools,
                                  .routes = h->routes,
                                  .front = &h->front};
    h->thread = (struct admin_thread){"control", &h->loop};
    h->view = (struct admin_view){.version = "1",
                                  .source = "x",
                                  .n_workers = 2,
                                  .pools = &h->pool,
                                  .n_pools = 1,
                                  .threads = &h->thread,
                                  .n_threads = 1,
                                  .bound = true,
                                  .up_ms = 1};
    return h;
}

static void house_free(struct house *h)
{
    for (unsigned i = 0; i < 2; i++)
        pool_free(h->pools[i]);
    ledger_free(h->ledger);
    loop_stop(&h->loop);
    loop_run(&h->loop);
    loop_fini(&h->loop);
    free(h->ring);
    /* Nobody keeps a configuration alive that is not in use. */
    assert_int_equal(atomic_load(&h->snap.refs), 1);
    free(h);
}

static void test_workers_are_added_up(void **state)
{
    (void)state;
    struct house *h = house_new(0);
    pool_count_error(h->pools[0], CAUSE_OUTAGE);
    pool_count_error(h->pools[1], CAUSE_OUTAGE);
    pool_count_error(h->pools[1], CAUSE_PAUSED);
    pool_count_retry(h->pools[1]);
    pool_count_exchange(h->pools[0], 100);
    pool_count_exchange(h->pools[1], 5000);
    counter_set(&h->route.clients, 3);
    counter_set(&h->route.accepted, 9);
    counter_set(&h->route.refused, 2);
    hist_record(&h->loop.lag, 77);
    atomic_store(&h->ring->dropped, 5);

    struct figures f;
    assert_true(figures_take(&f, &h->view));
    assert_int_equal(f.n_pools, 1);
    const struct pool_figures *p = &f.pools[0];
    assert_string_equal(p->name, "orders");
    assert_string_equal(p->kind, "postgres");
    assert_string_equal(p->mode, "session");
    assert_string_equal(p->conf->endpoints[0].label, "db:5432");
    assert_int_equal(p->errors[CAUSE_OUTAGE], 2);
    assert_int_equal(p->errors[CAUSE_PAUSED], 1);
    assert_int_equal(p->retries, 1);
    assert_int_equal(p->exchange.count, 2);
    assert_int_equal(p->exchange.max, 5000);
    assert_int_equal(p->clients, 3);
    assert_int_equal(p->accepted, 9);
    assert_int_equal(p->refused, 2);
    assert_int_equal(p->max, 20);
    assert_int_equal(p->open, 0);
    assert_int_equal(f.threads[0].lag.max, 77);
    assert_int_equal(f.threads[0].log_dropped, 5);
    figures_fini(&f);
    house_free(h);
}

static void test_what_the_books_say(void **state)
{
    (void)state;
    struct house *h = house_new(0);
    struct figures f;
    ledger_pause(h->ledger, true, 1000);
    ledger_force_breaker(h->ledger, BREAKER_FORCE_OPEN, 1000);
    assert_true(figures_take(&f, &h->view));
    assert_true(f.pools[0].paused);
    assert_int_equal(f.pools[0].door, BREAKER_FORCED_OPEN);
    assert_int_equal(f.pools[0].service, BREAKER_FORCED_OPEN);
    assert_int_equal(f.pools[0].mood, MOOD_PAUSED);
    figures_fini(&f);
    house_free(h);
}

static bool is_ready(const struct house *h)
{
    struct figures f;
    assert_true(figures_take(&f, &h->view));
    bool ready = f.ready;
    figures_fini(&f);
    return ready;
}

/* Listeners bound, and warm or 10 s old; not draining. Upstreams do not matter. */
static void test_ready(void **state)
{
    (void)state;
    struct house *h = house_new(3);
    static const struct {
        uint64_t up_ms;
        bool bound, draining, ready;
    } cold[] = {
        {0, true, false, false},      {9999, true, false, false},   {10000, true, false, true},
        {10000, false, false, false}, {3600000, true, true, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cold); i++) {
        h->view.up_ms = cold[i].up_ms;
        h->view.bound = cold[i].bound;
        h->view.draining = cold[i].draining;
        assert_int_equal(is_ready(h), cold[i].ready);
    }
    house_free(h);

    h = house_new(0);
    ledger_start(h->ledger, 1000); /* nothing to warm: warm at once */
    assert_true(is_ready(h));
    h->view.bound = false;
    assert_false(is_ready(h));
    house_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_workers_are_added_up),
        cmocka_unit_test(test_what_the_books_say),
        cmocka_unit_test(test_ready),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
