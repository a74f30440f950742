/* SPDX-License-Identifier: MIT */
/* Who may come in: the method of each address, users files of both forms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/conf/loading.h"

#define PG "upstream: postgres://app:pw@h/d, "
#define KEYS                                                                                       \
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
#define VERIFIER "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$" KEYS
#define SALT_66                                                                                    \
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

static void test_methods_by_address(void **state)
{
    (void)state;
    static const struct {
        const char *pool;
        enum auth_method method;
    } cases[] = {
        {PG "listen: 127.0.0.1:1", AUTH_TRUST},
        {PG "listen: 127.9.9.9:1", AUTH_TRUST},
        {PG "listen: '[::1]:1'", AUTH_TRUST},
        {PG "listen: /run/x.sock", AUTH_TRUST},
        {PG "listen: 0.0.0.0:1", AUTH_SCRAM},
        {PG "listen: '[::]:1'", AUTH_SCRAM},
        {PG "listen: 128.0.0.1:1", AUTH_SCRAM},
        {PG "listen: 0.0.0.0:1, auth: { method: auto }", AUTH_SCRAM},
        {PG "listen: 127.0.0.1:1, auth: { method: scram }", AUTH_SCRAM},
        {PG "listen: 127.0.0.1:1, auth: { method: trust }", AUTH_TRUST},
        {PG "listen: /run/x.sock, auth: { method: trust }", AUTH_TRUST},
        {PG "listen: 127.0.0.1:1, auth: { method: md5 }", AUTH_MD5},
        {PG "listen: 10.0.0.1:1, auth: { method: md5 }", AUTH_MD5},
        {PG "listen: 127.0.0.1:1, auth: { method: password }", AUTH_PASSWORD},
        {PG "listen: /run/x.sock, auth: { method: password }", AUTH_PASSWORD},
        {PG "listen: /run/x.sock, auth: { method: peer }", AUTH_PEER},
        {"upstream: postgres://app@h/d, listen: /run/x.sock, auth: { method: peer }", AUTH_PEER},
        {PG "listen: 127.0.0.1:1, auth: { method: peer }", AUTH_SCRAM}, /* there is no peer */
        {"upstream: redis://:pw@h, listen: 127.0.0.1:1", AUTH_TRUST},
        {"upstream: redis://:pw@h, listen: 10.0.0.1:1", AUTH_PASSWORD},
        {"upstream: redis://:pw@h, listen: 127.0.0.1:1, auth: { method: password }", AUTH_PASSWORD},
        {"upstream: http://h, listen: 0.0.0.0:1", AUTH_TRUST},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[256];
        snprintf(text, sizeof text, "pools: [{ name: a, %s }]", cases[i].pool);
        struct loaded l = load_good(text);
        if (l.config->pools[0].front.listens[0].auth != cases[i].method)
            fail_msg("%s: %d", text, (int)l.config->pools[0].front.listens[0].auth);
        unload(&l);
    }
}

static void test_one_pool_may_have_both(void **state)
{
    (void)state;
    struct loaded l = load_good("pools: [{ name: a, " PG "listen: [127.0.0.1:1, 0.0.0.0:2] }]");
    const struct front_conf *f = &l.config->pools[0].front;
    assert_int_equal(f->listens[0].auth, AUTH_TRUST);
    assert_int_equal(f->listens[1].auth, AUTH_SCRAM);
    assert_int_equal(f->auth.n_users, 1);
    assert_string_equal(f->auth.users[0].name, "app");
    assert_string_equal(f->auth.users[0].secret, "pw");
    unload(&l);
}

static void test_redis_without_a_user_is_default(void **state)
{
    (void)state;
    struct loaded l = load_good("pools: [{ name: a, upstream: redis://:pw@h, listen: 0.0.0.0:2 }]");
    assert_string_equal(l.config->pools[0].front.auth.users[0].name, "default");
    unload(&l);
}

