/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Where names of hosts lead to. The dialer's thread resolves them, and remembers the answer for
 * `dns_ttl`; while servers reached by a name are alive, it asks again each time that is over. A
 * resolver that fails, or takes long, changes nothing: what it said before counts on.
 *
 *     dial:    name_get() -> done(addresses) -> name_place(): the server is of this name
 *     worker:  name_has_left(place): the address is no longer among the name's, so the server
 *              takes no new leases
 *
 * One entry for each name and ttl, whatever pools use it, so that many pools ask once. A ttl of 0
 * means: asked at each dial, and nothing is remembered.
 */
#include <netdb.h>
#include <netinet/in.h>

#include "proxy/core/list.h"
#include "proxy/core/snapshot.h"

#define NAME_ADDRESSES_MAX 64 /* of one name; others are not used */
#define NAME_PATIENCE_MS 1000 /* so long a dial waits for an answer if there is one of before */
#define NAME_KEEP_MS 600000   /* so long the last answer is kept for a name that nobody uses */

struct dialer;
struct name;

/* Port 0; whatever does not matter is 0 too, so that bytes can be compared. */
union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* Immutable, counted. */
struct addresses {
    struct snapshot snap;
    unsigned n; /* >= 1 */
    bool all;   /* there were no more than fit in */
    union address v[];
};

/* NULL: none of them is of a family known here, or out of memory. */
struct addresses *addresses_of(const struct addrinfo *found);

/* ---- the dialer's thread ---- */

struct name_wait {
    struct list node;
    /* Exactly once, perhaps inside name_get(): addresses are good inside the call; or NULL, and
     * `failed` is a UV_ number. */
    void (*done)(struct name_wait *w, struct name *name, struct addresses *addresses, int failed);
};

/* `anew`: what is known is in doubt, so that it has to be asked for again. */
void name_get(struct dialer *d, const char *host, uint64_t ttl_ms, bool anew, struct name_wait *w);
/* It need not be told any more. */
void name_cancel(struct name_wait *w);
/* The dialer stops, nobody waits any more. */
void name_stop(struct dialer *d);

/* ---- any thread, whoever owns the place ---- */

/* Where a server was reached; zeroed: not by a name that is watched. */
struct name_place {
    struct name *name; /* one reference */
    union address at;
    unsigned seen; /* the version of the name's answer that was looked at last */
    bool left;
};

/* Takes a reference, unless the name is not remembered; `at` is left to the caller. */
void name_place(struct name_place *place, struct name *name);
void name_leave(struct name_place *place);
/* Asked at each lease: an atomic load as long as nothing changes. */
bool name_has_left(struct name_place *place);
