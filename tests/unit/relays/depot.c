/* SPDX-License-Identifier: MIT */
#include "tests/unit/relays/depot.h"

#include <errno.h>
#include <stdlib.h>

#include "tests/unit/relays/memory.h"
#include "tests/unit/relays/turns.h"
#include "tests/unit/relays/wires.h"

#define DIALS 16
#define DEADLINE_MS 2000 /* of drains */
#define ROUNDS_MAX 20000 /* a world that never comes to rest */

struct dialing {
    struct server *sv; /* NULL: free */
    int fd, far;
    struct timer timer;
};

/* A worker's part of the pool, as proxy/worker.c has it. */
struct part {
    struct loop loop;
    struct front front;
    struct pool *pool;
    struct route *route;
    struct timer deadline, later;
    struct post_msg release;
    int door;
    bool quiet;
};

static struct {
    struct depot_plan plan;
    struct driver_ops driver;
    struct pool_conf reloaded;
    struct snapshot config;
    struct log_ring **logs;
    struct loop dialer_loop;
    struct dialer dialer;
    struct ledger *ledger;
    struct gate *gate;
    struct front *fronts[DEPOT_WORKERS];
    struct part parts[DEPOT_WORKERS];
    struct dialing dials[DIALS];
    void (*on_server)(int far);
    unsigned fronts_quiet;
    bool refuse, ending, killed, dialer_stopped;
} depot;

static struct log_ring *rings[DEPOT_WORKERS + 1]; /* large: made once */

#define EACH_PART(p) for (struct part *p = depot.parts; p < depot.parts + depot.plan.workers; p++)

/* ---- dials ---- */

static void dial_failed(struct dialing *d, enum cause cause, const char *why)
{
    struct server *sv = d->sv;
    struct err err;
    err_set(&err, cause, STAGE_LOGIN, 0, "%s", why);
    d->sv = NULL;
    dialer_linger(sv, &depot.dialer_loop, d->fd, &err);
}

static void on_dialed(struct timer *t)
{
    struct dialing *d = OWNER(t, struct dialing, timer);
    struct server *sv = d->sv;
    if (depot.refuse) {
        dial_failed(d, CAUSE_DIAL_FAILED, "nobody there");
        return;
    }
    if (!depot.plan.born(sv, d->far)) {
        dial_failed(d, CAUSE_INTERNAL, "out of memory");
        return;
    }
    d->sv = NULL;
    io_init(&sv->io, d->fd, NULL);
    server_dialed(sv, NULL);
}

static void dial(struct server *sv, struct loop *loop)
{
    struct dialing *d = depot.dials;
    while (d->sv)
        CHECK(++d < depot.dials + DIALS);
    d->sv = sv;
    d->fd = wire_pair(&d->far);
    depot.on_server(d->far);
    timer_init(&d->timer, on_dialed);
    loop_timer_set(loop, &d->timer, 1);
}

static void dial_abort_now(struct server *sv, const struct err *err)
{
    struct dialing *d = depot.dials;
    struct err copy = *err;
    while (d->sv != sv)
        CHECK(++d < depot.dials + DIALS);
    d->sv = NULL;
    loop_timer_stop(&depot.dialer_loop, &d->timer);
    dialer_linger(sv, &depot.dialer_loop, d->fd, &copy);
}

/* ---- opening ---- */

static const struct endpoint_conf endpoint = {
    .label = "peer:1", .host = "127.0.0.1", .port = 1, .literal = true, .database = "0"};
static const struct listen_conf listener = {
    .label = "door", .host = "127.0.0.1", .port = 1, .loopback = true, .auth = AUTH_TRUST};

static struct endpoint_conf two[2];

