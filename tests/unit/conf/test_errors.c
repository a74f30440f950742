/* SPDX-License-Identifier: MIT */
/* Bad files: each mistake is told with its place and with what to write instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/conf/loading.h"

#define POOL "pools:\n- name: a\n  upstream: redis://h\n  "
#define PG "pools:\n- name: a\n  upstream: postgres://u:hunter2@h/d\n  "

struct mistake {
    const char *text, *said; /* one line of the report, without the file's name */
};

/* Every message ends in an instruction. */
static bool says_what_to_do(const char *text)
{
    static const char *const verbs[] = {
        "write",  "did you mean", "keep", "leave", "it belongs into", "see `carpool config`",
        "change", "check",        "name", "make",  "compare",         "set it"};
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        if (strstr(text, verbs[i]))
            return true;
    return false;
}

static void expect(const struct mistake *m, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct loaded l = load_text(m[i].text);
        char line[512];
        snprintf(line, sizeof line, "t.yaml:%s\n", m[i].said);
        if (strcmp(l.said, line) != 0)
            fail_msg("\n%s\nsays: %swants: %s", m[i].text, l.said, line);
        assert_int_equal(conf_report_count(l.report), 1);
        const struct conf_issue *issue = conf_report_at(l.report, 0);
        assert_true(issue->line >= 1 && issue->column >= 1);
        if (!says_what_to_do(issue->text))
            fail_msg("no instruction in: %s", issue->text);
        assert_null(strstr(l.said, "hunter2"));
        unload(&l);
    }
}

static void test_structure(void **state)
{
    (void)state;
    static const struct mistake mistakes[] = {
        {"", "1:1: error: there are no pools: write at least one under pools:"},
        {"pools:", "1:1: error: there are no pools: write at least one under pools:"},
        {"pools: []", "1:8: error: pools is a list of 1 to 1024 entries: write `- name: ...`"},
        {"pools: { a: b }",
         "1:8: error: pools is a list of 1 to 1024 entries: write `- name: ...`"},
        {"- a", "1:1: error: the file is a mapping: write `key: value` lines"},
        {"word", "1:1: error: the file is a mapping: write `key: value` lines"},
        {"pools: [7]", "1:9: error: a pool is a mapping: write name, listen, upstream"},
        {POOL "size: 20", "4:9: error: size is a mapping: write size: { min: ... }"},
        {POOL "size: [1]", "4:9: error: size is a mapping: write size: { min: ... }"},
        {POOL "size: { max: [3] }",
         "4:16: error: max is one value, not a list: write `max: value`"},
        {POOL "size: { max: { a: b } }",
         "4:16: error: max is one value, not a mapping: write `max: value`"},
        {POOL "size: { max: }", "4:16: error: max has no value: write one, or leave the key out"},
        {POOL "size: { max: ~ }", "4:16: error: max has no value: write one, or leave the key out"},
        {POOL "name: b", "4:3: error: 'name' is here twice, first at line 2: keep one"},
        {POOL "? [a] : b", "4:5: error: a key is a word: write `key: value`"},
        {POOL "<<: { max: 3 }",
         "4:3: error: merge keys are not supported: write the keys, or alias a whole mapping"},
        {POOL "size: *s", "4:9: error: no anchor 's' is complete above this alias: write &s at the "
                          "value it stands for"},
        {POOL "size: &s { max: *s }", "4:19: error: no anchor 's' is complete above this alias: "
                                      "write &s at the value it stands for"},
        {POOL "size: !secret { max: 3 }",
         "4:9: error: tags have no meaning here: write the value without one"},
        {POOL "\n---\na: b", "5:1: error: a second document starts here: keep one"},
        {POOL "size: { max: 3",
         "5:1: error: this is not YAML: did not find expected ',' or '}' "
         "while parsing a flow mapping; compare the indentation and the quotes"},
        {"pools: [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]",
         "1:23: error: this is nested more than 16 deep: write it flatter"},
    };
    expect(mistakes, ARRAY_LEN(mistakes));
}

