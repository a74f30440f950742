/* SPDX-License-Identifier: MIT */
#include "proxy/core/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const level_names[LOG_LEVELS] = {
    [LOG_ERROR] = "error",
    [LOG_WARN] = "warn",
    [LOG_INFO] = "info",
    [LOG_DEBUG] = "debug",
};

const char *log_level_name(enum log_level level)
{
    return level_names[level];
}

struct log_ring *log_ring_new(const char *thread, enum log_level level)
{
    struct log_ring *ring = calloc(1, sizeof *ring);
    CHECK(ring != NULL);
    ring->thread = thread;
    atomic_store(&ring->level, (int)level);
    return ring;
}

void log_write(struct log_ring *ring, enum log_level level, const char *event, const char *fmt, ...)
{
    if (!log_on(ring, level))
        return;
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (head - atomic_load(&ring->tail) >= LOG_RING_LINES) {
        atomic_fetch_add_explicit(&ring->dropped, 1, memory_order_relaxed);
        return;
    }
    struct log_line *line = &ring->lines[head % LOG_RING_LINES];
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    line->unix_ms = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
    line->event = event;
    line->level = (uint8_t)level;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line->text, sizeof line->text, fmt, ap);
    va_end(ap);
    for (char *c = line->text; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = ' '; /* one record is one line */
    atomic_store(&ring->head, head + 1);
    if (ring->wake)
        ring->wake(ring);
}

const struct log_line *log_ring_peek(struct log_ring *ring)
{
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (tail == atomic_load(&ring->head))
        return NULL;
    return &ring->lines[tail % LOG_RING_LINES];
}

void log_ring_pop(struct log_ring *ring)
{
    atomic_store(&ring->tail, atomic_load_explicit(&ring->tail, memory_order_relaxed) + 1);
}

struct out {
    char *p;
    size_t cap, n;
    bool full; /* something was cut */
};

static void put(struct out *o, const char *s, size_t n)
{
    if (n > o->cap - o->n) {
        n = o->cap - o->n;
        o->full = true;
    }
    memcpy(o->p + o->n, s, n);
    o->n += n;
}

static void put_str(struct out *o, const char *s)
{
    put(o, s, strlen(s));
}

static void put_json_str(struct out *o, const char *s, size_t n)
{
    put_str(o, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        char esc[8];
        if (c == '"' || c == '\\')
            snprintf(esc, sizeof esc, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            snprintf(esc, sizeof esc, "\\u%04x", c);
        else
            snprintf(esc, sizeof esc, "%c", c);
        put_str(o, esc);
    }
    put_str(o, "\"");
}

/* key=value and key="value with blanks", as members of a JSON object; what does not fit whole is
 * left
   out. Values may quote peers: any text must come to an end here. */
static void put_json_pairs(struct out *o, const char *s)
{
    while (*s) {
        while (*s == ' ')
            s++;
        const char *key = s;
        while (*s && *s != '=' && *s != ' ')
            s++;
        size_t key_n = (size_t)(s - key);
        if (*s == '=' && key_n == 0)
            s++;
        if (*s != '=' || key_n == 0)
            continue;
        s++;
        const char *end;
        const char *value = s;
        if (*s == '"') {
            value++;
            end = strchr(value, '"');
            if (!end)
                end = value + strlen(value);
            s = *end ? end + 1 : end;
        } else {
            end = s + strcspn(s, " ");
            s = end;
        }
        size_t before = o->n;
        put_str(o, ",");
        put_json_str(o, key, key_n);
        put_str(o, ":");
        put_json_str(o, value, (size_t)(end - value));
        if (o->full) {
            o->n = before;
            return;
        }
    }
}

size_t log_render(const struct log_line *line, const char *thread, bool json, char *buf, size_t cap)
{
    CHECK(cap > 8);
    char when[40], day[24];
    time_t sec = (time_t)(line->unix_ms / 1000);
    struct tm tm;
    gmtime_r(&sec, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when, sizeof when, "%s.%03uZ", day, (unsigned)(line->unix_ms % 1000));

    struct out o = {.p = buf, .cap = cap - 3};
    if (json) {
        put_str(&o, "{\"time\":\"");
        put_str(&o, when);
        put_str(&o, "\",\"level\":\"");
        put_str(&o, level_names[line->level]);
        put_str(&o, "\",\"thread\":\"");
        put_str(&o, thread);
        put_str(&o, "\",\"event\":\"");
        put_str(&o, line->event);
        put_str(&o, "\"");
        put_json_pairs(&o, line->text);
        o.cap = cap;
        put_str(&o, "}\n");
        return o.n;
    }
    put_str(&o, when);
    put_str(&o, " ");
    put_str(&o, level_names[line->level]);
    put_str(&o, " ");
    put_str(&o, line->event);
    if (line->text[0])
        put_str(&o, " ");
    put_str(&o, line->text);
    o.cap = cap;
    put_str(&o, "\n");
    return o.n;
}
