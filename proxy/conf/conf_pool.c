/* SPDX-License-Identifier: MIT */
/* One entry of `pools:`: its kind first, since the defaults hang on it, then everything else. */
#include "proxy/conf/conf_private.h"

#include <string.h>

#define ENDPOINTS_MAX 64

/* ---- kind and name --------------------------------------------------------------------------- */

static const char *kind_name(const struct conf_build *b, struct span word, enum front_kind *kind)
{
    for (unsigned k = 0; conf_kind_words[k]; k++) {
        *kind = (enum front_kind)k;
        if (span_eq(word, span_str(conf_kind_words[k])))
            return conf_kind_words[k];
    }
    *kind = FRONT_OTHER;
    for (size_t i = 0; b->options && i < b->options->n_extra; i++)
        if (span_eq(word, span_str(b->options->extra[i].name)))
            return b->options->extra[i].name;
    return NULL;
}

/* The first URL of `upstream:`, NULL if there is none. */
static const struct conf_node *first_url(const struct conf_node *upstream)
{
    if (upstream->type == CONF_LIST)
        upstream = upstream->items ? upstream->items->value : NULL;
    if (upstream && upstream->type == CONF_MAP) {
        const struct conf_item *url = conf_find(upstream, "url");
        upstream = url ? url->value : NULL;
    }
    return upstream && upstream->type == CONF_SCALAR ? upstream : NULL;
}

static bool kind_from_url(struct conf_build *b, const struct conf_node *map,
                          struct front_conf *front)
{
    const struct conf_item *upstream = conf_find(map, "upstream");
    const struct conf_node *url = upstream ? first_url(upstream->value) : NULL;
    struct conf_scheme scheme;
    if (!url)
        return conf_error(
            b, upstream ? upstream->value->at : map->at,
            "the pool has no upstream: write upstream: postgres://user@host/database");
    struct span text = url->text;
    if (text.n > 0 && text.p[0] == '$' && !conf_scalar(b, url, "upstream", &text))
        return false;
    if (!conf_scheme_of(b, text, &scheme))
        return conf_unknown_scheme(b, url->at, text);
    front->kind = scheme.kind;
    front->kind_name = scheme.kind == FRONT_OTHER ? scheme.name : conf_kind_words[scheme.kind];
    return true;
}

static bool read_kind(struct conf_build *b, const struct conf_node *map, struct front_conf *front)
{
    static const struct schema_row row = {
        .key = "kind", .type = SCHEMA_ENUM, .words = conf_kind_words, .offset = 0};
    const struct conf_item *item = conf_find(map, "kind");
    struct span text;
    unsigned ignored;
    if (!item)
        return kind_from_url(b, map, front);
    if (!conf_scalar(b, item->value, "kind", &text))
        return false;
    front->kind_name = kind_name(b, text, &front->kind);
    return front->kind_name || conf_fill_row(b, &row, item->value, &ignored); /* says why not */
}

static bool name_is_good(struct span name)
{
    for (size_t i = 0; i < name.n; i++)
        if (name.p[i] == 0 || !strchr("abcdefghijklmnopqrstuvwxyz0123456789_-", name.p[i]))
            return false;
    return name.n > 0 && name.n < 64;
}

static bool read_name(struct conf_build *b, const struct conf_node *map, struct conf_pool *pool)
{
    char quoted[CONF_QUOTE + 8];
    const struct conf_item *item = conf_find(map, "name");
    struct span text;
    if (!item)
        return conf_error(b, map->at, "the pool has no name: write name: orders");
    if (!conf_scalar(b, item->value, "name", &text))
        return false;
    if (!name_is_good(text))
        return conf_error(b, item->value->at,
                          "name: %s is no name: write 1 to 63 of a-z, 0-9, _ and -",
                          conf_quote(text, quoted));
    for (const struct conf_pool *other = b->pools; other < pool; other++)
        if (other->name && span_eq(text, span_str(other->name)))
            return conf_error(b, item->value->at,
                              "name: %s is the name of the pool in line %u: write another one",
                              conf_quote(text, quoted), other->line);
    pool->name = conf_keep(b->arena, text);
    return pool->name ? true : conf_no_memory(b);
}

/* ---- upstream -------------------------------------------------------------------------------- */

static bool set_password(struct conf_build *b, const struct conf_node *map,
                         const struct conf_upstream_item *item, struct endpoint_conf *e,
                         enum front_kind kind)
{
    const char *key = item->password_command ? "password_command"
                      : item->password_file  ? "password_file"
                                             : "password";
    struct conf_place at = conf_at(map, NULL, key);
    int given = !!item->password + !!item->password_file + !!item->password_command;
    if (given == 0)
        return true;
    if (kind == FRONT_HTTP)
        return conf_error(b, at, "an http upstream takes no password: leave it out");
    if (item->password_command && kind != FRONT_POSTGRES)
        return conf_error(b, at, "password_command is for postgres: write password_file");
    if (e->password || given > 1)
        return conf_error(b, at, "the password is given twice: keep one");
    e->password = item->password;
    e->password_command = item->password_command;
    e->password_command_ttl_ms = item->password_command_ttl_ms;
    return !item->password_file || conf_read_secret(b, at, item->password_file, &e->password);
}

