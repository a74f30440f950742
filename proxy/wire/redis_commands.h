/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What a Redis command needs: may it share a server, must it have one of its own, does carpool
 * answer it, is it refused? The rules come from the flags of Redis' own command table (its
 * `COMMAND` reply) and a hand list where the flags do not say enough; proxy/wire/redis_table.c
 * holds the result for every command of Redis 7 and 8. Arity is the server's business. Pure;
 * constant data; any thread.
 */
#include "proxy/wire/redis.h"

enum redis_class {
    REDIS_UNKNOWN,     /* not in the table (a module's, a newer one): own server for the call, which
                          answers in its own wording */
    REDIS_READ,        /* share; may be sent again after a loss (redis_verdict.retryable) */
    REDIS_WRITE,       /* share; not again once a byte was sent. PUBLISH and EVAL are here, too */
    REDIS_BLOCKING,    /* own server until the reply; no request timeout */
    REDIS_SUBSCRIBING, /* the (P|S)(UN)SUBSCRIBE family: own server until the count is 0 */
    REDIS_TRANSACTION, /* MULTI EXEC DISCARD WATCH UNWATCH */
    REDIS_STICKY,      /* changes the connection: own server until RESET or the client leaves */
    REDIS_LOCAL,       /* carpool answers: AUTH HELLO SELECT PING CLIENT ID ... */
    REDIS_REFUSED,     /* refused, with redis_verdict.reason */
    REDIS_CLASS_COUNT
};

/* Commands that somebody acts upon by name; everything else is OTHER. */
enum redis_id {
    REDIS_ID_OTHER,
    REDIS_ID_AUTH,
    REDIS_ID_HELLO,
    REDIS_ID_SELECT,
    REDIS_ID_PING,
    REDIS_ID_ECHO,
    REDIS_ID_QUIT,
    REDIS_ID_RESET,
    REDIS_ID_CLIENT_ID,
    REDIS_ID_CLIENT_GETNAME,
    REDIS_ID_CLIENT_SETNAME,
    REDIS_ID_CLIENT_SETINFO,
    REDIS_ID_CLIENT_INFO,
    REDIS_ID_CLIENT_GETREDIR,
    REDIS_ID_CLIENT_TRACKINGINFO,
    REDIS_ID_CLIENT_TRACKING,
    REDIS_ID_CLIENT_CAPA,
    REDIS_ID_CLIENT_REPLY,
    REDIS_ID_MULTI,
    REDIS_ID_EXEC,
    REDIS_ID_DISCARD,
    REDIS_ID_WATCH,
    REDIS_ID_UNWATCH,
    REDIS_ID_SUBSCRIBE,
    REDIS_ID_UNSUBSCRIBE,
    REDIS_ID_PSUBSCRIBE,
    REDIS_ID_PUNSUBSCRIBE,
    REDIS_ID_SSUBSCRIBE,
    REDIS_ID_SUNSUBSCRIBE,
    REDIS_ID_WAIT, /* WAIT and WAITAOF: possible in session mode only */
    REDIS_ID_COUNT
};

struct redis_verdict {
    enum redis_class class;
    enum redis_id id;
    bool retryable;     /* may be sent again after a loss, outside MULTI, unpinned */
    bool in_multi;      /* may be forwarded between MULTI and EXEC */
    bool script;        /* runs code that could forge replies (EVAL, FCALL): policy may pin it */
    bool sweeping;      /* FLUSHALL FLUSHDB SWAPDB KEYS: a policy may deny it */
    bool unknown_sub;   /* REFUSED because the container does not know this subcommand: say it in
                           Redis' words, clients fall back on them */
    const char *name;   /* canonical lower-case name, "client|id"; NULL if UNKNOWN; static */
    const char *reason; /* REFUSED: a sentence; NULL otherwise; static */
};

/*
 * Classifies a command; cmd->nargs may be 0 (then UNKNOWN). Of an incomplete command (BIG) only the
 * first arguments are seen; where the answer hides in the rest, it is taken to be the careful one.
 */
struct redis_verdict redis_classify(const struct redis_cmd *cmd);

const char *redis_class_name(enum redis_class class);

/*
 * The table, for tests and documentation: entry i in order of name, or false past its end. A
 * container ("client") has an entry of its own besides those of its subcommands ("client|id").
 */
bool redis_table_entry(size_t i, struct redis_verdict *out);

/*
 * A whole MULTI ... EXEC at the start of the input that may travel as one block over a shared
 * server: every command in between is READ or WRITE, all spelled in RESP, complete, and no more
 * than max_bytes and max_commands (MULTI and EXEC included). Each command has a reply of its own.
 */
struct redis_block {
    struct span raw;   /* from MULTI to the end of EXEC */
    uint32_t commands; /* including both */
    bool script;       /* one of them runs a script */
    bool sweeping;
};

bool redis_block_find(struct span in, const struct redis_limits *limits, size_t max_bytes,
                      uint32_t max_commands, struct redis_block *out);
