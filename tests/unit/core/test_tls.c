/* SPDX-License-Identifier: MIT */
/* The same sockets under TLS: handshakes, backpressure, what hides inside, how it ends. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/unit/core/talk.h"

#include <cmocka.h>

#define BIG ((size_t)1 << 20)

static bool a_got_big(const struct ends *e)
{
    return e->a.got_n >= BIG;
}

static bool a_got_10k(const struct ends *e)
{
    return e->a.got_n >= 10000;
}

/* ---- handshakes ---- */

struct verify_row {
    enum tls_verify verify;
    bool knows_ca;
    const char *host;
    bool ok;
};

static void certificate_and_name_are_checked(void **state)
{
    (void)state;
    static const struct verify_row rows[] = {
        {TLS_VERIFY_FULL, true, TALK_NAME, true},     {TLS_VERIFY_FULL, true, "127.0.0.1", true},
        {TLS_VERIFY_FULL, true, "other.test", false}, {TLS_VERIFY_FULL, true, "127.0.0.2", false},
        {TLS_VERIFY_FULL, false, TALK_NAME, false},   {TLS_VERIFY_CA, true, "other.test", true},
        {TLS_VERIFY_CA, false, TALK_NAME, false},     {TLS_VERIFY_NONE, false, "other.test", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct verify_row *row = &rows[i];
        struct talk t;
        talk_begin(&t, row->verify, row->knows_ca ? talk_cert : NULL, row->host);
        if (t.e.a.shaken != row->ok)
            fail_msg("row %zu: %s", i, t.e.a.err.note);
        if (!row->ok)
            assert_int_equal(t.e.a.err.cause, CAUSE_TLS_FAILED);
        talk_close(&t);
    }
}

static void plain_text_is_no_handshake(void **state)
{
    (void)state;
    struct ends e;
    struct err err;
    int fd[2];
    ends_open_loop(&e);
    tcp_pair(fd);
    struct tls_ctx *ctx = tls_ctx_server(talk_cert, talk_key, NULL, &err);
    io_init(&e.b.io, fd[1], tls_accept(ctx, fd[1]));
    e.b.shaking = true;
    e.a.shaken = true;
    assert_true(io_attach(&e.b.io, &e.loop, &end_ops));
    assert_int_equal(write(fd[0], "GET / HTTP/1.1\r\n\r\n", 18), 18);
    ends_until(&e, both_shaken);
    assert_true(e.b.hs_failed);
    assert_int_equal(e.b.err.cause, CAUSE_TLS_FAILED);
    close(fd[0]);
    ends_close(&e);
    tls_ctx_free(ctx);
}

static void wrong_files_are_said_so(void **state)
{
    (void)state;
    struct err err;
    assert_null(tls_ctx_server("/nonexistent", talk_key, NULL, &err));
    assert_int_equal(err.cause, CAUSE_TLS_FAILED);
    assert_null(tls_ctx_server(talk_cert, talk_cert, NULL, &err));
    assert_null(tls_ctx_client(TLS_VERIFY_CA, "/nonexistent", NULL, NULL, &err));
}

/* ---- bytes ---- */

static const struct {
    size_t max;
    uint8_t asked;
} short_records[] = {{16384, TLSEXT_max_fragment_length_DISABLED},
                     {8192, TLSEXT_max_fragment_length_DISABLED},
                     {16384, TLSEXT_max_fragment_length_4096},
                     {8192, TLSEXT_max_fragment_length_512}};

/* A peer that takes nothing for a while: a record is begun, and gone on with from the queue. */
static void hold_up(size_t record_max, uint8_t asked)
{
    static const size_t pieces[] = {BIG, 65536, 16384, 5000, 4072, 100};
    uint8_t *text = malloc(BIG);
    assert_non_null(text);
    for (size_t i = 0; i < BIG; i++)
        text[i] = (uint8_t)(i * 131 + (i >> 9));
    for (size_t p = 0; p < ARRAY_LEN(pieces); p++) {
        struct talk t;
        talk_open_short(&t, record_max, asked);
        io_pause(&t.e.a.io);
        for (size_t at = 0; at < BIG; at += pieces[p]) {
            size_t n = pieces[p] < BIG - at ? pieces[p] : BIG - at;
            struct iovec iov[2] = {{text + at, n / 3}, {text + at + n / 3, n - n / 3}};
            assert_true(io_sendv(&t.e.b.io, iov, 2));
            if (at % 7 == 0)
                loop_turn(&t.e.loop);
        }
        assert_true(io_unsent(&t.e.b.io) > 0);
        ends_turn(&t.e);
        assert_int_equal(t.e.b.io.broken, 0);
        io_resume(&t.e.a.io);
        ends_until(&t.e, a_got_big);
        assert_int_equal(t.e.a.got_n, BIG);
        assert_memory_equal(t.e.a.got, text, BIG);
        ends_turn(&t.e);
        assert_int_equal(io_unsent(&t.e.b.io), 0);
        assert_int_equal(t.e.b.drained > 0, 1);
        talk_close(&t);
    }
    free(text);
}

static void backpressure_does_not_break_records(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(short_records); i++)
        hold_up(short_records[i].max, short_records[i].asked);
}

