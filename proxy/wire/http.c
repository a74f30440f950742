/* SPDX-License-Identifier: MIT */
/*
 * The parser: collects a head line by line into a buffer of its own, has it judged, then counts or
 * de-chunks the body in place. Belongs to whoever owns the connection; no thread of its own.
 *
 *     HEAD --complete--> LENGTH | CHUNKED | CLOSE --last byte--> OVER --reset--> HEAD
 *       `---no body------------------------------------------------^
 *     any --> BAD, until reset
 *
 * Limits and syntax are checked in the order of the bytes, so that a peer that sends one byte at a
 * time hears the same as one that sends all at once.
 */
#include "proxy/wire/http.h"

#include <stddef.h>
#include <stdlib.h>

#include "proxy/wire/http_chunk.h"
#include "proxy/wire/http_private.h"

enum state { IN_HEAD, IN_LENGTH, IN_CHUNKS, IN_CLOSE, OVER, BAD };

struct http_parser {
    /* fixed */
    enum http_kind kind;
    struct http_limits limits;

    /* changes */
    enum state state;
    struct http_asked asked;
    struct http_bad bad;

    /* The head as it grows: bytes, where the current line begins, lines so far. */
    struct chunk_pool *lent; /* where it is kept; NULL: allocated */
    struct chunk *chunk;     /* holds text, and behind it head if that fits */
    uint8_t *text;
    uint32_t n, cap, line, lines;
    bool skipped;           /* the one empty line that may precede a request */
    struct http_head *head; /* followed by its fields */

    /* The body. */
    uint64_t left; /* IN_LENGTH: bytes to come; IN_CHUNKS and IN_CLOSE: bytes still allowed */
    struct http_chunks chunks;
};

struct http_parser *http_parser_new(enum http_kind kind, const struct http_limits *limits)
{
    struct http_parser *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->kind = kind;
    p->limits = *limits;
    return p;
}

static bool in_chunk(const struct http_parser *p, const void *at)
{
    return p->chunk && (const uint8_t *)at >= p->chunk->data &&
           (const uint8_t *)at < p->chunk->data + CHUNK_DATA;
}

static void free_head(struct http_parser *p)
{
    if (!in_chunk(p, p->head))
        free(p->head);
    if (!in_chunk(p, p->text))
        free(p->text);
    if (p->chunk)
        chunk_put(p->lent, p->chunk);
    p->chunk = NULL;
    p->head = NULL;
    p->text = NULL;
    p->n = p->cap = p->line = 0;
}

void http_parser_lend(struct http_parser *p, struct chunk_pool *chunks)
{
    CHECK(!p->text && !p->head);
    p->lent = chunks;
}

void http_parser_drop_head(struct http_parser *p)
{
    if (p->state != IN_HEAD) /* half a head is still needed */
        free_head(p);
}

void http_parser_free(struct http_parser *p)
{
    if (!p)
        return;
    free_head(p);
    free(p);
}

void http_parser_reset(struct http_parser *p)
{
    free_head(p);
    p->state = IN_HEAD;
    p->lines = 0;
    p->skipped = false;
}

void http_parser_expect(struct http_parser *p, struct http_asked asked)
{
    p->asked = asked;
}

bool http_parser_is_quiet(const struct http_parser *p)
{
    return p->state == IN_HEAD && p->n == 0;
}

bool http_parser_is_new(const struct http_parser *p)
{
    return http_parser_is_quiet(p) && !p->skipped;
}

bool http_parser_is_done(const struct http_parser *p)
{
    return p->state == OVER;
}

const struct http_head *http_parser_head(const struct http_parser *p)
{
    return p->head;
}

static bool refuse(struct http_parser *p, uint16_t status, const char *reason)
{
    return http_refuse_message(&p->bad, p->kind, status, reason);
}

/* ---- the head ------------------------------------------------------------------------------ */

/* A chunk for a head that begins; false: to be allocated. */
static bool borrow(struct http_parser *p)
{
    p->chunk = p->lent ? chunk_get(p->lent) : NULL;
    if (!p->chunk)
        return false;
    p->text = p->chunk->data;
    p->cap = CHUNK_DATA < p->limits.head ? CHUNK_DATA : p->limits.head;
    return true;
}

/*
 * Room for `more` bytes at the end of the text, the head's limit being checked already. `in` is
 * what lies before us: when the whole head is in it, one allocation of its exact size does.
 */
