/* SPDX-License-Identifier: MIT */
/* The framer: the same messages however the bytes are cut, and no message that is not one. */
#include "proxy/wire/postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "proxy/wire/postgres_write.h"

enum { TRANSCRIPT_MAX = 16 * 1024 };

/* --- what a framer says, as text; a streamed body is written only by its length and a checksum
 * --- */

struct record {
    char text[8192];
    size_t n;
    uint32_t sum, body;
    bool in_body;
};

static void record_add(struct record *r, const struct pg_msg *m, bool begins)
{
    if (begins) {
        r->n += (size_t)snprintf(r->text + r->n, sizeof r->text - r->n, "%c%u", m->type, m->len);
        r->sum = r->body = 0;
    }
    for (size_t i = 0; i < m->body.n; i++)
        r->sum = r->sum * 31 + m->body.p[i];
    r->body += (uint32_t)m->body.n;
    if (m->whole)
        r->n +=
            (size_t)snprintf(r->text + r->n, sizeof r->text - r->n, ":%u:%08x ", r->body, r->sum);
    assert_true(r->n < sizeof r->text);
}

/* Feeds `in` as reads that end at the given cuts, carrying over what is left as a relay does. */
static enum pg_step feed(enum pg_side side, const struct pg_whole *whole, struct span in,
                         const size_t *cuts, size_t n_cuts, struct record *r)
{
    uint8_t buf[TRANSCRIPT_MAX];
    size_t have = 0, at = 0;
    struct pg_framer f;
    struct pg_msg m;
    struct err err;
    pg_framer_init(&f, side);
    *r = (struct record){0};
    for (size_t i = 0; i <= n_cuts; i++) {
        size_t to = i < n_cuts ? cuts[i] : in.n;
        memcpy(buf + have, in.p + at, to - at);
        have += to - at;
        at = to;
        struct span rest = span_of(buf, have);
        enum pg_step step;
        while ((step = pg_next(&f, whole, rest, &m, &err)) == PG_MESSAGE || step == PG_BODY) {
            assert_ptr_equal(m.raw.p, rest.p);
            assert_true(m.raw.n > 0);
            if (step == PG_MESSAGE) {
                uint32_t sure = m.len < whole->peek ? m.len : whole->peek;
                if (pg_set_has(&whole->types, m.type))
                    assert_true(m.whole);
                assert_true(m.whole || m.body.n >= sure);
                assert_int_equal(m.raw.n, m.body.n + PG_HEADER);
            }
            assert_int_equal(m.whole, pg_at_boundary(&f));
            record_add(r, &m, step == PG_MESSAGE);
            rest = span_skip(rest, m.raw.n);
        }
        if (step == PG_BAD)
            return PG_BAD;
        uint32_t most = whole->max > whole->peek ? whole->max : whole->peek;
        assert_true(rest.n <= 4 + (size_t)most);
        memmove(buf, rest.p, rest.n);
        have = rest.n;
    }
    return have == 0 && pg_at_boundary(&f) ? PG_MESSAGE : PG_WAIT;
}

static size_t client_transcript(uint8_t *p, size_t cap)
{
    struct pg_out o = pg_out_of(p, cap);
    uint8_t big[2000];
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 7);
    pg_put_query(&o, "select 1");
    pg_put_query(&o, "");
    pg_put_parse(&o, "s1", "select $1::int");
    pg_put_bind(&o, "", "s1");
    pg_put_target(&o, 'D', 'P', "");
    pg_put_execute(&o, "", 0);
    pg_put_bare(&o, 'H');
    pg_put_sync(&o);
    pg_put_raw(&o, 'd', span_of(big, sizeof big));
    pg_put_raw(&o, 'd', span_of(big, 0));
    pg_put_raw(&o, 'd', span_of(big, 1));
    pg_put_bare(&o, 'c');
    pg_put_raw(&o, 'P', span_of(big, 600));
    pg_put_raw(&o, 'F', span_of(big, 16));
    pg_put_raw(&o, 'f', span_of(big, 3));
    pg_put_target(&o, 'C', 'S', "s1");
    pg_put_raw(&o, 'Q', span_of(big, 513));
    pg_put_terminate(&o);
    assert_false(o.overflow);
    return o.n;
}

