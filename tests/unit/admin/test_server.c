/* SPDX-License-Identifier: MIT */
/* The API as its callers meet it, over real sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/admin/running.h"

static struct running *start(void **state)
{
    return *state = running_start(NULL, NULL);
}

static int stop(void **state)
{
    if (*state)
        running_free(*state);
    return 0;
}

/* ---- pages ---- */

static void test_pages(void **state)
{
    struct running *r = start(state);
    running_expect(r, GET("/live"), 200, "{\"live\": true}\n");
    running_expect(r, GET("/ready"), 200, "\"ready\": true");
    running_expect(r, GET("/metrics"), 200,
                   "\ncarpool_pool_max{pool=\"orders\",kind=\"postgres\"} 3\n");
    running_expect(r, GET("/metrics"), 200,
                   "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n");
    running_expect(r, GET("/stats"), 200, "\"name\": \"orders\"");
    running_expect(r, GET("/stats"), 200, "Content-Type: application/json\r\n");
    running_expect(r, GET("/pools"), 200, "\"db:5432\"");
    running_expect(r, GET("/config"), 200, "\r\n\r\n####");
    running_expect(r, GET("/"), 200, "POST /reload");
    running_expect(r, GET("/servers"), 409, "\"error\""); /* it has no workers */
    running_expect(r, GET("/nowhere"), 404, "\"error\"");
    running_expect(r, GET("/reload"), 405, "Allow: POST\r\n");
    running_expect(r, POST("/stats"), 405, "Allow: GET, HEAD\r\n");
    running_expect(r, "GET /live HTTP/1.0\r\n\r\n", 200, "Connection: close");
}