static void test_keys(void **state)
{
    (void)state;
    static const struct mistake mistakes[] = {
        {"wrokers: 2\n" POOL,
         "1:1: error: unknown key 'wrokers' in the file: did you mean workers?"},
        {POOL "siz: { }", "4:3: error: unknown key 'siz' in the pool: did you mean size?"},
        {POOL "size: { maxx: 3 }", "4:11: error: unknown key 'maxx' in size: did you mean max?"},
        {POOL "size: { Max: 3 }", "4:11: error: unknown key 'Max' in size: did you mean max?"},
        {POOL "size: { lifetime: 3s }",
         "4:11: error: unknown key 'lifetime' in size: see `carpool config` for all keys"},
        {POOL "max: 3", "4:3: error: unknown key 'max' in the pool: it belongs into size"},
        {POOL "\"a\\nb\": 3",
         "4:3: error: unknown key 'a?b' in the pool: see `carpool config` for all keys"},
        {POOL "mode: session", "4:3: error: mode is only for pools of kind postgres: leave it out"},
        {POOL "timeouts: { idle_transaction: 1s }",
         "4:15: error: idle_transaction is only for pools of kind postgres: leave it out"},
        {"pools: [{ name: a, upstream: 'http://h', auth: { method: trust } }]",
         "1:50: error: method is only for pools of kind postgres and redis: leave it out"},
        {"log: { level: 5 }\n" POOL,
         "1:15: error: level: '5' is none of error, warn, info, debug: write one of them"},
        {"workers: 65\n" POOL, "1:10: error: workers: '65' is out of range: write 1 to 64"},
        {POOL "size: { max: 0 }", "4:16: error: max: '0' is out of range: write 1 to 100000"},
        {POOL "size: { acquire_timeout: 0 }",
         "4:28: error: acquire_timeout: '0' is out of range: write 1ms to 1h"},
        {POOL "timeouts: { request: 5 }", "4:24: error: request: '5' has no unit: write 5s or 5ms"},
        {POOL "retry: { budget: 120% }",
         "4:20: error: budget: '120%' is out of range: write 0% to 100%"},
        {POOL "retry: { backoff: 250ms..25ms }", "4:21: error: backoff: '250ms..25ms' is no range "
                                                 "of durations: write the smaller one first"},
        {POOL "limits: { buffer: 1MiB1 }",
         "4:21: error: buffer: '1MiB1' is no size: write a number with a unit, like 64KiB, 1MiB or "
         "500B"},
        {POOL "check: { on_return: fasst }",
         "4:23: error: on_return: 'fasst' is none of fast, verified, clean: did you mean fast?"},
    };
    expect(mistakes, ARRAY_LEN(mistakes));
}

static void test_two_keys_together(void **state)
{
    (void)state;
    static const struct mistake mistakes[] = {
        {POOL "size: { min: 21 }",
         "4:16: error: size.min (21) is larger than size.max (20): write a smaller min"},
        {POOL "size: { max: 0x1 }", "4:16: error: max: '0x1' is no count: write a whole number"},
        {POOL "size: { min: 3, max: 2 }",
         "4:16: error: size.min (3) is larger than size.max (2): write a smaller min"},
        {POOL "size: &s { max: 0, min: 1 }",
         "4:19: error: max: '0' is out of range: write 1 to 100000"},
        {POOL "tcp: { keepalive: 1500ms }",
         "4:21: error: keepalive is counted in whole seconds: write 30s"},
        {"pools: [{ name: a, upstream: 'http://h', check: { on_return: clean } }]",
         "1:62: error: on_return: http has no session to verify: write fast"},
        {PG "tls: { cert: /dev/null }",
         "4:8: error: tls.cert and tls.key belong together: write both"},
        {PG "tls: { ca: /dev/null }",
         "4:8: error: tls has no certificate to show: write cert and key"},
        {PG "tls: { required: true }",
         "4:8: error: tls has no certificate to show: write cert and key"},
        {PG "tls: { cert: /none, key: /dev/null }",
         "4:16: error: '/none' cannot be read: No such file or directory; check the path and its "
         "permissions"},
        {"admin: { socket: a.sock }\n" POOL,
         "1:18: error: socket: a Unix socket's path starts with /: write it from the root"},
        {"admin: { http: 9601 }\n" POOL,
         "1:16: error: '9601' has no host: write 127.0.0.1:6432 for "
         "this machine only, or *:6432"},
        {"admin: { token: a, token_file: /dev/null }\n" POOL,
         "1:32: error: the token is given twice: keep token or token_file"},
    };
    expect(mistakes, ARRAY_LEN(mistakes));
}

