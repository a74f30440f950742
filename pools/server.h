/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One connection to an upstream. Born with a slot of its pool's bound, dialed on the dialer's
 * thread, used on workers, dead when the peer's end-of-file was read.
 *
 *             dialed            leased            last lease ended
 *   DIALING ---------> IDLE <=========> BUSY ------------------> CHECKING --+
 *      |                | ^ \____________________________________/  ^       |
 *      | failed         | |   moved       verdict: keep             |       |
 *      |                v |                                         +-------+
 *      |           TRAVELLING (in the post between two workers)    reset, then verify
 *      v
 *    GONE <----------- CLOSING <---- from IDLE, BUSY, CHECKING: goodbye, end-of-file, wait
 *
 * server_move() alone changes the state, relinks and counts. Owner: the thread whose pool it is in;
 * the dialer while DIALING.
 */
#include "pools/driver.h"
#include "pools/name_dial.h"
#include "pools/pool_conf.h"
#include "proxy/core/io.h"
#include "proxy/core/snapshot.h"

enum server_state {
    SERVER_DIALING,
    SERVER_TRAVELLING,
    SERVER_IDLE,
    SERVER_BUSY,
    SERVER_CHECKING,
    SERVER_CLOSING,
    SERVER_GONE,
    SERVER_STATES
};

/* What the server says of itself, where its protocol tells. */
enum server_role { ROLE_UNKNOWN, ROLE_PRIMARY, ROLE_STANDBY };

struct pool;
struct ledger;
struct dial;
struct dial_linger;
struct server;

/* Who holds an exclusive lease gets the socket's events. */
struct holder_ops {
    void (*on_readable)(struct server *sv); /* server_read() */
    void (*on_drained)(struct server *sv);  /* may be NULL */
    void (*on_unheld)(struct server *sv);   /* the last hold has ended; may be NULL */
    /* The pool takes the server away (the daemon stops): end the lease with pool_drop(). */
    void (*on_lost)(struct server *sv, const struct err *err);
};

struct server {
    uint32_t magic;
    uint32_t id; /* unique in this process: "server=17" in logs */
    enum server_state state;
    unsigned leases;
    unsigned capacity;
    uint32_t permit;       /* its lease is a trial of the service breaker; 0: it is not */
    unsigned holds;        /* reasons not to reuse or free it yet: cancels under way */
    bool exclusive;        /* the one lease owns the socket */
    bool promised;         /* its dial or move fulfils a promise of the ledger */
    bool leaving;          /* no new leases until it is free: somebody waits for all of it */
    bool library_fd;       /* the driver's fini closes the descriptor */
    enum outcome retire;   /* why there are no new leases, OUTCOME_KEEP: not retiring */
    unsigned generation;   /* of the pool when dialed; older ones are recycled */
    enum server_role role; /* as it said last */

    const struct driver_ops *ops;
    struct ledger *ledger; /* the identity */
    struct pool *pool;     /* the worker's view; NULL while dialing or travelling */
    unsigned home;         /* the worker it is dialed for or moved to */
    struct io io;
    struct list node; /* on the list of its state */
    struct post_msg msg;
    struct timer timer; /* bound of the check or of the close */

    const struct holder_ops *holder_ops; /* while exclusive and its holder knows of it */
    void *holder;

    struct deferred after; /* frees it at the end of a turn */
    enum phase check_phase;
    enum outcome check_step; /* OUTCOME_RESET or _VERIFY: which round trip is under way */

    uint64_t born_ms, die_ms; /* die_ms 0: never */
    uint64_t stale_ms;        /* from then on not for waiters that want it fresh; 0: never. The
                                 driver's */
    uint64_t idle_ms;         /* since when */
    uint64_t verified_ms;     /* last proof of life */
    uint64_t leased_us, leased_ms;
    uint64_t uses;                /* leases so far */
    uint64_t lease_in, lease_out; /* bytes of the exclusive lease: to the server, from it */
    bool leak_warned;
    uint32_t lease_no; /* of the latest lease, in the order of service of the whole pool */

    /* The dial, on the dialer's thread. */
    struct snapshot *snap; /* keeps conf alive */
    const struct pool_conf *conf;
    const struct endpoint_conf *endpoint;
    size_t endpoint_at; /* its place in conf->endpoints */
    unsigned turn;      /* which address to take, of a name with several */
    struct name_place place;
    struct dial *dial; /* of a protocol that uses pools/dial.h */
    struct timer dial_timer;
    struct list dial_node;
    bool anew;                  /* where the endpoint's name led to before is in doubt */
    bool picky;                 /* it must not make do with the second best role */
    bool unfit;                 /* it failed: the server answers well, but has the wrong role */
    bool abandoned;             /* it failed, and the upstream did not close in time */
    struct dial_linger *linger; /* waits for the end-of-file of a failed dial */
    struct err err;             /* how it ended; cause CAUSE_NONE: well */
};

/* Times of a server may come from another worker's clock, which may be a little ahead. */
static inline uint64_t elapsed_ms(uint64_t now, uint64_t then)
{
    return now > then ? now - then : 0;
}

static inline bool server_is_stale(const struct server *sv, uint64_t now)
{
    return sv->stale_ms && now >= sv->stale_ms;
}

const char *server_state_name(enum server_state state);

/* Is its role one that the pool's `target` wants? An unknown one always is. Of prefer-replica, a
   primary is not: the second best, taken where nothing else is to be had. */
bool server_fits_target(const struct server *sv);
/* Should it make way for others: is it of before a recycle, only second best, or at an address that
   is no longer its name's? Else OUTCOME_KEEP. */
enum outcome server_outdated(struct server *sv);
/* "primary", "standby"; NULL: not known. */
const char *server_role_word(enum server_role role);

/* ---- for drivers, on the dialer's thread ---- */

/* The dial has ended: err NULL when logged in, with the io initialised and detached. */
void server_dialed(struct server *sv, const struct err *err);

/* ---- for drivers and relays, on the worker ---- */

/* The round trip asked for by verify() or reset() ended. */
void server_checked(struct server *sv, bool well, enum outcome why_not);

/* Reads what is there; end-of-file and loss come back as <= 0. Counts bytes. */
ssize_t server_read(struct server *sv, void *buf, size_t cap);

/* Bytes read past server_read(), straight from its io: only counts them. */
void server_note_read(struct server *sv, size_t n);

/* Sends over the server's io. Counts bytes. False: broken, reading will tell. */
bool server_sendv(struct server *sv, const struct iovec *iov, int n);
bool server_send(struct server *sv, const void *p, size_t n);

/* What to say of a server that end-of-file (n 0) or an error (negative errno) was read from. */
void server_lost_err(const struct server *sv, ssize_t n, struct err *err);

/* No reuse, no free until released as often: for cancels under way. */
void server_hold(struct server *sv);
void server_release_hold(struct server *sv);

/* No new leases; closed when the last one ends, at once if there is none. */
COLD void server_retire(struct server *sv, enum outcome why);
