/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What the files of this room share while a configuration is being built: memory, places, the tree,
 * the tables of rows. One build runs on one thread from beginning to end.
 */
#include "proxy/conf/conf.h"

/* ---- memory ---------------------------------------------------------------------------------- */

/* Blocks that are wiped and freed as a whole. Its `keep` lets schema rows store text in it. */
struct conf_arena {
    struct schema_keep keep; /* first: keep_copy() finds the arena by it */
    struct conf_block *blocks;
    size_t used, limit; /* bytes asked from malloc */
};

void conf_arena_init(struct conf_arena *arena, size_t limit);
void conf_arena_fini(struct conf_arena *arena);
/* Zeroed, aligned for anything; NULL past the limit or when memory is out. */
void *conf_alloc(struct conf_arena *arena, size_t n, size_t size);
/* NUL-terminated copy; NULL as above. */
char *conf_keep(struct conf_arena *arena, struct span text);
char *conf_format(struct conf_arena *arena, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- places and issues ----------------------------------------------------------------------- */

struct conf_place {
    uint32_t line, column; /* from 1 */
};

/* A build in progress. */
struct conf_build {
    struct conf_report *report;
    const char *file; /* in messages; of the users file while that is read */
    char *dir;        /* relative paths start here; NULL: the working directory */
    const struct conf_options *options;
    struct conf_arena *arena;  /* the snapshot's */
    struct conf_arena scratch; /* gone when the build ends */
    struct config *config;
    struct conf_pool *pools;         /* config->pools, while it may be written */
    size_t n_listens;                /* of all pools */
    uint16_t next_port[FRONT_OTHER]; /* by kind: every default port below is taken */
    bool failed_memory;              /* said once */
};

/* Adds an issue; the text may quote what was typed, never a secret. Returns false. */
bool conf_error(struct conf_build *b, struct conf_place at, const char *fmt, ...) PRINTF_LIKE(3, 4);
void conf_warn(struct conf_build *b, struct conf_place at, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Says "out of memory", once. Returns false. */
bool conf_no_memory(struct conf_build *b);

#define CONF_QUOTE 48
/* 'text', cut, printable, into buf of CONF_QUOTE + 8; returns buf. */
const char *conf_quote(struct span text, char *buf);

/* ---- the tree -------------------------------------------------------------------------------- */

enum conf_node_type { CONF_SCALAR, CONF_LIST, CONF_MAP };

struct conf_node {
    enum conf_node_type type;
    struct conf_place at;
    bool plain;              /* scalar: without quotes */
    bool literal;            /* scalar: a $ is a $ */
    bool left_out;           /* stands for what was reported already; in no list or map */
    struct span text;        /* scalar */
    struct conf_item *items; /* list, map: in order */
    size_t n_items;
};

struct conf_item {
    struct conf_item *next;
    struct span key; /* map */
    struct conf_place at;
    const struct conf_node *value;
};

/*
 * The document's root in the scratch arena; NULL after an error. An empty document is an empty map.
 */
const struct conf_node *conf_tree(struct conf_build *b, struct span text);
/* null, ~, or nothing after the colon. */
bool conf_is_null(const struct conf_node *node);
/* The item of a map with this key; NULL: none, or map is NULL or no map. */
const struct conf_item *conf_find(const struct conf_node *map, const char *key);
/* Where to point for map.key: the value, else the map; the first line when map is NULL. */
struct conf_place conf_at(const struct conf_node *map, const char *table, const char *key);

/* ---- scalars --------------------------------------------------------------------------------- */

/*
 * Puts the environment into ${NAME} and ${NAME:-default}; $$ is one $. With `vars` false these stay
 * as they are. With `percent`, %41 outside of variables is decoded (a variable's value is taken as
 * it is). False after an error.
 */
struct conf_expand {
    bool vars, percent;
};
bool conf_expand(struct conf_build *b, struct conf_place at, struct span raw,
                 struct conf_expand how, struct span *out);
/* Bytes of the variable that starts at raw.p[i], 0 if none does. */
size_t conf_var_length(struct span raw, size_t i);

/* The text of a scalar, variables put in; `what` names it in the error when it is none. */
bool conf_scalar(struct conf_build *b, const struct conf_node *node, const char *what,
                 struct span *out);

/* path, or dir/path; NULL when memory is out. */
const char *conf_path(struct conf_build *b, const char *path);
/* As above, after making sure that the file can be read; NULL after an error. */
const char *conf_readable(struct conf_build *b, struct conf_place at, const char *path);
/* A regular file's text, at most `max` bytes, in the scratch arena. */
bool conf_read_file(struct conf_build *b, struct conf_place at, const char *path, size_t max,
                    struct span *out);
/* A secret's file: one line, its newline cut, kept in the snapshot. */
bool conf_read_secret(struct conf_build *b, struct conf_place at, const char *path,
                      const char **out);

/* ---- rows ------------------------------------------------------------------------------------ */

/* Tables of the top level and of one pool; the first of each is the mapping itself (key NULL). */
extern const struct schema_table conf_top_tables[];
extern const size_t conf_n_top_tables;
extern const struct schema_table conf_pool_tables[];
extern const size_t conf_n_pool_tables;
/* Of an entry of `databases`, offsets as in a struct conf_pool. */
extern const struct schema_table conf_database_tables[];
extern const size_t conf_n_database_tables;
/* Items of `listen` and `upstream` written as mappings. */
extern const struct schema_table conf_listen_table;
extern const struct schema_table conf_upstream_table;

struct conf_listen_item {
    const char *address, *unix_path, *mode, *owner;
};
struct conf_upstream_item {
    const char *password, *password_file, *password_command;
    uint64_t password_command_ttl_ms;
    uint32_t priority;
};

/* The column of defaults of a kind. */
unsigned conf_variant(enum front_kind kind);
/* For conf_fill(): of no kind, because nobody knows which; every key is let pass. */
#define CONF_ANY_VARIANT SCHEMA_VARIANTS
extern const char *const conf_kind_words[]; /* by front_kind, without FRONT_OTHER */

/*
 * Fills the structs of `tables` (their offsets are relative to base) from a map; `own` rows
 * are left to the caller. `where` names the map in messages. False after an error, everything
 * else in the map is still filled.
 */
bool conf_fill(struct conf_build *b, const struct conf_node *map, const struct schema_table *tables,
               size_t n, unsigned variant, const char *where, void *base);
/* One row from a scalar. */
bool conf_fill_row(struct conf_build *b, const struct schema_row *row, const struct conf_node *node,
                   void *base);
/* Adds the defaults of all tables. */
bool conf_fill_defaults(struct conf_build *b, const struct schema_table *tables, size_t n,
                        unsigned variant, void *base);

/* ---- the environment ------------------------------------------------------------------------- */

/* "CARPOOL_LOG_LEVEL" for log.level; cap of 64 is enough for any. */
void conf_variable_name(const struct schema_table *table, const struct schema_row *row, char *buf,
                        size_t cap);
/*
 * Warns of CARPOOL_* variables that nobody reads. `text` is that of the file, which may use some;
 * NULL: there is none.
 */
void conf_check_environment(struct conf_build *b, const struct span *text);

/* ---- parts of a pool ------------------------------------------------------------------------- */

/* What a scheme stands for. */
struct conf_scheme {
    const char *name;
    enum front_kind kind;
    uint16_t port; /* 0: a Unix socket */
    bool tls;
};

/*
 * The scheme of an upstream as written; false if it has none that is known (nothing is reported).
 */
bool conf_scheme_of(const struct conf_build *b, struct span raw, struct conf_scheme *out);
/* Says so, quoting the scheme only. Returns false. */
bool conf_unknown_scheme(struct conf_build *b, struct conf_place at, struct span raw);
/* The local port of a kind when nobody says. */
uint16_t conf_local_port(const struct conf_build *b, enum front_kind kind, const char *name);

/* An upstream URL. `vars`: from a file, ${NAME} counts. */
bool conf_url(struct conf_build *b, struct conf_place at, struct span raw, bool vars,
              enum front_kind kind, const char *kind_name, struct endpoint_conf *out);
/* What stands behind the question mark, decoded. */
#define CONF_QUERY_MAX 32
struct conf_query {
    struct conf_pair pairs[CONF_QUERY_MAX];
    size_t n;
};
const char *conf_query_value(const struct conf_query *q, const char *name);
/* TLS and the options that are passed on, into the endpoint. */
bool conf_url_options(struct conf_build *b, struct conf_place at, const struct conf_scheme *scheme,
                      const struct conf_query *q, struct endpoint_conf *e);
extern const char *const conf_tls_words[]; /* by endpoint_tls */
/* The endpoint as a URL that loads again, but for its password, which is ***. */
void conf_url_print(const struct endpoint_conf *e, const struct front_conf *front, FILE *out);

/* `listen:` of a pool; node may be NULL (defaults). Appends to the pool's list. */
bool conf_listens(struct conf_build *b, const struct conf_node *node, struct conf_pool *pool);
/*
 * Default addresses on the first free port from the kind's own, on `hosts` (blanks or commas
 * between; NULL: 127.0.0.1 and ::1).
 */
bool conf_default_listens(struct conf_build *b, struct conf_place at, const char *hosts,
                          struct conf_pool *pool);
/* "127.0.0.1:9601", "[::1]:80", "localhost:80", "*:80" into up to two hosts (literals). */
struct conf_address {
    const char *hosts[2];
    size_t n;
    uint16_t port;
};
bool conf_address(struct conf_build *b, struct conf_place at, struct span text,
                  struct conf_address *out);
bool conf_is_loopback(const char *literal);

/* `databases:` of a pool that is filled otherwise. map: the pool's. */
bool conf_databases(struct conf_build *b, const struct conf_node *map, struct conf_pool *pool);
/* The rows of a database, by conf_database_tables. */
static inline const struct conf_pool *conf_database_base(const struct database_conf *db)
{
    return OWNER(db->pool, struct conf_pool, pool);
}

/* users_file into the pool's users. */
bool conf_users(struct conf_build *b, struct conf_place at, const char *path, enum front_kind kind,
                struct auth_conf *auth);

/* Decides each address' method and users. map: the pool's, or NULL. */
bool conf_decide_auth(struct conf_build *b, const struct conf_node *map, struct conf_pool *pool);

/* Room for n zeroed pools in the snapshot. */
bool conf_make_pools(struct conf_build *b, size_t n);
/* The defaults of a pool whose kind is set. */
bool conf_pool_defaults(struct conf_build *b, struct conf_pool *pool);
/* An entry of `pools:`, up to what hangs on other pools. */
bool conf_read_pool(struct conf_build *b, const struct conf_node *map, struct conf_pool *pool);

/* ---- the whole ------------------------------------------------------------------------------- */

/* What no row can say alone. map: the pool's, or NULL. */
bool conf_check_pool(struct conf_build *b, const struct conf_node *map,
                     const struct conf_pool *pool);
/* Somebody has to log in to the servers of Postgres. */
bool conf_check_logins(struct conf_build *b, const struct conf_node *map,
                       const struct conf_pool *pool);
/* Addresses that two pools, or a pool and the admin API, want. */
bool conf_check_all(struct conf_build *b);
/* The admin section's own forms: its address, its token's file. map: the document, or NULL. */
bool conf_finish_admin(struct conf_build *b, const struct conf_node *map);

/* Every build begins and ends; end returns the snapshot, or NULL if there were errors. */
bool conf_build_begin(struct conf_build *b, const char *file, const struct conf_options *options,
                      struct conf_report *report);
struct config *conf_build_end(struct conf_build *b, bool ok);
