/* SPDX-License-Identifier: MIT */
/*
 * Replies: any bytes, cut anywhere, held back or not, are framed the same way; what is looked into
 * is never read out of bounds, and the session never counts wrong enough to break.
 */
#include <stdlib.h>

#include "proxy/wire/redis_session.h"

struct sum {
    uint64_t hash;
    uint32_t replies;
    bool bad;
};

static void add(struct sum *s, struct span in)
{
    for (size_t i = 0; i < in.n; i++)
        s->hash = (s->hash ^ in.p[i]) * UINT64_C(1099511628211);
}

static void look_into(struct span raw)
{
    struct span rest = raw;
    struct redis_value v;
    while (redis_value_next(&rest, &v))
        CHECK(rest.n < raw.n);
    (void)redis_sub_parse(raw);
}

static void take(struct sum *s, struct redis_session *session, const struct redis_reply_piece *p)
{
    static const uint8_t ids[] = {REDIS_ID_OTHER, REDIS_ID_SUBSCRIBE, REDIS_ID_UNSUBSCRIBE,
                                  REDIS_ID_MULTI, REDIS_ID_EXEC,      REDIS_ID_PSUBSCRIBE};
    add(s, p->raw);
    look_into(p->raw);
    struct redis_slot slot = {.id = ids[s->replies % sizeof ids]};
    (void)redis_session_reply(session, s->replies % 7 ? &slot : NULL, p);
    (void)redis_session_may_release(session);
    if (!p->ends)
        return;
    s->replies++;
    uint8_t end[] = {p->type, (uint8_t)p->kind, p->null};
    add(s, span_of(end, sizeof end));
    add(s, p->line);
    (void)redis_error_trouble(p->line);
}

static size_t drain(struct sum *s, struct redis_session *session, struct redis_reply_framer *f,
                    struct span in, size_t hold)
{
    size_t used = 0;
    for (;;) {
        struct redis_reply_piece p;
        struct err err;
        switch (redis_reply_next(f, span_skip(in, used), hold, &p, &err)) {
        case REDIS_REPLY_WAIT:
            return used;
        case REDIS_REPLY_BAD:
            s->bad = true;
            return used;
        case REDIS_REPLY_PIECE:
            CHECK(p.raw.n > 0 && p.raw.n <= in.n - used);
            used += p.raw.n;
            take(s, session, &p);
            break;
        }
    }
}

static struct sum run(struct span in, size_t piece, size_t hold)
{
    static const struct redis_session_conf conf = {.allow_resp3 = true};
    struct redis_session session;
    struct redis_reply_framer f = {0};
    struct sum s = {.hash = UINT64_C(14695981039346656037)};
    size_t from = 0, to = 0;
    redis_session_init(&session, &conf, 1);
    while (to < in.n && !s.bad) {
        to = in.n - to < piece ? in.n : to + piece;
        uint8_t *exact = malloc(to - from + 1);
        if (!exact)
            abort();
        memcpy(exact, in.p + from, to - from);
        from += drain(&s, &session, &f, span_of(exact, to - from), hold);
        free(exact);
    }
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t hold = data[0] & 1 ? REDIS_REPLY_SMALL : (data[0] & 2 ? 16 : 0);
    struct span in = span_of(data + 2, size - 2);
    struct sum whole = run(in, in.n + 1, hold);
    struct sum cut = run(in, (size_t)data[1] + 1, hold);
    CHECK(whole.bad == cut.bad && whole.replies == cut.replies);
    /* Without holding back, an unfinished reply at the end is shown piece by piece all the same. */
    if (hold == 0 && !whole.bad)
        CHECK(whole.hash == cut.hash);
    struct span raw = in;
    look_into(raw);
    return 0;
}
