/* SPDX-License-Identifier: MIT */
/*
 * What carpool itself says to an HTTP client, and what becomes of the connection after an answer.
 *
 * A connection is closed in two steps (RFC 9112 section 9.6): end-of-file first, then it waits for
 * the client's, reading what still comes. Closing at once would answer those bytes with a reset,
 * and a reset takes back what the client has not read yet: the answer that explains the closing.
 */
#include <time.h>

#include "proxy/front/http.h"
#include "proxy/wire/http_answer.h"

/* Has the client's request ended, or is so little left that reading it is cheaper than a
 * connection? */
static bool may_keep(const struct hr_session *s)
{
    if (!s->client_keep || s->base.draining)
        return false;
    if (http_parser_is_done(hr_parser(s)))
        return true;
    const struct http_head *head = http_parser_head(hr_parser(s));
    return head && head->body == HTTP_BODY_LENGTH && head->length <= HR_DISCARD_MAX && !s->expects;
}

static void say(struct hr_session *s, const struct http_out *out)
{
    hr_send_down(s, &(struct iovec){out->p, out->n}, 1);
}

static struct span now_date(char buf[HTTP_DATE_LEN + 1])
{
    return http_date((int64_t)time(NULL), buf);
}

bool hr_say_refusal(struct hr_session *s, const struct err *err, unsigned status, uint64_t wait_ms)
{
    uint8_t buf[HTTP_REFUSAL_MAX];
    char date[HTTP_DATE_LEN + 1];
    struct http_out out = http_out_of(buf, sizeof buf);
    bool close = !may_keep(s);
    struct http_refusal refusal = {
        .status = status ? status : http_status_of(err->cause),
        .err = err,
        .date = now_date(date),
        .retry_after = (unsigned)((wait_ms + 999) / 1000),
        .close = close,
        .head = s->is_head,
    };
    if (!http_refuse(&out, &refusal)) {
        session_close(&s->base, err);
        return true;
    }
    session_error(&s->base, err);
    say(s, &out);
    s->status = (uint16_t)refusal.status;
    hr_access(s, err->cause);
    return close;
}

void hr_refuse(struct hr_session *s, const struct err *err, unsigned status, uint64_t wait_ms)
{
    bool close = hr_say_refusal(s, err, status, wait_ms);
    if (!s->base.closed)
        hr_end(s, close);
}

void hr_answer_options(struct hr_session *s)
{
    uint8_t buf[512];
    char date[HTTP_DATE_LEN + 1];
    struct http_out out = http_out_of(buf, sizeof buf);
    bool close = !may_keep(s);
    if (!http_answer_options(&out, now_date(date), close)) {
        session_close(&s->base, NULL);
        return;
    }
    say(s, &out);
    hr_end(s, close);
}

void hr_end(struct hr_session *s, bool close)
{
    CHECK(!s->server);
    hr_tell_service(s, SERVICE_NEUTRAL);
    bufq_clear(&session_loop(&s->base)->chunks, &s->replay);
    s->head_due = s->logged = false;
    if (s->work) {
        s->work->asked_us = 0;
        s->work->ended++;
    }
    s->taken = 0;
    s->given_before = s->given;
    s->status = 0;
    if (close || s->base.draining) {
        hr_linger(s);
        return;
    }
    if (!http_parser_is_done(hr_parser(s))) {
        hr_become(s, HR_DISCARD);
        hr_set_deadline(s, HR_DEADLINE_HEAD, hr_timeouts(s)->client_login_ms);
        return;
    }
    http_parser_reset(hr_parser(s));
    hr_become(s, HR_IDLE);
    hr_set_deadline(s, HR_DEADLINE_IDLE, hr_timeouts(s)->client_idle_ms);
    hr_watch(s);
}

void hr_linger(struct hr_session *s)
{
    hr_become(s, HR_LINGER);
    bufq_clear(&session_loop(&s->base)->chunks, &s->carry);
    if (s->work)
        http_parser_drop_head(hr_parser(s));
    if (!io_unsent(&s->base.io)) {
        hr_linger_drained(s);
        return;
    }
    hr_set_deadline(s, HR_DEADLINE_NONE, 0);
    hr_watch(s);
}

void hr_linger_drained(struct hr_session *s)
{
    if (s->client_eof || s->base.io.broken) {
        session_close(&s->base, NULL);
        return;
    }
    io_shutdown(&s->base.io);
    hr_set_deadline(s, HR_DEADLINE_LINGER, HR_LINGER_MS);
}
