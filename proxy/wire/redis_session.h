/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The client side of Redis as a pure state machine: for each command the relay asks where it goes,
 * for each reply of a pinned server it tells what came. No I/O: answers of carpool's own are
 * written into a buffer.
 *
 *   redis_session_command() ─ SHARED → any shared server (keep a client that has requests in flight
 *     │                                on the same one, or it may not read its own writes)
 *     ├─ PINNED → the client's own server; lease one first, but not before every earlier reply has
 *     │           arrived. For its replies redis_session_reply(); then, if
 *     │           redis_session_may_release(), give it back (reset, verified) and tell
 *     │           redis_session_released()
 *     ├─ CLIENT → queue the answer behind the replies still due; see `barrier` and `closes`
 *     └─ AUTH   → compare act.user and act.password, then redis_session_auth()
 *
 * Two views of MULTI and WATCH are kept. `sent` follows the commands as they are forwarded and
 * decides what the next one means; `seen` follows the replies and knows what the server made of
 * them. When nothing is in flight, sent becomes seen: a MULTI that the server refused pins nobody
 * for ever.
 *
 *              WATCH ok                MULTI ok
 *   plain ───────────────→ watching ───────────────→ in MULTI
 *     ↑  ↑ UNWATCH ok, EXEC  │  MULTI ok (plain too)    │
 *     │  └───────────────────┘                          │
 *     └── EXEC (any answer but "without MULTI"), DISCARD ok
 *
 * A server lost in MULTI must not turn the rest of the transaction into single commands: until EXEC
 * (answered EXECABORT), DISCARD or RESET nothing is forwarded. Lost while watching, MULTI ... EXEC
 * is answered as if a watched key had changed: nothing is executed and clients try again.
 *
 * One worker's thread. The struct is embedded in the relay's client; fields belong to
 * redis_session.c.
 */
#include "proxy/wire/redis_commands.h"
#include "proxy/wire/redis_reply.h"
#include "proxy/wire/redis_write.h"

enum {
    REDIS_NAME_MAX = 63,      /* bytes of CLIENT SETNAME */
    REDIS_CHANNEL_MAX = 8192, /* bytes of a channel or pattern: confirmations must come whole */
    REDIS_NOTE_MAX = 160,     /* bytes of the sentence that explains a refusal */
    REDIS_ANSWER_ROOM = 1024, /* enough for any local answer except PING and ECHO, which add the
                                 length of their argument */
};

/* The pool's side of the matter; constant, outlives the session. */
struct redis_session_conf {
    uint32_t db;        /* the pool's database: the one SELECT may name */
    bool auth_required; /* clients log in before anything else */
    bool session_mode;  /* every client has its own server as long as it stays; WAIT works */
    bool pin_scripts;   /* EVAL and FCALL get a server of their own for the call */
    bool allow_resp3;   /* HELLO 3 is answered; otherwise NOPROTO */
};

enum redis_route {
    REDIS_TO_SHARED,
    REDIS_TO_PINNED,
    REDIS_TO_CLIENT, /* carpool answers with what was appended to the buffer, or with nothing if it
                        is empty (CLIENT REPLY OFF). A refusal has act.cause set */
    REDIS_TO_AUTH,   /* compare act.user and act.password, call redis_session_auth() */
};

/* Kept by the relay for each request in flight; handed back with its reply. */
struct redis_slot {
    uint32_t left;   /* subscribe family: confirmations still due, 0 until the first came */
    uint32_t expect; /* subscribe family: how many there will be, 0: one per subscription */
    uint8_t id;      /* enum redis_id */
    bool mute;       /* the client wants no reply to this one: discard it */
    bool blocking;   /* no request timeout */
    bool retryable;  /* may be sent again after a loss (never set on a pinned server) */
    bool script;     /* of one user among several: its errors prove nothing about the server */
};

struct redis_act {
    enum redis_route route;
    enum cause cause;       /* TO_CLIENT: why it was refused, or CAUSE_NONE */
    struct redis_slot slot; /* SHARED, PINNED: keep it with the request */
    struct redis_verdict verdict;
    bool barrier;         /* TO_CLIENT: take no further command until every earlier reply was
                             delivered; then give the pinned server back for a reset and call
                             redis_session_released() */
    bool closes;          /* TO_CLIENT: close when the answer is out (QUIT) */
    bool mute;            /* the answer was, or is to be, suppressed (CLIENT REPLY OFF, SKIP) */
    struct span user;     /* AUTH: p is NULL for the one-argument form ("default") */
    struct span password; /* all three point into the command */
    struct span name;     /* AUTH by HELLO with SETNAME; else p is NULL */
    uint8_t hello;        /* AUTH by HELLO of this version; 0: by AUTH */
    char note[REDIS_NOTE_MAX]; /* with a cause: the sentence for the log */
};

