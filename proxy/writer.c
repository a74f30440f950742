/* SPDX-License-Identifier: MIT */
/*
 * From the rings to the descriptor, which may be anything: a file, a pipe or socket that somebody
 * reads slowly or not at all, a terminal that was stopped. Nobody waits for it: when it takes no
 * more, its next "writable" is an event of the loop like others. (libuv could not watch it without
 * making it non-blocking, and a shell may share it.) A file has no such event, and needs none.
 *
 * Owner: control's thread.
 */
#include "proxy/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BATCH 4096       /* what a pipe takes without waiting once poll() says it is writable */
#define LINES_A_TURN 256 /* then the loop's other events have their turn */
#define RETRY_MS 50      /* where there is no event to wait for */

struct ring {
    struct writer *writer;
    struct post_msg wake;
    struct log_ring *log;
};

struct writer {
    struct loop *loop;
    int fd;
    int own_fd; /* a terminal opened once more, without blocking; -1: none */
    bool json, closed;
    bool has_events; /* it is in the loop's set */
    bool watched;    /* it is waited for */
    struct source source;
    struct timer retry;
    size_t n;
    struct ring rings[WRITER_RINGS];
    char batch[BATCH];
    size_t batch_n;
};

static bool is_writable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLOUT | POLLERR | POLLHUP));
}

/* True: the batch is empty again. A descriptor that fails for good swallows what comes. */
static bool flush(struct writer *w)
{
    while (w->batch_n) {
        if (!is_writable(w->fd))
            return false;
        ssize_t n = write(w->fd, w->batch, w->batch_n);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return false;
        if (n <= 0 || (size_t)n >= w->batch_n) {
            w->batch_n = 0;
            return true;
        }
        w->batch_n -= (size_t)n;
        memmove(w->batch, w->batch + n, w->batch_n);
    }
    return true;
}

/* The ring whose next line is the oldest. */
static struct ring *oldest(struct writer *w)
{
    struct ring *best = NULL;
    uint64_t when = 0;
    for (size_t i = 0; i < w->n; i++) {
        const struct log_line *line = log_ring_peek(w->rings[i].log);
        if (line && (!best || line->unix_ms < when)) {
            best = &w->rings[i];
            when = line->unix_ms;
        }
    }
    return best;
}

static bool has_room(const struct writer *w)
{
    return w->batch_n + LOG_LINE_MAX * 2 + 200 <= BATCH;
}

static void drain(struct writer *w);

static void on_writable(struct source *s, uint32_t events)
{
    struct writer *w = OWNER(s, struct writer, source);
    (void)events;
    if (!w->watched)
        return;
    w->watched = false;
    loop_rewatch(w->loop, w->fd, &w->source, LOOP_QUIET);
    drain(w);
}

static void on_retry(struct timer *t)
{
    drain(OWNER(t, struct writer, retry));
}

static void watch(struct writer *w)
{
    if (w->closed || w->watched)
        return;
    w->watched = w->has_events;
    if (w->watched)
        loop_rewatch(w->loop, w->fd, &w->source, EPOLLOUT);
    else
        loop_timer_set(w->loop, &w->retry, RETRY_MS);
}

/* Until nothing is left, the descriptor takes no more for now, or it has been enough for a turn. */
static void drain(struct writer *w)
{
    unsigned lines = 0;
    while (has_room(w) || flush(w)) {
        struct ring *r = oldest(w);
        if (!r && flush(w))
            return;
        if (!r)
            break;
        if (lines++ == LINES_A_TURN && !w->closed) {
            post_once(w->loop, &r->wake);
            return;
        }
        w->batch_n += log_render(log_ring_peek(r->log), r->log->thread, w->json,
                                 w->batch + w->batch_n, BATCH - w->batch_n);
        log_ring_pop(r->log);
    }
    watch(w);
}

static void on_wake(struct post_msg *msg)
{
    drain(OWNER(msg, struct ring, wake)->writer);
}

/* Each ring's logger knows its ring by address: the wake message stands beside it. */
static void wake(struct log_ring *log)
{
    struct ring *r = log->owner;
    post_once(r->writer->loop, &r->wake);
}

/* A terminal that was stopped (^S) takes the first bytes of a write and blocks on the rest: it is
 * opened once more, since its open file is the shell's, too. */
static int open_terminal(int fd)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return isatty(fd) ? open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
}

struct writer *writer_new(struct loop *loop, int fd)
{
    struct writer *w = calloc(1, sizeof *w);
    CHECK(w != NULL);
    w->loop = loop;
    w->own_fd = open_terminal(fd);
    w->fd = w->own_fd >= 0 ? w->own_fd : fd;
    w->source.on_events = on_writable;
    timer_init(&w->retry, on_retry);
    return w;
}

void writer_start(struct writer *w)
{
    w->has_events = loop_watch(w->loop, w->fd, &w->source, LOOP_QUIET);
}

struct log_ring *writer_ring(struct writer *w, const char *thread, enum log_level level)
{
    CHECK(w->n < WRITER_RINGS);
    struct ring *r = &w->rings[w->n++];
    r->writer = w;
    r->log = log_ring_new(thread, level);
    r->log->owner = r;
    r->log->wake = wake;
    post_init(&r->wake, on_wake, NULL);
    return r->log;
}

void writer_conf(struct writer *w, const struct log_conf *conf)
{
    w->json = conf->format == LOG_FORMAT_JSON;
    for (size_t i = 0; i < w->n; i++) {
        atomic_store(&w->rings[i].log->level, (int)conf->level);
        atomic_store(&w->rings[i].log->access, (int)conf->access);
    }
}

void writer_close(struct writer *w)
{
    w->closed = true;
    w->watched = false;
    loop_timer_stop(w->loop, &w->retry);
    if (w->has_events)
        loop_unwatch(w->loop, w->fd);
    drain(w);
    for (size_t i = 0; i < w->n; i++)
        w->rings[i].log->wake = NULL;
}

void writer_free(struct writer *w)
{
    drain(w);
    if (w->own_fd >= 0)
        close(w->own_fd);
    for (size_t i = 0; i < w->n; i++)
        free(w->rings[i].log);
    free(w);
}
