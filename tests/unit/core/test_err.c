/* SPDX-License-Identifier: MIT */
/* Errors as values: the words are a contract, the text is safe to log and to send. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include "proxy/core/err.h"

#include <cmocka.h>

/* What clients, dashboards and alerts match on. A word may be added, none may change. */
static const char *const contract[] = {
    "acquire_timeout", "queue_full",      "outage",          "breaker_open",
    "dial_failed",     "upstream_auth",   "upstream_busy",   "request_timeout",
    "idle_timeout",    "write_stall",     "upstream_closed", "upstream_protocol",
    "outcome_unknown", "client_protocol", "client_gone",     "client_timeout",
    "cancelled",       "auth_failed",     "tls_failed",      "too_many_clients",
    "rate_limited",    "overloaded",      "too_large",       "no_route",
    "unsupported",     "denied",          "paused",          "draining",
    "killed",          "internal",
};

static void every_cause_of_the_contract_has_its_word(void **state)
{
    (void)state;
    assert_string_equal(cause_word(CAUSE_NONE), "none");
    assert_int_equal(ARRAY_LEN(contract), CAUSE_COUNT - 1); /* a new one belongs here, too */
    for (size_t i = 0; i < ARRAY_LEN(contract); i++) {
        int found = 0;
        for (int c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++)
            found += strcmp(cause_word((enum cause)c), contract[i]) == 0;
        assert_int_equal(found, 1);
    }
    assert_string_equal(cause_word(CAUSE_ACQUIRE_TIMEOUT), "acquire_timeout");
    assert_string_equal(cause_word(CAUSE_UPSTREAM_CLOSED), "upstream_closed");
    assert_string_equal(cause_word(CAUSE_INTERNAL), "internal");
}

static void words_are_labels(void **state)
{
    (void)state;
    for (int c = 0; c < CAUSE_COUNT; c++)
        assert_int_equal(strspn(cause_word((enum cause)c), "abcdefghijklmnopqrstuvwxyz_"),
                         strlen(cause_word((enum cause)c)));
    for (int s = STAGE_NONE + 1; s < STAGE_COUNT; s++) {
        const char *word = stage_word((enum err_stage)s);
        assert_true(*word);
        assert_int_equal(strspn(word, "abcdefghijklmnopqrstuvwxyz_"), strlen(word));
    }
}

static void set_fills_and_says_false(void **state)
{
    (void)state;
    struct err err;
    memset(&err, 0x55, sizeof err);
    assert_false(err_set(&err, CAUSE_DIAL_FAILED, STAGE_CONNECT, ECONNREFUSED, "%s:%d refused",
                         "127.0.0.1", 5432));
    assert_int_equal(err.cause, CAUSE_DIAL_FAILED);
    assert_int_equal(err.stage, STAGE_CONNECT);
    assert_int_equal(err.sys, ECONNREFUSED);
    assert_string_equal(err.note, "127.0.0.1:5432 refused");
}

static void notes_cannot_break_lines_or_terminals(void **state)
{
    (void)state;
    struct err err;
    err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_LOGIN, 0, "%s",
            "bad\r\n-ERR injected\x1b[2J\x7f\xc3\xa9\tend");
    assert_string_equal(err.note, "bad  -ERR injected [2J    end");
}

static void long_notes_are_cut(void **state)
{
    (void)state;
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct err err;
    err_set(&err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0, "%s", text);
    assert_int_equal(strlen(err.note), sizeof err.note - 1);

    char small[16];
    assert_ptr_equal(err_text(&err, small, sizeof small), small);
    assert_string_equal(small, "too_large at cl");
}

static void text_names_cause_and_stage(void **state)
{
    (void)state;
    struct err err;
    char text[256];
    err_set(&err, CAUSE_DIAL_FAILED, STAGE_TLS, 0, "certificate has expired");
    assert_string_equal(err_text(&err, text, sizeof text),
                        "dial_failed at tls: certificate has expired");
    err_set(&err, CAUSE_PAUSED, STAGE_NONE, 0, "by the operator");
    assert_string_equal(err_text(&err, text, sizeof text), "paused: by the operator");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cause_of_the_contract_has_its_word),
        cmocka_unit_test(words_are_labels),
        cmocka_unit_test(set_fills_and_says_false),
        cmocka_unit_test(notes_cannot_break_lines_or_terminals),
        cmocka_unit_test(long_notes_are_cut),
        cmocka_unit_test(text_names_cause_and_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
