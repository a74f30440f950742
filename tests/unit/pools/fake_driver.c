/* SPDX-License-Identifier: MIT */
#include "tests/unit/pools/fake_driver.h"

#include <stdlib.h>

#include "pools/dialer.h"
#include "pools/ledger.h"

static struct fake_world the_world;
static struct list all = {&all, &all}; /* under fake_lock() */

void fake_world_set(const struct fake_world *world)
{
    the_world = *world;
}

void fake_each_server(void (*each)(struct fake_server *fs, void *arg), void *arg)
{
    fake_lock();
    LIST_EACH(n, &all)
        each(OWNER(n, struct fake_server, all), arg);
    fake_unlock();
}

/* ---- dialing ---- */

static void forget(struct fake_server *fs)
{
    fake_lock();
    list_remove(&fs->all);
    fake_unlock();
}

static void fail(struct fake_server *fs, const struct err *err)
{
    struct err copy = *err;
    struct loop *loop = fs->base.ledger->dialer->loop;
    loop_timer_stop(loop, &fs->dial);
    int fd = fs->fd;
    fs->fd = -1;
    forget(fs);
    if (!fs->how.linger) {
        fake_close(fd);
        fd = -1;
    }
    dialer_linger(&fs->base, loop, fd, &copy);
}

static void on_dialed(struct timer *t)
{
    struct fake_server *fs = OWNER(t, struct fake_server, dial);
    fs->base.role = fs->how.role;
    bool makes_do = fs->base.conf->target == TARGET_PREFER_REPLICA && !fs->base.picky;
    if (fs->how.cause == CAUSE_NONE && !server_fits_target(&fs->base) && !makes_do) {
        fs->base.unfit = true;
        fs->how.cause = CAUSE_DIAL_FAILED;
    }
    if (fs->how.cause == CAUSE_NONE) {
        io_init(&fs->base.io, fs->fd, NULL);
        fs->base.library_fd = true;
        server_dialed(&fs->base, NULL);
        return;
    }
    struct err err;
    err_set(&err, fs->how.cause, STAGE_LOGIN, 0, "the peer does not want to");
    fail(fs, &err);
}

static void dial(struct server *sv, struct loop *loop)
{
    struct fake_server *fs = fake_server_of(sv);
    struct fake_peer peer = {0};
    list_init(&fs->all);
    list_init(&fs->riders);
    timer_init(&fs->dial, on_dialed);
    if (the_world.plan)
        the_world.plan(sv, &fs->how, &peer);
    fs->fd = fake_open(&peer);
    fake_lock();
    list_push_back(&all, &fs->all);
    fake_unlock();
    if (the_world.on_open)
        the_world.on_open(sv);
    if (fs->how.ms == 0)
        on_dialed(&fs->dial);
    else if (fs->how.ms != FAKE_NEVER)
        loop_timer_set(loop, &fs->dial, fs->how.ms);
}

static void dial_abort(struct server *sv, const struct err *err)
{
    fail(fake_server_of(sv), err);
}

/* ---- on a worker ---- */

static unsigned arrive(struct server *sv)
{
    (void)sv;
    return the_world.capacity;
}

static enum outcome settle(struct server *sv)
{
    struct fake_server *fs = fake_server_of(sv);
    CHECK(list_empty(&fs->riders));
    enum outcome said = fs->settle;
    fs->settle = OUTCOME_KEEP;
    if (fs->n_asks)
        return OUTCOME_DROP_DIRTY;
    return sv->io.broken ? OUTCOME_DROP_EOF : said;
}

static void verify(struct server *sv, const char *statement)
{
    (void)statement;
    if (the_world.checks_at_once)
        server_checked(sv, true, OUTCOME_KEEP);
    else
        server_send(sv, "p", 1);
}

static void reset(struct server *sv)
{
    server_send(sv, "r", 1);
}

static void answered(struct fake_server *fs)
{
    struct fake_rider *r = fs->asks[0];
    fs->n_asks--;
    memmove(fs->asks, fs->asks + 1, fs->n_asks * sizeof fs->asks[0]);
    if (!r)
        return;
    r->asking = false;
    r->on_answer(r);
}

static bool feed(struct server *sv, struct span bytes, struct err *err)
{
    struct fake_server *fs = fake_server_of(sv);
    for (size_t i = 0; i < bytes.n; i++) {
        char c = (char)bytes.p[i];
        bool last = i + 1 == bytes.n;
        if (c == '!')
            continue; /* a notice */
        if (sv->state == SERVER_CHECKING && last && (c == '+' || c == '=' || c == '-')) {
            server_checked(sv, c != '-', OUTCOME_DROP_FAILED);
            return true; /* the server may be anywhere now */
        }
        if (sv->state != SERVER_BUSY || c != '.' || !fs->n_asks)
            return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_CHECK, 0, "an answer to nothing");
        answered(fs);
    }
    return true;
}

static void lost(struct server *sv, const struct err *err)
{
    struct fake_server *fs = fake_server_of(sv);
    fs->n_asks = 0;
    struct list *n;
    while ((n = list_first(&fs->riders))) {
        struct fake_rider *r = OWNER(n, struct fake_rider, node);
        r->asking = false;
        r->on_lost(r, err);
        CHECK(list_first(&fs->riders) != n);
    }
}

static void goodbye(struct server *sv)
{
    server_send(sv, "q", 1);
}

static void fini(struct server *sv)
{
    struct fake_server *fs = fake_server_of(sv);
    forget(fs);
    fake_close(fs->fd);
    fs->fd = -1;
}

const struct driver_ops fake_driver = {
    .name = "fake",
    .server_size = sizeof(struct fake_server),
    .dial = dial,
    .dial_abort = dial_abort,
    .arrive = arrive,
    .settle = settle,
    .verify = verify,
    .reset = reset,
    .feed = feed,
    .lost = lost,
    .goodbye = goodbye,
    .fini = fini,
};

/* ---- riders ---- */

void fake_board(struct fake_rider *r, struct server *sv)
{
    r->server = sv;
    r->asking = false;
    list_init(&r->node);
    list_push_back(&fake_server_of(sv)->riders, &r->node);
}

void fake_ask(struct fake_rider *r)
{
    struct fake_server *fs = fake_server_of(r->server);
    CHECK(!r->asking && fs->n_asks < FAKE_ASKS_MAX);
    r->asking = true;
    fs->asks[fs->n_asks++] = r;
    server_send(r->server, "x", 1);
}

void fake_leave(struct fake_rider *r, enum outcome why)
{
    struct server *sv = r->server;
    struct fake_server *fs = fake_server_of(sv);
    for (unsigned i = 0; i < fs->n_asks; i++)
        if (fs->asks[i] == r)
            fs->asks[i] = NULL;
    r->server = NULL;
    r->asking = false;
    list_remove(&r->node);
    if (why == OUTCOME_KEEP)
        pool_give_back(&sv);
    else
        pool_drop(&sv, why);
}
