/* SPDX-License-Identifier: MIT */
/* /clients and /servers as tables: what needs attention stands where the eye falls first. */
#include <jansson.h>

#include "admin/show.h"
#include "admin/table.h"

static unsigned long long num(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (unsigned long long)value : 0;
}

static const char *word(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "-";
}

/* "12.3s", "4m10s", "3h5m"; "-" for nothing. */
static void cell_time(struct table *t, unsigned long long ms)
{
    unsigned long long s = ms / 1000;
    if (ms == 0)
        table_cell(t, "-");
    else if (s < 60)
        table_cell(t, "%llu.%llus", s, ms % 1000 / 100);
    else if (s < 3600)
        table_cell(t, "%llum%llus", s / 60, s % 60);
    else if (s < 86400)
        table_cell(t, "%lluh%llum", s / 3600, s % 3600 / 60);
    else
        table_cell(t, "%llud%lluh", s / 86400, s % 86400 / 3600);
}

static void cell_number(struct table *t, unsigned long long n)
{
    if (n)
        table_cell(t, "%llu", n);
    else
        table_cell(t, "-");
}

static void heads(struct table *t, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        table_cell(t, "%s", names[i]);
}

static void client_row(struct table *t, const json_t *row)
{
    table_cell(t, "%s", word(row, "pool"));
    table_cell(t, "%llu", num(row, "conn"));
    table_cell(t, "%s", word(row, "client"));
    table_cell(t, "%s", word(row, "state"));
    cell_time(t, num(row, "age_ms"));
    cell_number(t, num(row, "server"));
    cell_time(t, num(row, "held_ms"));
    table_cell(t, "%s", word(row, "pinned"));
    table_cell(t, "%s", json_is_true(json_object_get(row, "tls")) ? "yes" : "no");
    table_cell(t, "%s", word(row, "application"));
}

static void server_row(struct table *t, const json_t *row)
{
    table_cell(t, "%s", word(row, "pool"));
    table_cell(t, "%llu", num(row, "server"));
    table_cell(t, "%s", word(row, "endpoint"));
    table_cell(t, "%s", word(row, "role"));
    table_cell(t, "%s", word(row, "state"));
    cell_time(t, num(row, "age_ms"));
    table_cell(t, "%llu", num(row, "leases"));
    table_cell(t, "%llu", num(row, "leases_total"));
    cell_time(t, num(row, "idle_ms"));
    cell_time(t, num(row, "held_ms"));
    table_cell(t, "%s", word(row, "retiring"));
    table_cell(t, "%s", json_is_true(json_object_get(row, "tls")) ? "yes" : "no");
    table_cell(t, "%llu", num(row, "worker"));
}

static bool show_rows(const char *text, const char *key, struct table *t,
                      void (*put)(struct table *, const json_t *), FILE *out)
{
    json_t *page = json_loads(text, 0, NULL);
    const json_t *rows = json_object_get(page, key);
    bool good = t && json_is_array(rows);
    size_t i;
    json_t *row;
    if (good) {
        json_array_foreach(rows, i, row) put(t, row);
        good = table_print(t, out);
    }
    if (good && num(page, "left_out"))
        fprintf(out, "and %llu more\n", num(page, "left_out"));
    table_free(t);
    json_decref(page);
    return good;
}

bool show_clients(const char *json, FILE *out)
{
    static const char *const names[] = {"pool",   "conn", "client",    "state", "age",
                                        "server", "held", "pinned by", "tls",   "application"};
    struct table *t = table_new(ARRAY_LEN(names), 1u << 1 | 1u << 4 | 1u << 5 | 1u << 6);
    if (t)
        heads(t, names, ARRAY_LEN(names));
    return show_rows(json, "clients", t, client_row, out);
}

bool show_servers(const char *json, FILE *out)
{
    static const char *const names[] = {"pool",     "server", "endpoint", "role", "state",
                                        "age",      "leases", "so far",   "idle", "held",
                                        "retiring", "tls",    "worker"};
    struct table *t = table_new(ARRAY_LEN(names), 1u << 1 | 0x1fu << 5 | 1u << 12);
    if (t)
        heads(t, names, ARRAY_LEN(names));
    return show_rows(json, "servers", t, server_row, out);
}
