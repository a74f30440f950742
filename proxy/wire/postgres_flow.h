/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What answers a Postgres server still owes, and with that: when it is free for somebody else. One
 * pg_flow belongs to one server connection while it is leased (or for its whole life: a clean
 * server has a clean flow). Used by the thread that owns the server. Pure but for one array that
 * grows when a client pipelines deeply.
 *
 * The relay tells it every message it forwards, in order, once, when the message begins: of the
 * client before its bytes go out, of the server when they come in. It models the server's own
 * rules:
 *
 *   - Each request puts a token into a queue; an answer takes it out. Query, FunctionCall and Sync
 *     end in ReadyForQuery; Parse, Bind, Describe, Execute and Close have one answer each; Flush
 *     has none.
 *   - An error of an extended message makes the server discard everything until Sync, also Query
 *     and FunctionCall, which then yield no ReadyForQuery. An error of a simple Query discards
 *     nothing.
 *   - COPY FROM STDIN reads the client's messages itself until CopyDone or CopyFail and ignores
 *     Sync and Flush there. Copy messages outside of COPY are ignored.
 *   - If such a COPY fails, nobody can tell which of the Syncs sent so far the server had read
 *     inside it (ignored) and which after it (answered). Those tokens become "maybe": they may be
 *     answered, and until later answers settle it the server is not idle but pg_flow_is_doubtful().
 *     If other requests stand among them, the flow is lost: it follows no longer, and the server is
 *     never idle again.
 */
#include "proxy/core/span.h"
#include "proxy/wire/postgres_queue.h"
#include "proxy/wire/postgres_swallow.h"

enum pg_tx { PG_TX_IDLE = 'I', PG_TX_OPEN = 'T', PG_TX_FAILED = 'E' };

enum pg_copy { PG_COPY_NONE, PG_COPY_IN, PG_COPY_OUT, PG_COPY_BOTH };

enum pg_flow_step {
    PG_FLOW_OK,    /* part of an answer that is due */
    PG_FLOW_READY, /* ReadyForQuery that was due: ask pg_flow_is_idle() after forwarding it */
    PG_FLOW_ASYNC, /* nothing was asked: notice, notification, parameter, a server's last error */
    PG_FLOW_FULL,  /* client only: PG_QUEUE_MAX; do not forward, ask again after answers */
    PG_FLOW_VIOLATION /* this message cannot come here: the peer is broken, the flow unusable */
};

struct pg_flow {
    struct pg_queue queue;
    uint8_t tx;      /* enum pg_tx, of the last ReadyForQuery */
    uint8_t copy;    /* enum pg_copy */
    bool described;  /* the front (Describe of a statement) had its ParameterDescription */
    bool errored;    /* the request in front, or the batch it ends, had its ErrorResponse */
    bool batch;      /* extended messages since the last Sync, Query or FunctionCall */
    bool skipping;   /* the server discards until a Sync that was not sent yet */
    bool doubt_open; /* as skipping, unless one of the maybes ended that */
    bool terminated; /* Terminate was sent */
    bool lost;       /* nobody can tell any more which answer is whose */
    /* for pg_flow_commit_in_flight(): ReadyForQuery asked for, come or dropped, the commit's */
    bool commit_sent;
    uint32_t ends_sent, ends_seen, commit_end;
    uint32_t mixed_end;    /* the last Query or FunctionCall that an error before it discards */
    uint64_t requests;     /* messages that ask for something, since init */
    uint32_t renamed_lost; /* tokens of pg_flow_renamed() that will not be answered; the caller
                              counts them down */
    bool renamed_done;     /* the message just told answered such a token ... */
    bool own_done;         /* ... of a message of ours: no client sees it */
    bool renamed_failed;   /* the first of renamed_lost failed; the others were discarded */
    bool parse_failed;     /* a Parse that was told by pg_flow_client() failed just now ... */
    uint32_t parse_end;    /* ... sent in this batch, by ends_sent */
    bool query_skipped;    /* a Query was discarded just now */
};

void pg_flow_init(struct pg_flow *f); /* a server right after login: idle, 'I' */
void pg_flow_fini(struct pg_flow *f);

/* A client's message is about to be forwarded. `prefix`: what there is of its body (Describe needs
 * its first byte; Query and Parse should show their first words). OK, FULL or VIOLATION. */
MUST_USE enum pg_flow_step pg_flow_client(struct pg_flow *f, uint8_t type, struct span prefix);

