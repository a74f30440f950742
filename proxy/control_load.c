/* SPDX-License-Identifier: MIT */
/*
 * Configurations come into force: at start and at each reload, by the same way. A load that fails
 * in any part changes nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

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

/* ---- listening sockets ---- */

/* A socket file that nobody listens on is left over from a crash; one that answers is
 * somebody's. */
static bool clear_stale(const struct sockaddr_un *un, struct err *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return true;
    int r = connect(fd, (const struct sockaddr *)un, sizeof *un);
    int e = errno;
    close(fd);
    if (r == 0)
        return err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, EADDRINUSE,
                       "%.100s: another process listens there", un->sun_path);
    if (e == ECONNREFUSED)
        unlink(un->sun_path);
    return true;
}

static int bind_unix(const struct listen_conf *lc, struct err *err)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (strlen(lc->unix_path) >= sizeof un.sun_path) {
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, ENAMETOOLONG, "%.90s: the path is too long",
                lc->unix_path);
        return -1;
    }
    memcpy(un.sun_path, lc->unix_path, strlen(lc->unix_path));
    if (!clear_stale(&un, err))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&un, sizeof un) == 0 &&
        chmod(lc->unix_path, lc->mode) == 0 &&
        ((lc->uid == (uid_t)-1 && lc->gid == (gid_t)-1) ||
         chown(lc->unix_path, lc->uid, lc->gid) == 0))
        return fd;
    err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, errno, "%.90s: cannot listen: %s", lc->unix_path,
            strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static int bind_tcp(const struct listen_conf *lc, struct err *err)
{
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(lc->port)};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(lc->port)};
    bool is_v6 = strchr(lc->host, ':') != NULL;
    int ok = is_v6 ? inet_pton(AF_INET6, lc->host, &v6.sin6_addr)
                   : inet_pton(AF_INET, lc->host, &v4.sin_addr);
    int fd = -1, one = 1;
    if (ok == 1)
        fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (is_v6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
        if (bind(fd, is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4,
                 is_v6 ? sizeof v6 : sizeof v4) == 0)
            return fd;
    }
    err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, errno, "%s: cannot listen: %s", lc->label,
            strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static void close_doors(struct door_socket *doors, size_t n, bool remove_files)
{
    for (size_t i = 0; i < n; i++) {
        if (doors[i].fd >= 0)
            close(doors[i].fd);
        if (remove_files && doors[i].conf && doors[i].conf->unix_path)
            unlink(doors[i].conf->unix_path);
        gate_drop(&doors[i].gate);
    }
    free(doors);
}

void entry_unlisten(struct entry *e)
{
    close_doors(e->doors, e->n_doors, true);
    e->doors = NULL;
    e->n_doors = 0;
}

static int inherit(const struct entry *e, const char *label)
{
    for (size_t i = 0; e && i < e->n_doors; i++)
        if (strcmp(e->doors[i].conf->label, label) == 0)
            return fcntl(e->doors[i].fd, F_DUPFD_CLOEXEC, 0);
    return -1;
}

/* Sockets for every address; those open already are kept, so that no client in the queue is
 * lost. */
static struct door_socket *open_doors(struct gate *gate, const struct entry *before, size_t *n,
                                      struct err *err)
{
    const struct front_conf *conf = gate->conf;
    struct door_socket *doors = calloc(conf->n_listens, sizeof *doors);
    CHECK(doors != NULL);
    *n = 0;
    for (size_t i = 0; i < conf->n_listens; i++) {
        const struct listen_conf *lc = &conf->listens[i];
        int fd = inherit(before, lc->label);
        if (fd < 0)
            fd = lc->unix_path ? bind_unix(lc, err) : bind_tcp(lc, err);
        if (fd >= 0 && listen(fd, 4096) != 0) {
            err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, errno, "%s: cannot listen: %s", lc->label,
                    strerror(errno));
            close(fd);
            fd = -1;
        }
        if (fd < 0 && lc->optional && *n + (conf->n_listens - i - 1) > 0)
            continue;
        if (fd < 0) {
            close_doors(doors, *n, false);
            return NULL;
        }
        struct snapshot *ref = snapshot_take(&gate->snap);
        doors[(*n)++] = (struct door_socket){fd, lc, OWNER(ref, struct gate, snap)};
    }
    return doors;
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
    close_doors(e->doors, e->n_doors, true);
    close_doors(e->old_doors, e->n_old_doors, false);
    for (unsigned i = 0; i < c->n_workers; i++) {
        gate_drop(&e->workers[i].gate);
        pool_free(e->pools[i]);
    }
    gate_drop(&e->gate);
    if (e->ledger)
        ledger_free(e->ledger);
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

