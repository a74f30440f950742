/* SPDX-License-Identifier: MIT */
#include "tests/unit/pools/fake_io.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define FIRST_FD 1000000
#define PEERS 1024
#define SAID_MAX 512
#define HEARD_MAX 64

/* The part of an io that stays on its loop; here also the peer's clock. */
struct watch {
    struct io *io; /* NULL once detached: freed when its poke has run */
    struct loop *loop;
    struct post_msg poke;
    struct timer clock;
    bool want_write;
};

struct peer {
    bool used, open; /* open: counted */
    struct fake_peer how;
    struct watch *watch;
    char said[SAID_MAX]; /* not read yet */
    size_t said_n;
    bool ended, reset;
    char owed[HEARD_MAX]; /* answers not due yet */
    size_t owed_n;
    bool our_end;
    uint64_t answer_at, end_at; /* ms; 0: nothing due */
    char heard[HEARD_MAX];
};

static struct {
    pthread_mutex_t mutex;
    struct peer peers[PEERS];
    unsigned open, peak, next;
} world = {.mutex = PTHREAD_MUTEX_INITIALIZER};

void fake_lock(void)
{
    pthread_mutex_lock(&world.mutex);
}

void fake_unlock(void)
{
    pthread_mutex_unlock(&world.mutex);
}

unsigned fake_open_count(void)
{
    return world.open;
}

unsigned fake_open_peak(void)
{
    fake_lock();
    unsigned peak = world.peak;
    fake_unlock();
    return peak;
}

static struct peer *peer_of(int fd)
{
    CHECK(fd >= FIRST_FD && fd < FIRST_FD + PEERS);
    struct peer *p = &world.peers[fd - FIRST_FD];
    CHECK(p->used);
    return p;
}

static bool is_peer(int fd)
{
    return fd >= FIRST_FD && fd < FIRST_FD + PEERS && world.peers[fd - FIRST_FD].used;
}

/* ---- peers; everything below with the lock held ---- */

static void not_open(struct peer *p)
{
    if (!p->open)
        return;
    p->open = false;
    world.open--;
}

static bool readable(const struct peer *p)
{
    return p->said_n || p->ended || p->reset;
}

static void wake(struct peer *p)
{
    if (p->watch)
        post_once(p->watch->loop, &p->watch->poke);
}

static void say(struct peer *p, const char *bytes, size_t n)
{
    if (p->ended || p->reset)
        return;
    CHECK(p->said_n + n <= SAID_MAX);
    memcpy(p->said + p->said_n, bytes, n);
    p->said_n += n;
    wake(p);
}

static char answer_to(const struct peer *p, char question)
{
    switch (question) {
    case 'p':
        return p->how.refuses ? '-' : '+';
    case 'r':
        return p->how.refuses ? '-' : '=';
    case 'x':
        return '.';
    default:
        return 0;
    }
}

/* The loop's thread: does what is due, and says when to look again. */
static void peer_step(struct peer *p, uint64_t now)
{
    if (p->answer_at && now >= p->answer_at) {
        p->answer_at = 0;
        say(p, p->owed, p->owed_n);
        p->owed_n = 0;
    }
    if (p->our_end && !p->ended && !p->end_at && p->how.eof_ms != FAKE_NEVER)
        p->end_at = now + p->how.eof_ms;
    if (p->end_at && now >= p->end_at) {
        p->end_at = 0;
        p->ended = true;
        wake(p);
    }
    if (!p->watch)
        return;
    uint64_t next = p->answer_at;
    if (p->end_at && (!next || p->end_at < next))
        next = p->end_at;
    if (next)
        timer_set(&p->watch->loop->timers, &p->watch->clock, next);
}

static void hear(struct peer *p, const char *bytes, size_t n)
{
    uint64_t now = loop_now(p->watch->loop);
    for (size_t i = 0; i < n; i++) {
        size_t had = strlen(p->heard);
        if (had + 1 == HEARD_MAX)
            memmove(p->heard, p->heard + 1, had--);
        p->heard[had] = bytes[i];
        p->heard[had + 1] = 0;
        char answer = answer_to(p, bytes[i]);
        if (!answer || p->how.answer_ms == FAKE_NEVER || p->ended)
            continue;
        CHECK(p->owed_n < sizeof p->owed);
        p->owed[p->owed_n++] = answer;
        if (!p->answer_at)
            p->answer_at = now + p->how.answer_ms;
    }
    peer_step(p, now);
}

