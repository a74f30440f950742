/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * PostgreSQL's frontend/backend protocol, version 3: the framer. ("Message Flow" and "Message
 * Formats" in PostgreSQL's manual.) Pure: no I/O, no clock, no memory of its own.
 *
 *     postgres.h          where a message begins and ends             (this file)
 *     postgres_startup.h  the untyped packets before that
 *     postgres_read.h     what a message's body says
 *     postgres_write.h    messages of our own
 *     postgres_text.h     the first words of a query: transaction control, what it leaves behind
 *     postgres_scan.h     under that: blanks, comments and words of SQL
 *     postgres_flow.h     what answers are due; when a server is free
 *     postgres_queue.h    under that: what was asked, in order
 *     postgres_swallow.h  what is due to a client whose request gets no server
 *
 * A typed message is: type (1 byte), length (4 bytes, counts itself), body. Most messages are only
 * passed on, so the framer hands out what has arrived of them; types in the caller's `pg_whole` set
 * are handed out only when complete. The caller reads into a scratch buffer and calls pg_next()
 * until it says PG_WAIT; what is left over (`in` minus the consumed `raw` spans) it puts in front
 * of the next read. The leftover never exceeds 4 + max(whole.max, whole.peek) bytes.
 *
 *         +--------------------- all of it there ---------------------+
 *         |                                                           v
 *     [left == 0] -- begins, PG_MESSAGE !whole --> [left > 0] -- PG_BODY, whole --> [left == 0]
 */
#include "proxy/core/err.h"
#include "proxy/core/span.h"

enum {
    PG_HEADER = 5,                   /* type and length word */
    PG_LENGTH_MAX = 0x3fffffff,      /* the server's own bound on the length word: 1 GiB - 1 */
    PG_LOGIN_BODY_MAX = 64 * 1024,   /* a password or SASL message */
    PG_CLIENT_WHOLE_MAX = 64 * 1024, /* names of statements and portals */
    PG_CLIENT_PEEK = 512,            /* enough of Query and Parse to see their first words */
    PG_SERVER_WHOLE_MAX = 64 * 1024, /* tags, parameters */
    PG_SERVER_PEEK = 1024            /* enough of an error to see severity, code and message */
};

/* A set of message types. */
struct pg_set {
    uint64_t bits[4];
};

static inline bool pg_set_has(const struct pg_set *s, uint8_t type)
{
    return (s->bits[type >> 6] >> (type & 63)) & 1;
}

/* For const tables: digits live in word 0, letters in word 1. */
#define PG_BIT(c) (UINT64_C(1) << ((c) & 63))

/* Which messages the caller wants complete, and how much of the others it wants to see. */
struct pg_whole {
    struct pg_set types;
    struct pg_set fitting; /* these only if they are not longer than max */
    uint32_t max;          /* body bytes; a longer message of `types` is PG_BAD (too_large) */
    uint32_t peek; /* of any other message the first piece has at least min(len, peek) body bytes */
};

/* What carpool looks at. Everything else streams with a peek, for it may be of any size: queries,
 * rows, copy data, but also errors and notices (RAISE NOTICE takes megabytes). */
extern const struct pg_whole pg_whole_login; /* whole: p */
/* whole: Close Describe Execute Flush Sync Terminate CopyDone, and Parse if it fits */
extern const struct pg_whole pg_whole_client;
/* whole: R K S Z C I 1 2 3 n s v c G H W */
extern const struct pg_whole pg_whole_server;
/* the same, and D if it fits: answers to carpool's own queries */
extern const struct pg_whole pg_whole_answer;

/* Who sends; decides which types exist. */
enum pg_side {
    PG_SIDE_LOGIN,  /* a client that has not logged in: only 'p' */
    PG_SIDE_CLIENT, /* a client */
    PG_SIDE_SERVER, /* a server */
    PG_SIDE_COUNT
};
extern const struct pg_set pg_side_types[PG_SIDE_COUNT];

struct pg_framer {
    uint32_t left; /* body bytes of the streamed message still to come; 0: at a boundary */
    uint8_t type;  /* of that message */
    uint8_t side;  /* enum pg_side */
};

enum pg_step {
    PG_WAIT,    /* needs more bytes; *out untouched */
    PG_MESSAGE, /* a message begins */
    PG_BODY,    /* more body of the message begun earlier */
    PG_BAD      /* not the protocol, or too large; *err says which. The framer is of no more use. */
};

struct pg_msg {
    uint8_t type;
    bool whole;      /* PG_MESSAGE: the body is complete. PG_BODY: this piece completes it */
    uint32_t len;    /* PG_MESSAGE: length of the whole body. PG_BODY: still to come after this */
    struct span raw; /* the bytes of this piece, with the header if it begins here: forward these */
    struct span body; /* the body bytes among them */
};

static inline void pg_framer_init(struct pg_framer *f, enum pg_side side)
{
    *f = (struct pg_framer){.side = (uint8_t)side};
}

/* True between messages. With nothing carried over, this means that the peer owes no bytes. */
static inline bool pg_at_boundary(const struct pg_framer *f)
{
    return f->left == 0;
}

static inline uint32_t pg_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The rest of pg_next(): incomplete, streamed and wrong messages. */
enum pg_step pg_next_slow(struct pg_framer *f, const struct pg_whole *whole, struct span in,
                          struct pg_msg *out, struct err *err);

/*
 * The next piece at the start of `in`. Results do not depend on how the bytes were cut into reads,
 * except for where streamed bodies are split. `err` gets client_protocol or upstream_protocol by
 * the framer's side, or too_large. Inline because it runs once per row.
 */
static inline enum pg_step pg_next(struct pg_framer *f, const struct pg_whole *whole,
                                   struct span in, struct pg_msg *out, struct err *err)
{
    if (in.n == 0)
        return PG_WAIT;
    if (f->left == 0 && in.n >= PG_HEADER && pg_set_has(&pg_side_types[f->side], in.p[0])) {
        uint32_t len = pg_be32(in.p + 1) - 4; /* a length below 4 wraps and is refused below */
        if (len <= whole->max && len <= in.n - PG_HEADER) {
            *out = (struct pg_msg){.type = in.p[0],
                                   .whole = true,
                                   .len = len,
                                   .raw = {in.p, PG_HEADER + (size_t)len},
                                   .body = {in.p + PG_HEADER, len}};
            return PG_MESSAGE;
        }
    }
    return pg_next_slow(f, whole, in, out, err);
}
