/* SPDX-License-Identifier: MIT */
/* Startup packets from strangers: never out of bounds, and what is accepted holds together. */
#include "proxy/wire/postgres_startup.h"
#include "proxy/wire/postgres_write.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each setting takes something off the options, and is never longer than what it was said in. */
static void settings(struct span options)
{
    static uint8_t text[PG_STARTUP_MAX];
    struct span name, value, before = options;
    while (pg_option_next(&options, text, &name, &value) == PG_OPTION_SETTING) {
        CHECK(options.n < before.n && name.n + 1 + value.n < before.n - options.n);
        CHECK(name.n > 0 && !memchr(name.p, '=', name.n) && !memchr(name.p, '-', name.n));
        CHECK(name.p >= text && value.p + value.n <= text + before.n);
        before = options;
    }
}

static void accepted(const struct pg_startup *s, struct span in)
{
    static uint8_t answer[2 * PG_STARTUP_MAX];
    struct span rest = s->params, name, value;
    uint32_t options = 0;
    CHECK(s->used >= 8 && s->used <= in.n && s->used <= PG_STARTUP_MAX);
    CHECK(s->user.n > 0 && s->database.n > 0 && s->major == 3);
    while (pg_param_next(&rest, &name, &value)) {
        CHECK(name.n > 0 && !memchr(name.p, 0, name.n));
        CHECK(value.p + value.n <= in.p + s->used);
        options += pg_param_is_protocol_option(name);
    }
    CHECK(rest.n == 0 && options == s->protocol_options);
    settings(s->options);
    struct pg_out o = pg_out_of(answer, sizeof answer);
    pg_put_negotiate(&o, PG_PROTOCOL_3_0, s->params);
    CHECK(!o.overflow);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pg_startup_seen seen = {0};
    struct span in = span_of(data, size);
    for (int packets = 0; packets < 4; packets++) {
        struct pg_startup s;
        struct err err;
        enum pg_startup_step step = pg_startup_next(&seen, in, &s, &err);
        if (step == PG_STARTUP_SESSION)
            accepted(&s, in);
        if (step == PG_STARTUP_CANCEL)
            CHECK(s.key.n >= 1 && s.key.n <= PG_CANCEL_KEY_MAX);
        if (step == PG_STARTUP_BAD)
            CHECK(strlen(s.sqlstate) == 5 && err.cause == CAUSE_CLIENT_PROTOCOL);
        if (step != PG_STARTUP_SSL && step != PG_STARTUP_GSSENC)
            return 0;
        CHECK(s.used == in.n);
        in = span_of(data, size); /* the same again must be refused */
    }
    check_failed("encryption accepted at most twice", __FILE__, __LINE__);
}
