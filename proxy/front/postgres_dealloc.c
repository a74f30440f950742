/* SPDX-License-Identifier: MIT */
/*
 * DEALLOCATE and DISCARD ALL in SQL, where statements are shared: of a name that the client has
 * prepared by protocol the server may know nothing, and others need what stands behind it. It is
 * given an empty statement, and deallocates that:
 *
 *     client                                carpool's words to the server
 *     Query "select 1; deallocate get"      Parse "cp_7" "", Query "select 1; deallocate cp_7"
 *     Bind of "deallocate get"              Parse "cp_8" "", Parse "cp_9" "DEALLOCATE cp_8",
 *                                           Bind of "cp_9"
 *
 * The name means nothing behind it, and counts as gone when its tag has come. What ends all of them
 * is sent as it is: neither names nor the server's statements mean anything behind that.
 */
#include "proxy/front/postgres_rename.h"
#include "proxy/wire/postgres_text.h"

/* In one Query; there is room for so many answers (pg_rename_room). */
enum { DROPS_MAX = 6, NAME_MAX_BYTES = 64 };

/* A name in a Query, and the number of what is deallocated instead. */
struct drop {
    struct span at;
    uint32_t number;
};

/* A statement of ours that nobody finds. Its number; 0: no memory. */
static uint32_t give(struct pg_session *s, struct pg_outbox *o, struct span text)
{
    static const uint8_t no_types[3]; /* with the text's NUL */
    struct pg_server *ps = s->server;
    struct pg_statement_key nobodys = {.edition = UINT32_MAX};
    struct pg_prepared *p = pg_prepared_add(&ps->prepared, &nobodys, 0, ps->flow.ends_sent);
    if (!p)
        return 0;
    pg_prepared_stale(ps->prepared, p->number);
    if (!pg_rename_pending_add(s, PG_TOKEN_PARSE_OWN, p->number, span_of(NULL, 0), NULL))
        return 0;
    char name[PG_PREPARED_NAME];
    size_t name_n = pg_prepared_name(p->number, name) + 1, n = name_n + text.n + sizeof no_types;
    uint8_t *b = pg_rename_put_head(o, 'P', n, n);
    memcpy(b, name, name_n);
    if (text.n)
        memcpy(b + name_n, text.p, text.n);
    memcpy(b + name_n + text.n, no_types, sizeof no_types);
    pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_OWN);
    return p->number;
}

/* The name means nothing from here on. */
static bool note_one(struct pg_session *s, struct span name)
{
    struct pg_client_statements *c = s->statements;
    return pg_rename_enlist(s, &c->deallocs, PG_TOKEN_NONE, 0, name, NULL) != NULL;
}

static bool note_all(struct pg_session *s)
{
    struct pg_client_statements *c = pg_rename_statements(s);
    uint32_t last = pg_prepared_last(s->server->prepared);
    struct pg_pending *d =
        c ? pg_rename_enlist(s, &c->deallocs, PG_TOKEN_NONE, last, span_of(NULL, 0), NULL) : NULL;
    if (d)
        d->all = true;
    return d != NULL;
}

/* What the name at `at`, as it stands in a text, means to the client; in `buf` as it is read. */
static bool look_up(const struct pg_session *s, struct span at, uint8_t *buf, struct span *name,
                    struct pg_statement **st)
{
    *name = span_of(buf, pg_text_name(at, buf, NAME_MAX_BYTES));
    return pg_rename_meaning(s, *name, st);
}

/* ---- Query ---- */

/* Must none of its names wait? Before anything of it is sent. */
static bool all_known(const struct pg_session *s, struct span text)
{
    do {
        uint8_t buf[NAME_MAX_BYTES];
        struct span at, name;
        struct pg_statement *st;
        if (pg_text_drops(text, &at) == PG_DROPS_ONE && !look_up(s, at, buf, &name, &st))
            return false;
    } while (pg_text_next(&text));
    return true;
}

/* The names to be replaced; *n of them. False: no memory. */
static bool find_drops(struct pg_session *s, struct span text, struct pg_outbox *o,
                       struct drop *drops, size_t *n)
{
    *n = 0;
    do {
        uint8_t buf[NAME_MAX_BYTES];
        struct span at, name;
        struct pg_statement *st;
        enum pg_drops what = pg_text_drops(text, &at);
        if (what == PG_DROPS_ALL && !note_all(s))
            return false;
        if (what != PG_DROPS_ONE || *n == DROPS_MAX || !look_up(s, at, buf, &name, &st) || !st)
            continue;
        drops[*n] = (struct drop){at, give(s, o, span_of(NULL, 0))};
        if (!drops[(*n)++].number || !note_one(s, name))
            return false;
    } while (pg_text_next(&text));
    return true;
}

