/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The HTTP/1.1 relay. What its files share:
 *
 *     http_relay.c     a client's life: TLS, idle, draining, the end
 *     http_clock.c     how long anything may take
 *     http_work.c      what only a client with a request has; the stock of it
 *     http_request.c   from the client: heads, bodies to the server
 *     http_tries.c     getting a server, losing it, second tries
 *     http_response.c  from the server: heads, bodies to the client, the end of an exchange
 *     http_local.c     what carpool itself answers, and how a connection is closed after an answer
 *     http_access.c    an exchange's line of the access log
 *     http_describe.c  what operators see
 *     http_batch.h     gathers pieces into one writev
 *
 *     TLS --> IDLE --> HEAD --> WAITING --> LINKED
 *              ^        |        ^ |          |
 *              |        |        | |<- retry -+    at once, or after
 *              |        |        +-|-- PAUSE <+    a pause
 *              +--------+----------+----------+    answered, and the connection goes on
 *              |        v          v          v
 *              +---- DISCARD <-----+----------+    answered here: the rest of the body is read away
 *                       |          |          |
 *                       +----------+----------+--> LINGER    answered, and that was the last one
 *
 * One exchange at a time: what a client sends ahead waits in `carry`, at most hr_carry_max() and
 * one read more, then reading stops. Bodies go through as they come; only what the peer does not
 * take is queued, and beyond limits.buffer the other side is not read.
 */
#include "pools/http.h"
#include "pools/ledger.h"
#include "proxy/front/front.h"

/* At most limits.buffer, and: */
#define HR_CARRY_MAX ((size_t)64 * 1024)     /* of a client, while its bytes cannot be used */
#define HR_REPLAY_MAX ((size_t)64 * 1024)    /* of a body, while the request may be tried again */
#define HR_DISCARD_MAX ((uint64_t)64 * 1024) /* of a body nobody wants: more costs the connection */
#define HR_LINGER_MS 2000                    /* from our end-of-file to the client's */
#define HR_REFUSE_MS 1000  /* a refused client that says nothing is told so after this */
#define HR_PSEUDONYM 16    /* "carpool-" and eight random letters */
#define HR_PIPELINE_MAX 32 /* requests that a client may end before it is the others' turn */
#define HR_TARGET_MAX 200  /* of a request's target, in the access log */

enum hr_state {
    HR_TLS,     /* the handshake; also before anything else */
    HR_IDLE,    /* not a byte of the next request */
    HR_HEAD,    /* a head on its way, or being judged */
    HR_WAITING, /* wants a server */
    HR_LINKED,  /* has one */
    HR_PAUSE,   /* lost it, and waits for a moment before it wants another (retry.backoff) */
    HR_DISCARD, /* answered by carpool, the rest of the request's body is read and forgotten */
    HR_LINGER, /* the last answer was given: end-of-file as soon as it is sent, then the client's */
    HR_STATES
};

enum hr_deadline {
    HR_DEADLINE_NONE,
    HR_DEADLINE_HEAD,    /* timeouts.client_login */
    HR_DEADLINE_IDLE,    /* timeouts.client_idle */
    HR_DEADLINE_REQUEST, /* timeouts.request, from the request's last byte to a head */
    HR_DEADLINE_PAUSE,   /* the next try; it ends before timeouts.request does */
    HR_DEADLINE_STALL,   /* timeouts.write_stall: somebody takes nothing */
    HR_DEADLINE_SILENT,  /* timeouts.read_stall: the response does not go on */
    HR_DEADLINE_LINGER,
    HR_DEADLINE_REFUSE,
};

/*
 * What a client has only while something of its is under way: most are idle most of the time, and
 * an idle one is to cost little. Taken from the route's stock with the first byte of a request,
 * returned when nothing is left to do. Every state has it but TLS, IDLE and LINGER, which may, and
 * HEAD of a client that is turned away unheard.
 */
