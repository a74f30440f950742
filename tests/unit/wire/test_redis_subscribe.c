/* SPDX-License-Identifier: MIT */
/* Subscriptions: counting confirmations, telling messages from replies, the end of the pin. */
#include "tests/unit/wire/test_redis_relay.h"

static void test_subscribe_and_leave(void **state)
{
    (void)state;
    assert_int_equal(say("subscribe a b"), REDIS_TO_PINNED);
    assert_true(redis_session_subscribed(&session));
    assert_int_equal(hear(CONFIRM("subscribe", 9, "a", "1")), REDIS_FOR_MORE);
    assert_int_equal(hear(CONFIRM("subscribe", 9, "b", "2")), REDIS_FOR_SLOT);
    assert_false(released());
    assert_int_equal(hear("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"), REDIS_FOR_NONE);
    assert_int_equal(say("psubscribe p*"), REDIS_TO_PINNED);
    hear("*3\r\n$10\r\npsubscribe\r\n$2\r\np*\r\n:3\r\n");
    /* One confirmation for each subscription, messages in between. */
    assert_int_equal(say("unsubscribe"), REDIS_TO_PINNED);
    assert_int_equal(hear(CONFIRM("unsubscribe", 11, "a", "2")), REDIS_FOR_MORE);
    assert_int_equal(hear("*4\r\n$8\r\npmessage\r\n$2\r\np*\r\n$2\r\npx\r\n$2\r\nhi\r\n"),
                     REDIS_FOR_NONE);
    assert_int_equal(hear(CONFIRM("unsubscribe", 11, "b", "1")), REDIS_FOR_SLOT);
    assert_false(released());
    assert_int_equal(say("punsubscribe p*"), REDIS_TO_PINNED);
    assert_int_equal(hear("*3\r\n$12\r\npunsubscribe\r\n$2\r\np*\r\n:0\r\n"), REDIS_FOR_SLOT);
    assert_true(released());
    assert_false(redis_session_subscribed(&session));
}

static void test_same_channel_twice(void **state)
{
    (void)state;
    say("subscribe a a");
    hear(CONFIRM("subscribe", 9, "a", "1"));
    assert_int_equal(hear(CONFIRM("subscribe", 9, "a", "1")), REDIS_FOR_SLOT);
    say("unsubscribe");
    assert_int_equal(hear(CONFIRM("unsubscribe", 11, "a", "0")), REDIS_FOR_SLOT);
    assert_true(released());
}

static void test_unsubscribe_from_nothing(void **state)
{
    (void)state;
    assert_int_equal(say("unsubscribe"), REDIS_TO_PINNED);
    assert_int_equal(hear("*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"), REDIS_FOR_SLOT);
    assert_true(released());
}

static void test_shard_channels(void **state)
{
    (void)state;
    say("ssubscribe a");
    hear(CONFIRM("ssubscribe", 10, "a", "1"));
    assert_false(released());
    /* The cluster moved the slot: nobody asked. */
    assert_int_equal(hear(CONFIRM("sunsubscribe", 12, "a", "0")), REDIS_FOR_NONE);
    assert_true(released());
}

static void test_subscribe_refused_by_the_server(void **state)
{
    (void)state;
    say("subscribe");
    assert_int_equal(hear("-ERR wrong number of arguments for 'subscribe' command\r\n"),
                     REDIS_FOR_SLOT);
    assert_true(released());
}

/* A reply that only looks like a message, to a request from before the subscription. */
static void test_replies_before_the_subscription(void **state)
{
    (void)state;
    say("json.get k");
    say("subscribe a");
    assert_int_equal(hear("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n"), REDIS_FOR_SLOT);
    assert_int_equal(hear(CONFIRM("subscribe", 9, "a", "1")), REDIS_FOR_SLOT);
    assert_int_equal(n_slots, 0);
}

static void test_subscribed_commands(void **state)
{
    (void)state;
    say("subscribe a");
    hear(CONFIRM("subscribe", 9, "a", "1"));
    assert_int_equal(say("ping"), REDIS_TO_PINNED); /* the server's shape, not ours */
    assert_int_equal(hear("*2\r\n$4\r\npong\r\n$0\r\n\r\n"), REDIS_FOR_SLOT);
    assert_int_equal(say("get k"), REDIS_TO_PINNED); /* the server's wording */
    hear("-ERR Can't execute 'get': only (P|S)SUBSCRIBE / ...\r\n");
    assert_answer("client id",
                  "-ERR Can't execute 'client|id': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / "
                  "QUIT / RESET are allowed in this context\r\n");
    assert_refused("monitor", CAUSE_DENIED);
    assert_answer("quit", "+OK\r\n");
    assert_true(act.closes);
}

static void test_reset_ends_subscriptions(void **state)
{
    (void)state;
    say("subscribe a");
    hear(CONFIRM("subscribe", 9, "a", "1"));
    assert_answer("reset", "+RESET\r\n");
    pass_barrier();
    assert_false(redis_session_subscribed(&session));
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
}

static void test_resp3_pushes(void **state)
{
    (void)state;
    conf.allow_resp3 = true;
    say("hello 3");
    assert_int_equal(answer[0], '%');
    say("subscribe a b");
    say("lrange k 0 -1");
    assert_int_equal(hear(">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), REDIS_FOR_MORE);
    assert_int_equal(hear(">3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"), REDIS_FOR_SLOT);
    assert_int_equal(hear(">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"), REDIS_FOR_NONE);
    assert_int_equal(hear(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"), REDIS_FOR_NONE);
    /* An array is a reply, whatever it says: RESP3 has pushes for messages. */
    assert_int_equal(hear("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"), REDIS_FOR_SLOT);
    assert_int_equal(n_slots, 0);
    assert_answer("client getname", "_\r\n");
}

static void test_long_channel_is_refused(void **state)
{
    (void)state;
    static char line[REDIS_CHANNEL_MAX + 32] = "subscribe a ";
    size_t n = strlen(line);
    memset(line + n, 'x', REDIS_CHANNEL_MAX + 1);
    assert_refused(line, CAUSE_TOO_LARGE);
    assert_false(redis_session_subscribed(&session));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_subscribe_and_leave, fresh),
        cmocka_unit_test_setup(test_same_channel_twice, fresh),
        cmocka_unit_test_setup(test_unsubscribe_from_nothing, fresh),
        cmocka_unit_test_setup(test_shard_channels, fresh),
        cmocka_unit_test_setup(test_subscribe_refused_by_the_server, fresh),
        cmocka_unit_test_setup(test_replies_before_the_subscription, fresh),
        cmocka_unit_test_setup(test_subscribed_commands, fresh),
        cmocka_unit_test_setup(test_reset_ends_subscriptions, fresh),
        cmocka_unit_test_setup(test_resp3_pushes, fresh),
        cmocka_unit_test_setup(test_long_channel_is_refused, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
