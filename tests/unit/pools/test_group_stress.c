/* SPDX-License-Identifier: MIT */
/*
 * Several pools of one group, on threads: clients at random, dials that fail, pools that come and
 * go, bounds that move up and down.
 *
 * After each step: the upstream's own count never exceeds the slots of the group, nor these its
 * `max` (nor do they grow while above one that was lowered). Again and again the world is stopped
 * and all books are compared. Nobody starves. In the end, when all is calm and everybody wants
 * everything, all have the same.
 *
 * CARPOOL_STRESS_SECONDS and CARPOOL_STRESS_SEED as in test_stress.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/pools/house.h"

#include <cmocka.h>

#define MEMBERS 5
#define CLIENTS 8
#define STARVED_MS 20000

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

static bool chance(struct dice *d, unsigned n)
{
    return roll(d, n) == 0;
}

/* ---- the run ---- */

enum client_state { REST, WAITING, HOLDING };

struct client {
    struct crew *crew;
    enum client_state state;
    struct waiter waiter;
    struct server *server;
    uint64_t since_ms;
};

/* The clients of one member on one worker. */
struct crew {
    struct member *member;
    struct pool *pool;
    struct loop *loop;
    struct dice dice;
    struct timer step;
    struct post_msg start, stop;
    uint64_t leases, longest_ms;
    struct client clients[CLIENTS];
    _Atomic bool resting;
};

struct member {
    struct house house; /* a lodger's, but for the first */
    struct crew crews[HOUSE_WORKERS];
    _Atomic unsigned started;
    _Atomic bool winding; /* no new leases */
    bool here;
};

static struct {
    struct group *group;
    struct member members[MEMBERS];
    unsigned workers;
    struct dice dial_dice;
    uint64_t seed;
    _Atomic bool calm;   /* dials go well */
    _Atomic bool greedy; /* all want all the time */
    unsigned above;      /* slots were never more than this; under fake_lock() */
    uint64_t checks, leases, comings, longest_ms;
} st;

static struct house *host(void)
{
    return &st.members[0].house;
}

/* ---- the bound ---- */

