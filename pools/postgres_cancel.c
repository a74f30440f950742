/* SPDX-License-Identifier: MIT */
/*
 * CancelRequest to the server that runs the statement, on the dialer's thread: connect to the very
 * address the server has, TLS if the server has TLS, send, wait until the peer closes. (PostgreSQL
 * manual, "Canceling Requests in Progress".) Only when the peer has closed can no later statement
 * be hit; so long the server is held. One whose cancel may still arrive is not used again.
 */
#include <errno.h>
#include <stdlib.h>

#include "pools/dial.h"
#include "pools/dialer.h"
#include "pools/ledger.h"
#include "pools/postgres.h"
#include "proxy/core/crypto.h"
#include "proxy/wire/postgres_write.h"

#define CANCEL_TIMEOUT_MS 5000
#define HOLDS_MAX 4 /* cancels of one server under way */

enum cancel_state { CANCEL_CONNECTING, CANCEL_ASKING_TLS, CANCEL_HANDSHAKE, CANCEL_WAITING };

struct cancel {
    struct post_msg msg;
    enum cancel_state state;
    bool encrypted; /* as its server is */
    bool astray;    /* it was sent, and nobody knows whether it has arrived */
    struct pg_server *ps;
    struct loop *dialer;
    struct io io;
    struct timer timer;
    struct tls_ctx *tls;
    char host[256];
    struct sockaddr_storage addr;
    socklen_t addr_n;
    uint8_t packet[64];
    size_t packet_n;
};

static void on_back(struct post_msg *msg)
{
    struct cancel *c = OWNER(msg, struct cancel, msg);
    struct server *sv = &c->ps->base;
    if (c->astray)
        server_retire(sv, OUTCOME_DROP_TIMEOUT);
    free(c);
    server_release_hold(sv);
}

static void finish(struct cancel *c)
{
    loop_timer_stop(c->dialer, &c->timer);
    io_close(&c->io);
    tls_ctx_free(c->tls);
    crypto_wipe(c->packet, sizeof c->packet);
    struct server *sv = &c->ps->base;
    post_init(&c->msg, on_back, NULL);
    post(sv->ledger->workers[sv->home].loop, &c->msg);
}

static void on_timeout(struct timer *t)
{
    struct cancel *c = OWNER(t, struct cancel, timer);
    c->astray = c->state == CANCEL_WAITING;
    finish(c);
}

static void send_cancel(struct cancel *c)
{
    c->state = CANCEL_WAITING;
    io_send(&c->io, c->packet, c->packet_n);
}

static void handshake(struct cancel *c)
{
    struct err err;
    switch (io_handshake(&c->io, &err)) {
    case IO_HS_AGAIN:
        return;
    case IO_HS_DONE:
        send_cancel(c);
        return;
    case IO_HS_FAILED:
        finish(c);
        return;
    }
}

static void on_readable(struct io *io)
{
    struct cancel *c = OWNER(io, struct cancel, io);
    if (c->state == CANCEL_HANDSHAKE) {
        handshake(c);
        return;
    }
    char byte;
    ssize_t n = io_read(io, &byte, 1);
    if (n == -EAGAIN)
        return;
    if (c->state == CANCEL_ASKING_TLS && n == 1 && byte == 'S') {
        io->tls = tls_connect(c->tls, io->fd, c->host[0] ? c->host : NULL, NULL);
        if (io->tls) {
            c->state = CANCEL_HANDSHAKE;
            handshake(c);
            return;
        }
    }
    finish(c); /* end-of-file: done; anything else: nothing we could do about it */
}

static void on_drained(struct io *io)
{
    struct cancel *c = OWNER(io, struct cancel, io);
    if (c->state == CANCEL_HANDSHAKE) {
        handshake(c);
        return;
    }
    if (c->state != CANCEL_CONNECTING)
        return;
    if (io_connect_error(io) != 0) {
        finish(c);
        return;
    }
    if (!c->tls) {
        send_cancel(c);
        return;
    }
    c->state = CANCEL_ASKING_TLS;
    uint8_t buf[8];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    pg_put_ssl_request(&out);
    io_send(io, buf, out.n);
}

static const struct io_ops cancel_io_ops = {.on_readable = on_readable, .on_drained = on_drained};

static void on_dialer(struct post_msg *msg)
{
    struct cancel *c = OWNER(msg, struct cancel, msg);
    const struct endpoint_conf *e = c->ps->base.endpoint; /* its server is held */
    struct err err;
    timer_init(&c->timer, on_timeout);
    if (c->encrypted) /* reads files: nothing for a worker */
        c->tls = dial_tls_ctx(e, &err);
    int fd = io_dial((const struct sockaddr *)&c->addr, c->addr_n);
    io_init(&c->io, fd < 0 ? -1 : fd, NULL);
    bool ok = fd >= 0 && (c->tls || !c->encrypted);
    if (!ok || !io_attach(&c->io, c->dialer, &cancel_io_ops)) {
        finish(c);
        return;
    }
    loop_timer_set(c->dialer, &c->timer, CANCEL_TIMEOUT_MS);
    io_await_connect(&c->io);
}

bool pg_cancel(struct pg_server *ps)
{
    struct server *sv = &ps->base;
    const struct endpoint_conf *e = sv->endpoint;
    if (!ps->key_n || !ps->addr_n || sv->holds >= HOLDS_MAX)
        return false;
    struct cancel *c = calloc(1, sizeof *c);
    if (!c)
        return false;
    c->encrypted = sv->io.tls != NULL;
    c->ps = ps;
    c->dialer = sv->ledger->dialer->loop;
    c->addr = ps->addr;
    c->addr_n = ps->addr_n;
    if (e->host && strlen(e->host) < sizeof c->host)
        memcpy(c->host, e->host, strlen(e->host) + 1);
    struct pg_out out = pg_out_of(c->packet, sizeof c->packet);
    pg_put_cancel(&out, ps->pid, span_of(ps->key, ps->key_n));
    c->packet_n = out.n;
    server_hold(sv);
    post_init(&c->msg, on_dialer, NULL);
    post(c->dialer, &c->msg);
    return true;
}
