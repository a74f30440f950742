/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Runs bytes through the HTTP parser in pieces and writes down what comes out, as text:
 *
 *     HEAD GET /x HTTP/1.1 host=h body=length:5 keep
 *     BODY hello
 *     END
 *     BAD 400 there is no Host
 *     MORE                               (input used up in the middle of a message)
 *     QUIET                              (input used up between messages)
 *
 * Each piece is a block of memory of its own, so that a reader past its end is caught.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/wire/http.h"

struct trace {
    char text[1 << 17];
    size_t n;
    bool in_body;
    size_t surplus; /* bytes left with the caller after the END of a response */
};

struct trace_input {
    enum http_kind kind;
    struct http_limits limits;
    struct http_asked asked;
    bool eof; /* the peer closes after the input */
};

static inline void trace_put(struct trace *t, const char *p, size_t n)
{
    for (size_t i = 0; i < n && t->n < sizeof t->text - 1; i++)
        t->text[t->n++] = p[i] ? p[i] : '0';
    t->text[t->n] = '\0';
}

static inline void trace_say(struct trace *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static inline void trace_say(struct trace *t, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (t->in_body)
        trace_put(t, "\n", 1);
    t->in_body = false;
    trace_put(t, line, strlen(line));
}

static inline void trace_head(struct trace *t, const struct http_head *h)
{
    static const char *const bodies[] = {"none", "length", "chunked", "close"};
    char length[32] = "";
    if (h->body == HTTP_BODY_LENGTH)
        snprintf(length, sizeof length, ":%llu", (unsigned long long)h->length);
    if (h->kind == HTTP_KIND_REQUEST)
        trace_say(t, "HEAD %s %.*s HTTP/1.%d host=%.*s", http_method_text(h->method),
                  h->target.n > 60 ? 60 : (int)h->target.n, (const char *)h->target.p, h->minor,
                  (int)h->host.n, h->host.n ? (const char *)h->host.p : "");
    else
        trace_say(t, "HEAD %d HTTP/1.%d [%.*s]", h->status, h->minor, (int)h->reason.n,
                  (const char *)h->reason.p);
    trace_say(t, " body=%s%s%s%s%s%s%s%s\n", bodies[h->body], length, h->keep_alive ? " keep" : "",
              h->expect_continue ? " expect" : "", h->upgrade ? " upgrade" : "",
              h->method == HTTP_M_CONNECT ? " connect" : "", h->interim ? " interim" : "",
              h->tunnel ? " tunnel" : "");
}

static inline void trace_body(struct trace *t, struct span body)
{
    if (!t->in_body)
        trace_put(t, "BODY ", 5);
    t->in_body = true;
    trace_put(t, (const char *)body.p, body.n);
}

/* False: nothing more to come from this parser. */
static inline bool trace_piece(struct trace *t, struct http_parser *p,
                               const struct trace_input *input, struct span piece)
{
    size_t at = 0;
    for (;;) {
        size_t used;
        struct http_event ev;
        enum http_step step = http_parser_feed(p, span_skip(piece, at), &used, &ev);
        CHECK(used <= piece.n - at);
        at += used;
        switch (step) {
        case HTTP_STEP_MORE:
            CHECK(at == piece.n);
            return true;
        case HTTP_STEP_HEAD:
            CHECK(ev.head == http_parser_head(p));
            trace_head(t, ev.head);
            break;
        case HTTP_STEP_BODY:
            CHECK(ev.body.n > 0 && ev.body.p >= piece.p && ev.body.p + ev.body.n <= piece.p + at);
            trace_body(t, ev.body);
            break;
        case HTTP_STEP_END:
            trace_say(t, "END\n");
            CHECK(http_parser_is_done(p));
            if (input->kind == HTTP_KIND_RESPONSE && http_parser_head(p) &&
                !http_parser_head(p)->interim) {
                t->surplus += piece.n - at;
                return false;
            }
            http_parser_reset(p);
            break;
        case HTTP_STEP_BAD:
            trace_say(t, "BAD %d %s\n", ev.bad.status, ev.bad.reason);
            return false;
        }
    }
}

static inline void trace_end(struct trace *t, struct http_parser *p,
                             const struct trace_input *input)
{
    struct http_event ev;
    if (!input->eof) {
        trace_say(t, "%s\n", http_parser_is_quiet(p) ? "QUIET" : "MORE");
        return;
    }
    switch (http_parser_eof(p, &ev)) {
    case HTTP_STEP_END:
        trace_say(t, "END\n");
        break;
    case HTTP_STEP_BAD:
        trace_say(t, "BAD %d %s\n", ev.bad.status, ev.bad.reason);
        break;
    case HTTP_STEP_MORE:
    case HTTP_STEP_HEAD:
    case HTTP_STEP_BODY:
        trace_say(t, "QUIET\n");
        break;
    }
}

/* Cuts `text` after `first` bytes, then into pieces of `size`. Heads of what is cut are kept in
   chunks, as the relay keeps them, others are allocated: both must say the same. */
static inline void trace_run(struct trace *t, const struct trace_input *input, struct span text,
                             size_t first, size_t size)
{
    t->n = 0;
    t->text[0] = '\0';
    t->in_body = false;
    t->surplus = 0;
    struct http_parser *p = http_parser_new(input->kind, &input->limits);
    CHECK(p);
    struct chunk_pool chunks;
    chunk_pool_init(&chunks, 1);
    if (first < text.n)
        http_parser_lend(p, &chunks);
    http_parser_expect(p, input->asked);
    bool on = true;
    for (size_t at = 0, n = first; at < text.n || (at == 0 && text.n == 0); at += n, n = size) {
        if (n > text.n - at)
            n = text.n - at;
        uint8_t *copy = malloc(n ? n : 1);
        CHECK(copy);
        if (n)
            memcpy(copy, text.p + at, n);
        if (on)
            on = trace_piece(t, p, input, span_of(copy, n));
        else
            t->surplus += n;
        free(copy);
        if (text.n == 0)
            break;
    }
    if (on)
        trace_end(t, p, input);
    http_parser_free(p);
    chunk_pool_fini(&chunks);
}
