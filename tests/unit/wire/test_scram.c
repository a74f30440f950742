/* SPDX-License-Identifier: MIT */
/* SCRAM against RFC 7677's example, against a small client of our own, and against liars. */
#include "proxy/wire/scram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static const uint8_t ours[SCRAM_NONCE] = "eighteen bytes ok"; /* with its NUL */
static const struct span no_tls = {0};

static struct scram_verifier verifier_of(const char *password)
{
    struct scram_verifier v;
    assert_true(scram_verifier_derive(&v, span_str(password), SPAN_LIT("0123456789abcdef"),
                                      SCRAM_ITERATIONS));
    return v;
}

/* RFC 7677, section 3: user "user", password "pencil". The example's nonce is not base64 of ours,
 * so the exchange's state is set up with it by hand. */
static void test_rfc7677_example(void **state)
{
    (void)state;
    uint8_t salt[16];
    size_t n;
    struct err err;
    struct scram_verifier v;
    struct scram s;
    char out[SCRAM_OUT_MAX];
    assert_true(crypto_base64_decode(SPAN_LIT("W22ZaJ0SNY7soEsUEjb6gQ=="), salt, sizeof salt, &n));
    assert_true(scram_verifier_derive(&v, SPAN_LIT("pencil"), span_of(salt, n), 4096));
    assert_true(scram_init(&s, &v, ours, no_tls));
    const char server_nonce[] = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    memcpy(s.nonce, server_nonce, sizeof server_nonce - 1);
    s.nonce_n = sizeof server_nonce - 1;

    assert_int_equal(scram_first(&s, SPAN_LIT("SCRAM-SHA-256"),
                                 SPAN_LIT("n,,n=user,r=rOprNGfwEbeRWgbNEkqO"), out, sizeof out, &n,
                                 &err),
                     SCRAM_GO_ON);
    const char first[] = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                         "s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_int_equal(n, sizeof first - 1);
    assert_memory_equal(out, first, n);

    assert_int_equal(
        scram_final(&s,
                    SPAN_LIT("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                             "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
                    out, sizeof out, &n, &err),
        SCRAM_PROVEN);
    const char final[] = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    assert_int_equal(n, sizeof final - 1);
    assert_memory_equal(out, final, n);
    scram_fini(&s);
}

/* --- a client --- */

struct client {
    const char *password, *gs2, *nonce;
    struct span cbind;
    char first[256], final[1024];
    size_t first_n, final_n;
    uint8_t signature[CRYPTO_SHA256]; /* that the server must show */
};

static void client_first(struct client *c)
{
    c->first_n = (size_t)snprintf(c->first, sizeof c->first, "%sn=,r=%s", c->gs2, c->nonce);
}

static void client_final(struct client *c, const char *server_first, size_t n)
{
    char msg[SCRAM_OUT_MAX], nonce[600], salt64[100], auth[2048], cb[200], proof64[64];
    unsigned iterations;
    uint8_t salt[64], salted[32], key[32], stored[32], sign[32], skey[32], bind[128];
    size_t salt_n, cb_n, proof_n, gs2_n = strlen(c->gs2);
    memcpy(msg, server_first, n);
    msg[n] = 0;
    assert_int_equal(sscanf(msg, "r=%599[^,],s=%99[^,],i=%u", nonce, salt64, &iterations), 3);
    assert_true(crypto_base64_decode(span_str(salt64), salt, sizeof salt, &salt_n));
    memcpy(bind, c->gs2, gs2_n);
    if (c->cbind.n)
        memcpy(bind + gs2_n, c->cbind.p, c->cbind.n);
    assert_true(crypto_base64_encode(span_of(bind, gs2_n + c->cbind.n), cb, sizeof cb, &cb_n));
    int w = snprintf(c->final, sizeof c->final, "c=%.*s,r=%s", (int)cb_n, cb, nonce);
    int a = snprintf(auth, sizeof auth, "%s,%s,%s", c->first + gs2_n, msg, c->final);
    assert_true(crypto_pbkdf2(span_str(c->password), span_of(salt, salt_n), iterations, salted) &&
                crypto_hmac_sha256(span_of(salted, 32), SPAN_LIT("Client Key"), key) &&
                crypto_sha256(span_of(key, 32), stored) &&
                crypto_hmac_sha256(span_of(stored, 32), span_of(auth, (size_t)a), sign) &&
                crypto_hmac_sha256(span_of(salted, 32), SPAN_LIT("Server Key"), skey) &&
                crypto_hmac_sha256(span_of(skey, 32), span_of(auth, (size_t)a), c->signature));
    for (size_t i = 0; i < 32; i++)
        key[i] ^= sign[i];
    assert_true(crypto_base64_encode(span_of(key, 32), proof64, sizeof proof64, &proof_n));
    c->final_n = (size_t)w + (size_t)snprintf(c->final + w, sizeof c->final - (size_t)w, ",p=%.*s",
                                              (int)proof_n, proof64);
}

/* A whole exchange. */
static enum scram_verdict exchange(const struct scram_verifier *v, struct client *c,
                                   const char *mechanism, struct span server_cbind)
{
    struct scram s;
    struct err err;
    char out[SCRAM_OUT_MAX];
    size_t n;
    assert_true(scram_init(&s, v, ours, server_cbind));
    client_first(c);
    enum scram_verdict r = scram_first(&s, span_str(mechanism), span_of(c->first, c->first_n), out,
                                       sizeof out, &n, &err);
    if (r != SCRAM_GO_ON)
        return r;
    client_final(c, out, n);
    r = scram_final(&s, span_of(c->final, c->final_n), out, sizeof out, &n, &err);
    if (r == SCRAM_PROVEN) { /* the client, too, learns that the server knows the verifier */
        uint8_t shown[CRYPTO_SHA256];
        size_t shown_n;
        assert_true(n > 2 && memcmp(out, "v=", 2) == 0);
        assert_true(crypto_base64_decode(span_of(out + 2, n - 2), shown, sizeof shown, &shown_n));
        assert_memory_equal(shown, c->signature, sizeof shown);
    }
    if (r == SCRAM_DENIED)
        assert_int_equal(err.cause, CAUSE_AUTH_FAILED);
    scram_fini(&s);
    return r;
}

static void test_right_and_wrong_passwords(void **state)
{
    (void)state;
    static const char *const passwords[] = {"secret", "", "with, comma = and \\",
                                            "gr\xc3\xbc\xc3\x9f", "not utf-8 \xff\xfe"};
    for (size_t i = 0; i < ARRAY_LEN(passwords); i++) {
        struct scram_verifier v = verifier_of(passwords[i]);
        struct client good = {.password = passwords[i], .gs2 = "n,,", .nonce = "abc"};
        assert_int_equal(exchange(&v, &good, SCRAM_MECHANISM, no_tls), SCRAM_PROVEN);
        struct client wrong = {.password = "Secret", .gs2 = "n,,", .nonce = "abc"};
        assert_int_equal(exchange(&v, &wrong, SCRAM_MECHANISM, no_tls), SCRAM_DENIED);
    }
}

static void test_channel_binding(void **state)
{
    (void)state;
    struct scram_verifier v = verifier_of("secret");
    const struct span cert = SPAN_LIT("hash of the right certificate..");
    const struct span other = SPAN_LIT("hash of somebody in the middle!");
    const char *bind = "p=tls-server-end-point,,";
    struct {
        const char *mechanism, *gs2;
        struct span client, server;
        enum scram_verdict verdict;
    } rows[] = {
        {SCRAM_MECHANISM_PLUS, bind, cert, cert, SCRAM_PROVEN},
        {SCRAM_MECHANISM_PLUS, bind, other, cert, SCRAM_BAD},
        {SCRAM_MECHANISM_PLUS, bind, no_tls, cert, SCRAM_BAD},
        {SCRAM_MECHANISM_PLUS, bind, cert, no_tls, SCRAM_BAD},  /* not offered */
        {SCRAM_MECHANISM_PLUS, "n,,", no_tls, cert, SCRAM_BAD}, /* PLUS must bind */
        {SCRAM_MECHANISM_PLUS, "y,,", no_tls, cert, SCRAM_BAD},
        {SCRAM_MECHANISM, bind, cert, cert, SCRAM_BAD},         /* binding needs PLUS */
        {SCRAM_MECHANISM, "n,,", no_tls, cert, SCRAM_PROVEN},   /* the client cannot bind */
        {SCRAM_MECHANISM, "y,,", no_tls, cert, SCRAM_BAD},      /* somebody hid our offer */
        {SCRAM_MECHANISM, "y,,", no_tls, no_tls, SCRAM_PROVEN}, /* it could, we cannot */
        {SCRAM_MECHANISM_PLUS, "p=tls-unique,,", cert, cert, SCRAM_BAD},
        {SCRAM_MECHANISM_PLUS, "p=,,", cert, cert, SCRAM_BAD},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct client c = {
            .password = "secret", .gs2 = rows[i].gs2, .nonce = "abc", .cbind = rows[i].client};
        if (exchange(&v, &c, rows[i].mechanism, rows[i].server) != rows[i].verdict)
            fail_msg("row %zu", i);
    }
}

static void test_client_first_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        ",",
                                        "n",
                                        "n,",
                                        "n,,",
                                        "n,,n=",
                                        "n,,r=abc",
                                        "n,,n=,r=",
                                        "n,,n=,r=a b",
                                        "n,,r=a,n=",
                                        "n,,n=,x=a,r=abc",
                                        "n,a=root,n=,r=abc",
                                        "n,,m=ext,n=,r=abc",
                                        "x,,n=,r=abc",
                                        "nn,,n=,r=abc",
                                        "n,,n=,r=abc,1=x",
                                        "n,,n=,r=abc,x",
                                        "n,,n=,r=a\x7f",
                                        "n,,n=,r=\xc3\xa9",
                                        "n,,n=,r=a\tc"};
    struct scram_verifier v = verifier_of("secret");
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct scram s;
        struct err err;
        char out[SCRAM_OUT_MAX];
        size_t n;
        assert_true(scram_init(&s, &v, ours, no_tls));
        if (scram_first(&s, SPAN_LIT(SCRAM_MECHANISM), span_str(wrong[i]), out, sizeof out, &n,
                        &err) != SCRAM_BAD)
            fail_msg("accepted \"%s\"", wrong[i]);
        assert_int_equal(err.cause, CAUSE_CLIENT_PROTOCOL);
        assert_int_equal(n, 0);
    }
}