struct depot_plan depot_plan(void)
{
    return (struct depot_plan){
        .workers = 1,
        .pool =
            {.name = "test",
             .endpoints = &endpoint,
             .n_endpoints = 1,
             .on_down = ON_DOWN_FAIL,
             .size = {.max = 2, .waiters = 100, .acquire_timeout_ms = 3000},
             .check = {.on_return = CHECK_FAST, .checkout_after_ms = 60000, .timeout_ms = 1000},
             .timeouts = {.connect_ms = 1000,
                          .request_ms = 2000,
                          .client_login_ms = 3000,
                          .write_stall_ms = 3000,
                          .read_stall_ms = 3000,
                          .outage_wait_ms = 3000,
                          .close_ms = 1000},
             .retry = {.attempts = 3, .backoff_min_ms = 100, .backoff_max_ms = 100, .budget = 100},
             .breaker = {.consecutive = 2, .open_min_ms = 1000, .open_max_ms = 4000}},
        .front = {.mode = FRONT_TRANSACTION,
                  .listens = &listener,
                  .n_listens = 1,
                  .limits = {.clients = 100,
                             .in_flight = 100,
                             .statements = 100,
                             .statement_bytes = 100000,
                             .buffer = 16384}},
    };
}

static void config_free(struct snapshot *snap)
{
    (void)snap;
    CHECK(!"the test holds it, too");
}

static void on_deadline(struct timer *t);
static void on_later(struct timer *t);
static void on_release(struct post_msg *msg);

static void open_part(struct part *p, unsigned worker)
{
    *p = (struct part){.door = -1};
    loop_init(&p->loop, "worker", depot.logs[worker]);
    timer_init(&p->deadline, on_deadline);
    timer_init(&p->later, on_later);
    post_init(&p->release, on_release, NULL);
    p->pool = pool_new(depot.ledger, worker, &p->loop);
    CHECK(p->pool != NULL);
    depot.fronts[worker] = &p->front;
    front_init(&p->front, &p->loop, worker, depot.plan.workers, depot.fronts);
    pool_start(p->pool);
}

static void open_door(struct part *p, int listening)
{
    p->route = route_new(&p->front, p->pool, depot.gate);
    CHECK(p->route && route_listen(p->route, &(struct door_socket){
                                                 listening, depot.plan.front.listens, depot.gate}));
    p->door = wire_door();
}

/* Everything is written down: that must be well, too. */
static void make_logs(void)
{
    for (unsigned i = 0; i <= DEPOT_WORKERS && !rings[i]; i++) {
        rings[i] = memory_own(NULL, sizeof *rings[i]);
        memset(rings[i], 0, sizeof *rings[i]);
        rings[i]->thread = "thread";
        atomic_store(&rings[i]->level, LOG_DEBUG);
        atomic_store(&rings[i]->access, LOG_ACCESS_ALL);
    }
}

void depot_open(const struct depot_plan *plan, void (*on_server)(int far))
{
    struct err err;
    memset(&depot, 0, sizeof depot);
    depot.plan = *plan;
    depot.on_server = on_server;
    depot.driver = *plan->driver;
    depot.driver.dial = dial;
    depot.driver.dial_abort = dial_abort_now;
    atomic_store(&depot.config.refs, 1);
    depot.config.free = config_free;
    depot.logs = rings;
    make_logs();
    loop_init(&depot.dialer_loop, "dialer", depot.logs[plan->workers]);
    dialer_init(&depot.dialer, &depot.dialer_loop);
    wires_on_connect(on_server);
    depot.ledger = ledger_new(&depot.driver, &depot.plan.pool, &depot.config, plan->workers,
                              &depot.dialer, turns_now(), NULL);
    depot.gate = gate_new(plan->relay, &depot.plan.front, &depot.plan.pool, &depot.config, &err);
    CHECK(depot.ledger && depot.gate);
    for (unsigned i = 0; i < plan->workers; i++)
        open_part(&depot.parts[i], i);
    int listening = wire_listen();
    EACH_PART(p)
    open_door(p, listening);
    ledger_start(depot.ledger, turns_now());
    depot_settle();
}

/* ---- going on ---- */

/* Nobody writes them down. */
static void forget_logs(void)
{
    for (unsigned i = 0; i <= depot.plan.workers; i++)
        while (log_ring_peek(depot.logs[i]))
            log_ring_pop(depot.logs[i]);
}

bool depot_turn(void)
{
    bool any = turn(&depot.dialer_loop);
    EACH_PART(p)
    any |= turn(&p->loop);
    forget_logs();
    return any;
}

