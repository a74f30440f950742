/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Deadlines that know why they exist. A wait ends at the earliest of several limits (the whole
 * request, waiting for a server, one try), and what the client is told is the cause of the one that
 * came first. Pure values; time is an argument, in milliseconds of the caller's clock. Any thread.
 */
#include "proxy/core/base.h"
#include "proxy/core/err.h"

struct deadline {
    uint64_t at;      /* ms; 0: none */
    enum cause cause; /* what to say when it has passed */
};

#define DEADLINE_NONE ((struct deadline){0, CAUSE_NONE})
#define DEADLINE_FOREVER UINT64_MAX

/* `timeout_ms` from now; a timeout of 0 means none. Saturates instead of wrapping. */
struct deadline deadline_after(uint64_t now, uint64_t timeout_ms, enum cause cause);

/* The one that passes first; a if both are equal, so name the more general one first. */
struct deadline deadline_earlier(struct deadline a, struct deadline b);

/*
 * The deadline of one try: `per_try_ms` from now but never past `request`. The last try gets all
 * that remains of the request.
 */
struct deadline deadline_try(struct deadline request, uint64_t now, uint64_t per_try_ms, bool last,
                             enum cause cause);

bool deadline_passed(struct deadline d, uint64_t now);

/* Milliseconds left: 0 if it has passed, DEADLINE_FOREVER if there is none. */
uint64_t deadline_left(struct deadline d, uint64_t now);
