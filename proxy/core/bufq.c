/* SPDX-License-Identifier: MIT */
#include "proxy/core/bufq.h"

#include <stdlib.h>

struct chunk *chunk_get(struct chunk_pool *cp)
{
    struct chunk *c = cp->free;
    if (c) {
        cp->free = c->next;
        cp->n_free--;
    } else {
        c = malloc(sizeof *c);
        if (!c)
            return NULL;
    }
    c->next = NULL;
    c->start = c->end = 0;
    return c;
}

void chunk_put(struct chunk_pool *cp, struct chunk *c)
{
    if (cp->n_free >= cp->keep) {
        free(c);
        return;
    }
    c->next = cp->free;
    cp->free = c;
    cp->n_free++;
}

void chunk_pool_init(struct chunk_pool *cp, unsigned keep)
{
    *cp = (struct chunk_pool){.keep = keep};
}

void chunk_pool_fini(struct chunk_pool *cp)
{
    while (cp->free) {
        struct chunk *c = cp->free;
        cp->free = c->next;
        free(c);
    }
    cp->n_free = 0;
}

/* Makes sure n bytes fit behind the tail's end, so that an append cannot stop half way. */
static bool reserve(struct chunk_pool *cp, struct bufq *q, size_t n, struct chunk **fresh)
{
    size_t room = q->tail ? CHUNK_DATA - q->tail->end : 0;
    struct chunk **link = fresh;
    *fresh = NULL;
    while (room < n) {
        struct chunk *c = chunk_get(cp);
        if (!c) {
            while (*fresh) {
                struct chunk *next = (*fresh)->next;
                chunk_put(cp, *fresh);
                *fresh = next;
            }
            return false;
        }
        *link = c;
        link = &c->next;
        room += CHUNK_DATA;
    }
    return true;
}

bool bufq_append(struct chunk_pool *cp, struct bufq *q, struct span s)
{
    if (s.n == 0)
        return true;
    struct chunk *fresh;
    if (!reserve(cp, q, s.n, &fresh))
        return false;
    struct chunk *c = q->tail;
    if (!c) {
        q->head = c = fresh;
    } else {
        c->next = fresh;
    }
    q->len += s.n;
    for (;;) {
        size_t n = CHUNK_DATA - c->end;
        if (n > s.n)
            n = s.n;
        memcpy(c->data + c->end, s.p, n);
        c->end += (uint32_t)n;
        s = span_skip(s, n);
        if (s.n == 0)
            break;
        c = c->next;
    }
    q->tail = c;
    return true;
}

int bufq_iov(const struct bufq *q, struct iovec *iov, int max)
{
    int n = 0;
    for (struct chunk *c = q->head; c && n < max; c = c->next)
        iov[n++] = (struct iovec){c->data + c->start, c->end - c->start};
    return n;
}

void bufq_consume(struct chunk_pool *cp, struct bufq *q, size_t n)
{
    CHECK(n <= q->len);
    q->len -= n;
    while (q->head) {
        struct chunk *c = q->head;
        size_t have = c->end - c->start;
        if (n < have) {
            c->start += (uint32_t)n;
            return;
        }
        n -= have;
        q->head = c->next;
        chunk_put(cp, c);
    }
    q->tail = NULL;
}

size_t bufq_peek(const struct bufq *q, uint8_t *to, size_t n)
{
    size_t done = 0;
    for (const struct chunk *c = q->head; c && done < n; c = c->next) {
        size_t part = c->end - c->start;
        if (part > n - done)
            part = n - done;
        memcpy(to + done, c->data + c->start, part);
        done += part;
    }
    return done;
}

void bufq_clear(struct chunk_pool *cp, struct bufq *q)
{
    bufq_consume(cp, q, q->len);
}
