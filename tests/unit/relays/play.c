/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/relays/memory.h"
#include "tests/unit/relays/play_private.h"
#include "tests/unit/relays/turns.h"
#include "tests/unit/relays/wires.h"

#define PATIENCE_MS 10000 /* longer than any deadline */
#define NEVER UINT32_MAX

struct play play;
static unsigned plays; /* so far */

/* Lets the world go on by one round; false: nothing happens before time goes on. */
static bool round_of_all(void)
{
    bool any = clients_step();
    any |= peers_step();
    any |= depot_turn();
    return any;
}

/* All that can happen now. */
static void finish_rounds(void)
{
    unsigned rounds = 0;
    while (round_of_all())
        CHECK(++rounds < 100000);
}

/* ---- steps ---- */

static unsigned answers_of(const struct client *c)
{
    bool well;
    return play.protocol->answers(span_of(c->got, c->n), &well);
}

/* The words of what was heard since. */
static const char *words_of(const struct client *c)
{
    static char words[65536];
    struct span got = span_of(c->got + c->heard, c->n - c->heard);
    if (play.protocol->show) {
        play.protocol->show(got, words, sizeof words);
        return words;
    }
    size_t n = got.n < sizeof words - 1 ? got.n : sizeof words - 1;
    if (n)
        memcpy(words, got.p, n);
    words[n] = '\0';
    return words;
}

/* After something has happened: it was answered, however, or will never be. */
static bool is_settled(const struct client *c, bool asked)
{
    return !play_is_as_written() && (c->over || (asked && answers_of(c) >= c->due));
}

static void come(struct client *c)
{
    const char *elsewhere = play.script->elsewhere;
    char name = (char)('a' + (c - play.clients));
    CHECK(!c->came);
    c->came = true;
    c->far = depot_connect(elsewhere && strchr(elsewhere, name) && !play.proving);
    c->over = c->far < 0;
}

/* ---- costs ---- */

static struct {
    struct cost cost;
    size_t bytes;
} before; /* the latest COUNTS */

static struct cost cost_so_far(void)
{
    struct wires_calls calls = wires_calls();
    return (struct cost){calls.reads, calls.writes, calls.others + turns_calls(), memory_asked()};
}

static void count_from_here(void)
{
    finish_rounds();
    before.cost = cost_so_far();
    before.bytes = memory_bytes();
}

static void has_cost(const struct cost *due)
{
    finish_rounds();
    struct cost now = cost_so_far(), *at = &before.cost;
    struct cost is = {now.reads - at->reads, now.writes - at->writes, now.others - at->others,
                      now.allocations - at->allocations};
    if (memcmp(&is, due, sizeof is) == 0)
        return;
    char what[2][80];
    const struct cost *of[2] = {due, &is};
    for (int i = 0; i < 2; i++)
        snprintf(what[i], sizeof what[i], "%u reads, %u writes, %u other calls, %u allocations",
                 of[i]->reads, of[i]->writes, of[i]->others, of[i]->allocations);
    play_fails("it was to cost the first, and cost the second", what[0], what[1]);
}

static void holds(size_t most)
{
    char text[64];
    finish_rounds();
    size_t grown = memory_bytes() - before.bytes;
    if (grown > 0 && grown <= most) /* nothing at all: what was measured? */
        return;
    snprintf(text, sizeof text, "%zu bytes, of %zu", grown, most);
    play_fails("idle clients take", text, "");
}

/* ---- one step ---- */

