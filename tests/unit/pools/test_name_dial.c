/* SPDX-License-Identifier: MIT */
/* When names are asked for, what is said while the resolver is silent, and who is at an address
 * that has left its name. The resolver and the clock are the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "pools/dialer.h"
#include "pools/name_dial.h"

#include <cmocka.h>

#define TTL 10000

/* ---- a resolver and a clock ---- */

static unsigned asked;
static uv_getaddrinfo_cb answer;
static uv_getaddrinfo_t *question; /* NULL: none is open */

int uv_getaddrinfo(uv_loop_t *loop, uv_getaddrinfo_t *req, uv_getaddrinfo_cb cb, const char *node,
                   const char *service, const struct addrinfo *hints)
{
    (void)loop;
    (void)service;
    (void)hints;
    assert_string_equal(node, "db");
    assert_null(question);
    asked++;
    question = req;
    answer = cb;
    return 0;
}

int uv_cancel(uv_req_t *req)
{
    (void)req;
    return UV_EBUSY;
}

void uv_freeaddrinfo(struct addrinfo *a)
{
    while (a) {
        struct addrinfo *next = a->ai_next;
        free(a);
        a = next;
    }
}

/* 10.0.0.from, ... */
static struct addrinfo *addresses(unsigned from, unsigned n)
{
    struct addrinfo *first = NULL;
    for (unsigned i = from + n; i > from; i--) {
        struct addrinfo *a = calloc(1, sizeof *a + sizeof(struct sockaddr_in));
        assert_non_null(a);
        struct sockaddr_in *in = (struct sockaddr_in *)(a + 1);
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = htonl(0x0a000000 + i - 1);
        a->ai_addr = (struct sockaddr *)in;
        a->ai_addrlen = sizeof *in;
        a->ai_next = first;
        first = a;
    }
    return first;
}

static void says(unsigned from, unsigned n)
{
    uv_getaddrinfo_t *q = question;
    assert_non_null(q);
    question = NULL;
    answer(q, n ? 0 : UV_EAI_AGAIN, addresses(from, n));
}

/* ---- who asks ---- */

static struct loop loop;
static struct log_ring *logs;
static struct dialer dialer;

struct asker {
    struct name_wait wait;
    unsigned told, n, first;
    int failed;
    struct name_place place;
};

static unsigned last_byte(const union address *a)
{
    return ntohl(a->v4.sin_addr.s_addr) & 0xff;
}

static void done(struct name_wait *w, struct name *name, struct addresses *as, int failed)
{
    struct asker *a = OWNER(w, struct asker, wait);
    a->told++;
    a->failed = failed;
    a->n = as ? as->n : 0;
    if (!as)
        return;
    a->first = last_byte(&as->v[0]);
    name_leave(&a->place);
    name_place(&a->place, name);
    a->place.at = as->v[0];
}

static void get(struct asker *a, uint64_t ttl, bool anew)
{
    a->wait.done = done;
    name_get(&dialer, "db", ttl, anew, &a->wait);
}

/* The loop does not run: its clock stands still but for this. */
static void pass(uint64_t ms)
{
    uint64_t now = loop_now(&loop);
    for (uint64_t end = now + ms; now < end;) {
        uint64_t next = timers_next(&loop.timers);
        loop.uv.time = now = next > now && next < end ? next : end;
        timers_advance(&loop.timers, now);
    }
}

static int set_up(void **state)
{
    (void)state;
    asked = 0;
    question = NULL;
    logs = log_ring_new("test", LOG_ERROR);
    loop_init(&loop, "dialer", logs);
    dialer_init(&dialer, &loop);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    name_stop(&dialer);
    if (question)
        says(1, 1);
    loop_stop(&loop);
    loop_run(&loop);
    loop_fini(&loop);
    free(logs);
    return 0;
}

/* ---- tests ---- */

static void many_ask_once_and_the_answer_is_remembered(void **state)
{
    (void)state;
    struct asker a[3] = {{.told = 0}};
    get(&a[0], TTL, false);
    get(&a[1], TTL, false);
    assert_int_equal(asked, 1);
    assert_int_equal(a[0].told, 0);
    says(1, 2);
    pass(TTL - 1);
    get(&a[2], TTL, false);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(a[i].told, 1);
        assert_int_equal(a[i].n, 2);
        assert_int_equal(a[i].failed, 0);
        name_leave(&a[i].place);
    }
    assert_int_equal(asked, 1);
}

static void asked_again_while_it_is_in_use(void **state)
{
    (void)state;
    struct asker a = {.told = 0};
    get(&a, TTL, false);
    says(1, 1);
    for (unsigned i = 2; i < 5; i++) {
        pass(TTL);
        assert_int_equal(asked, i);
        says(1, 1);
    }
    name_leave(&a.place);
    pass(2 * NAME_KEEP_MS);
    assert_int_equal(asked, 4);
    assert_true(list_empty(&dialer.names));
}

