/* SPDX-License-Identifier: MIT */
/* What carpool says in RESP, byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proxy/wire/redis_write.h"

static uint8_t room[1024];
static struct redis_out out;

static int fresh(void **state)
{
    (void)state;
    out = redis_out_of(room, sizeof room);
    return 0;
}

static void assert_wrote(const char *expected)
{
    assert_false(out.overflow);
    assert_int_equal(out.n, strlen(expected));
    assert_memory_equal(out.p, expected, strlen(expected));
    out.n = 0;
}

static void test_values(void **state)
{
    (void)state;
    redis_put_ok(&out);
    redis_put_simple(&out, "PONG");
    redis_put_int(&out, -9223372036854775807 - 1);
    redis_put_bulk(&out, SPAN_LIT("a\r\nb"));
    redis_put_bulk(&out, (struct span){0});
    assert_wrote("+OK\r\n+PONG\r\n:-9223372036854775808\r\n$4\r\na\r\nb\r\n$0\r\n\r\n");
    redis_put_null(&out, 2);
    redis_put_null(&out, 3);
    redis_put_null_array(&out, 2);
    redis_put_null_array(&out, 3);
    assert_wrote("$-1\r\n_\r\n*-1\r\n_\r\n");
    redis_put_array(&out, 2);
    redis_put_map(&out, 2, 2);
    redis_put_map(&out, 2, 3);
    assert_wrote("*2\r\n*4\r\n%2\r\n");
    redis_put_command(&out, (struct span[]){SPAN_LIT("GET"), SPAN_LIT("k")}, 2);
    assert_wrote("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
}

static void test_errors(void **state)
{
    (void)state;
    struct err err;
    redis_put_refusal(&out, CAUSE_ACQUIRE_TIMEOUT, "no server within 3s");
    assert_wrote("-ERR carpool: acquire_timeout no server within 3s\r\n");
    err_set(&err, CAUSE_BREAKER_OPEN, STAGE_WAIT, 0, "the breaker is open");
    redis_put_err(&out, &err);
    assert_wrote("-ERR carpool: breaker_open the breaker is open\r\n");
    err_set(&err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "Protocol error: invalid bulk length");
    redis_put_protocol_error(&out, &err);
    assert_wrote("-ERR Protocol error: invalid bulk length (carpool: client_protocol)\r\n");
}

/* Whoever chose the text must not write the next reply. */
static void test_error_is_one_line(void **state)
{
    (void)state;
    redis_put_error(&out, SPAN_LIT("ERR a\r\n+OK\r\n"));
    assert_wrote("-ERR a  +OK  \r\n");
    redis_put_errorf(&out, "ERR unknown '%s'", "x\r\n:1");
    assert_wrote("-ERR unknown 'x  :1'\r\n");
}

static void test_overflow_writes_nothing(void **state)
{
    (void)state;
    out.cap = 12;
    redis_put_ok(&out);
    redis_put_bulk(&out, SPAN_LIT("abc"));
    assert_true(out.overflow);
    assert_int_equal(out.n, 5);
    redis_put_ok(&out); /* would fit; but something before it is missing */
    assert_int_equal(out.n, 5);
    fresh(NULL);
    out.cap = 20;
    redis_put_command(&out, (struct span[]){SPAN_LIT("GET"), SPAN_LIT("key")}, 2);
    assert_true(out.overflow);
    assert_int_equal(out.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_values, fresh),
        cmocka_unit_test_setup(test_errors, fresh),
        cmocka_unit_test_setup(test_error_is_one_line, fresh),
        cmocka_unit_test_setup(test_overflow_writes_nothing, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
