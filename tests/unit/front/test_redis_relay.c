/* SPDX-License-Identifier: MIT */
/* What a Redis client of a pool hears, and what servers are asked meanwhile. */
#include <string.h>

#include "pools/ledger.h"
#include "proxy/front/redis.h"
#include "tests/unit/front/redis_stage.h"

#define OK "+OK\r\n"

static uint64_t retries(void)
{
    return counter_get(&pool_stats(stage_pool())->retries);
}

static unsigned leased(void)
{
    return (unsigned)counter_get(&pool_stats(stage_pool())->leased);
}

/* ---- order ---- */

static void answers_of_all_kinds_keep_their_place(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    stage_say(a, "GET one\r\nPING\r\nGET two\r\nECHO x\r\nMONITOR\r\n");
    stage_reads(a, ""); /* PING has to wait for GET */
    stage_hears(0, "*2\r\n$3\r\nGET\r\n$3\r\none\r\n*2\r\n$3\r\nGET\r\n$3\r\ntwo\r\n");
    stage_answer(0, "$1\r\n1\r\n");
    stage_reads(a, "$1\r\n1\r\n+PONG\r\n");
    stage_answer(0, "$1\r\n2\r\n");
    stage_reads_start(a, "$1\r\n2\r\n$1\r\nx\r\n-ERR carpool: denied ");
}

static void clients_share_one_server(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client(), b = stage_client();
    stage_say(a, "GET a\r\n");
    stage_say(b, "GET b\r\n");
    stage_say(a, "GET c\r\n");
    assert_int_equal(stage_dials, 1);
    stage_answer(0, "$2\r\na1\r\n$2\r\nb1\r\n$2\r\nc1\r\n");
    stage_reads(a, "$2\r\na1\r\n$2\r\nc1\r\n");
    stage_reads(b, "$2\r\nb1\r\n");
    assert_int_equal(leased(), 0);
}

/* A reply cut anywhere reaches whom it is for, and only that one. */
static void replies_cut_at_every_byte(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client(), b = stage_client();
    stage_say(a, "LRANGE l 0 -1\r\n");
    stage_say(b, "GET b\r\n");
    (void)stage_heard(0);
    static const char replies[] = "*2\r\n$1\r\nx\r\n$-1\r\n$3\r\nb\r\n\r\n";
    for (const char *c = replies; *c; c++)
        stage_answer(0, (const char[]){*c, '\0'});
    stage_reads(a, "*2\r\n$1\r\nx\r\n$-1\r\n");
    stage_reads(b, "$3\r\nb\r\n\r\n");
}

/* ---- one server of one's own ---- */

static void a_transaction_waits_for_what_was_asked_before(void **state)
{
    (void)state;
    stage_conf.size.max = 2;
    stage_open();
    int a = stage_client();
    stage_say(a, "GET x\r\n");
    stage_hears(0, resp2("GET", "x"));
    stage_say(a, "WATCH k\r\nMULTI\r\n");
    stage_hears(0, "");
    assert_int_equal(leased(), 1);
    stage_answer(0, "$1\r\n1\r\n");
    unsigned own = stage_dials - 1;
    stage_hears(own, "*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n*1\r\n$5\r\nMULTI\r\n");
    stage_answer(own, OK OK);
    stage_reads(a, "$1\r\n1\r\n" OK OK);
    assert_int_equal(leased(), 1); /* kept while the transaction is open */
    stage_say(a, "EXEC\r\n");
    stage_answer(own, "*0\r\n");
    stage_reads(a, "*0\r\n");
    assert_int_equal(leased(), 0);
    assert_false(stage_was_left(own)); /* EXEC leaves nothing behind: no reset, no close */
}

static void who_leaves_inside_a_transaction_leaves_a_reset_behind(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    stage_say(a, "MULTI\r\n");
    stage_hears(0, resp1("MULTI"));
    stage_answer(0, OK);
    stage_leave(a);
    char end[64];
    stage_expects_reset(0, end, sizeof end);
    int b = stage_client();
    stage_say(b, "GET x\r\n");
    stage_hears(0, ""); /* not before the last word of the reset */
    stage_answer(0, "+RESET\r\n" OK);
    stage_hears(0, "");
    stage_answer(0, end);
    stage_hears(0, resp2("GET", "x"));
    assert_int_equal(stage_dials, 1);
    stage_answer(0, "$-1\r\n");
    stage_reads(b, "$-1\r\n");
}

