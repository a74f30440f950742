/* SPDX-License-Identifier: MIT */
#pragma once
/* Borrowed bytes. Nothing that came over a wire is assumed to end in NUL. */
#include <string.h>

#include "proxy/core/base.h"

struct span {
    const uint8_t *p;
    size_t n;
};

#define SPAN_LIT(s) ((struct span){(const uint8_t *)("" s), sizeof(s) - 1})

static inline struct span span_of(const void *p, size_t n)
{
    return (struct span){p, n};
}

static inline struct span span_str(const char *s)
{
    return (struct span){(const uint8_t *)s, s ? strlen(s) : 0};
}

/* The rest after the first n bytes; n must not exceed s.n. */
static inline struct span span_skip(struct span s, size_t n)
{
    CHECK(n <= s.n);
    return (struct span){s.n ? s.p + n : s.p, s.n - n};
}

static inline bool span_eq(struct span a, struct span b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline uint8_t ascii_lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

static inline bool span_starts(struct span s, struct span with)
{
    return s.n >= with.n && (with.n == 0 || memcmp(s.p, with.p, with.n) == 0);
}

/* ASCII case-insensitive equality. */
static inline bool span_ieq(struct span a, struct span b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
            return false;
    return true;
}
