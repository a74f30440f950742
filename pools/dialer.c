/* SPDX-License-Identifier: MIT */
#include "pools/dialer.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "pools/ledger.h"
#include "pools/name_dial.h"
#include "pools/password_dial.h"
#include "pools/pool_private.h"
#include "pools/server.h"

#define LINGER_READS 16 /* a turn */

void dialer_init(struct dialer *d, struct loop *loop)
{
    d->loop = loop;
    d->stopping = false;
    atomic_store(&d->born, 0);
    list_init(&d->dials);
    list_init(&d->passwords);
    list_init(&d->names);
}

static void on_dial_timeout(struct timer *t)
{
    struct server *sv = OWNER(t, struct server, dial_timer);
    struct err err;
    err_set(&err, CAUSE_DIAL_FAILED, STAGE_CONNECT, ETIMEDOUT, "%s did not answer within %llu ms",
            sv->endpoint->label, (unsigned long long)sv->conf->timeouts.connect_ms);
    sv->ops->dial_abort(sv, &err);
}

static void killed(struct err *err)
{
    err_set(err, CAUSE_KILLED, STAGE_CONNECT, 0, "carpool is stopping");
}

static void on_dial(struct post_msg *msg)
{
    struct server *sv = OWNER(msg, struct server, msg);
    struct dialer *d = sv->ledger->dialer;
    list_push_back(&d->dials, &sv->dial_node);
    if (d->stopping) {
        struct err err;
        killed(&err);
        server_dialed(sv, &err);
        return;
    }
    if (sv->conf->timeouts.connect_ms)
        loop_timer_set(d->loop, &sv->dial_timer, sv->conf->timeouts.connect_ms);
    sv->ops->dial(sv, d->loop);
}

void dialer_stop(struct dialer *d)
{
    d->stopping = true;
    struct err err;
    killed(&err);
    struct list *n;
    while ((n = list_first(&d->dials))) {
        struct server *sv = OWNER(n, struct server, dial_node);
        if (sv->linger)
            server_dialed(sv, &sv->err);
        else
            sv->ops->dial_abort(sv, &err);
        if (list_first(&d->dials) == n) /* lingers now: no time for that */
            server_dialed(sv, &sv->err);
    }
    password_stop(d);
    name_stop(d);
}

bool dialer_start(struct dialer *d, struct ledger *l, const struct pool_conf *conf,
                  struct snapshot *snap, const struct dial_order *order)
{
    CHECK(l->ops->server_size >= sizeof(struct server));
    struct server *sv = calloc(1, l->ops->server_size);
    if (!sv) {
        snapshot_drop(&snap);
        return false;
    }
    sv->magic = SERVER_MAGIC;
    sv->id = atomic_fetch_add(&d->born, 1) + 1;
    sv->ops = l->ops;
    sv->ledger = l;
    sv->home = order->home;
    sv->promised = order->promised;
    sv->picky = order->picky;
    sv->anew = order->anew;
    sv->generation = order->generation;
    sv->retire = OUTCOME_KEEP;
    sv->snap = snap;
    sv->conf = conf;
    sv->endpoint_at = order->endpoint;
    sv->turn = order->turn;
    sv->endpoint = &conf->endpoints[order->endpoint];
    sv->io.fd = -1;
    list_init(&sv->node);
    list_init(&sv->dial_node);
    timer_init(&sv->dial_timer, on_dial_timeout);
    post_init(&sv->msg, on_dial, NULL);
    post(d->loop, &sv->msg);
    return true;
}

/* ---- lingering: the peer may still count a socket that we gave up ---- */

struct dial_linger {
    struct server *sv;
    struct loop *loop;
    struct io io;
};

static void linger_end(struct dial_linger *lg)
{
    struct server *sv = lg->sv;
    io_close(&lg->io);
    sv->linger = NULL;
    free(lg);
    timer_stop(&sv->ledger->dialer->loop->timers, &sv->dial_timer);
}

static void linger_readable(struct io *io)
{
    struct dial_linger *lg = OWNER(io, struct dial_linger, io);
    ssize_t n = 1;
    for (unsigned i = 0; i < LINGER_READS && n > 0; i++) /* it may send as fast as we read */
        n = io_read(io, lg->loop->scratch, LOOP_READ_MAX);
    if (n > 0 || n == -EAGAIN)
        return;
    struct server *sv = lg->sv;
    server_dialed(sv, &sv->err);
}

static void linger_timeout(struct timer *t)
{
    struct server *sv = OWNER(t, struct server, dial_timer);
    sv->abandoned = true;
    server_dialed(sv, &sv->err);
}

static const struct io_ops linger_ops = {.on_readable = linger_readable};

void dialer_linger(struct server *sv, struct loop *loop, int fd, const struct err *err)
{
    sv->err = *err;
    struct dial_linger *lg = calloc(1, sizeof *lg);
    loop_timer_stop(loop, &sv->dial_timer);
    if (fd >= 0 && lg) {
        lg->sv = sv;
        lg->loop = loop;
        io_init(&lg->io, fd, NULL);
        io_shutdown(&lg->io);
        if (io_attach(&lg->io, loop, &linger_ops)) {
            sv->linger = lg;
            timer_init(&sv->dial_timer, linger_timeout);
            loop_timer_set(loop, &sv->dial_timer, sv->conf->timeouts.close_ms);
            return;
        }
    }
    free(lg);
    if (fd >= 0)
        close(fd);
    server_dialed(sv, &sv->err);
}

/* ---- the end of a dial ---- */

static void on_home(struct post_msg *msg)
{
    struct server *sv = OWNER(msg, struct server, msg);
    struct ledger *l = sv->ledger;
    struct pool *p = l->workers[sv->home].pool;
    bool well = sv->err.cause == CAUSE_NONE;
    struct err err = sv->err;
    ledger_dialed(l, sv, well ? NULL : &err, loop_now(p->loop));
    if (well) {
        bool promised = sv->promised;
        unsigned home = sv->home;
        server_adopt(sv, p);
        if (promised)
            ledger_arrived(l, home, loop_now(p->loop));
        else
            ledger_tend(l, loop_now(p->loop));
        return;
    }
    log_write(p->loop->log, LOG_WARN, "dial_failed",
              "pool=%s server=%u endpoint=%s cause=%s stage=%s reason=\"%s\"", l->name, sv->id,
              sv->endpoint->label, cause_word(err.cause), stage_word(err.stage), err.note);
    pool_count_error(p, err.cause);
    server_free(sv);
    pool_judge_waiters(p);
    pool_maybe_quiet(p);
}

void server_dialed(struct server *sv, const struct err *err)
{
    CHECK(sv->state == SERVER_DIALING);
    struct loop *loop = sv->ledger->dialer->loop;
    loop_timer_stop(loop, &sv->dial_timer);
    if (err && err != &sv->err)
        sv->err = *err;
    else if (!err)
        sv->err.cause = CAUSE_NONE;
    if (sv->linger)
        linger_end(sv->linger);
    list_remove(&sv->dial_node);
    post_init(&sv->msg, on_home, NULL);
    post(sv->ledger->workers[sv->home].loop, &sv->msg);
}
