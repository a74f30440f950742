/* SPDX-License-Identifier: MIT */
/*
 * Round trips of carpool's own on Redis servers, calls like all others.
 *
 *   verify   PING, or the operator's statement
 *   reset    RESET, AUTH, SELECT: each has to be answered well. Servers before 6.2 know no RESET
 *            and are closed instead. At the end ECHO of a number nobody can guess: a script that
 *            made the server say more than it was asked (CVE-2025-67733) could have answered all
 *            before, and the true answers would be the next client's
 */
#include "pools/redis.h"
#include "proxy/core/crypto.h"
#include "proxy/wire/redis.h"
#include "proxy/wire/redis_write.h"

/* The last answer of a reset: the number, whole. */
static bool is_nonce(const struct redis_server *rs, const struct redis_reply_piece *piece)
{
    uint8_t room[64];
    struct redis_out out = redis_out_of(room, sizeof room);
    redis_put_bulk(&out, span_of(rs->nonce, sizeof rs->nonce));
    return piece->ends && span_eq(piece->raw, redis_out_span(&out));
}

/* An error in answer to PING proves life (no right to it, a full disk), but for two of them. */
static bool is_well(const struct redis_server *rs, const struct redis_reply_piece *piece)
{
    if (rs->check_lenient && piece->type == '-') {
        enum redis_trouble t = redis_error_trouble(piece->line);
        return t != REDIS_TROUBLE_LOADING && t != REDIS_TROUBLE_AUTH;
    }
    if (rs->base.check_step == OUTCOME_RESET && rs->check_at == 0)
        return piece->type == '+' && span_eq(piece->line, SPAN_LIT("RESET"));
    return piece->type != '-';
}

static void check_reply(struct redis_call *call, const struct redis_reply_piece *piece)
{
    struct redis_server *rs = OWNER(call, struct redis_server, check);
    /* The last but one of a reset, to CLIENT SETNAME, does not matter. */
    bool reset = rs->base.check_step == OUTCOME_RESET;
    uint32_t left = call->replies - (piece->ends ? 0u : 1u);
    bool well = !piece->begins || (reset && left == 1) ||
                (reset && left == 0 ? is_nonce(rs, piece) : is_well(rs, piece));
    if (!well)
        rs->check_well = false;
    if (!piece->ends)
        return;
    rs->check_at++;
    if (call->replies > 0)
        return;
    rs->checked = true;
    rs->noisy = false;
}

static void check_lost(struct redis_call *call, const struct redis_loss *loss)
{
    (void)call;
    (void)loss;
}

static const struct redis_call_ops check_ops = {.on_reply = check_reply, .on_lost = check_lost};

static void ask(struct redis_server *rs, const struct redis_out *out, uint32_t replies)
{
    rs->check = (struct redis_call){.ops = &check_ops, .replies = replies};
    rs->check_at = 0;
    rs->check_well = true;
    rs->checked = false;
    if (out->overflow || !redis_call_send(rs, &rs->check, redis_out_span(out)))
        server_checked(&rs->base, false, OUTCOME_DROP_FAILED);
}

void redis_verify(struct server *sv, const char *statement)
{
    uint8_t buf[4 * CHECK_STATEMENT_MAX]; /* a word of one letter becomes seven */
    struct redis_out out = redis_out_of(buf, sizeof buf);
    struct redis_cmd cmd;
    struct err err;
    redis_server_of(sv)->check_lenient = !statement;
    if (!statement)
        redis_put_command(&out, (const struct span[]){SPAN_LIT("PING")}, 1);
    else if (!redis_inline_encode(span_str(statement), &redis_limits_default, &out, &cmd, &err))
        out.overflow = true;
    ask(redis_server_of(sv), &out, 1);
}

/* Letters, for whoever watches the server. */
static bool nonce_new(struct redis_server *rs)
{
    if (!crypto_random(rs->nonce, sizeof rs->nonce))
        return false;
    for (size_t i = 0; i < sizeof rs->nonce; i++)
        rs->nonce[i] = (uint8_t)('a' + (rs->nonce[i] & 15));
    return true;
}

void redis_reset(struct server *sv)
{
    struct redis_server *rs = redis_server_of(sv);
    const struct endpoint_conf *e = sv->endpoint;
    uint8_t buf[8192];
    struct redis_out out = redis_out_of(buf, sizeof buf);
    uint32_t n = 3;
    rs->check_lenient = false;
    if (!nonce_new(rs))
        out.overflow = true;
    redis_put_command(&out, (const struct span[]){SPAN_LIT("RESET")}, 1);
    if (e->password) {
        struct span words[3] = {SPAN_LIT("AUTH")};
        uint32_t w = 1;
        if (e->user)
            words[w++] = span_str(e->user);
        words[w++] = span_str(e->password);
        redis_put_command(&out, words, w);
        n++;
    }
    if (e->database && strcmp(e->database, "0") != 0) {
        redis_put_command(&out, (const struct span[]){SPAN_LIT("SELECT"), span_str(e->database)},
                          2);
        n++;
    }
    redis_put_command(
        &out, (const struct span[]){SPAN_LIT("CLIENT"), SPAN_LIT("SETNAME"), SPAN_LIT("carpool")},
        3);
    redis_put_command(
        &out, (const struct span[]){SPAN_LIT("ECHO"), span_of(rs->nonce, sizeof rs->nonce)}, 2);
    rs->reset_needed = false;
    ask(rs, &out, n);
}
