/* SPDX-License-Identifier: MIT */
/* Bodies: what is written can be read, what is cut off or malformed cannot, and nothing
 * overflows. */
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "proxy/wire/postgres.h"
#include "proxy/wire/postgres_startup.h"

static uint8_t buf[4096];

static struct pg_out fresh(void)
{
    return pg_out_of(buf, sizeof buf);
}

/* The body of the only message in `o`. */
static struct span body_of(const struct pg_out *o, enum pg_side side, uint8_t type)
{
    struct pg_framer f;
    struct pg_msg m;
    struct err err;
    pg_framer_init(&f, side);
    const struct pg_whole *whole = side == PG_SIDE_SERVER ? &pg_whole_server : &pg_whole_client;
    assert_false(o->overflow);
    assert_int_equal(pg_next(&f, whole, pg_out_span(o), &m, &err), PG_MESSAGE);
    assert_int_equal(m.type, type);
    assert_int_equal(m.raw.n, o->n);
    return m.body;
}

static void assert_span(struct span s, const char *text)
{
    assert_int_equal(s.n, strlen(text));
    assert_memory_equal(s.p, text, s.n);
}

static void test_error(void **state)
{
    (void)state;
    const struct pg_report r = {"FATAL", "57P01", "the server goes", "it really does", "wait"};
    struct pg_out o = fresh();
    struct pg_fields f;
    pg_put_error(&o, &r);
    struct span body = body_of(&o, PG_SIDE_SERVER, 'E');
    assert_true(pg_read_error(body, &f));
    assert_span(f.severity, "FATAL");
    assert_span(f.sqlstate, "57P01");
    assert_span(f.message, "the server goes");
    assert_span(f.detail, "it really does");
    assert_span(f.hint, "wait");
    assert_true(pg_fields_fatal(&f));
    /* cut off: what is there is read, but never a code that is not whole */
    for (size_t n = 0; n < body.n; n++) {
        bool ok = pg_read_error(span_of(body.p, n), &f);
        assert_int_equal(ok,
                         n >= strlen("SFATAL") + 1 + strlen("VFATAL") + 1 + strlen("C57P01") + 1);
    }
    o = fresh();
    pg_put_notice(&o, &(struct pg_report){"NOTICE", "00000", "hello", NULL, NULL});
    assert_true(pg_read_error(body_of(&o, PG_SIDE_SERVER, 'N'), &f));
    assert_int_equal(f.detail.n + f.hint.n, 0);
    assert_false(pg_fields_fatal(&f));
}

/* Old servers say the severity only in their own language; nobody says nothing. */
static void test_error_of_others(void **state)
{
    (void)state;
    struct pg_fields f;
    assert_true(pg_read_error(SPAN_LIT("SERREUR\0C42601\0Mnon\0F1.c\0\0"), &f));
    assert_span(f.severity, "ERREUR");
    assert_true(pg_read_error(SPAN_LIT("SERREUR\0VERROR\0C42601\0\0"), &f));
    assert_span(f.severity, "ERROR");
    assert_false(pg_read_error(SPAN_LIT("SERROR\0Mno code\0\0"), &f));
    assert_false(pg_read_error(SPAN_LIT("SERROR\0C426011\0\0"), &f));
    assert_false(pg_read_error(SPAN_LIT("C42601\0\0"), &f));
    assert_false(pg_read_error(SPAN_LIT("\0"), &f));
    assert_false(pg_read_error((struct span){0}, &f));
}

