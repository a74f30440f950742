/* SPDX-License-Identifier: MIT */
/* The first words of a query: what ends a transaction for certain, and what only looks like it. */
#include "proxy/wire/postgres_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static void test_verbs(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum pg_verb verb;
        bool single, chain;
    } rows[] = {
        {"", PG_VERB_EMPTY, true, false},
        {" \t\r\n\f\v;; -- nothing\n;/* at /* all */ */", PG_VERB_EMPTY, true, false},
        {"ROLLBACK", PG_VERB_ROLLBACK, true, false},
        {"rollback;", PG_VERB_ROLLBACK, true, false},
        {"  RollBack  Work ; ", PG_VERB_ROLLBACK, true, false},
        {"ABORT TRANSACTION", PG_VERB_ROLLBACK, true, false},
        {"COMMIT", PG_VERB_COMMIT, true, false},
        {"end", PG_VERB_COMMIT, true, false},
        {"END WORK;-- bye", PG_VERB_COMMIT, true, false},
        {"/* a */ COMMIT /* b */ ; ; -- c", PG_VERB_COMMIT, true, false},
        {"-- COMMIT\nROLLBACK", PG_VERB_ROLLBACK, true, false},
        {"/* /* nested */ ROLLBACK */ COMMIT", PG_VERB_COMMIT, true, false},
        {";COMMIT", PG_VERB_COMMIT, true, false},
        {"COMMIT/**/WORK", PG_VERB_COMMIT, true, false},
        {"COMMIT--", PG_VERB_COMMIT, true, false},
        {"COMMIT AND NO CHAIN", PG_VERB_COMMIT, true, false},
        {"ROLLBACK AND CHAIN;", PG_VERB_ROLLBACK, true, true},
        {"COMMIT TRANSACTION AND CHAIN", PG_VERB_COMMIT, true, true},
        {"COMMIT; SELECT 1", PG_VERB_COMMIT, false, false},
        {"ROLLBACK; BEGIN", PG_VERB_ROLLBACK, false, false},
        {"PREPARE TRANSACTION 'x'", PG_VERB_PREPARE, false, false},
        {"BEGIN ISOLATION LEVEL SERIALIZABLE", PG_VERB_BEGIN, false, false},
        {"start transaction", PG_VERB_BEGIN, false, false},
        /* other statements that begin alike */
        {"ROLLBACK TO SAVEPOINT a", PG_VERB_OTHER, false, false},
        {"ROLLBACK TO a", PG_VERB_OTHER, false, false},
        {"ROLLBACK WORK TO a", PG_VERB_OTHER, false, false},
        {"ROLLBACK PREPARED 'x'", PG_VERB_OTHER, false, false},
        {"COMMIT PREPARED 'x'", PG_VERB_OTHER, false, false},
        {"PREPARE s AS SELECT 1", PG_VERB_OTHER, false, false},
        {"START", PG_VERB_OTHER, false, false},
        {"COMMITS", PG_VERB_OTHER, false, false},
        {"COMMIT_", PG_VERB_OTHER, false, false},
        {"COMMIT$", PG_VERB_OTHER, false, false},
        {"COMMIT\xc3\xa9", PG_VERB_OTHER, false, false},
        {"COMMIT WORK TRANSACTION", PG_VERB_OTHER, false, false},
        {"COMMIT AND", PG_VERB_OTHER, false, false},
        {"COMMIT AND NO", PG_VERB_OTHER, false, false},
        {"COMMIT'x'", PG_VERB_OTHER, false, false},
        {"\"commit\"", PG_VERB_OTHER, false, false},
        {"'COMMIT'", PG_VERB_OTHER, false, false},
        {"(COMMIT)", PG_VERB_OTHER, false, false},
        {"SELECT 1; COMMIT", PG_VERB_OTHER, false, false},
        {"SAVEPOINT a", PG_VERB_OTHER, false, false},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", PG_VERB_OTHER, false, false},
        {"-", PG_VERB_OTHER, false, false},
        {"/", PG_VERB_OTHER, false, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pg_text t = pg_text_look(span_str(rows[i].text));
        if (t.verb != rows[i].verb || t.single != rows[i].single || t.chain != rows[i].chain)
            fail_msg("\"%s\": verb %d single %d chain %d", rows[i].text, (int)t.verb, t.single,
                     t.chain);
    }
}

/* Every word cut off anywhere is read without stepping past its end (the sanitizer watches). */
static void test_cut_off(void **state)
{
    (void)state;
    const char *text = "/* x /* y */ */ -- z\n ; COMMIT /* w */ AND NO CHAIN ; -- v";
    size_t commits = 0;
    for (size_t n = 0; n <= strlen(text); n++) {
        char exact[64];
        memcpy(exact, text, n);
        memset(exact + n, 'X', sizeof exact - n);
        commits += pg_text_look(span_of(exact, n)).verb == PG_VERB_COMMIT;
    }
    assert_true(commits > 10);
    /* a NUL ends the text whatever follows */
    assert_int_equal(pg_text_look(span_of("COMMIT\0 PREPARED 'x'", 20)).verb, PG_VERB_COMMIT);
    assert_true(pg_text_look(span_of("COMMIT\0 PREPARED 'x'", 20)).single);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verbs),
        cmocka_unit_test(test_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
