/* SPDX-License-Identifier: MIT */
/* What goes on to the next hop, byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "proxy/wire/http_forward.h"

static struct http_parser *parser;
static char buffer[8192];
static struct http_bad bad;

static int free_parser(void **state)
{
    (void)state;
    http_parser_free(parser);
    parser = NULL;
    return 0;
}

static const struct http_head *head_of(enum http_kind kind, const char *text,
                                       struct http_asked asked)
{
    struct http_limits limits =
        kind == HTTP_KIND_REQUEST ? HTTP_LIMITS_REQUEST : HTTP_LIMITS_RESPONSE;
    http_parser_free(parser);
    parser = http_parser_new(kind, &limits);
    assert_non_null(parser);
    http_parser_expect(parser, asked);
    size_t used;
    struct http_event ev;
    if (http_parser_feed(parser, span_str(text), &used, &ev) != HTTP_STEP_HEAD)
        fail_msg("not a head: %s", ev.bad.reason);
    return ev.head;
}

static struct http_request_hop usual(void)
{
    return (struct http_request_hop){.pseudonym = SPAN_LIT("carpool-x"),
                                     .client = SPAN_LIT("10.1.2.3"),
                                     .authority = SPAN_LIT("origin:80")};
}

static enum http_verdict forward(const char *text, const struct http_request_hop *hop)
{
    struct http_out out = http_out_of(buffer, sizeof buffer - 1);
    const struct http_head *head = head_of(HTTP_KIND_REQUEST, text, (struct http_asked){0});
    enum http_verdict v = http_forward_request(head, hop, &out, &bad);
    buffer[out.n < sizeof buffer ? out.n : 0] = '\0';
    return v;
}

static void becomes(const char *text, const struct http_request_hop *hop, const char *want)
{
    assert_int_equal(forward(text, hop), HTTP_FORWARD);
    assert_string_equal(buffer, want);
    /* What we send on, the strict parser must accept as the same kind of message. */
    enum http_body body = http_parser_head(parser)->body;
    char copy[sizeof buffer];
    memcpy(copy, buffer, sizeof copy);
    assert_int_equal(head_of(HTTP_KIND_REQUEST, copy, (struct http_asked){0})->body, body);
}

#define ADDED "Via: 1.1 carpool-x\r\nX-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: http\r\n"

/* ---- requests ------------------------------------------------------------------------------ */

static void test_names_values_and_order_stay(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    becomes("GET /a%20b//c?x=1&y=%zz HTTP/1.1\r\nhOST: H:1\r\nX-b:  1 \r\nAccept: */*\r\nx-B: 2\r\n"
            "Authorization: Basic eA==\r\nProxy-Authorization: Basic eQ==\r\nEmpty:\r\n\r\n",
            &hop,
            "GET /a%20b//c?x=1&y=%zz HTTP/1.1\r\nhOST: H:1\r\nX-b: 1\r\nAccept: */*\r\nx-B: 2\r\n"
            "Authorization: Basic eA==\r\nProxy-Authorization: Basic eQ==\r\nEmpty: \r\n" ADDED
            "\r\n");
}

static void test_one_hop_fields_end_here(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    becomes(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\n"
        "x-secret: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n"
        "Trailer: X\r\nUpgrade: websocket\r\nHTTP2-Settings: AA\r\nX-Kept: 1\r\n\r\n",
        &hop, "GET / HTTP/1.1\r\nHost: h\r\nX-Kept: 1\r\n" ADDED "\r\n");
}

static void test_underscore_twins_end_here(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    becomes("GET / HTTP/1.1\r\nHost: h\r\nContent_Length: 5\r\nX_Forwarded-For: evil\r\n"
            "api_key: k\r\n\r\n",
            &hop, "GET / HTTP/1.1\r\nHost: h\r\napi_key: k\r\n" ADDED "\r\n");
}

