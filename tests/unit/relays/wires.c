/* SPDX-License-Identifier: MIT */
#include "tests/unit/relays/wires.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/relays/memory.h"

#define FIRST 1000000
#define WIRES 256
#define ROOM ((size_t)65536)

/* One end. */
struct wire {
    bool used, ours, listens;
    struct wire *peer;      /* NULL: it was closed, or never was */
    struct wire *next;      /* in a door's queue */
    struct wire *queue;     /* a door's: accepted oldest first */
    uint8_t *in;            /* came, and was not read */
    size_t n, at, cap;      /* bytes in `in` to `cap`, those before `at` are read */
    size_t room;            /* the peer may leave so many unread */
    bool end;               /* end-of-file is behind them */
    bool reset, reset_told; /* nothing goes through any more */
    bool fin;               /* it has said end-of-file */
};

static struct wire wires[WIRES];
static size_t chop;
static struct wires_calls calls;
static int last_door = -1;
static void (*connected)(int far);

/* ---- the table ---- */

static int fd_of(const struct wire *w)
{
    return FIRST + (int)(w - wires);
}

static bool is_wire(int fd)
{
    return fd >= FIRST && fd < FIRST + WIRES;
}

static struct wire *wire_of(int fd)
{
    CHECK(is_wire(fd));
    CHECK(wires[fd - FIRST].used);
    return &wires[fd - FIRST];
}

static struct wire *make(bool ours)
{
    for (int i = 0; i < WIRES; i++) {
        if (wires[i].used)
            continue;
        uint8_t *in = wires[i].in;
        size_t cap = wires[i].cap;
        wires[i] = (struct wire){.used = true, .ours = ours, .room = ROOM, .in = in, .cap = cap};
        return &wires[i];
    }
    CHECK(!"out of wires");
    return NULL;
}

static void connect_both(struct wire *a, struct wire *b)
{
    a->peer = b;
    b->peer = a;
}

void wires_clear(void)
{
    CHECK(wires_of_ours() == 0);
    for (int i = 0; i < WIRES; i++)
        wires[i].used = false;
    chop = 0;
    last_door = -1;
}

unsigned wires_of_ours(void)
{
    unsigned n = 0;
    for (int i = 0; i < WIRES; i++)
        n += wires[i].used && wires[i].ours;
    return n;
}

struct wires_calls wires_calls(void)
{
    return calls;
}

void wires_chop(size_t bytes)
{
    chop = bytes;
}

void wires_on_connect(void (*on_connect)(int far))
{
    connected = on_connect;
}

/* ---- what both sides do ---- */

static void put(struct wire *w, const void *p, size_t n)
{
    if (w->at == w->n)
        w->at = w->n = 0;
    if (w->n + n > w->cap) {
        w->cap = (w->n + n) * 2;
        w->in = memory_own(w->in, w->cap); /* kept for whoever has this place next */
    }
    memcpy(w->in + w->n, p, n);
    w->n += n;
}

static size_t take(struct wire *w, void *buf, size_t cap, bool peek)
{
    size_t n = w->n - w->at < cap ? w->n - w->at : cap;
    if (n)
        memcpy(buf, w->in + w->at, n);
    w->at += peek ? 0 : n;
    return n;
}

static void break_off(struct wire *w)
{
    if (w->peer)
        w->peer->reset = true;
    w->reset = true;
}

static void finish(struct wire *w)
{
    w->fin = true;
    if (w->peer)
        w->peer->end = true;
}

static void leave(struct wire *w)
{
    if (w->peer) {
        finish(w);
        if (w->n > w->at) /* unread: the peer is told by a reset */
            w->peer->reset = true;
        w->peer->peer = NULL;
    }
    for (struct wire *q = w->queue; q; q = q->next) { /* connected, never accepted */
        if (q->peer) {
            q->peer->reset = true;
            q->peer->peer = NULL;
        }
        q->used = false;
    }
    w->used = false;
}

/* ---- far ends ---- */

