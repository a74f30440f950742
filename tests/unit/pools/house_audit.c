/* SPDX-License-Identifier: MIT */
/* The books against the truth. */
#include "tests/unit/pools/house.h"

struct census {
    const struct ledger *ledger;
    unsigned by_state[SERVER_STATES];
    unsigned promised[HOUSE_WORKERS]; /* on their way, by home */
    unsigned pinned;
};

static void take_census(struct fake_server *fs, void *arg)
{
    struct census *c = arg;
    const struct server *sv = &fs->base;
    if (sv->ledger != c->ledger)
        return;
    c->by_state[sv->state]++;
    if (sv->state == SERVER_TRAVELLING || (sv->state == SERVER_DIALING && sv->promised))
        c->promised[sv->home]++;
    if (sv->state == SERVER_BUSY && sv->exclusive && sv->capacity > 1)
        c->pinned++;
}

static unsigned length(const struct list *l)
{
    unsigned n = 0;
    LIST_EACH(pos, l)
        n++;
    return n;
}

static unsigned count(const struct counter *c)
{
    return (unsigned)counter_get(c);
}

static void audit_pool(const struct pool *p, struct census *in_pools)
{
    CHECK(pool_ok(p));
    CHECK(length(&p->idle) == count(&p->stats.idle));
    CHECK(length(&p->busy) == count(&p->stats.busy));
    CHECK(length(&p->checking) == count(&p->stats.checking));
    CHECK(length(&p->closing) == count(&p->stats.closing));
    CHECK(p->n_waiters == count(&p->stats.waiting));
    in_pools->by_state[SERVER_IDLE] += length(&p->idle);
    in_pools->by_state[SERVER_BUSY] += length(&p->busy);
    in_pools->by_state[SERVER_CHECKING] += length(&p->checking);
    in_pools->by_state[SERVER_CLOSING] += length(&p->closing);
    unsigned leases = 0, wholes = 0;
    LIST_EACH(n, &p->busy) {
        const struct server *sv = OWNER(n, struct server, node);
        CHECK(sv->leases >= 1 && sv->leases <= sv->capacity);
        CHECK(!sv->exclusive || sv->leases == 1);
        leases += sv->leases;
    }
    CHECK(leases == count(&p->stats.leased));
    LIST_EACH(n, &p->waiters)
        wholes += OWNER(n, struct waiter, node)->exclusive;
    CHECK(wholes == p->n_wholes);
}

void house_audit(struct house *h)
{
    struct census all = {.ledger = h->ledger}, pools = {0};
    struct ledger_view view;
    fake_each_server(take_census, &all);
    ledger_view(h->ledger, &view);
    for (unsigned i = 0; i < h->n; i++)
        audit_pool(h->pools[i], &pools);
    for (unsigned s = SERVER_IDLE; s <= SERVER_CLOSING; s++)
        CHECK(all.by_state[s] == pools.by_state[s]);
    unsigned live = pools.by_state[SERVER_IDLE] + pools.by_state[SERVER_BUSY] +
                    pools.by_state[SERVER_CHECKING] + all.by_state[SERVER_TRAVELLING];
    CHECK(view.closing == pools.by_state[SERVER_CLOSING]);
    CHECK(view.open == view.dialing + view.closing + live);
    CHECK(view.dialing >= all.by_state[SERVER_DIALING]); /* a failed one may be on its way home */
    CHECK(view.dialing <= LEDGER_DIALS_MAX);
    CHECK(view.pinned == all.pinned);
    for (unsigned i = 0; i < h->n; i++) {
        const struct ledger_worker *w = &h->ledger->workers[i];
        unsigned owed_to = 0, owes = 0;
        for (unsigned j = 0; j < h->n; j++) {
            owed_to += h->ledger->workers[j].owes[i];
            owes += w->owes[j];
        }
        CHECK(owes == w->asked);
        /* A failed promised dial on its way home is no longer in the census. */
        CHECK(w->promised >= all.promised[i] + owed_to);
        CHECK(w->promised <= all.promised[i] + owed_to + view.dialing);
    }
}