static void test_nominated_forwarding_fields_are_ours_alone(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    becomes("GET / HTTP/1.1\r\nHost: h\r\nConnection: x-forwarded-for, via, x-forwarded-proto\r\n"
            "X-Forwarded-For: 1.1.1.1\r\nVia: 1.1 a\r\nX-Forwarded-Proto: https\r\n\r\n",
            &hop, "GET / HTTP/1.1\r\nHost: h\r\n" ADDED "\r\n");
}

static void test_framing_is_our_own(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    becomes("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n", &hop,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n" ADDED "\r\n");
    becomes("POST / HTTP/1.1\r\nTransfer-Encoding: CHUNKED\r\nHost: h\r\n\r\n", &hop,
            "POST / HTTP/1.1\r\nHost: h\r\n" ADDED "Transfer-Encoding: chunked\r\n\r\n");
    hop.close = true;
    becomes("GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", &hop,
            "GET / HTTP/1.1\r\nHost: h\r\n" ADDED "Connection: close\r\n\r\n");
}

static void test_http_1_0_client(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    becomes("GET /x HTTP/1.0\r\nExpect: 100-continue\r\nAccept: a\r\n\r\n", &hop,
            "GET /x HTTP/1.1\r\nHost: origin:80\r\nAccept: a\r\nVia: 1.0 carpool-x\r\n"
            "X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: http\r\n\r\n");
}

static void test_absolute_form(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    becomes("GET http://other:81/p?q HTTP/1.1\r\nA: 1\r\nHost: h\r\n\r\n", &hop,
            "GET /p?q HTTP/1.1\r\nA: 1\r\nHost: other:81\r\n" ADDED "\r\n");
    becomes("GET http://other HTTP/1.1\r\nHost: h\r\n\r\n", &hop,
            "GET / HTTP/1.1\r\nHost: other\r\n" ADDED "\r\n");
    becomes("GET http://other?q HTTP/1.1\r\nHost: h\r\n\r\n", &hop,
            "GET /?q HTTP/1.1\r\nHost: other\r\n" ADDED "\r\n");
    becomes("OPTIONS http://other HTTP/1.1\r\nHost: h\r\n\r\n", &hop,
            "OPTIONS * HTTP/1.1\r\nHost: other\r\n" ADDED "\r\n");
    becomes("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", &hop,
            "OPTIONS * HTTP/1.1\r\nHost: h\r\n" ADDED "\r\n");
}

static void test_forwarding_fields_are_appended(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    hop.client_tls = true;
    becomes("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\nVia: 1.0 a\r\n"
            "x-forwarded-for: 2.2.2.2\r\nVIA: 1.1 b (c, carpool-x)\r\n\r\n",
            &hop,
            "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\nVia: 1.0 a\r\n"
            "x-forwarded-for: 2.2.2.2, 10.1.2.3\r\nVIA: 1.1 b (c, carpool-x), 1.1 carpool-x\r\n"
            "X-Forwarded-Proto: https\r\n\r\n");
    becomes("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For:\r\nX-Forwarded-Proto: http\r\n\r\n",
            &hop,
            "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: http\r\n"
            "Via: 1.1 carpool-x\r\n\r\n");
    hop.client = span_of(NULL, 0); /* over a Unix socket */
    hop.pseudonym = span_of(NULL, 0);
    becomes("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n", &hop,
            "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n"
            "\r\n");
}

static void test_expect(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    const char *text =
        "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    becomes(text, &hop,
            "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n" ADDED
            "\r\n");
    hop.drop_expect = true;
    becomes(text, &hop, "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n" ADDED "\r\n");
    hop.drop_expect = false;
    becomes("GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n", &hop,
            "GET / HTTP/1.1\r\nHost: h\r\n" ADDED "\r\n");
}

static void test_upgrade(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    const char *text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
                       "Sec-WebSocket-Key: k\r\n\r\n";
    becomes(text, &hop, "GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: k\r\n" ADDED "\r\n");
    hop.upgrade = true;
    becomes(text, &hop,
            "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n" ADDED
            "Connection: upgrade\r\n\r\n");
    becomes("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", &hop,
            "GET / HTTP/1.1\r\nHost: h\r\n" ADDED "\r\n");
}

