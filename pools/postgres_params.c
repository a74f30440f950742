/* SPDX-License-Identifier: MIT */
#include "pools/postgres_params.h"

#include <stdio.h>
#include <stdlib.h>

#include "proxy/core/crypto.h"

struct pg_params {
    struct snapshot snap;
    uint8_t digest[16];
    uint64_t planning, reported;
    uint32_t n, bytes;
    uint32_t at[PG_PARAMS_MAX * 2 + 1]; /* name and value i begin at [2i], [2i + 1]; names sorted */
    uint8_t data[];
};

static void params_free(struct snapshot *snap)
{
    free(OWNER(snap, struct pg_params, snap));
}

static struct pg_params *params_alloc(size_t bytes)
{
    struct pg_params *p = calloc(1, sizeof *p + bytes);
    if (!p)
        return NULL;
    atomic_store(&p->snap.refs, 1);
    p->snap.free = params_free;
    return p;
}

struct pg_params *pg_params_take(struct pg_params *p)
{
    snapshot_take(&p->snap);
    return p;
}

struct snapshot *pg_params_snapshot(struct pg_params *p)
{
    return &p->snap;
}

struct pg_params *pg_params_of(struct snapshot *snap)
{
    return OWNER(snap, struct pg_params, snap);
}

void pg_params_drop(struct pg_params **p)
{
    if (!*p)
        return;
    struct snapshot *snap = &(*p)->snap;
    *p = NULL;
    snapshot_drop(&snap);
}

size_t pg_params_count(const struct pg_params *p)
{
    return p->n;
}

void pg_params_at(const struct pg_params *p, size_t i, struct span *name, struct span *value)
{
    CHECK(i < p->n);
    *name = span_of(p->data + p->at[2 * i], p->at[2 * i + 1] - p->at[2 * i]);
    *value = span_of(p->data + p->at[2 * i + 1], p->at[2 * i + 2] - p->at[2 * i + 1]);
}

/* Names of settings are case-insensitive in the server; "TimeZone" and "timezone" are one. */
static int compare(struct span a, struct span b)
{
    for (size_t i = 0; i < a.n && i < b.n; i++) {
        int d = ascii_lower(a.p[i]) - ascii_lower(b.p[i]);
        if (d)
            return d;
    }
    return a.n == b.n ? 0 : (a.n < b.n ? -1 : 1);
}

bool pg_params_get(const struct pg_params *p, struct span name, struct span *value)
{
    for (size_t i = 0; i < p->n; i++) {
        struct span n;
        pg_params_at(p, i, &n, value);
        if (compare(n, name) == 0)
            return true;
    }
    return false;
}

static void append(struct pg_params *p, struct span name, struct span value)
{
    p->at[2 * p->n] = p->bytes;
    if (name.n)
        memcpy(p->data + p->bytes, name.p, name.n);
    p->bytes += (uint32_t)name.n;
    p->at[2 * p->n + 1] = p->bytes;
    if (value.n)
        memcpy(p->data + p->bytes, value.p, value.n);
    p->bytes += (uint32_t)value.n;
    p->n++;
    p->at[2 * p->n] = p->bytes;
}

struct text {
    size_t n;
    uint8_t p[PG_PARAMS_BYTES + 2 * PG_PARAMS_MAX];
};

static void add(struct text *t, struct span s, bool fold)
{
    for (size_t i = 0; i < s.n; i++)
        t->p[t->n++] = fold ? ascii_lower(s.p[i]) : s.p[i];
    t->p[t->n++] = 0;
}

/* What a client cannot change does not count: maps that differ only there are the same to set. A
 * client must not be able to make its map pass for another one's: hence no plain hash. */
static bool make_digests(struct pg_params *p)
{
    struct text t = {.n = 0}, servers = {.n = 0};
    uint8_t planning[CRYPTO_SHA256], whole[CRYPTO_SHA256], reported[CRYPTO_SHA256];
    struct span name, value, application = {0};
    for (size_t i = 0; i < p->n; i++) {
        pg_params_at(p, i, &name, &value);
        if (span_ieq(name, SPAN_LIT("application_name"))) {
            application = value;
        } else {
            struct text *of = pg_param_reported_only(name) ? &servers : &t;
            add(of, name, true);
            add(of, value, false);
        }
    }
    if (!crypto_sha256(span_of(t.p, t.n), planning))
        return false;
    add(&t, application, false);
    if (!crypto_sha256(span_of(t.p, t.n), whole) ||
        !crypto_sha256(span_of(servers.p, servers.n), reported))
        return false;
    memcpy(&p->planning, planning, sizeof p->planning);
    memcpy(&p->reported, reported, sizeof p->reported);
    memcpy(p->digest, whole, sizeof p->digest);
    return true;
}

struct pg_params *pg_params_new(void)
{
    struct pg_params *p = params_alloc(0);
    if (p && !make_digests(p))
        pg_params_drop(&p);
    return p;
}

/* The size of all names and values afterwards. */
static size_t bytes_with(const struct pg_params *p, struct span name, struct span value)
{
    struct span had;
    bool found = pg_params_get(p, name, &had);
    return p->bytes - (found ? name.n + had.n : 0) + (value.p ? name.n + value.n : 0);
}

bool pg_params_fits(const struct pg_params *p, struct span name, struct span value)
{
    struct span had;
    size_t n = p->n - pg_params_get(p, name, &had) + (value.p != NULL);
    return n <= PG_PARAMS_MAX && bytes_with(p, name, value) <= PG_PARAMS_BYTES;
}

