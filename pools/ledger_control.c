/* SPDX-License-Identifier: MIT */
/* The ledger's entries for control's verbs. */
#include <stdlib.h>
#include <string.h>

#include "pools/ledger_private.h"

void ledger_drain(struct ledger *l, bool drain)
{
    atomic_store(&l->drained, drain);
}

void ledger_pause(struct ledger *l, bool pause, uint64_t now)
{
    ledger_lock(l, now);
    atomic_store(&l->paused, pause);
    ledger_leave(l);
}

void ledger_recycle(struct ledger *l)
{
    atomic_fetch_add(&l->generation, 1);
}

void ledger_force_breaker(struct ledger *l, enum breaker_force force, uint64_t now)
{
    ledger_lock(l, now);
    for (size_t i = 0; i < l->n_endpoints; i++) {
        breaker_force(&l->endpoints[i].door, l->now_ms, force);
        breaker_force(&l->endpoints[i].service, l->now_ms, force);
        if (force == BREAKER_FORCE_AUTO)
            l->endpoints[i].next_dial_ms = 0;
    }
    ledger_note_service(l);
    ledger_leave(l);
}

static bool same(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static bool same_options(const struct endpoint_conf *x, const struct endpoint_conf *y)
{
    if (x->n_options != y->n_options)
        return false;
    for (size_t i = 0; i < x->n_options; i++)
        if (!same(x->options[i].name, y->options[i].name) ||
            !same(x->options[i].value, y->options[i].value))
            return false;
    return true;
}

static bool same_endpoints(const struct pool_conf *a, const struct pool_conf *b)
{
    if (a->n_endpoints != b->n_endpoints)
        return false;
    for (size_t i = 0; i < a->n_endpoints; i++) {
        const struct endpoint_conf *x = &a->endpoints[i], *y = &b->endpoints[i];
        if (!same(x->host, y->host) || x->port != y->port || !same(x->unix_path, y->unix_path) ||
            !same(x->user, y->user) || !same(x->password, y->password) ||
            !same(x->database, y->database) || x->tls != y->tls || !same(x->tls_ca, y->tls_ca) ||
            !same(x->tls_cert, y->tls_cert) || !same(x->tls_key, y->tls_key) || !same_options(x, y))
            return false;
    }
    return true;
}

void ledger_reconf(struct ledger *l, const struct pool_conf *conf, struct snapshot *snap,
                   uint64_t now)
{
    ledger_lock(l, now);
    struct snapshot *old = l->snap;
    /* Other endpoints, or other words to log in with: what is open is replaced as it comes free. */
    bool same = same_endpoints(l->conf, conf) && l->conf->target == conf->target;
    if (!same && ledger_make_endpoints(l, conf))
        l->endpoints_since = atomic_fetch_add(&l->generation, 1) + 1;
    for (size_t i = 0; i < l->n_endpoints; i++) {
        breaker_reconf(&l->endpoints[i].door, &conf->breaker);
        breaker_reconf(&l->endpoints[i].service, &conf->breaker);
    }
    l->conf = conf;
    l->snap = snapshot_take(snap);
    ledger_note_service(l);
    ledger_leave(l);
    snapshot_drop(&old);
}

/* All endpoints were told the same. */
static enum breaker_force forced(struct ledger *l)
{
    ledger_lock(l, 0);
    enum breaker_force force = breaker_forced(&l->endpoints[0].door);
    ledger_unlock(l);
    return force;
}

void ledger_behind(struct ledger *l, struct ledger *head)
{
    l->head = head;
    atomic_store(&l->paused, atomic_load(&head->paused));
    atomic_store(&l->drained, atomic_load(&head->drained));
    ledger_force_breaker(l, forced(head), l->now_ms);
}

bool ledger_has_orders(struct ledger *l)
{
    struct ledger *head = l->head;
    return atomic_load(&l->paused) != atomic_load(&head->paused) ||
           atomic_load(&l->drained) != atomic_load(&head->drained) || forced(l) != forced(head);
}

bool ledger_retire(struct ledger *l)
{
    uint32_t nobody = 0;
    ledger_lock(l, 0);
    bool empty = l->open == 0;
    ledger_unlock(l);
    return empty && atomic_compare_exchange_strong(&l->clients, &nobody, LEDGER_RETIRED);
}

bool ledger_join(struct ledger *l)
{
    uint32_t n = atomic_load(&l->clients);
    do {
        if (n & LEDGER_RETIRED)
            return false;
    } while (!atomic_compare_exchange_weak(&l->clients, &n, n + 1));
    return true;
}

void ledger_part(struct ledger *l)
{
    atomic_fetch_sub(&l->clients, 1);
}

void ledger_stop(struct ledger *l)
{
    ledger_lock(l, 0);
    l->stopped++;
    ledger_unlock(l);
    if (l->member.group)
        group_deafen(&l->member);
}

static enum breaker_state worse(enum breaker_state a, enum breaker_state b)
{
    static const int rank[BREAKER_STATE_COUNT] = {
        [BREAKER_CLOSED] = 0, [BREAKER_FORCED_CLOSED] = 1, [BREAKER_HALF_OPEN] = 2,
        [BREAKER_OPEN] = 3,   [BREAKER_FORCED_OPEN] = 4,
    };
    return rank[a] >= rank[b] ? a : b;
}

void ledger_view(struct ledger *l, struct ledger_view *out)
{
    ledger_lock(l, 0);
    *out = (struct ledger_view){
        .open = l->open,
        .dialing = l->dialing,
        .closing = l->closing,
        .max = l->conf->size.max,
        .min = l->conf->size.min,
        .pinned = l->pinned,
        .dials = l->dials,
        .dial_failures = l->dial_failures,
        .abandoned = l->abandoned,
        .last_dial = l->last_dial,
        .paused = atomic_load(&l->paused),
        .drained = atomic_load(&l->drained),
        .warmed = l->warmed,
        .stopping = l->stopped > 0,
        .shut = ledger_is_shut(l),
    };
    memcpy(out->dial_causes, l->dial_causes, sizeof out->dial_causes);
    for (size_t i = 0; i < l->n_endpoints; i++) {
        out->door = worse(out->door, l->endpoints[i].door.state);
        out->service = worse(out->service, l->endpoints[i].service.state);
    }
    ledger_unlock(l);
    if (l->member.group)
        group_view(l->member.group, &out->group);
}

const struct pool_conf *ledger_conf(struct ledger *l, struct snapshot **ref)
{
    ledger_lock(l, 0);
    const struct pool_conf *conf = l->conf;
    *ref = snapshot_take(l->snap);
    ledger_unlock(l);
    return conf;
}
