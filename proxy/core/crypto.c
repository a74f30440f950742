/* SPDX-License-Identifier: MIT */
/*
 * Hashes, base64, random bytes, secrets. One-shot calls of OpenSSL that need no context of ours, so
 * nothing is shared between threads.
 */
#include "proxy/core/crypto.h"

#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sys/random.h>

/* OpenSSL reads through the pointer even when the length is 0. */
static const uint8_t nothing[1];

static const uint8_t *bytes_of(struct span s)
{
    return s.n ? s.p : nothing;
}

static bool digest(const EVP_MD *md, struct span data, uint8_t *out, size_t n)
{
    unsigned got = 0;
    uint8_t full[EVP_MAX_MD_SIZE];
    bool ok = md && EVP_Digest(bytes_of(data), data.n, full, &got, md, NULL) == 1 && got == n;
    if (ok)
        memcpy(out, full, n);
    else
        crypto_wipe(out, n);
    crypto_wipe(full, sizeof full);
    return ok;
}

bool crypto_sha256(struct span data, uint8_t out[CRYPTO_SHA256])
{
    return digest(EVP_sha256(), data, out, CRYPTO_SHA256);
}

#define BLOCK 64 /* of SHA-256 */

/* RFC 2104 by two hashes: OpenSSL's own costs twice as much, and a login needs several. */
bool crypto_hmac_sha256(struct span key, struct span data, uint8_t out[CRYPTO_SHA256])
{
    uint8_t pad[BLOCK] = {0};
    bool ok = true;
    if (key.n > BLOCK)
        ok = crypto_sha256(key, pad);
    else if (key.n)
        memcpy(pad, key.p, key.n);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    ok = ok && md;
    struct span text = data;
    for (uint8_t mask = 0x36; ok && mask; mask = mask == 0x36 ? 0x5c : 0) {
        uint8_t block[BLOCK];
        for (size_t i = 0; i < BLOCK; i++)
            block[i] = (uint8_t)(pad[i] ^ mask);
        ok = EVP_DigestInit_ex(md, mask == 0x36 ? EVP_sha256() : NULL, NULL) == 1 &&
             EVP_DigestUpdate(md, block, BLOCK) == 1 &&
             EVP_DigestUpdate(md, bytes_of(text), text.n) == 1 &&
             EVP_DigestFinal_ex(md, out, NULL) == 1;
        crypto_wipe(block, sizeof block);
        text = span_of(out, CRYPTO_SHA256);
    }
    EVP_MD_CTX_free(md);
    crypto_wipe(pad, sizeof pad);
    if (!ok)
        crypto_wipe(out, CRYPTO_SHA256);
    return ok;
}

bool crypto_pbkdf2(struct span password, struct span salt, uint32_t iterations,
                   uint8_t out[CRYPTO_SHA256])
{
    if (iterations >= 1 && iterations <= INT_MAX && password.n <= INT_MAX && salt.n <= INT_MAX &&
        PKCS5_PBKDF2_HMAC((const char *)bytes_of(password), (int)password.n, bytes_of(salt),
                          (int)salt.n, (int)iterations, EVP_sha256(), CRYPTO_SHA256, out) == 1)
        return true;
    crypto_wipe(out, CRYPTO_SHA256);
    return false;
}

bool crypto_md5_hex(struct span data, char out[CRYPTO_MD5_HEX + 1])
{
    static const char hex[] = "0123456789abcdef";
    uint8_t sum[CRYPTO_MD5_HEX / 2];
    memset(out, 0, CRYPTO_MD5_HEX + 1);
    if (!digest(EVP_md5(), data, sum, sizeof sum))
        return false;
    for (size_t i = 0; i < sizeof sum; i++) {
        out[2 * i] = hex[sum[i] >> 4];
        out[2 * i + 1] = hex[sum[i] & 15];
    }
    crypto_wipe(sum, sizeof sum);
    return true;
}

bool crypto_random(void *out, size_t n)
{
    /* The kernel's own: OpenSSL's generator costs more than the call. */
    for (size_t at = 0; at < n;) {
        ssize_t got = getrandom((uint8_t *)out + at, n - at, 0);
        if (got < 0 && errno != EINTR) {
            crypto_wipe(out, n);
            return false;
        }
        at += got > 0 ? (size_t)got : 0;
    }
    return true;
}

bool crypto_equal(struct span a, struct span b)
{
    return a.n == b.n && (a.n == 0 || CRYPTO_memcmp(a.p, b.p, a.n) == 0);
}

void crypto_wipe(void *p, size_t n)
{
    if (n)
        OPENSSL_cleanse(p, n);
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool crypto_base64_encode(struct span in, char *out, size_t cap, size_t *n)
{
    *n = 0;
    if (in.n > SIZE_MAX / 2 || crypto_base64_len(in.n) > cap)
        return false;
    char *o = out;
    for (size_t i = 0; i < in.n; i += 3) {
        size_t have = in.n - i;
        uint32_t three = (uint32_t)in.p[i] << 16 | (have > 1 ? (uint32_t)in.p[i + 1] << 8 : 0) |
                         (have > 2 ? in.p[i + 2] : 0);
        *o++ = base64_digits[three >> 18];
        *o++ = base64_digits[three >> 12 & 63];
        *o++ = have > 1 ? base64_digits[three >> 6 & 63] : '=';
        *o++ = have > 2 ? base64_digits[three & 63] : '=';
    }
    *n = (size_t)(o - out);
    return true;
}

/* The value of a digit, or 64. Secrets pass here, but only their owner measures the time. */
static uint32_t base64_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - (uint32_t)'A';
    if (c >= 'a' && c <= 'z')
        return c - (uint32_t)'a' + 26;
    if (c >= '0' && c <= '9')
        return c - (uint32_t)'0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : 64;
}

bool crypto_base64_decode(struct span in, uint8_t *out, size_t cap, size_t *n)
{
    *n = 0;
    if (in.n % 4 != 0)
        return false;
    size_t pad = in.n && in.p[in.n - 1] == '=' ? 1 : 0;
    if (pad && in.p[in.n - 2] == '=')
        pad = 2;
    size_t len = in.n / 4 * 3 - pad;
    if (len > cap)
        return false;
    size_t o = 0;
    for (size_t i = 0; i < in.n; i += 4) {
        size_t digits = i + 4 == in.n ? 4 - pad : 4;
        uint32_t three = 0;
        for (size_t k = 0; k < digits; k++) {
            uint32_t v = base64_value(in.p[i + k]);
            if (v == 64)
                return false;
            three |= v << (18 - 6 * k);
        }
        if ((digits == 3 && (three & 0xff)) || (digits == 2 && (three & 0xffff)))
            return false; /* bits nobody reads: the same bytes must not have two spellings */
        for (size_t k = 0; k + 1 < digits; k++)
            out[o++] = (uint8_t)(three >> (16 - 8 * k));
    }
    *n = o;
    return true;
}
