/* SPDX-License-Identifier: MIT */
/* The parser as a relay uses it: pipelines, bodies, what a head says, what stays with the
 * caller. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/wire/test_http_trace.h"

static struct trace whole, cut;

static const struct trace_input request_input = {
    .kind = HTTP_KIND_REQUEST,
    .limits = {60 * 1024, 8 * 1024, 8 * 1024, 100, 4 * 1024, 8 * 1024, 0},
};

static struct trace_input response_input(struct http_asked asked, bool eof)
{
    return (struct trace_input){
        .kind = HTTP_KIND_RESPONSE, .limits = HTTP_LIMITS_RESPONSE, .asked = asked, .eof = eof};
}

/* ---- pipelines ----------------------------------------------------------------------------- */

static const char pipeline[] =
    "GET /one?x=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: t\r\nAccept: */*\r\n\r\n"
    "POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"
    "\r\n"
    "PUT /three HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    "5;ext=1\r\nabcde\r\n10\r\n0123456789abcdef\r\n1\r\n\n\r\n0\r\nX-Sum: 7\r\n\r\n"
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n"
    "DELETE http://b:8080/four HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    "PATCH /five HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nend";

static const char pipeline_says[] =
    "HEAD GET /one?x=1 HTTP/1.1 host=a body=none keep\nEND\n"
    "HEAD POST /two HTTP/1.1 host=a body=length:11 keep\nBODY hello world\nEND\n"
    "HEAD PUT /three HTTP/1.1 host=a body=chunked keep\n"
    "BODY abcde0123456789abcdef\n\nEND\n"
    "HEAD OPTIONS * HTTP/1.1 host=a body=none keep\nEND\n"
    "HEAD DELETE http://b:8080/four HTTP/1.1 host=b:8080 body=length:0 keep\nEND\n"
    "HEAD HEAD / HTTP/1.0 host= body=none\nEND\n"
    "HEAD PATCH /five HTTP/1.1 host=a body=length:3\nBODY end\nEND\n"
    "QUIET\n";

static void test_pipeline_at_every_split(void **state)
{
    (void)state;
    struct span in = span_str(pipeline);
    trace_run(&whole, &request_input, in, in.n, 1);
    assert_string_equal(whole.text, pipeline_says);
    for (size_t first = 1; first < in.n; first++) {
        trace_run(&cut, &request_input, in, first, in.n);
        assert_string_equal(cut.text, pipeline_says);
    }
    for (size_t size = 1; size < 64; size++) {
        trace_run(&cut, &request_input, in, size, size);
        assert_string_equal(cut.text, pipeline_says);
    }
}

static void test_responses_at_every_split(void **state)
{
    (void)state;
    const char text[] = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
                        "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n"
                        "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\nHTTP/1.1 200 stolen\r\n\r\n";
    struct trace_input input = response_input((struct http_asked){0}, false);
    struct span in = span_str(text);
    for (size_t first = 1; first <= in.n; first++) {
        trace_run(&cut, &input, in, first, 7);
        assert_string_equal(cut.text,
                            "HEAD 100 HTTP/1.1 [Continue] body=none keep interim\nEND\n"
                            "HEAD 103 HTTP/1.1 [Early Hints] body=none keep interim\nEND\n"
                            "HEAD 200 HTTP/1.1 [Fine] body=chunked keep\nBODY abcdefg\nEND\n");
        /* A second response to one request is nobody's: it stays with the caller, who closes. */
        assert_int_equal(cut.surplus, strlen("HTTP/1.1 200 stolen\r\n\r\n"));
    }
}

/* ---- what the request decides about its response ------------------------------------------- */

static void check_response(struct http_asked asked, const char *text, const char *says,
                           size_t surplus)
{
    struct trace_input input = response_input(asked, false);
    trace_run(&whole, &input, span_str(text), strlen(text), 1);
    assert_string_equal(whole.text, says);
    assert_int_equal(whole.surplus, surplus);
}

