/* SPDX-License-Identifier: MIT */
#include "admin/pages.h"

#include <stdio.h>

#include "admin/json.h"

/* ---- parts of a pool ---- */

static json_t *listens(struct page *page, const struct front_conf *front)
{
    json_t *array = page_made(page, json_array());
    for (size_t i = 0; front && i < front->n_listens; i++)
        page_append(page, array, page_string(front->listens[i].label));
    return array;
}

static json_t *upstreams(struct page *page, const struct pool_conf *conf)
{
    json_t *array = page_made(page, json_array());
    for (size_t i = 0; conf && i < conf->n_endpoints; i++)
        page_append(page, array, page_string(conf->endpoints[i].label));
    return array;
}

static json_t *total(struct page *page, const struct pool_figures *p)
{
    if (!p->total)
        return page_string(NULL);
    json_t *o = page_made(page, json_object());
    page_put(page, o, "open", page_number(p->total_open));
    page_put(page, o, "max", page_number(p->total));
    return o;
}

static json_t *servers(struct page *page, const struct pool_figures *p)
{
    json_t *o = page_made(page, json_object());
    for (unsigned s = 0; s < FIGURE_SERVER_COUNT; s++)
        page_put(page, o, figure_server_word(s), page_number(p->servers[s]));
    page_put(page, o, "open", page_number(p->open));
    page_put(page, o, "max", page_number(p->max));
    page_put(page, o, "min", page_number(p->min));
    return o;
}

static json_t *times(struct page *page, const struct hist_snapshot *h)
{
    json_t *o = page_made(page, json_object());
    page_put(page, o, "count", page_number(h->count));
    page_put(page, o, "p50_us", page_number(hist_quantile(h, 0.5)));
    page_put(page, o, "p90_us", page_number(hist_quantile(h, 0.9)));
    page_put(page, o, "p99_us", page_number(hist_quantile(h, 0.99)));
    page_put(page, o, "max_us", page_number(h->max));
    return o;
}

static json_t *causes(struct page *page, const uint64_t counts[CAUSE_COUNT])
{
    json_t *o = page_made(page, json_object());
    for (unsigned c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++)
        if (counts[c])
            page_put(page, o, cause_word(c), page_number(counts[c]));
    return o;
}

static json_t *dials(struct page *page, const struct pool_figures *p)
{
    json_t *o = page_made(page, json_object());
    page_put(page, o, "total", page_number(p->dials));
    page_put(page, o, "failed", page_number(p->dial_failures));
    page_put(page, o, "causes", causes(page, p->dial_causes));
    char why[320];
    bool failing = p->last_dial.cause != CAUSE_NONE;
    page_put(page, o, "last_error",
             page_string(failing ? err_text(&p->last_dial, why, sizeof why) : NULL));
    return o;
}

static json_t *verdicts(struct page *page, const struct pool_figures *p)
{
    json_t *o = page_made(page, json_object());
    for (unsigned phase = 0; phase < PHASE_COUNT; phase++) {
        json_t *of_phase = page_made(page, json_object());
        for (unsigned out = 0; out < OUTCOME_COUNT; out++)
            if (p->verdicts[phase][out])
                page_put(page, of_phase, outcome_word(out), page_number(p->verdicts[phase][out]));
        page_put(page, o, phase_word(phase), of_phase);
    }
    return o;
}

static json_t *breakers(struct page *page, const struct pool_figures *p)
{
    json_t *o = page_made(page, json_object());
    page_put(page, o, breaker_role_word(BREAKER_DOOR), page_string(breaker_state_word(p->door)));
    page_put(page, o, breaker_role_word(BREAKER_SERVICE),
             page_string(breaker_state_word(p->service)));
    return o;
}

static json_t *bytes(struct page *page, const struct pool_figures *p)
{
    json_t *o = page_made(page, json_object());
    page_put(page, o, "from_servers", page_number(p->from_servers));
    page_put(page, o, "to_servers", page_number(p->to_servers));
    return o;
}

/* ---- pools ---- */

/* What both pages say of a pool. */
static json_t *short_pool(struct page *page, const struct pool_figures *p)
{
    json_t *o = page_made(page, json_object());
    page_put(page, o, "name", page_string(p->name));
    page_put(page, o, "kind", page_string(p->kind));
    page_put(page, o, "state", page_string(pool_mood_word(p->mood)));
    page_put(page, o, "hint", page_string(p->hint[0] ? p->hint : NULL));
    page_put(page, o, "mode", page_string(p->mode));
    page_put(page, o, "listen", listens(page, p->front));
    page_put(page, o, "upstream", upstreams(page, p->conf));
    page_put(page, o, "servers", servers(page, p));
    page_put(page, o, "total", total(page, p));
    page_put(page, o, "waiting", page_number(p->waiting));
    page_put(page, o, "leases", page_number(p->leases));
    page_put(page, o, "leases_total", page_number(p->leases_total));
    page_put(page, o, "clients", page_number(p->clients));
    page_put(page, o, "paused", json_boolean(p->paused));
    page_put(page, o, "drained", json_boolean(p->drained));
    return o;
}

