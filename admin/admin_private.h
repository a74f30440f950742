/* SPDX-License-Identifier: MIT */
#pragma once
/* What admin.c and conn.c share. For this folder only. */
#include <sys/stat.h>

#include "admin/access.h"
#include "admin/admin.h"
#include "proxy/core/io.h"

/* Two doors; each keeps its own bound, so that callers from outside cannot lock the operator
   out. */
#define DOOR_CONNECTIONS 32

/* One listening address. */
struct admin_door {
    struct admin *admin;
    struct io io; /* the listening socket; on_readable: a caller waits */
    struct access_rule rule;
    char *path;        /* of a Unix socket; NULL for TCP */
    struct stat file;  /* ... as it was made */
    struct list conns; /* the one that has waited longest comes first */
    unsigned n_conns;
    struct timer pause;
    bool open;
};

struct admin {
    struct loop *loop;
    struct admin_hooks hooks;
    struct admin_door unix_door, http_door;
    char *token, *host;
    bool closing;
    struct deferred quiet;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* Takes fd over; closes it when memory is out. */
void conn_open(struct admin_door *door, int fd, const struct sockaddr *peer);

/* Makes room: closes the connection that has waited longest for a request. False: all are
   answered. */
bool conn_evict(struct admin_door *door);

/* No more requests on any connection; an answer under way may still go out. */
void conn_close_all(struct admin_door *door);

/* A connection has gone: the door may take another, the admin may be done. */
void door_freed(struct admin_door *door);