static void test_a_statement_has_a_bound(void **state)
{
    (void)state;
    char text[CHECK_STATEMENT_MAX + 200], more[sizeof text];
    int head =
        snprintf(text, sizeof text, PG "check: { on_return: '%0*d' }", CHECK_STATEMENT_MAX, 0);
    assert_true(head > 0 && (size_t)head < sizeof text);
    struct loaded l = load_text(text);
    assert_string_equal(l.said, "");
    unload(&l);
    snprintf(more, sizeof more, PG "check: { on_return: '%0*d' }", CHECK_STATEMENT_MAX + 1, 0);
    const struct mistake mistake = {
        more, "4:23: error: on_return: a statement of 4097 bytes, where 4096 are allowed: write a "
              "function, and call it"};
    expect(&mistake, 1);
}

static void test_names_and_addresses(void **state)
{
    (void)state;
    static const struct mistake mistakes[] = {
        {"pools: [{ upstream: 'redis://h' }]",
         "1:9: error: the pool has no name: write name: orders"},
        {"pools: [{ name: Orders, upstream: 'redis://h' }]",
         "1:17: error: name: 'Orders' is no name: write 1 to 63 of a-z, 0-9, _ and -"},
        {"pools: [{ name: '', upstream: 'redis://h' }]",
         "1:17: error: name: '' is no name: write 1 to 63 of a-z, 0-9, _ and -"},
        {"pools:\n- { name: a, upstream: redis://h }\n- { name: a, upstream: redis://i }",
         "3:11: error: name: 'a' is the name of the pool in line 2: write another one"},
        {"pools: [{ name: a, kind: mysql }]",
         "1:26: error: kind: 'mysql' is none of postgres, redis, http: write one of them"},
        {"pools: [{ name: a, kind: http }]",
         "1:9: error: the pool has no upstream: write upstream: scheme://host"},
        {"pools: [{ name: a }]", "1:9: error: the pool has no upstream: write upstream: "
                                 "postgres://user@host/database"},
        {POOL "listen: 6432",
         "4:11: error: '6432' has no host: write 127.0.0.1:6432 for this machine "
         "only, or *:6432"},
        {POOL "listen: ':6432'", "4:11: error: ':6432' has no host: write 127.0.0.1:6432 for this "
                                 "machine only, or *:6432"},
        {POOL "listen: db:6432",
         "4:11: error: 'db' is no address: write 127.0.0.1:6432, [::1]:6432, "
         "localhost:6432, *:6432 or a socket's path"},
        {POOL "listen: 127.0.0.1", "4:11: error: '127.0.0.1' is no address: write 127.0.0.1:6432, "
                                   "[::1]:6432, localhost:6432, *:6432 or a socket's path"},
        {POOL "listen: 127.0.0.256:1", "4:11: error: '127.0.0.256' is no address: write "
                                       "127.0.0.1:6432, [::1]:6432, localhost:6432, *:6432 or a "
                                       "socket's path"},
        {POOL "listen: ::1:6432",
         "4:11: error: '::1:6432' has an IPv6 address: write it in brackets, "
         "like [::1]:6432"},
        {POOL "listen: '[::ffff:1.2.3.4]:1'",
         "4:11: error: ::ffff:1.2.3.4 is an IPv4 address in IPv6 "
         "clothes: write the IPv4 address"},
        {POOL "listen: 127.0.0.1:65536",
         "4:11: error: the port of '127.0.0.1:65536' is no number from 1 to 65535: write one"},
        {POOL "listen: 127.0.0.1:0",
         "4:11: error: the port of '127.0.0.1:0' is no number from 1 to 65535: write one"},
        {POOL "listen: []", "4:11: error: listen has 0 addresses: write 1 to 64"},
        {POOL "listen: [{ mode: '0660' }]",
         "4:12: error: an entry of listen has an address or a unix path: write one"},
        {POOL "listen: [{ unix: /a, address: '127.0.0.1:1' }]",
         "4:12: error: an entry of listen has an address or a unix path: write one"},
        {POOL "listen: [{ unix: a.sock }]",
         "4:12: error: a Unix socket's path starts with / and has "
         "at most 107 bytes: write one"},
        {POOL "listen: [{ unix: /a, mode: rw }]",
         "4:12: error: mode: write permissions as octal digits, like \"0660\""},
        {POOL "listen: [{ unix: /a, mode: '01777' }]",
         "4:12: error: mode: write permissions as octal digits, like \"0660\""},
        {POOL "listen: [{ unix: /a, owner: no-such-user }]",
         "4:12: error: owner: this machine has no user 'no-such-user': write one it has"},
        {POOL "listen: [{ unix: /a, owner: 'root:no-such-group' }]",
         "4:12: error: owner: this machine has no group 'no-such-group': write one it has"},
        {POOL "listen: [{ address: '127.0.0.1:1', mode: '0660' }]",
         "4:12: error: mode and owner are for Unix sockets: leave them out"},
        {POOL "listen: [127.0.0.1:1, 127.0.0.1:1]",
         "4:25: error: 127.0.0.1:1 is taken by 127.0.0.1:1 of pool a in line 4: write another one"},
        {POOL "listen: [/a, /a]",
         "4:16: error: /a is taken by /a of pool a in line 4: write another one"},
        {"admin: { http: '127.0.0.1:70' }\n" POOL "listen: 127.0.0.1:70",
         "5:11: error: 127.0.0.1:70 is taken by admin.http: write another port"},
        {"admin: { http: 'localhost:70' }\n" POOL "listen: 127.0.0.1:70",
         "5:11: error: 127.0.0.1:70 is taken by admin.http: write another port"},
        {"admin: { socket: /a }\n" POOL "listen: /a",
         "5:11: error: /a is the admin API's socket: write another path"},
        {"pools:\n- { name: a, upstream: http://h, listen: '0.0.0.0:80' }\n"
         "- { name: b, upstream: http://h, listen: ['[::]:80', '127.0.0.1:80'] }",
         "3:54: error: 127.0.0.1:80 is taken by 0.0.0.0:80 of pool a in line 2: write another one"},
    };
    expect(mistakes, ARRAY_LEN(mistakes));
}

