/* SPDX-License-Identifier: MIT */
#include "proxy/front/census.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct census_part {
    struct census *census;
    struct front *front; /* the worker's: only its thread looks inside */
    struct post_msg ask, done;
    union {
        struct census_client *clients;
        struct census_server *servers;
        void *rows;
    };
    size_t n, room;
    uint64_t left_out;
};

static uint64_t since(uint64_t now, uint64_t then)
{
    return now > then ? now - then : 0;
}

/* ---- on the worker ---- */

/* The next row, zeroed; NULL: no room, counted. */
static void *next_row(struct census_part *p, size_t size)
{
    if (p->n == p->room && p->room < CENSUS_MAX) {
        size_t room = p->room ? p->room * 2 : 64;
        room = room < CENSUS_MAX ? room : CENSUS_MAX;
        void *grown = realloc(p->rows, room * size);
        if (grown) {
            p->rows = grown;
            p->room = room;
        }
    }
    if (p->n == p->room) {
        p->left_out++;
        return NULL;
    }
    void *row = (char *)p->rows + size * p->n++;
    memset(row, 0, size);
    return row;
}

static void copy_text(char out[CENSUS_TEXT], const char *text)
{
    snprintf(out, CENSUS_TEXT, "%s", text);
}

static void note_client(struct census_part *p, const struct session *s)
{
    struct census_client *row = next_row(p, sizeof *row);
    const struct relay_ops *ops = s->gate->ops;
    if (!row)
        return;
    copy_text(row->pool, pool_ledger(s->route->pool)->name);
    copy_text(row->listener, s->door->label);
    session_peer(s, row->client, sizeof row->client);
    row->kind = ops->name;
    row->conn = s->id;
    row->worker = p->front->worker;
    row->tls = s->io.tls != NULL;
    row->age_ms = since(loop_now(p->front->loop), s->since_ms);
    row->state = "connected";
    if (ops->describe)
        ops->describe(s, row);
}

void census_has(struct census_client *row, const struct server *sv, uint64_t now_ms)
{
    row->server = sv->id;
    row->held_ms = since(now_ms, sv->leased_ms);
}

static void note_server(const struct server *sv, void *arg)
{
    struct census_part *p = arg;
    struct census_server *row = next_row(p, sizeof *row);
    uint64_t now = loop_now(p->front->loop);
    if (!row)
        return;
    copy_text(row->pool, sv->ledger->name);
    copy_text(row->endpoint, sv->endpoint->label);
    row->kind = sv->ops->name;
    row->state = server_state_name(sv->state);
    row->role = server_role_word(sv->role);
    row->server = sv->id;
    row->worker = p->front->worker;
    row->leases = sv->leases;
    row->tls = sv->io.tls != NULL;
    row->age_ms = since(now, sv->born_ms);
    row->uses = sv->uses;
    row->idle_ms = sv->state == SERVER_IDLE ? since(now, sv->idle_ms) : 0;
    row->held_ms = sv->exclusive && sv->leases ? since(now, sv->leased_ms) : 0;
    row->retiring = sv->retire == OUTCOME_KEEP ? NULL : outcome_word(sv->retire);
}

/* All clients of a route; those for whom there is no room are only counted. */
static void note_clients(struct census_part *p, const struct route *r)
{
    size_t seen = 0;
    LIST_EACH(n, &r->sessions) {
        if (p->n == CENSUS_MAX)
            break;
        note_client(p, OWNER(n, struct session, node));
        seen++;
    }
    p->left_out += r->n_sessions - seen;
}

/* By its own name, or that of the listener it is behind. */
static bool is_called(const struct route *r, const char *name)
{
    const struct ledger *l = pool_ledger(r->pool);
    return strcmp(name, l->name) == 0 || (l->head && strcmp(name, l->head->name) == 0);
}

