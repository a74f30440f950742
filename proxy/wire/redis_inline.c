/* SPDX-License-Identifier: MIT */
/*
 * Inline commands: a line is split as Redis does and written anew as RESP, so that a server shared
 * by many never sees a client's own spelling.
 *
 *   word     ends at a blank; quotes may start inside it
 *   "..."    \xHH \n \r \t \b \a, any other escaped byte is itself; a blank or the end must follow
 *   '...'    \' only; a blank or the end must follow
 *
 * The line is walked twice: once to count and measure, once to write. Inline commands are typed by
 * hand; nothing here needs to be fast.
 */
#include <stdio.h>

#include "proxy/wire/redis.h"
#include "proxy/wire/redis_write.h"

static bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int hex(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One argument on its way out; a measuring pass has no destination. */
struct sink {
    uint8_t *p;
    size_t n;
};

static void emit(struct sink *s, uint8_t c)
{
    if (s->p)
        s->p[s->n] = c;
    s->n++;
}

static uint8_t unescape(uint8_t c)
{
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'b':
        return '\b';
    case 'a':
        return '\a';
    default:
        return c;
    }
}

/* From behind an opening quote to behind the closing one. False: none, or no blank follows it. */
static bool take_quoted(struct span line, size_t *at, uint8_t quote, struct sink *s)
{
    size_t i = *at;
    for (; i < line.n && line.p[i] != quote; i++) {
        bool escape = line.p[i] == '\\' && i + 1 < line.n;
        if (escape && quote == '"' && i + 3 < line.n && line.p[i + 1] == 'x' &&
            hex(line.p[i + 2]) >= 0 && hex(line.p[i + 3]) >= 0) {
            emit(s, (uint8_t)(hex(line.p[i + 2]) * 16 + hex(line.p[i + 3])));
            i += 3;
        } else if (escape && quote == '"') {
            emit(s, unescape(line.p[++i]));
        } else if (escape && line.p[i + 1] == '\'') {
            emit(s, line.p[++i]);
        } else {
            emit(s, line.p[i]);
        }
    }
    if (i == line.n)
        return false;
    *at = i + 1;
    return *at == line.n || is_space(line.p[*at]);
}

enum word { WORD, NO_MORE, UNBALANCED };

/* The next argument behind *at. */
static enum word take_word(struct span line, size_t *at, struct sink *s)
{
    size_t i = *at;
    while (i < line.n && is_space(line.p[i]))
        i++;
    if (i == line.n)
        return NO_MORE;
    for (; i < line.n; i++) {
        uint8_t c = line.p[i];
        if (c == ' ' || c == '\n' || c == '\r' || c == '\t')
            break;
        if (c == '"' || c == '\'') {
            *at = i + 1;
            return take_quoted(line, at, c, s) ? WORD : UNBALANCED;
        }
        emit(s, c);
    }
    *at = i;
    return WORD;
}

static bool refuse(struct err *err, const char *what)
{
    return err_set(err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "Protocol error: %s", what);
}

/* Counts the arguments and the bytes they need as RESP. */
static bool measure(struct span line, const struct redis_limits *limits, uint32_t *count,
                    size_t *room, struct err *err)
{
    size_t at = 0;
    for (;;) {
        struct sink s = {0};
        switch (take_word(line, &at, &s)) {
        case UNBALANCED:
            return refuse(err, "unbalanced quotes in request");
        case NO_MORE:
            return true;
        case WORD:
            break;
        }
        if (s.n > limits->bulk)
            return refuse(err, limits->unauthenticated ? "unauthenticated bulk length"
                                                       : "invalid bulk length");
        if (++*count > limits->count)
            return refuse(err, limits->unauthenticated ? "unauthenticated multibulk length"
                                                       : "invalid multibulk length");
        char head[32];
        *room += (size_t)snprintf(head, sizeof head, "$%zu\r\n", s.n) + s.n + 2;
    }
}

static void put_head(struct redis_out *out, char type, size_t n)
{
    char head[32];
    int len = snprintf(head, sizeof head, "%c%zu\r\n", type, n);
    redis_put(out, span_of(head, (size_t)len));
}

/* Writes what measure() found to fit. */
static void write_args(struct span line, struct redis_out *out, struct redis_cmd *cmd)
{
    size_t at = 0;
    for (uint32_t i = 0; i < cmd->argc; i++) {
        size_t again = at;
        struct sink s = {0};
        (void)take_word(line, &at, &s);
        put_head(out, '$', s.n);
        s = (struct sink){.p = out->p + out->n};
        (void)take_word(line, &again, &s);
        if (i < REDIS_ARGS)
            cmd->args[cmd->nargs++] = span_of(s.p, s.n);
        out->n += s.n;
        redis_put(out, SPAN_LIT("\r\n"));
    }
}

bool redis_inline_encode(struct span line, const struct redis_limits *limits, struct redis_out *out,
                         struct redis_cmd *cmd, struct err *err)
{
    uint32_t count = 0;
    size_t room = 0;
    char head[32];
    cmd->silent = false;
    /* Redis stops reading at a NUL and then waits for the rest of a line that is there. */
    if (memchr(line.p, '\0', line.n))
        return refuse(err, "NUL in inline request");
    if (!measure(line, limits, &count, &room, err))
        return false;
    if (count == 0)
        return refuse(err, "empty inline request");
    room += (size_t)snprintf(head, sizeof head, "*%u\r\n", count);
    if (out->overflow || out->cap - out->n < room)
        return err_set(err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0,
                       "no room for an inline request of %zu bytes", line.n);
    size_t from = out->n;
    cmd->argc = count;
    cmd->nargs = 0;
    put_head(out, '*', count);
    write_args(line, out, cmd);
    cmd->raw = span_of(out->p + from, out->n - from);
    cmd->complete = cmd->last = true;
    if (span_ieq(cmd->args[0], SPAN_LIT("post")) || span_ieq(cmd->args[0], SPAN_LIT("host:"))) {
        out->n = from;
        cmd->silent = true;
        return refuse(err, "another protocol speaks");
    }
    return true;
}