static void test_keep_alive(void **state)
{
    struct running *r = start(state);
    int fd = running_connect(r);
    for (int i = 0; i < 20; i++)
        free(running_ask(fd, GET("/stats"), 200));
    free(running_ask(fd, "GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200));
    assert_true(running_ended(fd));
    close(fd);
}

static void test_head(void **state)
{
    struct running *r = start(state);
    int fd = running_connect(r);
    char *head = running_ask(fd, "HEAD /pools HTTP/1.1\r\nHost: x\r\n\r\n", 200);
    char *full = running_ask(fd, GET("/pools"), 200); /* starts at once: no body was left over */
    const char *length = strstr(head, "Content-Length: ");
    assert_non_null(length);
    assert_int_equal(strtoul(length + strlen("Content-Length: "), NULL, 10),
                     strlen(strstr(full, "\r\n\r\n") + 4));
    free(head);
    free(full);
    free(running_ask(fd, "HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404));
    free(running_ask(fd, GET("/live"), 200));
    close(fd);
}

static void test_requests_in_pieces(void **state)
{
    struct running *r = start(state);
    int fd = running_connect(r);
    static const char request[] =
        "POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    for (size_t i = 0; i + 1 < sizeof request; i++) {
        const char byte[] = {request[i], '\0'};
        running_send(fd, byte);
    }
    free(running_ask(fd, "", 200));
    free(running_ask(fd,
                     "POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "3\r\nabc\r\n0\r\n\r\n",
                     200));
    assert_int_equal(atomic_load(&r->reloads), 2);
    close(fd);
}

/* The answer to the first is whole; then the connection is closed, so nobody waits for the
   second. */
static void test_pipelining_is_refused_politely(void **state)
{
    struct running *r = start(state);
    int fd = running_connect(r);
    char *answer = running_ask(fd, GET("/live") POST("/reload"), 200);
    running_assert_has(answer, "Connection: close\r\n");
    free(answer);
    assert_true(running_ended(fd));
    assert_int_equal(atomic_load(&r->reloads), 0);
    close(fd);
}

static void test_continue(void **state)
{
    struct running *r = start(state);
    int fd = running_connect(r);
    char interim[26] = "";
    running_send(fd, "POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
                     "Expect: 100-continue\r\n\r\n");
    assert_int_equal(TEMP_FAILURE_RETRY(recv(fd, interim, 25, MSG_WAITALL)), 25);
    assert_string_equal(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    free(running_ask(fd, "hi", 200));
    close(fd);
}

/* ---- actions ---- */

static void test_actions_on_pools(void **state)
{
    struct running *r = start(state);
    running_expect(r, POST("/pools/orders/pause"), 200, "pool orders is paused");
    running_expect(r, GET("/pools"), 200, "\"paused\": true");
    running_expect(r, POST("/pools/orders/resume"), 200, "\"message\"");
    running_expect(r, GET("/pools"), 200, "\"paused\": false");
    running_expect(r, POST("/pools/orders/breaker?to=open"), 200, "\"message\"");
    running_expect(r, GET("/pools"), 200, "\"state\": \"forced_open\"");
    running_expect(r, POST("/pools/orders/breaker?to=closed"), 200, "\"message\"");
    running_expect(r, GET("/stats"), 200, "\"door\": \"forced_closed\"");
    running_expect(r, POST("/pools/orders/breaker?to=auto"), 200, "\"message\"");
    running_expect(r, GET("/stats"), 200, "\"door\": \"closed\"");
    unsigned generation = atomic_load(&r->ledger->generation);
    running_expect(r, POST("/pools/orders/recycle"), 200, "\"message\"");
    assert_int_equal(atomic_load(&r->ledger->generation), generation + 1);
}

static void test_actions_that_cannot_be(void **state)
{
    struct running *r = start(state);
    running_expect(r, POST("/pools/nosuch/pause"), 404,
                   "no pool is called \\\"nosuch\\\"; there is orders");
    running_expect(r, POST("/pools/orders/breaker"), 400, "?to=open");
    running_expect(r, POST("/pools/orders/breaker?to=ajar"), 400, "?to=open");
    running_expect(r, POST("/pools/orders/dance"), 404, "\"error\"");
    running_expect(r, GET("/pools"), 200, "\"state\": \"ok\"");
}

static void test_reload(void **state)
{
    struct running *r = start(state);
    running_expect(r, POST("/reload"), 200,
                   "\"c.yaml:3:1: warning: something\",\n    \"second line\"");
    r->reload_works = false;
    running_expect(r, POST("/reload"), 422, "\"error\": \"nothing was changed");
    assert_int_equal(atomic_load(&r->reloads), 2);
}

static void test_shutdown(void **state)
{
    struct running *r = start(state);
    running_expect(r, POST("/shutdown"), 202, "\"message\"");
    assert_int_equal(atomic_load(&r->shutdowns), 1);
    /* What is left of it still answers, but changes nothing any more. */
    running_expect(r, GET("/live"), 200, "true");
    running_expect(r, GET("/ready"), 503, "carpool is draining");
    running_expect(r, POST("/reload"), 409, "draining");
    running_expect(r, POST("/pools/orders/pause"), 409, "draining");
    assert_int_equal(atomic_load(&r->reloads), 0);
}

/* ---- bad callers ---- */

static void test_garbage(void **state)
{
    struct running *r = start(state);
    static const char *const garbage[] = {
        "GET\r\n\r\n",
        "hello there\r\n\r\n",
        "GET /live HTTP/1.1\r\n\r\n",
        "GET /live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client\r\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(garbage); i++) {
        int fd = running_connect(r);
        char *answer = running_ask(fd, garbage[i], 400);
        running_assert_has(answer, "Connection: close\r\n");
        running_assert_has(answer, "\"error\"");
        free(answer);
        assert_true(running_ended(fd));
        close(fd);
    }
    running_expect(r, GET("/live"), 200, "true");
    assert_int_equal(atomic_load(&r->reloads), 0);
}

/* Refused while it comes, and the refusal can be read although more is on its way. */
static void test_too_much(void **state)
{
    struct running *r = start(state);
    char *big = malloc(200001);
    assert_non_null(big);
    memset(big, 'x', 200000);
    big[200000] = '\0';

    int fd = running_connect(r);
    running_send(fd, "GET /live HTTP/1.1\r\nHost: x\r\nX-Big: ");
    running_send(fd, big);
    char *answer = running_read(fd, false);
    running_assert_has(answer, "HTTP/1.1 431 ");
    free(answer);
    char byte;
    /* An orderly end, no reset. */
    assert_int_equal(TEMP_FAILURE_RETRY(recv(fd, &byte, 1, 0)), 0);
    close(fd);

    fd = running_connect(r);
    free(running_ask(fd, "POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
                     413));
    assert_true(running_ended(fd));
    close(fd);

    fd = running_connect(r);
    running_send(fd, "POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "30d40\r\n");
    running_send(fd, big);
    answer = running_read(fd, false);
    running_assert_has(answer, "HTTP/1.1 413 ");
    free(answer);
    close(fd);
    free(big);
    assert_int_equal(atomic_load(&r->reloads), 0);
}

/* Idle and half-said connections make room for those who have something to ask. */
static void test_too_many_callers(void **state)
{
    struct running *r = start(state);
    int idle[80];
    for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
        idle[i] = running_connect(r);
        running_send(idle[i], i % 2 ? "GET /live HT" : "");
    }
    running_expect(r, GET("/live"), 200, "true");
    /* The oldest have gone, the latest is still heard. */
    assert_true(running_ended(idle[0]));
    free(running_ask(idle[79], "TP/1.1\r\nHost: x\r\n\r\n", 200));
    for (size_t i = 0; i < ARRAY_LEN(idle); i++)
        close(idle[i]);
}

static void make_config_big(struct running *r)
{
    r->config_bytes = (size_t)24 << 20;
}

static void read_big_config(const struct running *r, int fd)
{
    char *answer = running_read(fd, false);
    assert_non_null(answer);
    assert_int_equal(strlen(strstr(answer, "\r\n\r\n") + 4), r->config_bytes);
    free(answer);
}

/* Somebody who does not read gets in nobody's way; the answer is whole once it is read. */
static void test_slow_reader(void **state)
{
    struct running *r = *state = running_start_with(NULL, NULL, make_config_big);
    int slow = running_connect(r);
    running_send(slow, GET("/config"));
    for (int i = 0; i < 50; i++)
        running_expect(r, GET("/live"), 200, "true");
    running_send(slow, "GET /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    read_big_config(r, slow);
    running_expect(r, GET("/live"), 200, "true");
    read_big_config(r, slow);
    assert_true(running_ended(slow));
    close(slow);
}

static void test_caller_leaves_in_the_middle(void **state)
{
    struct running *r = *state = running_start_with(NULL, NULL, make_config_big);
    for (int i = 0; i < 5; i++) {
        int fd = running_connect(r);
        running_send(fd, GET("/config"));
        free(running_ask_once(r, GET("/live"), 200)); /* the answer is under way */
        close(fd);
        fd = running_connect(r);
        running_send(fd, "POST /reload HTTP/1.1\r\nContent-Le");
        close(fd);
    }
    running_expect(r, GET("/live"), 200, "true");
    assert_int_equal(atomic_load(&r->reloads), 0);
}

/* `echo ... | nc -N`: no more requests, but the answer is wanted. */
static void test_half_closed_caller(void **state)
{
    struct running *r = start(state);
    int fd = running_connect(r);
    running_send(fd, GET("/live"));
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    free(running_ask(fd, "", 200));
    assert_true(running_ended(fd));
    close(fd);
}

/* ---- the end ---- */

/* Nobody can hold the process up: neither idle callers, nor half requests, nor one who does not
   read. */
static void test_close_with_callers(void **state)
{
    struct running *r = *state = running_start_with(NULL, NULL, make_config_big);
    int idle = running_connect(r), half = running_connect(r), slow = running_connect(r);
    free(running_ask(idle, GET("/live"), 200));
    running_send(half, "GET /live HTTP/1.1\r\n");
    running_send(slow, GET("/config"));
    free(running_ask_once(r, GET("/live"), 200));
    running_stop(r);
    assert_true(running_ended(idle));
    assert_true(running_ended(half));
    close(idle);
    close(half);
    close(slow);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, stop)
    const struct CMUnitTest tests[] = {
        TEST(test_pages),
        TEST(test_keep_alive),
        TEST(test_head),
        TEST(test_requests_in_pieces),
        TEST(test_pipelining_is_refused_politely),
        TEST(test_continue),
        TEST(test_actions_on_pools),
        TEST(test_actions_that_cannot_be),
        TEST(test_reload),
        TEST(test_shutdown),
        TEST(test_garbage),
        TEST(test_too_much),
        TEST(test_too_many_callers),
        TEST(test_slow_reader),
        TEST(test_caller_leaves_in_the_middle),
        TEST(test_half_closed_caller),
        TEST(test_close_with_callers),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
