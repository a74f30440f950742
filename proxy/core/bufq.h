/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A queue of bytes in 4 KiB chunks from the thread's free list: what a peer did not take yet, or
 * what cannot be used yet. It owns no memory while it is empty. Bounds are the caller's: look at
 * `len` before you append. A queue with bytes in it belongs to one thread's chunk pool and must not
 * travel.
 */
#include <sys/uio.h>

#include "proxy/core/span.h"

#define CHUNK_DATA 4072

struct chunk {
    struct chunk *next;
    uint32_t start, end;
    uint8_t data[CHUNK_DATA];
};

struct chunk_pool {
    struct chunk *free;
    unsigned n_free, keep; /* beyond `keep` chunks go back to the allocator */
};

struct bufq {
    struct chunk *head, *tail;
    size_t len;
};

void chunk_pool_init(struct chunk_pool *cp, unsigned keep);
void chunk_pool_fini(struct chunk_pool *cp);

/* A single chunk for other uses of the thread's: empty; NULL when memory is out. */
struct chunk *chunk_get(struct chunk_pool *cp);
void chunk_put(struct chunk_pool *cp, struct chunk *c);

/* Copies s to the end. False, with nothing appended, if memory ran out. */
MUST_USE bool bufq_append(struct chunk_pool *cp, struct bufq *q, struct span s);

/* Up to max segments from the front; returns how many. */
int bufq_iov(const struct bufq *q, struct iovec *iov, int max);

/* Drops n bytes from the front; n must not exceed q->len. */
void bufq_consume(struct chunk_pool *cp, struct bufq *q, size_t n);

/* Copies up to n bytes from the front without dropping them; returns how many. */
size_t bufq_peek(const struct bufq *q, uint8_t *to, size_t n);

void bufq_clear(struct chunk_pool *cp, struct bufq *q);
