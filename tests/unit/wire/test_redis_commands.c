/* SPDX-License-Identifier: MIT */
/* What each command needs, and which MULTI ... EXEC may share a server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "proxy/wire/redis_commands.h"
#include "proxy/wire/redis_write.h"

/* A command from a line; kept in static memory until the next call. */
static struct redis_cmd command(const char *line)
{
    static uint8_t room[65536];
    struct redis_out out = redis_out_of(room, sizeof room);
    struct redis_cmd cmd = {0};
    struct err err;
    assert_true(redis_inline_encode(span_str(line), &redis_limits_default, &out, &cmd, &err));
    return cmd;
}

static struct redis_verdict classify(const char *line)
{
    struct redis_cmd cmd = command(line);
    return redis_classify(&cmd);
}

static void test_table_is_sorted(void **state)
{
    (void)state;
    struct redis_verdict a, b;
    size_t i = 0;
    assert_true(redis_table_entry(i, &a));
    for (; redis_table_entry(i + 1, &b); a = b, i++)
        if (strcmp(a.name, b.name) >= 0)
            fail_msg("%s stands before %s", a.name, b.name);
    assert_true(i > 400);
}

/* Every row is found by its name, in either case, and refusals have a reason. */
static void test_table_is_found(void **state)
{
    (void)state;
    struct redis_verdict row;
    for (size_t i = 0; redis_table_entry(i, &row); i++) {
        char line[64];
        size_t n = (size_t)snprintf(line, sizeof line, "%s", row.name);
        for (size_t k = 0; k < n; k++)
            if (line[k] == '|')
                line[k] = ' ';
            else if (i % 2 && line[k] >= 'a' && line[k] <= 'z')
                line[k] = (char)(line[k] - 0x20);
        struct redis_verdict v = classify(line);
        assert_string_equal(v.name, row.name);
        assert_int_equal(v.class, row.class);
        assert_int_equal(v.reason != NULL, v.class == REDIS_REFUSED);
        assert_int_equal(v.retryable, v.class == REDIS_READ);
    }
}

struct class_case {
    const char *line;
    enum redis_class class;
};

static void test_classes(void **state)
{
    (void)state;
    static const struct class_case cases[] = {
        {"get k", REDIS_READ},
        {"Scan 0", REDIS_READ},
        {"eval_ro s 0", REDIS_READ},
        {"sort_ro k", REDIS_READ},
        {"info", REDIS_READ},
        {"command", REDIS_READ},
        {"command docs get", REDIS_READ},
        {"config get maxmemory", REDIS_READ},
        {"slowlog get", REDIS_READ},
        {"latency latest", REDIS_READ},
        {"cluster slots", REDIS_READ},
        {"script load x", REDIS_READ},
        {"client help", REDIS_READ},
        {"object encoding k", REDIS_READ},
        {"set k v", REDIS_WRITE},
        {"sort k", REDIS_WRITE},
        {"getex k", REDIS_WRITE},
        {"getdel k", REDIS_WRITE},
        {"georadius k 1 1 1 m", REDIS_WRITE},
        {"publish c m", REDIS_WRITE},
        {"eval s 0", REDIS_WRITE},
        {"fcall f 0", REDIS_WRITE},
        {"flushall", REDIS_WRITE},
        {"xgroup create k g $", REDIS_WRITE},
        {"function load x", REDIS_WRITE},
        {"blpop k 0", REDIS_BLOCKING},
        {"bzmpop 0 1 k min", REDIS_BLOCKING},
        {"subscribe a", REDIS_SUBSCRIBING},
        {"punsubscribe", REDIS_SUBSCRIBING},
        {"multi", REDIS_TRANSACTION},
        {"UNWATCH", REDIS_TRANSACTION},
        {"client tracking on", REDIS_STICKY},
        {"readonly", REDIS_STICKY},
        {"auth x", REDIS_LOCAL},
        {"client id", REDIS_LOCAL},
        {"CLIENT SETINFO lib-name x", REDIS_LOCAL},
        {"ping", REDIS_LOCAL},
        {"monitor", REDIS_REFUSED},
        {"wait 1 0", REDIS_REFUSED},
        {"waitaof 1 1 0", REDIS_REFUSED},
        {"shutdown", REDIS_REFUSED},
        {"debug sleep 1", REDIS_REFUSED},
        {"config set a b", REDIS_REFUSED},
        {"client list", REDIS_REFUSED},
        {"client kill id 1", REDIS_REFUSED},
        {"acl setuser x", REDIS_REFUSED},
        {"script kill", REDIS_REFUSED},
        {"cluster failover", REDIS_REFUSED},
        {"replicaof no one", REDIS_REFUSED},
        {"migrate h 1 k 0 1", REDIS_REFUSED},
        {"json.get k", REDIS_UNKNOWN},
        {"ft.search i q", REDIS_UNKNOWN},
        {"gets", REDIS_UNKNOWN},
        {"ge", REDIS_UNKNOWN},
        {"\"\"", REDIS_UNKNOWN},
        {"\"get\\x00\" k", REDIS_UNKNOWN},
        {"client|id", REDIS_UNKNOWN},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", REDIS_UNKNOWN},
        /* A subcommand nobody knows: refused where others of the kind are dangerous. */
        {"client whatever", REDIS_REFUSED},
        {"config whatever", REDIS_REFUSED},
        {"client id|x", REDIS_REFUSED},
        {"client \"\"", REDIS_REFUSED},
        {"object whatever k", REDIS_UNKNOWN},
        {"client", REDIS_READ},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct redis_verdict v = classify(cases[i].line);
        if (v.class != cases[i].class)
            fail_msg("%s is %s, not %s", cases[i].line, redis_class_name(v.class),
                     redis_class_name(cases[i].class));
    }
    assert_true(classify("client whatever").unknown_sub);
    assert_false(classify("client list").unknown_sub);
    assert_true(classify("flushdb").sweeping);
    assert_true(classify("keys *").sweeping);
    assert_true(classify("evalsha x 0").script);
    assert_true(classify("fcall_ro f 0").script);
}