/* A server's message began. `prefix`: its body as far as it is there (ReadyForQuery must be
 * complete, CommandComplete should). A run of rows or copy data may be told once. */
MUST_USE enum pg_flow_step pg_flow_server(struct pg_flow *f, uint8_t type, struct span prefix);

/*
 * Prepared statements under names of the relay's: it says what it sends, adds or answers itself,
 * instead of pg_flow_client() for a client's Parse or Close, before it for messages of its own. All
 * tokens here come to an end in the order of these calls: answered (pg_flow_server() sets
 * renamed_done; pg_flow_local() returns it), or lost with their batch (renamed_lost counts up).
 *
 * Not to be called while pg_flow_discards(): pass such messages on as they are.
 */
void pg_flow_renamed(struct pg_flow *f, enum pg_token token);
/* Before anything of a client's message is forwarded or pushed: false: PG_FLOW_FULL. */
MUST_USE bool pg_flow_room(struct pg_flow *f);
/* The server discards what comes now, or nobody can follow it. */
static inline bool pg_flow_discards(const struct pg_flow *f)
{
    return f->skipping || f->doubt_open || f->lost || f->copy == PG_COPY_IN ||
           f->copy == PG_COPY_BOTH;
}
/* COPY FROM STDIN has its end, and what came of it is not known yet: whether it is discarded what
 * comes now depends on that. */
bool pg_flow_copy_ends(const struct pg_flow *f);
/* Is a _LOCAL token in front? It is taken out, and its answer is due to the client now. NONE: no.
 * Ask after every pg_flow_server() and pg_flow_renamed(). */
enum pg_token pg_flow_local(struct pg_flow *f);
/* Can nothing that was asked so far fail any more? Then `tx` is how the server will find its
 * transaction when it reads what is sent now. */
bool pg_flow_is_settled(const struct pg_flow *f);
/* A statement prepared earlier, that commits, is about to run. */
void pg_flow_note_commit(struct pg_flow *f);

/*
 * The release rule: the server said 'I', owes no answer, and the client sent nothing since. The
 * relay adds what it alone knows: both framers at a boundary (a late CopyData may be half sent,
 * and what the next client sent would become its other half), nothing queued.
 */
bool pg_flow_is_idle(const struct pg_flow *f);
/* As idle, but for answers that may or may not come (a failed COPY). Keep the server with its
 * client, or send a Query of our own (also told to pg_flow_client), whose answer settles it, or
 * drop it. */
bool pg_flow_is_doubtful(const struct pg_flow *f);
/* The conversation can go on, but only with this client; drop the server after it. */
static inline bool pg_flow_is_lost(const struct pg_flow *f)
{
    return f->lost;
}
/* Does the server owe an answer for certain, or is it in COPY? */
bool pg_flow_is_busy(const struct pg_flow *f);
/* Answers due, maybes included. */
static inline uint32_t pg_flow_due(const struct pg_flow *f)
{
    return f->queue.due;
}
/* Extended messages without Sync: there is (or may be) an implicit transaction, or the server
 * discards everything until that Sync. */
static inline bool pg_flow_in_batch(const struct pg_flow *f)
{
    return f->batch || f->skipping || f->doubt_open;
}
/* A Query or FunctionCall was sent between messages of a batch, and may have been discarded with
 * it: so may be what follows, up to Sync. */
static inline bool pg_flow_is_mixed(const struct pg_flow *f)
{
    return (int32_t)(f->mixed_end - f->ends_seen) > 0;
}
/* Best effort: a Query or Parse beginning with COMMIT, END or PREPARE TRANSACTION was forwarded and
 * neither its CommandComplete nor its ReadyForQuery came. Not seen: commits later in a
 * multi-statement Query, statements prepared earlier, autocommitted statements. */
bool pg_flow_commit_in_flight(const struct pg_flow *f);

/*
 * The server is gone: takes due answers out of the queue and says what the client gets instead.
 * Call with a zeroed `s` until it returns false; then `s` tells whether client messages still to
 * come must be swallowed up to Sync. Nothing that may be lost goes without an error (also a Sync
 * whose batch was answered, also a batch without its Sync), an error already forwarded is not
 * repeated, and none is said while nothing is due: a client that awaits nothing does not expect
 * one. PG_SWALLOW_END: the flow is lost, close the client. Ask pg_flow_commit_in_flight() and
 * tx before; afterwards only pg_flow_fini() may follow.
 */
bool pg_flow_abandon(struct pg_flow *f, struct pg_swallow *s, enum pg_swallow_step *step);