struct hr_work {
    struct list node;           /* of the stock */
    struct http_parser *parser; /* of requests */
    struct waiter waiter;
    struct deferred more; /* goes on with `carry` after others had their turn */
    unsigned ended;       /* requests of a pipeline since then */
    uint64_t due_ms;      /* PAUSE, STALL: when the request's time is up, 0: never */
    /* The request, for the access log; only while that may want it. */
    uint64_t asked_us; /* when the head was complete; 0: not noted */
    const char *method;
    uint16_t target_n; /* of these bytes, "..." at the end if there were more */
    char target[HR_TARGET_MAX];
};

/* An idle client is this and an io's watch. */
struct hr_session {
    struct session base;
    enum hr_state state;
    uint8_t deadline;     /* enum hr_deadline */
    struct hr_work *work; /* NULL: nothing is under way */
    struct bufq carry;
    bool client_eof; /* end-of-file after a whole request is no abort */
    char client[46]; /* its address for X-Forwarded-For, empty for Unix sockets */
    /* Progress, for the clocks on peers that stand still. */
    uint64_t given;                   /* bytes the client was given */
    uint64_t given_before;            /* ... of them, before this exchange */
    uint64_t taken;                   /* bytes of the request */
    int64_t client_mark, server_mark; /* what each side had taken when STALL was set */
    uint64_t moved_ms;                /* latest byte of either body */

    /* The request; from its head on. */
    bool client_keep; /* the client's connection may carry another one */
    bool idempotent, is_head;
    bool expects; /* the client waits for 100 before it sends its body */
    bool has_body;
    bool chunked; /* the body goes to the server in chunks */
    uint8_t minor;
    uint8_t tries;   /* servers that were lost before this one */
    uint32_t permit; /* of the service breaker */

    /* The try. */
    struct http_server *server; /* while LINKED */
    bool head_due;      /* the head (and what is kept of the body) must be sent to this server */
    bool reused;        /* the server had been idle: it may have been closing all along */
    bool unsent;        /* it took not a byte */
    bool heard;         /* it said something */
    uint64_t sent;      /* bytes it was given */
    struct bufq replay; /* the body so far, framed for the server, for a second try */
    bool storing, replay_lost;

    /* The response. */
    bool interim;      /* the head at hand is a 1xx */
    bool told_interim; /* the client has been told one, or the head */
    bool answered;     /* the final head is on its way: no second try, no answer of our own */
    bool deaf;   /* the server answered early and will close: the rest of the body is dropped */
    bool close;  /* the client's connection ends with this response */
    bool judged; /* the service breaker has been told how this exchange went */
    bool server_keep;
    bool logged;     /* its line of the access log is written, or need not be */
    uint16_t status; /* that the client was given, 0: none */
    uint32_t keep_alive_s;
    enum http_body framing;
};

_Static_assert(sizeof(struct hr_session) <= 512, "idle clients are to cost little");

extern const struct relay_ops http_relay;
extern const struct holder_ops hr_holder_ops;

static inline struct hr_session *hr_session_of(struct session *s)
{
    return OWNER(s, struct hr_session, base);
}

static inline size_t hr_high_water(const struct hr_session *s)
{
    return s->base.gate->conf->limits.buffer;
}

static inline size_t hr_carry_max(const struct hr_session *s)
{
    return hr_high_water(s) < HR_CARRY_MAX ? hr_high_water(s) : HR_CARRY_MAX;
}

static inline size_t hr_replay_max(const struct hr_session *s)
{
    return hr_high_water(s) < HR_REPLAY_MAX ? hr_high_water(s) : HR_REPLAY_MAX;
}

static inline const struct timeouts_conf *hr_timeouts(const struct hr_session *s)
{
    return &pool_conf(session_pool(&s->base))->timeouts;
}

/* Own name in Via: of the settings a client came in by. */
struct span hr_pseudonym(const struct hr_session *s);

static inline struct http_parser *hr_parser(const struct hr_session *s)
{
    return s->work->parser;
}

/* ---- http_work.c ---- */

void *hr_stock_new(void);
void hr_stock_free(void *stock);
/* From now on s->work is there. False: out of memory. */
MUST_USE bool hr_work_begin(struct hr_session *s);
/* Has it ended so many requests in one go that others come first? */
static inline bool hr_is_greedy(const struct hr_session *s)
{
    return s->work && s->work->ended >= HR_PIPELINE_MAX;
}
/* Returns it, if there is any. The waiter must not be waiting. */
void hr_work_end(struct hr_session *s);

