/* SPDX-License-Identifier: MIT */
/*
 * The table of names: what is known, who waits to hear, who is asked for now.
 *
 *     QUEUED ---- a talk is free ----> ASKED ---- answered ----> KNOWN ---- ttl, or room is needed
 *                                        +------- failed: told, forgotten
 */
#include "proxy/front/postgres_auth_query.h"

#include <stdlib.h>

#include "pools/ledger.h"
#include "proxy/core/crypto.h"
#include "proxy/front/postgres_auth_talk.h"

#define BUCKETS 64

enum lookup_state { LOOKUP_QUEUED, LOOKUP_ASKED, LOOKUP_KNOWN };

struct lookup {
    enum lookup_state state;
    struct list hash;   /* of its bucket */
    struct list line;   /* KNOWN: by age; QUEUED: in the queue */
    struct list askers; /* struct pg_asker */
    uint64_t until_ms;  /* KNOWN */
    struct pg_found found;
    size_t name_n;
    char name[PG_TALK_NAME];
};

/* A talk, and whom it is about. */
struct slot {
    struct pg_talk talk;
    struct pg_lookups *all;
    struct lookup *of; /* NULL: free */
    unsigned edition;  /* of the query it asks */
};

struct pg_lookups {
    struct loop *loop;
    struct pool *pool;
    char *query;
    unsigned edition; /* counts up when the query changes */
    uint64_t ttl_ms;
    unsigned n;
    struct list buckets[BUCKETS];
    struct list known, queue;
    struct slot slots[PG_TALKS];
};

static void start_talks(struct pg_lookups *ls);

/* ---- lookups ---- */

static struct list *bucket(struct pg_lookups *ls, struct span name)
{
    uint32_t h = UINT32_C(2166136261);
    for (size_t i = 0; i < name.n; i++)
        h = (h ^ name.p[i]) * UINT32_C(16777619);
    return &ls->buckets[h % BUCKETS];
}

static void forget(struct pg_lookups *ls, struct lookup *l)
{
    CHECK(list_empty(&l->askers));
    list_remove(&l->hash);
    list_remove(&l->line);
    ls->n--;
    crypto_wipe(l, sizeof *l);
    free(l);
}

static struct lookup *find(struct pg_lookups *ls, struct span name)
{
    LIST_EACH(n, bucket(ls, name)) {
        struct lookup *l = OWNER(n, struct lookup, hash);
        if (!span_eq(name, span_of(l->name, l->name_n)))
            continue;
        if (l->state != LOOKUP_KNOWN || l->until_ms > loop_now(ls->loop))
            return l;
        forget(ls, l);
        return NULL;
    }
    return NULL;
}

static struct lookup *add(struct pg_lookups *ls, struct span name)
{
    if (ls->n >= PG_LOOKUPS_MAX && !list_empty(&ls->known))
        forget(ls, OWNER(list_first(&ls->known), struct lookup, line));
    struct lookup *l = ls->n < PG_LOOKUPS_MAX ? calloc(1, sizeof *l) : NULL;
    if (!l)
        return NULL;
    l->name_n = name.n;
    memcpy(l->name, name.p, name.n);
    list_init(&l->hash);
    list_init(&l->line);
    list_init(&l->askers);
    list_push_back(bucket(ls, name), &l->hash);
    list_push_back(&ls->queue, &l->line);
    ls->n++;
    return l;
}

/* Tells all who wait. They may close, log in, ask for other names; this one stays until then. */
static void tell(struct lookup *l, const struct err *err)
{
    struct list *n;
    while ((n = list_first(&l->askers))) {
        struct pg_asker *a = OWNER(n, struct pg_asker, node);
        list_remove(n);
        a->on_found(a, err ? NULL : &l->found, err);
    }
}

enum pg_look pg_look_up(struct pg_lookups *ls, struct span name, struct pg_asker *asker,
                        struct pg_found *found, struct err *err)
{
    list_init(&asker->node);
    if (name.n > PG_TALK_NAME) {
        *found = (struct pg_found){0};
        return PG_LOOK_KNOWN;
    }
    struct lookup *l = find(ls, name);
    if (l && l->state == LOOKUP_KNOWN) {
        *found = l->found;
        return PG_LOOK_KNOWN;
    }
    if (!l && !(l = add(ls, name))) {
        err_set(err, CAUSE_OVERLOADED, STAGE_CLIENT, 0,
                "too many users are being looked up (auth.query)");
        return PG_LOOK_REFUSED;
    }
    list_push_back(&l->askers, &asker->node);
    start_talks(ls);
    return PG_LOOK_WAIT;
}

