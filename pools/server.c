/* SPDX-License-Identifier: MIT */
#include "pools/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pools/pool_private.h"
#include "proxy/core/sm.h"

static const struct sm_row rows[SERVER_STATES] = {
#define TO(s) SM_TO(SERVER_##s)
    [SERVER_DIALING] = {"dialing", TO(CHECKING)},
    [SERVER_TRAVELLING] = {"travelling", TO(CHECKING)},
    [SERVER_IDLE] = {"idle", TO(BUSY) | TO(CHECKING) | TO(TRAVELLING) | TO(CLOSING)},
    [SERVER_BUSY] = {"busy", TO(IDLE) | TO(CHECKING) | TO(TRAVELLING) | TO(CLOSING)},
    [SERVER_CHECKING] = {"checking", TO(IDLE) | TO(BUSY) | TO(TRAVELLING) | TO(CLOSING)},
    [SERVER_CLOSING] = {"closing", TO(GONE)},
    [SERVER_GONE] = {"gone", 0},
#undef TO
};

const char *server_state_name(enum server_state state)
{
    CHECK((unsigned)state < SERVER_STATES);
    return rows[state].name;
}

bool server_fits_target(const struct server *sv)
{
    switch (sv->conf->target) {
    case TARGET_PRIMARY:
        return sv->role != ROLE_STANDBY;
    case TARGET_REPLICA:
    case TARGET_PREFER_REPLICA:
        return sv->role != ROLE_PRIMARY;
    case TARGET_ANY:
        break;
    }
    return true;
}

enum outcome server_outdated(struct server *sv)
{
    if (sv->retire != OUTCOME_KEEP)
        return sv->retire;
    if (sv->generation != atomic_load(&sv->ledger->generation))
        return OUTCOME_DROP_RECYCLED;
    if (!server_fits_target(sv) && !atomic_load(&sv->ledger->makes_do))
        return OUTCOME_DROP_UNFIT;
    if (name_has_left(&sv->place))
        return OUTCOME_DROP_MOVED;
    return OUTCOME_KEEP;
}

const char *server_role_word(enum server_role role)
{
    static const char *const words[] = {NULL, "primary", "standby"};
    return words[role];
}

/* ---- the one mover ---- */

static struct counter *count_of(struct pool *p, enum server_state state)
{
    switch (state) {
    case SERVER_IDLE:
        return &p->stats.idle;
    case SERVER_BUSY:
        return &p->stats.busy;
    case SERVER_CHECKING:
        return &p->stats.checking;
    case SERVER_CLOSING:
        return &p->stats.closing;
    case SERVER_DIALING:
    case SERVER_TRAVELLING:
    case SERVER_GONE:
    case SERVER_STATES:
        break;
    }
    return NULL;
}

/* A ping is no work: the server keeps its age and its place behind those used later, or the tail of
   the pool would be used in turn and idle_timeout never come. */
static void rest(struct pool *p, struct server *sv, bool pinged)
{
    struct list *at = &p->idle;
    if (!pinged)
        sv->idle_ms = loop_now(p->loop);
    else
        for (at = p->idle.prev; at != &p->idle; at = at->prev)
            if (OWNER(at, struct server, node)->idle_ms >= sv->idle_ms)
                break;
    list_insert_between(&sv->node, at, at->next);
}

void server_move(struct server *sv, enum server_state to)
{
    CHECK_MAGIC(sv, SERVER_MAGIC);
    CHECK(sm_allows(rows, sv->state, to));
    struct pool *p = sv->pool;
    bool pinged = sv->state == SERVER_CHECKING && sv->check_phase == PHASE_IDLE &&
                  sv->check_step == OUTCOME_VERIFY;
    struct counter *from_count = count_of(p, sv->state), *to_count = count_of(p, to);
    if (from_count) {
        counter_sub(from_count, 1);
        list_remove(&sv->node);
    }
    if (sv->state == SERVER_IDLE)
        atomic_fetch_sub(&p->books->idle, 1);
    sv->state = to;
    if (to_count)
        counter_add(to_count, 1);
    switch (to) {
    case SERVER_IDLE:
        rest(p, sv, pinged);
        atomic_fetch_add(&p->books->idle, 1);
        break;
    case SERVER_BUSY:
        list_push_back(&p->busy, &sv->node);
        break;
    case SERVER_CHECKING:
        list_push_back(&p->checking, &sv->node);
        break;
    case SERVER_CLOSING:
        list_push_back(&p->closing, &sv->node);
        break;
    case SERVER_TRAVELLING:
    case SERVER_GONE:
        sv->pool = NULL;
        break;
    case SERVER_DIALING:
    case SERVER_STATES:
        break;
    }
}

