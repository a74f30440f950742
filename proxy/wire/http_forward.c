/* SPDX-License-Identifier: MIT */
/*
 * Writes the head for the next hop, field by field in the order received. Which fields end here was
 * decided when the head was read (http_head.c); here they are left out, and an intermediary's own
 * are put in. What we put in is checked too: no configured name may split a head.
 */
#include "proxy/wire/http_forward.h"

#include "proxy/wire/http_private.h"

#define CRLF SPAN_LIT("\r\n")
#define NONE SIZE_MAX

static enum http_verdict refuse(struct http_bad *bad, uint16_t status, enum cause cause,
                                const char *reason)
{
    *bad = (struct http_bad){.status = status, .cause = cause, .reason = reason};
    return HTTP_FORWARD_NOT;
}

static enum http_verdict stored(const struct http_out *out)
{
    return http_out_fits(out) ? HTTP_FORWARD : HTTP_FORWARD_SMALL;
}

/* Index of the last forwarded line of that name, or NONE. */
static size_t last_of(const struct http_head *head, enum http_field_id id)
{
    for (size_t i = head->n_fields; i-- > 0;)
        if (head->fields[i].id == id && !head->fields[i].hop)
            return i;
    return NONE;
}

/* "name: value, added" or, of an empty value, "name: added". */
static void put_appended(struct http_out *out, struct span name, struct span value,
                         struct span added)
{
    http_out_put(out, name);
    http_out_put(out, SPAN_LIT(": "));
    http_out_put(out, value);
    if (value.n)
        http_out_put(out, SPAN_LIT(", "));
    http_out_put(out, added);
    http_out_put(out, CRLF);
}

static void put_field(struct http_out *out, const struct http_field *f)
{
    http_out_field(out, f->name, f->value);
}

/* ---- Via (RFC 9110 section 7.6.3) ---------------------------------------------------------- */

/* "1.1 name": the version is that of the message received. */
static struct span via_entry(uint8_t minor, struct span pseudonym, uint8_t buf[128])
{
    struct http_out o = http_out_of(buf, 128);
    http_out_str(&o, minor ? "1.1 " : "1.0 ");
    http_out_put(&o, pseudonym);
    return span_of(buf, o.n);
}

/* May be empty: no Via then. */
static bool pseudonym_ok(struct span s)
{
    return s.n == 0 || (s.n <= 120 && http_is_token(s));
}

/* received-protocol RWS received-by [ RWS comment ] */
static bool entry_names(struct span entry, struct span pseudonym)
{
    size_t i = 0;
    while (i < entry.n && entry.p[i] != ' ' && entry.p[i] != '\t')
        i++;
    struct span by = http_trim(span_skip(entry, i));
    size_t n = 0;
    while (n < by.n && by.p[n] != ' ' && by.p[n] != '\t' && by.p[n] != '(')
        n++;
    return span_ieq(span_of(by.p, n), pseudonym);
}

static bool is_loop(const struct http_head *head, struct span pseudonym)
{
    for (size_t i = 0; i < head->n_fields && pseudonym.n; i++) {
        if (head->fields[i].id != HTTP_F_VIA)
            continue;
        struct span rest = head->fields[i].value, entry;
        while (http_list_next(&rest, &entry))
            if (entry_names(entry, pseudonym))
                return true;
    }
    return false;
}

/* ---- requests ------------------------------------------------------------------------------ */

static enum http_verdict judge_request(const struct http_head *head,
                                       const struct http_request_hop *hop, struct http_bad *bad)
{
    struct span host, port;
    bool has_port;
    if (!pseudonym_ok(hop->pseudonym) || !http_is_value(hop->client) ||
        (head->host.n == 0 && !http_host_split(hop->authority, &host, &port, &has_port)))
        return refuse(bad, 500, CAUSE_INTERNAL, "a name to forward with may not stand in a head");
    if (head->method == HTTP_M_CONNECT || head->method == HTTP_M_TRACE)
        return refuse(bad, 405, CAUSE_DENIED, "CONNECT and TRACE are not forwarded");
    if (is_loop(head, hop->pseudonym))
        return refuse(bad, 508, CAUSE_DENIED, "the request came back to where it had been");
    if (head->method == HTTP_M_OPTIONS && head->max_forwards == 0)
        return HTTP_FORWARD_SELF;
    return HTTP_FORWARD;
}