static void test_every_cut_gives_the_same_messages(void **state)
{
    (void)state;
    static uint8_t bytes[TRANSCRIPT_MAX];
    struct span in = span_of(bytes, client_transcript(bytes, sizeof bytes));
    struct record whole, cut;
    assert_int_equal(feed(PG_SIDE_CLIENT, &pg_whole_client, in, NULL, 0, &whole), PG_MESSAGE);
    assert_non_null(strstr(whole.text, "d2000:2000:"));
    assert_non_null(strstr(whole.text, "H0:0:00000000 S0:0:00000000 "));
    for (size_t i = 0; i <= in.n; i++) {
        assert_int_equal(feed(PG_SIDE_CLIENT, &pg_whole_client, in, &i, 1, &cut), PG_MESSAGE);
        assert_string_equal(cut.text, whole.text);
    }
    /* reads of equal size, one byte to many */
    for (size_t size = 1; size < 700; size = size < 16 ? size + 1 : size * 3 / 2) {
        static size_t cuts[TRANSCRIPT_MAX];
        size_t n = 0;
        for (size_t at = size; at < in.n; at += size)
            cuts[n++] = at;
        assert_int_equal(feed(PG_SIDE_CLIENT, &pg_whole_client, in, cuts, n, &cut), PG_MESSAGE);
        assert_string_equal(cut.text, whole.text);
    }
}

static void test_every_prefix_waits(void **state)
{
    (void)state;
    static uint8_t bytes[TRANSCRIPT_MAX];
    size_t n = client_transcript(bytes, sizeof bytes), boundaries = 0;
    struct record r;
    for (size_t i = 0; i < n; i++) {
        enum pg_step step = feed(PG_SIDE_CLIENT, &pg_whole_client, span_of(bytes, i), NULL, 0, &r);
        assert_true(step == PG_WAIT || step == PG_MESSAGE);
        boundaries += step == PG_MESSAGE;
    }
    assert_int_equal(boundaries, 18); /* nothing, and after each message but the last */
}

static enum pg_step one(enum pg_side side, const struct pg_whole *whole, const char *bytes,
                        size_t n, struct pg_msg *m, struct err *err)
{
    struct pg_framer f;
    pg_framer_init(&f, side);
    return pg_next(&f, whole, span_of(bytes, n), m, err);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        enum pg_side side;
        const char *bytes;
        size_t n;
        enum cause cause;
    } rows[] = {
        {PG_SIDE_CLIENT, "Q\0\0\0\3", 5, CAUSE_CLIENT_PROTOCOL},
        {PG_SIDE_CLIENT, "Q\0\0\0\0xx", 7, CAUSE_CLIENT_PROTOCOL},
        {PG_SIDE_CLIENT, "S\0\0\0\3", 5, CAUSE_CLIENT_PROTOCOL},
        {PG_SIDE_CLIENT, "d\x40\0\0\0", 5, CAUSE_TOO_LARGE},
        {PG_SIDE_CLIENT, "d\xff\xff\xff\xff", 5, CAUSE_TOO_LARGE},
        {PG_SIDE_CLIENT, "E\0\1\0\5", 5, CAUSE_TOO_LARGE}, /* a portal's name over 64 KiB */
        {PG_SIDE_CLIENT, "p\0\0\0\4", 5, CAUSE_CLIENT_PROTOCOL},
        {PG_SIDE_CLIENT, "Z", 1, CAUSE_CLIENT_PROTOCOL}, /* known by its first byte */
        {PG_SIDE_CLIENT, "\0", 1, CAUSE_CLIENT_PROTOCOL},
        {PG_SIDE_CLIENT, "\xff", 1, CAUSE_CLIENT_PROTOCOL},
        {PG_SIDE_LOGIN, "Q\0\0\0\4", 5, CAUSE_CLIENT_PROTOCOL},
        {PG_SIDE_LOGIN, "X\0\0\0\4", 5, CAUSE_CLIENT_PROTOCOL},
        {PG_SIDE_LOGIN, "p\0\1\0\5", 5, CAUSE_TOO_LARGE},
        {PG_SIDE_SERVER, "Q\0\0\0\4", 5, CAUSE_UPSTREAM_PROTOCOL},
        {PG_SIDE_SERVER, "H\0\0\0\1", 5, CAUSE_UPSTREAM_PROTOCOL},
        {PG_SIDE_SERVER, "\x15\x03\x01", 3, CAUSE_UPSTREAM_PROTOCOL}, /* a TLS alert */
        {PG_SIDE_SERVER, "Z\0\1\0\5", 5, CAUSE_TOO_LARGE},
        {PG_SIDE_SERVER, "D\x40\0\0\0", 5, CAUSE_UPSTREAM_PROTOCOL},
        {PG_SIDE_SERVER, "HTTP/1.1", 8, CAUSE_UPSTREAM_PROTOCOL},
    };
    static const struct pg_whole *const whole[] = {&pg_whole_login, &pg_whole_client,
                                                   &pg_whole_server};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pg_msg m;
        struct err err = {0};
        if (one(rows[i].side, whole[rows[i].side], rows[i].bytes, rows[i].n, &m, &err) != PG_BAD)
            fail_msg("row %zu accepted", i);
        assert_int_equal(err.cause, rows[i].cause);
    }
}

