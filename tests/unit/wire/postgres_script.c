/* SPDX-License-Identifier: MIT */
#include "tests/unit/wire/postgres_script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static struct span body_for(uint8_t type, const char *rest)
{
    if (type == 'Z' || type == 'D')
        return span_of(rest, *rest ? 1 : 0);
    if (type == 'E')
        return SPAN_LIT("SERROR\0VERROR\0C42601\0Mno\0\0");
    return SPAN_LIT("\0\0\0\0");
}

static void expect_state(const struct pg_flow *f, const char *word, const char *script, size_t at)
{
    bool idle = pg_flow_is_idle(f), doubt = pg_flow_is_doubtful(f);
    bool want_idle = strcmp(word, "idle") == 0, want_doubt = strcmp(word, "doubt") == 0;
    if (!want_idle && !want_doubt && strcmp(word, "held") != 0)
        fail_msg("unknown word \"%s\"", word);
    if (idle != want_idle || doubt != want_doubt)
        fail_msg("%s\n  at %zu: not \"%s\": idle %d doubt %d due %u", script, at, word, idle, doubt,
                 pg_flow_due(f));
    if (idle)
        assert_false(pg_flow_is_busy(f));
}

void script_play(struct pg_flow *f, const char *script)
{
    const char *p = script;
    while (*(p += strspn(p, " "))) {
        char word[16] = {0};
        size_t n = strcspn(p, " ");
        assert_true(n < sizeof word);
        memcpy(word, p, n);
        uint8_t type = (uint8_t)word[1];
        struct span body = body_for(type, word + 2);
        if (word[0] == '>')
            body = type == 'D' ? span_of(word[2] == 's' ? "S" : "P", 1) : SPAN_LIT("\0select 1");
        enum pg_flow_step want, step;
        if (word[0] == '>') {
            want = PG_FLOW_OK;
            step = pg_flow_client(f, type, body);
        } else if (strchr("<~x", word[0])) {
            want = word[0] == '~'   ? PG_FLOW_ASYNC
                   : word[0] == 'x' ? PG_FLOW_VIOLATION
                   : type == 'Z'    ? PG_FLOW_READY
                                    : PG_FLOW_OK;
            step = pg_flow_server(f, type, body);
        } else {
            expect_state(f, word, script, (size_t)(p - script));
            want = step = PG_FLOW_OK;
        }
        if (step != want)
            fail_msg("%s\n  at %zu (%s): step %d, not %d", script, (size_t)(p - script), word, step,
                     want);
        p += n;
    }
}

void script_run(const char *script)
{
    struct pg_flow f;
    pg_flow_init(&f);
    script_play(&f, script);
    pg_flow_fini(&f);
}

void script_run_all(const char *const *scripts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        script_run(scripts[i]);
}
