/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What a protocol must say about its servers; the pool knows everything else. One driver per
 * protocol, a const table registered with the pool's identity.
 *
 *   on the dialer's thread    dial, dial_abort
 *   on a worker               all others
 *
 * A driver's server embeds `struct server` as its first member. Every slot is mandatory unless said
 * otherwise.
 */
#include "health/verdict.h"
#include "proxy/core/err.h"
#include "proxy/core/span.h"

struct loop;
struct server;

struct driver_ops {
    const char *name;
    size_t server_size; /* of the protocol's struct; zeroed memory is its initial state */

    /* Opens and logs in one socket to sv->endpoint and ends with exactly one server_dialed(). The
     * pool bounds it by the connect timeout through dial_abort. */
    void (*dial)(struct server *sv, struct loop *dialer);
    /* The dial is to end now: server_dialed() with *err, before returning. */
    void (*dial_abort)(struct server *sv, const struct err *err);

    /* A freshly dialed server has arrived on its worker, its io not yet attached. Returns how many
     * leases it can carry at once. */
    unsigned (*arrive)(struct server *sv);

    /* The last lease ended: OUTCOME_KEEP, _RESET (needs one), _VERIFY or a drop. */
    enum outcome (*settle)(struct server *sv);

    /* Starts a round trip that proves the server well, or one that brings the session back to
     * neutral. Ends with server_checked(), also when feed() sees what it does not understand.
     * `statement` is the operator's own, NULL for the protocol's cheapest. */
    void (*verify)(struct server *sv, const char *statement);
    void (*reset)(struct server *sv);

    /* Bytes while no exclusive lease owns the server: during checks, while idle, and for shared
     * servers always. False: drop it, and *err says why. */
    bool (*feed)(struct server *sv, struct span bytes, struct err *err);

    /* Only for shared servers: the connection is lost; end every lease with this. May be NULL. */
    void (*lost)(struct server *sv, const struct err *err);
    /* Only for shared servers: the unsent queue became empty. May be NULL. */
    void (*drained)(struct server *sv);

    /* Last words before end-of-file, and whatever stops work that is still running (a cancel). */
    void (*goodbye)(struct server *sv);

    /* The slot is free: let go of library handles and memory of one's own. The io is closed
     * already, but for a descriptor that a library owns (io_release() gave it back). */
    void (*fini)(struct server *sv);
};
