/* SPDX-License-Identifier: MIT */
/*
 * From the client: each command is classified (proxy/wire/redis_session.h) and then goes to a
 * shared server, to one of the client's own, or is answered here.
 *
 * A pipeline is read as far as the bounds allow, also while a server is awaited: what cannot be
 * sent yet is queued behind its request. Only a command that needs a server of its own stops the
 * reading until everything before it has been answered.
 */
#include <stdlib.h>

#include "pools/ledger.h"
#include "proxy/front/redis.h"

/* What a worker's scratch memory can hold whole; larger commands are streamed. */
static const struct redis_limits limits_open = {
    .count = REDIS_COUNT_MAX,
    .bulk = REDIS_BULK_MAX,
    .whole = REDIS_PIECE_MAX,
};

static const struct redis_limits limits_locked = {
    .count = REDIS_UNAUTH_COUNT,
    .bulk = REDIS_UNAUTH_BULK,
    .whole = REDIS_PIECE_MAX,
    .unauthenticated = true,
};

static const struct redis_limits *limits_of(const struct redis_client *c)
{
    return redis_session_limits(&c->session)->unauthenticated ? &limits_locked : &limits_open;
}

bool redis_may_read(const struct redis_client *c)
{
    size_t high = redis_high_water(c);
    if (c->base.closed || c->doomed || c->hold || c->barrier || c->closing ||
        c->state == REDIS_ENDING)
        return false;
    /* The rest of a command that is counted already. */
    if (c->discarding || c->streaming)
        return !c->own || io_unsent(&c->own->io) <= high;
    return c->n_requests < REDIS_PIPELINE && c->bytes <= high && io_unsent(&c->base.io) <= high &&
           !(c->own && io_unsent(&c->own->io) > high);
}

static void no_memory(struct redis_client *c)
{
    struct err err;
    err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "out of memory");
    redis_doom(c, &err);
}

/* ---- forwarding ---- */

static struct redis_request *request_new(struct redis_client *c, const struct redis_slot *slot,
                                         size_t size)
{
    struct redis_request *r = redis_request_new(c, REDIS_REQ_QUEUED);
    if (!r)
        return NULL;
    r->slot = *slot;
    r->size = (uint32_t)size;
    r->since_ms = loop_now(redis_loop(c));
    r->since_us = c->read_us;
    c->bytes += size;
    pool_request(session_pool(&c->base));
    return r;
}

/* Limits and the service breaker. False: the request has failed. */
static bool admit(struct redis_client *c, struct redis_request *r)
{
    struct ledger *l = pool_ledger(session_pool(&c->base));
    uint64_t wait_ms;
    struct err err;
    r->admitted = session_admit(&c->base, &err);
    if (!r->admitted) {
        redis_fail(c, r, &err);
        return false;
    }
    if (ledger_service_allows(l, loop_now(redis_loop(c)), &r->permit, &wait_ms))
        return true;
    err_set(&err, CAUSE_BREAKER_OPEN, STAGE_WAIT, 0,
            "pool %s: requests fail for now, the next one is tried in %llu ms", l->name,
            (unsigned long long)wait_ms);
    redis_fail(c, r, &err);
    return false;
}

static void queue(struct redis_client *c, struct redis_request *r, struct bufq *q,
                  struct span bytes)
{
    if (!bufq_append(&redis_loop(c)->chunks, q, bytes)) {
        no_memory(c);
        return;
    }
    r->call.bytes = (uint32_t)bytes.n;
}

static void forward_shared(struct redis_client *c, const struct redis_slot *slot, struct span bytes,
                           uint32_t replies)
{
    struct redis_request *r = request_new(c, slot, bytes.n);
    if (!r)
        return;
    r->call.replies = replies;
    if (!admit(c, r))
        return;
    if (c->n_queued == 0) {
        if (c->state == REDIS_SHARED && c->n_flying == 0 && !redis_may_stay(c))
            redis_leave_shared(c);
        if (c->state == REDIS_FREE && redis_ask_shared(c) == LEASE_REFUSED) {
            redis_fail(c, r, &c->work->waiter.err);
            return;
        }
        if (c->state == REDIS_SHARED && redis_may_stay(c)) {
            redis_send(c, r, bytes);
            return;
        }
    }
    queue(c, r, &c->work->queued, bytes);
    c->n_queued++;
}

static void forward_own(struct redis_client *c, const struct redis_act *act, struct span bytes,
                        bool last)
{
    struct redis_request *r = request_new(c, &act->slot, bytes.n);
    if (!r)
        return;
    switch (act->verdict.class) {
    case REDIS_UNKNOWN:
    case REDIS_SUBSCRIBING:
    case REDIS_STICKY:
        c->dirty = true;
        break;
    case REDIS_READ:
    case REDIS_WRITE:
    case REDIS_TRANSACTION:
        c->dirty = c->dirty || (act->verdict.script && c->session.conf->pin_scripts);
        break;
    case REDIS_BLOCKING:
    case REDIS_LOCAL:
    case REDIS_REFUSED:
    case REDIS_CLASS_COUNT:
        break;
    }
    c->streaming = !last;
    if (c->state == REDIS_OWN) {
        redis_send_own(c, r, bytes, last);
        return;
    }
    if (!admit(c, r)) {
        /* What follows in a transaction must not be executed by itself. Who was refused a
         * subscription has none to wait for. */
        (void)redis_session_lost(&c->session);
        c->discarding = c->streaming;
        c->streaming = false;
        return;
    }
    queue(c, r, &c->work->held, bytes);
    c->hold = r;
}

