/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One pool with its ledger, dialer and workers, in front of the peers of fake_io.h.
 *
 * Without threads all loops take turns on the caller's thread and time stands still but for
 * house_pass(): a test says what happens when. With threads (house_run) each loop has its own, time
 * is real.
 */
#include "pools/dialer.h"
#include "pools/ledger.h"
#include "pools/pool_private.h"
#include "tests/unit/pools/fake_driver.h"

#define HOUSE_WORKERS 4
#define HOUSE_ENDPOINTS 2

struct house_thread {
    struct house *house;
    struct loop *loop;
    pthread_t thread;
    struct post_msg stand, leave;
};

struct house {
    unsigned n;
    struct log_ring *log[HOUSE_WORKERS + 1];
    struct loop loops[HOUSE_WORKERS], dialer_loop;
    struct dialer dialer;
    struct ledger *ledger;
    struct pool *pools[HOUSE_WORKERS];
    _Atomic unsigned quiet; /* pools that have ended */
    bool stopped;
    /* with threads */
    struct house_thread threads[HOUSE_WORKERS + 1]; /* the dialer's last */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    unsigned standing;
    bool stop;
    unsigned served; /* guests so far */
};

/* Room for everybody, no timeouts that a test did not ask for, on_down: wait. */
struct pool_conf house_conf(uint32_t max);

/* Opens it; the world (fake_world_set) stands before. */
void house_open(struct house *h, unsigned workers, const struct pool_conf *conf);
/* As a member of a group. */
void house_open_in(struct house *h, unsigned workers, const struct pool_conf *conf,
                   struct group *group);
/* One pool more, on the threads of another house: has a ledger and pools, but no loops of its own.
 * pool_start() on each worker and ledger_start() have to follow; at the end, when all is quiet,
 * house_unlodge(). */
void house_lodge(struct house *h, struct house *host, const struct pool_conf *conf,
                 struct group *group);
void house_unlodge(struct house *h);
/* Everybody is to end; without threads. Once; house_close() does it if nobody has. */
void house_stop(struct house *h);
/* Asserts that nothing is left: no slot, no connection, no lease. Without threads only. */
void house_close(struct house *h);
/* Memory of loops, pools and books, after everything has ended. */
void house_free(struct house *h);

/* A reload; the second and third are its two halves: what allocates here, and what the pools do. */
void house_reconf(struct house *h, const struct pool_conf *conf);
struct house_snap *house_prepare(const struct pool_conf *conf);
void house_apply(struct house *h, struct house_snap *snap);
void house_ask_all(struct house *h);

/* ---- without threads ---- */

uint64_t house_now(void);
/* One turn of one loop: of worker `tick` modulo their number and one, the last is the dialer's. */
void house_turn(struct house *h, unsigned tick);
/* Time passes; a loop's timers hear of it by house_hear(), which counts as house_turn() does. */
void house_tick(struct house *h, uint64_t ms);
void house_hear(struct house *h, unsigned tick);
/* Lets everything happen that needs no time. */
void house_settle(struct house *h);
/* Lets time pass, event by event. */
void house_pass(struct house *h, uint64_t ms);

/* ---- guests: simple clients for tests without threads ---- */

struct guest {
    struct waiter waiter;
    enum lease_result result; /* of the latest ask */
    struct server *server;    /* an exclusive lease */
    struct fake_rider rider;  /* or a shared one */
    unsigned calls;           /* of on_lease */
    unsigned turn;            /* its place among all guests that were served */
    unsigned answers, lost;
    enum cause why; /* of the latest refusal or loss */
    struct house *house;
};

/* Asks for a lease on a worker; g is zeroed or has none now. waiter.due_ms may be set before. */
enum lease_result guest_ask(struct house *h, unsigned worker, struct guest *g, bool exclusive);
bool guest_has(const struct guest *g);
struct server *guest_server(const struct guest *g);
/* Ends the lease; KEEP: give back. */
void guest_end(struct guest *g, enum outcome how);
/* One exchange begins. */
void guest_work(struct guest *g);

/* `n` servers leased on a worker and given back: idle there now. */
void house_fill(struct house *h, unsigned worker, unsigned n);

struct ledger_view house_view(struct house *h);
uint64_t house_verdicts(struct house *h, enum phase phase, enum outcome outcome);

/* ---- with threads ---- */

/* The clock runs, too. */
void house_run(struct house *h);
/* Until house_go_on() no thread but the caller's does anything; no dial waits for its thread. */
void house_stand(struct house *h);
void house_go_on(struct house *h);
/* All pools are quiet: ends the threads. */
void house_join(struct house *h);

/* ---- the books against the truth; while nothing moves ---- */

void house_audit(struct house *h);
