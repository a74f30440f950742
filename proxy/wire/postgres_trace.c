/* SPDX-License-Identifier: MIT */
/*
 * What a statement leaves behind. By its first words, which is all that SET, CREATE and DECLARE
 * need, and by two names that are called anywhere in a query. What is missed here (a statement
 * behind another in one query, a function that sets something) shows in its tag, or not at all.
 */
#include "proxy/wire/postgres_scan.h"
#include "proxy/wire/postgres_text.h"

enum { DECLARE_WORDS = 10 }; /* between DECLARE and FOR */

/* Settings that the server does not report, and reads texts by: the same text is another
 * statement. */
static bool is_read_by(struct span name)
{
    static const char *const names[] = {
        "transform_null_equals", "array_nulls",     "xmloption",
        "lc_monetary",           "backslash_quote", "timezone_abbreviations"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (span_ieq(name, span_str(names[i])))
            return true;
    return false;
}

static struct pg_trace setting(struct span name)
{
    return (struct pg_trace){.leaves = PG_LEAVES_SETTING, .name = name, .parses = is_read_by(name)};
}

/* A word of the grammar; as the first half of "local.tenant" it is none. */
static bool keyword(struct pg_scan *s, const char *word)
{
    struct pg_scan ahead = *s;
    if (!pg_scan_accept(&ahead, word))
        return false;
    struct pg_scan behind = ahead;
    if (pg_scan_char(&behind, '.'))
        return false;
    *s = ahead;
    return true;
}

/* Settings that have words of their own. */
static struct span special_name(struct pg_scan *s)
{
    static const struct {
        const char *word, *next, *name;
    } forms[] = {
        {"TIME", "ZONE", "TimeZone"},    {"NAMES", NULL, "client_encoding"},
        {"SCHEMA", NULL, "search_path"}, {"ROLE", NULL, "role"},
        {"XML", "OPTION", "xmloption"},
    };
    for (size_t i = 0; i < ARRAY_LEN(forms); i++)
        if (keyword(s, forms[i].word) && (!forms[i].next || pg_scan_accept(s, forms[i].next)))
            return span_str(forms[i].name);
    return span_of(NULL, 0);
}

/* name, or class.name; empty: something else. */
static struct span dotted_name(struct pg_scan *s)
{
    struct span name = pg_scan_word(s);
    while (name.n && s->p < s->end && *s->p == '.') {
        s->p++;
        if (!pg_scan_word(s).n)
            return span_of(NULL, 0);
        name.n = (size_t)(s->p - name.p);
    }
    return name;
}

/* RESET of the session's user ends the role, too; another session user keeps its server. */
static struct span reset_name(struct span name)
{
    return span_ieq(name, SPAN_LIT("session_authorization")) ? SPAN_LIT("role") : name;
}

/* Behind a name. SET ... TO DEFAULT is a RESET, and so is SET TIME ZONE LOCAL. */
static struct pg_trace setting_or_default(struct pg_scan *s, struct span name, bool is_default)
{
    struct pg_trace t = setting(name);
    if (is_default || pg_scan_accept(s, "DEFAULT")) {
        t.leaves = PG_LEAVES_RESET;
        t.name = reset_name(name);
    }
    return t;
}

/* SET LOCAL name ...: over with the transaction. */
static struct pg_trace trace_local(struct pg_scan *s)
{
    struct span name = special_name(s);
    if (!name.n)
        name = dotted_name(s);
    return (struct pg_trace){.leaves = PG_LEAVES_NOTHING, .parses = is_read_by(name)};
}

/* SET [SESSION] name { TO | = } ..., and its special forms. */
static struct pg_trace trace_set(struct pg_scan *s)
{
    const struct pg_trace nothing = {.leaves = PG_LEAVES_NOTHING};
    const struct pg_trace something = {.leaves = PG_LEAVES_SETTINGS};
    if (keyword(s, "LOCAL"))
        return trace_local(s);
    if (keyword(s, "TRANSACTION") || keyword(s, "CONSTRAINTS"))
        return nothing;
    if (keyword(s, "SESSION")) {
        if (pg_scan_accept(s, "CHARACTERISTICS"))
            return (struct pg_trace){.leaves = PG_LEAVES_CHARACTERISTICS};
        if (pg_scan_accept(s, "AUTHORIZATION"))
            return pg_scan_accept(s, "DEFAULT")
                       ? (struct pg_trace){.leaves = PG_LEAVES_RESET, .name = SPAN_LIT("role")}
                       : something;
    }
    struct span special = special_name(s);
    if (special.n) {
        (void)pg_scan_accept(s, "TO"); /* SET ROLE TO DEFAULT */
        (void)pg_scan_char(s, '=');
        return setting_or_default(s, special, pg_scan_accept(s, "LOCAL"));
    }
    struct span name = dotted_name(s);
    if (!name.n || !(pg_scan_char(s, '=') || pg_scan_accept(s, "TO")))
        return something;
    return setting_or_default(s, name, false);
}

static struct pg_trace trace_reset(struct pg_scan *s)
{
    struct pg_trace t = {.leaves = PG_LEAVES_RESET};
    if (pg_scan_accept(s, "ALL"))
        return t;
    if (keyword(s, "SESSION") && pg_scan_accept(s, "AUTHORIZATION"))
        t.name = SPAN_LIT("role");
    else
        t.name = special_name(s);
    if (!t.name.n)
        t.name = reset_name(dotted_name(s));
    pg_scan_blanks(s);
    if (!t.name.n || (s->p < s->end && *s->p != ';'))
        return (struct pg_trace){.leaves = PG_LEAVES_SETTINGS}; /* a quoted name, say */
    return t;
}

/* ... ON COMMIT DROP: gone with its transaction. */
static bool is_dropped_at_commit(struct pg_scan *s)
{
    while (s->p < s->end) {
        if (ascii_lower(*s->p) == 'c' && pg_scan_accept(s, "COMMIT") && pg_scan_accept(s, "DROP"))
            return true;
        s->p++;
    }
    return false;
}

/* A name as it stands there, with its quotes. */
static struct span name_of(struct pg_scan *s)
{
    pg_scan_blanks(s);
    if (s->p == s->end || *s->p != '"')
        return pg_scan_word(s);
    const uint8_t *from = s->p++;
    while (s->p < s->end && *s->p != '"')
        s->p++;
    if (s->p < s->end)
        s->p++;
    return span_of(from, (size_t)(s->p - from));
}

static struct pg_trace trace_declare(struct pg_scan *s)
{
    struct span name = name_of(s);
    bool with = false;
    for (int i = 0; i < DECLARE_WORDS; i++) {
        struct span word = pg_scan_word(s);
        if (!word.n || span_ieq(word, SPAN_LIT("FOR")))
            break;
        if (with && span_ieq(word, SPAN_LIT("HOLD")))
            return (struct pg_trace){.leaves = PG_LEAVES_CURSOR, .name = name};
        with = span_ieq(word, SPAN_LIT("WITH"));
    }
    return (struct pg_trace){.leaves = PG_LEAVES_NOTHING};
}

/* Does `what`, in any letters, stand there with its underscore at p? */
static bool stands_at(const uint8_t *begin, const uint8_t *p, const uint8_t *end, struct span what,
                      size_t at)
{
    return (size_t)(p - begin) >= at && (size_t)(end - p) >= what.n - at &&
           span_ieq(span_of(p - at, what.n), what);
}

/* `what`, which has an underscore, in any letters. */
static const uint8_t *find(const uint8_t *begin, const uint8_t *end, struct span what)
{
    size_t at = (size_t)((const uint8_t *)memchr(what.p, '_', what.n) - what.p);
    for (const uint8_t *p = begin; p < end; p++) {
        p = memchr(p, '_', (size_t)(end - p));
        if (!p)
            return NULL;
        if (stands_at(begin, p, end, what, at))
            return p - at;
    }
    return NULL;
}

/* Behind set_config('name': is that all, and is the last argument true? No parentheses, no quotes
 * that do not end. */
static bool is_local(const uint8_t *p, const uint8_t *end)
{
    static const char last[] = ", true)";
    bool quoted = false;
    for (; p < end; p++) {
        quoted ^= *p == '\'';
        if (quoted)
            continue;
        if (*p == '(' || *p == ')' || *p == '\\')
            return false;
        if (*p == ',' && (size_t)(end - p) >= sizeof last - 1 &&
            memcmp(p, last, sizeof last - 1) == 0)
            return true;
    }
    return false;
}

/* set_config('name', value, is_local): for the session unless the last argument says otherwise. */
static struct pg_trace trace_set_config(const uint8_t *p, const uint8_t *end)
{
    const struct pg_trace some = {.leaves = PG_LEAVES_SETTINGS};
    struct pg_scan s = {p, end};
    if (!pg_scan_char(&s, '(') || !pg_scan_char(&s, '\'') || find(s.p, end, SPAN_LIT("set_config")))
        return some; /* more than one */
    const uint8_t *quote = memchr(s.p, '\'', (size_t)(end - s.p));
    struct pg_scan behind = {quote ? quote + 1 : end, end};
    if (!quote || !pg_scan_char(&behind, ','))
        return some;
    struct span name = span_of(s.p, (size_t)(quote - s.p));
    if (is_local(behind.p, end))
        return (struct pg_trace){.leaves = PG_LEAVES_NOTHING, .parses = is_read_by(name)};
    return setting(name);
}

/* Does INTO TEMP end with this P? */
static bool ends_into_temp(const uint8_t *begin, const uint8_t *p)
{
    if (p - begin < 8 || !span_ieq(span_of(p - 3, 3), SPAN_LIT("tem")))
        return false;
    const uint8_t *q = p - 3;
    while (q > begin && (q[-1] == ' ' || (q[-1] >= '\t' && q[-1] <= '\r')))
        q--;
    return q < p - 3 && q - begin >= 4 && span_ieq(span_of(q - 4, 4), SPAN_LIT("into"));
}

/* SELECT ... INTO TEMP, as it is mostly written. */
static bool into_temporary(const struct pg_scan *s)
{
    static const char letters[] = {'p', 'P'};
    for (size_t i = 0; i < ARRAY_LEN(letters); i++)
        for (const uint8_t *p = s->p; p < s->end; p++) {
            p = memchr(p, letters[i], (size_t)(s->end - p));
            if (!p)
                break;
            if (ends_into_temp(s->p, p))
                return true;
        }
    return false;
}

/* Functions anywhere in it: each has an underscore in its name. */
static struct pg_trace trace_calls(const struct pg_scan *s)
{
    static const uint8_t lock_at = sizeof "advisory" - 1, config_at = sizeof "set" - 1;
    const struct span lock = SPAN_LIT("advisory_lock"), config = SPAN_LIT("set_config");
    const uint8_t *set = NULL;
    for (const uint8_t *p = s->p; p < s->end; p++) {
        p = memchr(p, '_', (size_t)(s->end - p));
        if (!p)
            break;
        if (stands_at(s->p, p, s->end, lock, lock_at))
            return (struct pg_trace){.leaves = PG_LEAVES_LOCK};
        if (!set && stands_at(s->p, p, s->end, config, config_at))
            set = p - config_at;
    }
    if (set)
        return trace_set_config(set + config.n, s->end);
    if (into_temporary(s))
        return (struct pg_trace){.leaves = PG_LEAVES_TEMPORARY};
    return (struct pg_trace){.leaves = PG_LEAVES_NOTHING};
}

static struct pg_trace trace_create(struct pg_scan *s)
{
    if (pg_scan_accept(s, "OR"))
        (void)pg_scan_accept(s, "REPLACE");
    if (!pg_scan_accept(s, "GLOBAL"))
        (void)pg_scan_accept(s, "LOCAL");
    bool temporary = pg_scan_accept(s, "TEMP") || pg_scan_accept(s, "TEMPORARY");
    temporary |= find(s->p, s->end, SPAN_LIT("pg_temp")) != NULL;
    if (!temporary)
        return trace_calls(s);
    temporary = !is_dropped_at_commit(s);
    return (struct pg_trace){.leaves = temporary ? PG_LEAVES_TEMPORARY : PG_LEAVES_NOTHING};
}

/* ---- what ends, if nothing follows ---- */

static struct pg_trace ends(const struct pg_scan *s, unsigned what)
{
    struct pg_scan behind = *s;
    pg_scan_blanks(&behind);
    bool all = behind.p == behind.end || *behind.p == ';';
    return (struct pg_trace){.leaves = PG_LEAVES_NOTHING, .ends = (uint16_t)(all ? what : 0)};
}

static struct pg_trace trace_close(struct pg_scan *s)
{
    if (pg_scan_accept(s, "ALL"))
        return ends(s, PG_LEFT(CURSOR));
    struct span name = name_of(s);
    struct pg_trace t = ends(s, PG_LEFT(CURSOR));
    t.name = name;
    return t;
}

static struct pg_trace trace_deallocate(struct pg_scan *s)
{
    (void)pg_scan_accept(s, "PREPARE");
    bool all = pg_scan_accept(s, "ALL");
    struct pg_trace t = ends(s, all ? PG_LEFT(PREPARED) | PG_LEFT(STATEMENT) : 0);
    t.drops = true;
    return t;
}

static struct pg_trace trace_discard(struct pg_scan *s)
{
    if (pg_scan_accept(s, "TEMP") || pg_scan_accept(s, "TEMPORARY"))
        return ends(s, PG_LEFT(TEMPORARY));
    bool harmless = pg_scan_accept(s, "PLANS") || pg_scan_accept(s, "SEQUENCES");
    struct pg_trace t = ends(s, harmless ? PG_LEFT(NOTHING) : 0); /* DISCARD ALL: by its tag */
    t.drops = !harmless;
    t.resets = pg_scan_accept(s, "ALL");
    return t;
}

static struct pg_trace trace_unlisten(struct pg_scan *s)
{
    bool all = pg_scan_char(s, '*');
    return ends(s, all ? PG_LEFT(LISTEN) : 0);
}

/* SELECT pg_advisory_unlock_all() */
static bool unlocks_all(struct pg_scan *s)
{
    if (pg_scan_accept(s, "pg_catalog") && !pg_scan_char(s, '.'))
        return false;
    return pg_scan_accept(s, "pg_advisory_unlock_all") && pg_scan_char(s, '(') &&
           pg_scan_char(s, ')');
}

/* ---- the statement ---- */

static struct pg_trace trace_s(struct pg_scan *s)
{
    if (pg_scan_accept(s, "SET")) {
        struct pg_trace t = trace_set(s);
        t.set = true;
        return t;
    }
    struct pg_scan ahead = *s;
    if (pg_scan_accept(&ahead, "SELECT") && unlocks_all(&ahead))
        return ends(&ahead, PG_LEFT(LOCK));
    return trace_calls(s);
}

static struct pg_trace trace_d(struct pg_scan *s)
{
    if (pg_scan_accept(s, "DECLARE"))
        return trace_declare(s);
    if (pg_scan_accept(s, "DEALLOCATE"))
        return trace_deallocate(s);
    if (pg_scan_accept(s, "DISCARD"))
        return trace_discard(s);
    return trace_calls(s);
}

static struct pg_trace trace_r(struct pg_scan *s)
{
    if (!pg_scan_accept(s, "RESET"))
        return trace_calls(s);
    struct pg_trace t = trace_reset(s);
    if (t.leaves == PG_LEAVES_RESET)
        t.ends = ends(s, PG_LEFT(NOTHING)).ends;
    t.parses = !t.name.n || is_read_by(t.name);
    return t;
}

static struct pg_trace trace_statement(struct pg_scan s)
{
    switch (ascii_lower(*s.p)) {
    case 's':
        return trace_s(&s);
    case 'r':
        return trace_r(&s);
    case 'd':
        return trace_d(&s);
    case 'c':
        if (pg_scan_accept(&s, "CREATE"))
            return trace_create(&s);
        if (pg_scan_accept(&s, "CLOSE"))
            return trace_close(&s);
        break;
    case 'l':
        if (pg_scan_accept(&s, "LOAD"))
            return (struct pg_trace){.leaves = PG_LEAVES_LIBRARY};
        break;
    case 'u':
        if (pg_scan_accept(&s, "UNLISTEN"))
            return trace_unlisten(&s);
        break;
    default:
        break;
    }
    return trace_calls(&s);
}

struct pg_trace pg_text_trace(struct span text)
{
    struct pg_scan s = pg_scan_of(text);
    bool whole = s.end < text.p + text.n; /* there is its NUL */
    if (s.p == s.end)
        return (struct pg_trace){.leaves = PG_LEAVES_NOTHING, .empty = whole};
    struct pg_trace t = trace_statement(s);
    if (!whole)
        t.ends = 0;
    t.resets |= t.leaves == PG_LEAVES_RESET;
    return t;
}
