/* SPDX-License-Identifier: MIT */
/*
 * Configurations come into force: at start and at each reload, by the same way. A load that fails
 * in any part changes nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/control_private.h"

static void loaded_free(struct snapshot *snap)
{
    struct loaded *l = OWNER(snap, struct loaded, snap);
    conf_free(&l->config);
    free(l);
}

struct loaded *loaded_new(const struct control_args *args, struct conf_report *report)
{
    struct config *config = args->file
                                ? conf_load_file(args->file, args->options, report)
                                : conf_load_urls(args->urls, args->n_urls, args->options, report);
    if (!config)
        return NULL;
    struct loaded *l = calloc(1, sizeof *l);
    CHECK(l != NULL);
    atomic_store(&l->snap.refs, 1);
    l->snap.free = loaded_free;
    l->config = config;
    return l;
}

/* ---- pools ---- */

static const struct kind *kind_named(const struct control *c, const char *name)
{
    for (const struct kind *k = c->args->kinds; k->name; k++)
        if (strcmp(k->name, name) == 0)
            return k;
    return NULL;
}

static struct entry *entry_named(const struct control *c, const char *name)
{
    for (size_t i = 0; i < c->n_entries; i++)
        if (strcmp(c->entries[i]->ledger->name, name) == 0)
            return c->entries[i];
    return NULL;
}

void entry_free(struct control *c, struct entry *e)
{
    doors_close(e->doors, e->n_doors, true);
    doors_close(e->old_doors, e->n_old_doors, false);
    for (unsigned i = 0; i < c->n_workers; i++) {
        if (e->workers)
            gate_drop(&e->workers[i].gate);
        if (e->pools && e->pools[i])
            pool_free(e->pools[i]);
    }
    gate_drop(&e->gate);
    if (e->ledger)
        ledger_free(e->ledger);
    if (e->group)
        group_drop(&e->group);
    struct snapshot *settings = e->member ? &e->member->snap : NULL;
    snapshot_drop(&settings);
    free(e->workers);
    free(e->pools);
    free(e->routes);
    free(e);
}

/* What a load has prepared for one pool, before anything is changed. */
struct plan {
    struct entry *before;
    struct gate *gate;
    struct door_socket *doors;
    size_t n_doors;
};

static bool make_plan(struct control *c, struct loaded *fresh, size_t at, struct plan *plan,
                      struct report *report)
{
    const struct conf_pool *cp = &fresh->config->pools[at];
    const char *file = fresh->config->source;
    const struct kind *kind = kind_named(c, cp->front.kind_name);
    struct err err;
    plan->before = entry_named(c, cp->name);
    if (!kind)
        return report_add(report,
                          "%s:%u:1: error: pools[%zu].kind: this build knows no kind %s: leave "
                          "pool %s out",
                          file, cp->line, at, cp->front.kind_name, cp->name);
    /* Both together could open more servers than either may. */
    if (plan->before && plan->before->removed)
        return report_add(report,
                          "%s:%u:1: error: pools[%zu]: the pool %s that was removed is still "
                          "draining: try again when it is gone, or write another name",
                          file, cp->line, at, cp->name);
    if (plan->before && plan->before->kind != kind)
        return report_add(report,
                          "%s:%u:1: error: pools[%zu].kind: the kind of pool %s cannot change "
                          "while carpool runs: give the pool another name, or restart",
                          file, cp->line, at, cp->name);
    plan->gate = gate_new(kind->relay, &cp->front, &cp->pool, &fresh->snap, &err);
    if (!plan->gate)
        return report_add(report, "%s:%u:1: error: pools[%zu] (%s): %s", file, cp->line, at,
                          cp->name, err.note);
    const struct doors_ask ask = {c, fresh->config, at, plan->gate, plan->before};
    plan->doors = doors_open(&ask, &plan->n_doors, report);
    return plan->doors != NULL;
}

static void drop_plan(struct plan *plan)
{
    doors_close(plan->doors, plan->n_doors, false);
    gate_drop(&plan->gate);
}

static struct post_msg *order_msg(struct worker_pool *wp)
{
    switch (wp->last) {
    case WORKER_ATTACH:
        return &wp->attach;
    case WORKER_APPLY:
        return &wp->apply;
    case WORKER_DETACH:
        return &wp->detach;
    case WORKER_RELEASE:
        break;
    }
    return &wp->release;
}

