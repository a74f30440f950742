/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A number one thread writes and others read while it does: counters and gauges of the metrics.
 *
 * Only the owning thread may add, subtract or set; anybody may get. The accesses are relaxed: a
 * reader sees some recent value and orders nothing else by it. There is no read-modify-write, so an
 * update costs what it costs on a plain integer.
 */
#include <stdatomic.h>

#include "proxy/core/base.h"

struct counter {
    _Atomic uint64_t value;
};

static inline uint64_t counter_get(const struct counter *c)
{
    return atomic_load_explicit(&c->value, memory_order_relaxed);
}

/* Owner only, like the two below. */
static inline void counter_set(struct counter *c, uint64_t value)
{
    atomic_store_explicit(&c->value, value, memory_order_relaxed);
}

/* Wraps at 2^64. */
static inline void counter_add(struct counter *c, uint64_t n)
{
    counter_set(c, counter_get(c) + n);
}

/* For gauges; n must not exceed the value. */
static inline void counter_sub(struct counter *c, uint64_t n)
{
    uint64_t value = counter_get(c);
    CHECK(n <= value);
    counter_set(c, value - n);
}
