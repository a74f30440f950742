/* SPDX-License-Identifier: MIT */
/* Good files: every key arrives, defaults follow the kind, JSON and YAML's conveniences work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/conf/loading.h"

static const char everything[] =
    "workers: auto\n"
    "log: { level: debug, format: json, access: errors }\n"
    "admin: { socket: /run/x/admin.sock, http: \"[::1]:9601\", token: ${TEST_TOKEN} }\n"
    "drain: { delay: 2s, deadline: 1m }\n"
    "pools:\n"
    "  - name: orders\n"
    "    kind: postgres\n"
    "    listen:\n"
    "      - 127.0.0.1:6432\n"
    "      - { unix: /run/x/.s.PGSQL.6432, mode: \"0600\", owner: \"0:0\" }\n"
    "      - { address: \"0.0.0.0:7432\" }\n"
    "    upstream:\n"
    "      - { url: \"postgres://app@db2:5433/orders?application_name=car%20pool\", priority: 2,\n"
    "          password: two }\n"
    "      - postgres://app:one@db1/orders?sslmode=verify-full\n"
    "    mode: session\n"
    "    on_down: fail\n"
    "    auth: { method: scram }\n"
    "    size: { min: 2, max: 40, waiters: 7, acquire_timeout: 4s, idle_timeout: 0,\n"
    "            max_lifetime: 1h }\n"
    "    check: { on_return: DISCARD ALL, idle: 0, checkout_after: 0, timeout: 2s, leak_after: 0 "
    "}\n"
    "    timeouts: { connect: 6s, request: 7s, idle_transaction: 8s, client_idle: 9s,\n"
    "                client_login: 10s, write_stall: 11s, outage_wait: 12s, close: 13s }\n"
    "    retry: { attempts: 4, backoff: 10ms..1s, budget: 30% }\n"
    "    breaker: { consecutive: 6, failure_ratio: 60%, min_requests: 21, open: 2s..20s }\n"
    "    limits: { clients: 11, in_flight: 12, rate: 13, buffer: 64KiB }\n"
    "    tcp: { keepalive: 20s, user_timeout: 0 }\n"
    "  - { name: cache, upstream: redis://cache/3, listen: localhost:6380 }\n"
    "  - { name: api, upstream: https://api, listen: \"*:8081\" }\n";

static void check_top(const struct config *c)
{
    assert_int_equal(c->workers, 0);
    assert_int_equal(c->log.level, LOG_DEBUG);
    assert_int_equal(c->log.format, LOG_FORMAT_JSON);
    assert_int_equal(c->log.access, LOG_ACCESS_ERRORS);
    assert_string_equal(c->admin.socket, "/run/x/admin.sock");
    assert_string_equal(c->admin.host, "::1");
    assert_int_equal(c->admin.port, 9601);
    assert_string_equal(c->admin.token, "open sesame");
    assert_int_equal(c->drain.delay_ms, 2000);
    assert_int_equal(c->drain.deadline_ms, 60000);
    assert_int_equal(c->n_pools, 3);
}

static void check_front(const struct front_conf *f)
{
    assert_int_equal(f->kind, FRONT_POSTGRES);
    assert_string_equal(f->kind_name, "postgres");
    assert_int_equal(f->mode, FRONT_SESSION);
    assert_int_equal(f->n_listens, 3);
    assert_string_equal(f->listens[0].label, "127.0.0.1:6432");
    assert_true(f->listens[0].loopback && !f->listens[0].optional);
    assert_int_equal(f->listens[0].line, 9);
    assert_string_equal(f->listens[1].unix_path, "/run/x/.s.PGSQL.6432");
    assert_int_equal(f->listens[1].mode, 0600);
    assert_int_equal(f->listens[1].uid, 0);
    assert_int_equal(f->listens[1].gid, 0);
    assert_string_equal(f->listens[2].host, "0.0.0.0");
    assert_int_equal(f->listens[2].port, 7432);
    assert_false(f->listens[2].loopback);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(f->listens[i].auth, AUTH_SCRAM);
    assert_int_equal(f->limits.clients, 11);
    assert_int_equal(f->limits.in_flight, 12);
    assert_int_equal(f->limits.rate, 13);
    assert_int_equal(f->limits.buffer, 65536);
}

static void check_endpoints(const struct pool_conf *p)
{
    assert_int_equal(p->n_endpoints, 2);
    const struct endpoint_conf *one = &p->endpoints[0], *two = &p->endpoints[1];
    assert_string_equal(one->label, "db1:5432");
    assert_string_equal(one->password, "one");
    assert_int_equal(one->tls, ENDPOINT_TLS_VERIFY_FULL);
    assert_int_equal(one->priority, 1);
    assert_string_equal(two->host, "db2");
    assert_int_equal(two->port, 5433);
    assert_string_equal(two->user, "app");
    assert_string_equal(two->password, "two");
    assert_string_equal(two->database, "orders");
    assert_int_equal(two->priority, 2);
    assert_int_equal(two->n_options, 1);
    assert_string_equal(two->options[0].name, "application_name");
    assert_string_equal(two->options[0].value, "car pool");
}

static void check_pool(const struct pool_conf *p)
{
    assert_string_equal(p->name, "orders");
    assert_int_equal(p->on_down, ON_DOWN_FAIL);
    assert_int_equal(p->size.min, 2);
    assert_int_equal(p->size.max, 40);
    assert_int_equal(p->size.waiters, 7);
    assert_int_equal(p->size.acquire_timeout_ms, 4000);
    assert_int_equal(p->size.idle_timeout_ms, 0);
    assert_int_equal(p->size.max_lifetime_ms, 3600000);
    assert_int_equal(p->check.on_return, CHECK_STATEMENT);
    assert_string_equal(p->check.statement, "DISCARD ALL");
    assert_int_equal(p->check.idle_ms, 0);
    assert_int_equal(p->check.timeout_ms, 2000);
    assert_int_equal(p->timeouts.connect_ms, 6000);
    assert_int_equal(p->timeouts.request_ms, 7000);
    assert_int_equal(p->timeouts.idle_transaction_ms, 8000);
    assert_int_equal(p->timeouts.client_idle_ms, 9000);
    assert_int_equal(p->timeouts.client_login_ms, 10000);
    assert_int_equal(p->timeouts.write_stall_ms, 11000);
    assert_int_equal(p->timeouts.outage_wait_ms, 12000);
    assert_int_equal(p->timeouts.close_ms, 13000);
    assert_int_equal(p->retry.attempts, 4);
    assert_int_equal(p->retry.backoff_min_ms, 10);
    assert_int_equal(p->retry.backoff_max_ms, 1000);
    assert_int_equal(p->retry.budget, 30);
    assert_int_equal(p->breaker.consecutive, 6);
    assert_int_equal(p->breaker.failure_ratio, 60);
    assert_int_equal(p->breaker.min_requests, 21);
    assert_int_equal(p->breaker.open_min_ms, 2000);
    assert_int_equal(p->breaker.open_max_ms, 20000);
    assert_int_equal(p->tcp.keepalive_ms, 20000);
    assert_int_equal(p->tcp.user_timeout_ms, 0);
}

static void test_every_key_arrives(void **state)
{
    (void)state;
    setenv("TEST_TOKEN", "open sesame", 1);
    struct loaded l = load_good(everything);
    check_top(l.config);
    check_front(&l.config->pools[0].front);
    check_endpoints(&l.config->pools[0].pool);
    check_pool(&l.config->pools[0].pool);
    assert_ptr_equal(conf_pool_named(l.config, "api"), &l.config->pools[2]);
    assert_null(conf_pool_named(l.config, "nobody"));
    unload(&l);
}

/* The table of the contract, kind by kind. */
static void check_defaults(const struct config *c, enum front_kind kind)
{
    const struct pool_conf *p = &c->pools[0].pool;
    static const uint64_t request[] = {0, 5000, 15000};
    assert_int_equal(c->pools[0].front.kind, kind);
    assert_int_equal(p->size.min, 1);
    assert_int_equal(p->size.max, 20);
    assert_int_equal(p->size.waiters, 1024);
    assert_int_equal(p->size.acquire_timeout_ms, 3000);
    assert_int_equal(p->size.idle_timeout_ms, 600000);
    assert_int_equal(p->size.max_lifetime_ms, 1800000);
    assert_int_equal(p->check.on_return, CHECK_FAST);
    assert_int_equal(p->check.idle_ms, 30000);
    assert_int_equal(p->check.checkout_after_ms, 1000);
    assert_int_equal(p->check.timeout_ms, 1000);
    assert_int_equal(p->timeouts.connect_ms, 5000);
    assert_int_equal(p->timeouts.request_ms, request[kind]);
    assert_int_equal(p->timeouts.idle_transaction_ms, 0);
    assert_int_equal(p->timeouts.client_idle_ms, 0);
    assert_int_equal(p->timeouts.write_stall_ms, 30000);
    assert_int_equal(p->timeouts.outage_wait_ms, 30000);
    assert_int_equal(p->timeouts.close_ms, 5000);
    assert_int_equal(p->retry.attempts, 3);
    assert_int_equal(p->retry.backoff_min_ms, 25);
    assert_int_equal(p->retry.backoff_max_ms, 250);
    assert_int_equal(p->retry.budget, 20);
    assert_int_equal(p->breaker.consecutive, 5);
    assert_int_equal(p->breaker.failure_ratio, 50);
    assert_int_equal(p->breaker.min_requests, 20);
    assert_int_equal(p->breaker.open_min_ms, 1000);
    assert_int_equal(p->breaker.open_max_ms, 30000);
    assert_int_equal(p->tcp.keepalive_ms, 30000);
    assert_int_equal(p->tcp.user_timeout_ms, 30000);
    assert_int_equal(p->on_down, kind == FRONT_POSTGRES ? ON_DOWN_WAIT : ON_DOWN_FAIL);
    assert_int_equal(c->pools[0].front.mode, FRONT_TRANSACTION);
    assert_int_equal(c->pools[0].front.limits.clients, 10000);
    assert_int_equal(c->pools[0].front.limits.in_flight, 0);
    assert_int_equal(c->pools[0].front.limits.rate, 0);
    assert_int_equal(c->pools[0].front.limits.buffer, 262144);
    assert_null(c->pools[0].front.tls.cert);
}

