/* SPDX-License-Identifier: MIT */
/*
 * What exchanges come to (the service breakers), under the ledger's mutex.
 *
 * One endpoint: its breaker alone decides whether an exchange may begin, and hands the permit of a
 * trial to the exchange.
 *
 * Several: an exchange may begin if one of them serves, and which one it will be is known when it
 * gets its server. So the gate is at the servers: those of an endpoint that is shut take no leases
 * and are closed when they come free, dials go to the others. When it is to be tried, one server is
 * dialed to it, for a worker that has something to try it with, and each lease of that one is a
 * trial.
 */
#include "pools/ledger_private.h"
#include "pools/server.h"

static bool passes(const struct ledger_endpoint *e)
{
    return e->service.state == BREAKER_CLOSED || e->service.state == BREAKER_FORCED_CLOSED;
}

void ledger_note_service(struct ledger *l)
{
    bool shut = false;
    for (size_t i = 0; i < l->n_endpoints; i++)
        shut = shut || !passes(&l->endpoints[i]);
    atomic_store(&l->service_shut, shut);
}

bool ledger_is_shut(const struct ledger *l)
{
    for (size_t i = 0; i < l->n_endpoints; i++)
        if (passes(&l->endpoints[i]))
            return false;
    return true;
}

/* Several endpoints: does one serve, or may be tried? *at: when that may change. */
static bool one_serves(struct ledger *l, uint64_t *at)
{
    *at = UINT64_MAX;
    for (size_t i = 0; i < l->n_endpoints; i++) {
        struct ledger_endpoint *e = &l->endpoints[i];
        breaker_tick(&e->door, l->now_ms); /* nobody waits, so no match does it */
        bool down =
            e->open == 0 && (e->door.state == BREAKER_OPEN || e->door.state == BREAKER_FORCED_OPEN);
        breaker_tick(&e->service, l->now_ms);
        uint64_t next = breaker_next(down ? &e->door : &e->service);
        if (ledger_is_useless(l, e))
            continue;
        if (!down && (passes(e) || (e->service.state == BREAKER_HALF_OPEN && next <= l->now_ms)))
            return true;
        if (next < *at)
            *at = next;
    }
    return false;
}

bool ledger_service_allows(struct ledger *l, uint64_t now, uint32_t *permit, uint64_t *wait_ms)
{
    *permit = 0;
    *wait_ms = 0;
    if (!atomic_load_explicit(&l->service_shut, memory_order_relaxed))
        return true;
    uint64_t next;
    bool ok;
    ledger_lock(l, now);
    if (l->n_endpoints > 1) {
        ok = one_serves(l, &next);
    } else {
        struct breaker *b = &l->endpoints->service;
        breaker_tick(b, l->now_ms);
        ok = breaker_ask(b, l->now_ms, PERMIT_HOLD_MS, permit) != BREAKER_REFUSE;
        next = breaker_next(b);
    }
    if (!ok)
        *wait_ms = next == UINT64_MAX ? 0 : (next > l->now_ms ? next - l->now_ms : 1);
    ledger_unlock(l);
    return ok;
}

void ledger_service_well(struct ledger *l, size_t endpoint, uint64_t n, uint64_t now)
{
    ledger_lock(l, now);
    if (endpoint < l->n_endpoints)
        breaker_success(&l->endpoints[endpoint].service, l->now_ms, n);
    ledger_unlock(l);
}

void ledger_service_result(struct ledger *l, const struct server *sv, enum service_result result,
                           const char *why, uint32_t permit, uint64_t now)
{
    ledger_lock(l, now);
    struct ledger_endpoint *e = sv ? ledger_endpoint_of(l, sv) : NULL;
    if (!sv && l->n_endpoints == 1)
        e = l->endpoints;
    if (!e) { /* of before a reload: it says nothing about the endpoints of now */
        ledger_unlock(l);
        return;
    }
    bool passed = passes(e);
    if (result == SERVICE_FAILED)
        e->service_why = why;
    if (permit) {
        enum breaker_outcome o = result == SERVICE_WELL     ? BREAKER_PASSED
                                 : result == SERVICE_FAILED ? BREAKER_FAILED
                                                            : BREAKER_NEUTRAL;
        breaker_trial(&e->service, l->now_ms, permit, o);
    } else if (result == SERVICE_FAILED) {
        breaker_failure(&e->service, l->now_ms, BREAKER_HARD);
    }
    ledger_note_service(l);
    bool moved = l->n_endpoints > 1 && passed != passes(e);
    ledger_unlock(l);
    if (moved)
        ledger_say_renewed(l); /* its servers are to go, or waiters may have them */
}

/* ---- several endpoints ---- */

enum service_gate ledger_service_gate(struct ledger *l, const struct server *sv, uint64_t now)
{
    if (!atomic_load_explicit(&l->service_shut, memory_order_relaxed))
        return SERVICE_PASSES;
    enum service_gate gate = SERVICE_PASSES;
    ledger_lock(l, now);
    struct ledger_endpoint *e = ledger_endpoint_of(l, sv);
    if (e && l->n_endpoints > 1 && !passes(e)) {
        breaker_tick(&e->service, l->now_ms);
        bool tries =
            e->service.state == BREAKER_HALF_OPEN && breaker_next(&e->service) <= l->now_ms;
        gate = tries ? SERVICE_TRIES : SERVICE_SHUT;
    }
    ledger_unlock(l);
    return gate;
}

uint32_t ledger_service_trial(struct ledger *l, const struct server *sv, uint64_t now)
{
    if (!atomic_load_explicit(&l->service_shut, memory_order_relaxed))
        return 0;
    uint32_t permit = 0;
    ledger_lock(l, now);
    struct ledger_endpoint *e = ledger_endpoint_of(l, sv);
    if (e && l->n_endpoints > 1 && e->service.state == BREAKER_HALF_OPEN)
        (void)breaker_ask(&e->service, l->now_ms, PERMIT_HOLD_MS, &permit);
    ledger_unlock(l);
    return permit;
}

uint64_t ledger_tick_service(struct ledger *l)
{
    uint64_t at = UINT64_MAX;
    for (size_t i = 0; i < l->n_endpoints && l->n_endpoints > 1; i++) {
        struct breaker *b = &l->endpoints[i].service;
        breaker_tick(b, l->now_ms);
        if (b->state == BREAKER_OPEN && breaker_next(b) < at)
            at = breaker_next(b);
    }
    return at;
}

bool ledger_service_dials(const struct ledger *l, const struct ledger_endpoint *e)
{
    return l->n_endpoints == 1 || passes(e) ||
           (e->service.state == BREAKER_HALF_OPEN && e->open == 0);
}

bool ledger_wants_trial(const struct ledger *l, const struct ledger_endpoint *e)
{
    return l->n_endpoints > 1 && e->service.state == BREAKER_HALF_OPEN && e->open == 0 &&
           !ledger_is_useless(l, e);
}
