/* SPDX-License-Identifier: MIT */
/*
 * Random leases, failures, moves and reloads over one to three workers, on threads of their own.
 *
 *   crews     per worker: clients that lease, wait, cancel, hold, give back, drop
 *   chaos     the main thread: reloads, pauses, recycles, peers that end, reset, talk out of turn
 *   dialer    dials that fail, linger, hang and take their time
 *
 * After each step: the upstream's own count never exceeds the slots taken, slots never exceed `max`
 * (never grow while above one that was lowered). Again and again the world is stopped and all books
 * are compared. At the end everything is back: slots, leases, connections, memory.
 *
 * CARPOOL_STRESS_SECONDS lengthens each run, CARPOOL_STRESS_SEED repeats one's dice (not its
 * threads).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/pools/house.h"

#include <cmocka.h>

#define CLIENTS 24
#define STARVED_MS 20000
#define PATIENCE_MS 60 /* with a peer that does not answer */

/* ---- dice ---- */

struct dice {
    uint64_t x;
};

static unsigned roll(struct dice *d, unsigned n)
{
    d->x ^= d->x << 13;
    d->x ^= d->x >> 7;
    d->x ^= d->x << 17;
    return (unsigned)((d->x >> 11) % n);
}

/* One in `n`. */
static bool chance(struct dice *d, unsigned n)
{
    return roll(d, n) == 0;
}

/* ---- the run ---- */

enum ending { END_DRAINED, END_STOPPED, END_KILLED };

struct run {
    const char *name;
    unsigned workers, capacity;
    enum on_down on_down;
    enum ending ending;
};

enum client_state { REST, WAITING, HOLDING };

struct client {
    struct crew *crew;
    enum client_state state;
    struct waiter waiter;
    struct server *server;   /* an exclusive lease */
    struct fake_rider rider; /* or a shared one */
    bool asking;             /* of the exclusive one */
    unsigned turns;
    uint64_t ticket, since_ms;
};

struct crew {
    struct house *house;
    struct pool *pool;
    struct loop *loop;
    struct dice dice;
    struct timer step;
    struct post_msg start, stop, kill;
    uint64_t tickets;
    uint64_t leases, refused, cancelled, longest_ms;
    struct client clients[CLIENTS];
    _Atomic bool resting; /* nobody holds or waits for anything */
};

static struct {
    struct house house;
    struct run run;
    struct crew crews[HOUSE_WORKERS];
    struct dice dial_dice;
    _Atomic bool calm;    /* dials go well, for now */
    _Atomic bool winding; /* no new leases */
    unsigned above;       /* slots were never more than this; under fake_lock() */
    uint64_t checks;      /* under fake_lock() */
} st;

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

static void bound_holds(void)
{
    fake_lock();
    bound_holds_locked();
    fake_unlock();
}

