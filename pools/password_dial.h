/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Passwords that a command says (`password_command`): tokens that are good for minutes. The command
 * runs beside the dialer, which waits for nothing; what it printed is good for
 * `password_command_ttl`, for all endpoints that name the same command. However many dials want it,
 * it runs once at a time. A reload, or a server that refuses the password, makes it run anew.
 *
 * Everything here belongs to the dialer's thread. What the command prints is kept in memory that is
 * wiped, and said to nobody but the server.
 */
#include "pools/pool_conf.h"
#include "proxy/core/list.h"

struct dialer;
struct err;
struct snapshot;

#define PASSWORD_MAX 16384        /* bytes of one password; tokens have a few thousand */
#define PASSWORD_COMMAND_MS 30000 /* a command that takes longer is killed */

struct password_wait {
    struct list node;
    /* Exactly once: the password, which is good inside the call, and err NULL; or why there is
     * none. Without memory that is inside password_get(). */
    void (*done)(struct password_wait *w, const char *password, const struct err *err);
};

/*
 * The password for an endpoint with a command: at once (good until the next call here), or NULL,
 * and w hears of it. part: of the configuration, or all of it; keeps e's memory.
 */
const char *password_get(struct dialer *d, struct snapshot *part, const struct endpoint_conf *e,
                         struct password_wait *w);
/* It need not be told any more. */
void password_cancel(struct password_wait *w);
/* The server does not take what the command said. */
void password_refused(struct dialer *d, const struct endpoint_conf *e);
/* The dialer stops, nobody waits any more: commands are killed, passwords forgotten. */
void password_stop(struct dialer *d);
