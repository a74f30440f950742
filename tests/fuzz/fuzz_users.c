/* SPDX-License-Identifier: MIT */
/*
 * Any text as a users file: YAML or PgBouncer's lines. The first byte picks the kind of pool and
 * whether md5 will do. Who is read has a name and a secret within their bounds, comes in order and
 * once, and a secret that looks like a SCRAM verifier can be used as one; what is not read has a
 * reason.
 */
#include "proxy/conf/conf_users.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_MAX ((size_t)16 << 20)

static void check_user(const struct user_conf *u, bool scram)
{
    struct scram_verifier v;
    size_t name_n = strlen(u->name), secret_n = strlen(u->secret);
    CHECK(name_n >= 1 && name_n <= NAME_MAX_BYTES);
    CHECK(secret_n >= 1 && secret_n <= SECRET_MAX_BYTES);
    if (scram && strncmp(u->secret, "SCRAM-SHA-256$", 14) == 0)
        CHECK(scram_verifier_parse(&v, span_str(u->secret)));
}

static void check_users(const struct user_list *l)
{
    CHECK(l->n >= 1 && l->n <= USERS_MAX);
    for (size_t i = 0; i < l->n; i++) {
        check_user(&l->users[i], l->kind == FRONT_POSTGRES);
        if (i > 0)
            CHECK(strcmp(l->users[i - 1].name, l->users[i].name) < 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf_arena arena;
    struct conf_build b = {.report = conf_report_new(), .file = "users", .arena = &arena};
    if (size == 0 || !b.report) {
        conf_report_free(&b.report);
        return 0;
    }
    conf_arena_init(&arena, MEMORY_MAX);
    conf_arena_init(&b.scratch, MEMORY_MAX);
    struct user_list list = {
        .b = &b,
        .kind = data[0] & 1 ? FRONT_REDIS : FRONT_POSTGRES,
        .md5_serves = data[0] & 2,
    };
    if (read_users(&list, span_of(data + 1, size - 1)))
        check_users(&list);
    else
        CHECK(conf_report_errors(b.report) > 0);
    conf_arena_fini(&b.scratch);
    conf_arena_fini(&arena);
    conf_report_free(&b.report);
    return 0;
}
