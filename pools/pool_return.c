/* SPDX-License-Identifier: MIT */
/*
 * Servers come free: the lease's end, the driver's verdict, and who gets the server next: the
 * oldest waiter here, another worker's that waits notably longer, or the idle list.
 */
#include "pools/pool_private.h"

/* ---- a server comes free ---- */

static struct waiter *next_waiter(struct pool *p, struct server *sv)
{
    struct list *n = list_first(&p->waiters);
    if (!n)
        return NULL;
    struct waiter *w = OWNER(n, struct waiter, node);
    bool stale = server_is_stale(sv, loop_now(p->loop));
    while (stale && w->fresh) {
        if ((n = n->next) == &p->waiters)
            return NULL;
        w = OWNER(n, struct waiter, node);
    }
    if (!w->exclusive || pool_may_pin(p, sv))
        return w;
    /* The class of exclusive leases is full: whoever shares may go first. */
    LIST_EACH(m, &p->waiters) {
        w = OWNER(m, struct waiter, node);
        if (!w->exclusive)
            return w;
    }
    return NULL;
}

static bool give_away(struct pool *p, struct server *sv)
{
    if (!atomic_load_explicit(&p->books->foreign, memory_order_seq_cst))
        return false;
    int to = ledger_foreign(p->ledger, p->worker, loop_now(p->loop));
    if (to < 0)
        return false;
    server_send_away(sv, (unsigned)to);
    return true;
}

/* Asking counts: whoever is told to go is the one. */
static enum outcome fit(struct pool *p, struct server *sv)
{
    enum outcome outdated = server_outdated(sv);
    if (outdated != OUTCOME_KEEP)
        return outdated;
    if (p->stopping)
        return OUTCOME_DROP_DRAINING;
    if (sv->die_ms && loop_now(p->loop) >= sv->die_ms)
        return OUTCOME_DROP_LIFETIME;
    if (p->over_max && ledger_above_max(p->ledger))
        return OUTCOME_DROP_SURPLUS;
    if (pool_gate(p, sv) == SERVICE_SHUT)
        return OUTCOME_DROP_BREAKER;
    if (io_unsent(&sv->io))
        return OUTCOME_DROP_DIRTY; /* it could not travel */
    if (ledger_is_tight(p->ledger) && ledger_sheds(p->ledger, loop_now(p->loop)))
        return OUTCOME_DROP_SURPLUS;
    return OUTCOME_KEEP;
}

static void put_to_use(struct pool *p, struct server *sv, enum outcome why)
{
    sv->leaving = false;
    if (why != OUTCOME_KEEP) {
        server_close(sv, why, false);
        return;
    }
    bool paused = atomic_load(&p->ledger->paused);
    if (!paused && give_away(p, sv))
        return;
    struct waiter *w = paused ? NULL : next_waiter(p, sv);
    if (!w) {
        server_move(sv, SERVER_IDLE);
        if (p->n_fresh && !paused)
            pool_make_room(p);
        /* Someone elsewhere may have looked before this was counted as idle. */
        bool tight = ledger_is_tight(p->ledger);
        if (tight || atomic_load(&p->books->foreign))
            ledger_tend(p->ledger, loop_now(p->loop));
        if (tight)
            pool_rearm(p, GROUP_REST_MS);
        return;
    }
    pool_settle_waiter(w, sv, NULL);
    if (p->n_waiters && sv->capacity > 1)
        pool_serve(p);
}

void pool_ready(struct pool *p, struct server *sv)
{
    put_to_use(p, sv, fit(p, sv));
}

void pool_serve(struct pool *p)
{
    if (atomic_load(&p->ledger->paused))
        return;
    bool wholes = true; /* there may be one to give as a whole */
    LIST_EACH(n, &p->waiters) {
        struct waiter *w = OWNER(n, struct waiter, node);
        if (w->exclusive && !wholes)
            continue;
        struct server *sv = pool_take(p, w);
        if (sv)
            pool_settle_waiter(w, sv, NULL);
        else if (w->fresh)
            pool_make_room(p);
        else if (!w->exclusive || p->n_waiters == p->n_wholes)
            return;
        else
            wholes = false;
    }
}

