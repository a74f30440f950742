/* SPDX-License-Identifier: MIT */
/* What people at a terminal see, from the pages that programs see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "admin/pages.h"
#include "admin/show.h"
#include "tests/unit/admin/made_up.h"

static char shown[65536];

static FILE *begin(void)
{
    memset(shown, 0, sizeof shown);
    FILE *out = fmemopen(shown, sizeof shown - 1, "w");
    assert_non_null(out);
    return out;
}

static bool show(bool (*how)(const char *, FILE *), char *json)
{
    FILE *out = begin();
    assert_non_null(json);
    bool good = how(json, out);
    fclose(out);
    free(json);
    return good;
}

static void assert_shown(const char *text)
{
    if (!strstr(shown, text))
        fail_msg("\"%s\" is not in:\n%s", text, shown);
}

static void test_status(void **state)
{
    (void)state;
    assert_true(show(show_status, pages_stats(made_up_figures())));
    assert_string_equal(
        shown,
        "carpool 1.2.3, up 3h12m, 2 workers, ready\n"
        "\n"
        "pool    kind      state  servers  waiting  clients  upstream\n"
        "orders  postgres  ok        5/10        0       40  db:5432 +1\n"
        "cache   redis     down       0/4        8        8  -\n"
        "    no server can be opened (dial_failed at connect: cache:6379 refused it): check that "
        "the server runs and that `upstream` is its address; carpool keeps trying\n");
}

static void test_uptimes(void **state)
{
    (void)state;
    static const struct {
        uint64_t ms;
        const char *text;
    } rows[] = {{0, "up 0s,"},
                {59999, "up 59s,"},
                {60000, "up 1m,"},
                {61000, "up 1m1s,"},
                {3600000, "up 1h,"},
                {86399000, "up 23h59m,"},
                {(uint64_t)86400000 * 400, "up 400d,"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct figures *f = made_up_figures();
        f->up_ms = rows[i].ms;
        f->n_workers = 1;
        f->ready = false;
        assert_true(show(show_status, pages_stats(f)));
        assert_shown(rows[i].text);
        assert_shown("1 worker, not ready\n");
    }
}

static void test_pools(void **state)
{
    (void)state;
    assert_true(show(show_pools, pages_pools(made_up_figures())));
    assert_string_equal(
        shown, "pool    state  max  idle  busy  checking  dialing  closing  waiting  "
               "clients  listen\n"
               "orders  ok      10     2     3         0        1        0        0       "
               "40  127.0.0.1:6432 +1\n"
               "cache   down     4     0     0         0        0        0        8        "
               "8  -\n");
}

static void test_connections(void **state)
{
    (void)state;
    assert_true(
        show(show_clients,
             strdup("{\"clients\": [{\"pool\": \"orders\", \"conn\": 17, \"client\": \"unix\","
                    "\"state\": \"idle\", \"age_ms\": 190000, \"server\": 3, \"held_ms\": 1250,"
                    "\"pinned\": \"LISTEN\", \"tls\": true, \"application\": null}],"
                    "\"left_out\": 12}")));
    assert_string_equal(shown,
                        "pool    conn  client  state    age  server  held  pinned by  tls  "
                        "application\n"
                        "orders    17  unix    idle   3m10s       3  1.2s  LISTEN     yes  -\n"
                        "and 12 more\n");
    assert_true(show(
        show_servers,
        strdup(
            "{\"servers\": [{\"pool\": \"orders\", \"server\": 3, \"endpoint\": \"db:1\","
            "\"role\": \"standby\", \"state\": \"idle\", \"age_ms\": 90000000, \"leases_total\": 9,"
            "\"idle_ms\": 4000000, \"retiring\": \"drop_recycled\"}],"
            "\"left_out\": 0}")));
    assert_shown("orders       3  db:1      standby  idle   1d1h       0       9  1h6m     -  "
                 "drop_recycled");
    assert_null(strstr(shown, "more"));
    assert_false(show(show_clients, strdup("{\"servers\": []}")));
    assert_false(show(show_servers, strdup("[]")));
}

static void test_stats(void **state)
{
    (void)state;
    assert_true(show(show_stats, pages_stats(made_up_figures())));
    assert_shown("orders (postgres): ok\n");
    assert_shown("  upstream  db:5432, db2:5432\n");
    assert_shown("6 of at most 10: 2 idle, 3 busy, 0 checking, 1 dialing, 0 closing");
    assert_shown("p99 40 ms, max 40 ms (10)\n");
    assert_shown("  errors    acquire_timeout 7\n");
    assert_shown("  idle      drop_eof 3\n");
    assert_shown("  bytes     117.7 MiB from servers, 1.0 KiB to servers\n");
    assert_shown("cache (redis): down\n");
    assert_shown("30, 30 failed; the last one: dial_failed at connect: cache:6379 refused it\n");
    assert_shown("  errors    none\n");
    assert_shown("  breaker   door open, service closed\n");
}

static void test_answers(void **state)
{
    (void)state;
    char *page = pages_error("nothing was changed", "a.yaml:1:2: error: no\nline two");
    FILE *out = begin();
    show_answer(page, "carpool: ", out);
    fclose(out);
    free(page);
    assert_string_equal(shown, "a.yaml:1:2: error: no\nline two\ncarpool: nothing was changed\n");

    page = pages_done("it is done", NULL);
    out = begin();
    show_answer(page, "", out);
    fclose(out);
    free(page);
    assert_string_equal(shown, "it is done\n");

    out = begin();
    show_answer("Bad Gateway\n", "carpool: ", out);
    fclose(out);
    assert_string_equal(shown, "carpool: Bad Gateway\n");
}

static void test_ready(void **state)
{
    (void)state;
    struct figures *f = made_up_figures();
    f->draining = true;
    f->ready = false;
    char *page = pages_ready(f);
    FILE *out = begin();
    show_ready(page, "- ", out);
    fclose(out);
    free(page);
    assert_shown("- carpool is draining\n");
    assert_shown("- pool cache has not reached");
}

/* Something else listens at that address. */
static void test_answers_of_somebody_else(void **state)
{
    (void)state;
    static const char *const pages[] = {"", "hello", "[]", "{}", "{\"pools\": 3}", "null", "{"};
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        assert_false(show(show_status, strdup(pages[i])));
        assert_string_equal(shown, "");
        assert_false(show(show_stats, strdup(pages[i])));
    }
    assert_false(show(show_pools, strdup("{}")));
    assert_true(show(show_pools, strdup("[]")));
    /* Members that are missing or odd leave gaps, no more. */
    assert_true(show(show_status, strdup("{\"pools\": [{\"name\": 7, \"servers\": []}, 3]}")));
    assert_true(show(show_stats, strdup("{\"pools\": [{\"listen\": [1], \"errors\": 2}]}")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status), cmocka_unit_test(test_uptimes),
        cmocka_unit_test(test_pools),  cmocka_unit_test(test_connections),
        cmocka_unit_test(test_stats),  cmocka_unit_test(test_answers),
        cmocka_unit_test(test_ready),  cmocka_unit_test(test_answers_of_somebody_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