/* Nonces up to what fits; the server never writes past its arrays, whatever the length. */
static void test_long_messages(void **state)
{
    (void)state;
    struct scram_verifier v = verifier_of("secret");
    size_t accepted = 0;
    for (size_t len = 1; len < 1200; len++) {
        char message[1300] = "n,,n=,r=", out[SCRAM_OUT_MAX];
        struct scram s;
        struct err err;
        size_t n;
        memset(message + 8, 'x', len);
        assert_true(scram_init(&s, &v, ours, no_tls));
        if (scram_first(&s, SPAN_LIT(SCRAM_MECHANISM), span_of(message, 8 + len), out, sizeof out,
                        &n, &err) == SCRAM_GO_ON) {
            assert_int_equal(accepted, len - 1); /* all lengths up to a bound, none above */
            accepted = len;
        }
    }
    assert_true(accepted >= 256);
    char nul[] = "n,,n=,r=ab\0c";
    struct scram s;
    struct err err;
    char out[SCRAM_OUT_MAX];
    size_t n;
    assert_true(scram_init(&s, &v, ours, no_tls));
    assert_int_equal(scram_first(&s, SPAN_LIT(SCRAM_MECHANISM), span_of(nul, sizeof nul - 1), out,
                                 sizeof out, &n, &err),
                     SCRAM_BAD);
}

