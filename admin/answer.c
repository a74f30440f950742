/* SPDX-License-Identifier: MIT */
#include "admin/answer.h"

#include <stdio.h>
#include <stdlib.h>

#include "admin/metrics.h"
#include "admin/pages.h"

#define REPORT_MAX 16384

static const char json[] = "application/json";
static const char plain[] = "text/plain; charset=utf-8";

/* Takes the body over, which must be malloc()ed; NULL: memory was out. */
static bool answer(struct answer *out, unsigned status, const char *type, char *body)
{
    *out = (struct answer){.status = status, .type = type, .body = body};
    out->n = body ? strlen(body) : 0;
    return body != NULL;
}

bool answer_refuse(struct answer *out, unsigned status, const char *sentence)
{
    return answer(out, status, json, pages_error(sentence, NULL));
}

static bool done(struct answer *out, const char *sentence)
{
    return answer(out, 200, json, pages_done(sentence, NULL));
}

void answer_fini(struct answer *a)
{
    free(a->body);
    *a = (struct answer){0};
}

/* ---- pages ---- */

static bool answer_text(struct answer *out, const char *type, struct text *t)
{
    if (t->failed) {
        text_fini(t);
        return false;
    }
    *out = (struct answer){.status = 200, .type = type, .body = t->p, .n = t->n};
    return true;
}

static bool index_page(struct answer *out, const struct figures *f)
{
    struct text t = {0};
    text_fmt(&t, "carpool %s, up %llu s, %s\n\n", f->version, (unsigned long long)(f->up_ms / 1000),
             f->ready ? "ready" : "not ready");
    for (size_t i = 0; i < f->n_pools; i++)
        text_fmt(&t, "  %-24s %-9s %s\n", f->pools[i].name, f->pools[i].kind,
                 pool_mood_word(f->pools[i].mood));
    text_str(&t, "\nGET  /live     200 while the process answers\n"
                 "GET  /ready    200 when it listens and is warm, else 503 and what is missing\n"
                 "GET  /metrics  for Prometheus\n"
                 "GET  /stats    everything, as JSON\n"
                 "GET  /pools    every pool in short, as JSON\n"
                 "GET  /clients, /servers  every connection, as JSON; ?pool=NAME for one pool's\n"
                 "GET  /config   the configuration in force, as YAML, without secrets\n"
                 "POST /pools/NAME/pause | resume | recycle | drain\n"
                 "POST /pools/NAME/breaker?to=open | closed | auto\n"
                 "POST /reload\n"
                 "POST /shutdown\n");
    return answer_text(out, plain, &t);
}

static bool metrics_page(struct answer *out, const struct figures *f)
{
    struct text t = {0};
    metrics_write(&t, f);
    return answer_text(out, METRICS_TYPE, &t);
}

static bool figures_page(struct answer *out, enum page_id page, const struct figures *f)
{
    if (page == PAGE_METRICS)
        return metrics_page(out, f);
    if (page == PAGE_INDEX)
        return index_page(out, f);
    if (page == PAGE_READY)
        return answer(out, f->ready ? 200 : 503, json, pages_ready(f));
    return answer(out, 200, json, page == PAGE_STATS ? pages_stats(f) : pages_pools(f));
}

static bool from_figures(struct answer *out, enum page_id page, const struct asker *asker)
{
    struct figures f;
    if (!figures_take(&f, asker->hooks->view(asker->hooks->arg)))
        return false;
    bool good = figures_page(out, page, &f);
    figures_fini(&f);
    return good;
}

/* ---- actions on pools ---- */

static const struct admin_pool *find_pool(const struct admin_view *view, struct span name)
{
    for (size_t i = 0; i < view->n_pools; i++)
        if (span_eq(span_str(view->pools[i].ledger->name), name))
            return &view->pools[i];
    return NULL;
}

