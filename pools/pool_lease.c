/* SPDX-License-Identifier: MIT */
/*
 * Leases and waiters of one worker.
 *
 *   pool_lease -> take (idle, checked out | spare capacity) -> granted
 *              -> queue -> ledger: a dial, a move            -> pool_ready -> granted later
 *   pool_give_back -> driver settles -> keep | reset | verify | drop -> pool_ready or server_close
 *
 * Callbacks of waiters run at the end of the loop's turn, never inside another caller's give-back,
 * so that no caller finds its own objects changed under it.
 */
#include "pools/pool.h"

#include <stdlib.h>

#include "health/deadline.h"
#include "pools/pool_private.h"

/* Share a server among this many leases before asking for one more. */
#define SHARE_COMFORT 32

static void note_waiters(struct pool *p)
{
    struct list *first = list_first(&p->waiters);
    if (first)
        atomic_store(&p->books->oldest_ms, OWNER(first, struct waiter, node)->since_ms);
    atomic_store(&p->books->wholes, p->n_wholes);
    atomic_store(&p->books->fresh, p->n_fresh);
    atomic_store(&p->books->waiters, p->n_waiters);
    counter_set(&p->stats.waiting, p->n_waiters);
}

static void enqueue(struct pool *p, struct waiter *w)
{
    w->state = WAITER_QUEUED;
    list_push_back(&p->waiters, &w->node);
    p->n_waiters++;
    p->n_wholes += w->exclusive;
    p->n_fresh += w->fresh;
    note_waiters(p);
}

static void dequeue(struct waiter *w)
{
    CHECK(w->state == WAITER_QUEUED);
    struct pool *p = w->pool;
    list_remove(&w->node);
    w->state = WAITER_NONE;
    loop_timer_stop(p->loop, &w->timer);
    p->n_waiters--;
    p->n_wholes -= w->exclusive;
    p->n_fresh -= w->fresh;
    note_waiters(p);
}

/* How many may wait here while so many servers are on their way, or may be: `waiters` bounds those
   who wait because all servers are taken. `each`: how many of them one server serves at once. */
static uint64_t queue_room(const struct pool *p, unsigned coming, unsigned each)
{
    unsigned n = p->ledger->n_workers;
    return (p->conf->size.waiters + n - 1) / n + (uint64_t)coming * each;
}

/* ---- granting ---- */

static void grant(struct pool *p, struct server *sv, struct waiter *w)
{
    CHECK(sv->leases < sv->capacity && !sv->exclusive);
    if (sv->state != SERVER_BUSY)
        server_move(sv, SERVER_BUSY);
    sv->leases++;
    sv->uses++;
    sv->lease_no = atomic_fetch_add(&p->ledger->leases, 1) + 1;
    sv->leased_ms = loop_now(p->loop);
    sv->leak_warned = false;
    if (!sv->permit && p->conf->n_endpoints > 1)
        sv->permit = ledger_service_trial(p->ledger, sv, loop_now(p->loop));
    if (w->exclusive || sv->capacity == 1) {
        sv->exclusive = true;
        sv->holder_ops = w->holder_ops;
        sv->holder = w->holder;
        sv->leased_us = loop_usec(p->loop);
        sv->lease_in = sv->lease_out = 0;
    }
    w->server = sv;
    counter_add(&p->stats.leases, 1);
    counter_add(&p->stats.leased, 1);
}

/* Takes the server out of the pool's hands if it is not fit to be leased now. */
static bool checkout(struct pool *p, struct server *sv)
{
    enum outcome bad = server_outdated(sv);
    if (bad == OUTCOME_KEEP && sv->die_ms && loop_now(p->loop) >= sv->die_ms)
        bad = OUTCOME_DROP_LIFETIME;
    else if (pool_gate(p, sv) == SERVICE_SHUT)
        bad = OUTCOME_DROP_BREAKER;
    if (bad == OUTCOME_KEEP &&
        (loop_now(p->loop) < p->wary_until_ms ||
         elapsed_ms(loop_now(p->loop), sv->idle_ms) >= p->conf->check.checkout_after_ms)) {
        switch (io_probe(&sv->io)) {
        case IO_PEEK_QUIET:
            server_verdict(sv, PHASE_CHECKOUT, OUTCOME_KEEP);
            return true;
        case IO_PEEK_BYTES:
            bad = OUTCOME_DROP_UNREAD;
            break;
        case IO_PEEK_EOF:
            bad = OUTCOME_DROP_EOF;
            break;
        }
    }
    if (bad == OUTCOME_KEEP)
        return true;
    server_verdict(sv, PHASE_CHECKOUT, bad);
    server_close(sv, bad, false);
    return false;
}

