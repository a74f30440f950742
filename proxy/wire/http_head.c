/* SPDX-License-Identifier: MIT */
/*
 * What the lines of a head say together: which fields end at this hop, how long the body is, whom
 * the request is for, whether the connection lives on. Ambiguity about any of these is how requests
 * are smuggled past a proxy, so every doubt is a refusal (RFC 9112 sections 6.3 and 11.2).
 */
#include "proxy/wire/http_private.h"

/* Connection options are compared with every field: their number must stay small. */
#define OPTIONS_MAX 32

struct judge {
    enum http_kind kind;
    const struct http_limits *limits;
    struct http_asked asked;
    struct http_head *head;
    struct http_field *fields;
    struct http_bad *bad;
    /* First field of each name, and how often the name came. */
    const struct http_field *first[HTTP_F_COUNT];
    uint8_t seen[HTTP_F_COUNT];
    /* Connection options. */
    unsigned options;
    bool close, keep_alive, upgrade;
};

static bool refuse(struct judge *j, uint16_t status, const char *reason)
{
    return http_refuse_message(j->bad, j->kind, status, reason);
}

/* ---- names --------------------------------------------------------------------------------- */

/* CGI and its descendants read '_' and '-' as one: such a twin could slip past our own rules. */
static bool is_twin(struct span name)
{
    uint8_t dashed[32];
    if (name.n > sizeof dashed || !memchr(name.p, '_', name.n))
        return false;
    for (size_t i = 0; i < name.n; i++)
        dashed[i] = name.p[i] == '_' ? '-' : name.p[i];
    return http_field_lookup(span_of(dashed, name.n)) != HTTP_F_OTHER;
}

/* Takes a line apart that http_field_line has checked when it came. */
static void split_field(struct span line, struct http_field *f)
{
    const uint8_t *colon = memchr(line.p, ':', line.n);
    CHECK(colon != NULL);
    size_t n = (size_t)(colon - line.p);
    f->name = span_of(line.p, n);
    f->value = http_trim(span_skip(line, n + 1));
}

static const bool one_hop[HTTP_F_COUNT] = {
    [HTTP_F_CONNECTION] = true, [HTTP_F_KEEP_ALIVE] = true,        [HTTP_F_PROXY_CONNECTION] = true,
    [HTTP_F_TE] = true,         [HTTP_F_TRANSFER_ENCODING] = true, [HTTP_F_TRAILER] = true,
    [HTTP_F_UPGRADE] = true,    [HTTP_F_HTTP2_SETTINGS] = true,
};

static void note_field(struct judge *j, struct http_field *f)
{
    f->id = http_field_lookup(f->name);
    f->hop = one_hop[f->id] || is_twin(f->name);
    if (f->id == HTTP_F_OTHER)
        return;
    if (!j->first[f->id])
        j->first[f->id] = f;
    if (j->seen[f->id] < UINT8_MAX)
        j->seen[f->id]++;
}

/* ---- Connection ---------------------------------------------------------------------------- */

/* Without these a message means something else, or somebody else is asking. */
static bool may_be_nominated(enum http_field_id id)
{
    return id != HTTP_F_HOST && id != HTTP_F_CONTENT_LENGTH && id != HTTP_F_TRANSFER_ENCODING &&
           id != HTTP_F_AUTHORIZATION && id != HTTP_F_PROXY_AUTHORIZATION && id != HTTP_F_COOKIE &&
           id != HTTP_F_SET_COOKIE;
}

static bool take_option(struct judge *j, struct span option)
{
    if (!http_is_token(option))
        return refuse(j, 400, "a connection option is not a token");
    if (++j->options > OPTIONS_MAX)
        return refuse(j, 400, "there are too many connection options");
    if (span_ieq(option, SPAN_LIT("close")))
        j->close = true;
    else if (span_ieq(option, SPAN_LIT("keep-alive")))
        j->keep_alive = true;
    else if (span_ieq(option, SPAN_LIT("upgrade")))
        j->upgrade = true;
    else if (!may_be_nominated(http_field_lookup(option)))
        return refuse(j, 400, "Connection nominates a field that must reach the other end");
    else
        for (size_t i = 0; i < j->head->n_fields; i++)
            if (span_ieq(j->fields[i].name, option))
                j->fields[i].hop = true;
    return true;
}

static bool judge_connection(struct judge *j)
{
    if (!j->seen[HTTP_F_CONNECTION])
        return true;
    for (size_t i = 0; i < j->head->n_fields; i++) {
        if (j->fields[i].id != HTTP_F_CONNECTION)
            continue;
        struct span rest = j->fields[i].value, option;
        while (http_list_next(&rest, &option))
            if (!take_option(j, option))
                return false;
    }
    return true;
}

