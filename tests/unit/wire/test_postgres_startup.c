/* SPDX-License-Identifier: MIT */
/* The packets strangers send first. */
#include "proxy/wire/postgres_startup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "proxy/wire/postgres_write.h"

static uint8_t bytes[PG_STARTUP_MAX + 64];

static struct pg_out out_all(void)
{
    return pg_out_of(bytes, sizeof bytes);
}

static enum pg_startup_step look(struct span in, struct pg_startup *s, struct err *err)
{
    struct pg_startup_seen seen = {0};
    return pg_startup_next(&seen, in, s, err);
}

static void assert_span(struct span s, const char *text)
{
    assert_int_equal(s.n, strlen(text));
    assert_memory_equal(s.p, text, s.n);
}

static void test_session(void **state)
{
    (void)state;
    struct pg_out o = out_all();
    pg_put_startup(&o, PG_PROTOCOL_3_2,
                   (const char *const[]){"user", "first", "database", "shop", "application_name",
                                         "", "options", "-c geqo=off", "_pq_.grease", "1", "user",
                                         "anna", NULL});
    struct pg_startup s;
    struct err err;
    for (size_t n = 0; n < o.n; n++)
        assert_int_equal(look(span_of(bytes, n), &s, &err), PG_STARTUP_WAIT);
    assert_int_equal(look(pg_out_span(&o), &s, &err), PG_STARTUP_SESSION);
    assert_int_equal(s.used, o.n);
    assert_int_equal(s.major, 3);
    assert_int_equal(s.minor, 2);
    assert_span(s.user, "anna"); /* given twice: the last wins, as on the server */
    assert_span(s.database, "shop");
    assert_span(s.options, "-c geqo=off");
    assert_int_equal(s.replication, PG_REPLICATION_NO);
    assert_int_equal(s.protocol_options, 1);
    struct span rest = s.params, name, value;
    size_t pairs = 0;
    while (pg_param_next(&rest, &name, &value))
        pairs++;
    assert_int_equal(pairs, 6);
    assert_true(pg_param_get(s.params, "application_name", &value) && value.n == 0);
    assert_false(pg_param_get(s.params, "Application_name", &value));
    /* what follows belongs to the next packet */
    bytes[o.n] = 'p';
    assert_int_equal(look(span_of(bytes, o.n + 1), &s, &err), PG_STARTUP_SESSION);
    assert_int_equal(s.used, o.n);
}

static void test_database_defaults_to_the_user(void **state)
{
    (void)state;
    struct pg_startup s;
    struct err err;
    struct pg_out o = out_all();
    pg_put_startup(&o, PG_PROTOCOL_3_0, (const char *const[]){"user", "anna", NULL});
    assert_int_equal(look(pg_out_span(&o), &s, &err), PG_STARTUP_SESSION);
    assert_span(s.database, "anna");
    o = out_all();
    pg_put_startup(&o, PG_PROTOCOL_3_0,
                   (const char *const[]){"database", "", "user", "anna", NULL});
    assert_int_equal(look(pg_out_span(&o), &s, &err), PG_STARTUP_SESSION);
    assert_span(s.database, "anna");
}

static void test_replication(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        int result; /* enum pg_replication, or -1 refused */
    } rows[] = {{"database", PG_REPLICATION_LOGICAL},
                {"true", PG_REPLICATION_PHYSICAL},
                {"ON", PG_REPLICATION_PHYSICAL},
                {"1", PG_REPLICATION_PHYSICAL},
                {"y", PG_REPLICATION_PHYSICAL},
                {"off", PG_REPLICATION_NO},
                {"false", PG_REPLICATION_NO},
                {"0", PG_REPLICATION_NO},
                {"n", PG_REPLICATION_NO},
                {"o", -1},
                {"", -1},
                {"truex", -1},
                {"Database", -1}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pg_startup s;
        struct err err;
        struct pg_out o = out_all();
        pg_put_startup(&o, PG_PROTOCOL_3_0,
                       (const char *const[]){"user", "u", "replication", rows[i].value, NULL});
        enum pg_startup_step step = look(pg_out_span(&o), &s, &err);
        if (rows[i].result < 0) {
            assert_int_equal(step, PG_STARTUP_BAD);
            assert_string_equal(s.sqlstate, "22023");
        } else {
            assert_int_equal(step, PG_STARTUP_SESSION);
            assert_int_equal((int)s.replication, rows[i].result);
        }
    }
}

static void test_cancel(void **state)
{
    (void)state;
    uint8_t key[PG_CANCEL_KEY_MAX + 1];
    memset(key, 0x5a, sizeof key);
    for (size_t n = 0; n <= sizeof key; n++) {
        struct pg_startup s;
        struct err err;
        struct pg_out o = out_all();
        pg_put_cancel(&o, 0x80000001, span_of(key, n));
        enum pg_startup_step step = look(pg_out_span(&o), &s, &err);
        if (n == 0 || n > PG_CANCEL_KEY_MAX) {
            assert_int_equal(step, PG_STARTUP_BAD);
            assert_true(s.silent); /* nobody waits for an answer to a cancel */
        } else {
            assert_int_equal(step, PG_STARTUP_CANCEL);
            assert_true(s.pid == 0x80000001);
            assert_true(span_eq(s.key, span_of(key, n)));
        }
    }
}

