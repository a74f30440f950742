/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The little cryptography carpool needs itself, thin over OpenSSL: hashes for logins, strict
 * base64, random bytes, comparing and wiping secrets. TLS is not here (proxy/core/tls.h).
 *
 * Pure functions, safe on every thread. Those that return bool fail only when OpenSSL does (no
 * memory, an algorithm switched off by policy); then the output is wiped and must not be used.
 */
#include "proxy/core/span.h"

enum { CRYPTO_SHA256 = 32, CRYPTO_MD5_HEX = 32 };

MUST_USE bool crypto_sha256(struct span data, uint8_t out[CRYPTO_SHA256]);
/* RFC 2104; a key of any length, also empty. */
MUST_USE bool crypto_hmac_sha256(struct span key, struct span data, uint8_t out[CRYPTO_SHA256]);
/* PBKDF2-HMAC-SHA-256 (RFC 8018), one block. 4096 iterations cost about a millisecond: never on a
 * worker. `iterations` at least 1. */
MUST_USE bool crypto_pbkdf2(struct span password, struct span salt, uint32_t iterations,
                            uint8_t out[CRYPTO_SHA256]);
/* 32 lower-case hexadecimal digits and a NUL. Only for PostgreSQL's md5 logins. */
MUST_USE bool crypto_md5_hex(struct span data, char out[CRYPTO_MD5_HEX + 1]);

/* Bytes from the system's generator; false: do not go on without them. */
MUST_USE bool crypto_random(void *out, size_t n);
/* Takes the same time whatever the contents; lengths are not secret. */
bool crypto_equal(struct span a, struct span b);
/* Zeroes, and is not optimised away. */
void crypto_wipe(void *p, size_t n);

/* Standard alphabet with padding (RFC 4648, section 4). */
static inline size_t crypto_base64_len(size_t n)
{
    return (n + 2) / 3 * 4;
}
/* Writes crypto_base64_len(in.n) characters, no NUL. False if they do not fit into `cap`. */
MUST_USE bool crypto_base64_encode(struct span in, char *out, size_t cap, size_t *n);
/* Strict: no blanks, no missing padding, unused bits zero. False if malformed or over `cap`; then
 * *n is 0. Empty text is zero bytes. */
MUST_USE bool crypto_base64_decode(struct span in, uint8_t *out, size_t cap, size_t *n);
