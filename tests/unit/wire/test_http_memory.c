/* SPDX-License-Identifier: MIT */
/*
 * The parser's memory, with the allocator in our hand: an idle connection holds none but the parser
 * itself, a head never more than its limit, and every allocation may fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static int live, fail_in;
static size_t largest;

static void *counted(void *old, size_t n)
{
    if (fail_in > 0 && --fail_in == 0)
        return NULL;
    largest = n > largest ? n : largest;
    live += old == NULL;
    return realloc(old, n);
}

static void *test_alloc(size_t n)
{
    return counted(NULL, n);
}

static void *test_clear_alloc(size_t n, size_t size)
{
    unsigned char *p = counted(NULL, n * size);
    for (size_t i = 0; p && i < n * size; i++)
        p[i] = 0;
    return p;
}

static void test_release(void *p)
{
    live -= p != NULL;
    free(p);
}

#define malloc test_alloc
#define calloc test_clear_alloc
#define realloc counted
#define free test_release
#include "proxy/wire/http.c"
#undef malloc
#undef calloc
#undef realloc
#undef free

static const struct span request = SPAN_LIT(
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nxPOST / HTTP/1.1\r\nHost: h\r\n"
    "\r\n");

/* The last step of feeding everything; *ends counts messages. */
static enum http_step run(struct http_parser *p, size_t size, int *ends, struct http_event *ev)
{
    enum http_step step = HTTP_STEP_MORE;
    *ends = 0;
    for (size_t at = 0; at < request.n || step != HTTP_STEP_MORE;) {
        size_t used, n = request.n - at < size ? request.n - at : size;
        step = http_parser_feed(p, span_of(request.p + at, n), &used, ev);
        at += used;
        if (step == HTTP_STEP_BAD)
            return step;
        if (step == HTTP_STEP_END) {
            ++*ends;
            http_parser_reset(p);
        }
    }
    return step;
}

static void test_idle_holds_nothing(void **state)
{
    (void)state;
    struct http_limits limits = HTTP_LIMITS_REQUEST;
    struct http_event ev;
    int ends;
    live = fail_in = 0;
    largest = 0;
    struct http_parser *p = http_parser_new(HTTP_KIND_REQUEST, &limits);
    assert_int_equal(live, 1);
    assert_in_range(largest, 1, 256);
    assert_int_equal(run(p, 1, &ends, &ev), HTTP_STEP_MORE);
    assert_int_equal(ends, 2);
    assert_int_equal(live, 1);
    http_parser_free(p);
    assert_int_equal(live, 0);
}

static void test_a_head_stays_within_its_limit(void **state)
{
    (void)state;
    struct http_limits limits = HTTP_LIMITS_REQUEST;
    limits.head = 3000;
    struct http_event ev = {0};
    live = fail_in = 0;
    largest = 0;
    struct http_parser *p = http_parser_new(HTTP_KIND_REQUEST, &limits);
    size_t used, sent = 0;
    const struct span start = SPAN_LIT("GET / HTTP/1.1\r\n"), field = SPAN_LIT("A: b\r\n");
    http_parser_feed(p, start, &used, &ev);
    enum http_step step = HTTP_STEP_MORE;
    for (; step == HTTP_STEP_MORE && sent < 100000; sent += field.n) {
        p->lines = 1; /* the number of fields is not the matter here */
        step = http_parser_feed(p, field, &used, &ev);
    }
    assert_int_equal(step, HTTP_STEP_BAD);
    assert_int_equal(ev.bad.status, 431);
    assert_in_range(largest, 2000, 3000);
    http_parser_free(p);
    assert_int_equal(live, 0);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    struct http_limits limits = HTTP_LIMITS_REQUEST;
    int failures = 0;
    for (int nth = 1; nth < 100; nth++) {
        live = 0;
        fail_in = nth;
        struct http_event ev;
        int ends;
        struct http_parser *p = http_parser_new(HTTP_KIND_REQUEST, &limits);
        if (!p) {
            failures++;
            continue;
        }
        enum http_step step = run(p, 3, &ends, &ev);
        http_parser_free(p);
        assert_int_equal(live, 0);
        if (step != HTTP_STEP_BAD)
            break; /* there is no nth allocation */
        assert_int_equal(ev.bad.status, 503);
        assert_int_equal(ev.bad.cause, CAUSE_INTERNAL);
        failures++;
    }
    fail_in = 0;
    assert_int_equal(failures, 5); /* the parser; text and head of two messages */
}

/* Heads in the thread's chunks: once there is one chunk, a message costs no allocation; a head that
   outgrows it is allocated, and is the same head. */
static void test_heads_in_chunks(void **state)
{
    (void)state;
    struct http_limits limits = HTTP_LIMITS_REQUEST;
    struct chunk_pool chunks;
    struct http_event ev = {0};
    int ends;
    size_t used;
    chunk_pool_init(&chunks, 4);
    live = fail_in = 0;
    struct http_parser *p = http_parser_new(HTTP_KIND_REQUEST, &limits);
    http_parser_lend(p, &chunks);
    for (size_t piece = 1; piece < request.n; piece += 7) {
        assert_int_equal(run(p, piece, &ends, &ev), HTTP_STEP_MORE);
        assert_int_equal(ends, 2);
        assert_int_equal(live, 1);
        assert_int_equal(chunks.n_free, 1);
    }
    static uint8_t big[9000];
    memset(big, 'x', sizeof big);
    const struct span start = SPAN_LIT("GET / HTTP/1.1\r\nHost: h\r\n");
    memcpy(big, start.p, start.n);
    size_t end = start.n; /* a line of 3002 bytes, and another, as long as there is room */
    for (; end + 3002 <= sizeof big; end += 3002) {
        memcpy(big + end, "A: ", 3);
        memcpy(big + end + 3000, "\r\n", 2);
    }
    for (size_t piece = 1000; piece <= end; piece += 1000) {
        enum http_step step = HTTP_STEP_MORE;
        for (size_t at = 0; at < end; at += used) {
            step = http_parser_feed(p, span_of(big + at, end - at < piece ? end - at : piece),
                                    &used, &ev);
            assert_int_equal(step, HTTP_STEP_MORE);
        }
        step = http_parser_feed(p, SPAN_LIT("\r\n"), &used, &ev);
        assert_int_equal(step, HTTP_STEP_HEAD);
        assert_int_equal(ev.head->n_fields, 1 + (end - start.n) / 3002);
        assert_int_equal(ev.head->fields[1].value.n, 2997);
        assert_int_equal(chunks.n_free, 1);
        http_parser_reset(p);
        assert_int_equal(live, 1);
    }
    /* Half a head, then the end. */
    assert_int_equal(http_parser_feed(p, SPAN_LIT("GET / HT"), &used, &ev), HTTP_STEP_MORE);
    assert_int_equal(chunks.n_free, 0);
    http_parser_free(p);
    assert_int_equal(live, 0);
    assert_int_equal(chunks.n_free, 1);
    chunk_pool_fini(&chunks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_holds_nothing),
        cmocka_unit_test(test_a_head_stays_within_its_limit),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_heads_in_chunks),
    };
    return cmocka_run_group_tests_name("http_memory", tests, NULL, NULL);
}
