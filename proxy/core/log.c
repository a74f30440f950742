/* SPDX-License-Identifier: MIT */
#include "proxy/core/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/core/span.h"

static const char *const level_names[LOG_LEVELS] = {
    [LOG_ERROR] = "error",
    [LOG_WARN] = "warn",
    [LOG_INFO] = "info",
    [LOG_DEBUG] = "debug",
};

struct log_ring *log_ring_new(const char *thread, enum log_level level)
{
    struct log_ring *ring = calloc(1, sizeof *ring);
    CHECK(ring != NULL);
    ring->thread = thread;
    atomic_store(&ring->level, (int)level);
    return ring;
}

/* Only the first `room` lines of the ring may be used. */
PRINTF_LIKE(5, 0)
static void add(struct log_ring *ring, uint32_t room, enum log_level level, const char *event,
                const char *fmt, va_list ap)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (head - atomic_load(&ring->tail) >= room) {
        atomic_fetch_add_explicit(&ring->dropped, 1, memory_order_relaxed);
        return;
    }
    struct log_line *line = &ring->lines[head % LOG_RING_LINES];
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    line->unix_ms = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
    line->event = event;
    line->level = (uint8_t)level;
    vsnprintf(line->text, sizeof line->text, fmt, ap);
    for (char *c = line->text; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = ' '; /* one record is one line */
    atomic_store(&ring->head, head + 1);
    if (ring->wake)
        ring->wake(ring);
}

void log_write(struct log_ring *ring, enum log_level level, const char *event, const char *fmt, ...)
{
    if (!log_on(ring, level))
        return;
    va_list ap;
    va_start(ap, fmt);
    add(ring, LOG_RING_LINES, level, event, fmt, ap);
    va_end(ap);
}

void log_exchange(struct log_ring *ring, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    add(ring, LOG_RING_ACCESS, LOG_INFO, "access", fmt, ap);
    va_end(ap);
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

static void put_json_str(struct out *o, struct span s)
{
    put_str(o, "\"");
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = s.p[i];
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

/* Names of pools may be digits only; a field has one type. */
static bool is_text(struct span key)
{
    return span_eq(key, SPAN_LIT("pool"));
}

static bool is_number(struct span value)
{
    size_t digits = 0, sign = value.n > 1 && value.p[0] == '-';
    for (size_t i = sign; i < value.n; i++)
        digits += value.p[i] >= '0' && value.p[i] <= '9';
    bool padded = digits > 1 && value.p[sign] == '0';
    return digits > 0 && digits + sign == value.n && digits < 20 && !padded;
}

/* What every line has may not come a second time from a text that quotes a peer. */
static bool is_taken(struct span key)
{
    static const char *const names[] = {"time", "level", "thread", "event"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (span_eq(key, span_str(names[i])))
            return true;
    return false;
}

/* Does `key=` begin here? */
static bool is_key(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz_");
    return n > 0 && s[n] == '=';
}

/* Sentences hold quotes of their own: the one that ends the value stands before the next key. */
static const char *closing_quote(const char *s)
{
    for (; *s; s++)
        if (*s == '"' && (s[1] == '\0' || (s[1] == ' ' && is_key(s + 2))))
            break;
    return s;
}

/* The pair at *s, which moves behind it. False: there is none any more. */
static bool next_pair(const char **at, struct span *key, struct span *value, bool *quoted)
{
    const char *s = *at;
    for (; *s; s += strcspn(s, " ")) {
        s += strspn(s, " ");
        if (is_key(s))
            break;
    }
    if (!*s)
        return false;
    *key = span_of(s, strcspn(s, "="));
    s += key->n + 1;
    *quoted = *s == '"';
    const char *end = *quoted ? closing_quote(++s) : s + strcspn(s, " ");
    *value = span_of(s, (size_t)(end - s));
    *at = end + (*quoted && *end);
    return true;
}

/* key=value and key="value with blanks", as members of a JSON object; what does not fit whole is
   left out. Values may quote peers: any text must come to an end here. */
static void put_json_pairs(struct out *o, const char *s)
{
    struct span key, value;
    bool quoted;
    while (next_pair(&s, &key, &value, &quoted)) {
        size_t before = o->n;
        if (is_taken(key))
            continue;
        put_str(o, ",");
        put_json_str(o, key);
        put_str(o, ":");
        if (!quoted && !is_text(key) && is_number(value))
            put(o, (const char *)value.p, value.n);
        else
            put_json_str(o, value);
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
