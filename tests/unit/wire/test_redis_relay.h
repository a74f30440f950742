/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A small relay around one client's state machine: commands in, replies of a server in, and what is
 * asked of the relay out. `answer` is what carpool said itself. For the tests of redis_session.h
 * only; functions are inline so that a test may leave some unused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "proxy/wire/redis_session.h"

static struct redis_session_conf conf;
static struct redis_session session;
static struct redis_act act;
static char answer[4096];

/* Requests in flight to the pinned server. */
static struct redis_slot slots[64];
static size_t n_slots;

static inline int fresh(void **state)
{
    (void)state;
    conf = (struct redis_session_conf){.db = 0};
    redis_session_init(&session, &conf, 7);
    n_slots = 0;
    return 0;
}

static inline enum redis_route say_cmd(const struct redis_cmd *cmd)
{
    struct redis_out out = redis_out_of(answer, sizeof answer - 1);
    redis_session_command(&session, cmd, &out, &act);
    assert_false(out.overflow);
    answer[out.n] = '\0';
    if (act.cause != CAUSE_NONE)
        assert_true(act.note[0] != '\0'); /* the log says why */
    if (act.route == REDIS_TO_PINNED)
        slots[n_slots++] = act.slot;
    if (act.route == REDIS_TO_SHARED || act.route == REDIS_TO_PINNED)
        assert_int_equal(out.n, 0);
    return act.route;
}

static inline enum redis_route say(const char *line)
{
    static uint8_t room[65536];
    struct redis_out out = redis_out_of(room, sizeof room);
    struct redis_cmd cmd = {0};
    struct err err;
    assert_true(redis_inline_encode(span_str(line), &redis_limits_default, &out, &cmd, &err));
    return say_cmd(&cmd);
}

/* Everything a server sends, through the framer, held as the header asks for. */
static inline enum redis_reply_for hear(const char *bytes)
{
    struct redis_reply_framer f = {0};
    struct span in = span_str(bytes);
    enum redis_reply_for whom = REDIS_FOR_BAD;
    while (in.n > 0) {
        struct redis_reply_piece piece;
        struct err err;
        assert_int_equal(redis_reply_next(&f, in, REDIS_REPLY_SMALL, &piece, &err),
                         REDIS_REPLY_PIECE);
        whom = redis_session_reply(&session, n_slots > 0 ? &slots[0] : NULL, &piece);
        if (whom == REDIS_FOR_SLOT && piece.ends)
            memmove(slots, slots + 1, --n_slots * sizeof slots[0]);
        in = span_skip(in, piece.raw.n);
    }
    return whom;
}

/* What the relay does behind each reply. */
static inline bool released(void)
{
    if (!redis_session_may_release(&session))
        return false;
    redis_session_released(&session);
    assert_false(redis_session_pinned(&session));
    return true;
}

static inline void pass_barrier(void)
{
    assert_true(act.barrier);
    assert_int_equal(n_slots, 0);
    redis_session_released(&session);
}

static inline void assert_answer(const char *line, const char *expected)
{
    assert_int_equal(say(line), REDIS_TO_CLIENT);
    assert_string_equal(answer, expected);
}

static inline void assert_refused(const char *line, enum cause cause)
{
    char start[64];
    assert_int_equal(say(line), REDIS_TO_CLIENT);
    assert_int_equal(act.cause, cause);
    int n = snprintf(start, sizeof start, "-ERR carpool: %s ", cause_word(cause));
    assert_int_equal(strncmp(answer, start, (size_t)n), 0);
}

/* The relay's verdict on a login. */
static inline void pass(enum redis_auth verdict)
{
    struct redis_out out = redis_out_of(answer, sizeof answer - 1);
    redis_session_auth(&session, &act, verdict, &out);
    answer[out.n] = '\0';
}

/* A confirmation as RESP2 has it, of a channel with a name of one byte. */
#define CONFIRM(kind, len, name, count)                                                            \
    "*3\r\n$" #len "\r\n" kind "\r\n$1\r\n" name "\r\n:" count "\r\n"