/* An upgrade is asked for (or granted): never in HTTP/1.0, never to h2c (RFC 9110 section 7.8). */
static bool wants_upgrade(const struct judge *j)
{
    if (!j->upgrade || j->head->minor == 0 || !j->seen[HTTP_F_UPGRADE])
        return false;
    for (size_t i = 0; i < j->head->n_fields; i++) {
        if (j->fields[i].id != HTTP_F_UPGRADE)
            continue;
        struct span rest = j->fields[i].value, protocol;
        while (http_list_next(&rest, &protocol))
            if (span_ieq(protocol, SPAN_LIT("h2c")))
                return false;
    }
    return true;
}

/* ---- length -------------------------------------------------------------------------------- */

static bool judge_length(struct judge *j)
{
    if (!j->seen[HTTP_F_CONTENT_LENGTH])
        return true;
    if (j->seen[HTTP_F_CONTENT_LENGTH] > 1)
        return refuse(j, 400, "there is more than one Content-Length");
    struct span value = j->first[HTTP_F_CONTENT_LENGTH]->value;
    bool digits = value.n > 0 && http_all(value, HTTP_C_DIGIT);
    if (!digits || (value.n > 1 && value.p[0] == '0'))
        return refuse(j, 400, "Content-Length is not a plain decimal number");
    if (!http_decimal(value, &j->head->announced))
        return refuse(j, 413, "Content-Length is beyond all bounds");
    j->head->has_length = true;
    return true;
}

/* Exactly one coding, exactly "chunked", in HTTP/1.1, and no Content-Length next to it. */
static bool judge_transfer(struct judge *j)
{
    if (!j->seen[HTTP_F_TRANSFER_ENCODING])
        return true;
    if (j->seen[HTTP_F_CONTENT_LENGTH])
        return refuse(j, 400, "there are both Transfer-Encoding and Content-Length");
    if (j->head->minor == 0)
        return refuse(j, 400, "Transfer-Encoding does not exist in HTTP/1.0");
    if (j->seen[HTTP_F_TRANSFER_ENCODING] > 1)
        return refuse(j, 400, "there is more than one Transfer-Encoding");
    struct span value = j->first[HTTP_F_TRANSFER_ENCODING]->value;
    if (span_ieq(value, SPAN_LIT("chunked")))
        return true;
    struct span rest = value, coding;
    bool malformed = value.n == 0 || value.p[0] == ',', chunked = false;
    unsigned codings = 0;
    for (; http_list_next(&rest, &coding); codings++) {
        malformed |= chunked || !http_is_token(coding);
        chunked = span_ieq(coding, SPAN_LIT("chunked"));
    }
    if (chunked && codings > 1 && !malformed)
        return refuse(j, 501, "no transfer coding but chunked is understood");
    return refuse(j, 400, "Transfer-Encoding is not a single chunked");
}

static bool body_of_request(struct judge *j)
{
    struct http_head *h = j->head;
    bool chunked = j->seen[HTTP_F_TRANSFER_ENCODING] > 0;
    if (h->method == HTTP_M_CONNECT && (chunked || h->has_length))
        return refuse(j, 400, "CONNECT has no body");
    h->body = chunked ? HTTP_BODY_CHUNKED : h->has_length ? HTTP_BODY_LENGTH : HTTP_BODY_NONE;
    return true;
}

static bool body_of_response(struct judge *j)
{
    struct http_head *h = j->head;
    bool chunked = j->seen[HTTP_F_TRANSFER_ENCODING] > 0;
    if (h->status < 200) {
        if (chunked || h->has_length)
            return refuse(j, 502, "an interim response announces a body");
        if (h->status == 101 && !j->asked.upgrade)
            return refuse(j, 502, "the upstream switches protocols unasked");
        h->tunnel = h->status == 101;
        h->interim = !h->tunnel;
        h->body = HTTP_BODY_NONE;
        return true;
    }
    h->tunnel = j->asked.connect && h->status < 300;
    if (h->tunnel || j->asked.head || h->status == 204 || h->status == 304)
        h->body = HTTP_BODY_NONE;
    else
        h->body = chunked ? HTTP_BODY_CHUNKED : h->has_length ? HTTP_BODY_LENGTH : HTTP_BODY_CLOSE;
    return true;
}

static bool judge_body(struct judge *j)
{
    struct http_head *h = j->head;
    if (!judge_length(j) || !judge_transfer(j))
        return false;
    if (!(j->kind == HTTP_KIND_REQUEST ? body_of_request(j) : body_of_response(j)))
        return false;
    if (h->body == HTTP_BODY_LENGTH)
        h->length = h->announced;
    if (j->limits->body && h->length > j->limits->body)
        return refuse(j, 413, "the body is larger than allowed");
    return true;
}

/* ---- requests ------------------------------------------------------------------------------ */

