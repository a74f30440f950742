/* SPDX-License-Identifier: MIT */
/* What a reload would change, and what it cannot, key by key, driven by the same rows. */
#include "proxy/conf/conf_private.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct changes {
    struct conf_change *list;
    size_t n, cap;
    bool no_memory;
};

static struct conf_change *add(struct changes *c, enum schema_reload reload)
{
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 16;
        struct conf_change *grown = realloc(c->list, cap * sizeof *grown);
        c->no_memory = c->no_memory || !grown;
        if (!grown)
            return NULL;
        c->list = grown;
        c->cap = cap;
    }
    struct conf_change *change = &c->list[c->n++];
    *change = (struct conf_change){.reload = reload};
    return change;
}

PRINTF_LIKE(5, 6)
static void note(struct changes *c, enum schema_reload reload, const char *from, const char *to,
                 const char *fmt, ...)
{
    struct conf_change *change = add(c, reload);
    if (!change)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(change->key, sizeof change->key, fmt, ap);
    va_end(ap);
    snprintf(change->from, sizeof change->from, "%s", from);
    snprintf(change->to, sizeof change->to, "%s", to);
}

static void diff_tables(struct changes *c, const char *path, const struct schema_table *tables,
                        size_t n, const void *a, const void *b)
{
    char from[96], to[96];
    for (size_t i = 0; i < n; i++) {
        const struct schema_table *table = &tables[i];
        const char *x = (const char *)a + table->offset, *y = (const char *)b + table->offset;
        for (size_t j = 0; j < table->n_rows; j++) {
            const struct schema_row *row = &table->rows[j];
            if (schema_same(row, x, y))
                continue;
            note(c, row->reload, schema_text(row, x, from, sizeof from),
                 schema_text(row, y, to, sizeof to), "%s%s%s%s", path, table->key ? table->key : "",
                 table->key ? "." : "", row->key);
        }
    }
}

/* ---- lists ----------------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_listen(const struct listen_conf *a, const struct listen_conf *b)
{
    return strcmp(a->label, b->label) == 0 && a->mode == b->mode && a->uid == b->uid &&
           a->gid == b->gid;
}

static bool same_listens(const struct front_conf *a, const struct front_conf *b)
{
    bool same = a->n_listens == b->n_listens;
    for (size_t i = 0; same && i < a->n_listens; i++)
        same = same_listen(&a->listens[i], &b->listens[i]);
    return same;
}

static bool same_options(const struct endpoint_conf *a, const struct endpoint_conf *b)
{
    bool same = a->n_options == b->n_options;
    for (size_t i = 0; same && i < a->n_options; i++)
        same = strcmp(a->options[i].name, b->options[i].name) == 0 &&
               strcmp(a->options[i].value, b->options[i].value) == 0;
    return same;
}

static bool same_endpoint(const struct endpoint_conf *a, const struct endpoint_conf *b)
{
    return strcmp(a->label, b->label) == 0 && same_text(a->user, b->user) &&
           same_text(a->password, b->password) &&
           same_text(a->password_command, b->password_command) &&
           a->password_command_ttl_ms == b->password_command_ttl_ms &&
           same_text(a->database, b->database) && a->tls == b->tls &&
           same_text(a->tls_ca, b->tls_ca) && same_text(a->tls_cert, b->tls_cert) &&
           same_text(a->tls_key, b->tls_key) && a->priority == b->priority && same_options(a, b);
}

static bool same_upstream(const struct pool_conf *a, const struct pool_conf *b)
{
    bool same = a->n_endpoints == b->n_endpoints;
    for (size_t i = 0; same && i < a->n_endpoints; i++)
        same = same_endpoint(&a->endpoints[i], &b->endpoints[i]);
    return same;
}

static bool same_users(const struct auth_conf *a, const struct auth_conf *b)
{
    bool same = a->n_users == b->n_users;
    for (size_t i = 0; same && i < a->n_users; i++)
        same = strcmp(a->users[i].name, b->users[i].name) == 0 &&
               same_text(a->users[i].secret, b->users[i].secret);
    return same;
}

static bool same_map(const struct auth_conf *a, const struct auth_conf *b)
{
    bool same = a->n_map == b->n_map;
    for (size_t i = 0; same && i < a->n_map; i++)
        same =
            strcmp(a->map[i].from, b->map[i].from) == 0 && strcmp(a->map[i].to, b->map[i].to) == 0;
    return same;
}

/* Appends one more to a list of labels that may be cut. */
static void append(char *buf, size_t cap, const char *label)
{
    size_t n = strlen(buf);
    snprintf(buf + n, cap - n, "%s%s", n ? ", " : "", label);
}