/* ---- http_relay.c ---- */

void hr_become(struct hr_session *s, enum hr_state to);
/* Goes on with what was carried over, as far as the state allows; starts and stops reading. Every
   callback ends with it. */
void hr_advance(struct hr_session *s);
/* The client cannot be answered any more. n: what reading said. */
void hr_client_gone(struct hr_session *s, ssize_t n);
/* Sends to the client. Where that fails, reading will tell. */
void hr_send_down(struct hr_session *s, const struct iovec *iov, int n);
/* A client above a limit is told so. */
void hr_turn_away(struct hr_session *s);

/* ---- http_clock.c ---- */

void hr_set_deadline(struct hr_session *s, enum hr_deadline kind, uint64_t ms);
void hr_on_deadline(struct session *base);
/* Is the request's time (timeouts.request) not up for more than so many milliseconds? */
bool hr_has_time(const struct hr_session *s, uint64_t ms);
/* PAUSE for so long. */
void hr_pause(struct hr_session *s, uint64_t ms);
/* It is over, or cut short: the request's own time goes on. */
void hr_pause_over(struct hr_session *s);
/* If no other deadline runs, or ends before a request's: bounds how long bytes may wait for a peer,
   or else how long the rest of a response may be waited for. */
void hr_watch(struct hr_session *s);
/* Bytes were taken: what else may run goes on. */
void hr_stall_over(struct hr_session *s);

/* ---- http_request.c ---- */

/* May bytes of the client be used now? */
bool hr_takes_input(const struct hr_session *s);
/* Uses them (they lie in the loop's scratch memory); what is left is carried over. */
void hr_walk(struct hr_session *s, struct span in);

/* ---- http_tries.c ---- */

/* Asks the service breaker; false: it has been answered. */
MUST_USE bool hr_service_allows(struct hr_session *s);
/* True: LINKED, and the head is due. False: WAITING, or answered. */
MUST_USE bool hr_want_server(struct hr_session *s);
void hr_on_lease(struct waiter *w);
/* PAUSE is over, or cut short. */
void hr_try_again(struct hr_session *s);
/*
 * The server is lost, or not worth going on with: tries another one if nobody can have noticed, and
 * if that is allowed; false: then nothing was changed.
 */
MUST_USE bool hr_retry(struct hr_session *s, enum outcome why);
/* No second try: the client is told, or, in the middle of a response, closed. */
void hr_fail(struct hr_session *s, const struct err *err, enum outcome why,
             enum service_result result);
/* hr_retry(), else hr_fail(). */
void hr_lose_server(struct hr_session *s, const struct err *err, enum outcome why);
/* Tells the service breaker, once per permit. */
void hr_tell_service(struct hr_session *s, enum service_result result);

/* ---- http_access.c ---- */

/* A request's head is there. */
void hr_access_begin(struct hr_session *s, const struct http_head *head);
/* The exchange ends, for the access log: before its server is let go, and after the last byte was
 * given to the client. Later calls say nothing. */
void hr_access(struct hr_session *s, enum cause cause);

/* ---- http_describe.c ---- */

void hr_describe(const struct session *base, struct census_client *row);

/* ---- http_local.c ---- */

/* Answers with err instead of a server. Status 0: by its cause. wait_ms is for Retry-After. */
void hr_refuse(struct hr_session *s, const struct err *err, unsigned status, uint64_t wait_ms);
/* The same in two steps: says it, while the server may still be there; then hr_end(), unless the
 * session is closed. Returns whether the connection is to end. */
MUST_USE bool hr_say_refusal(struct hr_session *s, const struct err *err, unsigned status,
                             uint64_t wait_ms);
void hr_answer_options(struct hr_session *s);
/* The exchange is over: the next request, or the end of the connection. */
void hr_end(struct hr_session *s, bool close);
/* No more requests: end-of-file once everything is sent, then waits for the client's. */
void hr_linger(struct hr_session *s);
/* LINGER: the queue is empty. */
void hr_linger_drained(struct hr_session *s);
