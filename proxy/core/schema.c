/* SPDX-License-Identifier: MIT */
/*
 * Values of configuration rows: text to field, field to text, and words for what went wrong. Every
 * message is a sentence that ends with what to write instead.
 */
#include "proxy/core/schema.h"

#include <inttypes.h>
#include <stdio.h>

#define SHOWN_MAX 40 /* bytes of a bad value that a message quotes */

static void *field(const void *base, size_t offset)
{
    return (char *)(uintptr_t)base + offset;
}

static uint64_t get_u64(const void *base, size_t offset)
{
    uint64_t v;
    memcpy(&v, field(base, offset), sizeof v);
    return v;
}

static uint32_t get_u32(const void *base, size_t offset)
{
    uint32_t v;
    memcpy(&v, field(base, offset), sizeof v);
    return v;
}

static const char *get_str(const void *base, size_t offset)
{
    const char *v;
    memcpy(&v, field(base, offset), sizeof v);
    return v;
}

static bool bad(struct err *err, const char *note)
{
    return err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0, "%s", note);
}

static const char *shown_text(struct span s, char *buf)
{
    snprintf(buf, SHOWN_MAX + 8, "'%.*s%s'", s.n > SHOWN_MAX ? SHOWN_MAX : (int)s.n,
             s.n ? (const char *)s.p : "", s.n > SHOWN_MAX ? "..." : "");
    return buf;
}

/* ---- text to field --------------------------------------------------------------------------- */

static size_t word_index(const struct schema_row *row, struct span text)
{
    size_t i = 0;
    while (row->words[i] && !span_eq(span_str(row->words[i]), text))
        i++;
    return i;
}

static const char *word_list(const struct schema_row *row, char *buf, size_t cap)
{
    size_t n = 0;
    buf[0] = 0;
    for (size_t i = 0; row->words[i] && n < cap; i++)
        n += (size_t)snprintf(buf + n, cap - n, "%s%s", i ? ", " : "", row->words[i]);
    return buf;
}

static const char *word_like(const char *const *words, struct span typed)
{
    const char *best = NULL;
    unsigned best_distance = UINT32_MAX;
    for (; *words; words++) {
        unsigned d = schema_distance(typed, span_str(*words));
        if (schema_looks_like(typed, span_str(*words)) && d < best_distance) {
            best_distance = d;
            best = *words;
        }
    }
    return best;
}

static bool in_range(const struct schema_row *row, uint64_t v)
{
    return (row->min == 0 && row->max == 0) || (v >= row->min && v <= row->max) ||
           (v == 0 && row->zero_ok);
}

static bool out_of_range(const struct schema_row *row, struct span shown, struct err *err)
{
    char range[80], value[SHOWN_MAX + 8];
    return err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0, "%s is out of range: write %s",
                   shown_text(shown, value), schema_range_text(row, range, sizeof range));
}

static bool is_no(const char *what, struct span shown, const char *instead, struct err *err)
{
    char value[SHOWN_MAX + 8];
    return err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0, "%s is no %s: write %s",
                   shown_text(shown, value), what, instead);
}

/* A bare number is the commonest slip: say what it would look like with a unit. */
static bool needs_unit(struct span text, struct span shown, const char *one, const char *other,
                       struct err *err)
{
    uint64_t v;
    char value[SHOWN_MAX + 8];
    if (!schema_parse_count(text, &v) || !span_eq(text, shown))
        return false;
    err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0,
            "%s has no unit: write %" PRIu64 "%s or %" PRIu64 "%s", shown_text(shown, value), v,
            one, v, other);
    return true;
}

static bool set_bool(const struct schema_row *row, void *base, struct span text, struct span shown,
                     struct err *err)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!span_ieq(text, span_str(words[i])))
            continue;
        bool v = i % 2 == 1;
        memcpy(field(base, row->offset), &v, sizeof v);
        return true;
    }
    return is_no("yes or no", shown, "true or false", err);
}