/* False: not yet. */
static bool step_done(const struct step *s, bool asked, uint64_t since)
{
    struct client *c = &play.clients[s->client];
    switch (s->kind) {
    case STEP_COME:
        come(c);
        return true;
    case STEP_SAY:
        play_say(s->client, span_of(s->text, s->n));
        c->due += s->due;
        return true;
    case STEP_HEAR:
        if (strcmp(words_of(c), s->text) == 0) {
            c->heard = c->n;
            return true;
        }
        return is_settled(c, asked);
    case STEP_GET:
        if (c->n - c->heard == s->n) {
            c->heard = c->n;
            return true;
        }
        return is_settled(c, asked);
    case STEP_LEAVE:
        client_goes(c, false);
        return true;
    case STEP_PASS:
        return turns_now() >= since + s->n;
    case STEP_DO:
        if (c->over || c->far < 0)
            return true;
        if (!s->act(s->client))
            return false;
        c->due += s->due;
        return true;
    case STEP_COUNT:
        count_from_here();
        return true;
    case STEP_COST:
        has_cost(&s->cost);
        return true;
    case STEP_HOLD:
        holds(s->n);
        return true;
    }
    return true;
}

static void not_heard(const struct step *s)
{
    char got[32];
    const struct client *c = &play.clients[s->client];
    if (s->kind == STEP_GET) {
        snprintf(got, sizeof got, "%zu bytes", c->n - c->heard);
        play_fails("not heard: so many bytes", got, words_of(c));
    }
    play_fails("not heard:", s->text ? s->text : "-", words_of(c));
}

/* Time goes on to the next event, but not past `until`; false: it is there. */
static bool wait_until(uint64_t until)
{
    uint64_t due = turns_due(), theirs = peers_due();
    due = due < theirs ? due : theirs;
    if (turns_now() >= until)
        return false;
    due = due > turns_now() ? due : turns_now() + (due < turns_now());
    turns_pass(due < until ? due : until);
    return true;
}

static void play_steps(const struct script *script)
{
    uint64_t since = turns_now();
    bool asked = false;
    unsigned rounds = 0;
    for (size_t i = 0; i < script->n_steps;) {
        const struct step *s = &script->steps[i];
        play.current = s->kind == STEP_PASS ? play.current : s->client;
        bool done = step_done(s, asked, since);
        if (done) {
            asked = s->kind == STEP_SAY || s->kind == STEP_DO ? asked || s->due : false;
            since = turns_now();
            rounds = 0;
            i++;
            continue;
        }
        CHECK(++rounds < 100000);
        if (round_of_all())
            continue;
        uint64_t until = since + (s->kind == STEP_PASS ? s->n : PATIENCE_MS);
        if (wait_until(until))
            continue;
        if (play_is_as_written())
            not_heard(s);
        since = turns_now();
        i++;
    }
}

/* ---- a whole play ---- */

static void rest(uint64_t ms)
{
    uint64_t until = turns_now() + ms;
    do {
        finish_rounds();
    } while (wait_until(until));
}

static void is_proper(unsigned who)
{
    const struct client *c = &play.clients[who];
    bool well;
    unsigned n = play.protocol->answers(span_of(c->got, c->n), &well);
    if (!well)
        play_fails("what the client got is no answer:", words_of(c), "");
    for (char other = 'a'; other < 'a' + PLAY_CLIENTS; other++) {
        char tag[] = {'f', 'o', 'r', '-', other, '\0'};
        if (other != 'a' + (char)who && c->n && memmem(c->got, c->n, tag, 5))
            play_fails("the client got what is another's:", tag, words_of(c));
    }
    bool excused = play_did(ACT_PAUSE) || c->deaf;
    bool here = c->came && c->far >= 0 && !c->over;
    if (here && n < c->due && !excused)
        play_fails("the client waits for an answer for ever", words_of(c), "");
    bool (*within)(struct span got) = play.protocol->is_within;
    if (here && within && play_did(ACT_DRAIN) && !c->deaf && n == c->due &&
        !within(span_of(c->got, c->n)))
        play_fails("a drain leaves the client connected for ever", words_of(c), "");
}

/* For who looks at one play alone. */
static void show_all(void)
{
    for (unsigned i = 0; i < PLAY_CLIENTS; i++) {
        struct client *c = &play.clients[i];
        if (!c->came)
            continue;
        c->heard = 0;
        print_message("%c%s got %zu bytes: %s\n", 'a' + (int)i, c->over ? ", gone," : "", c->n,
                      words_of(c));
    }
}

