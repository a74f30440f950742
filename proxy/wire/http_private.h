/* SPDX-License-Identifier: MIT */
#pragma once
/* Between the files of the HTTP codec; nobody else includes it. */
#include "proxy/wire/http.h"

/* Classes of bytes (RFC 9110 section 5.6, RFC 3986 section 3). */
enum http_class {
    HTTP_C_TOKEN = 1 << 0, /* methods, field names */
    HTTP_C_VALUE = 1 << 1, /* field values: visible, space, tab, 0x80 and up */
    HTTP_C_PATH = 1 << 2,  /* RFC 3986 path, and '[' ']' that browsers leave alone */
    HTTP_C_QUERY = 1 << 3, /* the same and '?' */
    HTTP_C_HOST = 1 << 4,  /* reg-name, but no comma: that would read as two hosts */
    HTTP_C_HEX = 1 << 5,
    HTTP_C_DIGIT = 1 << 6,
};
extern const uint8_t http_classes[256];

bool http_all(struct span s, enum http_class class); /* true for the empty span */
bool http_is_token(struct span s);
struct span http_trim(struct span s);

/* Plain decimal, no leading zero, at most 2^63 - 1. */
bool http_decimal(struct span s, uint64_t *out);
bool http_percents_ok(struct span s);

/* uri-host [":" port]; false if malformed. */
bool http_host_split(struct span s, struct span *host, struct span *port, bool *has_port);

/* HTTP_F_OTHER for names that mean nothing here. */
enum http_field_id http_field_lookup(struct span name);
/* HTTP_M_COUNT if not understood. Case matters (RFC 9110 section 9.1). */
enum http_method http_method_lookup(struct span text);
bool http_method_is_safe(enum http_method method);
bool http_method_is_idempotent(enum http_method method);

/* Fills *bad (a response's status is 502 whatever was said) and returns false. */
bool http_refuse_message(struct http_bad *bad, enum http_kind kind, uint16_t status,
                         const char *reason);

/* ---- lines (http_line.c); a line comes without its CRLF ------------------------------------ */

/* Checks a start line and fills what it says into *head. */
bool http_start_line(struct span line, enum http_kind kind, const struct http_limits *limits,
                     struct http_head *head, struct http_bad *bad);

/* Checks the bytes and the shape of one field line. */
bool http_field_line(struct span line, enum http_kind kind, struct http_bad *bad);

/* ---- the whole head (http_head.c) ---------------------------------------------------------- */

/*
 * Reads `text` (start line to empty line, every line checked before) into *head, whose fields array
 * has room for exactly `n` lines, and judges what the fields say together.
 */
bool http_head_read(struct span text, enum http_kind kind, const struct http_limits *limits,
                    struct http_asked asked, struct http_field *fields, size_t n,
                    struct http_head *head, struct http_bad *bad);

/* ---- the second reader (http_llhttp.c) ----------------------------------------------------- */

/* Does llhttp read the same head out of the same bytes? Else *why is a constant sentence. */
bool http_llhttp_agrees(struct span text, const struct http_head *head, const char **why);
