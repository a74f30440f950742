/* SPDX-License-Identifier: MIT */
/*
 * From a server to the client: heads are rewritten, bodies follow as they come, and when the last
 * byte has come the server goes back to the pool.
 *
 * It goes back to be used again only if both messages ended where their framing said and nothing
 * lay behind the response: a connection out of step would answer the next request with somebody
 * else's response.
 */
#include <errno.h>
#include <time.h>

#include "proxy/front/http.h"
#include "proxy/front/http_batch.h"
#include "proxy/wire/http_answer.h"
#include "proxy/wire/http_forward.h"

static void send_down(struct hr_session *s, const struct hr_batch *b)
{
    hr_send_down(s, b->iov, b->n);
}

/* ---- heads ---- */

static enum http_verdict write_head(struct hr_session *s, struct hr_batch *b,
                                    const struct http_head *head, struct http_bad *bad)
{
    char date[HTTP_DATE_LEN + 1];
    struct http_response_hop hop = {
        .pseudonym = hr_pseudonym(s),
        .client_minor = s->minor,
        /* What is left of the request would be read as the next one. */
        .close = !s->client_keep || s->base.draining || !http_parser_is_done(hr_parser(s)),
    };
    if (!head->interim && !http_find(head, HTTP_F_DATE))
        hop.date = http_date((int64_t)time(NULL), date);
    for (bool again = false;; again = true) {
        struct http_out out = hr_batch_room(b);
        enum http_verdict verdict =
            http_forward_response(head, &hop, &out, &s->framing, &s->close, bad);
        if (verdict == HTTP_FORWARD)
            hr_batch_wrote(b, out.n);
        if (verdict != HTTP_FORWARD_SMALL || again)
            return verdict;
        hr_batch_flush(b);
    }
}

static void tell_service(struct hr_session *s, enum service_result result)
{
    if (!s->judged)
        hr_tell_service(s, result);
    s->judged = true;
}

/*
 * 501 and 505 are about the request; other 5xx say that the upstream is not well. That it is, is
 * known at the response's end; but a trial, for which others wait, may be about a stream that lasts
 * for hours.
 */
static void judge(struct hr_session *s, const struct http_head *head)
{
    const struct ledger *l = pool_ledger(session_pool(&s->base));
    if (head->status >= 500 && head->status != 501 && head->status != 505)
        tell_service(s, SERVICE_FAILED);
    else if (atomic_load_explicit(&l->service_shut, memory_order_relaxed))
        tell_service(s, SERVICE_WELL);
}

/* The final head goes out: from here on only the body matters. */
static void note_answer(struct hr_session *s, const struct http_head *head)
{
    s->answered = true;
    s->status = head->status;
    s->server_keep = head->keep_alive;
    s->keep_alive_s = head->keep_alive_timeout;
    /* RFC 9112 section 9.3: it will not read the rest, and writing on could cost its last words. */
    s->deaf = !head->keep_alive;
    s->storing = false;
    bufq_clear(&session_loop(&s->base)->chunks, &s->replay);
    judge(s, head);
    hr_set_deadline(s, HR_DEADLINE_NONE, 0);
}

/* An upstream closes an idle connection with a 408 that answers nothing. */
static bool is_farewell(const struct hr_session *s, const struct http_head *head)
{
    return head->status == 408 && !head->keep_alive && s->reused;
}

/* False: the exchange is over for this server. */
static bool on_head(struct hr_session *s, struct hr_batch *b, const struct http_head *head)
{
    struct http_bad bad;
    struct err err;
    s->interim = head->interim;
    if (is_farewell(s, head) && !s->told_interim) {
        s->heard = false;
        if (hr_retry(s, OUTCOME_DROP_CLOSING))
            return false;
        s->heard = true;
    }
    switch (write_head(s, b, head, &bad)) {
    case HTTP_FORWARD:
        s->told_interim = true;
        break;
    case HTTP_FORWARD_SKIP:
        return true;
    case HTTP_FORWARD_SMALL:
    case HTTP_FORWARD_SELF:
        bad = (struct http_bad){502, CAUSE_UPSTREAM_PROTOCOL, "the head is too long to forward"};
        /* fall through */
    case HTTP_FORWARD_NOT:
        err_set(&err, bad.cause, STAGE_EXCHANGE, 0, "%s: %s", s->server->base.endpoint->label,
                bad.reason);
        hr_fail(s, &err, OUTCOME_DROP_PROTOCOL, SERVICE_FAILED);
        return false;
    }
    if (!head->interim)
        note_answer(s, head);
    return true;
}

/* ---- bodies ---- */

static void put_body(struct hr_session *s, struct hr_batch *b, struct span payload)
{
    if (s->framing == HTTP_BODY_CHUNKED)
        hr_batch_put_chunk(b, payload);
    else
        hr_batch_put(b, payload);
}

static void put_end(struct hr_session *s, struct hr_batch *b)
{
    if (s->framing == HTTP_BODY_CHUNKED)
        hr_batch_put(b, HTTP_CHUNK_LAST);
}

