/* SPDX-License-Identifier: MIT */
/* The release rule, as scripts. */
#include "tests/unit/wire/postgres_script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static void test_simple_queries(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        "idle >Q held <T <D <D <C held <ZI idle",
        ">Q <I <ZI idle",                                              /* empty */
        ">Q <T <D <C <T <D <C <C <ZI idle",                            /* several statements */
        ">Q <T <D <E held <ZI idle",                                   /* an error in the middle */
        ">Q <C <ZT held >Q <C <ZT held >Q <E <ZE held >Q <C <ZI idle", /* a transaction block */
        ">Q <N <S <A <C <N <ZI idle",                                  /* notices in between */
        ">Q >Q held <C <ZI held <C <ZI idle",                          /* pipelined */
        ">Q >Q <E <ZI held <C <ZI idle", /* a simple error discards nothing */
        ">F <V <ZI idle",
        ">F <E <ZI idle",
        ">Q >F <C <ZI <V <ZI idle",
    };
    RUN_ALL(scripts);
}

/* Trap 1: ReadyForQuery alone is not enough. */
static void test_extended_queries(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        ">P >B >Dp >E >S <1 <2 <T <D <C held <ZI idle",
        ">P >B >Dp >E >S <1 <2 <n <C <ZI idle",
        ">P >Ds >S <1 <t <T <ZI idle",
        ">P >Ds >S <1 <t <n <ZI idle",
        ">B >E >S <2 <s <ZT held >E >S <D <C <ZI idle",
        ">B >E >S <2 <I <ZI idle",
        ">C >S <3 <ZI idle",
        ">S <ZI idle",
        ">S >S >S <ZI held <ZI held <ZI idle",
        /* no Sync: an implicit transaction, though the last ReadyForQuery said 'I' */
        ">P held >H held <1 held >S held <ZI idle",
        ">P >B >E >H <1 <2 <D <C held >S <ZI idle",
        ">S >P <ZI held <1 held >S <ZI idle",
        /* Flush alone begins nothing */
        ">H idle",
        ">S >H <ZI idle",
        /* a simple Query ends the implicit transaction */
        ">P >B >E >Q <1 <2 <C <C <ZI idle",
        /* many batches in flight */
        ">P >B >E >S >B >E >S >Q <1 <2 <C <ZI held <2 <D <C <ZI held <C <ZI idle",
    };
    RUN_ALL(scripts);
}

/* Trap 3: after an error everything up to Sync is discarded, also what has its own
 * ReadyForQuery. */
static void test_errors_discard_up_to_sync(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        ">P >B >E >S <E held <ZI idle",
        ">P >B >E >S <1 <E <ZI idle",
        ">P >B >E >S <1 <2 <D <E <ZE held",
        ">P >Q >F >S <E held <ZI idle",
        ">P <E held >Q held >F held >B held >S held <ZI idle",
        ">P >Q <E held >S <ZI idle",
        ">P >S >P >S <E <ZI held <1 <ZI idle",
        ">P >S >Q >P >S <E <ZI <C <ZI <E <ZI idle",
        ">Ds >S <t <E <ZI idle",
        /* a Sync that fails itself (a deferred constraint) still ends in ReadyForQuery */
        ">P >B >E >S <1 <2 <C <E <ZI idle",
        ">Q >P >S <E <ZI <1 <ZI idle",
        /* a timeout between two messages of a batch */
        ">P >H <1 <E held >B held >Q held >S <ZI idle",
        /* copy messages outside of COPY mean nothing */
        ">P >c >f >d >S <E <ZI idle",
        ">P <E >c >d >S <ZI idle",
    };
    RUN_ALL(scripts);
}