static void a_reset_that_fails_costs_the_server(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "-ERR no RESET here\r\n+OK\r\n$24\r\naaaaaaaaaaaaaaaaaaaaaaaa\r\n",
        "+RESET\r\n+OK\r\n$24\r\naaaaaaaaaaaaaaaaaaaaaaaa\r\n",
        "+RESET\r\n+OK\r\n+OK\r\n",
        "+RESET\r\n+RESET\r\n+OK\r\n",
    };
    stage_open();
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        int a = stage_client();
        stage_say(a, "SOMETHING\r\n");
        (void)stage_heard(i);
        stage_answer(i, "+done\r\n");
        stage_reads(a, "+done\r\n");
        (void)stage_heard(i);
        stage_answer(i, wrong[i]);
        assert_true(stage_was_left(i));
        stage_hang_up(i);
    }
}

static void old_servers_are_closed_instead(void **state)
{
    (void)state;
    stage_about = (struct redis_about){.version = "6.0.16"};
    stage_open();
    int a = stage_client();
    stage_say(a, "SOMETHING\r\n");
    (void)stage_heard(0);
    stage_answer(0, "+done\r\n");
    assert_true(stage_was_left(0));
}

static void a_lost_watch_is_a_changed_key(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    stage_say(a, "WATCH k\r\n");
    stage_answer(0, OK);
    stage_reads(a, OK);
    stage_hang_up(0);
    stage_say(a, "MULTI\r\nSET k 1\r\nEXEC\r\n");
    stage_reads(a, OK "+QUEUED\r\n*-1\r\n");
    assert_int_equal(stage_dials, 1); /* nothing of it went anywhere */
}

static void a_lost_transaction_is_aborted(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    stage_say(a, "MULTI\r\n");
    stage_answer(0, OK);
    stage_hang_up(0);
    stage_say(a, "EXEC\r\nPING\r\n");
    stage_reads(a, OK "-EXECABORT Transaction discarded because of previous errors.\r\n+PONG\r\n");
    assert_int_equal(stage_dials, 1);
}

/* ---- too late ---- */

static void late_replies_are_swallowed(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client(), b = stage_client();
    stage_say(a, "GET late\r\n");
    stage_pass(4000);
    stage_say(b, "GET b\r\n");
    stage_reads(a, "");
    stage_pass(1000);
    stage_reads(a, "-ERR carpool: request_timeout no reply within 5000 ms\r\n");
    stage_say(a, "GET c\r\n");
    stage_answer(0, "$4\r\nlate\r\n$1\r\nb\r\n$1\r\nc\r\n");
    stage_reads(b, "$1\r\nb\r\n");
    stage_reads(a, "$1\r\nc\r\n");
    assert_int_equal(stage_dials, 1);
}

static void nobody_waits_for_the_dead(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client(), b = stage_client();
    stage_say(a, "SET a 1\r\n");
    stage_say(b, "GET b\r\n");
    (void)stage_heard(0);
    stage_leave(a);
    stage_answer(0, OK "$1\r\nb\r\n");
    stage_reads(b, "$1\r\nb\r\n");
    assert_int_equal(leased(), 0);
}

/* ---- lost servers ---- */

static void reads_are_tried_again_after_a_pause(void **state)
{
    (void)state;
    stage_conf.size.min = 0;
    stage_open();
    int a = stage_client();
    stage_say(a, "GET x\r\n");
    for (unsigned try = 0; try < 3; try++) {
        stage_hears(try, resp2("GET", "x"));
        stage_hang_up(try);
        if (try == 2)
            break;
        assert_int_equal(retries(), try + 1u);
        assert_int_equal(stage_dials, try + 1u); /* not at once... */
        stage_reads(a, "");
        stage_pass(100);
        assert_int_equal(stage_dials, try + 2u); /* ... but within retry.backoff */
    }
    stage_reads(a, "-ERR carpool: upstream_closed peer:1 closed the connection\r\n");
    assert_int_equal(retries(), 2);
}

static void no_pause_beyond_the_deadline(void **state)
{
    (void)state;
    stage_conf.retry.backoff_min_ms = stage_conf.retry.backoff_max_ms = 60000;
    stage_conf.timeouts.request_ms = 1; /* of 60000 evenly distributed pauses, one fits */
    stage_open();
    int a = stage_client();
    stage_say(a, "GET x\r\n");
    stage_hang_up(0);
    stage_reads_start(a, "-ERR carpool: upstream_closed ");
}

