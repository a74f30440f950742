/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Sockets in memory. carpool's calls (recv, send, accept4, ... are linked by --wrap) come here for
 * descriptors that were made here; tests hold the far ends. A connection behaves as one over TCP
 * does:
 *
 *     closed     the other side reads end-of-file; what it sends then is answered by a reset
 *     reset      what was not read can still be, then ECONNRESET; sending is EPIPE
 */
#include "proxy/core/base.h"
#include "proxy/core/span.h"

#define WIRE_NEVER SIZE_MAX

/* All are gone; none may be carpool's. */
void wires_clear(void);
/* Ends that are carpool's, and how it shows. */
unsigned wires_of_ours(void);
/* System calls of carpool's so far. */
struct wires_calls {
    unsigned reads, writes, others;
};
struct wires_calls wires_calls(void);
/* At most so many bytes go in one of carpool's calls; 0: as many as there are. */
void wires_chop(size_t bytes);

/* ---- making ---- */

/* A listening socket; carpool's door to it is a copy (F_DUPFD), which makes one more of these. */
int wire_listen(void);
/* The copy that was made last. */
int wire_door(void);
/* A client connects to a door; its far end. -1: nobody listens there any more. */
int wire_connect(int door);
/* A connection that is there at once: carpool's end; *far is the other. */
int wire_pair(int *far);
/* Whom carpool connects to by itself; far is the new connection's other end. */
void wires_on_connect(void (*on_connect)(int far));

/* ---- what far ends do ---- */

/* Takes what has come; 0: nothing. */
size_t wire_take(int far, void *buf, size_t cap);
void wire_put(int far, struct span bytes);
/* It has read all there was, and nothing will follow; or nothing gets through. */
bool wire_is_over(int far);
/* Bytes that carpool may send before it takes any: it is slow. */
void wire_room(int far, size_t bytes);
/* End-of-file; it still reads. */
void wire_finish(int far);
/* Closes; idempotent. */
void wire_close(int far);
void wire_reset(int far);

/* ---- for turns.c ---- */

enum { WIRE_IN = 1, WIRE_OUT = 2, WIRE_RDHUP = 4, WIRE_ERR = 8, WIRE_HUP = 16 };
/* What is to be told of carpool's end. */
unsigned wire_events(int fd);
