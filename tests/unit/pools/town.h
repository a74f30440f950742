/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Several pools of one group, on the same workers, without threads. All are called by their number;
 * the first comes first and goes last.
 */
#include "tests/unit/pools/stage.h"

#define TOWN_MEMBERS 6
#define TOWN_GUESTS 64

struct crowd {
    struct guest guests[TOWN_GUESTS]; /* of one member; in the order of their latest asking */
    unsigned n;
};

extern struct group *group;
extern struct house members[TOWN_MEMBERS];
extern struct crowd crowds[TOWN_MEMBERS];

/* cmocka's setup: as stage(); each member's own bound is 10. */
int town(void **state);
#define TOWN_TEST(f) cmocka_unit_test_setup(f, town)

/* So many members with `conf` each, and a bound over them. */
void town_open(unsigned workers, unsigned n, unsigned total);
void town_add(unsigned at);
void town_remove(unsigned at);
/* Its pools were stopped and are quiet. */
void town_forget(unsigned at);
/* Compares the books, ends everything, asserts that nothing is left. */
void town_close(void);
void town_settle(void);
void town_pass(uint64_t ms);

/* So many more ask for a lease, by turns on each worker. */
void come(unsigned at, unsigned n);
/* Whoever waits goes away; who has a server keeps it. */
void give_up(unsigned at);
unsigned having(unsigned at);
unsigned waiting(unsigned at);
/* One that has a server gives it back, and goes; false: nobody has one. */
bool one_ends(unsigned at);
/* The same, and comes again. */
bool one_turn(unsigned at);
/* Of each member in turn, so often. */
void turns(unsigned n);

unsigned open_at(unsigned at); /* slots taken */
unsigned dials_of_all(void);
/* The slots of all, compared with the group's own count. */
unsigned open_of_all(void);