void depot_settle(void)
{
    unsigned rounds = 0;
    while (depot_turn())
        CHECK(++rounds < ROUNDS_MAX);
}

int depot_connect(unsigned worker)
{
    return wire_connect(depot.parts[worker % depot.plan.workers].door);
}

/* ---- what may happen ---- */

void depot_trip(void)
{
    for (unsigned n = 0; n < depot.plan.pool.breaker.consecutive; n++) {
        for (size_t i = 1; i < depot.ledger->n_endpoints; i++)
            breaker_failure(&depot.ledger->endpoints[i].service, turns_now(), BREAKER_HARD);
        pool_service_failed(depot.parts[0].pool, NULL, "so it is", 0);
    }
    turns_pass(turns_now() + depot.plan.pool.breaker.open_max_ms);
    depot_settle();
}

void depot_two_endpoints(struct depot_plan *plan)
{
    two[0] = two[1] = plan->pool.endpoints[0];
    two[1].label = "peer:2";
    two[1].port = 2;
    plan->pool.endpoints = two;
    plan->pool.n_endpoints = 2;
}

void depot_refuse_dials(bool refuse)
{
    depot.refuse = refuse;
}

void depot_drain(bool drain)
{
    ledger_drain(depot.ledger, drain);
    EACH_PART(p)
    if (p->route)
        route_mind(p->route);
}

void depot_reload(void)
{
    struct err err;
    depot.reloaded = depot.plan.pool;
    depot.reloaded.size.max = 1;
    memory_spare(true);
    struct gate *g =
        gate_new(depot.plan.relay, &depot.plan.front, &depot.reloaded, &depot.config, &err);
    CHECK(g != NULL);
    memory_spare(false);
    EACH_PART(p)
    route_regate(p->route, g);
    gate_drop(&depot.gate);
    depot.gate = g;
    ledger_reconf(depot.ledger, &depot.reloaded, &depot.config, turns_now());
    EACH_PART(p)
    pool_ask(p->pool);
}

/* Control's thread says so when no worker has anything left, and no message can be on its way. */
static void on_release(struct post_msg *msg)
{
    struct part *p = OWNER(msg, struct part, release);
    route_free(p->route);
    p->route = NULL;
}

static void on_pool_quiet(struct pool *pool, void *arg)
{
    (void)pool;
    ((struct part *)arg)->quiet = true;
    EACH_PART(p)
    if (!p->quiet)
        return;
    EACH_PART(p)
    post(&p->loop, &p->release);
}

static void stop_pool(struct part *p)
{
    if (!depot.dialer_stopped)
        dialer_stop(&depot.dialer);
    depot.dialer_stopped = true;
    pool_stop(p->pool, on_pool_quiet, p);
    if (depot.killed)
        pool_kill(p->pool);
}

static void on_route_empty(struct route *r, void *arg)
{
    (void)r;
    struct part *p = arg;
    loop_timer_stop(&p->loop, &p->deadline);
    stop_pool(p);
}

static void on_deadline(struct timer *t)
{
    struct part *p = OWNER(t, struct part, deadline);
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "the deadline has passed");
    if (!p->front.draining) {
        route_kill(p->route, &err);
        return;
    }
    depot.killed = true;
    front_kill(&p->front);
    pool_kill(p->pool);
}

static void remove_part(struct part *p)
{
    loop_timer_set(&p->loop, &p->deadline, DEADLINE_MS);
    route_close(p->route, on_route_empty, p);
}

static void on_later(struct timer *t)
{
    remove_part(OWNER(t, struct part, later));
}

void depot_remove(unsigned first)
{
    depot.ending = true;
    remove_part(&depot.parts[first]);
    EACH_PART(p)
    if (p != &depot.parts[first])
        loop_timer_set(&p->loop, &p->later, 1);
}

static void on_front_quiet(struct front *f, void *arg)
{
    (void)f, (void)arg;
    if (++depot.fronts_quiet < depot.plan.workers)
        return;
    EACH_PART(p)
    {
        loop_timer_stop(&p->loop, &p->deadline);
        stop_pool(p);
    }
}

