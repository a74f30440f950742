/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A small Postgres server, and what its clients get.
 *
 *     SELECT 'for-a'   a row that tells whose it is       FAIL      fails
 *     SLEEP            a row after a while, or the error of its cancellation
 *     SELECT 'who'     when prepared: a user's name and secret, as auth.query gives them
 *     COPY             takes a COPY                       others    only a tag
 *
 * Statements can be prepared, and are known to their connection alone.
 */
#include "pools/server.h"
#include "tests/unit/relays/play.h"

/* For struct protocol. What clients get is shown as a word per message: its type, and what matters
 * of it: "R0 S K Z:I T D:for-a C:SELECT 1 E:25P02". */
void postgres_serve(struct peer *p);
bool postgres_born(struct server *sv, int far);
unsigned postgres_answers(struct span got, bool *well);
bool postgres_is_within(struct span got);
void postgres_show(struct span got, char *out, size_t cap);

/* The next message. 0: it is not whole; SIZE_MAX: it is none. */
size_t postgres_take(struct span got, uint8_t *type, struct span *body);

/* Of the password "secret", for users "app"; made by the first call. */
const char *postgres_verifier(void);
