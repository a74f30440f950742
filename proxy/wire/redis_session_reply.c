/* SPDX-License-Identifier: MIT */
/*
 * The client side of Redis: replies of the pinned server. They tell what the server made of MULTI,
 * EXEC and WATCH (`seen`), how many subscriptions there are, and which of several answers belong to
 * one request.
 */
#include "proxy/wire/redis_session_private.h"

/* What the server made of MULTI, EXEC, DISCARD, WATCH, UNWATCH. */
static void see(struct redis_session *s, enum redis_id id, const struct redis_reply_piece *piece)
{
    bool ok = piece->type == '+';
    switch ((unsigned)id) {
    case REDIS_ID_MULTI:
        s->seen.multi = s->seen.multi || ok;
        break;
    case REDIS_ID_EXEC:
        /* Every refusal of EXEC ends the transaction, except that there was none. */
        if (piece->type == '-' && (redis_error_is(piece->line, "ERR EXEC without MULTI") ||
                                   redis_error_is(piece->line, "ERR wrong number")))
            break;
        s->seen = (struct redis_session_state){0};
        break;
    case REDIS_ID_DISCARD:
        if (ok)
            s->seen = (struct redis_session_state){0};
        break;
    case REDIS_ID_WATCH:
        s->seen.watch = s->seen.watch || ok;
        break;
    case REDIS_ID_UNWATCH:
        /* Inside MULTI it was only queued. */
        if (ok && !s->seen.multi)
            s->seen.watch = false;
        break;
    default:
        break;
    }
}

static void one_less(struct redis_session *s, const struct redis_slot *slot)
{
    if (s->pending > 0)
        s->pending--;
    if (redis_is_subscribe_family((enum redis_id)slot->id) && s->subscribing > 0)
        s->subscribing--;
    if (s->pending > 0 || s->multi_null || s->ending)
        return;
    s->sent = s->seen;
    if (!s->sent.multi)
        s->doomed = false;
}

static enum redis_id id_of_confirmation(enum redis_sub_kind kind)
{
    static const enum redis_id ids[] = {
        [REDIS_SUB_SUBSCRIBE] = REDIS_ID_SUBSCRIBE,
        [REDIS_SUB_UNSUBSCRIBE] = REDIS_ID_UNSUBSCRIBE,
        [REDIS_SUB_PSUBSCRIBE] = REDIS_ID_PSUBSCRIBE,
        [REDIS_SUB_PUNSUBSCRIBE] = REDIS_ID_PUNSUBSCRIBE,
        [REDIS_SUB_SSUBSCRIBE] = REDIS_ID_SSUBSCRIBE,
        [REDIS_SUB_SUNSUBSCRIBE] = REDIS_ID_SUNSUBSCRIBE,
    };
    return (unsigned)kind < ARRAY_LEN(ids) ? ids[kind] : REDIS_ID_OTHER;
}

/* How many subscriptions of the kind an (UN)SUBSCRIBE is about the server has for us. */
static uint64_t *subscriptions(struct redis_session *s, enum redis_id id)
{
    if (id == REDIS_ID_SSUBSCRIBE || id == REDIS_ID_SUNSUBSCRIBE)
        return &s->shards;
    return id == REDIS_ID_PSUBSCRIBE || id == REDIS_ID_PUNSUBSCRIBE ? &s->patterns : &s->channels;
}

/* A confirmation's count is of channels and patterns together, or of shard channels. */
static void apply_count(struct redis_session *s, enum redis_id id, uint64_t count)
{
    uint64_t *own = subscriptions(s, id);
    uint64_t other = own == &s->shards ? 0 : (own == &s->channels ? s->patterns : s->channels);
    *own = count > other ? count - other : 0;
}

/* One of the confirmations due to slot. */
static enum redis_reply_for confirm(struct redis_session *s, struct redis_slot *slot,
                                    const struct redis_sub_note *note)
{
    enum redis_id id = (enum redis_id)slot->id;
    if (slot->left == 0) {
        uint64_t all = *subscriptions(s, id);
        slot->left = slot->expect > 0 ? slot->expect : (all > 0 ? (uint32_t)all : 1);
    }
    apply_count(s, id, note->count);
    if (--slot->left > 0)
        return REDIS_FOR_MORE;
    one_less(s, slot);
    return REDIS_FOR_SLOT;
}

/* Messages and confirmations: pushes of RESP3, arrays in RESP2. False: it is an ordinary reply. */
static bool pubsub(struct redis_session *s, struct redis_slot *slot,
                   const struct redis_reply_piece *piece, enum redis_reply_for *whom)
{
    bool push = piece->kind == REDIS_KIND_PUSH;
    bool maybe = s->resp == 2 && piece->type == '*' && redis_session_subscribed(s);
    if (!push && !maybe)
        return false;
    struct redis_sub_note note = redis_sub_parse(piece->raw);
    enum redis_id id = id_of_confirmation(note.kind);
    if (id != REDIS_ID_OTHER && slot && slot->id == (uint8_t)id) {
        *whom = confirm(s, slot, &note);
        return true;
    }
    if (id != REDIS_ID_OTHER && (push || (id == REDIS_ID_SUNSUBSCRIBE && s->shards > 0)))
        apply_count(s, id, note.count); /* a cluster moved the slot of a shard channel away */
    else if (!push && (note.kind != REDIS_SUB_MESSAGE || !redis_has_subscriptions(s)))
        return false;
    *whom = REDIS_FOR_NONE;
    return true;
}

enum redis_reply_for redis_session_reply(struct redis_session *s, struct redis_slot *slot,
                                         const struct redis_reply_piece *piece)
{
    enum redis_reply_for whom = (enum redis_reply_for)s->reply_for;
    if (piece->begins) {
        whom = piece->kind == REDIS_KIND_REPLY ? REDIS_FOR_SLOT : REDIS_FOR_NONE;
        if (pubsub(s, slot, piece, &whom)) {
            s->reply_for = (uint8_t)whom;
            return whom;
        }
        if (whom == REDIS_FOR_SLOT && !slot)
            whom = REDIS_FOR_BAD;
        s->reply_for = (uint8_t)whom;
    }
    if (piece->ends && whom == REDIS_FOR_SLOT) {
        see(s, (enum redis_id)slot->id, piece);
        one_less(s, slot);
    }
    return whom;
}
