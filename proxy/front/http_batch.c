/* SPDX-License-Identifier: MIT */
#include "proxy/front/http_batch.h"

#include "proxy/wire/http_forward.h"

void hr_batch_init(struct hr_batch *b, struct hr_session *s, struct loop *loop,
                   void (*send)(struct hr_session *, const struct hr_batch *))
{
    b->s = s;
    b->send = send;
    b->n = 0;
    b->redo = b->used = 0;
    b->mem = loop->scratch + LOOP_CARRY_MAX;
}

void hr_batch_flush(struct hr_batch *b)
{
    if (b->n)
        b->send(b->s, b);
    b->n = 0;
    b->redo = b->used = 0;
}

/* The next n bytes of mem, already written, behind what is there. */
void hr_batch_wrote(struct hr_batch *b, size_t n)
{
    CHECK(n <= HR_BATCH_MEM - b->used);
    uint8_t *at = b->mem + b->used;
    struct iovec *last = b->n ? &b->iov[b->n - 1] : NULL;
    if (last && (uint8_t *)last->iov_base + last->iov_len == at) {
        last->iov_len += n;
    } else {
        CHECK(b->n < HR_IOVS);
        b->iov[b->n++] = (struct iovec){at, n};
    }
    b->used += n;
}

void hr_batch_put(struct hr_batch *b, struct span piece)
{
    if (!piece.n)
        return;
    bool small = piece.n <= HR_SMALL;
    /* One entry stays free for a head behind it. */
    if (b->n >= HR_IOVS - 1 || (small && piece.n > HR_BATCH_MEM - b->used))
        hr_batch_flush(b);
    if (small) {
        memcpy(b->mem + b->used, piece.p, piece.n);
        hr_batch_wrote(b, piece.n);
        return;
    }
    b->iov[b->n++] = (struct iovec){(void *)(uintptr_t)piece.p, piece.n};
}

void hr_batch_put_chunk(struct hr_batch *b, struct span payload)
{
    uint8_t open[HTTP_CHUNK_OPEN_MAX];
    if (!payload.n)
        return;
    hr_batch_put(b, span_of(open, http_chunk_open(open, payload.n)));
    hr_batch_put(b, payload);
    hr_batch_put(b, HTTP_CHUNK_CLOSE);
}