/* ---- bytes ---- */

ssize_t server_read(struct server *sv, void *buf, size_t cap)
{
    ssize_t n = io_read(&sv->io, buf, cap);
    if (n > 0)
        server_note_read(sv, (size_t)n);
    return n;
}

void server_note_read(struct server *sv, size_t n)
{
    counter_add(&sv->pool->stats.from_servers, n);
    sv->lease_out += n;
}

bool server_sendv(struct server *sv, const struct iovec *iov, int n)
{
    size_t total = 0;
    for (int i = 0; i < n; i++)
        total += iov[i].iov_len;
    counter_add(&sv->pool->stats.to_servers, total);
    sv->lease_in += total;
    return io_sendv(&sv->io, iov, n);
}

bool server_send(struct server *sv, const void *p, size_t n)
{
    counter_add(&sv->pool->stats.to_servers, n);
    sv->lease_in += n;
    return io_send(&sv->io, p, n);
}

void server_lost_err(const struct server *sv, ssize_t n, struct err *err)
{
    const char *who = sv->endpoint->label;
    if (n == 0)
        err_set(err, CAUSE_UPSTREAM_CLOSED, STAGE_EXCHANGE, 0, "%s closed the connection", who);
    else
        err_set(err, CAUSE_UPSTREAM_CLOSED, STAGE_EXCHANGE, (int)-n,
                "the connection to %s was lost: %s", who, strerror((int)-n));
}

/* Bytes that no exclusive lease owns: the driver's. */
static void feed(struct server *sv)
{
    struct loop *loop = sv->io.loop;
    ssize_t n = server_read(sv, loop->scratch, LOOP_READ_MAX);
    if (n == -EAGAIN)
        return;
    struct err err;
    bool shared = sv->state == SERVER_BUSY;
    /* A lease of nobody's: the driver may end all others and still finds its server here. */
    sv->leases += shared;
    if (n > 0) {
        bool well = sv->ops->feed(sv, span_of(loop->scratch, (size_t)n), &err);
        if (well && shared && --sv->leases == 0)
            pool_settle_server(sv->pool, sv, sv->ops->settle(sv));
        if (well)
            return;
        if (shared)
            goto lost;
        server_verdict(sv, sv->state == SERVER_CHECKING ? sv->check_phase : PHASE_IDLE,
                       OUTCOME_DROP_UNREAD);
        server_close(sv, OUTCOME_DROP_UNREAD, false);
        return;
    }
    server_lost_err(sv, n, &err);
    if (shared)
        goto lost;
    server_verdict(sv, sv->state == SERVER_CHECKING ? sv->check_phase : PHASE_IDLE,
                   OUTCOME_DROP_EOF);
    server_close(sv, OUTCOME_DROP_EOF, true);
    return;
lost:
    /* Every lease ends through its holder; the last give-back closes it. */
    sv->retire = n > 0 ? OUTCOME_DROP_PROTOCOL : OUTCOME_DROP_EOF;
    pool_unsettle(sv->pool, sv, &err);
    if (sv->ops->lost)
        sv->ops->lost(sv, &err);
    CHECK(sv->leases == 1);
    sv->leases = 0;
    server_close(sv, sv->retire, n <= 0);
}

static void gone(struct server *sv, bool abandoned);

static void drain_to_eof(struct server *sv)
{
    struct loop *loop = sv->io.loop;
    for (int i = 0; i < 16; i++) {
        ssize_t n = io_read(&sv->io, loop->scratch, LOOP_READ_MAX);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            gone(sv, false);
            return;
        }
    }
}

static void on_readable(struct io *io)
{
    struct server *sv = OWNER(io, struct server, io);
    CHECK_MAGIC(sv, SERVER_MAGIC);
    if (sv->state == SERVER_CLOSING)
        drain_to_eof(sv);
    else if (!sv->exclusive)
        feed(sv);
    else if (sv->holder_ops) /* else later: it raises its event until it is read */
        sv->holder_ops->on_readable(sv);
}

