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

#include "pools/postgres_prepared.h"
#include "proxy/front/postgres.h"
#include "proxy/front/postgres_statements.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_text.h"

/* Refers to nothing on any server. */
#define NOWHERE "cp_0"

enum { UNNAMED_ROOM = 4096 }; /* a longer text gets just the memory it needs */

struct pending {
    struct list node;
    enum pg_token token;
    uint32_t number;         /* of the server's statement; 0: none */
    struct pg_statement *st; /* PARSE_NAMED, PARSE_LOCAL: what the name is to mean */
    uint32_t batch;          /* sent in it, by pg_flow's ends_sent */
    uint32_t nth;            /* in the order of what was sent */
    uint32_t n;
    uint8_t name[];
};

/* The unnamed statement. */
struct unnamed {
    uint8_t *body; /* of the Parse behind its name */
    uint32_t n, cap;
    uint32_t id;    /* which one a server has */
    uint32_t batch; /* sent in it */
    bool there;
    bool kept; /* its text is; else it is on its server alone */
};

struct pg_client_statements {
    struct pg_names *names;
    struct list pending;  /* in the order of pg_flow's renamed tokens */
    struct list deallocs; /* DEALLOCATE "name" under way */
    struct unnamed now;
    struct unnamed before; /* what it was, while it may turn out that `now` was discarded ... */
    bool before_here;      /* ... and whether the server at hand has it */
    uint32_t unnamed_ids;  /* given out */
    uint32_t nth;
};

static struct pg_client_statements *have_statements(struct pg_session *s)
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

static void pending_free(struct pg_session *s, struct pending *p)
{
    s->renaming--;
    list_remove(&p->node);
    pg_statement_drop(&p->st);
    free(p);
}

static struct pending *pending_first(const struct list *l)
{
    struct list *node = list_first(l);
    return node ? OWNER(node, struct pending, node) : NULL;
}

static struct pending *enlist(struct pg_session *s, struct list *l, enum pg_token token,
                              uint32_t number, struct span name, struct pg_statement *st)
{
    struct pending *p = calloc(1, sizeof *p + name.n);
    if (!p)
        return NULL;
    list_init(&p->node);
    p->token = token;
    p->batch = s->server->flow.ends_sent;
    p->nth = ++s->statements->nth;
    p->number = number;
    p->st = st ? pg_statement_again(st) : NULL;
    p->n = (uint32_t)name.n;
    if (name.n)
        memcpy(p->name, name.p, name.n);
    list_push_back(l, &p->node);
    s->renaming++;
    return p;
}

static struct pending *pending_add(struct pg_session *s, enum pg_token token, uint32_t number,
                                   struct span name, struct pg_statement *st)
{
    return enlist(s, &s->statements->pending, token, number, name, st);
}

/* The latest of a list that speaks of the name. */
static const struct pending *speaks_of(const struct list *l, struct span name)
{
    for (const struct list *at = l->prev; at != l; at = at->prev) {
        const struct pending *p = OWNER(at, const struct pending, node);
        bool own = p->token == PG_TOKEN_PARSE_OWN || p->token == PG_TOKEN_CLOSE_OWN;
        if (!own && span_eq(span_of(p->name, p->n), name))
            return p;
    }
    return NULL;
}

/*
 * What a name means when the server comes to what is sent now; *st NULL: nothing. False: it depends
 * on what a batch before this one will turn out to be: wait for that.
 */
static bool meaning(const struct pg_session *s, struct span name, struct pg_statement **st)
{
    const struct pg_client_statements *c = s->statements;
    *st = NULL;
    if (!c)
        return true;
    *st = pg_names_get(c->names, name);
    if (s->renaming == 0)
        return true;
    const struct pending *p = speaks_of(&c->pending, name), *d = speaks_of(&c->deallocs, name);
    if (d && (!p || d->nth > p->nth))
        p = d;
    if (!p)
        return true;
    *st = p->st;
    return p->batch == s->server->flow.ends_sent;
}

/* ---- what is sent ---- */

