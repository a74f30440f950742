/* SPDX-License-Identifier: MIT */
/*
 * The client side of Redis: commands. See redis_session.h for the picture, redis_session_reply.c
 * for what comes back.
 *
 * Who answers, in order: nobody before login; QUIT and RESET always here; a transaction without a
 * server here; inside MULTI the pinned server, as far as a command may go there; while subscribed
 * with RESP2 the pinned server, which knows what it allows; then the class decides.
 */
#include <stdio.h>

#include "proxy/wire/redis_session_private.h"

void redis_session_init(struct redis_session *s, const struct redis_session_conf *conf, uint64_t id)
{
    *s = (struct redis_session){
        .conf = conf,
        .id = id,
        .authenticated = !conf->auth_required,
        .resp = 2,
    };
}

const struct redis_limits *redis_session_limits(const struct redis_session *s)
{
    return s->authenticated ? &redis_limits_default : &redis_limits_unauth;
}

bool redis_session_subscribed(const struct redis_session *s)
{
    return s->subscribing > 0 || redis_has_subscriptions(s);
}

bool redis_session_pinned(const struct redis_session *s)
{
    return s->pinned;
}

bool redis_session_may_release(const struct redis_session *s)
{
    return s->pinned && s->pending == 0 && !s->seen.multi && !s->seen.watch &&
           !redis_has_subscriptions(s) && !s->sticky && !s->conf->session_mode;
}

/* Everything that was state of the pinned server. */
static void forget_server(struct redis_session *s)
{
    s->pinned = s->sticky = s->ending = false;
    s->sent = s->seen = (struct redis_session_state){0};
    s->pending = s->subscribing = 0;
    s->channels = s->patterns = s->shards = 0;
}

void redis_session_released(struct redis_session *s)
{
    forget_server(s);
    s->doomed = false;
}

bool redis_session_lost(struct redis_session *s)
{
    bool deaf = redis_session_subscribed(s) || s->sticky;
    bool in_multi = s->sent.multi && !s->multi_null;
    bool watching = s->sent.watch && !s->sent.multi;
    bool local_multi = s->multi_null;
    forget_server(s);
    s->multi_lost = s->multi_lost || in_multi;
    s->watch_lost = s->watch_lost || watching;
    s->sent.multi = in_multi || local_multi;
    return deaf;
}

/* ---- commands ------------------------------------------------------------------------------ */

static void to_pinned(struct redis_session *s, struct redis_act *act, bool blocking)
{
    act->route = REDIS_TO_PINNED;
    act->slot.blocking = blocking;
    act->slot.script = act->verdict.script && s->conf->pin_scripts;
    s->pinned = true;
    s->pending++;
    if (redis_is_subscribe_family(act->verdict.id))
        s->subscribing++;
}

static void refuse_verdict(const struct redis_cmd *cmd, struct redis_out *answer,
                           struct redis_act *act)
{
    const struct redis_verdict *v = &act->verdict;
    act->route = REDIS_TO_CLIENT;
    if (!v->unknown_sub) {
        redis_refuse(act, answer, CAUSE_DENIED, "%s: %s", v->name, v->reason);
        return;
    }
    struct span sub = cmd->nargs > 1 ? cmd->args[1] : SPAN_LIT("");
    char container[32];
    size_t n = 0;
    for (; v->name[n] && n < sizeof container - 1; n++)
        container[n] =
            (char)(v->name[n] >= 'a' && v->name[n] <= 'z' ? v->name[n] - 0x20 : v->name[n]);
    container[n] = '\0';
    act->cause = CAUSE_UNSUPPORTED;
    snprintf(act->note, sizeof act->note, "%s has no subcommand that carpool knows by this name",
             v->name);
    redis_put_errorf(answer, "ERR unknown subcommand '%.*s'. Try %s HELP.",
                     sub.n < 128 ? (int)sub.n : 128, (const char *)sub.p, container);
}

