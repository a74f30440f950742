/* SPDX-License-Identifier: MIT */
/* Who is logged in, by number: a table of counted names, found by a hash of few buckets. */
#include "proxy/front/postgres_users.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS 256 /* names of one bucket are looked through one by one */

struct name {
    char *text; /* NULL: the place is free */
    uint32_t n, users;
    uint32_t next; /* of its bucket, or of the free ones; 0: the last */
};

struct pg_users {
    struct name *v; /* number i is v[i - 1] */
    uint32_t n, cap, unused;
    uint32_t buckets[BUCKETS];
};

static uint32_t bucket_of(struct span name)
{
    uint32_t h = 2166136261U; /* FNV-1a */
    for (size_t i = 0; i < name.n; i++)
        h = (h ^ name.p[i]) * 16777619U;
    return h % BUCKETS;
}

/* The number of a place that is free, or 0. */
static uint32_t place(struct pg_users *t)
{
    uint32_t number = t->unused;
    if (number) {
        t->unused = t->v[number - 1].next;
        return number;
    }
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? t->cap * 2 : 8;
        struct name *v = calloc(cap, sizeof *v);
        if (!v)
            return 0;
        if (t->n)
            memcpy(v, t->v, t->n * sizeof *v);
        free(t->v);
        t->v = v;
        t->cap = cap;
    }
    return ++t->n;
}

static void leave(struct pg_users *t, uint32_t number)
{
    t->v[number - 1] = (struct name){.next = t->unused};
    t->unused = number;
}

uint32_t pg_user_take(struct pg_users **tp, struct span name)
{
    struct pg_users *t = *tp;
    if (!t)
        t = *tp = calloc(1, sizeof *t);
    if (!t)
        return 0;
    uint32_t *bucket = &t->buckets[bucket_of(name)];
    for (uint32_t i = *bucket; i; i = t->v[i - 1].next) {
        if (!span_eq(pg_user_of(t, i), name))
            continue;
        t->v[i - 1].users++;
        return i;
    }
    uint32_t number = place(t);
    char *text = number ? malloc(name.n + 1) : NULL;
    if (!text) {
        if (number)
            leave(t, number);
        return 0;
    }
    if (name.n)
        memcpy(text, name.p, name.n);
    t->v[number - 1] =
        (struct name){.text = text, .n = (uint32_t)name.n, .users = 1, .next = *bucket};
    *bucket = number;
    return number;
}

struct span pg_user_of(const struct pg_users *t, uint32_t number)
{
    if (!number)
        return span_of(NULL, 0);
    CHECK(number <= t->n && t->v[number - 1].text);
    return span_of(t->v[number - 1].text, t->v[number - 1].n);
}

void pg_user_drop(struct pg_users *t, uint32_t number)
{
    if (!number)
        return;
    struct name *gone = &t->v[number - 1];
    CHECK(number <= t->n && gone->users > 0);
    if (--gone->users)
        return;
    uint32_t *at = &t->buckets[bucket_of(pg_user_of(t, number))];
    while (*at != number)
        at = &t->v[*at - 1].next;
    *at = gone->next;
    free(gone->text);
    leave(t, number);
}

void pg_users_free(struct pg_users *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n; i++)
        CHECK(!t->v[i].text);
    free(t->v);
    free(t);
}