/* Bytes that have come and were not read, once there are so many. */
static int unread(const struct io *io, int least)
{
    for (int n;;) {
        assert_int_equal(ioctl(io->fd, FIONREAD, &n), 0);
        if (n >= least)
            return n;
        struct pollfd none = {.fd = -1};
        assert_int_equal(poll(&none, 1, 1), 0);
    }
}

/* Each record costs a header, a checksum and a system call. */
static void small_pieces_share_a_record(void **state)
{
    (void)state;
    struct talk t;
    talk_open(&t);
    ends_turn(&t.e);
    io_pause(&t.e.a.io);
    assert_int_equal(unread(&t.e.a.io, 0), 0);
    assert_true(io_send(&t.e.b.io, "one two three", 13));
    int whole = unread(&t.e.a.io, 13);
    struct iovec iov[] = {{"one ", 4}, {NULL, 0}, {"two ", 4}, {"three", 5}};
    assert_true(io_sendv(&t.e.b.io, iov, 4));
    assert_int_equal(unread(&t.e.a.io, 2 * whole), 2 * whole);
    io_resume(&t.e.a.io);
    ends_turn(&t.e);
    assert_int_equal(t.e.a.got_n, 26);
    assert_memory_equal(t.e.a.got, "one two threeone two three", 26);
    talk_close(&t);
}

/* One record, read in small pieces: what OpenSSL has decrypted raises no event of the socket. */
static void decrypted_bytes_are_not_forgotten(void **state)
{
    (void)state;
    struct talk t;
    talk_open(&t);
    static char text[10000];
    t.e.a.at_most = 100;
    assert_true(io_send(&t.e.b.io, text, sizeof text));
    ends_until(&t.e, a_got_10k);
    assert_int_equal(t.e.a.got_n, sizeof text);
    talk_close(&t);
}

static void decrypted_bytes_travel(void **state)
{
    (void)state;
    struct talk t;
    struct ends other;
    talk_open(&t);
    ends_open_loop(&other);
    static char text[10000];
    assert_true(io_send(&t.e.b.io, text, sizeof text));
    io_pause(&t.e.a.io);
    ends_turn(&t.e);
    char byte;
    assert_int_equal(io_read(&t.e.a.io, &byte, 1), 1); /* the rest is in OpenSSL's hands */
    io_detach(&t.e.a.io);
    t.e.a.at_most = 3000;
    io_resume(&t.e.a.io);
    assert_true(io_attach(&t.e.a.io, &other.loop, &end_ops));
    ends_turn(&other);
    assert_int_equal(t.e.a.got_n, sizeof text - 1);
    io_close(&t.e.a.io);
    talk_close(&t);
    ends_close(&other);
}

static void paused_end_keeps_decrypted_bytes_for_later(void **state)
{
    (void)state;
    struct talk t;
    talk_open(&t);
    static char text[10000];
    assert_true(io_send(&t.e.b.io, text, sizeof text));
    io_pause(&t.e.a.io);
    ends_turn(&t.e);
    char byte;
    assert_int_equal(io_read(&t.e.a.io, &byte, 1), 1);
    unsigned before = t.e.a.readable;
    ends_turn(&t.e);
    assert_int_equal(t.e.a.readable, before);
    io_resume(&t.e.a.io);
    ends_turn(&t.e);
    assert_int_equal(t.e.a.got_n, sizeof text - 1);
    talk_close(&t);
}