/* The connection as it was when accepted; a pinned server is given back behind the barrier. */
static void reset(struct redis_session *s, struct redis_out *answer, struct redis_act *act)
{
    act->route = REDIS_TO_CLIENT;
    act->barrier = s->ending = s->pinned;
    s->doomed = s->multi_lost = s->watch_lost = s->multi_null = false;
    s->sent = (struct redis_session_state){0};
    s->authenticated = !s->conf->auth_required;
    s->resp = 2;
    s->mute = REDIS_MUTE_NO;
    s->name_n = 0;
    redis_put_simple(answer, "RESET");
}

/* Ends a transaction that never reached a server, or will not be executed by the one it has. */
static void end_local_multi(struct redis_session *s, struct redis_act *act)
{
    act->route = REDIS_TO_CLIENT;
    act->barrier = s->ending = s->pinned;
    s->sent = (struct redis_session_state){0};
    s->doomed = s->multi_lost = s->multi_null = s->watch_lost = false;
}

static bool may_queue(const struct redis_session *s, const struct redis_cmd *cmd,
                      const struct redis_verdict *v)
{
    switch ((unsigned)v->id) {
    case REDIS_ID_PING:
    case REDIS_ID_ECHO:
        return true;
    case REDIS_ID_SELECT: {
        /* It takes effect at EXEC: only to where the server is already. */
        char own[16];
        struct redis_out o = redis_out_of(own, sizeof own);
        redis_put_int(&o, (int64_t)s->conf->db);
        return cmd->nargs == 2 && span_eq(cmd->args[1], span_of(own + 1, o.n - 3));
    }
    default:
        return v->in_multi;
    }
}

/* Between MULTI and EXEC; true: answered here, because it may not be queued. EXEC will abort. */
static bool refuse_in_multi(struct redis_session *s, const struct redis_cmd *cmd,
                            struct redis_out *answer, struct redis_act *act)
{
    if (act->verdict.class != REDIS_REFUSED && may_queue(s, cmd, &act->verdict))
        return false;
    s->doomed = true;
    if (act->verdict.class == REDIS_REFUSED)
        refuse_verdict(cmd, answer, act);
    else
        redis_refuse(act, answer, CAUSE_UNSUPPORTED, "%s is not possible inside MULTI",
                     act->verdict.name);
    act->route = REDIS_TO_CLIENT;
    return true;
}

/* A transaction without a server: see the head of redis_session.h. */
static void local_multi(struct redis_session *s, const struct redis_cmd *cmd,
                        struct redis_out *answer, struct redis_act *act)
{
    enum redis_id id = act->verdict.id;
    act->route = REDIS_TO_CLIENT;
    if (id == REDIS_ID_EXEC) {
        if (s->multi_lost || s->doomed)
            redis_put_line(answer, REDIS_EXECABORT);
        else
            redis_put_null_array(answer, s->resp);
        end_local_multi(s, act);
    } else if (id == REDIS_ID_DISCARD) {
        redis_put_ok(answer);
        end_local_multi(s, act);
    } else if (id == REDIS_ID_MULTI) {
        redis_put_line(answer, REDIS_NESTED_MULTI);
    } else if (id == REDIS_ID_WATCH) {
        redis_put_line(answer, "-ERR WATCH inside MULTI is not allowed\r\n");
    } else if (s->multi_lost) {
        redis_refuse(
            act, answer, CAUSE_UPSTREAM_CLOSED,
            "the server was lost inside this transaction; nothing is executed until EXEC or "
            "DISCARD");
    } else if (!refuse_in_multi(s, cmd, answer, act)) {
        redis_put_simple(answer, "QUEUED");
    }
}

static void in_multi(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                     struct redis_act *act)
{
    bool bare = cmd->argc == 1;
    if (act->verdict.id == REDIS_ID_EXEC && bare && s->doomed) {
        /* The reset of the server discards what it has queued. */
        redis_put_line(answer, REDIS_EXECABORT);
        end_local_multi(s, act);
        return;
    }
    if (refuse_in_multi(s, cmd, answer, act))
        return;
    if (bare && (act->verdict.id == REDIS_ID_EXEC || act->verdict.id == REDIS_ID_DISCARD)) {
        s->sent = (struct redis_session_state){0};
        s->doomed = false;
    }
    to_pinned(s, act, false);
}

