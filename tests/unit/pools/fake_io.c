/* SPDX-License-Identifier: MIT */
#include "tests/unit/pools/fake_io_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the watch ---- */

static void on_poke(struct post_msg *msg)
{
    struct watch *w = OWNER(msg, struct watch, poke);
    if (!w->io) {
        free(w);
        return;
    }
    if (w->want_write) {
        w->want_write = false;
        if (w->io->ops->on_drained)
            w->io->ops->on_drained(w->io);
    }
    struct io *io = w->io;
    if (!io)
        return;
    fake_lock();
    bool due = fake_readable(fake_peer_of(io->fd)) || io->broken;
    fake_unlock();
    if (!due || (io->paused && !io->broken))
        return;
    io->ops->on_readable(io);
    io = w->io;
    if (!io)
        return;
    fake_lock();
    if (fake_readable(fake_peer_of(io->fd)) && !io->paused)
        fake_wake(fake_peer_of(io->fd)); /* level-triggered */
    fake_unlock();
}

static void on_clock(struct timer *t)
{
    struct watch *w = OWNER(t, struct watch, clock);
    fake_lock();
    fake_step(fake_peer_of(w->io->fd), loop_now(w->loop));
    fake_unlock();
}

/* ---- io.h ---- */

void io_init(struct io *io, int fd, struct tls_conn *tls)
{
    CHECK(!tls);
    *io = (struct io){.fd = fd};
}

bool io_attach(struct io *io, struct loop *loop, const struct io_ops *ops)
{
    CHECK(!io->watch && io->fd >= 0);
    struct watch *w = calloc(1, sizeof *w);
    if (!w)
        return false;
    w->io = io;
    w->loop = loop;
    post_init(&w->poke, on_poke, NULL);
    timer_init(&w->clock, on_clock);
    io->watch = w;
    io->loop = loop;
    io->ops = ops;
    fake_lock();
    struct peer *p = fake_peer_of(io->fd);
    CHECK(!p->watch);
    p->watch = w;
    fake_step(p, loop_now(loop));
    if (fake_readable(p))
        fake_wake(p);
    fake_unlock();
    return true;
}

/* The watch goes with its last poke. */
static void watch_leave(struct watch *w)
{
    loop_timer_stop(w->loop, &w->clock);
    w->io = NULL;
    post_once(w->loop, &w->poke);
}

void io_detach(struct io *io)
{
    if (!io->watch)
        return;
    CHECK(io->out.len == 0);
    fake_lock();
    fake_peer_of(io->fd)->watch = NULL;
    fake_unlock();
    watch_leave(io->watch);
    io->watch = NULL;
    io->loop = NULL;
    io->ops = NULL;
}

int io_release(struct io *io)
{
    if (io->loop)
        bufq_clear(&io->loop->chunks, &io->out);
    io_detach(io);
    int fd = io->fd;
    io->fd = -1;
    return fd;
}

void io_close(struct io *io)
{
    int fd = io_release(io);
    if (fd >= 0)
        fake_close(fd);
}

ssize_t io_read(struct io *io, void *buf, size_t cap)
{
    fake_lock();
    struct peer *p = fake_peer_of(io->fd);
    ssize_t n = -EAGAIN;
    if (p->said_n) {
        size_t part = p->said_n < cap ? p->said_n : cap;
        memcpy(buf, p->said, part);
        memmove(p->said, p->said + part, p->said_n - part);
        p->said_n -= part;
        n = (ssize_t)part;
    } else if (p->reset || p->ended) {
        n = p->reset ? -ECONNRESET : 0;
        fake_not_open(p);
    } else if (io->broken) {
        n = -io->broken;
    }
    fake_unlock();
    return n;
}

static void broken(struct io *io, int error)
{
    io->broken = error;
    bufq_clear(&io->loop->chunks, &io->out);
    post_once(io->loop, &io->watch->poke);
}

bool io_queue(struct io *io, struct span s)
{
    CHECK(io->watch != NULL);
    if (io->broken || io->sent_fin)
        return false;
    if (!bufq_append(&io->loop->chunks, &io->out, s)) {
        broken(io, ENOMEM);
        return false;
    }
    return true;
}

void io_flush(struct io *io)
{
    while (io->out.len && !io->broken) {
        char bytes[64];
        size_t n = bufq_peek(&io->out, (uint8_t *)bytes, sizeof bytes);
        fake_lock();
        struct peer *p = fake_peer_of(io->fd);
        bool gone = p->reset, deaf = p->how.deaf;
        if (!gone && !deaf)
            fake_hear(p, bytes, n);
        fake_unlock();
        if (gone) {
            broken(io, EPIPE);
            return;
        }
        if (deaf)
            return;
        bufq_consume(&io->loop->chunks, &io->out, n);
    }
}

bool io_sendv(struct io *io, const struct iovec *iov, int n)
{
    for (int i = 0; i < n; i++)
        if (!io_queue(io, span_of(iov[i].iov_base, iov[i].iov_len)))
            return false;
    io_flush(io);
    return !io->broken;
}

bool io_send(struct io *io, const void *p, size_t n)
{
    struct iovec iov = {(void *)(uintptr_t)p, n};
    return n == 0 || io_sendv(io, &iov, 1);
}

void io_pause(struct io *io)
{
    io->paused = true;
}

void io_resume(struct io *io)
{
    if (!io->paused)
        return;
    io->paused = false;
    if (io->watch)
        post_once(io->loop, &io->watch->poke);
}

void io_shutdown(struct io *io)
{
    if (io->fd < 0 || io->sent_fin)
        return;
    if (io->loop)
        bufq_clear(&io->loop->chunks, &io->out);
    io->sent_fin = true;
    fake_lock();
    struct peer *p = fake_peer_of(io->fd);
    p->our_end = true;
    p->answer_at = 0;
    if (p->watch) /* else when it is attached: a dial that lingers */
        fake_step(p, loop_now(io->loop));
    fake_unlock();
}

enum io_peek io_probe(struct io *io)
{
    fake_lock();
    const struct peer *p = fake_peer_of(io->fd);
    enum io_peek seen = p->said_n              ? IO_PEEK_BYTES
                        : p->ended || p->reset ? IO_PEEK_EOF
                                               : IO_PEEK_QUIET;
    fake_unlock();
    return seen;
}

enum io_hs io_handshake(struct io *io, struct err *err)
{
    (void)io;
    err_set(err, CAUSE_UNSUPPORTED, STAGE_TLS, 0, "no TLS in memory");
    return IO_HS_FAILED;
}

int io_dial(const struct sockaddr *addr, socklen_t len)
{
    (void)addr;
    (void)len;
    return fake_open(&(struct fake_peer){0});
}

void io_await_connect(struct io *io)
{
    io->watch->want_write = true;
    post_once(io->loop, &io->watch->poke);
}

int io_connect_error(const struct io *io)
{
    (void)io;
    return 0;
}

void io_tune(int fd, unsigned keepalive_ms, unsigned user_timeout_ms)
{
    (void)fd;
    (void)keepalive_ms;
    (void)user_timeout_ms;
}

const char *io_addr_text(const struct sockaddr *addr, socklen_t len, char *buf, size_t cap)
{
    (void)addr;
    (void)len;
    snprintf(buf, cap, "fake");
    return buf;
}