static void test_max_forwards(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    becomes("OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 10\r\n\r\n", &hop,
            "OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 9\r\n" ADDED "\r\n");
    assert_int_equal(forward("OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n", &hop),
                     HTTP_FORWARD_SELF);
    /* For other methods it means nothing. */
    becomes("GET / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n", &hop,
            "GET / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n" ADDED "\r\n");
}

static void test_refused_requests(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    assert_int_equal(forward("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", &hop), HTTP_FORWARD_NOT);
    assert_int_equal(bad.status, 405);
    assert_int_equal(forward("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", &hop), HTTP_FORWARD_NOT);
    assert_int_equal(bad.status, 405);
    static const char *const loops[] = {"1.1 carpool-x", "1.1 a, HTTP/1.1 CARPOOL-X (me)",
                                        "1.0 a (b, c) ,1.1\tcarpool-x"};
    for (size_t i = 0; i < ARRAY_LEN(loops); i++) {
        char text[200];
        snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\nVia: 1.1 z\r\nVia: %s\r\n\r\n",
                 loops[i]);
        assert_int_equal(forward(text, &hop), HTTP_FORWARD_NOT);
        assert_int_equal(bad.status, 508);
    }
    assert_int_equal(forward("GET / HTTP/1.1\r\nHost: h\r\nVia: 1.1 carpool-xy, 1.1 x (carpool-x),"
                             " 1.1 \"carpool-x\"\r\n\r\n",
                             &hop),
                     HTTP_FORWARD);
}

static void test_nothing_we_insert_splits_a_head(void **state)
{
    (void)state;
    const char *text = "GET / HTTP/1.0\r\n\r\n";
    struct http_request_hop hop = usual();
    hop.client = SPAN_LIT("1.1.1.1\r\nEvil: 1");
    assert_int_equal(forward(text, &hop), HTTP_FORWARD_NOT);
    assert_int_equal(bad.status, 500);
    hop = usual();
    hop.pseudonym = SPAN_LIT("a, 1.1 b");
    assert_int_equal(forward(text, &hop), HTTP_FORWARD_NOT);
    hop = usual();
    hop.authority = SPAN_LIT("h\r\nEvil: 1");
    assert_int_equal(forward(text, &hop), HTTP_FORWARD_NOT);
}

static void test_needed_size_is_told(void **state)
{
    (void)state;
    struct http_request_hop hop = usual();
    assert_int_equal(forward("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n", &hop), HTTP_FORWARD);
    size_t need = strlen(buffer);
    for (size_t cap = 0; cap <= need; cap++) {
        memset(buffer, '#', sizeof buffer);
        struct http_out out = http_out_of(buffer, cap);
        assert_int_equal(http_forward_request(http_parser_head(parser), &hop, &out, &bad),
                         cap < need ? HTTP_FORWARD_SMALL : HTTP_FORWARD);
        assert_int_equal(out.n, need);
        assert_int_equal(buffer[cap], '#');
    }
}

/* ---- responses ----------------------------------------------------------------------------- */

#define DATE "Sun, 06 Nov 1994 08:49:37 GMT"

static struct http_response_hop to_client(uint8_t minor)
{
    return (struct http_response_hop){
        .pseudonym = SPAN_LIT("c"), .date = SPAN_LIT(DATE), .client_minor = minor};
}

struct answer {
    enum http_body framing;
    bool close;
};

static struct answer responds(const char *text, struct http_asked asked,
                              const struct http_response_hop *hop, const char *want)
{
    struct answer a;
    struct http_out out = http_out_of(buffer, sizeof buffer - 1);
    const struct http_head *head = head_of(HTTP_KIND_RESPONSE, text, asked);
    assert_int_equal(http_forward_response(head, hop, &out, &a.framing, &a.close, &bad),
                     HTTP_FORWARD);
    buffer[out.n] = '\0';
    assert_string_equal(buffer, want);
    return a;
}

