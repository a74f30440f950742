/* SPDX-License-Identifier: MIT */
/*
 * What is shown: the effective configuration loads again, secrets never appear, the page is
 * current.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/conf/loading.h"

static const char rich[] =
    "workers: auto\n"
    "log: { level: debug, format: json, access: all }\n"
    "admin: { socket: '', http: '127.0.0.1:9601' }\n"
    "pools:\n"
    "  - name: orders\n"
    "    listen: [127.0.0.1:1, '[::1]:1', { unix: '/run/a b\"$${x}\xc3\xa9\xf0\x9f\x9a\x97', mode: "
    "'0600', owner: ':0' }]\n"
    "    upstream:\n"
    "      - { url: 'postgres://a%40b@[::1]:7/d%2Fe?options=-c%20a%3Db&sslmode=require', priority: "
    "4 }\n"
    "      - postgres://a%40b@%2Frun%2Fpg/d%2Fe\n"
    "    mode: session\n"
    "    check: { on_return: \"SELECT '$${x}' \\\\ \\\"\" }\n"
    "    size: { min: 0, max: 3, max_lifetime: 90s }\n"
    "  - name: many\n"
    "    listen: 127.0.0.1:6\n"
    "    upstream: postgres://a@h/d\n"
    "    databases: { '*': { size: { max: 4 } }, \"odd \\\"name\": { database: plain } }\n"
    "    size: { max: 9, total: 30 }\n"
    "  - { name: cache, upstream: rediss://h/3, listen: 127.0.0.1:2, limits: { buffer: 100KB } }\n"
    "  - { name: sock, upstream: 'redis+unix:///run/r.sock?db=2', listen: 127.0.0.1:3 }\n"
    "  - { name: api, upstream: https://h, listen: 127.0.0.1:4, breaker: { open: 1s..2m } }\n"
    "  - { name: usock, upstream: 'http+unix:///run/api.sock', listen: 127.0.0.1:5 }\n";

static void test_what_is_printed_loads_as_the_same(void **state)
{
    (void)state;
    struct loaded one = load_good(rich);
    struct loaded two = load_good(one.printed);
    assert_string_equal(one.printed, two.printed);
    size_t n = 1;
    struct conf_change *changes = conf_diff(one.config, two.config, &n);
    if (n > 0)
        fail_msg("%s: '%s' became '%s'", changes[0].key, changes[0].from, changes[0].to);
    assert_null(changes);
    assert_string_equal(two.config->pools[0].pool.check.statement, "SELECT '${x}' \\ \"");
    assert_string_equal(two.config->pools[0].front.listens[2].unix_path,
                        "/run/a b\"${x}\xc3\xa9\xf0\x9f\x9a\x97");
    const struct front_conf *many = &two.config->pools[1].front;
    assert_int_equal(many->n_databases, 2);
    assert_int_equal(front_database(many, SPAN_LIT("any"))->pool->size.max, 4);
    assert_string_equal(front_database(many, SPAN_LIT("odd \"name"))->upstream, "plain");
    assert_int_equal(front_database(many, SPAN_LIT("odd \"name"))->pool->size.max, 9);
    unload(&one);
    unload(&two);
}

static void test_what_is_printed_says_it_all(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "workers: auto\n",
        "  level: debug\n",
        "  socket: \"\"\n",
        "  http: \"127.0.0.1:9601\"\n",
        "  - name: orders\n",
        "    kind: postgres\n",
        "      - { url: \"postgres://a%40b@%2Frun%2Fpg:5432/d%2Fe\", priority: 1 }\n",
        "      - { url: \"postgres://a%40b@[::1]:7/d%2Fe?sslmode=require&options=-c%20a%3Db\", "
        "priority: "
        "4 }\n",
        "      - { url: \"rediss://h:6379/3\", priority: 1 }\n",
        "      - { url: \"https://h:443\", priority: 1 }\n",
        "    mode: session\n",
        "      max_lifetime: 1m30s\n",
        "      buffer: 100000B\n",
        "      open: 1s..2m\n",
        "      request: 15s\n", /* a default */
    };
    struct loaded l = load_good(rich);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        if (!strstr(l.printed, lines[i]))
            fail_msg("no %s in:\n%s", lines[i], l.printed);
    unload(&l);
}

static void print_changes(FILE *out, const void *what)
{
    const struct config *const *both = what;
    size_t n;
    struct conf_change *changes = conf_diff(both[0], both[1], &n);
    for (size_t i = 0; i < n; i++)
        fprintf(out, "%s %s %s\n", changes[i].key, changes[i].from, changes[i].to);
    free(changes);
}

