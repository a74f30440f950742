/* SPDX-License-Identifier: MIT */
#include "tests/unit/pools/stress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define PATIENCE_MS 60 /* with a peer that does not answer */

struct stress st;

/* ---- the bound ---- */

static void bound_holds_locked(void)
{
    struct ledger_view view;
    ledger_view(st.house.ledger, &view);
    CHECK(fake_open_count() <= view.open);
    CHECK(view.open <= view.max || view.open <= st.above);
    st.above = view.open > view.max ? view.open : view.max;
    st.checks++;
}

void stress_bound_holds(void)
{
    fake_lock();
    bound_holds_locked();
    fake_unlock();
}

static void on_open(const struct server *sv)
{
    (void)sv;
    stress_bound_holds();
}

/* ---- dials ---- */

static void plan(const struct server *sv, struct fake_dial *dial, struct fake_peer *peer)
{
    static const enum cause causes[] = {CAUSE_DIAL_FAILED,   CAUSE_UPSTREAM_AUTH, CAUSE_DIAL_FAILED,
                                        CAUSE_UPSTREAM_AUTH, CAUSE_DIAL_FAILED,   CAUSE_TLS_FAILED,
                                        CAUSE_DIAL_FAILED,   CAUSE_UPSTREAM_BUSY};
    (void)sv;
    struct dice *d = &st.dial_dice;
    if (atomic_load(&st.calm))
        return;
    dial->ms = roll(d, 3);
    peer->answer_ms = chance(d, 4);
    peer->eof_ms = roll(d, 6);
    if (chance(d, 8))
        dial->ms = 20;
    if (chance(d, 40))
        dial->ms = FAKE_NEVER;
    if (chance(d, 8))
        dial->cause = causes[roll(d, ARRAY_LEN(causes))];
    dial->linger = chance(d, 2);
    if (chance(d, 30))
        peer->answer_ms = FAKE_NEVER;
    if (chance(d, 20))
        peer->eof_ms = FAKE_NEVER;
    peer->refuses = chance(d, 30);
}

/* ---- clients ---- */

static void rest(struct client *c)
{
    c->state = REST;
    c->server = NULL;
    c->asking = false;
}

static void note_wait(struct client *c)
{
    uint64_t waited = loop_now(c->crew->loop) - c->since_ms;
    if (waited > c->crew->longest_ms)
        c->crew->longest_ms = waited;
    CHECK(waited < STARVED_MS);
}

/* Of those who want the same the one who came first is served first. */
static void served_in_order(const struct client *c)
{
    for (unsigned i = 0; i < STRESS_CLIENTS; i++) {
        const struct client *o = &c->crew->clients[i];
        if (o != c && o->waiter.state == WAITER_QUEUED && o->ticket < c->ticket)
            CHECK(o->waiter.exclusive != c->waiter.exclusive);
    }
}

static void ask(struct client *c)
{
    if (c->server) {
        c->asking = true;
        server_send(c->server, "x", 1);
    } else {
        fake_ask(&c->rider);
    }
}

static void begin(struct client *c)
{
    struct server *sv = c->waiter.server;
    CHECK(sv->pool == c->crew->pool && sv->state == SERVER_BUSY);
    c->crew->leases++;
    c->state = HOLDING;
    c->turns = 1 + roll(&c->crew->dice, 3);
    c->since_ms = loop_now(c->crew->loop);
    if (sv->exclusive) {
        CHECK(sv->holder == c && sv->leases == 1);
        c->server = sv;
    } else {
        fake_board(&c->rider, sv);
    }
    if (chance(&c->crew->dice, 2))
        ask(c);
}

static void on_lease(struct waiter *w)
{
    struct client *c = OWNER(w, struct client, waiter);
    CHECK(c->state == WAITING); /* once, and never after a cancel */
    note_wait(c);
    if (w->server) {
        served_in_order(c);
        begin(c);
        return;
    }
    CHECK(w->err.cause != CAUSE_NONE);
    CHECK(w->err.cause != CAUSE_ACQUIRE_TIMEOUT || w->due_ms);
    c->crew->refused++;
    rest(c);
}

static void ask_for_lease(struct client *c)
{
    struct dice *d = &c->crew->dice;
    uint64_t now = loop_now(c->crew->loop);
    c->waiter.exclusive = st.run.capacity == 1 || chance(d, 4);
    c->waiter.due_ms = chance(d, 10) ? now + 1 + roll(d, 30) : 0;
    c->ticket = ++c->crew->tickets;
    c->since_ms = now;
    c->state = WAITING;
    switch (pool_lease(c->crew->pool, &c->waiter)) {
    case LEASE_GRANTED:
        served_in_order(c);
        begin(c);
        return;
    case LEASE_WAITING:
        return;
    case LEASE_REFUSED:
        CHECK(c->waiter.err.cause != CAUSE_NONE);
        c->crew->refused++;
        rest(c);
        return;
    }
}

