/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Text that grows: an answer is written whole into memory before its first byte is sent, so
 * that its length is known and nothing is half said. One owner; any thread.
 */
#include "proxy/core/span.h"

/* Far above anything honest: thousands of pools take some MB. */
#define TEXT_MAX ((size_t)64 << 20)

/* Zeroed memory is empty text. Not NUL-terminated. */
struct text {
    char *p;
    size_t n, cap;
    bool failed; /* memory or TEXT_MAX ran out: the rest is dropped, the text is of no use */
};

void text_put(struct text *t, struct span s);
void text_str(struct text *t, const char *s);
/* One piece of at most 1 KiB. */
void text_fmt(struct text *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Frees it; empty again. */
void text_fini(struct text *t);
