/* SPDX-License-Identifier: MIT */
/* Hashes against published vectors; base64 that accepts one spelling only. */
#include "proxy/core/crypto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const char *hex_of(const uint8_t *p, size_t n)
{
    static char text[129];
    for (size_t i = 0; i < n && i < 64; i++) {
        text[2 * i] = "0123456789abcdef"[p[i] >> 4];
        text[2 * i + 1] = "0123456789abcdef"[p[i] & 15];
    }
    text[2 * n] = 0;
    return text;
}

static void test_sha256_vectors(void **state)
{
    (void)state;
    uint8_t out[CRYPTO_SHA256];
    assert_true(crypto_sha256(SPAN_LIT("abc"), out)); /* FIPS 180-2 */
    assert_string_equal(hex_of(out, sizeof out),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(crypto_sha256((struct span){0}, out));
    assert_string_equal(hex_of(out, sizeof out),
                        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void test_hmac_vectors(void **state)
{
    (void)state;
    uint8_t out[CRYPTO_SHA256], long_key[131];
    assert_true(
        crypto_hmac_sha256(SPAN_LIT("Jefe"), SPAN_LIT("what do ya want for nothing?"), out));
    assert_string_equal(hex_of(out, sizeof out), /* RFC 4231, case 2 */
                        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(long_key, 0xaa, sizeof long_key);
    assert_true(crypto_hmac_sha256(
        span_of(long_key, sizeof long_key),
        SPAN_LIT("Test Using Larger Than Block-Size Key - Hash Key First"), out));
    assert_string_equal(hex_of(out, sizeof out), /* case 6 */
                        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    /* no key, no data: still defined */
    assert_true(crypto_hmac_sha256((struct span){0}, (struct span){0}, out));
    assert_string_equal(hex_of(out, sizeof out),
                        "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void test_pbkdf2_vectors(void **state)
{
    (void)state;
    uint8_t out[CRYPTO_SHA256];
    assert_true(crypto_pbkdf2(SPAN_LIT("password"), SPAN_LIT("salt"), 1, out));
    assert_string_equal(hex_of(out, sizeof out),
                        "120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b");
    assert_true(crypto_pbkdf2(SPAN_LIT("password"), SPAN_LIT("salt"), 4096, out));
    assert_string_equal(hex_of(out, sizeof out),
                        "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a");
    assert_false(crypto_pbkdf2(SPAN_LIT("password"), SPAN_LIT("salt"), 0, out));
    assert_string_equal(hex_of(out, 4), "00000000"); /* nothing left to be used by mistake */
}

static void test_md5_hex(void **state)
{
    (void)state;
    char out[CRYPTO_MD5_HEX + 1];
    assert_true(crypto_md5_hex(SPAN_LIT("abc"), out));
    assert_string_equal(out, "900150983cd24fb0d6963f7d28e17f72");
}

static void test_base64_both_ways(void **state)
{
    (void)state;
    static const struct {
        const char *plain, *text;
    } rows[] = {{"", ""},
                {"f", "Zg=="},
                {"fo", "Zm8="},
                {"foo", "Zm9v"},
                {"foob", "Zm9vYg=="},
                {"fooba", "Zm9vYmE="},
                {"foobar", "Zm9vYmFy"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[16];
        uint8_t plain[16];
        size_t n;
        assert_true(crypto_base64_encode(span_str(rows[i].plain), text, sizeof text, &n));
        assert_int_equal(n, strlen(rows[i].text));
        assert_memory_equal(text, rows[i].text, n);
        assert_true(crypto_base64_decode(span_str(rows[i].text), plain, sizeof plain, &n));
        assert_int_equal(n, strlen(rows[i].plain));
        assert_memory_equal(plain, rows[i].plain, n);
    }
}

static void test_base64_every_byte(void **state)
{
    (void)state;
    uint8_t all[256], back[256];
    char text[344];
    size_t n;
    for (size_t i = 0; i < sizeof all; i++)
        all[i] = (uint8_t)(255 - i);
    for (size_t len = 0; len <= sizeof all; len++) {
        assert_true(crypto_base64_encode(span_of(all, len), text, sizeof text, &n));
        assert_int_equal(n, crypto_base64_len(len));
        assert_true(crypto_base64_decode(span_of(text, n), back, len, &n));
        assert_int_equal(n, len);
        assert_memory_equal(back, all, len);
    }
}

static void test_base64_is_strict(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "Z",      "Zg",   "Zg=",     "Zg===", "====", "=Zg=", "Z===",     "Zg==Zg==",
        "Zm9v\n", "Zm 9", "Zm9v Zg", "Zh==",  "Zm9=", "Zm-_", "Zm9v====", "Zg=g"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        uint8_t out[32];
        size_t n = 99;
        if (crypto_base64_decode(span_str(wrong[i]), out, sizeof out, &n))
            fail_msg("accepted \"%s\"", wrong[i]);
        assert_int_equal(n, 0);
    }
}

static void test_base64_bounds(void **state)
{
    (void)state;
    char text[4];
    uint8_t out[3];
    size_t n;
    assert_false(crypto_base64_encode(SPAN_LIT("four"), text, sizeof text, &n));
    assert_true(crypto_base64_encode(SPAN_LIT("3by"), text, sizeof text, &n));
    assert_false(crypto_base64_decode(SPAN_LIT("Zm9vYg=="), out, sizeof out, &n));
    assert_true(crypto_base64_decode(SPAN_LIT("Zm9v"), out, sizeof out, &n));
}

static void test_secrets(void **state)
{
    (void)state;
    uint8_t a[32], b[32], zero[32] = {0};
    assert_true(crypto_random(a, sizeof a));
    assert_true(crypto_random(b, sizeof b));
    assert_false(crypto_equal(span_of(a, sizeof a), span_of(b, sizeof b)));
    memcpy(b, a, sizeof b);
    assert_true(crypto_equal(span_of(a, sizeof a), span_of(b, sizeof b)));
    assert_false(crypto_equal(span_of(a, 31), span_of(b, 32)));
    assert_true(crypto_equal((struct span){0}, span_of(b, 0)));
    crypto_wipe(a, sizeof a);
    assert_memory_equal(a, zero, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256_vectors),   cmocka_unit_test(test_hmac_vectors),
        cmocka_unit_test(test_pbkdf2_vectors),   cmocka_unit_test(test_md5_hex),
        cmocka_unit_test(test_base64_both_ways), cmocka_unit_test(test_base64_every_byte),
        cmocka_unit_test(test_base64_is_strict), cmocka_unit_test(test_base64_bounds),
        cmocka_unit_test(test_secrets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
