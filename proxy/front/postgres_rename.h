/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Prepared statements of clients on shared servers: what the files of this part have in common.
 *
 *     postgres_rename.c          the client's messages, and what is sent for them
 *     postgres_unnamed.c         the unnamed statement
 *     postgres_dealloc.c         DEALLOCATE and DISCARD ALL in SQL
 *     postgres_rename_answers.c  the server's answers and errors, and the end
 */
#include "pools/postgres_prepared.h"
#include "proxy/front/postgres.h"
#include "proxy/front/postgres_statements.h"

/* Messages whose ends are waited for: looked through for each message, so there is a bound. A
 * server keeps back 8 KiB of answers at most, which are less than this: waiting for some of them
 * ends without a Sync or Flush, too. */
enum { PG_RENAMING_MAX = 4096 };

/* Refers to nothing on any server. */
#define PG_NOWHERE "cp_0"

struct pg_pending {
    struct list node;
    enum pg_token token;
    uint32_t number;         /* of the server's statement; 0: none */
    bool again;              /* it should be there already: this fails */
    bool unread;             /* NAMED: an unnamed statement whose text is not kept */
    bool all;                /* of deallocs: of all names, and of servers' up to `number` */
    struct pg_statement *st; /* NAMED, PARSE_LOCAL: what the name is to mean */
    uint32_t batch;          /* sent in it, by pg_flow's ends_sent */
    uint32_t nth;            /* in the order of what was sent */
    uint32_t bytes;          /* of memory that nobody else needs */
    uint32_t n;
    uint8_t name[];
};

/* The unnamed statement. */
struct pg_unnamed {
    uint8_t *body; /* of the Parse behind its name */
    uint32_t n, cap;
    uint32_t id;    /* which one a server has */
    uint32_t batch; /* sent in it */
    uint32_t nth;   /* in the order of what was sent */
    bool there;
    bool kept; /* its text is; else it is on its server alone */
};

struct pg_client_statements {
    struct pg_names *names;
    struct list pending;  /* in the order of pg_flow's renamed tokens */
    size_t pending_bytes; /* of names and texts that are waited for */
    struct list deallocs; /* DEALLOCATE and DISCARD ALL under way */
    struct pg_unnamed now;
    uint32_t before_of;   /* what the server at hand had before a Query that may be discarded */
    bool before;          /* so did the client */
    uint32_t query_end;   /* when that will be known, by pg_flow's ends_sent */
    uint32_t query_nth;   /* the latest Query, in the order of what was sent */
    bool query_doubtful;  /* it may be discarded */
    uint32_t unnamed_ids; /* given out */
    uint32_t bound;       /* the `nth` of one that was used in the batch that brought it */
    uint32_t nth;
};

/* The session's; made if need be. NULL: no memory. */
struct pg_client_statements *pg_rename_statements(struct pg_session *s);

/* A renamed token goes into the flow next. NULL: no memory. */
struct pg_pending *pg_rename_pending_add(struct pg_session *s, enum pg_token token, uint32_t number,
                                         struct span name, struct pg_statement *st);
/* The same for one of the lists of struct pg_client_statements. */
struct pg_pending *pg_rename_enlist(struct pg_session *s, struct list *l, enum pg_token token,
                                    uint32_t number, struct span name, struct pg_statement *st);
void pg_rename_pending_free(struct pg_session *s, struct pg_pending *p);
struct pg_pending *pg_rename_pending_first(const struct list *l);
/* The latest of a list that speaks of the name. */
const struct pg_pending *pg_rename_speaks_of(const struct list *l, struct span name);

/*
 * What a name means when the server comes to what is sent now; *st NULL: nothing. False: it depends
 * on what a batch before this one will turn out to be: wait for that.
 */
bool pg_rename_meaning(const struct pg_session *s, struct span name, struct pg_statement **st);
/*
 * The client's message m goes out with the name at `at` (and its NUL) replaced; what was looked at
 * before it goes first. Then the flow is told.
 */
void pg_rename_put_renamed(struct pg_outbox *o, const struct pg_msg *m, struct span at,
                           const char *name, size_t name_n);
enum pg_named pg_rename_sent(struct pg_session *s, const struct pg_msg *m);

/* A message of n body bytes begins, with `head` of them here; the rest follows from elsewhere. */
uint8_t *pg_rename_put_head(struct pg_outbox *o, uint8_t type, size_t n, size_t head);
void pg_rename_put_parse(struct pg_outbox *o, const char *name, size_t name_n, struct span body);

/* ---- DEALLOCATE ---- */

/* A Query that may do that. PASS: it goes out as it is. */
enum pg_named pg_dealloc_query(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o);
/* A Bind of a statement that may, of this name and text, which the server has. PASS: as any
 * other. */
enum pg_named pg_dealloc_bind(struct pg_session *s, const struct pg_msg *m, struct span name,
                              struct span text, struct pg_outbox *o);
/* It was done, says a tag. False: of one that was sent as it is. */
bool pg_dealloc_done(struct pg_session *s);
void pg_dealloc_all_done(struct pg_session *s);
/* ReadyForQuery: what was not done by now is not done. */
void pg_dealloc_ready(struct pg_session *s);
/* Servers' statements up to this number may be gone when the server comes to what is sent now. */
uint32_t pg_dealloc_after(const struct pg_session *s);

/* ---- unnamed ---- */

/* A Parse of it. PASS: the message goes out as it is. */
enum pg_named pg_unnamed_parse(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o);
/* It is used: PASS: this server has it, or is given it; OTHER: it must be told that there is none,
 * whatever another client left there; FULL: who knows, wait. */
enum pg_named pg_unnamed_ensure(struct pg_session *s, struct pg_outbox *o);
/* A Parse or Close of it that may be discarded: sent, and the end is waited for. */
enum pg_named pg_unnamed_change(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o);
/* That end: answered, failed, or (neither) discarded. */
void pg_unnamed_settle(struct pg_session *s, const struct pg_pending *p, bool well, bool failed);
/* A Bind of it is sent. */
void pg_unnamed_bound(struct pg_session *s);
/* A Parse of it that no server has heard: the next one is given it. False: no memory. */
bool pg_unnamed_local(struct pg_session *s, struct span body);
/* The server at hand has it, and no other. */
void pg_unnamed_note(struct pg_session *s, bool kept, uint32_t nth);
/* What it says, behind what was sent so far; empty: it is not kept. */
struct span pg_unnamed_text(const struct pg_session *s);
/* A simple query ends it, unless it is discarded. */
void pg_unnamed_query(struct pg_session *s);
void pg_unnamed_forget(struct pg_session *s);
