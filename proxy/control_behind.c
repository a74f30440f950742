/* SPDX-License-Identifier: MIT */
/*
 * Several pools behind one listener: a pool per database, or per database and user. Those that the
 * configuration names are made with it; others when a client comes who needs them, and they go when
 * they have neither clients nor servers.
 *
 *     wish -> (made: ATTACH on all workers) -> answered ... -> retired -> DETACH -> RELEASE -> gone
 */
#include <string.h>

#include "proxy/control_private.h"

#define LOOK_MS 1000 /* for pools that nobody wants any more */

static struct entry *find(const struct control *c, const struct entry *head, struct span key)
{
    for (size_t i = 0; i < c->n_entries; i++)
        if (c->entries[i]->head == head && span_eq(c->entries[i]->ledger->key, key))
            return c->entries[i];
    return NULL;
}

static size_t count(const struct control *c, const struct entry *head)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_entries; i++)
        n += c->entries[i]->head == head;
    return n;
}

bool behind_is_any(const struct control *c, const struct entry *head)
{
    return count(c, head) > 0;
}

static const struct conf_pool *conf_of(const struct control *c, const struct entry *head)
{
    return head->removed ? NULL : conf_pool_named(c->loaded->config, head->ledger->name);
}

static void take_gate(struct entry *e)
{
    struct snapshot *ref = snapshot_take(&e->head->gate->snap);
    gate_drop(&e->gate);
    e->gate = OWNER(ref, struct gate, snap);
}

static bool is_taken(const struct control *c, const char *name)
{
    for (size_t i = 0; i < c->n_entries; i++)
        if (strcmp(c->entries[i]->ledger->name, name) == 0)
            return true;
    return false;
}

/* Its settings, under a name that no other pool has. NULL: out of memory. */
static struct conf_member *name_apart(const struct control *c, const struct conf_pool *cp,
                                      const struct pool_identity *id)
{
    struct pool_identity one = *id;
    for (one.nth = 1;; one.nth++) {
        struct conf_member *m = conf_member_new(cp, &c->loaded->snap, &one);
        if (!m || !is_taken(c, m->pool.name))
            return m;
        struct snapshot *snap = &m->snap;
        snapshot_drop(&snap);
    }
}

/* False: out of memory. */
static bool make(struct control *c, struct entry *head, const struct conf_pool *cp,
                 const struct pool_identity *id)
{
    struct conf_member *m = name_apart(c, cp, id);
    if (!m)
        return false;
    struct entry *e = entry_new(c, head->kind, &m->pool, &m->snap, head->group);
    if (!e) {
        struct snapshot *snap = &m->snap;
        snapshot_drop(&snap);
        return false;
    }
    e->member = m;
    e->head = head;
    take_gate(e);
    ledger_behind(e->ledger, head->ledger);
    log_write(c->loop.log, LOG_INFO, "pool_made", "pool=%s min=%u max=%u", m->pool.name,
              m->pool.size.min, m->pool.size.max);
    entry_order(c, e, WORKER_ATTACH);
    return true;
}

/* ---- a load ---- */

static void refresh(struct control *c, struct entry *e)
{
    const struct conf_pool *cp = conf_of(c, e->head);
    if (e->removed)
        return;
    e->stale = e->pending > 0;
    if (e->stale)
        return;
    if (!cp || !front_serves(&cp->front, &e->member->id)) {
        entry_detach(c, e);
        return;
    }
    struct conf_member *fresh = conf_member_new(cp, &c->loaded->snap, &e->member->id);
    CHECK(fresh != NULL); /* an operator asked for it: nothing a client can bring about */
    struct snapshot *old = &e->member->snap;
    e->member = fresh;
    take_gate(e);
    ledger_reconf(e->ledger, &fresh->pool, &fresh->snap, loop_now(&c->loop));
    snapshot_drop(&old);
    entry_order(c, e, WORKER_APPLY);
}

static void make_listed(struct control *c, struct entry *head, const struct conf_pool *cp)
{
    for (size_t i = 0; i < cp->front.n_databases; i++) {
        struct span name = span_str(cp->front.databases[i].name);
        /* with its NUL, as clients' keys have it */
        const struct pool_identity id = {.database = name, .key = span_of(name.p, name.n + 1)};
        if (front_is_listed(&cp->front, name) && !find(c, head, id.key))
            CHECK(make(c, head, cp, &id));
    }
}

void behind_load(struct control *c, struct entry *head)
{
    const struct conf_pool *cp = conf_of(c, head);
    for (size_t i = 0; i < c->n_entries; i++)
        if (c->entries[i]->head == head)
            refresh(c, c->entries[i]);
    if (cp)
        make_listed(c, head, cp);
}