static json_t *long_pool(struct page *page, const struct pool_figures *p)
{
    json_t *o = short_pool(page, p);
    page_put(page, o, "clients_accepted", page_number(p->accepted));
    page_put(page, o, "clients_refused", page_number(p->refused));
    page_put(page, o, "waits", page_number(p->waits));
    page_put(page, o, "acquire", times(page, &p->acquire));
    page_put(page, o, "exchange", times(page, &p->exchange));
    page_put(page, o, "errors", causes(page, p->errors));
    page_put(page, o, "dials", dials(page, p));
    page_put(page, o, "verdicts", verdicts(page, p));
    page_put(page, o, "retries", page_number(p->retries));
    page_put(page, o, "breaker", breakers(page, p));
    page_put(page, o, "bytes", bytes(page, p));
    page_put(page, o, "abandoned", page_number(p->abandoned));
    page_put(page, o, "warmed", json_boolean(p->warmed));
    return o;
}

char *pages_pools(const struct figures *f)
{
    struct page page = {true};
    json_t *list = page_made(&page, json_array());
    for (size_t i = 0; i < f->n_pools; i++)
        page_append(&page, list, short_pool(&page, &f->pools[i]));
    return page_finish(&page, list);
}

/* ---- the whole ---- */

static json_t *threads(struct page *page, const struct figures *f)
{
    json_t *list = page_made(page, json_array());
    for (size_t i = 0; i < f->n_threads; i++) {
        json_t *o = page_made(page, json_object());
        page_put(page, o, "name", page_string(f->threads[i].name));
        page_put(page, o, "lag", times(page, &f->threads[i].lag));
        page_put(page, o, "log_lines_dropped", page_number(f->threads[i].log_dropped));
        page_append(page, list, o);
    }
    return list;
}

char *pages_stats(const struct figures *f)
{
    struct page page = {true};
    json_t *o = page_made(&page, json_object());
    page_put(&page, o, "version", page_string(f->version));
    page_put(&page, o, "source", page_string(f->source));
    page_put(&page, o, "started", page_number(f->started_unix_ms / 1000));
    page_put(&page, o, "uptime_s", page_number(f->up_ms / 1000));
    page_put(&page, o, "ready", json_boolean(f->ready));
    page_put(&page, o, "draining", json_boolean(f->draining));
    page_put(&page, o, "workers", page_number(f->n_workers));
    page_put(&page, o, "threads", threads(&page, f));
    json_t *list = page_made(&page, json_array());
    for (size_t i = 0; i < f->n_pools; i++)
        page_append(&page, list, long_pool(&page, &f->pools[i]));
    page_put(&page, o, "pools", list);
    return page_finish(&page, o);
}

char *pages_ready(const struct figures *f)
{
    struct page page = {true};
    json_t *missing = page_made(&page, json_array());
    if (f->draining)
        page_append(&page, missing, page_string("carpool is draining"));
    if (!f->bound)
        page_append(&page, missing, page_string("not every worker listens yet"));
    for (size_t i = 0; !f->ready && i < f->n_pools; i++) {
        const struct pool_figures *p = &f->pools[i];
        char text[512];
        if (p->warmed)
            continue;
        snprintf(text, sizeof text, "pool %s has not reached its %llu servers (size.min) yet",
                 p->name, (unsigned long long)p->min);
        page_append(&page, missing, page_string(text));
    }
    json_t *o = page_made(&page, json_object());
    page_put(&page, o, "ready", json_boolean(f->ready));
    page_put(&page, o, "missing", missing);
    return page_finish(&page, o);
}

/* ---- answers of actions ---- */

static json_t *lines(struct page *page, const char *text)
{
    json_t *array = page_made(page, json_array());
    while (*text) {
        size_t n = strcspn(text, "\n");
        if (n)
            page_append(page, array, page_words(text, n));
        text += n + (text[n] == '\n');
    }
    return array;
}

static char *sentence_page(const char *key, const char *sentence, const char *report)
{
    struct page page = {true};
    json_t *o = page_made(&page, json_object());
    page_put(&page, o, key, page_string(sentence));
    if (report)
        page_put(&page, o, "report", lines(&page, report));
    return page_finish(&page, o);
}

char *pages_error(const char *sentence, const char *report)
{
    return sentence_page("error", sentence, report);
}

char *pages_done(const char *sentence, const char *report)
{
    return sentence_page("message", sentence, report);
}
