/* SPDX-License-Identifier: MIT */
#include "tests/unit/admin/running.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- hooks ---- */

static const struct admin_view *see(void *arg)
{
    return &((struct running *)arg)->view;
}

static enum admin_reload reload(void *arg, char *report, size_t cap)
{
    struct running *r = arg;
    atomic_fetch_add(&r->reloads, 1);
    snprintf(report, cap, "c.yaml:3:1: %s: something\nsecond line\n",
             r->reload_works ? "warning" : "error");
    return r->reload_works ? ADMIN_RELOAD_DONE : ADMIN_RELOAD_REFUSED;
}

static void shut(void *arg)
{
    struct running *r = arg;
    atomic_fetch_add(&r->shutdowns, 1);
    r->view.draining = true;
}

static char *config(void *arg)
{
    struct running *r = arg;
    char *text = malloc(r->config_bytes + 1);
    if (text) {
        memset(text, '#', r->config_bytes);
        text[r->config_bytes] = '\0';
    }
    return text;
}

/* ---- the loop's thread ---- */

static void on_closed(void *arg)
{
    loop_stop(&((struct running *)arg)->loop);
}

static void on_close(struct post_msg *msg)
{
    struct running *r = OWNER(msg, struct running, close);
    admin_close(r->admin, on_closed, r);
    r->admin = NULL;
}

static void *run(void *arg)
{
    loop_run(&((struct running *)arg)->loop);
    return NULL;
}

static void keep(struct snapshot *snap)
{
    (void)snap;
}

/* Nothing is ever dialed here. */
static const struct driver_ops nobody = {.name = "nobody"};

static void make_pool(struct running *r)
{
    r->endpoint = (struct endpoint_conf){.label = "db:5432"};
    r->conf = (struct pool_conf){.name = "orders",
                                 .endpoints = &r->endpoint,
                                 .n_endpoints = 1,
                                 .size = {.max = 3, .waiters = 10}};
    r->ledger = ledger_new(&nobody, &r->conf, &r->snap, 1, NULL, 1, NULL);
    assert_non_null(r->ledger);
    r->pool = r->pools[0] = pool_new(r->ledger, 0, &r->loop);
    assert_non_null(r->pool);
    ledger_start(r->ledger, 1);
    r->admin_pool = (struct admin_pool){.ledger = r->ledger,
                                        .kind = "postgres",
                                        .n_workers = 1,
                                        .pools = r->pools,
                                        .routes = r->routes};
    r->view = (struct admin_view){.version = "1.2.3",
                                  .source = "test",
                                  .n_workers = 1,
                                  .pools = &r->admin_pool,
                                  .n_pools = 1,
                                  .bound = true};
}

/* Somebody may take the port in between: the caller tries again. */
static uint16_t free_port(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&in, sizeof in) == 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &n), 0);
    close(fd);
    return ntohs(in.sin_port);
}

static void open_admin(struct running *r, const char *host, const char *token)
{
    const struct admin_hooks hooks = {r, see, reload, shut, config};
    struct err err = {0};
    for (int tries = 0; tries < 10 && !r->admin; tries++) {
        r->port = host ? free_port() : 0;
        const struct admin_conf conf = {
            .socket = r->socket, .http = host, .host = host, .port = r->port, .token = token};
        r->admin = admin_open(&r->loop, &conf, &hooks, &err);
    }
    if (!r->admin)
        fail_msg("%s", err.note);
}

struct running *running_start_with(const char *host, const char *token,
                                   void (*change)(struct running *))
{
    struct running *r = calloc(1, sizeof *r);
    assert_non_null(r);
    snprintf(r->folder, sizeof r->folder, "/tmp/carpool-unit-XXXXXX");
    assert_non_null(mkdtemp(r->folder));
    snprintf(r->socket, sizeof r->socket, "%s/made/admin.sock", r->folder);
    r->ring = log_ring_new("control", LOG_INFO);
    loop_init(&r->loop, "control", r->ring);
    post_init(&r->close, on_close, NULL);
    atomic_store(&r->snap.refs, 1);
    r->snap.free = keep;
    r->reload_works = true;
    r->config_bytes = 100;
    make_pool(r);
    if (change)
        change(r);
    open_admin(r, host, token);
    assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
    return r;
}

struct running *running_start(const char *host, const char *token)
{
    return running_start_with(host, token, NULL);
}