bool pg_params_set(struct pg_params **pp, struct span name, struct span value)
{
    const struct pg_params *old = *pp;
    struct span had;
    bool found = pg_params_get(old, name, &had);
    if (found ? value.p && span_eq(had, value) : !value.p)
        return true;
    if (!pg_params_fits(old, name, value))
        return false;
    struct pg_params *p = params_alloc(bytes_with(old, name, value));
    if (!p)
        return false;
    bool placed = value.p == NULL;
    for (size_t i = 0; i < old->n; i++) {
        struct span n, v;
        pg_params_at(old, i, &n, &v);
        int d = compare(n, name);
        if (!placed && d >= 0) {
            /* Keep the server's spelling of the name where there is one. */
            append(p, d == 0 ? n : name, value);
            placed = true;
        }
        if (d != 0)
            append(p, n, v);
    }
    if (!placed)
        append(p, name, value);
    if (!make_digests(p)) {
        pg_params_drop(&p);
        return false;
    }
    pg_params_drop(pp);
    *pp = p;
    return true;
}

bool pg_params_same(const struct pg_params *a, const struct pg_params *b)
{
    return a == b || memcmp(a->digest, b->digest, sizeof a->digest) == 0;
}

bool pg_params_report_same(const struct pg_params *a, const struct pg_params *b)
{
    return a->reported == b->reported;
}

uint64_t pg_params_planning(const struct pg_params *p)
{
    return p->planning;
}

bool pg_param_reported_only(struct span name)
{
    static const char *const names[] = {
        "server_version", "server_encoding",       "integer_datetimes",
        "is_superuser",   "session_authorization", "in_hot_standby",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (span_ieq(name, span_str(names[i])))
            return true;
    return false;
}

/* The server compares encoding names without case and punctuation. */
static bool same_encoding(struct span a, struct span b)
{
    size_t i = 0, j = 0;
    for (;;) {
        while (i < a.n && !(ascii_lower(a.p[i]) >= 'a' && ascii_lower(a.p[i]) <= 'z') &&
               !(a.p[i] >= '0' && a.p[i] <= '9'))
            i++;
        while (j < b.n && !(ascii_lower(b.p[j]) >= 'a' && ascii_lower(b.p[j]) <= 'z') &&
               !(b.p[j] >= '0' && b.p[j] <= '9'))
            j++;
        if (i == a.n || j == b.n)
            return i == a.n && j == b.n;
        if (ascii_lower(a.p[i++]) != ascii_lower(b.p[j++]))
            return false;
    }
}

/* ---- DateStyle: a style and the order of day and month, in words ---- */

struct date_word {
    const char *begins; /* a word of this beginning ... */
    bool ends;          /* ... and of no more */
    uint8_t style, order;
};

static const char *const date_styles[] = {NULL, "ISO", "SQL", "Postgres", "German"};
static const char *const date_orders[] = {NULL, "YMD", "DMY", "MDY"};
enum { STYLE_GERMAN = 4, ORDER_DMY = 2 };

/* As the server reads them (its variable.c). */
static const struct date_word *date_word_of(struct span word)
{
    static const struct date_word words[] = {
        {"iso", true, 1, 0},
        {"sql", false, 2, 0},
        {"postgres", false, 3, 0},
        {"german", false, STYLE_GERMAN, 0},
        {"ymd", true, 0, 1},
        {"dmy", true, 0, ORDER_DMY},
        {"euro", false, 0, ORDER_DMY},
        {"mdy", true, 0, 3},
        {"us", true, 0, 3},
        {"noneuro", false, 0, 3},
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        struct span begins = span_str(words[i].begins);
        if (word.n >= begins.n && (word.n == begins.n || !words[i].ends) &&
            span_ieq(span_of(word.p, begins.n), begins))
            return &words[i];
    }
    return NULL;
}

struct date_style {
    unsigned style, order; /* 0: not named */
};

static bool read_date_style(struct span text, struct date_style *d)
{
    *d = (struct date_style){0};
    for (bool more = true; more;) {
        const uint8_t *comma = memchr(text.p, ',', text.n);
        struct span word = span_of(text.p, comma ? (size_t)(comma - text.p) : text.n);
        text = span_skip(text, word.n + (comma != NULL));
        more = comma != NULL;
        while (word.n && *word.p == ' ')
            word = span_skip(word, 1);
        while (word.n && word.p[word.n - 1] == ' ')
            word.n--;
        const struct date_word *w = date_word_of(word);
        if (!w || (w->style && d->style && d->style != w->style) ||
            (w->order && d->order && d->order != w->order))
            return false;
        d->style = w->style ? w->style : d->style;
        d->order = w->order ? w->order : d->order;
    }
    return d->style || d->order;
}

static struct span date_style(struct span given, struct span known, char buf[PG_PARAM_SPELLED])
{
    struct date_style d, now;
    if (!read_date_style(given, &d) || !read_date_style(known, &now))
        return given;
    if (!d.order)
        d.order = d.style == STYLE_GERMAN ? ORDER_DMY : now.order;
    if (!d.style)
        d.style = now.style;
    if (!d.order || !d.style)
        return given;
    int n = snprintf(buf, PG_PARAM_SPELLED, "%s, %s", date_styles[d.style], date_orders[d.order]);
    return span_of(buf, (size_t)n);
}

struct span pg_param_spelled(struct span name, struct span given, struct span known,
                             char buf[PG_PARAM_SPELLED])
{
    if (span_ieq(name, SPAN_LIT("client_encoding")))
        return same_encoding(given, known) ? known : given;
    if (span_ieq(name, SPAN_LIT("DateStyle")))
        return date_style(given, known, buf);
    return span_ieq(given, known) ? known : given;
}
