/* SPDX-License-Identifier: MIT */
/* What a statement leaves behind, by its words. */
#include "proxy/wire/postgres_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static void test_traces(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum pg_leaves leaves;
        bool set;
        const char *name;
    } rows[] = {
        {"", PG_LEAVES_NOTHING, false, ""},
        {"SELECT 1", PG_LEAVES_NOTHING, false, ""},
        {"set work_mem = '5MB'", PG_LEAVES_SETTING, true, "work_mem"},
        {"SET SESSION work_mem TO 5", PG_LEAVES_SETTING, true, "work_mem"},
        {"set app.tenant='x'", PG_LEAVES_SETTING, true, "app.tenant"},
        {"/* a */ Set -- b\n x=1", PG_LEAVES_SETTING, true, "x"},
        {"SET TIME ZONE 'UTC'", PG_LEAVES_SETTING, true, "TimeZone"},
        {"SET NAMES 'UTF8'", PG_LEAVES_SETTING, true, "client_encoding"},
        {"SET ROLE nobody", PG_LEAVES_SETTING, true, "role"},
        {"SET SCHEMA 'x'", PG_LEAVES_SETTING, true, "search_path"},
        {"SET LOCAL work_mem = 5", PG_LEAVES_NOTHING, true, ""},
        {"SET TRANSACTION READ ONLY", PG_LEAVES_NOTHING, true, ""},
        {"SET CONSTRAINTS ALL DEFERRED", PG_LEAVES_NOTHING, true, ""},
        {"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", PG_LEAVES_CHARACTERISTICS, true,
         ""},
        {"SET SESSION AUTHORIZATION x", PG_LEAVES_SETTINGS, true, ""},
        {"SET \"Odd\" = 1", PG_LEAVES_SETTINGS, true, ""},
        {"SET work_mem TO DEFAULT", PG_LEAVES_RESET, true, "work_mem"},
        {"SET TIME ZONE LOCAL", PG_LEAVES_RESET, true, "TimeZone"},
        {"RESET ALL", PG_LEAVES_RESET, false, ""},
        {"reset work_mem;", PG_LEAVES_RESET, false, "work_mem"},
        {"RESET TIME ZONE", PG_LEAVES_RESET, false, "TimeZone"},
        {"RESET a; SELECT 1", PG_LEAVES_RESET, false, "a"},
        {"SETTLE", PG_LEAVES_NOTHING, false, ""},
        {"CREATE TEMP TABLE t (a int)", PG_LEAVES_TEMPORARY, false, ""},
        {"create or replace temporary view v as select 1", PG_LEAVES_TEMPORARY, false, ""},
        {"CREATE LOCAL TEMPORARY TABLE t (a int) ON COMMIT DELETE ROWS", PG_LEAVES_TEMPORARY, false,
         ""},
        {"CREATE TEMP TABLE t (a int) ON COMMIT DROP", PG_LEAVES_NOTHING, false, ""},
        {"CREATE TABLE temp (a int)", PG_LEAVES_NOTHING, false, ""},
        {"DECLARE c CURSOR WITH HOLD FOR SELECT 1", PG_LEAVES_CURSOR, false, "c"},
        {"declare \"a b\" no scroll cursor with hold for select 1", PG_LEAVES_CURSOR, false,
         "\"a b\""},
        {"DECLARE c CURSOR FOR SELECT 'WITH HOLD'", PG_LEAVES_NOTHING, false, ""},
        {"select pg_advisory_lock(1)", PG_LEAVES_LOCK, false, ""},
        {"select pg_try_advisory_lock_shared(1)", PG_LEAVES_LOCK, false, ""},
        {"select pg_advisory_xact_lock(1)", PG_LEAVES_NOTHING, false, ""},
        {"select set_config('a.b', $1, false)", PG_LEAVES_SETTING, false, "a.b"},
        {"select set_config('a.b', $1, true)", PG_LEAVES_NOTHING, false, ""},
        {"select set_config($1, $2, $3)", PG_LEAVES_SETTINGS, false, ""},
        {"LOAD 'x'", PG_LEAVES_LIBRARY, false, ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pg_trace t = pg_text_trace(span_str(rows[i].text));
        if (t.leaves != rows[i].leaves || t.set != rows[i].set ||
            !span_eq(t.name, span_str(rows[i].name)))
            fail_msg("%s: leaves %d set %d name \"%.*s\"", rows[i].text, t.leaves, t.set,
                     (int)t.name.n, (const char *)t.name.p);
    }
}

