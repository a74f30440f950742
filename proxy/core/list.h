/* SPDX-License-Identifier: MIT */
#pragma once
/* One intrusive doubly linked list. An unlinked node links to itself, so list_linked() can be
 * asserted. */
#include "proxy/core/base.h"

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

/* For a node: is it on some list? */
static inline bool list_linked(const struct list *n)
{
    return n->next != n;
}

static inline void list_insert_between(struct list *n, struct list *prev, struct list *next)
{
    n->prev = prev;
    n->next = next;
    prev->next = n;
    next->prev = n;
}

static inline void list_push_back(struct list *l, struct list *n)
{
    CHECK(!list_linked(n));
    list_insert_between(n, l->prev, l);
}

static inline void list_push_front(struct list *l, struct list *n)
{
    CHECK(!list_linked(n));
    list_insert_between(n, l, l->next);
}

static inline void list_remove(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

static inline struct list *list_first(const struct list *l)
{
    return list_empty(l) ? NULL : l->next;
}

static inline struct list *list_last(const struct list *l)
{
    return list_empty(l) ? NULL : l->prev;
}

/* Moves every node of `from` to the end of `to`. */
static inline void list_splice(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

/* Iterates; the body may remove `pos`, nothing else. */
#define LIST_EACH(pos, head)                                                                       \
    for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head);                  \
         pos = pos##_next, pos##_next = pos->next)
