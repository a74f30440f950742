/* SPDX-License-Identifier: MIT */
/* Maps of run-time parameters: what is found again, what is bounded, what counts as the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "pools/postgres_params.h"

#include <cmocka.h>

#define S(text) SPAN_LIT(text)

static void set(struct pg_params **p, const char *name, const char *value)
{
    assert_true(pg_params_set(p, span_str(name), span_str(value)));
}

static void assert_is(const struct pg_params *p, const char *name, const char *value)
{
    struct span found;
    assert_true(pg_params_get(p, span_str(name), &found));
    assert_true(span_eq(found, span_str(value)));
}

static void finds_names_whatever_their_case(void **state)
{
    (void)state;
    struct pg_params *p = pg_params_new();
    struct span value;
    assert_false(pg_params_get(p, S("TimeZone"), &value));
    set(&p, "TimeZone", "UTC");
    set(&p, "application_name", "");
    assert_is(p, "timezone", "UTC");
    assert_is(p, "APPLICATION_NAME", "");
    set(&p, "TIMEZONE", "Europe/Vienna");
    assert_int_equal(pg_params_count(p), 2);
    assert_is(p, "TimeZone", "Europe/Vienna");
    struct span name;
    pg_params_at(p, 1, &name, &value);
    assert_true(span_eq(name, S("TimeZone"))); /* the first spelling stays */
    pg_params_drop(&p);
    assert_null(p);
    pg_params_drop(&p); /* nothing */
}

static void removes(void **state)
{
    (void)state;
    struct pg_params *p = pg_params_new(), *before = pg_params_take(p);
    struct span value;
    set(&p, "a", "1");
    set(&p, "b", "2");
    set(&p, "c", "3");
    assert_true(pg_params_set(&p, S("B"), span_of(NULL, 0)));
    assert_true(pg_params_set(&p, S("nothing"), span_of(NULL, 0)));
    assert_int_equal(pg_params_count(p), 2);
    assert_false(pg_params_get(p, S("b"), &value));
    assert_is(p, "a", "1");
    assert_is(p, "c", "3");
    assert_true(pg_params_set(&p, S("a"), span_of(NULL, 0)));
    assert_true(pg_params_set(&p, S("c"), span_of(NULL, 0)));
    assert_true(pg_params_same(p, before)); /* empty as at first */
    pg_params_drop(&p);
    pg_params_drop(&before);
}

static void shared_maps_do_not_change(void **state)
{
    (void)state;
    struct pg_params *mine = pg_params_new();
    set(&mine, "search_path", "a");
    struct pg_params *yours = pg_params_take(mine);
    assert_true(pg_params_same(mine, yours));
    set(&mine, "search_path", "b");
    assert_false(pg_params_same(mine, yours));
    assert_is(yours, "search_path", "a");
    set(&mine, "search_path", "b"); /* no change, no new map */
    set(&mine, "search_path", "a");
    assert_true(pg_params_same(mine, yours));
    struct snapshot *snap = snapshot_take(pg_params_snapshot(yours));
    struct pg_params *again = pg_params_of(snap);
    assert_ptr_equal(again, yours);
    pg_params_drop(&again);
    pg_params_drop(&yours);
    pg_params_drop(&mine);
}

static void sameness_ignores_order_and_what_clients_cannot_set(void **state)
{
    (void)state;
    struct pg_params *a = pg_params_new(), *b = pg_params_new();
    set(&a, "x", "1");
    set(&a, "y", "2");
    set(&b, "Y", "2");
    set(&b, "X", "1");
    assert_true(pg_params_same(a, b) && pg_params_report_same(a, b));
    set(&b, "server_version", "17.0");
    set(&b, "in_hot_standby", "off");
    assert_true(pg_params_same(a, b));
    assert_false(pg_params_report_same(a, b));
    set(&a, "In_Hot_Standby", "off");
    set(&a, "server_version", "17.0");
    set(&b, "z", "");
    assert_false(pg_params_same(a, b));
    assert_true(pg_params_report_same(a, b));
    set(&a, "server_version", "17.1");
    assert_false(pg_params_report_same(a, b));
    /* A byte that moves from one value to the next name makes another map. */
    struct pg_params *c = pg_params_new(), *d = pg_params_new();
    set(&c, "ab", "c");
    set(&d, "a", "bc");
    assert_false(pg_params_same(c, d));
    /* Values are compared as they are. */
    set(&c, "a", "X");
    set(&d, "ab", "c");
    assert_false(pg_params_same(c, d));
    pg_params_drop(&a);
    pg_params_drop(&b);
    pg_params_drop(&c);
    pg_params_drop(&d);
}

static void has_room_for_so_many_and_no_more(void **state)
{
    (void)state;
    struct pg_params *p = pg_params_new();
    char name[16];
    for (unsigned i = 0; i < PG_PARAMS_MAX; i++) {
        snprintf(name, sizeof name, "name%u", i);
        set(&p, name, name);
    }
    assert_false(pg_params_set(&p, S("one more"), S("")));
    assert_int_equal(pg_params_count(p), PG_PARAMS_MAX);
    for (unsigned i = 0; i < PG_PARAMS_MAX; i++) {
        snprintf(name, sizeof name, "name%u", i);
        assert_is(p, name, name);
    }
    /* What is there already can be changed in a full map. */
    set(&p, "name7", "another");
    assert_is(p, "name7", "another");
    assert_int_equal(pg_params_count(p), PG_PARAMS_MAX);
    pg_params_drop(&p);
}

