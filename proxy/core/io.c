/* SPDX-License-Identifier: MIT */
#include "proxy/core/io.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct watch {
    struct source source;
    struct io *io; /* NULL once detached */
    struct deferred kick;
    uint32_t events; /* what is watched now; LOOP_QUIET: nothing */
    bool want_write; /* on_drained is due, or TLS waits for room */
    bool read_waits; /* TLS needs room to answer before it can read on... */
    bool read_again; /* ... and has it now */
    bool told_hangup;
    bool hup; /* the socket has an error, which would be told for ever: read until it shows */
};

#define IOV_BATCH 64
#define GATHER_MAX 2048 /* bytes in pieces that are sent as one */

/* ---- the watch ---- */

static uint32_t events_of(const struct watch *w)
{
    const struct io *io = w->io;
    uint32_t events = w->want_write ? EPOLLOUT : 0;
    if (!io->paused || io->broken)
        events |= EPOLLIN;
    else if (io->ops->on_hangup && !w->told_hangup)
        events |= EPOLLRDHUP;
    return events == 0 || w->hup ? LOOP_QUIET : events;
}

static void watch_arm(struct watch *w)
{
    uint32_t events = events_of(w);
    if (events == w->events)
        return;
    w->events = events;
    loop_rewatch(w->io->loop, w->io->fd, &w->source, events);
}

/* Something is to be read that no event of the socket will tell of. After others had their turn: a
   peer can send as fast as we read. */
static void kick_if_due(struct watch *w)
{
    struct io *io = w->io;
    bool due = w->hup || w->read_again || (io && io->tls && tls_pending(io->tls));
    if (io && due && (!io->paused || io->broken))
        loop_defer_next(io->loop, &w->kick);
}

static void deliver(struct watch *w)
{
    w->io->ops->on_readable(w->io);
    kick_if_due(w);
}

static void on_kick(struct deferred *d)
{
    struct watch *w = OWNER(d, struct watch, kick);
    if (w->io && (!w->io->paused || w->io->broken))
        deliver(w);
}

static void on_writable(struct watch *w)
{
    struct io *io = w->io;
    if (io->out.len)
        io_flush(io);
    if (io->out.len)
        return;
    w->want_write = false;
    w->read_again = w->read_waits;
    w->read_waits = false;
    watch_arm(w);
    if (io->ops->on_drained)
        io->ops->on_drained(io);
    kick_if_due(w);
}

/* Level-triggered for good: told once, then not watched any more. */
static void tell_hangup(struct watch *w)
{
    if (w->told_hangup || !w->io->paused)
        return;
    w->told_hangup = true;
    watch_arm(w);
    if (w->io->ops->on_hangup)
        w->io->ops->on_hangup(w->io);
}

/* Unread words may stand in front of it. */
static void on_error(struct watch *w)
{
    w->hup = true;
    watch_arm(w);
    if (w->want_write) {
        w->want_write = false;
        bufq_clear(&w->io->loop->chunks, &w->io->out);
        if (w->io->ops->on_drained)
            w->io->ops->on_drained(w->io);
    }
    if (w->io && !w->io->paused)
        deliver(w);
    else if (w->io)
        tell_hangup(w);
}

static void on_events(struct source *s, uint32_t events)
{
    struct watch *w = OWNER(s, struct watch, source);
    if (!w->io || w->hup)
        return;
    if (events & EPOLLERR) {
        on_error(w);
        return;
    }
    if (events & EPOLLHUP) /* whatever was asked for: there is nothing to wait for */
        events |= w->events;
    if ((events & EPOLLOUT) && w->want_write)
        on_writable(w);
    if (w->io && (events & EPOLLIN) && (!w->io->paused || w->io->broken))
        deliver(w);
    else if (w->io && (events & EPOLLRDHUP))
        tell_hangup(w);
}

static void watch_free(struct deferred *d)
{
    free(OWNER(d, struct watch, kick));
}

/* ---- life ---- */

void io_init(struct io *io, int fd, struct tls_conn *tls)
{
    *io = (struct io){.fd = fd, .tls = tls};
}

