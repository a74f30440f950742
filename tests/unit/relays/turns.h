/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * As much of epoll and libuv as relays need, without a system and without time: tests link this
 * instead. Loops take turns on the caller's thread, in their own order: timers, deferred work,
 * events. What is to be told is found before the first callback of a turn, as epoll does it: the
 * second may be told what is no longer so.
 *
 * A tick is the moment before a loop calls carpool. Ticks are counted, and at one of them something
 * may happen that carpool did not expect.
 */
#include "proxy/core/loop.h"

/* A new beginning: time stands at `now`, and the tick that comes as number `at` (from 0) is
 * preceded by act(). */
void turns_begin(uint64_t now, unsigned at, void (*act)(void));
/* And once more, so many ticks from now. */
void turns_again(unsigned later);
/* Ticks so far. */
unsigned turns_ticks(void);
/* Events are told in the order of descriptors, or the other way round. */
void turns_reverse(bool reverse);
/* One turn of a loop; did it call anybody? */
bool turn(struct loop *loop);
/* When any loop's timer is due; UINT64_MAX: none is. */
uint64_t turns_due(void);
uint64_t turns_now(void);
/* Time goes on to `now`. */
void turns_pass(uint64_t now);
/* So often what is polled for was changed, or another thread woken: a system call each. */
unsigned turns_calls(void);
/* Timers of a loop that are armed. */
unsigned turns_armed(const struct loop *loop);
