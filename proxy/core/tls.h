/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * TLS as io needs it: contexts made from configuration, connections on a non-blocking socket. A
 * context may be shared by threads; a connection belongs to one thread at a time.
 */
#include <sys/types.h>

#include "proxy/core/err.h"
#include "proxy/core/span.h"

struct tls_ctx;
struct tls_conn;
struct ssl_st;

enum tls_step { TLS_DONE, TLS_WANT_READ, TLS_WANT_WRITE, TLS_FAILED };

/* How much of the peer's certificate is checked. The names are those of libpq's sslmode. */
enum tls_verify { TLS_VERIFY_NONE, TLS_VERIFY_CA, TLS_VERIFY_FULL };

/* For a door: presents cert and key; asks clients for a certificate if ca is given. NULL and *err
 * on failure (unreadable file, key does not fit). */
struct tls_ctx *tls_ctx_server(const char *cert_file, const char *key_file, const char *ca_file,
                               struct err *err);

/* For a door, before it is shared: a client that names protocols (ALPN) must name this one, which
 * is then agreed on; else the handshake fails. Clients that name none are let in. `protocol` is
 * kept. */
void tls_ctx_alpn(struct tls_ctx *ctx, const char *protocol);

/* Before it is shared: no record sent carries more than n bytes (at most 16384, which is the
 * default: RFC 8446, 5.1). */
void tls_ctx_record_max(struct tls_ctx *ctx, size_t n);

/* For dialling out. ca_file NULL: the system's roots. cert/key may be NULL. */
struct tls_ctx *tls_ctx_client(enum tls_verify verify, const char *ca_file, const char *cert_file,
                               const char *key_file, struct err *err);
void tls_ctx_free(struct tls_ctx *ctx);

/* NULL when memory is out. For clients, host is what to verify and to send as SNI (unless a literal
   address); NULL: neither. alpn: one protocol name or NULL. */
struct tls_conn *tls_accept(struct tls_ctx *ctx, int fd);
struct tls_conn *tls_connect(struct tls_ctx *ctx, int fd, const char *host, const char *alpn);

/* Adopts an established SSL of a library (libpq, hiredis) on this socket; one reference more is
 * taken on it. It reads and writes the socket itself from now on: libpq's own way claims success
 * where a write has failed. NULL: no memory. */
struct tls_conn *tls_adopt(struct ssl_st *ssl, int fd);
void tls_conn_free(struct tls_conn *conn);

enum tls_step tls_handshake(struct tls_conn *conn, struct err *err);
ssize_t tls_read(struct tls_conn *conn, void *buf, size_t cap, bool *want_write, bool *truncated);
/* Sends one record of at most n bytes; -EAGAIN: call again with bytes that begin alike, of which
 * there must be as many in all. May then return more than n: all of the record that was begun
 * before. */
ssize_t tls_write(struct tls_conn *conn, const void *buf, size_t n);
/* Is there news inside that no event of the socket will tell of: bytes decrypted or still to be, or
 * the end? Reads fetch more from the socket than one record, so an event is no sign of what is
 * left. Half a record is no news: the socket will tell of its rest. */
bool tls_pending(const struct tls_conn *conn);
void tls_goodbye(struct tls_conn *conn);
enum tls_peeked { TLS_PEEK_QUIET, TLS_PEEK_BYTES, TLS_PEEK_EOF };
enum tls_peeked tls_peek(struct tls_conn *conn);

/* After the handshake. Was a protocol agreed on by ALPN? */
bool tls_alpn_agreed(const struct tls_conn *conn);
/* Does is() say yes to a name of the peer's verified certificate? Asked are its common name and
 * the DNS names, e-mail addresses and URIs among its alternative names. */
bool tls_peer_is(const struct tls_conn *conn, bool (*is)(void *arg, struct span name), void *arg);

/* RFC 5929 tls-server-end-point of our own certificate (for SCRAM-SHA-256-PLUS); 0 if unknown. */
size_t tls_end_point(const struct tls_ctx *ctx, unsigned char *out, size_t cap);
