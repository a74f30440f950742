/* SPDX-License-Identifier: MIT */
/*
 * One line of a head at a time, as strict as the grammar of RFC 9112 sections 3 to 5 without what
 * it merely tolerates: single spaces, no folding, no white space before a colon, no control bytes.
 */
#include "proxy/wire/http_private.h"

bool http_refuse_message(struct http_bad *bad, enum http_kind kind, uint16_t status,
                         const char *reason)
{
    bad->reason = reason;
    bad->status = status;
    bad->cause = CAUSE_CLIENT_PROTOCOL;
    if (status == 413 || status == 414 || status == 431)
        bad->cause = CAUSE_TOO_LARGE;
    else if (status == 501 || status == 505 || status == 417)
        bad->cause = CAUSE_UNSUPPORTED;
    else if (status == 500 || status == 503)
        bad->cause = CAUSE_INTERNAL;
    if (kind == HTTP_KIND_RESPONSE) {
        bad->status = 502;
        if (bad->cause != CAUSE_INTERNAL)
            bad->cause = CAUSE_UPSTREAM_PROTOCOL;
    }
    return false;
}

#define REQUEST HTTP_KIND_REQUEST
#define REFUSE(status, reason) http_refuse_message(bad, kind, status, reason)

/* ---- versions ------------------------------------------------------------------------------ */

enum version { VERSION_OK, VERSION_OTHER, VERSION_MALFORMED };

static enum version read_version(struct span s, uint8_t *minor)
{
    if (s.n != 8 || memcmp(s.p, "HTTP/", 5) != 0 || s.p[6] != '.' ||
        !(http_classes[s.p[5]] & HTTP_C_DIGIT) || !(http_classes[s.p[7]] & HTTP_C_DIGIT))
        return VERSION_MALFORMED;
    *minor = (uint8_t)(s.p[7] - '0');
    return s.p[5] == '1' && *minor <= 1 ? VERSION_OK : VERSION_OTHER;
}