enum redis_mute { REDIS_MUTE_NO, REDIS_MUTE_ALL, REDIS_MUTE_NEXT }; /* CLIENT REPLY ON, OFF, SKIP */

struct redis_session_state {
    bool multi, watch;
};

struct redis_session {
    /* fixed */
    const struct redis_session_conf *conf;
    uint64_t id;                     /* what CLIENT ID says */
    const struct redis_about *about; /* what HELLO says of the server; NULL: nothing is known */

    /* changes: the pinned server */
    struct redis_session_state sent, seen;
    uint32_t pending;                    /* requests in flight to it */
    uint32_t subscribing;                /* of these, of the subscribe family */
    uint64_t channels, patterns, shards; /* subscriptions confirmed */
    bool pinned;
    bool sticky;
    bool ending;       /* a barrier was asked for: it will be given back, whatever replies say */
    uint8_t reply_for; /* enum redis_reply_for of the reply under way */

    /* changes: transactions without a server to run them */
    bool doomed;     /* a command between MULTI and EXEC was refused: EXEC aborts */
    bool multi_lost; /* the server was lost inside MULTI: nothing goes anywhere, EXEC aborts */
    bool watch_lost; /* the server that watched was lost: the next MULTI is multi_null */
    bool multi_null; /* commands are answered QUEUED, EXEC null, as if a watched key had changed */

    /* changes: the client */
    bool authenticated;
    uint8_t resp; /* 2 or 3 */
    uint8_t mute; /* enum redis_mute */
    uint8_t name_n;
    char name[REDIS_NAME_MAX];
};

void redis_session_init(struct redis_session *s, const struct redis_session_conf *conf,
                        uint64_t id);

/* The limits for redis_request_next(): strict until the client has logged in. */
const struct redis_limits *redis_session_limits(const struct redis_session *s);

/*
 * One command (of redis_request_next() or redis_inline_encode()). Fills *act; appends local answers
 * to *answer. If answer->overflow is set afterwards, close the client. Call it once per command, in
 * order, and only when the command can be acted upon; on SHARED and PINNED it counts as forwarded.
 * A BIG command that is answered here (refused, say) still has its BODY to come: read and discard
 * it. A BIG command that is forwarded is always PINNED, because a client that stalls in its middle
 * would stall a shared server.
 */
void redis_session_command(struct redis_session *s, const struct redis_cmd *cmd,
                           struct redis_out *answer, struct redis_act *act);

/* After REDIS_TO_AUTH, with the act of that: the verdict, with or without a password configured;
 * appends the answer. */
enum redis_auth { REDIS_AUTH_OK, REDIS_AUTH_WRONG, REDIS_AUTH_NOT_CONFIGURED };
void redis_session_auth(struct redis_session *s, const struct redis_act *act,
                        enum redis_auth verdict, struct redis_out *answer);

/*
 * A block found by redis_block_find() may go to a shared server when this is true; the relay then
 * keeps block.commands slots of redis_session_block_slot() and does not call
 * redis_session_command() for them.
 */
bool redis_session_block_ok(const struct redis_session *s, const struct redis_block *b);
struct redis_slot redis_session_block_slot(void);

/*
 * A piece of a reply of the pinned server: whom is it for? Call it for every piece, in order;
 * change the queue of requests only when piece->ends. slot is the oldest request in flight or NULL,
 * the same one for all pieces of a reply. While redis_session_subscribed(), read a pinned server's
 * replies with hold = REDIS_REPLY_SMALL, so that what must be looked into comes whole.
 */
enum redis_reply_for {
    REDIS_FOR_SLOT, /* answers the oldest request: take it off the queue */
    REDIS_FOR_MORE, /* one of several answers to the oldest request: it stays */
    REDIS_FOR_NONE, /* a message or push: forward it, no request is answered */
    REDIS_FOR_BAD,  /* nobody asked: close the server, the stream is out of step */
};

enum redis_reply_for redis_session_reply(struct redis_session *s, struct redis_slot *slot,
                                         const struct redis_reply_piece *piece);

/* Are there subscriptions, or requests for some in flight? */
bool redis_session_subscribed(const struct redis_session *s);

/* Has the client a server of its own (or asked for one that is being leased)? */
bool redis_session_pinned(const struct redis_session *s);

/* Pinned, but nothing is in flight and no state is left that needs it. */
bool redis_session_may_release(const struct redis_session *s);

/* It was given back for a reset: whatever the client had set up there is gone. */
void redis_session_released(struct redis_session *s);

/*
 * The pinned server is gone. The relay answers what was in flight (outcome unknown where a byte was
 * sent). True: the client must be closed, because it would wait for messages that cannot come
 * (unless it is told now that it has no subscription).
 */
bool redis_session_lost(struct redis_session *s);
