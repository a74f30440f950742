/* SPDX-License-Identifier: MIT */
/* The command line's client against a running API. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "admin/client.h"
#include "tests/unit/admin/running.h"

#define TIMEOUT_MS (RUNNING_WAIT_S * 1000)

static int stop(void **state)
{
    if (*state)
        running_free(*state);
    return 0;
}

static long status(struct client *c, const char *method, const char *path, const char *what)
{
    struct client_answer answer;
    char why[256] = "";
    if (!client_ask(c, method, path, &answer, why, sizeof why))
        fail_msg("%s", why);
    assert_int_equal(strlen(answer.body), answer.n);
    assert_non_null(strstr(answer.body, what));
    free(answer.body);
    return answer.status;
}

static void test_unix_socket(void **state)
{
    struct running *r = *state = running_start(NULL, NULL);
    struct client *c = client_new(r->socket, NULL, TIMEOUT_MS);
    assert_non_null(c);
    assert_int_equal(status(c, "GET", "/stats", "orders"), 200);
    assert_int_equal(status(c, "POST", "/reload", "in force"), 200);
    assert_int_equal(status(c, "GET", "/reload", "POST"), 405);
    assert_int_equal(status(c, "POST", "/pools/nosuch/pause", "nosuch"), 404);
    assert_int_equal(status(c, "GET", "/live", "true"), 200);
    assert_int_equal(atomic_load(&r->reloads), 1);
    client_free(c);
}

static void test_tcp_with_a_token(void **state)
{
    struct running *r = *state = running_start("0.0.0.0", "sesame");
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", r->port);
    struct client *c = client_new(url, "sesame", TIMEOUT_MS);
    assert_non_null(c);
    assert_int_equal(status(c, "GET", "/stats", "orders"), 200);
    assert_int_equal(status(c, "POST", "/reload", "in force"), 200);
    client_free(c);
    c = client_new(url, NULL, TIMEOUT_MS);
    assert_int_equal(status(c, "GET", "/stats", "token"), 401);
    client_free(c);
}

static void test_nobody_there(void **state)
{
    (void)state;
    static const char *const places[] = {"/nowhere/admin.sock", "http://127.0.0.1:1"};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        struct client_answer answer;
        char why[256] = "";
        struct client *c = client_new(places[i], NULL, TIMEOUT_MS);
        assert_non_null(c);
        assert_false(client_ask(c, "GET", "/live", &answer, why, sizeof why));
        assert_non_null(strstr(why, places[i]));
        assert_non_null(strstr(why, "not running"));
        assert_null(answer.body);
        client_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_unix_socket, stop),
        cmocka_unit_test_teardown(test_tcp_with_a_token, stop),
        cmocka_unit_test(test_nobody_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