/* Every single changed byte of a good final message is refused. */
static void test_final_message_cannot_be_changed(void **state)
{
    (void)state;
    struct scram_verifier v = verifier_of("secret");
    struct client c = {.password = "secret", .gs2 = "n,,", .nonce = "abc"};
    struct scram begun, s;
    struct err err;
    char out[SCRAM_OUT_MAX], changed[1024];
    size_t n;
    client_first(&c);
    assert_true(scram_init(&begun, &v, ours, no_tls));
    assert_int_equal(scram_first(&begun, SPAN_LIT(SCRAM_MECHANISM), span_of(c.first, c.first_n),
                                 out, sizeof out, &n, &err),
                     SCRAM_GO_ON);
    client_final(&c, out, n);
    for (size_t i = 0; i < c.final_n; i++) {
        memcpy(changed, c.final, c.final_n);
        changed[i] = changed[i] == 'A' ? 'B' : 'A';
        s = begun;
        enum scram_verdict r =
            scram_final(&s, span_of(changed, c.final_n), out, sizeof out, &n, &err);
        assert_true(r == SCRAM_BAD || r == SCRAM_DENIED);
        /* nor can it be tried again on the same exchange */
        r = scram_final(&s, span_of(c.final, c.final_n), out, sizeof out, &n, &err);
        assert_int_equal(r, SCRAM_BAD);
    }
    for (size_t len = 0; len < c.final_n; len++) {
        s = begun;
        enum scram_verdict r = scram_final(&s, span_of(c.final, len), out, sizeof out, &n, &err);
        assert_int_equal(r, SCRAM_BAD);
    }
    s = begun;
    assert_int_equal(scram_final(&s, span_of(c.final, c.final_n), out, sizeof out, &n, &err),
                     SCRAM_PROVEN);
}

