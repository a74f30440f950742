/* SPDX-License-Identifier: MIT */
#include "pools/postgres_prepared.h"

#include <stdlib.h>

enum { BUCKETS = 64 };

struct pg_prepared_cache {
    struct list used; /* latest first */
    struct list buckets[BUCKETS];
    size_t n;
    size_t n_stale;
    size_t n_kept, bytes; /* of those that are not being closed: how many, and their texts */
    uint32_t last;        /* number given out */
};

size_t pg_prepared_name(uint32_t number, char to[PG_PREPARED_NAME])
{
    char digits[10];
    size_t n = 0, at = 0;
    do
        digits[n++] = (char)('0' + number % 10);
    while (number /= 10);
    memcpy(to, "cp_", 3);
    for (at = 3; n > 0;)
        to[at++] = digits[--n];
    to[at] = 0;
    return at;
}

static struct pg_prepared_cache *cache_new(void)
{
    struct pg_prepared_cache *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    list_init(&c->used);
    for (size_t i = 0; i < BUCKETS; i++)
        list_init(&c->buckets[i]);
    return c;
}

static struct list *bucket_of(struct pg_prepared_cache *c, const struct pg_statement_key *key)
{
    return &c->buckets[key->digest[0] % BUCKETS]; /* digests are evenly spread */
}

/* Being closed, or kept after all. */
static void become(struct pg_prepared_cache *c, struct pg_prepared *p, enum pg_prepared_state to)
{
    if (p->state != PG_PREPARED_CLOSING && to == PG_PREPARED_CLOSING) {
        c->n_kept--;
        c->bytes -= p->bytes;
    } else if (p->state == PG_PREPARED_CLOSING && to != PG_PREPARED_CLOSING) {
        c->n_kept++;
        c->bytes += p->bytes;
    }
    p->state = (uint8_t)to;
}

static void take_out(struct pg_prepared_cache *c, struct pg_prepared *p)
{
    become(c, p, PG_PREPARED_CLOSING);
    c->n--;
    c->n_stale -= p->stale;
    list_remove(&p->node);
    list_remove(&p->hash);
    free(p);
}

void pg_prepared_forget(struct pg_prepared_cache *c, uint32_t upto)
{
    if (!c)
        return;
    LIST_EACH(node, &c->used) {
        struct pg_prepared *p = OWNER(node, struct pg_prepared, node);
        if (p->state != PG_PREPARED_PARSING && p->number <= upto)
            take_out(c, p);
    }
}

void pg_prepared_free(struct pg_prepared_cache **c)
{
    if (*c)
        LIST_EACH(node, &(*c)->used)
            take_out(*c, OWNER(node, struct pg_prepared, node));
    free(*c);
    *c = NULL;
}

uint32_t pg_prepared_last(const struct pg_prepared_cache *c)
{
    return c ? c->last : 0;
}

size_t pg_prepared_count(const struct pg_prepared_cache *c)
{
    return c ? c->n : 0;
}

static bool same(const struct pg_statement_key *a, const struct pg_statement_key *b)
{
    return memcmp(a->digest, b->digest, sizeof a->digest) == 0 && a->settings == b->settings &&
           a->edition == b->edition;
}

/* Found by a later search, whatever the batch. */
static void note_use(struct pg_prepared_cache *c, struct pg_prepared *p, uint32_t batch)
{
    p->batch = batch;
    if (list_first(&c->used) == &p->node)
        return;
    list_remove(&p->node);
    list_push_front(&c->used, &p->node);
}

struct pg_prepared *pg_prepared_find(struct pg_prepared_cache *c,
                                     const struct pg_statement_key *key, uint32_t batch,
                                     uint32_t after)
{
    if (!c)
        return NULL;
    LIST_EACH(node, bucket_of(c, key)) {
        struct pg_prepared *p = OWNER(node, struct pg_prepared, hash);
        bool usable =
            p->state == PG_PREPARED_READY || (p->state == PG_PREPARED_PARSING && p->batch == batch);
        if (!usable || p->stale || p->number <= after || !same(&p->key, key))
            continue;
        note_use(c, p, batch);
        return p;
    }
    return NULL;
}

struct pg_prepared *pg_prepared_by_number(struct pg_prepared_cache *c, uint32_t number)
{
    if (!c)
        return NULL;
    LIST_EACH(node, &c->used) {
        struct pg_prepared *p = OWNER(node, struct pg_prepared, node);
        if (p->number == number)
            return p;
    }
    return NULL;
}

struct pg_prepared *pg_prepared_add(struct pg_prepared_cache **cache,
                                    const struct pg_statement_key *key, uint32_t bytes,
                                    uint32_t batch)
{
    if (!*cache)
        *cache = cache_new();
    struct pg_prepared_cache *c = *cache;
    struct pg_prepared *p = c ? calloc(1, sizeof *p) : NULL;
    if (!p)
        return NULL;
    p->key = *key;
    p->bytes = bytes;
    p->number = ++c->last;
    p->batch = batch;
    p->state = PG_PREPARED_PARSING;
    list_init(&p->node);
    list_init(&p->hash);
    list_push_front(&c->used, &p->node);
    list_push_front(bucket_of(c, key), &p->hash);
    c->n++;
    c->n_kept++;
    c->bytes += bytes;
    return p;
}

static bool closable(const struct pg_prepared *p, uint32_t batch)
{
    return p->state == PG_PREPARED_READY && p->batch != batch;
}

struct pg_prepared *pg_prepared_surplus(struct pg_prepared_cache *c, size_t max, size_t max_bytes,
                                        uint32_t batch)
{
    if (!c)
        return NULL;
    bool many = c->n_kept > max || c->bytes > max_bytes;
    if (!many && !c->n_stale)
        return NULL;
    struct pg_prepared *oldest = NULL;
    LIST_EACH(node, &c->used) {
        struct pg_prepared *p = OWNER(node, struct pg_prepared, node);
        if (!closable(p, batch))
            continue;
        oldest = p;
        if (p->stale)
            break;
    }
    if (!oldest || (!many && !oldest->stale))
        return NULL;
    become(c, oldest, PG_PREPARED_CLOSING);
    return oldest;
}

void pg_prepared_settle(struct pg_prepared_cache *c, uint32_t number, bool well)
{
    struct pg_prepared *p = pg_prepared_by_number(c, number);
    if (!p || p->state == PG_PREPARED_READY)
        return; /* forgotten with all others meanwhile */
    if (well == (p->state == PG_PREPARED_PARSING))
        become(c, p, PG_PREPARED_READY);
    else
        take_out(c, p);
}

void pg_prepared_stale(struct pg_prepared_cache *c, uint32_t number)
{
    struct pg_prepared *p = pg_prepared_by_number(c, number);
    if (!p || p->stale)
        return;
    p->stale = true;
    c->n_stale++;
}

void pg_prepared_stale_all(struct pg_prepared_cache *c)
{
    if (!c)
        return;
    LIST_EACH(node, &c->used) {
        struct pg_prepared *p = OWNER(node, struct pg_prepared, node);
        c->n_stale += !p->stale;
        p->stale = true;
    }
}

void pg_prepared_unsettled(struct pg_prepared_cache *c, uint32_t batch,
                           void (*each)(const struct pg_prepared *p, void *arg), void *arg)
{
    if (!c)
        return;
    LIST_EACH(node, &c->used) {
        struct pg_prepared *p = OWNER(node, struct pg_prepared, node);
        if (p->stale || (int32_t)(p->batch - batch) < 0)
            continue;
        p->stale = true;
        c->n_stale++;
        if (each)
            each(p, arg);
    }
}
