/* SPDX-License-Identifier: MIT */
/* The far ends of a play: servers and clients. */
#include <string.h>

#include "tests/unit/relays/memory.h"
#include "tests/unit/relays/play_private.h"
#include "tests/unit/relays/turns.h"
#include "tests/unit/relays/wires.h"

/* ---- servers ---- */

void play_on_server(int far)
{
    struct peer *p = play.peers;
    while (p->far >= 0)
        CHECK(++p < play.peers + PLAY_PEERS);
    *p = (struct peer){.far = far, .in = p->in, .cap = p->cap};
}

void peer_say_bytes(struct peer *p, const void *bytes, size_t n)
{
    if (p->far >= 0)
        wire_put(p->far, span_of(bytes, n));
}

void peer_say(struct peer *p, const char *text)
{
    peer_say_bytes(p, text, strlen(text));
}

void peer_close(struct peer *p)
{
    wire_close(p->far);
    p->far = -1;
}

void peers_each(void (*each)(struct peer *p, void *arg), void *arg)
{
    for (struct peer *p = play.peers; p < play.peers + PLAY_PEERS; p++)
        if (p->far >= 0)
            each(p, arg);
}

static void make_room(struct peer *p, size_t n)
{
    if (p->at == p->n)
        p->at = p->n = 0;
    if (p->n + n <= p->cap)
        return;
    p->cap = (p->n + n) * 2;
    p->in = memory_own(p->in, p->cap);
}

static bool peer_step(struct peer *p)
{
    make_room(p, 65536);
    size_t n = wire_take(p->far, p->in + p->n, 65536);
    p->n += n;
    bool over = wire_is_over(p->far), late = p->due_ms && turns_now() >= p->due_ms;
    if (late)
        p->due_ms = 0;
    if (n || late)
        play.protocol->serve(p);
    if (p->far >= 0 && over)
        peer_close(p);
    return n || late || over;
}

bool peers_step(void)
{
    bool any = false;
    for (struct peer *p = play.peers; p < play.peers + PLAY_PEERS && !play.mute; p++)
        any |= p->far >= 0 && peer_step(p);
    return any;
}

uint64_t peers_due(void)
{
    uint64_t due = UINT64_MAX;
    for (const struct peer *p = play.peers; p < play.peers + PLAY_PEERS && !play.mute; p++)
        if (p->far >= 0 && p->due_ms && p->due_ms < due)
            due = p->due_ms;
    return due;
}

static void peer_is_lost(struct peer *p, bool reset)
{
    if (reset)
        wire_reset(p->far);
    else
        wire_close(p->far);
    p->far = -1;
}

void peers_are_lost(bool reset)
{
    for (struct peer *p = play.peers; p < play.peers + PLAY_PEERS; p++)
        if (p->far >= 0)
            peer_is_lost(p, reset);
}

/* ---- clients ---- */

/* It does not read, but it would notice. */
static bool client_is_cut_off(struct client *c)
{
    bool over = !c->over && wire_is_over(c->far);
    c->over |= over;
    return over;
}

static bool client_step(struct client *c)
{
    if (c->far < 0)
        return false;
    if (c->deaf)
        return client_is_cut_off(c);
    size_t n = wire_take(c->far, c->got + c->n, PLAY_CLIENT_MAX - c->n);
    c->n += n;
    CHECK(c->n < PLAY_CLIENT_MAX);
    bool over = !c->over && wire_is_over(c->far);
    c->over |= over;
    return n || over;
}

bool clients_step(void)
{
    bool any = false;
    for (unsigned i = 0; i < PLAY_CLIENTS; i++)
        any |= client_step(&play.clients[i]);
    return any;
}

void client_goes(struct client *c, bool reset)
{
    if (c->far < 0)
        return;
    if (reset)
        wire_reset(c->far);
    else
        wire_close(c->far);
    c->far = -1;
    c->over = true;
}

struct span play_heard(unsigned client)
{
    const struct client *c = &play.clients[client];
    return span_of(c->got + c->heard, c->n - c->heard);
}

struct span play_got(unsigned client)
{
    return span_of(play.clients[client].got, play.clients[client].n);
}

void play_hears_all(unsigned client)
{
    play.clients[client].heard = play.clients[client].n;
}

void play_say(unsigned client, struct span bytes)
{
    const struct client *c = &play.clients[client];
    if (c->far >= 0 && !c->over)
        wire_put(c->far, bytes);
}