static void test_upstreams(void **state)
{
    (void)state;
    static const struct mistake mistakes[] = {
        {POOL "kind: http",
         "3:13: error: a redis:// URL does not fit a pool of kind http: change one of them"},
        {"pools: [{ name: a, upstream: [] }]", "1:30: error: the pool has no upstream: write "
                                               "upstream: postgres://user@host/database"},
        {"pools: [{ name: a, kind: redis, upstream: [] }]",
         "1:43: error: upstream has 0 entries: write 1 to 64"},
        {"pools: [{ name: a, upstream: ['redis://h', [b]] }]",
         "1:44: error: an upstream is a URL or a mapping: write scheme://host"},
        {"pools: [{ name: a, upstream: ['redis://h', { priority: 2 }] }]",
         "1:44: error: an upstream needs its URL: write { url: scheme://host }"},
        {"pools: [{ name: a, upstream: ['redis://h', 'redis://h:6379/0'] }]",
         "1:44: error: h:6379 is an upstream of this pool already: keep one"},
        {"pools: [{ name: a, upstream: ['redis://h', 'redis://h2/1'] }]",
         "1:44: error: the upstreams of a pool have one user and one database: write a second "
         "pool"},
        {"pools: [{ name: a, upstream: ['postgres://a@h/d', 'postgres://b@i/d'] }]",
         "1:51: error: the upstreams of a pool have one user and one database: write a second "
         "pool"},
        {"pools: [{ name: a, upstream: { url: 'redis://:hunter2@h', password: x } }]",
         "1:69: error: the password is given twice: keep one"},
        {"pools: [{ name: a, upstream: { url: 'redis://h', password: x, password_file: /dev/null } "
         "}]",
         "1:78: error: the password is given twice: keep one"},
        {"pools: [{ name: a, upstream: { url: 'redis://h', password_file: /none } }]",
         "1:65: error: '/none' cannot be read: No such file or directory; check the path and its "
         "permissions"},
        {"pools: [{ name: a, upstream: { url: 'redis://h', password_file: /dev/null } }]",
         "1:65: error: '/dev/null' is no ordinary file: name one"},
        {"pools: [{ name: a, upstream: { url: 'http://h', password: x } }]",
         "1:59: error: an http upstream takes no password: leave it out"},
        {"pools: [{ name: a, upstream: { url: 'redis://h', prioriti: 2 } }]",
         "1:50: error: unknown key 'prioriti' in upstream: did you mean priority?"},
        {"pools: [{ name: a, upstream: { url: 'redis://h', priority: 1001 } }]",
         "1:60: error: priority: '1001' is out of range: write 0 to 1000"},
    };
    expect(mistakes, ARRAY_LEN(mistakes));
}