static void put_be32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* A message of n body bytes begins, with `head` of them here; the rest follows from elsewhere. */
static uint8_t *put_head(struct pg_outbox *o, uint8_t type, size_t n, size_t head)
{
    uint8_t *p = pg_outbox_own(o, PG_HEADER + head);
    p[0] = type;
    put_be32(p + 1, (uint32_t)n + 4);
    return p + PG_HEADER;
}

static void put_parse(struct pg_outbox *o, const char *name, size_t name_n, struct span body)
{
    uint8_t *p = put_head(o, 'P', name_n + 1 + body.n, name_n + 1);
    memcpy(p, name, name_n + 1);
    pg_outbox_add(o, body);
}

static void put_close(struct pg_outbox *o, const char *name, size_t name_n)
{
    uint8_t *p = put_head(o, 'C', name_n + 2, name_n + 2);
    p[0] = 'S';
    memcpy(p + 1, name, name_n + 1);
}

/*
 * The client's message m goes out with the name at `at` (and its NUL) replaced; what was looked at
 * before it goes first.
 */
static void put_renamed(struct pg_outbox *o, const struct pg_msg *m, struct span at,
                        const char *name, size_t name_n)
{
    size_t head = (size_t)(at.p - m->body.p);
    (void)put_head(o, m->type, m->len - at.n + name_n, 0);
    pg_outbox_add(o, span_of(m->body.p, head));
    memcpy(pg_outbox_own(o, name_n + 1), name, name_n + 1);
    pg_outbox_add(o, span_skip(m->body, head + at.n + 1));
}

static enum pg_named told(struct pg_session *s, const struct pg_msg *m)
{
    return pg_flow_client(&s->server->flow, m->type, m->body) == PG_FLOW_OK ? PG_NAMED_SENT
                                                                            : PG_NAMED_FULL;
}

/* ---- statements on the server ---- */

static struct pg_statement_key key_of(const struct pg_session *s, const struct pg_statement *st)
{
    struct pg_statement_key key = {.settings = pg_params_planning(s->server->params),
                                   .edition = st->edition};
    memcpy(key.digest, st->digest, sizeof key.digest);
    return key;
}

/* More than the server should keep: the longest unused goes. */
static bool shed(struct pg_session *s, struct pg_outbox *o)
{
    struct pg_server *ps = s->server;
    size_t max = pool_conf(session_pool(&s->base))->size.statements;
    struct pg_prepared *p = pg_prepared_surplus(ps->prepared, max, ps->flow.ends_sent);
    if (!p)
        return true;
    char name[PG_PREPARED_NAME];
    if (!pending_add(s, PG_TOKEN_CLOSE_OWN, p->number, span_of(NULL, 0), NULL)) {
        pg_prepared_settle(ps->prepared, p->number, false);
        return false;
    }
    put_close(o, name, pg_prepared_name(p->number, name));
    pg_flow_renamed(&ps->flow, PG_TOKEN_CLOSE_OWN);
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
    struct pg_prepared *p = pg_prepared_add(&ps->prepared, &key, ps->flow.ends_sent);
    if (!p)
        return NULL;
    if (!pending_add(s, token, p->number, name, token == PG_TOKEN_PARSE_OWN ? NULL : st)) {
        pg_prepared_settle(ps->prepared, p->number, false);
        return NULL;
    }
    return p;
}

/* The server has st, or is given it now. NULL: no memory. */
static struct pg_prepared *ensure(struct pg_session *s, struct pg_outbox *o,
                                  struct pg_statement *st)
{
    struct pg_server *ps = s->server;
    struct pg_statement_key key = key_of(s, st);
    struct pg_prepared *p = pg_prepared_find(ps->prepared, &key, ps->flow.ends_sent);
    if (p)
        return p;
    p = place(s, o, PG_TOKEN_PARSE_OWN, span_of(NULL, 0), st);
    if (!p)
        return NULL;
    char name[PG_PREPARED_NAME];
    put_parse(o, name, pg_prepared_name(p->number, name), span_of(st->body, st->n));
    pg_outbox_flush(o); /* the text may go before the walk ends */
    pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_OWN);
    return p;
}

/* ---- the unnamed statement ---- */

