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
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "pools/dial.h"
#include "pools/http.h"

struct http_dial {
    struct dial base;
    CURLM *multi;
    CURL *easy;
    struct timer timer; /* libcurl's */
    int sys;            /* why there is no socket; libcurl would not say */
    bool has_begun;     /* else the name is not known, and nothing above is there to be undone */
};

static struct http_dial *http_dial_of(struct dial *d)
{
    return OWNER(d, struct http_dial, base);
}

static void end_curl(struct dial *d)
{
    struct http_dial *hd = http_dial_of(d);
    if (!hd->has_begun)
        return;
    if (hd->multi && hd->easy)
        curl_multi_remove_handle(hd->multi, hd->easy);
    curl_easy_cleanup(hd->easy);
    if (hd->multi)
        curl_multi_cleanup(hd->multi);
    hd->easy = NULL;
    hd->multi = NULL;
    dial_unwatch(d);
    loop_timer_stop(d->loop, &hd->timer);
}

static void succeed(struct dial *d)
{
    const struct http_limits limits = HTTP_LIMITS_RESPONSE;
    struct http_server *hs = http_server_of(d->sv);
    hs->parser = http_parser_new(HTTP_KIND_RESPONSE, &limits);
    if (hs->parser)
        dial_well(d);
    else
        dial_no_memory(d);
}

/* ---- TLS ---- */

static void shake_hands(struct io *io)
{
    struct dial *d = OWNER(io, struct server, io)->dial;
    if (!dial_shake_hands(d))
        return;
    io_detach(io);
    succeed(d);
}

static const struct io_ops handshake_ops = {.on_readable = shake_hands, .on_drained = shake_hands};

static void begin_tls(struct dial *d)
{
    struct io *io = &d->sv->io;
    struct err why;
    d->stage = STAGE_TLS;
    io->tls = http_tls_connect(d->sv, io->fd, &why);
    if (!io->tls)
        dial_fail(d, why.cause, why.stage, why.sys, "%.120s", why.note);
    else if (!io_attach(io, d->loop, &handshake_ops))
        dial_no_memory(d);
    else
        shake_hands(io);
}

/* ---- libcurl ---- */

static void fail_connect(struct dial *d, CURLcode code)
{
    long sys = http_dial_of(d)->sys;
    if (!sys)
        curl_easy_getinfo(http_dial_of(d)->easy, CURLINFO_OS_ERRNO, &sys);
    if (code == CURLE_OUT_OF_MEMORY)
        dial_no_memory(d);
    else if (sys)
        dial_refused(d, (int)sys);
    else
        dial_fail(d, CAUSE_DIAL_FAILED, STAGE_CONNECT, 0, "cannot connect: %s",
                  curl_easy_strerror(code));
}