static void test_stream_reads(void **state)
{
    (void)state;
    static const struct class_case cases[] = {
        {"xread streams k 0", REDIS_READ},
        {"XREAD COUNT 5 STREAMS k 0", REDIS_READ},
        {"XREAD bLoCk 100 STREAMS k 0", REDIS_BLOCKING},
        {"XREAD BLOCK 0 STREAMS k 0", REDIS_BLOCKING},
        {"XREAD COUNT 5 BLOCK 0 STREAMS k 0", REDIS_BLOCKING},
        {"XREAD STREAMS block 0", REDIS_READ},
        {"XREAD COUNT block STREAMS k 0", REDIS_READ},
        {"XREADGROUP GROUP g c STREAMS k >", REDIS_WRITE},
        {"XREADGROUP GROUP block block STREAMS k >", REDIS_WRITE},
        {"XREADGROUP GROUP g c COUNT 1 NOACK BLOCK 1 STREAMS k >", REDIS_BLOCKING},
        {"XREADGROUP BLOCK 1 GROUP g c STREAMS k >", REDIS_BLOCKING},
        /* Behind the arguments that are presented as spans. */
        {"XREAD COUNT 1 COUNT 1 COUNT 1 COUNT 1 COUNT 1 COUNT 1 BLOCK 0 STREAMS k 0",
         REDIS_BLOCKING},
        {"XREAD COUNT 1 COUNT 1 COUNT 1 COUNT 1 COUNT 1 COUNT 1 STREAMS BLOCK 0", REDIS_READ},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct redis_verdict v = classify(cases[i].line);
        if (v.class != cases[i].class)
            fail_msg("%s is %s, not %s", cases[i].line, redis_class_name(v.class),
                     redis_class_name(cases[i].class));
        assert_int_equal(v.retryable, v.class == REDIS_READ);
    }
}

/* Of a large command the first arguments are seen: what hides is taken to be the careful one. */
static void test_incomplete(void **state)
{
    (void)state;
    struct redis_cmd cmd = command("XREAD COUNT 1 STREAMS k 0");
    cmd.complete = false;
    cmd.nargs = 3;
    assert_int_equal(redis_classify(&cmd).class, REDIS_BLOCKING);
    cmd.nargs = 4;
    assert_int_equal(redis_classify(&cmd).class, REDIS_READ);
    cmd = command("client id");
    cmd.complete = false;
    cmd.nargs = 1;
    assert_int_equal(redis_classify(&cmd).class, REDIS_REFUSED);
    cmd.nargs = 0;
    assert_int_equal(redis_classify(&cmd).class, REDIS_UNKNOWN);
}

