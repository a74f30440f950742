/* SPDX-License-Identifier: MIT */
/* What all dials do alike: which address is tried, when the next one is, and how a dial ends. Names
 * are resolved by this file; what goes home to the worker stays in its mailbox, unread. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "pools/dial.h"
#include "pools/dialer.h"
#include "pools/ledger.h"

#include <cmocka.h>

/* ---- a resolver ---- */

static unsigned n_addresses; /* of the name: 10.0.0.1, 10.0.0.2, ... */
static uv_getaddrinfo_cb answer_later;
static uv_getaddrinfo_t *question;

static struct addrinfo *addresses(void)
{
    struct addrinfo *first = NULL;
    for (unsigned i = n_addresses; i > 0; i--) {
        struct addrinfo *a = calloc(1, sizeof *a + sizeof(struct sockaddr_in));
        assert_non_null(a);
        struct sockaddr_in *in = (struct sockaddr_in *)(a + 1);
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = htonl(0x0a000000 + i);
        a->ai_addr = (struct sockaddr *)in;
        a->ai_addrlen = sizeof *in;
        a->ai_next = first;
        first = a;
    }
    return first;
}

int uv_getaddrinfo(uv_loop_t *loop, uv_getaddrinfo_t *req, uv_getaddrinfo_cb cb, const char *node,
                   const char *service, const struct addrinfo *hints)
{
    (void)loop;
    (void)service;
    (void)hints;
    assert_string_equal(node, "db");
    question = req;
    answer_later = cb;
    return 0;
}

int uv_cancel(uv_req_t *req)
{
    (void)req;
    return 0;
}

void uv_freeaddrinfo(struct addrinfo *a)
{
    while (a) {
        struct addrinfo *next = a->ai_next;
        free(a);
        a = next;
    }
}

static void resolved(void)
{
    answer_later(question, 0, addresses());
}

/* ---- a protocol that only counts ---- */

struct fake {
    struct dial base;
    char *held; /* what a library would hold */
};

static char tried[8][64];
static unsigned n_tried, stops;

static void start(struct dial *d)
{
    struct fake *f = OWNER(d, struct fake, base);
    assert_null(f->held);
    f->held = malloc(1);
    snprintf(tried[n_tried++], sizeof tried[0], "%s", d->host);
}

static void stop(struct dial *d)
{
    struct fake *f = OWNER(d, struct fake, base);
    free(f->held);
    f->held = NULL;
    stops++;
}

static const struct dial_ops ops = {.size = sizeof(struct fake), .start = start, .stop = stop};

static struct loop loop; /* of the dialer and of the worker */
static struct log_ring *logs;
static struct dialer dialer;
static struct ledger_worker worker = {.loop = &loop};
static struct ledger ledger = {.dialer = &dialer, .workers = &worker};
static struct server sv;
static struct endpoint_conf endpoint;
static const struct pool_conf conf = {.name = "test"};

static void never(struct timer *t)
{
    (void)t;
    fail();
}

static int set_up(void **state)
{
    (void)state;
    logs = log_ring_new("test", LOG_ERROR);
    loop_init(&loop, "dialer", logs);
    endpoint = (struct endpoint_conf){.label = "db:1", .host = "db", .port = 1};
    dialer_init(&dialer, &loop);
    sv = (struct server){.endpoint = &endpoint, .conf = &conf, .ledger = &ledger, .io = {.fd = -1}};
    list_init(&sv.dial_node);
    timer_init(&sv.dial_timer, never);
    n_addresses = 3;
    n_tried = stops = 0;
    return 0;
}

static bool has_ended(void)
{
    return atomic_load(&loop.inbox) == &sv.msg;
}

static int tear_down(void **state)
{
    (void)state;
    assert_null(sv.dial);
    assert_true(has_ended());
    atomic_store(&loop.inbox, NULL);
    name_stop(&dialer);
    loop_stop(&loop);
    loop_run(&loop);
    loop_fini(&loop);
    free(logs);
    return 0;
}

static void begin(void)
{
    dial_begin(&sv, &loop, &ops);
}

/* ---- tests ---- */