static void test_several_databases(void **state)
{
    (void)state;
#define PG_DB "pools: [{ name: a, upstream: 'postgres://u@h/d', "
    static const struct mistake mistakes[] = {
        {"pools: [{ name: a, upstream: 'redis://h', databases: [x] }]",
         "1:43: error: databases is only for pools of kind postgres: leave it out"},
        {PG_DB "databases: x }]", "1:61: error: databases is a list of names, or a mapping: write "
                                  "databases: [orders]"},
        {PG_DB "databases: [] }]", "1:61: error: databases is a list of names, or a mapping: write "
                                   "databases: [orders]"},
        {PG_DB "databases: [x, x] }]", "1:65: error: databases: 'x' is there already: keep one"},
        {PG_DB "databases: { x: { size: { total: 3 } } } }]",
         "1:83: error: size.total is for all databases together: write it beside databases"},
        {PG_DB "databases: { x: { size: { max: 3, min: 4 } } } }]",
         "1:81: error: size.min (4) is larger than size.max (3): write a smaller min"},
        {PG_DB "databases: { '*': { database: y } } }]",
         "1:70: error: database: \"*\" stands for many: leave it out"},
        {PG_DB "databases: { x: { mode: session } } }]",
         "1:68: error: unknown key 'mode' in the database: see `carpool config` for all keys"},
        {PG_DB "size: { total: 3 } }]",
         "1:65: error: size.total is for several databases or users: write size.max"},
        {"pools: [{ name: a, upstream: 'postgres://h/d' }]",
         "1:30: error: the URL has no user: write postgres://user@host/database"},
        {"pools: [{ name: a, upstream: 'postgres://h/d', login_as: client, auth: { query: roles } "
         "}]",
         "1:81: error: auth.query needs a user of its own: write it in the upstream's URL"},
        {"pools: [{ name: a, upstream: 'postgres://h/d', login_as: client, auth: { method: scram "
         "}, "
         "listen: 127.0.0.1:6432 }]",
         "1:99: error: clients on 127.0.0.1:6432 must log in, and with login_as: client nobody is "
         "named: write auth.users_file, or auth.method: password"},
    };
#undef PG_DB
    expect(mistakes, ARRAY_LEN(mistakes));
}

