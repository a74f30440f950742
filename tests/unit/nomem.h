/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The Nth allocation fails. malloc and calloc of programs whose name ends in _nomem are linked by
 * --wrap (CMakeLists.txt): carpool's calls come by here first. For one source of a program, which
 * also has close() to say.
 */
#include <stddef.h>

static unsigned countdown; /* the one that brings it to 0 fails; 0: none */
static unsigned asked;     /* how many there were since the test set it to 0 */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
int __real_close(int fd);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
int __wrap_close(int fd);

static int nomem_fails(void)
{
    asked++;
    return countdown && --countdown == 0;
}

void *__wrap_malloc(size_t n)
{
    return nomem_fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return nomem_fails() ? NULL : __real_calloc(n, size);
}
