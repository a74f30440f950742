/* SPDX-License-Identifier: MIT */
/*
 * Readers of message bodies over one bounded cursor: every length is compared with what is left
 * before it is used, and a reader succeeds only if the body ends where it should.
 */
#include "proxy/wire/postgres_read.h"

static const uint8_t *take(struct pg_cur *c, size_t n)
{
    if (c->bad || n > c->n) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *p = c->p;
    if (n) {
        c->p += n;
        c->n -= n;
    }
    return p;
}

uint8_t pg_cur_u8(struct pg_cur *c)
{
    const uint8_t *p = take(c, 1);
    return p ? p[0] : 0;
}

uint16_t pg_cur_u16(struct pg_cur *c)
{
    const uint8_t *p = take(c, 2);
    return (uint16_t)(p ? p[0] << 8 | p[1] : 0);
}

uint32_t pg_cur_u32(struct pg_cur *c)
{
    const uint8_t *p = take(c, 4);
    return p ? (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3] : 0;
}

struct span pg_cur_cstr(struct pg_cur *c)
{
    const uint8_t *end = c->bad || c->n == 0 ? NULL : memchr(c->p, 0, c->n);
    if (!end) {
        c->bad = true;
        return (struct span){0};
    }
    size_t n = (size_t)(end - c->p);
    return (struct span){take(c, n + 1), n};
}

struct span pg_cur_bytes(struct pg_cur *c, size_t n)
{
    const uint8_t *p = take(c, n);
    return p ? (struct span){p, n} : (struct span){0};
}

bool pg_read_error(struct span body, struct pg_fields *out)
{
    struct pg_cur c = pg_cur_of(body);
    struct span plain_severity = {0};
    *out = (struct pg_fields){0};
    for (uint8_t kind = pg_cur_u8(&c); kind != 0 && !c.bad; kind = pg_cur_u8(&c)) {
        struct span value = pg_cur_cstr(&c);
        if (c.bad)
            break; /* cut off */
        switch (kind) {
        case 'S':
            plain_severity = value;
            break;
        case 'V':
            out->severity = value;
            break;
        case 'C':
            out->sqlstate = value;
            break;
        case 'M':
            out->message = value;
            break;
        case 'D':
            out->detail = value;
            break;
        case 'H':
            out->hint = value;
            break;
        case 'R':
            out->routine = value;
            break;
        default: /* position, context, source line: passed on, not read */
            break;
        }
    }
    if (out->severity.n == 0)
        out->severity = plain_severity;
    return out->severity.n > 0 && out->sqlstate.n == 5;
}

bool pg_fields_fatal(const struct pg_fields *f)
{
    return span_eq(f->severity, SPAN_LIT("FATAL")) || span_eq(f->severity, SPAN_LIT("PANIC"));
}

bool pg_read_parameter(struct span body, struct span *name, struct span *value)
{
    struct pg_cur c = pg_cur_of(body);
    *name = pg_cur_cstr(&c);
    *value = pg_cur_cstr(&c);
    return pg_cur_done(&c) && name->n > 0;
}

bool pg_read_backend_key(struct span body, uint32_t *pid, struct span *key)
{
    struct pg_cur c = pg_cur_of(body);
    *pid = pg_cur_u32(&c);
    *key = pg_cur_bytes(&c, c.n);
    return !c.bad && key->n >= 4 && key->n <= 256;
}

bool pg_read_complete(struct span body, struct span *tag)
{
    struct pg_cur c = pg_cur_of(body);
    *tag = pg_cur_cstr(&c);
    return pg_cur_done(&c);
}

bool pg_read_negotiate(struct span body, uint32_t *version, uint32_t *options)
{
    struct pg_cur c = pg_cur_of(body);
    *version = pg_cur_u32(&c);
    *options = pg_cur_u32(&c);
    for (uint32_t i = 0; i < *options && !c.bad; i++)
        (void)pg_cur_cstr(&c);
    return pg_cur_done(&c);
}

bool pg_read_auth(struct span body, uint32_t *kind, struct span *rest)
{
    struct pg_cur c = pg_cur_of(body);
    *kind = pg_cur_u32(&c);
    *rest = pg_cur_bytes(&c, c.n);
    return !c.bad;
}

bool pg_read_query(struct span body, struct span *text)
{
    struct pg_cur c = pg_cur_of(body);
    *text = pg_cur_cstr(&c);
    return pg_cur_done(&c);
}

bool pg_read_parse(struct span body, struct pg_parse *out)
{
    struct pg_cur c = pg_cur_of(body);
    out->name = pg_cur_cstr(&c);
    out->text = pg_cur_cstr(&c);
    out->n_types = pg_cur_u16(&c);
    out->types = pg_cur_bytes(&c, (size_t)out->n_types * 4);
    return pg_cur_done(&c);
}

bool pg_read_bind(struct span prefix, struct pg_bind *out)
{
    struct pg_cur c = pg_cur_of(prefix);
    out->portal = pg_cur_cstr(&c);
    out->statement = pg_cur_cstr(&c);
    out->rest = pg_cur_bytes(&c, c.n);
    return !c.bad;
}

bool pg_read_target(struct span body, uint8_t *kind, struct span *name)
{
    struct pg_cur c = pg_cur_of(body);
    *kind = pg_cur_u8(&c);
    *name = pg_cur_cstr(&c);
    return pg_cur_done(&c) && (*kind == 'S' || *kind == 'P');
}

bool pg_read_execute(struct span body, struct span *portal, uint32_t *rows)
{
    struct pg_cur c = pg_cur_of(body);
    *portal = pg_cur_cstr(&c);
    *rows = pg_cur_u32(&c);
    return pg_cur_done(&c);
}

bool pg_read_password(struct span body, struct span *password)
{
    struct pg_cur c = pg_cur_of(body);
    *password = pg_cur_cstr(&c);
    return pg_cur_done(&c);
}

bool pg_read_sasl_initial(struct span body, struct span *mechanism, bool *has_data,
                          struct span *data)
{
    struct pg_cur c = pg_cur_of(body);
    *mechanism = pg_cur_cstr(&c);
    uint32_t n = pg_cur_u32(&c);
    *has_data = n != UINT32_MAX;
    *data = *has_data ? pg_cur_bytes(&c, n) : (struct span){0};
    return pg_cur_done(&c);
}