static void refusals_walk_through_the_name(void **state)
{
    (void)state;
    sv.turn = 1;
    begin();
    resolved();
    dial_refused(sv.dial, ECONNREFUSED);
    dial_refused(sv.dial, ECONNREFUSED);
    assert_false(has_ended());
    dial_refused(sv.dial, ECONNREFUSED);
    assert_int_equal(n_tried, 3);
    assert_string_equal(tried[0], "10.0.0.2");
    assert_string_equal(tried[1], "10.0.0.3");
    assert_string_equal(tried[2], "10.0.0.1");
    assert_int_equal(stops, 3);
    assert_int_equal(sv.err.cause, CAUSE_DIAL_FAILED);
    assert_int_equal(sv.err.sys, ECONNREFUSED);
    assert_string_equal(sv.err.note, "db:1: cannot connect: Connection refused");
}

/* The next dial begins where this one got through. */
static void turn_is_the_address_that_answered(void **state)
{
    (void)state;
    begin();
    resolved();
    dial_refused(sv.dial, ECONNREFUSED);
    dial_well(sv.dial);
    assert_int_equal(sv.err.cause, CAUSE_NONE);
    assert_int_equal(sv.turn, 1);
    assert_string_equal(tried[1], "10.0.0.2");
}

static void other_failures_end_the_dial(void **state)
{
    (void)state;
    begin();
    resolved();
    dial_fail(sv.dial, CAUSE_UPSTREAM_AUTH, STAGE_LOGIN, 0, "not %s", "you");
    assert_int_equal(n_tried, 1);
    assert_int_equal(sv.err.cause, CAUSE_UPSTREAM_AUTH);
    assert_string_equal(sv.err.note, "db:1: not you");
}

/* Another address would find no descriptor either, and none of them is to blame. */
static void what_is_missing_here_ends_the_dial(void **state)
{
    (void)state;
    static const int missing[] = {EMFILE, ENFILE, ENOMEM, ENOBUFS};
    for (unsigned i = 0; i < ARRAY_LEN(missing); i++) {
        if (i) {
            assert_int_equal(tear_down(state), 0);
            assert_int_equal(set_up(state), 0);
        }
        begin();
        resolved();
        dial_refused(sv.dial, missing[i]);
        assert_int_equal(n_tried, 1);
        assert_true(has_ended());
        assert_int_equal(sv.err.cause, CAUSE_INTERNAL);
        assert_int_equal(sv.err.sys, missing[i]);
    }
}

static void abort_while_resolving(void **state)
{
    (void)state;
    struct err err;
    err_set(&err, CAUSE_DIAL_FAILED, STAGE_NONE, ETIMEDOUT, "too late");
    begin();
    dial_abort(&sv, &err);
    assert_true(has_ended());
    assert_int_equal(sv.err.stage, STAGE_RESOLVE);
    resolved(); /* the resolver comes back to nobody, which must not start anything */
    assert_int_equal(n_tried, 0);
}

static void nameless(void **state)
{
    (void)state;
    begin();
    n_addresses = 0;
    answer_later(question, UV_EAI_NONAME, NULL);
    assert_int_equal(sv.err.stage, STAGE_RESOLVE);
    assert_non_null(strstr(sv.err.note, "cannot resolve the name"));
}

static void literals_ask_nobody(void **state)
{
    (void)state;
    endpoint.host = "::1";
    endpoint.literal = true;
    begin();
    assert_int_equal(n_tried, 1);
    assert_string_equal(tried[0], "::1");
    dial_well(sv.dial);
}

static void too_long_a_path_is_refused(void **state)
{
    (void)state;
    char path[200];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = 0;
    endpoint.unix_path = path;
    begin();
    assert_int_equal(n_tried, 0);
    assert_int_equal(sv.err.sys, ENAMETOOLONG);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(refusals_walk_through_the_name),
        TEST(turn_is_the_address_that_answered),
        TEST(other_failures_end_the_dial),
        TEST(what_is_missing_here_ends_the_dial),
        TEST(abort_while_resolving),
        TEST(nameless),
        TEST(literals_ask_nobody),
        TEST(too_long_a_path_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
