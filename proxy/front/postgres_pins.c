/* SPDX-License-Identifier: MIT */
/*
 * What keeps a session on its server, and when that ends. Every reason is one of a set, and the
 * server is let go of when the last one is over. A reason ends by the statement that ends all of
 * its kind (UNLISTEN *, CLOSE ALL, DEALLOCATE ALL, DISCARD TEMP, pg_advisory_unlock_all()), by
 * CLOSE of the last cursor (or Close of its portal), or by DISCARD ALL. When in doubt it stays: an
 * end counts
 *
 *   - if all that was sent since nothing was due is of statements that are known to end something
 *     and to do nothing else, and each has got its tag;
 *   - and if the transaction it was done in is committed, with no error or ROLLBACK since, nor
 *     anything that is a reason again.
 */
#include "proxy/front/postgres_follow.h"

#include "proxy/wire/postgres_read.h"

const char *pg_pin_word(enum pg_leaves what)
{
    switch (what) {
    case PG_LEAVES_NOTHING:
    case PG_LEAVES_RESET:
    case PG_LEAVES_SETTINGS:
    case PG_LEAVES_CHARACTERISTICS:
    case PG_LEAVES_SETTING:
        break;
    case PG_LEAVES_TEMPORARY:
        return "a temporary table";
    case PG_LEAVES_CURSOR:
        return "a cursor WITH HOLD";
    case PG_LEAVES_LOCK:
        return "an advisory lock of the session";
    case PG_LEAVES_LIBRARY:
        return "a loaded library";
    case PG_LEAVES_PREPARED:
        return "a statement prepared in SQL";
    case PG_LEAVES_LISTEN:
        return "LISTEN";
    case PG_LEAVES_STATEMENT:
        return "a prepared statement that is not shared";
    }
    return "a setting that cannot be followed";
}

const char *pg_pinned_by(const struct pg_session *s)
{
    for (unsigned what = 0; what < 16; what++)
        if (s->pins & 1u << what)
            return pg_pin_word((enum pg_leaves)what);
    return pg_unnamed_stays(s) ? pg_pin_word(PG_LEAVES_STATEMENT) : NULL;
}

void pg_pin(struct pg_session *s, enum pg_leaves why)
{
    struct pg_follow *f = s->follow;
    s->pins |= (uint16_t)(1u << why);
    if (!f)
        return;
    f->ends &= ~(1u << why);
    f->ending &= ~(1u << why);
}

void pg_pins_none(struct pg_session *s)
{
    struct pg_follow *f = s->follow;
    s->pins = 0;
    if (!f)
        return;
    f->ending = f->ends = 0;
    f->n_cursors = 0;
    f->more_cursors = false;
}

/* ---- cursors: as the server reads their names ---- */

static bool read_name(struct pg_name *to, struct span name)
{
    to->n = (uint8_t)pg_text_name(name, to->text, sizeof to->text);
    return to->n > 0;
}

static bool same_name(const struct pg_name *a, const struct pg_name *b)
{
    return span_eq(span_of(a->text, a->n), span_of(b->text, b->n));
}

void pg_pins_declare(struct pg_session *s, struct span name)
{
    struct pg_follow *f = s->follow;
    struct pg_name it;
    bool known = read_name(&it, name);
    for (unsigned i = 0; known && i < f->n_cursors; i++)
        if (same_name(&f->cursors[i], &it))
            return;
    if (!known || f->n_cursors == PG_CURSORS_MAX)
        f->more_cursors = true;
    else
        f->cursors[f->n_cursors++] = it;
}

/* CLOSE is not undone by a rollback. */
static void close_cursor(struct pg_follow *f)
{
    for (unsigned i = 0; i < f->n_cursors; i++) {
        if (!same_name(&f->cursors[i], &f->closing))
            continue;
        f->cursors[i] = f->cursors[--f->n_cursors];
        break;
    }
    if (f->n_cursors > 0 || f->more_cursors)
        f->ends &= ~PG_LEFT(CURSOR);
}

/* ---- ends ---- */

void pg_pins_sent(struct pg_session *s, const struct pg_trace *t)
{
    struct pg_follow *f = pg_have_follow(s);
    if (!f || (t && t->empty))
        return;
    bool named = t && (t->ends & PG_LEFT(CURSOR)) && t->name.n;
    f->n_sent++;
    if (!t || !t->ends || f->closing.n || (named && !read_name(&f->closing, t->name)))
        f->other = true;
    else
        f->ends |= t->ends;
}

/* Unless something fails before it, it is done: without a tag, and also if nothing is there. */
void pg_pins_close(struct pg_session *s, struct span body)
{
    struct pg_follow *f = s->follow;
    struct pg_name it = {0};
    struct span name;
    uint8_t kind;
    if (!f || !pg_read_target(body, &kind, &name) || kind != 'P' || name.n > sizeof it.text)
        return;
    it.n = (uint8_t)name.n;
    if (name.n)
        memcpy(it.text, name.p, name.n);
    for (unsigned i = 0; i < f->n_cursors; i++) {
        if (!same_name(&f->cursors[i], &it))
            continue;
        f->other |= f->closing.n > 0;
        f->closing = it;
        f->ends |= PG_LEFT(CURSOR);
        f->n_sent++;
        f->n_done++;
        return;
    }
}

void pg_pins_failed(struct pg_follow *f)
{
    f->ending = 0;
    f->other = true; /* of this exchange */
}

void pg_pins_ready(struct pg_session *s, bool idle)
{
    struct pg_follow *f = s->follow;
    bool done = !f->other && f->n_sent > 0 && f->n_done == f->n_sent;
    if (done && f->closing.n)
        close_cursor(f);
    if (done)
        f->ending |= f->ends;
    f->ends = f->n_sent = f->n_done = 0;
    f->other = false;
    f->closing.n = 0;
    if (!idle)
        return;
    if (f->ending & PG_LEFT(CURSOR)) {
        f->n_cursors = 0;
        f->more_cursors = false;
    }
    s->pins &= (uint16_t)~f->ending;
    f->ending = 0;
}
