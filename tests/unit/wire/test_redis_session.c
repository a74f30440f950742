/* SPDX-License-Identifier: MIT */
/* Which server a command goes to, and when a server of one's own ends: pins, MULTI, losses. */
#include "tests/unit/wire/test_redis_relay.h"

/* ---- sharing and pinning ------------------------------------------------------------------- */

static void test_ordinary_commands_share(void **state)
{
    (void)state;
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
    assert_true(act.slot.retryable);
    assert_int_equal(say("set k v"), REDIS_TO_SHARED);
    assert_false(act.slot.retryable);
    assert_false(redis_session_pinned(&session));
}

static void test_blocking_call_is_pinned_until_its_reply(void **state)
{
    (void)state;
    assert_int_equal(say("blpop k 0"), REDIS_TO_PINNED);
    assert_true(act.slot.blocking);
    assert_int_equal(say("get k"), REDIS_TO_PINNED); /* order: behind it, on the same server */
    assert_false(act.slot.retryable);
    assert_false(released());
    assert_int_equal(hear("*2\r\n$1\r\nk\r\n$1\r\nv\r\n"), REDIS_FOR_SLOT);
    assert_false(released());
    assert_int_equal(hear("$-1\r\n"), REDIS_FOR_SLOT);
    assert_true(released());
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
}

static void test_unknown_command_is_pinned(void **state)
{
    (void)state;
    assert_int_equal(say("json.get k"), REDIS_TO_PINNED);
    assert_false(act.slot.blocking);
    hear("-ERR unknown command 'json.get', with args beginning with: 'k' \r\n");
    assert_true(released());
}

static void test_big_command_is_pinned(void **state)
{
    (void)state;
    struct redis_cmd cmd = {.argc = 3, .nargs = 2};
    cmd.args[0] = SPAN_LIT("set");
    cmd.args[1] = SPAN_LIT("k");
    assert_int_equal(say_cmd(&cmd), REDIS_TO_PINNED);
}

static void test_scripts_pinned_on_request(void **state)
{
    (void)state;
    assert_int_equal(say("eval s 0"), REDIS_TO_SHARED);
    conf.pin_scripts = true;
    assert_int_equal(say("eval s 0"), REDIS_TO_PINNED);
}

static void test_sticky_commands_stay_pinned(void **state)
{
    (void)state;
    assert_int_equal(say("readonly"), REDIS_TO_PINNED);
    hear("+OK\r\n");
    assert_false(released());
    assert_int_equal(say("get k"), REDIS_TO_PINNED);
    hear("$-1\r\n");
    assert_false(released());
    assert_answer("reset", "+RESET\r\n");
    pass_barrier();
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
}

static void test_session_mode(void **state)
{
    (void)state;
    conf.session_mode = true;
    assert_int_equal(say("get k"), REDIS_TO_PINNED);
    hear("$-1\r\n");
    assert_false(released());
    assert_int_equal(say("wait 1 0"), REDIS_TO_PINNED);
    assert_true(act.slot.blocking);
}

static void test_reply_without_request(void **state)
{
    (void)state;
    assert_int_equal(say("json.get k"), REDIS_TO_PINNED);
    assert_int_equal(hear("+OK\r\n"), REDIS_FOR_SLOT);
    assert_int_equal(hear("+forged\r\n"), REDIS_FOR_BAD);
}

/* ---- transactions -------------------------------------------------------------------------- */

