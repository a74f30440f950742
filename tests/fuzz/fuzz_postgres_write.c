/* SPDX-License-Identifier: MIT */
/*
 * What carpool writes, its own readers read: values from strangers (names, texts, keys) come back
 * byte for byte, into a buffer of any size, and what does not fit leaves nothing behind.
 * Input: a byte of buffer size, then three values, each with a byte of length in front.
 */
#include <stdlib.h>

#include "proxy/wire/postgres.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_write.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT = 255 };

struct text {
    char s[TEXT + 1]; /* up to the first NUL: what may stand in a message as a string */
    struct span as_string, raw;
};

static void take(struct span *in, struct text *t)
{
    size_t n = in->n ? in->p[0] : 0;
    if (in->n)
        *in = span_skip(*in, 1);
    n = n > in->n ? in->n : n;
    memset(t->s, 0, sizeof t->s);
    if (n)
        memcpy(t->s, in->p, n);
    t->raw = span_of(in->p, n);
    t->as_string = span_str(t->s);
    *in = span_skip(*in, n);
}

/* The one message that was written, or none at all. */
static bool written(const struct pg_out *o, enum pg_side side, uint8_t type, struct span *body)
{
    static const struct pg_whole whole = {.types = {{~UINT64_C(0), ~UINT64_C(0)}}, .max = 1 << 16};
    struct pg_framer framer;
    struct pg_msg m;
    struct err err;
    CHECK(o->n <= o->cap && o->overflow == (o->n == 0));
    if (o->overflow)
        return false;
    pg_framer_init(&framer, side);
    CHECK(pg_next(&framer, &whole, pg_out_span(o), &m, &err) == PG_MESSAGE);
    CHECK(m.type == type && m.whole && m.raw.n == o->n);
    *body = m.body;
    return true;
}

static void to_client(uint8_t *buf, size_t cap, const struct text *a, const struct text *b,
                      const struct text *c)
{
    struct span body, x, y;
    struct pg_fields f;
    uint32_t pid;
    struct pg_out o = pg_out_of(buf, cap);
    pg_put_error(&o, &(struct pg_report){.severity = "FATAL",
                                         .sqlstate = "08P01",
                                         .message = a->s,
                                         .detail = b->s,
                                         .hint = c->s});
    if (written(&o, PG_SIDE_SERVER, 'E', &body)) {
        CHECK(pg_read_error(body, &f) && pg_fields_fatal(&f));
        CHECK(span_eq(f.sqlstate, SPAN_LIT("08P01")) && span_eq(f.message, a->as_string));
        CHECK(span_eq(f.detail, b->as_string) && span_eq(f.hint, c->as_string));
    }
    o = pg_out_of(buf, cap);
    pg_put_parameter(&o, a->as_string, b->as_string);
    if (a->as_string.n && written(&o, PG_SIDE_SERVER, 'S', &body)) /* a name is never empty */
        CHECK(pg_read_parameter(body, &x, &y) && span_eq(x, a->as_string) &&
              span_eq(y, b->as_string));
    o = pg_out_of(buf, cap);
    pg_put_complete(&o, a->s);
    if (written(&o, PG_SIDE_SERVER, 'C', &body))
        CHECK(pg_read_complete(body, &x) && span_eq(x, a->as_string));
    o = pg_out_of(buf, cap);
    pg_put_backend_key(&o, 7, a->raw);
    if (a->raw.n >= 4 && written(&o, PG_SIDE_SERVER, 'K', &body))
        CHECK(pg_read_backend_key(body, &pid, &x) && pid == 7 && span_eq(x, a->raw));
    o = pg_out_of(buf, cap);
    pg_put_auth_sasl_continue(&o, a->raw);
    if (written(&o, PG_SIDE_SERVER, 'R', &body))
        CHECK(pg_read_auth(body, &pid, &x) && pid == 11 && span_eq(x, a->raw));
}

static void to_server(uint8_t *buf, size_t cap, const struct text *a, const struct text *b)
{
    struct span body, x;
    struct pg_parse parse;
    struct pg_bind bind;
    uint32_t rows;
    uint8_t kind;
    struct pg_out o = pg_out_of(buf, cap);
    pg_put_query(&o, a->s);
    if (written(&o, PG_SIDE_CLIENT, 'Q', &body))
        CHECK(pg_read_query(body, &x) && span_eq(x, a->as_string));
    o = pg_out_of(buf, cap);
    pg_put_parse(&o, a->s, b->s);
    if (written(&o, PG_SIDE_CLIENT, 'P', &body))
        CHECK(pg_read_parse(body, &parse) && parse.n_types == 0 &&
              span_eq(parse.name, a->as_string) && span_eq(parse.text, b->as_string));
    o = pg_out_of(buf, cap);
    pg_put_bind(&o, a->s, b->s);
    if (written(&o, PG_SIDE_CLIENT, 'B', &body))
        CHECK(pg_read_bind(body, &bind) && span_eq(bind.portal, a->as_string) &&
              span_eq(bind.statement, b->as_string));
    o = pg_out_of(buf, cap);
    pg_put_target(&o, 'C', 'S', a->s);
    if (written(&o, PG_SIDE_CLIENT, 'C', &body))
        CHECK(pg_read_target(body, &kind, &x) && kind == 'S' && span_eq(x, a->as_string));
    o = pg_out_of(buf, cap);
    pg_put_execute(&o, a->s, 5);
    if (written(&o, PG_SIDE_CLIENT, 'E', &body))
        CHECK(pg_read_execute(body, &x, &rows) && rows == 5 && span_eq(x, a->as_string));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text a, b, c;
    struct span in = span_of(data, size);
    if (size == 0)
        return 0;
    size_t cap = (size_t)data[0] * 4;
    in = span_skip(in, 1);
    take(&in, &a);
    take(&in, &b);
    take(&in, &c);
    uint8_t *buf = malloc(cap + !cap); /* a byte too many is seen */
    CHECK(buf);
    to_client(buf, cap, &a, &b, &c);
    to_server(buf, cap, &a, &b);
    free(buf);
    return 0;
}