/* ---- peers as tests see them ---- */

int fake_open(const struct fake_peer *how)
{
    fake_lock();
    unsigned i = world.next;
    unsigned tries = 0;
    while (world.peers[i].used && tries++ < PEERS)
        i = (i + 1) % PEERS;
    CHECK(!world.peers[i].used);
    world.next = (i + 1) % PEERS;
    world.peers[i] = (struct peer){.used = true, .open = true, .how = *how};
    if (++world.open > world.peak)
        world.peak = world.open;
    fake_unlock();
    return FIRST_FD + (int)i;
}

void fake_close(int fd)
{
    fake_lock();
    struct peer *p = peer_of(fd);
    CHECK(!p->watch);
    not_open(p);
    p->used = false;
    fake_unlock();
}

void fake_say(int fd, const char *bytes)
{
    fake_lock();
    if (is_peer(fd))
        say(peer_of(fd), bytes, strlen(bytes));
    fake_unlock();
}

void fake_end(int fd)
{
    fake_lock();
    if (is_peer(fd)) {
        peer_of(fd)->ended = true;
        wake(peer_of(fd));
    }
    fake_unlock();
}

void fake_reset(int fd)
{
    fake_lock();
    if (is_peer(fd)) {
        peer_of(fd)->reset = true;
        peer_of(fd)->said_n = 0;
        wake(peer_of(fd));
    }
    fake_unlock();
}

void fake_become(int fd, const struct fake_peer *how)
{
    fake_lock();
    if (is_peer(fd))
        peer_of(fd)->how = *how;
    fake_unlock();
}

const char *fake_heard(int fd)
{
    return peer_of(fd)->heard;
}

int fake_any(unsigned pick)
{
    fake_lock();
    int fd = -1;
    unsigned n = 0;
    for (int i = 0; i < PEERS; i++)
        n += world.peers[i].open;
    unsigned left = n ? pick % n : 0;
    for (int i = 0; n && i < PEERS && fd < 0; i++)
        if (world.peers[i].open && left-- == 0)
            fd = FIRST_FD + i;
    fake_unlock();
    return fd;
}

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
    bool due = readable(peer_of(io->fd)) || io->broken;
    fake_unlock();
    if (!due || (io->paused && !io->broken))
        return;
    io->ops->on_readable(io);
    io = w->io;
    if (!io)
        return;
    fake_lock();
    if (readable(peer_of(io->fd)) && !io->paused)
        wake(peer_of(io->fd)); /* level-triggered */
    fake_unlock();
}

static void on_clock(struct timer *t)
{
    struct watch *w = OWNER(t, struct watch, clock);
    fake_lock();
    peer_step(peer_of(w->io->fd), loop_now(w->loop));
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
    struct peer *p = peer_of(io->fd);
    CHECK(!p->watch);
    p->watch = w;
    peer_step(p, loop_now(loop));
    if (readable(p))
        wake(p);
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
    peer_of(io->fd)->watch = NULL;
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
    struct peer *p = peer_of(io->fd);
    ssize_t n = -EAGAIN;
    if (p->said_n) {
        size_t part = p->said_n < cap ? p->said_n : cap;
        memcpy(buf, p->said, part);
        memmove(p->said, p->said + part, p->said_n - part);
        p->said_n -= part;
        n = (ssize_t)part;
    } else if (p->reset || p->ended) {
        n = p->reset ? -ECONNRESET : 0;
        not_open(p);
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
        struct peer *p = peer_of(io->fd);
        bool gone = p->reset, deaf = p->how.deaf;
        if (!gone && !deaf)
            hear(p, bytes, n);
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
    struct peer *p = peer_of(io->fd);
    p->our_end = true;
    p->answer_at = 0;
    if (p->watch) /* else when it is attached: a dial that lingers */
        peer_step(p, loop_now(io->loop));
    fake_unlock();
}

enum io_peek io_probe(struct io *io)
{
    fake_lock();
    const struct peer *p = peer_of(io->fd);
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