static void forget_unnamed(struct pg_session *s)
{
    if (s->statements)
        s->statements->now.there = false;
    s->server->unnamed_of = 0;
}

/* The server at hand has it, and no other. */
static void note_unnamed(struct pg_session *s, bool kept)
{
    struct unnamed *u = &s->statements->now;
    u->there = true;
    u->kept = kept;
    u->id = ++s->statements->unnamed_ids;
    u->batch = s->server->flow.ends_sent;
    s->server->unnamed_of = s->base.id;
    s->server->unnamed_id = u->id;
}

/* If what was sent before fails, the server never comes to the next one: this one stays. */
static void save_unnamed(struct pg_session *s)
{
    struct pg_client_statements *c = s->statements;
    if (!pg_flow_in_batch(&s->server->flow))
        return;
    const struct pg_server *ps = s->server;
    struct unnamed spare = c->before;
    c->before_here = ps->unnamed_of == s->base.id && ps->unnamed_id == c->now.id;
    c->before = c->now;
    c->now = spare;
}

static bool keep_unnamed(struct pg_session *s, const struct pg_msg *m)
{
    struct pg_client_statements *c = have_statements(s);
    if (!c)
        return false;
    save_unnamed(s);
    struct unnamed *u = &c->now;
    size_t n = m->body.n - 1;
    if (m->whole && (n > u->cap || (u->cap > UNNAMED_ROOM && n < UNNAMED_ROOM))) {
        size_t cap = n > UNNAMED_ROOM ? n : n + n / 2 + 64;
        uint8_t *p = realloc(u->body, cap);
        if (!p)
            return false;
        u->body = p;
        u->cap = (uint32_t)cap;
    }
    if (m->whole) {
        memcpy(u->body, m->body.p + 1, n);
        u->n = (uint32_t)n;
    }
    note_unnamed(s, m->whole);
    return true;
}

/* The flow reports an error: what of the unnamed statement? */
static void settle_unnamed(struct pg_session *s)
{
    struct pg_client_statements *c = s->statements;
    struct pg_flow *flow = &s->server->flow;
    if (!c || c->now.batch != flow->ends_seen)
        return; /* a later one was sent meanwhile */
    if (flow->parse_failed) {
        forget_unnamed(s);
    } else if (flow->parse_skipped) {
        struct unnamed lost = c->now;
        c->now = c->before;
        c->before = lost;
        c->now.batch = lost.batch;
        s->server->unnamed_id = c->now.id;
        if (!c->before_here)
            s->server->unnamed_of = 0;
    }
}

/* The unnamed statement is used: this server has it, is given it, or (PG_NAMED_OTHER) it must be
 * told that there is none, whatever another client left there. */
static enum pg_named ensure_unnamed(struct pg_session *s, struct pg_outbox *o)
{
    struct pg_client_statements *c = s->statements;
    struct pg_server *ps = s->server;
    if (c && c->now.there && ps->unnamed_of == s->base.id && ps->unnamed_id == c->now.id)
        return PG_NAMED_PASS;
    if (!c || !c->now.there || !c->now.kept)
        return PG_NAMED_OTHER;
    if (!pending_add(s, PG_TOKEN_PARSE_OWN, 0, span_of(NULL, 0), NULL))
        return PG_NAMED_NO_MEMORY;
    put_parse(o, "", 0, span_of(c->now.body, c->now.n));
    pg_outbox_flush(o); /* the text may be another one before the walk ends */
    pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_OWN);
    ps->unnamed_of = s->base.id;
    ps->unnamed_id = c->now.id;
    return PG_NAMED_PASS;
}

/* ---- DEALLOCATE in SQL ---- */

/*
 * DEALLOCATE of a statement that was prepared by protocol: the server may not have it, and others
 * need it. It is given an empty one, and deallocates that.
 */
