/* SPDX-License-Identifier: MIT */
/* Sockets on a loop: what arrives, what waits, what happens when the other end is gone. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/core/ends.h"

#include <cmocka.h>

#define BIG ((size_t)1 << 20)

static uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 131 + (i >> 9));
}

static uint8_t *big_text(size_t n)
{
    uint8_t *text = malloc(n);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = pattern(i);
    return text;
}

static void assert_pattern(const struct end *end, size_t n)
{
    assert_int_equal(end->got_n, n);
    for (size_t i = 0; i < n; i++)
        if (end->got[i] != pattern(i))
            fail_msg("byte %zu is wrong", i);
}

static bool b_got_something(const struct ends *e)
{
    return e->b.got_n > 0;
}

static bool b_got_big(const struct ends *e)
{
    return e->b.got_n >= BIG;
}

static bool a_ended(const struct ends *e)
{
    return e->a.ended;
}

static bool b_ended(const struct ends *e)
{
    return e->b.ended;
}

static bool a_broke(const struct ends *e)
{
    return e->a.io.broken != 0;
}

static bool a_drained(const struct ends *e)
{
    return e->a.drained > 0;
}

/* ---- bytes ---- */

static void bytes_and_the_end_arrive(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    assert_true(io_send(&e.a.io, "hello", 5));
    assert_true(io_send(&e.a.io, NULL, 0));
    ends_until(&e, b_got_something);
    assert_memory_equal(e.b.got, "hello", 5);
    assert_false(e.b.ended);
    io_shutdown(&e.a.io);
    assert_false(io_send(&e.a.io, "x", 1)); /* nothing after the end */
    ends_until(&e, b_ended);
    assert_int_equal(e.b.lost, 0);
    assert_false(e.b.io.truncated);
    ends_close(&e);
}

static void unread_bytes_raise_their_event_again(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    e.b.reads = false;
    assert_true(io_send(&e.a.io, "hello", 5));
    ends_turn(&e);
    assert_true(e.b.readable > 3);
    e.b.reads = true;
    e.b.at_most = 2;
    ends_turn(&e);
    assert_int_equal(e.b.got_n, 5);
    ends_close(&e);
}

static void pieces_keep_their_order(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    uint8_t *text = big_text(BIG);
    /* Three pieces and an empty one at a time, the first ones sent, the later ones queued. */
    for (size_t at = 0; at < BIG;) {
        size_t step = 997 < BIG - at ? 997 : BIG - at, third = step / 3;
        struct iovec iov[4] = {{text + at, third},
                               {text + at + third, 0},
                               {text + at + third, third},
                               {text + at + 2 * third, step - 2 * third}};
        assert_true(io_sendv(&e.a.io, iov, 4));
        at += step;
    }
    memset(text, 0, BIG); /* they were copied, or are gone */
    assert_true(io_unsent(&e.a.io) > 0);
    assert_int_equal(e.a.drained, 0);
    ends_until(&e, b_got_big);
    assert_pattern(&e.b, BIG);
    ends_until(&e, a_drained);
    assert_int_equal(e.a.drained, 1);
    assert_int_equal(io_unsent(&e.a.io), 0);
    free(text);
    ends_close(&e);
}

static void queued_bytes_wait_for_the_flush(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    assert_true(io_queue(&e.a.io, SPAN_LIT("hel")));
    assert_true(io_queue(&e.a.io, SPAN_LIT("lo")));
    ends_turn(&e);
    assert_int_equal(e.b.got_n, 0);
    assert_int_equal(io_unsent(&e.a.io), 5);
    io_flush(&e.a.io);
    assert_int_equal(io_unsent(&e.a.io), 0);
    ends_until(&e, b_got_something);
    assert_memory_equal(e.b.got, "hello", 5);
    assert_int_equal(e.b.readable, 1); /* one write */
    ends_close(&e);
}

static void pause_stops_events_and_resume_brings_them(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    io_pause(&e.b.io);
    io_pause(&e.b.io);
    assert_true(io_send(&e.a.io, "hello", 5));
    io_shutdown(&e.a.io);
    ends_turn(&e);
    assert_int_equal(e.b.readable, 0);
    io_resume(&e.b.io);
    ends_until(&e, b_ended);
    assert_int_equal(e.b.got_n, 5);
    ends_close(&e);
}

static void half_closed_end_still_reads(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    io_shutdown(&e.a.io);
    ends_turn(&e);
    assert_true(e.b.ended);
    ends_close(&e);

    ends_unix(&e);
    e.b.reads = false;
    io_shutdown(&e.a.io);
    assert_true(io_send(&e.b.io, "last", 4));
    ends_turn(&e);
    assert_int_equal(e.a.got_n, 4);
    ends_close(&e);
}

