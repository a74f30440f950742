/* SPDX-License-Identifier: MIT */
/*
 * The clocks on a client's session: one timer, and what it is set for. Each says who keeps whom
 * waiting.
 *
 *     HEAD, DISCARD       the client's bytes                timeouts.client_login
 *     WAITING, LINKED     a server, then a response's head  timeouts.request
 *     PAUSE               another try                       retry.backoff
 *     LINKED              somebody who takes nothing        timeouts.write_stall
 *     LINKED, answered    nothing that could be taken       timeouts.read_stall
 *     IDLE                another request                   timeouts.client_idle
 *
 * While an upstream does not take the request's body, write_stall comes before what is left of the
 * request's own time, which waits in work->due_ms.
 */
#include "proxy/front/http.h"

void hr_set_deadline(struct hr_session *s, enum hr_deadline kind, uint64_t ms)
{
    s->deadline = ms ? (uint8_t)kind : HR_DEADLINE_NONE;
    session_deadline(&s->base, ms);
}

/* When the request's time is up; 0: never. */
static uint64_t request_due(const struct hr_session *s)
{
    if (s->deadline == HR_DEADLINE_STALL && s->work && !s->answered)
        return s->work->due_ms;
    return s->deadline == HR_DEADLINE_REQUEST ? s->base.timer.due : 0;
}

bool hr_has_time(const struct hr_session *s, uint64_t ms)
{
    uint64_t due = request_due(s);
    return !due || loop_now(session_loop(&s->base)) + ms < due;
}

void hr_pause(struct hr_session *s, uint64_t ms)
{
    s->work->due_ms = request_due(s);
    hr_become(s, HR_PAUSE);
    hr_set_deadline(s, HR_DEADLINE_PAUSE, ms);
}

void hr_pause_over(struct hr_session *s)
{
    uint64_t due = s->work->due_ms, now = loop_now(session_loop(&s->base));
    uint64_t left = due > now ? due - now : 1;
    hr_set_deadline(s, HR_DEADLINE_REQUEST, due ? left : 0);
}

static bool is_server_behind(const struct hr_session *s)
{
    return s->server && io_unsent(&s->server->base.io);
}

/* Grows while the peer takes bytes, out of our queue or out of the kernel's: a slow one may need
   longer for what the kernel holds than a stuck one is given. */
static int64_t taken_by_client(const struct hr_session *s)
{
    return (int64_t)s->given - (int64_t)io_untaken(&s->base.io);
}

static int64_t taken_by_server(const struct hr_session *s)
{
    return (int64_t)s->sent - (int64_t)io_untaken(&s->server->base.io);
}

/* Other clocks go on until they are over; the request's may be interrupted for an earlier one. */
static bool may_watch(const struct hr_session *s)
{
    uint64_t ms = hr_timeouts(s)->write_stall_ms;
    if (s->deadline == HR_DEADLINE_REQUEST)
        return is_server_behind(s) && ms && hr_has_time(s, ms);
    return s->deadline == HR_DEADLINE_NONE || s->deadline == HR_DEADLINE_IDLE ||
           s->deadline == HR_DEADLINE_SILENT;
}

void hr_watch(struct hr_session *s)
{
    if (!may_watch(s))
        return;
    if (io_unsent(&s->base.io) || is_server_behind(s)) {
        s->client_mark = taken_by_client(s);
        if (is_server_behind(s))
            s->server_mark = taken_by_server(s);
        if (s->work)
            s->work->due_ms = request_due(s);
        hr_set_deadline(s, HR_DEADLINE_STALL, hr_timeouts(s)->write_stall_ms);
    } else if (s->state == HR_LINKED && s->answered && s->deadline == HR_DEADLINE_NONE) {
        s->moved_ms = loop_now(session_loop(&s->base));
        hr_set_deadline(s, HR_DEADLINE_SILENT, hr_timeouts(s)->read_stall_ms);
    }
}

void hr_stall_over(struct hr_session *s)
{
    if (s->work && !s->answered)
        hr_pause_over(s);
    else
        hr_set_deadline(s, HR_DEADLINE_NONE, 0);
}

static void on_stall(struct hr_session *s)
{
    struct err err;
    bool client = io_unsent(&s->base.io) && taken_by_client(s) <= s->client_mark;
    if (!client && !(is_server_behind(s) && taken_by_server(s) <= s->server_mark)) {
        hr_stall_over(s);
        hr_watch(s); /* slow, but not stuck */
        return;
    }
    err_set(&err, CAUSE_WRITE_STALL, client ? STAGE_CLIENT : STAGE_EXCHANGE, 0,
            "%s took nothing for %llu ms (timeouts.write_stall)",
            client ? "the client" : s->server->base.endpoint->label,
            (unsigned long long)hr_timeouts(s)->write_stall_ms);
    if (client)
        session_close(&s->base, &err);
    else
        hr_fail(s, &err, OUTCOME_DROP_TIMEOUT, SERVICE_FAILED);
}