static void test_inside_multi(void **state)
{
    (void)state;
    static const char *const may[] = {"get k", "set k v", "eval s 0", "blpop k 0",  "json.get k",
                                      "exec",  "discard", "unwatch",  "publish c m"};
    static const char *const may_not[] = {
        "subscribe c", "hello 3", "client reply off", "client tracking on", "monitor",
        "readonly",    "auth x"};
    for (size_t i = 0; i < ARRAY_LEN(may); i++)
        assert_true(classify(may[i]).in_multi);
    for (size_t i = 0; i < ARRAY_LEN(may_not); i++)
        assert_false(classify(may_not[i]).in_multi);
}

/* Lines become one pipeline of RESP commands. */
static struct span pipeline(const char *const *lines, size_t n)
{
    static uint8_t room[65536];
    struct redis_out out = redis_out_of(room, sizeof room);
    struct redis_cmd cmd;
    struct err err;
    for (size_t i = 0; i < n; i++)
        assert_true(
            redis_inline_encode(span_str(lines[i]), &redis_limits_default, &out, &cmd, &err));
    return redis_out_span(&out);
}

static bool is_block(struct span in, struct redis_block *b)
{
    return redis_block_find(in, &redis_limits_default, 4096, 16, b);
}

static void test_block(void **state)
{
    (void)state;
    const char *lines[] = {"multi", "set a 1", "get a", "EXEC", "get b"};
    struct redis_block b;
    struct span in = pipeline(lines, 5);
    assert_true(is_block(in, &b));
    assert_int_equal(b.commands, 4);
    assert_true(b.raw.p == in.p);
    assert_int_equal(in.n - b.raw.n, strlen("*2\r\n$3\r\nget\r\n$1\r\nb\r\n"));
    assert_false(b.script || b.sweeping);
    /* Not complete yet. */
    for (size_t n = 0; n < b.raw.n; n++) {
        struct redis_block part;
        assert_false(is_block(span_of(in.p, n), &part));
    }
    lines[1] = "eval s 0";
    lines[2] = "flushdb";
    assert_true(is_block(pipeline(lines, 5), &b));
    assert_true(b.script && b.sweeping);
    const char *empty[] = {"multi", "exec"};
    assert_true(is_block(pipeline(empty, 2), &b));
    assert_int_equal(b.commands, 2);
}

static void test_no_block(void **state)
{
    (void)state;
    static const char *const inside[] = {"discard",  "watch k",     "multi",    "blpop k 0",
                                         "select 1", "subscribe c", "json.get", "client id",
                                         "ping",     "monitor",     "exec now"};
    struct redis_block b;
    for (size_t i = 0; i < ARRAY_LEN(inside); i++) {
        const char *lines[] = {"multi", inside[i], "exec"};
        assert_false(is_block(pipeline(lines, 3), &b));
    }
    const char *other[] = {"get a", "multi", "exec"};
    assert_false(is_block(pipeline(other, 3), &b));
    assert_false(is_block(SPAN_LIT("MULTI\r\nEXEC\r\n"), &b));
    assert_false(is_block(SPAN_LIT("*1\r\n$5\r\nMULTI\r\n*0\r\n*1\r\n$4\r\nEXEC\r\n"), &b));
    assert_false(is_block(SPAN_LIT("*1\r\n$5\r\nMULTI\r\n*x"), &b));
    /* Bounds. */
    const char *lines[] = {"multi", "get a", "get b", "exec"};
    struct span in = pipeline(lines, 4);
    assert_true(redis_block_find(in, &redis_limits_default, in.n, 4, &b));
    assert_false(redis_block_find(in, &redis_limits_default, in.n - 1, 4, &b));
    assert_false(redis_block_find(in, &redis_limits_default, in.n, 3, &b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_sorted), cmocka_unit_test(test_table_is_found),
        cmocka_unit_test(test_classes),         cmocka_unit_test(test_stream_reads),
        cmocka_unit_test(test_incomplete),      cmocka_unit_test(test_inside_multi),
        cmocka_unit_test(test_block),           cmocka_unit_test(test_no_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
