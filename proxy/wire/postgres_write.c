/* SPDX-License-Identifier: MIT */
/*
 * Builders. Each opens a message (type, room for the length), appends, and closes it (length filled
 * in, or rolled back whole if anything did not fit).
 */
#include "proxy/wire/postgres_write.h"

#include "proxy/wire/postgres_startup.h"

static void put(struct pg_out *o, const void *p, size_t n)
{
    if (o->overflow || n > o->cap - o->n) {
        o->overflow = true;
        return;
    }
    if (n)
        memcpy(o->p + o->n, p, n);
    o->n += n;
}

static void put_u8(struct pg_out *o, uint8_t v)
{
    put(o, &v, 1);
}

static void put_u16(struct pg_out *o, uint16_t v)
{
    put(o, (uint8_t[]){(uint8_t)(v >> 8), (uint8_t)v}, 2);
}

static void put_u32(struct pg_out *o, uint32_t v)
{
    uint8_t p[4];
    pg_store_u32(p, v);
    put(o, p, sizeof p);
}

static void put_cstr(struct pg_out *o, const char *s)
{
    put(o, s, strlen(s) + 1);
}

static void put_span_cstr(struct pg_out *o, struct span s)
{
    CHECK(s.n == 0 || memchr(s.p, 0, s.n) == NULL);
    put(o, s.p, s.n);
    put_u8(o, 0);
}

/* Where the message begins, for put_end(). Untyped packets have type 0. */
static size_t put_begin(struct pg_out *o, uint8_t type)
{
    size_t at = o->n;
    if (type)
        put_u8(o, type);
    put_u32(o, 0);
    return at;
}

static void put_end(struct pg_out *o, size_t at, uint8_t type)
{
    size_t length = o->n - at - (type ? 1 : 0);
    if (length > 0x3fffffff)
        o->overflow = true;
    if (o->overflow) {
        o->n = at;
        return;
    }
    pg_store_u32(o->p + at + (type ? 1 : 0), (uint32_t)length);
}

/* --- to a client --- */

static void put_field(struct pg_out *o, uint8_t kind, const char *value)
{
    if (!value)
        return;
    put_u8(o, kind);
    put_cstr(o, value);
}

static void put_report(struct pg_out *o, uint8_t type, const struct pg_report *r)
{
    CHECK(r->severity && r->message && r->sqlstate && strlen(r->sqlstate) == 5);
    size_t at = put_begin(o, type);
    put_field(o, 'S', r->severity);
    put_field(o, 'V', r->severity);
    put_field(o, 'C', r->sqlstate);
    put_field(o, 'M', r->message);
    put_field(o, 'D', r->detail);
    put_field(o, 'H', r->hint);
    put_u8(o, 0);
    put_end(o, at, type);
}

void pg_put_error(struct pg_out *o, const struct pg_report *r)
{
    put_report(o, 'E', r);
}

void pg_put_notice(struct pg_out *o, const struct pg_report *r)
{
    put_report(o, 'N', r);
}

void pg_put_parameter(struct pg_out *o, struct span name, struct span value)
{
    size_t at = put_begin(o, 'S');
    put_span_cstr(o, name);
    put_span_cstr(o, value);
    put_end(o, at, 'S');
}

void pg_put_backend_key(struct pg_out *o, uint32_t pid, struct span key)
{
    size_t at = put_begin(o, 'K');
    put_u32(o, pid);
    put(o, key.p, key.n);
    put_end(o, at, 'K');
}

void pg_put_ready(struct pg_out *o, uint8_t status)
{
    pg_put_raw(o, 'Z', span_of(&status, 1));
}

static size_t put_auth(struct pg_out *o, uint32_t kind)
{
    size_t at = put_begin(o, 'R');
    put_u32(o, kind);
    return at;
}

void pg_put_auth_ok(struct pg_out *o)
{
    put_end(o, put_auth(o, 0), 'R');
}

void pg_put_auth_cleartext(struct pg_out *o)
{
    put_end(o, put_auth(o, 3), 'R');
}