static void test_variables(void **state)
{
    (void)state;
    unsetenv("TEST_NONE");
    setenv("TEST_SECRET", "hunter2", 1);
    setenv("TEST_LINES", "a\nb", 1);
    static const struct mistake mistakes[] = {
        {"workers: ${TEST_NONE}\n" POOL,
         "1:10: error: the environment has no TEST_NONE: set it, or write ${TEST_NONE:-default}"},
        {"pools: [{ name: a, upstream: 'redis://:${TEST_NONE}@h' }]",
         "1:30: error: the environment has no TEST_NONE: set it, or write ${TEST_NONE:-default}"},
        {"workers: '${TEST_NONE'\n" POOL,
         "1:10: error: a ${ has no } after it: close it, or write $${ for ${"},
        {"workers: '${2}'\n" POOL,
         "1:10: error: '' is no variable: write ${NAME} or ${NAME:-default}, or $$ for $"},
        {"workers: '${A-b}'\n" POOL,
         "1:10: error: 'A' is no variable: write ${NAME} or ${NAME:-default}, or $$ for $"},
        /* the message shows what was typed, not what it became */
        {"workers: ${TEST_SECRET}\n" POOL,
         "1:10: error: workers: '${TEST_SECRET}' is no count: write "
         "a whole number or auto"},
        {POOL "timeouts: { connect: ${TEST_SECRET} }",
         "4:24: error: connect: '${TEST_SECRET}' is no duration: write numbers with units, like "
         "250ms, 30s, 1m30s, 2h"},
        {"workers: ${TEST_LINES}\n" POOL,
         "1:10: error: the value holds a control character: write it without"},
    };
    expect(mistakes, ARRAY_LEN(mistakes));
}

static void test_all_errors_are_told_in_order(void **state)
{
    (void)state;
    struct loaded l = load_text("drain: { delay: x }\n"
                                "log: { level: loud }\n"
                                "pools:\n"
                                "- name: A\n"
                                "  upstream: redis://:hunter2@h:0\n"
                                "  listen: [7, 0.0.0.0:6380]\n"
                                "  auth: { method: trust }\n"
                                "  size: { min: 30, maxx: 2 }\n"
                                "- { name: b, upstream: 'redis://h', listen: '0.0.0.0:6380' }\n"
                                "workers: 0\n");
    static const struct {
        unsigned line, column;
    } places[] = {{1, 17}, {2, 15}, {4, 9},  {5, 13}, {6, 12},
                  {7, 19}, {8, 20}, {9, 45}, {9, 45}, {10, 10}};
    assert_int_equal(conf_report_errors(l.report), ARRAY_LEN(places));
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        assert_int_equal(conf_report_at(l.report, i)->line, places[i].line);
        assert_int_equal(conf_report_at(l.report, i)->column, places[i].column);
        assert_string_equal(conf_report_at(l.report, i)->file, "t.yaml");
        assert_false(conf_report_at(l.report, i)->warning);
    }
    assert_null(strstr(l.said, "hunter2"));
    unload(&l);
}

/* One run shows it all: neither a key twice, nor an alias of nothing, nor a URL whose kind nobody
   knows, nor a kind that does not exist keeps what stands beside and behind it from being seen. */
