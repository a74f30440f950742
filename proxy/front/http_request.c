/* SPDX-License-Identifier: MIT */
/*
 * From the client to a server: heads are judged and rewritten, bodies follow as they come. What
 * may have to be said again to another server (http_tries.c) is kept, up to hr_replay_max().
 */
#include <errno.h>
#include <string.h>

#include "proxy/front/http.h"
#include "proxy/front/http_batch.h"
#include "proxy/wire/http_forward.h"

/* ---- to the server ---- */

/* Keeps a piece of the body for another try. */
static void store(struct hr_session *s, struct span piece)
{
    struct chunk_pool *chunks = &session_loop(&s->base)->chunks;
    if (s->replay_lost || !piece.n)
        return;
    if (s->replay.len + piece.n > hr_replay_max(s) || !bufq_append(chunks, &s->replay, piece)) {
        bufq_clear(chunks, &s->replay);
        s->replay_lost = true;
    }
}

/* Not a byte was taken: what cannot be made again is kept, so that another server may have it. */
static void rescue(struct hr_session *s, const struct hr_batch *b)
{
    size_t skip = b->redo;
    for (int i = 0; i < b->n && !s->storing; i++) {
        struct span piece = span_of(b->iov[i].iov_base, b->iov[i].iov_len);
        size_t n = skip < piece.n ? skip : piece.n;
        skip -= n;
        store(s, span_skip(piece, n));
    }
    s->unsent = true;
}

static void send_up(struct hr_session *s, const struct hr_batch *b)
{
    if (!s->server || s->unsent)
        return;
    struct server *sv = &s->server->base;
    if (server_sendv(sv, b->iov, b->n)) {
        for (int i = 0; i < b->n; i++)
            s->sent += b->iov[i].iov_len;
    } else if (s->sent == 0 && sv->io.broken != ENOMEM) {
        rescue(s, b);
    }
}

static void put_up(struct hr_session *s, struct hr_batch *b, struct span piece)
{
    if (s->storing || s->unsent)
        store(s, piece);
    if (!s->unsent)
        hr_batch_put(b, piece);
}

static void put_body(struct hr_session *s, struct hr_batch *b, struct span payload)
{
    uint8_t open[HTTP_CHUNK_OPEN_MAX];
    if (s->deaf || !s->server)
        return;
    if (s->chunked)
        put_up(s, b, span_of(open, http_chunk_open(open, payload.n)));
    put_up(s, b, payload);
    if (s->chunked)
        put_up(s, b, HTTP_CHUNK_CLOSE);
}

/* ---- the head ---- */

static enum http_verdict write_head(struct hr_session *s, struct http_out *out,
                                    struct http_bad *bad)
{
    const struct endpoint_conf *e = &pool_conf(session_pool(&s->base))->endpoints[0];
    struct http_request_hop hop = {
        .pseudonym = hr_pseudonym(s),
        .client = span_str(s->client),
        .client_tls = s->base.io.tls != NULL,
        .authority = e->unix_path ? SPAN_LIT("localhost") : span_str(e->label),
    };
    return http_forward_request(http_parser_head(hr_parser(s)), &hop, out, bad);
}

/* For a server that was granted later, or another one: the head again, and what is kept of the
 * body. */
static void put_again(struct hr_session *s, struct hr_batch *b)
{
    struct http_bad bad;
    struct http_out out = hr_batch_room(b);
    s->head_due = false;
    CHECK(write_head(s, &out, &bad) == HTTP_FORWARD); /* it has been, for this request, before */
    hr_batch_wrote(b, out.n);
    struct iovec kept[HR_REPLAY_MAX / CHUNK_DATA + 3];
    int n = bufq_iov(&s->replay, kept, ARRAY_LEN(kept));
    for (int i = 0; i < n; i++)
        hr_batch_put(b, span_of(kept[i].iov_base, kept[i].iov_len));
    b->redo = out.n + s->replay.len;
    /* What is kept may be given up as soon as more is put to it. */
    if (s->replay.len)
        hr_batch_flush(b);
}

/* limits.rate and limits.in_flight; over again in hr_become(). */
static bool admit(struct hr_session *s)
{
    struct err err;
    if (session_admit(&s->base, &err))
        return true;
    hr_refuse(s, &err, 0, 1000);
    return false;
}

/* ---- from the client ---- */

/* The fields that outlive the head. */
static void note_head(struct hr_session *s, const struct http_head *head)
{
    s->client_keep = head->keep_alive;
    s->idempotent = head->idempotent;
    s->is_head = head->method == HTTP_M_HEAD;
    s->expects = head->expect_continue;
    s->chunked = head->body == HTTP_BODY_CHUNKED;
    s->has_body = s->chunked || head->length > 0;
    s->minor = head->minor;
    s->tries = 0;
    s->head_due = s->answered = s->judged = s->deaf = s->close = false;
    s->replay_lost = s->storing = false;
    s->unsent = s->heard = s->told_interim = false;
    s->sent = 0;
}

static void refuse_bad(struct hr_session *s, const struct http_bad *bad)
{
    struct err err;
    err_set(&err, bad->cause, STAGE_CLIENT, 0, "%s", bad->reason);
    hr_refuse(s, &err, bad->status, 0);
}

