/* SPDX-License-Identifier: MIT */
/* Who may ask for what, over which door. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "admin/access.h"

enum what { OPEN_PAGE, PAGE, ACTION };

struct row {
    enum what what;
    const char *host, *origin, *authorization;
    unsigned status;
};

static void assert_rows(const struct access_rule *rule, const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct access_ask ask = {
            .open = rows[i].what == OPEN_PAGE,
            .changes = rows[i].what == ACTION,
            .host = span_str(rows[i].host),
            .origin = span_str(rows[i].origin),
            .authorization = span_str(rows[i].authorization),
        };
        const char *why = NULL;
        unsigned status = access_check(rule, &ask, &why);
        if (status != rows[i].status)
            fail_msg("row %zu: %u", i, status);
        assert_int_equal(status != 0, why != NULL);
    }
}

static void test_unix_socket(void **state)
{
    (void)state;
    const struct access_rule rule = {.door = ACCESS_UNIX, .token = "sesame"};
    const struct row rows[] = {
        {OPEN_PAGE, "carpool", NULL, NULL, 0},
        {PAGE, "anything", NULL, NULL, 0},
        {ACTION, "evil.example", "http://evil.example", "Bearer wrong", 0},
    };
    assert_rows(&rule, rows, ARRAY_LEN(rows));
}

/* A page in a browser on this machine must not reach the daemon, whatever name it was given. */
static void test_loopback(void **state)
{
    (void)state;
    const struct access_rule rule = {.door = ACCESS_LOOPBACK, .host = "127.0.0.2"};
    const struct row rows[] = {
        {OPEN_PAGE, "localhost:9601", NULL, NULL, 0},
        {OPEN_PAGE, "evil.example", NULL, NULL, 0},
        {PAGE, "localhost:9601", NULL, NULL, 0},
        {PAGE, "LocalHost", NULL, NULL, 0},
        {PAGE, "127.0.0.1:9601", NULL, NULL, 0},
        {PAGE, "127.0.0.2:9601", NULL, NULL, 0},
        {PAGE, "[::1]:9601", NULL, NULL, 0},
        {PAGE, "", NULL, NULL, 0},
        {PAGE, "evil.example", NULL, NULL, 403},
        {PAGE, "localhost.evil.example:9601", NULL, NULL, 403},
        {PAGE, "[::1", NULL, NULL, 403},
        {PAGE, "127.0.0.3", NULL, NULL, 403},
        {PAGE, "localhost:9601", "http://evil.example", NULL, 0},
        {ACTION, "localhost:9601", NULL, NULL, 0},
        {ACTION, "localhost:9601", "http://localhost:9601", NULL, 0},
        {ACTION, "evil.example:9601", "http://evil.example:9601", NULL, 403},
        {ACTION, "localhost:9601", "http://evil.example", NULL, 403},
        {ACTION, "localhost:9601", "http://localhost:3000", NULL, 403},
        {ACTION, "localhost:9601", "null", NULL, 403},
        {ACTION, "", "http://", NULL, 403},
    };
    assert_rows(&rule, rows, ARRAY_LEN(rows));
}

static void test_outside_with_a_token(void **state)
{
    (void)state;
    const struct access_rule rule = {.door = ACCESS_OUTSIDE, .host = "0.0.0.0", .token = "sesame"};
    const struct row rows[] = {
        {OPEN_PAGE, "10.0.0.7:9601", NULL, NULL, 0},
        {PAGE, "10.0.0.7:9601", NULL, NULL, 401},
        {PAGE, "localhost", NULL, NULL, 401},
        {PAGE, "10.0.0.7:9601", NULL, "Bearer sesame", 0},
        {PAGE, "10.0.0.7:9601", NULL, "bearer  sesame", 0},
        {ACTION, "10.0.0.7:9601", NULL, "Bearer sesame", 0},
        {ACTION, "10.0.0.7:9601", NULL, "Bearer sesam", 401},
        {ACTION, "10.0.0.7:9601", NULL, "Bearer sesamee", 401},
        {ACTION, "10.0.0.7:9601", NULL, "Bearer ", 401},
        {ACTION, "10.0.0.7:9601", NULL, "Bearer", 401},
        {ACTION, "10.0.0.7:9601", NULL, "Basic sesame", 401},
        {ACTION, "10.0.0.7:9601", NULL, "sesame", 401},
    };
    assert_rows(&rule, rows, ARRAY_LEN(rows));
}

/* No token is no password, not an empty one. */
static void test_outside_without_a_token(void **state)
{
    (void)state;
    const struct access_rule rule = {.door = ACCESS_OUTSIDE, .host = "0.0.0.0"};
    const struct row rows[] = {
        {OPEN_PAGE, "10.0.0.7:9601", NULL, NULL, 0},
        {PAGE, "10.0.0.7:9601", NULL, NULL, 403},
        {ACTION, "10.0.0.7:9601", NULL, "Bearer ", 403},
        {ACTION, "10.0.0.7:9601", NULL, "Bearer x", 403},
    };
    assert_rows(&rule, rows, ARRAY_LEN(rows));
}

static void test_loopback_addresses(void **state)
{
    (void)state;
    assert_true(access_is_loopback("127.0.0.1"));
    assert_true(access_is_loopback("127.255.3.4"));
    assert_true(access_is_loopback("::1"));
    assert_true(access_is_loopback("::ffff:127.0.0.1"));
    assert_false(access_is_loopback("0.0.0.0"));
    assert_false(access_is_loopback("::"));
    assert_false(access_is_loopback("128.0.0.1"));
    assert_false(access_is_loopback("::ffff:10.0.0.1"));
    assert_false(access_is_loopback("localhost.evil.example"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unix_socket),          cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_outside_with_a_token), cmocka_unit_test(test_outside_without_a_token),
        cmocka_unit_test(test_loopback_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
