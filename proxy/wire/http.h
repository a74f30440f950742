/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * HTTP/1.x messages: an incremental parser for requests and responses. Two readers must agree on
 * every head: llhttp, with no lenient flag, and a strict pass of our own, because llhttp alone
 * still accepts what other proxies and origins read differently (empty Transfer-Encoding next to a
 * Content-Length, TE in HTTP/1.0, a missing or second Host, HTTP/0.9, RTSP, ...). What is not plain
 * is refused, never repaired: 400 and its kin to a client, 502 for an upstream.
 *
 * Pure: no I/O, no clock. One owner at a time, no thread of its own.
 *
 * How to use it, the same for a relay and for a small server:
 *
 *     size_t at = 0;
 *     for (;;) {
 *         size_t used;
 *         struct http_event ev;
 *         enum http_step step = http_parser_feed(p, span_skip(in, at), &used, &ev);
 *         at += used;
 *         switch (step) {
 *         case HTTP_STEP_MORE: return;                    // all of `in` is used up
 *         case HTTP_STEP_HEAD: begin(ev.head); break;     // complete and checked
 *         case HTTP_STEP_BODY: payload(ev.body); break;   // de-chunked, points into `in`
 *         case HTTP_STEP_END:  finish(); http_parser_reset(p); break;
 *         case HTTP_STEP_BAD:  answer(ev.bad.status, ev.bad.reason); then close; return;
 *         }
 *     }
 *
 * Events of one message: HEAD, BODY*, END; or BAD at any point, after which only closing is safe.
 * END stands still: bytes of a following (pipelined) message stay with the caller until it resets.
 * Every way of cutting the input into pieces yields the same events (BODY pieces may be cut finer).
 */
#include "proxy/core/bufq.h"
#include "proxy/core/err.h"
#include "proxy/core/span.h"

enum http_kind {
    HTTP_KIND_REQUEST,
    HTTP_KIND_RESPONSE,
};

/*
 * Upper bounds, each in bytes unless said otherwise. A request over them is answered 431 (head,
 * line, fields, trailers), 414 (target), 413 (body, chunk extensions); a response becomes a 502.
 */
struct http_limits {
    uint32_t head;   /* start line and fields together, with their line ends */
    uint32_t line;   /* one field line */
    uint32_t target; /* request target */
    uint32_t fields; /* number of field lines */
    uint32_t
        extensions;    /* chunk extensions of one message that its payload has not yet outweighed */
    uint32_t trailers; /* trailer section of one message */
    uint64_t body;     /* payload of one message; 0: no bound */
};

#define HTTP_LIMITS_REQUEST                                                                        \
    ((struct http_limits){.head = 60 * 1024,                                                       \
                          .line = 8 * 1024,                                                        \
                          .target = 8 * 1024,                                                      \
                          .fields = 100,                                                           \
                          .extensions = 4 * 1024,                                                  \
                          .trailers = 8 * 1024})
/* Set-Cookie and policies make the heads of responses longer, and nobody names them in a URL. */
#define HTTP_LIMITS_RESPONSE                                                                       \
    ((struct http_limits){.head = 60 * 1024,                                                       \
                          .line = 16 * 1024,                                                       \
                          .target = 0,                                                             \
                          .fields = 128,                                                           \
                          .extensions = 4 * 1024,                                                  \
                          .trailers = 8 * 1024})

/* clang-format off */
/* X(name, text, safe, idempotent): RFC 9110 section 9.2 and the IANA method registry; unregistered
 * methods count as neither. Only these are understood (llhttp's list); others are answered 501. */
#define HTTP_METHODS(X)                                                                            \
    X(GET, "GET", 1, 1) X(HEAD, "HEAD", 1, 1) X(POST, "POST", 0, 0) X(PUT, "PUT", 0, 1)            \
    X(DELETE, "DELETE", 0, 1) X(PATCH, "PATCH", 0, 0) X(OPTIONS, "OPTIONS", 1, 1)                  \
    X(TRACE, "TRACE", 1, 1) X(CONNECT, "CONNECT", 0, 0) X(QUERY, "QUERY", 1, 1)                    \
    X(COPY, "COPY", 0, 1) X(LOCK, "LOCK", 0, 0) X(MKCOL, "MKCOL", 0, 1) X(MOVE, "MOVE", 0, 1)      \
    X(PROPFIND, "PROPFIND", 1, 1) X(PROPPATCH, "PROPPATCH", 0, 1) X(SEARCH, "SEARCH", 1, 1)        \
    X(UNLOCK, "UNLOCK", 0, 1) X(BIND, "BIND", 0, 1) X(REBIND, "REBIND", 0, 1)                      \
    X(UNBIND, "UNBIND", 0, 1) X(ACL, "ACL", 0, 1) X(REPORT, "REPORT", 1, 1)                        \
    X(MKACTIVITY, "MKACTIVITY", 0, 1) X(CHECKOUT, "CHECKOUT", 0, 1) X(MERGE, "MERGE", 0, 1)        \
    X(MSEARCH, "M-SEARCH", 0, 0) X(NOTIFY, "NOTIFY", 0, 0) X(SUBSCRIBE, "SUBSCRIBE", 0, 0)         \
    X(UNSUBSCRIBE, "UNSUBSCRIBE", 0, 0) X(PURGE, "PURGE", 0, 0)                                    \
    X(MKCALENDAR, "MKCALENDAR", 0, 1) X(LINK, "LINK", 0, 1) X(UNLINK, "UNLINK", 0, 1)              \
    X(SOURCE, "SOURCE", 0, 0)

