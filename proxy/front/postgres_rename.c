/* SPDX-License-Identifier: MIT */
/*
 * Prepared statements follow the client: in transaction and statement mode a client's statement
 * lives on no particular server. Its Parse, Bind, Describe and Close are looked at where they name
 * one, and sent under the name that the statement has on the server of the moment; a server that
 * does not have it is given it just before, by a Parse whose answer the client does not see.
 *
 *     client                carpool                                   server
 *     Parse "get" ...  -->  new here: Parse "cp_7" ...           -->
 *                           known here: answered by carpool
 *     Bind "get" ...   -->  Bind "cp_7" ..., after Parse "cp_7"  -->
 *                           if this server does not have it
 *     Close "get"      -->  answered by carpool; the server keeps the statement for others
 *
 * A client's name counts once the server, or carpool in its turn, has answered the Parse; until
 * then it is on the list of what is pending, in the order in which pg_flow reports the ends. The
 * unnamed statement lives as the server has it: until the next Parse of it or simple query. Its
 * text is kept, so that a Bind finds it on another server, too.
 */
#include <stdlib.h>

#include "proxy/front/postgres_follow.h"
#include "proxy/front/postgres_rename.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_text.h"

struct pg_client_statements *pg_rename_statements(struct pg_session *s)
{
    if (s->statements)
        return s->statements;
    struct pg_client_statements *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    list_init(&c->pending);
    list_init(&c->deallocs);
    s->statements = c;
    return c;
}

void pg_rename_pending_free(struct pg_session *s, struct pg_pending *p)
{
    s->renaming--;
    s->statements->pending_bytes -= p->bytes;
    list_remove(&p->node);
    pg_statement_drop(&p->st);
    free(p);
}

struct pg_pending *pg_rename_pending_first(const struct list *l)
{
    struct list *node = list_first(l);
    return node ? OWNER(node, struct pg_pending, node) : NULL;
}

struct pg_pending *pg_rename_enlist(struct pg_session *s, struct list *l, enum pg_token token,
                                    uint32_t number, struct span name, struct pg_statement *st)
{
    struct pg_pending *p = calloc(1, sizeof *p + name.n);
    if (!p)
        return NULL;
    list_init(&p->node);
    p->token = token;
    p->batch = s->server->flow.ends_sent;
    p->nth = ++s->statements->nth;
    p->number = number;
    p->bytes = (uint32_t)name.n + (st && st->refs == 1 ? st->n : 0);
    s->statements->pending_bytes += p->bytes;
    p->st = st ? pg_statement_again(st) : NULL;
    p->n = (uint32_t)name.n;
    if (name.n)
        memcpy(p->name, name.p, name.n);
    list_push_back(l, &p->node);
    s->renaming++;
    return p;
}

struct pg_pending *pg_rename_pending_add(struct pg_session *s, enum pg_token token, uint32_t number,
                                         struct span name, struct pg_statement *st)
{
    return pg_rename_enlist(s, &s->statements->pending, token, number, name, st);
}

const struct pg_pending *pg_rename_speaks_of(const struct list *l, struct span name)
{
    for (const struct list *at = l->prev; at != l; at = at->prev) {
        const struct pg_pending *p = OWNER(at, const struct pg_pending, node);
        bool own = p->token == PG_TOKEN_PARSE_OWN || p->token == PG_TOKEN_CLOSE_OWN;
        if (p->all || (!own && span_eq(span_of(p->name, p->n), name)))
            return p;
    }
    return NULL;
}

bool pg_rename_meaning(const struct pg_session *s, struct span name, struct pg_statement **st)
{
    const struct pg_client_statements *c = s->statements;
    *st = NULL;
    if (!c)
        return true;
    *st = pg_names_get(c->names, name);
    if (s->renaming == 0)
        return true;
    const struct pg_pending *p = pg_rename_speaks_of(&c->pending, name),
                            *d = pg_rename_speaks_of(&c->deallocs, name);
    if (d && (!p || d->nth > p->nth))
        p = d;
    if (!p)
        return true;
    *st = p->st;
    return p->batch == s->server->flow.ends_sent;
}

/* ---- what is sent ---- */

uint8_t *pg_rename_put_head(struct pg_outbox *o, uint8_t type, size_t n, size_t head)
{
    uint8_t *p = pg_outbox_own(o, PG_HEADER + head);
    pg_store_head(p, type, n);
    return p + PG_HEADER;
}