/* Trap 9. */
static void test_copy_in(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        ">Q <G held >d >d held >c held <C <ZI idle",
        ">Q >d >d >c <G <C <ZI idle", /* sent ahead of CopyInResponse */
        ">Q <G >d >f <E <ZI idle",
        ">Q <G >c <C <G >d >c <C <ZI idle", /* two COPYs in one Query */
        ">Q >d >c >d >c <G <C <G <C <ZI idle",
        ">Q <T <D <C <G >c <C <ZI idle",
        ">Q <G >d >H >c <C <ZI idle",
        /* Sync inside COPY is ignored: the way of libpq, whose first Sync comes before the data */
        ">P >B >E >S <1 <2 <G held >d >c held <C held >S held <ZI idle",
        ">P >B >E >S >d >c >S <1 <2 <G <C held <ZI idle",
        ">E <G >S >S >d >S >c >S <C <ZI idle",
        /* and it does not end the implicit transaction */
        ">E <G >S >c <C held >S <ZI idle",
        ">Q <G >S >d >c <C <ZI idle",
        /* two COPYs, one batch */
        ">B >E >d >c >B >E >d >c >S <2 <G <C <2 <G <C <ZI idle",
        /* never begun: the Sync behind is a real one, the data is ignored */
        ">P >B >E >S >d >c >S <1 <2 <E <ZI held <ZI idle",
        ">Q >d >c <E <ZI idle",
        ">Q >d >c >Q <E <ZI <C <ZI idle",
    };
    RUN_ALL(scripts);
}

static void test_copy_in_that_fails(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        /* simple: ReadyForQuery follows, late copy messages are ignored */
        ">Q <G >d <E <ZI idle >d idle >c idle >Q <C <ZI idle",
        ">Q <G >d <E >d >c <ZI idle",
        ">Q <G >d >c <E <ZI idle",
        /* extended, no Sync inside: plain discarding */
        ">E <G >d <E held >d >c held >S <ZI idle",
        ">E >d >c >S <G <E <ZI idle",
        ">E <G >d >f >S <E <ZI idle",
        /* extended, one Sync inside: was it read there or after the error? */
        ">E >S <G >d >c >S <E held <ZI doubt >Q held <T <D <C <ZI idle", /* inside */
        ">E >S <G >d >c >S <E held <ZI doubt <ZI idle",                  /* after */
        ">E >S <G >d >c >S <E <ZI doubt >Q held <ZI held <C <ZI idle",
        ">E >S <G >d >c >S <E <ZI doubt >P >S held <1 <ZI idle",
        ">E >S <G >d >c >S <E <ZI doubt >P >S held <E <ZI idle",
        ">E >S <G >d >c >S <E <ZI doubt >S held <ZI doubt <ZI idle",
        /* the client learns of the error before it ends the COPY */
        ">E >S <G >d <E held >d >c held >S held <ZI doubt <ZI idle",
        ">E >S <G <E held <ZI idle >c idle", /* the Sync answers: nothing is left to doubt */
        ">E >S <G <E <ZI >Q held <C <ZI idle",
        /* several inside, requests behind */
        ">E >S >S <G >d >c >S <E <ZI doubt >Q <T <C <ZI idle",
        ">E >S >S <G >d >c >S <E <ZI <ZI doubt <ZI idle",
        ">E >S <G >c >S >P >S <E <ZI <1 held <ZI idle",
        ">E >S <G >c >S >P >S <E <ZI <ZI <1 held <ZI idle",
        ">E >S <G >c >S >S <E <ZI held <ZI doubt <ZI idle",
        /* simple: Syncs inside */
        ">Q <G >S >d >c <E held <ZI doubt >Q <C <ZI idle",
        ">Q <G >S >d >c <E held <ZI doubt <ZI idle",
        ">Q <G >S >d >c >S <E <ZI <ZI doubt >Q <C <ZI idle",
        ">Q <G >S >d >c >Q <E <ZI held <C <ZI idle",
        /* a request behind the Query would have ended a COPY that reads it: it was not read
         * there */
        ">Q >E >S <G <E <ZI held <C held <ZI idle",
        ">Q >E >S <G <E <ZI <G >f <E held >S held <ZI doubt <ZI idle",
    };
    RUN_ALL(scripts);
}

/* Requests among doubtful Syncs: whose is an answer? Nobody can tell, so nothing is released any
 * more. */
static void test_lost(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        ">E >S <G >d >c >P >S <E held <ZI held <1 held <ZI held >Q <C <ZI held",
        ">E >S <G >c >Q >S <E <C <ZI <ZI held",
        ">E >S <G <E >P held >S held <ZI held",
        ">E >S <G <E >Q <ZI <C <ZI held",
    };
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        struct pg_flow f;
        struct pg_swallow s = {0};
        enum pg_swallow_step step;
        pg_flow_init(&f);
        script_play(&f, scripts[i]);
        assert_true(pg_flow_is_lost(&f) && pg_flow_is_busy(&f));
        assert_true(pg_flow_abandon(&f, &s, &step)); /* nobody knows what the client waits for */
        assert_int_equal(step, PG_SWALLOW_END);
        assert_false(pg_flow_abandon(&f, &s, &step));
        pg_flow_fini(&f);
    }
}

