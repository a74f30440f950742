/* SPDX-License-Identifier: MIT */
/*
 * Which endpoints are worth dialing when the pool wants servers of one role (`target`), and what is
 * to go when the role has moved.
 *
 *     UNKNOWN --dial well--> FIT --dial failed--> UNKNOWN     (a replica that is down stays FIT)
 *        \---wrong role----> UNFIT --dial failed--> UNKNOWN    either way round, too
 *
 * An endpoint of the wrong role is not down: its door stays closed, and while clients wait it is
 * looked at again about once a second, since it may be promoted any time.
 *
 * With prefer-replica UNFIT means a primary, which will do for lack of better: dials that may find
 * a standby elsewhere are picky, others take it, and the pool then makes do. So long it looks,
 * beside its work, at the endpoints where a standby may be, so that no waiter has to try them; the
 * first one found ends that, and the servers of the primary go as they come free.
 */
#include "pools/ledger_private.h"
#include "pools/pool_private.h"
#include "pools/server.h"

/* There is one primary: where it was found goes before where it was not looked for. */
unsigned ledger_rank(const struct ledger *l, const struct ledger_endpoint *e)
{
    switch (l->conf->target) {
    case TARGET_PRIMARY:
        return e->fitness == FITNESS_UNFIT ? 2 : e->fitness == FITNESS_UNKNOWN ? 1 : 0;
    case TARGET_REPLICA:
        return e->fitness == FITNESS_UNFIT ? 2 : 0;
    case TARGET_PREFER_REPLICA:
        return e->fitness == FITNESS_UNFIT ? 1 : 0;
    case TARGET_ANY:
        break;
    }
    return 0;
}

bool ledger_is_useless(const struct ledger *l, const struct ledger_endpoint *e)
{
    return e->fitness == FITNESS_UNFIT && l->conf->target != TARGET_PREFER_REPLICA;
}

bool ledger_is_picky(const struct ledger *l, const struct ledger_endpoint *e)
{
    if (l->conf->target != TARGET_PREFER_REPLICA || e->fitness == FITNESS_UNFIT)
        return false;
    for (size_t i = 0; i < l->n_endpoints; i++) {
        const struct ledger_endpoint *other = &l->endpoints[i];
        if (other != e && other->fitness != FITNESS_UNFIT && !other->fail_streak)
            return true;
    }
    return false;
}

uint64_t ledger_waits_for_better(const struct ledger *l, const struct ledger_endpoint *e)
{
    uint64_t until = 0;
    if (l->conf->target != TARGET_PREFER_REPLICA || e->fitness != FITNESS_UNFIT)
        return 0;
    for (size_t i = 0; i < l->n_endpoints; i++) {
        const struct ledger_endpoint *other = &l->endpoints[i];
        uint64_t patience = other->dialing_since + LOOK_PATIENCE_MS;
        if (other->dialing && !other->fail_streak && other->fitness != FITNESS_UNFIT &&
            patience > until)
            until = patience;
    }
    return until;
}

bool ledger_has_hope(const struct ledger *l, const struct ledger_endpoint *e)
{
    return atomic_load(&l->makes_do) && l->conf->target == TARGET_PREFER_REPLICA &&
           e->fitness != FITNESS_UNFIT;
}

bool ledger_wants_room(struct ledger *l, uint64_t now)
{
    bool wants = false;
    ledger_lock(l, now);
    if (ledger_is_full(l) && !l->closing && l->dialing < LEDGER_DIALS_MAX &&
        l->now_ms - l->way_made_ms >= DIAL_BACKOFF_MAX_MS)
        for (size_t i = 0; i < l->n_endpoints && !wants; i++)
            wants = ledger_has_hope(l, &l->endpoints[i]) && ledger_may_dial(l, &l->endpoints[i]);
    if (wants)
        l->way_made_ms = l->now_ms;
    ledger_unlock(l);
    return wants;
}

bool ledger_must_look_first(const struct ledger *l, const struct ledger_endpoint *e)
{
    return l->conf->target != TARGET_ANY && e->fitness != FITNESS_FIT && e->dialing > 0;
}

static void renew(struct ledger *l)
{
    l->renewed_ms = l->now_ms;
    atomic_store(&l->renewed, atomic_fetch_add(&l->generation, 1) + 1);
    for (size_t i = 0; i < l->n_endpoints; i++)
        l->endpoints[i].doubted = true;
}

/* There is one primary: what was another one may be a standby by now. */
static void make_do(struct ledger *l, struct ledger_endpoint *e)
{
    for (size_t i = 0; i < l->n_endpoints; i++) {
        struct ledger_endpoint *other = &l->endpoints[i];
        if (other == e || other->fitness != FITNESS_UNFIT)
            continue;
        other->fitness = FITNESS_UNKNOWN;
        other->fail_streak = 0;
    }
    e->fitness = FITNESS_UNFIT;
    atomic_store(&l->makes_do, true);
}

bool ledger_found_fit(struct ledger *l, struct server *sv, struct ledger_endpoint *e)
{
    if (!server_fits_target(sv)) {
        make_do(l, e);
        return false;
    }
    atomic_store(&l->makes_do, false);
    size_t at = (size_t)(e - l->endpoints) + 1;
    bool moved = false;
    e->fitness = FITNESS_FIT;
    if (l->conf->target != TARGET_PRIMARY)
        return false;
    for (size_t i = 0; i < l->n_endpoints; i++)
        if (&l->endpoints[i] != e && l->endpoints[i].fitness == FITNESS_FIT)
            l->endpoints[i].fitness = FITNESS_UNKNOWN;
    if (l->primary && l->primary != at) {
        renew(l);
        sv->generation = atomic_load(&l->generation); /* it is what the others are renewed for */
        moved = true;
    }
    l->primary = at;
    return moved;
}

bool ledger_found_unfit(struct ledger *l, struct ledger_endpoint *e)
{
    bool was = l->primary == (size_t)(e - l->endpoints) + 1;
    if (e->fitness != FITNESS_UNFIT)
        e->fail_streak = 0;
    e->fitness = FITNESS_UNFIT;
    if (!was)
        return false;
    l->primary = 0;
    renew(l);
    return true;
}

void ledger_found_down(struct ledger *l, struct ledger_endpoint *e)
{
    if (e->fitness == FITNESS_UNFIT)
        e->fail_streak = 0;
    if (e->fitness == FITNESS_UNFIT || l->conf->target != TARGET_REPLICA)
        e->fitness = FITNESS_UNKNOWN;
}

void ledger_say_renewed(struct ledger *l)
{
    for (unsigned i = 0; i < l->n_workers; i++)
        pool_ask(l->workers[i].pool);
}

/* ---- said by a server that is in use ---- */

#define RENEW_GAP_MS 5000

bool ledger_renew(struct ledger *l, uint64_t now)
{
    ledger_lock(l, now);
    bool again = l->renewed_ms && l->now_ms - l->renewed_ms < RENEW_GAP_MS;
    if (!again)
        renew(l);
    ledger_unlock(l);
    if (!again)
        ledger_say_renewed(l);
    return !again;
}
