/* SPDX-License-Identifier: MIT */
/*
 * What a pool does without being asked: idle servers are pinged, shrunk and replaced, waiters are
 * told when waiting has become pointless, orders from control are obeyed, and the pool ends.
 */
#include <stdio.h>
#include <stdlib.h>

#include "pools/pool_private.h"

#define TICK_MS 1000
#define TICK_WAITING_MS 100
#define TRIAL_IDLE_MS 1000 /* a server for trials that nobody comes to: another worker's turn */
#define KILL_GRACE_MS 500  /* for the end-of-file of servers, past the drain's deadline */

void pool_rearm(struct pool *p, uint64_t in_ms)
{
    if (in_ms < 1)
        in_ms = 1;
    uint64_t due = loop_now(p->loop) + in_ms;
    if (!timer_armed(&p->tick) || due < p->tick.due)
        timer_set(&p->loop->timers, &p->tick, due);
}

/* ---- waiters ---- */

bool pool_is_refused(const struct err *dial)
{
    return dial->cause == CAUSE_UPSTREAM_AUTH || dial->cause == CAUSE_NO_ROUTE ||
           dial->cause == CAUSE_TLS_FAILED || dial->cause == CAUSE_DENIED;
}

void pool_outage_err(const struct waiter *w, uint64_t now, const struct ledger_outlook *look,
                     struct err *err)
{
    err_set(err, CAUSE_OUTAGE, STAGE_WAIT, 0, "pool %s: no server for %llu ms: %.90s",
            w->pool->ledger->name, (unsigned long long)(now - w->since_ms), look->last_dial.note);
}

/* Nothing is live and dials fail: with on_down: fail a waiter is told as soon as waiting has become
   pointless, else after outage_wait. */
void pool_judge_waiters(struct pool *p)
{
    if (!p->n_waiters)
        return;
    struct ledger_outlook look;
    uint64_t now = loop_now(p->loop);
    ledger_look(p->ledger, p->worker, now, &look);
    pool_rearm(p, look.retry_ms > now && look.retry_ms - now < TICK_WAITING_MS ? look.retry_ms - now
                                                                               : TICK_WAITING_MS);
    if (atomic_load(&p->ledger->paused))
        return;
    /* No new server can be had for now: one that is idle is better than none. */
    LIST_EACH(n, &p->waiters) {
        struct waiter *w = OWNER(n, struct waiter, node);
        bool hopeless = look.shut || look.dial_failures != w->failures_at;
        struct server *sv = hopeless ? pool_take_stale(p, w) : NULL;
        if (sv)
            pool_settle_waiter(w, sv, NULL);
    }
    if (!look.down)
        return;
    bool patient = p->conf->on_down == ON_DOWN_WAIT;
    LIST_EACH(n, &p->waiters) {
        struct waiter *w = OWNER(n, struct waiter, node);
        struct err err;
        if (look.refused)
            err_set(&err, look.last_dial.cause, look.last_dial.stage, look.last_dial.sys,
                    "pool %s: %.120s", p->ledger->name, look.last_dial.note);
        else if (patient && !look.busy && now - w->since_ms >= p->conf->timeouts.outage_wait_ms)
            pool_outage_err(w, now, &look, &err);
        else if (patient)
            continue;
        else if (look.shut)
            err_set(&err, CAUSE_BREAKER_OPEN, STAGE_WAIT, 0, "pool %s: not dialing for now: %.90s",
                    p->ledger->name, look.last_dial.note);
        else if (look.dial_failures - w->failures_at >= p->conf->retry.attempts)
            err_set(&err, look.last_dial.cause, look.last_dial.stage, look.last_dial.sys,
                    "pool %s: %.120s", p->ledger->name, look.last_dial.note);
        else
            continue;
        pool_settle_waiter(w, NULL, &err);
    }
}

/* ---- idle servers ---- */

static enum outcome idle_verdict(struct pool *p, struct server *sv, uint64_t now)
{
    enum outcome outdated = server_outdated(sv);
    if (outdated != OUTCOME_KEEP)
        return outdated;
    if (sv->die_ms && now >= sv->die_ms)
        return OUTCOME_DROP_LIFETIME;
    if (p->over_max && ledger_above_max(p->ledger))
        return OUTCOME_DROP_SURPLUS;
    enum service_gate gate = pool_gate(p, sv);
    if (gate == SERVICE_SHUT ||
        (gate == SERVICE_TRIES && elapsed_ms(now, sv->idle_ms) >= TRIAL_IDLE_MS))
        return OUTCOME_DROP_BREAKER;
    uint64_t idle = p->conf->size.idle_timeout_ms;
    if (idle && elapsed_ms(now, sv->idle_ms) >= idle && ledger_above_min(p->ledger))
        return OUTCOME_DROP_IDLE;
    if (p->conf->check.idle_ms && elapsed_ms(now, sv->verified_ms) >= p->conf->check.idle_ms)
        return OUTCOME_VERIFY;
    return OUTCOME_KEEP;
}

