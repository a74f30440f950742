/* SPDX-License-Identifier: MIT */
/* Replies: which bytes belong to which one, at every split point, and what small ones say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proxy/wire/redis_reply.h"

struct log {
    char text[8192];
    size_t n;
};

static void log_text(struct log *l, const char *text)
{
    l->n += (size_t)snprintf(l->text + l->n, sizeof l->text - l->n, "%s", text);
}

static void log_bytes(struct log *l, struct span s)
{
    for (size_t i = 0; i < s.n && l->n + 5 < sizeof l->text; i++)
        l->n += (size_t)snprintf(l->text + l->n, 5, s.p[i] < 0x20 ? "." : "%c", s.p[i]);
}

static void log_piece(struct log *l, const struct redis_reply_piece *p)
{
    static const char *const kinds[] = {"", "push ", "attribute "};
    if (p->begins)
        log_text(l, "[");
    log_bytes(l, p->raw);
    if (!p->ends)
        return;
    log_text(l, "] ");
    log_text(l, kinds[p->kind]);
    log_text(l, p->null ? "null " : "");
    log_bytes(l, span_of(&p->type, 1));
    log_bytes(l, p->line);
    log_text(l, "\n");
}

static size_t drain(struct redis_reply_framer *f, struct span in, size_t hold, struct log *l)
{
    size_t used = 0;
    struct redis_reply_piece piece;
    struct err err;
    for (;;) {
        switch (redis_reply_next(f, span_skip(in, used), hold, &piece, &err)) {
        case REDIS_REPLY_WAIT:
            return used;
        case REDIS_REPLY_BAD:
            log_text(l, "BAD");
            return SIZE_MAX;
        case REDIS_REPLY_PIECE:
            assert_true(piece.raw.n > 0);
            if (hold > 0)
                assert_true(piece.begins && piece.ends);
            log_piece(l, &piece);
            used += piece.raw.n;
            break;
        }
    }
}

static void feed(struct span in, const size_t *cuts, size_t n_cuts, size_t hold, struct log *l)
{
    struct redis_reply_framer f = {0};
    size_t from = 0;
    *l = (struct log){0};
    for (size_t i = 0; i <= n_cuts; i++) {
        size_t to = i < n_cuts ? cuts[i] : in.n;
        uint8_t *exact = malloc(to - from + 1);
        assert_non_null(exact);
        memcpy(exact, in.p + from, to - from);
        size_t used = drain(&f, span_of(exact, to - from), hold, l);
        free(exact);
        if (used == SIZE_MAX)
            return;
        from += used;
    }
}

static void splits_agree(struct span in, size_t hold)
{
    static struct log whole, cut;
    feed(in, NULL, 0, hold, &whole);
    for (size_t i = 0; i <= in.n; i++)
        for (size_t k = i; k <= in.n; k += 3) {
            size_t two[] = {i, k};
            feed(in, two, 2, hold, &cut);
            assert_string_equal(whole.text, cut.text);
        }
    size_t *every = calloc(in.n, sizeof *every);
    assert_non_null(every);
    for (size_t i = 0; i < in.n; i++)
        every[i] = i;
    feed(in, every, in.n, hold, &cut);
    assert_string_equal(whole.text, cut.text);
    free(every);
}

#define RESP2                                                                                      \
    "+OK\r\n-ERR no such key\r\n:-42\r\n$5\r\nhello\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n"             \
    "*2\r\n$1\r\na\r\n*3\r\n:1\r\n$-1\r\n*0\r\n$4\r\n\r\n\r\n\r\n"
#define RESP3                                                                                      \
    "_\r\n#t\r\n,1.5e3\r\n,inf\r\n(3492890328409238509324850943850943825024385\r\n"                \
    "=8\r\ntxt:hell\r\n!5\r\nERR x\r\n%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n~1\r\n#f\r\n"             \
    "|1\r\n+ttl\r\n:3\r\n*2\r\n:1\r\n|1\r\n+x\r\n*1\r\n:9\r\n:2\r\n"                               \
    ">3\r\n+message\r\n+ch\r\n+hi\r\n+OK\r\n|0\r\n%0\r\n"

static void test_resp2(void **state)
{
    (void)state;
    static struct log l;
    feed(SPAN_LIT(RESP2), NULL, 0, 0, &l);
    assert_string_equal(l.text, "[+OK..] +OK\n"
                                "[-ERR no such key..] -ERR no such key\n"
                                "[:-42..] :-42\n"
                                "[$5..hello..] $\n"
                                "[$0....] $\n"
                                "[$-1..] null $\n"
                                "[*-1..] null *\n"
                                "[*0..] *\n"
                                "[*2..$1..a..*3..:1..$-1..*0..] *\n"
                                "[$4........] $\n");
}

static void test_resp3(void **state)
{
    (void)state;
    static struct log l;
    feed(SPAN_LIT(RESP3), NULL, 0, 0, &l);
    assert_string_equal(l.text, "[_..] null _\n"
                                "[#t..] #t\n"
                                "[,1.5e3..] ,1.5e3\n"
                                "[,inf..] ,inf\n"
                                "[(3492890328409238509324850943850943825024385..] "
                                "(3492890328409238509324850943850943825024385\n"
                                "[=8..txt:hell..] =\n"
                                "[!5..ERR x..] !\n"
                                "[%2..+a..:1..+b..*1.._..] %\n"
                                "[~1..#f..] ~\n"
                                "[|1..+ttl..:3..] attribute |\n"
                                "[*2..:1..|1..+x..*1..:9..:2..] *\n"
                                "[>3..+message..+ch..+hi..] push >\n"
                                "[+OK..] +OK\n"
                                "[|0..] attribute |\n"
                                "[%0..] %\n");
}

static void test_split_anywhere(void **state)
{
    (void)state;
    splits_agree(SPAN_LIT(RESP2 RESP3), 0);
}

static void test_held_split_anywhere(void **state)
{
    (void)state;
    splits_agree(SPAN_LIT(RESP2 RESP3), REDIS_REPLY_SMALL);
}

static void test_large_reply_is_streamed(void **state)
{
    (void)state;
    struct redis_reply_framer f = {0};
    struct redis_reply_piece p;
    struct err err;
    static char chunk[4096];
    assert_int_equal(redis_reply_next(&f, SPAN_LIT("*2\r\n$1073741824\r\n"), 0, &p, &err),
                     REDIS_REPLY_PIECE);
    assert_true(p.begins && !p.ends && p.type == '*');
    for (size_t sent = 0; sent < 1073741824; sent += sizeof chunk) {
        assert_int_equal(redis_reply_next(&f, span_of(chunk, sizeof chunk), 0, &p, &err),
                         REDIS_REPLY_PIECE);
        assert_int_equal(p.raw.n, sizeof chunk);
        assert_false(p.begins || p.ends);
    }
    assert_int_equal(redis_reply_next(&f, SPAN_LIT("\r\n:1\r\n+next\r\n"), 0, &p, &err),
                     REDIS_REPLY_PIECE);
    assert_true(p.ends && p.raw.n == 6);
    assert_true(redis_reply_idle(&f));
}

/* A reply over the bound is no longer held back, and the rest of it is not mistaken for another. */
static void test_hold_has_a_bound(void **state)
{
    (void)state;
    struct redis_reply_framer f = {0};
    struct redis_reply_piece p;
    struct err err;
    static const char in[] = "$20\r\n01234567890123456789\r\n+OK\r\n";
    assert_int_equal(redis_reply_next(&f, span_of(in, 9), 10, &p, &err), REDIS_REPLY_WAIT);
    assert_false(redis_reply_idle(&f));
    assert_int_equal(redis_reply_next(&f, span_of(in, 10), 10, &p, &err), REDIS_REPLY_PIECE);
    assert_true(p.begins && !p.ends);
    assert_int_equal(redis_reply_next(&f, span_of(in + 10, sizeof in - 11), 10, &p, &err),
                     REDIS_REPLY_PIECE);
    assert_true(!p.begins && p.ends && p.raw.n == 17);
}

