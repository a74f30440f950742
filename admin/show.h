/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The admin API's answers for people at a terminal. Pure: text in, text out. False: the answer
 * is not what carpool says.
 */
#include <stdio.h>

#include "proxy/core/base.h"

/* Of /stats: one line for the whole, one per pool, and what to do where something is wrong. */
bool show_status(const char *json, FILE *out);
/* Of /stats: every figure, pool by pool. */
bool show_stats(const char *json, FILE *out);
/* Of /pools: a table. */
bool show_pools(const char *json, FILE *out);

/* Of /clients, /servers: a table, a line for each connection. */
bool show_clients(const char *json, FILE *out);
bool show_servers(const char *json, FILE *out);

/*
 * Of an action or refusal: its report, line by line, then its message or error with `prefix` in
 * front. An answer that is no JSON is shown as it is.
 */
void show_answer(const char *body, const char *prefix, FILE *out);

/* Of /ready: what is missing, a line each. */
void show_ready(const char *body, const char *prefix, FILE *out);
