/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What a session leaves on its server: what the files of this part have in common.
 *
 *     postgres_follow.c  texts, tags, what is to be asked for
 *     postgres_ask.c     asking for it
 *     postgres_pins.c    what keeps the server, and when that ends
 *     postgres_named.c   prepared statements that are the server's own
 */
#include "proxy/front/postgres.h"

enum { PG_NAMES_MAX = 16, PG_NAME_BYTES = 63, PG_RESETS_MAX = 4, PG_CURSORS_MAX = 4 };

struct pg_name {
    bool reset; /* of a setting to be asked for: it need not be, if a RESET is committed */
    bool asked; /* of a RESET: what came of it will be asked for */
    bool set;   /* of a RESET: it is a SET ... TO DEFAULT, and its tag says SET */
    uint8_t n;
    uint32_t batch; /* of a RESET: sent in it, by pg_flow's ends_sent */
    uint8_t text[PG_NAME_BYTES];
};

static inline struct span pg_name_span(const struct pg_name *name)
{
    return span_of(name->text, name->n);
}

/* A prepared statement that is a RESET. */
struct pg_resetter {
    struct pg_name statement, what; /* what.set: a SET ... TO DEFAULT */
};

/* What is known of how a transaction ended; both: who knows. */
struct pg_end {
    bool committed, failed;
};

struct pg_follow {
    unsigned seen;     /* SETs sent whose tags are still to come */
    unsigned leaves;   /* PG_LEFT() of what was sent; pins when it is done */
    unsigned n_resets; /* RESETs sent: of a name, or (empty) of all */
    unsigned n_reset;  /* of them, done: they count at the end of the query ... */
    bool undone;       /* ... unless it has failed, or was rolled back */
    struct pg_name resets[PG_RESETS_MAX];
    struct pg_params *before; /* wanted before the transaction at hand did a RESET; NULL: none */
    struct pg_end end;        /* since then */
    uint64_t salt;            /* see pg_follow_salt() */
    uint32_t salts;           /* given out */
    unsigned n;               /* settings to be asked for */
    uint32_t batch;           /* the first of them was sent in it, by pg_flow's ends_sent */
    bool unasked;             /* a transaction that has set one of them is over */
    struct pg_name names[PG_NAMES_MAX];
    struct pg_trace unnamed; /* of the unnamed statement: it may be bound in a later batch */
    struct pg_name unnamed_name;
    unsigned n_resetters;
    struct pg_resetter resetters[PG_RESETS_MAX]; /* the latest of those that are the server's own */
    /* pins: of what was sent since nothing was due */
    unsigned ends;           /* PG_LEFT() of what it ends, if all of it is done */
    bool other;              /* something else is among it */
    unsigned n_sent, n_done; /* statements that end something; tags */
    struct pg_name closing;  /* the one cursor that is closed */
    unsigned ending;         /* PG_LEFT() of what ends with the transaction, if that is committed */
    unsigned n_cursors;      /* WITH HOLD */
    bool more_cursors;       /* than are known by name */
    struct pg_name cursors[PG_CURSORS_MAX];
};

/* The session's; made if need be. NULL: no memory. */
struct pg_follow *pg_have_follow(struct pg_session *s);
/* False: it is too long. */
bool pg_name_set(struct pg_name *to, struct span name);
/* State is there that nobody refused in time. */
void pg_follow_pin(struct pg_session *s, enum pg_leaves why);
/* An error, or a rollback: what was to end may not have. */
void pg_pins_failed(struct pg_follow *f);
/* A statement is sent while something pins; t NULL: nobody knows which. */
void pg_pins_sent(struct pg_session *s, const struct pg_trace *t);
/* A cursor WITH HOLD is declared. */
void pg_pins_declare(struct pg_session *s, struct span name);
/* Nothing is due; idle: nor is a transaction open. */
void pg_pins_ready(struct pg_session *s, bool idle);
void pg_pins_none(struct pg_session *s);