static enum outcome how_it_ends(struct client *c)
{
    static const enum outcome says[] = {OUTCOME_KEEP,      OUTCOME_KEEP,   OUTCOME_KEEP,
                                        OUTCOME_KEEP,      OUTCOME_VERIFY, OUTCOME_RESET,
                                        OUTCOME_DROP_DIRTY};
    return says[roll(&c->crew->dice, ARRAY_LEN(says))];
}

static void end_exclusive(struct client *c, enum outcome drop)
{
    struct server *sv = c->server;
    rest(c);
    if (drop == OUTCOME_KEEP) {
        fake_server_of(sv)->settle = how_it_ends(c);
        pool_give_back(&sv);
    } else {
        pool_drop(&sv, drop);
    }
    CHECK(sv == NULL);
}

static void on_readable(struct server *sv)
{
    struct client *c = sv->holder;
    CHECK(c->state == HOLDING && c->server == sv);
    char bytes[16];
    ssize_t n = server_read(sv, bytes, sizeof bytes);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        end_exclusive(c, OUTCOME_DROP_EOF);
        return;
    }
    if (n != 1 || bytes[0] != '.' || !c->asking) {
        end_exclusive(c, OUTCOME_DROP_PROTOCOL);
        return;
    }
    c->asking = false;
    if (--c->turns == 0)
        end_exclusive(c, OUTCOME_KEEP);
    else if (chance(&c->crew->dice, 2))
        ask(c); /* else at a later step */
}

static void on_server_lost(struct server *sv, const struct err *err)
{
    CHECK(err->cause == CAUSE_KILLED);
    end_exclusive(sv->holder, OUTCOME_DROP_DRAINING);
}

static const struct holder_ops holder_ops = {.on_readable = on_readable, .on_lost = on_server_lost};

static void end_shared(struct client *c, enum outcome drop)
{
    rest(c);
    fake_leave(&c->rider, drop);
}

static void on_answer(struct fake_rider *r)
{
    struct client *c = OWNER(r, struct client, rider);
    CHECK(c->state == HOLDING);
    if (--c->turns == 0)
        end_shared(c, OUTCOME_KEEP);
    else if (chance(&c->crew->dice, 2))
        ask(c);
}

static void on_rider_lost(struct fake_rider *r, const struct err *err)
{
    CHECK(err->cause != CAUSE_NONE);
    end_shared(OWNER(r, struct client, rider), OUTCOME_DROP_EOF);
}

static void hold_on(struct client *c)
{
    struct dice *d = &c->crew->dice;
    uint64_t held = loop_now(c->crew->loop) - c->since_ms;
    bool asking = c->server ? c->asking : c->rider.asking;
    enum outcome end = held > PATIENCE_MS ? OUTCOME_DROP_TIMEOUT
                       : chance(d, 60)    ? OUTCOME_DROP_DIRTY
                                          : OUTCOME_KEEP;
    if (end != OUTCOME_KEEP || (!asking && chance(d, 20))) {
        if (c->server)
            end_exclusive(c, end);
        else
            end_shared(c, end);
        return;
    }
    if (!asking)
        ask(c);
}

static void client_step(struct client *c)
{
    switch (c->state) {
    case REST:
        if (!atomic_load(&st.winding))
            ask_for_lease(c);
        return;
    case WAITING:
        if (chance(&c->crew->dice, 150)) {
            pool_cancel(&c->waiter);
            c->crew->cancelled++;
            rest(c);
        }
        return;
    case HOLDING:
        hold_on(c);
        return;
    }
}

/* ---- crews ---- */

void crew_step(struct crew *crew)
{
    client_step(&crew->clients[roll(&crew->dice, STRESS_CLIENTS)]);
}

bool crew_rests(const struct crew *crew)
{
    for (unsigned i = 0; i < STRESS_CLIENTS; i++)
        if (crew->clients[i].state != REST)
            return false;
    return true;
}

static void crew_init(struct crew *crew, unsigned i, uint64_t seed)
{
    *crew = (struct crew){
        .pool = st.house.pools[i], .loop = &st.house.loops[i], .dice = {seed + i + 1}};
    for (unsigned k = 0; k < STRESS_CLIENTS; k++)
        crew->clients[k] = (struct client){
            .crew = crew,
            .waiter = {.holder_ops = &holder_ops,
                       .on_lease = on_lease,
                       .holder = &crew->clients[k]},
            .rider = {.on_answer = on_answer, .on_lost = on_rider_lost},
        };
}

/* ---- what happens to them ---- */

