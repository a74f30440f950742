/* SPDX-License-Identifier: MIT */
/*
 * Clients of the echo protocol: a lease per frame, streamed both ways; what a client sends ahead
 * waits in its queue, at most limits.buffer of it.
 *
 *   IDLE --a frame begins--> WAITING --lease--> LINKED --it is back--> IDLE
 *     ^                         | refused                | lost
 *     +---- the frame's rest ---+-- SKIPPING <-----------+   an error frame has been sent
 */
#include <errno.h>

#include "proxy/core/sm.h"
#include "proxy/front/front.h"
#include "tests/echo/echo.h"

enum echo_state { ECHO_IDLE, ECHO_WAITING, ECHO_LINKED, ECHO_SKIPPING, ECHO_STATES };

static const struct sm_row rows[ECHO_STATES] = {
#define TO(s) SM_TO(ECHO_##s)
    [ECHO_IDLE] = {"idle", TO(WAITING) | TO(LINKED) | TO(SKIPPING)},
    [ECHO_WAITING] = {"waiting", TO(LINKED) | TO(SKIPPING)},
    [ECHO_LINKED] = {"linked", TO(IDLE) | TO(SKIPPING)},
    [ECHO_SKIPPING] = {"skipping", TO(IDLE)},
#undef TO
};

struct echo_session {
    struct session base;
    enum echo_state state;
    struct waiter waiter;
    struct echo_server *server; /* while LINKED */
    struct echo_framer framer;  /* of what the client sends */
    struct bufq in;             /* not looked at yet */
    bool sent;                  /* the current frame is with the server, or skipped */
    bool answering;             /* some of it is back */
    bool admitted;              /* session_exchange_over() is due */
    bool ended;                 /* the client has sent its last */
    bool pumping;
};

static struct echo_session *session_of(struct session *s)
{
    return OWNER(s, struct echo_session, base);
}

static void become(struct echo_session *s, enum echo_state to)
{
    CHECK(sm_allows(rows, s->state, to));
    s->state = to;
}

static size_t high_water(const struct echo_session *s)
{
    return s->base.gate->conf->limits.buffer;
}

static void pump(struct echo_session *s);

/* ---- the end of an exchange ---- */

static void say_error(struct echo_session *s, const struct err *err)
{
    uint8_t frame[256];
    io_send(&s->base.io, frame, echo_put_error(frame, sizeof frame, err));
}

static void exchange_over(struct echo_session *s)
{
    session_deadline(&s->base, 0);
    if (s->admitted)
        session_exchange_over(&s->base);
    s->admitted = false;
    s->answering = false;
}

static void let_go(struct echo_session *s, enum outcome how)
{
    struct server *sv = s->server ? &s->server->base : NULL;
    s->server = NULL;
    if (!sv)
        return;
    if (how == OUTCOME_KEEP)
        pool_give_back(&sv);
    else
        pool_drop(&sv, how);
}

/* The frame gets an error for an answer, its rest is read and thrown away. */
static void refuse_frame(struct echo_session *s, const struct err *err)
{
    exchange_over(s);
    session_error(&s->base, err);
    say_error(s, err);
    become(s, ECHO_SKIPPING);
}

static void lose_server(struct echo_session *s, const struct err *err, enum outcome how)
{
    let_go(s, how);
    io_resume(&s->base.io);
    if (s->answering) { /* half an answer cannot be taken back */
        session_close(&s->base, err);
        return;
    }
    refuse_frame(s, err);
    pump(s);
}

/* ---- servers ---- */

static void on_server_readable(struct server *sv)
{
    struct echo_session *s = sv->holder;
    struct echo_server *es = s->server;
    struct loop *loop = session_loop(&s->base);
    struct err err;
    ssize_t n = server_read(sv, loop->scratch, LOOP_READ_MAX);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        server_lost_err(sv, n, &err);
        lose_server(s, &err, OUTCOME_DROP_EOF);
        return;
    }
    size_t used;
    enum echo_step step = echo_walk(&es->framer, span_of(loop->scratch, (size_t)n), &used, &err);
    if (step == ECHO_OVER && (used < (size_t)n || !s->sent)) {
        err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0, "more came back than was sent");
        step = ECHO_BAD;
    }
    if (step == ECHO_BAD) {
        lose_server(s, &err, OUTCOME_DROP_PROTOCOL);
        return;
    }
    s->answering = true;
    io_send(&s->base.io, loop->scratch, used);
    if (step == ECHO_MORE) {
        if (io_unsent(&s->base.io) > high_water(s))
            io_pause(&sv->io);
        return;
    }
    es->asked = false;
    exchange_over(s);
    let_go(s, OUTCOME_KEEP);
    become(s, ECHO_IDLE);
    pump(s);
}

static void on_server_drained(struct server *sv)
{
    struct echo_session *s = sv->holder;
    io_resume(&s->base.io);
    pump(s);
}

static void on_server_lost(struct server *sv, const struct err *err)
{
    lose_server(sv->holder, err, OUTCOME_DROP_DRAINING);
}

static const struct holder_ops holder_ops = {
    .on_readable = on_server_readable,
    .on_drained = on_server_drained,
    .on_lost = on_server_lost,
};

static void link_up(struct echo_session *s)
{
    become(s, ECHO_LINKED);
    s->server = echo_server_of(s->waiter.server);
    s->server->asked = true;
    session_deadline(&s->base, pool_conf(session_pool(&s->base))->timeouts.request_ms);
}

