/* SPDX-License-Identifier: MIT */
#include "tests/unit/core/talk.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/carpool-tls-XXXXXX";
char talk_cert[64], talk_key[64];

int talk_make_identity(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(talk_cert, sizeof talk_cert, "%s/cert.pem", folder);
    snprintf(talk_key, sizeof talk_key, "%s/key.pem", folder);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    if (!key || !cert)
        return -1;
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME *name = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)TALK_NAME, -1, -1,
                               0);
    X509_set_issuer_name(cert, name);
    X509_set_pubkey(cert, key);
    X509_EXTENSION *san =
        X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:" TALK_NAME ",IP:127.0.0.1");
    X509_add_ext(cert, san, -1);
    X509_EXTENSION_free(san);
    X509_sign(cert, key, EVP_sha256());
    FILE *f = fopen(talk_cert, "we");
    PEM_write_X509(f, cert);
    fclose(f);
    f = fopen(talk_key, "we");
    PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    X509_free(cert);
    EVP_PKEY_free(key);
    return 0;
}

int talk_drop_identity(void **state)
{
    (void)state;
    unlink(talk_cert);
    unlink(talk_key);
    rmdir(folder);
    return 0;
}

bool both_shaken(const struct ends *e)
{
    return (e->a.shaken || e->a.hs_failed) && (e->b.shaken || e->b.hs_failed);
}

static void shake(struct talk *t, const int *fd, struct tls_conn *a)
{
    struct err err;
    struct tls_conn *b = tls_accept(t->server, fd[1]);
    assert_true(a && b);
    io_init(&t->e.a.io, fd[0], a);
    io_init(&t->e.b.io, fd[1], b);
    t->e.a.shaking = t->e.b.shaking = true;
    assert_true(io_attach(&t->e.a.io, &t->e.loop, &end_ops));
    assert_true(io_attach(&t->e.b.io, &t->e.loop, &end_ops));
    (void)io_handshake(&t->e.a.io, &err);
    ends_until(&t->e, both_shaken);
}

void talk_begin(struct talk *t, enum tls_verify verify, const char *ca, const char *host)
{
    int fd[2];
    struct err err;
    ends_open_loop(&t->e);
    tcp_pair(fd);
    t->server = tls_ctx_server(talk_cert, talk_key, NULL, &err);
    t->client = tls_ctx_client(verify, ca, NULL, NULL, &err);
    assert_non_null(t->server);
    assert_non_null(t->client);
    shake(t, fd, tls_connect(t->client, fd[0], host, NULL));
}

void talk_open_short(struct talk *t, size_t record_max, uint8_t asked)
{
    int fd[2];
    struct err err;
    ends_open_loop(&t->e);
    tcp_pair(fd);
    t->server = tls_ctx_server(talk_cert, talk_key, NULL, &err);
    t->client = NULL;
    assert_non_null(t->server);
    tls_ctx_record_max(t->server, record_max);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    assert_non_null(ctx);
    assert_int_equal(SSL_CTX_set_tlsext_max_fragment_length(ctx, asked), 1);
    SSL *ssl = SSL_new(ctx);
    assert_non_null(ssl);
    SSL_set_connect_state(ssl);
    shake(t, fd, tls_adopt(ssl, fd[0]));
    assert_true(t->e.a.shaken && t->e.b.shaken);
    SSL_free(ssl); /* the end has one reference more */
    SSL_CTX_free(ctx);
}

void talk_open(struct talk *t)
{
    talk_begin(t, TLS_VERIFY_FULL, talk_cert, TALK_NAME);
    assert_true(t->e.a.shaken && t->e.b.shaken);
}

void talk_close(struct talk *t)
{
    ends_close(&t->e);
    tls_ctx_free(t->server);
    tls_ctx_free(t->client);
}

bool a_ended(const struct ends *e)
{
    return e->a.ended;
}

bool b_got_hello(const struct ends *e)
{
    return e->b.got_n >= 5;
}