static struct pool_conf random_conf(struct dice *d)
{
    struct pool_conf conf = house_conf(1 + roll(d, 8));
    conf.on_down = st.run.on_down;
    conf.size.min = chance(d, 2) ? roll(d, conf.size.max + 1) : 0;
    conf.size.acquire_timeout_ms = STARVED_MS;
    conf.size.waiters = chance(d, 6) ? 4 : 1000;
    conf.size.idle_timeout_ms = chance(d, 3) ? 1 + roll(d, 50) : 0;
    conf.size.max_lifetime_ms = chance(d, 3) ? 20 + roll(d, 200) : 0;
    conf.check.on_return = chance(d, 3) ? CHECK_VERIFIED : chance(d, 3) ? CHECK_CLEAN : CHECK_FAST;
    conf.check.idle_ms = chance(d, 3) ? 5 + roll(d, 30) : 0;
    conf.check.checkout_after_ms = roll(d, 4);
    conf.check.timeout_ms = 30;
    conf.timeouts.connect_ms = 50;
    conf.timeouts.close_ms = 60;
    if (st.run.on_down == ON_DOWN_FAIL)
        conf.breaker =
            (struct breaker_conf){.consecutive = 5, .open_min_ms = 20, .open_max_ms = 80};
    return conf;
}

void stress_reload(struct dice *d)
{
    struct pool_conf conf = random_conf(d);
    struct ledger_view view;
    fake_lock();
    house_reconf(&st.house, &conf);
    ledger_view(st.house.ledger, &view);
    st.above = view.open;
    bound_holds_locked();
    fake_unlock();
}

void stress_harm(struct dice *d)
{
    int fd = fake_any(roll(d, 1000));
    if (fd < 0)
        return;
    switch (roll(d, 5)) {
    case 0:
        fake_end(fd);
        return;
    case 1:
        fake_reset(fd);
        return;
    case 2:
        fake_say(fd, "z");
        return;
    case 3:
        fake_say(fd, "!");
        return;
    default:
        fake_become(fd, &(struct fake_peer){.answer_ms = FAKE_NEVER, .eof_ms = 3});
        return;
    }
}

/* ---- life ---- */

void stress_open(const struct stress_run *run, uint64_t seed, struct dice *dice)
{
    memset(&st, 0, sizeof st);
    *dice = (struct dice){seed};
    st.run = *run;
    st.dial_dice.x = seed + 100;
    fake_world_set(
        &(struct fake_world){.capacity = run->capacity, .plan = plan, .on_open = on_open});
    struct pool_conf conf = random_conf(dice);
    st.above = conf.size.max;
    house_open(&st.house, run->workers, &conf);
    for (unsigned i = 0; i < run->workers; i++)
        crew_init(&st.crews[i], i, seed);
}

void stress_report(uint64_t seed)
{
    uint64_t leases = 0, refused = 0, cancelled = 0, longest = 0;
    struct ledger_view view;
    ledger_view(st.house.ledger, &view);
    for (unsigned i = 0; i < st.run.workers; i++) {
        const struct crew *c = &st.crews[i];
        leases += c->leases;
        refused += c->refused;
        cancelled += c->cancelled;
        longest = c->longest_ms > longest ? c->longest_ms : longest;
    }
    print_message(
        "%s: seed %llu, %llu leases, %llu refused, %llu cancelled, %llu dials, %llu failed, "
        "%llu abandoned, longest wait %llu ms, bound checked %llu times\n",
        st.run.name, (unsigned long long)seed, (unsigned long long)leases,
        (unsigned long long)refused, (unsigned long long)cancelled, (unsigned long long)view.dials,
        (unsigned long long)view.dial_failures, (unsigned long long)view.abandoned,
        (unsigned long long)longest, (unsigned long long)st.checks);
    CHECK(leases > 10 && view.dials > 2);
}

uint64_t stress_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

int stress_all(void (*test)(void **state))
{
    static struct stress_run runs[] = {
        {"1 worker, whole servers", 1, 1, ON_DOWN_WAIT, END_DRAINED},
        {"2 workers, whole servers", 2, 1, ON_DOWN_WAIT, END_DRAINED},
        {"3 workers, whole servers, stopped", 3, 1, ON_DOWN_WAIT, END_STOPPED},
        {"2 workers, whole servers, failing fast, killed", 2, 1, ON_DOWN_FAIL, END_KILLED},
        {"1 worker, shared servers", 1, 8, ON_DOWN_FAIL, END_DRAINED},
        {"2 workers, shared servers", 2, 8, ON_DOWN_WAIT, END_DRAINED},
        {"3 workers, shared servers, stopped", 3, 4, ON_DOWN_FAIL, END_STOPPED},
    };
    struct CMUnitTest tests[ARRAY_LEN(runs)];
    for (size_t i = 0; i < ARRAY_LEN(runs); i++)
        tests[i] =
            (struct CMUnitTest){.name = runs[i].name, .test_func = test, .initial_state = &runs[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
