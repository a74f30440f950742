/* SPDX-License-Identifier: MIT */
#include "proxy/core/tls.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

struct tls_ctx {
    SSL_CTX *ctx;
    enum tls_verify verify;
    const char *alpn; /* of a door; NULL: whatever */
    size_t record_max;
};

#define RECORD_MAX ((size_t)16 * 1024)
/* Servers send much at once. Freed whenever nothing is inside; doors keep OpenSSL's 16 KiB, as
   anybody can send half a record and wait. */
#define SERVER_BUFFER ((size_t)64 * 1024)

struct tls_conn {
    SSL *ssl;
    size_t record_max;
    size_t begun; /* bytes of a record that OpenSSL has encrypted and not sent whole */
    bool starved; /* it said last that it cannot go on before the socket has more, or room */
    bool ending;  /* it saw the end or an error behind bytes that were returned: not told yet */
};

static bool fail(struct err *err, const char *what)
{
    unsigned long e = ERR_get_error();
    int sys = ERR_SYSTEM_ERROR(e) ? ERR_GET_REASON(e) : 0;
    bool local = sys == EMFILE || sys == ENFILE || sys == ENOMEM; /* not the peer's fault */
    const char *reason = sys ? strerror(sys) : e ? ERR_reason_error_string(e) : NULL;
    ERR_clear_error();
    return err_set(err, local ? CAUSE_INTERNAL : CAUSE_TLS_FAILED, STAGE_TLS, sys, "%s%s%s", what,
                   reason ? ": " : "", reason ? reason : "");
}

static struct tls_ctx *ctx_new(const SSL_METHOD *method)
{
    struct tls_ctx *t = calloc(1, sizeof *t);
    CHECK(t != NULL);
    t->ctx = SSL_CTX_new(method);
    CHECK(t->ctx != NULL);
    t->record_max = RECORD_MAX;
    SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    /* Idle connections give their buffers back; partial writes let backpressure work. */
    SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                 SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(t->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_read_ahead(t->ctx, 1); /* one read for many records; see tls_pending() */
    return t;
}

static bool use_identity(struct tls_ctx *t, const char *cert, const char *key, struct err *err)
{
    if (SSL_CTX_use_certificate_chain_file(t->ctx, cert) != 1)
        return fail(err, "the certificate file cannot be used");
    if (SSL_CTX_use_PrivateKey_file(t->ctx, key, SSL_FILETYPE_PEM) != 1)
        return fail(err, "the key file cannot be used");
    if (SSL_CTX_check_private_key(t->ctx) != 1)
        return fail(err, "the key does not belong to the certificate");
    return true;
}

struct tls_ctx *tls_ctx_server(const char *cert_file, const char *key_file, const char *ca_file,
                               struct err *err)
{
    struct tls_ctx *t = ctx_new(TLS_server_method());
    if (!use_identity(t, cert_file, key_file, err))
        goto bad;
    if (ca_file) {
        if (SSL_CTX_load_verify_locations(t->ctx, ca_file, NULL) != 1) {
            fail(err, "the CA file cannot be used");
            goto bad;
        }
        SSL_CTX_set_client_CA_list(t->ctx, SSL_load_client_CA_file(ca_file));
        SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        /* Without a name of their own, sessions of verified clients cannot be resumed. */
        SSL_CTX_set_session_id_context(t->ctx, (const unsigned char *)"carpool", 7);
    }
    return t;
bad:
    tls_ctx_free(t);
    return NULL;
}

struct tls_ctx *tls_ctx_client(enum tls_verify verify, const char *ca_file, const char *cert_file,
                               const char *key_file, struct err *err)
{
    struct tls_ctx *t = ctx_new(TLS_client_method());
    t->verify = verify;
    SSL_CTX_set_default_read_buffer_len(t->ctx, SERVER_BUFFER);
    if (verify != TLS_VERIFY_NONE) {
        int ok = ca_file ? SSL_CTX_load_verify_locations(t->ctx, ca_file, NULL)
                         : SSL_CTX_set_default_verify_paths(t->ctx);
        if (ok != 1) {
            fail(err, "the CA file cannot be used");
            goto bad;
        }
        SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
    }
    if (cert_file && key_file && !use_identity(t, cert_file, key_file, err))
        goto bad;
    return t;
bad:
    tls_ctx_free(t);
    return NULL;
}

void tls_ctx_free(struct tls_ctx *ctx)
{
    if (!ctx)
        return;
    SSL_CTX_free(ctx->ctx);
    free(ctx);
}

static struct tls_conn *conn_new(struct tls_ctx *ctx, int fd)
{
    struct tls_conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->record_max = ctx->record_max;
    c->ssl = SSL_new(ctx->ctx);
    if (!c->ssl || SSL_set_fd(c->ssl, fd) != 1) {
        SSL_free(c->ssl);
        free(c);
        return NULL;
    }
    return c;
}

struct tls_conn *tls_accept(struct tls_ctx *ctx, int fd)
{
    struct tls_conn *c = conn_new(ctx, fd);
    if (c)
        SSL_set_accept_state(c->ssl);
    return c;
}

static bool is_literal(const char *host)
{
    return strchr(host, ':') || strspn(host, "0123456789.") == strlen(host);
}

struct tls_conn *tls_connect(struct tls_ctx *ctx, int fd, const char *host, const char *alpn)
{
    struct tls_conn *c = conn_new(ctx, fd);
    if (!c)
        return NULL;
    if (host) {
        bool literal = is_literal(host);
        if (!literal)
            SSL_set_tlsext_host_name(c->ssl, host);
        if (ctx->verify == TLS_VERIFY_FULL) {
            X509_VERIFY_PARAM *param = SSL_get0_param(c->ssl);
            X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
            if (literal)
                X509_VERIFY_PARAM_set1_ip_asc(param, host);
            else
                SSL_set1_host(c->ssl, host);
        }
    }
    if (alpn) {
        unsigned char wire[64];
        size_t n = strlen(alpn);
        CHECK(n < sizeof wire);
        wire[0] = (unsigned char)n;
        memcpy(wire + 1, alpn, n);
        SSL_set_alpn_protos(c->ssl, wire, (unsigned)n + 1);
    }
    SSL_set_connect_state(c->ssl);
    return c;
}

struct tls_conn *tls_adopt(struct ssl_st *ssl, int fd)
{
    struct tls_conn *c = calloc(1, sizeof *c);
    BIO *plain = c ? BIO_new_socket(fd, BIO_NOCLOSE) : NULL;
    if (!plain) {
        free(c);
        return NULL;
    }
    SSL_set_bio(ssl, plain, plain);
    SSL_up_ref(ssl);
    SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                          SSL_MODE_RELEASE_BUFFERS);
    SSL_set_read_ahead(ssl, 1);
    SSL_set_default_read_buffer_len(ssl, SERVER_BUFFER);
    c->ssl = ssl;
    c->record_max = RECORD_MAX;
    return c;
}

