/* SPDX-License-Identifier: MIT */
/* Which request asks for what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "admin/target.h"

static struct target ask(enum http_method method, const char *path)
{
    return target_of(method, span_str(path));
}

static void assert_span(struct span s, const char *expected)
{
    assert_int_equal(s.n, strlen(expected));
    assert_memory_equal(s.p, expected, s.n);
}

static void test_pages(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        enum page_id page;
        bool open;
    } rows[] = {
        {"/", PAGE_INDEX, false},          {"/live", PAGE_LIVE, true},
        {"/ready", PAGE_READY, true},      {"/metrics", PAGE_METRICS, true},
        {"/stats", PAGE_STATS, false},     {"/pools", PAGE_POOLS, false},
        {"/clients", PAGE_CLIENTS, false}, {"/servers", PAGE_SERVERS, false},
        {"/config", PAGE_CONFIG, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct target t = ask(HTTP_M_GET, rows[i].path);
        assert_int_equal(t.status, 0);
        assert_int_equal(t.page, rows[i].page);
        assert_int_equal(t.open, rows[i].open);
        assert_false(t.changes);
        assert_int_equal(ask(HTTP_M_HEAD, rows[i].path).status, 0);
        t = ask(HTTP_M_POST, rows[i].path);
        assert_int_equal(t.status, 405);
        assert_string_equal(t.allow, "Allow: GET, HEAD\r\n");
    }
}

static void test_actions(void **state)
{
    (void)state;
    static const struct {
        const char *path, *action, *pool;
        enum page_id page;
    } rows[] = {
        {"/reload", "reload", "", PAGE_RELOAD},
        {"/shutdown", "shutdown", "", PAGE_SHUTDOWN},
        {"/pools/orders/pause", "pause", "orders", PAGE_PAUSE},
        {"/pools/orders/resume", "resume", "orders", PAGE_RESUME},
        {"/pools/a-b_9/recycle", "recycle", "a-b_9", PAGE_RECYCLE},
        {"/pools/a-b_9/drain", "drain", "a-b_9", PAGE_DRAIN},
        {"/pools/orders/breaker", "breaker", "orders", PAGE_BREAKER},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct target t = ask(HTTP_M_POST, rows[i].path);
        assert_int_equal(t.status, 0);
        assert_int_equal(t.page, rows[i].page);
        assert_true(t.changes);
        assert_false(t.open);
        assert_string_equal(t.action, rows[i].action);
        assert_span(t.pool, rows[i].pool);
        /* Nothing is changed by a link that somebody follows. */
        t = ask(HTTP_M_GET, rows[i].path);
        assert_int_equal(t.status, 405);
        assert_string_equal(t.allow, "Allow: POST\r\n");
        assert_int_equal(ask(HTTP_M_HEAD, rows[i].path).status, 405);
        assert_int_equal(ask(HTTP_M_DELETE, rows[i].path).status, 405);
    }
}

static void test_nothing_there(void **state)
{
    (void)state;
    static const char *const paths[] = {
        "",       "*",       "/nowhere",      "/live/",        "//live",
        "/lives", "/pools/", "/pools/orders", "/pools//pause", "/pools/orders/pause/",
        "/Live",  "live",    "/pools/pause",  "/%6cive",       "/pools/orders/explode",
    };
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        struct target t = ask(HTTP_M_GET, paths[i]);
        if (t.status != 404)
            fail_msg("%s is there", paths[i]);
        assert_false(t.open);
        assert_int_equal(ask(HTTP_M_POST, paths[i]).status, 404);
    }
}

static void test_queries(void **state)
{
    (void)state;
    struct target t = ask(HTTP_M_POST, "/pools/orders/breaker?to=open&x=1");
    assert_int_equal(t.status, 0);
    assert_span(target_param(t.query, SPAN_LIT("to")), "open");
    assert_span(target_param(t.query, SPAN_LIT("x")), "1");
    assert_span(target_param(t.query, SPAN_LIT("t")), "");
    t = ask(HTTP_M_GET, "/metrics?");
    assert_int_equal(t.status, 0);
    assert_span(target_param(t.query, SPAN_LIT("to")), "");
    assert_span(target_param(span_str("a&=b&to"), SPAN_LIT("to")), "");
    assert_span(target_param(span_str("into=x&to=y=z"), SPAN_LIT("to")), "y=z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_actions),
        cmocka_unit_test(test_nothing_there),
        cmocka_unit_test(test_queries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
