/* SPDX-License-Identifier: MIT */
/* The exposition: what a scraper finds, and that it can read it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "admin/metrics.h"
#include "tests/unit/admin/made_up.h"

/* NUL-terminated; freed by the caller. */
static char *exposition(const struct figures *f)
{
    struct text t = {0};
    metrics_write(&t, f);
    assert_false(t.failed);
    text_put(&t, span_of("", 1));
    return t.p;
}

/* A whole line, so that no value is found in a longer one. */
static bool has_line(const char *text, const char *line)
{
    char wanted[512];
    snprintf(wanted, sizeof wanted, "\n%s\n", line);
    return strstr(text, wanted) != NULL;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        n++;
    return n;
}

static void test_values(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "carpool_build_info{version=\"1.2.3\"} 1",
        "carpool_ready 1",
        "carpool_start_time_seconds 1700000000.123",
        "carpool_pool_servers{pool=\"orders\",kind=\"postgres\",state=\"busy\"} 3",
        "carpool_pool_max{pool=\"orders\",kind=\"postgres\"} 10",
        "carpool_group_open{pool=\"orders\",kind=\"postgres\"} 12",
        "carpool_group_max{pool=\"orders\",kind=\"postgres\"} 30",
        "carpool_pool_waiting{pool=\"cache\",kind=\"redis\"} 8",
        "carpool_pool_leases{pool=\"orders\",kind=\"postgres\"} 3",
        "carpool_clients{pool=\"orders\",kind=\"postgres\"} 40",
        "carpool_clients_refused_total{pool=\"orders\",kind=\"postgres\"} 4",
        "carpool_leases_total{pool=\"orders\",kind=\"postgres\"} 1000",
        "carpool_errors_total{pool=\"orders\",kind=\"postgres\",cause=\"acquire_timeout\"} 7",
        "carpool_dial_failures_total{pool=\"cache\",kind=\"redis\",cause=\"dial_failed\"} 30",
        "carpool_recycle_verdicts_total{pool=\"orders\",kind=\"postgres\",phase=\"return\","
        "outcome=\"keep\"} 990",
        "carpool_bytes_total{pool=\"orders\",kind=\"postgres\",direction=\"from_servers\"} "
        "123456789",
        "carpool_log_lines_dropped_total{thread=\"worker 0\"} 11",
    };
    char *text = exposition(made_up_figures());
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        if (!has_line(text, lines[i]))
            fail_msg("missing: %s", lines[i]);
    assert_int_equal(count(text, "carpool_group_max{"), 1); /* the bound is no other pool's */
    free(text);
}

static void test_breaker_is_in_one_state(void **state)
{
    (void)state;
    char *text = exposition(made_up_figures());
    assert_true(has_line(text,
                         "carpool_breaker_state{pool=\"cache\",kind=\"redis\",breaker=\"door\","
                         "state=\"open\"} 1"));
    assert_true(has_line(text,
                         "carpool_breaker_state{pool=\"cache\",kind=\"redis\",breaker=\"door\","
                         "state=\"closed\"} 0"));
    assert_true(has_line(text, "carpool_breaker_state{pool=\"cache\",kind=\"redis\","
                               "breaker=\"service\",state=\"closed\"} 1"));
    free(text);
}

/* Cumulative, in seconds, ending with the count. */
static void test_histograms(void **state)
{
    (void)state;
#define ORDERS "pool=\"orders\",kind=\"postgres\""
    char *text = exposition(made_up_figures());
    assert_true(has_line(text, "carpool_acquire_seconds_bucket{" ORDERS ",le=\"0.0001\"} 9"));
    assert_true(has_line(text, "carpool_acquire_seconds_bucket{" ORDERS ",le=\"0.025\"} 9"));
    assert_true(has_line(text, "carpool_acquire_seconds_bucket{" ORDERS ",le=\"0.05\"} 10"));
    assert_true(has_line(text, "carpool_acquire_seconds_bucket{" ORDERS ",le=\"+Inf\"} 10"));
    assert_true(has_line(text, "carpool_acquire_seconds_sum{" ORDERS "} 0.040810"));
    assert_true(has_line(text, "carpool_acquire_seconds_count{" ORDERS "} 10"));
    assert_true(has_line(text, "carpool_loop_lag_seconds_count{thread=\"worker 0\"} 4"));
    assert_true(has_line(text, "carpool_loop_lag_seconds_bucket{thread=\"control\",le=\"60\"} 0"));
    free(text);
#undef ORDERS
}

/* A rate misses the first event of a series that was not there before it. */
static void test_series_exist_from_the_start(void **state)
{
    (void)state;
    struct figures *f = made_up_figures();
    f->n_pools = 1;
    char *text = exposition(f);
    assert_int_equal(count(text, "\ncarpool_errors_total{"), CAUSE_COUNT - 1);
    assert_int_equal(count(text, "\ncarpool_recycle_verdicts_total{"),
                     (int)PHASE_COUNT * OUTCOME_COUNT);
    assert_true(has_line(text, "carpool_errors_total{pool=\"orders\",kind=\"postgres\","
                               "cause=\"outage\"} 0"));
    assert_true(has_line(text, "carpool_dial_failures_total{pool=\"orders\",kind=\"postgres\","
                               "cause=\"upstream_auth\"} 0"));
    assert_null(strstr(text, "cause=\"none\""));
    free(text);
}

/* HELP and TYPE of a family once, before its samples; samples of a family stay together. */
static void test_families(void **state)
{
    (void)state;
    char *text = exposition(made_up_figures());
    char family[128] = "", seen[8192] = "\n";
    assert_int_equal(strncmp(text, "# HELP carpool_", 15), 0);
    for (char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end); /* the text ends with a line end */
        *end = '\0';
        char name[100], again[128];
        if (sscanf(line, "# HELP %99s", name) == 1) {
            snprintf(again, sizeof again, "\n%s\n", name);
            assert_null(strstr(seen, again));
            strncat(seen, again + 1, sizeof seen - strlen(seen) - 1);
            snprintf(family, sizeof family, "%s", name);
        } else if (sscanf(line, "# TYPE %99s", name) == 1) {
            assert_string_equal(name, family);
        } else {
            assert_int_equal(strncmp(line, family, strlen(family)), 0);
        }
    }
    free(text);
}

static void test_label_values_are_escaped(void **state)
{
    (void)state;
    struct text t = {0};
    metrics_escape(&t, "a\\b\"c\nd\xc3\xa9");
    assert_int_equal(t.n, strlen("a\\\\b\\\"c\\nd\xc3\xa9"));
    assert_memory_equal(t.p, "a\\\\b\\\"c\\nd\xc3\xa9", t.n);
    text_fini(&t);

    struct figures *f = made_up_figures();
    made_up_pool(f, "cache")->name = "c\"} 1\nevil";
    char *text = exposition(f);
    assert_null(strstr(text, "\nevil"));
    assert_non_null(strstr(text, "pool=\"c\\\"} 1\\nevil\""));
    free(text);
}

static void test_no_pools(void **state)
{
    (void)state;
    struct figures *f = made_up_figures();
    f->n_pools = 0;
    f->ready = false;
    char *text = exposition(f);
    assert_true(has_line(text, "carpool_ready 0"));
    assert_null(strstr(text, "pool=\""));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),     cmocka_unit_test(test_breaker_is_in_one_state),
        cmocka_unit_test(test_histograms), cmocka_unit_test(test_series_exist_from_the_start),
        cmocka_unit_test(test_families),   cmocka_unit_test(test_label_values_are_escaped),
        cmocka_unit_test(test_no_pools),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
