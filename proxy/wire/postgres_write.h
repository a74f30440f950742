/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Messages of our own, written into a caller's buffer. A message that does not fit leaves no trace
 * of itself: `n` stays, `overflow` becomes and stays true, later messages are not written either.
 * So a caller writes a whole answer and looks at `overflow` once. Pure.
 */
#include "proxy/core/span.h"

struct pg_out {
    uint8_t *p;
    size_t cap, n;
    bool overflow;
};

static inline struct pg_out pg_out_of(void *p, size_t cap)
{
    return (struct pg_out){p, cap, 0, false};
}
static inline struct span pg_out_span(const struct pg_out *o)
{
    return (struct span){o->p, o->n};
}

/* Numbers of the protocol: the first byte is the highest. */
static inline void pg_store_u32(uint8_t p[4], uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}
/* The type and the length of a message whose body has n bytes; p: PG_HEADER bytes. */
static inline void pg_store_head(uint8_t *p, uint8_t type, size_t n)
{
    p[0] = type;
    pg_store_u32(p + 1, (uint32_t)n + 4);
}

/* Strings may be NULL except the first three: the field is left out. */
struct pg_report {
    const char *severity; /* "ERROR", "FATAL", "WARNING", ...: sent as both S and V */
    const char *sqlstate; /* five characters */
    const char *message;
    const char *detail;
    const char *hint;
};

/* --- to a client --- */
void pg_put_error(struct pg_out *o, const struct pg_report *r);
void pg_put_notice(struct pg_out *o, const struct pg_report *r);
/* Neither name nor value may contain a NUL: CHECKed, for they come from checked messages. */
void pg_put_parameter(struct pg_out *o, struct span name, struct span value);
void pg_put_backend_key(struct pg_out *o, uint32_t pid, struct span key);
void pg_put_ready(struct pg_out *o, uint8_t status); /* 'I', 'T' or 'E' */
void pg_put_auth_ok(struct pg_out *o);
void pg_put_auth_cleartext(struct pg_out *o);
void pg_put_auth_md5(struct pg_out *o, const uint8_t salt[4]);
/* The mechanisms, best first. */
void pg_put_auth_sasl(struct pg_out *o, const char *const *mechanisms, size_t n);
void pg_put_auth_sasl_continue(struct pg_out *o, struct span data);
void pg_put_auth_sasl_final(struct pg_out *o, struct span data);
/* NegotiateProtocolVersion: `version` like 3 << 16 (servers and libpq put the whole number there,
 * not only the minor one), and the "_pq_." names among `params` (struct pg_startup). */
void pg_put_negotiate(struct pg_out *o, uint32_t version, struct span params);
void pg_put_complete(struct pg_out *o, const char *tag);
/* A message without a body: '1' '2' '3' 'n' 's' to a client, 'S' 'H' 'X' 'c' to a server. */
void pg_put_bare(struct pg_out *o, uint8_t type);
/* Any message with a given body. */
void pg_put_raw(struct pg_out *o, uint8_t type, struct span body);

/* --- to a server --- */
void pg_put_query(struct pg_out *o, const char *text);
static inline void pg_put_sync(struct pg_out *o)
{
    pg_put_bare(o, 'S');
}
static inline void pg_put_terminate(struct pg_out *o)
{
    pg_put_bare(o, 'X');
}
void pg_put_parse(struct pg_out *o, const char *name, const char *text);
void pg_put_bind(struct pg_out *o, const char *portal, const char *statement); /* no parameters */
void pg_put_target(struct pg_out *o, uint8_t type, uint8_t kind, const char *name); /* 'D' or 'C' */
void pg_put_execute(struct pg_out *o, const char *portal, uint32_t rows);
/* The untyped ones. */
void pg_put_ssl_request(struct pg_out *o);
void pg_put_gssenc_request(struct pg_out *o);
void pg_put_cancel(struct pg_out *o, uint32_t pid, struct span key);
/* `pairs`: name, value, name, value, NULL. */
void pg_put_startup(struct pg_out *o, uint32_t version, const char *const *pairs);
