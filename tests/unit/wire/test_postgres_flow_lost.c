/* SPDX-License-Identifier: MIT */
/* A server that is lost, or could not be had: what its client still gets. */
#include "tests/unit/wire/postgres_script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static const char step_letters[] = "-eErX"; /* nothing, error, error and ready, ready, end */

static void expect_swallow(const char *types, const char *answers)
{
    struct pg_swallow s = {0};
    for (size_t i = 0; types[i]; i++)
        if (step_letters[pg_swallow_next(&s, (uint8_t)types[i])] != answers[i])
            fail_msg("%s: message %zu not answered by %c", types, i, answers[i]);
}

static void test_swallow(void **state)
{
    (void)state;
    expect_swallow("QQFS", "EEEr");
    expect_swallow("PBDESQ", "e---rE");
    expect_swallow("PQFBHSPS", "e----rer");
    expect_swallow("HdcfQ", "----E");
    expect_swallow("EdcfSX", "e---rX");
    expect_swallow("PX", "eX");
}

static void expect_abandon(const char *script, const char *answers, bool till_sync)
{
    struct pg_flow f;
    struct pg_swallow s = {0};
    enum pg_swallow_step step;
    char got[32] = {0};
    size_t n = 0;
    pg_flow_init(&f);
    script_play(&f, script);
    while (pg_flow_abandon(&f, &s, &step) && n + 1 < sizeof got)
        got[n++] = step_letters[step];
    if (strcmp(got, answers) != 0 || s.till_sync != till_sync)
        fail_msg("%s: \"%s\" till sync %d", script, got, s.till_sync);
    pg_flow_fini(&f);
}

static void test_lost_server_answers_everything_once(void **state)
{
    (void)state;
    expect_abandon("", "", false);
    expect_abandon(">Q", "E", false);
    expect_abandon(">Q >Q >F <T <D", "EEE", false);
    expect_abandon(">Q <E", "r", false); /* the error is out, ReadyForQuery is not */
    expect_abandon(">P >B >E >S", "er", false);
    expect_abandon(">P >B >E", "e", true);
    expect_abandon(">P >B >E >S >Q >P >S", "erEer", false);
    expect_abandon(">P >Q >S", "er", false);
    /* executed and answered, but the Sync that would have made it last is not */
    expect_abandon(">P >B >E >S <1 <2 <C", "E", false);
    /* the error is out */
    expect_abandon(">P >B >E >S <E", "r", false);
    expect_abandon(">P >B >E <E", "", true);
    expect_abandon(">P <E >S", "r", false);
    expect_abandon(">P >S >Q <E <ZI", "E", false);
    /* COPY: the Syncs inside it are no ends, the client sends another */
    expect_abandon(">Q <G >d", "E", false);
    expect_abandon(">Q <G >S >d >c", "E", false);
    expect_abandon(">P >B >E >S <1 <2 <G >d", "e", true);
    expect_abandon(">P >B >E >S <1 <2 <G >d >c >S", "er", false);
    expect_abandon(">Q <H <d", "E", false);
}

/* What a client hears that awaits nothing, with its next message. */
static void expect_untold(const char *script, uint8_t next, enum pg_swallow_step want)
{
    struct pg_flow f;
    struct pg_swallow s = {0};
    enum pg_swallow_step step;
    pg_flow_init(&f);
    script_play(&f, script);
    assert_false(pg_flow_abandon(&f, &s, &step));
    assert_true(s.untold && !s.till_sync);
    assert_int_equal(pg_swallow_next(&s, 'H'), PG_SWALLOW_NOTHING);
    assert_true(s.untold);
    assert_int_equal(pg_swallow_next(&s, next), want);
    assert_false(s.untold);
    pg_flow_fini(&f);
}

static void test_an_open_batch_that_awaits_nothing_hears_with_its_next_message(void **state)
{
    (void)state;
    expect_untold(">P >B >E >H <1 <2 <C", 'S', PG_SWALLOW_ERROR_READY);
    expect_untold(">P >H <1", 'B', PG_SWALLOW_ERROR);
    expect_untold(">P >H <1", 'Q', PG_SWALLOW_ERROR_READY);
}

static void test_a_lost_server_owes_nothing_for_ours(void **state)
{
    (void)state;
    struct pg_flow f;
    struct pg_swallow swallow = {0};
    enum pg_swallow_step step;
    pg_flow_init(&f);
    pg_flow_renamed(&f, PG_TOKEN_CLOSE_OWN);
    pg_flow_renamed(&f, PG_TOKEN_PARSE_OWN);
    script_play(&f, ">B >S");
    assert_true(pg_flow_abandon(&f, &swallow, &step));
    while (step == PG_SWALLOW_NOTHING)
        assert_true(pg_flow_abandon(&f, &swallow, &step));
    assert_int_equal(step, PG_SWALLOW_ERROR);
    assert_true(pg_flow_abandon(&f, &swallow, &step));
    assert_int_equal(step, PG_SWALLOW_READY);
    assert_false(pg_flow_abandon(&f, &swallow, &step));
    pg_flow_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_swallow),
        cmocka_unit_test(test_lost_server_answers_everything_once),
        cmocka_unit_test(test_an_open_batch_that_awaits_nothing_hears_with_its_next_message),
        cmocka_unit_test(test_a_lost_server_owes_nothing_for_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
