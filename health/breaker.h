/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Circuit breaker: stops asking an endpoint that keeps failing, and finds out with single trials
 * when it is back. An endpoint has two, alike but for their role: the door judges dials and, while
 * open, stops dialing only (live servers serve on); the service judges requests.
 *
 *                    too many failures                 open time over
 *      +---> CLOSED -------------------> OPEN ------------------------> HALF_OPEN
 *      |                                   ^                             |     |
 *      |                                   +---------- trial failed -----+     |
 *      +----------------------- enough trials passed --------------------------+
 *
 *      any state --operator--> FORCED_OPEN, FORCED_CLOSED --operator: auto--> CLOSED
 *
 * What to report: the outcome of dials or requests that say something about the endpoint. Neutral
 * are, and not reported (or, under a permit, BREAKER_NEUTRAL): carpool's own refusals, clients that
 * went away, errors that are the request's fault, "too many connections" (busy is not down).
 *
 * Owner: control; workers act by a copy of the answer. Time is an argument, in milliseconds of a
 * clock that never goes back. Nothing is allocated.
 */
#include "health/health_conf.h"
#include "health/window.h"
#include "proxy/core/base.h"

enum breaker_role {
    BREAKER_DOOR,    /* one successful trial dial closes it */
    BREAKER_SERVICE, /* takes three successful trial requests in a row */
    BREAKER_ROLE_COUNT,
};

enum breaker_state {
    BREAKER_CLOSED,
    BREAKER_OPEN,
    BREAKER_HALF_OPEN,
    BREAKER_FORCED_OPEN,
    BREAKER_FORCED_CLOSED,
    BREAKER_STATE_COUNT,
};

/* Why the state is what it is. */
enum breaker_reason {
    BREAKER_NEW,           /* nothing happened yet */
    BREAKER_CONSECUTIVE,   /* conf.consecutive hard failures in a row */
    BREAKER_RATIO,         /* conf.failure_ratio of the last ten seconds failed */
    BREAKER_TIME_OVER,     /* was open long enough to try again */
    BREAKER_TRIAL_FAILED,  /* not back yet */
    BREAKER_TRIALS_PASSED, /* it is back */
    BREAKER_OPERATOR,      /* somebody said so */
    BREAKER_REASON_COUNT,
};

enum breaker_failure {
    BREAKER_HARD, /* refused, reset, timed out, 5xx: counts for both rules */
    BREAKER_SOFT, /* answered, but not well (429): counts for the ratio, neither extends nor ends a
                     run of hard failures */
};

enum breaker_answer {
    BREAKER_PASS,   /* go ahead; report to breaker_success() or breaker_failure() */
    BREAKER_TRIAL,  /* go ahead with this one; report to breaker_trial() with the permit */
    BREAKER_REFUSE, /* do not; breaker_next() says when to ask again */
};

enum breaker_outcome {
    BREAKER_PASSED,
    BREAKER_FAILED,
    BREAKER_NEUTRAL, /* came to nothing that tells: the permit is free again */
};

enum breaker_force {
    BREAKER_FORCE_OPEN,
    BREAKER_FORCE_CLOSED,
    BREAKER_FORCE_AUTO, /* ends forcing, starts closed with a clean record; else changes nothing */
};

struct breaker {
    /* fixed, conf until breaker_reconf() */
    enum breaker_role role;
    struct breaker_conf conf;
    /* changes */
    enum breaker_state state;
    enum breaker_reason reason;
    uint64_t since;         /* ms, of the last change of state */
    struct window window;   /* CLOSED: good and bad outcomes */
    uint32_t run;           /* CLOSED: hard failures since the last success */
    uint32_t relapses;      /* how often it opened since it was last CLOSED */
    uint64_t open_until;    /* OPEN: ms */
    uint32_t trials_passed; /* HALF_OPEN */
    uint32_t permit;        /* HALF_OPEN: the one outstanding, 0 if none */
    uint64_t permit_until;  /* ms; from then on another may be issued */
    uint32_t last_permit;
    uint32_t random; /* for the jitter of the open time */
};

/* Starts CLOSED. conf is copied. Different breakers want different seeds. */
void breaker_init(struct breaker *b, enum breaker_role role, const struct breaker_conf *conf,
                  uint64_t now, uint32_t seed);

/* New limits from the next failure or opening on; the state stays. */
void breaker_reconf(struct breaker *b, const struct breaker_conf *conf);

/*
 * Outcomes of calls that went ahead with BREAKER_PASS. They matter while CLOSED only: what comes in
 * later is about calls from before it opened. Report successes before a failure that followed them.
 * breaker_failure() returns whether the state changed.
 */
void breaker_success(struct breaker *b, uint64_t now, uint64_t n);
bool breaker_failure(struct breaker *b, uint64_t now, enum breaker_failure kind);

/* Moves OPEN to HALF_OPEN when the time has come; true if it did. Call at breaker_next(). */
bool breaker_tick(struct breaker *b, uint64_t now);

/*
 * May a call go ahead? Never changes the state. With BREAKER_TRIAL, *permit (never 0; 0 otherwise)
 * is the only one outstanding and has to be settled by breaker_trial() within hold_ms; after that
 * another is issued to whoever asks.
 */
enum breaker_answer breaker_ask(struct breaker *b, uint64_t now, uint64_t hold_ms,
                                uint32_t *permit);

/*
 * The outcome of the call that held the permit; true if the state changed. A late one counts as
 * long as no other permit was issued, then it is ignored; each permit is settled at most once.
 */
bool breaker_trial(struct breaker *b, uint64_t now, uint32_t permit, enum breaker_outcome outcome);

/* The operator's word; true if the state changed. */
bool breaker_force(struct breaker *b, uint64_t now, enum breaker_force force);
/* AUTO: the operator has said nothing. */
enum breaker_force breaker_forced(const struct breaker *b);

/*
 * The earliest time at which breaker_ask() may answer other than BREAKER_REFUSE: 0 if it already
 * does, UINT64_MAX if only an operator can change that. For Retry-After and the owner's timer.
 */
uint64_t breaker_next(const struct breaker *b);

/* "closed", "half_open", ...: for logs, metrics and the admin API. */
const char *breaker_state_word(enum breaker_state state);
const char *breaker_reason_word(enum breaker_reason reason);
const char *breaker_role_word(enum breaker_role role);