bool io_attach(struct io *io, struct loop *loop, const struct io_ops *ops)
{
    CHECK(!io->watch && io->fd >= 0);
    struct watch *w = calloc(1, sizeof *w);
    if (!w)
        return false;
    w->source.on_events = on_events;
    w->io = io;
    deferred_init(&w->kick, on_kick);
    io->ops = ops;
    w->events = events_of(w);
    if (!loop_watch(loop, io->fd, &w->source, w->events)) {
        io->ops = NULL;
        free(w);
        return false;
    }
    io->watch = w;
    io->loop = loop;
    kick_if_due(w);
    return true;
}

void io_detach(struct io *io)
{
    struct watch *w = io->watch;
    if (!w)
        return;
    CHECK(io->out.len == 0);
    loop_unwatch(io->loop, io->fd);
    w->io = NULL;
    deferred_cancel(&w->kick);
    deferred_init(&w->kick, watch_free);
    loop_defer(io->loop, &w->kick);
    io->watch = NULL;
    io->loop = NULL;
    io->ops = NULL;
}

int io_release(struct io *io)
{
    if (io->loop)
        bufq_clear(&io->loop->chunks, &io->out);
    io_detach(io);
    tls_conn_free(io->tls);
    io->tls = NULL;
    int fd = io->fd;
    io->fd = -1;
    return fd;
}

void io_close(struct io *io)
{
    int fd = io_release(io);
    if (fd >= 0)
        close(fd);
}

/* ---- bytes ---- */

static ssize_t read_some(struct io *io, void *buf, size_t cap)
{
    if (io->tls) {
        bool want_write = false;
        ssize_t n = tls_read(io->tls, buf, cap, &want_write, &io->truncated);
        if (io->watch)
            io->watch->read_again = false;
        if (want_write && io->watch) {
            io->watch->want_write = io->watch->read_waits = true;
            watch_arm(io->watch);
        }
        return n;
    }
    for (;;) {
        ssize_t n = recv(io->fd, buf, cap, 0);
        if (n >= 0)
            return n;
        if (errno != EINTR)
            return -errno;
    }
}

ssize_t io_read(struct io *io, void *buf, size_t cap)
{
    ssize_t n = read_some(io, buf, cap);
    /* The last words have been read: what comes now is why nothing more will. */
    if (n == -EAGAIN && io->broken)
        return -io->broken;
    if (n == -EAGAIN && io->watch && io->watch->hup)
        return -ECONNRESET;
    return n;
}

static ssize_t write_some(struct io *io, const struct iovec *iov, int n)
{
    if (io->tls) {
        ssize_t done = 0;
        for (int i = 0; i < n; i++) {
            if (iov[i].iov_len == 0)
                continue;
            size_t at = 0;
            while (at < iov[i].iov_len) {
                ssize_t k =
                    tls_write(io->tls, (const char *)iov[i].iov_base + at, iov[i].iov_len - at);
                if (k < 0)
                    return done ? done : k;
                done += k;
                at += (size_t)k;
            }
            if (at > iov[i].iov_len)
                break; /* a record begun earlier, which ends in a later piece */
        }
        return done;
    }
    for (;;) {
        ssize_t k;
        if (n == 1) {
            k = send(io->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL);
        } else {
            struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
            k = sendmsg(io->fd, &m, MSG_NOSIGNAL);
        }
        if (k >= 0)
            return k;
        if (errno != EINTR)
            return -errno;
    }
}

static void io_break(struct io *io, int error)
{
    io->broken = error;
    bufq_clear(&io->loop->chunks, &io->out);
    io->watch->want_write = false;
    watch_arm(io->watch);
    /* Where a write fails reading need not: a peer may only have stopped to listen. */
    loop_defer(io->loop, &io->watch->kick);
}

static void want_write(struct io *io)
{
    io->watch->want_write = true;
    watch_arm(io->watch);
}

/* Several pieces of few bytes are copied together: the kernel takes one piece faster, and TLS would
 * make a record of each. */
static __attribute__((noinline)) ssize_t write_gathered(struct io *io, const struct iovec *iov,
                                                        int n)
{
    uint8_t together[GATHER_MAX];
    size_t len = 0;
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > GATHER_MAX - len)
            return write_some(io, iov, n);
        if (iov[i].iov_len)
            memcpy(together + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
    }
    return write_some(io, &(struct iovec){together, len}, 1);
}

