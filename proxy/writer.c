/* SPDX-License-Identifier: MIT */
#include "proxy/writer.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define BATCH 4096 /* what a pipe takes without waiting once poll() says it is writable */
#define RETRY_MS 50

struct ring {
    struct writer *writer;
    struct post_msg wake;
    struct log_ring *log;
};

struct writer {
    struct loop *loop;
    int fd;
    bool json, closed;
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

/* Until nothing is left, or the descriptor takes no more for now: then again in a moment. */
static void drain(struct writer *w)
{
    while (has_room(w) || flush(w)) {
        struct ring *r = oldest(w);
        if (!r && flush(w))
            return;
        if (!r)
            break;
        w->batch_n += log_render(log_ring_peek(r->log), r->log->thread, w->json,
                                 w->batch + w->batch_n, BATCH - w->batch_n);
        log_ring_pop(r->log);
    }
    if (!w->closed)
        loop_timer_set(w->loop, &w->retry, RETRY_MS);
}

static void on_retry(struct timer *t)
{
    drain(OWNER(t, struct writer, retry));
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

struct writer *writer_new(struct loop *loop, int fd)
{
    struct writer *w = calloc(1, sizeof *w);
    CHECK(w != NULL);
    w->loop = loop;
    w->fd = fd;
    timer_init(&w->retry, on_retry);
    return w;
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
    loop_timer_stop(w->loop, &w->retry);
    drain(w);
    for (size_t i = 0; i < w->n; i++)
        w->rings[i].log->wake = NULL;
}

void writer_free(struct writer *w)
{
    drain(w);
    for (size_t i = 0; i < w->n; i++)
        free(w->rings[i].log);
    free(w);
}
