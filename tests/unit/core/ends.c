/* SPDX-License-Identifier: MIT */
#include "tests/unit/core/ends.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static void shake(struct end *end)
{
    switch (io_handshake(&end->io, &end->err)) {
    case IO_HS_AGAIN:
        return;
    case IO_HS_DONE:
        end->shaking = false;
        end->shaken = true;
        return;
    case IO_HS_FAILED:
        end->shaking = false;
        end->hs_failed = true;
        io_close(&end->io);
        return;
    }
}

static void read_now(struct end *end)
{
    static uint8_t buf[LOOP_READ_MAX];
    ssize_t n = io_read(&end->io, buf, end->at_most ? end->at_most : sizeof buf);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        end->ended = true;
        end->lost = (int)-n;
        io_close(&end->io);
        return;
    }
    end->got = realloc(end->got, end->got_n + (size_t)n);
    assert_non_null(end->got);
    memcpy(end->got + end->got_n, buf, (size_t)n);
    end->got_n += (size_t)n;
}

static void on_readable(struct io *io)
{
    struct end *end = OWNER(io, struct end, io);
    end->readable++;
    if (end->closes)
        io_close(io);
    else if (end->shaking)
        shake(end);
    else if (end->reads)
        read_now(end);
}

static void on_drained(struct io *io)
{
    struct end *end = OWNER(io, struct end, io);
    end->drained++;
    if (end->shaking)
        shake(end);
}

const struct io_ops end_ops = {.on_readable = on_readable, .on_drained = on_drained};

void ends_open_loop(struct ends *e)
{
    *e = (struct ends){.a.reads = true, .b.reads = true, .a.io.fd = -1, .b.io.fd = -1};
    e->log = log_ring_new("test", LOG_ERROR);
    loop_init(&e->loop, "test", e->log);
}

void unix_pair(int fd[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
}

void tcp_pair(int fd[2])
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(door >= 0);
    assert_int_equal(bind(door, (struct sockaddr *)&in, len), 0);
    assert_int_equal(listen(door, 1), 0);
    assert_int_equal(getsockname(door, (struct sockaddr *)&in, &len), 0);
    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd[0], (struct sockaddr *)&in, len), 0);
    fd[1] = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fd[1] >= 0);
    assert_int_equal(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
    close(door);
    /* Small buffers, so that little is much; and nothing waits for company. */
    for (int i = 0; i < 2; i++) {
        int size = 64 * 1024;
        io_tune(fd[i], 0, 0);
        setsockopt(fd[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        setsockopt(fd[i], SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    }
}

static void attach(struct ends *e, const int fd[2])
{
    io_init(&e->a.io, fd[0], NULL);
    io_init(&e->b.io, fd[1], NULL);
    assert_true(io_attach(&e->a.io, &e->loop, &end_ops));
    assert_true(io_attach(&e->b.io, &e->loop, &end_ops));
}

void ends_unix(struct ends *e)
{
    int fd[2];
    ends_open_loop(e);
    unix_pair(fd);
    attach(e, fd);
}

void ends_tcp(struct ends *e)
{
    int fd[2];
    ends_open_loop(e);
    tcp_pair(fd);
    attach(e, fd);
}

void ends_close(struct ends *e)
{
    io_close(&e->a.io);
    io_close(&e->b.io);
    free(e->a.got);
    free(e->b.got);
    loop_stop(&e->loop);
    loop_run(&e->loop);
    loop_fini(&e->loop);
    free(e->log);
}

void ends_until(struct ends *e, bool (*cond)(const struct ends *e))
{
    uint64_t end = uv_hrtime() + 10 * SEC_NS;
    while (!cond(e)) {
        if (uv_hrtime() > end)
            fail_msg("it does not come to pass");
        loop_turn(&e->loop);
    }
}

void ends_turn(struct ends *e)
{
    for (unsigned i = 0; i < 10; i++)
        loop_turn(&e->loop);
}
