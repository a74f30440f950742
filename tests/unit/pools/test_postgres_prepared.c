/* SPDX-License-Identifier: MIT */
/* Which statements a server has: what counts when, and what goes when there are too many. */
#include "pools/postgres_prepared.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static struct pg_statement_key key(uint8_t n)
{
    return (struct pg_statement_key){.digest = {n}};
}

static struct pg_prepared *add_ready(struct pg_prepared_cache **c, uint8_t n, uint32_t batch)
{
    struct pg_statement_key k = key(n);
    struct pg_prepared *p = pg_prepared_add(c, &k, 10, batch);
    assert_non_null(p);
    pg_prepared_settle(*c, p->number, true);
    return p;
}

static struct pg_prepared *find(struct pg_prepared_cache *c, uint8_t n, uint32_t batch)
{
    struct pg_statement_key k = key(n);
    return pg_prepared_find(c, &k, batch, 0);
}

static void test_counts_for_its_batch_until_confirmed(void **state)
{
    (void)state;
    struct pg_prepared_cache *c = NULL;
    struct pg_statement_key k = key(1);
    assert_null(pg_prepared_find(c, &k, 0, 0));
    struct pg_prepared *p = pg_prepared_add(&c, &k, 10, 7);
    uint32_t first = p->number;
    assert_ptr_equal(find(c, 1, 7), p);
    assert_null(find(c, 1, 8));
    struct pg_prepared *again = pg_prepared_add(&c, &k, 10, 8); /* under another name */
    assert_int_not_equal(again->number, first);
    pg_prepared_settle(c, first, true);
    assert_ptr_equal(find(c, 1, 9), p);
    pg_prepared_settle(c, again->number, false); /* discarded: it is gone */
    assert_int_equal(pg_prepared_count(c), 1);
    pg_prepared_free(&c);
    assert_null(c);
}

static void test_other_settings_and_editions_are_others(void **state)
{
    (void)state;
    struct pg_prepared_cache *c = NULL;
    add_ready(&c, 1, 0);
    struct pg_statement_key zone = key(1), edition = key(1);
    zone.settings = 5;
    edition.edition = 1;
    assert_non_null(find(c, 1, 1));
    assert_null(pg_prepared_find(c, &zone, 1, 0));
    assert_null(pg_prepared_find(c, &edition, 1, 0));
    pg_prepared_free(&c);
}

static void test_the_longest_unused_goes(void **state)
{
    (void)state;
    struct pg_prepared_cache *c = NULL;
    for (uint8_t n = 1; n <= 4; n++)
        add_ready(&c, n, n);
    assert_null(pg_prepared_surplus(c, 4, 1000, 9));
    assert_non_null(find(c, 1, 5)); /* used: 2 is the oldest now */
    struct pg_prepared *p = pg_prepared_surplus(c, 3, 1000, 9);
    assert_int_equal(p->key.digest[0], 2);
    assert_null(find(c, 2, 9)); /* being closed */
    pg_prepared_settle(c, p->number, true);
    assert_int_equal(pg_prepared_count(c), 3);
    p = pg_prepared_surplus(c, 2, 1000, 9);
    assert_int_equal(p->key.digest[0], 3);
    pg_prepared_settle(c, p->number, false); /* the Close was discarded: it is still there */
    assert_ptr_equal(find(c, 3, 9), p);
    pg_prepared_free(&c);
}

static void test_what_the_batch_uses_stays(void **state)
{
    (void)state;
    struct pg_prepared_cache *c = NULL;
    add_ready(&c, 1, 3);
    struct pg_statement_key k = key(2);
    assert_non_null(pg_prepared_add(&c, &k, 10, 3)); /* not confirmed */
    assert_null(pg_prepared_surplus(c, 0, 1000, 3));
    assert_int_equal(pg_prepared_surplus(c, 0, 1000, 4)->key.digest[0], 1);
    pg_prepared_free(&c);
}

static void count(const struct pg_prepared *p, void *arg)
{
    assert_true(p->stale);
    ++*(int *)arg;
}

static void test_stale_ones_go_first(void **state)
{
    (void)state;
    struct pg_prepared_cache *c = NULL;
    int told = 0;
    add_ready(&c, 1, 1);
    add_ready(&c, 2, 5);
    add_ready(&c, 3, 6);
    pg_prepared_unsettled(c, 5, count, &told);
    assert_int_equal(told, 2);
    assert_null(find(c, 2, 7));
    assert_null(find(c, 3, 7));
    assert_non_null(find(c, 1, 7));
    for (int i = 0; i < 2; i++) { /* though there is room */
        struct pg_prepared *p = pg_prepared_surplus(c, 100, 1000, 8);
        assert_non_null(p);
        assert_int_not_equal(p->key.digest[0], 1);
        pg_prepared_settle(c, p->number, true);
    }
    assert_null(pg_prepared_surplus(c, 100, 1000, 8));
    pg_prepared_free(&c);
}

static void test_forgetting_spares_what_comes_later(void **state)
{
    (void)state;
    struct pg_prepared_cache *c = NULL;
    pg_prepared_forget(c, UINT32_MAX);
    add_ready(&c, 1, 1);
    struct pg_statement_key k = key(2);
    struct pg_prepared *later = pg_prepared_add(&c, &k, 10, 1);
    uint32_t last = pg_prepared_last(c);
    add_ready(&c, 3, 1); /* sent behind DISCARD ALL, and looked for before that is answered */
    assert_null(pg_prepared_find(c, &k, 1, last));
    assert_non_null(find(c, 3, 1));
    pg_prepared_forget(c, last); /* it is; one of the Parses behind it is still to come */
    assert_null(find(c, 1, 1));
    assert_non_null(find(c, 3, 1));
    pg_prepared_settle(c, later->number, true);
    assert_ptr_equal(find(c, 2, 2), later);
    pg_prepared_free(&c);
}

static void test_names(void **state)
{
    (void)state;
    char name[PG_PREPARED_NAME];
    assert_int_equal(pg_prepared_name(0, name), 4);
    assert_string_equal(name, "cp_0");
    assert_int_equal(pg_prepared_name(UINT32_MAX, name), 13);
    assert_string_equal(name, "cp_4294967295");
}

/* Long texts fill it before many statements do; what is being closed counts no more. */
static void test_texts_have_a_bound(void **state)
{
    (void)state;
    struct pg_prepared_cache *c = NULL;
    for (uint8_t n = 1; n <= 4; n++)
        add_ready(&c, n, n);
    assert_null(pg_prepared_surplus(c, 100, 40, 9));
    struct pg_prepared *p = pg_prepared_surplus(c, 100, 29, 9);
    assert_int_equal(p->key.digest[0], 1);
    struct pg_prepared *next = pg_prepared_surplus(c, 100, 29, 9);
    assert_int_equal(next->key.digest[0], 2);
    assert_null(pg_prepared_surplus(c, 100, 29, 9));
    pg_prepared_settle(c, p->number, false); /* the Close was discarded: it counts again */
    assert_ptr_equal(pg_prepared_surplus(c, 100, 29, 9), p);
    pg_prepared_settle(c, p->number, true);
    pg_prepared_settle(c, next->number, true);
    assert_int_equal(pg_prepared_count(c), 2);
    pg_prepared_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_for_its_batch_until_confirmed),
        cmocka_unit_test(test_other_settings_and_editions_are_others),
        cmocka_unit_test(test_the_longest_unused_goes),
        cmocka_unit_test(test_what_the_batch_uses_stays),
        cmocka_unit_test(test_stale_ones_go_first),
        cmocka_unit_test(test_forgetting_spares_what_comes_later),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_texts_have_a_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