static void test_copy_out_and_both(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        ">Q <H <d <d held <c <C <ZI idle",
        ">Q <H <d <E <ZI idle",
        ">B >E >S <2 <H <d <c <C held <ZI idle",
        ">B >E >S >Q <2 <H <d <E <ZI <C <ZI idle",
        ">Q <H <c <C <H <c <C <ZI idle",
        /* replication: both ways, a result at the end of a timeline */
        ">Q <W held <d >d <d >d held >c <c <C <ZI idle",
        ">Q <W <d <c >c <T <D <C <C <ZI idle",
        ">Q <W >d <E <ZI idle",
    };
    RUN_ALL(scripts);
}

static void test_async_messages(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        "~N idle ~A idle ~S idle",
        "~E idle", /* a server's last word */
        ">Q <C <ZT ~N ~S held",
        ">Q <C <ZI ~A idle",
    };
    RUN_ALL(scripts);
}

static void test_violations(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        "xZI",
        "xC",
        "x1",
        "xD",
        "xR",
        "xK",
        "xv",
        "xd",
        "xc",
        "xG",
        "xV",
        ">Q xZX",
        ">Q xZ",
        ">Q x1",
        ">Q x2",
        ">Q xs",
        ">Q xt",
        ">Q xV",
        ">Q xR",
        ">Q xK",
        ">Q xd",
        ">Q xc",
        ">P x2",
        ">P xC",
        ">P xZI",
        ">P >S xZI",
        ">B x1",
        ">S xC",
        ">S xD",
        ">F xC",
        ">E xT",
        ">E xW",
        ">E xZI",
        ">Ds xT",
        ">Ds xn",
        ">Ds <t xt",
        ">Dp xt",
        ">C xC",
        ">Q <G xZI",
        ">Q <G xD",
        ">Q <G xI",
        ">Q <G xG",
        ">Q <H xD",
        ">Q <H xZI",
        ">E <G x1",
        ">Q <G xC",
        ">E <G >S xC",
        ">E <G >S >P >c xC",
        ">E >S <G >c >S <E <ZI x1",
        ">Q <C <ZI xZI",
        ">P <E xZI",
        ">P <E x1",
    };
    RUN_ALL(scripts);
    struct pg_flow f;
    pg_flow_init(&f);
    for (const char *t = "pRZ1\0"; *t; t++)
        assert_int_equal(pg_flow_client(&f, (uint8_t)*t, (struct span){0}), PG_FLOW_VIOLATION);
    pg_flow_fini(&f);
}

static void test_terminate_is_not_released(void **state)
{
    (void)state;
    script_run("idle >X held");
    script_run(">Q >X <C <ZI held");
}

static void test_deep_pipelines_need_few_cells(void **state)
{
    (void)state;
    struct pg_flow f;
    pg_flow_init(&f);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(pg_flow_client(&f, 'Q', SPAN_LIT("x")), PG_FLOW_OK);
    assert_int_equal(pg_flow_due(&f), 100000);
    assert_true(pg_queue_cells(&f.queue) < 64);
    for (int i = 0; i < 100000; i++)
        script_play(&f, "<C held <ZI");
    script_play(&f, "idle");
    pg_flow_fini(&f);
}

static void test_the_queue_has_a_bound(void **state)
{
    (void)state;
    struct pg_flow f;
    size_t batches = 0;
    pg_flow_init(&f);
    enum pg_flow_step step;
    while ((step = pg_flow_client(&f, 'B', (struct span){0})) == PG_FLOW_OK &&
           (step = pg_flow_client(&f, 'E', (struct span){0})) == PG_FLOW_OK)
        batches++;
    assert_int_equal(step, PG_FLOW_FULL);
    assert_int_equal(batches, PG_QUEUE_MAX / 2);
    assert_int_equal(pg_flow_due(&f), PG_QUEUE_MAX);
    script_play(&f, "<2"); /* answers make room again, and nothing was lost or doubled */
    assert_int_equal(pg_flow_client(&f, 'B', (struct span){0}), PG_FLOW_OK);
    assert_int_equal(pg_flow_client(&f, 'S', (struct span){0}), PG_FLOW_FULL);
    script_play(&f, "<C <2");
    assert_int_equal(pg_flow_client(&f, 'S', (struct span){0}), PG_FLOW_OK);
    for (size_t i = 0; i < batches - 2; i++)
        script_play(&f, "<C <2");
    script_play(&f, "<C <2 <ZI idle");
    assert_null(f.queue.far); /* and the memory is given back */
    pg_flow_fini(&f);
}

