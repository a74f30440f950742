/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Deadlines: points in time, in milliseconds of the caller's clock; 0: none. A wait that several
 * limits end (the pool's patience, what the request has left) ends at the earliest of them. Pure:
 * time is an argument. Any thread.
 */
#include <stdbool.h>
#include <stdint.h>

/* `timeout_ms` after `since`; a timeout of 0 means none. Saturates instead of wrapping. */
static inline uint64_t deadline_after(uint64_t since, uint64_t timeout_ms)
{
    if (timeout_ms == 0)
        return 0;
    return timeout_ms > UINT64_MAX - since ? UINT64_MAX : since + timeout_ms;
}

/* The one that passes first. */
static inline uint64_t deadline_earlier(uint64_t a, uint64_t b)
{
    if (a == 0 || b == 0)
        return a | b;
    return a < b ? a : b;
}

static inline bool deadline_passed(uint64_t deadline, uint64_t now)
{
    return deadline != 0 && now >= deadline;
}