static bool judge_host(struct judge *j)
{
    struct http_head *h = j->head;
    if (j->seen[HTTP_F_HOST] > 1)
        return refuse(j, 400, "there is more than one Host");
    if (j->seen[HTTP_F_HOST]) {
        struct span host, port;
        bool has_port;
        h->host = j->first[HTTP_F_HOST]->value;
        if (!http_host_split(h->host, &host, &port, &has_port))
            return refuse(j, 400, "Host is malformed");
    } else if (h->minor > 0) {
        return refuse(j, 400, "there is no Host");
    }
    if (h->authority.n)
        h->host = h->authority; /* RFC 9112 section 3.2.2 */
    return true;
}

static bool judge_expect(struct judge *j)
{
    struct http_head *h = j->head;
    if (!j->seen[HTTP_F_EXPECT] || h->minor == 0)
        return true;
    if (j->seen[HTTP_F_EXPECT] > 1 ||
        !span_ieq(j->first[HTTP_F_EXPECT]->value, SPAN_LIT("100-continue")))
        return refuse(j, 417, "no expectation but 100-continue can be met");
    h->expect_continue =
        h->body == HTTP_BODY_CHUNKED || (h->body == HTTP_BODY_LENGTH && h->length > 0);
    return true;
}

static bool judge_max_forwards(struct judge *j)
{
    struct http_head *h = j->head;
    if (!j->seen[HTTP_F_MAX_FORWARDS] || (h->method != HTTP_M_OPTIONS && h->method != HTTP_M_TRACE))
        return true;
    uint64_t hops;
    if (j->seen[HTTP_F_MAX_FORWARDS] > 1 ||
        !http_decimal(j->first[HTTP_F_MAX_FORWARDS]->value, &hops))
        return refuse(j, 400, "Max-Forwards is not one plain decimal number");
    h->max_forwards = hops < INT32_MAX ? (int32_t)hops : INT32_MAX;
    return true;
}

static bool judge_request(struct judge *j)
{
    struct http_head *h = j->head;
    h->keep_alive = h->minor > 0 && !j->close; /* HTTP/1.0 persistence is not offered to clients */
    return judge_host(j) && judge_expect(j) && judge_max_forwards(j);
}

/* ---- responses ----------------------------------------------------------------------------- */

/* Keep-Alive: timeout=5, max=100. A hint: what is malformed is passed over. */
static uint32_t read_timeout(struct span value)
{
    struct span part;
    const struct span key = SPAN_LIT("timeout=");
    while (http_list_next(&value, &part)) {
        uint64_t seconds;
        if (part.n > key.n && span_ieq(span_of(part.p, key.n), key) &&
            http_decimal(span_skip(part, key.n), &seconds))
            return seconds < UINT32_MAX ? (uint32_t)seconds : UINT32_MAX;
    }
    return 0;
}

static bool judge_response(struct judge *j)
{
    struct http_head *h = j->head;
    h->keep_alive = !j->close && (h->minor > 0 || j->keep_alive) && h->body != HTTP_BODY_CLOSE;
    if (j->seen[HTTP_F_KEEP_ALIVE])
        h->keep_alive_timeout = read_timeout(j->first[HTTP_F_KEEP_ALIVE]->value);
    return true;
}

/* ---- the whole ----------------------------------------------------------------------------- */

/* The line at *at, without CRLF; *at moves behind it. Every line of `text` is known to end in
 * CRLF. */
static struct span take_line(struct span text, size_t *at)
{
    const uint8_t *start = text.p + *at;
    const uint8_t *nl = memchr(start, '\n', text.n - *at);
    CHECK(nl != NULL && nl > start);
    *at = (size_t)(nl - text.p) + 1;
    return span_of(start, (size_t)(nl - start) - 1);
}

bool http_head_read(struct span text, enum http_kind kind, const struct http_limits *limits,
                    struct http_asked asked, struct http_field *fields, size_t n,
                    struct http_head *head, struct http_bad *bad)
{
    struct judge j = {
        .kind = kind, .limits = limits, .asked = asked, .head = head, .fields = fields, .bad = bad};
    size_t at = 0;
    if (!http_start_line(take_line(text, &at), kind, limits, head, bad))
        return false;
    head->fields = fields;
    head->n_fields = n;
    for (size_t i = 0; i < n; i++) {
        split_field(take_line(text, &at), &fields[i]);
        note_field(&j, &fields[i]);
    }
    if (!judge_connection(&j))
        return false;
    head->upgrade = wants_upgrade(&j);
    if (!judge_body(&j))
        return false;
    if (!(kind == HTTP_KIND_REQUEST ? judge_request(&j) : judge_response(&j)))
        return false;
    const char *why;
    return http_llhttp_agrees(text, head, &why) || refuse(&j, 400, why);
}