static bool check_version(struct span s, enum http_kind kind, struct http_head *head,
                          struct http_bad *bad)
{
    switch (read_version(s, &head->minor)) {
    case VERSION_OK:
        return true;
    case VERSION_OTHER:
        return REFUSE(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    case VERSION_MALFORMED:
        break;
    }
    return REFUSE(400, "the first line has no HTTP version where it must stand");
}

/* ---- targets ------------------------------------------------------------------------------- */

/* Path and query; the path may be empty. Fragments and raw delimiters stay outside of a target. */
static bool path_ok(struct span s)
{
    const uint8_t *mark = s.n ? memchr(s.p, '?', s.n) : NULL;
    size_t path = mark ? (size_t)(mark - s.p) : s.n;
    return http_all(span_of(s.p, path), HTTP_C_PATH) && http_percents_ok(span_of(s.p, path)) &&
           http_all(span_skip(s, path), HTTP_C_QUERY);
}

static bool read_absolute(struct span s, struct http_head *head, struct http_bad *bad)
{
    size_t scheme = head->https ? 8 : 7;
    struct span rest = span_skip(s, scheme);
    size_t n = 0;
    while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?')
        n++;
    head->form = HTTP_FORM_ABSOLUTE;
    head->authority = span_of(rest.p, n);
    head->path = span_skip(rest, n);
    struct span host, port;
    bool has_port;
    if (!http_host_split(head->authority, &host, &port, &has_port))
        return http_refuse_message(bad, REQUEST, 400,
                                   "the authority of the request target is malformed");
    return path_ok(head->path) ||
           http_refuse_message(bad, REQUEST, 400,
                               "the request target holds a byte that must be percent-encoded");
}

static bool starts_with(struct span s, struct span lower)
{
    return s.n >= lower.n && span_ieq(span_of(s.p, lower.n), lower);
}

static bool read_target(struct span s, struct http_head *head, struct http_bad *bad)
{
    const enum http_kind kind = REQUEST;
    head->target = s;
    if (head->method == HTTP_M_CONNECT) {
        struct span host, port;
        bool has_port;
        head->form = HTTP_FORM_AUTHORITY;
        head->authority = s;
        if (!http_host_split(s, &host, &port, &has_port) || port.n == 0 || port.p[0] == '0')
            return REFUSE(400, "CONNECT needs a target of the form host:port");
        return true;
    }
    if (s.p[0] == '/') {
        head->form = HTTP_FORM_ORIGIN;
        head->path = s;
        return path_ok(s) ||
               REFUSE(400, "the request target holds a byte that must be percent-encoded");
    }
    if (s.n == 1 && s.p[0] == '*' && head->method == HTTP_M_OPTIONS) {
        head->form = HTTP_FORM_ASTERISK;
        return true;
    }
    head->https = starts_with(s, SPAN_LIT("https://"));
    if (head->https || starts_with(s, SPAN_LIT("http://")))
        return read_absolute(s, head, bad);
    return REFUSE(400, "the request target is neither a path nor an http address");
}

/* ---- start lines --------------------------------------------------------------------------- */

/* The part before the next space; *rest begins after it. Without a space all of it, and no rest. */
static struct span take_word(struct span *rest)
{
    const uint8_t *space = rest->n ? memchr(rest->p, ' ', rest->n) : NULL;
    size_t n = space ? (size_t)(space - rest->p) : rest->n;
    struct span word = span_of(rest->p, n);
    *rest = span_skip(*rest, space ? n + 1 : n);
    return word;
}

static bool request_line(struct span line, const struct http_limits *limits, struct http_head *head,
                         struct http_bad *bad)
{
    const enum http_kind kind = REQUEST;
    struct span rest = line;
    struct span method = take_word(&rest);
    struct span target = take_word(&rest);
    if (!http_is_token(method))
        return REFUSE(400, "the request does not begin with a method");
    if (target.n > limits->target)
        return REFUSE(414, "the request target is too long");
    if (target.n == 0 || rest.n == 0)
        return REFUSE(400, "the request line is not method, target and version with single spaces");
    if (!check_version(rest, kind, head, bad))
        return false;
    head->method_text = method;
    head->method = http_method_lookup(method);
    if (head->method == HTTP_M_COUNT)
        return REFUSE(501, "the method is not known here");
    head->safe = http_method_is_safe(head->method);
    head->idempotent = http_method_is_idempotent(head->method);
    return read_target(target, head, bad);
}

static bool status_line(struct span line, struct http_head *head, struct http_bad *bad)
{
    const enum http_kind kind = HTTP_KIND_RESPONSE;
    if (line.n < 12 || line.p[8] != ' ' || (line.n > 12 && line.p[12] != ' '))
        return REFUSE(502, "the status line is not version, three digits and a reason");
    if (!check_version(span_of(line.p, 8), kind, head, bad))
        return false;
    const uint8_t *d = line.p + 9;
    if (!http_all(span_of(d, 3), HTTP_C_DIGIT) || d[0] < '1' || d[0] > '5')
        return REFUSE(502, "the status code is not between 100 and 599");
    head->status = (uint16_t)((d[0] - '0') * 100 + (d[1] - '0') * 10 + (d[2] - '0'));
    head->reason = span_skip(line, line.n > 12 ? 13 : 12);
    if (memchr(line.p, '\r', line.n))
        return REFUSE(502, "the status line holds a bare carriage return");
    if (!http_all(head->reason, HTTP_C_VALUE))
        head->reason.n = 0; /* it means nothing to machines, so the response may live */
    return true;
}

bool http_start_line(struct span line, enum http_kind kind, const struct http_limits *limits,
                     struct http_head *head, struct http_bad *bad)
{
    memset(head, 0, sizeof *head);
    head->kind = kind;
    head->max_forwards = -1;
    return kind == REQUEST ? request_line(line, limits, head, bad) : status_line(line, head, bad);
}

/* ---- fields -------------------------------------------------------------------------------- */

bool http_field_line(struct span line, enum http_kind kind, struct http_bad *bad)
{
    size_t n = 0;
    while (n < line.n && (http_classes[line.p[n]] & HTTP_C_TOKEN))
        n++;
    if (n == 0 && line.n && (line.p[0] == ' ' || line.p[0] == '\t'))
        return REFUSE(400, "a line of the head begins with white space");
    if (n == line.n)
        return REFUSE(400, "a line of the head has no colon");
    if (line.p[n] != ':' || n == 0)
        return REFUSE(400, "a field name is not a token directly before its colon");
    return http_all(span_skip(line, n + 1), HTTP_C_VALUE) ||
           REFUSE(400, "a field value holds a control byte");
}
