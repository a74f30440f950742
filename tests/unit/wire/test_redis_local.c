/* SPDX-License-Identifier: MIT */
/* What carpool answers itself: login, HELLO, names, refusals, CLIENT REPLY. */
#include "tests/unit/wire/test_redis_relay.h"

/* ---- login --------------------------------------------------------------------------------- */

static void test_login(void **state)
{
    (void)state;
    conf.auth_required = true;
    redis_session_init(&session, &conf, 7);
    assert_ptr_equal(redis_session_limits(&session), &redis_limits_unauth);
    assert_answer("get k", REDIS_NOAUTH);
    assert_answer("ping", REDIS_NOAUTH);
    assert_answer("monitor", REDIS_NOAUTH);
    assert_answer("hello 2", REDIS_NOAUTH_HELLO);
    assert_int_equal(say("auth secret"), REDIS_TO_AUTH);
    assert_null(act.user.p);
    assert_true(span_eq(act.password, SPAN_LIT("secret")));
    pass(REDIS_AUTH_WRONG);
    assert_string_equal(answer, REDIS_WRONGPASS);
    assert_answer("get k", REDIS_NOAUTH);
    assert_int_equal(say("auth app secret"), REDIS_TO_AUTH);
    assert_true(span_eq(act.user, SPAN_LIT("app")));
    pass(REDIS_AUTH_OK);
    assert_string_equal(answer, "+OK\r\n");
    assert_ptr_equal(redis_session_limits(&session), &redis_limits_default);
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
    assert_answer("reset", "+RESET\r\n");
    assert_answer("get k", REDIS_NOAUTH);
    assert_answer("quit", "+OK\r\n");
    assert_true(act.closes);
}

static void test_login_wordings(void **state)
{
    (void)state;
    assert_answer("auth", "-ERR wrong number of arguments for 'auth' command\r\n");
    assert_answer("auth a b c", REDIS_SYNTAX);
    say("auth x");
    pass(REDIS_AUTH_NOT_CONFIGURED);
    assert_string_equal(answer, REDIS_NO_PASSWORD);
}

static void test_hello(void **state)
{
    (void)state;
    static const struct redis_about about = {"valkey", "8.0.1", "cluster", "replica"};
    /* As long as no server was asked. */
    assert_answer("hello 2",
                  "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n6.0.0\r\n"
                  "$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n"
                  "$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
                  "$7\r\nmodules\r\n*0\r\n");
    session.about = &about;
    assert_answer("hello 2",
                  "*14\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n8.0.1\r\n"
                  "$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n"
                  "$7\r\ncluster\r\n$4\r\nrole\r\n$7\r\nreplica\r\n"
                  "$7\r\nmodules\r\n*0\r\n");
    assert_answer("hello 3", REDIS_NOPROTO);
    assert_answer("hello 4", REDIS_NOPROTO);
    assert_answer("hello x", "-ERR Protocol version is not an integer or out of range\r\n");
    assert_answer("hello 2 auth x", "-ERR Syntax error in HELLO option 'auth'\r\n");
    assert_answer("hello 2 foo", "-ERR Syntax error in HELLO option 'foo'\r\n");
    say("hello 2 setname me");
    assert_answer("client getname", "$2\r\nme\r\n");
    assert_int_equal(say("hello"), REDIS_TO_CLIENT);
    assert_int_equal(answer[0], '*');
}

static void test_hello_with_login(void **state)
{
    (void)state;
    conf.auth_required = true;
    redis_session_init(&session, &conf, 7);
    assert_int_equal(say("hello 2 setname me auth app secret"), REDIS_TO_AUTH);
    assert_true(span_eq(act.user, SPAN_LIT("app")));
    assert_true(span_eq(act.password, SPAN_LIT("secret")));
    pass(REDIS_AUTH_WRONG);
    assert_string_equal(answer, REDIS_WRONGPASS);
    say("hello 2 auth app secret setname me");
    pass(REDIS_AUTH_OK);
    assert_int_equal(strncmp(answer, "*14\r\n", 5), 0);
    assert_answer("client getname", "$2\r\nme\r\n");
}

/* ---- answered here ------------------------------------------------------------------------- */

