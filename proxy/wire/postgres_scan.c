/* SPDX-License-Identifier: MIT */
#include "proxy/wire/postgres_scan.h"

static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word_start(uint8_t c)
{
    uint8_t l = ascii_lower(c);
    return (l >= 'a' && l <= 'z') || c == '_' || c >= 0x80;
}

bool pg_scan_is_word(uint8_t c)
{
    return is_word_start(c) || (c >= '0' && c <= '9') || c == '$';
}

bool pg_scan_looking_at(const struct pg_scan *s, char a, char b)
{
    return s->end - s->p >= 2 && s->p[0] == (uint8_t)a && s->p[1] == (uint8_t)b;
}

/* Comments nest. One that never ends takes everything. */
static void skip_comment(struct pg_scan *s)
{
    size_t depth = 0;
    do {
        if (pg_scan_looking_at(s, '/', '*')) {
            depth++;
            s->p += 2;
        } else if (pg_scan_looking_at(s, '*', '/')) {
            depth--;
            s->p += 2;
        } else {
            s->p++;
        }
    } while (depth > 0 && s->p < s->end);
}

static void skip_line(struct pg_scan *s)
{
    while (s->p < s->end && *s->p != '\n' && *s->p != '\r')
        s->p++;
}

void pg_scan_blanks_or_minus(struct pg_scan *s)
{
    while (s->p < s->end) {
        if (is_blank(*s->p))
            s->p++;
        else if (pg_scan_looking_at(s, '-', '-'))
            skip_line(s);
        else if (pg_scan_looking_at(s, '/', '*'))
            skip_comment(s);
        else
            return;
    }
}

void pg_scan_semicolons(struct pg_scan *s)
{
    pg_scan_blanks(s);
    while (s->p < s->end && *s->p == ';') {
        s->p++;
        pg_scan_blanks(s);
    }
}

struct span pg_scan_word(struct pg_scan *s)
{
    pg_scan_blanks(s);
    const uint8_t *from = s->p;
    if (s->p < s->end && is_word_start(*s->p))
        while (s->p < s->end && pg_scan_is_word(*s->p))
            s->p++;
    return span_of(from, (size_t)(s->p - from));
}

bool pg_scan_accept_at(struct pg_scan *s, struct pg_scan ahead, const char *word)
{
    const uint8_t *p = ahead.p;
    for (; *word; word++, p++) /* letters in either case differ in one bit */
        if (p == ahead.end || (*p != (uint8_t)*word && *p != ((uint8_t)*word ^ 0x20)))
            return false;
    if (p < ahead.end && pg_scan_is_word(*p))
        return false;
    s->p = p;
    return true;
}

struct pg_scan pg_scan_of(struct span text)
{
    const uint8_t *nul = text.n ? memchr(text.p, 0, text.n) : NULL;
    struct pg_scan s = {text.p, nul ? nul : text.n ? text.p + text.n : text.p};
    pg_scan_semicolons(&s); /* empty statements in front */
    return s;
}

bool pg_scan_char(struct pg_scan *s, char c)
{
    pg_scan_blanks(s);
    if (s->p == s->end || *s->p != (uint8_t)c)
        return false;
    s->p++;
    return true;
}

size_t pg_scan_name(struct pg_scan *s, uint8_t *name, size_t cap)
{
    size_t n = 0;
    pg_scan_blanks(s);
    if (s->p == s->end || *s->p != '"') {
        struct span w = pg_scan_word(s);
        if (w.n > cap)
            return 0;
        for (; n < w.n; n++)
            name[n] = ascii_lower(w.p[n]);
        return n;
    }
    for (s->p++; s->p < s->end; s->p++) {
        if (*s->p == '"' && !pg_scan_looking_at(s, '"', '"')) {
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
