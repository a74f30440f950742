/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What health decides by: the `check:`, `retry:` and `breaker:` mappings of a pool. Plain values,
 * filled by proxy/conf; durations in milliseconds, ratios in percent.
 */
#include <stdint.h>

/* What happens to a server when its lease ends. */
enum check_return {
    CHECK_FAST,      /* the protocol says clean and nothing is unread */
    CHECK_VERIFIED,  /* a round trip more */
    CHECK_CLEAN,     /* reset the session's state, then a round trip */
    CHECK_STATEMENT, /* the operator's own statement, then a round trip */
};

enum { CHECK_STATEMENT_MAX = 4096 }; /* bytes */

struct check_conf {
    enum check_return on_return; /**/
    const char *statement;       /* with CHECK_STATEMENT, else NULL */
    uint64_t idle_ms;            /* ping a server idle this long, and again; 0: never */
    uint64_t checkout_after_ms;  /* peek before leasing a server idle this long; 0: always */
    uint64_t timeout_ms;         /* bound of each check */
    uint64_t leak_after_ms;      /* warn about a lease held this long; 0: never */
};

struct retry_conf {
    uint32_t attempts;       /* tries in all, the first included; 1: no retry */
    uint64_t backoff_min_ms; /* base of the full-jitter backoff */
    uint64_t backoff_max_ms; /* its cap; >= backoff_min_ms */
    uint32_t budget;         /* percent of requests that may be retries, 0..100 */
};

struct breaker_conf {
    uint32_t consecutive;   /* hard failures in a row that open it; 0: rule off */
    uint32_t failure_ratio; /* percent of failures that open it; 0: rule off */
    uint32_t min_requests;  /* ... once so many were seen in the window */
    uint64_t open_min_ms;   /* first time open, doubled at each relapse */
    uint64_t open_max_ms;   /* ... up to this; >= open_min_ms */
};
