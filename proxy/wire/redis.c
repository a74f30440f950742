/* SPDX-License-Identifier: MIT */
/*
 * The request framer.
 *
 *            '*', count            every argument
 *   START ───────────────→ ARGS ───────────────────→ COMMAND, START
 *     │                      │ an argument ends behind limits->whole
 *     │ a line               ↓
 *     ├──→ INLINE, START    BIG_HEAD ⇄ BIG_DATA ───→ last piece, START
 *     └──→ BAD (also from everywhere else, for good)
 *
 * START and ARGS consume nothing until the command is whole: f->pos says how much of it is known to
 * be good. The BIG states consume as they go.
 */
#include "proxy/wire/redis.h"

#include "proxy/wire/redis_lengths.h"

enum { START, ARGS, BIG_HEAD, BIG_DATA, BAD };

const struct redis_limits redis_limits_default = {
    .count = REDIS_COUNT_MAX,
    .bulk = REDIS_BULK_MAX,
    .whole = REDIS_WHOLE,
};

const struct redis_limits redis_limits_unauth = {
    .count = REDIS_UNAUTH_COUNT,
    .bulk = REDIS_UNAUTH_BULK,
    .whole = REDIS_WHOLE,
    .unauthenticated = true,
};

static enum redis_step bad(struct redis_framer *f, struct err *err, const char *what)
{
    f->state = BAD;
    err_set(err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "Protocol error: %s", what);
    return REDIS_BAD;
}

static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/*
 * A browser tricked into talking to Redis sends "POST / HTTP/1.1" or, behind a GET that fails, a
 * Host field. Redis closes without an answer at these words, so that nothing behind them is
 * executed.
 */
static bool is_cross_protocol(struct span name)
{
    return span_ieq(name, SPAN_LIT("post")) || span_ieq(name, SPAN_LIT("host:"));
}

static enum redis_step start_array(struct redis_framer *f, const struct redis_limits *limits,
                                   struct span rest, size_t *swallow, struct err *err)
{
    size_t at = 1;
    uint64_t count = 0;
    if (rest.n > 1 && rest.p[1] == '-') {
        /* The one negative count of the specification: a null array asks for nothing. */
        size_t have = rest.n < 5 ? rest.n : 5;
        if (memcmp(rest.p, "*-1\r\n", have) != 0)
            return bad(f, err, "invalid multibulk length");
        *swallow = have == 5 ? 5 : 0;
        return REDIS_WAIT;
    }
    switch (redis_length_read(rest, &at, &count)) {
    case REDIS_LENGTH_WAIT:
        return REDIS_WAIT;
    case REDIS_LENGTH_BAD:
        return bad(f, err, "invalid multibulk length");
    case REDIS_LENGTH_OK:
        break;
    }
    if (count > limits->count)
        return bad(f, err,
                   limits->unauthenticated && count <= REDIS_COUNT_MAX
                       ? "unauthenticated multibulk length"
                       : "invalid multibulk length");
    if (count == 0) {
        *swallow = at;
        return REDIS_WAIT;
    }
    f->state = ARGS;
    f->pos = (uint32_t)at;
    f->argc = f->args_left = (uint32_t)count;
    f->nargs = 0;
    return REDIS_COMMAND;
}

static enum redis_step start_inline(struct redis_framer *f, struct span rest, struct span *line,
                                    size_t *swallow, struct err *err)
{
    if (rest.p[0] < 0x20 && !is_blank(rest.p[0]))
        return bad(f, err, "neither RESP nor an inline request (TLS on a plain port?)");
    const uint8_t *lf = memchr(rest.p + f->pos, '\n', rest.n - f->pos);
    size_t n = lf ? (size_t)(lf - rest.p) : rest.n;
    if (n > REDIS_INLINE_MAX)
        return bad(f, err, "too big inline request");
    if (!lf) {
        f->pos = (uint32_t)rest.n;
        return REDIS_WAIT;
    }
    f->pos = 0;
    *swallow = n + 1;
    if (n > 0 && rest.p[n - 1] == '\r')
        n--;
    for (size_t i = 0; i < n; i++)
        if (!is_blank(rest.p[i])) {
            *line = span_of(rest.p, n);
            return REDIS_INLINE;
        }
    return REDIS_WAIT;
}

