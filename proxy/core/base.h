/* SPDX-License-Identifier: MIT */
#pragma once
/* The few macros everybody needs. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_USE __attribute__((warn_unused_result))
/* Never inlined, and far from the rest: what it needs on the stack is no part of the frames that
 * every request goes through. */
#define ASIDE __attribute__((noinline, cold))
/* Of a declaration: whatever leads to a call of it is expected not to happen, and its code set
 * apart. For what is called when something has gone wrong, or ends. */
#define COLD __attribute__((cold))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* The struct that embeds `member`, from a pointer to the member. */
#define OWNER(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define MSEC_NS UINT64_C(1000000)
#define SEC_NS UINT64_C(1000000000)

/*
 * Assertions ship: a broken invariant ends the process with its own name rather than with somebody
 * else's data. Never on what a peer sent.
 */
#define CHECK(cond) ((cond) ? (void)0 : check_failed(#cond, __FILE__, __LINE__))
COLD _Noreturn void check_failed(const char *what, const char *file, int line);

/* First field of long-lived objects: names the type while it lives, is wiped on free. */
#define CHECK_MAGIC(obj, value) CHECK((obj) != NULL && (obj)->magic == (value))
