/* SPDX-License-Identifier: MIT */
/* The log ring between two threads, and lines as people and machines read them. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/core/log.h"

#include <cmocka.h>

/* ---- is it JSON? (enough of RFC 8259 for flat objects of strings) ---- */

static bool hex4(const char *s)
{
    for (int i = 0; i < 4; i++)
        if (!strchr("0123456789abcdefABCDEF", s[i]) || !s[i])
            return false;
    return true;
}

static const char *skip_string(const char *s)
{
    if (*s++ != '"')
        return NULL;
    while (*s != '"') {
        if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
            return NULL;
        if (*s++ != '\\')
            continue;
        if (*s == 'u' && hex4(s + 1))
            s += 5;
        else if (*s && strchr("\"\\/bfnrt", *s))
            s++;
        else
            return NULL;
    }
    return s + 1;
}

static const char *skip_value(const char *s)
{
    if (*s == '"')
        return skip_string(s);
    s += *s == '-';
    size_t digits = strspn(s, "0123456789");
    return digits == 0 || (digits > 1 && *s == '0') ? NULL : s + digits;
}

static bool is_json_line(const char *s, size_t n)
{
    if (strlen(s) != n || *s++ != '{')
        return false;
    for (;;) {
        if (!(s = skip_string(s)) || *s++ != ':' || !(s = skip_value(s)))
            return false;
        if (*s == ',')
            s++;
        else
            return strcmp(s, "}\n") == 0;
    }
}

/* ---- rendering ---- */

static char buf[4096];

static const char *render(const char *text, bool json, size_t cap)
{
    struct log_line line = {
        .unix_ms = UINT64_C(1700000000123), .event = "it_happened", .level = LOG_WARN};
    snprintf(line.text, sizeof line.text, "%s", text);
    size_t n = log_render(&line, "worker 0", json, buf, cap);
    assert_true(n <= cap);
    buf[n] = 0;
    if (json && !is_json_line(buf, n))
        fail_msg("no JSON: %s", buf);
    assert_int_equal(buf[n - 1], '\n');
    assert_ptr_equal(strchr(buf, '\n'), buf + n - 1);
    return buf;
}

#define HEAD                                                                                       \
    "{\"time\":\"2023-11-14T22:13:20.123Z\",\"level\":\"warn\",\"thread\":\"worker 0\","           \
    "\"event\":\"it_happened\""

struct render_row {
    const char *text, *json;
};

