/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Two counts over the last ten seconds: a ring of ten cells of one second. Old cells are recognised
 * by their second, so nothing has to run while nothing happens. Owner: whatever embeds it. Time is
 * an argument, in milliseconds; it must not go back by more than the window.
 */
#include "proxy/core/base.h"

#define WINDOW_CELLS 10
#define WINDOW_CELL_MS 1000

struct window_cell {
    uint64_t second; /* number of the second + 1; 0: never used */
    uint64_t good, bad;
};

/* Zeroed memory is an empty window. */
struct window {
    struct window_cell cells[WINDOW_CELLS];
};

struct window_sum {
    uint64_t good, bad;
};

void window_add(struct window *w, uint64_t now, uint64_t good, uint64_t bad);

/* The running second and the nine before it. */
struct window_sum window_sum(const struct window *w, uint64_t now);
