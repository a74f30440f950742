/* SPDX-License-Identifier: MIT */
/*
 * Local answers. The same cause that logs and metrics name stands in the body and in Proxy-Status'
 * details; the error type beside it is the registered one that comes closest.
 */
#include "proxy/wire/http_answer.h"

#include <errno.h>

#define METHODS_ALLOWED "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"

/* ---- dates --------------------------------------------------------------------------------- */

/* Proleptic Gregorian date of a day counted from 1970-01-01, in eras of 400 years from March on. */
static void civil_from_days(int64_t days, int *year, int *month, int *day)
{
    int64_t z = days + 719468;
    int64_t era = z / 146097;
    int64_t doe = z % 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    *day = (int)(doy - (153 * mp + 2) / 5 + 1);
    *month = (int)(mp < 10 ? mp + 3 : mp - 9);
    *year = (int)(yoe + era * 400 + (*month <= 2 ? 1 : 0));
}

static void put_digits(char *at, int n, int v)
{
    while (n-- > 0) {
        at[n] = (char)('0' + v % 10);
        v /= 10;
    }
}

struct span http_date(int64_t unix_seconds, char buf[HTTP_DATE_LEN + 1])
{
    static const char weekdays[] = "ThuFriSatSunMonTueWed"; /* 1970 began on a Thursday */
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const int64_t last = INT64_C(253402300799);
    int64_t t = unix_seconds < 0 ? 0 : unix_seconds > last ? last : unix_seconds;
    int64_t days = t / 86400;
    int second = (int)(t % 86400);
    int year, month, day;
    civil_from_days(days, &year, &month, &day);
    memcpy(buf, "Thu, 01 Jan 1970 00:00:00 GMT", HTTP_DATE_LEN + 1);
    memcpy(buf, weekdays + days % 7 * 3, 3);
    put_digits(buf + 5, 2, day);
    memcpy(buf + 8, months + (month - 1) * 3, 3);
    put_digits(buf + 12, 4, year);
    put_digits(buf + 17, 2, second / 3600);
    put_digits(buf + 20, 2, second / 60 % 60);
    put_digits(buf + 23, 2, second % 60);
    return span_of(buf, HTTP_DATE_LEN);
}

/* ---- statuses ------------------------------------------------------------------------------ */