/* ---- the other end is gone ---- */

static void last_words_are_read_after_a_reset(void **state)
{
    (void)state;
    struct ends e;
    ends_tcp(&e);
    io_pause(&e.a.io); /* does not look until it writes */
    struct linger hard = {.l_onoff = 1};
    assert_true(io_send(&e.b.io, "sorry", 5));
    assert_int_equal(setsockopt(e.b.io.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    io_close(&e.b.io);
    while (io_send(&e.a.io, "x", 1))
        ends_turn(&e);
    assert_true(e.a.io.broken);
    ends_until(&e, a_ended); /* a broken io ignores the pause */
    assert_int_equal(e.a.got_n, 5);
    assert_memory_equal(e.a.got, "sorry", 5);
    ends_close(&e);
}

static void reset_is_told_to_who_only_reads(void **state)
{
    (void)state;
    struct ends e;
    ends_tcp(&e);
    struct linger hard = {.l_onoff = 1};
    assert_true(io_send(&e.b.io, "sorry", 5));
    assert_int_equal(setsockopt(e.b.io.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    io_close(&e.b.io);
    ends_until(&e, a_ended);
    assert_int_equal(e.a.got_n, 5);
    assert_int_equal(e.a.lost, ECONNRESET);
    ends_close(&e);
}

static void reset_while_paused_shows_at_resume(void **state)
{
    (void)state;
    struct ends e;
    ends_tcp(&e);
    io_pause(&e.a.io);
    struct linger hard = {.l_onoff = 1};
    assert_int_equal(setsockopt(e.b.io.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    io_close(&e.b.io);
    ends_turn(&e);
    assert_false(e.a.ended);
    io_resume(&e.a.io);
    ends_until(&e, a_ended);
    assert_int_equal(e.a.lost, ECONNRESET);
    ends_close(&e);
}

static void queue_is_dropped_when_the_other_end_goes(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    e.b.reads = false;
    io_pause(&e.b.io);
    uint8_t *text = big_text(BIG);
    assert_true(io_send(&e.a.io, text, BIG));
    assert_true(io_unsent(&e.a.io) > 0);
    io_close(&e.b.io);
    ends_until(&e, a_ended);
    assert_int_equal(io_unsent(&e.a.io), 0);
    free(text);
    ends_close(&e);
}

/* The peer says with shutdown(2) that it will not listen: writing fails, and reading would wait for
   ever. Reading tells all the same. */
static void peer_that_does_not_listen_is_told_by_reading(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    shutdown(e.b.io.fd, SHUT_RD);
    io_pause(&e.b.io);
    assert_false(io_send(&e.a.io, "x", 1));
    assert_true(a_broke(&e));
    ends_until(&e, a_ended);
    assert_int_equal(e.a.lost, EPIPE);
    ends_close(&e);
}

static void callback_may_close(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    e.b.closes = true;
    assert_true(io_send(&e.a.io, "x", 1));
    ends_until(&e, a_ended);
    assert_int_equal(e.b.io.fd, -1);
    assert_int_equal(e.b.readable, 1);
    io_close(&e.b.io); /* idempotent */
    ends_close(&e);
}

/* ---- looking ---- */

static void probe_looks_without_taking(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    io_pause(&e.b.io);
    assert_int_equal(io_probe(&e.b.io), IO_PEEK_QUIET);
    assert_true(io_send(&e.a.io, "x", 1));
    assert_int_equal(io_probe(&e.b.io), IO_PEEK_BYTES);
    assert_int_equal(io_probe(&e.b.io), IO_PEEK_BYTES);
    io_close(&e.a.io);
    assert_int_equal(io_probe(&e.b.io), IO_PEEK_BYTES);
    char byte;
    assert_int_equal(io_read(&e.b.io, &byte, 1), 1);
    assert_int_equal(io_probe(&e.b.io), IO_PEEK_EOF);
    ends_close(&e);
}

/* ---- travelling ---- */

static void io_moves_to_another_loop(void **state)
{
    (void)state;
    struct ends e, other;
    ends_unix(&e);
    ends_open_loop(&other);
    assert_true(io_send(&e.a.io, "before", 6));
    io_detach(&e.b.io);
    io_detach(&e.b.io);
    ends_turn(&e);
    assert_int_equal(e.b.readable, 0);
    assert_true(io_attach(&e.b.io, &other.loop, &end_ops));
    ends_turn(&other);
    assert_int_equal(e.b.got_n, 6);
    ends_turn(&e);
    assert_true(io_send(&e.b.io, "after", 5));
    ends_turn(&e);
    assert_int_equal(e.a.got_n, 5);
    io_close(&e.b.io);
    ends_close(&e);
    ends_close(&other);
}

static void release_leaves_the_descriptor(void **state)
{
    (void)state;
    struct ends e;
    ends_unix(&e);
    int fd = io_release(&e.b.io);
    assert_true(fd >= 0);
    assert_int_equal(e.b.io.fd, -1);
    assert_int_equal(write(fd, "x", 1), 1);
    ends_turn(&e);
    assert_int_equal(e.a.got_n, 1);
    close(fd);
    ends_close(&e);
}

/* ---- dialing ---- */

static void dial_tells_how_it_went(void **state)
{
    (void)state;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(door, (struct sockaddr *)&in, len), 0);
    assert_int_equal(getsockname(door, (struct sockaddr *)&in, &len), 0);
    for (int listens = 0; listens < 2; listens++) {
        struct ends e;
        ends_open_loop(&e);
        if (listens)
            assert_int_equal(listen(door, 1), 0);
        int fd = io_dial((struct sockaddr *)&in, len);
        assert_true(fd >= 0);
        e.a.reads = false;
        io_init(&e.a.io, fd, NULL);
        assert_true(io_attach(&e.a.io, &e.loop, &end_ops));
        io_await_connect(&e.a.io);
        ends_until(&e, a_drained);
        assert_int_equal(io_connect_error(&e.a.io), listens ? 0 : ECONNREFUSED);
        ends_close(&e);
    }
    close(door);
    struct sockaddr_un nowhere = {.sun_family = AF_UNIX, .sun_path = "/nonexistent/socket"};
    assert_int_equal(io_dial((struct sockaddr *)&nowhere, sizeof nowhere), -ENOENT);
}

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t n = sizeof value;
    assert_int_equal(getsockopt(fd, level, name, &value, &n), 0);
    return value;
}

/* What doors rely on: options are set once on the listening socket, also anew by a reload. */
static void accepted_sockets_inherit_their_options(void **state)
{
    (void)state;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(door, (struct sockaddr *)&in, len), 0);
    assert_int_equal(listen(door, 4), 0);
    assert_int_equal(getsockname(door, (struct sockaddr *)&in, &len), 0);
    for (int on = 1; on >= 0; on--) {
        io_tune(door, on ? 20000 : 0, on ? 7000 : 0);
        int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(client, (struct sockaddr *)&in, len), 0);
        int fd = accept4(door, NULL, NULL, SOCK_CLOEXEC);
        assert_true(option(fd, IPPROTO_TCP, TCP_NODELAY) != 0);
        assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), on);
        assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), on ? 7000 : 0);
        if (on)
            assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 20);
        close(fd);
        close(client);
    }
    close(door);
}

