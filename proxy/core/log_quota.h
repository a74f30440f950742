/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * How many lines of one kind a second may bring: when a thousand clients fail for one reason, the
 * log says so and how often, and the other reasons still find their place in the ring. Zeroed
 * memory is a fresh quota. Owned by one thread; time is an argument, in milliseconds.
 */
#include "proxy/core/base.h"

struct log_quota {
    uint64_t second; /* the running one, + 1; 0: none yet */
    uint32_t lines;  /* written in it */
    uint32_t left_out;
};

/* May one more be written? Then *left_out is how many were not since the last that was. */
static inline bool log_quota_take(struct log_quota *q, uint64_t now_ms, uint32_t per_second,
                                  uint32_t *left_out)
{
    uint64_t second = now_ms / 1000 + 1;
    if (q->second != second) {
        q->second = second;
        q->lines = 0;
    }
    if (q->lines >= per_second) {
        q->left_out++;
        return false;
    }
    q->lines++;
    *left_out = q->left_out;
    q->left_out = 0;
    return true;
}
