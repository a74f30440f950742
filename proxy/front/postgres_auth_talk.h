/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One conversation of auth.query: leases a server of the pool, asks it for one name, gives it back.
 * The worker's thread. Used again and again, for one name at a time.
 */
#include "pools/postgres.h"
#include "proxy/front/postgres_auth_query.h"

enum { PG_TALK_NAME = 128, PG_TALK_MS = 5000 };

struct pg_talk {
    struct pool *pool;
    struct loop *loop;
    /* Once per start, from the loop, never inside pg_talk_start(). err NULL: `found`, and `seconds`
     * until that expires (infinite: never). It may be started again from here. */
    void (*on_done)(struct pg_talk *t, const struct err *err);
    struct pg_found found;
    double seconds;
    /* its own */
    char *query;
    size_t name_n;
    char name[PG_TALK_NAME];
    struct waiter waiter;
    struct deferred later; /* begins what a lease without waiting has settled */
    struct pg_server *server;
    struct timer timer;
    unsigned completed; /* statements that have ended */
    bool answered;      /* a row of the query was read */
    struct err err;     /* cause NONE: well so far */
};

void pg_talk_init(struct pg_talk *t, struct pool *p, struct loop *loop,
                  void (*on_done)(struct pg_talk *t, const struct err *err));
/* name: at most PG_TALK_NAME bytes, without NUL. The texts are copied. */
void pg_talk_start(struct pg_talk *t, const char *query, struct span name);
/* Ends it without a word, whatever it is doing. */
void pg_talk_abort(struct pg_talk *t);
