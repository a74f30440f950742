/* SPDX-License-Identifier: MIT */
/*
 * SCRAM, the server's side. Messages are ASCII attributes separated by commas, read left to right
 * by one cursor; nothing is copied before its length is checked against the fixed arrays of struct
 * scram.
 *
 *     START -- first --> SENT_FIRST -- final --> DONE
 *       +-------------------+--- malformed, wrong --> FAILED
 */
#include "proxy/wire/scram.h"

#include <stdio.h>

static struct span key_span(const uint8_t *key)
{
    return span_of(key, CRYPTO_SHA256);
}

/* --- verifiers --- */

bool scram_verifier_derive(struct scram_verifier *v, struct span password, struct span salt,
                           uint32_t iterations)
{
    uint8_t salted[CRYPTO_SHA256], client_key[CRYPTO_SHA256];
    *v = (struct scram_verifier){.iterations = iterations};
    if (salt.n == 0 || salt.n > SCRAM_SALT_MAX || iterations == 0 ||
        iterations > SCRAM_ITERATIONS_MAX)
        return false;
    memcpy(v->salt, salt.p, salt.n);
    v->salt_n = (uint8_t)salt.n;
    bool ok = crypto_pbkdf2(password, salt, iterations, salted) &&
              crypto_hmac_sha256(key_span(salted), SPAN_LIT("Client Key"), client_key) &&
              crypto_sha256(key_span(client_key), v->stored_key) &&
              crypto_hmac_sha256(key_span(salted), SPAN_LIT("Server Key"), v->server_key);
    crypto_wipe(salted, sizeof salted);
    crypto_wipe(client_key, sizeof client_key);
    return ok;
}

bool scram_verifier_check(const struct scram_verifier *v, struct span password, bool *right)
{
    struct scram_verifier given;
    bool ok = scram_verifier_derive(&given, password, span_of(v->salt, v->salt_n), v->iterations);
    *right = ok && crypto_equal(key_span(given.stored_key), key_span(v->stored_key)) && !v->mock;
    crypto_wipe(&given, sizeof given);
    return ok;
}

/* Cuts `text` at the first `mark`; false if there is none. */
static bool cut(struct span *text, char mark, struct span *before)
{
    const uint8_t *at = text->n ? memchr(text->p, mark, text->n) : NULL;
    if (!at)
        return false;
    *before = span_of(text->p, (size_t)(at - text->p));
    *text = span_skip(*text, before->n + 1);
    return true;
}

static bool read_iterations(struct span digits, uint32_t *out)
{
    uint32_t v = 0;
    if (digits.n == 0 || digits.n > 8)
        return false;
    for (size_t i = 0; i < digits.n; i++) {
        if (digits.p[i] < '0' || digits.p[i] > '9')
            return false;
        v = v * 10 + (digits.p[i] - (uint32_t)'0');
    }
    *out = v;
    return v >= 1 && v <= SCRAM_ITERATIONS_MAX;
}

static bool read_key(struct span text, uint8_t out[CRYPTO_SHA256])
{
    size_t n;
    return crypto_base64_decode(text, out, CRYPTO_SHA256, &n) && n == CRYPTO_SHA256;
}

bool scram_verifier_parse(struct scram_verifier *v, struct span text)
{
    struct span name, digits, salt, stored;
    size_t salt_n;
    *v = (struct scram_verifier){0};
    if (!cut(&text, '$', &name) || !span_eq(name, SPAN_LIT(SCRAM_MECHANISM)) ||
        !cut(&text, ':', &digits) || !read_iterations(digits, &v->iterations) ||
        !cut(&text, '$', &salt) || !crypto_base64_decode(salt, v->salt, SCRAM_SALT_MAX, &salt_n) ||
        salt_n == 0 || !cut(&text, ':', &stored) || !read_key(stored, v->stored_key) ||
        !read_key(text, v->server_key))
        return false;
    v->salt_n = (uint8_t)salt_n;
    return true;
}

