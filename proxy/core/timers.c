/* SPDX-License-Identifier: MIT */
/*
 * A timer's place follows from the highest bit in which `due` differs from `now`: six bits a level,
 * the digit of `due` at that level is the slot.
 *
 *     level 0    the 64 ms around now, 1 ms a slot       [........now#..#.......]
 *     level 1    the 4 s around now, 64 ms a slot        [....now......#........]
 *     ...
 *     level 5    two years, 12 days a slot
 *     far        everything after this block of 2^36 ms
 *
 * Everything on one level is due after everything on the levels below, and on each level only slots
 * after the present one are in use. So the lowest slot of the lowest level in use is the earliest,
 * found by counting zeros. When the wheel reaches a slot of a higher level, its timers are placed
 * again, now nearer: at most once a level. Reaching a slot never skips one, hence the order.
 *
 * Owner: the thread of the loop it belongs to.
 */
#include "proxy/core/timers.h"

#define DIGIT_BITS 6
#define WHEEL_BITS (TIMERS_LEVELS * DIGIT_BITS)
#define WHEEL_MASK ((UINT64_C(1) << WHEEL_BITS) - 1)

_Static_assert(TIMERS_SLOTS == 1 << DIGIT_BITS, "a level's slots are one digit");

void timers_init(struct timers *w, uint64_t now)
{
    for (size_t i = 0; i < ARRAY_LEN(w->slots); i++)
        list_init(&w->slots[i]);
    for (size_t i = 0; i < ARRAY_LEN(w->occupied); i++)
        w->occupied[i] = 0;
    list_init(&w->far);
    list_init(&w->soon);
    list_init(&w->firing);
    w->now = w->target = now;
    w->advancing = false;
}

void timer_init(struct timer *t, void (*fire)(struct timer *))
{
    CHECK(fire != NULL);
    list_init(&t->node);
    t->due = 0;
    t->fire = fire;
}

/* Links an unarmed timer that is due after w->now. */
static void place(struct timers *w, struct timer *t)
{
    uint64_t differs = t->due ^ w->now;
    if (differs > WHEEL_MASK) {
        list_push_back(&w->far, &t->node);
        return;
    }
    unsigned level = (63 - (unsigned)__builtin_clzll(differs)) / DIGIT_BITS;
    unsigned slot = (unsigned)(t->due >> (level * DIGIT_BITS)) % TIMERS_SLOTS;
    list_push_back(&w->slots[level * TIMERS_SLOTS + slot], &t->node);
    w->occupied[level] |= UINT64_C(1) << slot;
}

void timer_set(struct timers *w, struct timer *t, uint64_t due)
{
    timer_stop(w, t);
    t->due = due;
    if (due <= w->target)
        list_push_back(&w->soon, &t->node);
    else
        place(w, t);
}

void timer_stop(struct timers *w, struct timer *t)
{
    /* The last one of a slot has the list's head on both sides: its address says which slot. */
    uintptr_t offset = (uintptr_t)t->node.next - (uintptr_t)w->slots;
    bool empties_slot = t->node.next == t->node.prev && offset < sizeof w->slots;
    list_remove(&t->node);
    if (!empties_slot)
        return;
    size_t index = offset / sizeof w->slots[0];
    w->occupied[index / TIMERS_SLOTS] &= ~(UINT64_C(1) << index % TIMERS_SLOTS);
}

/* The earliest slot in use and when it begins. False if the levels are empty. */
static bool earliest(const struct timers *w, size_t *index, uint64_t *begins)
{
    for (unsigned level = 0; level < TIMERS_LEVELS; level++) {
        if (w->occupied[level] == 0)
            continue;
        unsigned slot = (unsigned)__builtin_ctzll(w->occupied[level]);
        unsigned shift = level * DIGIT_BITS;
        uint64_t block = w->now >> shift >> DIGIT_BITS << DIGIT_BITS;
        *index = (size_t)level * TIMERS_SLOTS + slot;
        *begins = (block | slot) << shift;
        return true;
    }
    return false;
}

uint64_t timers_next(const struct timers *w)
{
    size_t index;
    uint64_t begins;
    if (!list_empty(&w->soon) || !list_empty(&w->firing))
        return w->now;
    if (earliest(w, &index, &begins))
        return begins;
    if (list_empty(&w->far))
        return TIMERS_NONE;
    uint64_t block_end = w->now | WHEEL_MASK;
    return block_end == UINT64_MAX ? UINT64_MAX : block_end + 1;
}

static size_t fire_all(struct timers *w)
{
    size_t fired = 0;
    struct list *node;
    while ((node = list_first(&w->firing)) != NULL) {
        struct timer *t = OWNER(node, struct timer, node);
        list_remove(node);
        t->fire(t); /* may have freed t */
        fired++;
    }
    return fired;
}

/* The wheel has turned to a slot: what is due goes to `firing`, the rest comes nearer. */
static void cascade(struct timers *w, struct list *from)
{
    struct list moving;
    list_init(&moving);
    list_splice(&moving, from);
    LIST_EACH(node, &moving) {
        struct timer *t = OWNER(node, struct timer, node);
        list_remove(node);
        if (t->due <= w->now)
            list_push_back(&w->firing, node);
        else
            place(w, t);
    }
}

/* Jumps to the block of the earliest timer in `far`, if that begins by w->target. */
static bool enter_far_block(struct timers *w)
{
    uint64_t first = UINT64_MAX;
    if (list_empty(&w->far) || (w->now | WHEEL_MASK) >= w->target)
        return false;
    LIST_EACH(node, &w->far) {
        const struct timer *t = OWNER(node, struct timer, node);
        if (t->due < first)
            first = t->due;
    }
    uint64_t begins = first & ~WHEEL_MASK;
    if (begins > w->target)
        return false;
    w->now = begins;
    cascade(w, &w->far);
    return true;
}

/* Turns to the next slot that begins by w->target. */
static bool turn(struct timers *w)
{
    size_t index;
    uint64_t begins;
    if (!earliest(w, &index, &begins))
        return enter_far_block(w);
    if (begins > w->target)
        return false;
    w->now = begins;
    w->occupied[index / TIMERS_SLOTS] &= ~(UINT64_C(1) << index % TIMERS_SLOTS);
    cascade(w, &w->slots[index]);
    return true;
}

size_t timers_advance(struct timers *w, uint64_t now)
{
    CHECK(!w->advancing);
    w->advancing = true;
    if (now > w->target)
        w->target = now;
    list_splice(&w->firing, &w->soon);
    size_t fired = fire_all(w);
    while (turn(w))
        fired += fire_all(w);
    w->now = w->target;
    w->advancing = false;
    return fired;
}
