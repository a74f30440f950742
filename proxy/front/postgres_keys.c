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

#define KEY_BUCKETS 1024
#define WORKER_SHIFT 24 /* LEDGER_WORKERS_MAX fits above */

struct keys {
    uint32_t next;
    struct list buckets[KEY_BUCKETS];
};

struct errand {
    struct post_msg msg;
    struct route *route;
    uint32_t pid;
    uint8_t key_n;
    uint8_t key[PG_KEY_MAX];
};

void *pg_keys_new(void)
{
    struct keys *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    for (size_t i = 0; i < KEY_BUCKETS; i++)
        list_init(&k->buckets[i]);
    return k;
}

void pg_keys_free(void *keys)
{
    free(keys);
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
    uint32_t n = ++k->next & ((UINT32_C(1) << WORKER_SHIFT) - 1);
    s->key_pid = r->front->worker << WORKER_SHIFT | n;
    list_push_back(&k->buckets[n % KEY_BUCKETS], &s->key_node);
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
    uint32_t n = pid & ((UINT32_C(1) << WORKER_SHIFT) - 1);
    LIST_EACH(node, &k->buckets[n % KEY_BUCKETS]) {
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