void depot_stop(bool at_once)
{
    EACH_PART(p)
    {
        if (depot.ending)
            break; /* a second signal */
        loop_timer_set(&p->loop, &p->deadline, DEADLINE_MS);
        front_drain(&p->front, on_front_quiet, p);
    }
    depot.ending = true;
    if (!at_once)
        return;
    depot.killed = true;
    EACH_PART(p)
    {
        front_kill(&p->front);
        pool_kill(p->pool);
    }
}

bool depot_is_ending(void)
{
    return depot.ending;
}

void depot_recycle(void)
{
    ledger_recycle(depot.ledger);
    EACH_PART(p)
    pool_ask(p->pool);
}

void depot_pause(bool pause)
{
    ledger_pause(depot.ledger, pause, turns_now());
    EACH_PART(p)
    pool_ask(p->pool);
}

/* ---- books ---- */

static unsigned count(const struct counter *c)
{
    return (unsigned)counter_get(c);
}

static void part_is_at_rest(const struct part *p, unsigned *idle, unsigned *closing)
{
    const struct pool *pool = p->pool;
    CHECK(pool_ok(pool));
    CHECK(!p->route || (list_empty(&p->route->sessions) && p->route->n_sessions == 0));
    CHECK(!p->route || p->route->in_flight == 0);
    CHECK(atomic_load(&p->front.clients) == 0);
    CHECK(count(&pool->stats.leased) == 0);
    CHECK(count(&pool->stats.busy) == 0 && list_empty(&pool->busy));
    CHECK(count(&pool->stats.checking) == 0 && list_empty(&pool->checking));
    CHECK(pool->n_waiters == 0 && list_empty(&pool->waiters) && list_empty(&pool->settled));
    CHECK(pool->n_held == 0);
    *idle += count(&pool->stats.idle);
    *closing += count(&pool->stats.closing);
    unsigned pulse = timer_armed(&pool->tick);
    CHECK(turns_armed(&p->loop) == pulse + count(&pool->stats.closing));
}

void depot_is_at_rest(void)
{
    struct ledger_view view;
    unsigned idle = 0, closing = 0;
    EACH_PART(p)
    part_is_at_rest(p, &idle, &closing);
    ledger_view(depot.ledger, &view);
    CHECK(view.pinned == 0 && view.dialing == 0);
    CHECK(view.closing == closing && view.open == idle + closing);
    CHECK(atomic_load(&depot.ledger->clients) == 0);
    CHECK(turns_armed(&depot.dialer_loop) == 0 && list_empty(&depot.dialer.dials));
    for (unsigned i = 0; i < depot.plan.workers; i++) {
        const struct ledger_worker *w = &depot.ledger->workers[i];
        CHECK(w->promised == 0 && w->asked == 0);
    }
    for (size_t i = 0; i < depot.ledger->n_endpoints; i++) {
        const struct ledger_endpoint *e = &depot.ledger->endpoints[i];
        CHECK(e->service.permit == 0 && e->door.permit == 0 && e->dialing == 0);
    }
}

void depot_close(bool (*go_on)(void))
{
    if (!depot.ending)
        depot_remove(0);
    for (uint64_t until = turns_now() + DEADLINE_MS + 3000;;) {
        while (go_on())
            continue;
        uint64_t due = turns_due();
        if (due > until)
            break;
        turns_pass(due > turns_now() ? due : turns_now());
    }
    EACH_PART(p)
    CHECK(p->quiet && !p->route && turns_armed(&p->loop) == 0);
    CHECK(depot.ledger->open == 0);
    gate_drop(&depot.gate);
    loop_stop(&depot.dialer_loop);
    loop_run(&depot.dialer_loop);
    loop_fini(&depot.dialer_loop);
    EACH_PART(p)
    {
        loop_stop(&p->loop);
        loop_run(&p->loop);
        loop_fini(&p->loop);
    }
    EACH_PART(p)
    pool_free(p->pool);
    ledger_free(depot.ledger);
    CHECK(atomic_load(&depot.config.refs) == 1); /* nobody else holds it any more */
}