static bool set_count(const struct schema_row *row, void *base, struct span text, struct span shown,
                      struct err *err)
{
    uint64_t v = 0;
    bool automatic = row->type == SCHEMA_COUNT_AUTO && span_eq(text, SPAN_LIT("auto"));
    if (!automatic && !schema_parse_count(text, &v))
        return is_no("count", shown,
                     row->type == SCHEMA_COUNT_AUTO ? "a whole number or auto" : "a whole number",
                     err);
    if ((!automatic && !in_range(row, v)) || v > UINT32_MAX)
        return out_of_range(row, shown, err);
    uint32_t v32 = (uint32_t)v;
    memcpy(field(base, row->offset), &v32, sizeof v32);
    return true;
}

static bool set_percent(const struct schema_row *row, void *base, struct span text,
                        struct span shown, struct err *err)
{
    uint64_t v;
    if (text.n < 2 || text.p[text.n - 1] != '%' ||
        !schema_parse_count(span_of(text.p, text.n - 1), &v))
        return is_no("percentage", shown, "a whole number with its sign, like 20%", err);
    if (v > 100 || !in_range(row, v))
        return out_of_range(row, shown, err);
    uint32_t v32 = (uint32_t)v;
    memcpy(field(base, row->offset), &v32, sizeof v32);
    return true;
}

static bool set_duration(const struct schema_row *row, void *base, struct span text,
                         struct span shown, struct err *err)
{
    uint64_t v;
    if (!schema_parse_duration(text, &v))
        return !needs_unit(text, shown, "s", "ms", err) &&
               is_no("duration", shown, "numbers with units, like 250ms, 30s, 1m30s, 2h", err);
    if (!in_range(row, v))
        return out_of_range(row, shown, err);
    memcpy(field(base, row->offset), &v, sizeof v);
    return true;
}

static bool set_duration_range(const struct schema_row *row, void *base, struct span text,
                               struct span shown, struct err *err)
{
    uint64_t from, to;
    const uint8_t *dots = memmem(text.p, text.n, "..", 2);
    struct span first = dots ? span_of(text.p, (size_t)(dots - text.p)) : text;
    struct span second = dots ? span_skip(text, first.n + 2) : text;
    if (!schema_parse_duration(first, &from) || !schema_parse_duration(second, &to))
        return is_no("range of durations", shown, "two with dots between, like 25ms..250ms", err);
    if (from > to)
        return is_no("range of durations", shown, "the smaller one first", err);
    if (!in_range(row, from) || !in_range(row, to))
        return out_of_range(row, shown, err);
    memcpy(field(base, row->offset), &from, sizeof from);
    memcpy(field(base, row->offset2), &to, sizeof to);
    return true;
}

static bool set_size(const struct schema_row *row, void *base, struct span text, struct span shown,
                     struct err *err)
{
    uint64_t v;
    if (!schema_parse_size(text, &v))
        return !needs_unit(text, shown, "B", "KiB", err) &&
               is_no("size", shown, "a number with a unit, like 64KiB, 1MiB or 500B", err);
    if (!in_range(row, v))
        return out_of_range(row, shown, err);
    memcpy(field(base, row->offset), &v, sizeof v);
    return true;
}

static bool set_enum(const struct schema_row *row, void *base, struct span text, struct span shown,
                     struct err *err)
{
    char words[96], value[SHOWN_MAX + 8];
    size_t i = word_index(row, text);
    if (!row->words[i]) {
        const char *like = word_like(row->words, text);
        word_list(row, words, sizeof words);
        return err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0, "%s is none of %s: %s%s%s",
                       shown_text(shown, value), words,
                       like ? "did you mean " : "write one of them", like ? like : "",
                       like ? "?" : "");
    }
    unsigned v = (unsigned)i;
    memcpy(field(base, row->offset), &v, sizeof v);
    return true;
}

static bool keep_text(void *base, size_t offset, struct span text, struct schema_keep *keep,
                      struct err *err)
{
    const char *v = NULL;
    for (size_t i = 0; i < text.n; i++)
        if (text.p[i] < 0x20 || text.p[i] == 0x7f)
            return bad(err, "the text holds a control character: write it without");
    if (text.n > 0 && !(v = keep->copy(keep, text)))
        return bad(err, "out of memory");
    memcpy(field(base, offset), &v, sizeof v);
    return true;
}

static bool set_text(const struct schema_row *row, void *base, struct span text,
                     struct schema_keep *keep, struct err *err)
{
    if (!in_range(row, text.n))
        return err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0,
                       "the text is %zu bytes long: write %" PRIu64 " to %" PRIu64, text.n,
                       row->min, row->max);
    return keep_text(base, row->offset, text, keep, err);
}

