/* SPDX-License-Identifier: MIT */
/* TLS records that arrive in pieces: whatever is whole is delivered at once, and nothing that came
 * is waited for. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/core/talk.h"

#include <cmocka.h>

/* The two ends do not share a connection: what they say passes through the test's hands. */
struct wire {
    struct talk t;
    int to_a, to_b; /* our ends */
};

static size_t take(int fd, uint8_t *buf, size_t cap)
{
    ssize_t n = read(fd, buf, cap);
    return n > 0 ? (size_t)n : 0;
}

static void put(int fd, const uint8_t *p, size_t n)
{
    if (n)
        assert_int_equal(write(fd, p, n), n);
}

static uint8_t ether[1 << 18];

static void wire_open(struct wire *w)
{
    int a[2], b[2];
    struct err err;
    struct talk *t = &w->t;
    ends_open_loop(&t->e);
    unix_pair(a);
    unix_pair(b);
    int room = 1 << 18;
    setsockopt(a[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    setsockopt(b[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    w->to_a = a[1];
    w->to_b = b[1];
    t->server = tls_ctx_server(talk_cert, talk_key, NULL, &err);
    t->client = tls_ctx_client(TLS_VERIFY_FULL, talk_cert, NULL, NULL, &err);
    io_init(&t->e.a.io, a[0], tls_connect(t->client, a[0], TALK_NAME, NULL));
    io_init(&t->e.b.io, b[0], tls_accept(t->server, b[0]));
    t->e.a.shaking = t->e.b.shaking = true;
    assert_true(io_attach(&t->e.a.io, &t->e.loop, &end_ops));
    assert_true(io_attach(&t->e.b.io, &t->e.loop, &end_ops));
    (void)io_handshake(&t->e.a.io, &err);
}

static void wire_talk(struct wire *w)
{
    wire_open(w);
    for (int i = 0; i < 6; i++) {
        ends_turn(&w->t.e);
        put(w->to_b, ether, take(w->to_a, ether, sizeof ether));
        put(w->to_a, ether, take(w->to_b, ether, sizeof ether));
    }
    assert_true(w->t.e.a.shaken && w->t.e.b.shaken);
}

static void wire_close(struct wire *w)
{
    talk_close(&w->t);
    close(w->to_a);
    close(w->to_b);
}

#define RECORDS 4

/* How the reading end behaves. */
enum reader { READS_ALL, READS_BYTES, PEEKS, MOVES, READERS };

struct cut {
    size_t plain[RECORDS]; /* sizes */
    size_t stride;         /* of the places to cut at */
};

static size_t expected;

static bool a_got_expected(const struct ends *e)
{
    return e->a.got_n == expected;
}

static void expect(struct wire *w, size_t plain)
{
    expected = plain;
    ends_until(&w->t.e, a_got_expected);
    ends_turn(&w->t.e);
    assert_int_equal(w->t.e.a.got_n, plain);
}

/* Sends the records, cut at `at`; everything whole must be delivered at once, and nothing waits for
   bytes that came already. */
static void cut_once(struct wire *w, const struct cut *c, size_t at, enum reader how)
{
    struct end *a = &w->t.e.a;
    static uint8_t text[20000];
    size_t n = 0, whole = 0, all = 0;
    for (size_t i = 0; i < RECORDS; i++) {
        memset(text, 'a' + (int)i, c->plain[i]);
        if (c->plain[i])
            assert_true(io_send(&w->t.e.b.io, text, c->plain[i]));
        n += take(w->to_b, ether + n, sizeof ether - n);
        all += c->plain[i];
        if (at >= n)
            whole += c->plain[i];
    }
    if (at > n)
        at = n;
    size_t taken = 0;
    a->got_n = 0;
    if (how == PEEKS || how == MOVES)
        io_pause(&a->io);
    put(w->to_a, ether, at);
    if (how == PEEKS)
        assert_int_equal(io_probe(&a->io), whole ? IO_PEEK_BYTES : IO_PEEK_QUIET);
    if (how == MOVES) {
        uint8_t byte;
        ssize_t r = io_read(&a->io, &byte, 1);
        assert_int_equal(r, whole ? 1 : -EAGAIN);
        taken = r == 1; /* not noted down */
        io_detach(&a->io);
        assert_true(io_attach(&a->io, &w->t.e.loop, &end_ops));
    }
    io_resume(&a->io);
    expect(w, whole - taken);
    put(w->to_a, ether + at, n - at);
    expect(w, all - taken);
}

static void records_may_be_cut_anywhere(void **state)
{
    (void)state;
    static const struct cut cuts[] = {
        {{1, 1, 1, 1}, 1},
        {{1, 100, 7, 30}, 1},
        {{300, 0, 0, 1}, 3},
        {{16384, 16384, 1, 16384}, 997},
        {{16384, 5, 16300, 100}, 1501},
        {{9000, 9000, 9000, 20}, 811},
    };
    for (enum reader how = READS_ALL; how < READERS; how++) {
        for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
            struct wire w;
            wire_talk(&w);
            w.t.e.a.at_most = how == READS_BYTES ? 13 : 0;
            size_t most = RECORDS * 40;
            for (size_t k = 0; k < RECORDS; k++)
                most += cuts[i].plain[k];
            for (size_t at = 0; at < most; at += cuts[i].stride)
                cut_once(&w, &cuts[i], at, how);
            wire_close(&w);
        }
    }
}

/* The end is told though it came together with the last bytes. */
static void goodbye_behind_bytes_is_not_forgotten(void **state)
{
    (void)state;
    struct wire w;
    wire_talk(&w);
    assert_true(io_send(&w.t.e.b.io, "last words", 10));
    io_shutdown(&w.t.e.b.io);
    size_t n = take(w.to_b, ether, sizeof ether);
    put(w.to_a, ether, n); /* but no end-of-file of the socket */
    ends_until(&w.t.e, a_ended);
    assert_int_equal(w.t.e.a.got_n, 10);
    assert_false(w.t.e.a.io.truncated);
    wire_close(&w);
}

/* The peer's first words come in one packet with the end of its handshake. */
static void words_behind_the_handshake_are_not_forgotten(void **state)
{
    (void)state;
    struct wire w;
    struct ends *e = &w.t.e;
    wire_open(&w);
    put(w.to_b, ether, take(w.to_a, ether, sizeof ether));
    ends_turn(e);
    put(w.to_a, ether, take(w.to_b, ether, sizeof ether));
    ends_turn(e);
    assert_true(e->a.shaken && !e->b.shaken);
    assert_true(io_send(&e->a.io, "hello", 5));
    put(w.to_b, ether, take(w.to_a, ether, sizeof ether));
    ends_until(e, b_got_hello);
    wire_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_may_be_cut_anywhere),
        cmocka_unit_test(goodbye_behind_bytes_is_not_forgotten),
        cmocka_unit_test(words_behind_the_handshake_are_not_forgotten),
    };
    return cmocka_run_group_tests(tests, talk_make_identity, talk_drop_identity);
}
