/* SPDX-License-Identifier: MIT */
#include "proxy/front/front.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/front/front_private.h"

#define ACCEPT_PAUSE_MS 100 /* after EMFILE: local trouble, retried quietly */
#define PAUSE_LINES_PER_S 1 /* in the log, for all doors of a worker */
#define HAND_OVER_LEAD 4    /* clients more than the least busy worker before one is passed on */

/* One address on one worker. */
struct door {
    struct route *route;
    struct io io; /* the listening socket; on_readable: a client waits */
    struct list node;
    struct timer pause;
    struct gate *gate;
    const struct listen_conf *conf;
};

/* ---- sessions come in ---- */

static struct gate *gate_take(struct gate *g)
{
    snapshot_take(&g->snap);
    return g;
}

static void on_readable(struct io *io)
{
    struct session *s = OWNER(io, struct session, io);
    CHECK_MAGIC(s, SESSION_MAGIC);
    s->gate->ops->on_readable(s);
}

static void on_drained(struct io *io)
{
    struct session *s = OWNER(io, struct session, io);
    s->gate->ops->on_drained(s);
}

static void on_hangup(struct io *io)
{
    struct session *s = OWNER(io, struct session, io);
    if (s->gate->ops->on_hangup)
        s->gate->ops->on_hangup(s);
}

static const struct io_ops session_io_ops = {
    .on_readable = on_readable,
    .on_drained = on_drained,
    .on_hangup = on_hangup,
};

static void session_after_nothing(struct session *s)
{
    io_close(&s->io);
    gate_drop(&s->gate);
    free(s->refusal);
    free(s);
}

/* One more client of the pool's, over all workers; false: it has as many as it may. Who is refused
   does not count while it is told so. */
static bool count_in(struct session *s)
{
    _Atomic uint32_t *clients = &pool_ledger(s->route->pool)->clients;
    uint32_t n = atomic_load(clients);
    do {
        if (n >= s->gate->conf->limits.clients)
            return false;
    } while (!atomic_compare_exchange_weak(clients, &n, n + 1));
    s->counted = true;
    return true;
}

/* Is it to be turned away? Then *why says so. */
static bool is_unwelcome(struct session *s, struct err *why)
{
    struct route *r = s->route;
    const struct ledger *l = pool_ledger(r->pool);
    if (atomic_load_explicit(&l->drained, memory_order_relaxed))
        return !err_set(why, CAUSE_DRAINING, STAGE_CLIENT, 0,
                        "an operator drains pool %s: it takes no clients for now", l->name);
    return !count_in(s) && !err_set(why, CAUSE_TOO_MANY_CLIENTS, STAGE_CLIENT, 0,
                                    "pool %s has its %u clients already (limits.clients)", l->name,
                                    s->gate->conf->limits.clients);
}

/* Before its relay knows of it. */
static void session_drop(struct session *s)
{
    struct front *f = s->route->front;
    log_write(f->loop->log, LOG_ERROR, "client_dropped", "pool=%s conn=%u reason=\"out of memory\"",
              pool_ledger(s->route->pool)->name, s->id);
    atomic_fetch_sub(&f->clients, 1);
    session_after_nothing(s);
    front_maybe_quiet(f);
}

/* On the worker it will stay on. */
static void session_start(struct session *s)
{
    struct route *r = s->route;
    struct front *f = r->front;
    struct err why;
    if (!io_attach(&s->io, f->loop, &session_io_ops)) {
        session_drop(s);
        return;
    }
    if (is_unwelcome(s, &why)) {
        s->refusal = malloc(sizeof *s->refusal);
        if (!s->refusal) {
            session_drop(s);
            return;
        }
        *s->refusal = why;
        counter_add(&r->refused, 1);
    }
    list_push_back(&r->sessions, &s->node);
    r->n_sessions++;
    counter_set(&r->clients, r->n_sessions);
    counter_add(&r->accepted, 1);
    s->since_ms = loop_now(f->loop);
    session_init(s);
    s->gate->ops->open(s);
    if ((f->draining || r->closing) && !s->closed) {
        s->draining = true;
        s->gate->ops->drain(s);
    }
}

static void on_discarded(struct post_msg *msg)
{
    struct session *s = OWNER(msg, struct session, msg);
    atomic_fetch_sub(&s->route->front->clients, 1);
    session_after_nothing(s);
}

/* A route that closes, and a front that drains, may have said already that nobody is left there. */
static void on_handed_over(struct post_msg *msg)
{
    struct session *s = OWNER(msg, struct session, msg);
    struct front *f = s->route->front;
    bool told = f->draining && !f->on_quiet;
    if (!s->route->closing && !told) {
        session_start(s);
        return;
    }
    on_discarded(msg);
    front_maybe_quiet(f);
}

/* ---- doors ---- */

struct route *route_on(const struct route *like, unsigned worker)
{
    struct front *f = like->front->peers[worker];
    struct route *found = NULL;
    pthread_mutex_lock(&f->mutex);
    LIST_EACH(n, &f->routes) {
        struct route *r = OWNER(n, struct route, node);
        if (pool_ledger(r->pool) == pool_ledger(like->pool))
            found = r;
    }
    pthread_mutex_unlock(&f->mutex);
    return found;
}

