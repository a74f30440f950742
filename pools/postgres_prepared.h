/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Which prepared statements a Postgres server has, of those that clients share: a bounded cache,
 * least recently used first out. A client's names mean nothing here: a statement is known by what
 * it says (a digest of its text and parameter types) and by the settings it was parsed under, and
 * carries the name "cp_N" on its server, with an N that is never used twice there. So a server can
 * serve any client that has a statement of the same text, on any worker: the cache holds no
 * pointer and travels with its server.
 *
 *                  Parse sent            answered
 *     (not there) ------------> PARSING ----------> READY
 *          ^  ^                    |                 |  ^
 *          |  +---- discarded -----+                 |  | discarded
 *          |                              Close sent v  |
 *          +-------------------- answered ---------- CLOSING
 *
 * What the server has not confirmed yet is only good for the batch it was sent in: an error before
 * it may have discarded it. Later batches prepare the statement again, under another name.
 */
#include "proxy/core/list.h"
#include "proxy/core/span.h"

/* What a statement is known by. */
struct pg_statement_key {
    uint8_t digest[16];
    uint64_t settings; /* pg_params_planning() of the server when it parsed it */
    uint32_t edition;  /* of the text: counts up when its results change ("cached plan ...") */
};

enum pg_prepared_state { PG_PREPARED_PARSING, PG_PREPARED_READY, PG_PREPARED_CLOSING };

struct pg_prepared {
    struct list node; /* by use, latest first */
    struct list hash; /* of its bucket */
    struct pg_statement_key key;
    uint32_t number; /* "cp_<number>" */
    uint32_t bytes;  /* of its text */
    uint32_t batch;  /* PARSING: sent in this one, by pg_flow's ends_sent */
    uint8_t state;   /* enum pg_prepared_state */
    bool stale;      /* not to be found any more: close it when there is a chance */
};

struct pg_prepared_cache; /* NULL: empty */

/* "cp_4711" */
enum { PG_PREPARED_NAME = 16 };
size_t pg_prepared_name(uint32_t number, char to[PG_PREPARED_NAME]);

void pg_prepared_free(struct pg_prepared_cache **c);
/* The latest number given out. */
uint32_t pg_prepared_last(const struct pg_prepared_cache *c);
/* The server forgot them all (DISCARD ALL, DEALLOCATE ALL) up to this number; a Parse not answered
 * yet came later. */
void pg_prepared_forget(struct pg_prepared_cache *c, uint32_t upto);
size_t pg_prepared_count(const struct pg_prepared_cache *c);

/* A statement that can be used in batch `batch`, of a number above `after`; it counts as used.
 * NULL: not there. */
struct pg_prepared *pg_prepared_find(struct pg_prepared_cache *c,
                                     const struct pg_statement_key *key, uint32_t batch,
                                     uint32_t after);
struct pg_prepared *pg_prepared_by_number(struct pg_prepared_cache *c, uint32_t number);
/* A Parse for it, of so many bytes, is sent in this batch. NULL: no memory. */
struct pg_prepared *pg_prepared_add(struct pg_prepared_cache **c,
                                    const struct pg_statement_key *key, uint32_t bytes,
                                    uint32_t batch);
/*
 * One that should be closed now: stale, or the least recently used when there are more than `max`
 * that are not being closed, or their texts are longer than `max_bytes`. Never one that is not
 * confirmed, or was used in this batch. It becomes CLOSING. NULL: none.
 */
struct pg_prepared *pg_prepared_surplus(struct pg_prepared_cache *c, size_t max, size_t max_bytes,
                                        uint32_t batch);

/* The Parse or Close of number N was answered well, or will not be answered. */
void pg_prepared_settle(struct pg_prepared_cache *c, uint32_t number, bool well);
/* Not to be found any more. All: of those that are confirmed. */
void pg_prepared_stale_all(struct pg_prepared_cache *c);
void pg_prepared_stale(struct pg_prepared_cache *c, uint32_t number);
/* What was parsed or used in batches from `batch` on is stale: the server's settings have changed
 * meanwhile, or its results have. `each` (may be NULL) is told of each. */
void pg_prepared_unsettled(struct pg_prepared_cache *c, uint32_t batch,
                           void (*each)(const struct pg_prepared *p, void *arg), void *arg);