int wire_listen(void)
{
    struct wire *w = make(false); /* control's */
    w->listens = true;
    return fd_of(w);
}

int wire_door(void)
{
    return last_door;
}

int wire_connect(int door)
{
    if (!is_wire(door) || !wires[door - FIRST].used || !wires[door - FIRST].listens)
        return -1;
    struct wire *far = make(false), *near = make(false), **at = &wire_of(door)->queue;
    connect_both(far, near);
    while (*at)
        at = &(*at)->next;
    *at = near;
    return fd_of(far);
}

int wire_pair(int *far)
{
    struct wire *a = make(true), *b = make(false);
    connect_both(a, b);
    *far = fd_of(b);
    return fd_of(a);
}

size_t wire_take(int far, void *buf, size_t cap)
{
    return take(wire_of(far), buf, cap, false);
}

void wire_put(int far, struct span bytes)
{
    struct wire *w = wire_of(far);
    if (w->reset || w->fin)
        return;
    if (w->peer)
        put(w->peer, bytes.p, bytes.n);
    else
        w->reset = true;
}

bool wire_is_over(int far)
{
    const struct wire *w = wire_of(far);
    return w->reset || (w->n == w->at && (w->end || !w->peer));
}

void wire_room(int far, size_t bytes)
{
    wire_of(far)->room = bytes;
}

void wire_finish(int far)
{
    if (is_wire(far) && wires[far - FIRST].used)
        finish(wire_of(far));
}

void wire_close(int far)
{
    if (is_wire(far) && wires[far - FIRST].used)
        leave(wire_of(far));
}

void wire_reset(int far)
{
    if (!is_wire(far) || !wires[far - FIRST].used)
        return;
    break_off(wire_of(far));
    leave(wire_of(far));
}

unsigned wire_events(int fd)
{
    const struct wire *w = wire_of(fd);
    if (w->listens)
        return w->queue ? WIRE_IN : 0;
    unsigned events = 0;
    bool gone = w->reset || !w->peer;
    if (w->n > w->at || w->end || w->reset)
        events |= WIRE_IN;
    if (gone || w->peer->n - w->peer->at < w->peer->room)
        events |= WIRE_OUT;
    if (w->end || w->reset)
        events |= WIRE_RDHUP;
    if (w->reset && !w->reset_told)
        events |= WIRE_ERR;
    if (w->reset || (w->end && w->fin))
        events |= WIRE_HUP;
    return events;
}

/* ---- carpool's calls ---- */

ssize_t __real_recv(int fd, void *buf, size_t n, int flags);
ssize_t __real_send(int fd, const void *buf, size_t n, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
int __real_close(int fd);
int __real_shutdown(int fd, int how);
int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
ssize_t __wrap_recv(int fd, void *buf, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
int __wrap_close(int fd);
int __wrap_shutdown(int fd, int how);
int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int __wrap_fcntl(int fd, int what, ...);
int __wrap_fcntl64(int fd, int what, ...);
int __wrap_ioctl(int fd, unsigned long what, ...);
int __wrap_socket(int family, int type, int protocol);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len);

static int fails(int error)
{
    errno = error;
    return -1;
}

ssize_t __wrap_recv(int fd, void *buf, size_t n, int flags)
{
    if (!is_wire(fd))
        return __real_recv(fd, buf, n, flags);
    calls.reads++;
    struct wire *w = wire_of(fd);
    CHECK(w->ours);
    size_t got = take(w, buf, chop && n > chop ? chop : n, flags & MSG_PEEK);
    if (got)
        return (ssize_t)got;
    if (w->reset && !w->reset_told) {
        w->reset_told = true;
        return fails(ECONNRESET);
    }
    return w->end || w->reset || !w->peer ? 0 : fails(EAGAIN);
}

static ssize_t give(struct wire *w, const void *buf, size_t n)
{
    CHECK(w->ours);
    if (w->reset || w->fin)
        return fails(EPIPE);
    if (!w->peer) { /* taken by the kernel, refused by the other one's */
        w->reset = true;
        return (ssize_t)n;
    }
    size_t unread = w->peer->n - w->peer->at;
    size_t room = w->peer->room > unread ? w->peer->room - unread : 0;
    if (room == 0)
        return fails(EAGAIN);
    n = n < room ? n : room;
    put(w->peer, buf, n);
    return (ssize_t)n;
}

ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags)
{
    if (!is_wire(fd))
        return __real_send(fd, buf, n, flags);
    calls.writes++;
    return give(wire_of(fd), buf, chop && n > chop ? chop : n);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags)
{
    if (!is_wire(fd))
        return __real_sendmsg(fd, m, flags);
    calls.writes++;
    size_t left = chop ? chop : SIZE_MAX, done = 0;
    for (size_t i = 0; i < m->msg_iovlen && left; i++) {
        size_t n = m->msg_iov[i].iov_len < left ? m->msg_iov[i].iov_len : left;
        if (n == 0)
            continue;
        ssize_t k = give(wire_of(fd), m->msg_iov[i].iov_base, n);
        if (k < 0)
            return done ? (ssize_t)done : k;
        done += (size_t)k;
        left -= (size_t)k;
        if ((size_t)k < n)
            break;
    }
    return (ssize_t)done;
}

