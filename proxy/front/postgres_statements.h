/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Prepared statements as clients know them: what each says, kept once per worker however many
 * clients have it, and the names each client gave. (What servers have of them:
 * pools/postgres_prepared.h.) Everything here belongs to one worker's thread.
 */
#include "proxy/core/list.h"
#include "proxy/core/span.h"
#include "proxy/wire/postgres_text.h"

struct pg_statements; /* all of a pool's clients on one worker */
struct pg_names;      /* one client's; NULL: none yet */

struct pg_statement {
    struct list node;
    uint8_t digest[16];
    uint32_t
        edition; /* what its name on servers is counted by: its results have changed so often */
    uint32_t refs;
    struct pg_trace trace; /* what it leaves behind; its name points into body */
    bool dated;            /* see pg_text_dated(): each Parse of it is another statement */
    bool commits;          /* it is a COMMIT: see pg_flow_note_commit() */
    uint32_t n;
    uint8_t body[]; /* of a Parse message, behind the name: text, parameter types */
};

struct pg_statements *pg_statements_new(void);
/* None may be in use any more. */
void pg_statements_free(struct pg_statements *t);
/* The one that says this; NULL: no memory. One reference of the caller's. */
struct pg_statement *pg_statement_take(struct pg_statements *t, struct span body);
struct pg_statement *pg_statement_again(struct pg_statement *st);
void pg_statement_drop(struct pg_statement **st);

/* How much of a client's memory they are: names and texts, though texts may be shared. */
size_t pg_names_count(const struct pg_names *m);
size_t pg_names_bytes(const struct pg_names *m);
struct pg_statement *pg_names_get(const struct pg_names *m, struct span name);
/* The name of a statement that is known on a server by this digest; empty: none. */
struct span pg_names_find(const struct pg_names *m, const uint8_t digest[16]);
/* The statements of this digest count as another edition from now on. */
void pg_names_outdate(struct pg_names *m, const uint8_t digest[16]);
/* Takes a reference of its own. False: no memory. */
bool pg_names_put(struct pg_names **m, struct span name, struct pg_statement *st);
void pg_names_remove(struct pg_names *m, struct span name);
/* All of them, and the map's own memory. */
void pg_names_free(struct pg_names **m);