static void an_old_answer_is_asked_for_again(void **state)
{
    (void)state;
    struct asker a = {.told = 0};
    get(&a, TTL, false);
    says(1, 1);
    name_leave(&a.place);
    pass(TTL);
    get(&a, TTL, false);
    assert_int_equal(a.told, 1);
    says(7, 1);
    assert_int_equal(a.told, 2);
    assert_int_equal(a.first, 7);
    name_leave(&a.place);
}

static void a_doubted_answer_is_asked_for_again(void **state)
{
    (void)state;
    struct asker a = {.told = 0}, b = {.told = 0};
    get(&a, TTL, false);
    says(1, 1);
    get(&a, TTL, true);
    get(&b, TTL, false); /* it is in doubt for all */
    assert_int_equal(asked, 2);
    assert_int_equal(a.told + b.told, 1);
    says(7, 1);
    assert_int_equal(a.first, 7);
    assert_int_equal(b.first, 7);
    name_leave(&a.place);
    name_leave(&b.place);
}

/* Nothing of before: that is a failure. Else what was said before will do, if not at once. */
static void a_resolver_that_fails_or_is_silent(void **state)
{
    (void)state;
    struct asker a = {.told = 0};
    get(&a, TTL, false);
    says(0, 0);
    assert_int_equal(a.told, 1);
    assert_int_equal(a.failed, UV_EAI_AGAIN);
    get(&a, TTL, true);
    says(1, 1);
    get(&a, TTL, true);
    says(0, 0);
    assert_int_equal(a.told, 3);
    assert_int_equal(a.first, 1);
    get(&a, TTL, true);
    pass(NAME_PATIENCE_MS - 1);
    assert_int_equal(a.told, 3);
    pass(1);
    assert_int_equal(a.told, 4);
    get(&a, TTL, true); /* it need not be waited for once more */
    assert_int_equal(a.told, 5);
    assert_int_equal(a.failed, 0);
    says(1, 1);
    name_leave(&a.place);
}

static void who_is_where_the_name_led_before(void **state)
{
    (void)state;
    struct asker a = {.told = 0};
    get(&a, TTL, false);
    says(1, 2);
    assert_false(name_has_left(&a.place));
    pass(TTL);
    says(2, 1);
    assert_true(name_has_left(&a.place));
    pass(TTL);
    says(0, 0); /* says nothing: nothing changes */
    assert_true(name_has_left(&a.place));
    pass(TTL);
    says(1, 3);
    assert_false(name_has_left(&a.place));
    name_leave(&a.place);
    assert_false(name_has_left(&a.place));
}

/* Nobody can tell what the rest of them are. */
static void more_addresses_than_fit_leave_nobody_out(void **state)
{
    (void)state;
    struct asker a = {.told = 0};
    get(&a, TTL, false);
    says(1, NAME_ADDRESSES_MAX);
    pass(TTL);
    says(2, NAME_ADDRESSES_MAX + 1);
    assert_false(name_has_left(&a.place));
    pass(TTL);
    says(2, NAME_ADDRESSES_MAX);
    assert_true(name_has_left(&a.place));
    name_leave(&a.place);
}

static void without_a_ttl_nothing_is_remembered(void **state)
{
    (void)state;
    struct asker a = {.told = 0}, b = {.told = 0};
    get(&a, 0, false);
    get(&b, 0, false);
    says(1, 1);
    assert_int_equal(a.told + b.told, 2);
    assert_null(a.place.name);
    assert_true(list_empty(&dialer.names));
    get(&a, 0, false);
    assert_int_equal(asked, 2);
    says(0, 0);
    assert_int_equal(a.failed, UV_EAI_AGAIN);
}

static void nobody_hears_of_it_any_more(void **state)
{
    (void)state;
    struct asker a = {.told = 0}, b = {.told = 0};
    get(&a, TTL, false);
    get(&b, TTL, false);
    name_cancel(&a.wait);
    says(1, 1);
    assert_int_equal(a.told, 0);
    get(&a, TTL, true);
    name_cancel(&a.wait);
    name_stop(&dialer); /* its answer comes to nobody, and the server of b outlives the book */
    assert_true(list_empty(&dialer.names));
    assert_false(name_has_left(&b.place));
    says(7, 1);
    name_leave(&b.place);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(many_ask_once_and_the_answer_is_remembered),
        TEST(asked_again_while_it_is_in_use),
        TEST(an_old_answer_is_asked_for_again),
        TEST(a_doubted_answer_is_asked_for_again),
        TEST(a_resolver_that_fails_or_is_silent),
        TEST(who_is_where_the_name_led_before),
        TEST(more_addresses_than_fit_leave_nobody_out),
        TEST(without_a_ttl_nothing_is_remembered),
        TEST(nobody_hears_of_it_any_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
