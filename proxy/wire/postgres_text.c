/* SPDX-License-Identifier: MIT */
/*
 * The first words of a query. The blanks, comments and words are those of the server's own scanner;
 * the grammar is only that of transaction control:
 *
 *     COMMIT | END | ROLLBACK | ABORT   [ WORK | TRANSACTION ]   [ AND [ NO ] CHAIN ]
 *
 * Anything else behind one of these words is another statement (ROLLBACK TO, COMMIT PREPARED), a
 * second statement, or an error that the server should report.
 */
#include "proxy/wire/postgres_text.h"

#include "proxy/wire/postgres_scan.h"

/* Behind COMMIT or ROLLBACK. */
static struct pg_text look_end(struct pg_scan *s, enum pg_verb verb)
{
    struct pg_text t = {verb, false, false};
    if (!pg_scan_accept(s, "WORK"))
        (void)pg_scan_accept(s, "TRANSACTION");
    if (pg_scan_accept(s, "AND")) {
        bool no = pg_scan_accept(s, "NO");
        if (!pg_scan_accept(s, "CHAIN"))
            return (struct pg_text){PG_VERB_OTHER, false, false};
        t.chain = !no;
    }
    pg_scan_blanks(s);
    if (s->p < s->end && *s->p != ';')
        return (struct pg_text){PG_VERB_OTHER, false, false};
    pg_scan_semicolons(s);
    t.single = s->p == s->end;
    return t;
}

/* As mostly: the text begins with a letter that begins none of those verbs, or with SE. */
static bool is_other(struct span text)
{
    uint8_t first = text.n >= 2 ? ascii_lower(text.p[0]) : 0;
    switch (first) {
    case 'a':
    case 'b':
    case 'c':
    case 'e':
    case 'p':
    case 'r':
        return false;
    case 's':
        return ascii_lower(text.p[1]) == 'e';
    default:
        return first >= 'a' && first <= 'z';
    }
}

struct pg_text pg_text_look(struct span text)
{
    struct pg_text other = {PG_VERB_OTHER, false, false};
    if (is_other(text))
        return other;
    struct pg_scan s = pg_scan_of(text);
    if (s.p == s.end)
        return (struct pg_text){PG_VERB_EMPTY, true, false};
    switch (ascii_lower(*s.p)) {
    case 'c':
        return pg_scan_accept(&s, "COMMIT") ? look_end(&s, PG_VERB_COMMIT) : other;
    case 'e':
        return pg_scan_accept(&s, "END") ? look_end(&s, PG_VERB_COMMIT) : other;
    case 'r':
        return pg_scan_accept(&s, "ROLLBACK") ? look_end(&s, PG_VERB_ROLLBACK) : other;
    case 'a':
        return pg_scan_accept(&s, "ABORT") ? look_end(&s, PG_VERB_ROLLBACK) : other;
    case 'b':
        if (pg_scan_accept(&s, "BEGIN"))
            other.verb = PG_VERB_BEGIN;
        return other;
    case 's':
        if (pg_scan_accept(&s, "START") && pg_scan_accept(&s, "TRANSACTION"))
            other.verb = PG_VERB_BEGIN;
        return other;
    case 'p':
        if (pg_scan_accept(&s, "PREPARE") && pg_scan_accept(&s, "TRANSACTION"))
            other.verb = PG_VERB_PREPARE;
        return other;
    default:
        return other;
    }
}

enum { NAME_MAX_BYTES = 63 }; /* NAMEDATALEN: of longer ones the server reads only these */

/* Does the statement end here? */
static bool ends_here(struct pg_scan *s)
{
    pg_scan_blanks(s);
    return s->p == s->end || *s->p == ';';
}

enum pg_drops pg_text_drops(struct span text, struct span *name)
{
    uint8_t folded[NAME_MAX_BYTES];
    struct pg_scan s = pg_scan_of(text);
    bool discard = pg_scan_accept(&s, "DISCARD");
    if (!discard && !pg_scan_accept(&s, "DEALLOCATE"))
        return PG_DROPS_NONE;
    if (!discard)
        (void)pg_scan_accept(&s, "PREPARE");
    if (pg_scan_accept(&s, "ALL"))
        return ends_here(&s) ? PG_DROPS_ALL : PG_DROPS_NONE;
    pg_scan_blanks(&s);
    const uint8_t *from = s.p;
    if (discard || !pg_scan_name(&s, folded, sizeof folded))
        return PG_DROPS_NONE;
    *name = span_of(from, (size_t)(s.p - from));
    return ends_here(&s) ? PG_DROPS_ONE : PG_DROPS_NONE;
}

size_t pg_text_name(struct span name, uint8_t *to, size_t cap)
{
    struct pg_scan s = {name.p, name.p + name.n};
    return pg_scan_name(&s, to, cap);
}

static bool begins_with_time(struct span text)
{
    static const char *const words[] = {"now", "today", "tomorrow", "yesterday"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        struct span word = span_str(words[i]);
        if (text.n > word.n && span_ieq(span_of(text.p, word.n), word) &&
            (ascii_lower(text.p[word.n]) < 'a' || ascii_lower(text.p[word.n]) > 'z'))
            return true;
    }
    return false;
}

bool pg_text_dated(struct span text)
{
    const uint8_t *quote;
    while (text.n && (quote = memchr(text.p, '\'', text.n)) != NULL) {
        text = span_skip(text, (size_t)(quote - text.p) + 1);
        while (text.n && text.p[0] == ' ')
            text = span_skip(text, 1);
        if (begins_with_time(text))
            return true;
    }
    return false;
}
