/* SPDX-License-Identifier: MIT */
/* What a reload would change: every key that differs, and how it takes effect. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/conf/loading.h"

#define TAIL "size: { max: 3 } }\n"

static const char before[] =
    "workers: 1\n"
    "log: { level: info }\n"
    "admin: { socket: /run/a.sock }\n"
    "pools:\n"
    "- { name: a, upstream: postgres://u:one@h/d, listen: 127.0.0.1:1, " TAIL
    "- { name: b, upstream: redis://h, listen: [127.0.0.1:2, /run/b.sock], " TAIL;

struct step {
    const char *old, *fresh; /* replaced in `before` */
    const char *key, *from, *to;
    enum schema_reload reload;
};

static char *replace(const char *text, const char *old, const char *fresh)
{
    const char *at = strstr(text, old);
    assert_non_null(at);
    size_t size = strlen(text) + strlen(fresh) + 1;
    char *out = calloc(1, size);
    assert_non_null(out);
    snprintf(out, size, "%.*s%s%s", (int)(at - text), text, fresh, at + strlen(old));
    return out;
}

static void test_one_change_at_a_time(void **state)
{
    (void)state;
    static const struct step steps[] = {
        {"workers: 1", "workers: auto", "workers", "1", "auto", SCHEMA_NEEDS_RESTART},
        {"level: info", "level: warn", "log.level", "info", "warn", SCHEMA_RELOADS},
        {"/run/a.sock", "/run/z.sock", "admin.socket", "/run/a.sock", "/run/z.sock",
         SCHEMA_NEEDS_RESTART},
        {"socket:", "http: 127.0.0.1:9, socket:", "admin.http", "", "127.0.0.1:9",
         SCHEMA_NEEDS_RESTART},
        {"pools:", "drain: { deadline: 1m }\npools:", "drain.deadline", "8s", "1m", SCHEMA_RELOADS},
        {"max: 3 }", "max: 4 }", "pools.a.size.max", "3", "4", SCHEMA_RELOADS},
        {"max: 3 }", "max: 3 }, mode: session", "pools.a.mode", "transaction", "session",
         SCHEMA_NEW_CONNECTIONS},
        {"max: 3 }", "max: 3 }, retry: { backoff: 1s..2s }", "pools.a.retry.backoff", "25ms..250ms",
         "1s..2s", SCHEMA_RELOADS},
        {"max: 3 }", "max: 3 }, check: { on_return: RESET ALL }", "pools.a.check.on_return", "fast",
         "RESET ALL", SCHEMA_RELOADS},
        {"max: 3 }", "max: 3 }, limits: { buffer: 1MiB }", "pools.a.limits.buffer", "256KiB",
         "1MiB", SCHEMA_NEW_CONNECTIONS},
        {"127.0.0.1:1", "127.0.0.1:3", "pools.a.listen", "127.0.0.1:1", "127.0.0.1:3",
         SCHEMA_RELOADS},
        {"/run/b.sock", "{ unix: /run/b.sock, mode: '0600' }", "pools.b.listen",
         "127.0.0.1:2, /run/b.sock", "127.0.0.1:2, /run/b.sock", SCHEMA_RELOADS},
        {"u:one@h", "u:two@h", "pools.a.upstream", "h:5432", "h:5432", SCHEMA_NEW_CONNECTIONS},
        {"u:one@h/d", "u:one@h/e", "pools.a.upstream", "h:5432", "h:5432", SCHEMA_NEW_CONNECTIONS},
        {"@h/d", "@h/d?sslmode=require", "pools.a.upstream", "h:5432", "h:5432",
         SCHEMA_NEW_CONNECTIONS},
        {"@h/d", "@h/d?application_name=x", "pools.a.upstream", "h:5432", "h:5432",
         SCHEMA_NEW_CONNECTIONS},
        {"redis://h,", "[redis://h, redis://i],", "pools.b.upstream", "h:6379", "h:6379, i:6379",
         SCHEMA_NEW_CONNECTIONS},
        {"redis://h,", "http://h,", "pools.b.kind", "redis", "http", SCHEMA_RELOADS},
        {"- { name: b, upstream: redis://h, listen: [127.0.0.1:2, /run/b.sock], " TAIL, "",
         "pools.b", "redis", "", SCHEMA_RELOADS},
        {"pools:", "pools:\n- { name: c, upstream: http://h }", "pools.c", "", "http",
         SCHEMA_RELOADS},
    };
    struct loaded old = load_good(before);
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        char *text = replace(before, steps[i].old, steps[i].fresh);
        struct loaded fresh = load_good(text);
        size_t n = 0;
        struct conf_change *changes = conf_diff(old.config, fresh.config, &n);
        if (n != 1)
            fail_msg("%zu changes after %s -> %s", n, steps[i].old, steps[i].fresh);
        assert_string_equal(changes[0].key, steps[i].key);
        assert_string_equal(changes[0].from, steps[i].from);
        assert_string_equal(changes[0].to, steps[i].to);
        assert_int_equal(changes[0].reload, steps[i].reload);
        free(changes);
        free(text);
        unload(&fresh);
    }
    unload(&old);
}

