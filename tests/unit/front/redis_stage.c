/* SPDX-License-Identifier: MIT */
#include "tests/unit/front/redis_stage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "pools/dialer.h"
#include "pools/ledger.h"
#include "proxy/front/redis.h"

#define ROUNDS 12 /* of the loops: more than anything here needs to come to rest */

struct pool_conf stage_conf;
struct front_conf stage_front_conf;
struct redis_about stage_about;
unsigned stage_dials;

static uint64_t clock_ms;
static struct log_ring *logs[2];
static struct loop worker, dialer_loop;
static struct dialer dialer;
static struct ledger *ledger;
static struct pool *pool;
static struct front front, *fronts[1];
static struct route *route;
static struct gate *gate;
static struct snapshot config;
static struct listen_conf listener;
static int door = -1;
static int peers[STAGE_PEERS], clients[STAGE_PEERS];
static unsigned n_clients;
static bool opened, quiet_pool, quiet_route;

/* loop_now() is uv_now(), which this one stands in for. */
uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return clock_ms;
}

/* ---- dials ---- */

static void dial(struct server *sv, struct loop *loop)
{
    (void)loop;
    int ends[2];
    CHECK(stage_dials < STAGE_PEERS);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    io_init(&sv->io, ends[0], NULL);
    peers[stage_dials++] = ends[1];
    redis_server_of(sv)->about = stage_about;
    server_dialed(sv, NULL);
}

/* ---- the world ---- */

static const struct endpoint_conf endpoint = {
    .label = "peer:1", .host = "127.0.0.1", .port = 1, .literal = true, .database = "0"};

static void config_free(struct snapshot *snap)
{
    CHECK(snap == &config);
}

int stage_setup(void **state)
{
    (void)state;
    stage_conf = (struct pool_conf){
        .name = "test",
        .endpoints = &endpoint,
        .n_endpoints = 1,
        .on_down = ON_DOWN_FAIL,
        .size = {.max = 1, .waiters = 100, .acquire_timeout_ms = 3000},
        .check = {.on_return = CHECK_FAST, .checkout_after_ms = 1000000, .timeout_ms = 1000},
        .timeouts = {.connect_ms = 5000,
                     .request_ms = 5000,
                     .client_login_ms = 5000,
                     .write_stall_ms = 30000,
                     .close_ms = 1000},
        .retry = {.attempts = 3, .backoff_min_ms = 100, .backoff_max_ms = 100, .budget = 100},
        .breaker = {.open_min_ms = 1000, .open_max_ms = 4000},
    };
    listener = (struct listen_conf){.label = "door", .unix_path = "door", .auth = AUTH_TRUST};
    stage_front_conf = (struct front_conf){
        .kind = FRONT_REDIS,
        .kind_name = "redis",
        .mode = FRONT_TRANSACTION,
        .listens = &listener,
        .n_listens = 1,
        .limits = {.clients = 100, .buffer = 262144},
    };
    stage_about = (struct redis_about){"redis", "7.0.15", "standalone", "master"};
    stage_dials = n_clients = 0;
    clock_ms = 100000;
    opened = quiet_pool = quiet_route = false;
    return 0;
}

static int listen_somewhere(struct sockaddr_un *at, socklen_t *len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *at = (struct sockaddr_un){.sun_family = AF_UNIX};
    *len = sizeof at->sun_family; /* autobind: a name in the abstract namespace */
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)at, *len) == 0 && listen(fd, 64) == 0);
    *len = sizeof *at;
    CHECK(getsockname(fd, (struct sockaddr *)at, len) == 0);
    return fd;
}

static struct sockaddr_un door_addr;
static socklen_t door_len;

void stage_auth(enum auth_method method)
{
    listener.auth = method;
}

