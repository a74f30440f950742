/* SPDX-License-Identifier: MIT */
/* Memory that ends anywhere is one clean error; large and odd texts stay within bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/conf/loading.h"

static const char sample[] =
    "admin: { http: '127.0.0.1:9', token: t }\n"
    "pools:\n"
    "- { name: a, upstream: [{ url: 'postgres://u@h/d?options=x', password: p }, "
    "postgres://u@i/d],\n"
    "    listen: [0.0.0.0:1, '[::]:1', { unix: /run/a, owner: root }], size: &s { max: 3 } }\n"
    "- { name: b, upstream: redis://:${TEST_NONE:-x}@h/3, size: *s, check: { on_return: SELECT 1 } "
    "}\n"
    "- { name: c, upstream: 'http+unix:///run/c' }\n";

/* `limit` bytes for the snapshot and as many for what is only needed meanwhile. */
static struct config *load_within(const char *text, size_t limit, struct conf_report *report)
{
    const struct conf_options options = {.memory_max = limit};
    return conf_load_text("t", span_str(text), &options, report);
}

static void test_memory_may_end_anywhere(void **state)
{
    (void)state;
    size_t refused = 0, limit = 1;
    struct config *config = NULL;
    /* every 64 bytes is often enough: blocks have 4 KiB, or the size of the text */
    for (; !config && limit < 200000; limit += 64) {
        struct conf_report *report = conf_report_new();
        config = load_within(sample, limit, report);
        if (!config) {
            refused++;
            assert_int_equal(conf_report_errors(report), 1);
            assert_string_equal(conf_report_at(report, 0)->text,
                                "the configuration does not fit into memory: make it smaller");
        }
        conf_report_free(&report);
    }
    assert_non_null(config);
    assert_true(refused > 10);
    conf_free(&config);
}

/* A long list takes many blocks, any of which may be one too many. */
static void test_memory_may_end_in_the_middle_of_a_list(void **state)
{
    (void)state;
    char *text = calloc(1, 70000);
    assert_non_null(text);
    size_t n = (size_t)snprintf(text, 70000, "pools:\n");
    for (unsigned i = 0; i < 300; i++)
        n += (size_t)snprintf(text + n, 70000 - n,
                              "- { name: pool_number_%u, upstream: [redis://:%u@host%u] }\n", i, i,
                              i);
    size_t good = 0, refused = 0;
    for (size_t limit = 4096; limit < 1000000; limit += 4096 * 3) {
        struct conf_report *report = conf_report_new();
        struct config *config = load_within(text, limit, report);
        good += config != NULL;
        refused += config == NULL;
        assert_int_equal(config == NULL, conf_report_errors(report) > 0);
        conf_free(&config);
        conf_report_free(&report);
    }
    assert_true(good > 10 && refused > 10);
    free(text);
}

static void test_large_texts_are_refused(void **state)
{
    (void)state;
    size_t n = CONF_TEXT_MAX + 1;
    char *text = calloc(1, n + 1);
    assert_non_null(text);
    memset(text, ' ', n);
    struct loaded l = load_text(text);
    assert_non_null(strstr(l.said, "t.yaml:1:1: error: the text is larger than 1048576 bytes"));
    unload(&l);
    free(text);
}

static void test_lists_are_bounded(void **state)
{
    (void)state;
    static const struct {
        const char *head, *item, *tail, *said;
        unsigned times;
    } cases[] = {
        {"pools: [", "7,", "]", "there are too many entries here: write fewer", 5000},
        {"pools: [", "7,", "]", "pools is a list of 1 to 1024 entries", 1025},
        {"pools: [{ name: a, upstream: redis://h, listen: [", "7,", "]}]",
         "listen has 65 addresses: write 1 to 64", 65},
        {"pools: [{ name: a, kind: redis, upstream: [", "7,", "]}]",
         "upstream has 65 entries: write 1 to 64", 65},
        {"pools: [", "&a 1,", "]", "there are more than 64 anchors: use fewer", 65},
        {"pools: [{ name: a, upstream: redis://", "h", " }]", "the URL's host is no name", 300},
        {"pools: [{ name: ", "h", ", upstream: redis://h }]", "is no name: write 1 to 63", 64},
        {"pools: [{ name: a, upstream: redis://h, listen: /", "h", " }]", "at most 107 bytes", 107},
        {"pools: [{ name: a, upstream: redis://:", "p", "@h }]",
         "the value is longer than 65536 bytes: write a shorter one", 65537},
        {"", "[", "", "this is nested more than 16 deep: write it flatter", 100000},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t step = strlen(cases[i].item), n = strlen(cases[i].head);
        char *text = calloc(1, n + step * cases[i].times + strlen(cases[i].tail) + 1);
        assert_non_null(text);
        memcpy(text, cases[i].head, n);
        for (unsigned j = 0; j < cases[i].times; j++, n += step)
            memcpy(text + n, cases[i].item, step);
        memcpy(text + n, cases[i].tail, strlen(cases[i].tail));
        struct loaded l = load_text(text);
        if (l.config || !strstr(l.said, cases[i].said))
            fail_msg("%s%s...: %.300s", cases[i].head, cases[i].item, l.said);
        unload(&l);
        free(text);
    }
}

static void test_aliases_do_not_multiply(void **state)
{
    (void)state;
    struct loaded l = load_text("a: &a [x, x, x, x, x, x, x, x]\n"
                                "b: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
                                "c: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n"
                                "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n"
                                "e: &e [*d, *d, *d, *d, *d, *d, *d, *d]\n"
                                "pools: *e\n");
    assert_int_equal(conf_report_errors(l.report), 5 + 1); /* each is told once */
    unload(&l);
}

static void test_freeing_nothing(void **state)
{
    (void)state;
    struct config *config = NULL;
    struct conf_report *report = NULL;
    conf_free(&config);
    conf_report_free(&report);
    assert_null(config);
    assert_null(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_may_end_anywhere),
        cmocka_unit_test(test_memory_may_end_in_the_middle_of_a_list),
        cmocka_unit_test(test_large_texts_are_refused),
        cmocka_unit_test(test_lists_are_bounded),
        cmocka_unit_test(test_aliases_do_not_multiply),
        cmocka_unit_test(test_freeing_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
