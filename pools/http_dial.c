/* SPDX-License-Identifier: MIT */
/*
 * Opening a connection to an HTTP upstream, on the dialer's thread.
 *
 *   resolve (uv_getaddrinfo) -> libcurl connects to one literal address -> plain: done
 *                                                                       -> TLS: io shakes hands
 *
 * libcurl is told CONNECT_ONLY and given one address, so that one dial is one socket. It takes its
 * own socket away when the handle goes, hence the duplicate. TLS is ours, because the connection
 * outlives the dial and moves between threads.
 */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "pools/dialer.h"
#include "pools/http.h"

#define ADDRESS_MAX (INET6_ADDRSTRLEN + IF_NAMESIZE + 2)

struct http_dial {
    struct http_server *hs;
    struct loop *loop;
    uv_getaddrinfo_t resolving;
    bool is_resolving;
    bool orphaned; /* aborted while resolving: only the callback is left */
    bool in_tls;   /* the io is attached to the dialer's loop */
    char address[ADDRESS_MAX];
    CURLM *multi;
    CURL *easy;
    struct timer timer; /* libcurl's */
    struct poller *poller;
};

/* libcurl says anew what to watch whenever that changes: each time a handle of its own. */
struct poller {
    uv_poll_t poll;
    curl_socket_t fd;
    struct http_dial *dial; /* NULL once it is not wanted any more */
};

static void on_poller_closed(uv_handle_t *h)
{
    free(h->data);
}

static void unwatch(struct http_dial *d)
{
    if (!d->poller)
        return;
    d->poller->dial = NULL;
    uv_poll_stop(&d->poller->poll);
    uv_close((uv_handle_t *)&d->poller->poll, on_poller_closed);
    d->poller = NULL;
}

static void end_curl(struct http_dial *d)
{
    if (d->multi && d->easy)
        curl_multi_remove_handle(d->multi, d->easy);
    curl_easy_cleanup(d->easy);
    if (d->multi)
        curl_multi_cleanup(d->multi);
    d->easy = NULL;
    d->multi = NULL;
    unwatch(d);
    loop_timer_stop(d->loop, &d->timer);
}

static void dial_free(struct http_dial *d)
{
    end_curl(d);
    if (d->is_resolving) {
        d->orphaned = true;
        uv_cancel((uv_req_t *)&d->resolving);
        return;
    }
    free(d);
}

/* fd: a socket that is connected, so that the upstream counts it until its end-of-file; or -1. */
static void fail(struct http_dial *d, int fd, const struct err *err)
{
    struct server *sv = &d->hs->base;
    struct loop *loop = d->loop;
    struct err copy = *err;
    http_parser_free(d->hs->parser);
    d->hs->parser = NULL;
    d->hs->dial = NULL;
    dial_free(d);
    dialer_linger(sv, loop, fd, &copy);
}

static void fail_no_memory(struct http_dial *d, int fd)
{
    struct err err;
    err_set(&err, CAUSE_INTERNAL, STAGE_CONNECT, ENOMEM, "out of memory");
    fail(d, fd, &err);
}

void http_dial_abort(struct server *sv, const struct err *err)
{
    struct http_dial *d = http_server_of(sv)->dial;
    CHECK(d != NULL);
    struct err said = *err;
    int fd = -1;
    if (d->in_tls) {
        fd = io_release(&sv->io);
        said.stage = STAGE_TLS;
    } else if (d->is_resolving) {
        said.stage = STAGE_RESOLVE;
    }
    fail(d, fd, &said);
}

static void succeed(struct http_dial *d)
{
    struct server *sv = &d->hs->base;
    d->hs->dial = NULL;
    dial_free(d);
    server_dialed(sv, NULL);
}

/* ---- TLS ---- */

static void fail_tls(struct http_dial *d, int fd, const struct err *why)
{
    struct err err;
    err_set(&err, why->cause, why->stage, why->sys, "%s: %.120s", d->hs->base.endpoint->label,
            why->note);
    fail(d, fd, &err);
}

static void shake_hands(struct io *io)
{
    struct server *sv = OWNER(io, struct server, io);
    struct http_dial *d = http_server_of(sv)->dial;
    struct err err;
    switch (io_handshake(io, &err)) {
    case IO_HS_AGAIN:
        return;
    case IO_HS_DONE:
        io_detach(io);
        d->in_tls = false;
        succeed(d);
        return;
    case IO_HS_FAILED:
        break;
    }
    d->in_tls = false;
    fail_tls(d, io_release(io), &err);
}