static void bound_holds_locked(void)
{
    struct group_view view;
    group_view(st.group, &view);
    CHECK(fake_open_count() <= view.open);
    CHECK(view.max == 0 || view.open <= view.max || view.open <= st.above);
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

static void plan(const struct server *sv, struct fake_dial *dial, struct fake_peer *peer)
{
    (void)sv;
    struct dice *d = &st.dial_dice;
    if (atomic_load(&st.calm))
        return;
    dial->ms = roll(d, 3);
    peer->eof_ms = roll(d, 6);
    if (chance(d, 10)) {
        dial->cause = chance(d, 3) ? CAUSE_UPSTREAM_BUSY : CAUSE_DIAL_FAILED;
        dial->linger = chance(d, 2);
    }
    if (chance(d, 50))
        dial->ms = FAKE_NEVER;
    if (chance(d, 30))
        peer->eof_ms = FAKE_NEVER;
}

/* ---- clients ---- */

static void rest(struct client *c)
{
    c->state = REST;
    c->server = NULL;
}

static void hold(struct client *c)
{
    c->server = c->waiter.server;
    CHECK(c->server->pool == c->crew->pool && c->server->holder == c);
    c->state = HOLDING;
    c->crew->leases++;
}

static void on_lease(struct waiter *w)
{
    struct client *c = OWNER(w, struct client, waiter);
    CHECK(c->state == WAITING);
    uint64_t waited = loop_now(c->crew->loop) - c->since_ms;
    CHECK(waited < STARVED_MS);
    if (waited > c->crew->longest_ms)
        c->crew->longest_ms = waited;
    if (w->server) {
        hold(c);
        return;
    }
    CHECK(w->err.cause != CAUSE_NONE);
    CHECK(w->err.cause != CAUSE_ACQUIRE_TIMEOUT);
    rest(c);
}

static void end(struct client *c, enum outcome how)
{
    struct server *sv = c->server;
    rest(c);
    if (how == OUTCOME_KEEP)
        pool_give_back(&sv);
    else
        pool_drop(&sv, how);
}

static void on_readable(struct server *sv)
{
    char bytes[16];
    ssize_t n = server_read(sv, bytes, sizeof bytes);
    if (n != -EAGAIN)
        end(sv->holder, n <= 0 ? OUTCOME_DROP_EOF : OUTCOME_DROP_PROTOCOL);
}

static void on_lost(struct server *sv, const struct err *err)
{
    (void)err;
    end(sv->holder, OUTCOME_DROP_DRAINING);
}

static const struct holder_ops holder_ops = {.on_readable = on_readable, .on_lost = on_lost};

static void ask(struct client *c)
{
    c->since_ms = loop_now(c->crew->loop);
    c->state = WAITING;
    switch (pool_lease(c->crew->pool, &c->waiter)) {
    case LEASE_GRANTED:
        hold(c);
        return;
    case LEASE_WAITING:
        return;
    case LEASE_REFUSED:
        rest(c);
        return;
    }
}

static void client_step(struct client *c)
{
    struct dice *d = &c->crew->dice;
    bool greedy = atomic_load(&st.greedy);
    switch (c->state) {
    case REST:
        if (!atomic_load(&c->crew->member->winding) && (greedy || chance(d, 3)))
            ask(c);
        return;
    case WAITING:
        if (!greedy && chance(d, 100)) {
            pool_cancel(&c->waiter);
            rest(c);
        }
        return;
    case HOLDING:
        if (chance(d, 3))
            end(c, !greedy && chance(d, 40) ? OUTCOME_DROP_DIRTY : OUTCOME_KEEP);
        return;
    }
}

static void on_step(struct timer *t)
{
    struct crew *crew = OWNER(t, struct crew, step);
    bool resting = true;
    for (unsigned i = 0; i < CLIENTS; i++) {
        client_step(&crew->clients[i]);
        resting = resting && crew->clients[i].state == REST;
    }
    CHECK(pool_ok(crew->pool));
    bound_holds();
    if (resting && atomic_load(&crew->member->winding)) {
        atomic_store(&crew->resting, true);
        return;
    }
    loop_timer_set(crew->loop, &crew->step, 1 + roll(&crew->dice, 2));
}

/* ---- members ---- */

static void on_start(struct post_msg *msg)
{
    struct crew *crew = OWNER(msg, struct crew, start);
    if (crew->member != &st.members[0])
        pool_start(crew->pool);
    atomic_fetch_add(&crew->member->started, 1);
    on_step(&crew->step);
}

static void on_quiet(struct pool *p, void *arg)
{
    (void)p;
    struct house *h = arg;
    atomic_fetch_add(&h->quiet, 1);
}

static void on_stop(struct post_msg *msg)
{
    struct crew *crew = OWNER(msg, struct crew, stop);
    pool_stop(crew->pool, on_quiet, &crew->member->house);
}

static void crew_init(struct member *m, unsigned worker)
{
    struct crew *crew = &m->crews[worker];
    *crew = (struct crew){.member = m,
                          .pool = m->house.pools[worker],
                          .loop = &host()->loops[worker],
                          .dice = {st.seed + 7 * ++st.comings}};
    timer_init(&crew->step, on_step);
    post_init(&crew->start, on_start, NULL);
    post_init(&crew->stop, on_stop, NULL);
    for (unsigned k = 0; k < CLIENTS; k++)
        crew->clients[k] = (struct client){
            .crew = crew,
            .waiter = {.exclusive = true,
                       .holder_ops = &holder_ops,
                       .on_lease = on_lease,
                       .holder = &crew->clients[k]},
        };
}

static struct pool_conf random_conf(struct dice *d)
{
    struct pool_conf conf = house_conf(1 + roll(d, 10));
    conf.size.min = chance(d, 3) ? roll(d, conf.size.max + 1) : 0;
    conf.size.acquire_timeout_ms = 10 * STARVED_MS;
    conf.size.waiters = chance(d, 6) ? 2 : 1000;
    conf.size.idle_timeout_ms = chance(d, 3) ? 1 + roll(d, 50) : 0;
    conf.size.max_lifetime_ms = chance(d, 3) ? 20 + roll(d, 200) : 0;
    conf.check.timeout_ms = 30;
    conf.timeouts.connect_ms = 50;
    conf.timeouts.close_ms = 60;
    return conf;
}

static void member_starts(struct member *m)
{
    m->here = true;
    for (unsigned i = 0; i < st.workers; i++)
        crew_init(m, i);
    for (unsigned i = 0; i < st.workers; i++)
        post(&host()->loops[i], &m->crews[i].start);
}

static void await(bool (*done)(struct member *), struct member *m)
{
    for (uint64_t until = uv_hrtime() / MSEC_NS + STARVED_MS + 10000; !done(m);) {
        CHECK(uv_hrtime() / MSEC_NS < until);
        poll(NULL, 0, 1);
    }
}

static bool is_started(struct member *m)
{
    return atomic_load(&m->started) == st.workers;
}

static bool is_over(struct member *m)
{
    bool all = atomic_load(&m->house.quiet) == st.workers;
    for (unsigned i = 0; i < st.workers; i++)
        all = all && atomic_load(&m->crews[i].resting);
    return all;
}

static void member_comes(struct member *m, struct dice *d)
{
    struct pool_conf conf = random_conf(d);
    atomic_store(&m->started, 0);
    atomic_store(&m->winding, false);
    house_lodge(&m->house, host(), &conf, st.group);
    member_starts(m);
    await(is_started, m);
    ledger_start(m->house.ledger, loop_now(&host()->loops[0]));
}

static void member_ends(struct member *m)
{
    atomic_store(&m->winding, true);
    for (unsigned i = 0; i < st.workers; i++)
        post(&host()->loops[i], &m->crews[i].stop);
    await(is_over, m);
    m->here = false;
    for (unsigned i = 0; i < st.workers; i++) {
        const struct crew *c = &m->crews[i];
        st.leases += c->leases;
        st.longest_ms = c->longest_ms > st.longest_ms ? c->longest_ms : st.longest_ms;
    }
}

static void member_goes(struct member *m)
{
    member_ends(m);
    /* No message to any of its pools is on its way when all threads have stood still once. */
    house_stand(host());
    house_go_on(host());
    house_unlodge(&m->house);
}

/* ---- chaos ---- */

static void look_at_everything(void)
{
    struct group_view view;
    unsigned open = 0, n = 0;
    house_stand(host());
    group_view(st.group, &view);
    for (unsigned i = 0; i < MEMBERS; i++) {
        if (!st.members[i].here)
            continue;
        house_audit(&st.members[i].house);
        open += house_view(&st.members[i].house).open;
        n++;
    }
    CHECK(open == view.open && n == view.members);
    house_go_on(host());
}

static void new_total(unsigned max)
{
    fake_lock();
    group_reconf(st.group, max);
    struct group_view view;
    group_view(st.group, &view);
    st.above = view.open;
    bound_holds_locked();
    fake_unlock();
}

static struct member *any_here(struct dice *d)
{
    for (;;) {
        struct member *m = &st.members[roll(d, MEMBERS)];
        if (m->here)
            return m;
    }
}

static void somebody_comes_or_goes(struct dice *d)
{
    struct member *m = &st.members[1 + roll(d, MEMBERS - 1)];
    if (m->here)
        member_goes(m);
    else
        member_comes(m, d);
}

static void reload(struct member *m, struct dice *d)
{
    struct pool_conf conf = random_conf(d);
    struct house_snap *snap = house_prepare(&conf);
    fake_lock();
    house_apply(&m->house, snap);
    fake_unlock();
}

static void chaos_step(struct dice *d)
{
    struct member *m = any_here(d);
    uint64_t now = loop_now(&host()->loops[0]);
    int fd;
    switch (roll(d, 12)) {
    case 0:
    case 1:
        new_total(roll(d, 12));
        return;
    case 2:
    case 3:
        somebody_comes_or_goes(d);
        return;
    case 4:
        reload(m, d);
        return;
    case 5:
        ledger_pause(m->house.ledger, true, now);
        poll(NULL, 0, (int)roll(d, 5));
        ledger_pause(m->house.ledger, false, now);
        house_ask_all(&m->house);
        return;
    case 6:
        ledger_recycle(m->house.ledger);
        house_ask_all(&m->house);
        return;
    case 7:
        atomic_store(&st.calm, !chance(d, 3));
        return;
    case 8:
        look_at_everything();
        return;
    default:
        fd = fake_any(roll(d, 1000));
        if (fd >= 0 && chance(d, 2))
            fake_reset(fd);
        else if (fd >= 0)
            fake_end(fd);
        return;
    }
}

/* ---- the end: everybody wants everything ---- */

static bool all_have_two(struct member *unused)
{
    (void)unused;
    for (unsigned i = 0; i < 3; i++)
        if (house_view(&st.members[i].house).open != 2)
            return false;
    return true;
}

static void settle_down(struct dice *d)
{
    struct pool_conf conf = house_conf(6);
    conf.size.acquire_timeout_ms = 10 * STARVED_MS;
    conf.timeouts.close_ms = 60;
    atomic_store(&st.calm, true);
    atomic_store(&st.greedy, true);
    for (unsigned i = 0; i < MEMBERS; i++) {
        struct member *m = &st.members[i];
        if (i >= 3 && m->here)
            member_goes(m);
        else if (i < 3 && !m->here)
            member_comes(m, d);
        if (i < 3) {
            fake_lock();
            house_reconf(&m->house, &conf);
            fake_unlock();
        }
    }
    new_total(6);
    await(all_have_two, NULL);
    look_at_everything();
}

static void on_dialer_stop(struct post_msg *msg)
{
    (void)msg;
    dialer_stop(&host()->dialer);
}

static void end_all(void)
{
    struct post_msg stop_dials;
    for (unsigned i = 1; i < MEMBERS; i++)
        if (st.members[i].here)
            member_goes(&st.members[i]);
    post_init(&stop_dials, on_dialer_stop, NULL);
    post(&host()->dialer_loop, &stop_dials);
    member_ends(&st.members[0]);
    house_stand(host());
    house_go_on(host());
    house_join(host());
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

static void stress(void **state)
{
    uint64_t ms = number_from("CARPOOL_STRESS_SECONDS", 0) * 1000;
    memset(&st, 0, sizeof st);
    st.workers = *(unsigned *)*state;
    st.seed = number_from("CARPOOL_STRESS_SEED", uv_hrtime() >> 8);
    st.dial_dice.x = st.seed + 100;
    struct dice dice = {st.seed};
    print_message("%u workers: seed %llu\n", st.workers, (unsigned long long)st.seed);
    fake_world_set(&(struct fake_world){.capacity = 1, .plan = plan, .on_open = on_open});
    st.above = 6;
    st.group = group_new(6);
    struct pool_conf conf = random_conf(&dice);
    house_open_in(host(), st.workers, &conf, st.group);
    member_starts(&st.members[0]);
    house_run(host());
    for (unsigned i = 1; i < 3; i++)
        member_comes(&st.members[i], &dice);
    uint64_t until = uv_hrtime() / MSEC_NS + (ms ? ms : 1500);
    while (uv_hrtime() / MSEC_NS < until) {
        chaos_step(&dice);
        poll(NULL, 0, (int)roll(&dice, 12));
    }
    settle_down(&dice);
    end_all();
    print_message("%u workers: %llu leases, longest wait %llu ms, bound checked %llu times\n",
                  st.workers, (unsigned long long)st.leases, (unsigned long long)st.longest_ms,
                  (unsigned long long)st.checks);
    CHECK(st.leases > 10);
    struct group_view view;
    group_view(st.group, &view);
    assert_int_equal(view.open, 0);
    house_free(host());
    group_drop(&st.group);
}

static unsigned one = 1, two = 2;

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(stress, &one),
        cmocka_unit_test_prestate(stress, &two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
