/* SPDX-License-Identifier: MIT */
/*
 * Buckets: below 16 us one a value; above, the octave (the position of the highest bit) and the
 * four bits after it. The writer is the thread that owns the histogram; see hist.h.
 */
#include "proxy/core/hist.h"

#define SUB_COUNT (1U << HIST_SUB_BITS)

/* 1-2.5-5 steps, and 30 s and 60 s, the usual timeouts. */
const struct hist_bound hist_bounds[HIST_BOUNDS] = {
    {100, "0.0001"},  {250, "0.00025"}, {500, "0.0005"},  {1000, "0.001"},  {2500, "0.0025"},
    {5000, "0.005"},  {10000, "0.01"},  {25000, "0.025"}, {50000, "0.05"},  {100000, "0.1"},
    {250000, "0.25"}, {500000, "0.5"},  {1000000, "1"},   {2500000, "2.5"}, {5000000, "5"},
    {10000000, "10"}, {30000000, "30"}, {60000000, "60"},
};

unsigned hist_bucket(uint64_t us)
{
    if (us < SUB_COUNT)
        return (unsigned)us;
    if (us >> HIST_MAX_BITS != 0)
        return HIST_BUCKETS - 1;
    unsigned shift = 63 - (unsigned)__builtin_clzll(us) - HIST_SUB_BITS;
    /* us >> shift is 16..31: its high bit carries into the octave. */
    return (shift << HIST_SUB_BITS) + (unsigned)(us >> shift);
}

uint64_t hist_bucket_top(unsigned bucket)
{
    CHECK(bucket < HIST_BUCKETS);
    if (bucket < SUB_COUNT)
        return bucket;
    if (bucket == HIST_BUCKETS - 1)
        return UINT64_MAX;
    unsigned shift = (bucket >> HIST_SUB_BITS) - 1;
    return ((SUB_COUNT + UINT64_C(1) + bucket % SUB_COUNT) << shift) - 1;
}

void hist_record(struct hist *h, uint64_t us)
{
    counter_add(&h->buckets[hist_bucket(us)], 1);
    counter_add(&h->sum, us);
    if (us > counter_get(&h->max))
        counter_set(&h->max, us);
}

void hist_merge(struct hist_snapshot *into, const struct hist *h)
{
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        uint64_t n = counter_get(&h->buckets[i]);
        into->buckets[i] += n;
        into->count += n;
    }
    into->sum += counter_get(&h->sum);
    uint64_t max = counter_get(&h->max);
    if (max > into->max)
        into->max = max;
}

/* How many values the share q means, rounded up, at least one. NaN counts as 0. */
static uint64_t rank_of(double q, uint64_t count)
{
    if (q >= 1)
        return count;
    if (!(q > 0))
        return 1;
    double exact = q * (double)count;
    uint64_t rank = (uint64_t)exact;
    if ((double)rank < exact)
        rank++;
    if (rank == 0)
        return 1;
    return rank > count ? count : rank;
}

uint64_t hist_quantile(const struct hist_snapshot *s, double q)
{
    if (s->count == 0)
        return 0;
    uint64_t rank = rank_of(q, s->count), seen = 0;
    unsigned bucket = 0;
    while (bucket < HIST_BUCKETS - 1 && (seen += s->buckets[bucket]) < rank)
        bucket++;
    uint64_t top = hist_bucket_top(bucket);
    return top < s->max ? top : s->max;
}

void hist_cumulative(const struct hist_snapshot *s, uint64_t counts[HIST_BOUNDS])
{
    uint64_t below = 0;
    unsigned bucket = 0;
    for (unsigned i = 0; i < HIST_BOUNDS; i++) {
        for (; hist_bucket_top(bucket) <= hist_bounds[i].us; bucket++)
            below += s->buckets[bucket];
        counts[i] = below;
    }
}
