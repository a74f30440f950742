/* SPDX-License-Identifier: MIT */
/* Upstream URLs of every kind, and what becomes of them without a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/conf/loading.h"

static int clean_environment(void **state)
{
    (void)state;
    static const char *const names[] = {
        "CARPOOL_POOLS",      "CARPOOL_LISTEN",      "CARPOOL_WORKERS",         "CARPOOL_LOG_LEVEL",
        "CARPOOL_ADMIN_HTTP", "CARPOOL_ADMIN_TOKEN", "CARPOOL_ADMIN_TOKEN_FILE"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        unsetenv(names[i]);
    return 0;
}

static struct loaded load_pools(const char *pools)
{
    setenv("CARPOOL_POOLS", pools, 1);
    return load_urls(NULL, 0);
}

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static void test_good_urls(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        const char *label, *user, *password, *database;
        uint16_t port;
        enum endpoint_tls tls;
    } cases[] = {
        {"postgres://app@db", "db:5432", "app", NULL, "app", 5432, ENDPOINT_TLS_PREFER},
        {"postgresql://app:pw@db:6000/orders", "db:6000", "app", "pw", "orders", 6000,
         ENDPOINT_TLS_PREFER},
        {"POSTGRES://app@db/", "db:5432", "app", NULL, "app", 5432, ENDPOINT_TLS_PREFER},
        {"postgres://a%40b:p%2Fw%25@[::1]:7/d%20b", "[::1]:7", "a@b", "p/w%", "d b", 7,
         ENDPOINT_TLS_PREFER},
        {"postgres://app:p@s:s@db/d", "db:5432", "app", "p@s:s", "d", 5432, ENDPOINT_TLS_PREFER},
        {"postgres://app:@db/d", "db:5432", "app", NULL, "d", 5432, ENDPOINT_TLS_PREFER},
        {"postgres://app:${X}$$@db/d", "db:5432", "app", "${X}$$", "d", 5432, ENDPOINT_TLS_PREFER},
        {"postgres://db/d?user=u&password=p%26q", "db:5432", "u", "p&q", "d", 5432,
         ENDPOINT_TLS_PREFER},
        {"postgres:///d?host=db&port=9&user=u&sslmode=disable", "db:9", "u", NULL, "d", 9,
         ENDPOINT_TLS_DISABLE},
        {"postgres://u@db/d?sslmode=verify-full&sslrootcert=system", "db:5432", "u", NULL, "d",
         5432, ENDPOINT_TLS_VERIFY_FULL},
        {"postgres://u@%2Frun%2Fpg/d", "/run/pg/.s.PGSQL.5432", "u", NULL, "d", 5432,
         ENDPOINT_TLS_DISABLE},
        {"postgres://u@%2Frun%2Fpg:7/d", "/run/pg/.s.PGSQL.7", "u", NULL, "d", 7,
         ENDPOINT_TLS_DISABLE},
        {"postgres://u@/d?host=/run/pg&sslmode=require", "/run/pg/.s.PGSQL.5432", "u", NULL, "d",
         5432, ENDPOINT_TLS_DISABLE},
        {"redis://cache", "cache:6379", NULL, NULL, "0", 6379, ENDPOINT_TLS_DISABLE},
        {"redis://:pw@cache:1/15", "cache:1", NULL, "pw", "15", 1, ENDPOINT_TLS_DISABLE},
        {"redis://me:pw@10.0.0.1/?db=3", "10.0.0.1:6379", "me", "pw", "3", 6379,
         ENDPOINT_TLS_DISABLE},
        {"rediss://cache", "cache:6379", NULL, NULL, "0", 6379, ENDPOINT_TLS_VERIFY_FULL},
        {"rediss://cache?sslmode=require", "cache:6379", NULL, NULL, "0", 6379,
         ENDPOINT_TLS_REQUIRE},
        {"redis+unix:///run/r.sock", "/run/r.sock", NULL, NULL, "0", 0, ENDPOINT_TLS_DISABLE},
        {"redis+unix://:pw@/run/r.sock?db=2", "/run/r.sock", NULL, "pw", "2", 0,
         ENDPOINT_TLS_DISABLE},
        {"redis+unix://%2Frun%2Fr.sock/4", "/run/r.sock", NULL, NULL, "4", 0, ENDPOINT_TLS_DISABLE},
        {"http://api", "api:80", NULL, NULL, NULL, 80, ENDPOINT_TLS_DISABLE},
        {"http://api:9000/", "api:9000", NULL, NULL, NULL, 9000, ENDPOINT_TLS_DISABLE},
        {"https://api.example-1.org", "api.example-1.org:443", NULL, NULL, NULL, 443,
         ENDPOINT_TLS_VERIFY_FULL},
        {"https://[2001:db8::1]?sslmode=verify-ca", "[2001:db8::1]:443", NULL, NULL, NULL, 443,
         ENDPOINT_TLS_VERIFY_CA},
        {"http+unix://%2Frun%2Fapi.sock", "/run/api.sock", NULL, NULL, NULL, 0,
         ENDPOINT_TLS_DISABLE},
        {"http+unix:///run/api.sock", "/run/api.sock", NULL, NULL, NULL, 0, ENDPOINT_TLS_DISABLE},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct loaded l = load_pools(cases[i].url);
        if (!l.config)
            fail_msg("%s: %s", cases[i].url, l.said);
        const struct endpoint_conf *e = first_endpoint(&l);
        if (!same(e->label, cases[i].label) || !same(e->user, cases[i].user) ||
            !same(e->password, cases[i].password) || !same(e->database, cases[i].database))
            fail_msg("%s: %s %s %s %s", cases[i].url, e->label, e->user, e->password, e->database);
        assert_int_equal(e->port, cases[i].port);
        assert_int_equal(e->tls, cases[i].tls);
        assert_int_equal(e->unix_path != NULL, cases[i].label[0] == '/');
        assert_int_equal(e->host != NULL, cases[i].label[0] != '/');
        assert_null(e->tls_ca);
        unload(&l);
    }
}

static void test_literals_need_no_resolver(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        bool literal;
    } cases[] = {{"redis://10.0.0.1", true},
                 {"redis://[::1]", true},
                 {"redis://localhost", false},
                 {"redis://10.0.0", false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct loaded l = load_pools(cases[i].url);
        assert_int_equal(first_endpoint(&l)->literal, cases[i].literal);
        unload(&l);
    }
}

static void test_options_are_passed_on(void **state)
{
    (void)state;
    struct loaded l = load_pools("postgres://u@h/d?options=-c%20geqo%3Doff&sslmode=require&"
                                 "channel_binding=require&sslsni=");
    assert_null(l.config); /* an option without a value says nothing */
    unload(&l);
    l = load_pools(
        "postgres://u@h/d?options=-c%20geqo%3Doff&sslmode=require&channel_binding=require");
    const struct endpoint_conf *e = first_endpoint(&l);
    assert_int_equal(e->n_options, 2);
    assert_string_equal(e->options[0].name, "options");
    assert_string_equal(e->options[0].value, "-c geqo=off");
    assert_string_equal(e->options[1].name, "channel_binding");
    unload(&l);
}

