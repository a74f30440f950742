/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One house per test, without threads: what tests of single rules begin and end with. Peers are
 * born as `peer` says and dials go as `dials` says, at that moment.
 */
#include "tests/unit/pools/house.h"

extern struct house house;
extern struct pool_conf conf; /* what open_house() opens with */
extern struct fake_peer peer;
extern struct fake_dial dials;
extern unsigned sockets[HOUSE_ENDPOINTS]; /* opened, by endpoint */

/* cmocka's setup: everything goes well, three servers at most, nothing is open. */
int stage(void **state);
#define TEST(f) cmocka_unit_test_setup(f, stage)

void open_house(unsigned workers);
/* One worker, servers that several may use at once. */
void open_shared(unsigned capacity);
/* Compares the books, ends everything, asserts that nothing is left. */
void close_house(void);

/* The plan of dials that stage() has set. */
void staged_plan(const struct server *sv, struct fake_dial *dial, struct fake_peer *p);

void ask_on(unsigned worker, struct guest *g);
/* On the first worker, for the whole server; then everything settles. */
void ask(struct guest *g);
void ends(struct guest *g, enum outcome how);
int fd_of(const struct guest *g);
unsigned idle_on(unsigned worker);