static void begin(const struct script *script)
{
    struct depot_plan plan = play.protocol->plan;
    plan.workers = play_workers(script);
    if (script->conf)
        script->conf(&plan);
    play.script = script;
    play.happened = 0;
    play.mute = false;
    for (struct peer *p = play.peers; p < play.peers + PLAY_PEERS; p++)
        p->far = -1;
    for (unsigned i = 0; i < PLAY_CLIENTS; i++) {
        struct client *c = &play.clients[i];
        uint8_t *got = c->got ? c->got : memory_own(NULL, PLAY_CLIENT_MAX);
        *c = (struct client){.far = -1, .got = got};
    }
    wires_clear();
    wires_chop(script->chop);
    depot_open(&plan, play_on_server);
    if (script->on_trial)
        depot_trip();
}

/* Who comes now is served, as if nothing had been. */
static void prove(void)
{
    play_undo();
    rest(play_did(ACT_OUTAGE) ? 12000 : 5000); /* past every pause */
    for (unsigned i = 0; i < PLAY_CLIENTS; i++) {
        struct client *c = &play.clients[i];
        *c = (struct client){.far = -1, .got = c->got};
    }
    play.proving = true;
    play_steps(play.script->proof ? play.script->proof : &play.protocol->proof);
    play.proving = false;
    client_goes(&play.clients[0], false);
    rest(3000);
    depot_is_at_rest();
}

static unsigned play_one(const struct script *script, bool memory)
{
    long held = memory_held();
    play.without_memory = memory;
    turns_begin(100000, NEVER, NULL);
    begin(script);
    turns_begin(turns_now(), memory ? NEVER : play.at,
                play.act == ACT_NOTHING ? NULL : play_it_happens);
    memory_fail(memory ? play.at : 0);
    play_steps(script);
    rest(20);
    unsigned n = memory ? memory_asked() : turns_ticks();
    memory_fail(0);
    turns_begin(turns_now(), NEVER, NULL);
    if (!play_is_as_written())
        rest(PATIENCE_MS);
    for (unsigned i = 0; i < PLAY_CLIENTS; i++)
        is_proper(i);
    if (getenv("CARPOOL_PLAY"))
        show_all();
    for (unsigned i = 0; i < PLAY_CLIENTS; i++)
        client_goes(&play.clients[i], false);
    rest(6000);
    depot_is_at_rest();
    if (!depot_is_ending())
        prove();
    depot_close(round_of_all);
    CHECK(wires_of_ours() == 0);
    if (memory_held() != held)
        play_fails("memory is left", "", "");
    plays++;
    return n;
}

/* ---- all plays ---- */

/* CARPOOL_PLAY: those that begin like that, alone. */
static bool is_wanted(const struct script *script, bool memory)
{
    const char *only = getenv("CARPOOL_PLAY");
    char name[128];
    play_name(name, script, memory);
    return !only || strncmp(name, only, strlen(only)) == 0;
}

static const struct protocol *prepare(const struct protocol *p)
{
    plays = 0;
    play.protocol = p;
    play_watch();
    return p;
}

/* As it is written; returns how much there is to go through. */
static unsigned play_plain(const struct script *script, bool memory)
{
    play.act = play.then = ACT_NOTHING;
    play.at = memory ? NEVER : 0;
    return play_one(script, memory);
}

static void all_scripts(void **state)
{
    const struct protocol *p = prepare(*state);
    for (size_t i = 0; i < p->n_scripts; i++)
        for (int reverse = 0; reverse < 2; reverse++) {
            turns_reverse(reverse);
            play_plain(&p->scripts[i], false);
        }
    turns_reverse(false);
}

static void exchanges_cost_what_they_should(void **state)
{
    const struct protocol *p = prepare(*state);
    for (size_t i = 0; i < p->n_costs; i++)
        for (int reverse = 0; reverse < 2; reverse++) {
            turns_reverse(reverse);
            play_plain(&p->costs[i], false);
        }
    turns_reverse(false);
}

