/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Log-linear histogram of durations in microseconds: 16 buckets an octave, so a value is known to
 * within 1/16, from 1 us (exact below 32 us) to 2^32 us (71 minutes; longer ones count in the last
 * bucket). A fixed 3.7 KiB, nothing allocated.
 *
 * One thread records, any thread reads at the same time. Readers add histograms of several workers
 * up in a snapshot and ask that.
 */
#include "proxy/core/base.h"
#include "proxy/core/counter.h"

#define HIST_SUB_BITS 4
#define HIST_MAX_BITS 32
#define HIST_BUCKETS ((HIST_MAX_BITS - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

/* Zeroed memory is an empty histogram. There is no count: it is the sum of the buckets. */
struct hist {
    struct counter buckets[HIST_BUCKETS];
    struct counter sum, max; /* us */
};

/* A plain copy, owned by whoever took it. Zeroed memory is an empty one. About 3.7 KiB. */
struct hist_snapshot {
    uint64_t buckets[HIST_BUCKETS];
    uint64_t count;    /* always the sum of the buckets */
    uint64_t sum, max; /* us; while values are recorded, may run ahead of or behind the count */
};

/* The upper bounds of the exposition: 100 us to 60 s, ascending. */
#define HIST_BOUNDS 18

struct hist_bound {
    uint64_t us;
    const char *le; /* the same in seconds, as the metric's label says it */
};

extern const struct hist_bound hist_bounds[HIST_BOUNDS];

/* The bucket of a value, and the largest value of a bucket (UINT64_MAX for the last one). */
unsigned hist_bucket(uint64_t us);
uint64_t hist_bucket_top(unsigned bucket);

/* Owner only. */
void hist_record(struct hist *h, uint64_t us);

/* Adds h to the snapshot; may be called for several histograms. Any thread. */
void hist_merge(struct hist_snapshot *into, const struct hist *h);

/*
 * The value that a share q (0 to 1, clamped) of all values does not exceed: the top of its bucket,
 * so never too small, at most 1/16 too large, and never over max. 0 if nothing was recorded.
 */
uint64_t hist_quantile(const struct hist_snapshot *s, double q);

/*
 * How many values are at most each bound: cumulative, ascending; `+Inf` is s->count. A bucket
 * counts for a bound once all of it is below: the exposition never says that something was faster
 * than it was.
 */
void hist_cumulative(const struct hist_snapshot *s, uint64_t counts[HIST_BOUNDS]);
