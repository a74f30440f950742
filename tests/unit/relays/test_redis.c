/* SPDX-License-Identifier: MIT */
/*
 * Redis clients, at every tick and without every allocation. The server is a small one: it knows
 * the commands below, and answers with the key it was asked for, so that each answer tells whose
 * it is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pools/redis.h"
#include "proxy/front/redis.h"
#include "tests/unit/relays/play.h"
#include "tests/unit/relays/turns.h"

#define BIG 100000

/* ---- the server ---- */

enum { IN_MULTI = 1, BLOCKED = 2 };

struct command {
    struct span words[8];
    unsigned n;
};

/* "$5\r\nhello\r\n" -> hello; 0: not whole. */
static size_t take_bulk(struct span in, struct span *word)
{
    const uint8_t *nl = in.n ? memchr(in.p, '\n', in.n) : NULL;
    if (!nl)
        return 0;
    size_t head = (size_t)(nl - in.p) + 1, n = strtoul((const char *)in.p + 1, NULL, 10);
    if (in.n < head + n + 2)
        return 0;
    *word = span_of(nl + 1, n);
    return head + n + 2;
}

static size_t take_command(struct span in, struct command *c)
{
    const uint8_t *nl = in.n ? memchr(in.p, '\n', in.n) : NULL;
    if (!nl)
        return 0;
    CHECK(in.p[0] == '*');
    size_t at = (size_t)(nl - in.p) + 1;
    c->n = (unsigned)strtoul((const char *)in.p + 1, NULL, 10);
    CHECK(c->n >= 1 && c->n <= ARRAY_LEN(c->words));
    for (unsigned i = 0; i < c->n; i++) {
        size_t n = take_bulk(span_skip(in, at), &c->words[i]);
        if (n == 0)
            return 0;
        at += n;
    }
    return at;
}

static void say_bulk(struct peer *p, struct span s)
{
    char head[32];
    peer_say_bytes(p, head, (size_t)snprintf(head, sizeof head, "$%zu\r\n", s.n));
    peer_say_bytes(p, s.p, s.n);
    peer_say(p, "\r\n");
}

static void say_big(struct peer *p)
{
    static char big[BIG];
    memset(big, 'x', sizeof big);
    say_bulk(p, span_of(big, sizeof big));
}

static bool is(const struct command *c, const char *name)
{
    return span_ieq(c->words[0], span_str(name));
}