static const struct {
    uint16_t status;
    const char *text;
} reasons[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {304, "Not Modified"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {411, "Length Required"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {417, "Expectation Failed"},
    {421, "Misdirected Request"},
    {422, "Unprocessable Content"},
    {426, "Upgrade Required"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {508, "Loop Detected"},
};

const char *http_reason(unsigned status)
{
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].text;
    return "Unknown";
}

/* clang-format off */
static const struct {
    uint16_t status;
    const char *type;
} outcomes[CAUSE_COUNT] = {
    [CAUSE_NONE]              = {500, "proxy_internal_error"},
    [CAUSE_ACQUIRE_TIMEOUT]   = {503, "connection_limit_reached"},
    [CAUSE_QUEUE_FULL]        = {503, "connection_limit_reached"},
    [CAUSE_OUTAGE]            = {503, "destination_unavailable"},
    [CAUSE_BREAKER_OPEN]      = {503, "destination_unavailable"},
    [CAUSE_DIAL_FAILED]       = {502, "destination_unavailable"}, /* see dial_error() */
    [CAUSE_UPSTREAM_AUTH]     = {502, "proxy_configuration_error"},
    [CAUSE_UPSTREAM_BUSY]     = {503, "connection_limit_reached"},
    [CAUSE_REQUEST_TIMEOUT]   = {504, "http_response_timeout"},
    [CAUSE_IDLE_TIMEOUT]      = {504, "connection_read_timeout"},
    [CAUSE_WRITE_STALL]       = {504, "connection_write_timeout"},
    [CAUSE_UPSTREAM_CLOSED]   = {502, "connection_terminated"},
    [CAUSE_UPSTREAM_PROTOCOL] = {502, "http_protocol_error"},
    [CAUSE_OUTCOME_UNKNOWN]   = {502, "connection_terminated"},
    [CAUSE_CLIENT_PROTOCOL]   = {400, "http_request_error"},
    [CAUSE_CLIENT_GONE]       = {400, "http_request_error"},
    [CAUSE_CLIENT_TIMEOUT]    = {408, "http_request_error"},
    [CAUSE_CANCELLED]         = {400, "http_request_error"},
    [CAUSE_AUTH_FAILED]       = {403, "http_request_denied"},
    [CAUSE_TLS_FAILED]        = {502, "tls_protocol_error"},
    [CAUSE_TOO_MANY_CLIENTS]  = {503, "proxy_internal_response"},
    [CAUSE_RATE_LIMITED]      = {429, "http_request_denied"},
    [CAUSE_OVERLOADED]        = {503, "proxy_internal_response"},
    [CAUSE_TOO_LARGE]         = {413, "http_request_error"},
    [CAUSE_NO_ROUTE]          = {404, "destination_not_found"},
    [CAUSE_UNSUPPORTED]       = {501, "http_request_error"},
    [CAUSE_DENIED]            = {403, "http_request_denied"},
    [CAUSE_PAUSED]            = {503, "proxy_internal_response"},
    [CAUSE_DRAINING]          = {503, "proxy_internal_response"},
    [CAUSE_KILLED]            = {503, "proxy_internal_response"},
    [CAUSE_INTERNAL]          = {500, "proxy_internal_error"},
};
/* clang-format on */

unsigned http_status_of(enum cause cause)
{
    CHECK((unsigned)cause < CAUSE_COUNT);
    return outcomes[cause].status;
}

static const char *dial_error(const struct err *err)
{
    if (err->stage == STAGE_RESOLVE)
        return "dns_error";
    if (err->stage == STAGE_TLS)
        return "tls_protocol_error";
    switch (err->sys) {
    case ECONNREFUSED:
        return "connection_refused";
    case ETIMEDOUT:
        return "connection_timeout";
    case EHOSTUNREACH:
    case ENETUNREACH:
        return "destination_ip_unroutable";
    case ECONNRESET:
    case EPIPE:
        return "connection_terminated";
    default:
        return outcomes[CAUSE_DIAL_FAILED].type;
    }
}

const char *http_proxy_error(const struct err *err)
{
    CHECK((unsigned)err->cause < CAUSE_COUNT);
    return err->cause == CAUSE_DIAL_FAILED ? dial_error(err) : outcomes[err->cause].type;
}

/* ---- replies ------------------------------------------------------------------------------- */

bool http_reply(struct http_out *out, const struct http_reply *r)
{
    http_out_put(out, SPAN_LIT("HTTP/1.1 "));
    http_out_uint(out, r->status);
    http_out_put(out, SPAN_LIT(" "));
    http_out_str(out, http_reason(r->status));
    http_out_put(out, SPAN_LIT("\r\n"));
    if (r->date.n)
        http_out_field(out, SPAN_LIT("Date"), r->date);
    if (r->content_type.n)
        http_out_field(out, SPAN_LIT("Content-Type"), r->content_type);
    bool bodiless = r->status == 204 || r->status == 304;
    if (!bodiless) {
        http_out_put(out, SPAN_LIT("Content-Length: "));
        http_out_uint(out, r->body.n);
        http_out_put(out, SPAN_LIT("\r\n"));
    }
    http_out_str(out, r->fields);
    if (r->close)
        http_out_str(out, "Connection: close\r\n");
    http_out_put(out, SPAN_LIT("\r\n"));
    if (!bodiless && !r->head)
        http_out_put(out, r->body);
    return http_out_fits(out);
}

/* Into a quoted string of RFC 8941: printable ASCII, quote and backslash escaped. */
static void put_quoted(struct http_out *o, const char *s)
{
    for (; *s; s++) {
        uint8_t c = (uint8_t)*s;
        if (c == '"' || c == '\\')
            http_out_put(o, SPAN_LIT("\\"));
        if (c < 0x20 || c >= 0x7f)
            c = ' ';
        http_out_put(o, span_of(&c, 1));
    }
}

static void put_proxy_status(struct http_out *o, const struct http_refusal *r, unsigned status,
                             const char *text)
{
    http_out_str(o, "Proxy-Status: carpool; error=");
    http_out_str(o, status == 508 ? "proxy_loop_detected" : http_proxy_error(r->err));
    http_out_str(o, "; details=\"");
    put_quoted(o, text);
    http_out_str(o, "\"\r\n");
}

static void put_hints(struct http_out *o, const struct http_refusal *r, unsigned status)
{
    if (status == 405)
        http_out_str(o, "Allow: " METHODS_ALLOWED "\r\n");
    if (status != 429 && status != 503)
        return;
    http_out_str(o, "Retry-After: ");
    http_out_uint(o, r->retry_after ? r->retry_after : 1);
    http_out_put(o, SPAN_LIT("\r\n"));
}

bool http_refuse(struct http_out *out, const struct http_refusal *r)
{
    unsigned status = r->status ? r->status : http_status_of(r->err->cause);
    char text[256], body[288], fields[768];
    err_text(r->err, text, sizeof text);
    struct http_out b = http_out_of(body, sizeof body);
    http_out_str(&b, "carpool: ");
    http_out_str(&b, text);
    http_out_put(&b, SPAN_LIT("\n"));
    struct http_out f = http_out_of(fields, sizeof fields - 1);
    put_proxy_status(&f, r, status, text);
    put_hints(&f, r, status);
    CHECK(http_out_fits(&b) && http_out_fits(&f));
    fields[f.n] = '\0';
    return http_reply(out,
                      &(struct http_reply){.status = status,
                                           .date = r->date,
                                           .content_type = SPAN_LIT("text/plain; charset=utf-8"),
                                           .body = span_of(body, b.n),
                                           .fields = fields,
                                           .close = r->close,
                                           .head = r->head});
}

bool http_answer_options(struct http_out *out, struct span date, bool close)
{
    return http_reply(out, &(struct http_reply){.status = 200,
                                                .date = date,
                                                .fields = "Allow: " METHODS_ALLOWED "\r\n",
                                                .close = close});
}