static void test_secrets_are_never_printed(void **state)
{
    (void)state;
    struct folder folder = folder_new();
    folder_write(&folder, "pw", "hunter2-a\n");
    folder_write(&folder, "users", "bob: hunter2-b\n");
    folder_write(&folder, "token", "hunter2-c\n");
    setenv("TEST_PW", "hunter2-d", 1);
    struct loaded one = load_file(folder_write(
        &folder, "c.yaml",
        "admin: { token_file: token }\n"
        "pools:\n"
        "- { name: a, upstream: { url: postgres://u@h/d, password_file: pw }, auth: { users_file: "
        "users } }\n"
        "- { name: b, upstream: redis://:${TEST_PW}@h }\n"
        "- { name: c, upstream: [{ url: redis://h, password: hunter2-e }], listen: 0.0.0.0:1 }\n"
        "- { name: d, upstream: postgres://u:hunter2-f@h/d }\n"));
    struct loaded two =
        load_good("admin: { token: hunter2-g }\n"
                  "pools:\n"
                  "- { name: a, upstream: postgres://u:hunter2-h@h/d }\n"
                  "- { name: b, upstream: redis://:hunter2-i@h }\n"
                  "- { name: c, upstream: redis://:hunter2-j@h, listen: 0.0.0.0:1 }\n");
    assert_non_null(one.config);
    assert_non_null(strstr(one.printed, "postgres://u:***@h:5432/d"));
    assert_non_null(strstr(one.printed, "redis://:***@h:6379/0"));
    assert_non_null(strstr(two.printed, "token: \"***\""));
    const struct config *both[] = {one.config, two.config};
    char *changes = printed_by(print_changes, both);
    assert_non_null(strstr(changes, "admin.token *** ***")); /* that it changed is no secret */
    assert_non_null(strstr(changes, "pools.a.upstream h:5432 h:5432"));
    const char *texts[] = {one.printed, two.printed, one.said, two.said, changes};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (strstr(texts[i], "hunter2"))
            fail_msg("a secret in:\n%s", texts[i]);
    free(changes);
    unload(&one);
    unload(&two);
    folder_remove(&folder);
}

static void test_a_token_file_is_printed_as_one(void **state)
{
    (void)state;
    struct folder folder = folder_new();
    folder_write(&folder, "token", "hunter2");
    struct loaded one = load_file(
        folder_write(&folder, "c.yaml",
                     "admin: { token_file: token }\npools: [{ name: a, upstream: redis://h }]"));
    struct loaded two = load_good(one.printed); /* not both: that would be an error */
    assert_string_equal(two.config->admin.token, "hunter2");
    unload(&one);
    unload(&two);
    folder_remove(&folder);
}

static void print_keys(FILE *out, const void *what)
{
    conf_keys_print(out, *(const enum conf_keys_format *)what);
}

static void test_keys_are_listed(void **state)
{
    (void)state;
    static const char *const wanted[] = {
        "\nworkers\n    count or auto, 1 to 64; default 1; reload: restart\n",
        "\nlog.level\n    one of error, warn, info, debug; default info; reload: at once\n",
        "\npools[].size.max\n    count, 1 to 100000; default 20; reload: at once\n",
        "\npools[].timeouts.request\n    duration, 1ms to 1d, or 0; default 0 / 5s / 15s; reload: "
        "at once\n",
        "\npools[].mode\n    one of session, transaction, statement; default transaction; reload: "
        "new "
        "connections; only postgres\n",
        "\npools[].upstream[].password\n    secret; default none; reload: new connections\n",
    };
    enum conf_keys_format format = CONF_KEYS_TEXT;
    char *text = printed_by(print_keys, &format);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        if (!strstr(text, wanted[i]))
            fail_msg("no %s in:\n%s", wanted[i], text);
    free(text);
}

/* The page in docs/ is this text; `carpool config --markdown` writes it anew. */
static void test_the_page_is_current(void **state)
{
    (void)state;
    enum conf_keys_format format = CONF_KEYS_MARKDOWN;
    char *text = printed_by(print_keys, &format);
    FILE *file = fopen("docs/configuration.md", "r");

    assert_non_null(file);
    char *page = calloc(1, strlen(text) + 2);
    assert_non_null(page);
    size_t n = fread(page, 1, strlen(text) + 1, file);
    fclose(file);
    if (n != strlen(text) || strcmp(page, text) != 0)
        fail_msg("docs/configuration.md differs from `carpool config --markdown`");
    free(page);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_printed_loads_as_the_same),
        cmocka_unit_test(test_what_is_printed_says_it_all),
        cmocka_unit_test(test_secrets_are_never_printed),
        cmocka_unit_test(test_a_token_file_is_printed_as_one),
        cmocka_unit_test(test_keys_are_listed),
        cmocka_unit_test(test_the_page_is_current),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