static void test_open_doors_are_errors(void **state)
{
    (void)state;
    static const struct {
        const char *pool, *said;
    } cases[] = {
        {PG "listen: 0.0.0.0:1, auth: { method: trust }",
         "trust on 0.0.0.0:1 would let everybody in: write method: scram"},
        {"upstream: redis://:pw@h, listen: '[::]:1', auth: { method: trust }",
         "trust on [::]:1 would let everybody in: write method: password"},
        {"upstream: postgres://app@h/d, listen: 0.0.0.0:1",
         "the upstream has no password to ask for"},
        {"upstream: redis://h, listen: 0.0.0.0:1", "the upstream has no password to ask for"},
        {"upstream: redis://h, listen: 127.0.0.1:1, auth: { method: password }",
         "the upstream has no password to ask for"},
        {PG "listen: 10.0.0.1:1, auth: { method: password }", "would send passwords in clear"},
        {PG "listen: 10.0.0.1:1, auth: { method: cert }", "needs the authority of the clients'"},
        {"upstream: postgres://app@h/d, listen: [/run/x.sock, 127.0.0.1:1], "
         "auth: { method: peer }",
         "clients on 127.0.0.1:1 must log in, but the upstream has no password"},
        {"upstream: redis://:pw@h, listen: 127.0.0.1:1, auth: { method: peer }",
         "knows trust and password"},
        {PG "listen: 127.0.0.1:1, auth: { map: { a: b } }", "map is for method: peer and cert"},
        {PG "listen: /run/x.sock, auth: { method: peer, map: [a] }", "map is a mapping"},
        {PG "listen: /run/x.sock, auth: { method: peer, map: { a: { b: c } } }",
         "write name: user, or name: [user, user]"},
        {PG "listen: /run/x.sock, auth: { method: peer, map: { a: '' } }", "a name is empty"},
        {"upstream: redis://:pw@h, listen: 127.0.0.1:1, auth: { map: { a: b } }",
         "map is only for pools of kind postgres"},
        {"upstream: redis://:pw@h, listen: 127.0.0.1:1, auth: { failures: 3 }",
         "failures is only for pools of kind postgres"},
        {"upstream: redis://h, listen: 127.0.0.1:1, auth: { method: scram }",
         "knows trust and password"},
        {PG "listen: 127.0.0.1:1, auth: { users_file: /none }", "'/none' cannot be read"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[256];
        snprintf(text, sizeof text, "pools: [{ name: a, %s }]", cases[i].pool);
        struct loaded l = load_text(text);
        if (l.config || !strstr(l.said, cases[i].said))
            fail_msg("%s\nsays: %swants: %s", text, l.said, cases[i].said);
        unload(&l);
    }
}

static void test_name_map(void **state)
{
    (void)state;
    struct loaded l = load_good("pools: [{ name: a, " PG "listen: /run/x.sock, "
                                "auth: { method: peer, map: { www: app, root: [app, dba] } } }]");
    const struct auth_conf *auth = &l.config->pools[0].front.auth;
    assert_int_equal(auth->n_map, 3);
    assert_string_equal(auth->map[0].from, "www");
    assert_string_equal(auth->map[0].to, "app");
    assert_string_equal(auth->map[1].from, "root");
    assert_string_equal(auth->map[2].from, "root");
    assert_string_equal(auth->map[2].to, "dba");
    unload(&l);
}

static void test_md5_secrets_where_they_serve(void **state)
{
    (void)state;
    static const char *const methods[] = {"md5", "password"};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        char text[256];
        struct folder folder = folder_new();
        folder_write(&folder, "users", "a: md50123456789abcdef0123456789abcdef\n");
        snprintf(text, sizeof text,
                 "pools: [{ name: a, " PG "listen: 127.0.0.1:1, auth: { method: %s, "
                 "users_file: users } }]",
                 methods[i]);
        struct loaded l = load_file(folder_write(&folder, "c.yaml", text));
        assert_string_equal(l.said, "");
        assert_string_equal(l.config->pools[0].front.auth.users[0].name, "a");
        unload(&l);
        folder_remove(&folder);
    }
}