static void check(struct answer got, enum http_body framing, bool close)
{
    assert_int_equal(got.framing, framing);
    assert_int_equal(got.close, close);
}

#define OK_LINE "HTTP/1.1 200 OK\r\n"
#define TAIL "Via: 1.1 c\r\nDate: " DATE "\r\n"
#define PLAIN ((struct http_asked){0})

static void test_response_for_1_1(void **state)
{
    (void)state;
    struct http_response_hop hop = to_client(1);
    check(responds(OK_LINE "Content-Length: 2\r\nSet-Cookie: a\r\nsEt-cookie: b\r\n"
                           "WWW-Authenticate: x\r\nConnection: X-A, close\r\nX-A: 1\r\n"
                           "Keep-Alive: timeout=5\r\nProxy-Authenticate: y\r\n\r\n",
                   PLAIN, &hop,
                   OK_LINE "Content-Length: 2\r\nSet-Cookie: a\r\nsEt-cookie: b\r\n"
                           "WWW-Authenticate: x\r\nProxy-Authenticate: y\r\n" TAIL "\r\n"),
          HTTP_BODY_LENGTH, false);
    check(responds(OK_LINE
                   "Transfer-Encoding: chunked\r\nTrailer: x\r\nDate: d\r\nVia: 1.1 o\r\n\r\n",
                   PLAIN, &hop,
                   OK_LINE "Date: d\r\nVia: 1.1 o, 1.1 c\r\nTransfer-Encoding: chunked\r\n\r\n"),
          HTTP_BODY_CHUNKED, false);
    /* The end of a body that ends by close is made visible, so that the client may stay. */
    check(responds("HTTP/1.0 200 \r\nX: y\r\n\r\n", PLAIN, &hop,
                   "HTTP/1.1 200 \r\nX: y\r\nVia: 1.0 c\r\nDate: " DATE
                   "\r\nTransfer-Encoding: chunked\r\n\r\n"),
          HTTP_BODY_CHUNKED, false);
    hop.close = true;
    check(responds(OK_LINE "Content-Length: 0\r\n\r\n", PLAIN, &hop,
                   OK_LINE "Content-Length: 0\r\n" TAIL "Connection: close\r\n\r\n"),
          HTTP_BODY_LENGTH, true);
}

static void test_response_for_1_0(void **state)
{
    (void)state;
    struct http_response_hop hop = to_client(0);
    check(responds(OK_LINE "Transfer-Encoding: chunked\r\n\r\n", PLAIN, &hop,
                   OK_LINE TAIL "Connection: close\r\n\r\n"),
          HTTP_BODY_CLOSE, true);
    check(responds(OK_LINE "Content-Length: 3\r\n\r\n", PLAIN, &hop,
                   OK_LINE "Content-Length: 3\r\n" TAIL "Connection: close\r\n\r\n"),
          HTTP_BODY_LENGTH, true);
    struct http_out out = http_out_of(buffer, sizeof buffer);
    enum http_body framing;
    bool close;
    const struct http_head *head =
        head_of(HTTP_KIND_RESPONSE, "HTTP/1.1 103 Early Hints\r\n\r\n", PLAIN);
    assert_int_equal(http_forward_response(head, &hop, &out, &framing, &close, &bad),
                     HTTP_FORWARD_SKIP);
}