static void test_defaults_by_kind(void **state)
{
    (void)state;
    static const char *const texts[] = {
        [FRONT_POSTGRES] = "pools: [{ name: a, upstream: 'postgres://u@h/d' }]",
        [FRONT_REDIS] = "pools: [{ name: a, kind: redis, upstream: 'redis://h' }]",
        [FRONT_HTTP] = "pools: [{ name: a, upstream: 'http://h' }]",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct loaded l = load_good(texts[i]);
        check_defaults(l.config, (enum front_kind)i);
        assert_int_equal(l.config->workers, 1);
        assert_int_equal(l.config->log.level, LOG_INFO);
        assert_int_equal(l.config->log.format, LOG_FORMAT_TEXT);
        assert_int_equal(l.config->log.access, LOG_ACCESS_OFF);
        assert_string_equal(l.config->admin.socket, "/run/carpool/admin.sock");
        assert_null(l.config->admin.http);
        assert_null(l.config->admin.token);
        assert_int_equal(l.config->drain.delay_ms, 0);
        assert_int_equal(l.config->drain.deadline_ms, 8000);
        unload(&l);
    }
}

static void test_addresses_nobody_wrote(void **state)
{
    (void)state;
    struct loaded l = load_good("admin: { http: '127.0.0.1:6380' }\n"
                                "pools:\n"
                                "- { name: a, upstream: 'postgres://u@h/d' }\n"
                                "- { name: b, upstream: 'postgres://u@h/d' }\n"
                                "- { name: c, upstream: 'redis://h' }\n"
                                "- { name: d, upstream: 'http://h' }\n"
                                "- { name: e, upstream: 'redis://h', listen: '127.0.0.1:6432' }\n");
    static const char *const labels[][2] = {{"127.0.0.1:6433", "[::1]:6433"},
                                            {"127.0.0.1:6434", "[::1]:6434"},
                                            {"127.0.0.1:6381", "[::1]:6381"},
                                            {"127.0.0.1:8081", "[::1]:8081"}};
    for (size_t i = 0; i < ARRAY_LEN(labels); i++) {
        const struct front_conf *f = &l.config->pools[i].front;
        assert_int_equal(f->n_listens, 2);
        assert_string_equal(f->listens[0].label, labels[i][0]);
        assert_string_equal(f->listens[1].label, labels[i][1]);
        assert_true(f->listens[1].optional); /* machines without IPv6 */
        assert_int_equal(f->listens[0].auth, AUTH_TRUST);
    }
    unload(&l);
}

