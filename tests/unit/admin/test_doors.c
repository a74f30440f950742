/* SPDX-License-Identifier: MIT */
/* The API's doors: the socket's file, and who may ask for what over which address. */
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>
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

/* ---- the file ---- */

static void test_socket_file(void **state)
{
    struct running *r = start(state);
    struct stat st;
    assert_int_equal(stat(r->socket, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    running_stop(r);
    assert_int_equal(stat(r->socket, &st), -1);
}

/* Asked for another admin at this one's path. */
static bool open_second(struct running *r, struct err *err)
{
    struct loop loop;
    struct log_ring *ring = log_ring_new("second", LOG_ERROR);
    loop_init(&loop, "second", ring);
    const struct admin_conf conf = {.socket = r->socket};
    const struct admin_hooks hooks = {0};
    struct admin *second = admin_open(&loop, &conf, &hooks, err);
    bool opened = second != NULL;
    if (opened)
        admin_close(second, (void (*)(void *))loop_stop, &loop);
    else
        loop_stop(&loop);
    loop_run(&loop);
    loop_fini(&loop);
    free(ring);
    return opened;
}

static void test_path_that_is_taken(void **state)
{
    struct running *r = start(state);
    struct err err;
    assert_false(open_second(r, &err));
    running_assert_has(err.note, "is taken by another process");
    running_expect(r, GET("/live"), 200, "true"); /* unharmed */
    running_stop(r);

    /* A file that is no socket is not ours to remove. */
    FILE *f = fopen(r->socket, "w");
    assert_non_null(f);
    fclose(f);
    assert_false(open_second(r, &err));
    assert_int_equal(access(r->socket, F_OK), 0);
}

static void leave_a_stale_socket(struct running *r)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    memcpy(un.sun_path, r->socket, strlen(r->socket));
    *strrchr(r->socket, '/') = '\0';
    assert_int_equal(mkdir(r->socket, 0755), 0);
    r->socket[strlen(r->socket)] = '/';
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    close(fd);
}

static void test_stale_socket_is_replaced(void **state)
{
    struct running *r = *state = running_start_with(NULL, NULL, leave_a_stale_socket);
    running_expect(r, GET("/live"), 200, "true");
}

static void test_paths_that_cannot_be(void **state)
{
    struct running *r = start(state);
    running_stop(r);
    struct err err;
    char saved[sizeof r->socket];
    memcpy(saved, r->socket, sizeof saved);
    snprintf(r->socket, sizeof r->socket, "/nowhere/at/all/admin.sock");
    assert_false(open_second(r, &err));
    running_assert_has(err.note, "/nowhere/at/all/admin.sock");
    running_assert_has(err.note, "folder");
    memcpy(r->socket, saved, sizeof saved);
}

/* ---- TCP ---- */

static unsigned status_of(const struct running *r, const char *request)
{
    int fd = running_connect_tcp(r, "127.0.0.1");
    running_send(fd, request);
    char *answer = running_read(fd, false);
    assert_non_null(answer);
    unsigned status = (unsigned)strtoul(answer + strlen("HTTP/1.1 "), NULL, 10);
    free(answer);
    close(fd);
    return status;
}

#define OWN "Host: localhost\r\n"
#define NO_BODY "Content-Length: 0\r\n\r\n"

static void test_loopback_door(void **state)
{
    struct running *r = *state = running_start("127.0.0.1", NULL);
    assert_int_equal(status_of(r, "GET /stats HTTP/1.1\r\n" OWN "\r\n"), 200);
    assert_int_equal(status_of(r, GET("/live")), 200);
    assert_int_equal(status_of(r, GET("/stats")), 403);
    assert_int_equal(status_of(r, "POST /reload HTTP/1.1\r\n" OWN NO_BODY), 200);
    assert_int_equal(
        status_of(r, "POST /reload HTTP/1.1\r\n" OWN "Origin: http://evil.example\r\n" NO_BODY),
        403);
    assert_int_equal(atomic_load(&r->reloads), 1);
    running_expect(r, GET("/stats"), 200, "orders"); /* by the Unix socket, whatever the Host */
}

static void test_outside_door(void **state)
{
    struct running *r = *state = running_start("0.0.0.0", "sesame");
    assert_int_equal(status_of(r, GET("/ready")), 200);
    assert_int_equal(status_of(r, GET("/metrics")), 200);
    assert_int_equal(status_of(r, GET("/stats")), 401);
    assert_int_equal(status_of(r, GET("/nowhere")), 401);
    assert_int_equal(status_of(r, POST("/reload")), 401);
    assert_int_equal(status_of(r, "POST /reload HTTP/1.1\r\nHost: x\r\n"
                                  "Authorization: Bearer sesame\r\n" NO_BODY),
                     200);
    assert_int_equal(atomic_load(&r->reloads), 1);
}

static void test_outside_door_without_a_token(void **state)
{
    struct running *r = *state = running_start("0.0.0.0", NULL);
    assert_int_equal(status_of(r, GET("/live")), 200);
    assert_int_equal(status_of(r, GET("/config")), 403);
    assert_int_equal(status_of(r, POST("/shutdown")), 403);
    assert_int_equal(atomic_load(&r->shutdowns), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, stop)
    const struct CMUnitTest tests[] = {
        TEST(test_socket_file),
        TEST(test_path_that_is_taken),
        TEST(test_stale_socket_is_replaced),
        TEST(test_paths_that_cannot_be),
        TEST(test_loopback_door),
        TEST(test_outside_door),
        TEST(test_outside_door_without_a_token),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
