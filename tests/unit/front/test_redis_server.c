/* SPDX-License-Identifier: MIT */
/* The queue of calls of one Redis server: whose reply is whose, and what is known of a lost one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pools/ledger.h"
#include "tests/unit/front/redis_stage.h"

/* A caller who writes down what happens to its calls, in the order it does. */
static char story[4096];

static void note(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void note(const char *fmt, ...)
{
    size_t n = strlen(story);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(story + n, sizeof story - n, fmt, ap);
    va_end(ap);
}

static void tells(const char *expected)
{
    stage_settle();
    assert_string_equal(story, expected);
    story[0] = '\0';
}

struct probe {
    struct redis_call call; /* first: it may be buried */
    char name;
};

static void on_reply(struct redis_call *call, const struct redis_reply_piece *piece)
{
    const struct probe *p = OWNER(call, struct probe, call);
    note("%c:%.*s%s ", p->name, (int)piece->line.n, (const char *)piece->line.p,
         call->replies == 0 && piece->ends ? "" : "...");
}

static void on_lost(struct redis_call *call, const struct redis_loss *loss)
{
    const struct probe *p = OWNER(call, struct probe, call);
    uint8_t first;
    assert_true(call->bytes == 0 || bufq_peek(loss->log, &first, 1) == 1);
    note("%c lost%s ", p->name, loss->unsent ? " unsent" : "");
    if (loss->unsent)
        assert_int_equal(first, p->name); /* its own bytes are at the front of the log */
}

static const struct redis_call_ops ops = {.on_reply = on_reply, .on_lost = on_lost};

static struct probe *probe(char name, uint32_t replies)
{
    struct probe *p = calloc(1, sizeof *p);
    assert_non_null(p);
    p->call.ops = &ops;
    p->call.replies = replies;
    p->name = name;
    return p;
}

/* Who leases: shares the one server. */
struct rider {
    struct redis_user user;
    struct waiter waiter;
};

static void rider_lost(struct redis_user *user, const struct redis_loss *loss)
{
    (void)user;
    note("rider lost %s ", outcome_word(loss->why));
}

static void on_lease(struct waiter *w)
{
    struct rider *r = OWNER(w, struct rider, waiter);
    assert_non_null(w->server);
    r->user.server = w->server;
    r->user.on_lost = rider_lost;
    redis_user_join(&r->user);
}

static struct redis_server *board(struct rider *r)
{
    *r = (struct rider){.waiter = {.on_lease = on_lease}};
    list_init(&r->user.node);
    if (pool_lease(stage_pool(), &r->waiter) == LEASE_GRANTED)
        on_lease(&r->waiter);
    stage_settle();
    assert_non_null(r->user.server);
    return redis_server_of(r->user.server);
}

static struct probe *ask(struct redis_server *rs, char name, uint32_t replies)
{
    struct probe *p = probe(name, replies);
    uint8_t byte = (uint8_t)name;
    assert_true(redis_call_send(rs, &p->call, span_of(&byte, 1)));
    return p;
}

static unsigned idle(void)
{
    stage_settle();
    return (unsigned)counter_get(&pool_stats(stage_pool())->idle);
}

/* ---- first come, first served ---- */

static void replies_go_to_the_oldest(void **state)
{
    (void)state;
    stage_open();
    struct rider a, b;
    struct redis_server *rs = board(&a);
    assert_ptr_equal(board(&b), rs);
    struct probe *p[] = {ask(rs, 'a', 1), ask(rs, 'b', 1), ask(rs, 'c', 1)};
    stage_hears(0, "abc"); /* one write, at the end of the turn */
    stage_answer(0, "+1\r\n+2\r\n:3");
    tells("a:1 b:2 ");
    stage_answer(0, "\r\n");
    tells("c:3 ");
    redis_user_leave(&a.user);
    redis_user_leave(&b.user);
    assert_int_equal(idle(), 1);
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        free(p[i]);
}

static void a_block_has_several_replies(void **state)
{
    (void)state;
    stage_open();
    struct rider a;
    struct redis_server *rs = board(&a);
    struct probe *p = ask(rs, 'm', 3), *q = ask(rs, 'q', 1);
    stage_answer(0, "+OK\r\n+QUEUED\r\n");
    tells("m:OK... m:QUEUED... ");
    stage_answer(0, "*1\r\n+x\r\n+PONG\r\n");
    tells("m: q:PONG ");
    redis_user_leave(&a.user);
    assert_int_equal(idle(), 1);
    free(p);
    free(q);
}

/* ---- tombstones ---- */

static void a_tombstone_swallows_its_reply(void **state)
{
    (void)state;
    stage_open();
    struct rider a;
    struct redis_server *rs = board(&a);
    struct probe *p = ask(rs, 'a', 1), *dead = ask(rs, 'd', 2), *q = ask(rs, 'q', 1);
    stage_settle();
    redis_call_bury(rs, &dead->call);
    stage_answer(0, "+1\r\n+late\r\n*1\r\n$4\r\nlate\r\n+2\r\n");
    tells("a:1 q:2 ");
    assert_int_equal(rs->n_tombs, 0);
    redis_user_leave(&a.user);
    assert_int_equal(idle(), 1);
    free(p);
    free(q);
}

/* The last lease ends before the late reply: a PING behind it proves that the two are in step. */
static void tombstones_left_behind_are_verified(void **state)
{
    (void)state;
    stage_open();
    struct rider a;
    struct redis_server *rs = board(&a);
    struct probe *dead = ask(rs, 'd', 1);
    stage_hears(0, "d");
    redis_call_bury(rs, &dead->call);
    redis_user_leave(&a.user);
    stage_hears(0, resp1("PING"));
    assert_int_equal(idle(), 0);
    stage_answer(0, "$4\r\nla");
    stage_answer(0, "te\r\n");
    assert_int_equal(idle(), 0);
    stage_answer(0, "+PONG\r\n");
    assert_int_equal(idle(), 1);
    assert_int_equal(stage_dials, 1);
}

static void a_server_that_owes_and_is_silent_is_dropped(void **state)
{
    (void)state;
    stage_conf.timeouts.request_ms = 1000;
    stage_open();
    struct rider a;
    struct redis_server *rs = board(&a);
    struct probe *dead = ask(rs, 'd', 1);
    stage_settle();
    redis_call_bury(rs, &dead->call);
    stage_pass(600);
    struct probe *p = ask(rs, 'p', 1);
    stage_pass(300);
    tells("");
    stage_pass(100);
    tells("p lost rider lost drop_timeout ");
    assert_true(stage_was_left(0));
    free(p);
}

static void progress_keeps_a_slow_server(void **state)
{
    (void)state;
    stage_conf.timeouts.request_ms = 1000;
    stage_open();
    struct rider a;
    struct redis_server *rs = board(&a);
    struct probe *dead = ask(rs, 'd', 1), *p = ask(rs, 'p', 1);
    stage_settle();
    redis_call_bury(rs, &dead->call);
    stage_answer(0, "$6\r\n");
    for (int i = 0; i < 6; i++) {
        stage_pass(900);
        stage_answer(0, "x");
    }
    stage_answer(0, "\r\n+well\r\n");
    tells("p:well ");
    redis_user_leave(&a.user);
    assert_int_equal(idle(), 1);
    free(p);
}

/* ---- losses ---- */

static void the_lost_know_whether_they_were_sent(void **state)
{
    (void)state;
    stage_open();
    struct rider a;
    struct redis_server *rs = board(&a);
    /* More than the socket takes: what is behind it stays here. */
    static uint8_t much[1 << 20];
    memset(much, 'a', sizeof much);
    struct probe *p = probe('a', 1), *q = NULL, *r = NULL;
    assert_true(redis_call_send(rs, &p->call, span_of(much, sizeof much)));
    stage_settle();
    assert_true(io_unsent(&rs->base.io) > 0);
    q = ask(rs, 'q', 1);
    r = ask(rs, 'r', 1);
    stage_hang_up(0);
    tells("a lost q lost unsent r lost unsent rider lost drop_eof ");
    assert_null(a.user.server);
    free(p);
    free(q);
    free(r);
}

static void all_are_told_in_order(void **state)
{
    (void)state;
    stage_open();
    struct rider a, b;
    struct redis_server *rs = board(&a);
    (void)board(&b);
    struct probe *p = ask(rs, 'a', 1), *dead = ask(rs, 'd', 1), *q = ask(rs, 'q', 1);
    stage_settle();
    redis_call_bury(rs, &dead->call);
    stage_hang_up(0);
    tells("a lost q lost rider lost drop_eof rider lost drop_eof ");
    free(p);
    free(q);
}

static void a_reply_too_many_ends_it(void **state)
{
    (void)state;
    stage_open();
    struct rider a;
    struct redis_server *rs = board(&a);
    struct probe *p = ask(rs, 'a', 1);
    stage_settle();
    stage_answer(0, "+1\r\n+2\r\n");
    tells("a:1 rider lost drop_protocol ");
    assert_true(stage_was_left(0));
    free(p);
}

/* A reply to what has not been sent whole is none: somebody made the server speak in advance. */
static void a_reply_before_its_question_ends_it(void **state)
{
    (void)state;
    stage_open();
    struct rider a;
    struct redis_server *rs = board(&a);
    static uint8_t much[1 << 20];
    struct probe *p = ask(rs, 'a', 1), *q = probe('q', 1), *r;
    memset(much, 'q', sizeof much);
    assert_true(redis_call_send(rs, &q->call, span_of(much, sizeof much)));
    r = ask(rs, 'r', 1);
    stage_settle();
    stage_answer(0, "+1\r\n+2\r\n");
    tells("a:1 q lost r lost unsent rider lost drop_protocol ");
    assert_true(stage_was_left(0));
    free(p);
    free(q);
    free(r);
}

/* ---- what a server says of itself ---- */

static void the_latest_is_remembered(void **state)
{
    (void)state;
    struct redis_about about = {.version = "?"};
    stage_open();
    assert_false(redis_about_recall(pool_ledger(stage_pool()), &about));
    struct rider a;
    struct redis_server *rs = board(&a);
    assert_true(redis_about_recall(pool_ledger(stage_pool()), &about));
    assert_string_equal(about.version, "7.0.15");
    assert_int_equal(rs->version, 700);
    redis_user_leave(&a.user);
    stage_hang_up(0);
    stage_about = (struct redis_about){.version = "6.2.1", .role = "replica"};
    rs = board(&a);
    assert_true(redis_about_recall(pool_ledger(stage_pool()), &about));
    assert_string_equal(about.role, "replica");
    assert_int_equal(rs->version, 602);
    redis_user_leave(&a.user);
}

static void info_is_read_line_by_line(void **state)
{
    (void)state;
    struct redis_about a = {.server = ""};
    redis_about_info(&a, SPAN_LIT("# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\n\r\n"
                                  "config_file:/x:y\r\nrole:slave\r\nredis_version"));
    assert_string_equal(a.version, "5.0.14");
    assert_string_equal(a.mode, "standalone");
    assert_string_equal(a.role, "replica");
    assert_string_equal(a.server, "");
    redis_about_info(&a, SPAN_LIT(""));
    redis_about_field(&a, SPAN_LIT("version"),
                      SPAN_LIT("1234567890123456789012345678901234567890"));
    assert_string_equal(a.version, "12345678901234567890123"); /* what is too long is cut */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STAGE(replies_go_to_the_oldest),
        STAGE(a_block_has_several_replies),
        STAGE(a_tombstone_swallows_its_reply),
        STAGE(tombstones_left_behind_are_verified),
        STAGE(a_server_that_owes_and_is_silent_is_dropped),
        STAGE(progress_keeps_a_slow_server),
        STAGE(the_lost_know_whether_they_were_sent),
        STAGE(all_are_told_in_order),
        STAGE(a_reply_too_many_ends_it),
        STAGE(a_reply_before_its_question_ends_it),
        STAGE(the_latest_is_remembered),
        cmocka_unit_test(info_is_read_line_by_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
