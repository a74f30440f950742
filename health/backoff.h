/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * How long to wait before the next try, and how to keep many objects from acting at the same
 * moment. Pure functions: the caller brings the randomness. Any thread.
 */
#include "proxy/core/base.h"

/*
 * Exponential backoff with full jitter: evenly distributed over 1 .. min(cap, base * 2^attempt),
 * attempt counting from 0. Full jitter, because half of the peers that failed together would come
 * back together otherwise. Milliseconds; 0 only if base or cap is 0 (no backoff wanted).
 */
uint64_t backoff_ms(uint64_t base_ms, uint64_t cap_ms, unsigned attempt, uint32_t random);

/*
 * Even bits from a clock. Its own high bits, which the functions here look at, hardly change
 * between two who ask at the same moment.
 */
uint32_t jitter_seed(uint64_t clock);

/*
 * ms plus or minus up to `percent` (0 to 100) of it, evenly distributed over what of that lies
 * between `least` and `most`: bounds that somebody wrote down hold. least = most: exactly that.
 * Where they contradict each other, `most` holds.
 */
uint64_t jitter_within(uint64_t ms, unsigned percent, uint64_t least, uint64_t most,
                       uint32_t random);

/*
 * How long a server may live: max less 0 to 10 %, so that connections opened together do not all
 * retire together, and never more than what was configured. 0 (no limit) stays 0; never 0 else.
 */
uint64_t lifetime_jitter(uint64_t max_ms, uint32_t random);