static void test_encryption_once_each_and_nothing_behind_it(void **state)
{
    (void)state;
    struct pg_startup_seen seen = {0};
    struct pg_startup s;
    struct err err;
    struct pg_out ssl = out_all();
    pg_put_ssl_request(&ssl);
    uint8_t gss_bytes[8];
    struct pg_out gss = pg_out_of(gss_bytes, sizeof gss_bytes);
    pg_put_gssenc_request(&gss);

    assert_int_equal(pg_startup_next(&seen, pg_out_span(&gss), &s, &err), PG_STARTUP_GSSENC);
    assert_int_equal(s.used, 8);
    assert_int_equal(pg_startup_next(&seen, pg_out_span(&ssl), &s, &err), PG_STARTUP_SSL);
    assert_int_equal(pg_startup_next(&seen, pg_out_span(&ssl), &s, &err), PG_STARTUP_BAD);
    assert_string_equal(s.sqlstate, "08P01");
    assert_false(s.silent);
    assert_int_equal(pg_startup_next(&seen, pg_out_span(&gss), &s, &err), PG_STARTUP_BAD);

    seen = (struct pg_startup_seen){.tls = true};
    assert_int_equal(pg_startup_next(&seen, pg_out_span(&ssl), &s, &err), PG_STARTUP_BAD);
    assert_int_equal(pg_startup_next(&seen, pg_out_span(&gss), &s, &err), PG_STARTUP_BAD);

    /* what comes in clear behind the request would pass for protected later */
    bytes[8] = 'Q';
    seen = (struct pg_startup_seen){0};
    assert_int_equal(pg_startup_next(&seen, span_of(bytes, 9), &s, &err), PG_STARTUP_BAD);
    assert_false(seen.ssl);
}

static void test_direct_tls(void **state)
{
    (void)state;
    struct pg_startup_seen seen = {0};
    struct pg_startup s;
    struct err err;
    struct span hello = SPAN_LIT("\x16\x03\x01\x02");
    assert_int_equal(pg_startup_next(&seen, span_of(hello.p, 1), &s, &err), PG_STARTUP_TLS_HELLO);
    assert_int_equal(pg_startup_next(&seen, hello, &s, &err), PG_STARTUP_TLS_HELLO);
    assert_int_equal(s.used, 0);
    seen.tls = true; /* no TLS inside TLS */
    assert_int_equal(pg_startup_next(&seen, hello, &s, &err), PG_STARTUP_BAD);
    assert_true(s.silent);
}

static void test_strangers_are_closed_silently(void **state)
{
    (void)state;
    static const struct span rows[] = {
        SPAN_LIT("GET / HTTP/1.1\r\n"),
        SPAN_LIT("P"),
        SPAN_LIT("*1\r\n$4\r\nPING\r\n"),
        SPAN_LIT("\x01"),
        SPAN_LIT("SSH-2.0-x"),
        SPAN_LIT("\xff\xff\xff\xff"),
        SPAN_LIT("\0\0\0\0\0\0\0\0"),
        SPAN_LIT("\0\0\0\7"),
        SPAN_LIT("\0\0\x27\x11"),
        SPAN_LIT("\0\0\x40\0"),
        SPAN_LIT("\0\0\0\xc\4\xd2\x16\x2f"
                 "xxxx"),
        SPAN_LIT("\0\0\0\xc\4\xd2\x16\x2e\0\0\0\1"),
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pg_startup s;
        struct err err;
        if (look(rows[i], &s, &err) != PG_STARTUP_BAD || !s.silent)
            fail_msg("row %zu", i);
        assert_int_equal(err.cause, CAUSE_CLIENT_PROTOCOL);
        assert_true(err.note[0] != 0);
    }
}

