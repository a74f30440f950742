/* SPDX-License-Identifier: MIT */
/*
 * Sockets that clients connect to. Control opens one for every address of a configuration before
 * any of it comes into force; those open already are kept. What cannot be had is reported with the
 * key and the place where it is written, and with what to do: that is the mistake people make.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/control_private.h"

/* ---- reports ---- */

bool report_add(struct report *r, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    size_t n = strlen(r->text);
    if (n + strlen(line) + 2 <= r->cap)
        snprintf(r->text + n, r->cap - n, "%s\n", line);
    return false;
}

void report_join(struct report *r, const struct report *more)
{
    size_t n = strlen(r->text);
    snprintf(r->text + n, r->cap - n, "%s", more->text);
}

/* ---- one socket ---- */

/* A socket file that nobody listens on is left over from a crash; one that answers is
 * somebody's: then errno says so. */
static bool clear_stale(const struct sockaddr_un *un)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return true;
    int r = connect(fd, (const struct sockaddr *)un, sizeof *un);
    int e = errno;
    close(fd);
    if (r == 0) {
        errno = EADDRINUSE;
        return false;
    }
    if (e == ECONNREFUSED)
        unlink(un->sun_path);
    return true;
}

/* Closes fd without losing what went wrong. */
static int fail(int fd)
{
    int e = errno;
    if (fd >= 0)
        close(fd);
    errno = e;
    return -1;
}

/* Each returns the socket, or -1 with errno. */
static int bind_unix(const struct listen_conf *lc)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (strlen(lc->unix_path) >= sizeof un.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(un.sun_path, lc->unix_path, strlen(lc->unix_path));
    if (!clear_stale(&un))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&un, sizeof un) == 0 &&
        chmod(lc->unix_path, lc->mode) == 0 &&
        ((lc->uid == (uid_t)-1 && lc->gid == (gid_t)-1) ||
         chown(lc->unix_path, lc->uid, lc->gid) == 0))
        return fd;
    return fail(fd);
}

static int bind_tcp(const struct listen_conf *lc)
{
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(lc->port)};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(lc->port)};
    bool is_v6 = strchr(lc->host, ':') != NULL;
    int ok = is_v6 ? inet_pton(AF_INET6, lc->host, &v6.sin6_addr)
                   : inet_pton(AF_INET, lc->host, &v4.sin_addr);
    int one = 1;
    errno = EINVAL;
    if (ok != 1)
        return -1;
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (is_v6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4,
             is_v6 ? sizeof v6 : sizeof v4) == 0)
        return fd;
    return fail(fd);
}

static int open_door(const struct listen_conf *lc)
{
    int fd = lc->unix_path ? bind_unix(lc) : bind_tcp(lc);
    return fd < 0 || listen(fd, 4096) == 0 ? fd : fail(fd);
}

/* ---- what to do about one that cannot be had ---- */

static const struct entry *owner_of(const struct control *c, const char *label)
{
    for (size_t i = 0; i < c->n_entries; i++)
        for (size_t j = 0; j < c->entries[i]->n_doors; j++)
            if (strcmp(c->entries[i]->doors[j].conf->label, label) == 0)
                return c->entries[i];
    return NULL;
}

static const char *remedy(const struct listen_conf *lc, int sys)
{
    if (sys == EADDRINUSE)
        return "another process listens there: stop it, or write another address";
    if (sys == EADDRNOTAVAIL)
        return "this machine has no such address: write one of its own, or *";
    if (sys == EACCES && !lc->unix_path)
        return "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE): write a higher one";
    if (sys == ENOENT)
        return "its folder does not exist: make it";
    if (sys == EACCES || sys == EPERM || sys == EROFS)
        return "carpool's user may not make that file, or give it this owner: check the folder";
    return "check the address";
}

static void refuse(const struct doors_ask *ask, const struct listen_conf *lc, int sys,
                   struct report *report)
{
    const struct conf_pool *cp = &ask->config->pools[ask->at];
    const struct entry *owner = owner_of(ask->control, lc->label);
    char where[200];
    snprintf(where, sizeof where, "%.150s:%u:%u", ask->config->source, lc->line ? lc->line : 1,
             lc->column ? lc->column : 1);
    if (owner && sys == EADDRINUSE)
        report_add(report,
                   "%s: error: pools[%zu].listen (%s): %s belongs to pool %s until this is in "
                   "force: take it away there in one reload, write it here in the next",
                   where, ask->at, cp->name, lc->label, owner->ledger->name);
    else if (ask->control->args->file)
        report_add(report, "%s: error: pools[%zu].listen (%s): cannot listen on %s (%s): %s", where,
                   ask->at, cp->name, lc->label, strerror(sys), remedy(lc, sys));
    else
        report_add(report,
                   "%s: error: pool %s: cannot listen on %s (%s): %s with CARPOOL_LISTEN, or use "
                   "a file, where pools[%zu].listen sets address and port",
                   where, cp->name, lc->label, strerror(sys), remedy(lc, sys), ask->at);
}

/* ---- all doors of a pool ---- */

void doors_close(struct door_socket *doors, size_t n, bool remove_files)
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
    doors_close(e->doors, e->n_doors, true);
    doors_close(e->old_doors, e->n_old_doors, false);
    e->doors = e->old_doors = NULL;
    e->n_doors = e->n_old_doors = 0;
}

static int inherit(const struct entry *e, const char *label)
{
    for (size_t i = 0; e && i < e->n_doors; i++)
        if (strcmp(e->doors[i].conf->label, label) == 0)
            return fcntl(e->doors[i].fd, F_DUPFD_CLOEXEC, 0);
    return -1;
}

struct door_socket *doors_open(const struct doors_ask *ask, size_t *n, struct report *report)
{
    const struct front_conf *conf = ask->gate->conf;
    struct door_socket *doors = calloc(conf->n_listens, sizeof *doors);
    bool good = true;
    CHECK(doors != NULL);
    *n = 0;
    for (size_t i = 0; i < conf->n_listens; i++) {
        const struct listen_conf *lc = &conf->listens[i];
        int fd = inherit(ask->before, lc->label);
        if (fd < 0)
            fd = open_door(lc);
        if (fd < 0 && lc->optional && *n + (conf->n_listens - i - 1) > 0)
            continue;
        if (fd < 0) {
            refuse(ask, lc, errno, report);
            good = false;
            continue;
        }
        struct snapshot *ref = snapshot_take(&ask->gate->snap);
        doors[(*n)++] = (struct door_socket){fd, lc, OWNER(ref, struct gate, snap)};
    }
    if (good)
        return doors;
    doors_close(doors, *n, false);
    *n = 0;
    return NULL;
}
