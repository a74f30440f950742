/* SPDX-License-Identifier: MIT */
#include "proxy/wire/postgres_queue.h"

#include <stdlib.h>

enum { TOKEN_BITS = 15, MAYBE = 16, ONE = 32, RUN_MAX = 0xffe0 };

static uint16_t *cell_at(const struct pg_queue *q, uint32_t i)
{
    const uint16_t *cells = q->far ? q->far : q->here;
    return (uint16_t *)(uintptr_t)&cells[(q->head + i) & (q->cap - 1)];
}

static enum pg_token token_of(uint16_t cell)
{
    return (enum pg_token)(cell & TOKEN_BITS);
}

static uint32_t run_of(uint16_t cell)
{
    return cell / ONE;
}

/* Adjusts the counts for n more (or fewer) tokens like those of the cell. */
static void count(struct pg_queue *q, uint16_t cell, uint32_t n)
{
    if (token_of(cell) == PG_TOKEN_COPY_END)
        return;
    q->due += n;
    if (cell & MAYBE)
        q->maybe += n;
}

_Static_assert(PG_TOKENS <= TOKEN_BITS + 1, "a token fits into its bits");

void pg_queue_init(struct pg_queue *q)
{
    *q = (struct pg_queue){.cap = PG_QUEUE_HERE};
}

void pg_queue_fini(struct pg_queue *q)
{
    free(q->far);
    pg_queue_init(q);
}

static bool grow(struct pg_queue *q)
{
    if (q->cap >= PG_QUEUE_MAX)
        return false;
    uint16_t *far = malloc(2 * sizeof *far * q->cap);
    if (!far)
        return false;
    for (uint32_t i = 0; i < q->used; i++)
        far[i] = *cell_at(q, i);
    free(q->far);
    q->far = far;
    q->head = 0;
    q->cap *= 2;
    return true;
}

bool pg_queue_reserve(struct pg_queue *q, uint32_t n)
{
    return q->used + n <= q->cap || grow(q);
}

bool pg_queue_push(struct pg_queue *q, enum pg_token token)
{
    uint16_t one = (uint16_t)(ONE | (unsigned)token);
    uint16_t *last = q->used ? cell_at(q, q->used - 1) : NULL;
    if (last && token != PG_TOKEN_SYNC && (*last & (ONE - 1)) == (one & (ONE - 1)) &&
        *last < RUN_MAX) {
        *last = (uint16_t)(*last + ONE);
    } else {
        if (q->used == q->cap && !grow(q))
            return false;
        *cell_at(q, q->used++) = one;
    }
    count(q, one, 1);
    return true;
}

void pg_queue_unpop(struct pg_queue *q, enum pg_token token)
{
    uint16_t one = (uint16_t)(ONE | (unsigned)token);
    uint16_t *first = q->used ? cell_at(q, 0) : NULL;
    if (first && (*first & (ONE - 1)) == (one & (ONE - 1)) && *first < RUN_MAX) {
        *first = (uint16_t)(*first + ONE);
    } else {
        CHECK(q->used < q->cap); /* popping left the room */
        q->head = (q->head - 1) & (q->cap - 1);
        q->used++;
        *cell_at(q, 0) = one;
    }
    count(q, one, 1);
}

enum pg_token pg_queue_front(const struct pg_queue *q)
{
    return q->used ? token_of(*cell_at(q, 0)) : PG_TOKEN_NONE;
}

bool pg_queue_front_maybe(const struct pg_queue *q)
{
    return q->used && pg_queue_cell_maybe(q, 0);
}

enum pg_token pg_queue_pop_any(struct pg_queue *q)
{
    if (q->used == 0)
        return PG_TOKEN_NONE;
    uint16_t *first = cell_at(q, 0);
    uint16_t cell = *first;
    count(q, cell, UINT32_MAX);
    *first = (uint16_t)(cell - ONE);
    if (run_of(cell) == 1) {
        q->head = (q->head + 1) & (q->cap - 1);
        q->used--;
    }
    if (q->used == 0 && q->cap > PG_QUEUE_KEEP)
        pg_queue_fini(q);
    return token_of(cell);
}

void pg_queue_pop(struct pg_queue *q)
{
    do
        (void)pg_queue_pop_any(q);
    while (pg_queue_front(q) == PG_TOKEN_COPY_END);
}

enum pg_token pg_queue_cell(const struct pg_queue *q, uint32_t i)
{
    return token_of(*cell_at(q, i));
}

bool pg_queue_cell_maybe(const struct pg_queue *q, uint32_t i)
{
    return (*cell_at(q, i) & MAYBE) != 0;
}

void pg_queue_cell_mark(struct pg_queue *q, uint32_t i)
{
    uint16_t *cell = cell_at(q, i);
    CHECK(token_of(*cell) == PG_TOKEN_SYNC);
    if (*cell & MAYBE)
        return;
    *cell |= MAYBE;
    q->maybe++;
}