static bool no_such_pool(struct answer *out, const struct admin_view *view, struct span name)
{
    struct text t = {0};
    text_fmt(&t, "no pool is called \"%.*s\"; there is", (int)(name.n < 64 ? name.n : 64),
             (const char *)name.p);
    for (size_t i = 0; i < view->n_pools; i++)
        text_fmt(&t, "%s %s", i ? "," : "", view->pools[i].ledger->name);
    text_put(&t, span_of("", 1));
    bool good = !t.failed && answer_refuse(out, 404, t.p);
    text_fini(&t);
    return good;
}

/* What was decided in the books concerns servers and waiters of every worker. */
static void tell_workers(const struct admin_pool *pool)
{
    for (unsigned i = 0; i < pool->n_workers; i++)
        pool_ask(pool->pools[i]);
}

/* Clients are the fronts' business. Workers that have not begun yet know by themselves. */
static void drain_pool(const struct admin_pool *pool, bool drain)
{
    ledger_drain(pool->ledger, drain);
    for (unsigned i = 0; i < pool->n_workers; i++)
        if (pool->routes[i])
            route_mind(pool->routes[i]);
}

/* Where a breaker can be sent. */
struct way {
    const char *word;
    enum breaker_force force;
    const char *effect;
};

static const struct way ways[] = {
    {"open", BREAKER_FORCE_OPEN, "open: nothing is dialed or sent until you say otherwise"},
    {"closed", BREAKER_FORCE_CLOSED, "closed, whatever fails, until you say otherwise"},
    {"auto", BREAKER_FORCE_AUTO, "automatic: failures open it, trials close it"},
};

static const struct way *find_way(struct span word)
{
    for (size_t i = 0; i < ARRAY_LEN(ways); i++)
        if (span_eq(word, span_str(ways[i].word)))
            return &ways[i];
    return NULL;
}

struct order {
    enum page_id page;
    const struct way *way; /* of a breaker */
    uint64_t now;
};

static void carry_out(const struct admin_pool *pool, const struct order *o)
{
    if (o->way)
        ledger_force_breaker(pool->ledger, o->way->force, o->now);
    else if (o->page == PAGE_RECYCLE)
        ledger_recycle(pool->ledger);
    else if (o->page == PAGE_PAUSE || o->page == PAGE_RESUME)
        ledger_pause(pool->ledger, o->page == PAGE_PAUSE, o->now);
    if (o->page == PAGE_DRAIN || o->page == PAGE_RESUME)
        drain_pool(pool, o->page == PAGE_DRAIN);
    tell_workers(pool);
}

/* What has been done, for people. */
static bool tell(struct answer *out, const char *name, const struct order *o)
{
    char text[200];
    const char *what = "serves again";
    if (o->page == PAGE_PAUSE)
        what = "is paused: exchanges under way may end, new ones wait";
    else if (o->page == PAGE_RECYCLE)
        what = "replaces its servers, each when it is free";
    else if (o->page == PAGE_DRAIN)
        what = "drains: new clients are refused, those there end with their exchanges";
    if (o->way)
        snprintf(text, sizeof text, "pool %s: its breaker is %s", name, o->way->effect);
    else
        snprintf(text, sizeof text, "pool %s %s", name, what);
    return done(out, text);
}

static bool on_pool(struct answer *out, const struct target *t, const struct asker *asker,
                    const struct admin_view *view)
{
    const struct admin_pool *pool = find_pool(view, t->pool);
    const struct way *way = find_way(target_param(t->query, SPAN_LIT("to")));
    bool breaker = t->page == PAGE_BREAKER;
    if (!pool)
        return no_such_pool(out, view, t->pool);
    if (breaker && !way)
        return answer_refuse(out, 400,
                             "say where the breaker goes: ?to=open, ?to=closed or ?to=auto");
    uint64_t now = loop_now(asker->loop);
    log_write(asker->loop->log, LOG_INFO, "admin_action", "action=%s%s%s pool=%s from=%s",
              t->action, breaker ? " to=" : "", breaker ? way->word : "", pool->ledger->name,
              asker->from);
    const struct order order = {t->page, breaker ? way : NULL, now};
    carry_out(pool, &order);
    for (size_t i = 0; i < view->n_pools; i++) /* those behind its listener, too */
        if (view->pools[i].ledger->head == pool->ledger)
            carry_out(&view->pools[i], &order);
    return tell(out, pool->ledger->name, &order);
}

