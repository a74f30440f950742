/* SPDX-License-Identifier: MIT */
/*
 * The release rule against a model of the server: a small interpreter of client messages that,
 * unlike pg_flow, sees when it reads what. Random conversations (pipelined, with errors, failing
 * COPYs, stray messages), random timing between what is sent, read and delivered. Held to be true
 * after every step:
 *
 *     - no answer of the model is a violation;
 *     - the flow says idle only if the model is idle, has read all that asks for something, and all
 *       its answers have arrived;
 *     - when all has arrived, the flow is idle if the model is, or doubtful after a COPY that
 *       failed, and then one more Query settles it. (Or it says that it is lost, after such a
 *       COPY.)
 */
#include "proxy/wire/postgres_flow.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

enum { MESSAGES = 48, ANSWERS = 4096, CONVERSATIONS = 30000 };

enum plan {
    ROWS,
    EMPTY,
    FAIL,
    FAIL_LATE,
    COPY_IN,
    COPY_IN_TWICE,
    COPY_OUT,
    BEGIN,
    COMMIT,
    SUSPEND
};

struct message {
    uint8_t type;
    enum plan plan;
    unsigned copy_fails_after; /* messages read inside the COPY; UINT_MAX: it does not fail */
    bool fails_at_end;
};

struct talk {
    uint32_t random;
    struct pg_flow flow;
    struct message client[MESSAGES + 32];
    size_t written, sent, read;
    struct {
        uint8_t type, status;
    } answer[ANSWERS];
    size_t said, delivered;
    char log[8192];
    size_t log_n;
    /* the model */
    bool skip, open, dead, in_copy, copy_extended, copy_failed_once;
    uint8_t tx;
    unsigned copies_left, copy_reads_left;
    bool copy_fails_at_end;
};

static uint32_t rnd(struct talk *t, uint32_t below)
{
    t->random ^= t->random << 13;
    t->random ^= t->random >> 17;
    t->random ^= t->random << 5;
    return t->random % below;
}

static void note(struct talk *t, char mark, uint8_t type)
{
    if (t->log_n + 8 < sizeof t->log)
        t->log_n += (size_t)snprintf(t->log + t->log_n, 8, "%c%c ", mark, type);
}

/* --- the model --- */

static void say(struct talk *t, uint8_t type)
{
    assert_true(t->said < ANSWERS);
    if (rnd(t, 16) == 0)
        t->answer[t->said++].type = (uint8_t)"NSA"[rnd(t, 3)];
    t->answer[t->said].type = type;
    t->answer[t->said++].status = t->tx;
}

static void fails(struct talk *t, bool extended)
{
    say(t, 'E');
    t->in_copy = false;
    t->open = false;
    if (t->tx == 'T')
        t->tx = 'E';
    if (extended)
        t->skip = true;
    else
        say(t, 'Z');
}

static void begin_copy(struct talk *t, const struct message *m, bool extended)
{
    say(t, 'G');
    t->in_copy = true;
    t->copy_extended = extended;
    t->copy_reads_left = m->copy_fails_after;
    t->copy_fails_at_end = m->fails_at_end;
    if (t->copy_reads_left == 0) {
        t->copy_failed_once = true;
        fails(t, extended);
    }
}

static void read_in_copy(struct talk *t, const struct message *m)
{
    bool done = m->type == 'c', refused = m->type == 'f';
    if (!strchr("dcfSH", m->type)) { /* the server gives up on such a client */
        say(t, 'E');
        t->dead = true;
        return;
    }
    if (t->copy_reads_left != UINT32_MAX)
        t->copy_reads_left--;
    if (refused || t->copy_reads_left == 0 || (done && t->copy_fails_at_end)) {
        t->copy_failed_once = true;
        fails(t, t->copy_extended);
        return;
    }
    if (!done)
        return;
    t->in_copy = false;
    say(t, 'C');
    if (t->copy_extended)
        return;
    if (--t->copies_left > 0) {
        struct message again = {.copy_fails_after = UINT32_MAX};
        begin_copy(t, &again, false);
    } else {
        say(t, 'Z');
    }
}

static void rows(struct talk *t)
{
    for (uint32_t n = rnd(t, 3); n > 0; n--)
        say(t, 'D');
}

