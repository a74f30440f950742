/* SPDX-License-Identifier: MIT */
/* How a pool is, in one word, and what somebody should do about it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/admin/made_up.h"

static struct pool_figures *well(void)
{
    return made_up_pool(made_up_figures(), "orders");
}

static void fail_dials(struct pool_figures *p, enum cause cause, enum err_stage stage)
{
    err_set(&p->last_dial, cause, stage, 0, "the server said no");
}

static void assert_mood(struct pool_figures *p, const char *word, const char *hint)
{
    pool_figures_judge(p, false);
    assert_string_equal(pool_mood_word(p->mood), word);
    if (!strstr(p->hint, hint))
        fail_msg("\"%s\" is not in \"%s\"", hint, p->hint);
}

static void test_well(void **state)
{
    (void)state;
    struct pool_figures *p = well();
    assert_mood(p, "ok", "");
    assert_string_equal(p->hint, "");
    p->warmed = false;
    p->min = 8;
    assert_mood(p, "starting", "5 of 8 servers");
}

static void test_busy(void **state)
{
    (void)state;
    struct pool_figures *p = well();
    p->waiting = 12;
    assert_mood(p, "busy", "more servers are being opened");
    p->total = 30;
    p->total_open = 29;
    assert_mood(p, "busy", "more servers are being opened");
    p->total_open = 30;
    assert_mood(p, "busy", "raise size.total");
    p->open = p->max;
    assert_mood(p, "busy", "raise size.max");
}

/* With no server left it is down; while one serves, it is not. */
static void test_failing_dials(void **state)
{
    (void)state;
    struct pool_figures *p = well();
    fail_dials(p, CAUSE_DIAL_FAILED, STAGE_CONNECT);
    assert_mood(p, "degraded", "the server said no");
    p->servers[FIGURE_IDLE] = p->servers[FIGURE_BUSY] = 0;
    assert_mood(p, "down", "check that the server runs");
}

static void test_remedies(void **state)
{
    (void)state;
    static const struct {
        enum cause cause;
        enum err_stage stage;
        const char *remedy;
    } rows[] = {
        {CAUSE_UPSTREAM_AUTH, STAGE_LOGIN, "user and password"},
        {CAUSE_UPSTREAM_BUSY, STAGE_LOGIN, "lower size.max"},
        {CAUSE_TLS_FAILED, STAGE_TLS, "certificate"},
        {CAUSE_UPSTREAM_PROTOCOL, STAGE_LOGIN, "this pool's kind"},
        {CAUSE_DIAL_FAILED, STAGE_RESOLVE, "host name"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pool_figures *p = well();
        p->servers[FIGURE_IDLE] = p->servers[FIGURE_BUSY] = 0;
        fail_dials(p, rows[i].cause, rows[i].stage);
        assert_mood(p, "down", rows[i].remedy);
    }
}

/* Where the server said what is wrong, the remedy is for that, and for nothing else. */
static void test_remedies_by_what_the_server_said(void **state)
{
    (void)state;
    static const struct {
        const char *note, *remedy, *not;
    } rows[] = {
        {"db:5432: database \"nope\" does not exist (3D000)", "database in `upstream`", "password"},
        {"db:5432: password authentication failed (28P01)", "refuses the password", "pg_hba"},
        {"db:5432: no pg_hba.conf entry (28000)", "pg_hba.conf", "password of"},
        {"db:5432: permission denied for database (42501)", "GRANT CONNECT", "password"},
        {"db:5432: the database system is starting up (57P03)", "keeps trying", "password"},
        {"cache:6379: WRONGPASS invalid username-password pair", "refuses the password",
         "asks for"},
        {"cache:6379: NOAUTH Authentication required.", "asks for a password", "refuses"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pool_figures *p = well();
        p->servers[FIGURE_IDLE] = p->servers[FIGURE_BUSY] = 0;
        err_set(&p->last_dial, CAUSE_UPSTREAM_AUTH, STAGE_LOGIN, 0, "%s", rows[i].note);
        assert_mood(p, "down", rows[i].remedy);
        assert_null(strstr(strrchr(p->hint, ')'), rows[i].not));
    }
}

static void test_breakers(void **state)
{
    (void)state;
    struct pool_figures *p = well();
    p->door = BREAKER_HALF_OPEN;
    assert_mood(p, "degraded", "dialing");
    p->door = BREAKER_CLOSED;
    p->service = BREAKER_OPEN;
    assert_mood(p, "degraded", "others serve on");
    p->shut = true;
    assert_mood(p, "tripped", "refused until a trial");
    p->service = BREAKER_FORCED_CLOSED;
    assert_mood(p, "ok", "");
    p->service = p->door = BREAKER_FORCED_OPEN;
    assert_mood(p, "forced_open", "carpool breaker orders auto");
}

/* What an operator did explains everything else. */
static void test_what_people_did_comes_first(void **state)
{
    (void)state;
    struct pool_figures *p = made_up_pool(made_up_figures(), "cache");
    assert_mood(p, "down", "refused");
    p->paused = true;
    assert_mood(p, "paused", "carpool resume cache");
    p->stopping = true;
    assert_mood(p, "draining", "");
    p = well();
    pool_figures_judge(p, true);
    assert_string_equal(pool_mood_word(p->mood), "draining");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_well),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_failing_dials),
        cmocka_unit_test(test_remedies),
        cmocka_unit_test(test_remedies_by_what_the_server_said),
        cmocka_unit_test(test_breakers),
        cmocka_unit_test(test_what_people_did_comes_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
