/* SPDX-License-Identifier: MIT */
/* Requests: where commands end, what is refused in which words, and that no split point matters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proxy/wire/redis.h"
#include "proxy/wire/redis_write.h"

/* A transcript of what the framer said, in text. */
struct log {
    char text[16384];
    size_t n;
    bool body; /* inside a BIG command: pieces are joined */
};

static void log_bytes(struct log *l, struct span s)
{
    for (size_t i = 0; i < s.n && l->n + 5 < sizeof l->text; i++)
        l->n += (size_t)snprintf(l->text + l->n, 5, s.p[i] < 0x20 ? "\\%02x" : "%c", s.p[i]);
}

static void log_text(struct log *l, const char *text)
{
    l->n += (size_t)snprintf(l->text + l->n, sizeof l->text - l->n, "%s", text);
}

static void log_cmd(struct log *l, const struct redis_cmd *cmd)
{
    char head[32];
    snprintf(head, sizeof head, "CMD %u", cmd->argc);
    log_text(l, head);
    for (uint32_t i = 0; i < cmd->nargs; i++) {
        log_text(l, " ");
        log_bytes(l, cmd->args[i]);
    }
    log_text(l, " = ");
    log_bytes(l, cmd->raw);
    log_text(l, "\n");
}

static void log_inline(struct log *l, struct redis_cmd *cmd, const struct redis_limits *limits,
                       struct err *err)
{
    static uint8_t room[REDIS_INLINE_ROOM(REDIS_INLINE_MAX)];
    struct redis_out out = redis_out_of(room, sizeof room);
    if (redis_inline_encode(cmd->raw, limits, &out, cmd, err))
        log_cmd(l, cmd);
    else
        log_text(l, "UNQUOTABLE\n");
}

/* Takes what there is; returns the bytes used, or SIZE_MAX once the stream is bad. */
static size_t drain(struct redis_framer *f, const struct redis_limits *limits, struct span in,
                    struct log *l)
{
    size_t used = 0;
    for (;;) {
        struct redis_cmd cmd;
        struct err err;
        enum redis_step step = redis_request_next(f, limits, span_skip(in, used), &cmd, &err);
        used += cmd.used;
        switch (step) {
        case REDIS_WAIT:
            return used;
        case REDIS_COMMAND:
            assert_true(cmd.complete && cmd.last);
            log_cmd(l, &cmd);
            break;
        case REDIS_INLINE:
            log_inline(l, &cmd, limits, &err);
            break;
        case REDIS_BIG:
            log_text(l, "BIG ");
            log_bytes(l, cmd.args[0]);
            log_text(l, " = ");
            /* fall through */
        case REDIS_BODY:
            assert_false(cmd.complete);
            log_bytes(l, cmd.raw);
            if (cmd.last)
                log_text(l, "\n");
            break;
        case REDIS_BAD:
            log_text(l, cmd.silent ? "SILENT\n" : "BAD ");
            log_text(l, cmd.silent ? "" : err.note);
            return SIZE_MAX;
        }
    }
}

static void in_one_go(struct span in, const struct redis_limits *limits, struct log *l)
{
    struct redis_framer f = {0};
    *l = (struct log){0};
    drain(&f, limits, in, l);
}

/*
 * As the daemon reads: what the framer did not use is kept and put in front of what comes next. The
 * kept bytes are copied to a buffer of exactly their size, so that a sanitizer sees any look
 * beyond.
 */
static void in_steps(struct span in, const size_t *cuts, size_t n_cuts,
                     const struct redis_limits *limits, struct log *l)
{
    struct redis_framer f = {0};
    size_t from = 0;
    *l = (struct log){0};
    for (size_t i = 0; i <= n_cuts; i++) {
        size_t to = i < n_cuts ? cuts[i] : in.n;
        uint8_t *exact = malloc(to - from + 1);
        assert_non_null(exact);
        memcpy(exact, in.p + from, to - from);
        size_t used = drain(&f, limits, span_of(exact, to - from), l);
        free(exact);
        if (used == SIZE_MAX)
            return;
        from += used;
    }
}

