/* SPDX-License-Identifier: MIT */
/* Names by number: each once, gone with the last who has it, their places used again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/front/postgres_users.h"

#include <cmocka.h>

static struct span nth(char buf[16], unsigned i)
{
    return span_of(buf, (size_t)snprintf(buf, 16, "user%u", i));
}

static void a_name_is_kept_once(void **state)
{
    (void)state;
    struct pg_users *t = NULL;
    uint32_t app = pg_user_take(&t, SPAN_LIT("app")), other = pg_user_take(&t, SPAN_LIT("other"));
    assert_int_not_equal(app, 0);
    assert_int_not_equal(app, other);
    assert_int_equal(pg_user_take(&t, SPAN_LIT("app")), app);
    pg_user_drop(t, app);
    assert_true(span_eq(pg_user_of(t, app), SPAN_LIT("app"))); /* somebody else has it */
    assert_true(span_eq(pg_user_of(t, other), SPAN_LIT("other")));
    assert_int_equal(pg_user_of(t, 0).n, 0);
    pg_user_drop(t, app);
    assert_int_equal(pg_user_take(&t, SPAN_LIT("third")), app); /* its place */
    pg_user_drop(t, app);
    pg_user_drop(t, other);
    pg_user_drop(t, 0);
    pg_users_free(t);
    pg_users_free(NULL);
}

static void many_come_and_go(void **state)
{
    (void)state;
    enum { MANY = 2000 };
    struct pg_users *t = NULL;
    uint32_t number[MANY];
    char buf[16];
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < MANY; i++)
            number[i] = pg_user_take(&t, nth(buf, i));
        for (unsigned i = 0; i < MANY; i++)
            assert_true(span_eq(pg_user_of(t, number[i]), nth(buf, i)));
        for (unsigned i = 0; i < MANY; i++) {
            unsigned j = (i * 7 + round) % MANY; /* in another order than they came */
            assert_in_range(number[j], 1, MANY);
            pg_user_drop(t, number[j]);
        }
    }
    pg_users_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_kept_once),
        cmocka_unit_test(many_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
