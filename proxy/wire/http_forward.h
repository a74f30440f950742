/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The head that goes on to the next hop. Names, values and order of fields stay as they came, byte
 * for byte; what belongs to one hop only is removed, what an intermediary owes is added
 * (RFC 9110 sections 7.6 and 10.1.1, RFC 9112 sections 3.2 and 6). Pure; writes into the caller's
 * buffer and nowhere else.
 *
 * Decided by reading the RFC: Proxy-Authorization and Proxy-Authenticate pass, since carpool never
 * asks for such credentials and the next hop may be the proxy that does. Trailer and TE go, because
 * trailers are dropped. X-Forwarded-For and Via are appended to the last line of their name, not as
 * a line of their own: many applications look at one line only.
 */
#include "proxy/wire/http.h"
#include "proxy/wire/http_out.h"

enum http_verdict {
    HTTP_FORWARD,       /* the head stands in the buffer */
    HTTP_FORWARD_SMALL, /* the buffer is too small: `out->n` bytes are needed */
    HTTP_FORWARD_NOT,   /* to be answered here: see `bad` */
    HTTP_FORWARD_SELF,  /* OPTIONS with Max-Forwards: 0: to be answered by http_answer_options */
    HTTP_FORWARD_SKIP,  /* an interim response that this client must not see: drop it */
};

struct http_request_hop {
    /*
     * Own name in Via, a token. Must be unique for this process (for example "carpool-" and some
     * random letters): meeting it in a request is a loop and answered 508.
     */
    struct span pseudonym;
    struct span client;    /* the client's address without port; empty (Unix socket): not told */
    bool client_tls;       /* X-Forwarded-Proto, if the client did not send one */
    struct span authority; /* Host for an HTTP/1.0 request that has none: the upstream's */
    bool close;            /* ask the upstream to close after this exchange */
    bool upgrade;          /* let an upgrade through that the client asked for */
    bool drop_expect;      /* carpool answered 100 itself */
};

/*
 * Origin-form target, HTTP/1.1, body framed as head->body says: LENGTH as it is, CHUNKED to be
 * chunked anew with http_chunk_open and friends. NOT: 508 (loop), 405 (TRACE, CONNECT), 500 (a hop
 * value that may not stand in a head).
 */
enum http_verdict http_forward_request(const struct http_head *head,
                                       const struct http_request_hop *hop, struct http_out *out,
                                       struct http_bad *bad);

struct http_response_hop {
    struct span pseudonym;
    struct span date;     /* from http_date, used if the response has none */
    uint8_t client_minor; /* 0: no chunks, no interim responses, always close */
    bool close;           /* the client's connection ends after this response */
};

/*
 * *framing says how the body must be written to the client: NONE, LENGTH (as it comes), CHUNKED
 * (chunked anew, also for a body that ends by close), CLOSE (as it comes, then close; HTTP/1.0).
 * *close: the client's connection must be closed after it, and says so.
 */
enum http_verdict http_forward_response(const struct http_head *head,
                                        const struct http_response_hop *hop, struct http_out *out,
                                        enum http_body *framing, bool *close, struct http_bad *bad);

/* A chunk is: size line, payload, CRLF. No empty chunk before the last: it would end the body. */
#define HTTP_CHUNK_OPEN_MAX 18
size_t http_chunk_open(uint8_t buf[HTTP_CHUNK_OPEN_MAX], uint64_t payload); /* bytes written */
#define HTTP_CHUNK_CLOSE SPAN_LIT("\r\n")
#define HTTP_CHUNK_LAST SPAN_LIT("0\r\n\r\n")
