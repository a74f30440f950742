/* SPDX-License-Identifier: MIT */
/* /clients and /servers: one object for each connection, and how many found no room. */
#include "admin/json.h"
#include "admin/pages.h"

struct rows {
    struct page page;
    json_t *list;
};

static json_t *text_or_null(const char *text)
{
    return page_string(*text ? text : NULL);
}

static void add_client(const struct census_client *row, void *arg)
{
    struct rows *r = arg;
    struct page *page = &r->page;
    json_t *o = page_made(page, json_object());
    page_put(page, o, "pool", page_string(row->pool));
    page_put(page, o, "kind", page_string(row->kind));
    page_put(page, o, "conn", page_number(row->conn));
    page_put(page, o, "client", page_string(row->client));
    page_put(page, o, "listener", page_string(row->listener));
    page_put(page, o, "worker", page_number(row->worker));
    page_put(page, o, "state", page_string(row->state));
    page_put(page, o, "age_ms", page_number(row->age_ms));
    page_put(page, o, "tls", json_boolean(row->tls));
    page_put(page, o, "application", text_or_null(row->application));
    page_put(page, o, "server", row->server ? page_number(row->server) : json_null());
    page_put(page, o, "held_ms", page_number(row->held_ms));
    page_put(page, o, "pinned", page_string(row->pinned));
    page_append(page, r->list, o);
}

static void add_server(const struct census_server *row, void *arg)
{
    struct rows *r = arg;
    struct page *page = &r->page;
    json_t *o = page_made(page, json_object());
    page_put(page, o, "pool", page_string(row->pool));
    page_put(page, o, "kind", page_string(row->kind));
    page_put(page, o, "server", page_number(row->server));
    page_put(page, o, "endpoint", page_string(row->endpoint));
    page_put(page, o, "role", page_string(row->role));
    page_put(page, o, "worker", page_number(row->worker));
    page_put(page, o, "state", page_string(row->state));
    page_put(page, o, "age_ms", page_number(row->age_ms));
    page_put(page, o, "tls", json_boolean(row->tls));
    page_put(page, o, "leases", page_number(row->leases));
    page_put(page, o, "leases_total", page_number(row->uses));
    page_put(page, o, "idle_ms", page_number(row->idle_ms));
    page_put(page, o, "held_ms", page_number(row->held_ms));
    page_put(page, o, "retiring", page_string(row->retiring));
    page_append(page, r->list, o);
}

char *pages_census(const struct census *c)
{
    bool clients = c->what == CENSUS_CLIENTS;
    struct rows r = {.page = {true}, .list = json_array()};
    json_t *o = page_made(&r.page, json_object());
    page_made(&r.page, r.list);
    uint64_t left_out =
        clients ? census_clients(c, add_client, &r) : census_servers(c, add_server, &r);
    page_put(&r.page, o, clients ? "clients" : "servers", r.list);
    page_put(&r.page, o, "left_out", page_number(left_out));
    return page_finish(&r.page, o);
}