static void test_bad_framing(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "HTTP/1.1 200 OK\r\n",
        "$?\r\n",
        "*?\r\n",
        ";4\r\n",
        ".\r\n",
        "$-2\r\n",
        "*-2\r\n",
        "~-1\r\n",
        "%-1\r\n",
        ">-1\r\n",
        ">0\r\n",
        "$01\r\n",
        "$+1\r\n",
        "$ 1\r\n",
        "$\r\n",
        "*\r\n",
        "$1\r\nab\r\n",
        "$1\r\na\n\n",
        ":\r\n",
        ":1x\r\n",
        ":+\r\n",
        "#x\r\n",
        "#\r\n",
        "_x\r\n",
        ",\r\n",
        "(1.5\r\n",
        "=3\r\ntxt\r\n",
        "*1\r\n>1\r\n:1\r\n",
        "*1\r\n?\r\n",
        "$9999999999999999\r\n",
        "*9999999999999999\r\n",
        "\r\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        static struct log l;
        feed(span_str(cases[i]), NULL, 0, REDIS_REPLY_SMALL, &l);
        assert_string_equal(l.text, "BAD");
        splits_agree(span_str(cases[i]), REDIS_REPLY_SMALL);
    }
}

static void test_depth(void **state)
{
    (void)state;
    char in[4 * (REDIS_DEPTH + 1) + 8];
    static struct log l;
    for (int depth = REDIS_DEPTH; depth <= REDIS_DEPTH + 1; depth++) {
        size_t n = 0;
        for (int i = 0; i < depth; i++)
            n += (size_t)snprintf(in + n, sizeof in - n, "*1\r\n");
        n += (size_t)snprintf(in + n, sizeof in - n, ":1\r\n");
        feed(span_of(in, n), NULL, 0, REDIS_REPLY_SMALL, &l);
        if (depth == REDIS_DEPTH)
            assert_string_equal(l.text + l.n - 3, " *\n");
        else
            assert_string_equal(l.text, "BAD");
    }
}

