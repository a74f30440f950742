/* SPDX-License-Identifier: MIT */
/*
 * What a client has only while a request of its is under way, and the stock of it that the clients
 * of a route share, so that a request costs no allocation and an idle client no memory for one.
 */
#include <stdlib.h>

#include "proxy/front/http.h"

/* Kept for later, of each route; more than are busy at once are let go of. */
#define SPARE_WORKS 256

struct stock {
    struct list works;
    unsigned n;
};

static void on_more(struct deferred *d)
{
    struct hr_work *w = OWNER(d, struct hr_work, more);
    w->ended = 0;
    hr_advance(w->waiter.holder);
}

void *hr_stock_new(void)
{
    struct stock *stock = calloc(1, sizeof *stock);
    if (stock)
        list_init(&stock->works);
    return stock;
}

static void work_free(struct hr_work *w)
{
    http_parser_free(w->parser);
    free(w);
}

void hr_stock_free(void *state)
{
    struct stock *stock = state;
    LIST_EACH(n, &stock->works)
        work_free(OWNER(n, struct hr_work, node));
    free(stock);
}

static struct hr_work *work_new(struct loop *loop)
{
    const struct http_limits limits = HTTP_LIMITS_REQUEST;
    struct hr_work *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    list_init(&w->node);
    w->parser = http_parser_new(HTTP_KIND_REQUEST, &limits);
    if (!w->parser) {
        free(w);
        return NULL;
    }
    http_parser_lend(w->parser, &loop->chunks); /* a route's clients are all of one thread */
    deferred_init(&w->more, on_more);
    w->waiter.exclusive = true;
    w->waiter.holder_ops = &hr_holder_ops;
    w->waiter.on_lease = hr_on_lease;
    return w;
}

bool hr_work_begin(struct hr_session *s)
{
    struct stock *stock = s->base.route->state;
    struct list *n = list_first(&stock->works);
    if (s->work)
        return true;
    if (n) {
        list_remove(n);
        stock->n--;
        s->work = OWNER(n, struct hr_work, node);
    } else {
        s->work = work_new(session_loop(&s->base));
    }
    if (s->work)
        s->work->waiter.holder = s;
    return s->work != NULL;
}

void hr_work_end(struct hr_session *s)
{
    struct stock *stock = s->base.route->state;
    struct hr_work *w = s->work;
    if (!w)
        return;
    CHECK(w->waiter.state == WAITER_NONE);
    s->work = NULL;
    deferred_cancel(&w->more);
    w->ended = 0;
    w->asked_us = 0; /* nobody else's request is to be told as this one's */
    if (stock->n >= SPARE_WORKS) {
        work_free(w);
        return;
    }
    http_parser_reset(w->parser);
    list_push_front(&stock->works, &w->node);
    stock->n++;
}
