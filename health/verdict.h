/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What the checks of a server at recycle time come to. Every check is counted by phase and outcome;
 * the words are the labels of carpool_recycle_verdicts_total and appear in the log. Constant; any
 * thread.
 */
#include "proxy/core/base.h"

/* When a server is looked at: given back by an exchange, while idle, about to be leased again. */
#define PHASES(X) X(RETURN, "return") X(IDLE, "idle") X(CHECKOUT, "checkout")

/* clang-format off */
#define OUTCOMES(X)                                                                                \
    X(KEEP, "keep")                       /* clean: back to the pool or to its next lease */       \
    X(RESET, "reset")                     /* reset it, then look again */                          \
    X(VERIFY, "verify")                   /* a round trip has to prove it first */                 \
    X(DROP_DIRTY, "drop_dirty")           /* left inside a transaction, exchange or subscription */\
    X(DROP_UNREAD, "drop_unread")         /* bytes nobody asked for: streams may be out of step */ \
    X(DROP_EOF, "drop_eof")               /* the server has closed or reset the connection */      \
    X(DROP_PROTOCOL, "drop_protocol")     /* the server broke its protocol */                      \
    X(DROP_CLOSING, "drop_closing")       /* the server announced that it will close */            \
    X(DROP_FAILED, "drop_failed")         /* a reset or verification was answered with an error */ \
    X(DROP_TIMEOUT, "drop_timeout")       /* a reset or verification was not answered in time */   \
    X(DROP_BREAKER, "drop_breaker")       /* its endpoint's service is shut, others are to serve */\
    X(DROP_LIFETIME, "drop_lifetime")     /* older than max_lifetime */                            \
    X(DROP_IDLE, "drop_idle")             /* idle longer than idle_timeout */                      \
    X(DROP_SURPLUS, "drop_surplus")       /* more servers than size.max or than are needed */      \
    X(DROP_RECYCLED, "drop_recycled")     /* of before a recycle command or change of settings */  \
    X(DROP_MOVED, "drop_moved")           /* its address is no longer among its name's */          \
    X(DROP_UNFIT, "drop_unfit")           /* its role is not, or no longer, the one wanted */      \
    X(DROP_DRAINING, "drop_draining")     /* the pool or the daemon is going away */
/* clang-format on */

enum phase {
#define X(name, word) PHASE_##name,
    PHASES(X)
#undef X
        PHASE_COUNT
};

enum outcome {
#define X(name, word) OUTCOME_##name,
    OUTCOMES(X)
#undef X
        OUTCOME_COUNT
};

const char *phase_word(enum phase phase);
const char *outcome_word(enum outcome outcome);

/* The server is not to be used again. False for keep, reset and verify. */
bool outcome_drops(enum outcome outcome);