/* MULTI, EXEC, DISCARD, WATCH, UNWATCH outside a transaction. */
static void transaction(struct redis_session *s, const struct redis_cmd *cmd,
                        struct redis_out *answer, struct redis_act *act)
{
    enum redis_id id = act->verdict.id;
    const char *line = NULL;
    if (id == REDIS_ID_MULTI && cmd->argc == 1 && s->watch_lost) {
        s->multi_null = s->sent.multi = true;
        line = "+OK\r\n";
    } else if (id == REDIS_ID_UNWATCH && cmd->argc == 1) {
        s->watch_lost = s->sent.watch = false;
        line = "+OK\r\n";
    } else if (id == REDIS_ID_EXEC && cmd->argc == 1) {
        line = REDIS_EXEC_WITHOUT_MULTI;
    } else if (id == REDIS_ID_DISCARD && cmd->argc == 1) {
        line = REDIS_DISCARD_WITHOUT_MULTI;
    }
    /* With a server of its own, that one speaks; but MULTI after a lost WATCH must not reach it. */
    if (line && (!s->pinned || s->multi_null)) {
        act->route = REDIS_TO_CLIENT;
        redis_put_line(answer, line);
        return;
    }
    if (id == REDIS_ID_MULTI && cmd->argc == 1)
        s->sent.multi = true;
    if (id == REDIS_ID_WATCH)
        s->sent.watch = true;
    to_pinned(s, act, false);
}

static void subscribe(struct redis_session *s, const struct redis_cmd *cmd,
                      struct redis_out *answer, struct redis_act *act)
{
    bool fits = cmd->complete;
    struct redis_args it = redis_args_of(cmd);
    struct span arg;
    while (fits && redis_args_next(&it, &arg))
        fits = arg.n <= REDIS_CHANNEL_MAX;
    if (!fits) {
        act->route = REDIS_TO_CLIENT;
        redis_refuse(act, answer, CAUSE_TOO_LARGE, "channel names have at most %d bytes here",
                     REDIS_CHANNEL_MAX);
        return;
    }
    act->slot.expect = cmd->argc - 1;
    act->slot.mute = false; /* CLIENT REPLY does not silence these */
    to_pinned(s, act, false);
}

static void refused(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                    struct redis_act *act)
{
    if (act->verdict.id == REDIS_ID_WAIT && s->conf->session_mode)
        to_pinned(s, act, true);
    else
        refuse_verdict(cmd, answer, act);
}

static void sticky(struct redis_session *s, struct redis_out *answer, struct redis_act *act)
{
    if (act->verdict.id == REDIS_ID_CLIENT_TRACKING && s->resp == 2 && !s->conf->session_mode) {
        /* Without RESP3 it redirects to a connection id, and those the client knows are ours. */
        act->route = REDIS_TO_CLIENT;
        redis_refuse(act, answer, CAUSE_UNSUPPORTED, "CLIENT TRACKING needs RESP3");
        return;
    }
    s->sticky = true;
    to_pinned(s, act, false);
}

static void ordinary(struct redis_session *s, const struct redis_cmd *cmd, struct redis_act *act)
{
    const struct redis_verdict *v = &act->verdict;
    if (s->pinned || s->conf->session_mode || !cmd->complete ||
        (v->script && s->conf->pin_scripts)) {
        to_pinned(s, act, false);
        return;
    }
    act->route = REDIS_TO_SHARED;
    act->slot.retryable = v->retryable;
}

/* Subscribed with RESP2, sure of it, and the command is one of ours: the server would refuse it. */
static bool refuse_subscribed(const struct redis_session *s, struct redis_out *answer,
                              struct redis_act *act)
{
    if (s->resp != 2 || s->subscribing > 0 || !redis_has_subscriptions(s))
        return false;
    act->route = REDIS_TO_CLIENT;
    redis_put_errorf(
        answer,
        "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
        "RESET are allowed in this context",
        act->verdict.name);
    return true;
}