/* Those idle so long that others may have them; looks again when there is one more. */
static void count_stale(struct pool *p, uint64_t now)
{
    unsigned n = 0;
    for (struct list *at = p->idle.prev; at != &p->idle; at = at->prev, n++) {
        uint64_t idle = elapsed_ms(now, OWNER(at, struct server, node)->idle_ms);
        if (idle < GROUP_REST_MS) {
            pool_rearm(p, GROUP_REST_MS - idle);
            break;
        }
    }
    atomic_store(&p->books->stale, n);
}

/* Other pools of the group are short of servers: those idle longest go first. */
static void shed_idle(struct pool *p, uint64_t now)
{
    if (!ledger_is_tight(p->ledger) || list_empty(&p->idle))
        return;
    count_stale(p, now);
    ledger_tend(p->ledger, now);
    while (!list_empty(&p->idle) && ledger_sheds(p->ledger, now)) {
        struct server *sv = OWNER(p->idle.prev, struct server, node);
        server_verdict(sv, PHASE_IDLE, OUTCOME_DROP_SURPLUS);
        server_close(sv, OUTCOME_DROP_SURPLUS, false);
    }
}

static void tend_idle(struct pool *p, uint64_t now)
{
    shed_idle(p, now);
    /* Set aside first: one that passes its check at once may make room for a waiter, at another's
       cost. */
    struct list due, *n;
    list_init(&due);
    LIST_EACH(i, &p->idle) {
        if (idle_verdict(p, OWNER(i, struct server, node), now) == OUTCOME_KEEP)
            continue;
        list_remove(i);
        list_push_back(&due, i);
    }
    while ((n = list_first(&due))) {
        struct server *sv = OWNER(n, struct server, node);
        list_remove(n);
        list_push_back(&p->idle, n);
        enum outcome o = idle_verdict(p, sv, now);
        if (o == OUTCOME_KEEP)
            continue;
        if (o == OUTCOME_VERIFY) {
            server_check(sv, PHASE_IDLE, OUTCOME_VERIFY);
            continue;
        }
        server_verdict(sv, PHASE_IDLE, o);
        server_close(sv, o, false);
    }
    if (p->over_max && !ledger_above_max(p->ledger))
        p->over_max = false;
}

/* A shared server under steady load never comes free by itself: of those that are to go, one at a
 * time takes no new leases. */
static void tend_shared(struct pool *p, uint64_t now)
{
    struct server *old = NULL;
    enum outcome why = OUTCOME_KEEP;
    LIST_EACH(n, &p->busy) {
        struct server *sv = OWNER(n, struct server, node);
        if (sv->exclusive)
            continue;
        if (sv->retire != OUTCOME_KEEP)
            return;
        enum outcome outdated = server_outdated(sv);
        if (outdated != OUTCOME_KEEP)
            why = outdated;
        else if (sv->die_ms && now >= sv->die_ms)
            why = OUTCOME_DROP_LIFETIME;
        else if (!sv->permit && pool_gate(p, sv) == SERVICE_SHUT)
            why = OUTCOME_DROP_BREAKER;
        else if (!old && p->over_max && ledger_above_max(p->ledger))
            why = OUTCOME_DROP_SURPLUS;
        else if (!old && ledger_is_tight(p->ledger) && ledger_sheds(p->ledger, now))
            why = OUTCOME_DROP_SURPLUS;
        else
            continue;
        old = sv;
    }
    if (old)
        server_retire(old, why);
}

/* The names lead elsewhere: nothing more for servers that are where they led before. */
static void retire_moved(struct pool *p)
{
    LIST_EACH(n, &p->busy) {
        struct server *sv = OWNER(n, struct server, node);
        if (name_has_left(&sv->place))
            server_retire(sv, OUTCOME_DROP_MOVED);
    }
}

/* At its bound on servers of the second best role, the pool lets one go, if it is time to look for
   better ones again: one that is idle, else the next to come free. */
