/* SPDX-License-Identifier: MIT */
/* Phases and outcomes of recycle checks: their words are metric labels. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include "health/verdict.h"

#include <cmocka.h>

static void assert_label(const char *word)
{
    assert_true(*word);
    assert_int_equal(strspn(word, "abcdefghijklmnopqrstuvwxyz_"), strlen(word));
}

static void phases_have_their_words(void **state)
{
    (void)state;
    assert_int_equal(PHASE_COUNT, 3);
    assert_string_equal(phase_word(PHASE_RETURN), "return");
    assert_string_equal(phase_word(PHASE_IDLE), "idle");
    assert_string_equal(phase_word(PHASE_CHECKOUT), "checkout");
}

static void outcomes_have_words_of_their_own(void **state)
{
    (void)state;
    for (int a = 0; a < OUTCOME_COUNT; a++) {
        assert_label(outcome_word((enum outcome)a));
        for (int b = 0; b < a; b++)
            assert_string_not_equal(outcome_word((enum outcome)a), outcome_word((enum outcome)b));
    }
}

static void what_is_called_drop_drops_and_nothing_else(void **state)
{
    (void)state;
    for (int o = 0; o < OUTCOME_COUNT; o++) {
        bool named = strncmp(outcome_word((enum outcome)o), "drop_", 5) == 0;
        assert_int_equal(outcome_drops((enum outcome)o), named);
    }
    assert_false(outcome_drops(OUTCOME_KEEP));
    assert_true(outcome_drops(OUTCOME_DROP_EOF));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phases_have_their_words),
        cmocka_unit_test(outcomes_have_words_of_their_own),
        cmocka_unit_test(what_is_called_drop_drops_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