static bool reserve(struct http_parser *p, size_t more, struct span in)
{
    size_t need = p->n + more;
    if (need <= p->cap || (p->cap == 0 && need <= CHUNK_DATA && borrow(p)))
        return true;
    size_t cap = p->cap ? (size_t)p->cap * 2 : 1024;
    const uint8_t *end = p->cap ? NULL : memmem(in.p, in.n, "\r\n\r\n", 4);
    if (end)
        cap = (size_t)(end - in.p) + 4;
    if (cap > p->limits.head)
        cap = p->limits.head;
    if (cap < need)
        cap = need;
    bool borrowed = p->chunk != NULL;
    uint8_t *text = realloc(borrowed ? NULL : p->text, cap);
    if (!text)
        return refuse(p, 503, "there is no memory for the head");
    if (borrowed) {
        memcpy(text, p->text, p->n);
        chunk_put(p->lent, p->chunk);
        p->chunk = NULL;
    }
    p->text = text;
    p->cap = (uint32_t)cap;
    return true;
}

/* Rejects at its first byte what is no HTTP at all and may never send a line's end. */
static bool check_first(struct http_parser *p, uint8_t b)
{
    if (p->kind == HTTP_KIND_RESPONSE)
        return b == 'H' || refuse(p, 502, "the response does not begin with HTTP");
    if (b == 0x16)
        return refuse(p, 400, "the client began TLS on a port that speaks plain HTTP");
    if (b == '\r' && !p->skipped)
        return true;
    return (http_classes[b] & HTTP_C_TOKEN) ||
           refuse(p, 400, "the request does not begin with a method");
}

/* Is there room for `more` bytes of the current line, by the limits? */
static bool check_limits(struct http_parser *p, size_t more)
{
    bool start = p->lines == 0;
    bool request = p->kind == HTTP_KIND_REQUEST;
    /* Around a target: the longest method, two spaces, version, line end. */
    size_t line_max = start && request ? (size_t)p->limits.target + 32 : (size_t)p->limits.line + 2;
    size_t line_left = line_max - (p->n - p->line);
    size_t head_left = p->limits.head - p->n;
    if (more <= line_left && more <= head_left)
        return true;
    if (head_left <= line_left)
        return refuse(p, 431, "the head is too long");
    if (start && request)
        return refuse(p, 414, "the request target is too long");
    return refuse(p, 431, "a line of the head is too long");
}

/* A line has ended. *complete: it was the empty one. */
static bool take_line(struct http_parser *p, bool *complete)
{
    struct span line = span_of(p->text + p->line, p->n - p->line - 1);
    if (line.n == 0 || line.p[line.n - 1] != '\r')
        return refuse(p, 400, "a line of the head ends in a bare line feed");
    line.n--;
    if (p->lines == 0 && line.n == 0 && p->kind == HTTP_KIND_REQUEST) {
        free_head(p);
        p->skipped = true;
        return true;
    }
    p->line = p->n;
    if (p->lines == 0) {
        struct http_head scratch; /* read again at the end, when the text no longer moves */
        p->lines++;
        return http_start_line(line, p->kind, &p->limits, &scratch, &p->bad);
    }
    if (line.n == 0) {
        *complete = true;
        return true;
    }
    if (p->lines++ > p->limits.fields)
        return refuse(p, 431, "there are too many fields");
    return http_field_line(line, p->kind, &p->bad);
}

/* Memory for the head: behind its text, if there is room. */
static void *place_head(struct http_parser *p, size_t n)
{
    const size_t align = _Alignof(max_align_t);
    if (!p->chunk)
        return malloc(n);
    uintptr_t end = (uintptr_t)(p->chunk->data + p->n);
    size_t at = p->n + (size_t)(-end & (align - 1));
    return at + n <= CHUNK_DATA ? p->chunk->data + at : malloc(n);
}

static bool finish_head(struct http_parser *p)
{
    size_t n = p->lines - 1;
    p->head = place_head(p, sizeof *p->head + n * sizeof(struct http_field));
    if (!p->head)
        return refuse(p, 503, "there is no memory for the head");
    struct http_field *fields = (struct http_field *)(void *)(p->head + 1);
    if (!http_head_read(span_of(p->text, p->n), p->kind, &p->limits, p->asked, fields, n, p->head,
                        &p->bad))
        return false;
    p->left = p->limits.body ? p->limits.body : UINT64_MAX;
    switch (p->head->body) {
    case HTTP_BODY_NONE:
        p->state = OVER;
        break;
    case HTTP_BODY_LENGTH:
        p->left = p->head->length;
        p->state = p->left ? IN_LENGTH : OVER;
        break;
    case HTTP_BODY_CHUNKED:
        http_chunks_init(&p->chunks, p->limits.extensions, p->limits.trailers);
        p->state = IN_CHUNKS;
        break;
    case HTTP_BODY_CLOSE:
        p->state = IN_CLOSE;
        break;
    }
    return true;
}

