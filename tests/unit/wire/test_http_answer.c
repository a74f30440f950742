/* SPDX-License-Identifier: MIT */
/* Local answers: readable by people, by HTTP clients and by whoever reads Proxy-Status. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "proxy/wire/http.h"
#include "proxy/wire/http_answer.h"

#define DATE "Sun, 06 Nov 1994 08:49:37 GMT"

static char buffer[HTTP_REFUSAL_MAX + 1];

static const char *refusal(const struct http_refusal *r)
{
    struct http_out out = http_out_of(buffer, sizeof buffer - 1);
    assert_true(http_refuse(&out, r));
    buffer[out.n] = '\0';
    return buffer;
}

static struct err error(enum cause cause, enum err_stage stage, int sys, const char *note)
{
    struct err err;
    err_set(&err, cause, stage, sys, "%s", note);
    return err;
}

static void test_refusal_as_a_whole(void **state)
{
    (void)state;
    struct err err = error(CAUSE_ACQUIRE_TIMEOUT, STAGE_WAIT, 0, "no connection within 3 s");
    struct http_refusal r = {.err = &err, .date = SPAN_LIT(DATE), .retry_after = 2, .close = true};
    assert_string_equal(
        refusal(&r),
        "HTTP/1.1 503 Service Unavailable\r\nDate: " DATE "\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 59\r\n"
        "Proxy-Status: carpool; error=connection_limit_reached; "
        "details=\"acquire_timeout at wait: no connection within 3 s\"\r\nRetry-After: 2\r\n"
        "Connection: close\r\n\r\n"
        "carpool: acquire_timeout at wait: no connection within 3 s\n");
    r.head = true;
    refusal(&r);
    assert_non_null(strstr(buffer, "Content-Length: 59\r\n"));
    assert_string_equal(buffer + strlen(buffer) - 4, "\r\n\r\n");
}

/* The table of errors that the documentation promises. */
static void test_status_of_causes(void **state)
{
    (void)state;
    static const struct {
        enum cause cause;
        unsigned status;
    } rows[] = {
        {CAUSE_ACQUIRE_TIMEOUT, 503},  {CAUSE_QUEUE_FULL, 503},        {CAUSE_PAUSED, 503},
        {CAUSE_OUTAGE, 503},           {CAUSE_BREAKER_OPEN, 503},      {CAUSE_DIAL_FAILED, 502},
        {CAUSE_REQUEST_TIMEOUT, 504},  {CAUSE_UPSTREAM_CLOSED, 502},   {CAUSE_RATE_LIMITED, 429},
        {CAUSE_TOO_MANY_CLIENTS, 503}, {CAUSE_UPSTREAM_PROTOCOL, 502}, {CAUSE_CLIENT_PROTOCOL, 400},
        {CAUSE_DRAINING, 503},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(http_status_of(rows[i].cause), rows[i].status);
}

static bool is_registered(const char *type)
{
    static const char *const types[] = {"dns_timeout",
                                        "dns_error",
                                        "destination_not_found",
                                        "destination_unavailable",
                                        "destination_ip_prohibited",
                                        "destination_ip_unroutable",
                                        "connection_refused",
                                        "connection_terminated",
                                        "connection_timeout",
                                        "connection_read_timeout",
                                        "connection_write_timeout",
                                        "connection_limit_reached",
                                        "tls_protocol_error",
                                        "tls_certificate_error",
                                        "tls_alert_received",
                                        "http_request_error",
                                        "http_request_denied",
                                        "http_response_incomplete",
                                        "http_response_header_section_size",
                                        "http_response_header_size",
                                        "http_response_body_size",
                                        "http_response_trailer_section_size",
                                        "http_response_trailer_size",
                                        "http_response_transfer_coding",
                                        "http_response_content_coding",
                                        "http_response_timeout",
                                        "http_upgrade_failed",
                                        "http_protocol_error",
                                        "proxy_internal_response",
                                        "proxy_internal_error",
                                        "proxy_configuration_error",
                                        "proxy_loop_detected"};
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (strcmp(type, types[i]) == 0)
            return true;
    return false;
}

/* For every cause: a registered error type, carpool's own word, a message our own parser
 * accepts. */
static void test_every_cause_has_words(void **state)
{
    (void)state;
    for (unsigned c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++) {
        struct err err = error((enum cause)c, STAGE_EXCHANGE, 0, "x");
        struct http_refusal r = {.err = &err, .date = SPAN_LIT(DATE)};
        assert_true(is_registered(http_proxy_error(&err)));
        refusal(&r);
        char want[64];
        snprintf(want, sizeof want, "details=\"%s at exchange: x\"", cause_word((enum cause)c));
        assert_non_null(strstr(buffer, want));
        assert_null(strstr(buffer, "Unknown"));

        struct http_limits limits = HTTP_LIMITS_RESPONSE;
        struct http_parser *p = http_parser_new(HTTP_KIND_RESPONSE, &limits);
        struct http_event ev;
        size_t used;
        assert_int_equal(http_parser_feed(p, span_str(buffer), &used, &ev), HTTP_STEP_HEAD);
        assert_int_equal(ev.head->status, http_status_of((enum cause)c));
        assert_int_equal(ev.head->length, strlen(buffer) - used);
        assert_int_equal(http_find(ev.head, HTTP_F_RETRY_AFTER) != NULL,
                         ev.head->status == 503 || ev.head->status == 429);
        http_parser_free(p);
    }
}

static void test_failed_dials_say_why(void **state)
{
    (void)state;
    static const struct {
        enum err_stage stage;
        int sys;
        const char *type;
    } rows[] = {{STAGE_RESOLVE, 0, "dns_error"},
                {STAGE_CONNECT, ECONNREFUSED, "connection_refused"},
                {STAGE_CONNECT, ETIMEDOUT, "connection_timeout"},
                {STAGE_CONNECT, EHOSTUNREACH, "destination_ip_unroutable"},
                {STAGE_CONNECT, ECONNRESET, "connection_terminated"},
                {STAGE_CONNECT, 0, "destination_unavailable"},
                {STAGE_TLS, 0, "tls_protocol_error"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err = error(CAUSE_DIAL_FAILED, rows[i].stage, rows[i].sys, "x");
        assert_string_equal(http_proxy_error(&err), rows[i].type);
    }
}

static void test_special_statuses(void **state)
{
    (void)state;
    struct err err = error(CAUSE_DENIED, STAGE_CLIENT, 0, "x");
    struct http_refusal r = {.err = &err, .date = SPAN_LIT(DATE), .status = 508};
    assert_non_null(strstr(refusal(&r), "508 Loop Detected\r\n"));
    assert_non_null(strstr(buffer, "error=proxy_loop_detected;"));
    r.status = 405;
    assert_non_null(strstr(refusal(&r), "\r\nAllow: GET, "));
}

static void test_the_longest_note_fits(void **state)
{
    (void)state;
    char note[400];
    memset(note, '\\', sizeof note - 1);
    note[sizeof note - 1] = '\0';
    struct err err = error(CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0, note);
    struct http_refusal r = {.err = &err,
                             .date = SPAN_LIT(DATE),
                             .status = 503,
                             .retry_after = UINT32_MAX,
                             .close = true};
    refusal(&r);
    assert_non_null(strstr(buffer, "\\\\\\\\\\\\\"\r\nRetry-After: 4294967295\r\n"));
    struct http_out out = http_out_of(buffer, 20);
    assert_false(http_refuse(&out, &r));
    assert_in_range(out.n, 21, HTTP_REFUSAL_MAX);
}

static void test_notes_cannot_split_a_head(void **state)
{
    (void)state;
    struct err err = error(CAUSE_UPSTREAM_PROTOCOL, STAGE_NONE, 0, "a\"b\\c\r\nEvil: 1\r\n\r\n");
    struct http_refusal r = {.err = &err, .date = SPAN_LIT(DATE)};
    refusal(&r);
    assert_non_null(strstr(buffer, "details=\"upstream_protocol: a'b\\\\c  Evil: 1    \"\r\n"));
}

static void test_dates(void **state)
{
    (void)state;
    char buf[HTTP_DATE_LEN + 1];
    http_date(784111777, buf);
    assert_string_equal(buf, DATE);
    http_date(0, buf);
    assert_string_equal(buf, "Thu, 01 Jan 1970 00:00:00 GMT");
    http_date(-5, buf);
    assert_string_equal(buf, "Thu, 01 Jan 1970 00:00:00 GMT");
    http_date(INT64_MAX, buf);
    assert_string_equal(buf, "Fri, 31 Dec 9999 23:59:59 GMT");
    /* As the C library counts, over leap years and centuries. */
    for (int64_t t = 0; t < INT64_C(253402300799); t += INT64_C(86400) * 13 + 4567) {
        char want[40];
        time_t when = (time_t)t;
        struct tm tm;
        assert_non_null(gmtime_r(&when, &tm));
        strftime(want, sizeof want, "%a, %d %b %Y %H:%M:%S GMT", &tm);
        http_date(t, buf);
        assert_string_equal(buf, want);
    }
}

static void test_replies(void **state)
{
    (void)state;
    struct http_out out = http_out_of(buffer, sizeof buffer - 1);
    assert_true(http_reply(&out, &(struct http_reply){.status = 200,
                                                      .date = SPAN_LIT(DATE),
                                                      .content_type = SPAN_LIT("text/plain"),
                                                      .body = SPAN_LIT("ok\n"),
                                                      .fields = "Cache-Control: no-store\r\n"}));
    buffer[out.n] = '\0';
    assert_string_equal(buffer, "HTTP/1.1 200 OK\r\nDate: " DATE "\r\nContent-Type: text/plain\r\n"
                                "Content-Length: 3\r\nCache-Control: no-store\r\n\r\nok\n");
    out = http_out_of(buffer, sizeof buffer - 1);
    assert_true(http_reply(&out, &(struct http_reply){.status = 204, .close = true}));
    buffer[out.n] = '\0';
    assert_string_equal(buffer, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    out = http_out_of(buffer, sizeof buffer - 1);
    assert_true(http_answer_options(&out, SPAN_LIT(DATE), false));
    buffer[out.n] = '\0';
    assert_non_null(strstr(buffer, "200 OK\r\n"));
    assert_non_null(strstr(buffer, "\r\nAllow: GET, HEAD, "));
    assert_non_null(strstr(buffer, "Content-Length: 0\r\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusal_as_a_whole),
        cmocka_unit_test(test_status_of_causes),
        cmocka_unit_test(test_every_cause_has_words),
        cmocka_unit_test(test_failed_dials_say_why),
        cmocka_unit_test(test_special_statuses),
        cmocka_unit_test(test_the_longest_note_fits),
        cmocka_unit_test(test_notes_cannot_split_a_head),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_replies),
    };
    return cmocka_run_group_tests_name("http_answer", tests, NULL, NULL);
}