static void local(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                  struct redis_act *act)
{
    /* While subscribed with RESP2 a PING is answered in another shape. */
    if (act->verdict.id == REDIS_ID_PING && s->pinned && redis_session_subscribed(s))
        to_pinned(s, act, false);
    else if (!refuse_subscribed(s, answer, act))
        redis_local(s, cmd, answer, act);
}

static void by_class(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                     struct redis_act *act)
{
    switch (act->verdict.class) {
    case REDIS_READ:
    case REDIS_WRITE:
        ordinary(s, cmd, act);
        break;
    case REDIS_UNKNOWN:
        to_pinned(s, act, false);
        break;
    case REDIS_BLOCKING:
        to_pinned(s, act, true);
        break;
    case REDIS_SUBSCRIBING:
        subscribe(s, cmd, answer, act);
        break;
    case REDIS_TRANSACTION:
        transaction(s, cmd, answer, act);
        break;
    case REDIS_STICKY:
        sticky(s, answer, act);
        break;
    case REDIS_LOCAL:
        local(s, cmd, answer, act);
        break;
    case REDIS_REFUSED:
        refused(s, cmd, answer, act);
        break;
    case REDIS_CLASS_COUNT:
        CHECK(act->verdict.class != REDIS_CLASS_COUNT);
    }
}

static bool before_login(enum redis_id id)
{
    return id == REDIS_ID_AUTH || id == REDIS_ID_HELLO || id == REDIS_ID_QUIT ||
           id == REDIS_ID_RESET;
}

static void decide(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                   struct redis_act *act)
{
    enum redis_id id = act->verdict.id;
    if (!s->authenticated && !before_login(id)) {
        act->route = REDIS_TO_CLIENT;
        redis_refuse_line(act, answer, "a command before the client has logged in", REDIS_NOAUTH);
    } else if (id == REDIS_ID_QUIT) {
        redis_local(s, cmd, answer, act);
    } else if (id == REDIS_ID_RESET && cmd->argc == 1) {
        reset(s, answer, act);
    } else if (id == REDIS_ID_RESET) {
        act->route = REDIS_TO_CLIENT;
        redis_put_wrong_arity(answer, "reset");
    } else if (s->multi_lost || s->multi_null) {
        local_multi(s, cmd, answer, act);
    } else if (s->sent.multi) {
        in_multi(s, cmd, answer, act);
    } else {
        by_class(s, cmd, answer, act);
    }
}

/* These are answered although the client was mute before. */
static bool switches_replies_on(const struct redis_cmd *cmd, enum redis_id id)
{
    return id == REDIS_ID_RESET || (id == REDIS_ID_CLIENT_REPLY && cmd->nargs == 3 &&
                                    span_ieq(cmd->args[2], SPAN_LIT("on")));
}

void redis_session_command(struct redis_session *s, const struct redis_cmd *cmd,
                           struct redis_out *answer, struct redis_act *act)
{
    size_t from = answer->n;
    bool mute = s->mute != REDIS_MUTE_NO;
    if (s->mute == REDIS_MUTE_NEXT)
        s->mute = REDIS_MUTE_NO;
    *act = (struct redis_act){.verdict = redis_classify(cmd)};
    act->slot.id = (uint8_t)act->verdict.id;
    act->slot.mute = mute;
    decide(s, cmd, answer, act);
    bool on = switches_replies_on(cmd, act->verdict.id);
    bool ours = act->route == REDIS_TO_CLIENT || act->route == REDIS_TO_AUTH;
    act->mute = ours && mute && !on;
    if (act->mute)
        answer->n = from;
}

bool redis_session_block_ok(const struct redis_session *s, const struct redis_block *b)
{
    return s->authenticated && !s->pinned && !s->sent.multi && !s->watch_lost &&
           s->mute == REDIS_MUTE_NO && !s->conf->session_mode &&
           !(b->script && s->conf->pin_scripts);
}

struct redis_slot redis_session_block_slot(void)
{
    return (struct redis_slot){.id = REDIS_ID_OTHER};
}