void stage_open(void)
{
    static struct driver_ops driver;
    struct err err;
    opened = true;
    driver = redis_driver;
    driver.dial = dial;
    logs[0] = log_ring_new("worker", LOG_ERROR);
    logs[1] = log_ring_new("dialer", LOG_ERROR);
    loop_init(&worker, "worker", logs[0]);
    loop_init(&dialer_loop, "dialer", logs[1]);
    dialer_init(&dialer, &dialer_loop);
    atomic_store(&config.refs, 1);
    config.free = config_free;
    ledger = ledger_new(&driver, &stage_conf, &config, 1, &dialer, clock_ms, NULL);
    pool = pool_new(ledger, 0, &worker);
    CHECK(ledger && pool);
    pool_start(pool);
    ledger_start(ledger, clock_ms);
    fronts[0] = &front;
    front_init(&front, &worker, 0, 1, fronts);
    gate = gate_new(&redis_relay, &stage_front_conf, &stage_conf, &config, &err);
    CHECK(gate != NULL);
    route = route_new(&front, pool, gate);
    door = listen_somewhere(&door_addr, &door_len);
    CHECK(route && route_listen(route, &(struct door_socket){door, &listener, gate}));
    stage_settle();
}

struct pool *stage_pool(void)
{
    return pool;
}

struct loop *stage_loop(void)
{
    return &worker;
}

struct session *stage_session(void)
{
    struct list *n = list_first(&route->sessions);
    CHECK(n != NULL);
    return OWNER(n, struct session, node);
}

void stage_settle(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        loop_turn(&dialer_loop);
        loop_turn(&worker);
    }
}

void stage_pass(uint64_t ms)
{
    uint64_t until = clock_ms + ms;
    for (bool last = false; !last;) {
        uint64_t a = timers_next(&worker.timers), b = timers_next(&dialer_loop.timers);
        uint64_t next = a < b ? a : b;
        last = next > until;
        uint64_t now = last ? until : next;
        clock_ms = now > clock_ms ? now : clock_ms;
        timers_advance(&dialer_loop.timers, clock_ms);
        timers_advance(&worker.timers, clock_ms);
        stage_settle();
    }
}

static void on_quiet(struct pool *p, void *arg)
{
    (void)p;
    (void)arg;
    quiet_pool = true;
}

static void on_empty(struct route *r, void *arg)
{
    (void)r;
    (void)arg;
    quiet_route = true;
}

int stage_teardown(void **state)
{
    (void)state;
    if (!opened)
        return 0;
    struct err err;
    err_set(&err, CAUSE_DRAINING, STAGE_CLIENT, 0, "the test is over");
    route_close(route, on_empty, NULL);
    route_kill(route, &err);
    stage_settle();
    dialer_stop(&dialer);
    pool_stop(pool, on_quiet, NULL);
    for (unsigned i = 0; i < stage_dials; i++)
        stage_hang_up(i);
    stage_pass(10000);
    CHECK(quiet_route && quiet_pool);
    struct ledger_view view;
    ledger_view(ledger, &view);
    CHECK(view.open == 0 && view.pinned == 0);
    CHECK(counter_get(&pool_stats(pool)->leased) == 0);
    route_free(route);
    gate_drop(&gate);
    loop_stop(&dialer_loop);
    loop_stop(&worker);
    loop_run(&dialer_loop);
    loop_run(&worker);
    loop_fini(&dialer_loop);
    loop_fini(&worker);
    pool_free(pool);
    ledger_free(ledger);
    CHECK(atomic_load(&config.refs) == 1); /* nobody holds the configuration any more */
    for (unsigned i = 0; i < n_clients; i++)
        if (clients[i] >= 0)
            close(clients[i]);
    close(door);
    free(logs[0]);
    free(logs[1]);
    return 0;
}

/* ---- far ends ---- */

int stage_client(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && n_clients < STAGE_PEERS);
    CHECK(connect(fd, (const struct sockaddr *)&door_addr, door_len) == 0);
    clients[n_clients++] = fd;
    stage_settle();
    return fd;
}

void stage_leave(int client)
{
    for (unsigned i = 0; i < n_clients; i++)
        if (clients[i] == client)
            clients[i] = -1;
    close(client);
    stage_settle();
}

static void send_all(int fd, const char *text)
{
    size_t n = strlen(text);
    CHECK(send(fd, text, n, MSG_NOSIGNAL) == (ssize_t)n);
    stage_settle();
}

/* Everything there is; *end: and then the end. */
static const char *take(int fd, bool *end)
{
    static char buf[300000];
    size_t n = 0;
    ssize_t got = 0;
    while (n < sizeof buf - 1 && (got = recv(fd, buf + n, sizeof buf - 1 - n, 0)) > 0)
        n += (size_t)got;
    *end = got == 0 || (got < 0 && errno != EAGAIN);
    buf[n] = '\0';
    return buf;
}