void entry_order(struct control *c, struct entry *e, enum worker_order what)
{
    e->pending += c->n_workers;
    for (unsigned i = 0; i < c->n_workers; i++) {
        struct worker_pool *wp = &e->workers[i];
        struct snapshot *ref = snapshot_take(&e->gate->snap);
        wp->gate = OWNER(ref, struct gate, snap);
        wp->doors = e->doors;
        wp->n_doors = e->n_doors;
        wp->deadline_ms = c->loaded ? c->loaded->config->drain.deadline_ms : 0;
        wp->last = what;
        post(&c->workers[i].loop, order_msg(wp));
    }
}

static bool fill_entry(struct control *c, struct entry *e, const struct pool_conf *conf,
                       struct snapshot *snap, struct group *group)
{
    e->ledger = ledger_new(e->kind->driver, conf, snap, c->n_workers, &c->dialer,
                           loop_now(&c->loop), group);
    e->workers = calloc(c->n_workers, sizeof *e->workers);
    e->pools = calloc(c->n_workers, sizeof(struct pool *));
    e->routes = calloc(c->n_workers, sizeof(struct route *));
    if (!e->ledger || !e->workers || !e->pools || !e->routes)
        return false;
    for (unsigned i = 0; i < c->n_workers; i++) {
        e->pools[i] = pool_new(e->ledger, i, &c->workers[i].loop);
        if (!e->pools[i])
            return false;
        worker_pool_init(&e->workers[i], &c->workers[i], e->pools[i]);
    }
    return true;
}

struct entry *entry_new(struct control *c, const struct kind *kind, const struct pool_conf *conf,
                        struct snapshot *snap, struct group *group)
{
    struct entry **grown = realloc(c->entries, (c->n_entries + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    c->entries = grown;
    struct entry *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->kind = kind;
    if (!fill_entry(c, e, conf, snap, group)) {
        entry_free(c, e);
        return NULL;
    }
    c->entries[c->n_entries++] = e;
    return e;
}

static struct entry *add_entry(struct control *c, const struct conf_pool *cp, struct loaded *fresh,
                               struct plan *plan)
{
    /* Also where nothing is behind it: a reload may change that. */
    struct group *group = group_new(cp->pool.size.total);
    CHECK(group != NULL);
    struct entry *e =
        entry_new(c, kind_named(c, cp->front.kind_name), &cp->pool, &fresh->snap, group);
    CHECK(e != NULL); /* at start, or because an operator asked: nothing a client can bring about */
    e->group = group;
    e->gate = plan->gate;
    e->doors = plan->doors;
    e->n_doors = plan->n_doors;
    entry_order(c, e, WORKER_ATTACH);
    return e;
}

static void change_entry(struct control *c, const struct conf_pool *cp, struct loaded *fresh,
                         struct plan *plan)
{
    struct entry *e = plan->before;
    gate_drop(&e->gate);
    e->gate = plan->gate;
    e->old_doors = e->doors;
    e->n_old_doors = e->n_doors;
    e->doors = plan->doors;
    e->n_doors = plan->n_doors;
    group_reconf(e->group, cp->pool.size.total);
    ledger_reconf(e->ledger, &cp->pool, &fresh->snap, loop_now(&c->loop));
    entry_order(c, e, WORKER_APPLY);
}

static bool is_among(const struct door_socket *doors, size_t n, const char *label)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(doors[i].conf->label, label) == 0)
            return true;
    return false;
}

/* Doors that were not open before this load, and those that will not be open after it. */
static void say_hello(struct control *c, const struct conf_pool *cp, const struct plan *plan)
{
    const struct entry *e = plan->before;
    for (size_t i = 0; i < plan->n_doors; i++) {
        const char *label = plan->doors[i].conf->label;
        if (!e || !is_among(e->doors, e->n_doors, label))
            log_write(c->loop.log, LOG_INFO, "listening",
                      "pool=%s kind=%s address=%s upstream=%s min=%u max=%u", cp->name,
                      cp->front.kind_name, label, cp->pool.endpoints[0].label, cp->pool.size.min,
                      cp->pool.size.max);
    }
    for (size_t i = 0; e && i < e->n_doors; i++)
        if (!is_among(plan->doors, plan->n_doors, e->doors[i].conf->label))
            log_write(c->loop.log, LOG_INFO, "unlistened", "pool=%s address=%s", cp->name,
                      e->doors[i].conf->label);
}