static enum pg_named deallocate(struct pg_session *s, const struct pg_msg *m, struct span text,
                                struct pg_outbox *o)
{
    static const char verb[] = "DEALLOCATE ";
    static const uint8_t nothing[] = {0, 0, 0}; /* no text, no types */
    uint8_t buf[64];
    struct pg_server *ps = s->server;
    if (!s->statements || !m->whole)
        return PG_NAMED_PASS;
    struct span name = span_of(buf, pg_text_deallocate(text, buf, sizeof buf));
    struct pg_statement *st;
    if (!name.n)
        return PG_NAMED_PASS;
    if (!meaning(s, name, &st))
        return PG_NAMED_FULL;
    if (!st)
        return PG_NAMED_PASS;
    struct pg_statement_key nobodys = {.edition = UINT32_MAX};
    struct pg_prepared *p = pg_prepared_add(&ps->prepared, &nobodys, ps->flow.ends_sent);
    if (!p)
        return PG_NAMED_NO_MEMORY;
    pg_prepared_stale(ps->prepared, p->number);
    struct pending *d = enlist(s, &s->statements->deallocs, PG_TOKEN_NONE, 0, name, NULL);
    if (!d || !pending_add(s, PG_TOKEN_PARSE_OWN, p->number, span_of(NULL, 0), NULL))
        return PG_NAMED_NO_MEMORY;
    char to[PG_PREPARED_NAME];
    size_t n = pg_prepared_name(p->number, to), verb_n = sizeof verb - 1;
    put_parse(o, to, n, span_of(nothing, sizeof nothing));
    pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_OWN);
    bool parse = m->type == 'P'; /* with an empty name in front and no types behind */
    uint8_t *b = put_head(o, m->type, verb_n + n + 1 + 3 * parse, verb_n + n + 1 + 3 * parse);
    if (parse)
        *b++ = 0;
    memcpy(b, verb, verb_n);
    memcpy(b + verb_n, to, n + 1);
    if (parse) {
        memset(b + verb_n + n + 1, 0, 2);
        save_unnamed(s);
        note_unnamed(s, false);
    }
    return told(s, m);
}

static void dealloc_done(struct pg_session *s)
{
    struct pending *d = s->statements ? pending_first(&s->statements->deallocs) : NULL;
    if (!d)
        return;
    pg_names_remove(s->statements->names, span_of(d->name, d->n));
    pending_free(s, d);
}

/* ---- the client's messages ---- */

static enum pg_named parse_unnamed(struct pg_session *s, const struct pg_msg *m,
                                   struct pg_outbox *o)
{
    enum pg_named done = deallocate(s, m, span_skip(m->body, 1), o);
    if (done != PG_NAMED_PASS)
        return done;
    return keep_unnamed(s, m) ? PG_NAMED_PASS : PG_NAMED_NO_MEMORY;
}

