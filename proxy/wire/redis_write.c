/* SPDX-License-Identifier: MIT */
/* RESP into a buffer. Every public function writes whole or not at all. */
#include "proxy/wire/redis_write.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

static bool has_room(struct redis_out *o, size_t n)
{
    if (o->overflow || o->cap - o->n < n) {
        o->overflow = true;
        return false;
    }
    return true;
}

static void append(struct redis_out *o, const void *p, size_t n)
{
    if (n > 0)
        memcpy(o->p + o->n, p, n);
    o->n += n;
}

void redis_put(struct redis_out *o, struct span bytes)
{
    if (has_room(o, bytes.n))
        append(o, bytes.p, bytes.n);
}

static void put_head(struct redis_out *o, char type, uint64_t n)
{
    char head[32];
    int len = snprintf(head, sizeof head, "%c%" PRIu64 "\r\n", type, n);
    redis_put(o, span_of(head, (size_t)len));
}

void redis_put_ok(struct redis_out *o)
{
    redis_put(o, SPAN_LIT("+OK\r\n"));
}

void redis_put_simple(struct redis_out *o, const char *text)
{
    size_t n = strlen(text);
    if (!has_room(o, n + 3))
        return;
    append(o, "+", 1);
    append(o, text, n);
    append(o, "\r\n", 2);
}

void redis_put_int(struct redis_out *o, int64_t value)
{
    char text[32];
    int n = snprintf(text, sizeof text, ":%" PRId64 "\r\n", value);
    redis_put(o, span_of(text, (size_t)n));
}

void redis_put_bulk(struct redis_out *o, struct span bytes)
{
    char head[32];
    int n = snprintf(head, sizeof head, "$%zu\r\n", bytes.n);
    if (!has_room(o, (size_t)n + bytes.n + 2))
        return;
    append(o, head, (size_t)n);
    append(o, bytes.p, bytes.n);
    append(o, "\r\n", 2);
}

void redis_put_null(struct redis_out *o, unsigned resp)
{
    redis_put(o, resp >= 3 ? SPAN_LIT("_\r\n") : SPAN_LIT("$-1\r\n"));
}

void redis_put_null_array(struct redis_out *o, unsigned resp)
{
    redis_put(o, resp >= 3 ? SPAN_LIT("_\r\n") : SPAN_LIT("*-1\r\n"));
}

void redis_put_array(struct redis_out *o, uint32_t elements)
{
    put_head(o, '*', elements);
}

void redis_put_map(struct redis_out *o, uint32_t pairs, unsigned resp)
{
    if (resp >= 3)
        put_head(o, '%', pairs);
    else
        put_head(o, '*', 2 * (uint64_t)pairs);
}

void redis_put_command(struct redis_out *o, const struct span *args, uint32_t n)
{
    size_t from = o->n;
    redis_put_array(o, n);
    for (uint32_t i = 0; i < n; i++)
        redis_put_bulk(o, args[i]);
    if (o->overflow)
        o->n = from;
}

void redis_put_error(struct redis_out *o, struct span text)
{
    if (!has_room(o, text.n + 3))
        return;
    append(o, "-", 1);
    /* A line break inside would let whoever chose the text write the next reply. */
    for (size_t i = 0; i < text.n; i++)
        o->p[o->n++] = text.p[i] == '\r' || text.p[i] == '\n' ? ' ' : text.p[i];
    append(o, "\r\n", 2);
}

void redis_put_errorf(struct redis_out *o, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0)
        n = 0;
    redis_put_error(o, span_of(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1));
}

void redis_put_refusal(struct redis_out *o, enum cause cause, const char *sentence)
{
    redis_put_errorf(o, "ERR carpool: %s %s", cause_word(cause), sentence);
}

void redis_put_protocol_error(struct redis_out *o, const struct err *err)
{
    redis_put_errorf(o, "ERR %s (carpool: %s)", err->note, cause_word(err->cause));
}