static void test_bad_urls(void **state)
{
    (void)state;
    static const struct {
        const char *url, *said;
    } cases[] = {
        {"db:5432", "this is no URL of a known kind"},
        {"mysql://:hunter2@h", "'mysql' is no URL of a known kind"},
        {"hun ter2://h", "this is no URL of a known kind"},
        {"postgres://", "the URL has no host"},
        {"postgres://db/orders", "the URL has no user"},
        {"postgres://u@h,i/d", "one URL has one host: write a list of URLs"},
        {"postgres://u@h:1,i:2/d", "one URL has one host: write a list of URLs"},
        {"postgres://u:hunter2/x@h/d", "in a password, write / as %2F"},
        {"postgres://u:hunter2?x@h/d", "in a password, write / as %2F"},
        {"postgres://u:hunter2#x@h/d", "in a password, write / as %2F"},
        {"postgres://u:hunter2?a=b@h/d", "in a password, write / as %2F"},
        {"postgres://u:hunter2@x?hunter2=b@h/d", "in a password, write / as %2F"},
        {"postgres://u@h/d?user=a@b", "in a password, write / as %2F"},
        {"postgres://u@h/d#x", "a # ends the URL: write %23"},
        {"postgres://u:hunter2%@h/d", "write %25 for %"},
        {"postgres://u:hunter2%zz@h/d", "write %25 for %"},
        {"postgres://u:hunter2%00@h/d", "holds a"},
        {"postgres://u@h:0/d", "no number from 1 to 65535"},
        {"postgres://u@h:65536/d", "no number from 1 to 65535"},
        {"postgres://u@h:/d", "no number from 1 to 65535"},
        {"postgres://u@::1/d", "write an IPv6 address in brackets"},
        {"postgres://u@[::1/d", "the brackets hold no IPv6 address"},
        {"postgres://u@[::1]5/d", "the brackets hold no IPv6 address"},
        {"postgres://u@[h]/d", "the brackets hold no IPv6 address"},
        {"postgres://u@h_1!/d", "the URL's host is no name"},
        {"postgres://u@h/d?x", "an option of the URL has no value"},
        {"postgres://u@h/d?=x", "an option of the URL has no value"},
        {"postgres://u@h/d?sslmode=off", "sslmode is none of disable, allow, prefer"},
        {"postgres://u@h/d?sslmode=require&sslmode=require", "'sslmode' is in the URL twice"},
        {"postgres://u@h/d?sslmod=require", "did you mean sslmode?"},
        {"postgres://u@h/d?aplication_name=x", "did you mean application_name?"},
        {"postgres://u@h/d?hunter2x=1", "no option 'hunter2x': leave it out"},
        {"postgres://u@h/d?connect_timeout=3", "write timeouts.connect"},
        {"postgres://u@h/d?target_session_attrs=any", "list the upstreams"},
        {"postgres://u@h/d?gssencmode=prefer", "cannot be relayed"},
        {"postgres://u@h/d?sslpassword=hunter2", "a key file without a password"},
        {"postgres://u@h/d?sslmode=disable&sslrootcert=/dev/null", "TLS is not used here"},
        {"postgres://u@h/d?sslmode=require&sslcert=/dev/null",
         "sslcert and sslkey belong together"},
        {"postgres://u@h/d?sslmode=require&sslrootcert=/none", "'/none' cannot be read"},
        {"redis://h/one", "the database of Redis is a number"},
        {"redis://h/99999999", "the database of Redis is a number"},
        {"redis://h?sslmode=require",
         "redis:// never uses TLS: leave sslmode out, or write rediss://"},
        {"rediss://h?sslmode=prefer", "rediss:// always uses TLS"},
        {"redis://h?password=hunter2", "redis:// URLs have no option 'password'"},
        {"redis+unix://", "the URL has no socket"},
        {"redis+unix://host/0", "names a socket, no host"},
        {"redis://%2Frun%2Fr.sock", "a Unix socket needs its own scheme"},
        {"http://u:hunter2@h", "credentials in an http URL would not be used"},
        {"http://h/base", "paths are not rewritten"},
        {"http://h?x=hunter2", "http:// URLs have no option 'x'"},
        {"http://h?sslmode=require", "write https://"},
        {"http:///", "the URL has no host"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *url = cases[i].url;
        struct loaded l = load_urls(&url, 1);
        if (l.config || !strstr(l.said, cases[i].said))
            fail_msg("%s\nsays: %swants: %s", url, l.said, cases[i].said);
        assert_ptr_equal(strstr(l.said, "command line:1:1: error: "), l.said);
        if (!strstr(url, "hunter2x"))
            assert_null(strstr(l.said, "hunter2"));
        unload(&l);
    }
}

static void test_pools_without_a_file(void **state)
{
    (void)state;
    static const char *const urls[] = {"postgres://a@h/one", "redis://cache", "postgres://a@h/two",
                                       "http://api:9000", "rediss://other"};
    static const struct {
        const char *name, *v4, *v6;
    } wanted[] = {
        {"postgres", "127.0.0.1:6432", "[::1]:6432"},  {"redis", "127.0.0.1:6380", "[::1]:6380"},
        {"postgres2", "127.0.0.1:6433", "[::1]:6433"}, {"http", "127.0.0.1:8081", "[::1]:8081"},
        {"redis2", "127.0.0.1:6381", "[::1]:6381"},
    };
    struct loaded l = load_urls(urls, ARRAY_LEN(urls));
    assert_string_equal(l.said, "");
    assert_string_equal(l.config->source, "command line");
    assert_int_equal(l.config->n_pools, ARRAY_LEN(wanted));
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        const struct conf_pool *p = &l.config->pools[i];
        assert_string_equal(p->name, wanted[i].name);
        assert_string_equal(p->pool.name, wanted[i].name);
        assert_int_equal(p->front.n_listens, 2);
        assert_string_equal(p->front.listens[0].label, wanted[i].v4);
        assert_string_equal(p->front.listens[1].label, wanted[i].v6);
        assert_int_equal(p->front.listens[0].auth, AUTH_TRUST);
        assert_int_equal(p->pool.size.max, 20);
    }
    unload(&l);
}

