/* SPDX-License-Identifier: MIT */
/* What operators see of a Redis client. */
#include <stdio.h>

#include "proxy/front/census.h"
#include "proxy/front/redis.h"

/* Why it has a server of its own. */
static const char *pin_word(const struct redis_client *c)
{
    const struct redis_session *s = &c->session;
    const struct list *first = list_first(&c->requests);
    const struct redis_request *r = first ? OWNER(first, struct redis_request, node) : NULL;
    if (redis_session_subscribed(s))
        return "subscriptions";
    if (s->sent.multi || s->seen.multi)
        return "MULTI";
    if (s->sent.watch || s->seen.watch)
        return "WATCH";
    if (r && r->slot.blocking)
        return "a blocking command";
    return s->sticky ? "state of its connection" : "a command of its own";
}

static const char *own_word(const struct redis_client *c)
{
    if (c->n_flying || c->streaming)
        return "active";
    return c->session.seen.multi || c->session.sent.multi ? "in_transaction" : "idle";
}

static const char *state_word(const struct redis_client *c)
{
    switch (c->state) {
    case REDIS_TLS:
        return "login";
    case REDIS_FREE:
        return c->session.authenticated ? "idle" : "login";
    case REDIS_ASKING:
    case REDIS_ASKING_OWN:
        return "waiting";
    case REDIS_SHARED:
        return "active";
    case REDIS_OWN:
        return own_word(c);
    case REDIS_ENDING:
        return "closing";
    case REDIS_STATES:
        break;
    }
    return "?";
}

void redis_describe(const struct session *base, struct census_client *row)
{
    const struct redis_client *c = OWNER(base, const struct redis_client, base);
    row->state = state_word(c);
    if (c->own) {
        census_has(row, c->own, loop_now(redis_loop(c)));
        row->pinned = pin_word(c);
    } else if (c->user.server) {
        row->server = c->user.server->id; /* shared: nobody's for long */
    }
    snprintf(row->application, sizeof row->application, "%.*s", (int)c->session.name_n,
             c->session.name);
}
