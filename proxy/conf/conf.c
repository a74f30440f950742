/* SPDX-License-Identifier: MIT */
/*
 * A file becomes a snapshot.
 *
 *     text -> tree -> log, admin, drain, workers
 *                  -> each pool by itself -> default addresses for those that name none
 *                  -> logins -> cross checks
 *
 * Every step goes on after an error as far as it can, so that all of them are reported at once.
 */
#include "proxy/conf/conf_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define POOLS_MAX 1024

/* ---- begin and end --------------------------------------------------------------------------- */

bool conf_build_begin(struct conf_build *b, const char *file, const struct conf_options *options,
                      struct conf_report *report)
{
    uint64_t limit = options && options->memory_max ? options->memory_max : CONF_MEMORY_MAX;
    *b = (struct conf_build){.report = report, .file = file, .options = options};
    conf_arena_init(&b->scratch, limit);
    b->arena = calloc(1, sizeof *b->arena);
    if (!b->arena)
        return conf_no_memory(b);
    conf_arena_init(b->arena, limit);
    b->config = conf_alloc(b->arena, 1, sizeof *b->config);
    if (!b->config)
        return conf_no_memory(b);
    b->config->arena = b->arena;
    b->config->source = conf_keep(b->arena, span_str(file));
    if (!b->config->source)
        return conf_no_memory(b);
    return conf_fill_defaults(b, conf_top_tables, conf_n_top_tables, 0, b->config);
}

struct config *conf_build_end(struct conf_build *b, bool ok)
{
    struct config *config = b->config;
    conf_arena_fini(&b->scratch);
    free(b->dir);
    if (ok && conf_report_errors(b->report) == 0)
        return config;
    if (b->arena)
        conf_arena_fini(b->arena);
    free(b->arena);
    return NULL;
}

void conf_free(struct config **config)
{
    struct conf_arena *arena = *config ? (*config)->arena : NULL;
    *config = NULL;
    if (!arena)
        return;
    conf_arena_fini(arena); /* the snapshot itself lives in it */
    free(arena);
}

const struct conf_pool *conf_pool_named(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->n_pools; i++)
        if (strcmp(config->pools[i].name, name) == 0)
            return &config->pools[i];
    return NULL;
}

/* ---- the parts ------------------------------------------------------------------------------- */

bool conf_finish_admin(struct conf_build *b, const struct conf_node *map)
{
    struct admin_conf *admin = &b->config->admin;
    struct conf_address address;
    bool good = true;
    if (admin->socket && admin->socket[0] != '/')
        good = conf_error(b, conf_at(map, "admin", "socket"),
                          "socket: a Unix socket's path starts with /: write it from the root");
    if (admin->http &&
        conf_address(b, conf_at(map, "admin", "http"), span_str(admin->http), &address)) {
        admin->host = address.hosts[0];
        admin->port = address.port;
    }
    if (admin->token && admin->token_file)
        return conf_error(b, conf_at(map, "admin", "token_file"),
                          "the token is given twice: keep token or token_file");
    return (!admin->token_file || conf_read_secret(b, conf_at(map, "admin", "token_file"),
                                                   admin->token_file, &admin->token)) &&
           good && (!admin->http || admin->host);
}

bool conf_make_pools(struct conf_build *b, size_t n)
{
    b->pools = conf_alloc(b->arena, n, sizeof *b->pools);
    if (!b->pools)
        return conf_no_memory(b);
    b->config->pools = b->pools;
    b->config->n_pools = n;
    return true;
}

/* After all pools are read: what hangs on the others, or on two of their parts. */
static bool finish_pool(struct conf_build *b, const struct conf_node *map, struct conf_pool *pool)
{
    bool good = true;
    if (!conf_find(map, "listen"))
        good = conf_default_listens(b, map->at, NULL, pool);
    return good && conf_decide_auth(b, map, pool);
}

static bool read_pools(struct conf_build *b, const struct conf_node *root)
{
    const struct conf_item *pools = conf_find(root, "pools");
    if (!pools || conf_is_null(pools->value))
        return conf_error(b, pools ? pools->at : root->at,
                          "there are no pools: write at least one under pools:");
    const struct conf_node *list = pools->value;
    if (list->type != CONF_LIST || list->n_items == 0 || list->n_items > POOLS_MAX)
        return conf_error(b, list->at, "pools is a list of 1 to %d entries: write `- name: ...`",
                          POOLS_MAX);
    if (!conf_make_pools(b, list->n_items))
        return false;
    bool good = true;
    struct conf_pool *pool = b->pools;
    for (const struct conf_item *item = list->items; item; item = item->next, pool++)
        good = conf_read_pool(b, item->value, pool) && good;
    pool = b->pools;
    for (const struct conf_item *item = list->items; item; item = item->next, pool++)
        if (pool->front.kind_name) /* else nothing of it is known */
            good = finish_pool(b, item->value, pool) && good;
    return conf_check_all(b) && good;
}

static bool read_root(struct conf_build *b, const struct conf_node *root)
{
    bool good = conf_fill(b, root, conf_top_tables, conf_n_top_tables, 0, "the file", b->config);
    if (root->type != CONF_MAP)
        return false;
    good = conf_finish_admin(b, root) && good;
    return read_pools(b, root) && good;
}

/* ---- loading --------------------------------------------------------------------------------- */

struct config *conf_load_text(const char *name, struct span text,
                              const struct conf_options *options, struct conf_report *report)
{
    struct conf_build b;
    bool good = conf_build_begin(&b, name, options, report);
    const struct conf_node *root = good ? conf_tree(&b, text) : NULL;
    return conf_build_end(&b, root && read_root(&b, root));
}

struct config *conf_load_file(const char *path, const struct conf_options *options,
                              struct conf_report *report)
{
    struct conf_build b;
    struct span text;
    const char *slash = strrchr(path, '/');
    bool good = conf_build_begin(&b, path, options, report);
    b.dir = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : NULL;
    if (good && slash && !b.dir)
        good = conf_no_memory(&b);
    good = good && conf_read_file(&b, (struct conf_place){1, 1}, path, CONF_TEXT_MAX, &text);
    if (good)
        conf_check_environment(&b, &text);
    const struct conf_node *root = good ? conf_tree(&b, text) : NULL;
    return conf_build_end(&b, root && read_root(&b, root));
}