static struct loaded load_users(const char *users, const char *upstream, struct folder *folder)
{
    char text[256];
    *folder = folder_new();
    folder_write(folder, "users", users);
    snprintf(text, sizeof text,
             "pools: [{ name: a, upstream: %s, listen: 127.0.0.1:1, auth: { users_file: users } }]",
             upstream);
    return load_file(folder_write(folder, "c.yaml", text));
}

static void test_users_files(void **state)
{
    (void)state;
    static const char *const files[] = {
        "bob: two words\nalice: s$${3}cret\n",
        "{\"alice\": \"s$${3}cret\", \"bob\": \"two words\"}",
        "# of carpool\n\nbob: 'two words'\n\"alice\": s$${3}cret # a comment\n",
        "\"alice\" \"s$${3}cret\"\n\"bob\" \"two words\"\n",
        "; of pgbouncer\r\n\r\n  \"bob\"\t\"two words\" and more\r\n\"alice\" \"s$${3}cret\"",
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct folder folder;
        struct loaded l = load_users(files[i], "postgres://app:pw@h/d", &folder);
        assert_string_equal(l.said, "");
        const struct front_conf *f = &l.config->pools[0].front;
        /* with a users file, local clients log in, too */
        assert_int_equal(f->listens[0].auth, AUTH_SCRAM);
        assert_int_equal(f->auth.n_users, 2);
        assert_string_equal(f->auth.users[0].name, "alice");
        assert_string_equal(f->auth.users[0].secret, "s$${3}cret");
        assert_string_equal(f->auth.users[1].name, "bob");
        assert_string_equal(f->auth.users[1].secret, "two words");
        unload(&l);
        folder_remove(&folder);
    }
}

static void test_verifiers_and_quotes(void **state)
{
    (void)state;
    struct folder folder;
    struct loaded l = load_users("\"a\"\"b\" \"" VERIFIER "\"\n\"c\" \"\"\"\"\n",
                                 "postgres://app:pw@h/d", &folder);
    assert_string_equal(l.said, "");
    const struct auth_conf *auth = &l.config->pools[0].front.auth;
    assert_string_equal(auth->users[0].name, "a\"b");
    assert_string_equal(auth->users[0].secret, VERIFIER);
    assert_string_equal(auth->users[1].secret, "\"");
    unload(&l);
    folder_remove(&folder);
}

