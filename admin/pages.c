/* SPDX-License-Identifier: MIT */
#include "admin/pages.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * Out of memory shows as a NULL from some jansson call. json_*_new() take NULL values and then
 * fail, so a hole anywhere makes `good` false, and no page with holes in it is sent.
 */
struct page {
    bool good;
};

static json_t *made(struct page *page, json_t *value)
{
    page->good = page->good && value;
    return value;
}

static void put(struct page *page, json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, made(page, value)) != 0)
        page->good = false;
}

static void append(struct page *page, json_t *array, json_t *value)
{
    if (json_array_append_new(array, made(page, value)) != 0)
        page->good = false;
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* Of a text that may quote anybody: what is not UTF-8 is not passed on. */
static json_t *words(const char *text, size_t n)
{
    json_t *value = json_stringn(text, n);
    if (value)
        return value;
    char *copy = malloc(n + 1);
    if (!copy)
        return NULL;
    for (size_t i = 0; i < n; i++)
        copy[i] = text[i] & (char)0x80 ? '?' : text[i];
    value = json_stringn(copy, n);
    free(copy);
    return value;
}

static json_t *string(const char *text)
{
    return text ? words(text, strlen(text)) : json_null();
}

static char *finish(struct page *page, json_t *value)
{
    char *text = page->good ? json_dumps(value, JSON_INDENT(2)) : NULL;
    json_decref(value);
    size_t n = text ? strlen(text) : 0;
    char *grown = text ? realloc(text, n + 2) : NULL;
    if (!grown) {
        free(text);
        return NULL;
    }
    memcpy(grown + n, "\n", 2);
    return grown;
}

/* ---- parts of a pool ---- */

static json_t *listens(struct page *page, const struct front_conf *front)
{
    json_t *array = made(page, json_array());
    for (size_t i = 0; front && i < front->n_listens; i++)
        append(page, array, string(front->listens[i].label));
    return array;
}

static json_t *upstreams(struct page *page, const struct pool_conf *conf)
{
    json_t *array = made(page, json_array());
    for (size_t i = 0; conf && i < conf->n_endpoints; i++)
        append(page, array, string(conf->endpoints[i].label));
    return array;
}

static json_t *servers(struct page *page, const struct pool_figures *p)
{
    json_t *o = made(page, json_object());
    for (unsigned s = 0; s < FIGURE_SERVER_COUNT; s++)
        put(page, o, figure_server_word(s), number(p->servers[s]));
    put(page, o, "open", number(p->open));
    put(page, o, "max", number(p->max));
    put(page, o, "min", number(p->min));
    return o;
}

static json_t *times(struct page *page, const struct hist_snapshot *h)
{
    json_t *o = made(page, json_object());
    put(page, o, "count", number(h->count));
    put(page, o, "p50_us", number(hist_quantile(h, 0.5)));
    put(page, o, "p90_us", number(hist_quantile(h, 0.9)));
    put(page, o, "p99_us", number(hist_quantile(h, 0.99)));
    put(page, o, "max_us", number(h->max));
    return o;
}

static json_t *causes(struct page *page, const uint64_t counts[CAUSE_COUNT])
{
    json_t *o = made(page, json_object());
    for (unsigned c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++)
        if (counts[c])
            put(page, o, cause_word(c), number(counts[c]));
    return o;
}

static json_t *dials(struct page *page, const struct pool_figures *p)
{
    json_t *o = made(page, json_object());
    put(page, o, "total", number(p->dials));
    put(page, o, "failed", number(p->dial_failures));
    put(page, o, "causes", causes(page, p->dial_causes));
    char why[320];
    bool failing = p->last_dial.cause != CAUSE_NONE;
    put(page, o, "last_error", string(failing ? err_text(&p->last_dial, why, sizeof why) : NULL));
    return o;
}

static json_t *verdicts(struct page *page, const struct pool_figures *p)
{
    json_t *o = made(page, json_object());
    for (unsigned phase = 0; phase < PHASE_COUNT; phase++) {
        json_t *of_phase = made(page, json_object());
        for (unsigned out = 0; out < OUTCOME_COUNT; out++)
            if (p->verdicts[phase][out])
                put(page, of_phase, outcome_word(out), number(p->verdicts[phase][out]));
        put(page, o, phase_word(phase), of_phase);
    }
    return o;
}

static json_t *breakers(struct page *page, const struct pool_figures *p)
{
    json_t *o = made(page, json_object());
    put(page, o, breaker_role_word(BREAKER_DOOR), string(breaker_state_word(p->door)));
    put(page, o, breaker_role_word(BREAKER_SERVICE), string(breaker_state_word(p->service)));
    return o;
}

static json_t *bytes(struct page *page, const struct pool_figures *p)
{
    json_t *o = made(page, json_object());
    put(page, o, "from_servers", number(p->from_servers));
    put(page, o, "to_servers", number(p->to_servers));
    return o;
}

/* ---- pools ---- */

/* What both pages say of a pool. */
static json_t *short_pool(struct page *page, const struct pool_figures *p)
{
    json_t *o = made(page, json_object());
    put(page, o, "name", string(p->name));
    put(page, o, "kind", string(p->kind));
    put(page, o, "state", string(pool_mood_word(p->mood)));
    put(page, o, "hint", string(p->hint[0] ? p->hint : NULL));
    put(page, o, "mode", string(p->mode));
    put(page, o, "listen", listens(page, p->front));
    put(page, o, "upstream", upstreams(page, p->conf));
    put(page, o, "servers", servers(page, p));
    put(page, o, "waiting", number(p->waiting));
    put(page, o, "leases", number(p->leases));
    put(page, o, "leases_total", number(p->leases_total));
    put(page, o, "clients", number(p->clients));
    put(page, o, "paused", json_boolean(p->paused));
    return o;
}

static json_t *long_pool(struct page *page, const struct pool_figures *p)
{
    json_t *o = short_pool(page, p);
    put(page, o, "clients_accepted", number(p->accepted));
    put(page, o, "clients_refused", number(p->refused));
    put(page, o, "waits", number(p->waits));
    put(page, o, "acquire", times(page, &p->acquire));
    put(page, o, "exchange", times(page, &p->exchange));
    put(page, o, "errors", causes(page, p->errors));
    put(page, o, "dials", dials(page, p));
    put(page, o, "verdicts", verdicts(page, p));
    put(page, o, "retries", number(p->retries));
    put(page, o, "breaker", breakers(page, p));
    put(page, o, "bytes", bytes(page, p));
    put(page, o, "abandoned", number(p->abandoned));
    put(page, o, "warmed", json_boolean(p->warmed));
    return o;
}

char *pages_pools(const struct figures *f)
{
    struct page page = {true};
    json_t *list = made(&page, json_array());
    for (size_t i = 0; i < f->n_pools; i++)
        append(&page, list, short_pool(&page, &f->pools[i]));
    return finish(&page, list);
}

/* ---- the whole ---- */

static json_t *threads(struct page *page, const struct figures *f)
{
    json_t *list = made(page, json_array());
    for (size_t i = 0; i < f->n_threads; i++) {
        json_t *o = made(page, json_object());
        put(page, o, "name", string(f->threads[i].name));
        put(page, o, "lag", times(page, &f->threads[i].lag));
        put(page, o, "log_lines_dropped", number(f->threads[i].log_dropped));
        append(page, list, o);
    }
    return list;
}

char *pages_stats(const struct figures *f)
{
    struct page page = {true};
    json_t *o = made(&page, json_object());
    put(&page, o, "version", string(f->version));
    put(&page, o, "source", string(f->source));
    put(&page, o, "started", number(f->started_unix_ms / 1000));
    put(&page, o, "uptime_s", number(f->up_ms / 1000));
    put(&page, o, "ready", json_boolean(f->ready));
    put(&page, o, "draining", json_boolean(f->draining));
    put(&page, o, "workers", number(f->n_workers));
    put(&page, o, "threads", threads(&page, f));
    json_t *list = made(&page, json_array());
    for (size_t i = 0; i < f->n_pools; i++)
        append(&page, list, long_pool(&page, &f->pools[i]));
    put(&page, o, "pools", list);
    return finish(&page, o);
}

char *pages_ready(const struct figures *f)
{
    struct page page = {true};
    json_t *missing = made(&page, json_array());
    if (f->draining)
        append(&page, missing, string("carpool is draining"));
    if (!f->bound)
        append(&page, missing, string("not every worker listens yet"));
    for (size_t i = 0; !f->ready && i < f->n_pools; i++) {
        const struct pool_figures *p = &f->pools[i];
        char text[512];
        if (p->warmed)
            continue;
        snprintf(text, sizeof text, "pool %s has not reached its %llu servers (size.min) yet",
                 p->name, (unsigned long long)p->min);
        append(&page, missing, string(text));
    }
    json_t *o = made(&page, json_object());
    put(&page, o, "ready", json_boolean(f->ready));
    put(&page, o, "missing", missing);
    return finish(&page, o);
}

/* ---- answers of actions ---- */

static json_t *lines(struct page *page, const char *text)
{
    json_t *array = made(page, json_array());
    while (*text) {
        size_t n = strcspn(text, "\n");
        if (n)
            append(page, array, words(text, n));
        text += n + (text[n] == '\n');
    }
    return array;
}

static char *sentence_page(const char *key, const char *sentence, const char *report)
{
    struct page page = {true};
    json_t *o = made(&page, json_object());
    put(&page, o, key, string(sentence));
    if (report)
        put(&page, o, "report", lines(&page, report));
    return finish(&page, o);
}

char *pages_error(const char *sentence, const char *report)
{
    return sentence_page("error", sentence, report);
}

char *pages_done(const char *sentence, const char *report)
{
    return sentence_page("message", sentence, report);
}
