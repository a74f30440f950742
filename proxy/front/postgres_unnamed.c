/* SPDX-License-Identifier: MIT */
/*
 * The unnamed statement of a client lives as the server has it: until the next Parse or Close of
 * it, or simple query. Its text is kept, so that a Bind finds it on another server, too. A change
 * behind other messages of its batch may be discarded with them: it counts when it is answered.
 */
#include <stdlib.h>

#include "proxy/front/postgres_rename.h"

enum { UNNAMED_ROOM = 4096 }; /* a longer text gets just the memory it needs */

void pg_unnamed_forget(struct pg_session *s)
{
    if (s->statements)
        s->statements->now.there = false;
    s->server->unnamed_of = 0;
}

void pg_unnamed_note(struct pg_session *s, bool kept, uint32_t nth)
{
    struct pg_unnamed *u = &s->statements->now;
    u->there = true;
    u->kept = kept;
    u->nth = nth;
    u->id = ++s->statements->unnamed_ids;
    u->batch = s->server->flow.ends_sent;
    s->server->unnamed_of = s->base.id;
    s->server->unnamed_id = u->id;
}

/* Its text, if it is to be kept. */
static bool unnamed_keep(struct pg_unnamed *u, struct span body)
{
    if (body.n > u->cap || (u->cap > UNNAMED_ROOM && body.n < UNNAMED_ROOM)) {
        size_t cap = body.n > UNNAMED_ROOM ? body.n : body.n + body.n / 2 + 64;
        uint8_t *p = realloc(u->body, cap);
        if (!p)
            return false;
        u->body = p;
        u->cap = (uint32_t)cap;
    }
    memcpy(u->body, body.p, body.n);
    u->n = (uint32_t)body.n;
    return true;
}

bool pg_unnamed_local(struct pg_session *s, struct span body)
{
    struct pg_client_statements *c = pg_rename_statements(s);
    if (!c || !unnamed_keep(&c->now, body))
        return false;
    c->now.there = c->now.kept = true;
    c->now.nth = ++c->nth;
    c->now.id = ++c->unnamed_ids;
    return true;
}

/* Behind other messages of its batch it may be discarded: then the one there is stays. */
enum pg_named pg_unnamed_change(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o)
{
    struct pg_route *route = s->base.route->state;
    bool kept = m->type == 'P' && m->whole;
    struct pg_statement *st =
        kept ? pg_statement_take(route->statements, span_skip(m->body, 1)) : NULL;
    struct pg_pending *p =
        st || !kept ? pg_rename_pending_add(s, PG_TOKEN_NAMED, 0, span_of(NULL, 0), st) : NULL;
    pg_statement_drop(&st);
    if (!p)
        return PG_NAMED_NO_MEMORY;
    p->unread = m->type == 'P' && !kept;
    pg_outbox_add(o, m->raw);
    pg_flow_renamed(&s->server->flow, PG_TOKEN_NAMED);
    return PG_NAMED_SENT;
}

enum pg_named pg_unnamed_parse(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o)
{
    struct pg_client_statements *c = pg_rename_statements(s);
    if (!c)
        return PG_NAMED_NO_MEMORY;
    if (pg_flow_in_batch(&s->server->flow) || pg_flow_is_mixed(&s->server->flow))
        return pg_unnamed_change(s, m, o);
    if (m->whole && !unnamed_keep(&c->now, span_skip(m->body, 1)))
        return PG_NAMED_NO_MEMORY;
    pg_unnamed_note(s, m->whole, ++c->nth);
    return PG_NAMED_PASS;
}

void pg_unnamed_bound(struct pg_session *s)
{
    struct pg_client_statements *c = s->statements;
    const struct pg_pending *change = pg_rename_speaks_of(&c->pending, span_of(NULL, 0));
    if (change)
        c->bound = change->nth;
    else if (c->now.batch == s->server->flow.ends_sent)
        c->bound = c->now.nth;
}

bool pg_unnamed_stays(const struct pg_session *s)
{
    const struct pg_client_statements *c = s->statements;
    return c && s->server && c->now.there && !c->now.kept && c->bound != c->now.nth &&
           (int32_t)(s->server->flow.ends_seen - c->now.batch) > 0;
}

/* A Query was sent behind what is settled now: that ends it, unless it is discarded. */
static void end_by_query(struct pg_session *s)
{
    struct pg_client_statements *c = s->statements;
    c->before = c->now.there && c->query_doubtful;
    c->before_of = s->server->unnamed_of;
    pg_unnamed_forget(s);
}