enum pg_named pg_dealloc_query(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o)
{
    struct drop drops[DROPS_MAX];
    char names[DROPS_MAX][PG_PREPARED_NAME];
    size_t n, len = m->len;
    if (!m->whole)
        return PG_NAMED_PASS;
    if (!all_known(s, m->body))
        return PG_NAMED_FULL;
    if (!find_drops(s, m->body, o, drops, &n))
        return PG_NAMED_NO_MEMORY;
    if (n == 0)
        return PG_NAMED_PASS;
    for (size_t i = 0; i < n; i++)
        len += pg_prepared_name(drops[i].number, names[i]) - drops[i].at.n;
    (void)pg_rename_put_head(o, m->type, len, 0);
    struct span rest = m->body;
    for (size_t i = 0; i < n; i++) {
        size_t head = (size_t)(drops[i].at.p - rest.p);
        pg_outbox_add(o, span_of(rest.p, head));
        pg_outbox_add(o, span_str(names[i]));
        rest = span_skip(rest, head + drops[i].at.n);
    }
    pg_outbox_add(o, rest);
    pg_outbox_flush(o); /* `names` ends here */
    return pg_rename_sent(s, m);
}

/* ---- Bind ---- */

enum pg_named pg_dealloc_bind(struct pg_session *s, const struct pg_msg *m, struct span name,
                              struct span text, struct pg_outbox *o)
{
    static const char verb[] = "DEALLOCATE ";
    char words[sizeof verb + PG_PREPARED_NAME];
    uint8_t buf[NAME_MAX_BYTES];
    struct span at, gone;
    struct pg_statement *st;
    enum pg_drops what = text.n ? pg_text_drops(text, &at) : PG_DROPS_NONE;
    if (what == PG_DROPS_ALL)
        return note_all(s) ? PG_NAMED_PASS : PG_NAMED_NO_MEMORY;
    if (what == PG_DROPS_NONE)
        return PG_NAMED_PASS;
    if (!look_up(s, at, buf, &gone, &st))
        return PG_NAMED_FULL;
    if (!st)
        return PG_NAMED_PASS;
    uint32_t empty = give(s, o, span_of(NULL, 0));
    memcpy(words, verb, sizeof verb);
    (void)pg_prepared_name(empty, words + sizeof verb - 1);
    uint32_t to = empty ? give(s, o, span_str(words)) : 0;
    if (!to || !note_one(s, gone))
        return PG_NAMED_NO_MEMORY;
    pg_rename_put_renamed(o, m, name, words, pg_prepared_name(to, words));
    return pg_rename_sent(s, m);
}

/* ---- what became of it ---- */

static struct pg_pending *first_of(struct pg_session *s, bool all)
{
    struct pg_client_statements *c = s->statements;
    if (c)
        LIST_EACH(node, &c->deallocs) {
            struct pg_pending *d = OWNER(node, struct pg_pending, node);
            if (d->all == all)
                return d;
        }
    return NULL;
}

bool pg_dealloc_done(struct pg_session *s)
{
    struct pg_pending *d = first_of(s, false);
    if (!d)
        return false;
    pg_names_remove(s->statements->names, span_of(d->name, d->n));
    pg_rename_pending_free(s, d);
    return true;
}

void pg_dealloc_all_done(struct pg_session *s)
{
    struct pg_pending *d = first_of(s, true);
    pg_prepared_forget(s->server->prepared, d ? d->number : UINT32_MAX);
    if (s->statements)
        pg_names_free(&s->statements->names);
    if (d)
        pg_rename_pending_free(s, d);
}

void pg_dealloc_ready(struct pg_session *s)
{
    struct pg_pending *d;
    while ((d = pg_rename_pending_first(&s->statements->deallocs)) != NULL &&
           (int32_t)(s->server->flow.ends_seen - d->batch) > 0)
        pg_rename_pending_free(s, d);
}

uint32_t pg_dealloc_after(const struct pg_session *s)
{
    const struct pg_client_statements *c = s->statements;
    uint32_t after = 0;
    if (c)
        LIST_EACH(node, &c->deallocs) {
            const struct pg_pending *d = OWNER(node, const struct pg_pending, node);
            if (d->all)
                after = d->number;
        }
    return after;
}
