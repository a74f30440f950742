/* SPDX-License-Identifier: MIT */
#include "tests/unit/admin/made_up.h"

static struct figures figures;
static struct pool_figures pools[2];
static struct thread_figures threads[2];

static const struct listen_conf orders_listens[] = {{.label = "127.0.0.1:6432"},
                                                    {.label = "/run/carpool/pg.sock"}};
static const struct endpoint_conf orders_endpoints[] = {{.label = "db:5432"},
                                                        {.label = "db2:5432"}};
static const struct front_conf orders_front = {.kind = FRONT_POSTGRES,
                                               .kind_name = "postgres",
                                               .mode = FRONT_TRANSACTION,
                                               .listens = orders_listens,
                                               .n_listens = 2};
static const struct pool_conf orders_conf = {.endpoints = orders_endpoints, .n_endpoints = 2};

void made_up_record(struct hist_snapshot *s, uint64_t us, uint64_t times)
{
    s->buckets[hist_bucket(us)] += times;
    s->count += times;
    s->sum += us * times;
    if (us > s->max)
        s->max = us;
}

static void make_orders(struct pool_figures *p)
{
    *p = (struct pool_figures){
        .name = "orders",
        .kind = "postgres",
        .mode = "transaction",
        .front = &orders_front,
        .conf = &orders_conf,
        .servers = {[FIGURE_IDLE] = 2, [FIGURE_BUSY] = 3, [FIGURE_DIALING] = 1},
        .open = 6,
        .max = 10,
        .min = 1,
        .total = 30,
        .total_open = 12,
        .leases = 3,
        .clients = 40,
        .accepted = 50,
        .refused = 4,
        .leases_total = 1000,
        .waits = 70,
        .retries = 5,
        .from_servers = 123456789,
        .to_servers = 1024,
        .dials = 9,
        .dial_failures = 2,
        .warmed = true,
    };
    p->errors[CAUSE_ACQUIRE_TIMEOUT] = 7;
    p->dial_causes[CAUSE_DIAL_FAILED] = 2;
    p->verdicts[PHASE_RETURN][OUTCOME_KEEP] = 990;
    p->verdicts[PHASE_IDLE][OUTCOME_DROP_EOF] = 3;
    made_up_record(&p->acquire, 90, 9);
    made_up_record(&p->acquire, 40000, 1);
    made_up_record(&p->exchange, 2000, 10);
}

static void make_cache(struct pool_figures *p)
{
    *p = (struct pool_figures){
        .name = "cache",
        .kind = "redis",
        .max = 4,
        .waiting = 8,
        .clients = 8,
        .dials = 30,
        .dial_failures = 30,
        .door = BREAKER_OPEN,
    };
    err_set(&p->last_dial, CAUSE_DIAL_FAILED, STAGE_CONNECT, 111, "cache:6379 refused it");
    p->dial_causes[CAUSE_DIAL_FAILED] = 30;
}

struct figures *made_up_figures(void)
{
    make_orders(&pools[0]);
    make_cache(&pools[1]);
    for (unsigned i = 0; i < 2; i++)
        pool_figures_judge(&pools[i], false);
    threads[0] = (struct thread_figures){.name = "control"};
    threads[1] = (struct thread_figures){.name = "worker 0", .log_dropped = 11};
    made_up_record(&threads[1].lag, 300, 4);
    figures = (struct figures){
        .version = "1.2.3",
        .source = "/etc/carpool.yaml",
        .started_unix_ms = 1700000000123,
        .up_ms = 11520000,
        .n_workers = 2,
        .bound = true,
        .ready = true,
        .pools = pools,
        .n_pools = 2,
        .threads = threads,
        .n_threads = 2,
    };
    return &figures;
}

struct pool_figures *made_up_pool(struct figures *f, const char *name)
{
    for (size_t i = 0; i < f->n_pools; i++)
        if (strcmp(f->pools[i].name, name) == 0)
            return &f->pools[i];
    return NULL;
}
