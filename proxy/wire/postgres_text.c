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

enum { WORD_MAX = 16 }; /* longer words are not ours */

struct scan {
    const uint8_t *p, *end;
};

static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word_start(uint8_t c)
{
    uint8_t l = ascii_lower(c);
    return (l >= 'a' && l <= 'z') || c == '_' || c >= 0x80;
}

static bool is_word(uint8_t c)
{
    return is_word_start(c) || (c >= '0' && c <= '9') || c == '$';
}

static bool looking_at(const struct scan *s, char a, char b)
{
    return s->end - s->p >= 2 && s->p[0] == (uint8_t)a && s->p[1] == (uint8_t)b;
}

/* Comments nest. One that never ends takes everything. */
static void skip_comment(struct scan *s)
{
    size_t depth = 0;
    do {
        if (looking_at(s, '/', '*')) {
            depth++;
            s->p += 2;
        } else if (looking_at(s, '*', '/')) {
            depth--;
            s->p += 2;
        } else {
            s->p++;
        }
    } while (depth > 0 && s->p < s->end);
}

static void skip_line(struct scan *s)
{
    while (s->p < s->end && *s->p != '\n' && *s->p != '\r')
        s->p++;
}

static void skip_blanks(struct scan *s)
{
    while (s->p < s->end) {
        if (is_blank(*s->p))
            s->p++;
        else if (looking_at(s, '-', '-'))
            skip_line(s);
        else if (looking_at(s, '/', '*'))
            skip_comment(s);
        else
            return;
    }
}

static void skip_semicolons(struct scan *s)
{
    skip_blanks(s);
    while (s->p < s->end && *s->p == ';') {
        s->p++;
        skip_blanks(s);
    }
}

/* The next word; empty if something else comes (nothing is consumed then). */
static struct span next_word(struct scan *s)
{
    skip_blanks(s);
    const uint8_t *from = s->p;
    if (s->p < s->end && is_word_start(*s->p))
        while (s->p < s->end && is_word(*s->p))
            s->p++;
    return span_of(from, (size_t)(s->p - from));
}

/* Takes `word` if it comes next. */
static bool accept(struct scan *s, const char *word)
{
    struct scan ahead = *s;
    struct span w = next_word(&ahead);
    if (w.n > WORD_MAX || !span_ieq(w, span_str(word)))
        return false;
    *s = ahead;
    return true;
}

static struct scan scan_of(struct span text)
{
    const uint8_t *nul = text.n ? memchr(text.p, 0, text.n) : NULL;
    struct scan s = {text.p, nul ? nul : text.n ? text.p + text.n : text.p};
    skip_semicolons(&s); /* empty statements in front */
    return s;
}

/* Behind COMMIT or ROLLBACK. */
static struct pg_text look_end(struct scan *s, enum pg_verb verb)
{
    struct pg_text t = {verb, false, false};
    if (!accept(s, "WORK"))
        (void)accept(s, "TRANSACTION");
    if (accept(s, "AND")) {
        bool no = accept(s, "NO");
        if (!accept(s, "CHAIN"))
            return (struct pg_text){PG_VERB_OTHER, false, false};
        t.chain = !no;
    }
    skip_blanks(s);
    if (s->p < s->end && *s->p != ';')
        return (struct pg_text){PG_VERB_OTHER, false, false};
    skip_semicolons(s);
    t.single = s->p == s->end;
    return t;
}

struct pg_text pg_text_look(struct span text)
{
    struct scan s = scan_of(text);
    if (s.p == s.end)
        return (struct pg_text){PG_VERB_EMPTY, true, false};
    if (accept(&s, "COMMIT") || accept(&s, "END"))
        return look_end(&s, PG_VERB_COMMIT);
    if (accept(&s, "ROLLBACK") || accept(&s, "ABORT"))
        return look_end(&s, PG_VERB_ROLLBACK);
    if (accept(&s, "BEGIN") || (accept(&s, "START") && accept(&s, "TRANSACTION")))
        return (struct pg_text){PG_VERB_BEGIN, false, false};
    if (accept(&s, "PREPARE") && accept(&s, "TRANSACTION"))
        return (struct pg_text){PG_VERB_PREPARE, false, false};
    return (struct pg_text){PG_VERB_OTHER, false, false};
}

bool pg_text_is(struct span text, const char *word)
{
    struct scan s = scan_of(text);
    return accept(&s, word);
}

/* A name behind a keyword: quoted, or folded as the server folds plain letters. */
static size_t take_name(struct scan *s, uint8_t *name, size_t cap)
{
    size_t n = 0;
    skip_blanks(s);
    if (s->p == s->end || *s->p != '"') {
        struct span w = next_word(s);
        if (w.n > cap)
            return 0;
        for (; n < w.n; n++)
            name[n] = ascii_lower(w.p[n]);
        return n;
    }
    for (s->p++; s->p < s->end; s->p++) {
        if (*s->p == '"' && !looking_at(s, '"', '"')) {
            s->p++;
            return n;
        }
        s->p += *s->p == '"';
        if (n == cap)
            return 0;
        name[n++] = *s->p;
    }
    return 0;
}

size_t pg_text_deallocate(struct span text, uint8_t *name, size_t cap)
{
    struct scan s = scan_of(text);
    if (!accept(&s, "DEALLOCATE"))
        return 0;
    (void)accept(&s, "PREPARE");
    if (accept(&s, "ALL"))
        return 0;
    size_t n = take_name(&s, name, cap);
    skip_semicolons(&s);
    return s.p == s.end ? n : 0;
}