static void play_at_every_tick(const struct script *script, enum act act, enum act then,
                               unsigned ticks)
{
    for (unsigned at = 0; at < ticks; at++) {
        play.act = act;
        play.then = then;
        play.at = at;
        if (is_wanted(script, false))
            play_one(script, false);
    }
}

static void something_happens_at_every_tick(void **state)
{
    const struct protocol *p = prepare(*state);
    for (size_t i = 0; i < p->n_scripts; i++) {
        unsigned ticks = play_plain(&p->scripts[i], false);
        assert_in_range(ticks, 10, 3000);
        for (enum act act = ACT_NOTHING + 1; act < ACTS; act++)
            play_at_every_tick(&p->scripts[i], act, ACT_NOTHING, ticks);
    }
    print_message("%s: %u plays\n", p->name, plays);
}

static void two_things_happen(void **state)
{
    static const enum act pairs[][2] = {
        {ACT_OUTAGE, ACT_LEAVE},  {ACT_OUTAGE, ACT_DRAIN},  {ACT_OUTAGE, ACT_KILL},
        {ACT_MUTE, ACT_LEAVE},    {ACT_MUTE, ACT_STOP},     {ACT_MUTE, ACT_KILL},
        {ACT_MUTE, ACT_RESET},    {ACT_MUTE, ACT_REMOVE},   {ACT_RESET, ACT_REMOVE},
        {ACT_RESET, ACT_LEAVE},   {ACT_RESET, ACT_RESET},   {ACT_DRAIN, ACT_LEAVE},
        {ACT_DRAIN, ACT_RESET},   {ACT_DRAIN, ACT_STOP},    {ACT_RELOAD, ACT_RESET},
        {ACT_RELOAD, ACT_REMOVE}, {ACT_PAUSE, ACT_LEAVE},   {ACT_PAUSE, ACT_REMOVE_2},
        {ACT_STOP, ACT_KILL},     {ACT_STOP, ACT_RESET},    {ACT_REMOVE, ACT_RESET},
        {ACT_DEAF, ACT_KILL},     {ACT_DEAF, ACT_CLOSE},    {ACT_STUCK, ACT_DRAIN},
        {ACT_FINISH, ACT_RESET},  {ACT_FINISH, ACT_DRAIN},  {ACT_FINISH, ACT_MUTE},
        {ACT_RECYCLE, ACT_CLOSE}, {ACT_RECYCLE, ACT_LEAVE}, {ACT_BABBLE, ACT_RESET},
    };
    const struct protocol *p = prepare(*state);
    for (size_t i = 0; i < p->n_scripts; i++) {
        unsigned ticks = play_plain(&p->scripts[i], false);
        if (p->scripts[i].chop)
            continue; /* it has enough of them as it is */
        for (size_t k = 0; k < ARRAY_LEN(pairs); k++)
            play_at_every_tick(&p->scripts[i], pairs[k][0], pairs[k][1], ticks);
    }
    print_message("%s: %u plays\n", p->name, plays);
}

static void every_allocation_may_fail(void **state)
{
    const struct protocol *p = prepare(*state);
    for (size_t i = 0; i < p->n_scripts; i++) {
        unsigned all = play_plain(&p->scripts[i], true);
        assert_in_range(all, 3, 3000);
        for (unsigned at = 1; at <= all; at++) {
            play.at = at;
            if (is_wanted(&p->scripts[i], true))
                play_one(&p->scripts[i], true);
        }
    }
    print_message("%s: %u plays\n", p->name, plays);
}

int play_all(struct protocol *p)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(all_scripts, p),
        cmocka_unit_test_prestate(exchanges_cost_what_they_should, p),
        cmocka_unit_test_prestate(something_happens_at_every_tick, p),
        cmocka_unit_test_prestate(two_things_happen, p),
        cmocka_unit_test_prestate(every_allocation_may_fail, p),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