static bool read_mapping(struct conf_build *b, const struct conf_node *map,
                         const struct front_conf *f, struct endpoint_conf *e)
{
    struct conf_upstream_item item = {0};
    const struct conf_item *url = conf_find(map, "url");
    if (!conf_fill_defaults(b, &conf_upstream_table, 1, 0, &item))
        return false;
    bool good = conf_fill(b, map, &conf_upstream_table, 1, 0, "upstream", &item);
    if (!url)
        return conf_error(b, map->at, "an upstream needs its URL: write { url: scheme://host }");
    if (url->value->type != CONF_SCALAR)
        return conf_error(b, url->value->at, "url is one value: write url: scheme://host");
    if (!conf_url(b, url->value->at, url->value->text, true, f->kind, f->kind_name, e))
        return false;
    e->priority = item.priority;
    return good && set_password(b, map, &item, e, f->kind);
}

static bool read_endpoint(struct conf_build *b, const struct conf_node *node,
                          const struct front_conf *f, struct endpoint_conf *e)
{
    if (node->type == CONF_MAP)
        return read_mapping(b, node, f, e);
    if (node->type != CONF_SCALAR)
        return conf_error(b, node->at, "an upstream is a URL or a mapping: write scheme://host");
    return conf_url(b, node->at, node->text, true, f->kind, f->kind_name, e);
}

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Servers of a pool are interchangeable, so all endpoints are reached as the same user. */
static bool endpoint_fits(struct conf_build *b, const struct endpoint_conf *all, size_t i)
{
    struct conf_place at = {all[i].line, all[i].column};
    if (!same(all[i].user, all[0].user) || !same(all[i].database, all[0].database))
        return conf_error(b, at,
                          "the upstreams of a pool have one user and one database: write a second "
                          "pool");
    for (size_t j = 0; j < i; j++)
        if (strcmp(all[i].label, all[j].label) == 0)
            return conf_error(b, at, "%s is an upstream of this pool already: keep one",
                              all[i].label);
    return true;
}

static void sort_by_priority(struct endpoint_conf *all, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct endpoint_conf e = all[i];
        size_t j = i;
        for (; j > 0 && all[j - 1].priority > e.priority; j--)
            all[j] = all[j - 1];
        all[j] = e;
    }
}

static bool read_upstream(struct conf_build *b, const struct conf_node *node,
                          struct conf_pool *pool)
{
    bool list = node->type == CONF_LIST, good = true;
    size_t n = list ? node->n_items : 1, i = 0;
    if (n == 0 || n > ENDPOINTS_MAX)
        return conf_error(b, node->at, "upstream has %zu entries: write 1 to %d", n, ENDPOINTS_MAX);
    struct endpoint_conf *all = conf_alloc(b->arena, n, sizeof *all);
    if (!all)
        return conf_no_memory(b);
    if (!list)
        good = read_endpoint(b, node, &pool->front, &all[0]);
    for (const struct conf_item *item = list ? node->items : NULL; item; item = item->next)
        good = read_endpoint(b, item->value, &pool->front, &all[i++]) && good;
    for (i = 1; good && i < n; i++)
        good = endpoint_fits(b, all, i);
    if (!good)
        return false;
    sort_by_priority(all, n);
    pool->pool.endpoints = all;
    pool->pool.n_endpoints = n;
    return true;
}

/* ---- the entry ------------------------------------------------------------------------------- */

bool conf_pool_defaults(struct conf_build *b, struct conf_pool *pool)
{
    return conf_fill_defaults(b, conf_pool_tables, conf_n_pool_tables,
                              conf_variant(pool->front.kind), pool);
}

/* Without a kind there are no defaults and no upstream to speak of; all else is still looked at. */
static void look_at_the_rest(struct conf_build *b, const struct conf_node *map)
{
    struct conf_pool *blind = conf_alloc(&b->scratch, 1, sizeof *blind);
    const struct conf_item *listen = conf_find(map, "listen");
    if (!blind || !conf_pool_defaults(b, blind)) {
        conf_no_memory(b);
        return;
    }
    (void)conf_fill(b, map, conf_pool_tables, conf_n_pool_tables, CONF_ANY_VARIANT, "the pool",
                    blind);
    if (listen)
        (void)conf_listens(b, listen->value, blind);
    (void)conf_check_pool(b, map, blind);
}

bool conf_read_pool(struct conf_build *b, const struct conf_node *map, struct conf_pool *pool)
{
    pool->line = map->at.line;
    if (map->type != CONF_MAP)
        return conf_error(b, map->at, "a pool is a mapping: write name, listen, upstream");
    bool good = read_name(b, map, pool);
    if (!read_kind(b, map, &pool->front)) {
        look_at_the_rest(b, map);
        return false;
    }
    if (!conf_pool_defaults(b, pool))
        return false;
    pool->pool.name = pool->name;
    const struct conf_item *upstream = conf_find(map, "upstream");
    const struct conf_item *listen = conf_find(map, "listen");
    bool filled = conf_fill(b, map, conf_pool_tables, conf_n_pool_tables,
                            conf_variant(pool->front.kind), "the pool", pool);
    if (!upstream)
        good = conf_error(b, map->at, "the pool has no upstream: write upstream: scheme://host");
    else
        good = read_upstream(b, upstream->value, pool) && good;
    good = (!listen || conf_listens(b, listen->value, pool)) && good;
    good = (pool->pool.n_endpoints == 0 || conf_databases(b, map, pool)) && good;
    return filled && conf_check_pool(b, map, pool) && good;
}