static void test_users_are_compared(void **state)
{
    (void)state;
    struct folder folder = folder_new();
    folder_write(&folder, "users", "a: one\n");
    char path[128];
    snprintf(
        path, sizeof path, "%s",
        folder_write(&folder, "c.yaml",
                     "pools: [{ name: a, upstream: redis://h, auth: { users_file: users } }]"));
    struct loaded old = load_file(path);
    folder_write(&folder, "users", "a: two\n");
    struct loaded fresh = load_file(path);
    size_t n = 0;
    struct conf_change *changes = conf_diff(old.config, fresh.config, &n);
    assert_int_equal(n, 1);
    assert_string_equal(changes[0].key, "pools.a.auth.users");
    assert_string_equal(changes[0].to, "1 users");
    free(changes);
    unload(&old);
    unload(&fresh);
    folder_remove(&folder);
}

static void test_nothing_changed(void **state)
{
    (void)state;
    struct loaded old = load_good(before), fresh = load_good(before);
    size_t n = 7;
    assert_null(conf_diff(old.config, fresh.config, &n));
    assert_int_equal(n, 0);
    unload(&old);
    unload(&fresh);
}

/* A reload, and then another one: what only a restart changes is still what it was at the start. */
static void test_what_stays_in_force(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "workers: 2\nadmin: { socket: /a, http: '127.0.0.1:9601' }\nlog: { level: warn }\n"
        "pools: [{ name: a, upstream: redis://h }]",
        "workers: 4\nadmin: { socket: /b, http: '[::1]:9602' }\nlog: { level: debug }\n"
        "pools: [{ name: a, upstream: redis://h }]",
        "workers: auto\nadmin: { socket: '' }\nlog: { level: error }\n"
        "pools: [{ name: a, upstream: redis://h }]",
    };
    struct loaded running = load_good(texts[0]);
    for (size_t i = 1; i < ARRAY_LEN(texts); i++) {
        struct loaded fresh = load_good(texts[i]);
        size_t n, restarts = 0;
        struct conf_change *changes = conf_diff(running.config, fresh.config, &n);
        for (size_t j = 0; j < n; j++)
            restarts += changes[j].reload == SCHEMA_NEEDS_RESTART;
        assert_int_equal(restarts, 3); /* in every reload, not only in the first */
        free(changes);
        assert_true(conf_retain(fresh.config, running.config));
        unload(&running);
        running = fresh;
        assert_int_equal(running.config->workers, 2);
        assert_string_equal(running.config->admin.socket, "/a");
        assert_string_equal(running.config->admin.http, "127.0.0.1:9601");
        assert_string_equal(running.config->admin.host, "127.0.0.1");
        assert_int_equal(running.config->admin.port, 9601);
    }
    assert_int_equal(running.config->log.level, LOG_ERROR); /* this one followed */
    unload(&running);
}

static void test_many_changes(void **state)
{
    (void)state;
    char text[16384];
    size_t at = (size_t)snprintf(text, sizeof text, "pools:\n");
    for (unsigned i = 0; i < 100; i++)
        at += (size_t)snprintf(text + at, sizeof text - at,
                               "- { name: p%u, upstream: redis://h }\n", i);
    struct loaded old = load_good(before), fresh = load_good(text);
    size_t n = 0;
    struct conf_change *changes = conf_diff(old.config, fresh.config, &n);
    assert_int_equal(n, 1 + 2 + 100); /* the socket, two pools gone, a hundred new ones */
    assert_string_equal(changes[n - 1].key, "pools.p99");
    free(changes);
    unload(&old);
    unload(&fresh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_change_at_a_time), cmocka_unit_test(test_users_are_compared),
        cmocka_unit_test(test_nothing_changed),      cmocka_unit_test(test_what_stays_in_force),
        cmocka_unit_test(test_many_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
