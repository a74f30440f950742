/* SPDX-License-Identifier: MIT */
/* Clients as simple as they can be. */
#include "tests/unit/pools/house.h"

#include <errno.h>
#include <stdlib.h>

static void guest_gets(struct guest *g)
{
    struct server *sv = g->waiter.server;
    g->turn = ++g->house->served;
    if (sv->exclusive)
        g->server = sv;
    else
        fake_board(&g->rider, sv);
}

static void guest_on_lease(struct waiter *w)
{
    struct guest *g = OWNER(w, struct guest, waiter);
    g->calls++;
    if (w->server)
        guest_gets(g);
    else
        g->why = w->err.cause;
}

static void guest_lost(struct guest *g, const struct err *err, enum outcome how)
{
    g->lost++;
    g->why = err->cause;
    guest_end(g, how);
}

static void guest_on_readable(struct server *sv)
{
    struct guest *g = sv->holder;
    CHECK(g->server == sv);
    char bytes[64];
    ssize_t n = server_read(sv, bytes, sizeof bytes);
    if (n > 0) {
        g->answers += (unsigned)n;
    } else if (n != -EAGAIN) {
        struct err err;
        server_lost_err(sv, n, &err);
        guest_lost(g, &err, OUTCOME_DROP_EOF);
    }
}

static void guest_on_lost(struct server *sv, const struct err *err)
{
    guest_lost(sv->holder, err, OUTCOME_DROP_DRAINING);
}

static const struct holder_ops guest_ops = {.on_readable = guest_on_readable,
                                            .on_lost = guest_on_lost};

static void guest_on_answer(struct fake_rider *r)
{
    OWNER(r, struct guest, rider)->answers++;
}

static void guest_rider_lost(struct fake_rider *r, const struct err *err)
{
    guest_lost(OWNER(r, struct guest, rider), err, OUTCOME_DROP_EOF);
}

enum lease_result guest_ask(struct house *h, unsigned worker, struct guest *g, bool exclusive)
{
    CHECK(!guest_has(g) && g->waiter.state == WAITER_NONE);
    g->house = h;
    g->waiter.exclusive = exclusive;
    g->waiter.holder_ops = &guest_ops;
    g->waiter.holder = g;
    g->waiter.on_lease = guest_on_lease;
    g->rider.on_answer = guest_on_answer;
    g->rider.on_lost = guest_rider_lost;
    g->calls = 0;
    g->why = CAUSE_NONE;
    g->result = pool_lease(h->pools[worker], &g->waiter);
    if (g->result == LEASE_GRANTED)
        guest_gets(g);
    else if (g->result == LEASE_REFUSED)
        g->why = g->waiter.err.cause;
    return g->result;
}

struct server *guest_server(const struct guest *g)
{
    return g->server ? g->server : g->rider.server;
}

bool guest_has(const struct guest *g)
{
    return guest_server(g) != NULL;
}

void guest_end(struct guest *g, enum outcome how)
{
    struct server *sv = g->server;
    g->server = NULL;
    if (!sv)
        fake_leave(&g->rider, how);
    else if (how == OUTCOME_KEEP)
        pool_give_back(&sv);
    else
        pool_drop(&sv, how);
}

void guest_work(struct guest *g)
{
    if (g->server)
        server_send(g->server, "x", 1);
    else
        fake_ask(&g->rider);
}

void house_fill(struct house *h, unsigned worker, unsigned n)
{
    struct guest *guests = calloc(n + 1, sizeof *guests);
    CHECK(guests != NULL);
    for (unsigned i = 0; i < n; i++) {
        guest_ask(h, worker, &guests[i], true);
        house_settle(h);
        CHECK(guest_has(&guests[i]));
    }
    for (unsigned i = 0; i < n; i++)
        guest_end(&guests[i], OUTCOME_KEEP);
    house_settle(h);
    free(guests);
}
