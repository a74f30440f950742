/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What the two halves of pg_flow have in common: postgres_flow.c, which knows the rules, and
 * postgres_copy.c, for which of them COPY FROM STDIN makes exceptions.
 */
#include "proxy/wire/postgres_flow.h"

#define PG_SET(token) (1u << PG_TOKEN_##token)

enum {
    PG_SET_ENDS = PG_SET(QUERY) | PG_SET(FUNCTION) | PG_SET(SYNC), /* answered by ReadyForQuery */
    PG_SET_LOCAL = PG_SET(PARSE_LOCAL) | PG_SET(CLOSE_LOCAL),
    PG_SET_OWN = PG_SET(PARSE_OWN) | PG_SET(CLOSE_OWN), /* no client waits for their answer */
    PG_SET_RENAMED = PG_SET_LOCAL | PG_SET_OWN | PG_SET(NAMED),
    PG_SET_EXTENDED = PG_SET(PARSE) | PG_SET(BIND) | PG_SET(CLOSE) | PG_SET(DESCRIBE_PORTAL) |
                      PG_SET(DESCRIBE_STATEMENT) | PG_SET(EXECUTE) | PG_SET_RENAMED
};

static inline bool pg_token_in(enum pg_token token, unsigned set)
{
    return ((1u << token) & set) != 0;
}

/* A token has left the queue, answered or not. */
void pg_flow_count_gone(struct pg_flow *f, enum pg_token token);
/* The front token is answered, or will not be. */
void pg_flow_drop_front(struct pg_flow *f);
/* An extended message failed: everything up to the next Sync is discarded. */
void pg_flow_discard_to_sync(struct pg_flow *f);
/* Nothing is known any more of what is in the queue. */
void pg_flow_lose_track(struct pg_flow *f);

/* The maybes in front (all Syncs) are not answered. */
void pg_copy_no_maybes(struct pg_flow *f);
/* It went well; its token, `token`, is in front. False: it cannot have. */
bool pg_copy_done(struct pg_flow *f, enum pg_token token);
/* It failed after CopyInResponse; its token is in front. */
void pg_copy_failed(struct pg_flow *f);
/* ReadyForQuery while a maybe Sync is in front: whose is it? */
void pg_copy_ready(struct pg_flow *f);
/* Makes the Syncs in front maybe, up to the end of the COPY: its mark, or a request (which the
 * server cannot have read inside it). The COPY's own token is not in front. Returns how many cells
 * these are. */
uint32_t pg_copy_doubt_syncs(struct pg_flow *f);