static void test_multi_exec(void **state)
{
    (void)state;
    assert_int_equal(say("multi"), REDIS_TO_PINNED);
    hear("+OK\r\n");
    assert_false(released());
    assert_int_equal(say("set a 1"), REDIS_TO_PINNED);
    assert_int_equal(say("ping"), REDIS_TO_PINNED);
    assert_int_equal(say("select 0"), REDIS_TO_PINNED);
    hear("+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
    assert_false(released());
    assert_int_equal(say("exec"), REDIS_TO_PINNED);
    assert_false(released());
    hear("*3\r\n+OK\r\n+PONG\r\n+OK\r\n");
    assert_true(released());
}

struct ending {
    const char *line, *reply;
    bool ends;
};

static void test_what_ends_a_transaction(void **state)
{
    (void)state;
    static const struct ending endings[] = {
        {"exec", "*0\r\n", true},
        {"exec", "*-1\r\n", true},
        {"exec", "-EXECABORT Transaction discarded because of previous errors.\r\n", true},
        {"exec", "-MISCONF Errors writing to the AOF file\r\n", true},
        {"discard", "+OK\r\n", true},
        {"discard", "-ERR wrong number of arguments for 'discard' command\r\n", false},
        {"unwatch", "+QUEUED\r\n", false},
        {"get k", "+QUEUED\r\n", false},
        {"multi", "-ERR MULTI calls can not be nested\r\n", false},
        {"watch k", "-ERR WATCH inside MULTI is not allowed\r\n", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(endings); i++) {
        fresh(NULL);
        say("watch k");
        say("multi");
        hear("+OK\r\n+OK\r\n");
        assert_int_equal(say(endings[i].line), REDIS_TO_PINNED);
        hear(endings[i].reply);
        assert_int_equal(released(), endings[i].ends);
    }
}

static void test_watch(void **state)
{
    (void)state;
    assert_int_equal(say("watch k"), REDIS_TO_PINNED);
    hear("+OK\r\n");
    assert_false(released());
    assert_int_equal(say("get k"), REDIS_TO_PINNED);
    hear("$-1\r\n");
    assert_false(released());
    assert_int_equal(say("exec"), REDIS_TO_PINNED);
    hear("-ERR EXEC without MULTI\r\n");
    assert_false(released());
    assert_int_equal(say("unwatch"), REDIS_TO_PINNED);
    hear("+OK\r\n");
    assert_true(released());
}

/* A MULTI that failed must not keep a server for a client that gives up. */
static void test_failed_multi_pins_nobody(void **state)
{
    (void)state;
    say("multi");
    hear("-NOPERM this user has no permissions to run the 'multi' command\r\n");
    assert_true(released());
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
    say("watch");
    hear("-ERR wrong number of arguments for 'watch' command\r\n");
    assert_true(released());
}

static void test_pipelined_transactions(void **state)
{
    (void)state;
    say("multi");
    say("exec");
    say("get k");
    say("multi");
    hear("+OK\r\n*0\r\n$-1\r\n");
    assert_false(released());
    hear("+OK\r\n");
    assert_false(released());
    say("discard");
    hear("+OK\r\n");
    assert_true(released());
}

static void test_nothing_to_end(void **state)
{
    (void)state;
    assert_answer("exec", REDIS_EXEC_WITHOUT_MULTI);
    assert_answer("discard", REDIS_DISCARD_WITHOUT_MULTI);
    assert_answer("unwatch", "+OK\r\n");
    assert_false(redis_session_pinned(&session));
}

static void test_refused_inside_multi_aborts(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        enum cause cause;
    } lines[] = {
        {"subscribe c", CAUSE_UNSUPPORTED}, {"hello 3", CAUSE_UNSUPPORTED},
        {"auth x", CAUSE_UNSUPPORTED},      {"client reply off", CAUSE_UNSUPPORTED},
        {"select 1", CAUSE_UNSUPPORTED},    {"readonly", CAUSE_UNSUPPORTED},
        {"monitor", CAUSE_DENIED},          {"shutdown", CAUSE_DENIED},
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        fresh(NULL);
        say("multi");
        assert_refused(lines[i].line, lines[i].cause);
        assert_int_equal(say("set a 1"), REDIS_TO_PINNED);
        assert_answer("exec", REDIS_EXECABORT);
        hear("+OK\r\n+QUEUED\r\n");
        assert_false(released()); /* the server still has the transaction: it goes by reset */
        pass_barrier();
        assert_int_equal(say("get k"), REDIS_TO_SHARED);
    }
}

static void test_refused_then_discarded(void **state)
{
    (void)state;
    say("multi");
    assert_refused("monitor", CAUSE_DENIED);
    assert_int_equal(say("discard"), REDIS_TO_PINNED);
    hear("+OK\r\n+OK\r\n");
    assert_true(released());
    say("multi");
    assert_int_equal(say("exec"), REDIS_TO_PINNED); /* no memory of it */
}

/* ---- a lost server ------------------------------------------------------------------------- */

static void test_lost_in_multi_executes_nothing(void **state)
{
    (void)state;
    say("multi");
    say("set a 1");
    hear("+OK\r\n");
    assert_false(redis_session_lost(&session));
    n_slots = 0;
    assert_refused("set b 2", CAUSE_UPSTREAM_CLOSED);
    assert_refused("blpop k 0", CAUSE_UPSTREAM_CLOSED);
    assert_refused("json.get k", CAUSE_UPSTREAM_CLOSED);
    assert_answer("multi", REDIS_NESTED_MULTI);
    assert_answer("exec", REDIS_EXECABORT);
    assert_false(act.barrier);
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
}

static void test_lost_in_multi_then_discard_or_reset(void **state)
{
    (void)state;
    say("multi");
    assert_false(redis_session_lost(&session));
    assert_answer("discard", "+OK\r\n");
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
    say("multi");
    assert_false(redis_session_lost(&session));
    assert_answer("reset", "+RESET\r\n");
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
    say("multi");
    assert_false(redis_session_lost(&session));
    assert_answer("quit", "+OK\r\n");
    assert_true(act.closes);
}

/* As if a watched key had changed: that is what clients know how to repeat. */
static void test_lost_while_watching_makes_exec_null(void **state)
{
    (void)state;
    say("watch k");
    hear("+OK\r\n");
    n_slots = 0;
    assert_false(redis_session_lost(&session));
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
    assert_answer("multi", "+OK\r\n");
    assert_answer("set k 1", "+QUEUED\r\n");
    assert_answer("multi", REDIS_NESTED_MULTI);
    assert_answer("exec", "*-1\r\n");
    assert_int_equal(say("multi"), REDIS_TO_PINNED); /* once */
}

static void test_lost_watch_and_a_new_one(void **state)
{
    (void)state;
    say("watch k");
    assert_false(redis_session_lost(&session));
    n_slots = 0;
    assert_int_equal(say("watch j"), REDIS_TO_PINNED);
    assert_answer("multi", "+OK\r\n");
    hear("+OK\r\n");
    assert_answer("set k 1", "+QUEUED\r\n");
    assert_answer("exec", "*-1\r\n");
    pass_barrier(); /* the new watch went with it, as with any EXEC */
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
}

static void test_lost_watch_is_forgotten_by_unwatch(void **state)
{
    (void)state;
    say("watch k");
    assert_false(redis_session_lost(&session));
    n_slots = 0;
    assert_answer("unwatch", "+OK\r\n");
    assert_int_equal(say("multi"), REDIS_TO_PINNED);
}

static void test_lost_with_exec_in_flight(void **state)
{
    (void)state;
    say("multi");
    say("exec");
    assert_false(redis_session_lost(&session)); /* its outcome is the relay's to tell */
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
}

static void test_lost_subscription_closes(void **state)
{
    (void)state;
    say("subscribe a");
    assert_true(redis_session_lost(&session));
    fresh(NULL);
    say("blpop k 0");
    assert_false(redis_session_lost(&session));
}

static void test_blocks(void **state)
{
    (void)state;
    struct redis_block plain = {.commands = 2}, script = {.commands = 3, .script = true};
    assert_true(redis_session_block_ok(&session, &plain));
    assert_true(redis_session_block_ok(&session, &script));
    conf.pin_scripts = true;
    assert_false(redis_session_block_ok(&session, &script));
    say("watch k"); /* it must be the server that watches */
    assert_false(redis_session_block_ok(&session, &plain));
    assert_false(redis_session_lost(&session));
    assert_false(redis_session_block_ok(&session, &plain));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_ordinary_commands_share, fresh),
        cmocka_unit_test_setup(test_blocking_call_is_pinned_until_its_reply, fresh),
        cmocka_unit_test_setup(test_unknown_command_is_pinned, fresh),
        cmocka_unit_test_setup(test_big_command_is_pinned, fresh),
        cmocka_unit_test_setup(test_scripts_pinned_on_request, fresh),
        cmocka_unit_test_setup(test_sticky_commands_stay_pinned, fresh),
        cmocka_unit_test_setup(test_session_mode, fresh),
        cmocka_unit_test_setup(test_reply_without_request, fresh),
        cmocka_unit_test_setup(test_multi_exec, fresh),
        cmocka_unit_test_setup(test_what_ends_a_transaction, fresh),
        cmocka_unit_test_setup(test_watch, fresh),
        cmocka_unit_test_setup(test_failed_multi_pins_nobody, fresh),
        cmocka_unit_test_setup(test_pipelined_transactions, fresh),
        cmocka_unit_test_setup(test_nothing_to_end, fresh),
        cmocka_unit_test_setup(test_refused_inside_multi_aborts, fresh),
        cmocka_unit_test_setup(test_refused_then_discarded, fresh),
        cmocka_unit_test_setup(test_lost_in_multi_executes_nothing, fresh),
        cmocka_unit_test_setup(test_lost_in_multi_then_discard_or_reset, fresh),
        cmocka_unit_test_setup(test_lost_while_watching_makes_exec_null, fresh),
        cmocka_unit_test_setup(test_lost_watch_and_a_new_one, fresh),
        cmocka_unit_test_setup(test_lost_watch_is_forgotten_by_unwatch, fresh),
        cmocka_unit_test_setup(test_lost_with_exec_in_flight, fresh),
        cmocka_unit_test_setup(test_lost_subscription_closes, fresh),
        cmocka_unit_test_setup(test_blocks, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