void pg_rename_put_parse(struct pg_outbox *o, const char *name, size_t name_n, struct span body)
{
    uint8_t *p = pg_rename_put_head(o, 'P', name_n + 1 + body.n, name_n + 1);
    memcpy(p, name, name_n + 1);
    pg_outbox_add(o, body);
}

static void put_close(struct pg_outbox *o, const char *name, size_t name_n)
{
    uint8_t *p = pg_rename_put_head(o, 'C', name_n + 2, name_n + 2);
    p[0] = 'S';
    memcpy(p + 1, name, name_n + 1);
}

void pg_rename_put_renamed(struct pg_outbox *o, const struct pg_msg *m, struct span at,
                           const char *name, size_t name_n)
{
    size_t head = (size_t)(at.p - m->body.p);
    (void)pg_rename_put_head(o, m->type, m->len - at.n + name_n, 0);
    pg_outbox_add(o, span_of(m->body.p, head));
    memcpy(pg_outbox_own(o, name_n + 1), name, name_n + 1);
    pg_outbox_add(o, span_skip(m->body, head + at.n + 1));
}

enum pg_named pg_rename_sent(struct pg_session *s, const struct pg_msg *m)
{
    return pg_flow_client(&s->server->flow, m->type, m->body) == PG_FLOW_OK ? PG_NAMED_SENT
                                                                            : PG_NAMED_FULL;
}

/* ---- statements on the server ---- */

static struct pg_statement_key key_of(const struct pg_session *s, const struct pg_statement *st)
{
    struct pg_statement_key key = {.settings =
                                       pg_params_planning(s->server->params) ^ pg_follow_salt(s),
                                   .edition = st->edition};
    memcpy(key.digest, st->digest, sizeof key.digest);
    return key;
}

#define SHED_MAX 4 /* for one message: there must be room for their answers */

/* More than the server should keep: the longest unused go. */
static bool shed(struct pg_session *s, struct pg_outbox *o)
{
    struct pg_server *ps = s->server;
    const struct size_conf *size = &pool_conf(session_pool(&s->base))->size;
    char name[PG_PREPARED_NAME];
    for (unsigned i = 0; i < SHED_MAX; i++) {
        struct pg_prepared *p = pg_prepared_surplus(ps->prepared, size->statements,
                                                    size->statement_bytes, ps->flow.ends_sent);
        if (!p)
            break;
        if (!pg_rename_pending_add(s, PG_TOKEN_CLOSE_OWN, p->number, span_of(NULL, 0), NULL)) {
            pg_prepared_settle(ps->prepared, p->number, false);
            return false;
        }
        put_close(o, name, pg_prepared_name(p->number, name));
        pg_flow_renamed(&ps->flow, PG_TOKEN_CLOSE_OWN);
    }
    return true;
}

/* A place on the server for a statement that it is about to be given. NULL: no memory. */
static struct pg_prepared *place(struct pg_session *s, struct pg_outbox *o, enum pg_token token,
                                 struct span name, struct pg_statement *st)
{
    struct pg_server *ps = s->server;
    struct pg_statement_key key = key_of(s, st);
    if (!shed(s, o))
        return NULL;
    struct pg_prepared *p = pg_prepared_add(&ps->prepared, &key, st->n, ps->flow.ends_sent);
    if (!p)
        return NULL;
    if (!pg_rename_pending_add(s, token, p->number, name,
                               token == PG_TOKEN_PARSE_OWN ? NULL : st)) {
        pg_prepared_settle(ps->prepared, p->number, false);
        return NULL;
    }
    return p;
}

static struct pg_prepared *find(const struct pg_session *s, const struct pg_statement_key *key)
{
    const struct pg_server *ps = s->server;
    return pg_prepared_find(ps->prepared, key, ps->flow.ends_sent, pg_dealloc_after(s));
}

/* What servers have of it speaks of another time: for nobody it is what it would be now. */
static void renew(struct pg_session *s, struct pg_statement *st)
{
    struct pg_server *ps = s->server;
    struct pg_statement_key key = key_of(s, st);
    struct pg_prepared *p = find(s, &key);
    if (p)
        pg_prepared_stale(ps->prepared, p->number);
    st->edition = (uint32_t)loop_now(session_loop(&s->base)); /* on no server yet */
}