static void test_line_bound(void **state)
{
    (void)state;
    static uint8_t in[REDIS_REPLY_LINE + 1];
    struct redis_reply_framer f = {0};
    struct redis_reply_piece p;
    struct err err;
    memset(in, 'x', sizeof in);
    in[0] = '-';
    for (size_t n = 1; n < REDIS_REPLY_LINE - 1; n += 1000)
        assert_int_equal(redis_reply_next(&f, span_of(in, n), 0, &p, &err), REDIS_REPLY_WAIT);
    in[REDIS_REPLY_LINE - 2] = '\r';
    in[REDIS_REPLY_LINE - 1] = '\n';
    assert_int_equal(redis_reply_next(&f, span_of(in, REDIS_REPLY_LINE), 0, &p, &err),
                     REDIS_REPLY_PIECE);
    assert_int_equal(p.line.n, REDIS_REPLY_LINE - 3);
    in[REDIS_REPLY_LINE - 2] = 'x';
    assert_int_equal(redis_reply_next(&f, span_of(in, REDIS_REPLY_LINE), 0, &p, &err),
                     REDIS_REPLY_BAD);
    assert_int_equal(err.cause, CAUSE_UPSTREAM_PROTOCOL);
}

/* A lone CR or LF is part of the text, as client libraries see it. */
static void test_line_ends_at_crlf_only(void **state)
{
    (void)state;
    struct redis_reply_framer f = {0};
    struct redis_reply_piece p;
    struct err err;
    assert_int_equal(redis_reply_next(&f, SPAN_LIT("+a\rb\nc\r\r\n"), 0, &p, &err),
                     REDIS_REPLY_PIECE);
    assert_true(span_eq(p.line, SPAN_LIT("a\rb\nc\r")));
}

