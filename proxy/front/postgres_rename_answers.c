/* SPDX-License-Identifier: MIT */
/*
 * What servers answer to renamed messages: names begin and end to count, answers to our own
 * messages are kept from the client, and errors speak of the client's names.
 */
#include <stdlib.h>

#include "proxy/front/postgres_rename.h"
#include "proxy/wire/postgres_read.h"

/* ---- the server's answers ---- */

static void settle(struct pg_session *s, bool well, bool failed)
{
    struct pg_client_statements *c = s->statements;
    struct pg_pending *p = pg_rename_pending_first(&c->pending);
    CHECK(p);
    struct span name = span_of(p->name, p->n);
    if (p->token == PG_TOKEN_NAMED && name.n == 0) {
        pg_unnamed_settle(s, p, well, failed);
        pg_rename_pending_free(s, p);
        return;
    }
    if (p->again && well) /* somebody had taken it away; now it is not what others think it is */
        pg_prepared_stale(s->server->prepared, p->number);
    else if (p->number && !p->again)
        pg_prepared_settle(s->server->prepared, p->number, well);
    if (well && p->st)
        (void)pg_names_put(&c->names, name, p->st); /* without memory its next use is an error */
    if (well && p->token == PG_TOKEN_CLOSE_LOCAL)
        pg_names_remove(c->names, name);
    bool ours = p->token == PG_TOKEN_PARSE_OWN && !p->number;
    if (ours && !well && (int32_t)(p->nth - c->now.nth) > 0) /* else it has a later one */
        s->server->unnamed_of = 0;
    pg_rename_pending_free(s, p);
}

bool pg_rename_local(struct pg_session *s, struct pg_outbox *o)
{
    bool any = false;
    enum pg_token token;
    while ((token = pg_flow_local(&s->server->flow)) != PG_TOKEN_NONE) {
        (void)pg_rename_put_head(o, token == PG_TOKEN_PARSE_LOCAL ? '1' : '3', 0, 0);
        settle(s, true, false);
        any = true;
    }
    return any;
}

static void note_tag(struct pg_session *s, struct span body)
{
    struct span tag;
    if (body.n < 9 || (body.p[0] != 'D' && body.p[0] != 'd') || !pg_read_complete(body, &tag))
        return;
    if (span_eq(tag, SPAN_LIT("DEALLOCATE"))) {
        if (!pg_dealloc_done(s)) /* of what it prepared in SQL, or of "cp_7" */
            pg_prepared_stale_all(s->server->prepared);
    } else if (span_eq(tag, SPAN_LIT("DEALLOCATE ALL")) || span_eq(tag, SPAN_LIT("DISCARD ALL"))) {
        pg_dealloc_all_done(s);
    }
}

bool pg_rename_told(struct pg_session *s, const struct pg_msg *m)
{
    struct pg_server *ps = s->server;
    struct pg_flow *flow = &ps->flow;
    if (m->type == 'C')
        note_tag(s, m->body);
    if (!s->statements)
        return false;
    struct pg_client_statements *c = s->statements;
    if (flow->parse_failed && c->now.batch == flow->parse_end) {
        pg_unnamed_forget(s);
        c->before = false; /* a Query that was discarded behind it has ended nothing */
    }
    if (flow->query_skipped && c->before) {
        c->now.there = true;
        ps->unnamed_of = c->before_of;
    }
    for (bool failed = flow->renamed_failed; flow->renamed_lost > 0; flow->renamed_lost--) {
        settle(s, false, failed);
        failed = false;
    }
    bool own = flow->own_done;
    if (flow->renamed_done)
        settle(s, true, false);
    if (m->type == 'Z')
        pg_dealloc_ready(s);
    return own;
}

/* ---- errors that speak of our names ---- */

/* Where "cp_N" with its quotes stands in a message; empty: nowhere. */
static struct span find_ours(struct span text, uint32_t *number)
{
    for (size_t i = 0; i + 5 < text.n; i++) {
        if (memcmp(text.p + i, "\"cp_", 4) != 0)
            continue;
        size_t j = i + 4;
        for (*number = 0; j < text.n && text.p[j] >= '0' && text.p[j] <= '9'; j++)
            *number = *number * 10 + (uint32_t)(text.p[j] - '0');
        if (j > i + 4 && j < text.n && text.p[j] == '"')
            return span_of(text.p + i, j + 1 - i);
    }
    return span_of(NULL, 0);
}

/* Valid until the client's names change. Of several that mean the same, a Parse that failed knows
 * its own. */