static void test_pools_from_the_environment(void **state)
{
    (void)state;
    setenv("CARPOOL_LISTEN", " 10.1.2.3, ::1\t[::2]", 1);
    setenv("CARPOOL_WORKERS", "auto", 1);
    setenv("CARPOOL_LOG_LEVEL", "warn", 1);
    setenv("CARPOOL_ADMIN_HTTP", "*:9601", 1);
    setenv("CARPOOL_ADMIN_TOKEN", "a${b}$$", 1);
    struct loaded l = load_pools("  postgres://a:pw@h/one\n\tredis://:pw@cache ");
    assert_string_equal(l.said, "");
    assert_string_equal(l.config->source, "CARPOOL_POOLS");
    assert_int_equal(l.config->workers, 0);
    assert_int_equal(l.config->log.level, LOG_WARN);
    assert_string_equal(l.config->admin.host, "0.0.0.0");
    assert_string_equal(l.config->admin.token, "a${b}$$");
    assert_int_equal(l.config->n_pools, 2);
    const struct front_conf *f = &l.config->pools[0].front;
    static const char *const labels[] = {"10.1.2.3:6432", "[::1]:6432", "[::2]:6432"};
    assert_int_equal(f->n_listens, 3);
    for (size_t i = 0; i < ARRAY_LEN(labels); i++)
        assert_string_equal(f->listens[i].label, labels[i]);
    unload(&l);
}

