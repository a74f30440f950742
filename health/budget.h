/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Retry budget: retries may be a share of the requests of the last ten seconds, plus a floor per
 * second so that a quiet pool may retry at all. When an upstream is down, retries therefore add at
 * most that share to its load instead of multiplying it.
 *
 * The floor is a token bucket of one second's worth: it never saves up for a burst. Only what it
 * cannot pay is charged to the share. Owner: one worker; time is an argument, in milliseconds.
 */
#include "health/window.h"
#include "proxy/core/base.h"

/* The floor of a whole pool: its workers have a share each. (With a floor of 0, a share of 0 %
 * would mean no retries at all.) */
#define BUDGET_FLOOR_PER_S 10

struct budget {
    /* fixed, until budget_reconf() */
    unsigned percent;     /* of requests; retry_conf.budget */
    unsigned floor_per_s; /* retries a second that are always allowed */
    /* changes */
    struct window window; /* good: requests; bad: retries the share has paid */
    uint64_t floor_milli; /* thousandths of a retry left in the floor's bucket */
    uint64_t refilled;    /* ms */
};

/* Starts with a full floor and no requests seen. */
void budget_init(struct budget *b, unsigned percent, unsigned floor_per_s, uint64_t now);

/* New limits; what was counted stays. */
void budget_reconf(struct budget *b, unsigned percent, unsigned floor_per_s);

/* n requests (first tries, not retries) were admitted. */
void budget_request(struct budget *b, uint64_t now, uint64_t n);

/* May a request be tried again? If so, that is paid for. */
MUST_USE bool budget_take(struct budget *b, uint64_t now);

/* Whole retries that budget_take() would allow at once. */
uint64_t budget_left(const struct budget *b, uint64_t now);