static void on_lease(struct waiter *w)
{
    struct echo_session *s = OWNER(w, struct echo_session, waiter);
    if (w->server)
        link_up(s);
    else
        refuse_frame(s, &w->err);
    pump(s);
}

/* ---- clients ---- */

static void want_server(struct echo_session *s)
{
    struct err err;
    if (!session_admit(&s->base, &err)) {
        refuse_frame(s, &err);
        return;
    }
    s->admitted = true;
    switch (pool_lease(session_pool(&s->base), &s->waiter)) {
    case LEASE_GRANTED:
        link_up(s);
        return;
    case LEASE_WAITING:
        become(s, ECHO_WAITING);
        return;
    case LEASE_REFUSED:
        refuse_frame(s, &s->waiter.err);
        return;
    }
}

/* Moves on what the client sent of the current frame; false: nothing more can be done now. */
static bool move_piece(struct echo_session *s)
{
    struct iovec iov;
    struct err err;
    size_t used;
    if (s->sent || bufq_iov(&s->in, &iov, 1) == 0)
        return false;
    if (s->server && io_unsent(&s->server->base.io) > high_water(s))
        return false;
    enum echo_step step = echo_walk(&s->framer, span_of(iov.iov_base, iov.iov_len), &used, &err);
    if (step == ECHO_BAD) {
        say_error(s, &err);
        session_close(&s->base, &err);
        return false;
    }
    if (s->server)
        server_send(&s->server->base, iov.iov_base, used); /* if it is broken, reading will tell */
    bufq_consume(&session_loop(&s->base)->chunks, &s->in, used);
    s->sent = step == ECHO_OVER;
    return true;
}

static void step_once(struct echo_session *s, bool *more)
{
    switch (s->state) {
    case ECHO_IDLE:
        s->sent = false;
        *more = s->in.len > 0;
        if (*more && !s->base.draining)
            want_server(s);
        else if (s->ended || s->base.draining)
            session_close(&s->base, NULL);
        return;
    case ECHO_WAITING:
        *more = false;
        return;
    case ECHO_LINKED:
        *more = move_piece(s);
        if (!*more && s->ended && !s->sent && s->in.len == 0)
            session_close(&s->base, NULL); /* the frame's rest will never come */
        return;
    case ECHO_SKIPPING:
        *more = move_piece(s) || s->sent;
        if (s->sent && !s->base.closed)
            become(s, ECHO_IDLE);
        else if (!*more && s->ended)
            session_close(&s->base, NULL);
        return;
    case ECHO_STATES:
        break;
    }
    CHECK(!"no such state");
}

/* The one place that decides; callbacks only report. */
static void pump(struct echo_session *s)
{
    if (s->pumping)
        return;
    s->pumping = true;
    for (bool more = true; more && !s->base.closed;)
        step_once(s, &more);
    s->pumping = false;
    if (s->base.closed)
        return;
    if (s->ended || s->in.len > high_water(s))
        io_pause(&s->base.io);
    else
        io_resume(&s->base.io);
}

static void on_readable(struct session *base)
{
    struct echo_session *s = session_of(base);
    struct loop *loop = session_loop(base);
    struct err err;
    ssize_t n = io_read(&base->io, loop->scratch, LOOP_READ_MAX);
    if (n == -EAGAIN)
        return;
    if (n < 0) {
        err_set(&err, CAUSE_CLIENT_GONE, STAGE_CLIENT, (int)-n, "the client's connection was lost");
        session_close(base, &err);
        return;
    }
    if (n == 0)
        s->ended = true;
    else if (!bufq_append(&loop->chunks, &s->in, span_of(loop->scratch, (size_t)n))) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        session_close(base, &err);
        return;
    }
    pump(s);
}

static void on_drained(struct session *base)
{
    struct echo_session *s = session_of(base);
    if (s->server)
        io_resume(&s->server->base.io);
}

static void on_deadline(struct session *base)
{
    struct echo_session *s = session_of(base);
    struct err err;
    if (s->state != ECHO_LINKED)
        return;
    err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0, "the frame did not come back in time");
    lose_server(s, &err, OUTCOME_DROP_TIMEOUT);
}

static void open_session(struct session *base)
{
    struct echo_session *s = session_of(base);
    s->waiter.exclusive = true;
    s->waiter.holder_ops = &holder_ops;
    s->waiter.holder = s;
    s->waiter.on_lease = on_lease;
    if (!base->refusal)
        return;
    say_error(s, base->refusal);
    session_close(base, base->refusal);
}

static void drain(struct session *base)
{
    struct echo_session *s = session_of(base);
    if (s->state == ECHO_IDLE)
        pump(s);
}

static void fini(struct session *base, const struct err *err)
{
    struct echo_session *s = session_of(base);
    (void)err;
    pool_cancel(&s->waiter);
    let_go(s, OUTCOME_DROP_DIRTY);
    if (s->admitted)
        session_exchange_over(base);
    s->admitted = false;
    bufq_clear(&session_loop(base)->chunks, &s->in);
}

const struct relay_ops echo_relay = {
    .name = "echo",
    .session_size = sizeof(struct echo_session),
    .open = open_session,
    .on_readable = on_readable,
    .on_drained = on_drained,
    .on_deadline = on_deadline,
    .drain = drain,
    .fini = fini,
};
