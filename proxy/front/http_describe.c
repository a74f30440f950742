/* SPDX-License-Identifier: MIT */
/* What operators see of an HTTP client. */
#include "proxy/front/census.h"
#include "proxy/front/http.h"

static const char *state_word(enum hr_state state)
{
    switch (state) {
    case HR_TLS:
        return "login";
    case HR_IDLE:
        return "idle";
    case HR_HEAD:
    case HR_DISCARD:
        return "reading";
    case HR_WAITING:
    case HR_PAUSE:
        return "waiting";
    case HR_LINKED:
        return "active";
    case HR_LINGER:
        return "closing";
    case HR_STATES:
        break;
    }
    return "?";
}

void hr_describe(const struct session *base, struct census_client *row)
{
    const struct hr_session *s = OWNER(base, const struct hr_session, base);
    row->state = state_word(s->state);
    if (s->server)
        census_has(row, &s->server->base, loop_now(session_loop(base)));
}