int __wrap_close(int fd)
{
    if (!is_wire(fd))
        return __real_close(fd);
    calls.others++;
    CHECK(wire_of(fd)->ours);
    leave(wire_of(fd));
    return 0;
}

int __wrap_shutdown(int fd, int how)
{
    if (!is_wire(fd))
        return __real_shutdown(fd, how);
    calls.others++;
    CHECK(how == SHUT_WR);
    finish(wire_of(fd));
    return 0;
}

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    if (!is_wire(fd))
        return __real_accept4(fd, addr, len, flags);
    calls.others++;
    struct wire *w = wire_of(fd)->queue;
    if (!w)
        return fails(EAGAIN);
    wire_of(fd)->queue = w->next;
    w->next = NULL;
    w->ours = true;
    struct sockaddr_in in = {
        .sin_family = AF_INET, .sin_port = htons(4711), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    CHECK(*len >= sizeof in);
    memcpy(addr, &in, sizeof in);
    *len = sizeof in;
    return fd_of(w);
}

/* Only doors are copied, and only here asked for anything. */
int __wrap_fcntl(int fd, int what, ...)
{
    CHECK(is_wire(fd) && what == F_DUPFD_CLOEXEC && wire_of(fd)->listens);
    struct wire *w = make(true);
    calls.others++;
    w->listens = true;
    return last_door = fd_of(w);
}

/* What Debian 13's headers make of it. */
int __wrap_fcntl64(int fd, int what, ...)
{
    return __wrap_fcntl(fd, what);
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    if (!is_wire(fd))
        return __real_getsockopt(fd, level, name, value, len);
    calls.others++;
    if (level != SOL_SOCKET || name != SO_ERROR)
        return fails(ENOPROTOOPT);
    *(int *)value = wire_of(fd)->reset ? ECONNREFUSED : 0;
    return 0;
}

/* What the kernel holds for a peer that is slow: nothing, it takes only what the peer has room
 * for. */
int __wrap_ioctl(int fd, unsigned long what, ...)
{
    va_list args;
    va_start(args, what);
    *va_arg(args, int *) = 0;
    va_end(args);
    CHECK(is_wire(fd));
    calls.others++;
    return 0;
}

int __wrap_socket(int family, int type, int protocol)
{
    (void)family, (void)type, (void)protocol;
    calls.others++;
    return fd_of(make(true));
}

int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    (void)addr, (void)len;
    calls.others++;
    struct wire *far = make(false);
    connect_both(wire_of(fd), far);
    if (connected)
        connected(fd_of(far));
    else
        wire_reset(fd_of(far));
    return fails(EINPROGRESS);
}
