/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A client's connection, as far as every protocol has it. Born at accept, owned by one worker from
 * then on, ended by session_close() from anywhere on that worker; its memory goes at the end of the
 * turn, so that callers up the stack may still look at s->closed.
 */
#include <netinet/in.h>

#include "proxy/core/io.h"
#include "proxy/front/relay.h"

#define SESSION_MAGIC UINT32_C(0x73657373)

struct gate;
struct route;

struct session {
    uint32_t magic;
    uint32_t id; /* "conn=17" in logs and error texts */
    bool closed;
    bool draining;
    bool counted;       /* one of the pool's limits.clients */
    uint32_t in_flight; /* exchanges admitted and not over; a session that ends gives them back */
    struct route *route;
    struct gate *gate; /* the settings it came in by; one reference */
    struct io io;
    struct list node; /* of the route's sessions */
    struct timer timer;
    struct deferred after;
    struct post_msg msg;            /* on its way from the accepting worker */
    struct err *refusal;            /* set before open(): tell it, then close; NULL: welcome */
    const struct listen_conf *door; /* where it came in; lives as long as gate */
    uint64_t since_ms;
    const struct sockaddr *peer; /* &addr; NULL for Unix sockets */
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } addr;
};

/* Ends it. err says why (logged, counted by cause); NULL: an orderly end. Idempotent. */
COLD void session_close(struct session *s, const struct err *err);

/* From the pool of the whole, where it came in, to one of those behind the listener: between
 * exchanges, without a server. False: that pool is going; the session stays where it is. */
MUST_USE bool session_move(struct session *s, struct route *to);

/* One deadline at a time: on_deadline() in so many milliseconds; 0: none. */
void session_deadline(struct session *s, uint64_t in_ms);

/* Counts an error the client was told about, and logs it at debug level. */
COLD void session_error(struct session *s, const struct err *err);

/*
 * At the start of an exchange: within limits.in_flight and limits.rate? (Per-worker shares: total
 * divided by workers, rounded up; a second's worth may come at once.) False: *err says which. After
 * true, session_exchange_over() once, when the exchange has ended.
 */
MUST_USE bool session_admit(struct session *s, struct err *err);
void session_exchange_over(struct session *s);

static inline struct loop *session_loop(const struct session *s)
{
    return s->io.loop;
}
struct pool *session_pool(const struct session *s);

/*
 * The access log (`log.access`): one line for each exchange, said by the relay when it ends, BEFORE
 * the lease is given back or dropped. Costs one load when nothing is to be written:
 *
 *     session_access(&s->base, &(struct access_line){.server = sv, .waiter = &s->waiter,
 *                                                    .user = user, .cause = CAUSE_NONE});
 */
struct access_line {
    const struct server *server; /* who carries it; NULL: nobody, it got none or lost it */
    /* Of an exclusive lease, or of one that did not come: the figures below are taken from it and
       from the server. NULL: they are given. */
    const struct waiter *waiter;
    struct span user; /* who the client is; empty: not logged in, or no matter */
    enum cause cause; /* CAUSE_NONE: it ended well */
    uint64_t wait_us, exchange_us;
    uint64_t bytes_in, bytes_out; /* from the client, to the client */
    const char *more;             /* " key=value" pairs for the end of the line, or NULL */
};
void session_access_write(struct session *s, const struct access_line *line);
/* Is an exchange with this outcome written down, however long it took? */
static inline bool session_access_wanted(const struct session *s, bool failed)
{
    enum pool_access own = pool_conf(session_pool(s))->log.access;
    if (own == POOL_ACCESS_AS_LOG)
        return log_access_on(s->io.loop->log, failed);
    return own == POOL_ACCESS_ALL || (own == POOL_ACCESS_ERRORS && failed);
}
/* May there be something to write? Also where only slow exchanges are (the pool's log.slow). */
static inline bool session_access_on(const struct session *s, bool failed)
{
    return session_access_wanted(s, failed) || pool_conf(session_pool(s))->log.slow_ms > 0;
}
static inline void session_access(struct session *s, const struct access_line *line)
{
    if (session_access_on(s, line->cause != CAUSE_NONE))
        session_access_write(s, line);
}

/* "127.0.0.1:4711" or "unix"; buf of at least 64 bytes. */
const char *session_peer(const struct session *s, char *buf, size_t cap);
