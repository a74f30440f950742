/* SPDX-License-Identifier: MIT */
#include "admin/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define FIRST_CAP 4096

static bool reserve(struct text *t, size_t n)
{
    if (t->failed)
        return false;
    if (n <= t->cap - t->n)
        return true;
    size_t cap = t->cap ? t->cap : FIRST_CAP;
    while (cap - t->n < n && cap < TEXT_MAX)
        cap *= 2;
    char *p = cap - t->n < n ? NULL : realloc(t->p, cap);
    if (!p) {
        t->failed = true;
        return false;
    }
    t->p = p;
    t->cap = cap;
    return true;
}

void text_put(struct text *t, struct span s)
{
    if (s.n == 0 || !reserve(t, s.n))
        return;
    memcpy(t->p + t->n, s.p, s.n);
    t->n += s.n;
}

void text_str(struct text *t, const char *s)
{
    text_put(t, span_str(s));
}

void text_fmt(struct text *t, const char *fmt, ...)
{
    char piece[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(piece, sizeof piece, fmt, ap);
    va_end(ap);
    if (n > 0)
        text_put(t, span_of(piece, (size_t)n < sizeof piece ? (size_t)n : sizeof piece - 1));
}

void text_fini(struct text *t)
{
    free(t->p);
    *t = (struct text){0};
}
