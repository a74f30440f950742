/* SPDX-License-Identifier: MIT */
/*
 * Rows: what is accepted, what is refused with which sentence, and that printing is parsing undone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proxy/core/schema.h"

enum colour { RED, GREEN, BLUE };
static const char *const colours[] = {"red", "green", "blue", NULL};

struct sample {
    bool flag;
    uint32_t count, cpus, share;
    uint64_t wait, from, to, bytes;
    const char *text, *secret, *free_text;
    enum colour colour, choice;
};

static const struct schema_row rows[] = {
    ROW(sample, flag, "flag", BOOL, "false", 0, 0, RELOADS, "a flag"),
    ROW(sample, count, "count", COUNT, "3", 2, 50, RELOADS, "a count", .zero_ok = true,
        .def[2] = "7"),
    ROW(sample, cpus, "cpus", COUNT_AUTO, "1", 1, 64, NEEDS_RESTART, "cpus"),
    ROW(sample, share, "share", PERCENT, "20%", 10, 100, RELOADS, "a share"),
    ROW(sample, wait, "wait", DURATION, "30s", 10, 3600000, NEW_CONNECTIONS, "a wait"),
    ROW_RANGE(sample, from, to, "range", "25ms..250ms", 1, 60000, RELOADS, "a range"),
    ROW(sample, bytes, "bytes", SIZE, "256KiB", 1024, 1048576, RELOADS, "bytes"),
    ROW(sample, text, "text", STRING, NULL, 0, 5, RELOADS, "text"),
    ROW(sample, secret, "secret", SECRET, NULL, 0, 0, RELOADS, "secret"),
    ROW_ENUM(sample, colour, "colour", colours, "green", RELOADS, "colour", .only = 1u << 1),
    ROW_ENUM_OR_TEXT(sample, choice, free_text, "choice", colours, "red", RELOADS, "choice"),
    ROW_OWN("own", LIST, "described", RELOADS, "not filled here"),
};
static const struct schema_table table = {
    .key = "sample", .rows = rows, .n_rows = ARRAY_LEN(rows), .help = "a sample"};

/* Text is kept by a keeper that can be told to run out of memory. */
struct keeper {
    struct schema_keep keep;
    char *kept[64];
    size_t n;
    bool empty;
};

static char *keeper_copy(struct schema_keep *keep, struct span text)
{
    struct keeper *k = OWNER(keep, struct keeper, keep);
    if (k->empty)
        return NULL;
    assert_true(k->n < ARRAY_LEN(k->kept));
    return k->kept[k->n++] = strndup((const char *)text.p, text.n);
}

static void keeper_fini(struct keeper *k)
{
    while (k->n > 0)
        free(k->kept[--k->n]);
}

static const struct schema_row *row(const char *key)
{
    const struct schema_row *r = schema_find(&table, span_str(key));
    assert_non_null(r);
    return r;
}

static void test_values_are_read_and_printed(void **state)
{
    (void)state;
    static const struct {
        const char *key, *text, *printed;
    } cases[] = {
        {"flag", "true", "true"},
        {"flag", "No", "false"},
        {"flag", "on", "true"},
        {"count", "2", "2"},
        {"count", "50", "50"},
        {"count", "0", "0"},
        {"count", "007", "7"},
        {"cpus", "auto", "auto"},
        {"cpus", "64", "64"},
        {"share", "10%", "10%"},
        {"share", "100%", "100%"},
        {"wait", "10ms", "10ms"},
        {"wait", "90s", "1m30s"},
        {"wait", "1m30s", "1m30s"},
        {"wait", "1h", "1h"},
        {"wait", "1500ms", "1s500ms"},
        {"range", "1s..30s", "1s..30s"},
        {"range", "5s", "5s"},
        {"range", "5s..5s", "5s"},
        {"bytes", "1KiB", "1KiB"},
        {"bytes", "1MiB", "1MiB"},
        {"bytes", "2KB", "2000B"},
        {"bytes", "2048B", "2KiB"},
        {"text", "a b", "a b"},
        {"text", "", ""},
        {"secret", "hunter2", "***"},
        {"secret", "", ""},
        {"colour", "blue", "blue"},
        {"choice", "green", "green"},
        {"choice", "DISCARD ALL", "DISCARD ALL"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct keeper k = {.keep.copy = keeper_copy};
        struct sample s = {0};
        struct err err;
        char buf[64];
        struct span text = span_str(cases[i].text);
        if (!schema_set(row(cases[i].key), &s, text, text, &k.keep, &err))
            fail_msg("%s: '%s' is refused: %s", cases[i].key, cases[i].text, err.note);
        assert_string_equal(schema_text(row(cases[i].key), &s, buf, sizeof buf), cases[i].printed);
        keeper_fini(&k);
    }
}

static void test_printed_values_are_read_again(void **state)
{
    (void)state;
    static const uint64_t values[] = {10, 999, 1000, 59999, 60000, 61001, 3599999, 3600000};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        char buf[64];
        uint64_t again = 0;
        schema_duration_text(values[i], buf, sizeof buf);
        assert_true(schema_parse_duration(span_str(buf), &again));
        assert_true(again == values[i]);
        schema_size_text(values[i], buf, sizeof buf);
        assert_true(schema_parse_size(span_str(buf), &again));
        assert_true(again == values[i]);
    }
}