static enum pg_named parse_named(struct pg_session *s, const struct pg_msg *m, struct span name,
                                 struct span body, struct pg_outbox *o)
{
    struct pg_server *ps = s->server;
    struct pg_client_statements *c = have_statements(s);
    const struct limits_conf *limits = &s->base.gate->conf->limits;
    struct pg_statement *st;
    char to[PG_PREPARED_NAME];
    if (!c)
        return PG_NAMED_NO_MEMORY;
    if (!meaning(s, name, &st))
        return PG_NAMED_FULL;
    if (st) { /* the server says that there is one of that name already */
        struct pg_prepared *p = ensure(s, o, st);
        if (!p || !pending_add(s, PG_TOKEN_PARSE_NAMED, 0, name, st))
            return PG_NAMED_NO_MEMORY;
        put_renamed(o, m, name, to, pg_prepared_name(p->number, to));
        pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_NAMED);
        return PG_NAMED_SENT;
    }
    if (pg_names_count(c->names) >= limits->statements ||
        pg_names_bytes(c->names) + body.n > limits->statement_bytes)
        return PG_NAMED_TOO_MANY;
    struct pg_route *route = s->base.route->state;
    st = pg_statement_take(route->statements, body);
    if (!st)
        return PG_NAMED_NO_MEMORY;
    enum pg_named done = PG_NAMED_NO_MEMORY;
    struct pg_statement_key key = key_of(s, st);
    bool works = ps->flow.tx != PG_TX_FAILED && pg_flow_is_settled(&ps->flow);
    if (works && pg_prepared_find(ps->prepared, &key, ps->flow.ends_sent)) {
        if (pending_add(s, PG_TOKEN_PARSE_LOCAL, 0, name, st)) {
            pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_LOCAL);
            done = PG_NAMED_SENT;
        }
    } else {
        struct pg_prepared *p = place(s, o, PG_TOKEN_PARSE_NAMED, name, st);
        if (p) {
            put_renamed(o, m, name, to, pg_prepared_name(p->number, to));
            pg_flow_renamed(&ps->flow, PG_TOKEN_PARSE_NAMED);
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
        return parse_unnamed(s, m, o);
    if (!m->whole) { /* too long to be kept: it lives on this server, under the client's name */
        pg_pin(s, "a prepared statement longer than 64 KiB");
        return PG_NAMED_PASS;
    }
    if (!pg_read_parse(m->body, &parse))
        return PG_NAMED_PASS; /* the server says what is wrong */
    return parse_named(s, m, parse.name, span_skip(m->body, parse.name.n + 1), o);
}

/* Bind, Describe: the statement that is meant must be on the server. */
static enum pg_named on_use(struct pg_session *s, const struct pg_msg *m, struct span name,
                            struct pg_outbox *o)
{
    char to[PG_PREPARED_NAME];
    if (name.n == 0) {
        enum pg_named done = ensure_unnamed(s, o);
        if (done != PG_NAMED_OTHER)
            return done;
        put_renamed(o, m, name, NOWHERE, sizeof NOWHERE - 1);
        return told(s, m);
    }
    struct pg_statement *st;
    if (!meaning(s, name, &st))
        return PG_NAMED_FULL;
    if (!st) {
        if (!span_starts(name, SPAN_LIT("cp_")))
            return PG_NAMED_PASS; /* perhaps prepared in SQL */
        put_renamed(o, m, name, NOWHERE, sizeof NOWHERE - 1);
        return told(s, m);
    }
    struct pg_prepared *p = ensure(s, o, st);
    if (!p)
        return PG_NAMED_NO_MEMORY;
    put_renamed(o, m, name, to, pg_prepared_name(p->number, to));
    if (m->type == 'B') {
        (void)pg_follow_trace(s, &st->trace); /* it was not refused when it was prepared */
        if (st->commits)
            pg_flow_note_commit(&s->server->flow);
    }
    return told(s, m);
}

static enum pg_named on_close(struct pg_session *s, const struct pg_msg *m, struct span name,
                              struct pg_outbox *o)
{
    if (name.n == 0) {
        forget_unnamed(s);
        return PG_NAMED_PASS;
    }
    struct pg_statement *st;
    if (!meaning(s, name, &st))
        return PG_NAMED_FULL;
    if (st) {
        if (!pending_add(s, PG_TOKEN_CLOSE_LOCAL, 0, name, NULL))
            return PG_NAMED_NO_MEMORY;
        pg_flow_renamed(&s->server->flow, PG_TOKEN_CLOSE_LOCAL);
        return PG_NAMED_SENT;
    }
    if (!span_starts(name, SPAN_LIT("cp_")))
        return PG_NAMED_PASS;
    put_renamed(o, m, name, NOWHERE, sizeof NOWHERE - 1);
    return told(s, m);
}

enum pg_named pg_rename(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o)
{
    struct pg_flow *flow = &s->server->flow;
    struct pg_bind bind;
    struct span name;
    uint8_t kind;
    if (pg_flow_discards(flow))
        return PG_NAMED_PASS;
    if (!pg_flow_room(flow))
        return PG_NAMED_FULL;
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
        enum pg_named done = deallocate(s, m, m->body, o);
        if (done != PG_NAMED_FULL)
            forget_unnamed(s);
        return done;
    }
    default:
        return PG_NAMED_PASS;
    }
}

/* ---- the server's answers ---- */

