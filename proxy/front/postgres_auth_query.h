/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Users that only the database knows: auth.query, run on one of the pool's own servers.
 *
 * Per route (one pool on one worker) a bounded cache of answers, also of "there is no such user".
 * Each name is asked for once, however many clients wait for it; at most PG_TALKS names at a time,
 * so that strangers who make names up cannot keep the pool's servers busy. The worker's thread.
 */
#include "pools/pool.h"
#include "proxy/core/list.h"
#include "proxy/core/span.h"

enum {
    PG_TALKS = 2,          /* servers leased for this, per route */
    PG_LOOKUPS_MAX = 1000, /* names known or being asked for, per route */
    PG_SECRET_MAX = 1024
};

struct pg_lookups;

/* What is known of a name. */
struct pg_found {
    bool exists; /* and has not expired */
    size_t secret_n;
    char secret[PG_SECRET_MAX]; /* as the query gave it; empty: none */
};

/* Who waits for an answer; embedded in the caller's. */
struct pg_asker {
    struct list node;
    /* Once, from the loop. err NULL: *found is the answer, until this returns. */
    void (*on_found)(struct pg_asker *a, const struct pg_found *found, const struct err *err);
};

/* query NULL: nothing is asked; the table is made when it is needed and follows a changed query. */
struct pg_lookups *pg_lookups_get(struct pg_lookups **ls, struct pool *p, struct loop *loop,
                                  const char *query, uint64_t ttl_ms);
void pg_lookups_free(struct pg_lookups *ls);
/* Why those who were told to WAIT still do. */
void pg_lookups_why(const struct pg_lookups *ls, struct err *err);

enum pg_look { PG_LOOK_KNOWN, PG_LOOK_WAIT, PG_LOOK_REFUSED };
/* KNOWN: *found. WAIT: on_found() is called, or pg_asker_drop(). REFUSED: *err says why. */
MUST_USE enum pg_look pg_look_up(struct pg_lookups *ls, struct span name, struct pg_asker *asker,
                                 struct pg_found *found, struct err *err);
static inline void pg_asker_drop(struct pg_asker *a)
{
    list_remove(&a->node);
}
