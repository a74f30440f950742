/* SPDX-License-Identifier: MIT */
/*
 * Failed logins per origin: a bucket of one minute's worth, kept as one time, when it would be
 * empty again (GCRA). Four places per hash; the one that empties first makes room. Success costs
 * nothing and forgives nothing: who knows one password must not buy guesses at others with it.
 */
#include <netinet/in.h>
#include <stdlib.h>

#include "proxy/front/postgres_auth.h"

#define SETS 256
#define WAYS 4
#define MINUTE_MS 60000

struct failure {
    struct pg_origin origin;
    uint64_t due_ms; /* the bucket is empty then */
};

struct pg_failures {
    struct failure at[SETS][WAYS];
};

void pg_failures_free(struct pg_failures *f)
{
    free(f);
}

/* FNV-1a; a clever crowd of addresses may meet in one set and forget each other: they still get a
 * bucket each. */
static uint32_t hash(uint32_t h, const void *p, size_t n)
{
    const uint8_t *bytes = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ bytes[i]) * UINT32_C(16777619);
    return h;
}

#define HASH_START UINT32_C(2166136261)

bool pg_origin_is_near(const struct sockaddr *peer)
{
    if (!peer)
        return true;
    if (peer->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)peer;
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *v6 = (const void *)peer;
    return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

struct pg_origin pg_origin_of(const struct sockaddr *peer, int fd, struct span user)
{
    struct pg_origin o = {0};
    struct ucred cred = {0};
    socklen_t n = sizeof cred;
    if (!peer) {
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0)
            memcpy(o.bytes, &cred.uid, sizeof cred.uid);
    } else if (peer->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)peer;
        o.bytes[10] = o.bytes[11] = 0xff;
        memcpy(o.bytes + 12, &v4->sin_addr, 4);
    } else {
        const struct sockaddr_in6 *v6 = (const void *)peer;
        memcpy(o.bytes, &v6->sin6_addr, pg_origin_is_near(peer) ? 16 : 8);
    }
    if (pg_origin_is_near(peer))
        o.name = hash(HASH_START, user.p, user.n) | 1;
    return o;
}

static bool same(const struct pg_origin *a, const struct pg_origin *b)
{
    return a->name == b->name && memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

static size_t set_of(const struct pg_origin *o)
{
    return hash(hash(HASH_START, o->bytes, sizeof o->bytes), &o->name, sizeof o->name) % SETS;
}

uint64_t pg_failures_wait(const struct pg_failures *f, const struct pg_origin *o,
                          uint32_t per_minute, uint64_t now_ms)
{
    if (!f || !per_minute)
        return 0;
    uint64_t gap = MINUTE_MS / per_minute;
    for (size_t i = 0; i < WAYS; i++) {
        const struct failure *at = &f->at[set_of(o)][i];
        uint64_t full = now_ms + MINUTE_MS - gap; /* one more would be too many */
        if (at->due_ms > full && same(&at->origin, o))
            return at->due_ms - full;
    }
    return 0;
}

void pg_failures_note(struct pg_failures **f, const struct pg_origin *o, uint32_t per_minute,
                      uint64_t now_ms)
{
    if (!*f)
        *f = calloc(1, sizeof **f);
    if (!*f || !per_minute)
        return;
    struct failure *set = (*f)->at[set_of(o)], *place = set;
    for (size_t i = 0; i < WAYS; i++) {
        if (set[i].due_ms && same(&set[i].origin, o)) {
            place = &set[i];
            break;
        }
        if (set[i].due_ms < place->due_ms)
            place = &set[i];
    }
    if (!same(&place->origin, o))
        *place = (struct failure){.origin = *o};
    uint64_t from = place->due_ms > now_ms ? place->due_ms : now_ms;
    place->due_ms = from + MINUTE_MS / per_minute;
}
