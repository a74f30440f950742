/* SPDX-License-Identifier: MIT */
#include "proxy/worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "pools/pool.h"

/* ---- orders about one pool ---- */

static void listen_all(struct worker_pool *wp)
{
    route_unlisten(wp->route);
    for (size_t i = 0; i < wp->n_doors; i++)
        wp->ok = route_listen(wp->route, &wp->doors[i]) && wp->ok;
}

static void answer(struct worker_pool *wp)
{
    gate_drop(&wp->gate);
    post(control_loop(wp->worker->control), &wp->done);
}

/* False: out of memory, and nothing of it is here. */
static bool attach(struct worker_pool *wp)
{
    struct worker *w = wp->worker;
    struct worker_pool **grown = realloc(w->pools, (w->n_pools + 1) * sizeof *grown);
    if (!grown)
        return false;
    w->pools = grown;
    wp->route = route_new(&w->front, wp->pool, wp->gate);
    if (!wp->route)
        return false;
    w->pools[w->n_pools++] = wp;
    pool_start(wp->pool);
    return true;
}

static void on_attach(struct post_msg *msg)
{
    struct worker_pool *wp = OWNER(msg, struct worker_pool, attach);
    wp->ok = attach(wp);
    CHECK(wp->ok || pool_ledger(wp->pool)->head); /* a client can bring about only such as these */
    if (wp->ok)
        listen_all(wp);
    answer(wp);
}

static void on_apply(struct post_msg *msg)
{
    struct worker_pool *wp = OWNER(msg, struct worker_pool, apply);
    route_regate(wp->route, wp->gate);
    wp->ok = true;
    if (!wp->worker->front.draining)
        listen_all(wp);
    pool_ask(wp->pool);
    answer(wp);
}

/* A pool that a reload has removed: sessions, then servers, then (once no worker can have a message
 * on its way to another's) the memory. */
static void on_pool_gone(struct pool *p, void *arg)
{
    (void)p;
    answer(arg);
}

static void on_route_empty(struct route *r, void *arg)
{
    (void)r;
    struct worker_pool *wp = arg;
    loop_timer_stop(&wp->worker->loop, &wp->deadline);
    pool_stop(wp->pool, on_pool_gone, wp);
}

static void on_detach_deadline(struct timer *t)
{
    struct worker_pool *wp = OWNER(t, struct worker_pool, deadline);
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "the pool was removed from the configuration");
    route_kill(wp->route, &err);
}

static void on_detach(struct post_msg *msg)
{
    struct worker_pool *wp = OWNER(msg, struct worker_pool, detach);
    if (!wp->route) {
        answer(wp); /* it never was here */
        return;
    }
    loop_timer_set(&wp->worker->loop, &wp->deadline, wp->deadline_ms);
    route_close(wp->route, on_route_empty, wp);
}

static void on_release(struct post_msg *msg)
{
    struct worker_pool *wp = OWNER(msg, struct worker_pool, release);
    struct worker *w = wp->worker;
    for (size_t i = 0; i < w->n_pools; i++)
        if (w->pools[i] == wp)
            w->pools[i] = w->pools[--w->n_pools];
    if (wp->route)
        route_free(wp->route);
    wp->route = NULL;
    answer(wp);
}

static void on_done(struct post_msg *msg)
{
    control_on_attached(OWNER(msg, struct worker_pool, done));
}

void worker_pool_init(struct worker_pool *wp, struct worker *w, struct pool *pool)
{
    *wp = (struct worker_pool){.worker = w, .pool = pool};
    post_init(&wp->attach, on_attach, NULL);
    post_init(&wp->apply, on_apply, NULL);
    post_init(&wp->detach, on_detach, NULL);
    post_init(&wp->release, on_release, NULL);
    timer_init(&wp->deadline, on_detach_deadline);
    post_init(&wp->done, on_done, NULL);
}

/* ---- the end, step by step ---- */

static void on_front_quiet(struct front *f, void *arg)
{
    (void)f;
    struct worker *w = arg;
    post(control_loop(w->control), &w->front_quiet);
}

static void on_drain(struct post_msg *msg)
{
    struct worker *w = OWNER(msg, struct worker, drain);
    front_drain(&w->front, on_front_quiet, w);
}

static void on_kill(struct post_msg *msg)
{
    struct worker *w = OWNER(msg, struct worker, kill);
    w->killed = true;
    front_kill(&w->front);
    for (size_t i = 0; i < w->n_pools; i++)
        pool_kill(w->pools[i]->pool);
}

static void on_pool_quiet(struct pool *p, void *arg)
{
    (void)p;
    struct worker *w = arg;
    if (++w->pools_quiet == w->n_pools)
        post(control_loop(w->control), &w->all_quiet);
}

static void on_stop_pools(struct post_msg *msg)
{
    struct worker *w = OWNER(msg, struct worker, stop_pools);
    for (size_t i = 0; i < w->n_pools; i++) {
        pool_stop(w->pools[i]->pool, on_pool_quiet, w);
        if (w->killed)
            pool_kill(w->pools[i]->pool);
    }
    if (w->n_pools == 0)
        post(control_loop(w->control), &w->all_quiet);
}

static void on_leave(struct post_msg *msg)
{
    struct worker *w = OWNER(msg, struct worker, leave);
    for (size_t i = 0; i < w->n_pools; i++) {
        route_free(w->pools[i]->route);
        w->pools[i]->route = NULL;
    }
    loop_stop(&w->loop);
}

static void tell_front_quiet(struct post_msg *msg)
{
    control_on_front_quiet(OWNER(msg, struct worker, front_quiet));
}

static void tell_all_quiet(struct post_msg *msg)
{
    control_on_all_quiet(OWNER(msg, struct worker, all_quiet));
}

/* ---- life ---- */

void worker_init(struct worker *w, unsigned index, unsigned n, struct front **peers,
                 struct log_ring *log, struct control *control)
{
    *w = (struct worker){.index = index, .control = control};
    snprintf(w->name, sizeof w->name, "%s", log->thread);
    loop_init(&w->loop, w->name, log);
    front_init(&w->front, &w->loop, index, n, peers);
    peers[index] = &w->front;
    post_init(&w->drain, on_drain, NULL);
    post_init(&w->kill, on_kill, NULL);
    post_init(&w->stop_pools, on_stop_pools, NULL);
    post_init(&w->leave, on_leave, NULL);
    post_init(&w->front_quiet, tell_front_quiet, NULL);
    post_init(&w->all_quiet, tell_all_quiet, NULL);
}

static void *run(void *arg)
{
    struct worker *w = arg;
    loop_run(&w->loop);
    return NULL;
}

void worker_start(struct worker *w)
{
    /* Signals are control's. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    CHECK(pthread_create(&w->thread, NULL, run, w) == 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_setname_np(w->thread, w->name);
}

void worker_join(struct worker *w)
{
    pthread_join(w->thread, NULL);
}

void worker_fini(struct worker *w)
{
    loop_fini(&w->loop);
    free(w->pools);
}