static enum http_step feed_head(struct http_parser *p, struct span in, size_t *used)
{
    bool complete = false;
    while (*used < in.n) {
        struct span rest = span_skip(in, *used);
        const uint8_t *nl = memchr(rest.p, '\n', rest.n);
        size_t piece = nl ? (size_t)(nl - rest.p) + 1 : rest.n;
        if (p->n == 0 && !check_first(p, rest.p[0]))
            return HTTP_STEP_BAD;
        if (!check_limits(p, piece) || !reserve(p, piece, rest))
            return HTTP_STEP_BAD;
        memcpy(p->text + p->n, rest.p, piece);
        p->n += (uint32_t)piece;
        *used += piece;
        if (nl && !take_line(p, &complete))
            return HTTP_STEP_BAD;
        if (complete)
            return finish_head(p) ? HTTP_STEP_HEAD : HTTP_STEP_BAD;
    }
    return HTTP_STEP_MORE;
}

/* ---- the body ------------------------------------------------------------------------------ */

static enum http_step feed_length(struct http_parser *p, struct span in, size_t *used,
                                  struct http_event *ev)
{
    size_t n = in.n < p->left ? in.n : (size_t)p->left;
    ev->body = span_of(in.p, n);
    *used = n;
    p->left -= n;
    if (p->left == 0)
        p->state = OVER;
    return HTTP_STEP_BODY;
}

/* Counts against the bound on bodies whose length was not announced. */
static bool count_body(struct http_parser *p, size_t n)
{
    if (n > p->left)
        return refuse(p, 413, "the body is larger than allowed");
    p->left -= n;
    return true;
}

static enum http_step feed_chunks(struct http_parser *p, struct span in, size_t *used,
                                  struct http_event *ev)
{
    uint16_t status;
    const char *reason;
    switch (http_chunks_next(&p->chunks, in, used, &ev->body, &status, &reason)) {
    case HTTP_CHUNK_MORE:
        return HTTP_STEP_MORE;
    case HTTP_CHUNK_BODY:
        return count_body(p, ev->body.n) ? HTTP_STEP_BODY : HTTP_STEP_BAD;
    case HTTP_CHUNK_END:
        p->state = OVER;
        return HTTP_STEP_END;
    case HTTP_CHUNK_BAD:
        break;
    }
    refuse(p, status, reason);
    return HTTP_STEP_BAD;
}

static enum http_step feed_close(struct http_parser *p, struct span in, size_t *used,
                                 struct http_event *ev)
{
    *used = in.n;
    ev->body = in;
    return count_body(p, in.n) ? HTTP_STEP_BODY : HTTP_STEP_BAD;
}

/* ---- both ---------------------------------------------------------------------------------- */

static enum http_step step(struct http_parser *p, struct span in, size_t *used,
                           struct http_event *ev)
{
    if (p->state == OVER)
        return HTTP_STEP_END;
    if (p->state == BAD)
        return HTTP_STEP_BAD;
    if (in.n == 0)
        return HTTP_STEP_MORE;
    switch (p->state) {
    case IN_HEAD:
        return feed_head(p, in, used);
    case IN_LENGTH:
        return feed_length(p, in, used, ev);
    case IN_CHUNKS:
        return feed_chunks(p, in, used, ev);
    case IN_CLOSE:
        return feed_close(p, in, used, ev);
    case OVER:
    case BAD:
        break;
    }
    return HTTP_STEP_BAD;
}

enum http_step http_parser_feed(struct http_parser *p, struct span in, size_t *used,
                                struct http_event *ev)
{
    *used = 0;
    *ev = (struct http_event){0};
    enum http_step s = step(p, in, used, ev);
    if (s == HTTP_STEP_HEAD)
        ev->head = p->head;
    if (s == HTTP_STEP_BAD) {
        p->state = BAD;
        ev->bad = p->bad;
        ev->body = (struct span){NULL, 0};
    }
    return s;
}

enum http_step http_parser_eof(struct http_parser *p, struct http_event *ev)
{
    *ev = (struct http_event){0};
    if (p->state == IN_CLOSE)
        p->state = OVER;
    if (p->state == OVER)
        return HTTP_STEP_END;
    if (http_parser_is_quiet(p))
        return HTTP_STEP_MORE;
    if (p->state != BAD)
        refuse(p, 400,
               p->state == IN_HEAD ? "the connection was closed in the middle of a head"
                                   : "the connection was closed in the middle of a body");
    p->state = BAD;
    ev->bad = p->bad;
    return HTTP_STEP_BAD;
}