static const struct io_ops handshake_ops = {.on_readable = shake_hands, .on_drained = shake_hands};

static void begin_tls(struct http_dial *d, int fd)
{
    struct server *sv = &d->hs->base;
    struct err err;
    struct tls_conn *tls = http_tls_connect(sv, fd, &err);
    if (!tls) {
        fail_tls(d, fd, &err);
        return;
    }
    io_init(&sv->io, fd, tls);
    if (!io_attach(&sv->io, d->loop, &handshake_ops)) {
        fail_no_memory(d, io_release(&sv->io));
        return;
    }
    d->in_tls = true;
    shake_hands(&sv->io);
}

/* ---- libcurl ---- */

static void connected(struct http_dial *d, int fd)
{
    struct server *sv = &d->hs->base;
    const struct http_limits limits = HTTP_LIMITS_RESPONSE;
    d->hs->parser = http_parser_new(HTTP_KIND_RESPONSE, &limits);
    if (!d->hs->parser) {
        fail_no_memory(d, fd);
        return;
    }
    io_tune(fd, (unsigned)sv->conf->tcp.keepalive_ms, (unsigned)sv->conf->tcp.user_timeout_ms);
    if (sv->endpoint->tls != ENDPOINT_TLS_DISABLE) {
        begin_tls(d, fd);
        return;
    }
    io_init(&sv->io, fd, NULL);
    succeed(d);
}

static void fail_connect(struct http_dial *d, CURLcode code)
{
    long sys = 0;
    struct err err;
    curl_easy_getinfo(d->easy, CURLINFO_OS_ERRNO, &sys);
    bool local = sys == EMFILE || sys == ENFILE || code == CURLE_OUT_OF_MEMORY;
    err_set(&err, local ? CAUSE_INTERNAL : CAUSE_DIAL_FAILED, STAGE_CONNECT, (int)sys,
            "%s: cannot connect: %s", d->hs->base.endpoint->label,
            sys ? strerror((int)sys) : curl_easy_strerror(code));
    fail(d, -1, &err);
}

