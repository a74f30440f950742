/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Logs never make a thread wait. Each thread writes lines into a ring of its own (one writer, one
 * reader); the control thread drains the rings to stdout when it can. A full ring drops the line
 * and counts it.
 *
 * A line is an event and key=value pairs: log_write(ring, LOG_INFO, "client_closed", "conn=%u
 * cause=%s", ...). Values with blanks are written "quoted"; JSON output is made from the same
 * pairs: an unquoted integer is a number there (but for `pool`), all else is text. A number has its
 * unit in its name (held_ms). docs/admin.md lists events and fields.
 */
#include <stdatomic.h>

#include "proxy/core/base.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_access { LOG_ACCESS_OFF, LOG_ACCESS_ERRORS, LOG_ACCESS_ALL };
#define LOG_LEVELS 4

#define LOG_LINE_MAX 480
#define LOG_RING_LINES 512 /* a power of two */
/* Lines of the access log leave the rest of the ring to what else there is to say. */
#define LOG_RING_ACCESS (LOG_RING_LINES / 4 * 3)

struct log_line {
    uint64_t unix_ms;
    const char *event; /* a literal */
    uint8_t level;
    char text[LOG_LINE_MAX];
};

struct log_ring {
    const char *thread;
    /* called after a line was added, on the writer's thread: wakes whoever drains; may be NULL */
    void (*wake)(struct log_ring *ring);
    void *owner;        /* wake's */
    _Atomic int level;  /* lines above it are not written */
    _Atomic int access; /* enum log_access: which exchanges are written down */
    _Atomic uint32_t head, tail;
    _Atomic uint64_t dropped;
    struct log_line lines[LOG_RING_LINES];
};

struct log_ring *log_ring_new(const char *thread, enum log_level level);

static inline bool log_on(const struct log_ring *ring, enum log_level level)
{
    return (int)level <= atomic_load_explicit(&ring->level, memory_order_relaxed);
}

/* Is an exchange with this outcome written down (`log.access`)? */
static inline bool log_access_on(const struct log_ring *ring, bool failed)
{
    int access = atomic_load_explicit(&ring->access, memory_order_relaxed);
    return access == LOG_ACCESS_ALL || (access == LOG_ACCESS_ERRORS && failed);
}

/* The ring's own thread. */
COLD void log_write(struct log_ring *ring, enum log_level level, const char *event, const char *fmt,
                    ...) PRINTF_LIKE(4, 5);
/* An "access" line, whatever the level; the caller has asked log_access_on(). */
COLD void log_exchange(struct log_ring *ring, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The control thread: the oldest line, or NULL; log_ring_pop() drops it. */
const struct log_line *log_ring_peek(struct log_ring *ring);
void log_ring_pop(struct log_ring *ring);

/* Renders one line with its newline, cut at cap; returns the length. */
size_t log_render(const struct log_line *line, const char *thread, bool json, char *buf,
                  size_t cap);
