/* SPDX-License-Identifier: MIT */
#pragma once
/* Aligned columns for a terminal. Cells are copied; columns are as wide as their widest cell. */
#include <stdio.h>

#include "proxy/core/base.h"

#define TABLE_COLUMNS 16

struct table;

/* `right` has a bit for each column whose cells are numbers. NULL: out of memory. */
struct table *table_new(unsigned columns, unsigned right);
void table_free(struct table *t);

/* The next cell, row by row. */
void table_cell(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A line of its own below the row that was just completed. */
void table_note(struct table *t, const char *text);

/* False: memory ran out on the way, nothing was printed. */
bool table_print(const struct table *t, FILE *out);
