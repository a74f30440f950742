/* SPDX-License-Identifier: MIT */
/*
 * Several databases behind one listener: what the file says of each, laid over what it says of the
 * whole; and the complete settings of one pool, made when somebody comes who needs it.
 */
#include "proxy/conf/conf_private.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/core/crypto.h"

#define DATABASES_MAX 10000
#define NTH_BYTES 12
#define NAME_BYTES 63 /* PostgreSQL cuts longer ones */

/* ---- the file -------------------------------------------------------------------------------- */

struct list {
    struct conf_build *b;
    const struct conf_pool *whole;
    struct database_conf *all;
    size_t n;
};

static bool read_name(struct list *l, struct conf_place at, struct span name,
                      struct database_conf *db)
{
    char quoted[CONF_QUOTE + 8];
    if (name.n == 0 || name.n > NAME_BYTES || memchr(name.p, 0, name.n))
        return conf_error(l->b, at, "databases: %s is no name: write 1 to %d bytes",
                          conf_quote(name, quoted), NAME_BYTES);
    for (size_t i = 0; i < l->n; i++)
        if (span_eq(name, span_str(l->all[i].name)))
            return conf_error(l->b, at, "databases: %s is there already: keep one",
                              conf_quote(name, quoted));
    db->name = conf_keep(l->b->arena, name);
    return db->name ? true : conf_no_memory(l->b);
}

static bool read_rest(struct list *l, const struct conf_node *map, struct conf_pool *own,
                      struct database_conf *db)
{
    struct conf_build *b = l->b;
    const struct conf_item *upstream = conf_find(map, "database");
    struct span text;
    if (!conf_fill(b, map, conf_database_tables, conf_n_database_tables, FRONT_POSTGRES,
                   "the database", own))
        return false;
    if (own->pool.size.total != l->whole->pool.size.total)
        return conf_error(b, conf_at(map, "size", "total"),
                          "size.total is for all databases together: write it beside databases");
    if (own->pool.size.min > own->pool.size.max)
        return conf_error(b, conf_at(map, "size", "max"),
                          "size.min (%u) is larger than size.max (%u): write a smaller min",
                          own->pool.size.min, own->pool.size.max);
    if (!upstream)
        return true;
    if (strcmp(db->name, "*") == 0)
        return conf_error(b, upstream->at, "database: \"*\" stands for many: leave it out");
    if (!conf_scalar(b, upstream->value, "database", &text))
        return false;
    if (text.n == 0 || text.n > NAME_BYTES)
        return conf_error(b, upstream->value->at, "database: write 1 to %d bytes", NAME_BYTES);
    db->upstream = conf_keep(b->arena, text);
    return db->upstream ? true : conf_no_memory(b);
}

static bool add(struct list *l, struct conf_place at, struct span name, const struct conf_node *map)
{
    struct conf_pool *own = conf_alloc(l->b->arena, 1, sizeof *own);
    struct database_conf db = {0};
    if (!own)
        return conf_no_memory(l->b);
    *own = *l->whole;
    db.pool = &own->pool;
    if (!read_name(l, at, name, &db) || (map && !read_rest(l, map, own, &db)))
        return false;
    l->all[l->n++] = db;
    return true;
}

static bool read_items(struct list *l, const struct conf_node *node)
{
    bool good = true;
    for (const struct conf_item *i = node->items; i; i = i->next) {
        const struct conf_node *v = i->value;
        struct span name = i->key;
        if (node->type == CONF_LIST)
            good = conf_scalar(l->b, v, "databases", &name) && add(l, v->at, name, NULL) && good;
        else
            good = add(l, i->at, name, conf_is_null(v) ? NULL : v) && good;
    }
    return good;
}

/* Each client's own user behind a pool that names no databases: the upstream's alone. */
static bool only_one(struct list *l)
{
    const struct endpoint_conf *e = l->whole->pool.endpoints;
    return add(l, (struct conf_place){e->line, e->column}, span_str(e->database), NULL);
}

bool conf_databases(struct conf_build *b, const struct conf_node *map, struct conf_pool *pool)
{
    const struct conf_item *item = conf_find(map, "databases");
    const struct conf_node *node = item && !conf_is_null(item->value) ? item->value : NULL;
    struct list l = {.b = b, .whole = pool};
    if (item && pool->front.kind != FRONT_POSTGRES)
        return conf_error(b, item->at,
                          "databases is only for pools of kind postgres: leave it out");
    if (!node && pool->front.login_as == FRONT_LOGIN_POOL)
        return pool->pool.size.total == 0 ||
               conf_error(b, conf_at(map, "size", "total"),
                          "size.total is for several databases or users: write size.max");
    if (node && (node->type == CONF_SCALAR || node->n_items == 0 || node->n_items > DATABASES_MAX))
        return conf_error(b, node->at,
                          "databases is a list of names, or a mapping: write databases: [orders]");
    l.all = conf_alloc(b->arena, node ? node->n_items : 1, sizeof *l.all);
    if (!l.all)
        return conf_no_memory(b);
    bool good = node ? read_items(&l, node) : only_one(&l);
    pool->front.databases = l.all;
    pool->front.n_databases = l.n;
    pool->pool.size.min = 0; /* the pool of the whole has work by auth.query only */
    return good;
}

/* ---- one pool of them ------------------------------------------------------------------------ */

struct text {
    char *p;
    size_t n, cap;
};

static char *put(struct text *t, struct span s)
{
    char *at = t->p + t->n;
    CHECK(t->n + s.n + 1 <= t->cap);
    if (s.n)
        memcpy(at, s.p, s.n);
    at[s.n] = 0;
    t->n += s.n + 1;
    return at;
}