static void test_json_is_yaml(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"workers\":1,\"admin\":{\"socket\":\"/tmp/a.sock\"},\"pools\":[{\"name\":\"orders\","
        "\"kind\":\"postgres\",\"listen\":[\"127.0.0.1:6432\"],\"upstream\":"
        "\"postgres://app:p\\u0061ss\\/w@127.0.0.1:5432/orders\",\"size\":{\"min\":0,\"max\":3},"
        "\"check\":{\"idle\":0}}]}",
        "{\n\t\"pools\": [\n\t\t{\"name\": \"orders\", \"upstream\":\n\t\t\t"
        "\"postgres://app:pass%2Fw@127.0.0.1:5432/orders\", \"size\": {\"min\": 0, \"max\": 3}}\n"
        "\t]\n}\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct loaded l = load_text(texts[i]);
        if (i == 0) { /* a raw / in a password is a mistake in JSON, too */
            assert_null(l.config);
        } else {
            assert_non_null(l.config);
            assert_int_equal(l.config->pools[0].pool.size.max, 3);
            assert_string_equal(first_endpoint(&l)->password, "pass/w");
        }
        unload(&l);
    }
}

static void test_yaml_conveniences(void **state)
{
    (void)state;
    struct loaded l =
        load_good("--- # a comment\n"
                  "pools:\n"
                  "- name: a\n"
                  "  upstream: &up redis://h\n"
                  "  size: &size { max: 7 }\n"
                  "  tls:\n" /* everything in it commented out */
                  "- { name: b, upstream: *up, size: *size }\n"
                  "- { name: 'c', upstream: \"redis\\x3a//h\", size: !!map { max: !!int 7 } }\n"
                  "...\n");
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(l.config->pools[i].pool.size.max, 7);
    unload(&l);
}

