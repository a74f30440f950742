/* SPDX-License-Identifier: MIT */
/*
 * Without a file: each URL is a pool with every default, named after its kind. What is outside of
 * pools comes from the environment, one variable per row.
 */
#include "proxy/conf/conf_private.h"

#include <stdlib.h>
#include <string.h>

#define URLS_MAX 256
#define BLANKS " \t\r\n"

/* ---- the environment ------------------------------------------------------------------------- */

static bool set_from_environment(struct conf_build *b, const struct schema_table *table,
                                 const struct schema_row *row)
{
    char name[64];
    conf_variable_name(table, row, name, sizeof name);
    const char *value = row->own ? NULL : getenv(name);
    if (!value)
        return true;
    const struct conf_node node = {
        .type = CONF_SCALAR, .at = {1, 1}, .text = span_str(value), .literal = true};
    const char *file = b->file;
    b->file = name;
    bool good = conf_fill_row(b, row, &node, (char *)b->config + table->offset);
    b->file = file;
    return good;
}

static bool read_environment(struct conf_build *b)
{
    bool good = true;
    for (size_t i = 0; i < conf_n_top_tables; i++)
        for (size_t j = 0; j < conf_top_tables[i].n_rows; j++)
            good =
                set_from_environment(b, &conf_top_tables[i], &conf_top_tables[i].rows[j]) && good;
    return conf_finish_admin(b, NULL) && good;
}

/* ---- pools ----------------------------------------------------------------------------------- */

static const char *pool_name(struct conf_build *b, const struct conf_pool *pool)
{
    unsigned n = 1;
    for (const struct conf_pool *p = b->pools; p < pool; p++)
        n += p->front.kind_name && strcmp(p->front.kind_name, pool->front.kind_name) == 0;
    return n == 1 ? pool->front.kind_name : conf_format(b->arena, "%s%u", pool->front.kind_name, n);
}

static bool listens_from_environment(struct conf_build *b, struct conf_place at,
                                     struct conf_pool *pool)
{
    const char *file = b->file, *hosts = getenv("CARPOOL_LISTEN");
    if (hosts)
        b->file = "CARPOOL_LISTEN"; /* where a mistake is */
    bool good = conf_default_listens(b, at, hosts, pool);
    b->file = file;
    return good;
}

static bool read_url(struct conf_build *b, struct conf_place at, struct span url,
                     struct conf_pool *pool)
{
    struct conf_scheme scheme;
    struct endpoint_conf *e = conf_alloc(b->arena, 1, sizeof *e);
    if (!e)
        return conf_no_memory(b);
    if (!conf_scheme_of(b, url, &scheme))
        return conf_unknown_scheme(b, at, url);
    pool->front.kind = scheme.kind;
    pool->front.kind_name = scheme.kind == FRONT_OTHER ? scheme.name : conf_kind_words[scheme.kind];
    pool->line = at.line;
    pool->name = pool->pool.name = pool_name(b, pool);
    if (!pool->name)
        return conf_no_memory(b);
    if (!conf_pool_defaults(b, pool))
        return false;
    pool->pool.name = pool->name;
    pool->pool.endpoints = e;
    pool->pool.n_endpoints = 1;
    bool good = conf_url(b, at, url, false, scheme.kind, pool->front.kind_name, e) &&
                conf_check_logins(b, NULL, pool);
    return listens_from_environment(b, at, pool) && good && conf_decide_auth(b, NULL, pool);
}

static bool read_urls(struct conf_build *b, const struct span *urls, size_t n)
{
    bool good = read_environment(b);
    if (!conf_make_pools(b, n))
        return false;
    for (size_t i = 0; i < n; i++)
        good = read_url(b, (struct conf_place){(uint32_t)i + 1, 1}, urls[i], &b->pools[i]) && good;
    return conf_check_all(b) && good;
}

/* ---- URLs ------------------------------------------------------------------------------------ */

/* A password in argv is readable by everyone on the machine. */
static void warn_of_argv(struct conf_build *b)
{
    for (size_t i = 0; i < b->config->n_pools; i++) {
        const struct pool_conf *p = &b->pools[i].pool;
        if (p->n_endpoints > 0 && p->endpoints->password)
            conf_warn(b, (struct conf_place){b->pools[i].line, 1},
                      "a password on the command line is visible to everyone: set CARPOOL_POOLS "
                      "instead");
    }
}

static size_t split_blanks(const char *text, struct span *urls, size_t max)
{
    size_t n = 0;
    for (text += strspn(text, BLANKS); *text; text += strspn(text, BLANKS)) {
        size_t length = strcspn(text, BLANKS);
        if (n < max)
            urls[n] = span_of(text, length);
        n++;
        text += length;
    }
    return n;
}

struct config *conf_load_urls(const char *const *urls, size_t n, const struct conf_options *options,
                              struct conf_report *report)
{
    struct conf_build b;
    struct span spans[URLS_MAX];
    const char *variable = getenv("CARPOOL_POOLS");
    bool good = conf_build_begin(&b, n > 0 ? "command line" : "CARPOOL_POOLS", options, report);
    size_t count = n > 0 ? n : split_blanks(variable ? variable : "", spans, URLS_MAX);
    for (size_t i = 0; i < n && i < URLS_MAX; i++)
        spans[i] = span_str(urls[i]);
    if (good && (count == 0 || count > URLS_MAX))
        good = conf_error(&b, (struct conf_place){1, 1},
                          "there are %zu pools: write 1 to %d URLs, on the command line or in "
                          "CARPOOL_POOLS, or a file",
                          count, URLS_MAX);
    good = good && read_urls(&b, spans, count);
    if (b.config)
        conf_check_environment(&b, NULL);
    if (good && n > 0)
        warn_of_argv(&b);
    return conf_build_end(&b, good);
}