static void addresses_are_written_for_people(void **state)
{
    (void)state;
    char buf[128];
    struct sockaddr_in in = {
        .sin_family = AF_INET, .sin_port = htons(5432), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_string_equal(io_addr_text((struct sockaddr *)&in, sizeof in, buf, sizeof buf),
                        "127.0.0.1:5432");
    struct sockaddr_in6 in6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(80), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    assert_string_equal(io_addr_text((struct sockaddr *)&in6, sizeof in6, buf, sizeof buf),
                        "[::1]:80");
    struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/run/x.sock"};
    assert_string_equal(io_addr_text((struct sockaddr *)&un, sizeof un, buf, sizeof buf),
                        "unix:/run/x.sock");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_and_the_end_arrive),
        cmocka_unit_test(unread_bytes_raise_their_event_again),
        cmocka_unit_test(pieces_keep_their_order),
        cmocka_unit_test(queued_bytes_wait_for_the_flush),
        cmocka_unit_test(pause_stops_events_and_resume_brings_them),
        cmocka_unit_test(half_closed_end_still_reads),
        cmocka_unit_test(last_words_are_read_after_a_reset),
        cmocka_unit_test(reset_is_told_to_who_only_reads),
        cmocka_unit_test(reset_while_paused_shows_at_resume),
        cmocka_unit_test(queue_is_dropped_when_the_other_end_goes),
        cmocka_unit_test(peer_that_does_not_listen_is_told_by_reading),
        cmocka_unit_test(callback_may_close),
        cmocka_unit_test(probe_looks_without_taking),
        cmocka_unit_test(io_moves_to_another_loop),
        cmocka_unit_test(release_leaves_the_descriptor),
        cmocka_unit_test(dial_tells_how_it_went),
        cmocka_unit_test(accepted_sockets_inherit_their_options),
        cmocka_unit_test(addresses_are_written_for_people),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