static void settle(struct pg_session *s, bool well)
{
    struct pg_client_statements *c = s->statements;
    struct pending *p = pending_first(&c->pending);
    CHECK(p);
    struct span name = span_of(p->name, p->n);
    if (p->number)
        pg_prepared_settle(s->server->prepared, p->number, well);
    if (well && p->st)
        (void)pg_names_put(&c->names, name, p->st); /* without memory its next use is an error */
    if (well && p->token == PG_TOKEN_CLOSE_LOCAL)
        pg_names_remove(c->names, name);
    if (!well && p->token == PG_TOKEN_PARSE_OWN && !p->number)
        s->server->unnamed_of = 0;
    pending_free(s, p);
}

bool pg_rename_local(struct pg_session *s, struct pg_outbox *o)
{
    bool any = false;
    enum pg_token token;
    while ((token = pg_flow_local(&s->server->flow)) != PG_TOKEN_NONE) {
        (void)put_head(o, token == PG_TOKEN_PARSE_LOCAL ? '1' : '3', 0, 0);
        settle(s, true);
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
        dealloc_done(s);
    } else if (span_eq(tag, SPAN_LIT("DEALLOCATE ALL")) || span_eq(tag, SPAN_LIT("DISCARD ALL"))) {
        pg_prepared_forget(s->server->prepared);
        if (s->statements)
            pg_names_free(&s->statements->names);
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
    if (flow->parse_failed || flow->parse_skipped)
        settle_unnamed(s);
    for (; flow->renamed_lost > 0; flow->renamed_lost--)
        settle(s, false);
    bool own = flow->own_done;
    if (flow->renamed_done)
        settle(s, true);
    if (m->type == 'Z')
        for (struct pending *d; (d = pending_first(&s->statements->deallocs)) != NULL &&
                                (int32_t)(flow->ends_seen - d->batch) > 0;)
            pending_free(s, d);
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

/* Valid until the client's names change. */
static struct span name_of(struct pg_session *s, uint32_t number)
{
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

/* What an error tells about a statement: its results have changed, or somebody took it away. */
static void note_error(struct pg_session *s, const struct pg_fields *f, uint32_t number)
{
    if (span_eq(f->sqlstate, SPAN_LIT("26000")) && number)
        pg_prepared_stale(s->server->prepared, number);
    if (!span_eq(f->sqlstate, SPAN_LIT("0A000")) ||
        !span_starts(f->message, SPAN_LIT("cached plan must not change result type")) ||
        !s->statements)
        return;
    /* On other servers, too, the next use prepares it anew. */
    pg_prepared_unsettled(s->server->prepared, s->server->flow.ends_seen, outdated, s);
}

bool pg_rename_error(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o)
{
    struct pg_fields f;
    uint32_t number = 0;
    if (!pg_read_error(m->body, &f))
        return false;
    struct span ours = find_ours(f.message, &number);
    note_error(s, &f, number);
    if (!ours.n || !m->whole)
        return false;
    struct span name = name_of(s, number);
    size_t head = (size_t)(ours.p - m->body.p);
    bool nameless = number == 0; /* NOWHERE: "prepared statement "cp_0" does not exist" */
    static const char unnamed[] = "unnamed prepared statement";
    if (nameless) {
        size_t lead = sizeof "prepared statement " - 1;
        if ((size_t)(ours.p - f.message.p) < lead)
            return false;
        head -= lead;
        (void)put_head(o, 'E', m->len - ours.n - lead + sizeof unnamed - 1, 0);
        pg_outbox_add(o, span_of(m->body.p, head));
        pg_outbox_add(o, span_str(unnamed));
        pg_outbox_add(o, span_skip(m->body, head + lead + ours.n));
        return true;
    }
    if (!name.n || name.n > PG_OUTBOX_OWN / 2)
        return false;
    (void)put_head(o, 'E', m->len - ours.n + 2 + name.n, 0);
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
    for (struct pending *p; (p = pending_first(&c->pending)) != NULL;)
        pending_free(s, p);
    for (struct pending *p; (p = pending_first(&c->deallocs)) != NULL;)
        pending_free(s, p);
}

void pg_rename_free(struct pg_session *s)
{
    struct pg_client_statements *c = s->statements;
    if (!c)
        return;
    pg_rename_unlink(s);
    pg_names_free(&c->names);
    free(c->now.body);
    free(c->before.body);
    free(c);
    s->statements = NULL;
}
