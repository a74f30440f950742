/* SPDX-License-Identifier: MIT */
/*
 * Requests: any bytes, cut anywhere, never read out of bounds and mean the same as in one go. The
 * first two bytes choose the bounds and the pieces; what comes out is classified and shown to a
 * session.
 */
#include <stdlib.h>

#include "proxy/wire/redis_session.h"

struct sum {
    uint64_t hash;
    bool ended;
};

static void add(struct sum *s, const void *p, size_t n)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++)
        s->hash = (s->hash ^ b[i]) * UINT64_C(1099511628211);
}

static void add_cmd(struct sum *s, const struct redis_cmd *cmd)
{
    struct redis_verdict v = redis_classify(cmd);
    add(s, &v.class, sizeof v.class);
    add(s, cmd->raw.p, cmd->raw.n);
    struct redis_args it = redis_args_of(cmd);
    struct span arg;
    uint32_t n = 0;
    while (redis_args_next(&it, &arg)) {
        CHECK(n >= cmd->nargs || span_eq(arg, cmd->args[n]));
        n++;
    }
    CHECK(n == cmd->argc);
}

static void act_on(struct redis_session *session, const struct redis_cmd *cmd)
{
    static uint8_t room[1 << 20];
    struct redis_out out = redis_out_of(room, sizeof room);
    struct redis_act act;
    redis_session_command(session, cmd, &out, &act);
    CHECK(!out.overflow);
    if (act.route == REDIS_TO_AUTH)
        redis_session_auth(session, &act, REDIS_AUTH_OK, &out);
    if (act.barrier)
        redis_session_released(session);
}

static void take_inline(struct sum *s, struct redis_session *session,
                        const struct redis_limits *limits, struct redis_cmd *cmd)
{
    static uint8_t room[REDIS_INLINE_ROOM(REDIS_INLINE_MAX)];
    struct redis_out out = redis_out_of(room, sizeof room);
    struct err err;
    if (redis_inline_encode(cmd->raw, limits, &out, cmd, &err)) {
        add_cmd(s, cmd);
        act_on(session, cmd);
    } else {
        CHECK(err.cause == CAUSE_CLIENT_PROTOCOL && out.n == 0);
    }
}

/* Takes what there is; returns the bytes used. */
static size_t drain(struct sum *s, struct redis_session *session, struct redis_framer *f,
                    const struct redis_limits *limits, struct span in)
{
    size_t used = 0;
    while (!s->ended) {
        struct redis_cmd cmd;
        struct err err;
        enum redis_step step = redis_request_next(f, limits, span_skip(in, used), &cmd, &err);
        used += cmd.used;
        switch (step) {
        case REDIS_WAIT:
            return used;
        case REDIS_COMMAND:
            add_cmd(s, &cmd);
            act_on(session, &cmd);
            break;
        case REDIS_INLINE:
            take_inline(s, session, limits, &cmd);
            break;
        case REDIS_BIG:
            act_on(session, &cmd);
            add(s, cmd.raw.p, cmd.raw.n);
            break;
        case REDIS_BODY:
            CHECK(cmd.raw.n > 0 && cmd.used == cmd.raw.n);
            add(s, cmd.raw.p, cmd.raw.n);
            break;
        case REDIS_BAD:
            s->ended = true;
            break;
        }
    }
    return used;
}

static struct sum run(struct span in, size_t piece, const struct redis_limits *limits)
{
    static const struct redis_session_conf conf = {.auth_required = true, .allow_resp3 = true};
    struct redis_session session;
    struct redis_framer f = {0};
    struct sum s = {.hash = UINT64_C(14695981039346656037)};
    size_t from = 0, to = 0;
    redis_session_init(&session, &conf, 1);
    while (to < in.n && !s.ended) {
        to = in.n - to < piece ? in.n : to + piece;
        uint8_t *exact = malloc(to - from + 1);
        if (!exact)
            abort();
        memcpy(exact, in.p + from, to - from);
        from += drain(&s, &session, &f, limits, span_of(exact, to - from));
        free(exact);
    }
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct redis_limits limits = redis_limits_default;
    if (data[0] & 1)
        limits = redis_limits_unauth;
    if (data[0] & 2)
        limits.whole = 256;
    struct span in = span_of(data + 2, size - 2);
    struct sum whole = run(in, in.n + 1, &limits);
    struct sum cut = run(in, (size_t)data[1] + 1, &limits);
    /* A BIG command that goes bad has shown more or less of itself before. */
    CHECK(whole.ended == cut.ended);
    CHECK(whole.ended || whole.hash == cut.hash);
    struct redis_block block;
    if (redis_block_find(in, &limits, 65536, 64, &block))
        CHECK(block.raw.n <= in.n && block.commands >= 2);
    return 0;
}
