/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A driver whose servers are the peers of fake_io.h. Tests decide how each dial ends and what
 * settling says; riders are the holders of shared leases.
 */
#include "pools/pool.h"
#include "tests/unit/pools/fake_io.h"

#define FAKE_ASKS_MAX 64 /* questions of one server under way */

/* How one dial goes. */
struct fake_dial {
    unsigned ms;      /* until it ends; FAKE_NEVER: not by itself */
    enum cause cause; /* CAUSE_NONE: well */
    bool linger;      /* a failed one still has its socket */
    enum server_role role;
};

/* Plans the dial that begins now, and its peer; on the dialer's thread. */
typedef void fake_plan(const struct server *sv, struct fake_dial *dial, struct fake_peer *peer);

/* What all fake servers of a test have in common; set before any is made. */
struct fake_world {
    unsigned capacity;
    fake_plan *plan;                          /* NULL: all dials go well at once */
    void (*on_open)(const struct server *sv); /* a socket was opened; may be NULL */
    bool checks_at_once;                      /* verify() answers inside the call, as HTTP's does */
};
void fake_world_set(const struct fake_world *world);

/* One server that exists: dialing to gone, whatever thread it is on. */
struct fake_server {
    struct server base;
    int fd;
    struct timer dial;
    struct fake_dial how;
    struct list all;
    enum outcome settle; /* what settle() will say next; KEEP once it has */
    struct list riders;
    struct fake_rider *asks[FAKE_ASKS_MAX]; /* oldest first; NULL: left without its answer */
    unsigned n_asks;
};

extern const struct driver_ops fake_driver;

static inline struct fake_server *fake_server_of(struct server *sv)
{
    return OWNER(sv, struct fake_server, base);
}

/* For audits while the world stands still: every server whose dial has begun. */
void fake_each_server(void (*each)(struct fake_server *fs, void *arg), void *arg);

/* ---- shared leases ---- */

struct fake_rider {
    struct server *server; /* NULL: aboard of none */
    struct list node;
    bool asking;
    void (*on_answer)(struct fake_rider *r);
    /* the server is lost: give r->server back */
    void (*on_lost)(struct fake_rider *r, const struct err *err);
};

void fake_board(struct fake_rider *r, struct server *sv);
void fake_ask(struct fake_rider *r);
/* Ends the lease; KEEP: pool_give_back(), else pool_drop(). */
void fake_leave(struct fake_rider *r, enum outcome why);
