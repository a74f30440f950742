/* SPDX-License-Identifier: MIT */
/*
 * What a client hears, in the order it asked. Replies of servers go through as they come, because
 * they come in order; what carpool says itself waits in the list of requests until everything
 * before it has been answered.
 */
#include <stdio.h>
#include <stdlib.h>

#include "pools/pool.h"
#include "proxy/front/redis.h"

#define FREE_REQUESTS 4096 /* kept per route for reuse */
#define SPARE_WORKS 256    /* ... and these */
#define SAY_AT_ONCE 4096   /* bytes that are not worth collecting */

void *redis_common_new(void)
{
    struct redis_common *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    list_init(&r->free);
    list_init(&r->works);
    return r;
}

void redis_common_free(void *state)
{
    struct redis_common *r = state;
    struct list *n;
    while (r && (n = list_first(&r->free))) {
        list_remove(n);
        free(OWNER(n, struct redis_request, node));
    }
    while (r && (n = list_first(&r->works))) {
        list_remove(n);
        free(OWNER(n, struct redis_work, node));
    }
    free(r);
}

static const struct err out_of_memory = {
    .cause = CAUSE_INTERNAL, .stage = STAGE_CLIENT, .note = "out of memory"};

const struct err *redis_why(const struct redis_client *c)
{
    return c->work ? &c->work->why : &out_of_memory;
}

bool redis_work_begin(struct redis_client *c)
{
    struct redis_common *route = c->base.route->state;
    if (c->work)
        return true;
    struct list *n = list_first(&route->works);
    struct redis_work *w;
    if (n) {
        list_remove(n);
        route->n_works--;
        w = OWNER(n, struct redis_work, node);
    } else {
        w = calloc(1, sizeof *w);
    }
    if (!w) {
        redis_doom(c, &out_of_memory);
        return false;
    }
    list_init(&w->node);
    redis_waiter_init(c, &w->waiter);
    w->why.cause = CAUSE_NONE;
    c->work = w;
    return true;
}

void redis_work_end(struct redis_client *c)
{
    struct redis_common *route = c->base.route->state;
    struct redis_work *w = c->work;
    if (!w)
        return;
    CHECK(w->waiter.state == WAITER_NONE);
    CHECK(!w->queued.len && !w->again.len && !w->held.len && !w->answers.len);
    c->work = NULL;
    if (route->n_works >= SPARE_WORKS) {
        free(w);
        return;
    }
    w->framer = (struct redis_framer){0};
    list_push_front(&route->works, &w->node);
    route->n_works++;
}

struct redis_request *redis_request_new(struct redis_client *c, enum redis_request_state state)
{
    struct redis_common *route = c->base.route->state;
    struct list *n = list_first(&route->free);
    struct redis_request *r;
    if (n) {
        list_remove(n);
        route->n_free--;
        r = OWNER(n, struct redis_request, node);
    } else {
        r = malloc(sizeof *r);
    }
    if (!r) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "out of memory");
        redis_doom(c, &err);
        return NULL;
    }
    *r = (struct redis_request){.client = c, .state = (uint8_t)state, .call.replies = 1};
    list_init(&r->node);
    list_init(&r->call.node);
    list_push_back(&c->requests, &r->node);
    c->n_requests++;
    return r;
}

void redis_request_free(struct redis_client *c, struct redis_request *r)
{
    struct redis_common *route = c->base.route->state;
    CHECK(!list_linked(&r->call.node) && r->permit == 0);
    list_remove(&r->node);
    c->n_requests--;
    c->bytes -= r->size;
    if (r->admitted && !c->base.closed)
        session_exchange_over(&c->base);
    r->admitted = false;
    if (route->n_free >= FREE_REQUESTS) {
        free(r);
        return;
    }
    list_push_front(&route->free, &r->node);
    route->n_free++;
}

