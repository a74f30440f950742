/* SPDX-License-Identifier: MIT */
/* Statements are kept once, however many clients have them under however many names. */
#include "proxy/front/postgres_statements.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static struct span body(const char *text)
{
    return span_of(text, strlen(text) + 3); /* NUL and no types */
}

static void test_the_same_text_is_one_statement(void **state)
{
    (void)state;
    struct pg_statements *t = pg_statements_new();
    struct pg_statement *a = pg_statement_take(t, body("select 1\0\0\0"));
    struct pg_statement *b = pg_statement_take(t, body("select 1\0\0\0"));
    struct pg_statement *c = pg_statement_take(t, body("select 2\0\0\0"));
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, c);
    assert_false(a->commits);
    pg_statement_drop(&a);
    assert_int_equal(b->refs, 1);
    pg_statement_drop(&b);
    pg_statement_drop(&c);
    c = pg_statement_take(t, body("commit\0\0\0"));
    assert_true(c->commits);
    pg_statement_drop(&c);
    pg_statements_free(t); /* checks that none is left */
}

static void test_names_of_a_client(void **state)
{
    (void)state;
    struct pg_statements *t = pg_statements_new();
    struct pg_names *m = NULL;
    struct pg_statement *one = pg_statement_take(t, body("select 1\0\0\0"));
    struct pg_statement *two = pg_statement_take(t, body("select 2\0\0\0"));
    assert_null(pg_names_get(m, SPAN_LIT("a")));
    assert_true(pg_names_put(&m, SPAN_LIT("a"), one));
    assert_true(pg_names_put(&m, SPAN_LIT("b"), one));
    assert_true(pg_names_put(&m, SPAN_LIT("a"), two)); /* anew */
    assert_int_equal(pg_names_count(m), 2);
    assert_int_equal(pg_names_bytes(m), 2 + one->n + two->n);
    assert_ptr_equal(pg_names_get(m, SPAN_LIT("a")), two);
    assert_ptr_equal(pg_names_get(m, SPAN_LIT("b")), one);
    assert_null(pg_names_get(m, SPAN_LIT("A")));
    assert_true(span_eq(pg_names_find(m, two->digest), SPAN_LIT("a")));
    pg_names_outdate(m, two->digest);
    assert_int_equal(two->edition, 1);
    assert_int_equal(one->edition, 0);
    pg_names_remove(m, SPAN_LIT("a"));
    pg_names_remove(m, SPAN_LIT("nobody"));
    assert_int_equal(pg_names_bytes(m), 1 + one->n);
    pg_statement_drop(&one);
    pg_statement_drop(&two);
    pg_names_free(&m);
    assert_null(m);
    pg_statements_free(t);
}

static void test_many_names(void **state)
{
    (void)state;
    enum { MANY = 3000 };
    struct pg_statements *t = pg_statements_new();
    struct pg_names *m = NULL;
    char text[32];
    for (int i = 0; i < MANY; i++) {
        int n = snprintf(text, sizeof text, "select %d", i % 100);
        memset(text + n, 0, 3);
        struct pg_statement *st = pg_statement_take(t, span_of(text, (size_t)n + 3));
        n = snprintf(text, sizeof text, "name %d", i);
        assert_true(pg_names_put(&m, span_of(text, (size_t)n), st));
        pg_statement_drop(&st);
    }
    assert_int_equal(pg_names_count(m), MANY);
    for (int i = 0; i < MANY; i++) {
        int n = snprintf(text, sizeof text, "name %d", i);
        struct pg_statement *st = pg_names_get(m, span_of(text, (size_t)n));
        n = snprintf(text, sizeof text, "select %d", i % 100);
        assert_memory_equal(st->body, text, (size_t)n + 1);
        assert_int_equal(st->refs, MANY / 100);
    }
    pg_names_free(&m);
    pg_statements_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_text_is_one_statement),
        cmocka_unit_test(test_names_of_a_client),
        cmocka_unit_test(test_many_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
