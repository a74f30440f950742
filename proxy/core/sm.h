/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Table-driven states: one row per state with its name and the states that may follow. The object's
 * own mover (server_move, pg_become, ...) is the only writer of the state; it asks sm_allows()
 * first, relinks the object and adjusts the counts.
 */
#include "proxy/core/base.h"

#define SM_TO(state) (UINT32_C(1) << (state))

struct sm_row {
    const char *name;
    uint32_t next; /* set of SM_TO() bits */
};

static inline bool sm_allows(const struct sm_row *rows, unsigned from, unsigned to)
{
    return (rows[from].next & SM_TO(to)) != 0;
}
