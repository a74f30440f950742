/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What the body of a Postgres message says. Readers take a complete body and return false if it is
 * malformed; spans point into the body, strings without their NUL. Pure.
 */
#include "proxy/core/span.h"

/* A bounded cursor. Reading past the end sets `bad` and yields zeros and empty spans from then
 * on. */
struct pg_cur {
    const uint8_t *p;
    size_t n; /* bytes left */
    bool bad;
};

static inline struct pg_cur pg_cur_of(struct span body)
{
    return (struct pg_cur){body.p, body.n, false};
}
uint8_t pg_cur_u8(struct pg_cur *c);
uint16_t pg_cur_u16(struct pg_cur *c);
uint32_t pg_cur_u32(struct pg_cur *c);
static inline int32_t pg_cur_i32(struct pg_cur *c)
{
    return (int32_t)pg_cur_u32(c);
}
struct span pg_cur_cstr(struct pg_cur *c);
struct span pg_cur_bytes(struct pg_cur *c, size_t n);
/* Everything was well-formed and all of it was read. */
static inline bool pg_cur_done(const struct pg_cur *c)
{
    return !c->bad && c->n == 0;
}

/* --- from a server --- */

/* ErrorResponse, NoticeResponse. What is absent is empty. */
struct pg_fields {
    struct span severity; /* V (not translated), else S */
    struct span sqlstate; /* C */
    struct span message;  /* M */
    struct span detail;   /* D */
    struct span hint;     /* H */
    struct span routine;  /* R: the function in the server's source that said it */
};
/* A body that is cut off is read as far as it goes (the fields stand in this order). Never true
 * without a five-character sqlstate and a severity. */
MUST_USE bool pg_read_error(struct span body, struct pg_fields *out);
/* FATAL or PANIC: the server closes after this. */
bool pg_fields_fatal(const struct pg_fields *f);

MUST_USE bool pg_read_parameter(struct span body, struct span *name, struct span *value);
/* `key`: 4 bytes in protocol 3.0, up to 256 since 3.2. */
MUST_USE bool pg_read_backend_key(struct span body, uint32_t *pid, struct span *key);
/* *status: 'I', 'T' or 'E'. */
MUST_USE static inline bool pg_read_ready(struct span body, uint8_t *status)
{
    *status = body.n == 1 ? body.p[0] : 0;
    return *status == 'I' || *status == 'T' || *status == 'E';
}
MUST_USE bool pg_read_complete(struct span body, struct span *tag);
/* The tag of a CommandComplete ends with how many rows it was, as those of SELECT, INSERT and COPY
 * do: no command that ends a transaction or changes the session has such a tag. */
static inline bool pg_counts_rows(struct span body)
{
    return body.n > 2 && body.p[body.n - 2] >= '0' && body.p[body.n - 2] <= '9';
}
/* `version` is the newest the server speaks, e.g. 3 << 16; `options`: how many it refused. */
MUST_USE bool pg_read_negotiate(struct span body, uint32_t *version, uint32_t *options);
/* Authentication*: its kind (0 Ok, 3 cleartext, 5 md5, 10 SASL, 11 continue, 12 final) and the
 * rest. */
MUST_USE bool pg_read_auth(struct span body, uint32_t *kind, struct span *rest);

/* --- from a client --- */

MUST_USE bool pg_read_query(struct span body, struct span *text);
struct pg_parse {
    struct span name, text;
    struct span types; /* n_types big-endian OIDs */
    uint16_t n_types;
};
MUST_USE bool pg_read_parse(struct span body, struct pg_parse *out);
struct pg_bind {
    struct span portal, statement;
    struct span rest; /* formats and values, not looked at */
};
/* Needs only as much of the body as holds the two names; false if they are not both there. */
MUST_USE bool pg_read_bind(struct span prefix, struct pg_bind *out);
/* Describe and Close. *kind: 'S' statement or 'P' portal. */
MUST_USE bool pg_read_target(struct span body, uint8_t *kind, struct span *name);
/* *rows: 0 means all. */
MUST_USE bool pg_read_execute(struct span body, struct span *portal, uint32_t *rows);
/* PasswordMessage: the password without its NUL. */
MUST_USE bool pg_read_password(struct span body, struct span *password);
/* SASLInitialResponse. *has_data is false if the client sent none (length -1). */
MUST_USE bool pg_read_sasl_initial(struct span body, struct span *mechanism, bool *has_data,
                                   struct span *data);
