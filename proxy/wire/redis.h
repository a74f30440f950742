/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Requests of Redis clients: where does a command end, and what are its first arguments?
 *
 * Two spellings exist: RESP arrays of bulk strings, forwarded byte for byte, and inline commands (a
 * line, with quotes), which are written anew as RESP before they travel. The framer is stricter
 * than the server, because a protocol error there closes a connection that many clients share:
 * lengths are plain decimal without sign or leading zero, headers end in CRLF, every bulk string
 * does too. Commands without a reply slot (`*0`, `*-1`, blank lines) are swallowed.
 *
 * Pure: no I/O, no clock, no allocation. One thread at a time. The rules are those of the RESP
 * specification and the behaviour of redis-server 7.0.
 *
 * How the caller feeds it: `in` starts at the first byte not yet consumed. After each call it
 * advances by cmd->used. On REDIS_WAIT it keeps the rest and calls again with the rest plus more;
 * the framer remembers how far it had looked, so a command fed byte by byte costs time linear in
 * its size.
 */
#include "proxy/core/err.h"
#include "proxy/core/span.h"

enum {
    REDIS_ARGS = 12,               /* arguments presented as spans */
    REDIS_WHOLE = 256 * 1024,      /* default bound of a command delivered in one piece */
    REDIS_INLINE_MAX = 64 * 1024,  /* bound of an inline line, as in Redis */
    REDIS_COUNT_MAX = 1024 * 1024, /* arguments of a command */
    REDIS_BULK_MAX = 512 << 20,    /* bytes of an argument */
    REDIS_UNAUTH_COUNT = 10,       /* the same two before login (CVE-2021-32675) */
    REDIS_UNAUTH_BULK = 16 * 1024,
};

/* Bounds of one call; constant objects, see below. */
struct redis_limits {
    uint32_t count;       /* most arguments */
    uint32_t bulk;        /* most bytes of one argument */
    uint32_t whole;       /* most bytes of a COMMAND, larger ones are BIG; at least 256 */
    bool unauthenticated; /* chooses the wording of the two errors */
};

extern const struct redis_limits redis_limits_default;
extern const struct redis_limits redis_limits_unauth; /* for a client that has not logged in */

enum redis_step {
    REDIS_WAIT,    /* nothing (more) to report: keep in + used, come back with more */
    REDIS_COMMAND, /* a complete RESP command of at most limits->whole bytes: raw, args, argc */
    REDIS_INLINE,  /* raw is a line (without its end, not blank): see redis_inline_encode() */
    REDIS_BIG,     /* a command over limits->whole begins: raw is its first piece, args as known */
    REDIS_BODY,    /* raw is the next piece of a BIG command */
    REDIS_BAD,     /* *err holds Redis' wording ("Protocol error: ..."); the framer stays here */
};

/*
 * What redis_request_next() found. Spans point into the input (or, after redis_inline_encode(),
 * into its buffer) and live as long as that.
 */
struct redis_cmd {
    size_t used;     /* bytes of the input consumed, swallowed ones included */
    struct span raw; /* the bytes to forward; INLINE: the line */
    uint32_t argc;   /* arguments incl. the name, as declared */
    uint32_t nargs;  /* valid entries of args: min(argc, REDIS_ARGS), or fewer if BIG */
    bool complete;   /* raw holds the whole command (COMMAND only) */
    bool last;       /* raw ends the command (COMMAND; BIG and BODY at their end) */
    bool silent;     /* BAD: another protocol speaks; close without a word */
    struct span args[REDIS_ARGS]; /* args[0] is the name; its length is at least 0, at most whole */
};

/* Fields belong to redis.c. All zero is the initial state. */
struct redis_framer {
    uint32_t pos;       /* bytes of the unconsumed input already parsed */
    uint32_t bulk_left; /* BIG: bytes of the current argument still to come */
    uint32_t args_left; /* arguments not yet taken whole */
    uint32_t argc;
    uint8_t state;
    uint8_t nargs;
    bool silent; /* how a BAD framer ended */
    struct {
        uint32_t off, len;
    } arg[REDIS_ARGS];
};

/*
 * One step. Fills *cmd always (used may be above 0 even on WAIT); *err on REDIS_BAD, with cause
 * client_protocol and stage client.
 */
enum redis_step redis_request_next(struct redis_framer *f, const struct redis_limits *limits,
                                   struct span in, struct redis_cmd *cmd, struct err *err);

/* Is the framer between two commands (nothing half read)? */
static inline bool redis_request_idle(const struct redis_framer *f)
{
    return f->pos == 0 && f->state == 0;
}

/* All arguments of a complete command: an iterator over cmd->raw. */
struct redis_args {
    struct span rest;
    uint32_t left;
};

struct redis_args redis_args_of(const struct redis_cmd *cmd);
bool redis_args_next(struct redis_args *it, struct span *arg);

struct redis_out; /* redis_write.h */

/*
 * Splits an inline line as Redis does ("a\x41\n" and 'it''s' style quotes), appends it to *out as a
 * RESP command and presents that in *cmd, as REDIS_COMMAND would; cmd->used is left alone. The room
 * needed is at most REDIS_INLINE_ROOM(line.n). False: *err has the cause client_protocol
 * (unbalanced quotes, a NUL, a limit, or another protocol's first word: then cmd->silent) or
 * too_large (no room in *out); *out is then as before. A line that holds no argument cannot come
 * here: the framer swallows it.
 */
#define REDIS_INLINE_ROOM(n) (4 * (size_t)(n) + 32)
MUST_USE bool redis_inline_encode(struct span line, const struct redis_limits *limits,
                                  struct redis_out *out, struct redis_cmd *cmd, struct err *err);
