/* SPDX-License-Identifier: MIT */
/*
 * The end, in order: not ready -> (delay) -> listeners and sessions -> pools -> dialer -> threads.
 * "Stop" is the last message anybody gets, so that nothing is lost on the way.
 */
#include <pthread.h>
#include <signal.h>

#include "proxy/control_private.h"

static void post_all(struct control *c, size_t offset)
{
    for (unsigned i = 0; i < c->n_workers; i++)
        post_once(&c->workers[i].loop,
                  (struct post_msg *)(void *)((char *)&c->workers[i] + offset));
}

static void drain_now(struct control *c)
{
    c->phase = CONTROL_DRAINING;
    uint64_t ms = c->loaded->config->drain.deadline_ms;
    log_write(c->loop.log, LOG_INFO, "draining", "deadline_ms=%llu", (unsigned long long)ms);
    loop_timer_set(&c->loop, &c->drain_timer, ms ? ms : 1);
    /* While an order is pending, workers look at the doors: those go when they have answered. */
    for (size_t i = 0; i < c->n_entries; i++)
        if (!c->entries[i]->pending)
            entry_unlisten(c->entries[i]);
    behind_answer(c);
    post_all(c, offsetof(struct worker, drain));
}

static void kill_now(struct control *c)
{
    if (c->killed)
        return;
    c->killed = true;
    log_write(c->loop.log, LOG_WARN, "drain_deadline", "reason=\"ending what is left\"");
    post_all(c, offsetof(struct worker, kill));
}

void on_drain_timer(struct timer *t)
{
    struct control *c = OWNER(t, struct control, drain_timer);
    if (c->phase == CONTROL_DELAYING)
        drain_now(c);
    else
        kill_now(c);
}

void control_shutdown(struct control *c)
{
    c->signals++;
    if (c->phase != CONTROL_SERVING) {
        /* A second request: now. */
        if (c->phase == CONTROL_DELAYING)
            drain_now(c);
        kill_now(c);
        return;
    }
    log_write(c->loop.log, LOG_INFO, "stopping", "signals=%u", c->signals);
    uint64_t delay = c->loaded->config->drain.delay_ms;
    if (delay) {
        c->phase = CONTROL_DELAYING;
        loop_timer_set(&c->loop, &c->drain_timer, delay);
        return;
    }
    drain_now(c);
}

void control_on_front_quiet(struct worker *w)
{
    struct control *c = w->control;
    if (++c->fronts_quiet < c->n_workers)
        return;
    c->phase = CONTROL_STOPPING;
    post(&c->dialer_loop, &c->dialer_stop);
    post_all(c, offsetof(struct worker, stop_pools));
}

static void close_loop(struct control *c)
{
    if (!c->admin_closed || c->phase != CONTROL_GONE)
        return;
    loop_timer_stop(&c->loop, &c->drain_timer);
    behind_fini(c);
    /* A signal behind these would end the process by its default: it ends well, and now. */
    sigset_t late;
    sigemptyset(&late);
    sigaddset(&late, SIGHUP);
    sigaddset(&late, SIGTERM);
    sigaddset(&late, SIGINT);
    pthread_sigmask(SIG_BLOCK, &late, NULL);
    uv_close((uv_handle_t *)&c->hup, NULL);
    uv_close((uv_handle_t *)&c->term, NULL);
    uv_close((uv_handle_t *)&c->interrupt, NULL);
    log_write(c->loop.log, LOG_INFO, "stopped", "up_ms=%llu",
              (unsigned long long)(loop_now(&c->loop) - c->started_ms));
    writer_close(c->writer);
    loop_stop(&c->loop);
}

static void on_admin_closed(void *arg)
{
    struct control *c = arg;
    c->admin_closed = true;
    close_loop(c);
}

void control_on_all_quiet(struct worker *w)
{
    struct control *c = w->control;
    if (++c->pools_quiet < c->n_workers)
        return;
    post_all(c, offsetof(struct worker, leave));
    post(&c->dialer_loop, &c->dialer_leave);
    for (unsigned i = 0; i < c->n_workers; i++)
        worker_join(&c->workers[i]);
    pthread_join(c->dialer_thread, NULL);
    for (unsigned i = 0; i < c->n_workers; i++)
        worker_fini(&c->workers[i]);
    loop_fini(&c->dialer_loop);
    c->phase = CONTROL_GONE;
    if (c->admin)
        admin_close(c->admin, on_admin_closed, c);
    else
        on_admin_closed(c);
}