static struct span name_of(struct pg_session *s, uint32_t number)
{
    const struct pg_pending *failed = s->statements && s->server->flow.renamed_failed
                                          ? pg_rename_pending_first(&s->statements->pending)
                                          : NULL;
    if (failed && failed->n && failed->number == number)
        return span_of(failed->name, failed->n);
    struct pg_prepared *p = pg_prepared_by_number(s->server->prepared, number);
    struct span name = {0};
    if (p && s->statements)
        name = pg_names_find(s->statements->names, p->key.digest);
    return name;
}

static void outdated(const struct pg_prepared *p, void *arg)
{
    struct pg_session *s = arg;
    pg_names_outdate(s->statements->names, p->key.digest);
}

/* Would it be another one if it were prepared now? Its results have changed, or (perhaps) what its
 * parameters were taken for: their types stay what they were, even if they are gone. */
static bool is_outdated(const struct pg_flow *flow, const struct pg_fields *f)
{
    static const char *const codes[] = {"42704", "42804", "42846", "42883", "XX000"};
    if (span_eq(f->sqlstate, SPAN_LIT("0A000")))
        return span_eq(f->routine, SPAN_LIT("RevalidateCachedQuery"));
    if (flow->renamed_failed || flow->parse_failed)
        return false; /* it was being prepared */
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if (span_eq(f->sqlstate, span_str(codes[i])))
            return true;
    return false;
}

/* What an error tells about a statement: it is outdated, or somebody took it away. */
static void note_error(struct pg_session *s, const struct pg_fields *f, uint32_t number)
{
    if (span_eq(f->sqlstate, SPAN_LIT("26000")) && number)
        pg_prepared_stale(s->server->prepared, number);
    if (!s->statements || !is_outdated(&s->server->flow, f))
        return;
    /* On other servers, too, the next use prepares it anew. */
    pg_prepared_unsettled(s->server->prepared, s->server->flow.ends_seen, outdated, s);
}

/* There is none; there is one already; it takes other parameters. */
static bool speaks_of_statements(const struct pg_fields *f)
{
    return span_eq(f->sqlstate, SPAN_LIT("26000")) || span_eq(f->sqlstate, SPAN_LIT("42P05")) ||
           span_eq(f->sqlstate, SPAN_LIT("08P01"));
}

bool pg_rename_error(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o)
{
    struct pg_fields f;
    uint32_t number = 0;
    if (!pg_read_error(m->body, &f))
        return false;
    struct span ours = speaks_of_statements(&f) ? find_ours(f.message, &number) : span_of(NULL, 0);
    note_error(s, &f, number);
    if (!ours.n || !m->whole)
        return false;
    struct span name = name_of(s, number);
    size_t head = (size_t)(ours.p - m->body.p);
    bool nameless = number == 0; /* PG_NOWHERE: "prepared statement "cp_0" does not exist" */
    static const char unnamed[] = "unnamed prepared statement";
    if (nameless) {
        size_t lead = sizeof "prepared statement " - 1;
        if ((size_t)(ours.p - f.message.p) < lead)
            return false;
        head -= lead;
        (void)pg_rename_put_head(o, 'E', m->len - ours.n - lead + sizeof unnamed - 1, 0);
        pg_outbox_add(o, span_of(m->body.p, head));
        pg_outbox_add(o, span_str(unnamed));
        pg_outbox_add(o, span_skip(m->body, head + lead + ours.n));
        return true;
    }
    if (!name.n || name.n > PG_OUTBOX_OWN / 2)
        return false;
    (void)pg_rename_put_head(o, 'E', m->len - ours.n + 2 + name.n, 0);
    pg_outbox_add(o, span_of(m->body.p, head + 1));
    memcpy(pg_outbox_own(o, name.n), name.p, name.n);
    pg_outbox_add(o, span_skip(m->body, head + ours.n - 1));
    return true;
}

/* ---- life ---- */

void pg_rename_unlink(struct pg_session *s)
{
    struct pg_client_statements *c = s->statements;
    if (!c)
        return;
    for (struct pg_pending *p; (p = pg_rename_pending_first(&c->pending)) != NULL;)
        pg_rename_pending_free(s, p);
    for (struct pg_pending *p; (p = pg_rename_pending_first(&c->deallocs)) != NULL;)
        pg_rename_pending_free(s, p);
    c->before = false; /* the next server counts its batches otherwise */
}

void pg_rename_free(struct pg_session *s)
{
    struct pg_client_statements *c = s->statements;
    if (!c)
        return;
    pg_rename_unlink(s);
    pg_names_free(&c->names);
    free(c->now.body);
    free(c);
    s->statements = NULL;
}
