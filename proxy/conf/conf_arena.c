/* SPDX-License-Identifier: MIT */
/*
 * Memory of one snapshot. It is never given back piecewise, so there is nothing to free wrongly,
 * and it is wiped at the end because passwords are in it.
 */
#include "proxy/conf/conf_private.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 4096
#define ALIGNMENT 16

struct conf_block {
    struct conf_block *next;
    size_t size, used; /* of data */
    _Alignas(ALIGNMENT) unsigned char data[];
};

static char *keep_copy(struct schema_keep *keep, struct span text)
{
    return conf_keep(OWNER(keep, struct conf_arena, keep), text);
}

void conf_arena_init(struct conf_arena *arena, size_t limit)
{
    *arena = (struct conf_arena){.keep.copy = keep_copy, .limit = limit};
}

void conf_arena_fini(struct conf_arena *arena)
{
    while (arena->blocks) {
        struct conf_block *block = arena->blocks;
        arena->blocks = block->next;
        explicit_bzero(block->data, block->size);
        free(block);
    }
    arena->used = 0;
}

static struct conf_block *add_block(struct conf_arena *arena, size_t least)
{
    size_t size = least > BLOCK_BYTES ? least : BLOCK_BYTES;
    if (size > arena->limit || arena->used > arena->limit - size)
        return NULL;
    struct conf_block *block = calloc(1, sizeof *block + size);
    if (!block)
        return NULL;
    block->size = size;
    block->next = arena->blocks;
    arena->blocks = block;
    arena->used += size;
    return block;
}

void *conf_alloc(struct conf_arena *arena, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > arena->limit)
        return NULL;
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct conf_block *block = arena->blocks;
    if (!block || block->size - block->used < bytes)
        block = add_block(arena, bytes);
    if (!block)
        return NULL;
    void *p = block->data + block->used;
    block->used += bytes;
    return p;
}

char *conf_keep(struct conf_arena *arena, struct span text)
{
    char *p = conf_alloc(arena, text.n + 1, 1);
    if (p && text.n > 0)
        memcpy(p, text.p, text.n);
    return p;
}

char *conf_format(struct conf_arena *arena, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *p = n < 0 ? NULL : conf_alloc(arena, (size_t)n + 1, 1);
    if (p)
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return p;
}