static void test_responses_without_a_body(void **state)
{
    (void)state;
    struct http_response_hop hop = to_client(1);
    check(responds("HTTP/1.1 204 No\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n",
                   PLAIN, &hop, "HTTP/1.1 204 No\r\n" TAIL "\r\n"),
          HTTP_BODY_NONE, false);
    check(responds("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", PLAIN, &hop,
                   "HTTP/1.1 304 Same\r\nContent-Length: 5\r\n" TAIL "\r\n"),
          HTTP_BODY_NONE, false);
    check(responds(OK_LINE "Content-Length: 5\r\n\r\n", (struct http_asked){.head = true}, &hop,
                   OK_LINE "Content-Length: 5\r\n" TAIL "\r\n"),
          HTTP_BODY_NONE, false);
    check(responds(OK_LINE "Transfer-Encoding: chunked\r\n\r\n", (struct http_asked){.head = true},
                   &hop, OK_LINE TAIL "\r\n"),
          HTTP_BODY_NONE, false);
    check(responds("HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", PLAIN, &hop,
                   "HTTP/1.1 100 Continue\r\nX: y\r\nVia: 1.1 c\r\n\r\n"),
          HTTP_BODY_NONE, false);
    hop.close = true; /* said with the final response only */
    check(responds("HTTP/1.1 103 Hints\r\n\r\n", PLAIN, &hop,
                   "HTTP/1.1 103 Hints\r\nVia: 1.1 c\r\n\r\n"),
          HTTP_BODY_NONE, false);
}

static void test_tunnels(void **state)
{
    (void)state;
    struct http_response_hop hop = to_client(1);
    check(responds("HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
                   (struct http_asked){.upgrade = true}, &hop,
                   "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nVia: 1.1 c\r\n"
                   "Connection: upgrade\r\n\r\n"),
          HTTP_BODY_NONE, false);
    check(responds(OK_LINE "Content-Length: 5\r\n\r\n", (struct http_asked){.connect = true}, &hop,
                   OK_LINE "Via: 1.1 c\r\n\r\n"),
          HTTP_BODY_NONE, false);
}

static void test_reason_with_control_bytes_is_dropped(void **state)
{
    (void)state;
    struct http_response_hop hop = to_client(1);
    responds("HTTP/1.1 204 a\x01z\r\n\r\n", PLAIN, &hop, "HTTP/1.1 204 \r\n" TAIL "\r\n");
}

/* ---- chunks -------------------------------------------------------------------------------- */

static void test_chunk_sizes(void **state)
{
    (void)state;
    static const struct {
        uint64_t n;
        const char *text;
    } rows[] = {{1, "1\r\n"},   {0, "0\r\n"},         {15, "f\r\n"},
                {16, "10\r\n"}, {65536, "10000\r\n"}, {UINT64_MAX, "ffffffffffffffff\r\n"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t buf[HTTP_CHUNK_OPEN_MAX];
        size_t n = http_chunk_open(buf, rows[i].n);
        assert_true(span_eq(span_of(buf, n), span_str(rows[i].text)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_names_values_and_order_stay, free_parser),
        cmocka_unit_test_teardown(test_one_hop_fields_end_here, free_parser),
        cmocka_unit_test_teardown(test_underscore_twins_end_here, free_parser),
        cmocka_unit_test_teardown(test_nominated_forwarding_fields_are_ours_alone, free_parser),
        cmocka_unit_test_teardown(test_framing_is_our_own, free_parser),
        cmocka_unit_test_teardown(test_http_1_0_client, free_parser),
        cmocka_unit_test_teardown(test_absolute_form, free_parser),
        cmocka_unit_test_teardown(test_forwarding_fields_are_appended, free_parser),
        cmocka_unit_test_teardown(test_expect, free_parser),
        cmocka_unit_test_teardown(test_upgrade, free_parser),
        cmocka_unit_test_teardown(test_max_forwards, free_parser),
        cmocka_unit_test_teardown(test_refused_requests, free_parser),
        cmocka_unit_test_teardown(test_nothing_we_insert_splits_a_head, free_parser),
        cmocka_unit_test_teardown(test_needed_size_is_told, free_parser),
        cmocka_unit_test_teardown(test_response_for_1_1, free_parser),
        cmocka_unit_test_teardown(test_response_for_1_0, free_parser),
        cmocka_unit_test_teardown(test_responses_without_a_body, free_parser),
        cmocka_unit_test_teardown(test_tunnels, free_parser),
        cmocka_unit_test_teardown(test_reason_with_control_bytes_is_dropped, free_parser),
        cmocka_unit_test(test_chunk_sizes),
    };
    return cmocka_run_group_tests_name("http_forward", tests, NULL, NULL);
}