static void put_target(struct http_out *out, const struct http_head *head)
{
    if (head->form == HTTP_FORM_ASTERISK ||
        (head->method == HTTP_M_OPTIONS && head->form == HTTP_FORM_ABSOLUTE && head->path.n == 0)) {
        http_out_put(out, SPAN_LIT("*")); /* RFC 9112 section 3.2.4 */
        return;
    }
    if (head->path.n == 0 || head->path.p[0] != '/')
        http_out_put(out, SPAN_LIT("/"));
    http_out_put(out, head->path);
}

static void put_request_line(struct http_out *out, const struct http_head *head,
                             const struct http_request_hop *hop)
{
    http_out_put(out, head->method_text);
    http_out_put(out, SPAN_LIT(" "));
    put_target(out, head);
    http_out_put(out, SPAN_LIT(" HTTP/1.1\r\n"));
    if (!http_find(head, HTTP_F_HOST))
        http_out_field(out, SPAN_LIT("Host"), head->host.n ? head->host : hop->authority);
}

static void put_max_forwards(struct http_out *out, const struct http_head *head,
                             const struct http_field *f)
{
    if (head->max_forwards <= 0) {
        put_field(out, f);
        return;
    }
    http_out_put(out, f->name);
    http_out_put(out, SPAN_LIT(": "));
    http_out_uint(out, (uint64_t)head->max_forwards - 1);
    http_out_put(out, CRLF);
}

static void put_request_field(struct http_out *out, const struct http_head *head,
                              const struct http_request_hop *hop, const struct http_field *f)
{
    bool upgrade = hop->upgrade && head->upgrade;
    if (f->hop && !(upgrade && f->id == HTTP_F_UPGRADE))
        return;
    if (f->id == HTTP_F_HOST)
        http_out_field(out, f->name, head->host);
    else if (f->id == HTTP_F_MAX_FORWARDS)
        put_max_forwards(out, head, f);
    else if (f->id != HTTP_F_EXPECT || (head->expect_continue && !hop->drop_expect))
        put_field(out, f);
}

static void put_request_tail(struct http_out *out, const struct http_head *head,
                             const struct http_request_hop *hop)
{
    if (last_of(head, HTTP_F_X_FORWARDED_PROTO) == NONE)
        http_out_field(out, SPAN_LIT("X-Forwarded-Proto"),
                       hop->client_tls ? SPAN_LIT("https") : SPAN_LIT("http"));
    if (head->body == HTTP_BODY_CHUNKED)
        http_out_str(out, "Transfer-Encoding: chunked\r\n");
    if (hop->upgrade && head->upgrade)
        http_out_str(out, "Connection: upgrade\r\n");
    else if (hop->close)
        http_out_str(out, "Connection: close\r\n");
    http_out_put(out, CRLF);
}

enum http_verdict http_forward_request(const struct http_head *head,
                                       const struct http_request_hop *hop, struct http_out *out,
                                       struct http_bad *bad)
{
    CHECK(head->kind == HTTP_KIND_REQUEST);
    enum http_verdict verdict = judge_request(head, hop, bad);
    if (verdict != HTTP_FORWARD)
        return verdict;
    uint8_t buf[128];
    struct span via = via_entry(head->minor, hop->pseudonym, buf);
    size_t last_via = hop->pseudonym.n ? last_of(head, HTTP_F_VIA) : NONE;
    size_t last_for = hop->client.n ? last_of(head, HTTP_F_X_FORWARDED_FOR) : NONE;

    put_request_line(out, head, hop);
    for (size_t i = 0; i < head->n_fields; i++) {
        const struct http_field *f = &head->fields[i];
        if (i == last_via)
            put_appended(out, f->name, f->value, via);
        else if (i == last_for)
            put_appended(out, f->name, f->value, hop->client);
        else
            put_request_field(out, head, hop, f);
    }
    if (hop->pseudonym.n && last_via == NONE)
        http_out_field(out, SPAN_LIT("Via"), via);
    if (hop->client.n && last_for == NONE)
        http_out_field(out, SPAN_LIT("X-Forwarded-For"), hop->client);
    put_request_tail(out, head, hop);
    return stored(out);
}

