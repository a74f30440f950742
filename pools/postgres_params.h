/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Run-time parameters of a Postgres session, as an immutable, counted map. A server has the map of
 * what it is set to, a client the map of what it wants; most of them share one map, and a digest
 * tells at once whether a server must be changed for a client. Changing makes a new map.
 *
 * Counted (proxy/core/snapshot.h), so that maps may cross threads with servers.
 */
#include "proxy/core/snapshot.h"
#include "proxy/core/span.h"

#define PG_PARAMS_MAX 64      /* names in one map */
#define PG_PARAMS_BYTES 16384 /* of names and values */

struct pg_params;

/* An empty map; NULL without memory. */
struct pg_params *pg_params_new(void);
struct pg_params *pg_params_take(struct pg_params *p);
/* The counted part, for who keeps it without knowing what it is; and back. */
struct snapshot *pg_params_snapshot(struct pg_params *p);
struct pg_params *pg_params_of(struct snapshot *snap);
/* Nulls the caller's pointer. */
void pg_params_drop(struct pg_params **p);

/* *p becomes a map in which name is value (value.p NULL: without it). False, with *p as it was, if
 * the bounds are passed or memory is out. */
MUST_USE bool pg_params_set(struct pg_params **p, struct span name, struct span value);

/* Whether the bounds allow that: if they do, what failed above was memory. */
bool pg_params_fits(const struct pg_params *p, struct span name, struct span value);

bool pg_params_get(const struct pg_params *p, struct span name, struct span *value);
size_t pg_params_count(const struct pg_params *p);
void pg_params_at(const struct pg_params *p, size_t i, struct span *name, struct span *value);
/* Equal in all that clients can set. */
bool pg_params_same(const struct pg_params *a, const struct pg_params *b);
/* Equal in what only servers decide. */
bool pg_params_report_same(const struct pg_params *a, const struct pg_params *b);

/* Equal for maps under which the same text is parsed to the same statement: literals of dates and
 * strings depend on settings. All but application_name count. */
uint64_t pg_params_planning(const struct pg_params *p);

/* Parameters that a client cannot set, only the server reports. */
bool pg_param_reported_only(struct span name);

/* `given` as the server will report it, as far as that is known: "UTF8" for "utf-8" and "ISO, DMY"
 * for "european" where `known`, which it reports now, is "UTF8" and "ISO, MDY". It may be `given`,
 * `known`, or be written to `buf`. */
enum { PG_PARAM_SPELLED = 16 };
struct span pg_param_spelled(struct span name, struct span given, struct span known,
                             char buf[PG_PARAM_SPELLED]);
