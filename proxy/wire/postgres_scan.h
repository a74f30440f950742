/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Blanks, comments and words of SQL as the server's own scanner sees them: what postgres_text.c and
 * postgres_trace.c read the first words of a query with. Pure.
 */
#include "proxy/core/span.h"

struct pg_scan {
    const uint8_t *p, *end;
};

/* A text that ends at a NUL if there is one; empty statements in front are skipped. */
struct pg_scan pg_scan_of(struct span text);
bool pg_scan_looking_at(const struct pg_scan *s, char a, char b);
void pg_scan_semicolons(struct pg_scan *s);
/* May this byte stand in a word, behind its first one? */
bool pg_scan_is_word(uint8_t c);
/* The next word; empty if something else comes (nothing is consumed then). */
struct span pg_scan_word(struct pg_scan *s);

/* The rest of pg_scan_blanks(). */
void pg_scan_blanks_or_minus(struct pg_scan *s);
/* Blanks and comments; inline because mostly there are none, and none begins above a slash. */
static inline void pg_scan_blanks(struct pg_scan *s)
{
    if (s->p < s->end && *s->p <= '/')
        pg_scan_blanks_or_minus(s);
}

/* The rest of pg_scan_accept(): `ahead` stands at a word that begins like `word`. */
bool pg_scan_accept_at(struct pg_scan *s, struct pg_scan ahead, const char *word);
/* Takes `word` (letters in upper case) if it comes next. */
static inline bool pg_scan_accept(struct pg_scan *s, const char *word)
{
    struct pg_scan ahead = *s;
    pg_scan_blanks(&ahead);
    return ahead.p < ahead.end && (*ahead.p | 0x20) == (word[0] | 0x20) &&
           pg_scan_accept_at(s, ahead, word);
}

/* Takes the character if it comes next. */
bool pg_scan_char(struct pg_scan *s, char c);
/* Takes a name: quoted, or folded as the server folds plain letters. Its length; 0: none, or longer
 * than cap. */
size_t pg_scan_name(struct pg_scan *s, uint8_t *name, size_t cap);