void entry_detach(struct control *c, struct entry *e)
{
    for (size_t i = 0; i < e->n_doors; i++)
        log_write(c->loop.log, LOG_INFO, "unlistened", "pool=%s address=%s", e->ledger->name,
                  e->doors[i].conf->label);
    e->removed = true;
    entry_unlisten(e);
    entry_order(c, e, WORKER_DETACH);
}

/* True: every pool of it can be had. All that cannot is reported. */
static bool make_plans(struct control *c, struct loaded *fresh, struct plan *plans,
                       struct report *report)
{
    bool ok = true;
    for (size_t i = 0; i < fresh->config->n_pools; i++)
        ok = make_plan(c, fresh, i, &plans[i], report) && ok;
    for (size_t i = 0; !ok && i < fresh->config->n_pools; i++)
        drop_plan(&plans[i]);
    return ok;
}

/* True: it is in force. Takes over `fresh`; on failure the caller keeps it. */
bool control_apply(struct control *c, struct loaded *fresh, struct report *report)
{
    const struct config *config = fresh->config;
    struct plan *plans = calloc(config->n_pools, sizeof *plans);
    CHECK(plans != NULL);
    bool ok = make_plans(c, fresh, plans, report);
    for (size_t i = 0; ok && i < config->n_pools; i++) {
        const struct conf_pool *cp = &config->pools[i];
        say_hello(c, cp, &plans[i]);
        if (plans[i].before)
            change_entry(c, cp, fresh, &plans[i]);
        else
            add_entry(c, cp, fresh, &plans[i]);
    }
    free(plans);
    if (!ok)
        return false;
    for (size_t i = 0; i < c->n_entries; i++)
        if (!c->entries[i]->removed && !c->entries[i]->head &&
            !conf_pool_named(config, c->entries[i]->ledger->name))
            entry_detach(c, c->entries[i]);
    writer_conf(c->writer, &config->log);
    if (c->admin)
        (void)admin_retoken(c->admin, config->admin.token);
    if (c->loaded) {
        struct snapshot *old = &c->loaded->snap;
        snapshot_drop(&old);
    }
    c->loaded = fresh;
    for (size_t i = 0; i < c->n_entries; i++) /* it may grow, by entries behind others */
        if (!c->entries[i]->head)
            behind_load(c, c->entries[i]);
    behind_answer(c);
    return true;
}

/* Nobody on any worker knows of it any more. */
static void release(struct control *c, struct entry *e)
{
    e->waits = behind_is_any(c, e);
    if (e->waits)
        return;
    e->released = true;
    entry_order(c, e, WORKER_RELEASE);
}

static void forget_entry(struct control *c, size_t at)
{
    struct entry *e = c->entries[at], *head = e->head;
    bool failed = e->failed;
    c->n_entries--;
    memmove(&c->entries[at], &c->entries[at + 1], (c->n_entries - at) * sizeof(struct entry *));
    entry_free(c, e);
    if (head)
        behind_gone(c, head, failed);
    if (head && head->waits && !behind_is_any(c, head))
        release(c, head);
}

/* Every worker has its part. */
static bool is_whole(const struct control *c, const struct entry *e)
{
    for (unsigned i = 0; i < c->n_workers; i++)
        if (!e->workers[i].ok)
            return false;
    return true;
}

static void on_attached(struct worker_pool *wp)
{
    struct control *c = wp->worker->control;
    for (size_t i = 0; i < c->n_entries; i++) {
        struct entry *e = c->entries[i];
        if (wp < e->workers || wp >= e->workers + c->n_workers)
            continue;
        e->routes[wp->worker->index] = wp->route;
        if (!wp->ok && wp->last <= WORKER_APPLY)
            log_write(c->loop.log, LOG_ERROR, e->head ? "pool_unmade" : "listen_failed",
                      "pool=%s worker=%u reason=\"out of descriptors or memory\"", e->ledger->name,
                      wp->worker->index);
        if (--e->pending)
            return;
        if (c->phase > CONTROL_DELAYING) {
            entry_unlisten(e);
            return; /* everything goes now: the end frees it */
        }
        if (wp->last == WORKER_DETACH) {
            release(c, e);
            return;
        }
        if (wp->last == WORKER_RELEASE) {
            log_write(c->loop.log, LOG_INFO, "pool_removed", "pool=%s", e->ledger->name);
            forget_entry(c, i);
            behind_answer(c);
            return;
        }
        doors_close(e->old_doors, e->n_old_doors, false);
        e->old_doors = NULL;
        e->n_old_doors = 0;
        if (e->head && wp->last == WORKER_ATTACH && !is_whole(c, e)) {
            e->failed = true;
            behind_answer(c);
            entry_detach(c, e);
            return;
        }
        if (!e->started)
            ledger_start(e->ledger, loop_now(&c->loop));
        e->started = true;
        if (e->head)
            behind_done(c, e);
        return;
    }
}