static void test_head_has_no_body(void **state)
{
    (void)state;
    check_response((struct http_asked){.head = true},
                   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
                   "HEAD 200 HTTP/1.1 [OK] body=none keep\nEND\n", 5);
    check_response((struct http_asked){.head = true},
                   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                   "HEAD 200 HTTP/1.1 [OK] body=none keep\nEND\n", 5);
    check_response((struct http_asked){.head = true}, "HTTP/1.1 404 No\r\n\r\n",
                   "HEAD 404 HTTP/1.1 [No] body=none keep\nEND\n", 0);
}

static void test_connect_opens_a_tunnel(void **state)
{
    (void)state;
    check_response((struct http_asked){.connect = true},
                   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntunnel",
                   "HEAD 200 HTTP/1.1 [OK] body=none keep tunnel\nEND\n", 6);
    check_response((struct http_asked){.connect = true},
                   "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
                   "HEAD 403 HTTP/1.1 [No] body=length:2 keep\nBODY no\nEND\n", 0);
}

static void test_switching_protocols_ends_http(void **state)
{
    (void)state;
    check_response((struct http_asked){.upgrade = true},
                   "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05",
                   "HEAD 101 HTTP/1.1 [Go] body=none keep upgrade tunnel\nEND\n", 2);
    /* A final answer to an upgrade is an answer, not a switch. */
    check_response((struct http_asked){.upgrade = true},
                   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                   "HEAD 200 HTTP/1.1 [OK] body=length:2 keep\nBODY ok\nEND\n", 0);
}

static void test_expectation_survives_interim(void **state)
{
    (void)state;
    check_response((struct http_asked){.head = true},
                   "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
                   "HEAD 103 HTTP/1.1 [x] body=none keep interim\nEND\n"
                   "HEAD 200 HTTP/1.1 [OK] body=none keep\nEND\n",
                   0);
}

/* ---- heads --------------------------------------------------------------------------------- */

static struct http_parser *parser;

static const struct http_head *read_head(enum http_kind kind, const char *text)
{
    struct http_limits limits =
        kind == HTTP_KIND_REQUEST ? HTTP_LIMITS_REQUEST : HTTP_LIMITS_RESPONSE;
    http_parser_free(parser);
    parser = http_parser_new(kind, &limits);
    assert_non_null(parser);
    size_t used;
    struct http_event ev;
    enum http_step step = http_parser_feed(parser, span_str(text), &used, &ev);
    if (step != HTTP_STEP_HEAD)
        fail_msg("no head: %s", step == HTTP_STEP_BAD ? ev.bad.reason : "more wanted");
    assert_int_equal(used, strlen(text));
    return ev.head;
}

static void assert_span(struct span s, const char *text)
{
    if (!span_eq(s, span_str(text)))
        fail_msg("'%.*s' is not '%s'", (int)s.n, (const char *)s.p, text);
}

static int free_parser(void **state)
{
    (void)state;
    http_parser_free(parser);
    parser = NULL;
    return 0;
}

static void test_fields_as_received(void **state)
{
    (void)state;
    const struct http_head *h =
        read_head(HTTP_KIND_REQUEST, "GET /p?q HTTP/1.1\r\nhOST: h:1\r\nX-A:  one two\t \r\n"
                                     "x-a:2\r\nEmpty:\r\nConnection: x-b, close\r\nX-B: gone\r\n"
                                     "Keep-Alive: 5\r\nX_Forwarded_For: me\r\nx_c: 1\r\n\r\n");
    assert_int_equal(h->n_fields, 9);
    assert_span(h->fields[0].name, "hOST");
    assert_int_equal(h->fields[0].id, HTTP_F_HOST);
    assert_span(h->fields[1].name, "X-A");
    assert_span(h->fields[1].value, "one two");
    assert_span(h->fields[2].value, "2");
    assert_span(h->fields[3].value, "");
    assert_ptr_equal(http_find(h, HTTP_F_CONNECTION), &h->fields[4]);
    assert_null(http_find(h, HTTP_F_VIA));
    assert_ptr_equal(http_find_name(h, SPAN_LIT("X-A")), &h->fields[1]);
    assert_null(http_find_name(h, SPAN_LIT("X-Z")));
    const bool hop[] = {false, false, false, false, true, true, true, true, false};
    for (size_t i = 0; i < 9; i++)
        assert_int_equal(h->fields[i].hop, hop[i]);
    assert_span(h->path, "/p?q");
    assert_int_equal(h->form, HTTP_FORM_ORIGIN);
}