/* Fields that mean something to an intermediary. Everything else is FIELD_OTHER and passes. */
#define HTTP_FIELDS(X)                                                                             \
    X(HOST, "host") X(CONTENT_LENGTH, "content-length")                                            \
    X(TRANSFER_ENCODING, "transfer-encoding") X(CONNECTION, "connection")                          \
    X(KEEP_ALIVE, "keep-alive") X(PROXY_CONNECTION, "proxy-connection") X(TE, "te")                \
    X(TRAILER, "trailer") X(UPGRADE, "upgrade") X(HTTP2_SETTINGS, "http2-settings")                \
    X(EXPECT, "expect") X(MAX_FORWARDS, "max-forwards") X(VIA, "via") X(DATE, "date")              \
    X(FORWARDED, "forwarded") X(X_FORWARDED_FOR, "x-forwarded-for")                                \
    X(X_FORWARDED_PROTO, "x-forwarded-proto") X(X_FORWARDED_HOST, "x-forwarded-host")              \
    X(AUTHORIZATION, "authorization") X(PROXY_AUTHORIZATION, "proxy-authorization")                \
    X(COOKIE, "cookie") X(SET_COOKIE, "set-cookie") X(RETRY_AFTER, "retry-after")                  \
    X(IDEMPOTENCY_KEY, "idempotency-key") X(PROXY_STATUS, "proxy-status")
/* clang-format on */

enum http_method {
#define X(name, text, safe, idempotent) HTTP_M_##name,
    HTTP_METHODS(X)
#undef X
        HTTP_M_COUNT
};

enum http_field_id {
    HTTP_F_OTHER,
#define X(name, text) HTTP_F_##name,
    HTTP_FIELDS(X)
#undef X
        HTTP_F_COUNT
};

struct http_field {
    struct span name; /* as received, a token */
    struct span
        value; /* as received, without the white space around it; no control bytes but tab */
    enum http_field_id id;
    /*
     * Ends at this hop: nominated by Connection, or one of Connection, Keep-Alive,
     * Proxy-Connection, TE, Transfer-Encoding, Trailer, Upgrade, HTTP2-Settings (RFC 9110 section
     * 7.6.1), or a name that turns into a field of the list above once '_' is read as '-' (which
     * CGI-like origins do).
     */
    bool hop;
};

enum http_form {
    HTTP_FORM_ORIGIN,    /* "/path?query" */
    HTTP_FORM_ABSOLUTE,  /* "http://host/path" */
    HTTP_FORM_AUTHORITY, /* "host:port", CONNECT only */
    HTTP_FORM_ASTERISK,  /* "*", OPTIONS only */
};

enum http_body {
    HTTP_BODY_NONE,    /* ends with the head */
    HTTP_BODY_LENGTH,  /* `length` bytes, possibly 0 */
    HTTP_BODY_CHUNKED, /* de-chunked by the parser */
    HTTP_BODY_CLOSE,   /* responses only: until the peer closes */
};

/* A complete, checked head. Lives in the parser: valid until http_parser_reset, _drop_head,
 * _free. */
struct http_head {
    enum http_kind kind;
    uint8_t minor; /* 0 or 1; the major version is 1 */

    /* Requests. */
    enum http_method method;
    struct span method_text;
    struct span target; /* as received */
    enum http_form form;
    struct span path;      /* path and query as received; may lack its path in absolute form */
    struct span authority; /* absolute and authority form, else empty */
    struct span host; /* whom the request is for: authority, else Host; empty only in HTTP/1.0 */
    bool https;       /* absolute form with scheme https */
    bool safe, idempotent; /* by method */
    bool expect_continue;  /* the client waits for 100 before it sends the body */
    int32_t max_forwards;  /* OPTIONS and TRACE, -1: absent */

