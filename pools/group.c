/* SPDX-License-Identifier: MIT */
/* A group's slots and its members' entries. Who gets what is in group_judge.c. */
#include "pools/group.h"

#include <limits.h>
#include <stdlib.h>

#include "pools/group_private.h"
#include "pools/ledger.h"

#define JUDGE_MS 10 /* what was judged so long ago may be wrong, whatever was said since */

/* ---- life ---- */

struct group *group_new(unsigned max)
{
    struct group *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    atomic_store(&g->refs, 1);
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->told, NULL);
    list_init(&g->members);
    g->max = max;
    return g;
}

void group_drop(struct group **gp)
{
    struct group *g = *gp;
    *gp = NULL;
    if (!g || atomic_fetch_sub(&g->refs, 1) != 1)
        return;
    CHECK(list_empty(&g->members) && g->open == 0);
    pthread_cond_destroy(&g->told);
    pthread_mutex_destroy(&g->mutex);
    free(g);
}

void group_reconf(struct group *g, unsigned max)
{
    pthread_mutex_lock(&g->mutex);
    g->max = max;
    group_judge(g, g->judged_ms);
    uint64_t now = g->judged_ms;
    pthread_mutex_unlock(&g->mutex);
    group_poke(g, now);
}

void group_view(struct group *g, struct group_view *out)
{
    pthread_mutex_lock(&g->mutex);
    *out = (struct group_view){
        .open = g->open, .max = g->max, .members = g->n_members, .wanting = g->wanting};
    pthread_mutex_unlock(&g->mutex);
}

void group_join(struct group_member *m, struct group *g)
{
    m->group = g;
    list_init(&m->node);
    atomic_fetch_add(&g->refs, 1);
    pthread_mutex_lock(&g->mutex);
    list_push_back(&g->members, &m->node);
    g->n_members++;
    pthread_mutex_unlock(&g->mutex);
}

void group_deafen(struct group_member *m)
{
    struct group *g = m->group;
    pthread_mutex_lock(&g->mutex);
    m->deaf = true;
    while (g->listener == m)
        pthread_cond_wait(&g->told, &g->mutex);
    pthread_mutex_unlock(&g->mutex);
}

void group_leave(struct group_member *m)
{
    struct group *g = m->group;
    group_deafen(m);
    pthread_mutex_lock(&g->mutex);
    CHECK(m->open == 0);
    list_remove(&m->node);
    g->n_members--;
    g->dirty = true;
    pthread_mutex_unlock(&g->mutex);
    group_drop(&m->group);
}

/* ---- slots ---- */

static bool same_need(const struct group_need *a, const struct group_need *b)
{
    return a->leaving == b->leaving && a->want == b->want && a->promised == b->promised &&
           a->asked == b->asked;
}

static void note(struct group_member *m, const struct group_need *need)
{
    CHECK(need->leaving <= m->open);
    bool news = !same_need(&m->need, need);
    m->need = *need;
    if (group_look(m) || news)
        m->group->dirty = true;
}

/* Others' idle servers and waiters come and go without a word, and time passes. */
static void judge_if_news(struct group *g, uint64_t now)
{
    if (g->dirty || now >= g->judged_ms + JUDGE_MS)
        group_judge(g, now);
}

static bool has_room(const struct group *g)
{
    return g->max == 0 || g->open < g->max;
}

/* While nobody is short there is nothing to judge. */
static bool may_claim(struct group_member *m, bool waits, uint64_t now)
{
    struct group *g = m->group;
    if (has_room(g) && !atomic_load(&g->tight))
        return true;
    if (!waits)
        return false;
    judge_if_news(g, now);
    return has_room(g) && (!atomic_load(&g->tight) || group_deserves(g, m));
}

bool group_claim(struct group_member *m, const struct group_need *need, bool waits, uint64_t now)
{
    struct group *g = m->group;
    pthread_mutex_lock(&g->mutex);
    note(m, need);
    bool ok = may_claim(m, waits, now);
    if (ok) {
        if (m->open == m->need.leaving)
            m->since_ms = now;
        m->open++;
        g->open++;
        m->need.promised += waits;
        m->need.want -= waits;
        g->dirty = true;
    }
    pthread_mutex_unlock(&g->mutex);
    return ok;
}

void group_free(struct group_member *m)
{
    struct group *g = m->group;
    pthread_mutex_lock(&g->mutex);
    CHECK(m->open > 0 && g->open > 0);
    m->open--;
    g->open--;
    g->dirty = true;
    pthread_mutex_unlock(&g->mutex);
}

void group_tell(struct group_member *m, const struct group_need *need, uint64_t now)
{
    struct group *g = m->group;
    if (same_need(&m->need, need) && !atomic_load(&g->tight))
        return;
    pthread_mutex_lock(&g->mutex);
    note(m, need);
    if (need->want || atomic_load(&g->tight))
        judge_if_news(g, now);
    pthread_mutex_unlock(&g->mutex);
}

bool group_sheds(struct group_member *m, const struct group_need *need, uint64_t now)
{
    struct group *g = m->group;
    pthread_mutex_lock(&g->mutex);
    note(m, need);
    group_judge(g, now);
    bool ok = atomic_load(&m->shed) > 0;
    if (ok) {
        atomic_fetch_sub(&m->shed, 1);
        m->need.leaving++;
        g->dirty = true;
    }
    pthread_mutex_unlock(&g->mutex);
    return ok;
}

unsigned group_room(const struct group_member *m)
{
    struct group *g = m->group;
    unsigned room = UINT_MAX;
    pthread_mutex_lock(&g->mutex);
    unsigned free = g->max > g->open ? g->max - g->open : 0;
    if (g->max && !atomic_load(&g->tight)) {
        room = free;
    } else if (g->max) {
        room = m->share > m->live ? m->share - m->live : 0;
        room = room < free + g->soon ? room : free + g->soon;
    }
    pthread_mutex_unlock(&g->mutex);
    return room;
}

/* ---- news ---- */

static struct group_member *next_with_news(struct group *g)
{
    LIST_EACH(n, &g->members) {
        struct group_member *m = OWNER(n, struct group_member, node);
        if (m->poke && !m->deaf)
            return m;
    }
    return NULL;
}

/* One thread at a time goes round: what its telling leads to is news for the same round, so that
 * nothing is told from within the telling. */
void group_poke(struct group *g, uint64_t now)
{
    if (!atomic_load(&g->news))
        return;
    pthread_mutex_lock(&g->mutex);
    if (g->telling) {
        pthread_mutex_unlock(&g->mutex);
        return;
    }
    g->telling = true;
    struct group_member *m;
    while ((m = next_with_news(g))) {
        m->poke = false;
        g->listener = m;
        pthread_mutex_unlock(&g->mutex);
        ledger_hear(OWNER(m, struct ledger, member), now);
        pthread_mutex_lock(&g->mutex);
        g->listener = NULL;
        pthread_cond_broadcast(&g->told);
    }
    g->telling = false;
    atomic_store(&g->news, false);
    pthread_mutex_unlock(&g->mutex);
}