/* ---- reload ---- */

static void report_issues(const struct conf_report *issues, struct report *report)
{
    for (size_t i = 0; i < conf_report_count(issues); i++) {
        const struct conf_issue *is = conf_report_at(issues, i);
        report_add(report, "%s:%u:%u: %s: %s", is->file, is->line, is->column,
                   is->warning ? "warning" : "error", is->text);
    }
}

/* "size.max: 20 -> 5"; texts that are empty are none. */
static void report_change(const struct conf_change *ch, struct report *report)
{
    const char *from = *ch->from ? ch->from : "nothing", *to = *ch->to ? ch->to : "nothing";
    if (ch->reload == SCHEMA_NEEDS_RESTART)
        report_add(report, "%s: %s stays in force, %s comes with a restart only", ch->key, from,
                   to);
    else
        report_add(report, "%s: %s -> %s%s", ch->key, from, to,
                   ch->reload == SCHEMA_NEW_CONNECTIONS ? ", for new connections" : "");
}

/* What differs from what is in force; returns how much of it a reload can change. */
static size_t report_changes(struct control *c, const struct loaded *fresh, struct report *report)
{
    size_t n, changed = 0;
    struct conf_change *changes = conf_diff(c->loaded->config, fresh->config, &n);
    for (size_t i = 0; i < n; i++) {
        report_change(&changes[i], report);
        changed += changes[i].reload != SCHEMA_NEEDS_RESTART;
    }
    free(changes);
    if (n == 0)
        report_add(report, "nothing differs from what was in force");
    return changed;
}

/* A removed pool drains beside whatever comes. */
static bool is_busy(const struct control *c)
{
    for (size_t i = 0; i < c->n_entries; i++)
        if (c->entries[i]->pending && !c->entries[i]->removed && !c->entries[i]->head)
            return true;
    return false;
}

static enum admin_reload refuse_reload(struct control *c, const struct report *report)
{
    log_write(c->loop.log, LOG_ERROR, "reload", "result=refused reason=\"%.400s\"", report->text);
    return ADMIN_RELOAD_REFUSED;
}

enum admin_reload control_reload(struct control *c, char *text, size_t cap)
{
    struct report report = {text, cap};
    text[0] = 0;
    if (is_busy(c))
        return ADMIN_RELOAD_BUSY;
    struct conf_report *issues = conf_report_new();
    struct loaded *fresh = loaded_new(c->args, issues);
    report_issues(issues, &report);
    conf_report_free(&issues);
    if (!fresh)
        return refuse_reload(c, &report);
    /* Told in the order of what happens, but known only before: the old one is gone afterwards. */
    char was[REPORT_MAX];
    struct report changes = {was, sizeof was};
    was[0] = 0;
    size_t n = report_changes(c, fresh, &changes);
    conf_retain(fresh->config, c->loaded->config);
    if (!control_apply(c, fresh, &report)) {
        struct snapshot *snap = &fresh->snap;
        snapshot_drop(&snap);
        return refuse_reload(c, &report);
    }
    report_join(&report, &changes);
    log_write(c->loop.log, LOG_INFO, "reload", "result=applied changes=%zu reason=\"%.400s\"", n,
              text);
    return ADMIN_RELOAD_DONE;
}

/* SIGHUP came while the last reload was under way. */
static void reload_if_due(struct control *c)
{
    char report[REPORT_MAX];
    if (!c->reload_due || c->phase != CONTROL_SERVING || is_busy(c))
        return;
    c->reload_due = false;
    control_reload(c, report, sizeof report);
}

void control_on_attached(struct worker_pool *wp)
{
    struct control *c = wp->worker->control;
    on_attached(wp);
    reload_if_due(c);
}