void tls_conn_free(struct tls_conn *conn)
{
    if (!conn)
        return;
    SSL_free(conn->ssl);
    free(conn);
}

static enum tls_step handshake_failed(struct tls_conn *c, int code, struct err *err)
{
    long verdict = SSL_get_verify_result(c->ssl);
    if (verdict != X509_V_OK) {
        ERR_clear_error();
        err_set(err, CAUSE_TLS_FAILED, STAGE_TLS, 0, "the peer's certificate was refused: %s",
                X509_verify_cert_error_string(verdict));
    } else if (code == SSL_ERROR_SYSCALL && ERR_peek_error() == 0) {
        err_set(err, CAUSE_TLS_FAILED, STAGE_TLS, errno, "the peer left during the handshake");
    } else {
        fail(err, "the handshake failed");
    }
    return TLS_FAILED;
}

/* A write is one record (tls_write), also where the peer has asked for short ones: RFC 6066, 4. */
static void limit_records(struct tls_conn *c)
{
    uint8_t asked = SSL_SESSION_get_max_fragment_length(SSL_get_session(c->ssl));
    size_t max = asked ? (size_t)256 << asked : RECORD_MAX;
    if (c->record_max > max)
        c->record_max = max;
}

enum tls_step tls_handshake(struct tls_conn *c, struct err *err)
{
    ERR_clear_error();
    int r = SSL_do_handshake(c->ssl);
    int code = SSL_get_error(c->ssl, r);
    c->starved = code == SSL_ERROR_WANT_READ;
    if (r == 1) {
        limit_records(c);
        return TLS_DONE;
    }
    if (code == SSL_ERROR_WANT_READ)
        return TLS_WANT_READ;
    if (code == SSL_ERROR_WANT_WRITE)
        return TLS_WANT_WRITE;
    return handshake_failed(c, code, err);
}

ssize_t tls_read(struct tls_conn *c, void *buf, size_t cap, bool *want_write, bool *truncated)
{
    ERR_clear_error();
    size_t total = 0;
    c->ending = false;
    /* A record holds at most 16 KiB; take what is there in one go. */
    while (total < cap) {
        size_t n = 0;
        int r = SSL_read_ex(c->ssl, (char *)buf + total, cap - total, &n);
        int sys = errno;
        int code = SSL_get_error(c->ssl, r);
        c->starved = code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE;
        if (r == 1) {
            total += n;
            if (!SSL_has_pending(c->ssl))
                break;
            continue;
        }
        if (total > 0) {
            c->ending = !c->starved; /* what went wrong will go wrong again */
            break;
        }
        if (code == SSL_ERROR_WANT_READ)
            return -EAGAIN;
        if (code == SSL_ERROR_WANT_WRITE) {
            *want_write = true;
            return -EAGAIN;
        }
        if (code == SSL_ERROR_ZERO_RETURN)
            return 0;
        *truncated = true;
        unsigned long why = ERR_peek_error();
        ERR_clear_error();
        if (ERR_GET_REASON(why) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
            return 0;
        if (code == SSL_ERROR_SYSCALL)
            return sys ? -sys : 0;
        return -EPROTO;
    }
    ERR_clear_error();
    return (ssize_t)total;
}

ssize_t tls_write(struct tls_conn *c, const void *buf, size_t n)
{
    ERR_clear_error();
    size_t done = 0;
    /* OpenSSL refuses a second try with fewer bytes than the first; it does not look at them
     * again. */
    if (c->begun)
        n = c->begun;
    else if (n > c->record_max)
        n = c->record_max;
    int r = SSL_write_ex(c->ssl, buf, n, &done);
    if (r == 1) {
        c->begun = 0;
        return (ssize_t)done;
    }
    int sys = errno;
    int code = SSL_get_error(c->ssl, r);
    ERR_clear_error();
    if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) {
        c->begun = n;
        return -EAGAIN;
    }
    return code == SSL_ERROR_SYSCALL && sys ? -sys : -EPIPE;
}