void stage_say(int client, const char *text)
{
    send_all(client, text);
}

void stage_reads(int client, const char *expected)
{
    bool end;
    stage_settle();
    assert_string_equal(take(client, &end), expected);
    assert_false(end);
}

void stage_reads_start(int client, const char *start)
{
    bool end;
    stage_settle();
    const char *got = take(client, &end);
    if (strncmp(got, start, strlen(start)) != 0)
        assert_string_equal(got, start); /* shows both */
    assert_false(end);
}

void stage_reads_end(int client)
{
    bool end;
    stage_settle();
    assert_string_equal(take(client, &end), "");
    assert_true(end);
}

void stage_answer(unsigned peer, const char *text)
{
    assert_true(peer < stage_dials && peers[peer] >= 0);
    send_all(peers[peer], text);
}

const char *stage_heard(unsigned peer)
{
    bool end;
    stage_settle();
    assert_true(peer < stage_dials && peers[peer] >= 0);
    return take(peers[peer], &end);
}

void stage_hears(unsigned peer, const char *expected)
{
    assert_string_equal(stage_heard(peer), expected);
}

void stage_expects_reset(unsigned peer, char *end, size_t cap)
{
    const char *asked = stage_heard(peer);
    assert_int_equal(strncmp(asked, resp1("RESET"), strlen(resp1("RESET"))), 0);
    const char *nonce = strstr(asked, "ECHO\r\n$24\r\n");
    assert_non_null(nonce);
    snprintf(end, cap, "$24\r\n%.24s\r\n", nonce + strlen("ECHO\r\n$24\r\n"));
}

void stage_answer_reset(unsigned peer)
{
    char end[64];
    stage_expects_reset(peer, end, sizeof end);
    stage_answer(peer, "+RESET\r\n+OK\r\n");
    stage_answer(peer, end);
}

void stage_hang_up(unsigned peer)
{
    if (peer >= stage_dials || peers[peer] < 0)
        return;
    close(peers[peer]);
    peers[peer] = -1;
    stage_settle();
}

bool stage_was_hung_up(unsigned peer)
{
    return peer >= stage_dials || peers[peer] < 0;
}

void stage_try_answer(unsigned peer, const char *text)
{
    (void)!send(peers[peer], text, strlen(text), MSG_NOSIGNAL);
    stage_settle();
}

void stage_reset_if_asked(void)
{
    bool end;
    for (unsigned i = 0; i < stage_dials; i++) {
        const char *asked = peers[i] < 0 ? "" : take(peers[i], &end);
        const char *nonce = strstr(asked, "ECHO\r\n$24\r\n");
        char reply[96];
        if (!nonce)
            continue;
        snprintf(reply, sizeof reply, "+RESET\r\n+OK\r\n$24\r\n%.24s\r\n",
                 nonce + strlen("ECHO\r\n$24\r\n"));
        stage_try_answer(i, reply);
    }
}

void stage_never_reads(int client, const char *part)
{
    bool end;
    assert_null(strstr(take(client, &end), part));
}

bool stage_was_left(unsigned peer)
{
    bool end;
    stage_settle();
    if (peer >= stage_dials || peers[peer] < 0)
        return true;
    (void)take(peers[peer], &end);
    return end;
}

/* ---- commands ---- */

static const char *resp(unsigned n, const char *const *words)
{
    static char room[8][512];
    static unsigned turn;
    char *buf = room[turn++ % ARRAY_LEN(room)];
    size_t at = (size_t)snprintf(buf, sizeof room[0], "*%u\r\n", n);
    for (unsigned i = 0; i < n; i++)
        at += (size_t)snprintf(buf + at, sizeof room[0] - at, "$%zu\r\n%s\r\n", strlen(words[i]),
                               words[i]);
    CHECK(at < sizeof room[0]);
    return buf;
}

const char *resp1(const char *a)
{
    return resp(1, (const char *[]){a});
}

const char *resp2(const char *a, const char *b)
{
    return resp(2, (const char *[]){a, b});
}

const char *resp3(const char *a, const char *b, const char *c)
{
    return resp(3, (const char *[]){a, b, c});
}
