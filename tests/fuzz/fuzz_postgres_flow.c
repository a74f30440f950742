/* SPDX-License-Identifier: MIT */
/*
 * Two peers talk garbage through framer, readers and flow. Input: pieces of {side and length,
 * bytes}. Each side is framed twice, once as it comes and once whole: both must see the same
 * messages.
 */
#include "proxy/wire/postgres.h"
#include "proxy/wire/postgres_flow.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BYTES = 1 << 16 };

struct side {
    uint8_t all[BYTES];
    size_t n, used;
    struct pg_framer framer;
    const struct pg_whole *whole;
    uint64_t messages, bytes, sum;
    bool bad;
};

/* Small bounds, so that inputs of a few bytes reach them. */
static const struct pg_whole client_whole = {
    .types = {{0, PG_BIT('C') | PG_BIT('D') | PG_BIT('E') | PG_BIT('H') | PG_BIT('S')}},
    .max = 64,
    .peek = 8};
static const struct pg_whole server_whole = {
    .types = {{PG_BIT('1') | PG_BIT('2'), PG_BIT('Z') | PG_BIT('C') | PG_BIT('S')}},
    .max = 64,
    .peek = 16};

static void read_everything(uint8_t type, struct span body)
{
    struct span a, b;
    uint8_t kind;
    uint32_t n;
    bool has;
    struct pg_fields fields;
    struct pg_parse parse;
    struct pg_bind bind;
    if (pg_read_error(body, &fields))
        CHECK(fields.sqlstate.n == 5);
    (void)!pg_read_parameter(body, &a, &b);
    (void)!pg_read_backend_key(body, &n, &a);
    (void)!pg_read_negotiate(body, &n, &n);
    (void)!pg_read_auth(body, &n, &a);
    (void)!pg_read_target(body, &kind, &a);
    (void)!pg_read_execute(body, &a, &n);
    (void)!pg_read_sasl_initial(body, &a, &has, &b);
    (void)!pg_read_bind(body, &bind);
    if (pg_read_parse(body, &parse))
        CHECK(parse.types.n == 4u * parse.n_types);
    if (type == 'Q' && pg_read_query(body, &a))
        (void)pg_text_look(a);
}

/* Frames what there is of a side. `flow` may be NULL. False: the flow is of no more use. */
static bool frame(struct side *s, struct pg_flow *flow)
{
    bool sane = true;
    struct pg_msg m;
    struct err err;
    while (!s->bad) {
        struct span in = span_of(s->all + s->used, s->n - s->used);
        enum pg_step step = pg_next(&s->framer, s->whole, in, &m, &err);
        if (step == PG_WAIT)
            break;
        if (step == PG_BAD) {
            s->bad = true;
            break;
        }
        CHECK(m.raw.n > 0 && m.raw.n <= in.n && m.body.n <= m.raw.n);
        s->used += m.raw.n;
        if (step == PG_MESSAGE)
            s->sum = s->sum * 37 + m.type + m.len;
        for (size_t i = 0; i < m.body.n; i++)
            s->sum = s->sum * 31 + m.body.p[i];
        s->bytes += m.raw.n;
        if (step == PG_BODY)
            continue;
        s->messages++;
        if (!flow || !sane)
            continue;
        read_everything(m.type, m.body);
        enum pg_flow_step f = s->framer.side == PG_SIDE_CLIENT
                                  ? pg_flow_client(flow, m.type, m.body)
                                  : pg_flow_server(flow, m.type, m.body);
        sane = f != PG_FLOW_VIOLATION;
    }
    return sane;
}

static void check_flow(const struct pg_flow *f)
{
    CHECK(f->queue.maybe <= f->queue.due);
    CHECK(!(pg_flow_is_idle(f) && pg_flow_is_busy(f)));
    CHECK(!(pg_flow_is_idle(f) && pg_flow_is_doubtful(f)));
    CHECK(!(pg_flow_is_lost(f) && pg_flow_is_idle(f)));
    CHECK(pg_queue_front(&f->queue) != PG_TOKEN_COPY_END);
    CHECK((f->queue.due == 0) == (pg_queue_cells(&f->queue) == 0));
}

static void side_init(struct side *s, enum pg_side side, const struct pg_whole *whole)
{
    s->n = s->used = 0;
    s->messages = s->bytes = s->sum = 0;
    s->bad = false;
    s->whole = whole;
    pg_framer_init(&s->framer, side);
}

static void same_when_whole(struct side *s)
{
    struct side before = {.messages = s->messages, .bytes = s->bytes, .sum = s->sum, .bad = s->bad};
    size_t n = s->n;
    enum pg_side side = (enum pg_side)s->framer.side;
    side_init(s, side, s->whole);
    s->n = n;
    (void)frame(s, NULL);
    CHECK(s->messages == before.messages && s->bytes == before.bytes && s->sum == before.sum &&
          s->bad == before.bad);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct side sides[2];
    struct pg_flow flow;
    struct pg_swallow swallow = {0};
    enum pg_swallow_step step;
    bool sane = true;
    side_init(&sides[0], PG_SIDE_CLIENT, &client_whole);
    side_init(&sides[1], PG_SIDE_SERVER, &server_whole);
    pg_flow_init(&flow);
    for (size_t at = 0; at < size;) {
        struct side *s = &sides[data[at] >> 7];
        size_t n = data[at++] & 127;
        n = n > size - at ? size - at : n;
        if (n > BYTES - s->n)
            break;
        memcpy(s->all + s->n, data + at, n);
        s->n += n;
        at += n;
        sane = frame(s, sane ? &flow : NULL) && sane;
        if (sane)
            check_flow(&flow);
    }
    for (size_t n = 0; pg_flow_abandon(&flow, &swallow, &step); n++)
        CHECK(n <= size);
    pg_flow_fini(&flow);
    same_when_whole(&sides[0]);
    same_when_whole(&sides[1]);
    return 0;
}
