/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A bound over several pools, shared max-min fair: nobody has fewer servers than another, unless he
 * does not want more. A pool is a member by its ledger, which takes a slot here for each of its own
 * and gives it back with it: never more than `max` in all, over all members, workers and threads.
 *
 * While there is enough for everybody members only count. Once somebody wants a server and there is
 * none left, the group is tight: then it is judged who has how many too many (they close idle
 * servers at once and busy ones as they are given back), and who may take a slot that comes free.
 *
 * A leaf mutex of its own, taken inside a ledger's; nothing is called under it. A judgement costs
 * time in proportion to the members.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "proxy/core/list.h"

/* A server idle for less than this counts as used: nobody who has no less takes it away. And: after
 * this time somebody who has none at all gets his turn. */
#define GROUP_REST_MS 250

struct group {
    _Atomic unsigned refs;
    pthread_mutex_t mutex;
    pthread_cond_t told;
    struct list members; /* in the order they came */
    unsigned n_members;
    unsigned max;                  /* 0: no bound */
    unsigned open;                 /* slots taken by all members */
    unsigned soon;                 /* slots that come free without anybody giving a server back */
    unsigned wanting;              /* members that want more than they have */
    uint64_t judged_ms;            /* when that was judged latest */
    bool dirty;                    /* something has changed since */
    bool telling;                  /* some thread goes round those with news */
    struct group_member *listener; /* it is just being told */
    _Atomic bool news;             /* some member is to be told */
    _Atomic bool tight; /* somebody wants more than there is, or there is more than `max` */
};

/* What a ledger tells of itself, besides its slots. */
struct group_need {
    unsigned leaving;  /* slots of servers that are closing, or about to */
    unsigned want;     /* servers it would dial now if it were let */
    unsigned promised; /* servers on their way to waiters */
    unsigned asked;    /* idle servers on their way to other workers */
};

/* Part of a ledger. */
struct group_member {
    struct group *group; /* fixed; NULL: none, and nothing else here counts */
    struct list node;
    /* written with both mutexes held, the ledger's and the group's */
    unsigned open;
    struct group_need need;
    uint64_t since_ms; /* since then it has servers */
    /* the judgement, under the group's mutex */
    unsigned live, idle, stale;      /* what it was based on; stale: of the idle ones */
    unsigned hungry;                 /* of `want`, those that somebody waits for */
    uint64_t oldest_ms;              /* arrival of the oldest waiter */
    unsigned demand, share, surplus; /* surplus: what `shed` is about to be */
    unsigned told;                   /* what `shed` was when it was told of it */
    bool poke;                       /* it has news */
    bool deaf;                       /* and is not told */
    _Atomic unsigned shed;           /* servers that it is to give up */
};

/* ---- control's thread ---- */

/* max: servers over all members, dialing, live and closing; 0: no bound. NULL: no memory. Counted:
 * members hold references of their own. */
struct group *group_new(unsigned max);
/* Of what is above a lower bound each goes as it comes free. */
void group_reconf(struct group *g, unsigned max);
/* Nulls the caller's pointer. */
void group_drop(struct group **g);

/* ---- any thread ---- */

struct group_view {
    unsigned open, max, members;
    unsigned wanting; /* members that want more than they have */
};
void group_view(struct group *g, struct group_view *out);

/* May a server that comes free have to go? */
static inline bool group_is_tight(const struct group_member *m)
{
    return m->group && atomic_load(&m->group->tight);
}

/* ---- by the ledger, of a member with a group ---- */

/* Nobody knows of the ledger yet. */
void group_join(struct group_member *m, struct group *g);
/* It stops: no other pool's thread comes here with news any more; one that is just here is waited
 * for. Without the ledger's mutex. */
void group_deafen(struct group_member *m);
/* Without the ledger's mutex; all slots are free. */
void group_leave(struct group_member *m);

/* The ledger's mutex is held by callers of these. */

/* Takes a slot, for a dial. For a waiter: if nobody deserves it more; else (`min`, thin sharing):
 * if nobody wants it. */
bool group_claim(struct group_member *m, const struct group_need *need, bool waits, uint64_t now);
/* Gives one back; group_tell() has to follow. */
void group_free(struct group_member *m);
void group_tell(struct group_member *m, const struct group_need *need, uint64_t now);
/* Is one of its servers to go? That one counts as leaving already. */
bool group_sheds(struct group_member *m, const struct group_need *need, uint64_t now);
/* How many more it can have before anybody gives a server back. */
unsigned group_room(const struct group_member *m);

/* Without any mutex, at the end of an entry: members with news look at their books. */
void group_poke(struct group *g, uint64_t now);