/* The server has st, or is given it now. NULL: no memory. */
static struct pg_prepared *ensure(struct pg_session *s, struct pg_outbox *o,
                                  struct pg_statement *st)
{
    struct pg_server *ps = s->server;
    struct pg_statement_key key = key_of(s, st);
    struct pg_prepared *p = find(s, &key);
    if (!p && pg_follow_salt(s)) { /* it was read before the settings changed */
        key.settings ^= pg_follow_salt(s);
        p = find(s, &key);
    }
    if (p)
        return p;
    p = place(s, o, PG_TOKEN_PARSE_OWN, span_of(NULL, 0), st);
    if (!p)
        return NULL;
    char name[PG_PREPARED_NAME];
    pg_rename_put_parse(o, name, pg_prepared_name(p->number, name), span_of(st->body, st->n));
    pg_outbox_flush(o); /* the text may go before the walk ends */
    pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_OWN);
    return p;
}

/* ---- the client's messages ---- */

static enum pg_named parse_named(struct pg_session *s, const struct pg_msg *m, struct span name,
                                 struct span body, struct pg_outbox *o)
{
    struct pg_server *ps = s->server;
    struct pg_client_statements *c = pg_rename_statements(s);
    const struct limits_conf *limits = &s->base.gate->conf->limits;
    struct pg_statement *st;
    char to[PG_PREPARED_NAME];
    if (!c)
        return PG_NAMED_NO_MEMORY;
    if (!pg_rename_meaning(s, name, &st))
        return PG_NAMED_FULL;
    if (st) { /* the server says that there is one of that name already */
        struct pg_prepared *p = ensure(s, o, st);
        struct pg_pending *wait =
            p ? pg_rename_pending_add(s, PG_TOKEN_NAMED, p->number, name, st) : NULL;
        if (!wait)
            return PG_NAMED_NO_MEMORY;
        wait->again = true;
        pg_rename_put_renamed(o, m, name, to, pg_prepared_name(p->number, to));
        pg_flow_renamed(&ps->flow, PG_TOKEN_NAMED);
        return PG_NAMED_SENT;
    }
    if (pg_names_count(c->names) + s->renaming >= limits->statements ||
        pg_names_bytes(c->names) + c->pending_bytes + body.n > limits->statement_bytes)
        return PG_NAMED_TOO_MANY;
    struct pg_route *route = s->base.route->state;
    st = pg_statement_take(route->statements, body);
    if (!st)
        return PG_NAMED_NO_MEMORY;
    enum pg_named done = PG_NAMED_NO_MEMORY;
    if (st->dated)
        renew(s, st);
    struct pg_statement_key key = key_of(s, st);
    bool works = ps->flow.tx != PG_TX_FAILED && pg_flow_is_settled(&ps->flow);
    if (works && find(s, &key)) {
        if (pg_rename_pending_add(s, PG_TOKEN_PARSE_LOCAL, 0, name, st)) {
            pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_LOCAL);
            done = PG_NAMED_SENT;
        }
    } else {
        struct pg_prepared *p = place(s, o, PG_TOKEN_NAMED, name, st);
        if (p) {
            pg_rename_put_renamed(o, m, name, to, pg_prepared_name(p->number, to));
            pg_flow_renamed(&ps->flow, PG_TOKEN_NAMED);
            done = PG_NAMED_SENT;
        }
    }
    pg_statement_drop(&st);
    return done;
}

static enum pg_named on_parse(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o)
{
    struct pg_parse parse;
    if (m->body.n && m->body.p[0] == 0)
        return pg_unnamed_parse(s, m, o);
    bool legible = m->whole && pg_read_parse(m->body, &parse);
    if (!s->shares || !m->whole) { /* it lives on this server, under the client's name */
        pg_pin(s, PG_LEAVES_STATEMENT);
        if (legible)
            pg_follow_parse_named(s, parse.name, parse.text);
        return PG_NAMED_PASS;
    }
    if (!legible)
        return PG_NAMED_PASS; /* the server says what is wrong */
    return parse_named(s, m, parse.name, span_skip(m->body, parse.name.n + 1), o);
}

/* The server may have one of that name, which is not the client's. */
static bool is_ours(const struct pg_session *s, struct span name)
{
    return s->shares && span_starts(name, SPAN_LIT("cp_"));
}

