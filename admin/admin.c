/* SPDX-License-Identifier: MIT */
/*
 * The admin API's listening sockets: one Unix socket, one TCP address. Control's thread.
 */
#include "admin/admin.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "admin/admin_private.h"
#include "admin/listen.h"

#define ACCEPT_PAUSE_MS 100 /* after EMFILE, or while every connection is being answered */

/* ---- callers come in ---- */

static void pause_door(struct admin_door *door)
{
    io_pause(&door->io);
    loop_timer_set(door->admin->loop, &door->pause, ACCEPT_PAUSE_MS);
}

static void on_pause_over(struct timer *t)
{
    struct admin_door *door = OWNER(t, struct admin_door, pause);
    io_resume(&door->io);
}

/* One a turn: what is closed to make room is gone only at the end of it. */
static void on_caller_waits(struct io *io)
{
    struct admin_door *door = OWNER(io, struct admin_door, io);
    if (door->n_conns >= DOOR_CONNECTIONS) {
        if (!conn_evict(door))
            pause_door(door);
        return;
    }
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof peer;
    int fd = accept4(io->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        conn_open(door, fd, (const struct sockaddr *)&peer);
    else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        pause_door(door);
}

static const struct io_ops door_io_ops = {.on_readable = on_caller_waits};

/* ---- doors ---- */

static void door_init(struct admin_door *door, struct admin *admin)
{
    door->admin = admin;
    list_init(&door->conns);
    timer_init(&door->pause, on_pause_over);
}

/* Takes fd over, also when it fails. */
static bool door_open(struct admin_door *door, int fd, struct err *err)
{
    if (fd < 0)
        return false;
    io_init(&door->io, fd, NULL);
    door->open = true;
    if (io_attach(&door->io, door->admin->loop, &door_io_ops))
        return true;
    return err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, ENOMEM, "admin: out of memory");
}

static void door_close(struct admin_door *door)
{
    if (!door->open)
        return;
    door->open = false;
    loop_timer_stop(door->admin->loop, &door->pause);
    io_close(&door->io);
    if (door->path)
        listen_unlink(door->path, &door->file);
}

void door_freed(struct admin_door *door)
{
    struct admin *admin = door->admin;
    if (admin->closing)
        loop_defer(admin->loop, &admin->quiet);
}

/* ---- life ---- */

static void admin_free(struct admin *admin)
{
    if (admin->token)
        explicit_bzero(admin->token, strlen(admin->token));
    free(admin->token);
    free(admin->host);
    free(admin->unix_door.path);
    free(admin);
}

static void on_quiet(struct deferred *d)
{
    struct admin *admin = OWNER(d, struct admin, quiet);
    if (admin->unix_door.n_conns || admin->http_door.n_conns)
        return;
    void (*on_closed)(void *) = admin->on_closed;
    void *arg = admin->closed_arg;
    admin_free(admin);
    on_closed(arg);
}

static bool copy(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return *to || !from;
}

static bool open_unix(struct admin *admin, struct err *err)
{
    struct admin_door *door = &admin->unix_door;
    door->rule = (struct access_rule){.door = ACCESS_UNIX};
    return !door->path || door_open(door, listen_unix(door->path, &door->file, err), err);
}

static bool open_http(struct admin *admin, uint16_t port, struct err *err)
{
    struct admin_door *door = &admin->http_door;
    if (!admin->host)
        return true;
    door->rule = (struct access_rule){
        .door = access_is_loopback(admin->host) ? ACCESS_LOOPBACK : ACCESS_OUTSIDE,
        .host = admin->host,
        .token = admin->token,
    };
    return door_open(door, listen_tcp(admin->host, port, err), err);
}

struct admin *admin_open(struct loop *loop, const struct admin_conf *conf,
                         const struct admin_hooks *hooks, struct err *err)
{
    struct admin *admin = calloc(1, sizeof *admin);
    if (!admin) {
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, ENOMEM, "admin: out of memory");
        return NULL;
    }
    admin->loop = loop;
    admin->hooks = *hooks;
    deferred_init(&admin->quiet, on_quiet);
    door_init(&admin->unix_door, admin);
    door_init(&admin->http_door, admin);
    bool copied = copy(&admin->unix_door.path, conf->socket) && copy(&admin->host, conf->host) &&
                  copy(&admin->token, conf->token);
    if (!copied)
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, ENOMEM, "admin: out of memory");
    if (copied && open_unix(admin, err) && open_http(admin, conf->port, err))
        return admin;
    door_close(&admin->unix_door);
    door_close(&admin->http_door);
    admin_free(admin);
    return NULL;
}

bool admin_retoken(struct admin *admin, const char *token)
{
    char *fresh, *old = admin->token;
    if (!copy(&fresh, token))
        return false;
    admin->token = fresh;
    admin->http_door.rule.token = fresh;
    if (old)
        explicit_bzero(old, strlen(old));
    free(old);
    return true;
}

void admin_close(struct admin *admin, void (*on_closed)(void *arg), void *arg)
{
    CHECK(!admin->closing);
    admin->closing = true;
    admin->on_closed = on_closed;
    admin->closed_arg = arg;
    door_close(&admin->unix_door);
    door_close(&admin->http_door);
    conn_close_all(&admin->unix_door);
    conn_close_all(&admin->http_door);
    loop_defer(admin->loop, &admin->quiet);
}