static void splits_agree(struct span in, const struct redis_limits *limits)
{
    static struct log whole, cut;
    in_one_go(in, limits, &whole);
    for (size_t i = 1; i < in.n; i++) {
        in_steps(in, &i, 1, limits, &cut);
        assert_string_equal(whole.text, cut.text);
    }
    size_t *every = calloc(in.n, sizeof *every);
    assert_non_null(every);
    for (size_t i = 0; i < in.n; i++)
        every[i] = i;
    in_steps(in, every, in.n, limits, &cut);
    assert_string_equal(whole.text, cut.text);
    for (size_t i = 1; i < in.n; i += 7)
        for (size_t k = i + 1; k < in.n; k += 5) {
            size_t two[] = {i, k};
            in_steps(in, two, 2, limits, &cut);
            assert_string_equal(whole.text, cut.text);
        }
    free(every);
}

#define PIPELINE                                                                                   \
    "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"                                                               \
    "PING\r\n\r\n   \r\n*0\r\n*-1\r\n"                                                             \
    "*3\r\n$3\r\nset\r\n$3\r\na\r\n\r\n$0\r\n\r\n"                                                 \
    "set key 'it\\'s' \"a\\x41\\n\\\"\"\n"                                                         \
    "*14\r\n$4\r\nMGET\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$1\r\n5\r\n$1\r\n6\r\n"      \
    "$1\r\n7\r\n$1\r\n8\r\n$1\r\n9\r\n$2\r\n10\r\n$2\r\n11\r\n$2\r\n12\r\n$2\r\n13\r\n"

static void test_pipeline(void **state)
{
    (void)state;
    static struct log l;
    in_one_go(SPAN_LIT(PIPELINE), &redis_limits_default, &l);
    assert_string_equal(
        l.text,
        "CMD 2 GET k = *2\\0d\\0a$3\\0d\\0aGET\\0d\\0a$1\\0d\\0ak\\0d\\0a\n"
        "CMD 1 PING = *1\\0d\\0a$4\\0d\\0aPING\\0d\\0a\n"
        "CMD 3 set a\\0d\\0a  = "
        "*3\\0d\\0a$3\\0d\\0aset\\0d\\0a$3\\0d\\0aa\\0d\\0a\\0d\\0a$0\\0d\\0a"
        "\\0d\\0a\n"
        "CMD 4 set key it's aA\\0a\" = *4\\0d\\0a$3\\0d\\0aset\\0d\\0a$3\\0d\\0akey\\0d\\0a"
        "$4\\0d\\0ait's\\0d\\0a$4\\0d\\0aaA\\0a\"\\0d\\0a\n"
        "CMD 14 MGET 1 2 3 4 5 6 7 8 9 10 11 = *14\\0d\\0a$4\\0d\\0aMGET\\0d\\0a$1\\0d\\0a1\\0d\\0a"
        "$1\\0d\\0a2\\0d\\0a$1\\0d\\0a3\\0d\\0a$1\\0d\\0a4\\0d\\0a$1\\0d\\0a5\\0d\\0a$"
        "1\\0d\\0a6\\0d"
        "\\0a$1\\0d\\0a7\\0d\\0a$1\\0d\\0a8\\0d\\0a$1\\0d\\0a9\\0d\\0a$2\\0d\\0a10\\0d\\0a$"
        "2\\0d\\0a"
        "11\\0d\\0a$2\\0d\\0a12\\0d\\0a$2\\0d\\0a13\\0d\\0a\n");
}

static void test_pipeline_split_anywhere(void **state)
{
    (void)state;
    splits_agree(SPAN_LIT(PIPELINE PIPELINE), &redis_limits_default);
}

static const struct redis_limits tiny = {.count = 100, .bulk = 1000, .whole = 40};

#define BIG                                                                                        \
    "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$60\r\n0123456789012345678901234567890123456789012345678901234" \
    "56789\r\n"

static void test_big_is_streamed(void **state)
{
    (void)state;
    static const char in[] = BIG;
    struct redis_framer f = {0};
    struct redis_cmd cmd;
    struct err err;
    /* As soon as the length is known to be too much: name and key are there, and one more byte. */
    assert_int_equal(redis_request_next(&f, &tiny, span_of(in, 26), &cmd, &err), REDIS_BIG);
    assert_int_equal(cmd.used, 26);
    assert_int_equal(cmd.nargs, 2);
    assert_int_equal(cmd.argc, 3);
    assert_true(span_eq(cmd.args[1], SPAN_LIT("k")));
    assert_false(cmd.last);
}

