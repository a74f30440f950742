/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * proxy/core/io.h without sockets: what tests of this folder link instead of io.c. The far end of
 * every io is a scripted peer in this process' memory, so that all hand-overs between threads are
 * our code.
 *
 *     carpool says   p  ping     x  work     r  reset     q  goodbye
 *     a peer says    +           .           =            (end-of-file, when it reads ours)
 *
 * A descriptor is a peer's number, far above any real one. Peers may be told things from any
 * thread.
 */
#include "proxy/core/io.h"

#define FAKE_NEVER UINT_MAX

/* How a peer behaves from its birth on. */
struct fake_peer {
    unsigned answer_ms; /* from a question to its answer; 0: at once; FAKE_NEVER: mute */
    unsigned eof_ms;    /* from our end-of-file to its own; FAKE_NEVER: stuck */
    bool deaf;          /* takes no bytes: what is sent stays queued */
    bool refuses;       /* answers pings and resets with '-' */
};

/* A new connection; it counts as open until its end-of-file has been read or its descriptor
 * closed. */
int fake_open(const struct fake_peer *how);
/* As close(2), for descriptors that io_release() gave back. */
void fake_close(int fd);

/* ---- what a peer does of its own accord; nothing happens if it is gone already ---- */

void fake_say(int fd, const char *bytes);
void fake_end(int fd);   /* end-of-file */
void fake_reset(int fd); /* what was not read is lost with the connection */
/* From now on. */
void fake_become(int fd, const struct fake_peer *how);

/* What carpool has said so far, NUL-terminated; the oldest is forgotten. */
const char *fake_heard(int fd);

/* ---- the upstream's own count, which the pool's bound is held against ---- */

/* While locked no connection comes or goes. Taken before a ledger's mutex, never after. */
void fake_lock(void);
void fake_unlock(void);
unsigned fake_open_count(void); /* while locked */
unsigned fake_open_peak(void);
/* A number in 0..n-1 of some open connection, or -1; for those who harm any of them. */
int fake_any(unsigned pick);