void redis_permit_result(struct redis_client *c, struct redis_request *r, const char *sick)
{
    if (!r->permit)
        return;
    if (sick)
        pool_service_failed(session_pool(&c->base), NULL, sick, r->permit);
    else
        pool_service_neutral(session_pool(&c->base), NULL, r->permit);
    r->permit = 0;
}

/* Small pieces are collected: one write per client and turn. */
void redis_say(struct redis_client *c, struct span bytes)
{
    struct io *io = &c->base.io;
    if (bytes.n == 0 || c->doomed)
        return;
    c->said += bytes.n;
    if (bytes.n >= SAY_AT_ONCE) {
        io_flush(io);
        io_send(io, bytes.p, bytes.n);
    } else {
        io_queue(io, bytes);
    }
    redis_wake(c);
}

void redis_answer(struct redis_client *c, struct span text)
{
    if (text.n == 0)
        return;
    if (list_empty(&c->requests)) {
        redis_say(c, text);
        return;
    }
    struct redis_request *r = redis_request_new(c, REDIS_REQ_TEXT);
    if (!r)
        return;
    struct err err;
    if (bufq_append(&redis_loop(c)->chunks, &c->work->answers, text)) {
        r->text_n = r->size = (uint32_t)text.n;
        c->bytes += text.n; /* ECHO is answered with as much as was sent */
        return;
    }
    err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "out of memory");
    redis_doom(c, &err);
}

/* A pipeline that fails for one reason is one line of the log, however many errors it means. */
static void note_error(struct redis_client *c, const struct err *err)
{
    uint64_t now = loop_now(redis_loop(c));
    if (c->failed_ms == now && c->work->why.cause == err->cause)
        pool_count_error(session_pool(&c->base), err->cause);
    else
        session_error(&c->base, err);
    c->failed_ms = now;
}

void redis_fail(struct redis_client *c, struct redis_request *r, const struct err *err)
{
    redis_access(c, r, err->cause);
    redis_permit_result(c, r, NULL); /* unless more was said of the service before */
    r->state = REDIS_REQ_FAILED;
    r->cause = (uint8_t)err->cause;
    note_error(c, err);
    if (!c->doomed)
        c->work->why = *err;
    redis_wake(c);
}

static void say_text(struct redis_client *c, size_t n)
{
    while (n > 0) {
        struct iovec iov;
        CHECK(bufq_iov(&c->work->answers, &iov, 1) == 1);
        size_t part = iov.iov_len < n ? iov.iov_len : n;
        redis_say(c, span_of(iov.iov_base, part));
        bufq_consume(&redis_loop(c)->chunks, &c->work->answers, part);
        n -= part;
    }
}

static void say_failure(struct redis_client *c, const struct redis_request *r)
{
    uint8_t buf[512];
    struct redis_out out = redis_out_of(buf, sizeof buf);
    enum cause cause = (enum cause)r->cause;
    static const char *const fates[] = {
        [REDIS_FATE_NONE] = "",
        [REDIS_FATE_UNSENT] = "; the command was not sent",
        [REDIS_FATE_UNKNOWN] = "; outcome unknown: it may have been executed",
    };
    char text[256];
    const struct err *why = &c->work->why;
    snprintf(text, sizeof text, "%s%s",
             why->cause == cause ? why->note : "the request could not be done", fates[r->fate]);
    redis_put_refusal(&out, cause, text);
    for (uint32_t i = 0; i < r->call.replies && !r->slot.mute; i++)
        redis_say(c, redis_out_span(&out));
}

void redis_deliver(struct redis_client *c)
{
    struct list *n;
    while ((n = list_first(&c->requests))) {
        struct redis_request *r = OWNER(n, struct redis_request, node);
        if (r->state == REDIS_REQ_TEXT)
            say_text(c, r->text_n);
        else if (r->state == REDIS_REQ_FAILED)
            say_failure(c, r);
        else
            return;
        redis_request_free(c, r);
    }
}
