/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Bounded output for heads: what does not fit is counted but not stored, so that one run yields
 * either the bytes or the size they would have needed.
 */
#include "proxy/core/span.h"

struct http_out {
    uint8_t *p;
    size_t cap;
    size_t n; /* bytes wanted so far; stored only while n <= cap */
};

static inline struct http_out http_out_of(void *p, size_t cap)
{
    return (struct http_out){p, cap, 0};
}

/* Everything was stored: the first n bytes of p are the text. */
static inline bool http_out_fits(const struct http_out *o)
{
    return o->n <= o->cap;
}

static inline void http_out_put(struct http_out *o, struct span s)
{
    if (s.n && o->n <= o->cap && s.n <= o->cap - o->n)
        memcpy(o->p + o->n, s.p, s.n);
    o->n += s.n;
}

static inline void http_out_str(struct http_out *o, const char *s)
{
    http_out_put(o, span_str(s));
}

/* Decimal digits. */
void http_out_uint(struct http_out *o, uint64_t v);

/* "name: value\r\n" */
void http_out_field(struct http_out *o, struct span name, struct span value);

/* May this stand in a field value: no control bytes (tab aside), no line end? */
bool http_is_value(struct span s);
