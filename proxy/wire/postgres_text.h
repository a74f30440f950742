/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The first words of a query: enough to tell transaction control from the rest, skipping blanks and
 * (nested) comments as the server does. This is no SQL parser: what is not recognised for certain
 * is PG_VERB_OTHER. Pure; looks at a bounded number of words, but skips comments of any length.
 */
#include "proxy/core/span.h"

enum pg_verb {
    PG_VERB_EMPTY,    /* nothing but blanks, comments and semicolons */
    PG_VERB_BEGIN,    /* BEGIN, START TRANSACTION */
    PG_VERB_COMMIT,   /* COMMIT, END */
    PG_VERB_ROLLBACK, /* ROLLBACK, ABORT */
    PG_VERB_PREPARE,  /* PREPARE TRANSACTION */
    PG_VERB_OTHER     /* also ROLLBACK TO, COMMIT PREPARED, ROLLBACK PREPARED, SAVEPOINT, ... */
};

struct pg_text {
    enum pg_verb verb;
    bool
        single; /* EMPTY, COMMIT, ROLLBACK: nothing else follows but blanks, comments, semicolons */
    bool chain; /* COMMIT, ROLLBACK: ... AND CHAIN, which begins the next transaction */
};

/* `text`: a query without its NUL; ends at a NUL if there is one. If it is only the beginning of a
 * query (cut off), use `verb` and not `single`. */
struct pg_text pg_text_look(struct span text);

/* Which prepared statements a statement ends. */
enum pg_drops {
    PG_DROPS_NONE,
    PG_DROPS_ONE, /* DEALLOCATE [PREPARE] name */
    PG_DROPS_ALL  /* DEALLOCATE [PREPARE] ALL, DISCARD ALL */
};
/* The first statement of a text. ONE: *name is the name as it stands there (see pg_text_name());
 * one longer than names of the server's is NONE. */
enum pg_drops pg_text_drops(struct span text, struct span *name);

/* What a statement leaves behind in the server's session, as far as its words or its tag show. */
enum pg_leaves {
    PG_LEAVES_NOTHING,         /* or nothing that can be seen here */
    PG_LEAVES_SETTING,         /* the setting `name` */
    PG_LEAVES_CHARACTERISTICS, /* default_transaction_isolation, _read_only, _deferrable */
    PG_LEAVES_SETTINGS,        /* some settings */
    PG_LEAVES_TEMPORARY,       /* a temporary table, view or sequence */
    PG_LEAVES_CURSOR,          /* a cursor WITH HOLD, `name` */
    PG_LEAVES_LOCK,            /* an advisory lock of the session */
    PG_LEAVES_LIBRARY,         /* LOAD */
    PG_LEAVES_RESET,           /* RESET name, or (no name) RESET ALL */
    PG_LEAVES_PREPARED,        /* PREPARE; by its tag */
    PG_LEAVES_LISTEN,          /* by its tag */
    PG_LEAVES_STATEMENT        /* a prepared statement of the protocol's; no text says so */
};
#define PG_LEFT(what) (1u << PG_LEAVES_##what)

struct pg_trace {
    enum pg_leaves leaves;
    uint16_t
        ends;    /* PG_LEFT() of what it ends for certain if it is done; the cursor `name` alone if
                      there is one. NOTHING: it leaves and ends nothing else */
    bool empty;  /* no statement: it has no tag */
    bool set;    /* the command is SET: its tag is accounted for */
    bool parses; /* it sets, LOCAL or not, what the server does not report and reads texts by */
    bool drops;  /* it may end prepared statements: see pg_text_drops() */
    bool resets; /* it is a RESET, or a DISCARD ALL */
    struct span name; /* in the text; as the server has it (TimeZone for SET TIME ZONE) */
};
/* Of the first statement of a text (its beginning will do; but without its NUL it `ends` nothing);
 * set_config() and advisory locks are found anywhere in it. */
struct pg_trace pg_text_trace(struct span text);
/* A name in a text as the server reads it: folded to lower case unless quoted. Its length, 0 if it
 * does not fit. */
size_t pg_text_name(struct span name, uint8_t *to, size_t cap);

/* Is there a constant like 'now' or 'today' in it? The server takes it for the time at which it
 * reads the text. (Not seen: what is written with escapes or dollars.) */
bool pg_text_dated(struct span text);

/* Goes on to the statement behind the first `;` that is no part of a string, name or comment.
 * False: there is none. */
bool pg_text_next(struct span *text);
