/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Private to redis*.c: lengths in RESP headers. Plain decimal, no sign, no leading zero, at most 15
 * digits, then CRLF. 15 digits cannot overflow anything we add to them.
 */
#include "proxy/core/span.h"

enum redis_length { REDIS_LENGTH_OK, REDIS_LENGTH_WAIT, REDIS_LENGTH_BAD };

enum { REDIS_LENGTH_DIGITS = 15 };

/* Reads digits and CRLF at *at; moves *at behind them if OK. WAIT: it may still become a length. */
static inline enum redis_length redis_length_read(struct span in, size_t *at, uint64_t *out)
{
    size_t i = *at, first = *at;
    uint64_t v = 0;
    for (; i < in.n && in.p[i] >= '0' && in.p[i] <= '9'; i++) {
        if (i - first == REDIS_LENGTH_DIGITS || (i > first && in.p[first] == '0'))
            return REDIS_LENGTH_BAD;
        v = v * 10 + (uint64_t)(in.p[i] - '0');
    }
    if (i == in.n)
        return REDIS_LENGTH_WAIT;
    if (i == first || in.p[i] != '\r')
        return REDIS_LENGTH_BAD;
    if (i + 1 == in.n)
        return REDIS_LENGTH_WAIT;
    if (in.p[i + 1] != '\n')
        return REDIS_LENGTH_BAD;
    *at = i + 2;
    *out = v;
    return REDIS_LENGTH_OK;
}

/* The CRLF behind a bulk string: WAIT with fewer than two bytes there. */
static inline enum redis_length redis_crlf(struct span in, size_t at)
{
    if (in.n - at < 2)
        return REDIS_LENGTH_WAIT;
    return in.p[at] == '\r' && in.p[at + 1] == '\n' ? REDIS_LENGTH_OK : REDIS_LENGTH_BAD;
}