/* Bind, Describe: the statement that is meant must be on the server. */
static enum pg_named on_use(struct pg_session *s, const struct pg_msg *m, struct span name,
                            struct pg_outbox *o)
{
    char to[PG_PREPARED_NAME];
    if (name.n == 0) {
        enum pg_named done = pg_unnamed_ensure(s, o);
        if (done == PG_NAMED_PASS && m->type == 'B') {
            pg_follow_bind(s, NULL);
            pg_unnamed_bound(s);
            if (s->follow && s->follow->unnamed.drops)
                return pg_dealloc_bind(s, m, name, pg_unnamed_text(s), o);
        }
        if (done != PG_NAMED_OTHER)
            return done;
        pg_rename_put_renamed(o, m, name, PG_NOWHERE, sizeof PG_NOWHERE - 1);
        return pg_rename_sent(s, m);
    }
    struct pg_statement *st;
    if (!pg_rename_meaning(s, name, &st))
        return PG_NAMED_FULL;
    if (!st) {
        if (!s->shares && m->type == 'B')
            pg_follow_bind_named(s, name);
        if (!is_ours(s, name))
            return PG_NAMED_PASS; /* perhaps prepared in SQL */
        pg_rename_put_renamed(o, m, name, PG_NOWHERE, sizeof PG_NOWHERE - 1);
        return pg_rename_sent(s, m);
    }
    struct pg_prepared *p = ensure(s, o, st);
    if (!p)
        return PG_NAMED_NO_MEMORY;
    if (m->type == 'B' && st->trace.drops) {
        enum pg_named done = pg_dealloc_bind(s, m, name, span_of(st->body, st->n), o);
        if (done != PG_NAMED_PASS)
            return done;
    }
    pg_rename_put_renamed(o, m, name, to, pg_prepared_name(p->number, to));
    if (m->type == 'B') {
        pg_follow_bind(s, &st->trace);
        if (st->commits)
            pg_flow_note_commit(&s->server->flow);
    }
    return pg_rename_sent(s, m);
}

static enum pg_named on_close(struct pg_session *s, const struct pg_msg *m, struct span name,
                              struct pg_outbox *o)
{
    const struct pg_flow *flow = &s->server->flow;
    if (name.n == 0 && s->statements && (pg_flow_in_batch(flow) || pg_flow_is_mixed(flow)))
        return pg_unnamed_change(s, m, o);
    if (name.n == 0) {
        pg_unnamed_forget(s);
        return PG_NAMED_PASS;
    }
    struct pg_statement *st;
    if (!pg_rename_meaning(s, name, &st))
        return PG_NAMED_FULL;
    if (st) {
        if (!pg_rename_pending_add(s, PG_TOKEN_CLOSE_LOCAL, 0, name, NULL))
            return PG_NAMED_NO_MEMORY;
        pg_flow_renamed(&s->server->flow, PG_TOKEN_CLOSE_LOCAL);
        return PG_NAMED_SENT;
    }
    if (!is_ours(s, name))
        return PG_NAMED_PASS;
    pg_rename_put_renamed(o, m, name, PG_NOWHERE, sizeof PG_NOWHERE - 1);
    return pg_rename_sent(s, m);
}

bool pg_rename_room(struct pg_session *s)
{
    return s->renaming < PG_RENAMING_MAX && pg_flow_room(&s->server->flow);
}

enum pg_named pg_rename(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o)
{
    struct pg_bind bind;
    struct span name;
    uint8_t kind;
    if (pg_flow_discards(&s->server->flow))
        return PG_NAMED_PASS;
    switch (m->type) {
    case 'P':
        return on_parse(s, m, o);
    case 'B':
        if (pg_read_bind(m->body, &bind))
            return on_use(s, m, bind.statement, o);
        return m->whole ? PG_NAMED_PASS : PG_NAMED_TOO_LONG;
    case 'D':
        if (pg_read_target(m->body, &kind, &name) && kind == 'S')
            return on_use(s, m, name, o);
        return PG_NAMED_PASS;
    case 'C':
        if (pg_read_target(m->body, &kind, &name) && kind == 'S')
            return on_close(s, m, name, o);
        return PG_NAMED_PASS;
    case 'Q': {
        enum pg_named done = s->drops ? pg_dealloc_query(s, m, o) : PG_NAMED_PASS;
        if (done != PG_NAMED_FULL)
            pg_unnamed_query(s);
        return done;
    }
    default:
        return PG_NAMED_PASS;
    }
}
