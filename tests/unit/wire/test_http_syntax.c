/* SPDX-License-Identifier: MIT */
/* The byte classes against the grammar's own words, and the shapes made of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "proxy/wire/http_private.h"

static bool in(const char *set, int c)
{
    return c != 0 && strchr(set, c) != NULL;
}

static bool alnum(int c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static void test_classes_are_the_grammar(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        uint8_t got = http_classes[c];
        bool unreserved = alnum(c) || in("-._~", c);
        bool path = unreserved || in("!$&'()*+,;=:@/%[]", c);
        assert_int_equal(!!(got & HTTP_C_TOKEN), alnum(c) || in("!#$%&'*+-.^_`|~", c));
        assert_int_equal(!!(got & HTTP_C_VALUE), c == '\t' || (c >= 0x20 && c != 0x7f));
        assert_int_equal(!!(got & HTTP_C_PATH), path);
        assert_int_equal(!!(got & HTTP_C_QUERY), path || c == '?');
        assert_int_equal(!!(got & HTTP_C_HOST), unreserved || in("!$&'()*+;=%", c));
        assert_int_equal(!!(got & HTTP_C_HEX), in("0123456789abcdefABCDEF", c));
        assert_int_equal(!!(got & HTTP_C_DIGIT), in("0123456789", c));
        assert_int_equal(got & 0x80, 0);
    }
}

static void test_decimals(void **state)
{
    (void)state;
    uint64_t v = 7;
    assert_true(http_decimal(SPAN_LIT("0"), &v));
    assert_int_equal(v, 0);
    assert_true(http_decimal(SPAN_LIT("9223372036854775807"), &v));
    assert_true(v == INT64_MAX);
    static const char *const bad[] = {
        "", "00", "01", "+1", "-1", "1 ", "1.0", "9223372036854775808", "99999999999999999999"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(http_decimal(span_str(bad[i]), &v));
}

static void test_hosts(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host, *port;
    } good[] = {
        {"a", "a", ""},         {"a.b:1", "a.b", "1"},
        {"a:", "a", ""},        {"10.0.0.1:65535", "10.0.0.1", "65535"},
        {"[::1]", "[::1]", ""}, {"[fe80::1]:80", "[fe80::1]", "80"},
        {"a%41", "a%41", ""},   {"under_score", "under_score", ""},
    };
    static const char *const bad[] = {"",      ":1",      "a b",   "a,b",     "a/b",  "a@b",
                                      "a:b",   "a:65536", "a:1:2", "[::1",    "[]",   "[::1]x",
                                      "[g]:1", "a%4",     "a%zz",  "[::1%1]", "a\xff"};
    struct span host, port;
    bool has_port;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(http_host_split(span_str(good[i].text), &host, &port, &has_port));
        assert_true(span_eq(host, span_str(good[i].host)));
        assert_true(span_eq(port, span_str(good[i].port)));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(http_host_split(span_str(bad[i]), &host, &port, &has_port));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes_are_the_grammar),
        cmocka_unit_test(test_decimals),
        cmocka_unit_test(test_hosts),
    };
    return cmocka_run_group_tests_name("http_syntax", tests, NULL, NULL);
}