static void test_wrong_values_say_what_to_write(void **state)
{
    (void)state;
    static const struct {
        const char *key, *text, *note;
    } cases[] = {
        {"flag", "maybe", "'maybe' is no yes or no: write true or false"},
        {"flag", "", "'' is no yes or no: write true or false"},
        {"count", "1", "'1' is out of range: write 2 to 50, or 0"},
        {"count", "51", "'51' is out of range: write 2 to 50, or 0"},
        {"count", "-3", "'-3' is no count: write a whole number"},
        {"count", "3.5", "'3.5' is no count: write a whole number"},
        {"count", " 3", "' 3' is no count: write a whole number"},
        {"count", "99999999999999999999",
         "'99999999999999999999' is no count: write a whole number"},
        {"count", "4294967298", "'4294967298' is out of range: write 2 to 50, or 0"},
        {"cpus", "0", "'0' is out of range: write 1 to 64"},
        {"cpus", "all", "'all' is no count: write a whole number or auto"},
        {"share", "20", "'20' is no percentage: write a whole number with its sign, like 20%"},
        {"share", "%", "'%' is no percentage: write a whole number with its sign, like 20%"},
        {"share", "101%", "'101%' is out of range: write 10% to 100%"},
        {"share", "5%", "'5%' is out of range: write 10% to 100%"},
        {"wait", "30", "'30' has no unit: write 30s or 30ms"},
        {"wait", "30S",
         "'30S' is no duration: write numbers with units, like 250ms, 30s, 1m30s, 2h"},
        {"wait", "s", "'s' is no duration: write numbers with units, like 250ms, 30s, 1m30s, 2h"},
        {"wait", "1.5s",
         "'1.5s' is no duration: write numbers with units, like 250ms, 30s, 1m30s, 2h"},
        {"wait", "3w", "'3w' is no duration: write numbers with units, like 250ms, 30s, 1m30s, 2h"},
        {"wait", "300000000000d",
         "'300000000000d' is no duration: write numbers with units, like 250ms, 30s, 1m30s, 2h"},
        {"wait", "0", "'0' is out of range: write 10ms to 1h"},
        {"wait", "61m", "'61m' is out of range: write 10ms to 1h"},
        {"range", "2s..1s", "'2s..1s' is no range of durations: write the smaller one first"},
        {"range", "1s..",
         "'1s..' is no range of durations: write two with dots between, like 25ms..250ms"},
        {"range", "1s-2s",
         "'1s-2s' is no range of durations: write two with dots between, like 25ms..250ms"},
        {"range", "0..1s", "'0..1s' is out of range: write 1ms to 1m"},
        {"bytes", "2000", "'2000' has no unit: write 2000B or 2000KiB"},
        {"bytes", "2k", "'2k' is no size: write a number with a unit, like 64KiB, 1MiB or 500B"},
        {"bytes", "1KiB1B",
         "'1KiB1B' is no size: write a number with a unit, like 64KiB, 1MiB or 500B"},
        {"bytes", "1GiB", "'1GiB' is out of range: write 1KiB to 1MiB"},
        {"text", "123456", "the text is 6 bytes long: write 0 to 5"},
        {"text", "a\nb", "the text holds a control character: write it without"},
        {"colour", "Green", "'Green' is none of red, green, blue: did you mean green?"},
        {"colour", "grene", "'grene' is none of red, green, blue: did you mean green?"},
        {"colour", "black hole", "'black hole' is none of red, green, blue: write one of them"},
        {"choice", "gren", "'gren' is none of red, green, blue: did you mean green?"},
        {"choice", "", "'' is none of red, green, blue: write one of them"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct keeper k = {.keep.copy = keeper_copy};
        struct sample s, before;
        memset(&s, 0x5a, sizeof s);
        memcpy(&before, &s, sizeof s);
        struct err err = {0};
        struct span text = span_str(cases[i].text);
        if (schema_set(row(cases[i].key), &s, text, text, &k.keep, &err))
            fail_msg("%s: '%s' is accepted", cases[i].key, cases[i].text);
        assert_string_equal(err.note, cases[i].note);
        assert_memory_equal(&s, &before, sizeof s);
        keeper_fini(&k);
    }
}

static void test_long_values_are_quoted_in_part(void **state)
{
    (void)state;
    struct keeper k = {.keep.copy = keeper_copy};
    struct sample s = {0};
    struct err err;
    char text[301];
    memset(text, 'x', 300);
    text[300] = 0;
    assert_false(schema_set(row("count"), &s, span_str(text), span_str(text), &k.keep, &err));
    assert_non_null(strstr(err.note, "...' is no count: write a whole number"));
}

static void test_messages_quote_what_was_typed_not_what_it_became(void **state)
{
    (void)state;
    struct keeper k = {.keep.copy = keeper_copy};
    struct sample s = {0};
    struct err err;
    assert_false(
        schema_set(row("count"), &s, span_str("hunter2"), span_str("${PASSWORD}"), &k.keep, &err));
    assert_string_equal(err.note, "'${PASSWORD}' is no count: write a whole number");
}

static void test_secrets_are_never_quoted(void **state)
{
    (void)state;
    struct keeper k = {.keep.copy = keeper_copy};
    struct sample s = {0};
    struct err err;
    assert_false(
        schema_set(row("secret"), &s, span_str("hun\nter2"), span_str("hun\nter2"), &k.keep, &err));
    assert_null(strstr(err.note, "hun"));
}

static void test_no_memory_is_an_error(void **state)
{
    (void)state;
    struct keeper k = {.keep.copy = keeper_copy, .empty = true};
    struct sample s = {0};
    struct err err;
    assert_false(schema_set(row("text"), &s, span_str("abc"), span_str("abc"), &k.keep, &err));
    assert_string_equal(err.note, "out of memory");
}

static void test_defaults_follow_the_variant(void **state)
{
    (void)state;
    struct keeper k = {.keep.copy = keeper_copy};
    for (unsigned variant = 0; variant < SCHEMA_VARIANTS; variant++) {
        struct sample s = {0};
        assert_true(schema_defaults(&table, variant, &s, &k.keep));
        assert_int_equal(s.count, variant == 2 ? 7 : 3);
        assert_int_equal(s.wait, 30000);
        assert_int_equal(s.from, 25);
        assert_int_equal(s.to, 250);
        assert_int_equal(s.bytes, 262144);
        assert_int_equal(s.colour, GREEN);
        assert_int_equal(s.choice, RED);
        assert_null(s.free_text);
        assert_null(s.text);
    }
    assert_false(schema_knows(row("colour"), 0));
    assert_true(schema_knows(row("colour"), 1));
    assert_true(schema_knows(row("count"), 2));
    keeper_fini(&k);
}

static void test_a_changed_value_is_noticed(void **state)
{
    (void)state;
    static const struct {
        const char *key, *one, *other;
    } cases[] = {
        {"flag", "true", "false"},
        {"count", "2", "3"},
        {"cpus", "auto", "1"},
        {"share", "20%", "21%"},
        {"wait", "1s", "2s"},
        {"range", "1s..3s", "1s..2s"},
        {"range", "1s..3s", "2s..3s"},
        {"bytes", "2KiB", "3KiB"},
        {"text", "a", "b"},
        {"text", "a", ""},
        {"secret", "a", "b"},
        {"colour", "red", "blue"},
        {"choice", "red", "SELECT"},
        {"choice", "SELECT", "RESET"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct keeper k = {.keep.copy = keeper_copy};
        struct sample a = {0}, b = {0};
        struct err err;
        struct span one = span_str(cases[i].one), other = span_str(cases[i].other);
        assert_true(schema_set(row(cases[i].key), &a, one, one, &k.keep, &err));
        assert_true(schema_set(row(cases[i].key), &b, one, one, &k.keep, &err));
        assert_true(schema_same(row(cases[i].key), &a, &b));
        assert_true(schema_set(row(cases[i].key), &b, other, other, &k.keep, &err));
        assert_false(schema_same(row(cases[i].key), &a, &b));
        keeper_fini(&k);
    }
}

static void test_alike_words(void **state)
{
    (void)state;
    static const struct {
        const char *typed, *word;
        unsigned distance;
        bool alike;
    } cases[] = {
        {"max", "max", 0, true},
        {"MAX", "max", 0, true},
        {"mxa", "max", 1, true},
        {"mx", "max", 1, true},
        {"min", "max", 2, false},
        {"waitres", "waiters", 1, true},
        {"max-lifetime", "max_lifetime", 1, true},
        {"acquire", "acquire_timeout", 8, true},
        {"lifetime", "max_lifetime", 4, false},
        {"", "max", 3, false},
        {"port", "host", 2, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct span a = span_str(cases[i].typed), b = span_str(cases[i].word);
        assert_int_equal(schema_distance(a, b), cases[i].distance);
        assert_int_equal(schema_distance(b, a), cases[i].distance);
        assert_int_equal(schema_looks_like(a, b), cases[i].alike);
    }
    char big[100];
    memset(big, 'a', sizeof big);
    assert_int_equal(schema_distance(span_of(big, sizeof big), span_str("a")), 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_are_read_and_printed),
        cmocka_unit_test(test_printed_values_are_read_again),
        cmocka_unit_test(test_wrong_values_say_what_to_write),
        cmocka_unit_test(test_long_values_are_quoted_in_part),
        cmocka_unit_test(test_messages_quote_what_was_typed_not_what_it_became),
        cmocka_unit_test(test_secrets_are_never_quoted),
        cmocka_unit_test(test_no_memory_is_an_error),
        cmocka_unit_test(test_defaults_follow_the_variant),
        cmocka_unit_test(test_a_changed_value_is_noticed),
        cmocka_unit_test(test_alike_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
