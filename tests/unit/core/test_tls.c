/* SPDX-License-Identifier: MIT */
/* The same sockets under TLS: handshakes, backpressure, what hides inside, how it ends. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/core/ends.h"

#include <cmocka.h>

#define BIG ((size_t)1 << 20)
#define NAME "db.test"

static char folder[] = "/tmp/carpool-tls-XXXXXX";
static char cert_file[64], key_file[64];

/* ---- a certificate of our own, thrown away afterwards ---- */

static int make_identity(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(cert_file, sizeof cert_file, "%s/cert.pem", folder);
    snprintf(key_file, sizeof key_file, "%s/key.pem", folder);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    if (!key || !cert)
        return -1;
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME *name = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)NAME, -1, -1, 0);
    X509_set_issuer_name(cert, name);
    X509_set_pubkey(cert, key);
    X509_EXTENSION *san =
        X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:" NAME ",IP:127.0.0.1");
    X509_add_ext(cert, san, -1);
    X509_EXTENSION_free(san);
    X509_sign(cert, key, EVP_sha256());
    FILE *f = fopen(cert_file, "we");
    PEM_write_X509(f, cert);
    fclose(f);
    f = fopen(key_file, "we");
    PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    X509_free(cert);
    EVP_PKEY_free(key);
    return 0;
}

static int drop_identity(void **state)
{
    (void)state;
    unlink(cert_file);
    unlink(key_file);
    rmdir(folder);
    return 0;
}

/* ---- two ends: a is the client, b the server ---- */

struct talk {
    struct ends e;
    struct tls_ctx *server, *client;
};

static bool shaken(const struct ends *e)
{
    return (e->a.shaken || e->a.hs_failed) && (e->b.shaken || e->b.hs_failed);
}

static void begin(struct talk *t, enum tls_verify verify, const char *ca, const char *host)
{
    int fd[2];
    struct err err;
    ends_open_loop(&t->e);
    tcp_pair(fd);
    t->server = tls_ctx_server(cert_file, key_file, NULL, &err);
    t->client = tls_ctx_client(verify, ca, NULL, NULL, &err);
    assert_non_null(t->server);
    assert_non_null(t->client);
    struct tls_conn *a = tls_connect(t->client, fd[0], host, NULL);
    struct tls_conn *b = tls_accept(t->server, fd[1]);
    assert_true(a && b);
    io_init(&t->e.a.io, fd[0], a);
    io_init(&t->e.b.io, fd[1], b);
    t->e.a.shaking = t->e.b.shaking = true;
    assert_true(io_attach(&t->e.a.io, &t->e.loop, &end_ops));
    assert_true(io_attach(&t->e.b.io, &t->e.loop, &end_ops));
    (void)io_handshake(&t->e.a.io, &err);
    ends_until(&t->e, shaken);
}

static void talk(struct talk *t)
{
    begin(t, TLS_VERIFY_FULL, cert_file, NAME);
    assert_true(t->e.a.shaken && t->e.b.shaken);
}

static void end_talk(struct talk *t)
{
    ends_close(&t->e);
    tls_ctx_free(t->server);
    tls_ctx_free(t->client);
}

static bool a_got_big(const struct ends *e)
{
    return e->a.got_n >= BIG;
}

static bool a_got_10k(const struct ends *e)
{
    return e->a.got_n >= 10000;
}

static bool a_ended(const struct ends *e)
{
    return e->a.ended;
}

