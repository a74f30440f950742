/* SPDX-License-Identifier: MIT */
/* Deadlines; pure, see deadline.h. */
#include "health/deadline.h"

struct deadline deadline_after(uint64_t now, uint64_t timeout_ms, enum cause cause)
{
    if (timeout_ms == 0)
        return DEADLINE_NONE;
    uint64_t at = now + timeout_ms < now ? UINT64_MAX : now + timeout_ms;
    return (struct deadline){at, cause};
}

struct deadline deadline_earlier(struct deadline a, struct deadline b)
{
    if (a.at == 0)
        return b;
    return b.at != 0 && b.at < a.at ? b : a;
}

struct deadline deadline_try(struct deadline request, uint64_t now, uint64_t per_try_ms, bool last,
                             enum cause cause)
{
    /* Without a limit for the request the last try keeps its own: it must end somehow. */
    if (last && request.at != 0)
        return request;
    return deadline_earlier(request, deadline_after(now, per_try_ms, cause));
}

bool deadline_passed(struct deadline d, uint64_t now)
{
    return d.at != 0 && now >= d.at;
}

uint64_t deadline_left(struct deadline d, uint64_t now)
{
    if (d.at == 0)
        return DEADLINE_FOREVER;
    return now < d.at ? d.at - now : 0;
}
