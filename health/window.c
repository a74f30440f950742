/* SPDX-License-Identifier: MIT */
/* Counts over the last ten seconds, see window.h. */
#include "health/window.h"

static uint64_t second_of(uint64_t now)
{
    return now / WINDOW_CELL_MS + 1;
}

void window_add(struct window *w, uint64_t now, uint64_t good, uint64_t bad)
{
    uint64_t second = second_of(now);
    struct window_cell *cell = &w->cells[second % WINDOW_CELLS];
    if (cell->second != second)
        *cell = (struct window_cell){.second = second};
    cell->good += good;
    cell->bad += bad;
}

struct window_sum window_sum(const struct window *w, uint64_t now)
{
    struct window_sum sum = {0, 0};
    uint64_t second = second_of(now);
    for (size_t i = 0; i < WINDOW_CELLS; i++) {
        const struct window_cell *cell = &w->cells[i];
        if (cell->second == 0 || cell->second > second || second - cell->second >= WINDOW_CELLS)
            continue;
        sum.good += cell->good;
        sum.bad += cell->bad;
    }
    return sum;
}
