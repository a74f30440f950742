/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * One Redis pool with one worker, on the test's own thread: real sockets, real driver and relay,
 * but each dial ends at once in one half of a socket pair, whose other half is the test's, and time
 * stands still but for stage_pass().
 *
 *     int a = stage_client();              a client has connected
 *     stage_say(a, "GET x\r\n");
 *     stage_hears(0, "*2\r\n...");         the first server dialed got exactly that
 *     stage_answer(0, "$1\r\n1\r\n");
 *     stage_reads(a, "$1\r\n1\r\n");
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pools/redis.h"
#include "proxy/front/front.h"

#define STAGE_PEERS 32

extern struct pool_conf stage_conf; /* what stage_open() opens with */
extern struct front_conf stage_front_conf;
extern struct redis_about stage_about; /* what servers say of themselves when dialed */
extern unsigned stage_dials;           /* so far; peers have the numbers below it */

/* cmocka's setup and teardown: defaults, then the end of everything and nothing left over. */
int stage_setup(void **state);
int stage_teardown(void **state);
#define STAGE(f) cmocka_unit_test_setup_teardown(f, stage_setup, stage_teardown)

/* How clients log in; before stage_open(). */
void stage_auth(enum auth_method method);
void stage_open(void);
struct pool *stage_pool(void);
struct loop *stage_loop(void);
/* The client that came first, as carpool has it. */
struct session *stage_session(void);
/* Lets everything happen that needs no time. */
void stage_settle(void);
/* Lets time pass, event by event. */
void stage_pass(uint64_t ms);

/* ---- far ends; all settle ---- */

int stage_client(void);
/* The client's end is closed, for good. */
void stage_leave(int client);
void stage_say(int client, const char *text);
/* Exactly this has come, and nothing more. */
void stage_reads(int client, const char *expected);
/* What has come begins like this. */
void stage_reads_start(int client, const char *start);
/* Nothing has come, and the client's connection has ended. */
void stage_reads_end(int client);

void stage_answer(unsigned peer, const char *text);
void stage_hears(unsigned peer, const char *expected);
/* All that has come, NUL-terminated; valid until the next. */
const char *stage_heard(unsigned peer);
/* A reset has come; `end` is the answer to the last of its words. */
void stage_expects_reset(unsigned peer, char *end, size_t cap);
/* It has come, and is answered well. */
void stage_answer_reset(unsigned peer);
void stage_hang_up(unsigned peer);
bool stage_was_hung_up(unsigned peer);
bool stage_was_left(unsigned peer); /* carpool has said end-of-file, or nobody dialed it */

/* ---- for scenes in which much may have failed ---- */

/* Answers if somebody is there. */
void stage_try_answer(unsigned peer, const char *text);
/* Whatever came last on any server, if it was a reset it is answered well. */
void stage_reset_if_asked(void);
/* Whatever has come to the client, this is not in it. */
void stage_never_reads(int client, const char *part);

/* A command as servers hear it. */
const char *resp1(const char *a);
const char *resp2(const char *a, const char *b);
const char *resp3(const char *a, const char *b, const char *c);
