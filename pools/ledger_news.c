/* SPDX-License-Identifier: MIT */
/*
 * Breakers are moved by whoever holds the books, on any thread, and nobody writes to a log there.
 * So what moved is noted at the end of each entry, and the first worker's pool says it.
 */
#include <stdio.h>
#include <string.h>

#include "pools/ledger_private.h"

static struct ledger_news *next(struct ledger *l)
{
    if (l->n_news == LEDGER_NEWS_MAX) {
        l->news_lost++;
        return NULL;
    }
    return &l->news[l->n_news++];
}

static bool note(struct ledger *l, size_t at, const struct breaker *b, enum breaker_state *said,
                 uint64_t *said_ms)
{
    enum breaker_state from = *said;
    uint64_t since = *said_ms;
    if (b->state == from)
        return false;
    *said = b->state;
    *said_ms = b->since;
    struct ledger_news *n = next(l);
    if (!n)
        return true;
    *n = (struct ledger_news){.role = b->role,
                              .from = from,
                              .to = b->state,
                              .reason = b->reason,
                              .held_ms = b->since > since ? b->since - since : 0};
    const char *label = at < l->conf->n_endpoints ? l->conf->endpoints[at].label : "-";
    snprintf(n->endpoint, sizeof n->endpoint, "%s", label);
    const char *why = l->endpoints[at].service_why;
    if (b->state != BREAKER_OPEN)
        return true;
    if (b->role == BREAKER_DOOR) {
        n->cause = l->last_dial.cause;
        why = l->last_dial.note;
    }
    if (why)
        snprintf(n->why, sizeof n->why, "%s", why);
    return true;
}

bool ledger_note_news(struct ledger *l)
{
    bool any = false;
    for (size_t i = 0; i < l->n_endpoints; i++) {
        struct ledger_endpoint *e = &l->endpoints[i];
        any = note(l, i, &e->door, &e->door_said, &e->door_said_ms) || any;
        any = note(l, i, &e->service, &e->service_said, &e->service_said_ms) || any;
    }
    return any && l->started;
}

bool ledger_next_news(struct ledger *l, struct ledger_news *out, unsigned *lost)
{
    ledger_lock(l, 0);
    bool any = l->n_news > 0;
    *lost = l->news_lost;
    if (any) {
        *out = l->news[0];
        l->n_news--;
        memmove(l->news, l->news + 1, l->n_news * sizeof *l->news);
        l->news_lost = 0;
    }
    ledger_unlock(l);
    return any;
}
