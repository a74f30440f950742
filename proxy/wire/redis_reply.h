/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Replies of a Redis server: RESP2 and RESP3, streamed.
 *
 * The framer tells which bytes belong to which top-level reply and never buffers: a reply of a
 * gigabyte passes in pieces of what was read. Nesting is followed with a small stack of counters.
 * Lines (simple strings, errors, numbers, headers) are taken whole, up to 64 KiB. Streamed types of
 * RESP3 (`$?`, `*?`, `;`, `.`), which no server sends, are refused; so is a push inside a reply.
 *
 * Lengths are plain decimal; -1 only for `$` and `*`. A bulk string must end in CRLF. Anything else
 * is a broken server (or a reply forged by a script): the connection can no longer be trusted.
 *
 * Pure: no I/O, no clock, no allocation. One thread at a time.
 */
#include "proxy/core/err.h"
#include "proxy/core/span.h"

enum {
    REDIS_DEPTH = 32,              /* aggregates inside one another */
    REDIS_REPLY_LINE = 64 * 1024,  /* bytes of a line with its CRLF */
    REDIS_REPLY_SMALL = 16 * 1024, /* a usual `hold` */
};

enum redis_reply_step {
    REDIS_REPLY_WAIT,  /* nothing consumed: keep the input, come back with more */
    REDIS_REPLY_PIECE, /* piece->raw, a prefix of the input, belongs to one top-level reply */
    REDIS_REPLY_BAD,   /* *err: cause upstream_protocol, stage exchange; the framer stays here */
};

enum redis_reply_kind {
    REDIS_KIND_REPLY,     /* answers the oldest request */
    REDIS_KIND_PUSH,      /* RESP3 `>`: answers nobody (but see subscriptions in redis_session.h) */
    REDIS_KIND_ATTRIBUTE, /* RESP3 `|`: precedes the reply it belongs to; forward, do not count */
};

struct redis_reply_piece {
    struct span raw;  /* consume raw.n bytes of the input */
    struct span line; /* + - : _ # , ( at top level: text without type byte and CRLF; else empty */
    enum redis_reply_kind kind;
    uint8_t type; /* type byte of the top-level reply, in every piece of it */
    bool null;    /* `$-1`, `*-1` or `_` at top level */
    bool begins;  /* raw starts the reply */
    bool ends;    /* raw ends the reply */
};

/* Fields belong to redis_reply.c. All zero is the initial state. 300 bytes. */
struct redis_reply_framer {
    uint64_t left[REDIS_DEPTH]; /* elements still to come, per open aggregate */
    uint64_t bulk_left;  /* bytes of the current bulk string still to come, without its CRLF */
    size_t at;           /* bytes of the unconsumed input already parsed */
    size_t scan;         /* bytes behind `at` already searched for an end of line */
    uint32_t attributes; /* bit i: left[i] counts an attribute's pairs */
    uint8_t depth;
    uint8_t state;
    uint8_t type;
    bool open; /* a piece of the current reply has been delivered, not its end */
    bool null;
};

/*
 * One step over the input, which starts at the first byte not consumed. With hold 0, what is there
 * is delivered; with hold n, a reply is held back (WAIT) until it is complete or n bytes of it are
 * there, so that small replies which must be looked into come whole: begins and ends are then both
 * true. hold may differ from call to call.
 */
enum redis_reply_step redis_reply_next(struct redis_reply_framer *f, struct span in, size_t hold,
                                       struct redis_reply_piece *piece, struct err *err);

/* Is the framer between two replies? False with half a reply or half an attribute behind it. */
static inline bool redis_reply_idle(const struct redis_reply_framer *f)
{
    return !f->open && f->at == 0 && f->scan == 0 && f->state == 0;
}

/*
 * Looking into a complete small reply (a piece that begins and ends): values in order of
 * appearance, aggregates first, then their elements. The bytes must have passed the framer.
 */
struct redis_value {
    uint8_t type;      /* type byte */
    bool null;         /* `$-1`, `*-1`, `_` */
    struct span text;  /* content of a string, error, number, ...; empty for aggregates */
    uint64_t elements; /* aggregates: elements that follow (maps and attributes: twice the pairs) */
    int64_t integer;   /* `:`; 0 if out of range */
};

/* Takes the next value off *rest; false at its end or if it is not well-formed. */
bool redis_value_next(struct span *rest, struct redis_value *value);

/* What a subscription's message says. */
enum redis_sub_kind {
    REDIS_SUB_NONE, /* not of this family */
    REDIS_SUB_SUBSCRIBE,
    REDIS_SUB_UNSUBSCRIBE,
    REDIS_SUB_PSUBSCRIBE,
    REDIS_SUB_PUNSUBSCRIBE,
    REDIS_SUB_SSUBSCRIBE,
    REDIS_SUB_SUNSUBSCRIBE,
    REDIS_SUB_MESSAGE, /* message, pmessage, smessage */
    REDIS_SUB_PONG,    /* RESP2 PING while subscribed: ["pong", text] */
};

struct redis_sub_note {
    enum redis_sub_kind kind;
    struct span channel; /* empty if null */
    uint64_t count;      /* confirmations: channels and patterns (or shard channels) left */
};

/*
 * Reads an array or push of the subscribe family. `raw` may be the beginning of a longer one:
 * messages are recognised by their first element alone, confirmations need all three.
 */
struct redis_sub_note redis_sub_parse(struct span raw);

/* What a server says of itself in HELLO; "" where it does not. */
struct redis_about {
    char server[16]; /* redis, valkey */
    char version[24];
    char mode[16]; /* standalone, cluster, sentinel */
    char role[16]; /* master, replica */
};

/* Does an error line start with this code ("LOADING") as a whole word? */
bool redis_error_is(struct span line, const char *code);

/*
 * What an error at top level says about the server and about trying again. The request was not
 * executed in any of the cases but NONE (reference: not executed, so retryable even for writes).
 */
enum redis_trouble {
    REDIS_TROUBLE_NONE,     /* an ordinary error, the client's business */
    REDIS_TROUBLE_LOADING,  /* LOADING, MASTERDOWN: counts against the service */
    REDIS_TROUBLE_BUSY,     /* BUSY (a script runs), TRYAGAIN, CLUSTERDOWN: counts against it too */
    REDIS_TROUBLE_READONLY, /* a demoted primary: every connection to it is to go */
    REDIS_TROUBLE_CLIENTS,  /* max number of clients reached: busy, never a failure */
    REDIS_TROUBLE_AUTH,     /* NOAUTH, WRONGPASS: the connection lost its identity */
};

enum redis_trouble redis_error_trouble(struct span line);
