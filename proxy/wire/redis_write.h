/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Building RESP into a caller's buffer: replies of carpool's own, and commands for tests and pools.
 *
 * What does not fit sets `overflow` and leaves the buffer as it was before the call that did not
 * fit; so a caller may write a whole answer and look once. Pure, one thread at a time.
 */
#include "proxy/core/err.h"
#include "proxy/core/span.h"

struct redis_out {
    uint8_t *p;
    size_t cap, n;
    bool overflow;
};

static inline struct redis_out redis_out_of(void *p, size_t cap)
{
    return (struct redis_out){.p = p, .cap = cap};
}

static inline struct span redis_out_span(const struct redis_out *o)
{
    return span_of(o->p, o->n);
}

/* Bytes as they are. */
void redis_put(struct redis_out *o, struct span bytes);

void redis_put_ok(struct redis_out *o);
void redis_put_simple(struct redis_out *o, const char *text); /* +text */
void redis_put_int(struct redis_out *o, int64_t value);
void redis_put_bulk(struct redis_out *o, struct span bytes);
void redis_put_null(struct redis_out *o, unsigned resp);       /* $-1 or _ */
void redis_put_null_array(struct redis_out *o, unsigned resp); /* *-1 or _ */
void redis_put_array(struct redis_out *o, uint32_t elements);
void redis_put_map(struct redis_out *o, uint32_t pairs,
                   unsigned resp); /* * of twice as many, or % */

/* A request: an array of n bulk strings. */
void redis_put_command(struct redis_out *o, const struct span *args, uint32_t n);

/* "-text\r\n" in words of Redis: text includes the code ("ERR ...") and loses any CR or LF. */
void redis_put_error(struct redis_out *o, struct span text);
void redis_put_errorf(struct redis_out *o, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* "-ERR carpool: <cause> <sentence>\r\n": every refusal and failure of carpool's own. */
void redis_put_refusal(struct redis_out *o, enum cause cause, const char *sentence);
static inline void redis_put_err(struct redis_out *o, const struct err *err)
{
    redis_put_refusal(o, err->cause, err->note);
}

/* Answer to a protocol error, from the framer's err: Redis' words, then the cause's,
 * "-ERR Protocol error: ... (carpool: client_protocol)\r\n". */
void redis_put_protocol_error(struct redis_out *o, const struct err *err);

/* Redis' own sentences, whose beginnings clients compare with; behind refusals of carpool's stands
 * the cause's word. Complete error lines. */
#define REDIS_NOAUTH "-NOAUTH Authentication required. (carpool: denied)\r\n"
#define REDIS_NOAUTH_HELLO                                                                         \
    "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO "     \
    "<proto> AUTH <user> <pass> option can be used to authenticate the client and select the "     \
    "RESP protocol version at the same time (carpool: denied)\r\n"
#define REDIS_NOPROTO "-NOPROTO unsupported protocol version\r\n"
#define REDIS_WRONGPASS                                                                            \
    "-WRONGPASS invalid username-password pair or user is disabled. (carpool: auth_failed)\r\n"
#define REDIS_NO_PASSWORD                                                                          \
    "-ERR AUTH <password> called without any password configured for the default user. Are you "   \
    "sure your configuration is correct?\r\n"
#define REDIS_EXECABORT "-EXECABORT Transaction discarded because of previous errors.\r\n"
#define REDIS_EXEC_WITHOUT_MULTI "-ERR EXEC without MULTI\r\n"
#define REDIS_DISCARD_WITHOUT_MULTI "-ERR DISCARD without MULTI\r\n"
#define REDIS_NESTED_MULTI "-ERR MULTI calls can not be nested\r\n"
#define REDIS_SYNTAX "-ERR syntax error\r\n"
#define REDIS_NOT_INTEGER "-ERR value is not an integer or out of range\r\n"