void pg_put_auth_md5(struct pg_out *o, const uint8_t salt[4])
{
    size_t at = put_auth(o, 5);
    put(o, salt, 4);
    put_end(o, at, 'R');
}

void pg_put_auth_sasl(struct pg_out *o, const char *const *mechanisms, size_t n)
{
    size_t at = put_auth(o, 10);
    for (size_t i = 0; i < n; i++)
        put_cstr(o, mechanisms[i]);
    put_u8(o, 0);
    put_end(o, at, 'R');
}

void pg_put_auth_sasl_continue(struct pg_out *o, struct span data)
{
    size_t at = put_auth(o, 11);
    put(o, data.p, data.n);
    put_end(o, at, 'R');
}

void pg_put_auth_sasl_final(struct pg_out *o, struct span data)
{
    size_t at = put_auth(o, 12);
    put(o, data.p, data.n);
    put_end(o, at, 'R');
}

void pg_put_negotiate(struct pg_out *o, uint32_t version, struct span params)
{
    struct span name, value, rest = params;
    uint32_t refused = 0;
    while (pg_param_next(&rest, &name, &value))
        refused += pg_param_is_protocol_option(name);
    size_t at = put_begin(o, 'v');
    put_u32(o, version);
    put_u32(o, refused);
    while (pg_param_next(&params, &name, &value))
        if (pg_param_is_protocol_option(name))
            put_span_cstr(o, name);
    put_end(o, at, 'v');
}

void pg_put_complete(struct pg_out *o, const char *tag)
{
    pg_put_raw(o, 'C', span_of(tag, strlen(tag) + 1));
}

void pg_put_bare(struct pg_out *o, uint8_t type)
{
    put_end(o, put_begin(o, type), type);
}

void pg_put_raw(struct pg_out *o, uint8_t type, struct span body)
{
    size_t at = put_begin(o, type);
    put(o, body.p, body.n);
    put_end(o, at, type);
}

/* --- to a server --- */

void pg_put_query(struct pg_out *o, const char *text)
{
    pg_put_raw(o, 'Q', span_of(text, strlen(text) + 1));
}

void pg_put_parse(struct pg_out *o, const char *name, const char *text)
{
    size_t at = put_begin(o, 'P');
    put_cstr(o, name);
    put_cstr(o, text);
    put_u16(o, 0);
    put_end(o, at, 'P');
}

void pg_put_bind(struct pg_out *o, const char *portal, const char *statement)
{
    size_t at = put_begin(o, 'B');
    put_cstr(o, portal);
    put_cstr(o, statement);
    put_u16(o, 0); /* parameter formats */
    put_u16(o, 0); /* parameters */
    put_u16(o, 0); /* result formats */
    put_end(o, at, 'B');
}

void pg_put_target(struct pg_out *o, uint8_t type, uint8_t kind, const char *name)
{
    size_t at = put_begin(o, type);
    put_u8(o, kind);
    put_cstr(o, name);
    put_end(o, at, type);
}

void pg_put_execute(struct pg_out *o, const char *portal, uint32_t rows)
{
    size_t at = put_begin(o, 'E');
    put_cstr(o, portal);
    put_u32(o, rows);
    put_end(o, at, 'E');
}

void pg_put_ssl_request(struct pg_out *o)
{
    size_t at = put_begin(o, 0);
    put_u32(o, PG_CODE_SSL);
    put_end(o, at, 0);
}

void pg_put_gssenc_request(struct pg_out *o)
{
    size_t at = put_begin(o, 0);
    put_u32(o, PG_CODE_GSSENC);
    put_end(o, at, 0);
}

void pg_put_cancel(struct pg_out *o, uint32_t pid, struct span key)
{
    size_t at = put_begin(o, 0);
    put_u32(o, PG_CODE_CANCEL);
    put_u32(o, pid);
    put(o, key.p, key.n);
    put_end(o, at, 0);
}

void pg_put_startup(struct pg_out *o, uint32_t version, const char *const *pairs)
{
    size_t at = put_begin(o, 0);
    put_u32(o, version);
    for (; *pairs; pairs++)
        put_cstr(o, *pairs);
    put_u8(o, 0);
    put_end(o, at, 0);
}