/* A text with its NUL, as it comes in a Query; without it the end is not known. */
static void test_ends(void **state)
{
    (void)state;
    const unsigned prepared = PG_LEFT(PREPARED) | PG_LEFT(STATEMENT);
    const struct {
        const char *text;
        unsigned ends;
        const char *name;
    } rows[] = {
        {"UNLISTEN *", PG_LEFT(LISTEN), ""},
        {" ; unlisten/**/* -- all\n;", PG_LEFT(LISTEN), ""},
        {"unlisten *; listen a", PG_LEFT(LISTEN), ""},
        {"UNLISTEN a", 0, ""},
        {"unlisten * a", 0, ""},
        {"CLOSE ALL", PG_LEFT(CURSOR), ""},
        {"close Ab ;", PG_LEFT(CURSOR), "Ab"},
        {"close \"a;b\"", PG_LEFT(CURSOR), "\"a;b\""},
        {"close a b", 0, "a"},
        {"DEALLOCATE ALL", prepared, ""},
        {"deallocate prepare all", prepared, ""},
        {"deallocate a", 0, ""},
        {"DISCARD TEMP", PG_LEFT(TEMPORARY), ""},
        {"discard temporary", PG_LEFT(TEMPORARY), ""},
        {"discard plans", PG_LEFT(NOTHING), ""},
        {"discard all", 0, ""},
        {"select pg_advisory_unlock_all()", PG_LEFT(LOCK), ""},
        {"SELECT pg_catalog . pg_advisory_unlock_all ( ) ;", PG_LEFT(LOCK), ""},
        {"select pg_advisory_unlock_all() where false", 0, ""},
        {"select pg_advisory_unlock_all(), 1", 0, ""},
        {"select other.pg_advisory_unlock_all()", 0, ""},
        {"RESET ALL", PG_LEFT(NOTHING), ""},
        {"reset all; select 1", PG_LEFT(NOTHING), ""},
        {"select 1", 0, ""},
        {"", 0, ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t n = strlen(rows[i].text);
        struct pg_trace t = pg_text_trace(span_of(rows[i].text, n + 1));
        if (t.ends != rows[i].ends || !span_eq(t.name, span_str(rows[i].name)))
            fail_msg("%s: ends %x name \"%.*s\"", rows[i].text, t.ends, (int)t.name.n,
                     (const char *)t.name.p);
        assert_int_equal(t.empty, n == 0);
        t = pg_text_trace(span_of(rows[i].text, n));
        assert_int_equal(t.ends, 0);
        assert_false(t.empty);
    }
}

static void test_what_texts_are_read_by(void **state)
{
    (void)state;
    assert_true(pg_text_trace(SPAN_LIT("set array_nulls = off")).parses);
    assert_true(pg_text_trace(SPAN_LIT("set local Transform_Null_Equals to on")).parses);
    assert_true(pg_text_trace(SPAN_LIT("set local xml option document")).parses);
    assert_true(pg_text_trace(SPAN_LIT("set lc_monetary to default")).parses);
    assert_true(pg_text_trace(SPAN_LIT("reset backslash_quote")).parses);
    assert_true(pg_text_trace(SPAN_LIT("reset all")).parses);
    assert_true(pg_text_trace(SPAN_LIT("select set_config('array_nulls', 'off', true)")).parses);
    assert_false(pg_text_trace(SPAN_LIT("set local statement_timeout = 1")).parses);
    assert_false(pg_text_trace(SPAN_LIT("reset work_mem")).parses);
    assert_false(pg_text_trace(SPAN_LIT("select 'array_nulls'")).parses);
}

static void test_next_statement(void **state)
{
    (void)state;
    static const struct {
        const char *text, *next;
    } rows[] = {
        {"select 1", NULL},
        {"select 1;", NULL},
        {"select 1; ; -- end", NULL},
        {"select 1; select 2", "select 2"},
        {"select ';'; x", "x"},
        {"select 'it''s ;' ; x", "x"},
        {"select e'\\';' ; x", "x"},
        {"select '\\'; x", "x"},
        {"select \"a;b\"; x", "x"},
        {"select $$;$$; x", "x"},
        {"select $a$;$$;$a$; x", "x"},
        {"select $1; x", "x"},
        {"select $q1$it's$q1$; x", "x"},
        {"select $b1$;$b1$; x", "x"},
        {"select a$b$; x", "x"}, /* a word */
        {"select 1$$;$$; x", "x"},
        {"select date '\\'; x", "x"}, /* no E */
        {"select e'a''\\';' ; x", "x"},
        {"select /* ; /* ; */ ; */ 1; x", "x"},
        {"select 1 -- ;\n; x", "x"},
        {"select 'never ends ; x", NULL},
        {"select $a$ never ends ; x", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct span text = span_str(rows[i].text);
        bool more = pg_text_next(&text);
        if (more != (rows[i].next != NULL) || (more && !span_eq(text, span_str(rows[i].next))))
            fail_msg("%s: %d \"%.*s\"", rows[i].text, more, (int)text.n, (const char *)text.p);
    }
}

static void test_drops(void **state)
{
    (void)state;
    static const struct {
        const char *text, *name;
        enum pg_drops what;
    } rows[] = {
        {"DEALLOCATE a", "a", PG_DROPS_ONE},
        {"deallocate prepare Ab;", "Ab", PG_DROPS_ONE},
        {"deallocate \"A \"\"b\" -- that", "\"A \"\"b\"", PG_DROPS_ONE},
        {"deallocate all", "", PG_DROPS_ALL},
        {"deallocate prepare all;", "", PG_DROPS_ALL},
        {"/* now */ discard all", "", PG_DROPS_ALL},
        {"discard all plans", "", PG_DROPS_NONE},
        {"discard plans", "", PG_DROPS_NONE},
        {"deallocate all a", "", PG_DROPS_NONE},
        {"deallocate \"all\"", "\"all\"", PG_DROPS_ONE},
        {"deallocate a; select 1", "a", PG_DROPS_ONE},
        {"deallocate a b", "", PG_DROPS_NONE},
        {"deallocate", "", PG_DROPS_NONE},
        {"deallocate \"a", "", PG_DROPS_NONE},
        {"deallocate 1", "", PG_DROPS_NONE},
        {"select 1", "", PG_DROPS_NONE},
        {"deallocate a123456789b123456789c123456789d123456789e123456789f123456789g123", "",
         PG_DROPS_NONE}, /* longer than the server's names are */
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct span name = {0}, text = span_str(rows[i].text);
        enum pg_drops what = pg_text_drops(text, &name);
        bool one = what == PG_DROPS_ONE;
        if (what != rows[i].what || (one && !span_eq(name, span_str(rows[i].name))))
            fail_msg("%s: %d \"%.*s\"", rows[i].text, what, (int)name.n, (const char *)name.p);
        assert_true(what == PG_DROPS_NONE || pg_text_trace(text).drops);
    }
}

static void test_dated(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool dated;
    } rows[] = {
        {"select 'now'::timestamptz", true},
        {"select * from t where due < 'today'", true},
        {"select date ' Tomorrow'", true},
        {"select 'a', timestamp 'YESTERDAY 12:00'", true},
        {"select now(), today from t", false},
        {"select 'nowhere', 'todays', 'yes'", false},
        {"select 'now", false}, /* cut off */
        {"select '", false},
        {"", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (pg_text_dated(span_str(rows[i].text)) != rows[i].dated)
            fail_msg("%s", rows[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traces),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_what_texts_are_read_by),
        cmocka_unit_test(test_next_statement),
        cmocka_unit_test(test_drops),
        cmocka_unit_test(test_dated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