void running_stop(struct running *r)
{
    if (!r->ledger)
        return;
    post(&r->loop, &r->close);
    assert_int_equal(pthread_join(r->thread, NULL), 0);
    loop_fini(&r->loop);
    pool_free(r->pool);
    ledger_free(r->ledger);
    r->ledger = NULL;
    assert_int_equal(atomic_load(&r->snap.refs), 1);
}

void running_free(struct running *r)
{
    running_stop(r);
    free(r->ring);
    unlink(r->socket);
    *strrchr(r->socket, '/') = '\0';
    rmdir(r->socket);
    rmdir(r->folder);
    free(r);
}

/* ---- callers ----
 *
 * The loops are made here and run elsewhere, so libuv's io_uring may interrupt this thread while it
 * waits, and a socket with a time limit then says EINTR: every wait is taken up again.
 */

static int bounded(int fd)
{
    const struct timeval limit = {.tv_sec = RUNNING_WAIT_S};
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), 0);
    return fd;
}

int running_connect(const struct running *r)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    memcpy(un.sun_path, r->socket, strlen(r->socket));
    int fd = bounded(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    assert_int_equal(TEMP_FAILURE_RETRY(connect(fd, (struct sockaddr *)&un, sizeof un)), 0);
    return fd;
}

int running_connect_tcp(const struct running *r, const char *host)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(r->port)};
    assert_int_equal(inet_pton(AF_INET, host, &in.sin_addr), 1);
    int fd = bounded(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    assert_int_equal(TEMP_FAILURE_RETRY(connect(fd, (struct sockaddr *)&in, sizeof in)), 0);
    return fd;
}

void running_send(int fd, const char *text)
{
    size_t n = strlen(text);
    while (n) {
        ssize_t k = TEMP_FAILURE_RETRY(send(fd, text, n, MSG_NOSIGNAL));
        if (k < 0 && (errno == EPIPE || errno == ECONNRESET))
            return; /* the answer may be there all the same */
        assert_true(k > 0);
        text += k;
        n -= (size_t)k;
    }
}

static ssize_t take(int fd, char *to, size_t n)
{
    ssize_t k = TEMP_FAILURE_RETRY(recv(fd, to, n, 0));
    if (k < 0 && errno != ECONNRESET && errno != EPIPE)
        fail_msg("no answer: %s", strerror(errno));
    return k;
}

char *running_read(int fd, bool head_only)
{
    size_t n = 0, cap = 4096;
    char *text = malloc(cap + 1), *end = NULL;
    assert_non_null(text);
    while (!end && n < cap) { /* byte by byte: nothing of a next answer is taken */
        if (take(fd, text + n, 1) <= 0) {
            assert_int_equal(n, 0);
            free(text);
            return NULL;
        }
        text[++n] = '\0';
        end = strstr(text, "\r\n\r\n");
    }
    assert_non_null(end);
    const char *field = strstr(text, "Content-Length: ");
    assert_non_null(field);
    size_t body = head_only ? 0 : strtoul(field + strlen("Content-Length: "), NULL, 10);
    text = realloc(text, n + body + 1);
    assert_non_null(text);
    while (body) {
        ssize_t k = take(fd, text + n, body);
        assert_true(k > 0);
        n += (size_t)k;
        body -= (size_t)k;
    }
    text[n] = '\0';
    return text;
}

bool running_ended(int fd)
{
    char byte;
    return take(fd, &byte, 1) <= 0;
}

void running_assert_has(const char *text, const char *what)
{
    if (!text || !strstr(text, what))
        fail_msg("\"%s\" is not in:\n%s", what, text ? text : "(nothing)");
}

char *running_ask(int fd, const char *request, unsigned status)
{
    running_send(fd, request);
    char *answer = running_read(fd, strncmp(request, "HEAD", 4) == 0);
    assert_non_null(answer);
    if (strtoul(answer + strlen("HTTP/1.1 "), NULL, 10) != status)
        fail_msg("not %u:\n%s", status, answer);
    return answer;
}

char *running_ask_once(const struct running *r, const char *request, unsigned status)
{
    int fd = running_connect(r);
    char *answer = running_ask(fd, request, status);
    close(fd);
    return answer;
}

void running_expect(const struct running *r, const char *request, unsigned status, const char *what)
{
    char *answer = running_ask_once(r, request, status);
    running_assert_has(answer, what);
    free(answer);
}
