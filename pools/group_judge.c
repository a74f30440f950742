/* SPDX-License-Identifier: MIT */
/*
 * Who is to have how many of a group's servers: by water-filling. Everybody's demand is met up to
 * one level; whoever demands less gets that, and the level rises until `max` is spent.
 *
 *     demand   servers that work or did so lately, and waiters that could use one more
 *     share    min(demand, level), and one more for some: `max` need not divide
 *     shed     servers above the share, as far as somebody below his own needs them
 *
 * From the figures of the moment alone, so that whatever changes, the next judgement takes back
 * what the last one asked for.
 */
#include "pools/group_private.h"
#include "pools/ledger.h"

static struct group_member *member_of(struct list *n)
{
    return OWNER(n, struct group_member, node);
}

static unsigned less(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static unsigned over(unsigned a, unsigned b)
{
    return a > b ? a - b : 0;
}

/* ---- what there is ---- */

/* The workers' own counts move while we look. */
bool group_look(struct group_member *m)
{
    const struct group_member was = {
        .live = m->live, .idle = m->idle, .stale = m->stale, .hungry = m->hungry};
    struct ledger *l = OWNER(m, struct ledger, member);
    unsigned idle = 0, stale = 0, waiters = 0;
    m->oldest_ms = UINT64_MAX;
    for (unsigned i = 0; i < l->n_workers; i++) {
        struct ledger_worker *w = &l->workers[i];
        unsigned waiting = atomic_load(&w->waiters), here = atomic_load(&w->idle);
        uint64_t oldest = atomic_load(&w->oldest_ms);
        waiters += waiting;
        idle += here;
        stale += less(atomic_load(&w->stale), here);
        if (waiting && oldest < m->oldest_ms)
            m->oldest_ms = oldest;
    }
    m->live = over(m->open, m->need.leaving); /* its ledger may be in the middle of telling */
    m->idle = less(over(idle, m->need.asked), m->live);
    m->stale = less(stale, m->idle);
    m->hungry = less(m->need.want, over(waiters, m->need.promised));
    return was.live != m->live || was.idle != m->idle || was.stale != m->stale ||
           was.hungry != m->hungry;
}

/* What is idle has to be looked at by its worker: only that one knows how long. */
static void becomes_tight(struct group *g)
{
    LIST_EACH(n, &g->members) {
        struct group_member *m = member_of(n);
        struct ledger *l = OWNER(m, struct ledger, member);
        for (unsigned i = 0; i < l->n_workers; i++)
            atomic_store(&l->workers[i].stale, 0);
        m->stale = 0;
        m->poke = m->poke || m->idle > 0;
    }
}

/* ---- shares ---- */

/* The level; *rest: what is left when everybody has got that much, less than one for each who wants
 * more. */
static unsigned find_level(const struct group *g, unsigned *rest)
{
    for (unsigned level = 0;;) {
        unsigned above = 0, spent = 0;
        LIST_EACH(n, &g->members) {
            const struct group_member *m = member_of(n);
            above += m->demand > level;
            spent += less(m->demand, level);
        }
        *rest = above ? g->max - spent : 0;
        if (*rest < above || !above)
            return level;
        level += *rest / above;
    }
}

/*
 * Who gets one of the rest, in this order. Who has it keeps it, or servers would be closed and
 * dialed only to change hands; if one of them has to yield, then one that does not work. But where
 * there is not even one for each, those who have none take turns with those who have had theirs.
 */
enum place { PLACE_WORKS, PLACE_STARVES, PLACE_YIELDS, PLACE_WAITS, PLACE_RESTS, PLACES };

static enum place place_of(const struct group_member *m, unsigned level, uint64_t now)
{
    bool holds = m->live > level;
    if (level > 0)
        return !holds ? PLACE_WAITS : m->idle ? PLACE_YIELDS : PLACE_WORKS;
    if (!holds)
        return m->oldest_ms + GROUP_REST_MS <= now ? PLACE_STARVES : PLACE_WAITS;
    if (m->idle == m->live && !m->hungry)
        return PLACE_RESTS;
    return m->since_ms + GROUP_REST_MS <= now ? PLACE_YIELDS : PLACE_WORKS;
}

/* Of one place: who waits longest; who has waited for nothing, and got his latest. */
static bool goes_before(const struct group_member *a, const struct group_member *b,
                        enum place place)
{
    if (place == PLACE_STARVES || place == PLACE_WAITS)
        return a->oldest_ms < b->oldest_ms;
    return a->since_ms > b->since_ms;
}

static struct group_member *next_at(const struct group *g, unsigned level, enum place place,
                                    uint64_t now)
{
    struct group_member *best = NULL;
    LIST_EACH(n, &g->members) {
        struct group_member *m = member_of(n);
        if (m->demand > level && m->share == level && place_of(m, level, now) == place &&
            (!best || goes_before(m, best, place)))
            best = m;
    }
    return best;
}

static void share_out(struct group *g, uint64_t now)
{
    unsigned rest, level = find_level(g, &rest);
    LIST_EACH(n, &g->members) {
        struct group_member *m = member_of(n);
        m->share = less(m->demand, level);
    }
    for (enum place place = 0; rest && place < PLACES; place++) {
        struct group_member *m;
        while (rest && (m = next_at(g, level, place, now))) {
            m->share++;
            rest--;
        }
    }
}

/* ---- what follows ---- */

static struct group_member *most_surplus(const struct group *g)
{
    struct group_member *best = NULL;
    LIST_EACH(n, &g->members) {
        struct group_member *m = member_of(n);
        if (m->live > m->share && !m->surplus &&
            (!best || m->live - m->share > best->live - best->share))
            best = m;
    }
    return best;
}

static void ask_back(struct group *g)
{
    unsigned needed = 0;
    g->soon = 0;
    LIST_EACH(n, &g->members) {
        struct group_member *m = member_of(n);
        needed += m->live > m->share ? m->live : m->share;
        g->soon += m->need.leaving;
    }
    unsigned above = over(needed, g->max);
    struct group_member *m;
    while (above && (m = most_surplus(g))) {
        unsigned n = less(m->live - m->share, above);
        above -= n;
        g->soon += less(n, m->idle);
        m->surplus = n;
    }
}

static unsigned missing(const struct group_member *m)
{
    return less(m->hungry, over(m->share, m->live));
}

/* Who has least; of those who have as much, who waits longest. */
static bool is_worse_off(const struct group_member *a, const struct group_member *b)
{
    if (a->live != b->live)
        return a->live < b->live;
    if (a->oldest_ms != b->oldest_ms)
        return a->oldest_ms < b->oldest_ms;
    return a < b;
}

bool group_deserves(const struct group *g, const struct group_member *m)
{
    unsigned before = 0;
    LIST_EACH(n, &g->members) {
        const struct group_member *o = member_of(n);
        if (o != m && is_worse_off(o, m))
            before += missing(o);
    }
    return missing(m) && over(g->max, g->open) > before;
}

/* Of those who may take a slot one after the other, the first: when it has, the books are judged
 * again. */
static void mark_news(struct group *g)
{
    struct group_member *first = NULL;
    bool tight = atomic_load(&g->tight), any = false;
    LIST_EACH(n, &g->members) {
        struct group_member *m = member_of(n);
        m->poke = m->poke || (!tight && m->hungry) || (m->surplus > m->told && m->idle);
        m->told = m->surplus;
        atomic_store(&m->shed, m->surplus);
        any = any || m->poke;
        if (missing(m) && (!first || is_worse_off(m, first)))
            first = m;
    }
    if (tight && first && g->open < g->max)
        first->poke = any = true;
    if (any)
        atomic_store(&g->news, true);
}

void group_judge(struct group *g, uint64_t now)
{
    bool was_tight = atomic_load(&g->tight);
    unsigned live = 0, hungry = 0;
    g->wanting = 0;
    LIST_EACH(n, &g->members) {
        struct group_member *m = member_of(n);
        (void)group_look(m);
        live += m->live;
        hungry += m->hungry;
        g->wanting += m->hungry > 0;
    }
    g->judged_ms = now > g->judged_ms ? now : g->judged_ms;
    g->dirty = false;
    bool tight = g->max && (live > g->max || (hungry && g->open + hungry > g->max));
    atomic_store(&g->tight, tight);
    if (tight && !was_tight)
        becomes_tight(g);
    g->soon = 0;
    LIST_EACH(n, &g->members) {
        struct group_member *m = member_of(n);
        m->demand = m->share = m->live - m->stale + m->hungry;
        m->surplus = 0;
    }
    if (tight) {
        share_out(g, now);
        ask_back(g);
    }
    mark_news(g);
}
