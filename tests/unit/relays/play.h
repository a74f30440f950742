/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Scripts, played to their end and to every other end.
 *
 * A script says what clients do and what they hear, word for word. It is played once as it stands,
 * which counts its ticks (turns.h); then, for each of them, again and again, and at that tick
 * something happens: the client leaves, servers are lost, the pool is removed, the process stops...
 * Then once for every allocation, which fails. After each play:
 *
 *     everybody who is still connected has got an answer to everything, or none was due
 *     nobody has heard another client's answer, nor half of one with something behind it
 *     leases, slots, waiters, exchanges, clocks: none is left; the next client is served
 *     after the end of everything: no memory, no descriptor, no handle
 *
 * A play that fails says which it was; CARPOOL_PLAY="script/act/tick" plays that one alone.
 */
#include "tests/unit/relays/depot.h"

#define PLAY_CLIENTS 8

enum step_kind {
    STEP_COME,
    STEP_SAY,
    STEP_HEAR,
    STEP_GET,
    STEP_LEAVE,
    STEP_PASS,
    STEP_DO,
    STEP_COUNT,
    STEP_COST,
    STEP_HOLD
};

/* What carpool does: system calls, and pieces of memory asked for. */
struct cost {
    unsigned reads, writes, others, allocations;
};

struct step {
    enum step_kind kind;
    unsigned client; /* 0: a */
    const char *text;
    size_t n;     /* of text; SAY. GET: bytes. PASS: ms. HOLD: bytes */
    unsigned due; /* SAY: answers it asks for, that must come in time (those to BLPOP need not) */
    bool (*act)(unsigned client); /* DO; false: not yet */
    struct cost cost;             /* COST */
};

/* `who`: 'a' to 'h'. */
#define COMES(who) {.kind = STEP_COME, .client = (who) - 'a'}
#define SAYS(who, what, asks)                                                                      \
    {.kind = STEP_SAY, .client = (who) - 'a', .text = what, .n = sizeof(what) - 1, .due = asks}
/* All that comes, and nothing more. */
#define HEARS(who, what) {.kind = STEP_HEAR, .client = (who) - 'a', .text = what}
/* So many bytes come. */
#define GETS(who, bytes) {.kind = STEP_GET, .client = (who) - 'a', .n = bytes}
#define LEAVES(who) {.kind = STEP_LEAVE, .client = (who) - 'a'}
#define PASS(ms) {.kind = STEP_PASS, .n = ms}
#define DOES(who, what, asks) {.kind = STEP_DO, .client = (who) - 'a', .act = what, .due = asks}

/* Once all is done that was begun: what it has cost since COUNTS is this... */
#define COUNTS {.kind = STEP_COUNT}
#define COSTS(reads, writes, others, allocations)                                                  \
    {                                                                                              \
        .kind = STEP_COST, .cost = { reads, writes, others, allocations }                          \
    }
/* ... and memory has grown, by no more than so many bytes. */
#define HOLDS(bytes) {.kind = STEP_HOLD, .n = bytes}

struct script {
    const char *name;
    const struct step *steps;
    size_t n_steps;
    unsigned workers;
    const char *elsewhere;                 /* who comes to the second worker: "bd" */
    size_t chop;                           /* wires_chop() */
    bool on_trial;                         /* the service breaker is half open at first */
    void (*conf)(struct depot_plan *plan); /* changes it; may be NULL */
    const struct script *proof;            /* NULL: the protocol's */
};
#define SCRIPT_AS(name_, steps_) .name = name_, .steps = steps_, .n_steps = ARRAY_LEN(steps_)
#define SCRIPT(steps_) SCRIPT_AS(#steps_, steps_)

/* A server's connection, or one that carpool opened to cancel. */
struct peer {
    int far;     /* -1: none */
    uint8_t *in; /* what it has heard and not used */
    size_t n, at, cap;
    /* the protocol's */
    int state;
    uint64_t due_ms; /* serve() is to be called then; 0: when something comes */
    size_t left;
    char owes[64];
    char notes[16][2][32]; /* names, and what they stand for */
};
static inline struct span peer_in(const struct peer *p)
{
    return span_of(p->in + p->at, p->n - p->at);
}
static inline void peer_use(struct peer *p, size_t n)
{
    p->at += n;
}
void peer_say(struct peer *p, const char *text);
void peer_say_bytes(struct peer *p, const void *bytes, size_t n);
void peer_close(struct peer *p);
/* Every server's connection that is open. */
void peers_each(void (*each)(struct peer *p, void *arg), void *arg);

struct protocol {
    const char *name;
    struct depot_plan plan;
    void (*serve)(struct peer *p); /* something has come, or it is time */
    /* Whole answers in what a client got, *well: it is such a sequence, perhaps without its end. */
    unsigned (*answers)(struct span got, bool *well);
    /* Of who got that, and is owed nothing: does a drain leave it alone, since it has begun what
     * takes several exchanges? NULL: that cannot be told. */
    bool (*is_within)(struct span got);
    /* What a client got in words, for HEARS; NULL: as it is. */
    void (*show)(struct span got, char *out, size_t cap);
    const char *garbage; /* what no peer says */
    const struct script *scripts;
    size_t n_scripts;
    const struct script *costs; /* played as they are written, and no other way */
    size_t n_costs;
    struct script proof; /* somebody comes and is served */
};

/* What a client has heard since the last HEARS that came true. */
struct span play_heard(unsigned client);
/* All it ever got. */
struct span play_got(unsigned client);
void play_hears_all(unsigned client); /* takes it as heard */
void play_say(unsigned client, struct span bytes);

/* The program: all plays of a protocol. */
int play_all(struct protocol *p);