static void pairs_become_members(void **state)
{
    (void)state;
    static const struct render_row rows[] = {
        {"", HEAD "}\n"},
        {"conn=17", HEAD ",\"conn\":17}\n"},
        {"conn=17 reason=\"two words\" x=", HEAD ",\"conn\":17,\"reason\":\"two words\","
                                                 "\"x\":\"\"}\n"},
        {"path=a\\b", HEAD ",\"path\":\"a\\\\b\"}\n"},
        {"name=\xc3\xa9", HEAD ",\"name\":\"\\u00c3\\u00a9\"}\n"},
        {"loose words a=1", HEAD ",\"a\":1}\n"},
        {"reason=\"cut off", HEAD ",\"reason\":\"cut off\"}\n"},
        /* numbers are numbers, and nothing else is */
        {"up_ms=0 a=-7 b=007 c=12s d=1.5 e=\"12\" pool=12 f=12345678901234567890",
         HEAD ",\"up_ms\":0,\"a\":-7,\"b\":\"007\",\"c\":\"12s\",\"d\":\"1.5\",\"e\":\"12\","
              "\"pool\":\"12\",\"f\":\"12345678901234567890\"}\n"},
        /* sentences quote peers */
        {"reason=\"database \"x y\" does not exist\" pool=a",
         HEAD ",\"reason\":\"database \\\"x y\\\" does not exist\",\"pool\":\"a\"}\n"},
        {"reason=\"said \" level=debug event=x", HEAD ",\"reason\":\"said \"}\n"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_string_equal(render(rows[i].text, true, 2048), rows[i].json);
}

static void text_is_for_people(void **state)
{
    (void)state;
    assert_string_equal(render("conn=17", false, 2048),
                        "2023-11-14T22:13:20.123Z warn it_happened conn=17\n");
    assert_string_equal(render("", false, 2048), "2023-11-14T22:13:20.123Z warn it_happened\n");
}

/* Values may quote what a peer said: any bytes must give a line, and an end. */
static void any_text_gives_valid_json(void **state)
{
    (void)state;
    static const char *const texts[] = {"=",      "==",        " = ",       "a=\"b\"=c", "\"=",
                                        "a=\"\"", "a=\"\"\"=", "\\",        "a=\\",      "\"\"=\"",
                                        "=\"",    "a b=c d",   "a=\x01\x7f"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        render(texts[i], true, 2048);
    static const char bytes[] = "a= \"\\=\x01\xff"
                                "b";
    uint64_t x = 99;
    for (unsigned step = 0; step < 3000; step++) {
        char text[64];
        size_t n = 0;
        do {
            x = x * 6364136223846793005u + 1442695040888963407u;
            text[n++] = bytes[(x >> 33) % (sizeof bytes - 1)];
        } while (n < sizeof text - 1 && (x >> 40) % 24);
        text[n] = 0;
        render(text, true, 2048);
    }
}

static void cut_lines_are_valid_too(void **state)
{
    (void)state;
    char text[LOG_LINE_MAX];
    memset(text, 0xe9, sizeof text - 1); /* six bytes each as JSON */
    memcpy(text, "a=1 b=", 6);
    text[sizeof text - 1] = 0;
    for (size_t cap = 200; cap < 3200; cap += 37) {
        const char *line = render(text, true, cap);
        assert_non_null(strstr(line, "\"a\":1")); /* what fits whole stays */
        render(text, false, cap);
    }
}

/* ---- the ring ---- */

static unsigned wakes;

static void on_wake(struct log_ring *ring)
{
    (void)ring;
    wakes++;
}

static void full_ring_drops_and_counts(void **state)
{
    (void)state;
    struct log_ring *ring = log_ring_new("test", LOG_INFO);
    ring->wake = on_wake;
    wakes = 0;
    assert_null(log_ring_peek(ring));
    for (unsigned i = 0; i < LOG_RING_LINES + 10; i++)
        log_write(ring, LOG_INFO, "e", "n=%u", i);
    assert_int_equal(atomic_load(&ring->dropped), 10);
    assert_int_equal(wakes, LOG_RING_LINES);
    for (unsigned i = 0; i < LOG_RING_LINES; i++) { /* the oldest are kept, in order */
        const struct log_line *line = log_ring_peek(ring);
        char want[16];
        snprintf(want, sizeof want, "n=%u", i);
        assert_string_equal(line->text, want);
        log_ring_pop(ring);
    }
    assert_null(log_ring_peek(ring));
    log_write(ring, LOG_INFO, "e", "again");
    assert_string_equal(log_ring_peek(ring)->text, "again");
    free(ring);
}

static void finer_lines_are_not_written(void **state)
{
    (void)state;
    struct log_ring *ring = log_ring_new("test", LOG_WARN);
    log_write(ring, LOG_INFO, "e", "no");
    assert_null(log_ring_peek(ring));
    assert_true(log_on(ring, LOG_ERROR) && !log_on(ring, LOG_DEBUG));
    log_write(ring, LOG_ERROR, "e", "yes");
    assert_int_equal(log_ring_peek(ring)->level, LOG_ERROR);
    assert_int_equal(atomic_load(&ring->dropped), 0);
    free(ring);
}

static void exchanges_are_written_as_asked(void **state)
{
    (void)state;
    struct log_ring *ring = log_ring_new("test", LOG_ERROR);
    assert_false(log_access_on(ring, true)); /* off is the default */
    atomic_store(&ring->access, LOG_ACCESS_ERRORS);
    assert_true(log_access_on(ring, true) && !log_access_on(ring, false));
    atomic_store(&ring->access, LOG_ACCESS_ALL);
    assert_true(log_access_on(ring, true) && log_access_on(ring, false));
    for (unsigned i = 0; i < LOG_RING_LINES; i++)
        log_exchange(ring, "n=%u", i);
    assert_string_equal(log_ring_peek(ring)->event, "access"); /* whatever the level */
    assert_int_equal(atomic_load(&ring->dropped), LOG_RING_LINES - LOG_RING_ACCESS);
    log_write(ring, LOG_ERROR, "trouble", "a=1"); /* there is room for what matters more */
    assert_int_equal(atomic_load(&ring->dropped), LOG_RING_LINES - LOG_RING_ACCESS);
    free(ring);
}

static void long_lines_are_cut(void **state)
{
    (void)state;
    struct log_ring *ring = log_ring_new("test", LOG_INFO);
    char text[2 * LOG_LINE_MAX];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    log_write(ring, LOG_INFO, "e", "%s", text);
    assert_int_equal(strlen(log_ring_peek(ring)->text), LOG_LINE_MAX - 1);
    free(ring);
}

#define LINES 50000u

static void *write_lines(void *arg)
{
    for (unsigned i = 0; i < LINES; i++)
        log_write(arg, LOG_INFO, "e", "%u", i);
    return NULL;
}

/* What arrives is whole and in order; what does not is counted. */
static void two_threads_share_a_ring(void **state)
{
    (void)state;
    struct log_ring *ring = log_ring_new("test", LOG_INFO);
    pthread_t writer;
    unsigned got = 0;
    unsigned long last = 0;
    assert_int_equal(pthread_create(&writer, NULL, write_lines, ring), 0);
    while (got + atomic_load(&ring->dropped) < LINES) {
        const struct log_line *line = log_ring_peek(ring);
        if (!line)
            continue;
        char *end;
        unsigned long n = strtoul(line->text, &end, 10);
        assert_int_equal(*end, 0);
        assert_true(got == 0 || n > last);
        last = n;
        got++;
        log_ring_pop(ring);
    }
    pthread_join(writer, NULL);
    assert_null(log_ring_peek(ring));
    assert_true(got > 0);
    free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_become_members),
        cmocka_unit_test(text_is_for_people),
        cmocka_unit_test(any_text_gives_valid_json),
        cmocka_unit_test(cut_lines_are_valid_too),
        cmocka_unit_test(full_ring_drops_and_counts),
        cmocka_unit_test(finer_lines_are_not_written),
        cmocka_unit_test(exchanges_are_written_as_asked),
        cmocka_unit_test(long_lines_are_cut),
        cmocka_unit_test(two_threads_share_a_ring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