/* WAIT: look again with more. COMMAND: f is in ARGS now. What asks nothing is swallowed. */
static enum redis_step start(struct redis_framer *f, const struct redis_limits *limits,
                             struct span in, struct redis_cmd *cmd, struct err *err)
{
    while (cmd->used < in.n) {
        struct span rest = span_skip(in, cmd->used);
        size_t swallow = 0;
        enum redis_step step = rest.p[0] == '*' ? start_array(f, limits, rest, &swallow, err)
                                                : start_inline(f, rest, &cmd->raw, &swallow, err);
        cmd->used += swallow;
        if (step != REDIS_WAIT || swallow == 0)
            return step;
    }
    return REDIS_WAIT;
}

/* The header of an argument at *at. */
static enum redis_length arg_head(struct redis_framer *f, const struct redis_limits *limits,
                                  struct span in, size_t *at, uint64_t *len, struct err *err)
{
    if (*at == in.n)
        return REDIS_LENGTH_WAIT;
    if (in.p[*at] != '$') {
        char what[] = "expected '$', got '?'";
        what[sizeof what - 3] = (char)(in.p[*at] ? in.p[*at] : ' ');
        (void)bad(f, err, what);
        return REDIS_LENGTH_BAD;
    }
    size_t digits = *at + 1;
    enum redis_length got = redis_length_read(in, &digits, len);
    if (got == REDIS_LENGTH_OK && *len > limits->bulk)
        got = REDIS_LENGTH_BAD;
    if (got == REDIS_LENGTH_OK)
        *at = digits;
    if (got == REDIS_LENGTH_BAD)
        (void)bad(f, err,
                  limits->unauthenticated && *len > limits->bulk && *len <= REDIS_BULK_MAX
                      ? "unauthenticated bulk length"
                      : "invalid bulk length");
    return got;
}

/* Walks on through a BIG command; *at is the first byte not consumed then. False: BAD. */
static bool stream(struct redis_framer *f, const struct redis_limits *limits, struct span in,
                   size_t *at, struct err *err)
{
    while (f->args_left > 0) {
        if (f->state == BIG_HEAD) {
            uint64_t len = 0;
            enum redis_length got = arg_head(f, limits, in, at, &len, err);
            if (got != REDIS_LENGTH_OK)
                return got == REDIS_LENGTH_WAIT;
            f->bulk_left = (uint32_t)len;
            f->state = BIG_DATA;
        }
        size_t take = in.n - *at < f->bulk_left ? in.n - *at : f->bulk_left;
        *at += take;
        f->bulk_left -= (uint32_t)take;
        if (f->bulk_left > 0)
            return true;
        enum redis_length end = redis_crlf(in, *at);
        if (end == REDIS_LENGTH_WAIT)
            return true;
        if (end == REDIS_LENGTH_BAD) {
            (void)bad(f, err, "expected CRLF after a bulk string");
            return false;
        }
        *at += 2;
        f->args_left--;
        f->state = BIG_HEAD;
    }
    f->state = START;
    return true;
}

static void present(const struct redis_framer *f, struct span rest, struct redis_cmd *cmd)
{
    cmd->argc = f->argc;
    cmd->nargs = f->nargs;
    for (unsigned i = 0; i < f->nargs; i++)
        cmd->args[i] = span_of(rest.p + f->arg[i].off, f->arg[i].len);
}

static enum redis_step begin_big(struct redis_framer *f, const struct redis_limits *limits,
                                 struct span rest, struct redis_cmd *cmd, struct err *err)
{
    if (f->nargs == 0)
        return bad(f, err, "too big command name");
    size_t end = f->pos;
    f->pos = 0;
    f->state = BIG_HEAD;
    if (!stream(f, limits, rest, &end, err))
        return REDIS_BAD;
    present(f, rest, cmd);
    cmd->raw = span_of(rest.p, end);
    cmd->used += end;
    cmd->last = f->state == START;
    return REDIS_BIG;
}

