/* SPDX-License-Identifier: MIT */
/*
 * What is missing in the JSON (an older carpool may answer) shows as 0 or "-": a table with a
 * gap helps more than none.
 */
#include "admin/show.h"

#include <jansson.h>
#include <string.h>

#include "admin/table.h"

static uint64_t number(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static unsigned long long num(const json_t *object, const char *key)
{
    return number(object, key);
}

static const char *word(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "-";
}

static bool yes(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* "3h12m", "12s", "5d3h": two units at most. */
static const char *span_text(uint64_t seconds, char *buf, size_t cap)
{
    static const struct {
        uint64_t seconds;
        char unit;
    } units[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
    size_t i = 0;
    while (i + 1 < ARRAY_LEN(units) && seconds < units[i].seconds)
        i++;
    unsigned long long big = seconds / units[i].seconds;
    unsigned long long rest = seconds % units[i].seconds;
    if (i + 1 < ARRAY_LEN(units) && rest / units[i + 1].seconds)
        snprintf(buf, cap, "%llu%c%llu%c", big, units[i].unit,
                 (unsigned long long)(rest / units[i + 1].seconds), units[i + 1].unit);
    else
        snprintf(buf, cap, "%llu%c", big, units[i].unit);
    return buf;
}

/* "840 us", "1.2 ms", "3.41 s" */
static const char *time_text(uint64_t us, char *buf, size_t cap)
{
    if (us < 1000)
        snprintf(buf, cap, "%llu us", (unsigned long long)us);
    else if (us < 1000000)
        snprintf(buf, cap, "%.3g ms", (double)us / 1e3);
    else
        snprintf(buf, cap, "%.3g s", (double)us / 1e6);
    return buf;
}

static const char *bytes_text(uint64_t n, char *buf, size_t cap)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)n;
    size_t i = 0;
    for (; value >= 1024 && i + 1 < ARRAY_LEN(units); i++)
        value /= 1024;
    snprintf(buf, cap, i ? "%.1f %s" : "%.0f %s", value, units[i]);
    return buf;
}

static void head_line(const json_t *stats, FILE *out)
{
    char up[40];
    unsigned long long workers = num(stats, "workers");
    fprintf(out, "carpool %s, up %s, %llu worker%s, %s\n", word(stats, "version"),
            span_text(number(stats, "uptime_s"), up, sizeof up), workers, workers == 1 ? "" : "s",
            yes(stats, "draining") ? "draining"
            : yes(stats, "ready")  ? "ready"
                                   : "not ready");
}

static unsigned long long live(const json_t *pool)
{
    const json_t *servers = json_object_get(pool, "servers");
    return num(servers, "idle") + num(servers, "busy") + num(servers, "checking");
}

/* "db:5432 +1": the first of a list, and how many more there are. */
static void cell_first(struct table *t, const json_t *list)
{
    const char *first = json_string_value(json_array_get(list, 0));
    size_t n = json_array_size(list);
    if (n > 1)
        table_cell(t, "%s +%zu", first ? first : "-", n - 1);
    else
        table_cell(t, "%s", first ? first : "-");
}

static bool print(struct table *t, FILE *out)
{
    bool good = table_print(t, out);
    table_free(t);
    return good;
}

/* ---- status ---- */

static bool status_table(const json_t *pools, FILE *out)
{
    struct table *t = table_new(7, 1 << 3 | 1 << 4 | 1 << 5);
    if (!t)
        return false;
    static const char *const titles[] = {"pool",    "kind",    "state",   "servers",
                                         "waiting", "clients", "upstream"};
    for (size_t i = 0; i < ARRAY_LEN(titles); i++)
        table_cell(t, "%s", titles[i]);
    size_t i;
    json_t *pool;
    json_array_foreach(pools, i, pool)
    {
        table_cell(t, "%s", word(pool, "name"));
        table_cell(t, "%s", word(pool, "kind"));
        table_cell(t, "%s", word(pool, "state"));
        table_cell(t, "%llu/%llu", live(pool), num(json_object_get(pool, "servers"), "max"));
        table_cell(t, "%llu", num(pool, "waiting"));
        table_cell(t, "%llu", num(pool, "clients"));
        cell_first(t, json_object_get(pool, "upstream"));
        const char *hint = json_string_value(json_object_get(pool, "hint"));
        if (hint)
            table_note(t, hint);
    }
    return print(t, out);
}

bool show_status(const char *text, FILE *out)
{
    json_t *stats = json_loads(text, 0, NULL);
    const json_t *pools = json_object_get(stats, "pools");
    bool good = json_is_array(pools);
    if (good) {
        head_line(stats, out);
        fputc('\n', out);
        good = status_table(pools, out);
    }
    json_decref(stats);
    return good;
}

/* ---- pools ---- */

bool show_pools(const char *text, FILE *out)
{
    json_t *pools = json_loads(text, 0, NULL);
    static const char *const titles[] = {"pool",    "state",    "max",     "idle",
                                         "busy",    "checking", "dialing", "closing",
                                         "waiting", "clients",  "listen"};
    struct table *t = json_is_array(pools) ? table_new(ARRAY_LEN(titles), 0x3fc) : NULL;
    if (!t) {
        json_decref(pools);
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(titles); i++)
        table_cell(t, "%s", titles[i]);
    size_t i;
    json_t *pool;
    json_array_foreach(pools, i, pool)
    {
        const json_t *servers = json_object_get(pool, "servers");
        table_cell(t, "%s", word(pool, "name"));
        table_cell(t, "%s", word(pool, "state"));
        table_cell(t, "%llu", num(servers, "max"));
        table_cell(t, "%llu", num(servers, "idle"));
        table_cell(t, "%llu", num(servers, "busy"));
        table_cell(t, "%llu", num(servers, "checking"));
        table_cell(t, "%llu", num(servers, "dialing"));
        table_cell(t, "%llu", num(servers, "closing"));
        table_cell(t, "%llu", num(pool, "waiting"));
        table_cell(t, "%llu", num(pool, "clients"));
        cell_first(t, json_object_get(pool, "listen"));
    }
    bool good = print(t, out);
    json_decref(pools);
    return good;
}

/* ---- stats ---- */

static void show_list(const char *title, const json_t *list, FILE *out)
{
    size_t i;
    json_t *item;
    fprintf(out, "  %-10s", title);
    json_array_foreach(list, i, item)
    {
        const char *text = json_string_value(item);
        fprintf(out, "%s%s", i ? ", " : "", text ? text : "-");
    }
    fputc('\n', out);
}

static void show_times(const char *title, const json_t *times, FILE *out)
{
    char p50[24], p90[24], p99[24], max[24];
    fprintf(out, "  %-10sp50 %s, p90 %s, p99 %s, max %s", title,
            time_text(number(times, "p50_us"), p50, sizeof p50),
            time_text(number(times, "p90_us"), p90, sizeof p90),
            time_text(number(times, "p99_us"), p99, sizeof p99),
            time_text(number(times, "max_us"), max, sizeof max));
    fprintf(out, " (%llu)\n", num(times, "count"));
}

/* "dial_failed 3, outage 1"; "none" if it is empty. */
static void show_counts(const char *title, const json_t *counts, FILE *out)
{
    const char *key;
    json_t *value;
    const char *comma = "";
    fprintf(out, "  %-10s", title);
    json_object_foreach((json_t *)(uintptr_t)counts, key, value)
    {
        fprintf(out, "%s%s %lld", comma, key, (long long)json_integer_value(value));
        comma = ", ";
    }
    fputs(*comma ? "\n" : "none\n", out);
}

static void show_verdicts(const json_t *verdicts, FILE *out)
{
    const char *phase;
    json_t *counts;
    json_object_foreach((json_t *)(uintptr_t)verdicts, phase, counts)
    {
        char title[32];
        snprintf(title, sizeof title, "%.20s", phase);
        if (json_object_size(counts))
            show_counts(title, counts, out);
    }
}

static void show_pool(const json_t *pool, FILE *out)
{
    const json_t *servers = json_object_get(pool, "servers");
    const json_t *dials = json_object_get(pool, "dials");
    const json_t *breaker = json_object_get(pool, "breaker");
    const json_t *bytes = json_object_get(pool, "bytes");
    const char *hint = json_string_value(json_object_get(pool, "hint"));
    char from[32], to[32];
    fprintf(out, "\n%s (%s): %s\n", word(pool, "name"), word(pool, "kind"), word(pool, "state"));
    if (hint)
        fprintf(out, "  %s\n", hint);
    show_list("listen", json_object_get(pool, "listen"), out);
    show_list("upstream", json_object_get(pool, "upstream"), out);
    fprintf(out,
            "  servers   %llu of at most %llu: %llu idle, %llu busy, %llu checking, %llu dialing, "
            "%llu closing; %llu abandoned\n",
            num(servers, "open"), num(servers, "max"), num(servers, "idle"), num(servers, "busy"),
            num(servers, "checking"), num(servers, "dialing"), num(servers, "closing"),
            num(pool, "abandoned"));
    fprintf(out, "  clients   %llu now, %llu accepted, %llu refused\n", num(pool, "clients"),
            num(pool, "clients_accepted"), num(pool, "clients_refused"));
    fprintf(out, "  leases    %llu now, %llu so far, %llu waited, %llu waiting now\n",
            num(pool, "leases"), num(pool, "leases_total"), num(pool, "waits"),
            num(pool, "waiting"));
    show_times("acquire", json_object_get(pool, "acquire"), out);
    show_times("exchange", json_object_get(pool, "exchange"), out);
    show_counts("errors", json_object_get(pool, "errors"), out);
    fprintf(out, "  dials     %llu, %llu failed", num(dials, "total"), num(dials, "failed"));
    const char *last = json_string_value(json_object_get(dials, "last_error"));
    fprintf(out, "%s%s\n", last ? "; the last one: " : "", last ? last : "");
    show_verdicts(json_object_get(pool, "verdicts"), out);
    fprintf(out, "  retries   %llu\n", num(pool, "retries"));
    fprintf(out, "  breaker   door %s, service %s\n", word(breaker, "door"),
            word(breaker, "service"));
    fprintf(out, "  bytes     %s from servers, %s to servers\n",
            bytes_text(number(bytes, "from_servers"), from, sizeof from),
            bytes_text(number(bytes, "to_servers"), to, sizeof to));
}

bool show_stats(const char *text, FILE *out)
{
    json_t *stats = json_loads(text, 0, NULL);
    const json_t *pools = json_object_get(stats, "pools");
    bool good = json_is_array(pools);
    size_t i;
    json_t *item;
    if (good) {
        head_line(stats, out);
        json_array_foreach(json_object_get(stats, "threads"), i, item)
            show_times(word(item, "name"), json_object_get(item, "lag"), out);
        json_array_foreach(pools, i, item) show_pool(item, out);
    }
    json_decref(stats);
    return good;
}

/* ---- answers of actions ---- */

void show_ready(const char *body, const char *prefix, FILE *out)
{
    json_t *answer = json_loads(body, 0, NULL);
    size_t i;
    json_t *line;
    json_array_foreach(json_object_get(answer, "missing"), i, line)
        fprintf(out, "%s%s\n", prefix, json_string_value(line) ? json_string_value(line) : "");
    json_decref(answer);
}

void show_answer(const char *body, const char *prefix, FILE *out)
{
    json_t *answer = json_loads(body, 0, NULL);
    const char *text = json_string_value(json_object_get(answer, "message"));
    if (!text)
        text = json_string_value(json_object_get(answer, "error"));
    size_t i;
    json_t *line;
    json_array_foreach(json_object_get(answer, "report"), i, line)
        fprintf(out, "%s\n", json_string_value(line) ? json_string_value(line) : "");
    if (text)
        fprintf(out, "%s%s\n", prefix, text);
    else
        fprintf(out, "%s%s", prefix, body);
    json_decref(answer);
}