/* ---- the end of the response ---- */

static enum outcome judge_server(const struct hr_session *s, size_t surplus)
{
    if (surplus)
        return OUTCOME_DROP_UNREAD;
    if (!http_parser_is_done(hr_parser(s)) || s->deaf || io_unsent(&s->server->base.io))
        return s->server_keep ? OUTCOME_DROP_DIRTY : OUTCOME_DROP_CLOSING;
    return OUTCOME_KEEP;
}

static void on_end(struct hr_session *s, size_t surplus)
{
    struct http_server *hs = s->server;
    struct server *sv = &hs->base;
    hs->after = judge_server(s, surplus);
    hs->keep_alive_s = s->keep_alive_s;
    http_parser_reset(hs->parser);
    tell_service(s, SERVICE_WELL);
    hr_access(s, CAUSE_NONE);
    s->server = NULL;
    pool_give_back(&sv);
    hr_end(s, s->close);
}

static void on_bad(struct hr_session *s, const struct http_bad *bad)
{
    struct err err;
    err_set(&err, bad->cause, STAGE_EXCHANGE, 0, "%s: %s", s->server->base.endpoint->label,
            bad->reason);
    hr_fail(s, &err, OUTCOME_DROP_PROTOCOL, SERVICE_FAILED);
}

/* ---- bytes ---- */

static void after_walk(struct hr_session *s)
{
    /* Nothing of the heads is needed while a body streams. */
    if (s->answered) {
        http_parser_drop_head(s->server->parser);
        http_parser_drop_head(hr_parser(s));
    }
    if (io_unsent(&s->base.io) > hr_high_water(s))
        io_pause(&s->server->base.io);
    s->moved_ms = loop_now(session_loop(&s->base));
    hr_watch(s);
}

static void walk(struct hr_session *s, struct span in)
{
    struct http_parser *parser = s->server->parser;
    struct hr_batch b;
    hr_batch_init(&b, s, session_loop(&s->base), send_down);
    s->heard = true;
    for (;;) {
        size_t used;
        struct http_event ev;
        enum http_step step = http_parser_feed(parser, in, &used, &ev);
        in = span_skip(in, used);
        switch (step) {
        case HTTP_STEP_MORE:
            hr_batch_flush(&b);
            after_walk(s);
            return;
        case HTTP_STEP_HEAD:
            if (!on_head(s, &b, ev.head))
                return;
            break;
        case HTTP_STEP_BODY:
            put_body(s, &b, ev.body);
            break;
        case HTTP_STEP_END:
            if (s->interim) {
                http_parser_reset(parser);
                break;
            }
            put_end(s, &b);
            hr_batch_flush(&b);
            on_end(s, in.n);
            return;
        case HTTP_STEP_BAD:
            hr_batch_flush(&b);
            on_bad(s, &ev.bad);
            return;
        }
    }
}

/* End-of-file may be how the body ends; else the server was lost. */
static void on_gone(struct hr_session *s, ssize_t n)
{
    struct server *sv = &s->server->base;
    struct http_event ev;
    struct err err;
    struct hr_batch b;
    if (n == 0 && s->answered && !sv->io.truncated &&
        http_parser_eof(s->server->parser, &ev) == HTTP_STEP_END) {
        hr_batch_init(&b, s, session_loop(&s->base), send_down);
        put_end(s, &b);
        hr_batch_flush(&b);
        tell_service(s, SERVICE_WELL);
        hr_access(s, CAUSE_NONE);
        s->server = NULL;
        pool_drop(&sv, OUTCOME_DROP_EOF);
        hr_end(s, s->close);
        return;
    }
    server_lost_err(sv, n, &err);
    if (s->answered || s->heard)
        err_set(&err, err.cause, err.stage, err.sys,
                "%s closed the connection in the middle of a %s", sv->endpoint->label,
                s->answered ? "response" : "response's head");
    hr_lose_server(s, &err, OUTCOME_DROP_EOF);
}

static void on_readable(struct server *sv)
{
    struct hr_session *s = sv->holder;
    struct loop *loop = session_loop(&s->base);
    ssize_t n = server_read(sv, loop->scratch, LOOP_READ_MAX);
    if (n == -EAGAIN)
        return;
    if (n > 0)
        walk(s, span_of(loop->scratch, (size_t)n));
    else
        on_gone(s, n);
    if (!s->base.closed && s->base.io.broken)
        hr_client_gone(s, -s->base.io.broken);
    hr_advance(s);
}

static void on_drained(struct server *sv)
{
    hr_advance(sv->holder);
}

/* The pool takes it away: carpool's own end. */
static void on_lost(struct server *sv, const struct err *err)
{
    struct hr_session *s = sv->holder;
    hr_fail(s, err, OUTCOME_DROP_DRAINING, SERVICE_NEUTRAL);
    hr_advance(s);
}

const struct holder_ops hr_holder_ops = {
    .on_readable = on_readable,
    .on_drained = on_drained,
    .on_lost = on_lost,
};
