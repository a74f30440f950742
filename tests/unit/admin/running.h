/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * An admin API on a loop of its own thread, with one real pool that never dials, for tests that
 * are its callers. Everything waits at most RUNNING_WAIT_S.
 */
#include "admin/admin.h"
#include "proxy/core/post.h"

/* Less than an idle caller may stay: a test that only passes because others were thrown out
   fails. */
#define RUNNING_WAIT_S 8

/* Requests. The Host is nobody's. */
#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST(path) "POST " path " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

struct running {
    char folder[64], socket[96];
    uint16_t port; /* of the TCP door, if there is one */
    struct log_ring *ring;
    struct loop loop;
    pthread_t thread;
    struct admin *admin;
    struct post_msg close;
    struct snapshot snap;
    struct endpoint_conf endpoint;
    struct pool_conf conf;
    struct ledger *ledger;
    struct pool *pool, *pools[1];
    struct route *routes[1];
    struct admin_pool admin_pool;
    struct admin_view view;
    /* what the hooks do, and were asked */
    _Atomic bool reload_works;
    _Atomic unsigned reloads, shutdowns;
    size_t config_bytes; /* how long /config is */
};

/* host: of the TCP door on a free port, or NULL. `conf.token` as given. */
struct running *running_start(const char *host, const char *token);
/* As above, after `change` had its way, on the calling thread, before anything listens. */
struct running *running_start_with(const char *host, const char *token,
                                   void (*change)(struct running *));
/* Closes the API, ends the thread; asserts that nothing is left, but frees nothing. */
void running_stop(struct running *r);
/* After running_stop(), if it was not called yet that too. */
void running_free(struct running *r);

/* A caller's connection: blocking, bounded in time. */
int running_connect(const struct running *r);
int running_connect_tcp(const struct running *r, const char *host);
void running_send(int fd, const char *text);
/*
 * Reads one answer: its head and as many bytes as Content-Length says, or the head alone.
 * NUL-terminated, to be freed; NULL: closed before the first byte. Fails the test when it is
 * cut off.
 */
char *running_read(int fd, bool head_only);
/* Waits for end-of-file or a reset; false: something else came. */
bool running_ended(int fd);

void running_assert_has(const char *text, const char *what);
/* Sends, reads one answer, compares its status; the answer is to be freed. */
char *running_ask(int fd, const char *request, unsigned status);
/* The same on a connection of its own, to the Unix socket. */
char *running_ask_once(const struct running *r, const char *request, unsigned status);
/* ... and `what` is in the answer. */
void running_expect(const struct running *r, const char *request, unsigned status,
                    const char *what);