/* What a load has listed again while it was going comes anew. (Out of memory, it would go at once.)
 */
void behind_gone(struct control *c, struct entry *head, bool failed)
{
    const struct conf_pool *cp = conf_of(c, head);
    if (cp && !failed)
        make_listed(c, head, cp);
}

void behind_done(struct control *c, struct entry *e)
{
    if (e->stale)
        refresh(c, e);
    behind_answer(c);
}

/* ---- wishes ---- */

static struct entry *head_of(const struct control *c, const struct wish *w)
{
    for (size_t i = 0; i < c->n_entries; i++)
        if (c->entries[i]->ledger == w->head)
            return c->entries[i];
    return NULL;
}

enum step { MADE, LATER, NEVER };

static enum step look(struct control *c, const struct wish *w, struct err *err)
{
    struct entry *head = head_of(c, w);
    const struct conf_pool *cp = head ? conf_of(c, head) : NULL;
    if (c->phase > CONTROL_DELAYING || !cp) {
        err_set(err, CAUSE_DRAINING, STAGE_CLIENT, 0, "this pool is being drained");
        return NEVER;
    }
    if (!front_serves(&cp->front, &w->id)) {
        err_set(err, CAUSE_NO_ROUTE, STAGE_CLIENT, 0,
                "the configuration has changed meanwhile: try again");
        return NEVER;
    }
    const struct entry *e = find(c, head, w->id.key);
    if (e && e->failed && !e->removed) {
        err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "out of memory");
        return NEVER;
    }
    if (e)
        return e->started && !e->removed ? MADE : LATER;
    if (count(c, head) >= cp->front.limits.pools) {
        err_set(err, CAUSE_OVERLOADED, STAGE_CLIENT, 0,
                "pool %s has %u databases and users open already (limits.pools)",
                head->ledger->name, cp->front.limits.pools);
        return NEVER;
    }
    if (make(c, head, cp, &w->id))
        return LATER;
    err_set(err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "out of memory");
    return NEVER;
}

void behind_answer(struct control *c)
{
    LIST_EACH(n, &c->wishes) {
        struct wish *w = OWNER(n, struct wish, pending);
        struct err err;
        enum step step = look(c, w, &err);
        if (step == LATER)
            continue;
        list_remove(&w->pending);
        wish_answer(w, step == MADE ? NULL : &err);
    }
}

static void on_wish(struct wish *w, void *arg)
{
    struct control *c = arg;
    list_push_back(&c->wishes, &w->pending);
    behind_answer(c);
}

/* ---- nobody wants it any more ---- */

static bool is_listed(const struct conf_pool *cp, const struct pool_identity *id)
{
    return !id->replication && front_is_listed(&cp->front, id->database);
}

/* Twice in a row: whom it was made for may be on the way to it. With it an operator's orders would
 * be forgotten. */
static bool is_unused(struct entry *e)
{
    struct ledger_view view;
    ledger_view(e->ledger, &view);
    bool used =
        view.open > 0 || atomic_load(&e->ledger->clients) > 0 || ledger_has_orders(e->ledger);
    e->unused = used ? 0 : e->unused + 1;
    return e->unused > 1 && ledger_retire(e->ledger);
}

static void on_look(struct timer *t)
{
    struct control *c = OWNER(t, struct control, behind);
    if (c->phase != CONTROL_SERVING)
        return;
    for (size_t i = 0; i < c->n_entries; i++) {
        struct entry *e = c->entries[i];
        const struct conf_pool *cp = e->head ? conf_of(c, e->head) : NULL;
        if (!cp || e->removed || e->pending || !e->started || is_listed(cp, &e->member->id) ||
            !is_unused(e))
            continue;
        log_write(c->loop.log, LOG_DEBUG, "pool_retired", "pool=%s", e->ledger->name);
        entry_detach(c, e);
    }
    loop_timer_set(&c->loop, &c->behind, LOOK_MS);
}

void behind_init(struct control *c)
{
    list_init(&c->wishes);
    timer_init(&c->behind, on_look);
    loop_timer_set(&c->loop, &c->behind, LOOK_MS);
    for (unsigned i = 0; i < c->n_workers; i++) {
        struct front *f = c->fronts[i];
        f->control = &c->loop;
        f->on_wish = on_wish;
        f->wish_arg = c;
    }
}

void behind_fini(struct control *c)
{
    loop_timer_stop(&c->loop, &c->behind);
}
