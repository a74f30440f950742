/* SPDX-License-Identifier: MIT */
#include "proxy/front/session.h"

#include <stdio.h>
#include <stdlib.h>

#include "proxy/front/front_private.h"

static void on_timer(struct timer *t)
{
    struct session *s = OWNER(t, struct session, timer);
    s->gate->ops->on_deadline(s);
}

void session_init(struct session *s)
{
    timer_init(&s->timer, on_timer);
}

bool session_move(struct session *s, struct route *to)
{
    struct route *from = s->route;
    CHECK(to->front == from->front && to->head == from && s->in_flight == 0);
    if (to->closing || !ledger_join(pool_ledger(to->pool)))
        return false;
    list_remove(&s->node);
    counter_set(&from->clients, --from->n_sessions);
    s->route = to;
    list_push_back(&to->sessions, &s->node);
    counter_set(&to->clients, ++to->n_sessions);
    counter_add(&to->accepted, 1);
    route_maybe_empty(from);
    return true;
}

void session_deadline(struct session *s, uint64_t in_ms)
{
    if (in_ms)
        loop_timer_set(session_loop(s), &s->timer, in_ms);
    else if (timer_armed(&s->timer))
        loop_timer_stop(session_loop(s), &s->timer);
}

struct pool *session_pool(const struct session *s)
{
    return s->route->pool;
}

const char *session_peer(const struct session *s, char *buf, size_t cap)
{
    if (s->peer)
        return io_addr_text(s->peer, sizeof s->addr, buf, cap);
    snprintf(buf, cap, "unix");
    return buf;
}

#define LINES_PER_S 20 /* of one cause, pool and worker */
#define LEFT_OUT_MAX 32

/* Whether there is room in the log for one more of its kind; `tail` is what else the line says. */
static bool may_log(struct session *s, enum cause cause, char tail[LEFT_OUT_MAX])
{
    uint32_t left_out;
    tail[0] = '\0';
    if (!log_quota_take(&s->route->said[cause], loop_now(session_loop(s)), LINES_PER_S, &left_out))
        return false;
    if (left_out)
        snprintf(tail, LEFT_OUT_MAX, " left_out=%u", left_out);
    return true;
}

void session_error(struct session *s, const struct err *err)
{
    char tail[LEFT_OUT_MAX];
    pool_count_error(s->route->pool, err->cause);
    if (may_log(s, err->cause, tail))
        log_write(session_loop(s)->log, LOG_INFO, "client_error",
                  "pool=%s conn=%u cause=%s reason=\"%s\"%s", pool_ledger(s->route->pool)->name,
                  s->id, cause_word(err->cause), err->note, tail);
}

static uint32_t share(const struct session *s, uint32_t total)
{
    unsigned n = s->route->front->n_workers;
    return (total + n - 1) / n;
}

/* A bucket of one second's worth, kept as one time: when it would be empty again. */
static bool within_rate(struct route *r, uint32_t per_second)
{
    uint64_t now = loop_usec(r->front->loop), gap = 1000000 / per_second;
    uint64_t due = r->rate_due_us > now ? r->rate_due_us : now;
    if (due + gap > now + 1000000)
        return false;
    r->rate_due_us = due + gap;
    return true;
}

bool session_admit(struct session *s, struct err *err)
{
    struct route *r = s->route;
    const struct limits_conf *limits = &s->gate->conf->limits;
    const char *name = pool_ledger(r->pool)->name;
    if (limits->in_flight && r->in_flight >= share(s, limits->in_flight))
        return err_set(err, CAUSE_OVERLOADED, STAGE_CLIENT, 0,
                       "pool %s: %u exchanges are under way already (limits.in_flight)", name,
                       limits->in_flight);
    if (limits->rate && !within_rate(r, share(s, limits->rate)))
        return err_set(err, CAUSE_RATE_LIMITED, STAGE_CLIENT, 0,
                       "pool %s: more than %u exchanges a second (limits.rate)", name,
                       limits->rate);
    r->in_flight++;
    s->in_flight++;
    return true;
}

void session_exchange_over(struct session *s)
{
    CHECK(s->in_flight > 0 && s->route->in_flight > 0);
    s->in_flight--;
    s->route->in_flight--;
}

void session_after(struct deferred *d)
{
    struct session *s = OWNER(d, struct session, after);
    struct route *r = s->route;
    gate_drop(&s->gate);
    free(s->refusal);
    s->magic = 0;
    free(s);
    route_maybe_empty(r);
    front_maybe_quiet(r->front);
}

void session_close(struct session *s, const struct err *err)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    if (s->closed)
        return;
    s->closed = true;
    struct loop *loop = session_loop(s);
    struct route *r = s->route;
    char peer[64], tail[LEFT_OUT_MAX];
    const char *name = pool_ledger(r->pool)->name;
    if (err) {
        pool_count_error(r->pool, err->cause);
        if (may_log(s, err->cause, tail))
            log_write(loop->log, LOG_INFO, "client_closed",
                      "pool=%s conn=%u client=%s cause=%s reason=\"%s\"%s", name, s->id,
                      session_peer(s, peer, sizeof peer), cause_word(err->cause), err->note, tail);
    } else {
        log_write(loop->log, LOG_DEBUG, "client_closed", "pool=%s conn=%u client=%s", name, s->id,
                  session_peer(s, peer, sizeof peer));
    }
    loop_timer_stop(loop, &s->timer);
    s->gate->ops->fini(s, err);
    CHECK(r->in_flight >= s->in_flight);
    r->in_flight -= s->in_flight;
    s->in_flight = 0;
    io_close(&s->io);
    list_remove(&s->node);
    r->n_sessions--;
    counter_set(&r->clients, r->n_sessions);
    if (s->counted)
        atomic_fetch_sub(&pool_ledger(route_door(r)->pool)->clients, 1);
    if (r->head)
        ledger_part(pool_ledger(r->pool));
    atomic_fetch_sub(&r->front->clients, 1);
    loop_defer(loop, &s->after);
}