static void test_requests_are_counted(void **state)
{
    (void)state;
    struct pg_flow f;
    pg_flow_init(&f);
    assert_int_equal(f.requests, 0);
    script_play(&f, ">H >d >c");
    assert_int_equal(f.requests, 0); /* nothing asked yet: another server would do */
    script_play(&f, ">Q >P >S");
    assert_int_equal(f.requests, 3);
    assert_int_equal(f.tx, PG_TX_IDLE);
    script_play(&f, "<C <ZT <1 <ZE");
    assert_int_equal(f.tx, PG_TX_FAILED);
    pg_flow_fini(&f);
}

static void client(struct pg_flow *f, uint8_t type, struct span body)
{
    assert_int_equal(pg_flow_client(f, type, body), PG_FLOW_OK);
}

static void server(struct pg_flow *f, uint8_t type, struct span body)
{
    enum pg_flow_step s = pg_flow_server(f, type, body);
    assert_true(s == PG_FLOW_OK || s == PG_FLOW_READY || s == PG_FLOW_ASYNC);
}

static void test_commit_in_flight(void **state)
{
    (void)state;
    struct pg_flow f;
    pg_flow_init(&f);
    /* simple, among others */
    client(&f, 'Q', SPAN_LIT("insert"));
    assert_false(pg_flow_commit_in_flight(&f));
    client(&f, 'Q', SPAN_LIT("-- x\n commit"));
    client(&f, 'Q', SPAN_LIT("select"));
    assert_true(pg_flow_commit_in_flight(&f));
    script_play(&f, "<C <ZT");
    assert_true(pg_flow_commit_in_flight(&f));
    server(&f, 'C', SPAN_LIT("COMMIT\0"));
    assert_false(pg_flow_commit_in_flight(&f)); /* the client knows */
    script_play(&f, "<ZI <C <ZI idle");
    /* extended: settled by the tag, or at the latest by the Sync's answer */
    client(&f, 'P', SPAN_LIT("\0END"));
    script_play(&f, ">B >E >S");
    assert_true(pg_flow_commit_in_flight(&f));
    script_play(&f, "<1 <2");
    assert_true(pg_flow_commit_in_flight(&f));
    script_play(&f, "<C");
    assert_true(pg_flow_commit_in_flight(&f));
    script_play(&f, "<ZI idle");
    assert_false(pg_flow_commit_in_flight(&f));
    client(&f, 'P', SPAN_LIT("s1\0PREPARE TRANSACTION 'x'"));
    script_play(&f, ">B >E >S <1 <2");
    server(&f, 'C', SPAN_LIT("PREPARE TRANSACTION\0"));
    assert_false(pg_flow_commit_in_flight(&f));
    script_play(&f, "<ZI idle");
    /* a COMMIT that is refused is an answer; a dying server's last word is none */
    client(&f, 'Q', SPAN_LIT("COMMIT"));
    script_play(&f, "<E");
    assert_false(pg_flow_commit_in_flight(&f));
    script_play(&f, "<ZI");
    client(&f, 'Q', SPAN_LIT("COMMIT"));
    server(&f, 'E', SPAN_LIT("SFATAL\0VFATAL\0C57P01\0Mbye\0\0"));
    assert_true(pg_flow_commit_in_flight(&f));
    pg_flow_fini(&f);
    /* discarded: never executed */
    pg_flow_init(&f);
    script_play(&f, ">P >B");
    client(&f, 'Q', SPAN_LIT("COMMIT"));
    script_play(&f, ">S <E");
    assert_false(pg_flow_commit_in_flight(&f));
    script_play(&f, "<ZI");
    script_play(&f, ">P <E");
    client(&f, 'Q', SPAN_LIT("COMMIT"));
    assert_false(pg_flow_commit_in_flight(&f));
    script_play(&f, ">S <ZI idle");
    pg_flow_fini(&f);
}