static void all_tries_share_one_deadline(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    stage_say(a, "GET x\r\n");
    stage_pass(4800);
    stage_hang_up(0);
    stage_pass(100);
    stage_hears(1, resp2("GET", "x"));
    stage_reads(a, "");
    stage_pass(100); /* 5000 after the first */
    stage_reads_start(a, "-ERR carpool: request_timeout ");
}

static void writes_are_not_tried_again(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    stage_say(a, "GET x\r\nINCR n\r\nGET y\r\n");
    (void)stage_heard(0);
    stage_answer(0, "$1\r\n1\r\n");
    stage_hang_up(0);
    stage_reads_start(a, "$1\r\n1\r\n-ERR carpool: upstream_closed ");
    stage_pass(100);
    stage_hears(1, resp2("GET", "y"));
    stage_answer(1, "$1\r\n2\r\n");
    stage_reads(a, "$1\r\n2\r\n");
    assert_int_equal(retries(), 1);
}

/* What comes while a read waits for its next try goes behind it. */
static void order_over_a_pause(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    stage_say(a, "GET x\r\n");
    stage_hang_up(0);
    stage_say(a, "SET y 1\r\n");
    stage_pass(100);
    stage_hears(1, "*2\r\n$3\r\nGET\r\n$1\r\nx\r\n*3\r\n$3\r\nSET\r\n$1\r\ny\r\n$1\r\n1\r\n");
    stage_answer(1, "$-1\r\n" OK);
    stage_reads(a, "$-1\r\n" OK);
}

static void half_a_reply_ends_the_client(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    stage_say(a, "GET x\r\n");
    stage_answer(0, "$10\r\nhalf");
    stage_reads(a, "$10\r\nhalf");
    stage_hang_up(0);
    stage_reads_end(a);
}

static void a_reply_nobody_asked_for_ends_the_server(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client(), b = stage_client();
    stage_say(a, "GET x\r\n");
    stage_say(b, "SET y 1\r\n");
    stage_answer(0, "$1\r\nx\r\n" OK "$6\r\nforged\r\n");
    stage_reads(a, "$1\r\nx\r\n");
    stage_reads(b, OK);
    assert_true(stage_was_left(0));
}

/* ---- bounds ---- */

/* Behind a call that blocks, what carpool answers itself piles up as well. */
static void local_answers_are_bounded(void **state)
{
    (void)state;
    static char echo[60000];
    stage_open();
    int a = stage_client();
    const struct redis_client *c = redis_client_of(stage_session());
    stage_say(a, "BLPOP k 0\r\n");
    size_t head = (size_t)snprintf(echo, sizeof echo, "ECHO ");
    memset(echo + head, 'x', sizeof echo - head - 3);
    memcpy(echo + sizeof echo - 3, "\r\n", 3);
    size_t high = stage_front_conf.limits.buffer;
    for (int i = 0; i < 9; i++)
        stage_say(a, echo);
    assert_true(c->bytes > high && c->bytes <= high + sizeof echo);
    assert_true(c->work->answers.len <= high + sizeof echo);
    (void)stage_heard(0);
    stage_answer(0, "*-1\r\n");
    stage_reads_start(a, "*-1\r\n$59992\r\nx");
    for (int i = 0; i < 9; i++)
        stage_reads_start(a, ""); /* the rest */
    assert_int_equal(c->bytes, 0);
    assert_int_equal(c->n_requests, 0);
}

/* Where several users log in, what a script of one says is no news of the server. */
static void scripts_of_one_user_do_not_speak_for_the_server(void **state)
{
    (void)state;
    static const struct user_conf users[] = {{"a", "1"}, {"b", "2"}};
    stage_auth(AUTH_PASSWORD);
    stage_front_conf.auth = (struct auth_conf){.users = users, .n_users = 2};
    stage_conf.breaker.consecutive = 1;
    stage_open();
    int a = stage_client(), b = stage_client();
    stage_say(a, "AUTH a 1\r\n");
    stage_say(b, "AUTH b 2\r\n");
    stage_reads(a, OK);
    stage_reads(b, OK);
    static const char *const lies[] = {"-LOADING x\r\n", "-READONLY x\r\n", "-BUSY x\r\n",
                                       "-NOAUTH x\r\n"};
    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        stage_say(a, "EVAL lie 0\r\n");
        (void)stage_heard(0);
        stage_answer(0, lies[i]);
        stage_reads(a, lies[i]);
        stage_answer_reset(0);
        assert_false(stage_was_left(0));
    }
    stage_say(b, "GET x\r\n");
    stage_hears(0, resp2("GET", "x"));
    stage_answer(0, "-LOADING x\r\n"); /* this is */
    stage_reads(b, "-LOADING x\r\n");
    assert_true(stage_was_left(0));
}