static void test_targets_are_taken_apart(void **state)
{
    (void)state;
    const struct http_head *h =
        read_head(HTTP_KIND_REQUEST, "GET HTTPS://u.example:8443?x=/y HTTP/1.1\r\nHost: z\r\n\r\n");
    assert_int_equal(h->form, HTTP_FORM_ABSOLUTE);
    assert_true(h->https);
    assert_span(h->authority, "u.example:8443");
    assert_span(h->host, "u.example:8443");
    assert_span(h->path, "?x=/y");
    h = read_head(HTTP_KIND_REQUEST, "CONNECT [::1]:443 HTTP/1.1\r\nHost: z\r\n\r\n");
    assert_int_equal(h->form, HTTP_FORM_AUTHORITY);
    assert_span(h->host, "[::1]:443");
}

static void test_methods(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool safe, idempotent;
    } rows[] = {{"GET", 1, 1},      {"HEAD", 1, 1},  {"POST", 0, 0},     {"PUT", 0, 1},
                {"DELETE", 0, 1},   {"PATCH", 0, 0}, {"PROPFIND", 1, 1}, {"LOCK", 0, 0},
                {"M-SEARCH", 0, 0}, {"QUERY", 1, 1}, {"PURGE", 0, 0}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[64];
        snprintf(text, sizeof text, "%s / HTTP/1.1\r\nHost: h\r\n\r\n", rows[i].text);
        const struct http_head *h = read_head(HTTP_KIND_REQUEST, text);
        assert_string_equal(http_method_text(h->method), rows[i].text);
        assert_int_equal(h->safe, rows[i].safe);
        assert_int_equal(h->idempotent, rows[i].idempotent);
    }
    /* Every method of the table is also one of the second reader's. */
    for (unsigned m = 0; m < HTTP_M_COUNT; m++) {
        char text[64];
        snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: h\r\n\r\n",
                 http_method_text((enum http_method)m), m == HTTP_M_CONNECT ? "h:1" : "/");
        assert_int_equal(read_head(HTTP_KIND_REQUEST, text)->method, m);
    }
}

static void test_known_fields_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {
#define X(name, text) text,
        HTTP_FIELDS(X)
#undef X
    };
    static const enum http_field_id ids[] = {
#define X(name, text) HTTP_F_##name,
        HTTP_FIELDS(X)
#undef X
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char text[160];
        if (ids[i] == HTTP_F_CONTENT_LENGTH || ids[i] == HTTP_F_TRANSFER_ENCODING ||
            ids[i] == HTTP_F_HOST || ids[i] == HTTP_F_EXPECT)
            continue; /* shown by the vectors */
        snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n%s: 1\r\n\r\n", names[i]);
        const struct http_head *h = read_head(HTTP_KIND_REQUEST, text);
        assert_int_equal(h->fields[1].id, ids[i]);
    }
    const struct http_head *h =
        read_head(HTTP_KIND_REQUEST, "GET / HTTP/1.1\r\nHost: h\r\nTo: 1\r\nHosts: 2\r\n\r\n");
    assert_int_equal(h->fields[1].id, HTTP_F_OTHER);
    assert_int_equal(h->fields[2].id, HTTP_F_OTHER);
}

static void test_keep_alive_hint(void **state)
{
    (void)state;
    const struct http_head *h =
        read_head(HTTP_KIND_RESPONSE,
                  "HTTP/1.1 200 OK\r\nKeep-Alive: max=9, Timeout=15\r\nContent-Length: 1\r\n\r\n");
    assert_int_equal(h->keep_alive_timeout, 15);
    h = read_head(HTTP_KIND_RESPONSE,
                  "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=x\r\nContent-Length: 1\r\n\r\n");
    assert_int_equal(h->keep_alive_timeout, 0);
}

static void test_lists(void **state)
{
    (void)state;
    struct span rest = SPAN_LIT(" a ,, b\t,\"c,d\" , (e,f(g,h)) i,"), e;
    const char *const want[] = {"a", "b", "\"c,d\"", "(e,f(g,h)) i"};
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        assert_true(http_list_next(&rest, &e));
        assert_span(e, want[i]);
    }
    assert_false(http_list_next(&rest, &e));
    rest = SPAN_LIT("\"open, \\");
    assert_true(http_list_next(&rest, &e));
    assert_span(e, "\"open, \\");
    assert_false(http_list_next(&rest, &e));
}

