/* SPDX-License-Identifier: MIT */
/* A pool's life and its figures. Leases: pool_lease.c, pool_return.c; upkeep: pool_tend.c. */
#include "pools/pool.h"

#include <stdlib.h>

#include "pools/pool_private.h"

const struct pool_conf *pool_conf(const struct pool *p)
{
    return p->conf;
}

struct ledger *pool_ledger(const struct pool *p)
{
    return p->ledger;
}

const struct pool_stats *pool_stats(const struct pool *p)
{
    return &p->stats;
}

void pool_count_error(struct pool *p, enum cause cause)
{
    counter_add(&p->stats.errors[cause], 1);
}

void pool_count_retry(struct pool *p)
{
    counter_add(&p->stats.retries, 1);
}

void pool_count_exchange(struct pool *p, uint64_t us)
{
    hist_record(&p->stats.exchange, us);
}

static void tell(struct pool *p, const struct server *sv, enum service_result result,
                 const char *why, uint32_t permit)
{
    ledger_service_result(p->ledger, sv, result, why, permit, loop_now(p->loop));
}

enum service_gate pool_gate(const struct pool *p, const struct server *sv)
{
    if (p->conf->n_endpoints == 1)
        return SERVICE_PASSES;
    return ledger_service_gate(p->ledger, sv, loop_now(p->loop));
}

/* The trial on this server ends; while it goes well, what runs on it next is the next one. */
static void end_trial(struct pool *p, struct server *sv, enum service_result result,
                      const char *why)
{
    tell(p, sv, result, why, sv->permit);
    sv->permit = result == SERVICE_WELL && sv->leases
                     ? ledger_service_trial(p->ledger, sv, loop_now(p->loop))
                     : 0;
}

void pool_end_trial(struct pool *p, struct server *sv)
{
    if (sv->permit)
        end_trial(p, sv, SERVICE_NEUTRAL, NULL);
}

void pool_tell_successes(struct pool *p)
{
    if (!p->successes)
        return;
    ledger_service_well(p->ledger, p->successes_at, p->successes, loop_now(p->loop));
    p->successes = 0;
}

void pool_service_well(struct pool *p, struct server *sv, uint32_t permit)
{
    if (permit) {
        tell(p, sv, SERVICE_WELL, NULL, permit);
    } else if (sv && sv->permit) {
        end_trial(p, sv, SERVICE_WELL, NULL);
    } else {
        size_t at = sv ? sv->endpoint_at : 0;
        if (at != p->successes_at)
            pool_tell_successes(p);
        p->successes_at = at;
        p->successes++;
    }
}

void pool_service_failed(struct pool *p, struct server *sv, const char *why, uint32_t permit)
{
    pool_tell_successes(p); /* they were before */
    if (permit || !sv || !sv->permit)
        tell(p, sv, SERVICE_FAILED, why, permit);
    else
        end_trial(p, sv, SERVICE_FAILED, why);
}

void pool_service_neutral(struct pool *p, struct server *sv, uint32_t permit)
{
    if (permit)
        tell(p, sv, SERVICE_NEUTRAL, NULL, permit);
}

void pool_request(struct pool *p)
{
    p->requests++;
}

bool pool_may_retry(struct pool *p)
{
    uint64_t now = loop_now(p->loop);
    budget_request(&p->budget, now, p->requests);
    p->requests = 0;
    return budget_take(&p->budget, now);
}

uint64_t pool_retry_wait(const struct pool *p, unsigned tried)
{
    CHECK(tried > 0);
    return backoff_ms(p->conf->retry.backoff_min_ms, p->conf->retry.backoff_max_ms, tried - 1,
                      jitter_seed(uv_hrtime()));
}

/* ---- life ---- */

struct pool *pool_new(struct ledger *l, unsigned worker, struct loop *loop)
{
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->magic = POOL_MAGIC;
    p->ledger = l;
    p->books = &l->workers[worker];
    p->loop = loop;
    p->worker = worker;
    p->shares = l->ops->lost != NULL; /* until the first server says */
    p->conf = ledger_conf(l, &p->snap);
    list_init(&p->idle);
    list_init(&p->busy);
    list_init(&p->checking);
    list_init(&p->closing);
    list_init(&p->waiters);
    list_init(&p->settled);
    deferred_init(&p->deliver, pool_deliver);
    deferred_init(&p->quiet, NULL);
    timer_init(&p->tick, pool_tick);
    post_init(&p->ask, pool_obey, NULL);
    p->books->loop = loop;
    p->books->pool = p;
    return p;
}

unsigned pool_budget_floor(const struct pool *p)
{
    unsigned n = p->ledger->n_workers;
    return (BUDGET_FLOOR_PER_S + n - 1) / n;
}

void pool_start(struct pool *p)
{
    budget_init(&p->budget, p->conf->retry.budget, pool_budget_floor(p), loop_now(p->loop));
    pool_rearm(p, 1000);
}

void pool_free(struct pool *p)
{
    CHECK(list_empty(&p->idle) && list_empty(&p->busy) && list_empty(&p->checking) &&
          list_empty(&p->closing) && list_empty(&p->waiters) && list_empty(&p->settled));
    CHECK(!timer_armed(&p->tick));
    snapshot_drop(&p->snap);
    p->magic = 0;
    free(p);
}

void pool_each_server(struct pool *p, void (*each)(const struct server *sv, void *arg), void *arg)
{
    const struct list *lists[] = {&p->idle, &p->busy, &p->checking, &p->closing};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        LIST_EACH(n, lists[i])
            each(OWNER(n, struct server, node), arg);
}