/* ---- giving back ---- */

void pool_settle_server(struct pool *p, struct server *sv, enum outcome outcome)
{
    if (outcome_drops(outcome) || sv->retire != OUTCOME_KEEP) {
        enum outcome why = outcome_drops(outcome) ? outcome : sv->retire;
        server_verdict(sv, PHASE_RETURN, why);
        server_close(sv, why, false);
        return;
    }
    if (sv->holds) {
        /* A cancel is on its way to it: nobody else's work may run there until that has ended. */
        if (sv->state != SERVER_CHECKING)
            server_move(sv, SERVER_CHECKING);
        sv->check_phase = PHASE_RETURN;
        sv->check_step = OUTCOME_KEEP;
        return;
    }
    if (outcome == OUTCOME_KEEP) {
        enum check_return policy = p->conf->check.on_return;
        if (policy == CHECK_VERIFIED || policy == CHECK_STATEMENT)
            outcome = OUTCOME_VERIFY;
        else if (policy == CHECK_CLEAN)
            outcome = OUTCOME_RESET;
    }
    if (outcome != OUTCOME_KEEP) {
        server_check(sv, PHASE_RETURN, outcome);
        return;
    }
    outcome = fit(p, sv);
    server_verdict(sv, PHASE_RETURN, outcome);
    put_to_use(p, sv, outcome);
}

/* Ends one lease; true if it was the server's last. */
static bool end_lease(struct server *sv)
{
    struct pool *p = sv->pool;
    CHECK_MAGIC(sv, SERVER_MAGIC);
    CHECK(sv->state == SERVER_BUSY && sv->leases > 0);
    counter_sub(&p->stats.leased, 1);
    if (sv->exclusive) {
        uint64_t now = loop_usec(p->loop);
        hist_record(&p->stats.exchange, now - sv->leased_us);
        sv->exclusive = false;
        sv->holder_ops = NULL;
        sv->holder = NULL;
        sv->verified_ms = loop_now(p->loop);
        io_resume(&sv->io);
        if (sv->capacity > 1)
            ledger_unpin(p->ledger, loop_now(p->loop));
    }
    if (--sv->leases)
        return false;
    pool_end_trial(p, sv);
    return true;
}

void pool_give_back(struct server **svp)
{
    struct server *sv = *svp;
    *svp = NULL;
    struct pool *p = sv->pool;
    if (end_lease(sv)) {
        pool_settle_server(p, sv, sv->ops->settle(sv));
        return;
    }
    /* A shared server never comes free under steady load: let one run empty for another worker. */
    if (!sv->leaving && atomic_load_explicit(&p->books->foreign, memory_order_relaxed) &&
        list_empty(&p->idle))
        pool_free_one_up(p);
    if (p->n_waiters && !sv->leaving && sv->retire == OUTCOME_KEEP)
        pool_serve(p);
}

void pool_drop(struct server **svp, enum outcome why)
{
    struct server *sv = *svp;
    *svp = NULL;
    CHECK(outcome_drops(why));
    if (sv->retire == OUTCOME_KEEP)
        sv->retire = why;
    if (!end_lease(sv))
        return;
    server_verdict(sv, PHASE_RETURN, why);
    server_close(sv, why, why == OUTCOME_DROP_EOF);
}

void pool_unsettle(struct pool *p, struct server *sv, const struct err *err)
{
    LIST_EACH(n, &p->settled) {
        struct waiter *w = OWNER(n, struct waiter, node);
        if (w->server != sv)
            continue;
        w->server = NULL;
        w->err = *err;
        (void)end_lease(sv);
    }
}
