/* SPDX-License-Identifier: MIT */
/* The JSON pages, read as a program would read them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

#include "admin/pages.h"
#include "tests/unit/admin/made_up.h"

static json_t *parsed(char *text)
{
    assert_non_null(text);
    json_t *value = json_loads(text, 0, NULL);
    assert_non_null(value);
    assert_int_equal(text[strlen(text) - 1], '\n');
    free(text);
    return value;
}

/* "pools.0.servers.busy" */
static const json_t *at(const json_t *value, const char *path)
{
    while (*path) {
        char key[64];
        size_t n = strcspn(path, ".");
        assert_true(n < sizeof key);
        memcpy(key, path, n);
        key[n] = '\0';
        value = json_is_array(value) ? json_array_get(value, (size_t)strtoul(key, NULL, 10))
                                     : json_object_get(value, key);
        if (!value)
            fail_msg("no %s", path);
        path += n + (path[n] == '.');
    }
    return value;
}

static void assert_number(const json_t *value, const char *path, json_int_t expected)
{
    const json_t *found = at(value, path);
    assert_true(json_is_integer(found));
    assert_int_equal(json_integer_value(found), expected);
}

static void assert_text(const json_t *value, const char *path, const char *expected)
{
    assert_non_null(json_string_value(at(value, path)));
    assert_string_equal(json_string_value(at(value, path)), expected);
}

static void test_stats(void **state)
{
    (void)state;
    json_t *v = parsed(pages_stats(made_up_figures()));
    assert_text(v, "version", "1.2.3");
    assert_text(v, "source", "/etc/carpool.yaml");
    assert_number(v, "uptime_s", 11520);
    assert_true(json_is_true(at(v, "ready")));
    assert_true(json_is_false(at(v, "draining")));
    assert_number(v, "workers", 2);
    assert_text(v, "threads.1.name", "worker 0");
    assert_number(v, "threads.1.lag.max_us", 300);
    assert_number(v, "threads.1.log_lines_dropped", 11);
    json_decref(v);
}

static void test_stats_of_a_pool(void **state)
{
    (void)state;
    json_t *v = parsed(pages_stats(made_up_figures()));
    assert_text(v, "pools.0.name", "orders");
    assert_text(v, "pools.0.kind", "postgres");
    assert_text(v, "pools.0.mode", "transaction");
    assert_text(v, "pools.0.listen.1", "/run/carpool/pg.sock");
    assert_text(v, "pools.0.upstream.0", "db:5432");
    assert_number(v, "pools.0.servers.busy", 3);
    assert_number(v, "pools.0.servers.dialing", 1);
    assert_number(v, "pools.0.servers.open", 6);
    assert_number(v, "pools.0.servers.max", 10);
    assert_number(v, "pools.0.total.open", 12);
    assert_number(v, "pools.0.total.max", 30);
    assert_true(json_is_null(at(v, "pools.1.total")));
    assert_number(v, "pools.0.leases", 3);
    assert_number(v, "pools.0.leases_total", 1000);
    assert_number(v, "pools.0.acquire.count", 10);
    assert_in_range(json_integer_value(at(v, "pools.0.acquire.p50_us")), 90, 96);
    assert_number(v, "pools.0.acquire.p99_us", 40000);
    assert_number(v, "pools.0.acquire.max_us", 40000);
    assert_number(v, "pools.0.dials.failed", 2);
    assert_true(json_is_null(at(v, "pools.0.dials.last_error")));
    assert_number(v, "pools.0.verdicts.return.keep", 990);
    assert_number(v, "pools.0.verdicts.idle.drop_eof", 3);
    assert_text(v, "pools.0.breaker.service", "closed");
    assert_number(v, "pools.0.bytes.from_servers", 123456789);
    assert_text(v, "pools.0.state", "ok");
    assert_true(json_is_null(at(v, "pools.0.hint")));
    json_decref(v);
}

/* Only what happened: whoever looks for a cause in the page finds it only if it was one. */
static void test_errors_that_happened(void **state)
{
    (void)state;
    json_t *v = parsed(pages_stats(made_up_figures()));
    assert_int_equal(json_object_size(at(v, "pools.0.errors")), 1);
    assert_number(v, "pools.0.errors.acquire_timeout", 7);
    assert_int_equal(json_object_size(at(v, "pools.1.errors")), 0);
    assert_int_equal(json_object_size(at(v, "pools.0.verdicts.checkout")), 0);
    json_decref(v);
}

static void test_a_pool_that_is_down_says_why(void **state)
{
    (void)state;
    json_t *v = parsed(pages_stats(made_up_figures()));
    assert_text(v, "pools.1.state", "down");
    assert_text(v, "pools.1.dials.last_error", "dial_failed at connect: cache:6379 refused it");
    assert_non_null(strstr(json_string_value(at(v, "pools.1.hint")), "cache:6379 refused it"));
    assert_text(v, "pools.1.breaker.door", "open");
    assert_true(json_is_null(at(v, "pools.1.mode")));
    assert_int_equal(json_array_size(at(v, "pools.1.listen")), 0);
    json_decref(v);
}

static void test_pools(void **state)
{
    (void)state;
    json_t *v = parsed(pages_pools(made_up_figures()));
    assert_int_equal(json_array_size(v), 2);
    assert_text(v, "0.name", "orders");
    assert_number(v, "0.servers.idle", 2);
    assert_number(v, "1.waiting", 8);
    assert_text(v, "1.state", "down");
    assert_null(json_object_get(at(v, "0"), "verdicts"));
    json_decref(v);
}

static void test_ready(void **state)
{
    (void)state;
    struct figures *f = made_up_figures();
    json_t *v = parsed(pages_ready(f));
    assert_true(json_is_true(at(v, "ready")));
    assert_int_equal(json_array_size(at(v, "missing")), 0);
    json_decref(v);

    f->ready = f->bound = false;
    f->draining = true;
    made_up_pool(f, "orders")->warmed = false;
    made_up_pool(f, "cache")->warmed = true;
    v = parsed(pages_ready(f));
    assert_true(json_is_false(at(v, "ready")));
    assert_int_equal(json_array_size(at(v, "missing")), 3);
    assert_non_null(strstr(json_string_value(at(v, "missing.0")), "draining"));
    assert_non_null(strstr(json_string_value(at(v, "missing.1")), "listen"));
    assert_non_null(strstr(json_string_value(at(v, "missing.2")), "pool orders"));
    json_decref(v);
}

static void test_answers(void **state)
{
    (void)state;
    json_t *v = parsed(pages_done("it is done", NULL));
    assert_text(v, "message", "it is done");
    assert_null(json_object_get(v, "report"));
    json_decref(v);
    v = parsed(pages_error("it is not", "line 1\n\nline 2"));
    assert_text(v, "error", "it is not");
    assert_int_equal(json_array_size(at(v, "report")), 2);
    assert_text(v, "report.1", "line 2");
    json_decref(v);
}

/* A report may quote a file that is no UTF-8 at all. */
static void test_bytes_that_are_no_text(void **state)
{
    (void)state;
    json_t *v = parsed(pages_error("no \xff\xfe text", "caf\xc3\xa9\nbad \x80 line\n"));
    assert_text(v, "error", "no ?? text");
    assert_text(v, "report.0", "caf\xc3\xa9");
    assert_text(v, "report.1", "bad ? line");
    json_decref(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_stats_of_a_pool),
        cmocka_unit_test(test_errors_that_happened),
        cmocka_unit_test(test_a_pool_that_is_down_says_why),
        cmocka_unit_test(test_pools),
        cmocka_unit_test(test_ready),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_bytes_that_are_no_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
