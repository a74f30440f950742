/* SPDX-License-Identifier: MIT */
/*
 * Named statements that do not follow the client (session mode, or `size.statements: 0`) are the
 * server's own, and nothing is kept of them but which ones reset settings: that goes back to what
 * the client came with, of which the server knows nothing.
 */
#include "proxy/front/postgres_follow.h"
#include "proxy/wire/postgres_text.h"

static struct pg_resetter *find(struct pg_follow *f, struct span name)
{
    for (unsigned i = 0; f && i < f->n_resetters; i++)
        if (span_eq(pg_name_span(&f->resetters[i].statement), name))
            return &f->resetters[i];
    return NULL;
}

/* What follows moves up. */
static void drop(struct pg_follow *f, struct pg_resetter *it)
{
    struct pg_resetter *end = f->resetters + f->n_resetters--;
    memmove(it, it + 1, (size_t)(end - it - 1) * sizeof *it);
}

void pg_follow_parse_named(struct pg_session *s, struct span name, struct span text)
{
    struct pg_trace t = pg_text_trace(text);
    struct pg_resetter *old = find(s->follow, name), it;
    if (old)
        drop(s->follow, old);
    if (t.leaves != PG_LEAVES_RESET || !pg_have_follow(s) || !pg_name_set(&it.statement, name) ||
        !pg_name_set(&it.what, t.name))
        return;
    struct pg_follow *f = s->follow;
    it.what.set = t.set;
    if (f->n_resetters == PG_RESETS_MAX)
        drop(f, f->resetters);
    f->resetters[f->n_resetters++] = it;
}

void pg_follow_bind_named(struct pg_session *s, struct span name)
{
    const struct pg_resetter *it = find(s->follow, name);
    struct pg_trace t = {.leaves = PG_LEAVES_NOTHING};
    if (it) {
        t.leaves = PG_LEAVES_RESET;
        t.resets = true;
        t.set = it->what.set;
        t.name = pg_name_span(&it->what);
    }
    pg_follow_bind(s, &t);
}
