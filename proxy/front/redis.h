/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The Redis relay. What its files share:
 *
 *     redis_relay.c     life of a client: TLS, reading, drain, the one tick that decides
 *     redis_clock.c     its deadlines
 *     redis_command.c   from the client: what is asked, who answers, what is forwarded
 *     redis_shared.c    servers shared by many: leases, replies, losses, second tries
 *     redis_own.c       a server of the client's own: MULTI, blocking calls, subscriptions
 *     redis_answer.c    to the client: the order of answers, errors in Redis' words
 *     redis_guard.c     logins
 *     redis_access.c    a request's line of the access log
 *     redis_describe.c  what operators see
 *
 *           command          granted               nothing in flight
 *     FREE --------> ASKING ---------> SHARED ----------------------> FREE
 *      |  ^             | refused        | lost: what may be repeated asks again, the rest fails
 *      |  +-------------+----------------+
 *      |  +------------------------------------------+
 *      v  |             granted                      | the replies say: no state is left; or lost
 *     ASKING_OWN ------------------> OWN ------------+
 *      ^
 *      the command that needs it is the oldest: every shared reply has arrived
 *
 * A client's requests stand in one list, in the order they were asked, whoever answers them. A
 * reply that may be said now is the first of that list; answers of carpool's own wait in it for
 * their turn.
 *
 * Callbacks report and ask for a tick; the tick runs at the end of the loop's turn, gives leases
 * back, asks for new ones, reads on, writes once and may close. So nothing that happens to one
 * client in the middle of a server's replies changes the server under the others.
 */
#include "pools/redis.h"
#include "proxy/front/front.h"
#include "proxy/wire/redis_session.h"

enum {
    REDIS_PIPELINE = 1024,         /* requests of one client under way */
    REDIS_PIECE_MAX = 128 * 1024,  /* bytes of a command that may share a server */
    REDIS_BLOCK_MAX = 64 * 1024,   /* bytes of a MULTI ... EXEC that may */
    REDIS_CARRY_HIGH = 128 * 1024, /* unused bytes of a client before it is paused */
    REDIS_REPLY_ROOM = 64,         /* times limits.buffer: replies a shared server may pile up */
    REDIS_LINGER_MS = 1000,        /* for a client to read the last words */
};

enum redis_state {
    REDIS_TLS,        /* the handshake */
    REDIS_FREE,       /* no server */
    REDIS_ASKING,     /* waits for a shared one */
    REDIS_SHARED,     /* has one, with requests in flight (until the end of the turn) */
    REDIS_ASKING_OWN, /* waits for one of its own */
    REDIS_OWN,
    REDIS_ENDING, /* last words are out; waits for the client to leave */
    REDIS_STATES
};

enum redis_request_state {
    REDIS_REQ_QUEUED, /* its bytes wait in client->queued (or ->again, ->held) */
    REDIS_REQ_FLYING, /* on a server's queue of calls */
    REDIS_REQ_TEXT,   /* answered by carpool: text_n bytes of client->answers */
    REDIS_REQ_FAILED, /* to be answered with an error */
};

/* What is known of a request that failed. */
enum redis_fate {
    REDIS_FATE_NONE,    /* nothing to add */
    REDIS_FATE_UNSENT,  /* the server never saw it */
    REDIS_FATE_UNKNOWN, /* it may have been executed */
};

struct redis_request {
    struct redis_call call; /* first: see redis_call_bury() */
    struct list node;       /* of the client's requests, or of the free ones */
    struct redis_client *client;
    struct redis_slot slot;
    uint8_t state;
    uint8_t tries;
    uint8_t cause; /* FAILED */
    uint8_t fate;  /* FAILED: enum redis_fate */
    bool ill;      /* the server's answer counts against it */
    bool admitted; /* counted by limits.in_flight */
    uint32_t text_n;
    uint32_t size;   /* bytes of the command */
    uint32_t permit; /* of the service breaker */
    uint64_t since_ms, since_us;
    uint64_t wait_us; /* of those, for a server */
    uint64_t told;    /* bytes of its reply */
};

/*
 * What a client has only while something of its is under way: most are idle most of the time, and
 * an idle one is to cost little. From the route's stock; returned by the tick that finds nothing
 * left to do.
 */
struct redis_work {
    struct list node; /* of the stock */
    struct redis_framer framer;
    struct waiter waiter;
    struct bufq queued;  /* bytes of queued requests, in order */
    struct bufq again;   /* the same, to be sent a second time: in front of `queued` */
    struct bufq held;    /* bytes of `hold` */
    struct bufq answers; /* texts of TEXT requests, in order */
    struct err why;      /* of FAILED requests, or of the end */
};

struct redis_client {
    struct session base;
    enum redis_state state;
    struct redis_session session;
    struct redis_work *work; /* NULL: nothing is under way */
    struct redis_user user;  /* SHARED: the lease */
    struct server *own;      /* OWN: the lease */
    struct list requests;    /* oldest first */
    unsigned n_requests, n_flying, n_queued;
    size_t bytes;               /* of commands under way */
    struct redis_request *hold; /* waits for a server of its own; nothing is read meanwhile */
    struct bufq carry;          /* bytes of the client that cannot be used yet */
    struct deferred tick;
    bool doomed;        /* ends at the next tick, because of `why` */
    bool stalled;       /* reading stopped before the end of what is there */
    bool barrier;       /* nothing is read until all is answered and the server given back */
    bool closing;       /* ... until all is answered; then it ends */
    bool failed;        /* with closing: because of `why` */
    bool leaving;       /* the client has sent its last byte */
    bool streaming;     /* the rest of a big command goes to the own server */
    bool discarding;    /* ... goes nowhere */
    bool dirty;         /* the own server was used in a way that asks for a reset */
    uint64_t armed_ms;  /* when the deadline is due, 0: not armed */
    uint64_t active_ms; /* the client's last byte */
    uint64_t failed_ms; /* when a request failed last */
    uint64_t moved_ms;  /* when it last took bytes that had to wait for it */
    uint64_t passed_ms; /* when something of its was last passed on, in either direction */
    uint64_t again_ms;  /* `again` is not sent before; 0: nothing is to be sent again */
    uint64_t read_us;
    uint64_t said, taken; /* bytes */
    uint64_t end_ms;
};