/* ---- failover ---- */

static void a_demoted_primary_is_left_by_all(void **state)
{
    (void)state;
    stage_conf.size.max = stage_conf.size.min = 3;
    stage_open();
    assert_int_equal(stage_dials, 3);
    int a = stage_client();
    stage_say(a, "SET x 1\r\n");
    unsigned met = 0;
    while (met < 3 && strcmp(stage_heard(met), resp3("SET", "x", "1")) != 0)
        met++;
    stage_answer(met, "-READONLY You can't write against a read only replica.\r\n");
    stage_reads(a, "-READONLY You can't write against a read only replica.\r\n");
    for (unsigned i = 0; i < 3; i++) {
        assert_true(stage_was_left(i));
        stage_hang_up(i);
    }
    stage_say(a, "SET x 1\r\n");
    assert_true(stage_dials > 3);
    /* Not again so soon: whoever always says so is not dialed all the time. */
    unsigned now = 3;
    while (now < stage_dials && strcmp(stage_heard(now), resp3("SET", "x", "1")) != 0)
        now++;
    stage_answer(now, "-READONLY still\r\n");
    stage_reads(a, "-READONLY still\r\n");
    assert_false(stage_was_left(now));
    stage_pass(5000);
    stage_say(a, "SET x 1\r\n");
    (void)stage_heard(now);
    stage_answer(now, "-READONLY still\r\n");
    assert_true(stage_was_left(now));
}

/* ---- what a client costs ---- */

static void an_idle_client_costs_little(void **state)
{
    (void)state;
    stage_open();
    int a = stage_client();
    const struct redis_client *c = redis_client_of(stage_session());
    assert_true(sizeof *c <= 704);
    assert_null(c->work);
    stage_say(a, "GET x\r\nPING\r\n");
    assert_non_null(c->work);
    stage_answer(0, "$-1\r\n");
    stage_reads(a, "$-1\r\n+PONG\r\n");
    assert_null(c->work);
    assert_int_equal(c->carry.len + c->base.io.out.len, 0);
    stage_say(a, "GET"); /* half a command is something under way */
    assert_non_null(c->work);
    stage_say(a, " x\r\n");
    stage_answer(0, "$-1\r\n");
    assert_null(c->work);
    stage_say(a, "WATCH k\r\n");
    stage_answer(0, OK);
    assert_non_null(c->work);
    stage_say(a, "UNWATCH\r\n");
    stage_answer(0, OK);
    assert_null(c->work);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STAGE(answers_of_all_kinds_keep_their_place),
        STAGE(clients_share_one_server),
        STAGE(replies_cut_at_every_byte),
        STAGE(a_transaction_waits_for_what_was_asked_before),
        STAGE(who_leaves_inside_a_transaction_leaves_a_reset_behind),
        STAGE(a_reset_that_fails_costs_the_server),
        STAGE(old_servers_are_closed_instead),
        STAGE(a_lost_watch_is_a_changed_key),
        STAGE(a_lost_transaction_is_aborted),
        STAGE(late_replies_are_swallowed),
        STAGE(nobody_waits_for_the_dead),
        STAGE(reads_are_tried_again_after_a_pause),
        STAGE(no_pause_beyond_the_deadline),
        STAGE(all_tries_share_one_deadline),
        STAGE(writes_are_not_tried_again),
        STAGE(order_over_a_pause),
        STAGE(half_a_reply_ends_the_client),
        STAGE(a_reply_nobody_asked_for_ends_the_server),
        STAGE(local_answers_are_bounded),
        STAGE(scripts_of_one_user_do_not_speak_for_the_server),
        STAGE(a_demoted_primary_is_left_by_all),
        STAGE(an_idle_client_costs_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