static int take_socket(struct http_dial *d)
{
    curl_socket_t sock = CURL_SOCKET_BAD;
    if (curl_easy_getinfo(d->easy, CURLINFO_ACTIVESOCKET, &sock) != CURLE_OK ||
        sock == CURL_SOCKET_BAD)
        return -1;
    int fd = fcntl(sock, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

/* After every call into the multi handle: has the one transfer, the connecting, ended? */
static void check_done(struct http_dial *d)
{
    int left;
    CURLMsg *msg = curl_multi_info_read(d->multi, &left);
    if (!msg || msg->msg != CURLMSG_DONE)
        return;
    CURLcode code = msg->data.result;
    if (code != CURLE_OK) {
        fail_connect(d, code);
        return;
    }
    int fd = take_socket(d);
    if (fd < 0) {
        fail_connect(d, CURLE_COULDNT_CONNECT);
        return;
    }
    end_curl(d);
    connected(d, fd);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct poller *p = poll->data;
    struct http_dial *d = p->dial;
    loop_turn(OWNER(poll->loop, struct loop, uv));
    if (!d)
        return;
    int running, flags = status < 0 ? CURL_CSELECT_ERR : 0;
    flags |= events & UV_READABLE ? CURL_CSELECT_IN : 0;
    flags |= events & UV_WRITABLE ? CURL_CSELECT_OUT : 0;
    curl_multi_socket_action(d->multi, p->fd, flags, &running);
    check_done(d);
}

static void on_timer(struct timer *t)
{
    struct http_dial *d = OWNER(t, struct http_dial, timer);
    int running;
    curl_multi_socket_action(d->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    check_done(d);
}

static int want_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    struct http_dial *d = arg;
    if (ms < 0)
        loop_timer_stop(d->loop, &d->timer);
    else
        loop_timer_set(d->loop, &d->timer, (uint64_t)ms);
    return 0;
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
    (void)easy;
    (void)unused;
    struct http_dial *d = arg;
    unwatch(d);
    if (what == CURL_POLL_REMOVE || what == CURL_POLL_NONE)
        return 0;
    struct poller *p = calloc(1, sizeof *p);
    if (!p)
        return -1;
    if (uv_poll_init(&d->loop->uv, &p->poll, fd) != 0) {
        free(p);
        return -1;
    }
    p->poll.data = p;
    p->fd = fd;
    p->dial = d;
    d->poller = p;
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&p->poll, events, on_poll) == 0 ? 0 : -1;
}

/* "http://[fe80::1%25eth0]:8080/" */
static void make_url(const struct http_dial *d, char *url, size_t cap)
{
    const struct endpoint_conf *e = d->hs->base.endpoint;
    if (e->unix_path) {
        snprintf(url, cap, "http://localhost/");
        return;
    }
    const char *zone = strchr(d->address, '%');
    int n = zone ? (int)(zone - d->address) : (int)strlen(d->address);
    bool v6 = strchr(d->address, ':') != NULL;
    snprintf(url, cap, "http://%s%.*s%s%s%s:%u/", v6 ? "[" : "", n, d->address, zone ? "%25" : "",
             zone ? zone + 1 : "", v6 ? "]" : "", e->port);
}

static void start(struct http_dial *d)
{
    const struct endpoint_conf *e = d->hs->base.endpoint;
    char url[ADDRESS_MAX + 32];
    d->multi = curl_multi_init();
    d->easy = curl_easy_init();
    if (!d->multi || !d->easy) {
        fail_no_memory(d, -1);
        return;
    }
    make_url(d, url, sizeof url);
    CURLcode ok = curl_easy_setopt(d->easy, CURLOPT_URL, url);
    if (ok == CURLE_OK && e->unix_path)
        ok = curl_easy_setopt(d->easy, CURLOPT_UNIX_SOCKET_PATH, e->unix_path);
    curl_easy_setopt(d->easy, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(d->easy, CURLOPT_PROXY, ""); /* not what the environment says */
    curl_easy_setopt(d->easy, CURLOPT_NOSIGNAL, 1L);
    curl_multi_setopt(d->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(d->multi, CURLMOPT_SOCKETDATA, d);
    curl_multi_setopt(d->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(d->multi, CURLMOPT_TIMERDATA, d);
    if (ok != CURLE_OK || curl_multi_add_handle(d->multi, d->easy) != CURLM_OK)
        fail_no_memory(d, -1);
}

/* ---- names ---- */

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct http_dial *d = req->data;
    loop_turn(d->loop);
    d->is_resolving = false;
    if (d->orphaned) {
        uv_freeaddrinfo(found);
        free(d);
        return;
    }
    struct server *sv = &d->hs->base;
    struct err err;
    if (status != 0 || !found) {
        err_set(&err, CAUSE_DIAL_FAILED, STAGE_RESOLVE, 0, "%s: cannot resolve the name: %s",
                sv->endpoint->label, uv_strerror(status));
        uv_freeaddrinfo(found);
        fail(d, -1, &err);
        return;
    }
    /* One dial, one socket: names with several addresses are walked through dial by dial. */
    unsigned n = 0;
    for (struct addrinfo *a = found; a; a = a->ai_next)
        n++;
    struct addrinfo *pick = found;
    for (unsigned i = sv->turn % n; i > 0; i--)
        pick = pick->ai_next;
    int bad = getnameinfo(pick->ai_addr, pick->ai_addrlen, d->address, sizeof d->address, NULL, 0,
                          NI_NUMERICHOST);
    uv_freeaddrinfo(found);
    if (bad) {
        err_set(&err, CAUSE_DIAL_FAILED, STAGE_RESOLVE, 0, "%s: the name has an odd address",
                sv->endpoint->label);
        fail(d, -1, &err);
        return;
    }
    start(d);
}

void http_dial(struct server *sv, struct loop *loop)
{
    struct http_server *hs = http_server_of(sv);
    const struct endpoint_conf *e = sv->endpoint;
    struct err err;
    struct http_dial *d = calloc(1, sizeof *d);
    if (!d) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CONNECT, ENOMEM, "out of memory");
        server_dialed(sv, &err);
        return;
    }
    d->hs = hs;
    d->loop = loop;
    timer_init(&d->timer, on_timer);
    hs->dial = d;
    if (e->unix_path || e->literal) {
        if (e->host)
            snprintf(d->address, sizeof d->address, "%s", e->host);
        start(d);
        return;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    d->resolving.data = d;
    d->is_resolving = true;
    if (uv_getaddrinfo(&loop->uv, &d->resolving, on_resolved, e->host, NULL, &hints) != 0) {
        d->is_resolving = false;
        err_set(&err, CAUSE_INTERNAL, STAGE_RESOLVE, 0, "%s: cannot start resolving", e->label);
        fail(d, -1, &err);
    }
}