static void on_head(struct hr_session *s, struct hr_batch *b, const struct http_head *head)
{
    struct http_bad bad;
    struct http_out out = hr_batch_room(b);
    note_head(s, head);
    hr_access_begin(s, head);
    if (s->state == HR_IDLE)
        hr_become(s, HR_HEAD);
    switch (write_head(s, &out, &bad)) {
    case HTTP_FORWARD:
        break;
    case HTTP_FORWARD_SELF:
        hr_answer_options(s);
        return;
    case HTTP_FORWARD_SMALL:
        bad = (struct http_bad){431, CAUSE_TOO_LARGE, "the head is too long to be forwarded"};
        refuse_bad(s, &bad);
        return;
    case HTTP_FORWARD_NOT:
    case HTTP_FORWARD_SKIP:
        refuse_bad(s, &bad);
        return;
    }
    pool_request(session_pool(&s->base));
    hr_set_deadline(s, HR_DEADLINE_REQUEST, hr_timeouts(s)->request_ms);
    if (!admit(s) || !hr_service_allows(s) || !hr_want_server(s))
        return;
    hr_batch_wrote(b, out.n);
    b->redo = out.n;
}

/* What the client sends is no HTTP, from here on at least. */
static void on_bad(struct hr_session *s, const struct http_bad *bad)
{
    struct err err;
    err_set(&err, bad->cause, STAGE_CLIENT, 0, "%s", bad->reason);
    s->client_keep = false;
    if (s->state == HR_LINKED && s->answered) {
        hr_fail(s, &err, OUTCOME_DROP_DIRTY, SERVICE_NEUTRAL);
        return;
    }
    if (s->state == HR_LINKED) {
        struct server *sv = &s->server->base;
        hr_tell_service(s, SERVICE_NEUTRAL);
        bool close = hr_say_refusal(s, &err, bad->status, 0);
        if (s->base.closed)
            return;
        s->server->after = s->sent ? OUTCOME_DROP_DIRTY : OUTCOME_KEEP;
        s->server = NULL;
        pool_give_back(&sv);
        hr_end(s, close);
        return;
    }
    if (s->state == HR_DISCARD) {
        session_error(&s->base, &err);
        hr_linger(s);
        return;
    }
    s->is_head = false; /* of the request before */
    if (s->state == HR_IDLE)
        hr_become(s, HR_HEAD);
    hr_refuse(s, &err, bad->status, 0);
}

bool hr_takes_input(const struct hr_session *s)
{
    if (s->base.closed)
        return false;
    switch (s->state) {
    case HR_IDLE:
    case HR_HEAD:
        return io_unsent(&s->base.io) <= hr_high_water(s) && !hr_is_greedy(s);
    case HR_DISCARD:
        return true;
    case HR_LINKED:
        return !http_parser_is_done(hr_parser(s)) &&
               (s->deaf || io_unsent(&s->server->base.io) <= hr_high_water(s));
    case HR_TLS:
    case HR_WAITING:
    case HR_PAUSE:
    case HR_LINGER:
    case HR_STATES:
        break;
    }
    return false;
}

static void take(struct hr_session *s, struct hr_batch *b, enum http_step step,
                 const struct http_event *ev)
{
    switch (step) {
    case HTTP_STEP_HEAD:
        on_head(s, b, ev->head);
        return;
    case HTTP_STEP_BODY:
        if (s->state == HR_LINKED)
            put_body(s, b, ev->body);
        return;
    case HTTP_STEP_END:
        if (s->state == HR_DISCARD)
            hr_end(s, false);
        else if (s->chunked && !s->deaf)
            put_up(s, b, HTTP_CHUNK_LAST);
        return;
    case HTTP_STEP_BAD:
        on_bad(s, &ev->bad);
        return;
    case HTTP_STEP_MORE:
        return;
    }
}

static void after_walk(struct hr_session *s, bool progress)
{
    if (s->state == HR_IDLE && s->work && !http_parser_is_quiet(hr_parser(s))) {
        hr_become(s, HR_HEAD);
        /* A client's first head counts from the accept on. */
        if (s->deadline != HR_DEADLINE_HEAD)
            hr_set_deadline(s, HR_DEADLINE_HEAD, hr_timeouts(s)->client_login_ms);
    }
    if (s->state == HR_LINKED && !s->answered && progress)
        hr_set_deadline(s, HR_DEADLINE_REQUEST, hr_timeouts(s)->request_ms);
    if (s->state != HR_LINKED)
        return;
    if (progress)
        s->moved_ms = loop_now(session_loop(&s->base));
    if (io_unsent(&s->server->base.io) > hr_high_water(s))
        hr_watch(s);
}

void hr_walk(struct hr_session *s, struct span in)
{
    struct loop *loop = session_loop(&s->base);
    struct hr_batch b;
    struct err err;
    bool progress = false;
    if (!hr_work_begin(s)) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        session_close(&s->base, &err);
        return;
    }
    hr_batch_init(&b, s, loop, send_up);
    if (s->head_due)
        put_again(s, &b);
    while (hr_takes_input(s)) {
        size_t used;
        struct http_event ev;
        enum http_step step = http_parser_feed(hr_parser(s), in, &used, &ev);
        in = span_skip(in, used);
        s->taken += used;
        if (step == HTTP_STEP_MORE)
            break;
        progress = progress || step == HTTP_STEP_BODY;
        take(s, &b, step, &ev);
    }
    hr_batch_flush(&b);
    if (s->base.closed)
        return;
    bool kept = s->state == HR_LINGER || !in.n || bufq_append(&loop->chunks, &s->carry, in);
    if (!kept) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, ENOMEM, "out of memory");
        session_close(&s->base, &err);
        return;
    }
    if (s->unsent && s->server) {
        err_set(&err, CAUSE_UPSTREAM_CLOSED, STAGE_EXCHANGE, s->server->base.io.broken,
                "%s had closed the connection before the request was sent",
                s->server->base.endpoint->label);
        hr_lose_server(s, &err, OUTCOME_DROP_EOF);
        return;
    }
    after_walk(s, progress);
}