static void make_way(struct pool *p, uint64_t now)
{
    if (!atomic_load(&p->ledger->makes_do))
        return;
    struct list *const lists[] = {&p->idle, &p->busy};
    for (unsigned i = 0; i < ARRAY_LEN(lists); i++)
        for (struct list *n = lists[i]->prev; n != lists[i]; n = n->prev) {
            struct server *sv = OWNER(n, struct server, node);
            if (server_fits_target(sv) || sv->retire != OUTCOME_KEEP)
                continue;
            if (ledger_wants_room(p->ledger, now))
                server_retire(sv, OUTCOME_DROP_UNFIT);
            return;
        }
}

/* None of those may be leased once more; each goes when its last lease ends. */
static void retire_renewed(struct pool *p)
{
    unsigned renewed = atomic_load(&p->ledger->renewed);
    if (p->seen_renewed == renewed)
        return;
    p->seen_renewed = renewed;
    LIST_EACH(n, &p->busy) {
        struct server *sv = OWNER(n, struct server, node);
        if ((int)(sv->generation - renewed) < 0)
            server_retire(sv, OUTCOME_DROP_RECYCLED);
    }
}

static void warn_of_leaks(struct pool *p, uint64_t now)
{
    uint64_t after = p->conf->check.leak_after_ms;
    if (!after)
        return;
    LIST_EACH(n, &p->busy) {
        struct server *sv = OWNER(n, struct server, node);
        if (!sv->exclusive || sv->leak_warned || now - sv->leased_ms < after)
            continue;
        sv->leak_warned = true;
        log_write(p->loop->log, LOG_WARN, "lease_long", "pool=%s server=%u lease=%u held_ms=%llu",
                  p->ledger->name, sv->id, sv->lease_no, (unsigned long long)(now - sv->leased_ms));
    }
}

/* ---- the tick ---- */

static void tell_service(struct pool *p, uint64_t now)
{
    budget_request(&p->budget, now, p->requests);
    p->requests = 0;
    pool_tell_successes(p);
}

void pool_tick(struct timer *t)
{
    struct pool *p = OWNER(t, struct pool, tick);
    uint64_t now = loop_now(p->loop);
    if (!p->stopping) {
        tend_idle(p, now);
        retire_moved(p);
        tend_shared(p, now);
        make_way(p, now);
        warn_of_leaks(p, now);
        tell_service(p, now);
        ledger_tend(p->ledger, now);
        pool_rearm(p, TICK_MS);
    }
    pool_judge_waiters(p);
    CHECK(pool_ok(p));
}

bool pool_ok(const struct pool *p)
{
    unsigned n = 0;
    LIST_EACH(w, &p->waiters)
        n++;
    return n == p->n_waiters && atomic_load(&p->books->waiters) == n && p->n_wholes <= n &&
           atomic_load(&p->books->idle) == counter_get(&p->stats.idle);
}

#define NEWS_PER_S 10

/* Breakers that have moved, over all workers; who reads must learn of it once. */
static void say_news(struct pool *p)
{
    struct ledger_news n;
    unsigned lost;
    while (p->worker == 0 && ledger_next_news(p->ledger, &n, &lost)) {
        uint32_t left_out;
        p->news.left_out += lost;
        if (!log_quota_take(&p->news, loop_now(p->loop), NEWS_PER_S, &left_out))
            continue;
        char tail[32] = "", cause[48] = "", why[200] = "";
        if (left_out)
            snprintf(tail, sizeof tail, " left_out=%u", left_out);
        if (n.cause != CAUSE_NONE)
            snprintf(cause, sizeof cause, " cause=%s", cause_word(n.cause));
        if (n.why[0])
            snprintf(why, sizeof why, " reason=\"%s\"", n.why);
        log_write(p->loop->log, n.to == BREAKER_OPEN ? LOG_WARN : LOG_INFO, "breaker",
                  "pool=%s breaker=%s endpoint=%s to=%s from=%s rule=%s held_ms=%llu%s%s%s",
                  p->ledger->name, breaker_role_word(n.role), n.endpoint, breaker_state_word(n.to),
                  breaker_state_word(n.from), breaker_reason_word(n.reason),
                  (unsigned long long)n.held_ms, cause, why, tail);
    }
}

/* ---- orders ---- */

void pool_ask(struct pool *p)
{
    post_once(p->loop, &p->ask);
}