/* ---- the edges of a message ---------------------------------------------------------------- */

static void test_end_stands_still(void **state)
{
    (void)state;
    read_head(HTTP_KIND_REQUEST, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    size_t used = 9;
    struct http_event ev;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(http_parser_feed(parser, SPAN_LIT("GET /next"), &used, &ev),
                         HTTP_STEP_END);
        assert_int_equal(used, 0);
        assert_true(http_parser_is_done(parser));
    }
    http_parser_reset(parser);
    assert_true(http_parser_is_quiet(parser));
    assert_null(http_parser_head(parser));
    assert_int_equal(http_parser_feed(parser, SPAN_LIT("GET /next"), &used, &ev), HTTP_STEP_MORE);
    assert_int_equal(used, 9);
    assert_false(http_parser_is_quiet(parser));
}

static void test_bad_stays_bad(void **state)
{
    (void)state;
    struct http_limits limits = HTTP_LIMITS_REQUEST;
    parser = http_parser_new(HTTP_KIND_REQUEST, &limits);
    size_t used;
    struct http_event ev;
    assert_int_equal(http_parser_feed(parser, SPAN_LIT("?"), &used, &ev), HTTP_STEP_BAD);
    assert_int_equal(ev.bad.status, 400);
    assert_int_equal(ev.bad.cause, CAUSE_CLIENT_PROTOCOL);
    assert_int_equal(
        http_parser_feed(parser, SPAN_LIT("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), &used, &ev),
        HTTP_STEP_BAD);
    assert_non_null(ev.bad.reason);
}

static void test_causes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint16_t status;
        enum cause cause;
    } rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", 400, CAUSE_CLIENT_PROTOCOL},
        {"BREW / HTTP/1.1\r\n\r\n", 501, CAUSE_UNSUPPORTED},
        {"GET / HTTP/2.0\r\n\r\n", 505, CAUSE_UNSUPPORTED},
        {"GET / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", 417, CAUSE_UNSUPPORTED},
        {"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n", 413,
         CAUSE_TOO_LARGE},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct http_limits limits = HTTP_LIMITS_REQUEST;
        struct http_parser *p = http_parser_new(HTTP_KIND_REQUEST, &limits);
        size_t used;
        struct http_event ev;
        assert_int_equal(http_parser_feed(p, span_str(rows[i].text), &used, &ev), HTTP_STEP_BAD);
        assert_int_equal(ev.bad.status, rows[i].status);
        assert_int_equal(ev.bad.cause, rows[i].cause);
        http_parser_free(p);
    }
    struct http_limits limits = HTTP_LIMITS_RESPONSE;
    parser = http_parser_new(HTTP_KIND_RESPONSE, &limits);
    size_t used;
    struct http_event ev;
    http_parser_feed(parser, SPAN_LIT("HTTP/2.0 200 OK\r\n"), &used, &ev);
    assert_int_equal(ev.bad.status, 502);
    assert_int_equal(ev.bad.cause, CAUSE_UPSTREAM_PROTOCOL);
}

static void test_head_can_be_dropped_while_the_body_streams(void **state)
{
    (void)state;
    read_head(HTTP_KIND_REQUEST, "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n");
    http_parser_drop_head(parser);
    assert_null(http_parser_head(parser));
    size_t used;
    struct http_event ev;
    assert_int_equal(http_parser_feed(parser, SPAN_LIT("abcdGET"), &used, &ev), HTTP_STEP_BODY);
    assert_int_equal(used, 4);
    assert_int_equal(http_parser_feed(parser, SPAN_LIT("GET"), &used, &ev), HTTP_STEP_END);
    http_parser_reset(parser);
    assert_int_equal(http_parser_feed(parser, SPAN_LIT("GET"), &used, &ev), HTTP_STEP_MORE);
    http_parser_drop_head(parser); /* half a head stays */
    assert_int_equal(
        http_parser_feed(parser, SPAN_LIT(" / HTTP/1.1\r\nHost: h\r\n\r\n"), &used, &ev),
        HTTP_STEP_HEAD);
    assert_span(ev.head->target, "/");
}

