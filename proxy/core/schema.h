/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One row per configuration key. The same row drives the parser, the defaults, the ranges, what a
 * reload does with a change, `carpool config` and docs/configuration.md, so that they cannot
 * disagree.
 *
 * A row writes into a plain `struct something_conf` by offset. Values that may differ by variant
 * (the pool's kind) carry one default text per variant; a variant is a small index, this file does
 * not know what it stands for.
 *
 * Pure: no files, no environment, no globals. Any thread.
 */
#include <stdio.h>

#include "proxy/core/base.h"
#include "proxy/core/err.h"
#include "proxy/core/span.h"

#define SCHEMA_VARIANTS 3 /* columns of defaults */

/* What a value looks like in the file -> what the field holds. */
enum schema_type {
    SCHEMA_BOOL,           /* true | false                 -> bool */
    SCHEMA_COUNT,          /* 20                           -> uint32_t */
    SCHEMA_COUNT_AUTO,     /* 4 | auto                     -> uint32_t, auto is 0 */
    SCHEMA_DURATION,       /* 30s, 1m30s, 250ms, 0         -> uint64_t, milliseconds */
    SCHEMA_DURATION_RANGE, /* 25ms..250ms                  -> uint64_t twice (offset, offset2) */
    SCHEMA_SIZE,           /* 256KiB, 1MB, 0               -> uint64_t, bytes */
    SCHEMA_PERCENT,        /* 20%                          -> uint32_t, 0..100 */
    SCHEMA_STRING,         /* text                         -> const char *, NULL when empty */
    SCHEMA_SECRET,         /* text, never printed          -> const char *, NULL when empty */
    SCHEMA_PATH,           /* a file                       -> const char *, NULL when empty */
    SCHEMA_ENUM,           /* one of `words`               -> an enum, the word's index */
    SCHEMA_ENUM_OR_TEXT,   /* one of `words`, or free text -> an enum (offset), const char *
                              (offset2); the enum is the number of words for free text */
    SCHEMA_LIST,           /* a list                       -> always `own` */
};

/* What a reload does with a changed value. */
enum schema_reload {
    SCHEMA_RELOADS,         /* applies at once */
    SCHEMA_NEW_CONNECTIONS, /* applies to what is opened from now on */
    SCHEMA_NEEDS_RESTART,   /* is reported and ignored until the next start */
};

struct schema_row {
    const char *key;       /* as written in the file, without its table: "max" */
    enum schema_type type; /* also the type of the field, see SCHEMA_STORE_... */
    /* Default as it would be written; an empty column means as the first. All NULL: none. */
    const char *def[SCHEMA_VARIANTS];
    uint64_t min, max; /* inclusive, in the field's unit; of text, its length. Both 0: no range */
    bool zero_ok;      /* 0 is allowed too, whatever min says */
    bool own;          /* has a form or rules of its own: proxy/conf fills it, here it is only told
                          of. Such a row has no field and its default is a description */
    uint32_t only;     /* set of 1u << variant that know this key; 0: all */
    size_t offset, offset2;    /* into the conf struct */
    const char *const *words;  /* ENUM types: NULL-terminated, in the enum's order */
    enum schema_reload reload; /* what a reload does */
    const char *help;          /* one sentence, without its full stop */
};

/* A mapping in the file: `size: { min: 1, max: 20 }`. key NULL: the enclosing mapping itself. */
struct schema_table {
    const char *key;
    const struct schema_row *rows;
    size_t n_rows;
    size_t offset; /* of the table's struct in the enclosing struct */
    const char *help;
};

/* The C type behind each kind of row; a row whose field has another type does not compile. */
#define SCHEMA_STORE_BOOL bool
#define SCHEMA_STORE_COUNT uint32_t
#define SCHEMA_STORE_COUNT_AUTO uint32_t
#define SCHEMA_STORE_DURATION uint64_t
#define SCHEMA_STORE_SIZE uint64_t
#define SCHEMA_STORE_PERCENT uint32_t
#define SCHEMA_STORE_STRING const char *
#define SCHEMA_STORE_SECRET const char *
#define SCHEMA_STORE_PATH const char *

#define SCHEMA_AT(tag, field, ctype)                                                               \
    (offsetof(struct tag, field) +                                                                 \
     0 * sizeof(char[__builtin_types_compatible_p(__typeof__(((struct tag *)0)->field), ctype)     \
                         ? 1                                                                       \
                         : -1]))
#define SCHEMA_ENUM_AT(tag, field)                                                                 \
    (offsetof(struct tag, field) +                                                                 \
     0 * sizeof(char[sizeof(((struct tag *)0)->field) == sizeof(unsigned) ? 1 : -1]))

/*
 * ROW(size_conf, max, "max", COUNT, "20", 1, 100000, RELOADS, "upper bound of ...")
 * More initialisers may follow the help: .zero_ok, .only, .def[1].
 */
#define ROW(tag, field, name, kind, text, lo, hi, rule, ...)                                       \
    {.key = (name),                                                                                \
     .type = SCHEMA_##kind,                                                                        \
     .def[0] = (text),                                                                             \
     .min = (lo),                                                                                  \
     .max = (hi),                                                                                  \
     .offset = SCHEMA_AT(tag, field, SCHEMA_STORE_##kind),                                         \
     .reload = SCHEMA_##rule,                                                                      \
     .help = __VA_ARGS__}
#define ROW_ENUM(tag, field, name, list, text, rule, ...)                                          \
    {.key = (name),                                                                                \
     .type = SCHEMA_ENUM,                                                                          \
     .def[0] = (text),                                                                             \
     .offset = SCHEMA_ENUM_AT(tag, field),                                                         \
     .words = (list),                                                                              \
     .reload = SCHEMA_##rule,                                                                      \
     .help = __VA_ARGS__}
#define ROW_ENUM_OR_TEXT(tag, field, text_field, name, list, text, rule, ...)                      \
    {.key = (name),                                                                                \
     .type = SCHEMA_ENUM_OR_TEXT,                                                                  \
     .def[0] = (text),                                                                             \
     .offset = SCHEMA_ENUM_AT(tag, field),                                                         \
     .offset2 = SCHEMA_AT(tag, text_field, const char *),                                          \
     .words = (list),                                                                              \
     .reload = SCHEMA_##rule,                                                                      \
     .help = __VA_ARGS__}
#define ROW_RANGE(tag, from, to, name, text, lo, hi, rule, ...)                                    \
    {.key = (name),                                                                                \
     .type = SCHEMA_DURATION_RANGE,                                                                \
     .def[0] = (text),                                                                             \
     .min = (lo),                                                                                  \
     .max = (hi),                                                                                  \
     .offset = SCHEMA_AT(tag, from, uint64_t),                                                     \
     .offset2 = SCHEMA_AT(tag, to, uint64_t),                                                      \
     .reload = SCHEMA_##rule,                                                                      \
     .help = __VA_ARGS__}
#define ROW_OWN(name, kind, text, rule, ...)                                                       \
    {.key = (name),                                                                                \
     .type = SCHEMA_##kind,                                                                        \
     .def[0] = (text),                                                                             \
     .own = true,                                                                                  \
     .reload = SCHEMA_##rule,                                                                      \
     .help = __VA_ARGS__}

/*
 * Where text values are kept. copy() returns NUL-terminated memory that lives as long as the struct
 * that is filled, or NULL when there is none.
 */
struct schema_keep {
    char *(*copy)(struct schema_keep *keep, struct span text);
};

/*
 * Parses `text` for `row` and stores it in the struct at `base`. Blanks around it are not trimmed.
 * On failure the struct is untouched and err->note says what is wrong and what would be right,
 * quoting `shown` (the text before variables were put in; `text` where there are none). A SECRET is
 * never quoted.
 */
MUST_USE bool schema_set(const struct schema_row *row, void *base, struct span text,
                         struct span shown, struct schema_keep *keep, struct err *err);

/* The default text of a row for a variant; NULL when there is none. */
const char *schema_default(const struct schema_row *row, unsigned variant);

/* Does the key exist for this variant? */
bool schema_knows(const struct schema_row *row, unsigned variant);

/* The row with this key, NULL if there is none. */
const struct schema_row *schema_find(const struct schema_table *table, struct span key);

/*
 * Stores every default of a table in its struct at `base`; fields without a default are untouched.
 * False when memory is out. Ends the process when a default does not fit its row: only a mistake
 * in the tables does that.
 */
MUST_USE bool schema_defaults(const struct schema_table *table, unsigned variant, void *base,
                              struct schema_keep *keep);

/*
 * The value as it would be written in the file, in one canonical form (90000 ms is "1m30s"); a set
 * secret as "***"; unset text and `own` rows as "". Cut at cap, NUL-terminated; returns buf.
 */
const char *schema_text(const struct schema_row *row, const void *base, char *buf, size_t cap);

/* The stored text of STRING, SECRET, PATH, and of ENUM_OR_TEXT that holds text; else NULL. */
const char *schema_string(const struct schema_row *row, const void *base);

/* Are the row's values in two structs the same? (`own` rows: true.) */
bool schema_same(const struct schema_row *row, const void *a, const void *b);

/* For people: "duration"; "1s to 1h", "one of a, b" or "" without a range; "at once". */
const char *schema_type_word(enum schema_type type);
const char *schema_range_text(const struct schema_row *row, char *buf, size_t cap);
const char *schema_reload_word(enum schema_reload reload);

/* Units, for others who read or print them. Parsing wants the whole span; "0" needs no unit. */
MUST_USE bool schema_parse_duration(struct span text, uint64_t *ms);
MUST_USE bool schema_parse_size(struct span text, uint64_t *bytes);
MUST_USE bool schema_parse_count(struct span text, uint64_t *count);
const char *schema_duration_text(uint64_t ms, char *buf, size_t cap);
const char *schema_size_text(uint64_t bytes, char *buf, size_t cap);

/*
 * Edits (insert, delete, replace, swap of neighbours; case ignored) from a to b. Texts over 64
 * bytes are not compared: 64.
 */
unsigned schema_distance(struct span a, struct span b);
/* Is `typed` near enough to `word` to be a slip of the finger? */
bool schema_looks_like(struct span typed, struct span word);