/* Other workers wait: hand over what is idle here. */
static void pay_what_is_owed(struct pool *p)
{
    for (;;) {
        struct list *n = list_first(&p->idle);
        struct server *sv = n ? OWNER(n, struct server, node) : NULL;
        int to = ledger_owed(p->ledger, p->worker, sv != NULL, loop_now(p->loop));
        if (to < 0)
            return;
        server_send_away(sv, (unsigned)to);
    }
}

static void take_conf(struct pool *p)
{
    struct snapshot *fresh;
    const struct pool_conf *conf = ledger_conf(p->ledger, &fresh);
    if (conf != p->conf) {
        p->over_max = true;
        budget_reconf(&p->budget, conf->retry.budget, pool_budget_floor(p));
    }
    p->conf = conf;
    snapshot_drop(&p->snap);
    p->snap = fresh;
}

void pool_obey(struct post_msg *ask)
{
    struct pool *p = OWNER(ask, struct pool, ask);
    if (!p->stopping)
        take_conf(p);
    retire_renewed(p);
    say_news(p);
    pay_what_is_owed(p);
    if (p->stopping) {
        pool_maybe_quiet(p);
        return;
    }
    pool_serve(p);
    tend_idle(p, loop_now(p->loop));
    ledger_tend(p->ledger, loop_now(p->loop));
}

/* ---- the end ---- */

static void on_quiet(struct deferred *d)
{
    struct pool *p = OWNER(d, struct pool, quiet);
    if (!list_empty(&p->settled)) {
        loop_defer(p->loop, &p->quiet);
        return;
    }
    loop_timer_stop(p->loop, &p->tick);
    p->on_quiet(p, p->quiet_arg);
}

/* No server here, and none on its way to here. */
static bool is_quiet(struct pool *p)
{
    if (!list_empty(&p->idle) || !list_empty(&p->busy) || !list_empty(&p->checking) ||
        !list_empty(&p->closing) || !list_empty(&p->waiters) || p->n_held)
        return false;
    struct ledger_view view;
    ledger_view(p->ledger, &view);
    /* Dials and travellers hold slots; whose they are does not matter: all pools end together. */
    return view.open == 0;
}

void pool_maybe_quiet(struct pool *p)
{
    if (!p->stopping || p->quiet.run || !is_quiet(p))
        return;
    p->quiet.run = on_quiet;
    loop_defer(p->loop, &p->quiet);
    /* The slot that came free last may be what the other workers wait for. */
    for (unsigned i = 0; i < p->ledger->n_workers; i++)
        if (p->ledger->workers[i].pool != p)
            post_once(p->ledger->workers[i].loop, &p->ledger->workers[i].pool->ask);
}

void pool_stop(struct pool *p, void (*quiet)(struct pool *, void *), void *arg)
{
    bool again = p->stopping;
    p->stopping = true;
    p->on_quiet = quiet;
    p->quiet_arg = arg;
    if (again) {
        if (p->quiet.run)
            loop_defer(p->loop, &p->quiet);
        return;
    }
    ledger_stop(p->ledger);
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_WAIT, 0, "carpool is stopping");
    LIST_EACH(n, &p->waiters)
        pool_settle_waiter(OWNER(n, struct waiter, node), NULL, &err);
    struct list *n;
    while ((n = list_first(&p->idle)))
        server_close(OWNER(n, struct server, node), OUTCOME_DROP_DRAINING, false);
    LIST_EACH(c, &p->checking)
        server_close(OWNER(c, struct server, node), OUTCOME_DROP_DRAINING, false);
    pay_what_is_owed(p);
    pool_maybe_quiet(p);
}

uint64_t pool_close_ms(const struct pool *p)
{
    uint64_t ms = p->conf->timeouts.close_ms;
    return p->killing && ms > KILL_GRACE_MS ? KILL_GRACE_MS : ms;
}

void pool_kill(struct pool *p)
{
    p->killing = true;
    struct err err;
    err_set(&err, CAUSE_KILLED, STAGE_EXCHANGE, 0, "carpool has stopped");
    LIST_EACH(n, &p->busy) {
        struct server *sv = OWNER(n, struct server, node);
        if (sv->exclusive && sv->holder_ops)
            sv->holder_ops->on_lost(sv, &err);
    }
    LIST_EACH(n, &p->closing) {
        struct server *sv = OWNER(n, struct server, node);
        loop_timer_set(p->loop, &sv->timer, KILL_GRACE_MS);
    }
}