/* ---- responses ----------------------------------------------------------------------------- */

/* How the body goes to this client (RFC 9112 section 6.1: no chunks to HTTP/1.0). */
static enum http_body frame_for(const struct http_head *head, const struct http_response_hop *hop)
{
    if (head->body == HTTP_BODY_NONE)
        return HTTP_BODY_NONE;
    if (head->body == HTTP_BODY_LENGTH)
        return HTTP_BODY_LENGTH;
    return hop->client_minor ? HTTP_BODY_CHUNKED : HTTP_BODY_CLOSE;
}

static void put_status_line(struct http_out *out, const struct http_head *head)
{
    http_out_put(out, SPAN_LIT("HTTP/1.1 "));
    http_out_uint(out, head->status);
    http_out_put(out, SPAN_LIT(" "));
    http_out_put(out, head->reason);
    http_out_put(out, CRLF);
}

static bool passes(const struct http_head *head, const struct http_field *f)
{
    bool bodiless = head->status < 200 || head->status == 204 || head->tunnel;
    if (f->id == HTTP_F_CONTENT_LENGTH)
        return !bodiless;
    return !f->hop || (f->id == HTTP_F_UPGRADE && head->status == 101);
}

static void put_response_tail(struct http_out *out, const struct http_head *head,
                              const struct http_response_hop *hop, enum http_body framing,
                              bool close)
{
    if (!head->interim && !head->tunnel && last_of(head, HTTP_F_DATE) == NONE && hop->date.n)
        http_out_field(out, SPAN_LIT("Date"), hop->date);
    if (framing == HTTP_BODY_CHUNKED)
        http_out_str(out, "Transfer-Encoding: chunked\r\n");
    if (head->status == 101)
        http_out_str(out, "Connection: upgrade\r\n");
    else if (close)
        http_out_str(out, "Connection: close\r\n");
    http_out_put(out, CRLF);
}

enum http_verdict http_forward_response(const struct http_head *head,
                                        const struct http_response_hop *hop, struct http_out *out,
                                        enum http_body *framing, bool *close, struct http_bad *bad)
{
    CHECK(head->kind == HTTP_KIND_RESPONSE);
    if (!pseudonym_ok(hop->pseudonym) || !http_is_value(hop->date))
        return refuse(bad, 500, CAUSE_INTERNAL, "a name to forward with may not stand in a head");
    if (head->interim && hop->client_minor == 0)
        return HTTP_FORWARD_SKIP;
    *framing = frame_for(head, hop);
    *close = !head->interim && !head->tunnel &&
             (hop->close || hop->client_minor == 0 || *framing == HTTP_BODY_CLOSE);

    uint8_t buf[128];
    struct span via = via_entry(head->minor, hop->pseudonym, buf);
    size_t last_via = hop->pseudonym.n ? last_of(head, HTTP_F_VIA) : NONE;
    put_status_line(out, head);
    for (size_t i = 0; i < head->n_fields; i++) {
        const struct http_field *f = &head->fields[i];
        if (i == last_via)
            put_appended(out, f->name, f->value, via);
        else if (passes(head, f))
            put_field(out, f);
    }
    if (hop->pseudonym.n && last_via == NONE)
        http_out_field(out, SPAN_LIT("Via"), via);
    put_response_tail(out, head, hop, *framing, *close);
    return stored(out);
}

/* ---- chunks -------------------------------------------------------------------------------- */

size_t http_chunk_open(uint8_t buf[HTTP_CHUNK_OPEN_MAX], uint64_t payload)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = 0;
    for (int shift = 60; shift >= 0; shift -= 4)
        if (n || payload >> shift || shift == 0)
            buf[n++] = (uint8_t)hex[(payload >> shift) & 15];
    buf[n++] = '\r';
    buf[n++] = '\n';
    return n;
}
