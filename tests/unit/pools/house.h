/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One pool with its ledger, dialer and workers, in front of the peers of fake_io.h.
 *
 * Without threads all loops take turns on the caller's thread and time stands still but for
 * house_pass(): a test says what happens when. With threads (house_run) each loop has its own, time is
 * real, and house_stop_world() is how a test looks at everything at once.
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
};

/* Room for everybody, no timeouts that a test did not ask for, on_down: wait. */
struct pool_conf house_conf(uint32_t max);

/* Opens it; the world (fake_world_set) stands before. house_start() makes it dial for `min`. */
void house_open(struct house *h, unsigned workers, const struct pool_conf *conf);
/* Asserts that nothing is left: no slot, no connection, no lease. Without threads only. */
void house_close(struct house *h);
/* Memory of loops, pools and books, after everything has ended. */
void house_free(struct house *h);

/* A reload. */
void house_reconf(struct house *h, const struct pool_conf *conf);
void house_ask_all(struct house *h);

/* ---- without threads ---- */

uint64_t house_now(void);
/* Lets everything happen that needs no time. */
void house_settle(struct house *h);
/* Lets time pass, event by event. */
void house_pass(struct house *h, uint64_t ms);

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