static void test_postgres_verifiers(void **state)
{
    (void)state;
    /* password "pencil" with the salt of RFC 7677, as PostgreSQL stores it */
    const char *stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
                         "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
                         "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    struct scram_verifier v;
    assert_true(scram_verifier_parse(&v, span_str(stored)));
    struct client c = {.password = "pencil", .gs2 = "n,,", .nonce = "abc"};
    assert_int_equal(exchange(&v, &c, SCRAM_MECHANISM, no_tls), SCRAM_PROVEN);

    static const char *const wrong[] = {
        "",
        "SCRAM-SHA-256",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-1$4096:AAAA$AAAA:AAAA",
        "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$99999999999:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$4096:$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:",
        "SCRAM-SHA-256$-1:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "md5c4ca4238a0b923820dcc509a6f75849b"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (scram_verifier_parse(&v, span_str(wrong[i])))
            fail_msg("accepted \"%s\"", wrong[i]);
}

static void test_derive_refuses_what_it_cannot_keep(void **state)
{
    (void)state;
    struct scram_verifier v;
    uint8_t salt[SCRAM_SALT_MAX + 1] = {0};
    assert_false(scram_verifier_derive(&v, SPAN_LIT("x"), (struct span){0}, 4096));
    assert_false(scram_verifier_derive(&v, SPAN_LIT("x"), span_of(salt, sizeof salt), 1));
    assert_false(scram_verifier_derive(&v, SPAN_LIT("x"), span_of(salt, 16), 0));
    assert_false(
        scram_verifier_derive(&v, SPAN_LIT("x"), span_of(salt, 16), SCRAM_ITERATIONS_MAX + 1));
    assert_true(scram_verifier_derive(&v, SPAN_LIT("x"), span_of(salt, SCRAM_SALT_MAX), 1));
}

static void test_unknown_users_look_like_known_ones(void **state)
{
    (void)state;
    struct scram_verifier a, again, b, elsewhere;
    assert_true(scram_verifier_mock(&a, SPAN_LIT("process secret"), SPAN_LIT("alice")));
    assert_true(scram_verifier_mock(&again, SPAN_LIT("process secret"), SPAN_LIT("alice")));
    assert_true(scram_verifier_mock(&b, SPAN_LIT("process secret"), SPAN_LIT("bob")));
    assert_true(scram_verifier_mock(&elsewhere, SPAN_LIT("another secret"), SPAN_LIT("alice")));
    struct scram_verifier known = verifier_of("secret");
    assert_int_equal(a.salt_n, known.salt_n);
    assert_int_equal(a.iterations, known.iterations);
    assert_memory_equal(a.salt, again.salt, SCRAM_SALT);
    assert_memory_not_equal(a.salt, b.salt, SCRAM_SALT);
    assert_memory_not_equal(a.salt, elsewhere.salt, SCRAM_SALT);
    struct client c = {.password = "secret", .gs2 = "n,,", .nonce = "abc"};
    assert_int_equal(exchange(&a, &c, SCRAM_MECHANISM, no_tls), SCRAM_DENIED);
    /* not even with the right keys */
    known.mock = true;
    assert_int_equal(exchange(&known, &c, SCRAM_MECHANISM, no_tls), SCRAM_DENIED);
}

static void test_passwords_against_verifiers(void **state)
{
    (void)state;
    struct scram_verifier v = verifier_of("secret"), mock;
    bool right;
    assert_true(scram_verifier_check(&v, SPAN_LIT("secret"), &right) && right);
    assert_true(scram_verifier_check(&v, SPAN_LIT("Secret"), &right) && !right);
    assert_true(scram_verifier_check(&v, SPAN_LIT(""), &right) && !right);
    v.mock = true; /* not even the right one */
    assert_true(scram_verifier_check(&v, SPAN_LIT("secret"), &right) && !right);
    assert_true(scram_verifier_mock(&mock, SPAN_LIT("process secret"), SPAN_LIT("alice")));
    assert_true(scram_verifier_check(&mock, SPAN_LIT("secret"), &right) && !right);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc7677_example),
        cmocka_unit_test(test_right_and_wrong_passwords),
        cmocka_unit_test(test_channel_binding),
        cmocka_unit_test(test_client_first_refused),
        cmocka_unit_test(test_long_messages),
        cmocka_unit_test(test_final_message_cannot_be_changed),
        cmocka_unit_test(test_postgres_verifiers),
        cmocka_unit_test(test_derive_refuses_what_it_cannot_keep),
        cmocka_unit_test(test_unknown_users_look_like_known_ones),
        cmocka_unit_test(test_passwords_against_verifiers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
