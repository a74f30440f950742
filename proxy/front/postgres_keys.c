/* SPDX-License-Identifier: MIT */
/*
 * Cancel keys. The "process id" carpool tells a client holds the number of its worker and a
 * counter; the secret is random. A CancelRequest may come in on any worker: it is posted to the one
 * the id names, found there by hash in constant time, compared in constant time, and forwarded to
 * the server that the session has now, or ends its wait for one. Of unknown keys nothing is said,
 * as PostgreSQL does.
 */
#include <stdlib.h>

#include "proxy/core/crypto.h"
#include "proxy/front/postgres.h"

#define WORKER_SHIFT 24 /* LEDGER_WORKERS_MAX fits above */
#define COUNTER ((UINT32_C(1) << WORKER_SHIFT) - 1)

/* Keys are numbered one after the other, so they spread evenly. Where one would be the fifth in its
 * bucket there are twice as many from then on. */
enum { BUCKETS_MIN = 64, BUCKETS_MAX = 64 * 1024, CROWD = 4 };

struct keys {
    uint32_t next;
    uint32_t n_buckets; /* a power of two */
    struct list *buckets;
};

struct errand {
    struct post_msg msg;
    struct route *route;
    uint32_t pid;
    uint8_t key_n;
    uint8_t key[PG_KEY_MAX];
};

static struct list *make_buckets(uint32_t n)
{
    struct list *buckets = malloc(n * sizeof *buckets);
    for (uint32_t i = 0; buckets && i < n; i++)
        list_init(&buckets[i]);
    return buckets;
}

void *pg_keys_new(void)
{
    struct keys *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    k->n_buckets = BUCKETS_MIN;
    k->buckets = make_buckets(BUCKETS_MIN);
    if (k->buckets)
        return k;
    free(k);
    return NULL;
}

void pg_keys_free(void *keys)
{
    struct keys *k = keys;
    if (k)
        free(k->buckets);
    free(k);
}

static struct list *bucket_of(const struct keys *k, uint32_t pid)
{
    return &k->buckets[pid & (k->n_buckets - 1)];
}

static bool is_crowded(const struct list *bucket)
{
    unsigned n = 0;
    LIST_EACH(node, bucket)
        if (++n == CROWD)
            return true;
    return false;
}

/* Without memory it is only slower. */
static void grow(struct keys *k)
{
    struct keys more = {.n_buckets = k->n_buckets * 2};
    more.buckets = k->n_buckets < BUCKETS_MAX ? make_buckets(more.n_buckets) : NULL;
    if (!more.buckets)
        return;
    for (uint32_t i = 0; i < k->n_buckets; i++)
        for (struct list *node; (node = list_first(&k->buckets[i])) != NULL;) {
            list_remove(node);
            list_push_back(bucket_of(&more, OWNER(node, struct pg_session, key_node)->key_pid),
                           node);
        }
    free(k->buckets);
    k->buckets = more.buckets;
    k->n_buckets = more.n_buckets;
}

uint8_t pg_keys_size(uint32_t version)
{
    return version >= PG_PROTOCOL_3_2 ? PG_KEY_MAX : 4;
}

static struct keys *keys_of(const struct route *r)
{
    struct pg_route *state = r->state;
    if (!state->keys)
        state->keys = pg_keys_new();
    return state->keys;
}

bool pg_keys_add(struct pg_session *s)
{
    struct route *r = route_door(s->base.route); /* where cancels come in */
    struct keys *k = keys_of(r);
    if (!k || !crypto_random(s->key, s->key_n))
        return false;
    s->key_pid = r->front->worker << WORKER_SHIFT | (++k->next & COUNTER);
    if (is_crowded(bucket_of(k, s->key_pid)))
        grow(k);
    list_push_back(bucket_of(k, s->key_pid), &s->key_node);
    return true;
}

void pg_keys_remove(struct pg_session *s)
{
    list_remove(&s->key_node);
}

static void cancel_here(struct route *r, uint32_t pid, struct span key)
{
    const struct keys *k = ((struct pg_route *)r->state)->keys;
    if (!k)
        return;
    LIST_EACH(node, bucket_of(k, pid)) {
        struct pg_session *s = OWNER(node, struct pg_session, key_node);
        if (s->key_pid != pid || !crypto_equal(span_of(s->key, s->key_n), key))
            continue;
        /* Only its own statement may be hit: not our SET before it, or what we ask behind it. */
        if (!pg_cancel_wait(s) && s->state == PG_LINKED && pg_flow_is_busy(&s->server->flow))
            (void)pg_cancel(s->server);
        return;
    }
}

static void on_errand(struct post_msg *msg)
{
    struct errand *e = OWNER(msg, struct errand, msg);
    cancel_here(e->route, e->pid, span_of(e->key, e->key_n));
    free(e);
}

static void on_errand_discarded(struct post_msg *msg)
{
    free(OWNER(msg, struct errand, msg));
}

void pg_keys_cancel(struct route *r, uint32_t pid, struct span key)
{
    unsigned worker = pid >> WORKER_SHIFT;
    if (key.n > PG_KEY_MAX || worker >= r->front->n_workers)
        return;
    if (worker == r->front->worker) {
        cancel_here(r, pid, key);
        return;
    }
    struct route *there = route_on(r, worker);
    struct errand *e = there ? calloc(1, sizeof *e) : NULL;
    if (!e)
        return;
    e->route = there;
    e->pid = pid;
    e->key_n = (uint8_t)key.n;
    memcpy(e->key, key.p, key.n);
    post_init(&e->msg, on_errand, on_errand_discarded);
    post(there->front->loop, &e->msg);
}
