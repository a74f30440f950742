/* SPDX-License-Identifier: MIT */
/* What happens in the middle of a play, and its name, should that be the end. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/relays/memory.h"
#include "tests/unit/relays/play_private.h"
#include "tests/unit/relays/turns.h"
#include "tests/unit/relays/wires.h"

static const char *const act_names[ACTS] = {
    "nothing", "leave",   "hang_up",  "finish", "babble", "close",     "reset",
    "outage",  "garbage", "mute",     "stuck",  "deaf",   "reset_all", "drain",
    "reload",  "remove",  "remove_2", "stop",   "kill",   "recycle",   "pause"};

/* ---- saying which play it was ---- */

void play_name(char name[128], const struct script *script, bool memory)
{
    bool two = play.then != ACT_NOTHING;
    snprintf(name, 128, "%s/%s/%s%s%s/%u", play.protocol->name, script->name,
             memory ? "memory" : act_names[play.act], two ? "+" : "",
             two ? act_names[play.then] : "", play.at);
}

static void say_which(void)
{
    char name[128];
    play_name(name, play.script, play.without_memory);
    fprintf(stderr, "play%s: CARPOOL_PLAY=%s\n", play.proving ? " (afterwards)" : "", name);
}

static void on_abort(int signal_number)
{
    (void)signal_number;
    say_which();
    signal(SIGABRT, SIG_DFL);
}

/* Called by sanitizers, if there are any. */
void __asan_on_error(void);
void __ubsan_on_report(void);

void __asan_on_error(void)
{
    say_which();
}

void __ubsan_on_report(void)
{
    say_which();
}

void play_watch(void)
{
    signal(SIGABRT, on_abort);
}

_Noreturn void play_fails(const char *what, const char *a, const char *b)
{
    fprintf(stderr, "%s\n  %s\n  %s\n", what, a, b);
    abort();
}

/* ---- what happens at a tick ---- */

static void all_clients_go(void)
{
    for (unsigned i = 0; i < PLAY_CLIENTS; i++)
        client_goes(&play.clients[i], true);
}

static void is_full(struct peer *p, void *arg)
{
    (void)arg;
    wire_room(p->far, 0);
}

static void has_room(struct peer *p, void *arg)
{
    (void)arg;
    wire_room(p->far, WIRE_NEVER);
}

static void garbage_from_all(void)
{
    for (struct peer *p = play.peers; p < play.peers + PLAY_PEERS; p++)
        peer_say(p, play.protocol->garbage);
}

unsigned play_workers(const struct script *script)
{
    return script->workers ? script->workers : 1;
}

static void happens(enum act act)
{
    struct client *c = &play.clients[play.current];
    switch (act) {
    case ACT_LEAVE:
        client_goes(c, false);
        return;
    case ACT_HANG_UP:
        client_goes(c, true);
        return;
    case ACT_FINISH:
        wire_finish(c->far);
        return;
    case ACT_BABBLE:
        play_say(play.current, span_str(play.protocol->garbage));
        return;
    case ACT_CLOSE:
        peers_are_lost(false);
        return;
    case ACT_OUTAGE:
        depot_refuse_dials(true);
        peers_are_lost(true);
        return;
    case ACT_RESET:
        peers_are_lost(true);
        return;
    case ACT_GARBAGE:
        garbage_from_all();
        return;
    case ACT_MUTE:
        play.mute = true;
        return;
    case ACT_STUCK:
        play.mute = true;
        peers_each(is_full, NULL);
        return;
    case ACT_DEAF:
        c->deaf = true;
        if (c->far >= 0)
            wire_room(c->far, 0);
        return;
    case ACT_RESET_ALL:
        all_clients_go();
        peers_are_lost(true);
        return;
    case ACT_DRAIN:
        depot_drain(true);
        return;
    case ACT_RELOAD:
        depot_reload();
        return;
    case ACT_REMOVE:
        depot_remove(0);
        return;
    case ACT_REMOVE_2:
        depot_remove(play_workers(play.script) - 1);
        return;
    case ACT_STOP:
        depot_stop(false);
        return;
    case ACT_KILL:
        depot_stop(true);
        return;
    case ACT_RECYCLE:
        depot_recycle();
        return;
    case ACT_PAUSE:
        depot_pause(true);
        return;
    case ACT_NOTHING:
    case ACTS:
        return;
    }
}

void play_it_happens(void)
{
    bool again = play.happened++ > 0;
    happens(again ? play.then : play.act);
    if (!again && play.then != ACT_NOTHING)
        turns_again(1 + play.at % 5);
}

bool play_did(enum act act)
{
    return (play.happened > 0 && play.act == act) || (play.happened > 1 && play.then == act);
}

bool play_is_as_written(void)
{
    return play.proving || (play.without_memory ? memory_asked() < play.at : !play.happened);
}

void play_undo(void)
{
    play.mute = false;
    peers_each(has_room, NULL);
    depot_refuse_dials(false);
    if (play_did(ACT_DRAIN))
        depot_drain(false);
    if (play_did(ACT_PAUSE))
        depot_pause(false);
}