/* An endpoint's service is to be tried: its server first, or it would wait behind all others. If
 * there is none, one comes; the server idle longest makes room. */
static struct server *take_trial(struct pool *p)
{
    if (!ledger_try(p->ledger, p->worker, loop_now(p->loop)) && p->idle.next != p->idle.prev) {
        struct server *last = OWNER(p->idle.prev, struct server, node);
        server_verdict(last, PHASE_IDLE, OUTCOME_DROP_SURPLUS);
        server_close(last, OUTCOME_DROP_SURPLUS, false);
    }
    LIST_EACH(n, &p->idle) {
        struct server *sv = OWNER(n, struct server, node);
        if (pool_gate(p, sv) == SERVICE_TRIES && checkout(p, sv))
            return sv;
    }
    return NULL;
}

static struct server *take_idle(struct pool *p, bool fresh)
{
    struct list *n;
    bool shut = p->conf->n_endpoints > 1 && atomic_load(&p->ledger->service_shut);
    struct server *trial = shut ? take_trial(p) : NULL;
    if (trial)
        return trial;
    while ((n = list_first(&p->idle))) {
        struct server *sv = OWNER(n, struct server, node);
        if (fresh && server_is_stale(sv, loop_now(p->loop)))
            return NULL; /* so are the others: the latest come first */
        if (checkout(p, sv))
            return sv;
    }
    return NULL;
}

/* The least loaded server that others use already and that has room. */
static struct server *take_shared(struct pool *p)
{
    struct server *best = NULL;
    LIST_EACH(n, &p->busy) {
        struct server *sv = OWNER(n, struct server, node);
        if (sv->exclusive || sv->leaving || sv->retire != OUTCOME_KEEP ||
            sv->leases >= sv->capacity || pool_gate(p, sv) == SERVICE_SHUT)
            continue;
        if (!best || sv->leases < best->leases)
            best = sv;
    }
    return best;
}

/* Exclusive use of what could be shared is a class of its own, with its own bound. */
bool pool_may_pin(struct pool *p, const struct server *sv)
{
    return sv->capacity == 1 || ledger_pin(p->ledger);
}

struct server *pool_take(struct pool *p, const struct waiter *w)
{
    struct server *shared = w->exclusive ? NULL : take_shared(p);
    if (shared && shared->leases < SHARE_COMFORT)
        return shared;
    struct server *sv = take_idle(p, w->fresh);
    if (sv && (!w->exclusive || pool_may_pin(p, sv)))
        return sv;
    if (shared) {
        ledger_grow(p->ledger, p->worker, loop_now(p->loop));
        return shared;
    }
    return NULL;
}

struct server *pool_take_stale(struct pool *p, const struct waiter *w)
{
    struct waiter any = {.exclusive = w->exclusive};
    return w->fresh ? pool_take(p, &any) : NULL;
}

void pool_make_room(struct pool *p)
{
    struct list *last = p->idle.prev;
    /* One for each that wants it; a slot that is coming free will do. */
    if (list_empty(&p->idle) || counter_get(&p->stats.closing) >= p->n_fresh)
        return;
    struct server *sv = OWNER(last, struct server, node);
    server_verdict(sv, PHASE_IDLE, OUTCOME_DROP_IDLE);
    server_close(sv, OUTCOME_DROP_IDLE, false);
}

/* All shared servers are in use: let the least loaded one run empty for whoever needs all of it. */
void pool_free_one_up(struct pool *p)
{
    struct server *best = NULL;
    LIST_EACH(n, &p->busy) {
        struct server *sv = OWNER(n, struct server, node);
        if (sv->exclusive || sv->capacity == 1)
            continue;
        if (sv->leaving)
            return;
        if (!best || sv->leases < best->leases)
            best = sv;
    }
    if (best)
        best->leaving = true;
}

