/* SPDX-License-Identifier: MIT */
/*
 * Of schema rows, and for others too: durations, sizes, how alike two words are, names of things.
 */
#include "proxy/core/schema.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- units ----------------------------------------------------------------------------------- */

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit durations[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1},
};

/* Canonical ones first, largest first; the decimal ones are only read. */
static const struct unit sizes[] = {
    {"GiB", 1u << 30},  {"MiB", 1u << 20}, {"KiB", 1u << 10}, {"B", 1},
    {"GB", 1000000000}, {"MB", 1000000},   {"KB", 1000},
};

/* Leading digits; returns how many there were, 0 also on overflow. */
static size_t digits(struct span s, uint64_t *out)
{
    uint64_t v = 0;
    size_t n = 0;
    for (; n < s.n && s.p[n] >= '0' && s.p[n] <= '9'; n++) {
        uint64_t d = (uint64_t)(s.p[n] - '0');
        if (v > (UINT64_MAX - d) / 10)
            return 0;
        v = v * 10 + d;
    }
    *out = v;
    return n;
}

static const struct unit *unit_named(const struct unit *units, size_t n, struct span name)
{
    for (size_t i = 0; i < n; i++)
        if (span_eq(span_str(units[i].name), name))
            return &units[i];
    return NULL;
}

/* One "30s" off the front of *s, added to *sum. */
static bool take_quantity(const struct unit *units, size_t n_units, struct span *s, uint64_t *sum)
{
    uint64_t v;
    size_t n = digits(*s, &v);
    if (n == 0)
        return false;
    *s = span_skip(*s, n);
    size_t letters = 0;
    while (letters < s->n && (s->p[letters] | 0x20) >= 'a' && (s->p[letters] | 0x20) <= 'z')
        letters++;
    const struct unit *unit = unit_named(units, n_units, span_of(s->p, letters));
    if (!unit || v > (UINT64_MAX - *sum) / unit->factor)
        return false;
    *sum += v * unit->factor;
    *s = span_skip(*s, letters);
    return true;
}

bool schema_parse_duration(struct span text, uint64_t *ms)
{
    uint64_t sum = 0;
    bool zero = text.n == 1 && text.p[0] == '0';
    if (text.n == 0)
        return false;
    while (!zero && text.n > 0)
        if (!take_quantity(durations, ARRAY_LEN(durations), &text, &sum))
            return false;
    *ms = sum;
    return true;
}

bool schema_parse_size(struct span text, uint64_t *bytes)
{
    uint64_t sum = 0;
    bool zero = text.n == 1 && text.p[0] == '0';
    if (!zero && (!take_quantity(sizes, ARRAY_LEN(sizes), &text, &sum) || text.n > 0))
        return false;
    *bytes = sum;
    return true;
}

bool schema_parse_count(struct span text, uint64_t *count)
{
    uint64_t v;
    if (text.n == 0 || digits(text, &v) != text.n)
        return false;
    *count = v;
    return true;
}

const char *schema_duration_text(uint64_t ms, char *buf, size_t cap)
{
    size_t n = 0;
    snprintf(buf, cap, "0");
    for (size_t i = 0; i < ARRAY_LEN(durations) && n < cap; i++) {
        uint64_t v = ms / durations[i].factor;
        ms %= durations[i].factor;
        if (v > 0)
            n += (size_t)snprintf(buf + n, cap - n, "%" PRIu64 "%s", v, durations[i].name);
    }
    return buf;
}

const char *schema_size_text(uint64_t bytes, char *buf, size_t cap)
{
    size_t i = 0;
    while (bytes % sizes[i].factor != 0)
        i++;
    if (bytes == 0)
        snprintf(buf, cap, "0");
    else
        snprintf(buf, cap, "%" PRIu64 "%s", bytes / sizes[i].factor, sizes[i].name);
    return buf;
}

/* ---- slips of the finger --------------------------------------------------------------------- */

#define DISTANCE_MAX 64

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

unsigned schema_distance(struct span a, struct span b)
{
    unsigned rows[3][DISTANCE_MAX + 1];
    if (a.n > DISTANCE_MAX || b.n > DISTANCE_MAX)
        return DISTANCE_MAX;
    for (unsigned j = 0; j <= b.n; j++)
        rows[0][j] = j;
    for (unsigned i = 1; i <= a.n; i++) {
        unsigned *now = rows[i % 3];
        const unsigned *before = rows[(i + 2) % 3];
        now[0] = i;
        for (unsigned j = 1; j <= b.n; j++) {
            uint8_t x = ascii_lower(a.p[i - 1]), y = ascii_lower(b.p[j - 1]);
            now[j] = least(least(before[j], now[j - 1]) + 1, before[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == ascii_lower(b.p[j - 2]) && ascii_lower(a.p[i - 2]) == y)
                now[j] = least(now[j], rows[(i + 1) % 3][j - 2] + 1);
        }
    }
    return rows[a.n % 3][b.n];
}

bool schema_looks_like(struct span typed, struct span word)
{
    struct span shorter = typed.n < word.n ? typed : word;
    struct span longer = typed.n < word.n ? word : typed;
    if (shorter.n >= 3 && span_ieq(shorter, span_of(longer.p, shorter.n)))
        return true;
    unsigned allowed = word.n <= 4 ? 1 : word.n <= 7 ? 2 : 3;
    return schema_distance(typed, word) <= allowed;
}

/* ---- words ----------------------------------------------------------------------------------- */

const char *schema_type_word(enum schema_type type)
{
    static const char *const words[] = {
        [SCHEMA_BOOL] = "yes or no",
        [SCHEMA_COUNT] = "count",
        [SCHEMA_COUNT_AUTO] = "count or auto",
        [SCHEMA_DURATION] = "duration",
        [SCHEMA_DURATION_RANGE] = "durations",
        [SCHEMA_SIZE] = "size",
        [SCHEMA_PERCENT] = "percentage",
        [SCHEMA_STRING] = "text",
        [SCHEMA_SECRET] = "secret",
        [SCHEMA_PATH] = "file",
        [SCHEMA_ENUM] = "one of",
        [SCHEMA_ENUM_OR_TEXT] = "text, or one of",
        [SCHEMA_LIST] = "list",
    };
    CHECK((unsigned)type < ARRAY_LEN(words));
    return words[type];
}

const char *schema_reload_word(enum schema_reload reload)
{
    switch (reload) {
    case SCHEMA_RELOADS:
        return "at once";
    case SCHEMA_NEW_CONNECTIONS:
        return "new connections";
    case SCHEMA_NEEDS_RESTART:
        return "restart";
    }
    return "";
}