static void test_variables(void **state)
{
    (void)state;
    setenv("TEST_PW", "p@ss/w:rd?#%41 ${X} }", 1);
    setenv("TEST_PLACE", "[::1]:7777", 1);
    setenv("TEST_URL", "redis://:a%40b@other:1/2", 1);
    setenv("TEST_EMPTY", "", 1);
    unsetenv("TEST_NONE");
    static const struct {
        const char *upstream, *password, *label;
    } cases[] = {
        {"redis://:${TEST_PW}@h", "p@ss/w:rd?#%41 ${X} }", "h:6379"},
        {"redis://:a${TEST_PW}%2Fb@h", "ap@ss/w:rd?#%41 ${X} }/b", "h:6379"},
        {"'redis://:${TEST_PW}@${TEST_PLACE}'", "p@ss/w:rd?#%41 ${X} }", "[::1]:7777"},
        {"${TEST_URL}", "a@b", "other:1"},
        {"\"${TEST_NONE:-redis://:pw@there}\"", "pw", "there:6379"},
        {"redis://:${TEST_EMPTY:-x@y}@h", "x@y", "h:6379"},
        {"redis://:a$$b$c@h", "a$b$c", "h:6379"},
        {"redis://:$${TEST_PW}@h", "${TEST_PW}", "h:6379"},
        {"redis://:pw@${TEST_NONE:-h}:5", "pw", "h:5"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[256];
        snprintf(text, sizeof text, "pools: [{ name: a, upstream: %s }]", cases[i].upstream);
        struct loaded l = load_good(text);
        assert_string_equal(first_endpoint(&l)->password, cases[i].password);
        assert_string_equal(first_endpoint(&l)->label, cases[i].label);
        unload(&l);
    }
    setenv("TEST_MAX", "9", 1);
    struct loaded l =
        load_good("pools: [{ name: a, upstream: redis://h, size: { max: ${TEST_MAX} } }]");
    assert_int_equal(l.config->pools[0].pool.size.max, 9);
    unload(&l);
}

static void test_paths_start_beside_the_file(void **state)
{
    (void)state;
    struct folder folder = folder_new();
    folder_write(&folder, "pw", "from file\n");
    folder_write(&folder, "token", "sesame");
    const char *path =
        folder_write(&folder, "c.yaml",
                     "admin: { token_file: token }\n"
                     "pools: [{ name: a, upstream: { url: redis://h, password_file: pw } }]");
    struct loaded l = load_file(path);
    assert_string_equal(l.said, "");
    assert_string_equal(first_endpoint(&l)->password, "from file");
    assert_string_equal(l.config->admin.token, "sesame");
    assert_string_equal(l.config->source, path);
    unload(&l);
    folder_remove(&folder);
}

static void test_another_protocol(void **state)
{
    (void)state;
    static const struct conf_kind echo = {"echo", 7, 7007};
    const struct conf_options options = {.extra = &echo, .n_extra = 1};
    static const char text[] = "pools: [{ name: a, kind: echo, upstream: echo://h }]";
    struct conf_report *report = conf_report_new();
    struct config *c = conf_load_text("t", span_str(text), &options, report);
    assert_non_null(c);
    assert_int_equal(c->pools[0].front.kind, FRONT_OTHER);
    assert_string_equal(c->pools[0].front.kind_name, "echo");
    assert_int_equal(c->pools[0].front.listens[0].port, 7007);
    assert_int_equal(c->pools[0].pool.endpoints[0].port, 7);
    conf_free(&c);
    conf_report_free(&report);
    struct loaded l = load_text(text); /* nobody has registered it */
    assert_non_null(strstr(l.said, "'echo' is none of postgres, redis, http"));
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_key_arrives),           cmocka_unit_test(test_defaults_by_kind),
        cmocka_unit_test(test_addresses_nobody_wrote),      cmocka_unit_test(test_json_is_yaml),
        cmocka_unit_test(test_yaml_conveniences),           cmocka_unit_test(test_variables),
        cmocka_unit_test(test_paths_start_beside_the_file), cmocka_unit_test(test_another_protocol),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