static void on_open(const struct server *sv)
{
    (void)sv;
    bound_holds();
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
    for (unsigned i = 0; i < CLIENTS; i++) {
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

static void on_step(struct timer *t)
{
    struct crew *crew = OWNER(t, struct crew, step);
    for (unsigned i = 0; i < CLIENTS / 2; i++) {
        client_step(&crew->clients[roll(&crew->dice, CLIENTS)]);
        CHECK(pool_ok(crew->pool));
    }
    bound_holds();
    bool resting = true;
    for (unsigned i = 0; i < CLIENTS; i++)
        resting = resting && crew->clients[i].state == REST;
    if (resting && atomic_load(&st.winding)) {
        atomic_store(&crew->resting, true);
        return;
    }
    loop_timer_set(crew->loop, &crew->step, 1);
}

static void on_start(struct post_msg *msg)
{
    on_step(&OWNER(msg, struct crew, start)->step);
}

static void on_quiet(struct pool *p, void *arg)
{
    (void)p;
    (void)arg;
    atomic_fetch_add(&st.house.quiet, 1);
}

static void on_stop(struct post_msg *msg)
{
    pool_stop(OWNER(msg, struct crew, stop)->pool, on_quiet, NULL);
}

static void on_kill(struct post_msg *msg)
{
    pool_kill(OWNER(msg, struct crew, kill)->pool);
}

static void crew_init(struct crew *crew, unsigned i, uint64_t seed)
{
    *crew = (struct crew){.house = &st.house,
                          .pool = st.house.pools[i],
                          .loop = &st.house.loops[i],
                          .dice = {seed + i + 1}};
    timer_init(&crew->step, on_step);
    post_init(&crew->start, on_start, NULL);
    post_init(&crew->stop, on_stop, NULL);
    post_init(&crew->kill, on_kill, NULL);
    for (unsigned k = 0; k < CLIENTS; k++)
        crew->clients[k] = (struct client){
            .crew = crew,
            .waiter = {.holder_ops = &holder_ops,
                       .on_lease = on_lease,
                       .holder = &crew->clients[k]},
            .rider = {.on_answer = on_answer, .on_lost = on_rider_lost},
        };
}

/* ---- chaos ---- */

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

static void reload(const struct pool_conf *conf)
{
    fake_lock();
    house_reconf(&st.house, conf);
    struct ledger_view view;
    ledger_view(st.house.ledger, &view);
    st.above = view.open;
    bound_holds_locked();
    fake_unlock();
}

static uint64_t real_ms(void)
{
    return uv_hrtime() / MSEC_NS;
}

static void look_at_everything(void)
{
    house_stand(&st.house);
    house_audit(&st.house);
    house_go_on(&st.house);
}

static void harm(struct dice *d)
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

static void chaos_step(struct dice *d)
{
    struct ledger *l = st.house.ledger;
    uint64_t now = loop_now(&st.house.dialer_loop);
    switch (roll(d, 14)) {
    case 0: {
        struct pool_conf conf = random_conf(d);
        reload(&conf);
        return;
    }
    case 1:
        ledger_pause(l, true, now);
        poll(NULL, 0, (int)roll(d, 5));
        ledger_pause(l, false, now);
        house_ask_all(&st.house);
        return;
    case 2:
        ledger_recycle(l);
        house_ask_all(&st.house);
        return;
    case 3:
        if (chance(d, 4)) {
            ledger_force_breaker(l, BREAKER_FORCE_OPEN, now);
            poll(NULL, 0, 5);
            ledger_force_breaker(l, BREAKER_FORCE_AUTO, now);
        }
        return;
    case 4:
        look_at_everything();
        return;
    case 5:
        atomic_store(&st.calm, !chance(d, 3));
        return;
    case 6:
    case 7:
        return;
    default:
        harm(d);
        return;
    }
}

/* ---- one run ---- */

static bool all_resting(void)
{
    bool all = true;
    for (unsigned i = 0; i < st.run.workers; i++)
        all = all && atomic_load(&st.crews[i].resting);
    return all;
}

static bool all_quiet(void)
{
    return atomic_load(&st.house.quiet) == st.run.workers;
}

static void await(bool (*done)(void))
{
    for (uint64_t end = real_ms() + STARVED_MS + 10000; !done();) {
        CHECK(real_ms() < end);
        poll(NULL, 0, 2);
    }
}

static void on_dialer_stop(struct post_msg *msg)
{
    (void)msg;
    dialer_stop(&st.house.dialer);
}

static void end_pools(void)
{
    struct post_msg stop_dials;
    post_init(&stop_dials, on_dialer_stop, NULL);
    post(&st.house.dialer_loop, &stop_dials);
    for (unsigned i = 0; i < st.run.workers; i++)
        post(&st.house.loops[i], &st.crews[i].stop);
    if (st.run.ending == END_KILLED) {
        poll(NULL, 0, 5);
        for (unsigned i = 0; i < st.run.workers; i++)
            post(&st.house.loops[i], &st.crews[i].kill);
    }
    await(all_quiet);
    await(all_resting); /* clients that wait learn of it, those that hold end in their own time */
}

static void report(uint64_t seed)
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

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

static void stress(void **state)
{
    const struct run *run = *state;
    uint64_t seed = number_from("CARPOOL_STRESS_SEED", uv_hrtime() >> 8);
    uint64_t ms = number_from("CARPOOL_STRESS_SECONDS", 0) * 1000;
    struct dice dice = {seed};
    print_message("%s: seed %llu\n", run->name, (unsigned long long)seed);
    memset(&st, 0, sizeof st);
    st.run = *run;
    st.dial_dice.x = seed + 100;
    fake_world_set(&(struct fake_world){run->capacity, plan, on_open});
    struct pool_conf conf = random_conf(&dice);
    st.above = conf.size.max;
    house_open(&st.house, run->workers, &conf);
    for (unsigned i = 0; i < run->workers; i++) {
        crew_init(&st.crews[i], i, seed);
        post(&st.house.loops[i], &st.crews[i].start);
    }
    house_run(&st.house);

    for (uint64_t end = real_ms() + (ms ? ms : 1200); real_ms() < end;) {
        chaos_step(&dice);
        poll(NULL, 0, (int)roll(&dice, 12));
    }
    atomic_store(&st.calm, true);
    atomic_store(&st.winding, true);
    if (run->ending == END_DRAINED)
        await(all_resting);
    look_at_everything();
    end_pools();
    look_at_everything();
    house_join(&st.house);
    report(seed);
    house_free(&st.house);
}

static struct run runs[] = {
    {"1 worker, whole servers", 1, 1, ON_DOWN_WAIT, END_DRAINED},
    {"2 workers, whole servers", 2, 1, ON_DOWN_WAIT, END_DRAINED},
    {"3 workers, whole servers, stopped", 3, 1, ON_DOWN_WAIT, END_STOPPED},
    {"2 workers, whole servers, failing fast, killed", 2, 1, ON_DOWN_FAIL, END_KILLED},
    {"1 worker, shared servers", 1, 8, ON_DOWN_FAIL, END_DRAINED},
    {"2 workers, shared servers", 2, 8, ON_DOWN_WAIT, END_DRAINED},
    {"3 workers, shared servers, stopped", 3, 4, ON_DOWN_FAIL, END_STOPPED},
};

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(stress, &runs[0]), cmocka_unit_test_prestate(stress, &runs[1]),
        cmocka_unit_test_prestate(stress, &runs[2]), cmocka_unit_test_prestate(stress, &runs[3]),
        cmocka_unit_test_prestate(stress, &runs[4]), cmocka_unit_test_prestate(stress, &runs[5]),
        cmocka_unit_test_prestate(stress, &runs[6]),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
