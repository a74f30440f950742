/* SPDX-License-Identifier: MIT */
/*
 * What a Redis client waits for, and for how long: one timer, set for the earliest of all
 * deadlines.
 */
#include "health/deadline.h"
#include "pools/pool.h"
#include "proxy/front/redis.h"

static const struct timeouts_conf *timeouts_of(const struct redis_client *c)
{
    return &pool_conf(session_pool(&c->base))->timeouts;
}

static struct redis_request *first_request(const struct redis_client *c)
{
    struct list *n = list_first(&c->requests);
    return n ? OWNER(n, struct redis_request, node) : NULL;
}

/*
 * When the first request's time is over. Requests behind it come to be first. While a reply comes
 * in pieces, each has that time anew, and a client that does not take them is stall_due()'s.
 */
static uint64_t request_due(const struct redis_client *c)
{
    const struct redis_request *r = first_request(c);
    if (!r || r->state != REDIS_REQ_FLYING || r->slot.blocking ||
        (r->call.open && io_unsent(&c->base.io)))
        return 0;
    return deadline_after(r->since_ms, timeouts_of(c)->request_ms);
}

static uint64_t login_due(const struct redis_client *c)
{
    bool in = c->state != REDIS_TLS && c->session.authenticated;
    return in ? 0 : deadline_after(c->base.since_ms, timeouts_of(c)->client_login_ms);
}

static uint64_t idle_due(const struct redis_client *c)
{
    bool idle = list_empty(&c->requests) && !redis_session_subscribed(&c->session);
    return idle ? deadline_after(c->active_ms, timeouts_of(c)->client_idle_ms) : 0;
}

static uint64_t stall_due(const struct redis_client *c)
{
    bool stalled = io_unsent(&c->base.io);
    return stalled ? deadline_after(c->moved_ms, timeouts_of(c)->write_stall_ms) : 0;
}

/*
 * Its commands fill every buffer, and behind a call that blocks nothing moves. The client may have
 * left: its end-of-file would be behind what cannot be read.
 */
static uint64_t jam_due(const struct redis_client *c)
{
    bool jammed = c->stalled && c->base.io.paused && c->carry.len > REDIS_CARRY_HIGH;
    return jammed ? deadline_after(c->passed_ms, timeouts_of(c)->write_stall_ms) : 0;
}

/* The pause before another try. */
static uint64_t again_due(const struct redis_client *c)
{
    return c->state == REDIS_FREE ? c->again_ms : 0;
}

/* Does the client take what it is told? */
void redis_note_progress(struct redis_client *c)
{
    uint64_t taken = c->said - io_unsent(&c->base.io);
    if (taken == c->taken && io_unsent(&c->base.io))
        return;
    c->taken = taken;
    c->moved_ms = loop_now(redis_loop(c));
}

/* The timer is left alone while it fires early enough: requests come and go without touching it. */
void redis_arm(struct redis_client *c)
{
    uint64_t due = c->end_ms;
    if (c->state != REDIS_ENDING) {
        due = deadline_earlier(request_due(c), login_due(c));
        due = deadline_earlier(due, deadline_earlier(idle_due(c), stall_due(c)));
        due = deadline_earlier(due, deadline_earlier(jam_due(c), again_due(c)));
    }
    if (!due || (c->armed_ms && c->armed_ms <= due))
        return;
    uint64_t now = loop_now(redis_loop(c));
    c->armed_ms = due;
    session_deadline(&c->base, due > now ? due - now : 1);
}

static void close_late(struct redis_client *c, enum cause cause, const char *what, uint64_t ms)
{
    struct err err;
    err_set(&err, cause, STAGE_CLIENT, 0, "%s %llu ms", what, (unsigned long long)ms);
    session_close(&c->base, &err);
}

static void time_out_requests(struct redis_client *c, uint64_t now)
{
    while (!c->doomed && deadline_passed(request_due(c), now)) {
        if (c->state != REDIS_OWN) {
            redis_time_out(c, first_request(c));
            continue;
        }
        struct err err;
        err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0, "no reply within %llu ms",
                (unsigned long long)timeouts_of(c)->request_ms);
        redis_lose_own(c, &err, OUTCOME_DROP_TIMEOUT);
    }
}

void redis_on_deadline(struct session *base)
{
    struct redis_client *c = redis_client_of(base);
    const struct timeouts_conf *t = timeouts_of(c);
    uint64_t now = loop_now(redis_loop(c));
    c->armed_ms = 0;
    redis_note_progress(c);
    if (c->state == REDIS_ENDING) {
        session_close(base, redis_why(c));
    } else if (deadline_passed(login_due(c), now)) {
        close_late(c, CAUSE_CLIENT_TIMEOUT, "not logged in within", t->client_login_ms);
    } else if (deadline_passed(stall_due(c), now)) {
        close_late(c, CAUSE_WRITE_STALL, "the client took nothing for", t->write_stall_ms);
    } else if (deadline_passed(jam_due(c), now)) {
        close_late(c, CAUSE_WRITE_STALL, "its commands could not be passed on for",
                   t->write_stall_ms);
    } else if (deadline_passed(idle_due(c), now)) {
        close_late(c, CAUSE_CLIENT_TIMEOUT, "idle for", t->client_idle_ms);
    } else {
        time_out_requests(c, now);
        redis_wake(c);
    }
}