/* What needs no word of its own. */
static const char *plain_answer(const struct command *c)
{
    static const char *const known[][2] = {
        {"SET", "+OK\r\n"},      {"WATCH", "+OK\r\n"},  {"CLIENT", "+OK\r\n"},
        {"RESET", "+RESET\r\n"}, {"PING", "+PONG\r\n"}, {"SELDOM", "+seldom\r\n"},
        {"INCR", ":1\r\n"},      {"SELECT", "+OK\r\n"}, {"UNWATCH", "+OK\r\n"},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (is(c, known[i][0]))
            return known[i][1];
    return NULL;
}

static void subscribe(struct peer *p, const struct command *c)
{
    peer_say(p, "*3\r\n");
    say_bulk(p, is(c, "SUBSCRIBE") ? SPAN_LIT("subscribe") : SPAN_LIT("unsubscribe"));
    say_bulk(p, c->words[1]);
    peer_say(p, is(c, "SUBSCRIBE") ? ":1\r\n" : ":0\r\n");
    if (!is(c, "SUBSCRIBE"))
        return;
    peer_say(p, "*3\r\n$7\r\nmessage\r\n");
    say_bulk(p, c->words[1]);
    peer_say(p, "$2\r\nhi\r\n");
}

static void exec(struct peer *p)
{
    peer_say(p, "*1\r\n:1\r\n");
    p->state &= ~IN_MULTI;
}

static void answer(struct peer *p, const struct command *c)
{
    const char *plain = plain_answer(c);
    if (is(c, "MULTI")) {
        p->state |= IN_MULTI;
        peer_say(p, "+OK\r\n");
    } else if (is(c, "EXEC")) {
        exec(p);
    } else if (is(c, "RESET")) {
        p->state = 0;
        peer_say(p, plain);
    } else if (p->state & IN_MULTI) {
        peer_say(p, "+QUEUED\r\n");
    } else if (plain) {
        peer_say(p, plain);
    } else if (is(c, "BLPOP")) {
        p->state |= BLOCKED;
        p->due_ms = turns_now() + 50;
    } else if (is(c, "SUBSCRIBE") || is(c, "UNSUBSCRIBE")) {
        subscribe(p, c);
    } else if (is(c, "GETRANGE")) {
        say_big(p);
    } else if (c->n > 1) {
        say_bulk(p, c->words[1]); /* GET, ECHO */
    } else {
        peer_say(p, "-ERR unknown\r\n");
    }
}

static void serve(struct peer *p)
{
    struct command c;
    if ((p->state & BLOCKED) && p->due_ms)
        return;
    if (p->state & BLOCKED) {
        p->state &= ~BLOCKED;
        peer_say(p, "*2\r\n$1\r\nk\r\n$1\r\nv\r\n");
    }
    size_t n;
    while (p->far >= 0 && !(p->state & BLOCKED) && (n = take_command(peer_in(p), &c)) > 0) {
        peer_use(p, n);
        answer(p, &c);
    }
}

static bool born(struct server *sv, int far)
{
    (void)far;
    redis_server_of(sv)->about = (struct redis_about){"redis", "7.0.15", "standalone", "master"};
    return true;
}

/* ---- clients ---- */

static unsigned answers(struct span got, bool *well)
{
    struct redis_reply_framer f = {0};
    struct redis_reply_piece piece;
    struct err err;
    unsigned n = 0;
    *well = true;
    for (;;) {
        switch (redis_reply_next(&f, got, 0, &piece, &err)) {
        case REDIS_REPLY_BAD:
            *well = false;
            return n;
        case REDIS_REPLY_WAIT:
            return n;
        case REDIS_REPLY_PIECE:
            n += piece.ends;
            got = span_skip(got, piece.raw.n);
            break;
        }
    }
}

#define R2(n, a, m, b) "*2\r\n$" #n "\r\n" a "\r\n$" #m "\r\n" b "\r\n"
#define FOR_A "$5\r\nfor-a\r\n"
#define FOR_B "$5\r\nfor-b\r\n"

static const struct step pipeline[] = {
    COMES('a'),
    COMES('b'),
    SAYS('a', "GET for-a\r\nPING\r\nSET k 1\r\nGET for-a\r\n", 4),
    SAYS('b', "GET for-b\r\n*2\r\n$3\r\nGET\r\n$5", 2),
    HEARS('a', FOR_A "+PONG\r\n+OK\r\n" FOR_A),
    SAYS('b', "\r\nfor-b\r\nECHO for-b\r\n", 1),
    HEARS('b', FOR_B FOR_B FOR_B),
    SAYS('a', "GET for-a\r\nINCR n\r\n", 2),
    SAYS('b', "GET for-b\r\nQUIT\r\n", 2),
    HEARS('b', FOR_B "+OK\r\n"),
    HEARS('a', FOR_A ":1\r\n"),
};

static const struct step transaction[] = {
    COMES('a'),
    COMES('b'),
    SAYS('a', "GET for-a\r\nWATCH k\r\n", 2),
    SAYS('b', "GET for-b\r\n", 1),
    HEARS('a', FOR_A "+OK\r\n"),
    SAYS('a', "MULTI\r\nINCR n\r\n", 2),
    HEARS('b', FOR_B),
    HEARS('a', "+OK\r\n+QUEUED\r\n"),
    SAYS('a', "EXEC\r\nGET for-a\r\n", 2),
    SAYS('b', "MULTI\r\nSET k 1\r\nEXEC\r\n", 3),
    HEARS('a', "*1\r\n:1\r\n" FOR_A),
    HEARS('b', "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n"),
};

/* What leaves something behind: the server is reset before the next one has it. */
static const struct step pinned[] = {
    COMES('a'),
    COMES('b'),
    SAYS('a', "SELDOM x\r\nGET for-a\r\n", 2),
    SAYS('b', "BLPOP k 0\r\nECHO for-b\r\nGET for-b\r\n", 0),
    HEARS('a', "+seldom\r\n" FOR_A),
    HEARS('b', "*2\r\n$1\r\nk\r\n$1\r\nv\r\n" FOR_B FOR_B),
    SAYS('a', "BLPOP k 0\r\n", 0),
    HEARS('a', "*2\r\n$1\r\nk\r\n$1\r\nv\r\n"),
};

static const struct step subscription[] = {
    COMES('a'),
    SAYS('a', "GET for-a\r\nSUBSCRIBE c\r\n", 2),
    HEARS('a', FOR_A "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
                     "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"),
    SAYS('a', "UNSUBSCRIBE c\r\n", 0),
    HEARS('a', "*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n"),
    SAYS('a', "GET for-a\r\n", 1),
    HEARS('a', FOR_A),
    LEAVES('a'),
};

/* Replies that do not fit through at once, next to others. */
static const struct step big[] = {
    COMES('a'),
    COMES('b'),
    SAYS('a', "GETRANGE big 0 -1\r\nGET for-a\r\n", 2),
    SAYS('b', "GET for-b\r\n", 1),
    GETS('a', BIG + 11 + 11),
    HEARS('b', FOR_B),
};

/* More than one worker should have: the last ones are handed over. */
static const struct step crowd[] = {
    COMES('a'),
    COMES('b'),
    COMES('c'),
    COMES('d'),
    SAYS('a', "GET for-a\r\n", 1),
    SAYS('b', "GET for-b\r\n", 1),
    HEARS('a', FOR_A),
    COMES('e'),
    COMES('f'),
    COMES('g'),
    SAYS('g', "GET for-g\r\n", 1),
    HEARS('g', "$5\r\nfor-g\r\n"),
    HEARS('b', FOR_B),
};

/* One too many comes, and comes again when there is room. */
static const struct step guests[] = {
    COMES('a'),
    SAYS('a', "GET for-a\r\n", 1),
    HEARS('a', FOR_A),
    COMES('b'),
    HEARS('b', "-ERR carpool: too_many_clients pool test has its 1 clients already "
               "(limits.clients)\r\n"),
    LEAVES('a'),
    PASS(5),
    COMES('c'),
    SAYS('c', "AUTH secret\r\nHELLO 2\r\nSELECT 0\r\nCLIENT GETNAME\r\n", 4),
    PASS(5),
};

/* What does not fit into one read, nor behind others' commands. */
static char big_value[200000];

static bool say_big_value(unsigned who)
{
    char head[] = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200000\r\n";
    memset(big_value, 'x', sizeof big_value);
    play_say(who, span_of(head, sizeof head - 1));
    play_say(who, span_of(big_value, sizeof big_value));
    play_say(who, SPAN_LIT("\r\nGET for-a\r\n"));
    return true;
}

static const struct step uploads[] = {
    COMES('a'),
    COMES('b'),
    DOES('a', say_big_value, 2),
    SAYS('b', "GET for-b\r\n*1\r\n$5\r\nMULTI\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nEXEC\r\n", 4),
    HEARS('b', FOR_B "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n"),
    HEARS('a', "+OK\r\n" FOR_A),
};

static void one_client(struct depot_plan *plan)
{
    plan->front.limits.clients = 1;
}

static void one_server(struct depot_plan *plan)
{
    plan->pool.size.max = 1;
}

static const struct step proof[] = {
    COMES('a'),
    SAYS('a', "GET for-a\r\n", 1), /* three trials close the breaker */
    HEARS('a', FOR_A),
    SAYS('a', "GET for-a\r\n", 1),
    HEARS('a', FOR_A),
    SAYS('a', "GET for-a\r\n", 1),
    HEARS('a', FOR_A),
    SAYS('a', "GET for-a\r\nMULTI\r\nINCR n\r\nEXEC\r\n", 4),
    HEARS('a', FOR_A "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n"),
};

static const struct script scripts[] = {
    {SCRIPT(pipeline)},
    {SCRIPT(transaction), .conf = one_server},
    {SCRIPT(pinned)},
    {SCRIPT(subscription), .conf = one_server},
    {SCRIPT(big), .workers = 2, .elsewhere = "b"},
    {SCRIPT_AS("transaction_elsewhere", transaction), .conf = one_server, .workers = 2,
     .elsewhere = "b"},
    {SCRIPT_AS("bytes", proof), .chop = 5},
    {SCRIPT(crowd), .workers = 2},
    {SCRIPT(guests), .conf = one_client},
    {SCRIPT(uploads)},
    {SCRIPT_AS("trials", proof), .on_trial = true},
    {SCRIPT_AS("trials_of_two", proof), .on_trial = true, .conf = depot_two_endpoints},
    {SCRIPT_AS("pipeline_in_pieces", pipeline), .chop = 9},
};

/* ---- costs ---- */

#define GETS_ONE_A SAYS('a', "GET for-a\r\n", 1), HEARS('a', FOR_A)
#define GETS_ONE_B SAYS('b', "GET for-b\r\n", 1), HEARS('b', FOR_B)

/* Each: a read and a write of ours on either side. */
static const struct step exchanges[] = {
    COMES('a'),        COMES('b'), GETS_ONE_A, GETS_ONE_B, COUNTS,     GETS_ONE_A,
    COSTS(2, 2, 0, 0), COUNTS,     GETS_ONE_B, GETS_ONE_B, GETS_ONE_A, COSTS(6, 6, 0, 0),
};

#define COMES_AND_GETS(who) COMES(who), SAYS(who, "GET for-x\r\n", 1), HEARS(who, "$5\r\nfor-x\r\n")

#define ALL_FOUR_SAY                                                                               \
    SAYS('a', "GET for-a\r\n", 1), SAYS('b', "GET for-b\r\nPING\r\n", 2),                          \
        SAYS('c', "INCR n\r\n", 1), SAYS('d', "SET k 1\r\nINCR n\r\nPING\r\n", 3),                 \
        HEARS('a', FOR_A), HEARS('b', FOR_B "+PONG\r\n"), HEARS('c', ":1\r\n"),                    \
        HEARS('d', "+OK\r\n:1\r\n+PONG\r\n")

/* What many say at one turn of the loop goes to their server in one piece, and comes back so. */
static const struct step turn_of_many[] = {
    COMES_AND_GETS('a'),
    COMES_AND_GETS('b'),
    COMES_AND_GETS('c'),
    COMES_AND_GETS('d'),
    ALL_FOUR_SAY, /* room for seven requests */
    COUNTS,
    ALL_FOUR_SAY,
    COSTS(4 + 1, 1 + 4, 0, 0),
};

static const struct step idle[] = {
    COMES_AND_GETS('a'), COMES_AND_GETS('b'), COUNTS,          COMES_AND_GETS('c'),
    COMES_AND_GETS('d'), COMES_AND_GETS('e'), HOLDS(3 * 1024),
};

static const struct script costs[] = {
    {SCRIPT(exchanges)},
    {SCRIPT(turn_of_many), .conf = one_server},
    {SCRIPT(idle), .conf = one_server},
};

static struct protocol make_protocol(void)
{
    struct protocol p = {
        .name = "redis",
        .plan = depot_plan(),
        .serve = serve,
        .answers = answers,
        .garbage = "@@ what is this \r\n",
        .scripts = scripts,
        .n_scripts = ARRAY_LEN(scripts),
        .costs = costs,
        .n_costs = ARRAY_LEN(costs),
        .proof = {SCRIPT(proof)},
    };
    p.plan.relay = &redis_relay;
    p.plan.driver = &redis_driver;
    p.plan.born = born;
    p.plan.front.kind = FRONT_REDIS;
    p.plan.front.kind_name = "redis";
    return p;
}

int main(void)
{
    struct protocol p = make_protocol();
    return play_all(&p);
}