/* ---- talks ---- */

static void on_done(struct pg_talk *talk, const struct err *err)
{
    struct slot *slot = OWNER(talk, struct slot, talk);
    struct pg_lookups *ls = slot->all;
    struct lookup *l = slot->of;
    slot->of = NULL;
    if (err) {
        log_write(ls->loop->log, LOG_WARN, "auth_query_failed", "pool=%s cause=%s reason=\"%s\"",
                  pool_ledger(ls->pool)->name, cause_word(err->cause), err->note);
        tell(l, err);
        forget(ls, l);
    } else if (slot->edition != ls->edition) {
        l->found = talk->found; /* for those who came before the query changed */
        tell(l, NULL);
        forget(ls, l);
    } else {
        double left_ms = talk->seconds * 1000, ttl_ms = (double)ls->ttl_ms;
        uint64_t ms = talk->found.exists && left_ms < ttl_ms ? (uint64_t)left_ms : ls->ttl_ms;
        l->found = talk->found;
        tell(l, NULL);
        l->state = LOOKUP_KNOWN;
        l->until_ms = loop_now(ls->loop) + ms;
        list_push_back(&ls->known, &l->line);
    }
    start_talks(ls);
}

static void start(struct slot *slot, struct lookup *l)
{
    slot->of = l;
    slot->edition = slot->all->edition;
    l->state = LOOKUP_ASKED;
    list_remove(&l->line);
    pg_talk_start(&slot->talk, slot->all->query, span_of(l->name, l->name_n));
}

static void start_talks(struct pg_lookups *ls)
{
    for (size_t i = 0; i < PG_TALKS && !list_empty(&ls->queue); i++)
        if (!ls->slots[i].of)
            start(&ls->slots[i], OWNER(list_first(&ls->queue), struct lookup, line));
}

/* ---- the table ---- */

static struct pg_lookups *make(struct pool *p, struct loop *loop)
{
    struct pg_lookups *ls = calloc(1, sizeof *ls);
    if (!ls)
        return NULL;
    ls->loop = loop;
    ls->pool = p;
    list_init(&ls->known);
    list_init(&ls->queue);
    for (size_t i = 0; i < BUCKETS; i++)
        list_init(&ls->buckets[i]);
    for (size_t i = 0; i < PG_TALKS; i++) {
        ls->slots[i].all = ls;
        pg_talk_init(&ls->slots[i].talk, p, loop, on_done);
    }
    return ls;
}

static void forget_all(struct pg_lookups *ls, struct list *line)
{
    while (!list_empty(line))
        forget(ls, OWNER(list_first(line), struct lookup, line));
}

/* What another query said counts no more; nor, for those who come now, what one under way is going
 * to say: they do not find it. */
static bool follow(struct pg_lookups *ls, const char *query)
{
    if (ls->query && strcmp(ls->query, query) == 0)
        return true;
    char *copy = strdup(query);
    if (!copy)
        return false;
    free(ls->query);
    ls->query = copy;
    ls->edition++;
    forget_all(ls, &ls->known);
    for (size_t i = 0; i < PG_TALKS; i++)
        if (ls->slots[i].of)
            list_remove(&ls->slots[i].of->hash);
    return true;
}

struct pg_lookups *pg_lookups_get(struct pg_lookups **ls, struct pool *p, struct loop *loop,
                                  const char *query, uint64_t ttl_ms)
{
    if (!query)
        return NULL;
    if (!*ls)
        *ls = make(p, loop);
    if (!*ls || !follow(*ls, query))
        return NULL;
    (*ls)->ttl_ms = ttl_ms;
    return *ls;
}

void pg_lookups_why(const struct pg_lookups *ls, struct err *err)
{
    for (size_t i = 0; i < PG_TALKS; i++)
        if (ls->slots[i].of && pool_why_waiting(&ls->slots[i].talk.waiter, err))
            return;
    err_set(err, CAUSE_OVERLOADED, STAGE_WAIT, 0, "auth.query has not answered yet");
}

void pg_lookups_free(struct pg_lookups *ls)
{
    if (!ls)
        return;
    for (size_t i = 0; i < PG_TALKS; i++) {
        pg_talk_abort(&ls->slots[i].talk);
        if (ls->slots[i].of)
            forget(ls, ls->slots[i].of);
    }
    forget_all(ls, &ls->queue);
    forget_all(ls, &ls->known);
    free(ls->query);
    free(ls);
}
