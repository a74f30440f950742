/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Errors are values: a cause (one word, the same in the client's error, the log, the metric label
 * and the admin API), the stage where it happened, errno if any, and a sentence for people.
 */
#include "proxy/core/base.h"

/* clang-format off */
#define CAUSES(X)                                                                                  \
    X(ACQUIRE_TIMEOUT, "acquire_timeout") X(QUEUE_FULL, "queue_full") X(OUTAGE, "outage")          \
    X(BREAKER_OPEN, "breaker_open") X(DIAL_FAILED, "dial_failed")                                  \
    X(UPSTREAM_AUTH, "upstream_auth") X(UPSTREAM_BUSY, "upstream_busy")                            \
    X(REQUEST_TIMEOUT, "request_timeout") X(IDLE_TIMEOUT, "idle_timeout")                          \
    X(WRITE_STALL, "write_stall") X(UPSTREAM_CLOSED, "upstream_closed")                            \
    X(UPSTREAM_PROTOCOL, "upstream_protocol") X(OUTCOME_UNKNOWN, "outcome_unknown")                \
    X(CLIENT_PROTOCOL, "client_protocol") X(CLIENT_GONE, "client_gone")                            \
    X(CLIENT_TIMEOUT, "client_timeout") X(CANCELLED, "cancelled")                                  \
    X(AUTH_FAILED, "auth_failed")                                                                  \
    X(TLS_FAILED, "tls_failed") X(TOO_MANY_CLIENTS, "too_many_clients")                            \
    X(RATE_LIMITED, "rate_limited") X(OVERLOADED, "overloaded") X(TOO_LARGE, "too_large")          \
    X(NO_ROUTE, "no_route") X(UNSUPPORTED, "unsupported") X(DENIED, "denied")                      \
    X(PAUSED, "paused") X(DRAINING, "draining") X(KILLED, "killed") X(INTERNAL, "internal")

#define STAGES(X)                                                                                  \
    X(NONE, "") X(CONFIG, "config") X(RESOLVE, "resolve") X(CONNECT, "connect") X(TLS, "tls")      \
    X(LOGIN, "login") X(WAIT, "wait") X(EXCHANGE, "exchange") X(CHECK, "check")                    \
    X(CLIENT, "client") X(CLOSE, "close")
/* clang-format on */

enum cause {
    CAUSE_NONE,
#define X(name, word) CAUSE_##name,
    CAUSES(X)
#undef X
        CAUSE_COUNT
};

enum err_stage {
#define X(name, word) STAGE_##name,
    STAGES(X)
#undef X
        STAGE_COUNT
};

struct err {
    enum cause cause;
    enum err_stage stage;
    int sys;        /* errno, positive, 0 if none */
    char note[168]; /* a sentence, NUL-terminated, printable ASCII */
};

const char *cause_word(enum cause cause);
const char *stage_word(enum err_stage stage);

/* Fills *err and returns false, so that a failing function ends in `return err_set(...)`. */
COLD bool err_set(struct err *err, enum cause cause, enum err_stage stage, int sys, const char *fmt,
                  ...) PRINTF_LIKE(5, 6);

/* "dial_failed at connect: 127.0.0.1:5432 refused the connection" into buf; returns buf. */
const char *err_text(const struct err *err, char *buf, size_t cap);
