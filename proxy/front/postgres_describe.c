/* SPDX-License-Identifier: MIT */
/* What operators see of a Postgres client. */
#include <stdio.h>

#include "proxy/front/census.h"
#include "proxy/front/postgres.h"

static const char *linked_word(const struct pg_session *s)
{
    const struct pg_flow *flow = &s->server->flow;
    if (pg_flow_is_busy(flow))
        return "active";
    return flow->tx == PG_TX_IDLE ? "idle" : "in_transaction";
}

static const char *state_word(const struct pg_session *s)
{
    switch (s->state) {
    case PG_STARTUP:
    case PG_TLS:
    case PG_LOGIN:
    case PG_PLACING:
    case PG_WELCOME:
        return "login";
    case PG_IDLE:
    case PG_SWALLOWING:
        return "idle";
    case PG_WAITING:
        return "waiting";
    case PG_SETTING:
        return "active";
    case PG_LINKED:
        return linked_word(s);
    case PG_FAILED:
        return "failed";
    case PG_STATES:
        break;
    }
    return "?";
}

void pg_describe(const struct session *base, struct census_client *row)
{
    const struct pg_session *s = OWNER(base, const struct pg_session, base);
    struct span name;
    row->state = state_word(s);
    if (s->server) {
        census_has(row, &s->server->base, loop_now(session_loop(base)));
        row->pinned = base->gate->conf->mode == FRONT_SESSION ? "session mode" : pg_pinned_by(s);
    }
    if (s->params && pg_params_get(s->params, SPAN_LIT("application_name"), &name))
        snprintf(row->application, sizeof row->application, "%.*s",
                 (int)(name.n < CENSUS_TEXT ? name.n : CENSUS_TEXT - 1),
                 name.n ? (const char *)name.p : "");
}