static void on_waiter_timeout(struct timer *t);

static enum lease_result refuse_full(struct pool *p, struct waiter *w)
{
    err_set(&w->err, CAUSE_QUEUE_FULL, STAGE_WAIT, 0,
            "pool %s: %u clients wait already for its %u servers (size.waiters)", p->ledger->name,
            p->n_waiters, p->conf->size.max);
    return LEASE_REFUSED;
}

/* What is idle has been so for too long. Hopeless: no new one can be had, so the old one is taken
   (true). */
static bool freshen(struct pool *p, struct waiter *w, bool hopeless)
{
    if (atomic_load(&p->ledger->paused))
        return false;
    struct server *sv = hopeless ? pool_take_stale(p, w) : NULL;
    if (sv) {
        dequeue(w);
        grant(p, sv, w);
    } else if (!hopeless) {
        pool_make_room(p);
    }
    return sv != NULL;
}

/* It waits as long as the pool is patient, or for what it has left itself. */
static void set_deadline(struct pool *p, struct waiter *w, uint64_t patience_ms)
{
    uint64_t due = deadline_earlier(w->due_ms, deadline_after(w->since_ms, patience_ms));
    if (due)
        timer_set(&p->loop->timers, &w->timer, due);
}

static __attribute__((noinline)) enum lease_result queue_up(struct pool *p, struct waiter *w)
{
    if (p->stopping) {
        err_set(&w->err, CAUSE_DRAINING, STAGE_WAIT, 0, "carpool is stopping");
        return LEASE_REFUSED;
    }
    /* More than all servers that can be on their way: the books need not be asked. */
    unsigned each = p->shares && !w->exclusive ? SHARE_COMFORT : 1;
    if (p->n_waiters >= queue_room(p, p->conf->size.max, each))
        return refuse_full(p, w);
    w->since_us = loop_usec(p->loop);
    w->since_ms = loop_now(p->loop);
    list_init(&w->node);
    timer_init(&w->timer, on_waiter_timeout);
    enqueue(p, w);
    struct ledger_outlook look;
    ledger_look(p->ledger, p->worker, w->since_ms, &look);
    bool full = p->n_waiters > queue_room(p, p->n_waiters - look.stuck, each);
    if (w->fresh && freshen(p, w, full || look.shut))
        return LEASE_GRANTED;
    if (full) {
        dequeue(w);
        return refuse_full(p, w);
    }
    w->failures_at = look.dial_failures;
    if (p->conf->on_down == ON_DOWN_FAIL && look.live == 0 && look.shut) {
        dequeue(w);
        err_set(&w->err, CAUSE_BREAKER_OPEN, STAGE_WAIT, 0, "pool %s: not dialing for now: %.90s",
                p->ledger->name, look.last_dial.note);
        return LEASE_REFUSED;
    }
    set_deadline(p, w, p->conf->size.acquire_timeout_ms);
    if (w->exclusive && p->shares)
        pool_free_one_up(p);
    counter_add(&p->stats.waits, 1);
    pool_rearm(p, look.retry_ms > w->since_ms ? look.retry_ms - w->since_ms : 100);
    return LEASE_WAITING;
}

enum lease_result pool_lease(struct pool *p, struct waiter *w)
{
    CHECK_MAGIC(p, POOL_MAGIC);
    CHECK(w->state == WAITER_NONE);
    w->pool = p;
    w->server = NULL;
    w->err.cause = CAUSE_NONE;
    w->since_us = 0; /* it does not wait so far */
    /* Who wants a whole server may wait long: who shares does not queue up behind. */
    bool first = p->n_waiters - p->n_fresh == (w->exclusive ? 0 : p->n_wholes) && !p->stopping;
    if (first && !atomic_load_explicit(&p->ledger->paused, memory_order_relaxed)) {
        struct server *sv = pool_take(p, w);
        if (sv) {
            grant(p, sv, w);
            hist_record(&p->stats.acquire, 0);
            return LEASE_GRANTED;
        }
    }
    return queue_up(p, w);
}

/* ---- callbacks of waiters, at the end of the turn ---- */

