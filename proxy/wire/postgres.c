/* SPDX-License-Identifier: MIT */
/*
 * The framer's slow path and the tables of message types. Sizes are judged by the length word
 * before anybody reserves memory for them.
 */
#include "proxy/wire/postgres.h"

/* clang-format off */
const struct pg_set pg_side_types[PG_SIDE_COUNT] = {
    [PG_SIDE_LOGIN] = {{0, PG_BIT('p')}},
    [PG_SIDE_CLIENT] = {{0,
        PG_BIT('B') | PG_BIT('C') | PG_BIT('D') | PG_BIT('E') | PG_BIT('F') | PG_BIT('H') |
        PG_BIT('P') | PG_BIT('Q') | PG_BIT('S') | PG_BIT('X') | PG_BIT('c') | PG_BIT('d') |
        PG_BIT('f')}},
    [PG_SIDE_SERVER] = {{PG_BIT('1') | PG_BIT('2') | PG_BIT('3'),
        PG_BIT('A') | PG_BIT('C') | PG_BIT('D') | PG_BIT('E') | PG_BIT('G') | PG_BIT('H') |
        PG_BIT('I') | PG_BIT('K') | PG_BIT('N') | PG_BIT('R') | PG_BIT('S') | PG_BIT('T') |
        PG_BIT('V') | PG_BIT('W') | PG_BIT('Z') | PG_BIT('c') | PG_BIT('d') | PG_BIT('n') |
        PG_BIT('s') | PG_BIT('t') | PG_BIT('v')}},
};

const struct pg_whole pg_whole_login = {
    .types = {{0, PG_BIT('p')}},
    .max = PG_LOGIN_BODY_MAX,
    .peek = 0,
};

const struct pg_whole pg_whole_client = {
    .types = {{0,
        PG_BIT('C') | PG_BIT('D') | PG_BIT('E') | PG_BIT('H') | PG_BIT('S') | PG_BIT('X') |
        PG_BIT('c')}},
    .fitting = {{0, PG_BIT('P') | PG_BIT('Q')}},
    .max = PG_CLIENT_WHOLE_MAX,
    .peek = PG_CLIENT_PEEK,
};

#define SERVER_WHOLE                                                                               \
    {{PG_BIT('1') | PG_BIT('2') | PG_BIT('3'),                                                     \
      PG_BIT('C') | PG_BIT('G') | PG_BIT('H') | PG_BIT('I') | PG_BIT('K') | PG_BIT('R') |          \
      PG_BIT('S') | PG_BIT('W') | PG_BIT('Z') | PG_BIT('c') | PG_BIT('n') | PG_BIT('s') |          \
      PG_BIT('v')}}

const struct pg_whole pg_whole_server = {
    .types = SERVER_WHOLE,
    .max = PG_SERVER_WHOLE_MAX,
    .peek = PG_SERVER_PEEK,
};

const struct pg_whole pg_whole_answer = {
    .types = SERVER_WHOLE,
    .fitting = {{0, PG_BIT('D')}},
    .max = PG_SERVER_WHOLE_MAX,
    .peek = PG_SERVER_PEEK,
};
/* clang-format on */

static enum pg_step bad(const struct pg_framer *f, struct err *err, enum cause cause, uint8_t type,
                        uint32_t length, const char *what)
{
    bool server = f->side == PG_SIDE_SERVER;
    if (cause == CAUSE_NONE)
        cause = server ? CAUSE_UPSTREAM_PROTOCOL : CAUSE_CLIENT_PROTOCOL;
    err_set(err, cause, server ? STAGE_EXCHANGE : STAGE_CLIENT, 0,
            "%s (message type 0x%02x, length %u)", what, type, length);
    return PG_BAD;
}

/* More of a streamed body. */
static enum pg_step next_body(struct pg_framer *f, struct span in, struct pg_msg *out)
{
    if (in.n == 0)
        return PG_WAIT;
    uint32_t n = in.n < f->left ? (uint32_t)in.n : f->left;
    f->left -= n;
    *out = (struct pg_msg){.type = f->type,
                           .whole = f->left == 0,
                           .len = f->left,
                           .raw = {in.p, n},
                           .body = {in.p, n}};
    return PG_BODY;
}

enum pg_step pg_next_slow(struct pg_framer *f, const struct pg_whole *whole, struct span in,
                          struct pg_msg *out, struct err *err)
{
    if (f->left > 0)
        return next_body(f, in, out);
    if (in.n == 0)
        return PG_WAIT;
    uint8_t type = in.p[0];
    if (!pg_set_has(&pg_side_types[f->side], type))
        return bad(f, err, CAUSE_NONE, type, 0, "unknown message");
    if (in.n < PG_HEADER)
        return PG_WAIT;
    uint32_t length = pg_be32(in.p + 1);
    if (length < 4)
        return bad(f, err, CAUSE_NONE, type, length, "impossible length");
    if (length > PG_LENGTH_MAX) /* from a server: it is none, or has lost count */
        return bad(f, err, f->side == PG_SIDE_SERVER ? CAUSE_NONE : CAUSE_TOO_LARGE, type, length,
                   "message too large");
    uint32_t len = length - 4;
    bool must_be_whole = pg_set_has(&whole->types, type);
    if (must_be_whole && len > whole->max)
        return bad(f, err, CAUSE_TOO_LARGE, type, length, "message too large");
    must_be_whole |= len <= whole->max && pg_set_has(&whole->fitting, type);
    uint32_t want = must_be_whole || len < whole->peek ? len : whole->peek;
    size_t have = in.n - PG_HEADER;
    if (have < want)
        return PG_WAIT;
    uint32_t take = have < len ? (uint32_t)have : len;
    f->left = len - take;
    f->type = type;
    *out = (struct pg_msg){.type = type,
                           .whole = f->left == 0,
                           .len = len,
                           .raw = {in.p, PG_HEADER + (size_t)take},
                           .body = {in.p + PG_HEADER, take}};
    return PG_MESSAGE;
}