bool scram_verifier_mock(struct scram_verifier *v, struct span secret, struct span user)
{
    uint8_t salt[CRYPTO_SHA256];
    *v =
        (struct scram_verifier){.iterations = SCRAM_ITERATIONS, .salt_n = SCRAM_SALT, .mock = true};
    /* The keys are never compared with success; random ones keep the arithmetic the same. */
    if (!crypto_hmac_sha256(secret, user, salt) ||
        !crypto_random(v->stored_key, sizeof v->stored_key) ||
        !crypto_random(v->server_key, sizeof v->server_key))
        return false;
    memcpy(v->salt, salt, SCRAM_SALT);
    return true;
}

/* --- the exchange --- */

static enum scram_verdict bad(struct scram *s, struct err *err, const char *what)
{
    s->state = SCRAM_FAILED;
    err_set(err, CAUSE_CLIENT_PROTOCOL, STAGE_LOGIN, 0, "malformed SCRAM message: %s", what);
    return SCRAM_BAD;
}

static enum scram_verdict broken(struct scram *s, struct err *err)
{
    s->state = SCRAM_FAILED;
    err_set(err, CAUSE_INTERNAL, STAGE_LOGIN, 0, "out of memory for a hash");
    return SCRAM_BAD;
}

bool scram_init(struct scram *s, const struct scram_verifier *verifier,
                const uint8_t random[SCRAM_NONCE], struct span cbind)
{
    size_t n;
    *s = (struct scram){.verifier = verifier, .cbind = cbind};
    if (cbind.n > SCRAM_CBIND_MAX)
        return false;
    /* Our part of the nonce, until the client's is put in front of it. */
    if (!crypto_base64_encode(span_of(random, SCRAM_NONCE), s->nonce, sizeof s->nonce, &n))
        return false;
    s->nonce_n = n;
    return true;
}

void scram_fini(struct scram *s)
{
    crypto_wipe(s, sizeof *s);
}

/* Takes "x=value" and the comma or the end behind it. */
static bool take_attribute(struct span *text, char name, struct span *value)
{
    if (text->n < 2 || text->p[0] != (uint8_t)name || text->p[1] != '=')
        return false;
    *text = span_skip(*text, 2);
    if (!cut(text, ',', value)) {
        *value = *text;
        *text = span_skip(*text, text->n);
    }
    return true;
}

/* Extensions we do not know, each a letter and a value: to be ignored. */
static bool skip_extensions(struct span text)
{
    struct span value;
    while (text.n > 0) {
        uint8_t l = ascii_lower(text.p[0]);
        if (l < 'a' || l > 'z' || !take_attribute(&text, (char)text.p[0], &value))
            return false;
    }
    return true;
}

static bool nonce_ok(struct span nonce)
{
    for (size_t i = 0; i < nonce.n; i++)
        if (nonce.p[i] < 0x21 || nonce.p[i] > 0x7e || nonce.p[i] == ',')
            return false;
    return nonce.n > 0;
}

/* The gs2 header: channel binding flag, authorization identity. NULL, or what is wrong with it. */
static const char *read_gs2(struct scram *s, struct span *text)
{
    struct span flag, authzid, header = *text;
    if (!cut(text, ',', &flag) || !cut(text, ',', &authzid))
        return "no gs2 header";
    bool offered = s->cbind.n > 0;
    if (span_eq(flag, SPAN_LIT("n"))) {
        if (s->plus)
            return "SCRAM-SHA-256-PLUS without channel binding";
    } else if (span_eq(flag, SPAN_LIT("y"))) {
        if (s->plus)
            return "SCRAM-SHA-256-PLUS without channel binding";
        if (offered) /* somebody between us hid our offer */
            return "the client believes that channel binding was not offered, but it was";
    } else if (span_eq(flag, SPAN_LIT("p=tls-server-end-point"))) {
        if (!s->plus)
            return "channel binding needs SCRAM-SHA-256-PLUS";
    } else {
        return "unsupported channel binding";
    }
    if (authzid.n > 0)
        return "authorization identities are not supported";
    s->gs2_n = header.n - text->n;
    if (s->gs2_n > sizeof s->gs2)
        return "gs2 header too long"; /* cannot be: all forms are known */
    memcpy(s->gs2, header.p, s->gs2_n);
    return NULL;
}

