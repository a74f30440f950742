/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Pieces of one turn for one peer, gathered into one writev: heads made here, payload where it was
 * read. Small pieces are copied next to each other, so that a message of many tiny chunks does not
 * become as many segments (or records of TLS).
 *
 * Lives on the stack of one function; `mem` is the upper part of the loop's scratch memory, payload
 * lies in the lower one.
 */
#include <sys/uio.h>

#include "proxy/core/loop.h"
#include "proxy/wire/http_out.h"

#define HR_IOVS 40
#define HR_SMALL 1024

struct hr_session;

struct hr_batch {
    struct hr_session *s;
    void (*send)(struct hr_session *s, const struct hr_batch *b);
    struct iovec iov[HR_IOVS];
    int n;
    size_t redo; /* bytes in front that can be made again: the head, what is kept of the body */
    uint8_t *mem;
    size_t used;
};

#define HR_BATCH_MEM LOOP_READ_MAX

void hr_batch_init(struct hr_batch *b, struct hr_session *s, struct loop *loop,
                   void (*send)(struct hr_session *, const struct hr_batch *));

/* Sends what was gathered. */
void hr_batch_flush(struct hr_batch *b);

/* Adds a piece; it must stay where it is until the flush if it is longer than HR_SMALL. */
void hr_batch_put(struct hr_batch *b, struct span piece);

/* A chunk with that payload; nothing for an empty one, which would be the last. */
void hr_batch_put_chunk(struct hr_batch *b, struct span payload);

/* Room to write a head into; hr_batch_wrote() adds its first n bytes. What was too small before a
 * flush is large enough after it. */
static inline struct http_out hr_batch_room(const struct hr_batch *b)
{
    return http_out_of(b->mem + b->used, HR_BATCH_MEM - b->used);
}
void hr_batch_wrote(struct hr_batch *b, size_t n);