/* A response has begun and does not go on. */
static void on_silence(struct hr_session *s)
{
    uint64_t ms = hr_timeouts(s)->read_stall_ms;
    uint64_t quiet = loop_now(session_loop(&s->base)) - s->moved_ms;
    struct err err;
    if (!ms || quiet < ms) {
        hr_set_deadline(s, HR_DEADLINE_SILENT, ms ? ms - quiet : 0);
        return;
    }
    /* An upstream that waits for the rest of the request has nothing to reproach itself with. */
    if (!http_parser_is_done(hr_parser(s)) && !s->deaf) {
        err_set(&err, CAUSE_CLIENT_TIMEOUT, STAGE_CLIENT, 0,
                "nothing of the request's body came for %llu ms (timeouts.read_stall)",
                (unsigned long long)ms);
        hr_fail(s, &err, OUTCOME_DROP_DIRTY, SERVICE_NEUTRAL);
        return;
    }
    err_set(&err, CAUSE_IDLE_TIMEOUT, STAGE_EXCHANGE, 0,
            "%s sent nothing more of its response for %llu ms (timeouts.read_stall)",
            s->server->base.endpoint->label, (unsigned long long)ms);
    hr_fail(s, &err, OUTCOME_DROP_TIMEOUT, SERVICE_FAILED);
}

static void on_request_late(struct hr_session *s)
{
    unsigned long long ms = hr_timeouts(s)->request_ms;
    struct err err;
    if (s->state == HR_WAITING) {
        pool_cancel(&s->work->waiter);
        err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_WAIT, 0,
                "no server free within %llu ms (timeouts.request)", ms);
        hr_refuse(s, &err, 0, 0);
        return;
    }
    struct server *sv = &s->server->base;
    /* Who keeps whom waiting? A client that waits for 100 has nothing to reproach itself with. */
    if (!http_parser_is_done(hr_parser(s)) && !io_unsent(&sv->io) && !(s->expects && !s->heard)) {
        err_set(&err, CAUSE_CLIENT_TIMEOUT, STAGE_CLIENT, 0,
                "nothing of the request's body came for %llu ms (timeouts.request)", ms);
        s->client_keep = false;
        hr_fail(s, &err, OUTCOME_DROP_DIRTY, SERVICE_NEUTRAL);
        return;
    }
    err_set(&err, CAUSE_REQUEST_TIMEOUT, STAGE_EXCHANGE, 0,
            "%s did not answer within %llu ms (timeouts.request)", sv->endpoint->label, ms);
    hr_fail(s, &err, OUTCOME_DROP_TIMEOUT, SERVICE_FAILED);
}

/* HEAD, DISCARD, TLS: what has to come from the client does not come. */
static void on_client_late(struct hr_session *s)
{
    struct err err;
    err_set(&err, CAUSE_CLIENT_TIMEOUT, STAGE_CLIENT, 0,
            "the request's %s did not come within %llu ms (timeouts.client_login)",
            s->state == HR_DISCARD ? "body" : "head",
            (unsigned long long)hr_timeouts(s)->client_login_ms);
    if (s->state == HR_HEAD) {
        s->client_keep = false;
        s->is_head = false;
        hr_refuse(s, &err, 0, 0);
    } else {
        session_close(&s->base, &err);
    }
}

void hr_on_deadline(struct session *base)
{
    struct hr_session *s = hr_session_of(base);
    enum hr_deadline kind = s->deadline;
    struct err err;
    s->deadline = HR_DEADLINE_NONE;
    switch (kind) {
    case HR_DEADLINE_NONE:
        return;
    case HR_DEADLINE_HEAD:
        on_client_late(s);
        break;
    case HR_DEADLINE_IDLE:
        err_set(&err, CAUSE_CLIENT_TIMEOUT, STAGE_CLIENT, 0,
                "idle for %llu ms (timeouts.client_idle)",
                (unsigned long long)hr_timeouts(s)->client_idle_ms);
        session_error(base, &err);
        hr_linger(s);
        break;
    case HR_DEADLINE_REQUEST:
        on_request_late(s);
        break;
    case HR_DEADLINE_PAUSE:
        hr_try_again(s);
        break;
    case HR_DEADLINE_STALL:
        on_stall(s);
        break;
    case HR_DEADLINE_SILENT:
        on_silence(s);
        break;
    case HR_DEADLINE_LINGER:
        session_close(base, NULL);
        break;
    case HR_DEADLINE_REFUSE:
        hr_turn_away(s);
        break;
    }
    if (!base->closed)
        hr_advance(s);
}