static void has_room_for_so_many_bytes_and_no_more(void **state)
{
    (void)state;
    struct pg_params *p = pg_params_new();
    char *big = malloc(PG_PARAMS_BYTES);
    assert_non_null(big);
    memset(big, 'x', PG_PARAMS_BYTES);
    assert_false(pg_params_set(&p, S("a"), span_of(big, PG_PARAMS_BYTES)));
    assert_true(pg_params_set(&p, S("a"), span_of(big, PG_PARAMS_BYTES - 1)));
    assert_false(pg_params_set(&p, S("b"), S("")));
    struct span value;
    assert_true(pg_params_get(p, S("a"), &value));
    assert_int_equal(value.n, PG_PARAMS_BYTES - 1);
    /* Old bytes make room for new ones. */
    set(&p, "a", "small");
    assert_is(p, "a", "small");
    pg_params_drop(&p);
    free(big);
}

struct spelling {
    const char *name, *given, *known, *spelled;
};

static void spells_values_as_the_server_does(void **state)
{
    (void)state;
    static const struct spelling rows[] = {
        {"client_encoding", "utf-8", "UTF8", "UTF8"},
        {"client_encoding", "UTF8", "UTF8", "UTF8"},
        {"client_encoding", "'latin1'", "LATIN1", "LATIN1"},
        {"client_encoding", "LATIN1", "LATIN2", "LATIN1"},
        {"client_encoding", "UTF", "UTF8", "UTF"},
        {"client_encoding", "", "UTF8", ""},
        {"DateStyle", "ISO", "ISO, MDY", "ISO, MDY"},
        {"datestyle", "iso", "ISO, DMY", "ISO, DMY"},
        {"DateStyle", "ISO, DMY", "ISO, MDY", "ISO, DMY"},
        {"DateStyle", "German", "ISO, MDY", "German, DMY"},
        {"DateStyle", "german,mdy", "ISO, YMD", "German, MDY"},
        {"DateStyle", "sql", "ISO, YMD", "SQL, YMD"},
        {"DateStyle", " European , POSTGRESQL ", "ISO, MDY", "Postgres, DMY"},
        {"DateStyle", "us", "SQL, DMY", "SQL, MDY"},
        {"DateStyle", "NonEuropean", "ISO, DMY", "ISO, MDY"},
        {"DateStyle", "dmy", "?", "dmy"},
        {"DateStyle", "ISO, SQL", "ISO, MDY", "ISO, SQL"},
        {"DateStyle", "default", "ISO, MDY", "default"},
        {"DateStyle", "usa", "ISO, MDY", "usa"},
        {"DateStyle", "IS", "ISO, MDY", "IS"},
        {"DateStyle", "iso,", "ISO, MDY", "iso,"},
        {"DateStyle", "", "ISO, MDY", ""},
        {"application_name", "a", "a, b", "a"},
        {"application_name", "psql", "psql", "psql"},
        {"TimeZone", "utc", "UTC", "UTC"},
        {"TimeZone", "UTC+1", "UTC", "UTC+1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char buf[PG_PARAM_SPELLED];
        struct span got = pg_param_spelled(span_str(rows[i].name), span_str(rows[i].given),
                                           span_str(rows[i].known), buf);
        if (!span_eq(got, span_str(rows[i].spelled)))
            fail_msg("%s: %s where it was %s: %.*s", rows[i].name, rows[i].given, rows[i].known,
                     (int)got.n, (const char *)got.p);
    }
}

static void knows_what_only_the_server_reports(void **state)
{
    (void)state;
    assert_true(pg_param_reported_only(S("server_version")));
    assert_true(pg_param_reported_only(S("IN_HOT_STANDBY")));
    assert_false(pg_param_reported_only(S("search_path")));
    assert_false(pg_param_reported_only(S("server")));
    assert_false(pg_param_reported_only(S("")));
}

/* What is prepared under equal digests is shared: whatever changes the meaning of a text counts. */
static void planning_is_all_but_the_name_of_the_application(void **state)
{
    (void)state;
    static const char *const names[] = {
        "search_path", "role", "TimeZone", "client_encoding", "standard_conforming_strings",
        "my.own"};
    struct pg_params *a = pg_params_new(), *b = pg_params_new();
    set(&a, "application_name", "one");
    set(&b, "application_name", "two");
    set(&b, "server_version", "17.0");
    assert_false(pg_params_same(a, b));
    assert_true(pg_params_planning(a) == pg_params_planning(b));
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        set(&a, names[i], "x");
        if (pg_params_planning(a) == pg_params_planning(b))
            fail_msg("%s is as good as none", names[i]);
        set(&b, names[i], "X");
        if (pg_params_planning(a) == pg_params_planning(b))
            fail_msg("%s is as good as another", names[i]);
        set(&b, names[i], "x");
        if (pg_params_planning(a) != pg_params_planning(b))
            fail_msg("%s is not as good as the same", names[i]);
    }
    pg_params_drop(&a);
    pg_params_drop(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_names_whatever_their_case),
        cmocka_unit_test(removes),
        cmocka_unit_test(shared_maps_do_not_change),
        cmocka_unit_test(sameness_ignores_order_and_what_clients_cannot_set),
        cmocka_unit_test(planning_is_all_but_the_name_of_the_application),
        cmocka_unit_test(has_room_for_so_many_and_no_more),
        cmocka_unit_test(has_room_for_so_many_bytes_and_no_more),
        cmocka_unit_test(spells_values_as_the_server_does),
        cmocka_unit_test(knows_what_only_the_server_reports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
