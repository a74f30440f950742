/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Responses made here: refusals and failures in HTTP's own words, with `Proxy-Status` (RFC 9209)
 * and carpool's cause; and plain replies for a small server like the admin door. Pure; the date is
 * an argument.
 */
#include "proxy/core/err.h"
#include "proxy/wire/http_out.h"

#define HTTP_CONTINUE SPAN_LIT("HTTP/1.1 100 Continue\r\n\r\n")

/* "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 section 5.6.7) for seconds since 1970, 0 to year
 * 9999. */
#define HTTP_DATE_LEN 29
struct span http_date(int64_t unix_seconds, char buf[HTTP_DATE_LEN + 1]);

/* "Not Found"; "Unknown" for a number without a name. */
const char *http_reason(unsigned status);

/* Any response. Spans may be empty unless said otherwise. */
struct http_reply {
    unsigned status;          /* 200 to 599 */
    struct span date;         /* from http_date */
    struct span content_type; /* needed with a body */
    struct span body;
    const char *fields; /* further complete lines, each with CRLF, or NULL */
    bool close;         /* says Connection: close; the caller then closes */
    bool head;          /* the request was HEAD: Content-Length of the body, but no body */
};

/* Head and body. False: did not fit, out->n is the size needed. */
bool http_reply(struct http_out *out, const struct http_reply *reply);

/* The usual status for a cause (the table of errors in the documentation). */
unsigned http_status_of(enum cause cause);

/* The closest error type registered for Proxy-Status (RFC 9209 section 2.3) for an error. */
const char *http_proxy_error(const struct err *err);

struct http_refusal {
    unsigned status;       /* 0: http_status_of(err->cause) */
    const struct err *err; /* cause, stage, sentence */
    struct span date;
    unsigned retry_after; /* seconds, sent with 429 and 503; 0: 1 second */
    bool close;
    bool head;
};

/*
 * Status line, Date, Content-Type, Content-Length, Proxy-Status, the sentence as text. A 405 says
 * Allow. At most HTTP_REFUSAL_MAX bytes. False: did not fit.
 */
#define HTTP_REFUSAL_MAX 1024
bool http_refuse(struct http_out *out, const struct http_refusal *refusal);

/* The answer to OPTIONS with Max-Forwards: 0. */
bool http_answer_options(struct http_out *out, struct span date, bool close);
