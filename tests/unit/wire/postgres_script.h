/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What a client and a server say to each other, as scripts for the flow. Words:
 *
 *     >Q   the client sends Query; >Ds Describe of a statement, >Dp of a portal
 *     <1   the server answers;     <ZI ReadyForQuery with its status
 *     ~N   the server says something nobody asked for
 *     x1   the server says something that cannot come here
 *     idle, held (not to be released), doubt (held for answers that may not come): what holds then
 */
#include "proxy/wire/postgres_flow.h"

/* Fails the test where a step is not what the script says. */
void script_play(struct pg_flow *f, const char *script);
/* The same with a flow of its own. */
void script_run(const char *script);
void script_run_all(const char *const *scripts, size_t n);
#define RUN_ALL(scripts) script_run_all(scripts, ARRAY_LEN(scripts))