/* ":orders", what would look strange in a log line as =3A. */
static void put_label(struct text *t, struct span s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    static const char hex[] = "0123456789ABCDEF";
    t->p[t->n++] = ':';
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] && strchr(plain, s.p[i])) {
            t->p[t->n++] = (char)s.p[i];
            continue;
        }
        t->p[t->n++] = '=';
        t->p[t->n++] = hex[s.p[i] >> 4];
        t->p[t->n++] = hex[s.p[i] & 15];
    }
}

/* "main:orders:alice:replication:pg_receivewal:2", of which most is seldom there. */
static const char *put_pool_name(struct text *t, const char *whole, const struct pool_identity *id)
{
    char *at = t->p + t->n;
    memcpy(at, whole, strlen(whole));
    t->n += strlen(whole);
    if (id->database.n)
        put_label(t, id->database);
    if (id->user.n)
        put_label(t, id->user);
    if (id->replication) {
        put_label(t, SPAN_LIT("replication"));
        put_label(t, id->application);
    }
    if (id->nth > 1)
        t->n += (size_t)snprintf(t->p + t->n, NTH_BYTES, ":%u", id->nth);
    t->p[t->n++] = 0;
    return at;
}

static void member_free(struct snapshot *snap)
{
    struct conf_member *m = OWNER(snap, struct conf_member, snap);
    size_t size = m->size;
    snapshot_drop(&m->config);
    crypto_wipe(m, size);
    free(m);
}

static struct pool_identity put_identity(struct text *t, const struct pool_identity *id)
{
    struct pool_identity own = *id;
    own.database.p = (const uint8_t *)put(t, id->database);
    own.user.p = (const uint8_t *)put(t, id->user);
    own.key.p = (const uint8_t *)put(t, id->key);
    own.application.p = (const uint8_t *)put(t, id->application);
    if (id->password.p)
        own.password.p = (const uint8_t *)put(t, id->password);
    return own;
}

/* A replication server is its client's own from dial to end: nothing of ours is said in between,
 * and what looks like silence is its work. */
static void for_replication(struct pool_conf *pool)
{
    pool->size.min = 0;
    pool->check.on_return = CHECK_FAST;
    pool->check.idle_ms = 0;
    pool->check.leak_after_ms = 0;
    pool->timeouts.request_ms = 0;
    pool->timeouts.transaction_ms = 0;
    pool->timeouts.idle_transaction_ms = 0;
    pool->timeouts.client_idle_ms = 0;
}

/* The upstream's options, and what the identity adds, in `pairs`. */
static void add_options(struct endpoint_conf *e, const struct pool_identity *id,
                        struct conf_pair *pairs)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_options; i++)
        if (!id->application.n || strcmp(e->options[i].name, "application_name") != 0)
            pairs[n++] = e->options[i];
    pairs[n++] = (struct conf_pair){"replication", id->replication};
    if (id->application.n)
        pairs[n++] = (struct conf_pair){"application_name", (const char *)id->application.p};
    e->options = pairs;
    e->n_options = n;
}

static void fill_endpoint(struct endpoint_conf *e, const struct conf_member *m,
                          const struct conf_pool *whole, const struct database_conf *db)
{
    if (db)
        e->database = db->upstream ? db->upstream : (const char *)m->id.database.p;
    if (whole->front.login_as == FRONT_LOGIN_POOL)
        return;
    e->password_command = NULL;
    e->user = (const char *)m->id.user.p;
    e->password = (const char *)m->id.password.p;
}

struct conf_member *conf_member_new(const struct conf_pool *whole, struct snapshot *config,
                                    const struct pool_identity *id)
{
    const struct database_conf *db =
        id->database.n ? front_database(&whole->front, id->database) : NULL;
    size_t n = whole->pool.n_endpoints, n_pairs = 0;
    CHECK(db || id->replication);
    for (size_t i = 0; id->replication && i < n; i++)
        n_pairs += whole->pool.endpoints[i].n_options + 2;
    struct text t = {.cap = strlen(whole->name) + sizeof ":replication" + NTH_BYTES +
                            4 * (id->database.n + id->user.n + id->application.n) + id->password.n +
                            id->key.n + 9};
    size_t size = sizeof(struct conf_member) + n * sizeof(struct endpoint_conf) +
                  n_pairs * sizeof(struct conf_pair) + t.cap;
    struct conf_member *m = calloc(1, size);
    if (!m)
        return NULL;
    struct endpoint_conf *endpoints = (struct endpoint_conf *)(void *)(m + 1);
    struct conf_pair *pairs = (struct conf_pair *)(void *)(endpoints + n);
    t.p = (char *)(pairs + n_pairs);
    atomic_store(&m->snap.refs, 1);
    m->snap.free = member_free;
    m->size = size;
    m->config = m->snap.whole = snapshot_take(config);
    m->pool = db ? *db->pool : whole->pool;
    m->pool.name = put_pool_name(&t, whole->name, id);
    m->id = put_identity(&t, id);
    m->pool.key = m->id.key;
    for (size_t i = 0; i < n; i++) {
        endpoints[i] = whole->pool.endpoints[i];
        fill_endpoint(&endpoints[i], m, whole, db);
        if (!id->replication)
            continue;
        add_options(&endpoints[i], &m->id, pairs);
        pairs += whole->pool.endpoints[i].n_options + 2;
    }
    m->pool.endpoints = endpoints;
    m->pool.n_endpoints = n;
    if (id->replication)
        for_replication(&m->pool);
    else if (!front_is_listed(&whole->front, id->database))
        m->pool.size.min = 0; /* it goes when nobody wants it any more */
    return m;
}
