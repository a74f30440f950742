/* SPDX-License-Identifier: MIT */
#pragma once
/* What ledger.c, ledger_match.c and ledger_control.c share. For this folder only. */
#include "pools/ledger.h"

#define PERMIT_HOLD_MS 10000 /* a trial that is not heard of for so long is taken for lost */
#define BUSY_HOLD_MS 2000    /* "too many connections": this long not above what it bears */
#define WARM_GAP_MIN_MS 100  /* refilling `min` after servers that closed unused */
#define WARM_GAP_MAX_MS 30000
#define DIAL_BACKOFF_MIN_MS 100
#define DIAL_LOCAL_MS 1000 /* after a dial that failed for want of what is ours */
#define DIAL_BACKOFF_MAX_MS 10000
#define LOOK_PATIENCE_MS 1000     /* for a standby to answer before a primary will do */
#define UNFIT_BACKOFF_MAX_MS 1000 /* a server of the wrong role: it may be promoted any time */

/* Every entry begins with ledger_lock() and ends with ledger_leave(), which matches the books,
 * unlocks, and then does what was decided; or with ledger_leave_as_is(), if only other pools of the
 * group may have to do something; or with ledger_unlock(), if nothing can have become possible. */
void ledger_lock(struct ledger *l, uint64_t now);
void ledger_unlock(struct ledger *l);
void ledger_leave_as_is(struct ledger *l);
void ledger_leave(struct ledger *l);
/* With the books locked. A slot is free again, here and in the group. */
void ledger_free_slot(struct ledger *l);
struct group_need ledger_need(const struct ledger *l, unsigned want);
/* Tells the group, if there is one, how things stand. */
void ledger_tell_group(struct ledger *l, unsigned want);
/* Raises the flag of each worker that has something to give while somebody else waits. */
void ledger_raise_foreign(struct ledger *l);
/* The worker whose oldest waiter waits longest, of those not promised enough; -1: none. */
int ledger_oldest_waiting(const struct ledger *l, int except);
/* The class of exclusive leases of servers that could be shared has its bound reached. */
bool ledger_class_full(const struct ledger *l);
unsigned ledger_live(const struct ledger *l);
/* As in struct ledger_outlook. */
unsigned ledger_stuck(const struct ledger *l, unsigned worker);
/* The server's endpoint; NULL if it was dialed to others, before a reload. */
struct ledger_endpoint *ledger_endpoint_of(struct ledger *l, const struct server *sv);
/* ---- ledger_service.c; the books are locked ---- */

/* Several endpoints: lets those be tried whose time has come; when it comes for the next one. */
uint64_t ledger_tick_service(struct ledger *l);
/* May this one be dialed, as far as its service goes? For a trial one server is enough. */
bool ledger_service_dials(const struct ledger *l, const struct ledger_endpoint *e);
/* A service is to be tried, has no server for that, and its role is one that is wanted. */
bool ledger_wants_trial(const struct ledger *l, const struct ledger_endpoint *e);
void ledger_note_service(struct ledger *l);
/* No endpoint takes requests, as far as service breakers go. */
bool ledger_is_shut(const struct ledger *l);
/* ---- ledger_news.c ---- */

/* Notes which breakers have moved since the last call; true: the first worker is to be told. */
bool ledger_note_news(struct ledger *l);
/* ---- ledger_target.c: endpoints by the role of their servers; the books are locked ---- */

/* Endpoints of a lower rank are dialed first, if they can be. */
#define LEDGER_RANKS 3
unsigned ledger_rank(const struct ledger *l, const struct ledger_endpoint *e);
/* One dial at a time, until it is known what the endpoint is. */
bool ledger_must_look_first(const struct ledger *l, const struct ledger_endpoint *e);
/* Its servers have a role that will not do. */
bool ledger_is_useless(const struct ledger *l, const struct ledger_endpoint *e);
/* Target prefer-replica: should a dial to it refuse a primary, since a standby may be had? */
bool ledger_is_picky(const struct ledger *l, const struct ledger_endpoint *e);
/* Till when a primary is not to be dialed, since a standby is just being, which did not fail so
   far. */
uint64_t ledger_waits_for_better(const struct ledger *l, const struct ledger_endpoint *e);
/* Of a pool that makes do with a primary: may a standby be at this endpoint? */
bool ledger_has_hope(const struct ledger *l, const struct ledger_endpoint *e);
/* A dial has told; true: the pool was renewed, tell it by ledger_say_renewed() without the lock. */
bool ledger_found_fit(struct ledger *l, struct server *sv, struct ledger_endpoint *e);
bool ledger_found_unfit(struct ledger *l, struct ledger_endpoint *e);
void ledger_found_down(struct ledger *l, struct ledger_endpoint *e);
void ledger_say_renewed(struct ledger *l);

/* ---- ledger_match.c ---- */

/* Not now: notes when that may change. */
bool ledger_may_dial(struct ledger *l, struct ledger_endpoint *e);
bool ledger_is_full(const struct ledger *l);

bool ledger_make_endpoints(struct ledger *l, const struct pool_conf *conf);
