/* SPDX-License-Identifier: MIT */
/* Backoff and jitter; pure, see backoff.h. */
#include "health/backoff.h"

/* 0 .. n-1 (0 if n is 0): random * n / 2^32, in two halves so that it does not overflow. */
static uint64_t scale(uint32_t random, uint64_t n)
{
    return (n >> 32) * random + ((n & UINT32_MAX) * random >> 32);
}

/* The finalizer of splitmix64: every bit of the clock changes half of the bits returned. */
uint32_t jitter_seed(uint64_t clock)
{
    clock = (clock ^ clock >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    clock = (clock ^ clock >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(clock >> 32);
}

uint64_t backoff_ms(uint64_t base_ms, uint64_t cap_ms, unsigned attempt, uint32_t random)
{
    uint64_t limit = cap_ms;
    /* Shifted out bits mean that the cap was passed long ago. */
    if (attempt < 64 && base_ms << attempt >> attempt == base_ms && base_ms << attempt < cap_ms)
        limit = base_ms << attempt;
    if (base_ms == 0 || limit == 0)
        return 0;
    return 1 + scale(random, limit);
}

uint64_t jitter_within(uint64_t ms, unsigned percent, uint64_t least, uint64_t most,
                       uint32_t random)
{
    CHECK(percent <= 100);
    uint64_t reach = ms / 100 * percent + ms % 100 * percent / 100;
    uint64_t low = ms - reach;
    uint64_t high = ms + reach < ms ? UINT64_MAX - 1 : ms + reach;
    high = high < least ? least : high;
    high = high > most ? most : high;
    low = low < least ? least : low;
    low = low > high ? high : low;
    return low + scale(random, high - low + 1);
}

uint64_t lifetime_jitter(uint64_t max_ms, uint32_t random)
{
    return max_ms - scale(random, max_ms / 10 + 1);
}