static bool set_enum_or_text(const struct schema_row *row, void *base, struct span text,
                             struct span shown, struct schema_keep *keep, struct err *err)
{
    unsigned v = (unsigned)word_index(row, text);
    struct span free_text = row->words[v] ? span_of(NULL, 0) : text;
    if (!row->words[v] && (text.n == 0 || word_like(row->words, text)))
        return set_enum(row, base, text, shown, err); /* a slip, not a statement: says so */
    if (!keep_text(base, row->offset2, free_text, keep, err))
        return false;
    memcpy(field(base, row->offset), &v, sizeof v);
    return true;
}

bool schema_set(const struct schema_row *row, void *base, struct span text, struct span shown,
                struct schema_keep *keep, struct err *err)
{
    CHECK(!row->own);
    switch (row->type) {
    case SCHEMA_BOOL:
        return set_bool(row, base, text, shown, err);
    case SCHEMA_COUNT:
    case SCHEMA_COUNT_AUTO:
        return set_count(row, base, text, shown, err);
    case SCHEMA_DURATION:
        return set_duration(row, base, text, shown, err);
    case SCHEMA_DURATION_RANGE:
        return set_duration_range(row, base, text, shown, err);
    case SCHEMA_SIZE:
        return set_size(row, base, text, shown, err);
    case SCHEMA_PERCENT:
        return set_percent(row, base, text, shown, err);
    case SCHEMA_STRING:
    case SCHEMA_SECRET:
    case SCHEMA_PATH:
        return set_text(row, base, text, keep, err);
    case SCHEMA_ENUM:
        return set_enum(row, base, text, shown, err);
    case SCHEMA_ENUM_OR_TEXT:
        return set_enum_or_text(row, base, text, shown, keep, err);
    case SCHEMA_LIST:
        break;
    }
    return false;
}

/* ---- tables ---------------------------------------------------------------------------------- */

const char *schema_default(const struct schema_row *row, unsigned variant)
{
    CHECK(variant < SCHEMA_VARIANTS);
    return row->def[variant] ? row->def[variant] : row->def[0];
}

bool schema_knows(const struct schema_row *row, unsigned variant)
{
    return row->only == 0 || (row->only & (UINT32_C(1) << variant)) != 0;
}

const struct schema_row *schema_find(const struct schema_table *table, struct span key)
{
    for (size_t i = 0; i < table->n_rows; i++)
        if (span_eq(span_str(table->rows[i].key), key))
            return &table->rows[i];
    return NULL;
}

bool schema_defaults(const struct schema_table *table, unsigned variant, void *base,
                     struct schema_keep *keep)
{
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct schema_row *row = &table->rows[i];
        const char *text = schema_default(row, variant);
        struct err err;
        if (!text || row->own)
            continue;
        if (schema_set(row, base, span_str(text), span_str(text), keep, &err))
            continue;
        CHECK(strcmp(err.note, "out of memory") == 0);
        return false;
    }
    return true;
}

/* ---- field to text --------------------------------------------------------------------------- */

const char *schema_string(const struct schema_row *row, const void *base)
{
    bool text =
        row->type == SCHEMA_STRING || row->type == SCHEMA_SECRET || row->type == SCHEMA_PATH;
    if (row->type == SCHEMA_ENUM_OR_TEXT)
        return get_str(base, row->offset2);
    return text && !row->own ? get_str(base, row->offset) : NULL;
}

static const char *range_value(const struct schema_row *row, const void *base, char *buf,
                               size_t cap)
{
    char from[48], to[48];
    uint64_t a = get_u64(base, row->offset), b = get_u64(base, row->offset2);
    schema_duration_text(a, from, sizeof from);
    schema_duration_text(b, to, sizeof to);
    snprintf(buf, cap, "%s%s%s", from, a == b ? "" : "..", a == b ? "" : to);
    return buf;
}

