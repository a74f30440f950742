/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What a protocol must say about its clients. One relay per protocol, a const table; `front`
 * accepts connections, makes sessions, and knows nothing else.
 *
 *   on control's thread   guard_new, guard_free
 *   on a worker           all others
 *
 * A relay's session embeds `struct session` as its first member; zeroed memory is its initial
 * state.
 */
#include "pools/pool.h"
#include "proxy/core/err.h"
#include "proxy/core/span.h"
#include "proxy/front/front_conf.h"

struct session;
struct census_client;

struct relay_ops {
    const char *name;
    const char *alpn;      /* the protocol's name in TLS; NULL: clients may name what they like */
    size_t tls_record_max; /* the largest record clients are sent; 0: the standard's */
    size_t session_size;

    /* What logging in needs beyond the configuration (verifiers), derived once per load and shared
     * by all workers, never changed. NULL and *err on failure; NULL slot: nothing. */
    void *(*guard_new)(const struct front_conf *front, const struct pool_conf *pool,
                       struct err *err);
    void (*guard_free)(void *guard);

    /* What the relay keeps per route (one pool on one worker), in its `state`. May be NULL
     * slots. */
    void *(*state_new)(void);
    void (*state_free)(void *state);

    /* A client has connected; its io is attached. If s->refusal is set, it must be told so in the
       protocol's words, then closed. */
    void (*open)(struct session *s);
    void (*on_readable)(struct session *s);
    void (*on_drained)(struct session *s);
    /* Once, while it is not read from: the client sent end-of-file, or is gone. May be NULL. */
    void (*on_hangup)(struct session *s);
    /* Its deadline (session_deadline) has passed. */
    void (*on_deadline)(struct session *s);
    /* No new exchanges: close as soon as nothing is open, in the protocol's words. */
    void (*drain)(struct session *s);
    /* It is to end now, whatever is open: say why unless half an answer is in the way, and close.
     * What is left open is closed by who called. NULL: nothing is said, as Redis' own shutdown. */
    void (*kill)(struct session *s, const struct err *why);
    /* The session ends now: say why if it can be said, let go of leases and waiters. The io is
     * closed and memory freed after this. err NULL: an orderly end. */
    void (*fini)(struct session *s, const struct err *err);

    /* Fills what front does not know of a client, for admin. May be NULL. */
    void (*describe)(const struct session *s, struct census_client *row);
};