/* A Query's or Execute's command. True if it is over (no COPY IN, no error). */
static bool command(struct talk *t, const struct message *m, bool extended)
{
    if (m->plan == FAIL || (t->tx == 'E' && m->plan != COMMIT)) {
        fails(t, extended);
        return false;
    }
    if (!extended && (m->plan == ROWS || m->plan == FAIL_LATE))
        say(t, 'T');
    switch (m->plan) {
    case FAIL_LATE:
        rows(t);
        fails(t, extended);
        return false;
    case COPY_IN:
    case COPY_IN_TWICE:
        t->copies_left = m->plan == COPY_IN || extended ? 1 : 2;
        begin_copy(t, m, extended);
        return false;
    case COPY_OUT:
        say(t, 'H');
        say(t, 'd');
        say(t, 'c');
        say(t, 'C');
        return true;
    case BEGIN:
        t->tx = 'T';
        say(t, 'C');
        return true;
    case COMMIT:
        t->tx = 'I';
        say(t, 'C');
        return true;
    case EMPTY:
        say(t, 'I');
        return true;
    case SUSPEND:
        rows(t);
        say(t, extended ? 's' : 'C');
        return true;
    case ROWS:
    case FAIL:
        break;
    }
    rows(t);
    say(t, 'C');
    return true;
}

static void read_extended(struct talk *t, const struct message *m)
{
    t->open = true;
    if (m->type == 'E') {
        (void)command(t, m, true);
        return;
    }
    if (m->plan == FAIL || (t->tx == 'E' && m->plan != COMMIT)) {
        fails(t, true);
        return;
    }
    switch (m->type) {
    case 'P':
        say(t, '1');
        break;
    case 'B':
        say(t, '2');
        break;
    case 'C':
        say(t, '3');
        break;
    default: /* D: of a statement, d: of a portal (written 'p' in the conversation) */
        if (m->type == 'D') {
            say(t, 't');
            if (m->plan == FAIL_LATE) {
                fails(t, true);
                return;
            }
        }
        say(t, m->plan == EMPTY ? 'n' : 'T');
    }
}

static void read_sync(struct talk *t, const struct message *m)
{
    bool commits = t->open && !t->skip && t->tx == 'I';
    t->skip = t->open = false;
    if (commits && m->plan == FAIL)
        say(t, 'E');
    say(t, 'Z');
}

static void model_read(struct talk *t)
{
    const struct message *m = &t->client[t->read++];
    note(t, '.', m->type);
    if (t->in_copy)
        read_in_copy(t, m);
    else if (m->type == 'S')
        read_sync(t, m);
    else if (t->skip || strchr("dcfH", m->type))
        return;
    else if (m->type == 'Q') {
        t->open = false;
        if (command(t, m, false))
            say(t, 'Z');
    } else if (m->type == 'F') {
        t->open = false;
        if (m->plan == FAIL || t->tx == 'E') {
            fails(t, false);
        } else {
            say(t, 'V');
            say(t, 'Z');
        }
    } else {
        read_extended(t, m);
    }
}

/* What is not read yet must mean nothing outside of COPY. */
static bool model_idle(const struct talk *t)
{
    for (size_t i = t->read; i < t->sent; i++)
        if (!strchr("dcfH", t->client[i].type))
            return false;
    return !t->dead && !t->skip && !t->open && !t->in_copy && t->tx == 'I' &&
           t->delivered == t->said;
}

/* A timeout strikes between two messages of a batch. What the client sends next must not be a Query
 * (then nobody could tell whose error it is). */
static bool may_time_out(const struct talk *t)
{
    if (!t->open || t->skip || t->in_copy || t->read < t->sent)
        return false;
    for (size_t i = t->sent; i < t->written; i++)
        if (!strchr("dcfH", t->client[i].type))
            return t->client[i].type != 'Q' && t->client[i].type != 'F';
    return true;
}

/* --- the conversation --- */

static void write_message(struct talk *t, uint8_t type)
{
    static const enum plan plans[] = {ROWS,      ROWS,    ROWS,    EMPTY,         FAIL,
                                      FAIL_LATE, COPY_IN, COPY_IN, COPY_IN_TWICE, COPY_OUT,
                                      BEGIN,     COMMIT,  COMMIT,  SUSPEND};
    struct message *m = &t->client[t->written++];
    *m = (struct message){.type = type,
                          .plan = plans[rnd(t, ARRAY_LEN(plans))],
                          .copy_fails_after = rnd(t, 3) ? UINT32_MAX : rnd(t, 5),
                          .fails_at_end = rnd(t, 6) == 0};
    bool query = type == 'Q' || type == 'E';
    if (!query && m->plan == FAIL && rnd(t, 2)) /* fewer errors, longer batches */
        m->plan = ROWS;
    if (!query || (m->plan != COPY_IN && m->plan != COPY_IN_TWICE) || rnd(t, 12) == 0)
        return;
    for (int i = 0; i < (m->plan == COPY_IN_TWICE && type == 'Q' ? 2 : 1); i++) {
        for (uint32_t n = rnd(t, 5); n > 0; n--)
            t->client[t->written++].type = (uint8_t)"dddSSH"[rnd(t, 6)];
        t->client[t->written++].type = rnd(t, 6) ? 'c' : 'f';
    }
}

static void write_conversation(struct talk *t)
{
    static const char types[] = "QQQPBDpEEECSSSSHFdc";
    size_t n = 1 + rnd(t, MESSAGES - 24);
    while (t->written < n)
        write_message(t, (uint8_t)types[rnd(t, sizeof types - 1)]);
}

