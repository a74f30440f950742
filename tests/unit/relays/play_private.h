/* SPDX-License-Identifier: MIT */
#pragma once
/* What the play_*.c share: one play, as far as it has come. For them only. */
#include "tests/unit/relays/play.h"

#define PLAY_PEERS 32
#define PLAY_CLIENT_MAX ((size_t)1 << 20) /* bytes that a client gets in one play */

enum act {
    ACT_NOTHING,
    ACT_LEAVE,     /* the client whose turn it is closes */
    ACT_HANG_UP,   /* ... resets */
    ACT_FINISH,    /* ... says end-of-file, and reads on */
    ACT_BABBLE,    /* ... says what is no word of its protocol */
    ACT_CLOSE,     /* all servers close */
    ACT_RESET,     /* ... reset */
    ACT_OUTAGE,    /* ... reset, and dials fail */
    ACT_GARBAGE,   /* ... say what is no word of theirs */
    ACT_MUTE,      /* ... say nothing any more */
    ACT_STUCK,     /* ... nor take anything */
    ACT_DEAF,      /* the client takes nothing any more */
    ACT_RESET_ALL, /* clients and servers reset */
    ACT_DRAIN,     /* an operator drains the pool */
    ACT_RELOAD,    /* other bounds, another gate */
    ACT_REMOVE,    /* a reload without the pool; the first worker hears of it first... */
    ACT_REMOVE_2,  /* ... or the second */
    ACT_STOP,      /* the process is to end */
    ACT_KILL,      /* ... now */
    ACT_RECYCLE,   /* no server is used again */
    ACT_PAUSE,     /* nobody gets a server */
    ACTS
};

struct client {
    int far;         /* -1: not there */
    bool came, over; /* over: it will hear no more */
    bool deaf;
    uint8_t *got;
    size_t n, heard; /* heard: up to the last HEARS */
    unsigned due;    /* answers */
};

struct play {
    const struct protocol *protocol;
    const struct script *script;
    enum act act, then; /* then: another one, soon after */
    unsigned at;        /* tick, or allocation */
    bool without_memory;
    unsigned happened;
    bool mute, proving;
    unsigned current; /* client whose turn it is */
    struct client clients[PLAY_CLIENTS];
    struct peer peers[PLAY_PEERS];
};

extern struct play play;

/* play_far.c: all may be asked of who has gone already */
void play_on_server(int far);
/* Lets servers and clients do what they can; did any? */
bool peers_step(void);
bool clients_step(void);
/* When a server wants to say something of its own accord; UINT64_MAX: none does. */
uint64_t peers_due(void);
void peers_are_lost(bool reset);
void client_goes(struct client *c, bool reset);

/* play_acts.c */
/* "redis/pipeline/reset+leave/7" */
void play_name(char name[128], const struct script *script, bool memory);
/* From now on, whatever ends the process says which play it was. */
void play_watch(void);
_Noreturn void play_fails(const char *what, const char *a, const char *b);
/* For turns_begin(). */
void play_it_happens(void);
bool play_did(enum act act);
/* Nothing has happened so far that is not in the script. */
bool play_is_as_written(void);
/* What can be undone is undone. */
void play_undo(void);
unsigned play_workers(const struct script *script);