const char *schema_text(const struct schema_row *row, const void *base, char *buf, size_t cap)
{
    const char *text = schema_string(row, base);
    snprintf(buf, cap, "%s", text ? text : "");
    if (row->own)
        return buf;
    switch (row->type) {
    case SCHEMA_BOOL:
        snprintf(buf, cap, "%s", *(const bool *)field(base, row->offset) ? "true" : "false");
        break;
    case SCHEMA_COUNT_AUTO:
    case SCHEMA_COUNT:
        snprintf(buf, cap, "%" PRIu32, get_u32(base, row->offset));
        if (row->type == SCHEMA_COUNT_AUTO && get_u32(base, row->offset) == 0)
            snprintf(buf, cap, "auto");
        break;
    case SCHEMA_PERCENT:
        snprintf(buf, cap, "%" PRIu32 "%%", get_u32(base, row->offset));
        break;
    case SCHEMA_DURATION:
        schema_duration_text(get_u64(base, row->offset), buf, cap);
        break;
    case SCHEMA_DURATION_RANGE:
        range_value(row, base, buf, cap);
        break;
    case SCHEMA_SIZE:
        schema_size_text(get_u64(base, row->offset), buf, cap);
        break;
    case SCHEMA_SECRET:
        snprintf(buf, cap, "%s", text ? "***" : "");
        break;
    case SCHEMA_ENUM:
    case SCHEMA_ENUM_OR_TEXT:
        if (!text)
            snprintf(buf, cap, "%s", row->words[get_u32(base, row->offset)]);
        break;
    case SCHEMA_STRING:
    case SCHEMA_PATH:
    case SCHEMA_LIST:
        break;
    }
    return buf;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

bool schema_same(const struct schema_row *row, const void *a, const void *b)
{
    if (row->own)
        return true;
    switch (row->type) {
    case SCHEMA_BOOL:
        return *(const bool *)field(a, row->offset) == *(const bool *)field(b, row->offset);
    case SCHEMA_COUNT:
    case SCHEMA_COUNT_AUTO:
    case SCHEMA_PERCENT:
    case SCHEMA_ENUM:
        return get_u32(a, row->offset) == get_u32(b, row->offset);
    case SCHEMA_ENUM_OR_TEXT:
        return get_u32(a, row->offset) == get_u32(b, row->offset) &&
               same_text(schema_string(row, a), schema_string(row, b));
    case SCHEMA_DURATION:
    case SCHEMA_SIZE:
        return get_u64(a, row->offset) == get_u64(b, row->offset);
    case SCHEMA_DURATION_RANGE:
        return get_u64(a, row->offset) == get_u64(b, row->offset) &&
               get_u64(a, row->offset2) == get_u64(b, row->offset2);
    case SCHEMA_STRING:
    case SCHEMA_SECRET:
    case SCHEMA_PATH:
        return same_text(schema_string(row, a), schema_string(row, b));
    case SCHEMA_LIST:
        return true;
    }
    return true;
}

/* ---- words ----------------------------------------------------------------------------------- */

const char *schema_range_text(const struct schema_row *row, char *buf, size_t cap)
{
    char lo[48] = "", hi[48] = "";
    const char *zero = row->zero_ok && row->min > 0 ? ", or 0" : "";
    buf[0] = 0;
    if (row->words) {
        word_list(row, buf, cap);
        return buf;
    }
    if (row->min == 0 && row->max == 0)
        return buf;
    switch (row->type) {
    case SCHEMA_DURATION:
    case SCHEMA_DURATION_RANGE:
        schema_duration_text(row->min, lo, sizeof lo);
        schema_duration_text(row->max, hi, sizeof hi);
        break;
    case SCHEMA_SIZE:
        schema_size_text(row->min, lo, sizeof lo);
        schema_size_text(row->max, hi, sizeof hi);
        break;
    case SCHEMA_COUNT:
    case SCHEMA_COUNT_AUTO:
    case SCHEMA_PERCENT: {
        const char *sign = row->type == SCHEMA_PERCENT ? "%" : "";
        snprintf(lo, sizeof lo, "%" PRIu64 "%s", row->min, sign);
        snprintf(hi, sizeof hi, "%" PRIu64 "%s", row->max, sign);
        break;
    }
    case SCHEMA_BOOL:
    case SCHEMA_STRING:
    case SCHEMA_SECRET:
    case SCHEMA_PATH:
    case SCHEMA_ENUM:
    case SCHEMA_ENUM_OR_TEXT:
    case SCHEMA_LIST:
        return buf;
    }
    snprintf(buf, cap, "%s to %s%s", lo, hi, zero);
    return buf;
}