static bool make_plan(struct control *c, const struct conf_pool *cp, struct loaded *fresh,
                      struct plan *plan, struct err *err)
{
    const struct kind *kind = kind_named(c, cp->front.kind_name);
    plan->before = entry_named(c, cp->name);
    if (!kind)
        return err_set(err, CAUSE_UNSUPPORTED, STAGE_CONFIG, 0,
                       "pool %s: kind %s is not supported by this build", cp->name,
                       cp->front.kind_name);
    if (plan->before && plan->before->kind != kind)
        return err_set(err, CAUSE_UNSUPPORTED, STAGE_CONFIG, 0,
                       "pool %s: its kind cannot change while carpool runs", cp->name);
    struct err why;
    plan->gate = gate_new(kind->relay, &cp->front, &cp->pool, &fresh->snap, &why);
    if (plan->gate)
        plan->doors = open_doors(plan->gate, plan->before, &plan->n_doors, &why);
    if (plan->doors)
        return true;
    return err_set(err, why.cause, STAGE_CONFIG, why.sys, "pool %s: %.130s", cp->name, why.note);
}

static void drop_plan(struct plan *plan)
{
    close_doors(plan->doors, plan->n_doors, false);
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

static void order(struct control *c, struct entry *e, enum worker_order what)
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

static void add_entry(struct control *c, const struct conf_pool *cp, struct loaded *fresh,
                      struct plan *plan)
{
    struct entry *e = calloc(1, sizeof *e);
    struct entry **grown = realloc(c->entries, (c->n_entries + 1) * sizeof *grown);
    CHECK(e && grown);
    c->entries = grown;
    c->entries[c->n_entries++] = e;
    e->kind = kind_named(c, cp->front.kind_name);
    e->gate = plan->gate;
    e->doors = plan->doors;
    e->n_doors = plan->n_doors;
    e->ledger = ledger_new(e->kind->driver, &cp->pool, &fresh->snap, c->n_workers, &c->dialer,
                           loop_now(&c->loop));
    e->workers = calloc(c->n_workers, sizeof *e->workers);
    e->pools = calloc(c->n_workers, sizeof(struct pool *));
    e->routes = calloc(c->n_workers, sizeof(struct route *));
    CHECK(e->ledger && e->workers && e->pools && e->routes);
    for (unsigned i = 0; i < c->n_workers; i++) {
        e->pools[i] = pool_new(e->ledger, i, &c->workers[i].loop);
        CHECK(e->pools[i] != NULL);
        worker_pool_init(&e->workers[i], &c->workers[i], e->pools[i]);
    }
    order(c, e, WORKER_ATTACH);
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
    ledger_reconf(e->ledger, &cp->pool, &fresh->snap, loop_now(&c->loop));
    order(c, e, WORKER_APPLY);
}

static void say_hello(struct control *c, const struct conf_pool *cp, const struct plan *plan)
{
    for (size_t i = 0; i < plan->n_doors; i++)
        log_write(c->loop.log, LOG_INFO, "listening",
                  "pool=%s kind=%s address=%s upstream=%s size=%u..%u", cp->name,
                  cp->front.kind_name, plan->doors[i].conf->label, cp->pool.endpoints[0].label,
                  cp->pool.size.min, cp->pool.size.max);
}

/* True: it is in force. Takes over `fresh`; on failure the caller keeps it. */
bool control_apply(struct control *c, struct loaded *fresh, struct err *err)
{
    const struct config *config = fresh->config;
    struct plan *plans = calloc(config->n_pools, sizeof *plans);
    CHECK(plans != NULL);
    bool ok = true;
    for (size_t i = 0; ok && i < config->n_pools; i++)
        ok = make_plan(c, &config->pools[i], fresh, &plans[i], err);
    for (size_t i = 0; i < config->n_pools; i++) {
        const struct conf_pool *cp = &config->pools[i];
        if (!ok) {
            drop_plan(&plans[i]);
            continue;
        }
        say_hello(c, cp, &plans[i]);
        if (plans[i].before)
            change_entry(c, cp, fresh, &plans[i]);
        else
            add_entry(c, cp, fresh, &plans[i]);
    }
    free(plans);
    if (!ok)
        return false;
    for (size_t i = 0; i < c->n_entries; i++) {
        struct entry *e = c->entries[i];
        if (e->removed || conf_pool_named(config, e->ledger->name))
            continue;
        e->removed = true;
        entry_unlisten(e);
        order(c, e, WORKER_DETACH);
    }
    writer_conf(c->writer, &config->log);
    if (c->admin)
        (void)admin_retoken(c->admin, config->admin.token);
    if (c->loaded) {
        struct snapshot *old = &c->loaded->snap;
        snapshot_drop(&old);
    }
    c->loaded = fresh;
    return true;
}

static void forget_entry(struct control *c, size_t at)
{
    struct entry *e = c->entries[at];
    c->n_entries--;
    memmove(&c->entries[at], &c->entries[at + 1], (c->n_entries - at) * sizeof(struct entry *));
    entry_free(c, e);
}

void control_on_attached(struct worker_pool *wp)
{
    struct control *c = wp->worker->control;
    for (size_t i = 0; i < c->n_entries; i++) {
        struct entry *e = c->entries[i];
        if (wp < e->workers || wp >= e->workers + c->n_workers)
            continue;
        e->routes[wp->worker->index] = wp->route;
        if (!wp->ok && wp->last <= WORKER_APPLY)
            log_write(c->loop.log, LOG_ERROR, "listen_failed",
                      "pool=%s worker=%u reason=\"out of descriptors or memory\"", e->ledger->name,
                      wp->worker->index);
        if (--e->pending)
            return;
        if (c->phase != CONTROL_SERVING)
            return; /* everything goes now: the end frees it */
        if (wp->last == WORKER_DETACH) {
            e->released = true;
            order(c, e, WORKER_RELEASE);
            return;
        }
        if (wp->last == WORKER_RELEASE) {
            log_write(c->loop.log, LOG_INFO, "pool_removed", "pool=%s", e->ledger->name);
            forget_entry(c, i);
            return;
        }
        close_doors(e->old_doors, e->n_old_doors, false);
        e->old_doors = NULL;
        e->n_old_doors = 0;
        if (!e->started)
            ledger_start(e->ledger, loop_now(&c->loop));
        e->started = true;
        return;
    }
}

/* ---- reload ---- */

static void report_line(char *report, size_t cap, const char *text)
{
    size_t n = strlen(report);
    if (n + 2 < cap)
        snprintf(report + n, cap - n, "%s\n", text);
}

static void report_issues(const struct conf_report *issues, char *report, size_t cap)
{
    for (size_t i = 0; i < conf_report_count(issues); i++) {
        const struct conf_issue *is = conf_report_at(issues, i);
        char line[512];
        snprintf(line, sizeof line, "%s:%u:%u: %s: %s", is->file, is->line, is->column,
                 is->warning ? "warning" : "error", is->text);
        report_line(report, cap, line);
    }
}

/* What the new configuration says that this process cannot become. */
static void report_restarts(struct control *c, const struct loaded *fresh, char *report, size_t cap)
{
    size_t n;
    struct conf_change *changes = conf_diff(c->loaded->config, fresh->config, &n);
    for (size_t i = 0; i < n; i++) {
        const struct conf_change *ch = &changes[i];
        char line[256];
        if (ch->reload != SCHEMA_NEEDS_RESTART)
            continue;
        snprintf(line, sizeof line, "%s: changes only with a restart; the old value stays",
                 ch->key);
        report_line(report, cap, line);
    }
    free(changes);
}

bool control_reload(struct control *c, char *report, size_t cap)
{
    report[0] = 0;
    for (size_t i = 0; i < c->n_entries; i++) {
        if (c->entries[i]->pending) {
            report_line(report, cap, "the last reload is still under way: try again");
            return false;
        }
    }
    struct conf_report *issues = conf_report_new();
    struct loaded *fresh = loaded_new(c->args, issues);
    struct err err;
    report_issues(issues, report, cap);
    conf_report_free(&issues);
    bool ok = fresh != NULL;
    if (ok) {
        report_restarts(c, fresh, report, cap);
        ok = control_apply(c, fresh, &err);
        if (!ok) {
            struct snapshot *snap = &fresh->snap;
            snapshot_drop(&snap);
            report_line(report, cap, err.note);
        }
    }
    log_write(c->loop.log, ok ? LOG_INFO : LOG_ERROR, "reload", "result=%s reason=\"%.300s\"",
              ok ? "applied" : "refused", report);
    return ok;
}