/* A duplicate of it, or an errno, negative. */
static int take_socket(struct http_dial *hd)
{
    curl_socket_t sock = CURL_SOCKET_BAD;
    if (curl_easy_getinfo(hd->easy, CURLINFO_ACTIVESOCKET, &sock) != CURLE_OK ||
        sock == CURL_SOCKET_BAD)
        return -ENOTCONN;
    int fd = fcntl(sock, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return -errno;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

/* After every call into the multi handle: has the one transfer, the connecting, ended? */
static void check_done(struct dial *d)
{
    int left;
    struct server *sv = d->sv;
    CURLMsg *msg = curl_multi_info_read(http_dial_of(d)->multi, &left);
    if (!msg || msg->msg != CURLMSG_DONE)
        return;
    if (msg->data.result != CURLE_OK) {
        fail_connect(d, msg->data.result);
        return;
    }
    int fd = take_socket(http_dial_of(d));
    if (fd < 0) {
        dial_refused(d, -fd);
        return;
    }
    end_curl(d);
    io_tune(fd, (unsigned)sv->conf->tcp.keepalive_ms, (unsigned)sv->conf->tcp.user_timeout_ms);
    io_init(&sv->io, fd, NULL);
    if (sv->endpoint->tls == ENDPOINT_TLS_DISABLE)
        succeed(d);
    else
        begin_tls(d);
}

static void on_socket(struct dial *d, int fd, int status, int events)
{
    int running, flags = status < 0 ? CURL_CSELECT_ERR : 0;
    flags |= events & UV_READABLE ? CURL_CSELECT_IN : 0;
    flags |= events & UV_WRITABLE ? CURL_CSELECT_OUT : 0;
    curl_multi_socket_action(http_dial_of(d)->multi, fd, flags, &running);
    check_done(d);
}

static void on_timer(struct timer *t)
{
    struct http_dial *hd = OWNER(t, struct http_dial, timer);
    int running;
    curl_multi_socket_action(hd->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    check_done(&hd->base);
}

static int want_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    struct http_dial *hd = arg;
    if (ms < 0)
        loop_timer_stop(hd->base.loop, &hd->timer);
    else
        loop_timer_set(hd->base.loop, &hd->timer, (uint64_t)ms);
    return 0;
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
    (void)easy;
    (void)unused;
    struct http_dial *hd = arg;
    dial_unwatch(&hd->base);
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    if (what == CURL_POLL_REMOVE || events == 0)
        return 0;
    return dial_watch(&hd->base, fd, events, on_socket) ? 0 : -1;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *at)
{
    (void)purpose;
    struct http_dial *hd = arg;
    int fd = socket(at->family, at->socktype | SOCK_CLOEXEC, at->protocol);
    hd->sys = fd < 0 ? errno : 0;
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

/* "http://[fe80::1%25eth0]:8080/" */
static void make_url(const struct dial *d, char *url, size_t cap)
{
    if (d->sv->endpoint->unix_path) {
        snprintf(url, cap, "http://localhost/");
        return;
    }
    const char *zone = strchr(d->host, '%');
    int n = zone ? (int)(zone - d->host) : (int)strlen(d->host);
    bool v6 = strchr(d->host, ':') != NULL;
    snprintf(url, cap, "http://%s%.*s%s%s%s:%u/", v6 ? "[" : "", n, d->host, zone ? "%25" : "",
             zone ? zone + 1 : "", v6 ? "]" : "", d->sv->endpoint->port);
}

static void start(struct dial *d)
{
    struct http_dial *hd = http_dial_of(d);
    const char *unix_path = d->sv->endpoint->unix_path;
    char url[sizeof d->host + 32];
    timer_init(&hd->timer, on_timer);
    hd->has_begun = true;
    hd->multi = curl_multi_init();
    hd->easy = curl_easy_init();
    if (!hd->multi || !hd->easy) {
        dial_no_memory(d);
        return;
    }
    make_url(d, url, sizeof url);
    CURLcode ok = curl_easy_setopt(hd->easy, CURLOPT_URL, url);
    if (ok == CURLE_OK && unix_path)
        ok = curl_easy_setopt(hd->easy, CURLOPT_UNIX_SOCKET_PATH, unix_path);
    curl_easy_setopt(hd->easy, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(hd->easy, CURLOPT_PROXY, ""); /* not what the environment says */
    curl_easy_setopt(hd->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(hd->easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(hd->easy, CURLOPT_OPENSOCKETDATA, hd);
    curl_multi_setopt(hd->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(hd->multi, CURLMOPT_SOCKETDATA, hd);
    curl_multi_setopt(hd->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(hd->multi, CURLMOPT_TIMERDATA, hd);
    if (ok != CURLE_OK || curl_multi_add_handle(hd->multi, hd->easy) != CURLM_OK)
        dial_no_memory(d);
}

static const struct dial_ops ops = {
    .size = sizeof(struct http_dial),
    .start = start,
    .stop = end_curl,
};

void http_dial(struct server *sv, struct loop *loop)
{
    dial_begin(sv, loop, &ops);
}