static void check_bounded(const char *text, const char *says)
{
    struct trace_input input = request_input;
    input.limits.body = 5;
    trace_run(&whole, &input, span_str(text), strlen(text), 1);
    assert_string_equal(whole.text, says);
}

static void test_body_bound(void **state)
{
    (void)state;
#define PUT "PUT / HTTP/1.1\r\nHost: h\r\n"
#define PUT_SAYS "HEAD PUT / HTTP/1.1 host=h body="
    check_bounded(PUT "Content-Length: 5\r\n\r\nabcde",
                  PUT_SAYS "length:5 keep\nBODY abcde\nEND\nQUIET\n");
    check_bounded(PUT "Content-Length: 6\r\n\r\n", "BAD 413 the body is larger than allowed\n");
    check_bounded(PUT "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
                  PUT_SAYS "chunked keep\nBODY abcde\nEND\nQUIET\n");
    check_bounded(PUT "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n4\r\ncdef\r\n0\r\n\r\n",
                  PUT_SAYS "chunked keep\nBODY ab\nBAD 413 the body is larger than allowed\n");
}

static void test_extensions_may_accompany_payload(void **state)
{
    (void)state;
    /* Signed chunks carry far more extension bytes than the bound, and more payload still. */
    struct trace_input input = request_input;
    input.limits.extensions = 100;
    char text[16384] = PUT "Transfer-Encoding: chunked\r\n\r\n";
    size_t n = strlen(text);
    for (int i = 0; i < 30; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "c8;signature=%064d\r\n%0200d\r\n", i, i);
    snprintf(text + n, sizeof text - n, "0\r\n\r\n");
    trace_run(&whole, &input, span_str(text), 1000, 100);
    assert_non_null(strstr(whole.text, "\nEND\nQUIET\n"));
}

static void test_peer_closes(void **state)
{
    (void)state;
    struct http_event ev;
    size_t used;
    struct http_limits limits = HTTP_LIMITS_REQUEST;
    parser = http_parser_new(HTTP_KIND_REQUEST, &limits);
    assert_int_equal(http_parser_eof(parser, &ev), HTTP_STEP_MORE);
    http_parser_feed(parser, SPAN_LIT("\r\n"), &used, &ev);
    assert_true(http_parser_is_quiet(parser));
    assert_int_equal(http_parser_eof(parser, &ev), HTTP_STEP_MORE);
    http_parser_feed(parser, SPAN_LIT("G"), &used, &ev);
    assert_int_equal(http_parser_eof(parser, &ev), HTTP_STEP_BAD);
    assert_int_equal(ev.bad.status, 400);
    read_head(HTTP_KIND_REQUEST, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(http_parser_eof(parser, &ev),
                     HTTP_STEP_END); /* half-closed, still to answer */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipeline_at_every_split),
        cmocka_unit_test(test_responses_at_every_split),
        cmocka_unit_test(test_head_has_no_body),
        cmocka_unit_test(test_connect_opens_a_tunnel),
        cmocka_unit_test(test_switching_protocols_ends_http),
        cmocka_unit_test(test_expectation_survives_interim),
        cmocka_unit_test_teardown(test_fields_as_received, free_parser),
        cmocka_unit_test_teardown(test_targets_are_taken_apart, free_parser),
        cmocka_unit_test_teardown(test_methods, free_parser),
        cmocka_unit_test_teardown(test_known_fields_by_name, free_parser),
        cmocka_unit_test_teardown(test_keep_alive_hint, free_parser),
        cmocka_unit_test(test_lists),
        cmocka_unit_test_teardown(test_end_stands_still, free_parser),
        cmocka_unit_test_teardown(test_bad_stays_bad, free_parser),
        cmocka_unit_test_teardown(test_causes, free_parser),
        cmocka_unit_test_teardown(test_head_can_be_dropped_while_the_body_streams, free_parser),
        cmocka_unit_test(test_body_bound),
        cmocka_unit_test(test_extensions_may_accompany_payload),
        cmocka_unit_test_teardown(test_peer_closes, free_parser),
    };
    return cmocka_run_group_tests_name("http_parser", tests, NULL, NULL);
}
