/* SPDX-License-Identifier: MIT */
#pragma once
/* What fake_io.c and fake_peer.c share; for them only. All functions with fake_lock() held. */
#include "tests/unit/pools/fake_io.h"

#define SAID_MAX 512
#define HEARD_MAX 64

/* The part of an io that stays on its loop; here also the peer's clock. */
struct watch {
    struct io *io; /* NULL once detached: freed when its poke has run */
    struct loop *loop;
    struct post_msg poke;
    struct timer clock;
    bool want_write;
};

struct peer {
    bool used, open; /* open: counted */
    struct fake_peer how;
    struct watch *watch;
    char said[SAID_MAX]; /* not read yet */
    size_t said_n;
    bool ended, reset;
    char owed[HEARD_MAX]; /* answers not due yet */
    size_t owed_n;
    bool our_end;
    uint64_t answer_at, end_at; /* ms; 0: nothing due */
    char heard[HEARD_MAX];
};

struct peer *fake_peer_of(int fd);
/* There is something for its io to read. */
bool fake_readable(const struct peer *p);
/* Its io is to look. */
void fake_wake(struct peer *p);
/* The loop's thread: does what is due, and says when to look again. */
void fake_step(struct peer *p, uint64_t now);
void fake_hear(struct peer *p, const char *bytes, size_t n);
/* It does not count any more. */
void fake_not_open(struct peer *p);
