/* SPDX-License-Identifier: MIT */
/*
 * Reads what workers publish while they go on working. Every number is some recent one; two numbers
 * need not be of the same instant.
 */
#include "admin/figures.h"

#include <stdlib.h>

/* A pool that cannot warm up must not keep a sidecar from being used: see is_ready(). */
#define READY_AFTER_MS 10000

static const char *const server_words[FIGURE_SERVER_COUNT] = {
#define X(name, word) [FIGURE_##name] = word,
    FIGURE_SERVERS(X)
#undef X
};

static const char *const mood_words[MOOD_COUNT] = {
#define X(name, word) [MOOD_##name] = word,
    POOL_MOODS(X)
#undef X
};

const char *figure_server_word(enum figure_server state)
{
    CHECK((unsigned)state < FIGURE_SERVER_COUNT);
    return server_words[state];
}

const char *pool_mood_word(enum pool_mood mood)
{
    CHECK((unsigned)mood < MOOD_COUNT);
    return mood_words[mood];
}

static const char *mode_of(const struct front_conf *front)
{
    if (!front || front->kind != FRONT_POSTGRES)
        return NULL;
    switch (front->mode) {
    case FRONT_SESSION:
        return "session";
    case FRONT_TRANSACTION:
        return "transaction";
    case FRONT_STATEMENT:
        return "statement";
    }
    return NULL;
}

static void add_pool(struct pool_figures *out, const struct pool_stats *s)
{
    out->servers[FIGURE_IDLE] += counter_get(&s->idle);
    out->servers[FIGURE_BUSY] += counter_get(&s->busy);
    out->servers[FIGURE_CHECKING] += counter_get(&s->checking);
    out->waiting += counter_get(&s->waiting);
    out->leases += counter_get(&s->leased);
    out->leases_total += counter_get(&s->leases);
    out->waits += counter_get(&s->waits);
    out->retries += counter_get(&s->retries);
    out->from_servers += counter_get(&s->from_servers);
    out->to_servers += counter_get(&s->to_servers);
    for (size_t i = 0; i < CAUSE_COUNT; i++)
        out->errors[i] += counter_get(&s->errors[i]);
    for (size_t i = 0; i < PHASE_COUNT; i++)
        for (size_t j = 0; j < OUTCOME_COUNT; j++)
            out->verdicts[i][j] += counter_get(&s->verdicts[i][j]);
    hist_merge(&out->acquire, &s->acquire);
    hist_merge(&out->exchange, &s->exchange);
}

static void copy_books(struct pool_figures *out, const struct ledger_view *books)
{
    out->servers[FIGURE_CLOSING] = books->closing;
    out->servers[FIGURE_DIALING] = books->dialing;
    out->open = books->open;
    out->max = books->max;
    out->min = books->min;
    out->total = books->group.max;
    out->total_open = books->group.max ? books->group.open : 0;
    out->dials = books->dials;
    out->dial_failures = books->dial_failures;
    memcpy(out->dial_causes, books->dial_causes, sizeof out->dial_causes);
    out->abandoned = books->abandoned;
    out->last_dial = books->last_dial;
    out->door = books->door;
    out->service = books->service;
    out->shut = books->shut;
    out->paused = books->paused;
    out->drained = books->drained;
    out->warmed = books->warmed;
    out->stopping = books->stopping;
}

static void take_pool(struct pool_figures *out, const struct admin_pool *in, bool draining)
{
    out->name = in->ledger->name;
    out->kind = in->kind;
    out->front = in->front;
    out->mode = mode_of(in->front);
    out->conf = ledger_conf(in->ledger, &out->ref);
    struct ledger_view books;
    ledger_view(in->ledger, &books);
    copy_books(out, &books);
    out->shares_total = in->ledger->head != NULL;
    for (unsigned i = 0; i < in->n_workers; i++) {
        add_pool(out, pool_stats(in->pools[i]));
        const struct route *route = in->routes[i];
        if (!route) /* its worker has not begun yet */
            continue;
        out->clients += counter_get(&route->clients);
        out->accepted += counter_get(&route->accepted);
        out->refused += counter_get(&route->refused);
    }
    pool_figures_judge(out, draining);
}

static bool is_ready(const struct admin_view *view, bool all_warm)
{
    return view->bound && !view->draining && (all_warm || view->up_ms >= READY_AFTER_MS);
}

bool figures_take(struct figures *f, const struct admin_view *view)
{
    *f = (struct figures){
        .version = view->version,
        .source = view->source,
        .started_unix_ms = view->started_unix_ms,
        .up_ms = view->up_ms,
        .n_workers = view->n_workers,
        .bound = view->bound,
        .draining = view->draining,
        .n_pools = view->n_pools,
        .n_threads = view->n_threads,
    };
    f->pools = calloc(view->n_pools + 1, sizeof *f->pools);
    f->threads = calloc(view->n_threads + 1, sizeof *f->threads);
    if (!f->pools || !f->threads) {
        f->n_pools = 0;
        figures_fini(f);
        return false;
    }
    bool all_warm = true;
    for (size_t i = 0; i < view->n_pools; i++) {
        take_pool(&f->pools[i], &view->pools[i], view->draining);
        all_warm = all_warm && f->pools[i].warmed;
    }
    f->ready = is_ready(view, all_warm);
    for (size_t i = 0; i < view->n_threads; i++) {
        const struct admin_thread *t = &view->threads[i];
        f->threads[i].name = t->name;
        f->threads[i].log_dropped = atomic_load(&t->loop->log->dropped);
        hist_merge(&f->threads[i].lag, &t->loop->lag);
    }
    return true;
}

void figures_fini(struct figures *f)
{
    for (size_t i = 0; i < f->n_pools; i++)
        snapshot_drop(&f->pools[i].ref);
    free(f->pools);
    free(f->threads);
    *f = (struct figures){0};
}