static bool b_got_hello(const struct ends *e)
{
    return e->b.got_n >= 5;
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
        {TLS_VERIFY_FULL, true, NAME, true},          {TLS_VERIFY_FULL, true, "127.0.0.1", true},
        {TLS_VERIFY_FULL, true, "other.test", false}, {TLS_VERIFY_FULL, true, "127.0.0.2", false},
        {TLS_VERIFY_FULL, false, NAME, false},        {TLS_VERIFY_CA, true, "other.test", true},
        {TLS_VERIFY_CA, false, NAME, false},          {TLS_VERIFY_NONE, false, "other.test", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct verify_row *row = &rows[i];
        struct talk t;
        begin(&t, row->verify, row->knows_ca ? cert_file : NULL, row->host);
        if (t.e.a.shaken != row->ok)
            fail_msg("row %zu: %s", i, t.e.a.err.note);
        if (!row->ok)
            assert_int_equal(t.e.a.err.cause, CAUSE_TLS_FAILED);
        end_talk(&t);
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
    struct tls_ctx *ctx = tls_ctx_server(cert_file, key_file, NULL, &err);
    io_init(&e.b.io, fd[1], tls_accept(ctx, fd[1]));
    e.b.shaking = true;
    e.a.shaken = true;
    assert_true(io_attach(&e.b.io, &e.loop, &end_ops));
    assert_int_equal(write(fd[0], "GET / HTTP/1.1\r\n\r\n", 18), 18);
    ends_until(&e, shaken);
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
    assert_null(tls_ctx_server("/nonexistent", key_file, NULL, &err));
    assert_int_equal(err.cause, CAUSE_TLS_FAILED);
    assert_null(tls_ctx_server(cert_file, cert_file, NULL, &err));
    assert_null(tls_ctx_client(TLS_VERIFY_CA, "/nonexistent", NULL, NULL, &err));
}

/* ---- bytes ---- */

/* A peer that takes nothing for a while: a record is begun, and gone on with from the queue. */
static void backpressure_does_not_break_records(void **state)
{
    (void)state;
    static const size_t pieces[] = {BIG, 65536, 16384, 5000, 4072, 100};
    uint8_t *text = malloc(BIG);
    assert_non_null(text);
    for (size_t i = 0; i < BIG; i++)
        text[i] = (uint8_t)(i * 131 + (i >> 9));
    for (size_t p = 0; p < ARRAY_LEN(pieces); p++) {
        struct talk t;
        talk(&t);
        io_pause(&t.e.a.io);
        for (size_t at = 0; at < BIG; at += pieces[p]) {
            size_t n = pieces[p] < BIG - at ? pieces[p] : BIG - at;
            struct iovec iov[2] = {{text + at, n / 3}, {text + at + n / 3, n - n / 3}};
            assert_true(io_sendv(&t.e.b.io, iov, 2));
            if (at % 7 == 0)
                uv_run(&t.e.loop.uv, UV_RUN_NOWAIT);
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
        end_talk(&t);
    }
    free(text);
}

/* One record, read in small pieces: what OpenSSL has decrypted raises no event of the socket. */
static void decrypted_bytes_are_not_forgotten(void **state)
{
    (void)state;
    struct talk t;
    talk(&t);
    static char text[10000];
    t.e.a.at_most = 100;
    assert_true(io_send(&t.e.b.io, text, sizeof text));
    ends_until(&t.e, a_got_10k);
    assert_int_equal(t.e.a.got_n, sizeof text);
    end_talk(&t);
}

static void decrypted_bytes_travel(void **state)
{
    (void)state;
    struct talk t;
    struct ends other;
    talk(&t);
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
    end_talk(&t);
    ends_close(&other);
}

static void paused_end_keeps_decrypted_bytes_for_later(void **state)
{
    (void)state;
    struct talk t;
    talk(&t);
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
    end_talk(&t);
}

/* ---- records cut anywhere on their way ---- */

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
    t->server = tls_ctx_server(cert_file, key_file, NULL, &err);
    t->client = tls_ctx_client(TLS_VERIFY_FULL, cert_file, NULL, NULL, &err);
    io_init(&t->e.a.io, a[0], tls_connect(t->client, a[0], NAME, NULL));
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
    end_talk(&w->t);
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

/* ---- looking ---- */

static void unread_tickets_are_quiet(void **state)
{
    (void)state;
    struct talk t;
    talk(&t);
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
    end_talk(&t);
}

/* ---- the end ---- */

static void goodbye_is_not_truncation(void **state)
{
    (void)state;
    struct talk t;
    talk(&t);
    assert_true(io_send(&t.e.b.io, "bye", 3));
    io_shutdown(&t.e.b.io);
    ends_until(&t.e, a_ended);
    assert_int_equal(t.e.a.got_n, 3);
    assert_int_equal(t.e.a.lost, 0);
    assert_false(t.e.a.io.truncated);
    end_talk(&t);
}

static void end_without_goodbye_is_truncation(void **state)
{
    (void)state;
    struct talk t;
    talk(&t);
    assert_true(io_send(&t.e.b.io, "by", 2));
    shutdown(t.e.b.io.fd, SHUT_WR); /* as a crash does, or somebody in between */
    ends_until(&t.e, a_ended);
    assert_int_equal(t.e.a.got_n, 2);
    assert_true(t.e.a.io.truncated);
    end_talk(&t);
}

static void half_closed_end_still_reads(void **state)
{
    (void)state;
    struct talk t;
    talk(&t);
    t.e.a.reads = false; /* does not answer the goodbye */
    io_pause(&t.e.a.io);
    io_shutdown(&t.e.b.io);
    assert_true(io_send(&t.e.a.io, "hello", 5));
    ends_until(&t.e, b_got_hello);
    end_talk(&t);
}

static void end_point_is_the_certificates_digest(void **state)
{
    (void)state;
    struct err err;
    struct tls_ctx *ctx = tls_ctx_server(cert_file, key_file, NULL, &err);
    unsigned char got[EVP_MAX_MD_SIZE], want[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    FILE *f = fopen(cert_file, "re");
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
        cmocka_unit_test(decrypted_bytes_are_not_forgotten),
        cmocka_unit_test(decrypted_bytes_travel),
        cmocka_unit_test(paused_end_keeps_decrypted_bytes_for_later),
        cmocka_unit_test(records_may_be_cut_anywhere),
        cmocka_unit_test(goodbye_behind_bytes_is_not_forgotten),
        cmocka_unit_test(words_behind_the_handshake_are_not_forgotten),
        cmocka_unit_test(unread_tickets_are_quiet),
        cmocka_unit_test(goodbye_is_not_truncation),
        cmocka_unit_test(end_without_goodbye_is_truncation),
        cmocka_unit_test(half_closed_end_still_reads),
        cmocka_unit_test(end_point_is_the_certificates_digest),
    };
    return cmocka_run_group_tests(tests, make_identity, drop_identity);
}