extern const struct relay_ops redis_relay;

static inline struct redis_client *redis_client_of(struct session *s)
{
    return OWNER(s, struct redis_client, base);
}

static inline struct loop *redis_loop(const struct redis_client *c)
{
    return session_loop(&c->base);
}

static inline size_t redis_high_water(const struct redis_client *c)
{
    return c->base.gate->conf->limits.buffer;
}

/* Something has changed: look what can go on, at the end of this turn. */
static inline void redis_wake(struct redis_client *c)
{
    loop_defer(redis_loop(c), &c->tick);
}

/* The reason of its end, and of what failed. */
const struct err *redis_why(const struct redis_client *c);

/* relay */
void redis_become(struct redis_client *c, enum redis_state to);
/* The client ends at the next tick; nothing more is said to it. */
void redis_doom(struct redis_client *c, const struct err *err);

/* clock: sets the timer for what is due first */
void redis_arm(struct redis_client *c);
void redis_on_deadline(struct session *base);
/* Does the client take what it is told? */
void redis_note_progress(struct redis_client *c);

/* command */
/* Uses what it can of the client's bytes; returns the rest. */
struct span redis_walk(struct redis_client *c, struct span in);
/* May more be read from the client? */
bool redis_may_read(const struct redis_client *c);

/* shared: every function leaves closing and giving back to the tick */
enum lease_result redis_ask_shared(struct redis_client *c);
/* Whether the next request may follow those in flight on the server the client has. */
bool redis_may_stay(const struct redis_client *c);
void redis_send(struct redis_client *c, struct redis_request *r, struct span bytes);
/* Gives back, asks, sends what is queued: whatever may happen now with a shared server. */
void redis_tend_shared(struct redis_client *c);
void redis_on_shared_lease(struct redis_client *c);
/* The first request's time is over. */
void redis_time_out(struct redis_client *c, struct redis_request *r);
void redis_leave_shared(struct redis_client *c);
/* A request that a server has answered. */
void redis_answered(struct redis_client *c, struct redis_request *r, struct server *sv);
/* What an error of the server says about the server. */
void redis_note_trouble(struct redis_request *r, const struct redis_reply_piece *piece,
                        struct server *sv);
extern const struct redis_call_ops redis_call_ops;
void redis_waiter_init(struct redis_client *c, struct waiter *w);
void redis_user_lost(struct redis_user *user, const struct redis_loss *loss);

/* own */
extern const struct holder_ops redis_holder_ops;
void redis_tend_own(struct redis_client *c);
void redis_on_own_lease(struct redis_client *c);
/* A whole command, or (last false) the first piece of one. */
void redis_send_own(struct redis_client *c, struct redis_request *r, struct span bytes, bool last);
void redis_stream_own(struct redis_client *c, struct span bytes, bool last);
void redis_lose_own(struct redis_client *c, const struct err *err, enum outcome why);
/* The client is going: its server is given back for a reset, or dropped. */
void redis_leave_own(struct redis_client *c);

/* answer */
/* What the client needs to do anything. False: no memory, the client is doomed. */
bool redis_work_begin(struct redis_client *c);
/* Nothing is under way. */
void redis_work_end(struct redis_client *c);
struct redis_request *redis_request_new(struct redis_client *c, enum redis_request_state state);
void redis_request_free(struct redis_client *c, struct redis_request *r);
void redis_say(struct redis_client *c, struct span bytes);
/* An answer of carpool's own, behind those that are still due. */
void redis_answer(struct redis_client *c, struct span text);
/* The request ends with an error: counted, logged, told when its turn comes. */
void redis_fail(struct redis_client *c, struct redis_request *r, const struct err *err);
/* Says what is at the front of the list and ready to be said. */
void redis_deliver(struct redis_client *c);
/* The request does not end well: what shows the service to be sick, or NULL: that shows nothing. */
void redis_permit_result(struct redis_client *c, struct redis_request *r, const char *sick);

/* access */
void redis_access_write(struct redis_client *c, const struct redis_request *r, enum cause cause);
/* A request ends, for the access log: before its state changes and before its server is let go. */
static inline void redis_access(struct redis_client *c, const struct redis_request *r,
                                enum cause cause)
{
    if (session_access_on(&c->base, cause != CAUSE_NONE))
        redis_access_write(c, r, cause);
}

/* describe */
void redis_describe(const struct session *base, struct census_client *row);

/* guard */
struct redis_guard {
    struct redis_session_conf open, locked; /* doors that trust, doors that ask for a password */
};
void *redis_guard_new(const struct front_conf *front, const struct pool_conf *pool,
                      struct err *err);
void redis_guard_free(void *guard);
enum redis_auth redis_guard_check(const struct redis_client *c, const struct redis_act *act);

/* What all clients of a route share: room for answers, what is not in use, what the server says of
 * itself. */
struct redis_common {
    struct list free, works;
    unsigned n_free, n_works;
    struct redis_about about;
    uint8_t answer[REDIS_PIECE_MAX + REDIS_ANSWER_ROOM];
};
void *redis_common_new(void);
void redis_common_free(void *state);
