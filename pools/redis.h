/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Redis servers: what driver, dial and the relay share of one connection.
 *
 * A server answers in the order it was asked, so all there is to sharing one is a queue: each call
 * in flight has an entry, and each reply goes to the owner of the oldest.
 *
 *     redis_call_send() -> log, calls --one writev at the end of the loop's turn--> socket
 *     socket -> framer -> oldest call -> on_reply()            (its bytes leave the log)
 *     lost   -> every call, in order  -> on_lost(), then every user -> on_lost()
 *
 * The log holds the bytes of every call that has no answer yet: what is not sent goes out from
 * there, and when the connection is lost, what may be tried again elsewhere is still there.
 *
 * A caller that does not wait any longer buries its call: it stays in the queue as a tombstone that
 * swallows the reply, and nobody else's order is disturbed.
 *
 * Everything here belongs to the worker that has the server, the dial to the dialer's thread.
 */
#include "pools/server.h"
#include "proxy/wire/redis_reply.h"

#define REDIS_SHARES 1024 /* leases of one shared server */

struct redis_call;
struct redis_server;

/* How a server was lost, as a call of it sees it. */
struct redis_loss {
    const struct err *err;
    enum outcome why;
    bool unsent;            /* not one byte of the call was given to the kernel */
    const struct bufq *log; /* the call's bytes are at its front, call->bytes of them */
};

struct redis_call_ops {
    /* A piece of a reply. With piece->ends and call->replies == 0 it was the last: the call has
     * left the queue and may be freed. Must not close clients nor end leases: others' replies
     * follow. */
    void (*on_reply)(struct redis_call *call, const struct redis_reply_piece *piece);
    /* The server is lost; the call has left the queue and may be freed. */
    void (*on_lost)(struct redis_call *call, const struct redis_loss *loss);
};

/* One request in flight. The first member of what embeds it (see redis_call_bury()); the caller
 * sets ops and replies, the rest is the queue's. */
struct redis_call {
    struct list node;
    const struct redis_call_ops *ops;
    struct redis_server *server; /* it was sent to */
    uint32_t replies;            /* still due; 1, but for a block MULTI ... EXEC */
    uint32_t bytes;              /* of the log */
    bool open;                   /* a part of the current reply has been handed out, not its end */
};

/* Who has a shared lease of the server. Embedded. */
struct redis_user {
    struct list node;
    struct server *server; /* the lease; NULL: none */
    /* The server is lost, all its calls were told: `server` is NULL, the lease is over. */
    void (*on_lost)(struct redis_user *user, const struct redis_loss *loss);
};

struct redis_server {
    struct server base;
    struct redis_reply_framer framer;
    struct bufq carry; /* bytes of a reply that the framer must see more of */
    struct list calls; /* oldest first */
    struct list users;
    unsigned n_calls, n_tombs;
    struct bufq log;  /* bytes of all calls in flight, in order */
    size_t handed;    /* of them given to the io */
    struct chunk *at; /* where the rest begins; NULL: at the front of the log */
    uint32_t at_off;
    struct deferred turn; /* the end of the loop's turn: writes */
    struct timer stall;   /* armed while there are tombstones */
    uint64_t progress_ms; /* last bytes from the server */
    uint64_t fed_us;      /* the same, while they are shared out */
    bool torn;   /* half a command was written, or a reply nobody waits for is due: never again */
    bool sticky; /* a client changed what RESET does not bring back everywhere */
    bool reset_needed;        /* a client may have left session state behind */
    bool noisy;               /* subscribed: messages may come in front of the answer to RESET */
    struct redis_about about; /* what the server said of itself when it was dialed */
    unsigned version;         /* of it: major * 100 + minor; 0: the server did not say */
    struct redis_call check;  /* verify and reset */
    unsigned check_at;        /* replies of it seen */
    bool checked, check_well, check_lenient;
    uint8_t nonce[24]; /* 4 bits each; the last answer of a reset */
};

extern const struct driver_ops redis_driver;

static inline struct redis_server *redis_server_of(struct server *sv)
{
    return OWNER(sv, struct redis_server, base);
}

/* Asks: the bytes of one call (or of one block). They go out at the end of the loop's turn. False,
 * and nothing is changed: no memory. */
MUST_USE bool redis_call_send(struct redis_server *rs, struct redis_call *call, struct span bytes);

/* An exclusive holder's large command, as it comes: behind what was asked before, without the log.
   The call itself was sent with an empty span. */
void redis_server_stream(struct redis_server *rs, struct span bytes);

/* Nobody waits for the call any more: it becomes a tombstone, which swallows the reply. Its memory,
 * a block from malloc() that begins with the call, is the server's from here on. */
void redis_call_bury(struct redis_server *rs, struct redis_call *call);

/* An exclusive holder leaves while the call is in flight: the server cannot be used again. */
void redis_call_forget(struct redis_server *rs, struct redis_call *call);

/* A lease was granted; `user->server` says which. */
void redis_user_join(struct redis_user *user);
/* The lease is over; no call of the user's is in the queue, but for tombstones. */
void redis_user_leave(struct redis_user *user);

/* ---- for exclusive holders, who read themselves ---- */

/* Reads behind what was carried over, into the loop's scratch memory: the bytes to look at in *in,
 * or what server_read() said (0, negative). */
ssize_t redis_server_fill(struct redis_server *rs, struct span *in);
/* Keeps what the framer could not use. False: too much, or no memory. */
MUST_USE bool redis_server_carry(struct redis_server *rs, struct span rest);
/* The oldest call, or NULL. */
struct redis_call *redis_server_oldest(const struct redis_server *rs);
/* Its reply has come whole: the call leaves the queue. */
void redis_call_end(struct redis_server *rs, struct redis_call *call);
/* Tells every call that the server is lost; the holder drops its lease afterwards. */
void redis_server_lost(struct redis_server *rs, const struct err *err, enum outcome why);

/* ---- redis_about.c ---- */

/* A field of HELLO, or all lines of INFO; what is too long is cut. Any thread. */
void redis_about_field(struct redis_about *a, struct span name, struct span value);
void redis_about_info(struct redis_about *a, struct span text);
/* The server has come to its worker: what it said is kept for the pool. */
void redis_about_remember(struct redis_server *rs);
/* What the server that came last said of itself; false: none has said anything. Any thread. */
bool redis_about_recall(struct ledger *l, struct redis_about *out);

/* ---- redis_check.c ---- */

void redis_verify(struct server *sv, const char *statement);
void redis_reset(struct server *sv);

/* ---- redis_dial.c ---- */

void redis_dial(struct server *sv, struct loop *loop);
