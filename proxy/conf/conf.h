/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The configuration: a file, or URLs, becomes an immutable snapshot. Everything that is wrong is
 * collected with its place, so that one run of `carpool check` shows it all; a configuration with
 * one error is no configuration.
 *
 *     text --libyaml--> tree with marks --schema rows--> structs --cross checks--> struct config
 *
 * A snapshot owns all its memory (strings, lists); it is freed as a whole and wiped, for it holds
 * secrets. Loading reads files and the environment and blocks: control's thread at start and
 * reload, never a worker. A loaded snapshot may be read from any thread.
 */
#include <stdio.h>

#include "pools/pool_conf.h"
#include "proxy/core/admin_conf.h"
#include "proxy/core/log_conf.h"
#include "proxy/core/schema.h"
#include "proxy/core/snapshot.h"
#include "proxy/core/span.h"
#include "proxy/front/front_conf.h"

struct drain_conf {
    uint64_t delay_ms;    /* between "not ready" and closed listeners */
    uint64_t deadline_ms; /* from then until what is left is cut */
};

/* One entry of `pools:`. */
struct conf_pool {
    const char *name; /* unique, [a-z0-9_-], at most 63 bytes; the identity over reloads */
    struct front_conf front;
    struct pool_conf pool; /* pool.name == name */
    uint32_t line;
};

struct config {
    uint32_t workers; /* 0: auto */
    struct log_conf log;
    struct admin_conf admin;
    struct drain_conf drain;
    const struct conf_pool *pools;
    size_t n_pools;     /* >= 1 */
    const char *source; /* the file's path, "command line" or "CARPOOL_POOLS" */
    struct conf_arena *arena;
};

/* ---- what is wrong --------------------------------------------------------------------------- */

struct conf_issue {
    bool warning; /* does not keep the configuration from being used */
    const char *file;
    uint32_t line, column; /* from 1. URLs: their number, and the column in the URL */
    const char *text;      /* a sentence that says what to do; no secrets */
};

struct conf_report; /* issues in order of their place; owns their text */

struct conf_report *conf_report_new(void);
void conf_report_free(struct conf_report **report);
size_t conf_report_errors(const struct conf_report *report);
size_t conf_report_count(const struct conf_report *report);
const struct conf_issue *conf_report_at(const struct conf_report *report, size_t i);
/* One line each: `carpool.yaml:12:7: error: ...` */
void conf_report_print(const struct conf_report *report, FILE *out);

/* ---- loading --------------------------------------------------------------------------------- */

/*
 * A protocol beside the three: names, default port of its URLs, first local port. Its defaults are
 * Redis' column.
 */
struct conf_kind {
    const char *name;       /* also the URL scheme */
    uint16_t upstream_port; /* when the URL has none */
    uint16_t local_port;    /* when nothing is said about listening */
};

struct conf_options {
    const struct conf_kind *extra; /* NULL: none */
    size_t n_extra;
    size_t memory_max; /* bytes a snapshot may take; 0: CONF_MEMORY_MAX */
};

#define CONF_MEMORY_MAX (UINT64_C(64) << 20)
#define CONF_TEXT_MAX (UINT64_C(1) << 20) /* bytes of a file, of CARPOOL_POOLS */

/* NULL after at least one error in the report. `options` may be NULL. */
MUST_USE struct config *conf_load_file(const char *path, const struct conf_options *options,
                                       struct conf_report *report);
/* As above, from text; `name` stands in the report, paths are relative to the working directory. */
MUST_USE struct config *conf_load_text(const char *name, struct span text,
                                       const struct conf_options *options,
                                       struct conf_report *report);
/*
 * From URLs; n may be 0: then CARPOOL_POOLS, URLs between blanks. CARPOOL_LISTEN sets the addresses
 * (hosts between blanks or commas); CARPOOL_LOG_FORMAT, CARPOOL_ADMIN_HTTP and so on set what is
 * outside of pools, one variable per key.
 */
MUST_USE struct config *conf_load_urls(const char *const *urls, size_t n,
                                       const struct conf_options *options,
                                       struct conf_report *report);
/* NULL is allowed; nulls the caller's pointer. */
void conf_free(struct config **config);

const struct conf_pool *conf_pool_named(const struct config *config, const char *name);

/* ---- pools of one listener ------------------------------------------------------------------- */

/* The settings of one such pool: complete, counted, wiped at the end. */
struct conf_member {
    struct snapshot snap;
    struct snapshot *config; /* of the whole */
    struct pool_conf pool;   /* its name is made of the whole's, the database's and the user's */
    struct pool_identity id; /* its own copy */
    size_t size;
};

/* `config` is what owns `whole`. NULL: out of memory. front_database() knows the database. */
struct conf_member *conf_member_new(const struct conf_pool *whole, struct snapshot *config,
                                    const struct pool_identity *id);

/* ---- showing --------------------------------------------------------------------------------- */

/* The effective configuration as YAML that loads again (but for secrets, which are "***"). */
void conf_print(const struct config *config, FILE *out);

enum conf_keys_format { CONF_KEYS_TEXT, CONF_KEYS_MARKDOWN };
/* Every key: type, default (by kind), range, what a reload does, help. */
void conf_keys_print(FILE *out, enum conf_keys_format format);

/* ---- comparing ------------------------------------------------------------------------------- */

struct conf_change {
    char key[160];             /* "log.level", "pools.orders.size.max", "pools.orders" */
    enum schema_reload reload; /* how the change takes effect */
    char from[96], to[96];     /* as printed, cut; "" for nothing, as when a pool is new */
};

/*
 * What differs, in the order of the schema, in one allocation: free() it. *n is the number; NULL
 * with *n == 0 when nothing differs or memory is out. Those with SCHEMA_NEEDS_RESTART wait for the
 * next start.
 */
struct conf_change *conf_diff(const struct config *old, const struct config *fresh, size_t *n);

/*
 * What only a restart changes becomes in `fresh`, which nobody else knows yet, what it is in
 * `running`: so a snapshot always says what is in force, over any number of reloads. False: out of
 * memory.
 */
bool conf_retain(struct config *fresh, const struct config *running);