/* ---- looking ---- */

static void unread_tickets_are_quiet(void **state)
{
    (void)state;
    struct talk t;
    talk_open(&t);
    /* The server's tickets have come; nobody has read since the handshake. */
    io_pause(&t.e.a.io);
    assert_int_equal(io_probe(&t.e.a.io), IO_PEEK_QUIET);
    assert_true(io_send(&t.e.b.io, "x", 1));
    assert_int_equal(io_probe(&t.e.a.io), IO_PEEK_BYTES);
    char byte;
    assert_int_equal(io_read(&t.e.a.io, &byte, 1), 1);
    assert_int_equal(io_probe(&t.e.a.io), IO_PEEK_QUIET);
    io_shutdown(&t.e.b.io);
    assert_int_equal(io_probe(&t.e.a.io), IO_PEEK_EOF);
    talk_close(&t);
}

/* ---- the end ---- */

static void goodbye_is_not_truncation(void **state)
{
    (void)state;
    struct talk t;
    talk_open(&t);
    assert_true(io_send(&t.e.b.io, "bye", 3));
    io_shutdown(&t.e.b.io);
    ends_until(&t.e, a_ended);
    assert_int_equal(t.e.a.got_n, 3);
    assert_int_equal(t.e.a.lost, 0);
    assert_false(t.e.a.io.truncated);
    talk_close(&t);
}

static void end_without_goodbye_is_truncation(void **state)
{
    (void)state;
    struct talk t;
    talk_open(&t);
    assert_true(io_send(&t.e.b.io, "by", 2));
    shutdown(t.e.b.io.fd, SHUT_WR); /* as a crash does, or somebody in between */
    ends_until(&t.e, a_ended);
    assert_int_equal(t.e.a.got_n, 2);
    assert_true(t.e.a.io.truncated);
    talk_close(&t);
}

static void half_closed_end_still_reads(void **state)
{
    (void)state;
    struct talk t;
    talk_open(&t);
    t.e.a.reads = false; /* does not answer the goodbye */
    io_pause(&t.e.a.io);
    io_shutdown(&t.e.b.io);
    assert_true(io_send(&t.e.a.io, "hello", 5));
    ends_until(&t.e, b_got_hello);
    talk_close(&t);
}

static void end_point_is_the_certificates_digest(void **state)
{
    (void)state;
    struct err err;
    struct tls_ctx *ctx = tls_ctx_server(talk_cert, talk_key, NULL, &err);
    unsigned char got[EVP_MAX_MD_SIZE], want[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    FILE *f = fopen(talk_cert, "re");
    X509 *cert = PEM_read_X509(f, NULL, NULL, NULL);
    fclose(f);
    assert_int_equal(X509_digest(cert, EVP_sha256(), want, &n), 1);
    assert_int_equal(tls_end_point(ctx, got, sizeof got), n);
    assert_memory_equal(got, want, n);
    X509_free(cert);
    tls_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(certificate_and_name_are_checked),
        cmocka_unit_test(plain_text_is_no_handshake),
        cmocka_unit_test(wrong_files_are_said_so),
        cmocka_unit_test(backpressure_does_not_break_records),
        cmocka_unit_test(small_pieces_share_a_record),
        cmocka_unit_test(decrypted_bytes_are_not_forgotten),
        cmocka_unit_test(decrypted_bytes_travel),
        cmocka_unit_test(paused_end_keeps_decrypted_bytes_for_later),
        cmocka_unit_test(unread_tickets_are_quiet),
        cmocka_unit_test(goodbye_is_not_truncation),
        cmocka_unit_test(end_without_goodbye_is_truncation),
        cmocka_unit_test(half_closed_end_still_reads),
        cmocka_unit_test(end_point_is_the_certificates_digest),
    };
    return cmocka_run_group_tests(tests, talk_make_identity, talk_drop_identity);
}
