/* SPDX-License-Identifier: MIT */
#pragma once
/* Private to redis_session.c, redis_session_reply.c and redis_local.c. */
#include "proxy/wire/redis_session.h"

/*
 * Answers a command of class LOCAL. Fills act->route: TO_CLIENT, or TO_AUTH with user and password.
 * Never touches what concerns the pinned server, except that QUIT sets act->closes; RESET is not
 * for here.
 */
void redis_local(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                 struct redis_act *act);

/* "-ERR carpool: <cause> <sentence>", and act->cause. */
void redis_refuse(struct redis_act *act, struct redis_out *answer, enum cause cause,
                  const char *fmt, ...) PRINTF_LIKE(4, 5);

/* The same in Redis' own words, which are `line`; `why` is for the log. */
void redis_refuse_line(struct redis_act *act, struct redis_out *answer, const char *why,
                       const char *line);

void redis_put_wrong_arity(struct redis_out *answer, const char *name);

static inline void redis_put_line(struct redis_out *answer, const char *line)
{
    redis_put(answer, span_str(line));
}

/* Confirmed by the server. */
static inline bool redis_has_subscriptions(const struct redis_session *s)
{
    return s->channels + s->patterns + s->shards > 0;
}

static inline bool redis_is_subscribe_family(enum redis_id id)
{
    return id >= REDIS_ID_SUBSCRIBE && id <= REDIS_ID_SUNSUBSCRIBE;
}
