/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The queue under pg_flow: what was asked, in order, as runs of equal tokens in a ring of 2-byte
 * cells. The first cells live inside the struct; deeper pipelines get an array that doubles up to a
 * bound.
 *
 *     bits 15..5  how many (1 to 2047)     bit 4  maybe     bits 3..0  enum pg_token
 *
 * COPY_END is a mark between tokens: it has no answer, is not counted in `due`, and never stands in
 * front. SYNC never shares a cell, so that a single one can be marked maybe in place; nothing else
 * ever is.
 */
#include "proxy/core/base.h"

enum {
    PG_QUEUE_HERE = 16,       /* cells inside the struct; a power of two */
    PG_QUEUE_MAX = 64 * 1024, /* cells; a power of two. 128 KiB */
    PG_QUEUE_KEEP = 1024      /* an empty queue gives a larger array back */
};

enum pg_token {
    PG_TOKEN_NONE,
    PG_TOKEN_QUERY,
    PG_TOKEN_FUNCTION,
    PG_TOKEN_SYNC,
    PG_TOKEN_PARSE,
    PG_TOKEN_BIND,
    PG_TOKEN_CLOSE,
    PG_TOKEN_DESCRIBE_PORTAL,
    PG_TOKEN_DESCRIBE_STATEMENT,
    PG_TOKEN_EXECUTE,
    PG_TOKEN_COPY_END, /* CopyDone or CopyFail */
    /* Prepared statements that many clients share: what the relay adds, or answers itself. */
    PG_TOKEN_NAMED,       /* a client's Parse or Close, whose end is of interest */
    PG_TOKEN_PARSE_OWN,   /* a Parse of ours, whose answer no client sees */
    PG_TOKEN_CLOSE_OWN,   /* a Close of ours, likewise */
    PG_TOKEN_PARSE_LOCAL, /* a client's Parse that no server sees: answered when it is in front */
    PG_TOKEN_CLOSE_LOCAL, /* a client's Close, likewise */
    PG_TOKENS
};

struct pg_queue {
    uint16_t *far; /* NULL: the cells are in here[] */
    uint32_t head, used, cap;
    uint32_t due;   /* answers, maybes included */
    uint32_t maybe; /* of them */
    uint16_t here[PG_QUEUE_HERE];
};

void pg_queue_init(struct pg_queue *q);
void pg_queue_fini(struct pg_queue *q);

/* Room for n more tokens (at most PG_QUEUE_HERE), whatever they are? False if the bound or memory
 * is exhausted. */
MUST_USE bool pg_queue_reserve(struct pg_queue *q, uint32_t n);
/* False if the bound or memory is exhausted; nothing changed then. */
MUST_USE bool pg_queue_push(struct pg_queue *q, enum pg_token token);
/* Puts back what was just popped, in front of everything. It must not have been a maybe. */
void pg_queue_unpop(struct pg_queue *q, enum pg_token token);
/* NONE if empty; otherwise never COPY_END. */
enum pg_token pg_queue_front(const struct pg_queue *q);
bool pg_queue_front_maybe(const struct pg_queue *q);
/* Takes the front token off, and COPY_END marks that are then in front. */
void pg_queue_pop(struct pg_queue *q);
/* The same, but leaves COPY_END marks; for walking up to one. */
enum pg_token pg_queue_pop_any(struct pg_queue *q);

/* Cells, for marking: cell 0 is the front one. */
static inline uint32_t pg_queue_cells(const struct pg_queue *q)
{
    return q->used;
}
enum pg_token pg_queue_cell(const struct pg_queue *q, uint32_t i);
bool pg_queue_cell_maybe(const struct pg_queue *q, uint32_t i);
/* Makes it a maybe. */
void pg_queue_cell_mark(struct pg_queue *q, uint32_t i);