static void broken(const struct talk *t, uint32_t seed, const char *what)
{
    print_message("conversation %u: %s\n(>sent .read <delivered) %s\n", seed, what, t->log);
    fail();
}

static void send_one(struct talk *t, uint32_t seed)
{
    uint8_t type = t->client[t->sent++].type;
    struct span body = type == 'D' ? SPAN_LIT("S") : type == 'p' ? SPAN_LIT("P") : SPAN_LIT("\0x");
    note(t, '>', type);
    if (pg_flow_client(&t->flow, type == 'p' ? 'D' : type, body) != PG_FLOW_OK)
        broken(t, seed, "message refused");
}

static void deliver_one(struct talk *t, uint32_t seed)
{
    uint8_t type = t->answer[t->delivered].type, status = t->answer[t->delivered].status;
    t->delivered++;
    note(t, '<', type);
    enum pg_flow_step s = pg_flow_server(&t->flow, type, span_of(&status, 1));
    if (s == PG_FLOW_VIOLATION)
        broken(t, seed, "answer refused");
    if ((s == PG_FLOW_READY) != (type == 'Z'))
        broken(t, seed, "ReadyForQuery not seen as such");
}

static void check(struct talk *t, uint32_t seed)
{
    bool idle = pg_flow_is_idle(&t->flow), doubt = pg_flow_is_doubtful(&t->flow);
    if (idle && !model_idle(t))
        broken(t, seed, "idle, but the server is not");
    if (pg_flow_is_lost(&t->flow) && (idle || doubt || !t->copy_failed_once))
        broken(t, seed, "lost without a reason");
    if (pg_flow_is_lost(&t->flow) || t->read < t->sent || t->delivered < t->said)
        return;
    if (model_idle(t) && !idle && !doubt)
        broken(t, seed, "the server is idle, and nobody sees it");
    if (doubt && !model_idle(t))
        broken(t, seed, "doubtful, but the server is certainly not idle");
    if (doubt && !t->copy_failed_once)
        broken(t, seed, "doubt without a reason");
}

static void step(struct talk *t, uint32_t seed)
{
    uint32_t what = rnd(t, 16);
    if (what < 6 && t->sent < t->written)
        send_one(t, seed);
    else if (what < 11 && t->read < t->sent)
        model_read(t);
    else if (what < 15 && t->delivered < t->said)
        deliver_one(t, seed);
    else if (what == 15 && rnd(t, 8) == 0 && may_time_out(t))
        fails(t, true);
    if (!t->dead)
        check(t, seed);
}

/* Everything that was written is sent, read and answered. */
static void drain(struct talk *t, uint32_t seed)
{
    while (!t->dead && (t->sent < t->written || t->read < t->sent || t->delivered < t->said))
        step(t, seed);
}

static void add(struct talk *t, uint8_t type, enum plan plan)
{
    t->client[t->written++] =
        (struct message){.type = type, .plan = plan, .copy_fails_after = UINT32_MAX};
}

/* The client says goodbye properly: COPYs end, Sync, COMMIT; then the server can be told to be
 * idle. */
static void finish(struct talk *t, uint32_t seed)
{
    while (t->in_copy && !t->dead) {
        add(t, 'c', ROWS);
        drain(t, seed);
    }
    if (t->skip || t->open)
        add(t, 'S', ROWS);
    add(t, 'Q', COMMIT);
    drain(t, seed);
    if (t->dead || pg_flow_is_lost(&t->flow))
        return;
    if (!model_idle(t) || !pg_flow_is_idle(&t->flow))
        broken(t, seed, "not idle after a last Query");
}

static void test_against_a_model(void **state)
{
    (void)state;
    size_t ended = 0, doubted = 0, lost = 0;
    for (uint32_t seed = 1; seed <= CONVERSATIONS; seed++) {
        static struct talk t;
        memset(&t, 0, sizeof t);
        t.random = seed * UINT32_C(2654435761);
        t.tx = 'I';
        pg_flow_init(&t.flow);
        write_conversation(&t);
        drain(&t, seed);
        doubted += !t.dead && pg_flow_is_doubtful(&t.flow);
        if (!t.dead)
            finish(&t, seed);
        ended += !t.dead;
        lost += pg_flow_is_lost(&t.flow);
        struct pg_swallow s = {0};
        enum pg_swallow_step what;
        for (size_t n = 0; pg_flow_abandon(&t.flow, &s, &what); n++)
            assert_true(n < ANSWERS);
        pg_flow_fini(&t.flow);
    }
    /* the conversations are what they should be: most end well, doubt does happen, being lost
     * seldom */
    assert_true(ended > CONVERSATIONS / 2);
    assert_true(doubted > CONVERSATIONS / 1000);
    assert_true(lost < CONVERSATIONS / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_a_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