static void on_drained(struct io *io)
{
    struct server *sv = OWNER(io, struct server, io);
    if (sv->exclusive) {
        if (sv->holder_ops && sv->holder_ops->on_drained)
            sv->holder_ops->on_drained(sv);
    } else if (sv->ops->drained && sv->state != SERVER_CLOSING) {
        sv->ops->drained(sv);
    }
}

static const struct io_ops server_io_ops = {.on_readable = on_readable, .on_drained = on_drained};

/* ---- arriving, leaving ---- */

static void on_check_timeout(struct timer *t);

void server_adopt(struct server *sv, struct pool *p)
{
    bool fresh = sv->state == SERVER_DIALING;
    sv->pool = p;
    sv->home = p->worker;
    timer_init(&sv->timer, on_check_timeout);
    server_move(sv, SERVER_CHECKING);
    uint64_t now = loop_now(p->loop);
    if (fresh) {
        sv->born_ms = sv->verified_ms = now;
        sv->die_ms =
            p->conf->size.max_lifetime_ms
                ? now + lifetime_jitter(p->conf->size.max_lifetime_ms, jitter_seed(uv_hrtime()))
                : 0;
        sv->capacity = sv->ops->arrive(sv);
        CHECK(sv->capacity >= 1);
        p->shares = sv->capacity > 1;
        log_write(p->loop->log, LOG_INFO, "server_open", "pool=%s server=%u endpoint=%s worker=%u",
                  p->ledger->name, sv->id, sv->endpoint->label, p->worker);
    } else {
        counter_add(&p->stats.moved_in, 1);
    }
    sv->check_phase = PHASE_IDLE;
    sv->check_step = OUTCOME_KEEP; /* a ping of before the journey is no ping here */
    if (!io_attach(&sv->io, p->loop, &server_io_ops)) {
        server_close(sv, OUTCOME_DROP_FAILED, true);
        return;
    }
    pool_ready(p, sv);
}

static void on_travelled(struct post_msg *msg)
{
    struct server *sv = OWNER(msg, struct server, msg);
    struct pool *p = sv->ledger->workers[sv->home].pool;
    server_adopt(sv, p);
    ledger_arrived(p->ledger, p->worker, loop_now(p->loop));
}

void server_send_away(struct server *sv, unsigned worker)
{
    CHECK(sv->leases == 0 && sv->holds == 0);
    struct pool *p = sv->pool;
    io_detach(&sv->io);
    server_move(sv, SERVER_TRAVELLING);
    sv->home = worker;
    sv->leaving = false;
    post_init(&sv->msg, on_travelled, NULL);
    post(sv->ledger->workers[worker].loop, &sv->msg);
    pool_maybe_quiet(p);
}

/* ---- checks: a reset, a round trip ---- */

void server_verdict(struct server *sv, enum phase phase, enum outcome outcome)
{
    counter_add(&sv->pool->stats.verdicts[phase][outcome], 1);
}

void server_check(struct server *sv, enum phase phase, enum outcome step)
{
    struct pool *p = sv->pool;
    if (sv->state != SERVER_CHECKING)
        server_move(sv, SERVER_CHECKING);
    sv->check_phase = phase;
    sv->check_step = step;
    if (p->conf->check.timeout_ms)
        loop_timer_set(p->loop, &sv->timer, p->conf->check.timeout_ms);
    const char *statement =
        p->conf->check.on_return == CHECK_STATEMENT ? p->conf->check.statement : NULL;
    if (step == OUTCOME_RESET)
        sv->ops->reset(sv);
    else
        sv->ops->verify(sv, phase == PHASE_RETURN ? statement : NULL);
}

static void on_check_timeout(struct timer *t)
{
    struct server *sv = OWNER(t, struct server, timer);
    if (sv->state == SERVER_CLOSING) {
        gone(sv, true);
        return;
    }
    server_verdict(sv, sv->check_phase, OUTCOME_DROP_TIMEOUT);
    server_close(sv, OUTCOME_DROP_TIMEOUT, false);
}

