/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Every allocation of carpool's comes by here first (malloc and its kin are linked by --wrap): it
 * is counted until it is freed, and the Nth fails.
 */
#include "proxy/core/base.h"

/* From now on the Nth allocation fails, once; 0: none. */
void memory_fail(unsigned nth);
/* So many were asked for since. */
unsigned memory_asked(void);
/* Nothing fails, and nothing is asked for, until as often said the other way. */
void memory_spare(bool spare);
/* As realloc(), for the tests themselves: neither fails nor counts. */
void *memory_own(void *p, size_t n);
/* Pieces not freed, and what they take. */
long memory_held(void);
size_t memory_bytes(void);
