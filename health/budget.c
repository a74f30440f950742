/* SPDX-License-Identifier: MIT */
/* Retry budget; owned by one worker, see budget.h. */
#include "health/budget.h"

#define MILLI 1000

static uint64_t floor_full(const struct budget *b)
{
    return (uint64_t)b->floor_per_s * MILLI;
}

/* The floor's bucket at `now`: a rate of n a second fills n thousandths a millisecond. */
static uint64_t floor_at(const struct budget *b, uint64_t now)
{
    uint64_t full = floor_full(b), elapsed = now > b->refilled ? now - b->refilled : 0;
    if (elapsed >= MILLI)
        return full;
    uint64_t filled = b->floor_milli + elapsed * b->floor_per_s;
    return filled < full ? filled : full;
}

/* Retries the share of recent requests still pays for. */
static uint64_t share_left(const struct budget *b, uint64_t now)
{
    struct window_sum sum = window_sum(&b->window, now);
    uint64_t share = sum.good / 100 * b->percent + sum.good % 100 * b->percent / 100;
    return share > sum.bad ? share - sum.bad : 0;
}

void budget_init(struct budget *b, unsigned percent, unsigned floor_per_s, uint64_t now)
{
    *b = (struct budget){.percent = percent, .floor_per_s = floor_per_s, .refilled = now};
    b->floor_milli = floor_full(b);
}

void budget_reconf(struct budget *b, unsigned percent, unsigned floor_per_s)
{
    b->percent = percent;
    b->floor_per_s = floor_per_s;
    if (b->floor_milli > floor_full(b))
        b->floor_milli = floor_full(b);
}

void budget_request(struct budget *b, uint64_t now, uint64_t n)
{
    window_add(&b->window, now, n, 0);
}

bool budget_take(struct budget *b, uint64_t now)
{
    b->floor_milli = floor_at(b, now);
    if (now > b->refilled)
        b->refilled = now;
    if (b->floor_milli >= MILLI) {
        b->floor_milli -= MILLI;
        return true;
    }
    if (share_left(b, now) == 0)
        return false;
    window_add(&b->window, now, 0, 1);
    return true;
}

uint64_t budget_left(const struct budget *b, uint64_t now)
{
    return floor_at(b, now) / MILLI + share_left(b, now);
}