static void test_big_begins_with_what_is_known(void **state)
{
    (void)state;
    static const char in[] = BIG;
    struct redis_framer f = {0};
    struct redis_cmd cmd;
    struct err err;
    for (size_t n = 1; n < 25; n++)
        assert_int_equal(redis_request_next(&f, &tiny, span_of(in, n), &cmd, &err), REDIS_WAIT);
    assert_int_equal(redis_request_next(&f, &tiny, span_of(in, 30), &cmd, &err), REDIS_BIG);
    assert_int_equal(cmd.raw.n, 30);
    assert_int_equal(redis_request_next(&f, &tiny, span_of(in + 30, 0), &cmd, &err), REDIS_WAIT);
    assert_int_equal(redis_request_next(&f, &tiny, span_of(in + 30, sizeof in - 31), &cmd, &err),
                     REDIS_BODY);
    assert_true(cmd.last);
    assert_true(redis_request_idle(&f));
}

static void test_big_split_anywhere(void **state)
{
    (void)state;
    splits_agree(SPAN_LIT("*1\r\n$4\r\nPING\r\n" BIG "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" BIG
                          "*4\r\n$1\r\na\r\n$30\r\n012345678901234567890123456789\r\n$1\r\nb\r\n"
                          "$0\r\n\r\nPING\r\n"),
                 &tiny);
}

struct bad_case {
    const char *in;
    size_t n;
    const char *says; /* NULL: closed without a word */
};
#define CASE(in, says) {in, sizeof(in) - 1, says}