/* The client's nonce in front of ours. */
static bool join_nonce(struct scram *s, struct span theirs)
{
    if (theirs.n > sizeof s->nonce - s->nonce_n)
        return false;
    memmove(s->nonce + theirs.n, s->nonce, s->nonce_n);
    memcpy(s->nonce, theirs.p, theirs.n);
    s->nonce_n += theirs.n;
    return true;
}

static enum scram_verdict answer_first(struct scram *s, struct span bare, char *out, size_t cap,
                                       size_t *out_n, struct err *err)
{
    char salt[(SCRAM_SALT_MAX + 2) / 3 * 4];
    size_t salt_n;
    if (!crypto_base64_encode(span_of(s->verifier->salt, s->verifier->salt_n), salt, sizeof salt,
                              &salt_n))
        return broken(s, err);
    int n = snprintf(out, cap, "r=%.*s,s=%.*s,i=%u", (int)s->nonce_n, s->nonce, (int)salt_n, salt,
                     s->verifier->iterations);
    if (n < 0 || (size_t)n >= cap || bare.n + 1 + (size_t)n > sizeof s->auth)
        return bad(s, err, "too long");
    *out_n = (size_t)n;
    memcpy(s->auth, bare.p, bare.n);
    s->auth[bare.n] = ',';
    memcpy(s->auth + bare.n + 1, out, *out_n);
    s->auth_n = bare.n + 1 + *out_n;
    s->state = SCRAM_SENT_FIRST;
    return SCRAM_GO_ON;
}

enum scram_verdict scram_first(struct scram *s, struct span mechanism, struct span message,
                               char *out, size_t cap, size_t *out_n, struct err *err)
{
    struct span text = message, user, nonce;
    *out_n = 0;
    if (s->state != SCRAM_START)
        return bad(s, err, "out of order");
    if (message.n > SCRAM_MESSAGE_MAX || (message.n && memchr(message.p, 0, message.n)))
        return bad(s, err, "too long or with a NUL");
    s->plus = span_eq(mechanism, SPAN_LIT(SCRAM_MECHANISM_PLUS));
    if (!(s->plus ? s->cbind.n > 0 : span_eq(mechanism, SPAN_LIT(SCRAM_MECHANISM))))
        return bad(s, err, "a mechanism that was not offered");
    const char *wrong = read_gs2(s, &text);
    if (wrong)
        return bad(s, err, wrong);
    struct span bare = text;
    if (text.n > 0 && text.p[0] == 'm')
        return bad(s, err, "a mandatory extension is not supported");
    if (!take_attribute(&text, 'n', &user) || !take_attribute(&text, 'r', &nonce))
        return bad(s, err, "user and nonce expected");
    if (!nonce_ok(nonce) || !skip_extensions(text))
        return bad(s, err, "nonce or extensions");
    if (!join_nonce(s, nonce))
        return bad(s, err, "nonce too long");
    return answer_first(s, bare, out, cap, out_n, err);
}

/* The final message repeats the gs2 header and carries the channel's data: c=base64(both). */
static bool cbind_ok(const struct scram *s, struct span value)
{
    uint8_t want[sizeof s->gs2 + SCRAM_CBIND_MAX];
    char text[(sizeof want + 2) / 3 * 4];
    size_t n = s->gs2_n, text_n;
    memcpy(want, s->gs2, n);
    if (s->plus) {
        memcpy(want + n, s->cbind.p, s->cbind.n);
        n += s->cbind.n;
    }
    return crypto_base64_encode(span_of(want, n), text, sizeof text, &text_n) &&
           span_eq(value, span_of(text, text_n));
}