void server_checked(struct server *sv, bool well, enum outcome why_not)
{
    CHECK(sv->state == SERVER_CHECKING);
    struct pool *p = sv->pool;
    loop_timer_stop(p->loop, &sv->timer);
    if (!well) {
        log_write(p->loop->log, LOG_WARN, "check_failed", "pool=%s server=%u phase=%s outcome=%s",
                  p->ledger->name, sv->id, phase_word(sv->check_phase), outcome_word(why_not));
        server_verdict(sv, sv->check_phase, why_not);
        server_close(sv, why_not, false);
        return;
    }
    sv->verified_ms = loop_now(p->loop);
    if (sv->check_step == OUTCOME_RESET && p->conf->check.on_return != CHECK_FAST) {
        server_check(sv, sv->check_phase, OUTCOME_VERIFY);
        return;
    }
    server_verdict(sv, sv->check_phase, OUTCOME_KEEP);
    pool_ready(p, sv);
}

/* ---- holds ---- */

void server_hold(struct server *sv)
{
    if (sv->holds++ == 0)
        sv->pool->n_held++;
}

void server_release_hold(struct server *sv)
{
    CHECK(sv->holds > 0);
    if (--sv->holds > 0)
        return;
    struct pool *p = sv->ledger->workers[sv->home].pool;
    CHECK(p->n_held > 0);
    p->n_held--;
    if (sv->state == SERVER_GONE)
        loop_defer(sv->ledger->workers[sv->home].loop, &sv->after);
    else if (sv->state == SERVER_CHECKING && sv->check_step == OUTCOME_KEEP)
        pool_settle_server(sv->pool, sv, sv->ops->settle(sv));
    else if (sv->exclusive && sv->holder_ops && sv->holder_ops->on_unheld)
        sv->holder_ops->on_unheld(sv);
    pool_maybe_quiet(p);
}

/* ---- the end ---- */

void server_retire(struct server *sv, enum outcome why)
{
    CHECK(outcome_drops(why));
    if (sv->retire == OUTCOME_KEEP)
        sv->retire = why;
    if (sv->state == SERVER_IDLE)
        server_close(sv, why, false);
}

void server_free(struct server *sv)
{
    snapshot_drop(&sv->snap);
    name_leave(&sv->place);
    sv->magic = 0;
    free(sv);
}

static void on_after(struct deferred *d)
{
    struct server *sv = OWNER(d, struct server, after);
    CHECK(sv->state == SERVER_GONE && sv->holds == 0 && sv->leases == 0);
    server_free(sv);
}

/* The peer has closed, or had its time: the slot is free. */
static void gone(struct server *sv, bool abandoned)
{
    struct pool *p = sv->pool;
    loop_timer_stop(p->loop, &sv->timer);
    int fd = io_release(&sv->io);
    if (fd >= 0 && !sv->library_fd)
        close(fd);
    sv->ops->fini(sv);
    log_write(p->loop->log, abandoned ? LOG_WARN : LOG_DEBUG, "server_gone",
              "pool=%s server=%u abandoned=%s", p->ledger->name, sv->id, abandoned ? "yes" : "no");
    server_move(sv, SERVER_GONE);
    deferred_init(&sv->after, on_after);
    if (sv->holds == 0)
        loop_defer(p->loop, &sv->after);
    ledger_freed(p->ledger, sv, abandoned, loop_now(p->loop));
    pool_maybe_quiet(p);
}

void server_close(struct server *sv, enum outcome why, bool eof)
{
    CHECK(sv->leases == 0);
    struct pool *p = sv->pool;
    loop_timer_stop(p->loop, &sv->timer);
    log_write(p->loop->log, LOG_INFO, "server_close", "pool=%s server=%u reason=%s uses=%llu",
              p->ledger->name, sv->id, outcome_word(why), (unsigned long long)sv->uses);
    server_move(sv, SERVER_CLOSING);
    /* One that goes by itself is seldom the only one: an upstream that restarts. */
    if (why == OUTCOME_DROP_EOF || why == OUTCOME_DROP_UNREAD || why == OUTCOME_DROP_CLOSING)
        p->wary_until_ms = loop_now(p->loop) + WARY_MS;
    if (sv->uses || eof)
        ledger_wasted(p->ledger, sv->uses == 0);
    ledger_closing(p->ledger);
    if (eof || !sv->io.watch) {
        gone(sv, false);
        return;
    }
    sv->exclusive = false;
    io_resume(&sv->io);
    sv->ops->goodbye(sv);
    io_shutdown(&sv->io);
    loop_timer_set(p->loop, &sv->timer, pool_close_ms(p));
}