static void test_bad_users_files(void **state)
{
    (void)state;
    static const struct {
        const char *users, *upstream, *said;
    } cases[] = {
        {"", "postgres://a@h", "users:1:1: error: the users file names nobody"},
        {"; nobody\n", "postgres://a@h", "users:1:1: error: the users file names nobody"},
        {"- a", "postgres://a@h", "users:1:1: error: the users file is a mapping"},
        {"a:\nb: hunter2", "postgres://a@h", "users:1:1: error: a user has one secret"},
        {"a: [hunter2]", "postgres://a@h", "users:1:1: error: a user has one secret"},
        {"b: x\na: ''", "postgres://a@h", "users:2:1: error: the secret of user 'a' has 1 to 1024"},
        {"'': hunter2", "postgres://a@h", "users:1:1: error: a user's name has 1 to 128 bytes"},
        {"a: hunter2\na: x", "postgres://a@h",
         "users:2:1: error: 'a' is here twice, first at line 1"},
        {"\"a\" \"hunter2\"\n\"a\" \"x\"", "postgres://a@h",
         "users:1:1: error: user 'a' is there twice"},
        {"\"a\" \"hunter2\"\n\"b\" hunter2", "postgres://a@h",
         "users:2:1: error: this line is not of the form"},
        {"\"a\" \"hunter2\"\n\"b\"", "postgres://a@h",
         "users:2:1: error: this line is not of the form"},
        {"\"a\" \"hunter2\"\n\"b\" \"hunter2", "postgres://a@h",
         "users:2:1: error: this line is not of the form"},
        {"a: md50123456789abcdef0123456789abcdef", "postgres://a@h",
         "users:1:1: error: md5 hashes cannot serve SCRAM"},
        {"a: SCRAM-SHA-256$hunter2", "postgres://a@h",
         "users:1:1: error: the SCRAM verifier is damaged"},
        {"a: " VERIFIER "A", "postgres://a@h", "users:1:1: error: the SCRAM verifier is damaged"},
        /* Nobody can use these: as passwords they would let in who has only seen the file. */
        {"a: SCRAM-SHA-256$99999999:c2FsdA==$" KEYS, "postgres://a@h",
         "users:1:1: error: the SCRAM verifier is damaged"},
        {"a: SCRAM-SHA-256$4096:" SALT_66 "$" KEYS, "postgres://a@h",
         "users:1:1: error: the SCRAM verifier is damaged"},
        {"a: " VERIFIER, "redis://h", "users:1:1: error: Redis clients send passwords"},
        {"a: \"hunter2", "postgres://a@h", "users:1:12: error: this is not YAML"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct folder folder;
        struct loaded l = load_users(cases[i].users, cases[i].upstream, &folder);
        if (l.config || !strstr(l.said, cases[i].said))
            fail_msg("%s\nsays: %swants: %s", cases[i].users, l.said, cases[i].said);
        assert_null(strstr(l.said, "hunter2"));
        unload(&l);
        folder_remove(&folder);
    }
}

static void test_secret_files(void **state)
{
    (void)state;
    static const struct {
        const char *file, *password; /* NULL: refused */
    } cases[] = {
        {"hunter2\n", "hunter2"},
        {"hunter2", "hunter2"},
        {"hunter2\r\n", "hunter2"},
        {" hun$$ter ", " hun$$ter "},
        {"", NULL},
        {"\n", NULL},
        {"hunter2\nmore\n", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct folder folder = folder_new();
        folder_write(&folder, "pw", cases[i].file);
        struct loaded l = load_file(
            folder_write(&folder, "c.yaml",
                         "pools: [{ name: a, upstream: { url: redis://h, password_file: pw } }]"));
        if (cases[i].password)
            assert_string_equal(first_endpoint(&l)->password, cases[i].password);
        else
            assert_non_null(strstr(l.said, "c.yaml:1:63: error: the secret's file "));
        assert_null(strstr(l.said, "hunter2"));
        unload(&l);
        folder_remove(&folder);
    }
}

static void test_certificates_are_tried(void **state)
{
    (void)state;
    struct folder folder = folder_new();
    folder_write(&folder, "cert.pem", "not a certificate");
    folder_write(&folder, "key.pem", "not a key");
    struct loaded l = load_file(folder_write(
        &folder, "c.yaml",
        "pools: [{ name: a, upstream: redis://h, tls: { cert: cert.pem, key: key.pem } }]"));
    assert_null(l.config);
    assert_non_null(strstr(l.said, "c.yaml:1:54: error: tls: "));
    unload(&l);
    folder_remove(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_methods_by_address),
        cmocka_unit_test(test_one_pool_may_have_both),
        cmocka_unit_test(test_redis_without_a_user_is_default),
        cmocka_unit_test(test_open_doors_are_errors),
        cmocka_unit_test(test_name_map),
        cmocka_unit_test(test_md5_secrets_where_they_serve),
        cmocka_unit_test(test_users_files),
        cmocka_unit_test(test_verifiers_and_quotes),
        cmocka_unit_test(test_bad_users_files),
        cmocka_unit_test(test_secret_files),
        cmocka_unit_test(test_certificates_are_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
