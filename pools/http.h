/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * HTTP/1.1 servers: what driver, dial and the relay share of one connection.
 *
 * The dial (http_dial.c) opens the socket by libcurl and, for https, does the handshake itself.
 * From then on the relay owns the bytes: it has the one lease, parses the response with `parser`,
 * and says in `after` what has become of the connection before it gives the server back.
 */
#include "pools/server.h"
#include "proxy/wire/http.h"

struct http_server {
    struct server base;
    struct http_parser *parser; /* of responses; between exchanges without memory for a head */
    /*
     * The relay's word on the exchange that ends: OUTCOME_KEEP only if request and response were
     * framed to their last byte, nothing was left over, and both sides want to go on. Whoever is
     * granted the server finds it DROP_DIRTY.
     */
    enum outcome after;
    uint32_t keep_alive_s; /* what the last response promised (Keep-Alive: timeout=), 0: nothing */
    uint64_t
        lifetime_ms; /* die_ms as the pool had set it: an earlier one follows from the promise */
};

extern const struct driver_ops http_driver;

static inline struct http_server *http_server_of(struct server *sv)
{
    return OWNER(sv, struct http_server, base);
}

/* http_dial.c */
void http_dial(struct server *sv, struct loop *loop);

/* http_tls.c: a connection that verifies what the endpoint says, handshake not begun. NULL and
 * *err: a certificate or authority cannot be used. The dialer's thread. */
struct tls_conn *http_tls_connect(struct server *sv, int fd, struct err *err);