static void test_told_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        struct span in;
        const char *sqlstate;
    } rows[] = {
        {SPAN_LIT("\0\0\0\x11\0\2\0\0user\0a\0\0\0"), "0A000"}, /* version 2 */
        {SPAN_LIT("\0\0\0\x10\0\4\0\0user\0a\0\0"), "0A000"},   /* version 4 */
        {SPAN_LIT("\0\0\0\x8\0\3\0\0"), "08P01"},               /* no terminator */
        {SPAN_LIT("\0\0\0\x9\0\3\0\0\0"), "28000"},             /* no user */
        {SPAN_LIT("\0\0\0\xf\0\3\0\0user\0\0\0"), "28000"},     /* empty user */
        {SPAN_LIT("\0\0\0\xf\0\3\0\0user\0a\0"), "08P01"},      /* list not ended */
        {SPAN_LIT("\0\0\0\xd\0\3\0\0user\0"), "08P01"},         /* name without value */
        {SPAN_LIT("\0\0\0\xf\0\3\0\0user\0ab"), "08P01"},       /* value not ended */
        {SPAN_LIT("\0\0\0\x11\0\3\0\0user\0a\0\0x"), "08P01"},  /* bytes behind the end */
        {SPAN_LIT("\0\0\0\x12\0\3\0\0user\0a\0\0x\0"), "08P01"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pg_startup s;
        struct err err;
        if (look(rows[i].in, &s, &err) != PG_STARTUP_BAD)
            fail_msg("row %zu accepted", i);
        if (strcmp(s.sqlstate, rows[i].sqlstate) != 0)
            fail_msg("row %zu: %s", i, s.sqlstate);
        assert_false(s.silent);
    }
}

static void test_ten_thousand_bytes_and_no_more(void **state)
{
    (void)state;
    static char value[PG_STARTUP_MAX];
    struct pg_startup s;
    struct err err;
    memset(value, 'x', sizeof value);
    value[PG_STARTUP_MAX - 8 - 5 - 2] = 0; /* "user" and two NULs around it */
    struct pg_out o = out_all();
    pg_put_startup(&o, PG_PROTOCOL_3_0, (const char *const[]){"user", value, NULL});
    assert_int_equal(o.n, PG_STARTUP_MAX);
    assert_int_equal(look(pg_out_span(&o), &s, &err), PG_STARTUP_SESSION);
    o = out_all();
    value[PG_STARTUP_MAX - 8 - 5 - 2] = 'x';
    value[PG_STARTUP_MAX - 8 - 5 - 1] = 0;
    pg_put_startup(&o, PG_PROTOCOL_3_0, (const char *const[]){"user", value, NULL});
    assert_int_equal(look(pg_out_span(&o), &s, &err), PG_STARTUP_BAD);
}

/* "name=value|name=value|", with "END" or "BAD" behind it. */
static void read_options(const char *options, char *out, size_t cap)
{
    uint8_t text[256];
    struct span in = span_str(options), name, value;
    enum pg_option what;
    size_t n = 0;
    while ((what = pg_option_next(&in, text, &name, &value)) == PG_OPTION_SETTING)
        n += (size_t)snprintf(out + n, cap - n, "%.*s=%.*s|", (int)name.n, (const char *)name.p,
                              (int)value.n, (const char *)value.p);
    snprintf(out + n, cap - n, what == PG_OPTION_END ? "END" : "BAD");
}

static void test_options(void **state)
{
    (void)state;
    static const struct {
        const char *options, *settings;
    } rows[] = {
        {"", "END"},
        {" \t\n\v\f\r", "END"},
        {"-c a=b", "a=b|END"},
        {"-ca=b", "a=b|END"},
        {"--a=b", "a=b|END"},
        {"-c a=b -cc=d --e-f=g", "a=b|c=d|e_f=g|END"},
        {"-c\ta=b\v-cc=d\f--e=f\r-c\ng=h", "a=b|c=d|e=f|g=h|END"},
        {"--a=b=c", "a=b=c|END"},
        {"--a-b=c-d", "a_b=c-d|END"},
        {"--a=", "a=|END"},
        {"--a=b\\ c", "a=b c|END"},
        {"--a=b\\\tc", "a=b\tc|END"},
        {"--a=b\\\\", "a=b\\|END"},
        {"--a=b\\\\ --c=d", "a=b\\|c=d|END"},
        {"--a=b\\\\\\ --c=d", "a=b\\ --c=d|END"},
        {"\\-\\-\\a\\=\\b", "a=b|END"},
        {"--a=b\\", "a=b|END"},  /* a backslash before nothing is none */
        {"--a=b \\", "a=b|BAD"}, /* and alone makes an empty word */
        {"-c a=b -- ", "a=b|END"},
        {"-- -c a=b", "BAD"},
        {"-c", "BAD"},
        {"-c a", "BAD"},
        {"-c =a", "BAD"},
        {"-c --a=b", "__a=b|END"},
        {"--a", "BAD"},
        {"--=a", "BAD"},
        {"-c a=b x", "a=b|BAD"},
        {"-", "BAD"},
        {"-d 5", "BAD"},
        {"a=b", "BAD"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char got[256];
        read_options(rows[i].options, got, sizeof got);
        if (strcmp(got, rows[i].settings) != 0)
            fail_msg("\"%s\": %s", rows[i].options, got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session),
        cmocka_unit_test(test_database_defaults_to_the_user),
        cmocka_unit_test(test_replication),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_encryption_once_each_and_nothing_behind_it),
        cmocka_unit_test(test_direct_tls),
        cmocka_unit_test(test_strangers_are_closed_silently),
        cmocka_unit_test(test_told_what_is_wrong),
        cmocka_unit_test(test_ten_thousand_bytes_and_no_more),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
