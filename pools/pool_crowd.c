/* SPDX-License-Identifier: MIT */
/* The figures of all workers' pools added up, for the words to a client that got no server. */
#include "pools/pool_private.h"

void pool_crowd(const struct pool *p, struct pool_crowd *out)
{
    const struct ledger *l = p->ledger;
    uint64_t now = loop_now(p->loop);
    struct ledger_view view;
    ledger_view(p->ledger, &view);
    *out = (struct pool_crowd){.open = view.open,
                               .max = view.max,
                               .group_open = view.group.open,
                               .group_max = view.group.max,
                               .dialing = view.dialing};
    for (unsigned i = 0; i < l->n_workers; i++) {
        const struct ledger_worker *w = &l->workers[i];
        unsigned waiting = atomic_load(&w->waiters);
        uint64_t since = atomic_load(&w->oldest_ms);
        out->busy += (unsigned)counter_get(&pool_stats(w->pool)->busy);
        out->waiting += waiting;
        if (waiting && elapsed_ms(now, since) > out->oldest_ms)
            out->oldest_ms = elapsed_ms(now, since);
    }
}
