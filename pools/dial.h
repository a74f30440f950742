/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What the dials of all protocols do alike, on the dialer's thread. A protocol's dial embeds
 * `struct dial` as its first member and says its own steps in a table:
 *
 *   dial_begin -> resolve (name_dial.h: libraries would block) -> choose an address -> start()
 *              -> ... the protocol's steps ... -> dial_well | dial_fail | dial_refused | dial_abort
 *
 * One dial has one socket at a time. An address that refuses costs the upstream nothing: the next
 * one of the name is tried in the same dial. After a dial that failed otherwise the next dial
 * begins with the next address.
 */
#include <netinet/in.h>
#include <uv.h>

#include "pools/name_dial.h"
#include "pools/server.h"

struct dial;

struct dial_ops {
    size_t size; /* of the protocol's own struct; zeroed memory is its initial state */

    /* The address is known (d->addr, d->host): open the socket. Again, after dial_refused(). */
    void (*start)(struct dial *d);

    /*
     * The attempt is over: let go of what libraries hold. A socket that the upstream may still
     * count is left in d->sv->io (io_init() if need be), everything else goes. It comes without
     * start(), too: where the name is not found.
     */
    void (*stop)(struct dial *d);
};

struct dial {
    const struct dial_ops *ops;
    struct server *sv;
    struct loop *loop;
    enum err_stage
        stage; /* what it is at, for people: RESOLVE, CONNECT, then the protocol's word */
    struct sockaddr_storage addr;
    socklen_t addr_n;
    char host[INET6_ADDRSTRLEN + 18]; /* addr in numbers, "fe80::1%eth0"; "" for a Unix socket */
    /* dial.c's own */
    struct name_wait wait;
    struct addresses *found; /* one reference; NULL: not known yet */
    unsigned tried;
    struct dial_watch *watch;
};

/* A driver's dial() calls this with its table; dial_abort() is the driver's dial_abort as it is. */
void dial_begin(struct server *sv, struct loop *loop, const struct dial_ops *ops);
void dial_abort(struct server *sv, const struct err *err);

/* ---- how it ends; d is gone afterwards ---- */

/* Logged in: the io is initialised, with nothing unread inside. */
void dial_well(struct dial *d);
/* The sentence is put behind the endpoint's label. */
void dial_fail(struct dial *d, enum cause cause, enum err_stage stage, int sys, const char *fmt,
               ...) PRINTF_LIKE(5, 6);
void dial_no_memory(struct dial *d);
/* The server has told its role. False: it will not do for the pool's `target`, the dial is over. */
MUST_USE bool dial_role(struct dial *d, enum server_role role);
/* Nobody took the connection: the next address, or the end. */
void dial_refused(struct dial *d, int sys);

/* ---- steps that protocols share ---- */

/* Tells step() when a library's socket is ready; watching again replaces it. False: no memory, the
   dial goes on. */
MUST_USE bool dial_watch(struct dial *d, int fd, int events,
                         void (*step)(struct dial *d, int fd, int status, int events));
void dial_unwatch(struct dial *d);

/* A handshake over sv->io, attached, from its events. True: done; else wait, or the dial ended. */
bool dial_shake_hands(struct dial *d);

/* The context for what the endpoint says of TLS; NULL and *err. */
struct tls_ctx *dial_tls_ctx(const struct endpoint_conf *e, struct err *err);
