/* SPDX-License-Identifier: MIT */
#include "proxy/front/postgres_statements.h"

#include <stdlib.h>

#include "proxy/core/crypto.h"

/* ---- what they say ---- */

enum { TABLE_BUCKETS = 256, NAME_BUCKETS = 32 };

struct pg_statements {
    struct list buckets[TABLE_BUCKETS];
};

struct pg_statements *pg_statements_new(void)
{
    struct pg_statements *t = calloc(1, sizeof *t);
    for (size_t i = 0; t && i < TABLE_BUCKETS; i++)
        list_init(&t->buckets[i]);
    return t;
}

void pg_statements_free(struct pg_statements *t)
{
    for (size_t i = 0; t && i < TABLE_BUCKETS; i++)
        CHECK(list_empty(&t->buckets[i]));
    free(t);
}

struct pg_statement *pg_statement_take(struct pg_statements *t, struct span body)
{
    uint8_t digest[CRYPTO_SHA256];
    if (!crypto_sha256(body, digest))
        return NULL;
    struct list *bucket = &t->buckets[digest[0]];
    LIST_EACH(node, bucket) {
        struct pg_statement *st = OWNER(node, struct pg_statement, node);
        if (memcmp(st->digest, digest, sizeof st->digest) == 0)
            return pg_statement_again(st);
    }
    struct pg_statement *st = calloc(1, sizeof *st + body.n);
    if (!st)
        return NULL;
    list_init(&st->node);
    memcpy(st->digest, digest, sizeof st->digest);
    memcpy(st->body, body.p, body.n);
    st->n = (uint32_t)body.n;
    st->refs = 1;
    enum pg_verb verb = pg_text_look(body).verb;
    st->commits = verb == PG_VERB_COMMIT || verb == PG_VERB_PREPARE;
    st->dated = pg_text_dated(span_of(st->body, st->n));
    st->trace = pg_text_trace(span_of(st->body, st->n));
    list_push_front(bucket, &st->node);
    return st;
}

struct pg_statement *pg_statement_again(struct pg_statement *st)
{
    st->refs++;
    return st;
}

void pg_statement_drop(struct pg_statement **st)
{
    struct pg_statement *gone = *st;
    *st = NULL;
    if (!gone || --gone->refs > 0)
        return;
    list_remove(&gone->node);
    free(gone);
}

/* ---- what a client calls them ---- */

struct name {
    struct list node;
    struct pg_statement *st;
    uint32_t n;
    uint8_t text[];
};

struct pg_names {
    size_t n, bytes;
    size_t n_buckets; /* a power of two */
    struct list *buckets;
};

static size_t hash_of(struct span name)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < name.n; i++)
        h = (h ^ name.p[i]) * UINT64_C(0x100000001b3);
    return (size_t)(h ^ h >> 32);
}

static struct list *bucket_of(const struct pg_names *m, struct span name)
{
    return &m->buckets[hash_of(name) & (m->n_buckets - 1)];
}

static struct name *name_find(const struct pg_names *m, struct span text)
{
    if (!m)
        return NULL;
    LIST_EACH(node, bucket_of(m, text)) {
        struct name *name = OWNER(node, struct name, node);
        if (span_eq(span_of(name->text, name->n), text))
            return name;
    }
    return NULL;
}

static struct list *buckets_new(size_t n)
{
    struct list *buckets = malloc(n * sizeof *buckets);
    for (size_t i = 0; buckets && i < n; i++)
        list_init(&buckets[i]);
    return buckets;
}

static struct pg_names *names_new(void)
{
    struct pg_names *m = calloc(1, sizeof *m);
    if (m)
        m->buckets = buckets_new(m->n_buckets = NAME_BUCKETS);
    if (m && m->buckets)
        return m;
    free(m);
    return NULL;
}

/* Longer chains work as well: without memory it stays as it is. */
static void grow(struct pg_names *m)
{
    struct pg_names old = *m;
    struct list *buckets = buckets_new(old.n_buckets * 4);
    if (!buckets)
        return;
    m->buckets = buckets;
    m->n_buckets *= 4;
    for (size_t i = 0; i < old.n_buckets; i++) {
        LIST_EACH(node, &old.buckets[i]) {
            struct name *name = OWNER(node, struct name, node);
            list_remove(node);
            list_push_front(bucket_of(m, span_of(name->text, name->n)), node);
        }
    }
    free(old.buckets);
}

size_t pg_names_count(const struct pg_names *m)
{
    return m ? m->n : 0;
}

size_t pg_names_bytes(const struct pg_names *m)
{
    return m ? m->bytes : 0;
}

struct pg_statement *pg_names_get(const struct pg_names *m, struct span text)
{
    struct name *name = name_find(m, text);
    return name ? name->st : NULL;
}

static struct name *digest_find(const struct pg_names *m, const uint8_t digest[16])
{
    for (size_t i = 0; m && i < m->n_buckets; i++) {
        LIST_EACH(node, &m->buckets[i]) {
            struct name *name = OWNER(node, struct name, node);
            if (memcmp(name->st->digest, digest, sizeof name->st->digest) == 0)
                return name;
        }
    }
    return NULL;
}

struct span pg_names_find(const struct pg_names *m, const uint8_t digest[16])
{
    const struct name *name = digest_find(m, digest);
    return name ? span_of(name->text, name->n) : span_of(NULL, 0);
}

void pg_names_outdate(struct pg_names *m, const uint8_t digest[16])
{
    struct name *name = digest_find(m, digest);
    if (name)
        name->st->edition++; /* the statement is one, whatever its names */
}

static void name_free(struct pg_names *m, struct name *name)
{
    m->n--;
    m->bytes -= name->n + name->st->n;
    list_remove(&name->node);
    pg_statement_drop(&name->st);
    free(name);
}

bool pg_names_put(struct pg_names **map, struct span text, struct pg_statement *st)
{
    if (!*map)
        *map = names_new();
    struct pg_names *m = *map;
    struct name *name = m ? calloc(1, sizeof *name + text.n) : NULL;
    if (!name)
        return false;
    pg_names_remove(m, text);
    list_init(&name->node);
    memcpy(name->text, text.p, text.n);
    name->n = (uint32_t)text.n;
    name->st = pg_statement_again(st);
    if (m->n >= m->n_buckets)
        grow(m);
    list_push_front(bucket_of(m, text), &name->node);
    m->n++;
    m->bytes += name->n + st->n;
    return true;
}

void pg_names_remove(struct pg_names *m, struct span text)
{
    struct name *name = name_find(m, text);
    if (name)
        name_free(m, name);
}

void pg_names_free(struct pg_names **map)
{
    struct pg_names *m = *map;
    *map = NULL;
    for (size_t i = 0; m && i < m->n_buckets; i++)
        LIST_EACH(node, &m->buckets[i])
            name_free(m, OWNER(node, struct name, node));
    if (m)
        free(m->buckets);
    free(m);
}