static enum redis_step args(struct redis_framer *f, const struct redis_limits *limits,
                            struct span rest, struct redis_cmd *cmd, struct err *err)
{
    while (f->args_left > 0) {
        size_t at = f->pos;
        uint64_t len = 0;
        enum redis_length got = arg_head(f, limits, rest, &at, &len, err);
        if (got != REDIS_LENGTH_OK)
            return got == REDIS_LENGTH_WAIT ? REDIS_WAIT : REDIS_BAD;
        if (at + len + 2 > limits->whole)
            return begin_big(f, limits, rest, cmd, err);
        if (rest.n - at < len + 2)
            return REDIS_WAIT;
        if (redis_crlf(rest, at + len) != REDIS_LENGTH_OK)
            return bad(f, err, "expected CRLF after a bulk string");
        if (f->nargs == 0 && is_cross_protocol(span_of(rest.p + at, len))) {
            f->silent = true;
            return bad(f, err, "another protocol speaks");
        }
        if (f->nargs < REDIS_ARGS) {
            f->arg[f->nargs].off = (uint32_t)at;
            f->arg[f->nargs].len = (uint32_t)len;
            f->nargs++;
        }
        f->pos = (uint32_t)(at + len + 2);
        f->args_left--;
    }
    present(f, rest, cmd);
    cmd->raw = span_of(rest.p, f->pos);
    cmd->used += f->pos;
    cmd->complete = cmd->last = true;
    f->state = START;
    f->pos = 0;
    return REDIS_COMMAND;
}

static enum redis_step body(struct redis_framer *f, const struct redis_limits *limits,
                            struct span in, struct redis_cmd *cmd, struct err *err)
{
    size_t end = 0;
    if (!stream(f, limits, in, &end, err))
        return REDIS_BAD;
    if (end == 0)
        return REDIS_WAIT;
    cmd->raw = span_of(in.p, end);
    cmd->used = end;
    cmd->argc = f->argc;
    cmd->last = f->state == START;
    return REDIS_BODY;
}

static enum redis_step next(struct redis_framer *f, const struct redis_limits *limits,
                            struct span in, struct redis_cmd *cmd, struct err *err)
{
    if (f->state == BAD)
        return bad(f, err, "the stream is out of step");
    if (f->state == BIG_HEAD || f->state == BIG_DATA)
        return body(f, limits, in, cmd, err);
    if (f->state == START) {
        enum redis_step step = start(f, limits, in, cmd, err);
        if (step != REDIS_COMMAND)
            return step;
    }
    return args(f, limits, span_skip(in, cmd->used), cmd, err);
}

enum redis_step redis_request_next(struct redis_framer *f, const struct redis_limits *limits,
                                   struct span in, struct redis_cmd *cmd, struct err *err)
{
    cmd->used = 0;
    cmd->raw = span_of(in.p, 0);
    cmd->argc = cmd->nargs = 0;
    cmd->complete = cmd->last = false;
    enum redis_step step = next(f, limits, in, cmd, err);
    cmd->silent = f->silent;
    return step;
}

/* ---- arguments ----------------------------------------------------------------------------- */

struct redis_args redis_args_of(const struct redis_cmd *cmd)
{
    size_t at = 1;
    uint64_t count = 0;
    if (!cmd->complete || redis_length_read(cmd->raw, &at, &count) != REDIS_LENGTH_OK)
        return (struct redis_args){0};
    return (struct redis_args){.rest = span_skip(cmd->raw, at), .left = (uint32_t)count};
}

bool redis_args_next(struct redis_args *it, struct span *arg)
{
    size_t at = 1;
    uint64_t len = 0;
    if (it->left == 0 || redis_length_read(it->rest, &at, &len) != REDIS_LENGTH_OK ||
        it->rest.n - at < len + 2)
        return false;
    *arg = span_of(it->rest.p + at, len);
    it->rest = span_skip(it->rest, at + len + 2);
    it->left--;
    return true;
}