struct route *route_behind(const struct route *head, struct span key)
{
    LIST_EACH(n, &head->front->routes) {
        struct route *r = OWNER(n, struct route, node);
        if (r->head == head && span_eq(pool_ledger(r->pool)->key, key))
            return r;
    }
    return NULL;
}

/* Where the new client should live: here, unless another worker has notably fewer. */
static struct route *choose_worker(struct route *here)
{
    struct front *f = here->front, *best = f;
    for (unsigned i = 0; i < f->n_workers; i++)
        if (atomic_load(&f->peers[i]->clients) < atomic_load(&best->clients))
            best = f->peers[i];
    if (best == f || atomic_load(&f->clients) < atomic_load(&best->clients) + HAND_OVER_LEAD)
        return here;
    struct route *there = route_on(here, best->worker);
    return there ? there : here;
}

static void admit(struct door *d, int fd, const struct sockaddr_storage *peer)
{
    struct route *r = d->route;
    struct session *s = calloc(1, d->gate->ops->session_size);
    if (!s) {
        close(fd);
        return;
    }
    s->magic = SESSION_MAGIC;
    s->id = r->front->accepted++ * r->front->n_workers + r->front->worker + 1;
    s->gate = gate_take(d->gate);
    s->door = d->conf;
    if (peer->ss_family != AF_UNIX) {
        memcpy(&s->addr, peer, sizeof s->addr);
        s->peer = &s->addr.any;
    }
    list_init(&s->node);
    deferred_init(&s->after, session_after);
    io_init(&s->io, fd, NULL);
    s->route = choose_worker(r);
    atomic_fetch_add(&s->route->front->clients, 1);
    if (s->route == r) {
        session_start(s);
        return;
    }
    post_init(&s->msg, on_handed_over, on_discarded);
    post(s->route->front->loop, &s->msg);
}

static void on_pause_over(struct timer *t)
{
    struct door *d = OWNER(t, struct door, pause);
    io_resume(&d->io);
}

/* It stays readable all the while: looked at again after a moment, or this worker would spin. */
static void pause_door(struct door *d, int sys)
{
    struct front *f = d->route->front;
    uint32_t left_out;
    char tail[32] = "";
    if (log_quota_take(&f->pauses, loop_now(f->loop), PAUSE_LINES_PER_S, &left_out)) {
        if (left_out)
            snprintf(tail, sizeof tail, " left_out=%u", left_out);
        log_write(f->loop->log, LOG_WARN, "accept_paused", "listener=%s reason=\"%s\"%s",
                  d->conf->label, strerror(sys), tail);
    }
    io_pause(&d->io);
    loop_timer_set(f->loop, &d->pause, ACCEPT_PAUSE_MS);
}

