/* SPDX-License-Identifier: MIT */
#pragma once
/* Two ends of a connection on one loop, that write down what happens to them. */
#include "proxy/core/io.h"

struct end {
    struct io io;   /* first: the io of an end is the end */
    bool reads;     /* takes everything as soon as it is there; else only counts events */
    size_t at_most; /* bytes per read; 0: plenty */
    unsigned readable, drained;
    uint8_t *got;
    size_t got_n;
    bool ended;
    int lost;             /* errno, positive */
    bool shaking, shaken; /* TLS: io_handshake() first */
    struct err err;
    bool hs_failed;
    bool closes; /* closes itself at its first event */
};

struct ends {
    struct loop loop;
    struct log_ring *log;
    struct end a, b;
};

void ends_open_loop(struct ends *e);
/* A Unix socket pair, or two TCP sockets on the loopback interface; attached, reading. */
void ends_unix(struct ends *e);
void ends_tcp(struct ends *e);
void ends_close(struct ends *e);

/* Sockets only, for who attaches them. */
void unix_pair(int fd[2]);
void tcp_pair(int fd[2]);

/* Turns the loop until cond holds; fails the test after some seconds. */
void ends_until(struct ends *e, bool (*cond)(const struct ends *e));
/* A few turns in which nothing is waited for. */
void ends_turn(struct ends *e);

extern const struct io_ops end_ops;