/* ---- one command ---- */

static void note_refusal(struct redis_client *c, const struct redis_act *act)
{
    struct err err;
    err_set(&err, act->cause, STAGE_CLIENT, 0, "%s", act->note);
    session_error(&c->base, &err);
}

static void check_login(struct redis_client *c, const struct redis_act *act, struct redis_out *out)
{
    enum redis_auth verdict = redis_guard_check(c, act);
    redis_session_auth(&c->session, act, verdict, out);
    if (verdict == REDIS_AUTH_OK)
        return;
    struct err err;
    int n = act->user.n > 60 ? 60 : (int)act->user.n;
    err_set(&err, CAUSE_AUTH_FAILED, STAGE_CLIENT, 0, "wrong password for user %.*s",
            act->user.p ? n : 7, act->user.p ? (const char *)act->user.p : "default");
    session_error(&c->base, &err);
}

static void on_command(struct redis_client *c, const struct redis_cmd *cmd)
{
    struct redis_common *route = c->base.route->state;
    struct redis_out out = redis_out_of(route->answer, sizeof route->answer);
    struct redis_act act;
    if (cmd->nargs > 0 && span_ieq(cmd->args[0], SPAN_LIT("hello")))
        c->session.about = redis_about_recall(pool_ledger(session_pool(&c->base)), &route->about)
                               ? &route->about
                               : NULL;
    redis_session_command(&c->session, cmd, &out, &act);
    switch (act.route) {
    case REDIS_TO_SHARED:
        forward_shared(c, &act.slot, cmd->raw, 1);
        return;
    case REDIS_TO_PINNED:
        forward_own(c, &act, cmd->raw, cmd->last);
        return;
    case REDIS_TO_AUTH:
        check_login(c, &act, &out);
        break;
    case REDIS_TO_CLIENT:
        if (act.cause != CAUSE_NONE)
            note_refusal(c, &act);
        break;
    }
    c->discarding = !cmd->last;
    c->barrier = act.barrier;
    c->closing = act.closes;
    if (out.overflow)
        no_memory(c);
    else
        redis_answer(c, redis_out_span(&out));
}

/* ---- what ends a client ---- */

static void on_bad(struct redis_client *c, bool silent, const struct err *err)
{
    if (silent) {
        redis_doom(c, err);
        return;
    }
    uint8_t buf[256];
    struct redis_out out = redis_out_of(buf, sizeof buf);
    redis_put_protocol_error(&out, err);
    redis_answer(c, redis_out_span(&out));
    c->work->why = *err;
    c->closing = c->failed = true;
}

static void on_inline(struct redis_client *c, struct span line)
{
    uint8_t small[2048];
    size_t room = REDIS_INLINE_ROOM(line.n);
    uint8_t *p = room <= sizeof small ? small : malloc(room);
    if (!p) {
        no_memory(c);
        return;
    }
    struct redis_out out = redis_out_of(p, room);
    struct redis_cmd cmd = {0};
    struct err err;
    if (redis_inline_encode(line, limits_of(c), &out, &cmd, &err))
        on_command(c, &cmd);
    else
        on_bad(c, cmd.silent, &err);
    if (p != small)
        free(p);
}

static void on_body(struct redis_client *c, const struct redis_cmd *cmd)
{
    if (!c->discarding)
        redis_stream_own(c, cmd->raw, cmd->last);
    else if (cmd->last)
        c->discarding = false;
}

/* ---- walking ---- */

/* MULTI ... EXEC in one piece needs no server of its own. Returns the bytes used, 0: not such a
 * one. */
static size_t try_block(struct redis_client *c, struct span in)
{
    static const char head[] = "*1\r\n$5\r\n";
    struct redis_block block;
    if (in.n < sizeof head || memcmp(in.p, head, sizeof head - 1) != 0 ||
        ascii_lower(in.p[sizeof head - 1]) != 'm' || !redis_request_idle(&c->work->framer) ||
        !redis_block_find(in, limits_of(c), REDIS_BLOCK_MAX, REDIS_PIPELINE, &block) ||
        !redis_session_block_ok(&c->session, &block))
        return 0;
    struct redis_slot slot = redis_session_block_slot();
    forward_shared(c, &slot, block.raw, block.commands);
    return block.raw.n;
}

struct span redis_walk(struct redis_client *c, struct span in)
{
    c->stalled = false;
    if (!redis_work_begin(c))
        return span_skip(in, in.n);
    while (in.n > 0) {
        if (!redis_may_read(c)) {
            c->stalled = true;
            break;
        }
        size_t block = try_block(c, in);
        if (block) {
            in = span_skip(in, block);
            continue;
        }
        struct redis_cmd cmd;
        struct err err;
        enum redis_step step = redis_request_next(&c->work->framer, limits_of(c), in, &cmd, &err);
        in = span_skip(in, cmd.used);
        switch (step) {
        case REDIS_WAIT:
            return in;
        case REDIS_COMMAND:
        case REDIS_BIG:
            on_command(c, &cmd);
            break;
        case REDIS_INLINE:
            on_inline(c, cmd.raw);
            break;
        case REDIS_BODY:
            on_body(c, &cmd);
            break;
        case REDIS_BAD:
            on_bad(c, cmd.silent, &err);
            return span_skip(in, in.n);
        }
    }
    return in;
}
