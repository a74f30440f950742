/* SPDX-License-Identifier: MIT */
/*
 * The second reader. Our own pass has already refused most of what llhttp would; here llhttp, with
 * no lenient flag ever, reads the same bytes, and every span, number and flag it reports must be
 * the one we found. Two independent readers seldom make the same mistake.
 *
 *     message line -> field name -> field value -> ... -> headers complete: compare, pause
 */
#include "proxy/wire/http_private.h"

#include <llhttp.h>

struct reader {
    const struct http_head *head;
    size_t n;           /* fields seen so far */
    struct span target; /* or reason */
    struct span name, value;
    bool complete;
    bool differs;
};

static void extend(struct span *s, const char *at, size_t n)
{
    if (s->n == 0)
        s->p = (const uint8_t *)at;
    s->n += n;
}

static int on_target(llhttp_t *l, const char *at, size_t n)
{
    extend(&((struct reader *)l->data)->target, at, n);
    return 0;
}

static int on_name(llhttp_t *l, const char *at, size_t n)
{
    extend(&((struct reader *)l->data)->name, at, n);
    return 0;
}

static int on_value(llhttp_t *l, const char *at, size_t n)
{
    extend(&((struct reader *)l->data)->value, at, n);
    return 0;
}

/* The same bytes at the same place; of an empty span the place does not matter. */
static bool same(struct span a, struct span b)
{
    return a.n == b.n && (a.n == 0 || a.p == b.p);
}

static int on_value_complete(llhttp_t *l)
{
    struct reader *r = l->data;
    const struct http_head *h = r->head;
    if (r->n >= h->n_fields || !same(r->name, h->fields[r->n].name) ||
        !same(http_trim(r->value), h->fields[r->n].value))
        r->differs = true;
    r->n++;
    r->name = r->value = span_of(NULL, 0);
    return 0;
}

static bool start_line_agrees(const llhttp_t *l, const struct reader *r)
{
    const struct http_head *h = r->head;
    if (l->http_major != 1 || l->http_minor != h->minor)
        return false;
    if (h->kind == HTTP_KIND_RESPONSE)
        return l->status_code == h->status;
    return same(r->target, h->target) &&
           span_eq(h->method_text, span_str(llhttp_method_name((llhttp_method_t)l->method)));
}

static bool framing_agrees(const llhttp_t *l, const struct http_head *h)
{
    bool chunked = http_find(h, HTTP_F_TRANSFER_ENCODING) != NULL;
    if (chunked != ((l->flags & F_CHUNKED) != 0) ||
        h->has_length != ((l->flags & F_CONTENT_LENGTH) != 0))
        return false;
    return !h->has_length || l->content_length == h->announced;
}

static int on_complete(llhttp_t *l)
{
    struct reader *r = l->data;
    r->complete = true;
    if (r->n != r->head->n_fields || !start_line_agrees(l, r) || !framing_agrees(l, r->head))
        r->differs = true;
    return HPE_PAUSED; /* the body is not its business */
}

static const llhttp_settings_t settings = {
    .on_url = on_target,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_complete,
};

bool http_llhttp_agrees(struct span text, const struct http_head *head, const char **why)
{
    struct reader r = {.head = head};
    llhttp_t l;
    llhttp_init(&l, head->kind == HTTP_KIND_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE, &settings);
    l.data = &r;
    llhttp_errno_t got = llhttp_execute(&l, (const char *)text.p, text.n);
    *why = "two readers understand this head differently";
    if (got != HPE_PAUSED && l.reason && l.reason[0])
        *why = l.reason;
    return got == HPE_PAUSED && r.complete && !r.differs;
}