static void test_protocol_errors(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        CASE("*+1\r\n", "Protocol error: invalid multibulk length"),
        CASE("*01\r\n", "Protocol error: invalid multibulk length"),
        CASE("*-2\r\n", "Protocol error: invalid multibulk length"),
        CASE("*-10\r\n", "Protocol error: invalid multibulk length"),
        CASE("* 1\r\n", "Protocol error: invalid multibulk length"),
        CASE("*\r\n", "Protocol error: invalid multibulk length"),
        CASE("*1\n$4\r\nPING\r\n", "Protocol error: invalid multibulk length"),
        CASE("*1\rx", "Protocol error: invalid multibulk length"),
        CASE("*1048577\r\n", "Protocol error: invalid multibulk length"),
        CASE("*9999999999999999\r\n", "Protocol error: invalid multibulk length"),
        CASE("*18446744073709551617\r\n", "Protocol error: invalid multibulk length"),
        CASE("*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
        CASE("*1\r\n\r\n", "Protocol error: expected '$', got ' '"),
        CASE("*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        CASE("*1\r\n$+4\r\nPING\r\n", "Protocol error: invalid bulk length"),
        CASE("*1\r\n$04\r\nPING\r\n", "Protocol error: invalid bulk length"),
        CASE("*1\r\n$4\nPING\r\n", "Protocol error: invalid bulk length"),
        CASE("*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
        CASE("*1\r\n$4294967300\r\nPING", "Protocol error: invalid bulk length"),
        CASE("*1\r\n$4x\r\n", "Protocol error: invalid bulk length"),
        CASE("*1\r\n$4\r\nPINGxx", "Protocol error: expected CRLF after a bulk string"),
        CASE("*1\r\n$4\r\nPING\n\n", "Protocol error: expected CRLF after a bulk string"),
        CASE("*1\r\n$300000\r\n", "Protocol error: too big command name"),
        CASE("\x16\x03\x01\x02\x00\x01", "Protocol error: neither RESP nor an inline request (TLS "
                                         "on a plain port?)"),
        CASE("*1\r\n$5\r\nhOst:\r\n", NULL),
        CASE("*2\r\n$4\r\npost\r\n$1\r\n/\r\n", NULL),
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        static struct log l;
        char expected[256];
        in_one_go(span_of(cases[i].in, cases[i].n), &redis_limits_default, &l);
        if (cases[i].says)
            snprintf(expected, sizeof expected, "BAD %s", cases[i].says);
        else
            snprintf(expected, sizeof expected, "SILENT\n");
        assert_string_equal(l.text, expected);
        splits_agree(span_of(cases[i].in, cases[i].n), &redis_limits_default);
    }
}

static void test_bad_stays_bad(void **state)
{
    (void)state;
    struct redis_framer f = {0};
    struct redis_cmd cmd;
    struct err err;
    assert_int_equal(redis_request_next(&f, &redis_limits_default, SPAN_LIT("*x"), &cmd, &err),
                     REDIS_BAD);
    assert_int_equal(err.cause, CAUSE_CLIENT_PROTOCOL);
    assert_int_equal(
        redis_request_next(&f, &redis_limits_default, SPAN_LIT("PING\r\n"), &cmd, &err), REDIS_BAD);
}

static void test_before_login(void **state)
{
    (void)state;
    static struct log l;
    in_one_go(SPAN_LIT("*11\r\n"), &redis_limits_unauth, &l);
    assert_string_equal(l.text, "BAD Protocol error: unauthenticated multibulk length");
    in_one_go(SPAN_LIT("*2\r\n$4\r\nAUTH\r\n$16385\r\n"), &redis_limits_unauth, &l);
    assert_string_equal(l.text, "BAD Protocol error: unauthenticated bulk length");
    in_one_go(SPAN_LIT("a b c d e f g h i j k\r\n"), &redis_limits_unauth, &l);
    assert_string_equal(l.text, "UNQUOTABLE\n");
    in_one_go(SPAN_LIT("*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n"), &redis_limits_unauth, &l);
    assert_memory_equal(l.text, "CMD 2 AUTH x", 12);
}

static void test_inline_too_long(void **state)
{
    (void)state;
    static char in[REDIS_INLINE_MAX + 2];
    struct redis_framer f = {0};
    struct redis_cmd cmd;
    struct err err;
    memset(in, 'a', sizeof in);
    assert_int_equal(
        redis_request_next(&f, &redis_limits_default, span_of(in, REDIS_INLINE_MAX), &cmd, &err),
        REDIS_WAIT);
    assert_int_equal(redis_request_next(&f, &redis_limits_default,
                                        span_of(in, REDIS_INLINE_MAX + 1), &cmd, &err),
                     REDIS_BAD);
    assert_string_equal(err.note, "Protocol error: too big inline request");
}

struct quote_case {
    const char *line, *resp; /* resp NULL: unbalanced */
};

static void test_inline_quotes(void **state)
{
    (void)state;
    static const struct quote_case cases[] = {
        {"a  b\tc", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n"},
        {"a\"b\"", "*1\r\n$2\r\nab\r\n"},
        {"''", "*1\r\n$0\r\n\r\n"},
        {"\"\" ''", "*2\r\n$0\r\n\r\n$0\r\n\r\n"},
        {"\"\\x4a\\x4A\\xzz\"", "*1\r\n$5\r\nJJxzz\r\n"},
        {"'\\x4a'", "*1\r\n$4\r\n\\x4a\r\n"},
        {"\"\\r\\n\\t\\b\\a\\\\\\q\"", "*1\r\n$7\r\n\r\n\t\b\a\\q\r\n"},
        {"'\"' \"'\"", "*2\r\n$1\r\n\"\r\n$1\r\n'\r\n"},
        {"\"abc", NULL},
        {"'abc", NULL},
        {"\"abc\"d", NULL},
        {"'abc'd", NULL},
        {"a\"", NULL},
        {"\"a\\", NULL},
        {"\"a\\\"", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t room[256];
        struct redis_out out = redis_out_of(room, sizeof room);
        struct redis_cmd cmd = {0};
        struct err err;
        bool good =
            redis_inline_encode(span_str(cases[i].line), &redis_limits_default, &out, &cmd, &err);
        assert_int_equal(good, cases[i].resp != NULL);
        if (good) {
            assert_int_equal(out.n, strlen(cases[i].resp));
            assert_memory_equal(out.p, cases[i].resp, out.n);
        } else {
            assert_string_equal(err.note, "Protocol error: unbalanced quotes in request");
            assert_int_equal(out.n, 0);
        }
    }
}

static void test_inline_refused(void **state)
{
    (void)state;
    uint8_t room[64];
    struct redis_out out = redis_out_of(room, sizeof room);
    struct redis_cmd cmd = {0};
    struct err err;
    assert_false(
        redis_inline_encode(span_of("GET a\0b", 7), &redis_limits_default, &out, &cmd, &err));
    assert_int_equal(err.cause, CAUSE_CLIENT_PROTOCOL);
    assert_false(
        redis_inline_encode(SPAN_LIT("POST / HTTP/1.1"), &redis_limits_default, &out, &cmd, &err));
    assert_true(cmd.silent);
    assert_int_equal(out.n, 0);
    out.cap = 20;
    assert_false(
        redis_inline_encode(SPAN_LIT("GET abcdef"), &redis_limits_default, &out, &cmd, &err));
    assert_int_equal(err.cause, CAUSE_TOO_LARGE);
    assert_false(cmd.silent);
}

static void test_inline_room_is_enough(void **state)
{
    (void)state;
    /* The worst line: arguments of one byte. */
    char line[999];
    for (size_t i = 0; i < sizeof line; i++)
        line[i] = i % 2 ? ' ' : 'a';
    uint8_t room[REDIS_INLINE_ROOM(sizeof line)];
    struct redis_out out = redis_out_of(room, sizeof room);
    struct redis_cmd cmd = {0};
    struct err err;
    assert_true(
        redis_inline_encode(span_of(line, sizeof line), &redis_limits_default, &out, &cmd, &err));
    assert_int_equal(cmd.argc, 500);
    assert_int_equal(cmd.nargs, REDIS_ARGS);
}

static void test_all_arguments(void **state)
{
    (void)state;
    struct redis_framer f = {0};
    struct redis_cmd cmd;
    struct err err;
    uint8_t room[1024];
    struct redis_out out = redis_out_of(room, sizeof room);
    struct span args[20];
    for (size_t i = 0; i < 20; i++)
        args[i] = span_of(&"abcdefghijklmnopqrst"[i], 20 - i);
    redis_put_command(&out, args, 20);
    assert_int_equal(
        redis_request_next(&f, &redis_limits_default, redis_out_span(&out), &cmd, &err),
        REDIS_COMMAND);
    struct redis_args it = redis_args_of(&cmd);
    struct span arg;
    for (size_t i = 0; i < 20; i++) {
        assert_true(redis_args_next(&it, &arg));
        assert_true(span_eq(arg, args[i]));
    }
    assert_false(redis_args_next(&it, &arg));
}

/* Fed byte by byte, the framer must not look at everything again each time. */
static void test_remembers_progress(void **state)
{
    (void)state;
    static uint8_t room[200 * 1024];
    struct redis_out out = redis_out_of(room, sizeof room);
    enum { N = 20000 };
    redis_put_array(&out, N);
    for (size_t i = 0; i < N; i++)
        redis_put_bulk(&out, SPAN_LIT("x"));
    struct redis_framer f = {0};
    struct redis_cmd cmd;
    struct err err;
    for (size_t n = 1; n < out.n; n++) {
        uint32_t before = f.pos;
        assert_int_equal(
            redis_request_next(&f, &redis_limits_default, span_of(room, n), &cmd, &err),
            REDIS_WAIT);
        assert_int_equal(cmd.used, 0);
        /* Never behind: at most one argument's bytes are looked at again. */
        assert_true(f.pos >= before && n - f.pos < 8);
    }
    assert_int_equal(
        redis_request_next(&f, &redis_limits_default, redis_out_span(&out), &cmd, &err),
        REDIS_COMMAND);
    assert_int_equal(cmd.argc, N);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipeline),
        cmocka_unit_test(test_pipeline_split_anywhere),
        cmocka_unit_test(test_big_is_streamed),
        cmocka_unit_test(test_big_begins_with_what_is_known),
        cmocka_unit_test(test_big_split_anywhere),
        cmocka_unit_test(test_protocol_errors),
        cmocka_unit_test(test_bad_stays_bad),
        cmocka_unit_test(test_before_login),
        cmocka_unit_test(test_inline_too_long),
        cmocka_unit_test(test_inline_quotes),
        cmocka_unit_test(test_inline_refused),
        cmocka_unit_test(test_inline_room_is_enough),
        cmocka_unit_test(test_all_arguments),
        cmocka_unit_test(test_remembers_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
