/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The JSON pages, and the short JSON answers of actions. Each returns malloc()ed text with a
 * final line end, NUL-terminated, or NULL when memory is out. docs/admin.md describes the
 * members.
 */
#include "admin/figures.h"
#include "proxy/front/census.h"

/* Everything. Causes and verdicts that never happened are left out. */
char *pages_stats(const struct figures *f);
/* A list: name, state, servers, waiting and so on of each pool. */
char *pages_pools(const struct figures *f);
/* {"ready": false, "missing": ["..."]} */
char *pages_ready(const struct figures *f);

/* What the workers said of their clients or servers: {"clients": [...], "left_out": 0}. */
char *pages_census(const struct census *c);

/* {"error": "..."}, with "report" (lines, an array) unless it is NULL. Bytes that are not UTF-8
   become question marks. */
char *pages_error(const char *sentence, const char *report);
/* {"message": "..."}, likewise. */
char *pages_done(const char *sentence, const char *report);