    /* Responses. */
    uint16_t status;    /* 100 to 599 */
    struct span reason; /* emptied if it held control bytes */
    bool interim;       /* 1xx but 101: the real response follows after a reset */
    bool tunnel;        /* 101, or 2xx to CONNECT: what follows is not HTTP */
    uint32_t
        keep_alive_timeout; /* seconds the peer promises to stay (Keep-Alive: timeout=), or 0 */

    /* Both. */
    enum http_body body;
    uint64_t length;    /* HTTP_BODY_LENGTH */
    bool keep_alive;    /* may the connection carry another message after this one? */
    bool upgrade;       /* 1.1, `Connection: upgrade` and Upgrade present, h2c not among them */
    bool has_length;    /* a Content-Length field is there (HEAD and 304 have one without a body) */
    uint64_t announced; /* its value */
    const struct http_field *fields;
    size_t n_fields;
};

/* Why a message was refused. */
struct http_bad {
    uint16_t status;    /* to answer with; always 502 for a response */
    enum cause cause;   /* client_protocol, too_large, unsupported, upstream_protocol, internal */
    const char *reason; /* one sentence without a full stop, a constant */
};

enum http_step {
    HTTP_STEP_MORE,
    HTTP_STEP_HEAD,
    HTTP_STEP_BODY,
    HTTP_STEP_END,
    HTTP_STEP_BAD,
};

struct http_event {
    const struct http_head *head; /* HEAD */
    struct span body;             /* BODY, not empty, inside the input */
    struct http_bad bad;          /* BAD */
};

/* What a response answers; decides whether it has a body (RFC 9112 section 6.3). */
struct http_asked {
    bool head;    /* the request was HEAD */
    bool connect; /* it was CONNECT */
    bool upgrade; /* it asked for an upgrade and the upgrade was forwarded; else a 101 is refused */
};

struct http_parser;

/*
 * About 200 bytes; memory for a head is taken with its first byte and given back by reset,
 * http_parser_drop_head() or free, so that an idle connection holds none. NULL when out of memory.
 */
MUST_USE struct http_parser *http_parser_new(enum http_kind kind, const struct http_limits *limits);
void http_parser_free(struct http_parser *p); /* NULL is allowed */

/*
 * Heads are kept in chunks of this pool from now on (what does not fit into one is allocated as
 * before), so that a message costs no allocation. The pool belongs to the thread that feeds the
 * parser and must outlive the head; NULL: the allocator's. Only between messages.
 */
void http_parser_lend(struct http_parser *p, struct chunk_pool *chunks);

/* Ready for the next message on the connection; heads handed out before are gone. */
void http_parser_reset(struct http_parser *p);

/* For responses, before the first byte; stays over resets (interim responses), until set anew. */
void http_parser_expect(struct http_parser *p, struct http_asked asked);

/* Advances to the next event. *used bytes of `in` were consumed (always all of them with MORE). */
enum http_step http_parser_feed(struct http_parser *p, struct span in, size_t *used,
                                struct http_event *ev);

/*
 * The peer will send no more. END: a body delimited by the close is complete (with TLS, the caller
 * first makes sure that close_notify came), or the message had ended before. MORE: nothing of a
 * message had come, a quiet end. BAD: cut off in the middle.
 */
enum http_step http_parser_eof(struct http_parser *p, struct http_event *ev);

/* No byte of the next message has been seen (a single empty line before a request aside). */
bool http_parser_is_quiet(const struct http_parser *p);

/* As after a reset: not even that empty line has been seen. */
bool http_parser_is_new(const struct http_parser *p);

/* The message is over: END has been reached and reset not called. */
bool http_parser_is_done(const struct http_parser *p);

/* The current head, or NULL before it is complete and after it was dropped. */
const struct http_head *http_parser_head(const struct http_parser *p);

/* Frees the head early, for instance while a long body streams. */
void http_parser_drop_head(struct http_parser *p);

/* First field with that id, or NULL. */
const struct http_field *http_find(const struct http_head *head, enum http_field_id id);

/* First field of any name (ASCII case-insensitive), or NULL. */
const struct http_field *http_find_name(const struct http_head *head, struct span name);

/* "GET"; a constant. */
const char *http_method_text(enum http_method method);

/*
 * Walks a comma separated list value: the next element without white space around it, false at the
 * end. Empty elements are skipped; commas inside quotes or comments do not separate.
 */
bool http_list_next(struct span *rest, struct span *element);