/* The bound on whole messages holds also for one that is all there already. */
static void test_bound_does_not_depend_on_what_is_there(void **state)
{
    (void)state;
    static char bytes[PG_HEADER + PG_CLIENT_WHOLE_MAX + 1];
    struct pg_msg m;
    struct err err;
    memcpy(bytes, "E\0\1\0\4", 5);
    assert_int_equal(one(PG_SIDE_CLIENT, &pg_whole_client, bytes, sizeof bytes, &m, &err),
                     PG_MESSAGE);
    assert_true(m.whole && m.len == PG_CLIENT_WHOLE_MAX);
    memcpy(bytes, "E\0\1\0\5", 5);
    assert_int_equal(one(PG_SIDE_CLIENT, &pg_whole_client, bytes, sizeof bytes, &m, &err), PG_BAD);
    memcpy(bytes, "Q\0\1\0\5", 5); /* a query may be as long as it likes */
    assert_int_equal(one(PG_SIDE_CLIENT, &pg_whole_client, bytes, sizeof bytes, &m, &err),
                     PG_MESSAGE);
    assert_true(m.whole);
}

static void test_a_huge_row_streams(void **state)
{
    (void)state;
    static uint8_t piece[PG_HEADER + 64 * 1024] = {'D', 0x3f, 0xff, 0xff, 0xff};
    struct pg_framer f;
    struct pg_msg m;
    struct err err;
    pg_framer_init(&f, PG_SIDE_SERVER);
    assert_int_equal(pg_next(&f, &pg_whole_server, span_of(piece, sizeof piece), &m, &err),
                     PG_MESSAGE);
    assert_int_equal(m.len, PG_LENGTH_MAX - 4);
    assert_false(m.whole);
    uint64_t left = m.len - m.body.n;
    while (left > 0) {
        assert_int_equal(pg_next(&f, &pg_whole_server, span_of(piece, sizeof piece), &m, &err),
                         PG_BODY);
        left -= m.body.n;
        assert_int_equal(m.len, left);
    }
    assert_true(m.whole && pg_at_boundary(&f));
    assert_int_equal(pg_next(&f, &pg_whole_server, (struct span){0}, &m, &err), PG_WAIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut_gives_the_same_messages),
        cmocka_unit_test(test_every_prefix_waits),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bound_does_not_depend_on_what_is_there),
        cmocka_unit_test(test_a_huge_row_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