static void test_subscription_notes(void **state)
{
    (void)state;
    struct redis_sub_note n =
        redis_sub_parse(SPAN_LIT("*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:3\r\n"));
    assert_int_equal(n.kind, REDIS_SUB_SUBSCRIBE);
    assert_int_equal(n.count, 3);
    assert_true(span_eq(n.channel, SPAN_LIT("ch")));
    n = redis_sub_parse(SPAN_LIT(">3\r\n$12\r\npunsubscribe\r\n_\r\n:0\r\n"));
    assert_int_equal(n.kind, REDIS_SUB_PUNSUBSCRIBE);
    assert_int_equal(n.channel.n, 0);
    n = redis_sub_parse(SPAN_LIT("*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"));
    assert_int_equal(n.kind, REDIS_SUB_UNSUBSCRIBE);
    /* The beginning of a large message is enough. */
    n = redis_sub_parse(SPAN_LIT("*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$99999\r\nabc"));
    assert_int_equal(n.kind, REDIS_SUB_MESSAGE);
    n = redis_sub_parse(SPAN_LIT("*2\r\n$4\r\npong\r\n$0\r\n\r\n"));
    assert_int_equal(n.kind, REDIS_SUB_PONG);
    static const char *const others[] = {
        "*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n$1\r\n3\r\n",
        "*2\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:-3\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$2\r\nc",
        "*0\r\n",
        "*-1\r\n",
        "$7\r\nmessage\r\n",
        "*3\r\n:1\r\n:2\r\n:3\r\n",
        "",
    };
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        assert_int_equal(redis_sub_parse(span_str(others[i])).kind, REDIS_SUB_NONE);
}

static void test_values(void **state)
{
    (void)state;
    struct span rest = SPAN_LIT("*3\r\n:-7\r\n=7\r\ntxt:abc\r\n:99999999999999999999\r\n%1\r\n");
    struct redis_value v;
    assert_true(redis_value_next(&rest, &v) && v.type == '*' && v.elements == 3);
    assert_true(redis_value_next(&rest, &v) && v.integer == -7);
    assert_true(redis_value_next(&rest, &v) && span_eq(v.text, SPAN_LIT("abc")));
    assert_true(redis_value_next(&rest, &v) && v.integer == 0);
    assert_true(redis_value_next(&rest, &v) && v.elements == 2);
    assert_false(redis_value_next(&rest, &v));
}

static void test_troubles(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        enum redis_trouble trouble;
    } cases[] = {
        {"LOADING Redis is loading the dataset in memory", REDIS_TROUBLE_LOADING},
        {"MASTERDOWN Link with MASTER is down", REDIS_TROUBLE_LOADING},
        {"BUSY Redis is busy running a script.", REDIS_TROUBLE_BUSY},
        {"TRYAGAIN Multiple keys request during rehashing of slot", REDIS_TROUBLE_BUSY},
        {"CLUSTERDOWN The cluster is down", REDIS_TROUBLE_BUSY},
        {"READONLY You can't write against a read only replica.", REDIS_TROUBLE_READONLY},
        {"ERR max number of clients reached", REDIS_TROUBLE_CLIENTS},
        {"NOAUTH Authentication required.", REDIS_TROUBLE_AUTH},
        {"WRONGPASS invalid username-password pair or user is disabled.", REDIS_TROUBLE_AUTH},
        {"BUSYGROUP Consumer Group name already exists", REDIS_TROUBLE_NONE},
        {"BUSYKEY Target key name already exists.", REDIS_TROUBLE_NONE},
        {"OOM command not allowed when used memory > 'maxmemory'.", REDIS_TROUBLE_NONE},
        {"ERR syntax error", REDIS_TROUBLE_NONE},
        {"", REDIS_TROUBLE_NONE},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(redis_error_trouble(span_str(cases[i].line)), cases[i].trouble);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resp2),
        cmocka_unit_test(test_resp3),
        cmocka_unit_test(test_split_anywhere),
        cmocka_unit_test(test_held_split_anywhere),
        cmocka_unit_test(test_large_reply_is_streamed),
        cmocka_unit_test(test_hold_has_a_bound),
        cmocka_unit_test(test_bad_framing),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_line_bound),
        cmocka_unit_test(test_line_ends_at_crlf_only),
        cmocka_unit_test(test_subscription_notes),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_troubles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
