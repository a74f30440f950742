/* SPDX-License-Identifier: MIT */
/*
 * Clients of all kinds, again and again, with the Nth allocation failing: some hear an error or are
 * closed, none hears another's reply, nothing is left over, and who comes afterwards is served.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/front/redis_stage.h"
#include "tests/unit/nomem.h"

int __wrap_close(int fd)
{
    return __real_close(fd);
}

/* Says it if the client is still there. */
static void say(int client, const char *text)
{
    (void)!send(client, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
    stage_settle();
}

/* Each server answers what it knows; a reply names the client that it is for. */
static void serve(void)
{
    for (unsigned i = 0; i < stage_dials; i++) {
        char heard[4096];
        if (stage_was_hung_up(i))
            continue;
        snprintf(heard, sizeof heard, "%s", stage_heard(i));
        static const struct {
            const char *word, *reply;
        } known[] = {{"for-a", "$5\r\nfor-a\r\n"}, {"for-b", "$5\r\nfor-b\r\n"},
                     {"MULTI", "+OK\r\n"},         {"INCR", "+QUEUED\r\n"},
                     {"EXEC", "*1\r\n:1\r\n"},     {"BLPOP", "*-1\r\n"},
                     {"SELDOM", "+seldom\r\n"}};
        for (const char *at = heard; *at; at++)
            for (size_t k = 0; k < ARRAY_LEN(known); k++)
                if (strncmp(at, known[k].word, strlen(known[k].word)) == 0)
                    stage_try_answer(i, known[k].reply);
    }
}

static void scene(void)
{
    int a = stage_client(), b = stage_client();
    say(a, "GET for-a\r\nPING\r\n");
    say(b, "GET for-b\r\n*2\r\n$3\r\nGET\r\n$5");
    serve();
    say(b, "\r\nfor-b\r\n");
    say(a, "MULTI\r\nINCR n\r\nEXEC\r\nMONITOR\r\n");
    serve();
    serve();
    say(b, "SELDOM\r\nBLPOP k 0\r\nECHO behind\r\n");
    serve();
    stage_reset_if_asked();
    serve();
    say(a, "GET for-a\r\n");
    say(b, "GET for-b\r\n");
    for (unsigned i = 0; i < stage_dials; i++)
        stage_hang_up(i); /* tried again after a pause */
    stage_pass(150);
    serve();
    stage_pass(6000);
    stage_never_reads(a, "for-b");
    stage_never_reads(b, "for-a");
    stage_leave(a);
    stage_leave(b);
}

static void every_allocation_may_fail(void **state)
{
    unsigned all = 1;
    for (unsigned n = 0; n <= all; n++) {
        assert_int_equal(stage_setup(state), 0);
        stage_conf.size.max = 2;
        stage_open();
        countdown = n;
        asked = 0;
        scene();
        countdown = 0;
        if (n == 0)
            all = asked;
        stage_pass(20000); /* past every pause and deadline */
        int c = stage_client();
        stage_say(c, "GET for-a\r\n");
        serve();
        stage_reads(c, "$5\r\nfor-a\r\n");
        assert_int_equal(stage_teardown(state), 0);
    }
    assert_in_range(all, 15, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