static void test_no_error_hides_another(void **state)
{
    (void)state;
    struct loaded l = load_text("log: { level: info, level: warn, formt: json }\n"
                                "drain: *nowhere\n"
                                "pools:\n"
                                "- name: a\n"
                                "  upstream: oracle://h\n"
                                "  listen: [7]\n"
                                "  size: { min: 3, max: 2, maxx: 1 }\n"
                                "- { name: b, kind: mysql, upstream: 'redis://h', siez: { } }\n"
                                "- { name: c, upstream: { url: 'http://h/path', prio: 1 } }\n"
                                "- { name: c, kind: redis, upstream: 'http://h', mode: session,\n"
                                "    timeouts: { request: 5 }, listen: [{ unix: x, mod: 1 }] }\n"
                                "- !odd { name: d, upstream: 'redis://h/x?no=1', name: e }\n"
                                "workers: 0\n");
    static const char *const said[] = {
        "1:21: error: 'level' is here twice",
        "1:34: error: unknown key 'formt'",
        "2:8: error: no anchor 'nowhere'",
        "5:13: error: 'oracle' is no URL of a known kind",
        "6:12: error: '7' has no host",
        "7:16: error: size.min (3) is larger",
        "7:27: error: unknown key 'maxx'",
        "8:20: error: kind: 'mysql' is none of",
        "8:50: error: unknown key 'siez'",
        "9:31: error: paths are not rewritten",
        "9:48: error: unknown key 'prio'",
        "10:11: error: name: 'c' is the name of the pool in line 9",
        "10:37: error: a http:// URL does not fit a pool of kind redis",
        "10:49: error: mode is only for pools of kind postgres",
        "11:26: error: request: '5' has no unit",
        "11:40: error: a Unix socket's path starts with /",
        "11:51: error: unknown key 'mod'",
        "12:3: error: tags have no meaning here",
        "12:29: error: the database of Redis is a number",
        "12:29: error: redis:// URLs have no option 'no'",
        "12:49: error: 'name' is here twice",
        "13:10: error: workers: '0' is out of range",
    };
    assert_null(l.config);
    for (size_t i = 0; i < ARRAY_LEN(said); i++)
        if (!strstr(l.said, said[i]))
            fail_msg("not told: %s\n%s", said[i], l.said);
    assert_int_equal(conf_report_errors(l.report), ARRAY_LEN(said));
    unload(&l);
}

static void test_many_errors_are_bounded_and_counted(void **state)
{
    (void)state;
    char text[8192];
    size_t n = 0;
    for (unsigned i = 0; i < 500; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "qq%u: 1\n", i);
    struct loaded l = load_text(text);
    assert_int_equal(conf_report_errors(l.report), 501);
    assert_true(conf_report_count(l.report) < 501);
    assert_non_null(strstr(l.said, "and 301 more errors\n"));
    unload(&l);
}

static void test_files_that_cannot_be_read(void **state)
{
    (void)state;
    struct folder folder = folder_new();
    char path[128], fifo[128];
    snprintf(path, sizeof path, "%s/none.yaml", folder.path);
    struct loaded l = load_file(path);
    assert_non_null(strstr(l.said, "none.yaml:1:1: error: "));
    assert_non_null(strstr(l.said, "No such file or directory"));
    unload(&l);
    l = load_file(folder.path);
    assert_non_null(strstr(l.said, "is no ordinary file: name one"));
    unload(&l);
    snprintf(fifo, sizeof fifo, "%s/fifo", folder.path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    l = load_file(fifo); /* and does not wait for a writer */
    assert_non_null(strstr(l.said, "is no ordinary file: name one"));
    unload(&l);
    folder_remove(&folder);
}

static void test_text_that_is_no_text(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "pools: \xff\xfe\xfd", "a: \x01", "\"\\0\": 1", "{{{{", "%YAML 9.9\n---\n",
        "a: &a [*a, *a]",      "\t- a",   "? ",         "!!!",  "pools: [{name: \"\\0\"}]"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct loaded l = load_text(texts[i]);
        assert_null(l.config);
        for (const char *c = l.said; *c; c++) /* fit for a terminal */
            assert_true(*c == '\n' || (*c >= 0x20 && *c < 0x7f));
        unload(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_two_keys_together),
        cmocka_unit_test(test_a_statement_has_a_bound),
        cmocka_unit_test(test_names_and_addresses),
        cmocka_unit_test(test_upstreams),
        cmocka_unit_test(test_several_databases),
        cmocka_unit_test(test_variables),
        cmocka_unit_test(test_all_errors_are_told_in_order),
        cmocka_unit_test(test_no_error_hides_another),
        cmocka_unit_test(test_many_errors_are_bounded_and_counted),
        cmocka_unit_test(test_files_that_cannot_be_read),
        cmocka_unit_test(test_text_that_is_no_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