/* ---- actions on the whole ---- */

static bool reload(struct answer *out, const struct admin_hooks *hooks)
{
    char *report = calloc(1, REPORT_MAX);
    if (!report)
        return false;
    bool good = false;
    switch (hooks->reload(hooks->arg, report, REPORT_MAX)) {
    case ADMIN_RELOAD_DONE:
        good = answer(out, 200, json, pages_done("the configuration is in force", report));
        break;
    case ADMIN_RELOAD_REFUSED:
        good = answer(out, 422, json,
                      pages_error("nothing was changed: the configuration cannot be used", report));
        break;
    case ADMIN_RELOAD_BUSY:
        good = answer_refuse(out, 503, "the last reload is still under way: try again");
        break;
    }
    free(report);
    return good;
}

static bool act(struct answer *out, const struct target *t, const struct asker *asker)
{
    const struct admin_hooks *hooks = asker->hooks;
    const struct admin_view *view = hooks->view(hooks->arg);
    bool whole = t->page == PAGE_RELOAD || t->page == PAGE_SHUTDOWN;
    if (whole)
        log_write(asker->loop->log, LOG_INFO, "admin_action", "action=%s from=%s", t->action,
                  asker->from);
    if (t->page == PAGE_SHUTDOWN) {
        hooks->shutdown(hooks->arg);
        return answer(out, 202, json, pages_done("carpool drains, then ends", NULL));
    }
    /* Workers may be gone already: there is nobody to tell. */
    if (view->draining)
        return answer_refuse(out, 409, "carpool is draining");
    return whole ? reload(out, hooks) : on_pool(out, t, asker, view);
}

bool answer_comes_later(const struct target *t)
{
    return t->page == PAGE_CLIENTS || t->page == PAGE_SERVERS;
}

bool answer_ask(struct answer *refusal, const struct target *t, const struct asker *asker,
                struct census **out, void (*on_done)(struct census *c, void *arg), void *arg)
{
    const struct admin_view *view = asker->hooks->view(asker->hooks->arg);
    struct span pool = target_param(t->query, SPAN_LIT("pool"));
    if (pool.n && !find_pool(view, pool))
        return no_such_pool(refusal, view, pool);
    if (!view->fronts)
        return answer_refuse(refusal, 409, "carpool is going away: its workers have ended");
    *out =
        census_ask(asker->loop, view->fronts, view->n_workers,
                   t->page == PAGE_CLIENTS ? CENSUS_CLIENTS : CENSUS_SERVERS, pool, on_done, arg);
    return *out != NULL;
}

bool answer_census(struct answer *out, const struct census *c)
{
    return answer(out, 200, json, pages_census(c));
}

bool answer_make(struct answer *out, const struct target *t, const struct asker *asker)
{
    switch (t->page) {
    case PAGE_LIVE:
        return answer(out, 200, json, strdup("{\"live\": true}\n"));
    case PAGE_INDEX:
    case PAGE_READY:
    case PAGE_METRICS:
    case PAGE_STATS:
    case PAGE_POOLS:
        return from_figures(out, t->page, asker);
    case PAGE_CLIENTS:
    case PAGE_SERVERS:
        break; /* the workers are asked first: answer_ask() */
    case PAGE_CONFIG:
        return answer(out, 200, "application/yaml", asker->hooks->config(asker->hooks->arg));
    case PAGE_RELOAD:
    case PAGE_SHUTDOWN:
    case PAGE_PAUSE:
    case PAGE_RESUME:
    case PAGE_RECYCLE:
    case PAGE_DRAIN:
    case PAGE_BREAKER:
        return act(out, t, asker);
    }
    return false;
}