void pool_settle_waiter(struct waiter *w, struct server *sv, const struct err *err)
{
    struct pool *p = w->pool;
    dequeue(w);
    hist_record(&p->stats.acquire, loop_usec(p->loop) - w->since_us);
    if (sv) {
        grant(p, sv, w);
        sv->holder_ops = NULL; /* no events before on_lease: the holder does not know of it yet */
    } else {
        w->err = *err;
    }
    w->state = WAITER_SETTLED;
    list_push_back(&p->settled, &w->node);
    loop_defer(p->loop, &p->deliver);
}

void pool_deliver(struct deferred *d)
{
    struct pool *p = OWNER(d, struct pool, deliver);
    struct list *n;
    while ((n = list_first(&p->settled))) {
        struct waiter *w = OWNER(n, struct waiter, node);
        list_remove(n);
        w->state = WAITER_NONE;
        if (w->server && w->server->exclusive)
            w->server->holder_ops = w->holder_ops;
        w->on_lease(w);
    }
}

void pool_cancel(struct waiter *w)
{
    switch (w->state) {
    case WAITER_NONE:
        return;
    case WAITER_QUEUED:
        dequeue(w);
        return;
    case WAITER_SETTLED:
        list_remove(&w->node);
        w->state = WAITER_NONE;
        if (w->server)
            pool_give_back(&w->server);
        return;
    }
}

/* Nothing can be had now, whoever waits, and that is no reason to give up: the upstream is down, or
 * an operator holds the pool for a moment (a planned switchover). */
static bool is_outage(const struct pool *p, const struct ledger_outlook *look, bool paused)
{
    return p->conf->on_down == ON_DOWN_WAIT &&
           (paused || (look->down && !look->refused && !look->busy));
}

static void say_why(const struct waiter *w, uint64_t now, const struct ledger_outlook *look,
                    bool paused, bool outage, struct err *err)
{
    const struct pool *p = w->pool;
    const char *name = p->ledger->name;
    if (paused) {
        err_set(err, CAUSE_PAUSED, STAGE_WAIT, 0, "pool %s is paused, for longer than %llu ms",
                name, (unsigned long long)(now - w->since_ms));
    } else if (outage) {
        pool_outage_err(w, now, look, err);
    } else if (look->down || look->unanswered.cause != CAUSE_NONE) {
        const struct err *dial = look->down ? &look->last_dial : &look->unanswered;
        err_set(err, dial->cause, STAGE_WAIT, 0, "pool %s: %.120s", name, dial->note);
    } else if (look->group_max) {
        err_set(err, CAUSE_ACQUIRE_TIMEOUT, STAGE_WAIT, 0,
                "pool %s: no server within %llu ms: %u here, %u waiting, and all %u of the group "
                "are taken (size.total)",
                name, (unsigned long long)(now - w->since_ms), look->live, p->n_waiters,
                look->group_max);
    } else {
        err_set(err, CAUSE_ACQUIRE_TIMEOUT, STAGE_WAIT, 0,
                "pool %s: no server free within %llu ms (%u of %u in use, %u waiting)", name,
                (unsigned long long)(now - w->since_ms), look->live, p->conf->size.max,
                p->n_waiters);
    }
}

bool pool_why_waiting(const struct waiter *w, struct err *err)
{
    struct ledger_outlook look;
    if (w->state != WAITER_QUEUED)
        return false;
    const struct pool *p = w->pool;
    uint64_t now = loop_now(p->loop);
    ledger_look(p->ledger, p->worker, now, &look);
    say_why(w, now, &look, atomic_load(&p->ledger->paused), is_outage(p, &look, false), err);
    return true;
}

static void on_waiter_timeout(struct timer *t)
{
    struct waiter *w = OWNER(t, struct waiter, timer);
    struct pool *p = w->pool;
    struct ledger_outlook look;
    uint64_t now = loop_now(p->loop);
    ledger_look(p->ledger, p->worker, now, &look);
    struct err err;
    bool paused = atomic_load(&p->ledger->paused);
    bool outage = !deadline_passed(w->due_ms, now) && is_outage(p, &look, paused);
    uint64_t patience_ms = p->conf->timeouts.outage_wait_ms;
    if (outage && now - w->since_ms < patience_ms) {
        set_deadline(p, w, patience_ms);
        return;
    }
    say_why(w, now, &look, paused, outage, &err);
    pool_settle_waiter(w, NULL, &err);
}