/* --- answers without a server --- */

/* ---- messages of the relay's own, and answers of its own ---- */

static void expect_local(struct pg_flow *f, enum pg_token want)
{
    assert_int_equal(pg_flow_local(f), want);
}

static void test_own_messages_are_answered_in_their_place(void **state)
{
    (void)state;
    struct pg_flow f;
    pg_flow_init(&f);
    pg_flow_renamed(&f, PG_TOKEN_PARSE_OWN);
    script_play(&f, ">B >E >S <1");
    assert_true(f.renamed_done && f.own_done);
    script_play(&f, "<2 <C <ZI idle");
    assert_false(f.renamed_done);
    pg_flow_renamed(&f, PG_TOKEN_CLOSE_OWN);
    pg_flow_renamed(&f, PG_TOKEN_NAMED);
    script_play(&f, ">S x1");
    pg_flow_fini(&f);
    pg_flow_init(&f);
    pg_flow_renamed(&f, PG_TOKEN_CLOSE_OWN);
    pg_flow_renamed(&f, PG_TOKEN_NAMED);
    script_play(&f, ">S <3");
    assert_true(f.renamed_done && f.own_done);
    script_play(&f, "<1");
    assert_true(f.renamed_done && !f.own_done);
    script_play(&f, "<ZI idle");
    pg_flow_fini(&f);
}

static void test_local_answers_wait_for_their_turn(void **state)
{
    (void)state;
    struct pg_flow f;
    pg_flow_init(&f);
    pg_flow_renamed(&f, PG_TOKEN_PARSE_LOCAL);
    expect_local(&f, PG_TOKEN_PARSE_LOCAL); /* nothing before it */
    expect_local(&f, PG_TOKEN_NONE);
    script_play(&f, "held >B");
    pg_flow_renamed(&f, PG_TOKEN_CLOSE_LOCAL);
    script_play(&f, ">S");
    expect_local(&f, PG_TOKEN_NONE);
    script_play(&f, "<2");
    expect_local(&f, PG_TOKEN_CLOSE_LOCAL);
    script_play(&f, "<ZI idle");
    pg_flow_fini(&f);
}

static void test_an_error_takes_them_along(void **state)
{
    (void)state;
    struct pg_flow f;
    pg_flow_init(&f);
    script_play(&f, ">P");
    pg_flow_renamed(&f, PG_TOKEN_NAMED);
    pg_flow_renamed(&f, PG_TOKEN_CLOSE_LOCAL);
    script_play(&f, ">Q >S >B");
    assert_true(!pg_flow_is_settled(&f));
    script_play(&f, "<E");
    assert_true(f.parse_failed && f.query_skipped && !f.renamed_failed);
    assert_int_equal(f.parse_end, 0);
    assert_int_equal(f.renamed_lost, 2);
    f.renamed_lost = 0;
    expect_local(&f, PG_TOKEN_NONE);
    script_play(&f, "<ZI <2 >S <ZI idle");
    assert_true(pg_flow_is_settled(&f));
    pg_flow_renamed(&f, PG_TOKEN_NAMED);
    script_play(&f, "<E");
    assert_true(f.renamed_failed && pg_flow_discards(&f));
    assert_int_equal(f.renamed_lost, 1);
    script_play(&f, ">S <ZI idle");
    pg_flow_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_messages_are_answered_in_their_place),
        cmocka_unit_test(test_local_answers_wait_for_their_turn),
        cmocka_unit_test(test_an_error_takes_them_along),
        cmocka_unit_test(test_simple_queries),
        cmocka_unit_test(test_extended_queries),
        cmocka_unit_test(test_errors_discard_up_to_sync),
        cmocka_unit_test(test_copy_in),
        cmocka_unit_test(test_copy_in_that_fails),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_copy_out_and_both),
        cmocka_unit_test(test_async_messages),
        cmocka_unit_test(test_violations),
        cmocka_unit_test(test_terminate_is_not_released),
        cmocka_unit_test(test_deep_pipelines_need_few_cells),
        cmocka_unit_test(test_the_queue_has_a_bound),
        cmocka_unit_test(test_requests_are_counted),
        cmocka_unit_test(test_commit_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