static void diff_lists(struct changes *c, const struct conf_pool *a, const struct conf_pool *b)
{
    char from[96] = "", to[96] = "";
    for (size_t i = 0; i < a->front.n_listens; i++)
        append(from, sizeof from, a->front.listens[i].label);
    for (size_t i = 0; i < b->front.n_listens; i++)
        append(to, sizeof to, b->front.listens[i].label);
    if (!same_listens(&a->front, &b->front))
        note(c, SCHEMA_RELOADS, from, to, "pools.%s.listen", a->name);
    *from = *to = 0;
    for (size_t i = 0; i < a->pool.n_endpoints; i++)
        append(from, sizeof from, a->pool.endpoints[i].label);
    for (size_t i = 0; i < b->pool.n_endpoints; i++)
        append(to, sizeof to, b->pool.endpoints[i].label);
    if (!same_upstream(&a->pool, &b->pool))
        note(c, SCHEMA_NEW_CONNECTIONS, from, to, "pools.%s.upstream", a->name);
    snprintf(from, sizeof from, "%zu users", a->front.auth.n_users);
    snprintf(to, sizeof to, "%zu users", b->front.auth.n_users);
    if (!same_users(&a->front.auth, &b->front.auth))
        note(c, SCHEMA_NEW_CONNECTIONS, from, to, "pools.%s.auth.users", a->name);
    snprintf(from, sizeof from, "%zu names", a->front.auth.n_map);
    snprintf(to, sizeof to, "%zu names", b->front.auth.n_map);
    if (!same_map(&a->front.auth, &b->front.auth))
        note(c, SCHEMA_NEW_CONNECTIONS, from, to, "pools.%s.auth.map", a->name);
}

static const struct database_conf *database_named(const struct front_conf *f, const char *name)
{
    for (size_t i = 0; i < f->n_databases; i++)
        if (strcmp(f->databases[i].name, name) == 0)
            return &f->databases[i];
    return NULL;
}

static void diff_databases(struct changes *c, const struct conf_pool *a, const struct conf_pool *b)
{
    char path[192];
    for (size_t i = 0; i < a->front.n_databases; i++) {
        const struct database_conf *x = &a->front.databases[i];
        const struct database_conf *y = database_named(&b->front, x->name);
        snprintf(path, sizeof path, "pools.%s.databases.%s.", a->name, x->name);
        if (!y) {
            note(c, SCHEMA_RELOADS, x->name, "", "pools.%s.databases.%s", a->name, x->name);
            continue;
        }
        if (!same_text(x->upstream, y->upstream))
            note(c, SCHEMA_NEW_CONNECTIONS, x->upstream ? x->upstream : x->name,
                 y->upstream ? y->upstream : y->name, "%sdatabase", path);
        diff_tables(c, path, conf_database_tables, conf_n_database_tables, conf_database_base(x),
                    conf_database_base(y));
    }
    for (size_t i = 0; i < b->front.n_databases; i++) {
        const char *name = b->front.databases[i].name;
        if (!database_named(&a->front, name))
            note(c, SCHEMA_RELOADS, "", name, "pools.%s.databases.%s", a->name, name);
    }
}

static void diff_pool(struct changes *c, const struct conf_pool *a, const struct conf_pool *b)
{
    char path[96];
    snprintf(path, sizeof path, "pools.%s.", a->name);
    if (strcmp(a->front.kind_name, b->front.kind_name) != 0) {
        note(c, SCHEMA_RELOADS, a->front.kind_name, b->front.kind_name, "pools.%s.kind", a->name);
        return; /* another pool by the same name: the rest says nothing */
    }
    diff_lists(c, a, b);
    diff_databases(c, a, b);
    diff_tables(c, path, conf_pool_tables, conf_n_pool_tables, a, b);
}

struct conf_change *conf_diff(const struct config *old, const struct config *fresh, size_t *n)
{
    struct changes c = {0};
    diff_tables(&c, "", conf_top_tables, conf_n_top_tables, old, fresh);
    for (size_t i = 0; i < old->n_pools; i++) {
        const struct conf_pool *a = &old->pools[i], *b = conf_pool_named(fresh, a->name);
        if (b)
            diff_pool(&c, a, b);
        else
            note(&c, SCHEMA_RELOADS, a->front.kind_name, "", "pools.%s", a->name);
    }
    for (size_t i = 0; i < fresh->n_pools; i++) {
        const struct conf_pool *b = &fresh->pools[i];
        if (!conf_pool_named(old, b->name))
            note(&c, SCHEMA_RELOADS, "", b->front.kind_name, "pools.%s", b->name);
    }
    if (c.no_memory || c.n == 0) {
        free(c.list);
        c = (struct changes){0};
    }
    *n = c.n;
    return c.list;
}

/* ---- what a reload cannot change ------------------------------------------------------------- */

static bool retain_row(const struct schema_row *row, struct conf_arena *arena, void *to,
                       const void *from)
{
    char buf[96];
    struct err err;
    const char *text = schema_string(row, from);
    if (!text)
        text = schema_text(row, from, buf, sizeof buf);
    return schema_set(row, to, span_str(text), span_str(text), &arena->keep, &err);
}

bool conf_retain(struct config *fresh, const struct config *running)
{
    bool good = true;
    for (size_t i = 0; i < conf_n_top_tables; i++) {
        const struct schema_table *table = &conf_top_tables[i];
        char *to = (char *)fresh + table->offset;
        const char *from = (const char *)running + table->offset;
        for (size_t j = 0; j < table->n_rows; j++)
            if (table->rows[j].reload == SCHEMA_NEEDS_RESTART &&
                !schema_same(&table->rows[j], to, from))
                good = retain_row(&table->rows[j], fresh->arena, to, from) && good;
    }
    /* What was made of admin.http. */
    const char *host = running->admin.host;
    fresh->admin.host = host ? conf_keep(fresh->arena, span_str(host)) : NULL;
    fresh->admin.port = running->admin.port;
    return good && (!host || fresh->admin.host);
}