static void test_the_same_address_twice_in_the_environment(void **state)
{
    (void)state;
    setenv("CARPOOL_LISTEN", "127.0.0.1 127.0.0.1", 1);
    struct loaded l = load_pools("redis://cache");
    assert_non_null(strstr(l.said, "CARPOOL_POOLS:1:1: error: 127.0.0.1:6380 is taken by"));
    unload(&l);
}

static void test_wrong_environment(void **state)
{
    (void)state;
    setenv("CARPOOL_LOG_LEVEL", "loud", 1);
    setenv("CARPOOL_LISTEN", "db", 1);
    struct loaded l = load_pools("redis://cache");
    assert_non_null(strstr(l.said, "CARPOOL_LOG_LEVEL:1:1: error: level: 'loud' is none of"));
    assert_non_null(strstr(l.said, "'db' is no address"));
    unload(&l);
}

static void test_no_pools_at_all(void **state)
{
    (void)state;
    struct loaded l = load_urls(NULL, 0);
    assert_string_equal(l.said,
                        "CARPOOL_POOLS:1:1: error: there are 0 pools: write 1 to 256 URLs, on "
                        "the command line or in CARPOOL_POOLS, or a file\n");
    unload(&l);
}

static void test_a_password_in_argv_is_warned_about(void **state)
{
    (void)state;
    const char *url = "postgres://a:hunter2@h/one";
    struct loaded l = load_urls(&url, 1);
    assert_non_null(l.config);
    assert_int_equal(conf_report_errors(l.report), 0);
    assert_true(conf_report_at(l.report, 0)->warning);
    assert_non_null(strstr(l.said, "set CARPOOL_POOLS instead"));
    assert_null(strstr(l.said, "hunter2"));
    unload(&l);
    l = load_pools(url);
    assert_string_equal(l.said, "");
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_good_urls, clean_environment),
        cmocka_unit_test_setup(test_literals_need_no_resolver, clean_environment),
        cmocka_unit_test_setup(test_options_are_passed_on, clean_environment),
        cmocka_unit_test_setup(test_bad_urls, clean_environment),
        cmocka_unit_test_setup(test_pools_without_a_file, clean_environment),
        cmocka_unit_test_setup(test_pools_from_the_environment, clean_environment),
        cmocka_unit_test_setup(test_the_same_address_twice_in_the_environment, clean_environment),
        cmocka_unit_test_setup(test_wrong_environment, clean_environment),
        cmocka_unit_test_setup(test_no_pools_at_all, clean_environment),
        cmocka_unit_test_setup(test_a_password_in_argv_is_warned_about, clean_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
