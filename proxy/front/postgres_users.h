/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Names of logged-in users, each kept once however many clients have it: an idle client may cost a
 * kilobyte in all, and most have the same few names. One worker's, of one pool.
 */
#include "proxy/core/span.h"

struct pg_users;

/* A number for the name, to be given back by drop(); 0: out of memory, which nobody has to mind.
 * *t NULL: it is made. */
uint32_t pg_user_take(struct pg_users **t, struct span name);
/* The name of a number; of 0 an empty one. Valid until it is dropped. */
struct span pg_user_of(const struct pg_users *t, uint32_t number);
void pg_user_drop(struct pg_users *t, uint32_t number);
/* All names must have been dropped. NULL is fine. */
void pg_users_free(struct pg_users *t);