static void on_client_waits(struct io *io)
{
    struct door *d = OWNER(io, struct door, io);
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof peer;
    int fd = accept4(io->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        admit(d, fd, &peer);
        return;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        pause_door(d, errno);
}

static const struct io_ops door_io_ops = {.on_readable = on_client_waits};

/* Clients' sockets inherit these from the one they are accepted on. */
static void tune(const struct route *r, int fd)
{
    struct snapshot *ref;
    const struct tcp_conf *tcp = &ledger_conf(pool_ledger(r->pool), &ref)->tcp;
    io_tune(fd, (unsigned)tcp->keepalive_ms, (unsigned)tcp->user_timeout_ms);
    snapshot_drop(&ref);
}

bool route_listen(struct route *r, const struct door_socket *socket)
{
    struct door *d = calloc(1, sizeof *d);
    if (!d)
        return false;
    d->route = r;
    d->gate = gate_take(socket->gate);
    d->conf = socket->conf;
    list_init(&d->node);
    timer_init(&d->pause, on_pause_over);
    /* Every worker polls the same socket through a descriptor of its own, for its io to close. */
    int fd = fcntl(socket->fd, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0 && !d->conf->unix_path)
        tune(r, fd);
    io_init(&d->io, fd, NULL);
    if (fd < 0 || !io_attach(&d->io, r->front->loop, &door_io_ops)) {
        io_close(&d->io);
        gate_drop(&d->gate);
        free(d);
        return false;
    }
    list_push_back(&r->doors, &d->node);
    return true;
}

static void door_close(struct door *d)
{
    loop_timer_stop(d->route->front->loop, &d->pause);
    io_close(&d->io);
    gate_drop(&d->gate);
    list_remove(&d->node);
    free(d);
}

void route_unlisten(struct route *r)
{
    LIST_EACH(n, &r->doors)
        door_close(OWNER(n, struct door, node));
}

/* ---- routes ---- */

static void on_empty(struct deferred *d)
{
    struct route *r = OWNER(d, struct route, empty);
    if (!list_empty(&r->sessions) || !r->on_empty)
        return;
    void (*cb)(struct route *, void *) = r->on_empty;
    r->on_empty = NULL;
    cb(r, r->empty_arg);
}

void route_maybe_empty(struct route *r)
{
    if (r->closing && list_empty(&r->sessions))
        loop_defer(r->front->loop, &r->empty);
}

static void drain_sessions(struct route *r)
{
    LIST_EACH(n, &r->sessions) {
        struct session *s = OWNER(n, struct session, node);
        s->draining = true;
        s->gate->ops->drain(s);
    }
}

static void on_mind(struct post_msg *msg)
{
    struct route *r = OWNER(msg, struct route, mind);
    if (atomic_load(&pool_ledger(r->pool)->drained)) {
        drain_sessions(r);
        return;
    }
    if (r->closing || r->front->draining)
        return;
    LIST_EACH(n, &r->sessions) /* who is still here stays */
        OWNER(n, struct session, node)->draining = false;
}

void route_mind(struct route *r)
{
    post_once(r->front->loop, &r->mind);
}

void route_close(struct route *r, void (*empty)(struct route *, void *), void *arg)
{
    r->closing = true;
    r->on_empty = empty;
    r->empty_arg = arg;
    route_unlisten(r);
    drain_sessions(r);
    route_maybe_empty(r);
}

void route_kill(struct route *r, const struct err *why)
{
    LIST_EACH(n, &r->sessions) {
        struct session *s = OWNER(n, struct session, node);
        if (s->gate->ops->kill)
            s->gate->ops->kill(s, why);
        else
            session_close(s, why);
    }
    while (!list_empty(&r->sessions)) /* they have heard why */
        session_close(OWNER(list_first(&r->sessions), struct session, node), NULL);
}

struct route *route_new(struct front *f, struct pool *pool, struct gate *gate)
{
    struct route *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->front = f;
    r->pool = pool;
    r->gate = gate_take(gate);
    list_init(&r->node);
    list_init(&r->sessions);
    list_init(&r->doors);
    deferred_init(&r->empty, on_empty);
    post_init(&r->mind, on_mind, NULL);
    if (gate->ops->state_new) {
        r->state = gate->ops->state_new();
        if (!r->state) {
            gate_drop(&r->gate);
            free(r);
            return NULL;
        }
    }
    LIST_EACH(n, &f->routes) {
        struct route *other = OWNER(n, struct route, node);
        if (pool_ledger(other->pool) == pool_ledger(pool)->head)
            r->head = other;
    }
    pthread_mutex_lock(&f->mutex);
    list_push_back(&f->routes, &r->node);
    pthread_mutex_unlock(&f->mutex);
    return r;
}

void route_regate(struct route *r, struct gate *gate)
{
    gate_drop(&r->gate);
    r->gate = gate_take(gate);
    LIST_EACH(n, &r->doors) {
        struct door *d = OWNER(n, struct door, node);
        for (size_t i = 0; i < gate->conf->n_listens; i++) {
            if (strcmp(gate->conf->listens[i].label, d->conf->label) != 0)
                continue;
            gate_drop(&d->gate);
            d->gate = gate_take(gate);
            d->conf = &gate->conf->listens[i];
            break;
        }
    }
}

void route_free(struct route *r)
{
    CHECK(list_empty(&r->sessions) && list_empty(&r->doors));
    if (r->gate->ops->state_free)
        r->gate->ops->state_free(r->state);
    gate_drop(&r->gate);
    pthread_mutex_lock(&r->front->mutex);
    list_remove(&r->node);
    pthread_mutex_unlock(&r->front->mutex);
    free(r);
}

/* ---- the front ---- */

static void on_quiet(struct deferred *d);

void front_init(struct front *f, struct loop *loop, unsigned worker, unsigned n_workers,
                struct front **peers)
{
    *f = (struct front){.loop = loop, .worker = worker, .n_workers = n_workers, .peers = peers};
    pthread_mutex_init(&f->mutex, NULL);
    list_init(&f->routes);
    list_init(&f->wishes);
    deferred_init(&f->quiet, on_quiet);
}

static void on_quiet(struct deferred *d)
{
    struct front *f = OWNER(d, struct front, quiet);
    if (atomic_load(&f->clients) == 0 && f->on_quiet) {
        void (*cb)(struct front *, void *) = f->on_quiet;
        f->on_quiet = NULL;
        cb(f, f->quiet_arg);
    }
}

void front_maybe_quiet(struct front *f)
{
    if (f->draining && f->on_quiet && atomic_load(&f->clients) == 0)
        loop_defer(f->loop, &f->quiet);
}

void front_drain(struct front *f, void (*quiet)(struct front *, void *), void *arg)
{
    f->draining = true;
    f->on_quiet = quiet;
    f->quiet_arg = arg;
    LIST_EACH(n, &f->routes) {
        struct route *r = OWNER(n, struct route, node);
        route_unlisten(r);
        drain_sessions(r);
    }
    front_maybe_quiet(f);
}

void front_kill(struct front *f)
{
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "carpool's drain deadline has passed");
    LIST_EACH(n, &f->routes) {
        route_kill(OWNER(n, struct route, node), &err);
    }
}
