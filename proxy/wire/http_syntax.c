/* SPDX-License-Identifier: MIT */
/*
 * Which bytes may stand where, and the few shapes built of them: tokens, values, lists, numbers,
 * hosts. One table of classes for all readers, so that they cannot disagree about a byte.
 */
#include "proxy/wire/http_out.h"
#include "proxy/wire/http_private.h"

/* clang-format off */
/* Bits of http_class, one row per 16 bytes. Checked byte by byte against the RFC in the unit
 * test. */
const uint8_t http_classes[256] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x02, 0x1f, 0x02, 0x03, 0x1f, 0x1f, 0x1f, 0x1f, 0x1e, 0x1e, 0x1f, 0x1f, 0x0e, 0x1f, 0x1f, 0x0e,
    0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x0e, 0x1e, 0x02, 0x1e, 0x02, 0x0a,
    0x0e, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f,
    0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x0e, 0x02, 0x0e, 0x03, 0x1f,
    0x03, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f,
    0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x02, 0x03, 0x02, 0x1f, 0x00,
    0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02,
    0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02,
    0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02,
    0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02,
    0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02,
    0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02,
    0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02,
    0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02,
};
/* clang-format on */

/* Without an early end: nearly all that is asked about is well formed, and this is the hot loop. */
bool http_all(struct span s, enum http_class class)
{
    uint8_t common = (uint8_t)class;
    for (size_t i = 0; i < s.n; i++)
        common &= http_classes[s.p[i]];
    return common != 0;
}

bool http_is_value(struct span s)
{
    return http_all(s, HTTP_C_VALUE);
}

bool http_is_token(struct span s)
{
    return s.n > 0 && http_all(s, HTTP_C_TOKEN);
}

struct span http_trim(struct span s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = span_skip(s, 1);
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

bool http_decimal(struct span s, uint64_t *out)
{
    if (s.n == 0 || s.n > 19 || !http_all(s, HTTP_C_DIGIT) || (s.n > 1 && s.p[0] == '0'))
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < s.n; i++)
        v = v * 10 + (uint64_t)(s.p[i] - '0'); /* 19 digits stay under 2^64 */
    *out = v;
    return v <= INT64_MAX;
}

/* '%' must be followed by two hexadecimal digits. */
bool http_percents_ok(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != '%')
            continue;
        if (s.n - i < 3 || !http_all(span_of(s.p + i + 1, 2), HTTP_C_HEX))
            return false;
        i += 2;
    }
    return true;
}

static bool is_port(struct span s)
{
    uint64_t v;
    return s.n == 0 || (s.n <= 5 && http_decimal(s, &v) && v <= 65535);
}

/* "[" hexadecimal digits, colons, dots "]"; zone identifiers mean nothing to another host. */
static size_t ip_literal_len(struct span s)
{
    for (size_t i = 1; i < s.n && i < 48; i++) {
        if (s.p[i] == ']')
            return i > 2 ? i + 1 : 0;
        if (!(http_classes[s.p[i]] & HTTP_C_HEX) && s.p[i] != ':' && s.p[i] != '.')
            return 0;
    }
    return 0;
}

bool http_host_split(struct span s, struct span *host, struct span *port, bool *has_port)
{
    size_t n = 0;
    if (s.n && s.p[0] == '[') {
        n = ip_literal_len(s);
    } else {
        while (n < s.n && (http_classes[s.p[n]] & HTTP_C_HOST))
            n++;
        if (!http_percents_ok(span_of(s.p, n)))
            return false;
    }
    if (n == 0 || n > 255)
        return false;
    *host = span_of(s.p, n);
    *has_port = n < s.n;
    *port = *has_port ? span_skip(s, n + 1) : span_of(s.p + n, 0);
    return !*has_port || (s.p[n] == ':' && is_port(*port));
}

/* Where the element that starts at s ends: at a comma outside of quotes and comments. */
static size_t element_len(struct span s)
{
    size_t i = 0;
    unsigned depth = 0;
    bool quoted = false;
    for (; i < s.n; i++) {
        uint8_t c = s.p[i];
        if (c == '\\' && (quoted || depth))
            i++;
        else if (c == '"' && !depth)
            quoted = !quoted;
        else if (c == '(' && !quoted)
            depth++;
        else if (c == ')' && !quoted && depth)
            depth--;
        else if (c == ',' && !quoted && !depth)
            break;
    }
    return i < s.n ? i : s.n;
}

bool http_list_next(struct span *rest, struct span *element)
{
    while (rest->n) {
        size_t n = element_len(*rest);
        *element = http_trim(span_of(rest->p, n));
        *rest = span_skip(*rest, n < rest->n ? n + 1 : n);
        if (element->n)
            return true;
    }
    return false;
}

void http_out_uint(struct http_out *o, uint64_t v)
{
    uint8_t digits[20];
    size_t n = sizeof digits;
    do {
        digits[--n] = (uint8_t)('0' + v % 10);
        v /= 10;
    } while (v);
    http_out_put(o, span_of(digits + n, sizeof digits - n));
}

void http_out_field(struct http_out *o, struct span name, struct span value)
{
    http_out_put(o, name);
    http_out_put(o, SPAN_LIT(": "));
    http_out_put(o, value);
    http_out_put(o, SPAN_LIT("\r\n"));
}