bool io_sendv(struct io *io, const struct iovec *iov, int n)
{
    CHECK(io->watch != NULL);
    if (io->broken || io->sent_fin)
        return false;
    size_t sent = 0;
    if (io->out.len == 0) {
        ssize_t k = n > 1 ? write_gathered(io, iov, n) : write_some(io, iov, n);
        if (k < 0 && k != -EAGAIN && k != -ENOBUFS) {
            io_break(io, (int)-k);
            return false;
        }
        sent = k > 0 ? (size_t)k : 0;
    }
    for (int i = 0; i < n; i++) {
        size_t len = iov[i].iov_len;
        if (sent >= len) {
            sent -= len;
            continue;
        }
        struct span rest = span_of((const uint8_t *)iov[i].iov_base + sent, len - sent);
        sent = 0;
        if (!bufq_append(&io->loop->chunks, &io->out, rest)) {
            io_break(io, ENOMEM);
            return false;
        }
    }
    if (io->out.len)
        want_write(io);
    return true;
}

bool io_send(struct io *io, const void *p, size_t n)
{
    struct iovec iov = {(void *)(uintptr_t)p, n};
    return n == 0 || io_sendv(io, &iov, 1);
}

bool io_queue(struct io *io, struct span s)
{
    CHECK(io->watch != NULL);
    if (io->broken || io->sent_fin)
        return false;
    if (!bufq_append(&io->loop->chunks, &io->out, s)) {
        io_break(io, ENOMEM);
        return false;
    }
    return true;
}

void io_flush(struct io *io)
{
    while (io->out.len && !io->broken) {
        struct iovec iov[IOV_BATCH];
        int n = bufq_iov(&io->out, iov, IOV_BATCH);
        size_t want = 0;
        for (int i = 0; i < n; i++)
            want += iov[i].iov_len;
        ssize_t k = write_some(io, iov, n);
        if (k < 0 && k != -EAGAIN && k != -ENOBUFS) {
            io_break(io, (int)-k);
            return;
        }
        if (k > 0)
            bufq_consume(&io->loop->chunks, &io->out, (size_t)k);
        if (k < 0 || (size_t)k < want) {
            want_write(io);
            return;
        }
    }
}

size_t io_untaken(const struct io *io)
{
    int held = 0;
    if (ioctl(io->fd, SIOCOUTQ, &held) != 0 || held < 0)
        held = 0;
    return io->out.len + (size_t)held;
}

void io_pause(struct io *io)
{
    if (io->paused)
        return;
    io->paused = true;
    if (io->watch)
        watch_arm(io->watch);
}

void io_resume(struct io *io)
{
    if (!io->paused)
        return;
    io->paused = false;
    if (!io->watch)
        return;
    watch_arm(io->watch);
    kick_if_due(io->watch);
}

void io_shutdown(struct io *io)
{
    if (io->fd < 0 || io->sent_fin)
        return;
    if (io->loop)
        bufq_clear(&io->loop->chunks, &io->out);
    if (io->tls)
        tls_goodbye(io->tls);
    io->sent_fin = true;
    shutdown(io->fd, SHUT_WR);
}

enum io_peek io_probe(struct io *io)
{
    if (io->tls) {
        enum tls_peeked said = tls_peek(io->tls);
        if (io->watch)
            kick_if_due(io->watch);
        switch (said) {
        case TLS_PEEK_QUIET:
            return IO_PEEK_QUIET;
        case TLS_PEEK_BYTES:
            return IO_PEEK_BYTES;
        case TLS_PEEK_EOF:
            return IO_PEEK_EOF;
        }
    }
    uint8_t byte;
    ssize_t n = recv(io->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0)
        return IO_PEEK_BYTES;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return IO_PEEK_QUIET;
    return IO_PEEK_EOF;
}

enum io_hs io_handshake(struct io *io, struct err *err)
{
    enum tls_step step = tls_handshake(io->tls, err);
    switch (step) {
    case TLS_DONE:
        if (io->watch)
            kick_if_due(io->watch); /* the peer's first words came along */
        return IO_HS_DONE;
    case TLS_WANT_READ:
        return IO_HS_AGAIN;
    case TLS_WANT_WRITE:
        want_write(io);
        return IO_HS_AGAIN;
    case TLS_FAILED:
        break;
    }
    return IO_HS_FAILED;
}

void io_await_connect(struct io *io)
{
    want_write(io);
}