static void test_local_answers(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"ping", "+PONG\r\n"},
        {"PING hi", "$2\r\nhi\r\n"},
        {"ping a b", "-ERR wrong number of arguments for 'ping' command\r\n"},
        {"echo hi", "$2\r\nhi\r\n"},
        {"echo", "-ERR wrong number of arguments for 'echo' command\r\n"},
        {"select 0", "+OK\r\n"},
        {"select x", REDIS_NOT_INTEGER},
        {"select", "-ERR wrong number of arguments for 'select' command\r\n"},
        {"client id", ":7\r\n"},
        {"client id x", "-ERR wrong number of arguments for 'client|id' command\r\n"},
        {"client getname", "$-1\r\n"},
        {"client setname", "-ERR wrong number of arguments for 'client|setname' command\r\n"},
        {"client setname 'a b'",
         "-ERR Client names cannot contain spaces, newlines or special characters.\r\n"},
        {"client setname me", "+OK\r\n"},
        {"client getname", "$2\r\nme\r\n"},
        {"client setname ''", "+OK\r\n"},
        {"client getname", "$-1\r\n"},
        {"client setinfo lib-name redis-py", "+OK\r\n"},
        {"client setinfo LIB-VER 5.0", "+OK\r\n"},
        {"client setinfo x y", "-ERR Unrecognized option 'x'\r\n"},
        {"client setinfo lib-ver 'a b'",
         "-ERR lib-ver cannot contain spaces, newlines or special characters.\r\n"},
        {"client getredir", ":-1\r\n"},
        {"client trackinginfo", "*6\r\n$5\r\nflags\r\n*1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n"
                                "$8\r\nprefixes\r\n*0\r\n"},
        {"client reply maybe", REDIS_SYNTAX},
        {"client nonsense", "-ERR unknown subcommand 'nonsense'. Try CLIENT HELP.\r\n"},
        {"reset x", "-ERR wrong number of arguments for 'reset' command\r\n"},
        {"reset", "+RESET\r\n"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_answer(cases[i][0], cases[i][1]);
    assert_answer("client info", "$73\r\nid=7 addr=? laddr=? fd=-1 name= db=0 sub=0 psub=0 ssub=0 "
                                 "multi=-1 resp=2\n\r\n");
}

/* Whoever hears nothing of a refusal finds it in the log, and the log says why. */
static void test_muted_refusals_have_a_reason(void **state)
{
    (void)state;
    assert_answer("client reply off", "");
    assert_answer("monitor", "");
    assert_int_equal(act.cause, CAUSE_DENIED);
    assert_non_null(strstr(act.note, "monitor: it shows the traffic"));
    conf.auth_required = true;
    redis_session_init(&session, &conf, 7);
    assert_answer("get x", REDIS_NOAUTH);
    assert_non_null(strstr(act.note, "logged in"));
    assert_answer("hello 2", REDIS_NOAUTH_HELLO);
    assert_non_null(strstr(act.note, "logged in"));
}

/* A muted login is a login all the same. */
static void test_muted_login(void **state)
{
    (void)state;
    conf.auth_required = true;
    redis_session_init(&session, &conf, 7);
    session.mute = REDIS_MUTE_ALL;
    assert_int_equal(say("hello 2 auth app secret setname me"), REDIS_TO_AUTH);
    pass(REDIS_AUTH_OK);
    assert_string_equal(answer, "");
    assert_answer("client reply on", "+OK\r\n");
    assert_answer("client getname", "$2\r\nme\r\n");
}

static void test_refusals(void **state)
{
    (void)state;
    assert_refused("monitor", CAUSE_DENIED);
    assert_refused("config set a b", CAUSE_DENIED);
    assert_refused("wait 1 0", CAUSE_DENIED);
    assert_refused("select 1", CAUSE_UNSUPPORTED);
    assert_refused("client tracking on", CAUSE_UNSUPPORTED);
    char line[200] = "client setname ";
    memset(line + strlen(line), 'x', 100);
    assert_refused(line, CAUSE_TOO_LARGE);
    struct redis_cmd big = {.argc = 2, .nargs = 1};
    big.args[0] = SPAN_LIT("echo");
    assert_int_equal(say_cmd(&big), REDIS_TO_CLIENT);
    assert_int_equal(act.cause, CAUSE_TOO_LARGE);
}

static void test_client_reply(void **state)
{
    (void)state;
    assert_answer("client reply off", "");
    assert_answer("ping", "");
    assert_true(act.mute);
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
    assert_true(act.slot.mute);
    assert_int_equal(say("subscribe a"), REDIS_TO_PINNED);
    assert_false(act.slot.mute);
    hear(CONFIRM("subscribe", 9, "a", "1"));
    say("unsubscribe");
    hear(CONFIRM("unsubscribe", 11, "a", "0"));
    assert_true(released());
    assert_answer("client reply skip", "");
    assert_answer("ping", "");
    assert_answer("client reply on", "+OK\r\n");
    assert_answer("ping", "+PONG\r\n");
    assert_answer("client reply skip", "");
    assert_int_equal(say("get k"), REDIS_TO_SHARED);
    assert_true(act.slot.mute);
    assert_answer("ping", "+PONG\r\n");
    assert_answer("client reply skip", "");
    assert_answer("client reply on", "+OK\r\n");
    assert_answer("client reply off", "");
    assert_answer("reset", "+RESET\r\n");
    assert_answer("ping", "+PONG\r\n");
}

static void test_client_reply_and_login(void **state)
{
    (void)state;
    assert_answer("client reply skip", "");
    say("auth x");
    pass(REDIS_AUTH_OK);
    assert_string_equal(answer, "");
    say("auth x");
    pass(REDIS_AUTH_OK);
    assert_string_equal(answer, "+OK\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_login, fresh),
        cmocka_unit_test_setup(test_login_wordings, fresh),
        cmocka_unit_test_setup(test_hello, fresh),
        cmocka_unit_test_setup(test_hello_with_login, fresh),
        cmocka_unit_test_setup(test_local_answers, fresh),
        cmocka_unit_test_setup(test_muted_refusals_have_a_reason, fresh),
        cmocka_unit_test_setup(test_muted_login, fresh),
        cmocka_unit_test_setup(test_refusals, fresh),
        cmocka_unit_test_setup(test_client_reply, fresh),
        cmocka_unit_test_setup(test_client_reply_and_login, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
