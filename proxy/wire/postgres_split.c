/* SPDX-License-Identifier: MIT */
/*
 * Where the next statement of a query begins: behind a semicolon that stands in no quotes, dollars
 * or comments.
 */
#include "proxy/wire/postgres_scan.h"
#include "proxy/wire/postgres_text.h"

/* Behind a quote: to behind its end. `escapes`: a backslash hides what follows it. */
static void skip_quoted(struct pg_scan *s, uint8_t quote, bool escapes)
{
    for (; s->p < s->end; s->p++) {
        if (escapes && *s->p == '\\' && s->p + 1 < s->end) {
            s->p++;
        } else if (*s->p == quote) {
            bool doubled = s->p + 1 < s->end && s->p[1] == quote;
            s->p++;
            if (!doubled)
                return;
        }
    }
}

/* Does the byte in front of `at` belong to a word? (Not to a number, nor to $1.) */
static bool in_word(const uint8_t *begin, const uint8_t *at)
{
    const uint8_t *p = at;
    while (p > begin && pg_scan_is_word(p[-1]))
        p--;
    return p < at && *p != '$' && !(*p >= '0' && *p <= '9');
}

/* The quote at `at` is that of E'...'. */
static bool has_escapes(const uint8_t *begin, const uint8_t *at)
{
    return at > begin && ascii_lower(at[-1]) == 'e' && !in_word(begin, at - 1);
}

/* Behind the first $ of $tag$ ... $tag$; the tag is a word without a $, and $1 is none. */
static void skip_dollars(struct pg_scan *s)
{
    const uint8_t *tag = s->p - 1;
    if (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        return;
    while (s->p < s->end && *s->p != '$' && pg_scan_is_word(*s->p))
        s->p++;
    if (s->p == s->end || *s->p != '$')
        return;
    size_t n = (size_t)(++s->p - tag);
    const uint8_t *end = memmem(s->p, (size_t)(s->end - s->p), tag, n);
    s->p = end ? end + n : s->end;
}

bool pg_text_next(struct span *text)
{
    const uint8_t *semicolon = text->n ? memchr(text->p, ';', text->n) : NULL;
    if (!semicolon)
        return false;
    const uint8_t *nul = memchr(text->p, 0, text->n);
    struct pg_scan s = {text->p, nul ? nul : text->p + text->n};
    if (semicolon > s.end)
        return false;
    struct pg_scan behind = {semicolon, s.end};
    pg_scan_semicolons(&behind); /* as mostly: one at the end, whatever it belongs to */
    if (behind.p == s.end)
        return false;
    while (s.p < s.end) {
        pg_scan_blanks(&s);
        if (s.p == s.end)
            return false;
        const uint8_t *at = s.p++;
        if (*at == ';') {
            pg_scan_semicolons(&s);
            *text = span_of(s.p, (size_t)(text->p + text->n - s.p)); /* with its NUL */
            return s.p < s.end;
        }
        if (*at == '\'' || *at == '"')
            skip_quoted(&s, *at, *at == '\'' && has_escapes(text->p, at));
        else if (*at == '$' && !in_word(text->p, at))
            skip_dollars(&s);
    }
    return false;
}
