/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The dialer's thread as pools see it: servers come in by post, are dialed by their driver, and go
 * to their home worker by post, well or failed. Every dial ends within its connect timeout, or at
 * once when the dialer stops.
 */
#include "pools/pool_conf.h"
#include "proxy/core/loop.h"
#include "proxy/core/snapshot.h"

struct err;
struct ledger;
struct server;

struct dialer {
    struct loop *loop;
    struct list dials;     /* in flight; the dialer's thread */
    struct list passwords; /* that commands have said; see password_dial.h */
    struct list names;     /* and where they lead to; see name_dial.h */
    _Atomic uint32_t born; /* servers so far: their numbers are for people */
    bool stopping;
};

void dialer_init(struct dialer *d, struct loop *loop);

/* The dialer's thread: fails what is in flight and whatever comes later. */
void dialer_stop(struct dialer *d);

/* What the ledger has decided of a dial; see struct server. */
struct dial_order {
    size_t endpoint;
    unsigned turn, home, generation;
    bool promised, picky, anew;
};

/* Any thread. The slot was taken by the caller; snap's reference is handed over. False: no
 * memory. */
bool dialer_start(struct dialer *d, struct ledger *l, const struct pool_conf *conf,
                  struct snapshot *snap, const struct dial_order *order);

/* For drivers: a dial has failed but its socket may still hold the upstream's slot. Says
 * end-of-file, waits for the peer's (bounded by close_ms), closes fd, then reports the failure. */
void dialer_linger(struct server *sv, struct loop *loop, int fd, const struct err *err);
