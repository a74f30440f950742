/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A counted reference to something immutable that several threads read (a configuration). The only
 * counted references in carpool: everything else has one owner.
 */
#include <stdatomic.h>

#include "proxy/core/base.h"

struct snapshot {
    _Atomic unsigned refs;
    void (*free)(struct snapshot *snap);
    struct snapshot *whole; /* NULL, or what this is a part of, and keeps */
};

static inline struct snapshot *snapshot_take(struct snapshot *snap)
{
    atomic_fetch_add(&snap->refs, 1);
    return snap;
}

static inline struct snapshot *snapshot_whole(struct snapshot *snap)
{
    return snap->whole ? snap->whole : snap;
}

/* Nulls the caller's pointer. */
static inline void snapshot_drop(struct snapshot **snap)
{
    struct snapshot *s = *snap;
    *snap = NULL;
    if (s && atomic_fetch_sub(&s->refs, 1) == 1)
        s->free(s);
}