static void on_ask(struct post_msg *msg)
{
    struct census_part *p = OWNER(msg, struct census_part, ask);
    const char *only = p->census->pool;
    LIST_EACH(n, &p->front->routes) {
        struct route *r = OWNER(n, struct route, node);
        if (*only && !is_called(r, only))
            continue;
        if (p->census->what == CENSUS_CLIENTS)
            note_clients(p, r);
        else
            pool_each_server(r->pool, note_server, p);
    }
    post(p->census->asker, &p->done);
}

/* The worker has ended: it has nobody any more. */
static void on_ask_discarded(struct post_msg *msg)
{
    struct census_part *p = OWNER(msg, struct census_part, ask);
    post(p->census->asker, &p->done);
}

/* ---- on the asker's thread ---- */

static void census_free(struct census *c)
{
    for (unsigned i = 0; i < c->n_parts; i++)
        free(c->parts[i].rows);
    free(c->parts);
    free(c);
}

/* Also as discarded: then nobody waits for it any more. */
static void on_done(struct post_msg *msg)
{
    struct census *c = OWNER(msg, struct census_part, done)->census;
    if (--c->due)
        return;
    if (c->on_done)
        c->on_done(c, c->arg);
    census_free(c);
}

struct census *census_ask(struct loop *asker, struct front *const *fronts, unsigned n,
                          enum census_what what, struct span pool,
                          void (*done)(struct census *c, void *arg), void *arg)
{
    struct census *c = calloc(1, sizeof *c);
    struct census_part *parts = calloc(n, sizeof *parts);
    CHECK(n > 0);
    if (!c || !parts) {
        free(c);
        free(parts);
        return NULL;
    }
    *c = (struct census){.what = what,
                         .asker = asker,
                         .n_parts = n,
                         .due = n,
                         .parts = parts,
                         .on_done = done,
                         .arg = arg};
    snprintf(c->pool, sizeof c->pool, "%.*s", (int)(pool.n < CENSUS_TEXT ? pool.n : 0),
             pool.n ? (const char *)pool.p : "");
    for (unsigned i = 0; i < n; i++) {
        parts[i].census = c;
        parts[i].front = fronts[i];
        post_init(&parts[i].ask, on_ask, on_ask_discarded);
        post_init(&parts[i].done, on_done, NULL);
    }
    for (unsigned i = 0; i < n; i++)
        post(fronts[i]->loop, &parts[i].ask);
    return c;
}

void census_forget(struct census **c)
{
    if (*c)
        (*c)->on_done = NULL;
    *c = NULL;
}

/* Calls each for at most CENSUS_MAX rows of all workers; *left_out are the others. */
static uint64_t each_row(const struct census *c, size_t size, void (*each)(const void *, void *),
                         void *arg)
{
    uint64_t left_out = 0, shown = 0;
    for (unsigned i = 0; i < c->n_parts; i++) {
        const struct census_part *p = &c->parts[i];
        left_out += p->left_out;
        for (size_t j = 0; j < p->n; j++) {
            if (shown++ < CENSUS_MAX)
                each((const char *)p->rows + size * j, arg);
            else
                left_out++;
        }
    }
    return left_out;
}

struct typed {
    void (*client)(const struct census_client *row, void *arg);
    void (*server)(const struct census_server *row, void *arg);
    void *arg;
};

static void each_client(const void *row, void *arg)
{
    const struct typed *t = arg;
    t->client(row, t->arg);
}

static void each_server(const void *row, void *arg)
{
    const struct typed *t = arg;
    t->server(row, t->arg);
}

uint64_t census_clients(const struct census *c,
                        void (*each)(const struct census_client *row, void *arg), void *arg)
{
    CHECK(c->what == CENSUS_CLIENTS);
    struct typed t = {.client = each, .arg = arg};
    return each_row(c, sizeof(struct census_client), each_client, &t);
}

uint64_t census_servers(const struct census *c,
                        void (*each)(const struct census_server *row, void *arg), void *arg)
{
    CHECK(c->what == CENSUS_SERVERS);
    struct typed t = {.server = each, .arg = arg};
    return each_row(c, sizeof(struct census_server), each_server, &t);
}