static void test_small_server_messages(void **state)
{
    (void)state;
    struct pg_out o = fresh();
    struct span a, b;
    uint8_t status;
    uint32_t n, kind;
    pg_put_parameter(&o, SPAN_LIT("TimeZone"), SPAN_LIT("UTC"));
    assert_true(pg_read_parameter(body_of(&o, PG_SIDE_SERVER, 'S'), &a, &b));
    assert_span(a, "TimeZone");
    assert_span(b, "UTC");
    o = fresh();
    pg_put_backend_key(&o, 77, SPAN_LIT("\x00\x01\x02\x03"));
    assert_true(pg_read_backend_key(body_of(&o, PG_SIDE_SERVER, 'K'), &n, &a));
    assert_int_equal(n, 77);
    assert_int_equal(a.n, 4);
    assert_false(pg_read_backend_key(SPAN_LIT("\0\0\0\1\2\2\2"), &n, &a));
    for (const char *s = "ITE"; *s; s++) {
        o = fresh();
        pg_put_ready(&o, (uint8_t)*s);
        assert_true(pg_read_ready(body_of(&o, PG_SIDE_SERVER, 'Z'), &status));
        assert_int_equal(status, *s);
    }
    assert_false(pg_read_ready(SPAN_LIT("X"), &status));
    assert_false(pg_read_ready(SPAN_LIT("II"), &status));
    assert_false(pg_read_ready((struct span){0}, &status));
    o = fresh();
    pg_put_complete(&o, "INSERT 0 1");
    assert_true(pg_read_complete(body_of(&o, PG_SIDE_SERVER, 'C'), &a));
    assert_span(a, "INSERT 0 1");
    o = fresh();
    pg_put_auth_sasl(&o, (const char *const[]){"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}, 2);
    assert_true(pg_read_auth(body_of(&o, PG_SIDE_SERVER, 'R'), &kind, &a));
    assert_int_equal(kind, 10);
    assert_int_equal(a.n, 19 + 14 + 1);
    static const struct {
        void (*put)(struct pg_out *);
        uint32_t kind;
    } plain[] = {{pg_put_auth_ok, 0}, {pg_put_auth_cleartext, 3}};
    for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
        o = fresh();
        plain[i].put(&o);
        assert_true(pg_read_auth(body_of(&o, PG_SIDE_SERVER, 'R'), &kind, &a));
        assert_int_equal(kind, plain[i].kind);
        assert_int_equal(a.n, 0);
    }
    o = fresh();
    pg_put_auth_sasl_continue(&o, SPAN_LIT("r=x"));
    assert_true(pg_read_auth(body_of(&o, PG_SIDE_SERVER, 'R'), &kind, &a) && kind == 11);
    assert_span(a, "r=x");
}

static void test_negotiation_names_only_protocol_options(void **state)
{
    (void)state;
    struct pg_out o = fresh();
    pg_put_startup(
        &o, PG_PROTOCOL_3_2,
        (const char *const[]){"user", "u", "_pq_.a", "1", "_pq", "x", "_pq_.b", "2", NULL});
    uint8_t packet[256];
    struct pg_startup_seen seen = {0};
    struct pg_startup s;
    struct err err;
    size_t n = o.n;
    memcpy(packet, buf, n);
    assert_int_equal(pg_startup_next(&seen, span_of(packet, n), &s, &err), PG_STARTUP_SESSION);
    assert_int_equal(s.protocol_options, 2);
    o = fresh();
    pg_put_negotiate(&o, PG_PROTOCOL_3_0, s.params);
    struct span body = body_of(&o, PG_SIDE_SERVER, 'v');
    uint32_t version, options;
    assert_true(pg_read_negotiate(body, &version, &options));
    assert_int_equal(version, PG_PROTOCOL_3_0);
    assert_int_equal(options, 2);
    assert_memory_equal(body.p + 8, "_pq_.a\0_pq_.b", 14);
    assert_false(pg_read_negotiate(span_of(body.p, body.n - 1), &version, &options));
}

static void test_client_messages(void **state)
{
    (void)state;
    struct pg_out o = fresh();
    struct span text, name;
    uint32_t rows;
    uint8_t kind;
    pg_put_query(&o, "select 1");
    struct span body = body_of(&o, PG_SIDE_CLIENT, 'Q');
    assert_true(pg_read_query(body, &text));
    assert_span(text, "select 1");
    assert_false(pg_read_query(span_of(body.p, body.n - 1), &text));
    assert_false(pg_read_query(SPAN_LIT("a\0b\0"), &text));

    o = fresh();
    pg_put_parse(&o, "s1", "select $1");
    body = body_of(&o, PG_SIDE_CLIENT, 'P');
    struct pg_parse parse;
    assert_true(pg_read_parse(body, &parse));
    assert_span(parse.name, "s1");
    assert_span(parse.text, "select $1");
    for (size_t n = 0; n < body.n; n++)
        assert_false(pg_read_parse(span_of(body.p, n), &parse));
    assert_true(pg_read_parse(SPAN_LIT("\0x\0\0\2\0\0\0\1\0\0\0\2"), &parse));
    assert_int_equal(parse.types.n, 8);
    assert_false(pg_read_parse(SPAN_LIT("\0x\0\xff\xff\0\0\0\1"), &parse));

    o = fresh();
    pg_put_bind(&o, "p", "s1");
    body = body_of(&o, PG_SIDE_CLIENT, 'B');
    struct pg_bind bind;
    assert_true(pg_read_bind(body, &bind));
    assert_span(bind.portal, "p");
    assert_span(bind.statement, "s1");
    assert_true(pg_read_bind(span_of(body.p, 5), &bind)); /* both names are there */
    assert_false(pg_read_bind(span_of(body.p, 4), &bind));

    o = fresh();
    pg_put_target(&o, 'D', 'S', "s1");
    assert_true(pg_read_target(body_of(&o, PG_SIDE_CLIENT, 'D'), &kind, &name));
    assert_int_equal(kind, 'S');
    assert_span(name, "s1");
    assert_false(pg_read_target(SPAN_LIT("X\0"), &kind, &name));
    assert_false(pg_read_target((struct span){0}, &kind, &name));

    o = fresh();
    pg_put_execute(&o, "p", 100);
    assert_true(pg_read_execute(body_of(&o, PG_SIDE_CLIENT, 'E'), &name, &rows));
    assert_span(name, "p");
    assert_int_equal(rows, 100);
}

static void test_login_messages(void **state)
{
    (void)state;
    struct span s, mechanism, data;
    bool has;
    assert_true(pg_read_password(SPAN_LIT("secret\0"), &s));
    assert_span(s, "secret");
    assert_false(pg_read_password(SPAN_LIT("secret"), &s));
    assert_false(pg_read_password(SPAN_LIT("se\0cret\0"), &s));
    assert_true(pg_read_sasl_initial(SPAN_LIT("SCRAM\0\0\0\0\3n,,"), &mechanism, &has, &data));
    assert_span(mechanism, "SCRAM");
    assert_true(has);
    assert_span(data, "n,,");
    assert_true(pg_read_sasl_initial(SPAN_LIT("SCRAM\0\xff\xff\xff\xff"), &mechanism, &has, &data));
    assert_false(has);
    static const struct span wrong[] = {
        SPAN_LIT(""),
        SPAN_LIT("SCRAM"),
        SPAN_LIT("SCRAM\0\0\0\0"),
        SPAN_LIT("SCRAM\0\0\0\0\4n,,"),
        SPAN_LIT("SCRAM\0\0\0\0\2n,,"),
        SPAN_LIT("SCRAM\0\x7f\xff\xff\xffn,,"),
        SPAN_LIT("SCRAM\0\xff\xff\xff\xfen,,"),
        SPAN_LIT("SCRAM\0\xff\xff\xff\xffn,,"),
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_false(pg_read_sasl_initial(wrong[i], &mechanism, &has, &data));
}

static void test_cursor_stays_bad(void **state)
{
    (void)state;
    struct pg_cur c = pg_cur_of(SPAN_LIT("\x01\x02\x03"));
    assert_int_equal(pg_cur_u16(&c), 0x0102);
    assert_int_equal(pg_cur_u32(&c), 0);
    assert_true(c.bad);
    assert_int_equal(pg_cur_u8(&c), 0); /* though one byte is left */
    assert_int_equal(pg_cur_bytes(&c, 0).n + pg_cur_cstr(&c).n, 0);
    assert_false(pg_cur_done(&c));
    c = pg_cur_of((struct span){0});
    assert_true(pg_cur_done(&c));
    assert_int_equal(pg_cur_cstr(&c).n, 0);
    assert_true(c.bad);
    c = pg_cur_of(SPAN_LIT("\x80\0\0\0"));
    assert_int_equal(pg_cur_i32(&c), INT32_MIN);
}

static void write_all(struct pg_out *o)
{
    pg_put_parameter(o, SPAN_LIT("a"), SPAN_LIT("b"));
    pg_put_error(o, &(struct pg_report){"ERROR", "08006", "lost", NULL, "again"});
    pg_put_ready(o, 'I');
    pg_put_negotiate(o, PG_PROTOCOL_3_0, (struct span){0});
    pg_put_cancel(o, 1, SPAN_LIT("keyk"));
    pg_put_startup(o, PG_PROTOCOL_3_0, (const char *const[]){"user", "u", NULL});
}

/* A buffer of every size holds whole messages only, and nothing behind its end is touched. */
static void test_overflow_leaves_whole_messages(void **state)
{
    (void)state;
    static uint8_t all[512];
    struct pg_out full = pg_out_of(all, sizeof all);
    write_all(&full);
    assert_false(full.overflow);
    size_t lengths_seen = 0, last = SIZE_MAX;
    for (size_t cap = 0; cap <= full.n; cap++) {
        uint8_t *exact = malloc(cap ? cap : 1);
        struct pg_out o = pg_out_of(exact, cap);
        write_all(&o);
        assert_int_equal(o.overflow, cap < full.n);
        assert_true(o.n <= cap);
        assert_memory_equal(exact, all, o.n);
        if (o.n != last) {
            lengths_seen++;
            last = o.n;
        }
        free(exact);
    }
    assert_int_equal(lengths_seen, 7); /* none, then one message more each time */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_error_of_others),
        cmocka_unit_test(test_small_server_messages),
        cmocka_unit_test(test_negotiation_names_only_protocol_options),
        cmocka_unit_test(test_client_messages),
        cmocka_unit_test(test_login_messages),
        cmocka_unit_test(test_cursor_stays_bad),
        cmocka_unit_test(test_overflow_leaves_whole_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
