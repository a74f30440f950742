/* SPDX-License-Identifier: MIT */
#pragma once
/* Figures as no carpool has ever had them, for the pages that are written from figures. */
#include "admin/figures.h"

/* Two pools (`orders`, Postgres, well; `cache`, Redis, down), two threads. Static memory: each
   call makes them anew. */
struct figures *made_up_figures(void);

/* The pool's figures, for a test to change. */
struct pool_figures *made_up_pool(struct figures *f, const char *name);

/* As a histogram would hold it. */
void made_up_record(struct hist_snapshot *s, uint64_t us, uint64_t times);