bool tls_pending(const struct tls_conn *c)
{
    return c->ending || SSL_pending(c->ssl) > 0 || (SSL_has_pending(c->ssl) && !c->starved);
}

void tls_goodbye(struct tls_conn *c)
{
    ERR_clear_error();
    if (SSL_is_init_finished(c->ssl))
        SSL_shutdown(c->ssl);
    ERR_clear_error();
}

enum tls_peeked tls_peek(struct tls_conn *c)
{
    ERR_clear_error();
    char byte;
    size_t n;
    int r = SSL_peek_ex(c->ssl, &byte, 1, &n);
    int code = SSL_get_error(c->ssl, r);
    ERR_clear_error();
    c->starved = code == SSL_ERROR_WANT_READ;
    if (r == 1)
        return TLS_PEEK_BYTES;
    if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE)
        return TLS_PEEK_QUIET;
    c->ending = true;
    return TLS_PEEK_EOF;
}

size_t tls_end_point(const struct tls_ctx *ctx, unsigned char *out, size_t cap)
{
    X509 *cert = SSL_CTX_get0_certificate(ctx->ctx);
    if (!cert || cap < EVP_MAX_MD_SIZE)
        return 0;
    int sig = NID_undef;
    if (!OBJ_find_sigid_algs(X509_get_signature_nid(cert), &sig, NULL))
        return 0;
    /* RFC 5929 section 4.1: MD5 and SHA-1 are replaced by SHA-256. */
    const EVP_MD *md = sig == NID_md5 || sig == NID_sha1 ? EVP_sha256() : EVP_get_digestbynid(sig);
    unsigned n = 0;
    if (!md || X509_digest(cert, md, out, &n) != 1)
        return 0;
    return n;
}

/* ---- what a handshake has found out ---- */

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n,
                       const unsigned char *in, unsigned in_n, void *arg)
{
    (void)ssl;
    const struct tls_ctx *t = arg;
    size_t n = strlen(t->alpn);
    for (unsigned i = 0; i < in_n; i += 1u + in[i]) {
        if (in[i] != n || in_n - i - 1 < n || memcmp(in + i + 1, t->alpn, n) != 0)
            continue;
        *out = in + i + 1;
        *out_n = in[i];
        return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

void tls_ctx_alpn(struct tls_ctx *ctx, const char *protocol)
{
    ctx->alpn = protocol;
    SSL_CTX_set_alpn_select_cb(ctx->ctx, choose_alpn, ctx);
}

void tls_ctx_record_max(struct tls_ctx *ctx, size_t n)
{
    CHECK(n > 0 && n <= RECORD_MAX);
    ctx->record_max = n;
}

bool tls_alpn_agreed(const struct tls_conn *c)
{
    const unsigned char *name;
    unsigned n;
    SSL_get0_alpn_selected(c->ssl, &name, &n);
    return n > 0;
}

struct asker {
    bool (*is)(void *arg, struct span name);
    void *arg;
};

/* A name with a NUL in it is no name: authorities have been fooled by them. */
static bool ask(const struct asker *a, const ASN1_STRING *name)
{
    unsigned char *text = NULL;
    int n = name ? ASN1_STRING_to_UTF8(&text, name) : -1;
    bool yes = n > 0 && !memchr(text, 0, (size_t)n) && a->is(a->arg, span_of(text, (size_t)n));
    OPENSSL_free(text);
    return yes;
}

static bool ask_subject(const struct asker *a, X509 *cert)
{
    X509_NAME *subject = X509_get_subject_name(cert);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    return at >= 0 && ask(a, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
}

static bool ask_alternatives(const struct asker *a, X509 *cert)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool yes = false;
    for (int i = 0; names && !yes && i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        const void *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        if (type == GEN_DNS || type == GEN_EMAIL || type == GEN_URI)
            yes = ask(a, value);
    }
    GENERAL_NAMES_free(names);
    return yes;
}

bool tls_peer_is(const struct tls_conn *c, bool (*is)(void *arg, struct span name), void *arg)
{
    const struct asker a = {is, arg};
    X509 *cert = SSL_get1_peer_certificate(c->ssl);
    bool yes = cert && SSL_get_verify_result(c->ssl) == X509_V_OK &&
               SSL_get_verify_mode(c->ssl) & SSL_VERIFY_PEER &&
               (ask_subject(&a, cert) || ask_alternatives(&a, cert));
    X509_free(cert);
    return yes;
}