/* ClientKey = proof XOR HMAC(StoredKey, AuthMessage); right if its hash is the StoredKey. False
 * only if the library fails. */
static bool prove(const struct scram *s, struct span auth, const uint8_t proof[CRYPTO_SHA256],
                  bool *proven, uint8_t signature[CRYPTO_SHA256])
{
    const struct scram_verifier *v = s->verifier;
    uint8_t key[CRYPTO_SHA256], hash[CRYPTO_SHA256];
    bool ok = crypto_hmac_sha256(key_span(v->stored_key), auth, key);
    for (size_t i = 0; i < sizeof key; i++)
        key[i] ^= proof[i];
    ok = ok && crypto_sha256(key_span(key), hash) &&
         crypto_hmac_sha256(key_span(v->server_key), auth, signature);
    *proven = ok && crypto_equal(key_span(hash), key_span(v->stored_key)) && !v->mock;
    crypto_wipe(key, sizeof key);
    return ok;
}

static enum scram_verdict verdict(struct scram *s, struct span without_proof,
                                  const uint8_t proof[CRYPTO_SHA256], char *out, size_t cap,
                                  size_t *out_n, struct err *err)
{
    uint8_t signature[CRYPTO_SHA256];
    bool proven;
    if (without_proof.n + 1 > sizeof s->auth - s->auth_n || cap < 2)
        return bad(s, err, "too long");
    s->auth[s->auth_n] = ',';
    memcpy(s->auth + s->auth_n + 1, without_proof.p, without_proof.n);
    s->auth_n += 1 + without_proof.n;
    if (!prove(s, span_of(s->auth, s->auth_n), proof, &proven, signature))
        return broken(s, err);
    if (!proven) {
        s->state = SCRAM_FAILED;
        err_set(err, CAUSE_AUTH_FAILED, STAGE_LOGIN, 0, "wrong password or unknown user");
        return SCRAM_DENIED;
    }
    memcpy(out, "v=", 2);
    if (!crypto_base64_encode(key_span(signature), out + 2, cap - 2, out_n))
        return broken(s, err);
    *out_n += 2;
    s->state = SCRAM_DONE;
    return SCRAM_PROVEN;
}

/* The proof is the last attribute; everything before its comma is signed. */
static bool split_proof(struct span message, struct span *signed_part, struct span *proof)
{
    for (size_t i = message.n; i-- > 0;) {
        if (message.p[i] != ',')
            continue;
        *signed_part = span_of(message.p, i);
        struct span rest = span_skip(message, i + 1);
        return take_attribute(&rest, 'p', proof);
    }
    return false;
}

enum scram_verdict scram_final(struct scram *s, struct span message, char *out, size_t cap,
                               size_t *out_n, struct err *err)
{
    struct span without_proof, proof_text, cbind, nonce;
    uint8_t proof[CRYPTO_SHA256];
    *out_n = 0;
    if (s->state != SCRAM_SENT_FIRST)
        return bad(s, err, "out of order");
    if (message.n > SCRAM_MESSAGE_MAX || (message.n && memchr(message.p, 0, message.n)))
        return bad(s, err, "too long or with a NUL");
    if (!split_proof(message, &without_proof, &proof_text) || !read_key(proof_text, proof))
        return bad(s, err, "no proof");
    struct span text = without_proof;
    if (!take_attribute(&text, 'c', &cbind) || !cbind_ok(s, cbind))
        return bad(s, err, "channel binding does not match");
    if (!take_attribute(&text, 'r', &nonce) || !span_eq(nonce, span_of(s->nonce, s->nonce_n)))
        return bad(s, err, "nonce does not match");
    if (!skip_extensions(text))
        return bad(s, err, "extensions");
    enum scram_verdict v = verdict(s, without_proof, proof, out, cap, out_n, err);
    crypto_wipe(proof, sizeof proof);
    return v;
}