/* What it leaves behind was noted of one that is discarded. */
static void trace_again(struct pg_session *s)
{
    const struct pg_unnamed *u = &s->statements->now;
    if (u->kept)
        pg_follow_unnamed(s, span_of(u->body, u->n));
}

void pg_unnamed_settle(struct pg_session *s, const struct pg_pending *p, bool well, bool failed)
{
    struct pg_client_statements *c = s->statements;
    if ((int32_t)(p->nth - c->now.nth) < 0)
        return;              /* there is a later one */
    if (!(well || failed)) { /* nothing has changed */
        if (p == pg_rename_speaks_of(&c->pending, span_of(NULL, 0)))
            trace_again(s);
        return;
    }
    if (well && p->unread)
        pg_unnamed_note(s, false, p->nth);
    else if (well && p->st && unnamed_keep(&c->now, span_of(p->st->body, p->st->n)))
        pg_unnamed_note(s, true, p->nth);
    else
        pg_unnamed_forget(s);
    c->now.batch = p->batch;
    if ((int32_t)(c->query_nth - p->nth) > 0)
        end_by_query(s);
}

void pg_unnamed_query(struct pg_session *s)
{
    struct pg_client_statements *c = s->statements;
    if (c && !pg_flow_is_mixed(&s->server->flow)) { /* else noted at the first of them */
        c->query_doubtful = pg_flow_in_batch(&s->server->flow);
        c->before = c->query_doubtful && c->now.there;
        c->before_of = c->query_doubtful ? s->server->unnamed_of : 0;
        c->query_end = s->server->flow.ends_sent + 1;
    }
    if (c)
        c->query_nth = ++c->nth;
    pg_unnamed_forget(s);
}

/* It was ended by a Query of an earlier batch, which is not done yet and may never be. */
static bool may_come_back(const struct pg_client_statements *c, const struct pg_flow *flow)
{
    return c->before && !pg_flow_is_mixed(flow) && (int32_t)(c->query_end - flow->ends_seen) > 0;
}

struct span pg_unnamed_text(const struct pg_session *s)
{
    const struct pg_client_statements *c = s->statements;
    const struct pg_pending *change = pg_rename_speaks_of(&c->pending, span_of(NULL, 0));
    if (change)
        return change->st ? span_of(change->st->body, change->st->n) : span_of(NULL, 0);
    return c->now.kept ? span_of(c->now.body, c->now.n) : span_of(NULL, 0);
}

/* This server is being given it with an earlier batch, which may fail before that: then the server
 * has what somebody else left there. */
static bool may_not_arrive(const struct pg_client_statements *c, const struct pg_flow *flow)
{
    for (const struct list *at = c->pending.prev; at != &c->pending; at = at->prev) {
        const struct pg_pending *p = OWNER(at, const struct pg_pending, node);
        if (p->token == PG_TOKEN_PARSE_OWN && p->number == 0)
            return p->batch != flow->ends_sent;
    }
    return false;
}

/* The unnamed statement is used: this server has it, is given it, or (PG_NAMED_OTHER) it must be
 * told that there is none, whatever another client left there. */
enum pg_named pg_unnamed_ensure(struct pg_session *s, struct pg_outbox *o)
{
    struct pg_client_statements *c = s->statements;
    struct pg_server *ps = s->server;
    const struct pg_pending *change = c ? pg_rename_speaks_of(&c->pending, span_of(NULL, 0)) : NULL;
    if (change)
        return change->batch == ps->flow.ends_sent ? PG_NAMED_PASS : PG_NAMED_FULL;
    if (c && c->now.there && ps->unnamed_of == s->base.id && ps->unnamed_id == c->now.id)
        return may_not_arrive(c, &ps->flow) ? PG_NAMED_FULL : PG_NAMED_PASS;
    if (c && !c->now.there && may_come_back(c, &ps->flow))
        return PG_NAMED_FULL;
    if (!c || !c->now.there || !c->now.kept)
        return PG_NAMED_OTHER;
    if (!pg_rename_pending_add(s, PG_TOKEN_PARSE_OWN, 0, span_of(NULL, 0), NULL))
        return PG_NAMED_NO_MEMORY;
    pg_rename_put_parse(o, "", 0, span_of(c->now.body, c->now.n));
    pg_outbox_flush(o); /* the text may be another one before the walk ends */
    pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_OWN);
    ps->unnamed_of = s->base.id;
    ps->unnamed_id = c->now.id;
    return PG_NAMED_PASS;
}
