/* SPDX-License-Identifier: MIT */
#include "proxy/front/wish.h"

#include <stdlib.h>

#include "proxy/core/crypto.h"

static void wish_free(struct wish *w)
{
    list_remove(&w->node);
    crypto_wipe(w->text, w->size);
    free(w);
}

/* Whom it is for has gone, or goes before it can hear. */
static void on_discarded(struct post_msg *msg)
{
    wish_free(OWNER(msg, struct wish, msg));
}

/* Back at the worker. Seats may be left, and others taken, by those who are told. */
static void on_answered(struct post_msg *msg)
{
    struct wish *w = OWNER(msg, struct wish, msg);
    struct list *n;
    list_remove(&w->node); /* who comes now has to wish anew */
    while ((n = list_first(&w->seats))) {
        struct seat *seat = OWNER(n, struct seat, node);
        list_remove(&seat->node);
        seat->on_pool(seat, w->err.cause == CAUSE_NONE ? NULL : &w->err);
    }
    wish_free(w);
}

void wish_answer(struct wish *w, const struct err *err)
{
    w->err = err ? *err : (struct err){0};
    post_init(&w->msg, on_answered, on_discarded);
    post(w->front->loop, &w->msg);
}

static void on_asked(struct post_msg *msg)
{
    struct wish *w = OWNER(msg, struct wish, msg);
    w->front->on_wish(w, w->front->wish_arg);
}

static struct span keep(struct wish *w, struct span s)
{
    uint8_t *at = w->text + w->size;
    if (!s.p)
        return s;
    if (s.n)
        memcpy(at, s.p, s.n);
    w->size += s.n;
    return span_of(at, s.n);
}

static struct wish *wish_new(struct route *head, const struct pool_identity *id)
{
    struct front *f = head->front;
    size_t size = id->database.n + id->user.n + id->password.n + id->key.n + id->application.n;
    struct wish *w = calloc(1, sizeof *w + size);
    if (!w)
        return NULL;
    w->front = f;
    w->head = pool_ledger(head->pool);
    w->id = *id;
    w->id.database = keep(w, id->database);
    w->id.user = keep(w, id->user);
    w->id.password = keep(w, id->password);
    w->id.key = keep(w, id->key);
    w->id.application = keep(w, id->application);
    list_init(&w->seats);
    list_init(&w->pending);
    list_init(&w->node);
    list_push_back(&f->wishes, &w->node);
    post_init(&w->msg, on_asked, on_discarded);
    post(f->control, &w->msg);
    return w;
}

bool wish_for(struct route *head, const struct pool_identity *id, struct seat *seat)
{
    struct wish *w = NULL;
    LIST_EACH(n, &head->front->wishes) {
        struct wish *other = OWNER(n, struct wish, node);
        if (other->head == pool_ledger(head->pool) && span_eq(other->id.key, id->key))
            w = other;
    }
    if (!w && !(w = wish_new(head, id)))
        return false;
    list_push_back(&w->seats, &seat->node);
    return true;
}
