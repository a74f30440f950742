/* SPDX-License-Identifier: MIT */
#include "tests/unit/relays/memory.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static unsigned asked, failing, spared;
static long held;
static size_t bytes;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *text);
void __wrap_free(void *p);

void memory_fail(unsigned nth)
{
    asked = 0;
    failing = nth;
}

unsigned memory_asked(void)
{
    return asked;
}

void memory_spare(bool spare)
{
    spared += spare ? 1u : -1u;
}

long memory_held(void)
{
    return held;
}

size_t memory_bytes(void)
{
    return bytes;
}

void *memory_own(void *p, size_t n)
{
    void *own = __real_realloc(p, n);
    CHECK(own != NULL);
    return own;
}

static bool fails(void)
{
    return !spared && ++asked == failing;
}

static void *count(void *p)
{
    held += p != NULL;
    bytes += malloc_usable_size(p);
    return p;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : count(__real_malloc(n));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : count(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t n)
{
    if (fails())
        return NULL;
    size_t before = malloc_usable_size(p);
    void *grown = __real_realloc(p, n);
    if (!grown)
        return NULL;
    held -= p != NULL;
    bytes -= before;
    return count(grown);
}

char *__wrap_strdup(const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = __wrap_malloc(n);
    return copy ? memcpy(copy, text, n) : NULL;
}

void __wrap_free(void *p)
{
    held -= p != NULL;
    bytes -= malloc_usable_size(p);
    __real_free(p);
}
