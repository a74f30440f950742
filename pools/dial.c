/* SPDX-License-Identifier: MIT */
#include "pools/dial.h"

#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>

#include "pools/dialer.h"
#include "pools/ledger.h"

/* ---- watching a library's socket ---- */

/* Libraries close sockets and open others under the same number: each wait has its own handle. */
struct dial_watch {
    uv_poll_t poll;
    struct dial *dial; /* NULL once it is not wanted any more */
    int fd;
    void (*step)(struct dial *d, int fd, int status, int events);
};

static void on_watch_closed(uv_handle_t *h)
{
    free(h->data);
}

void dial_unwatch(struct dial *d)
{
    if (!d->watch)
        return;
    d->watch->dial = NULL;
    uv_close((uv_handle_t *)&d->watch->poll, on_watch_closed);
    d->watch = NULL;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct dial_watch *w = poll->data;
    loop_called(OWNER(poll->loop, struct loop, uv));
    if (w->dial)
        w->step(w->dial, w->fd, status, events);
}

bool dial_watch(struct dial *d, int fd, int events,
                void (*step)(struct dial *d, int fd, int status, int events))
{
    dial_unwatch(d);
    struct dial_watch *w = calloc(1, sizeof *w);
    if (!w)
        return false;
    if (uv_poll_init(&d->loop->uv, &w->poll, fd) != 0) {
        free(w);
        return false;
    }
    w->poll.data = w;
    w->dial = d;
    w->fd = fd;
    w->step = step;
    d->watch = w;
    return uv_poll_start(&w->poll, events, on_poll) == 0;
}

/* ---- the end ---- */

/* The attempt's means, not its socket. */
static void stop(struct dial *d)
{
    dial_unwatch(d);
    d->ops->stop(d);
}

static void forget(struct dial *d)
{
    d->sv->dial = NULL;
    name_cancel(&d->wait);
    struct snapshot *found = d->found ? &d->found->snap : NULL;
    snapshot_drop(&found);
    free(d);
}

/* The socket may still hold a place among the upstream's clients: its end-of-file is waited for. */
static void end(struct dial *d, const struct err *err)
{
    struct server *sv = d->sv;
    struct loop *loop = d->loop;
    stop(d);
    int fd = sv->io.fd >= 0 ? io_release(&sv->io) : -1;
    forget(d);
    dialer_linger(sv, loop, fd, err);
}

void dial_fail(struct dial *d, enum cause cause, enum err_stage stage, int sys, const char *fmt,
               ...)
{
    struct err err;
    char words[sizeof err.note];
    va_list args;
    va_start(args, fmt);
    vsnprintf(words, sizeof words, fmt, args);
    va_end(args);
    err_set(&err, cause, stage, sys, "%s: %s", d->sv->endpoint->label, words);
    end(d, &err);
}

void dial_no_memory(struct dial *d)
{
    dial_fail(d, CAUSE_INTERNAL, d->stage, ENOMEM, "out of memory");
}

bool dial_role(struct dial *d, enum server_role role)
{
    static const char *const words[] = {
        [TARGET_ANY] = "any",
        [TARGET_PRIMARY] = "primary",
        [TARGET_REPLICA] = "replica",
        [TARGET_PREFER_REPLICA] = "prefer-replica",
    };
    struct server *sv = d->sv;
    struct err err;
    sv->role = role;
    if (server_fits_target(sv) || (sv->conf->target == TARGET_PREFER_REPLICA && !sv->picky))
        return true;
    sv->unfit = true;
    err_set(&err, CAUSE_DIAL_FAILED, STAGE_LOGIN, 0, "%s is a %s (target: %s)", sv->endpoint->label,
            server_role_word(role), words[sv->conf->target]);
    end(d, &err);
    return false;
}

void dial_well(struct dial *d)
{
    struct server *sv = d->sv;
    stop(d);
    forget(d);
    server_dialed(sv, NULL);
}

void dial_abort(struct server *sv, const struct err *err)
{
    struct dial *d = sv->dial;
    CHECK(d != NULL);
    struct err said = *err;
    said.stage = d->stage;
    end(d, &said);
}

/* ---- addresses ---- */

static void try_address(struct dial *d)
{
    struct server *sv = d->sv;
    union address a = d->found->v[sv->turn % d->found->n];
    bool v6 = a.any.sa_family == AF_INET6;
    sv->place.at = a;
    if (v6)
        a.v6.sin6_port = htons(sv->endpoint->port);
    else
        a.v4.sin_port = htons(sv->endpoint->port);
    d->addr_n = v6 ? sizeof a.v6 : sizeof a.v4;
    memcpy(&d->addr, &a, d->addr_n);
    d->tried++;
    if (getnameinfo(&a.any, d->addr_n, d->host, sizeof d->host, NULL, 0, NI_NUMERICHOST)) {
        dial_fail(d, CAUSE_DIAL_FAILED, STAGE_RESOLVE, 0, "the name has an odd address");
        return;
    }
    d->stage = STAGE_CONNECT;
    d->ops->start(d);
}

void dial_refused(struct dial *d, int sys)
{
    bool local = sys == EMFILE || sys == ENFILE || sys == ENOMEM || sys == ENOBUFS;
    if (local || !d->found || d->tried >= d->found->n) {
        dial_fail(d, local ? CAUSE_INTERNAL : CAUSE_DIAL_FAILED, STAGE_CONNECT, sys,
                  "cannot connect: %s", strerror(sys));
        return;
    }
    stop(d);
    io_close(&d->sv->io);
    d->sv->turn++;
    try_address(d);
}

static void resolved(struct dial *d, struct addresses *found, int failed)
{
    d->found = found;
    if (found)
        try_address(d);
    else
        dial_fail(d, failed == UV_ENOMEM ? CAUSE_INTERNAL : CAUSE_DIAL_FAILED, STAGE_RESOLVE, 0,
                  "cannot resolve the name: %s", uv_strerror(failed));
}

static void on_named(struct name_wait *w, struct name *name, struct addresses *found, int failed)
{
    struct dial *d = OWNER(w, struct dial, wait);
    if (found) {
        snapshot_take(&found->snap);
        name_place(&d->sv->place, name);
    }
    resolved(d, found, failed);
}

/* Asks nobody: it must not stand in a queue behind names that do. */
static void resolve_literal(struct dial *d)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *list = NULL;
    struct addresses *found = NULL;
    int failed = UV_EAI_NONAME;
    if (getaddrinfo(d->sv->endpoint->host, NULL, &hints, &list) == 0) {
        found = addresses_of(list);
        failed = UV_ENOMEM;
        freeaddrinfo(list);
    }
    resolved(d, found, failed);
}

static void resolve(struct dial *d)
{
    struct server *sv = d->sv;
    d->stage = STAGE_RESOLVE;
    if (sv->endpoint->literal) {
        resolve_literal(d);
        return;
    }
    d->wait.done = on_named;
    name_get(sv->ledger->dialer, sv->endpoint->host, sv->conf->dns_ttl_ms, sv->anew, &d->wait);
}

static void start_unix(struct dial *d)
{
    const char *path = d->sv->endpoint->unix_path;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    d->stage = STAGE_CONNECT;
    if (strlen(path) >= sizeof un.sun_path) {
        dial_refused(d, ENAMETOOLONG);
        return;
    }
    memcpy(un.sun_path, path, strlen(path));
    memcpy(&d->addr, &un, sizeof un);
    d->addr_n = sizeof un;
    d->ops->start(d);
}

void dial_begin(struct server *sv, struct loop *loop, const struct dial_ops *ops)
{
    struct dial *d = calloc(1, ops->size);
    if (!d) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_CONNECT, ENOMEM, "out of memory");
        server_dialed(sv, &err);
        return;
    }
    d->ops = ops;
    d->sv = sv;
    d->loop = loop;
    list_init(&d->wait.node);
    sv->dial = d;
    if (sv->endpoint->unix_path)
        start_unix(d);
    else
        resolve(d);
}

/* ---- TLS ---- */

bool dial_shake_hands(struct dial *d)
{
    struct err why;
    d->stage = STAGE_TLS;
    switch (io_handshake(&d->sv->io, &why)) {
    case IO_HS_AGAIN:
        return false;
    case IO_HS_DONE:
        return true;
    case IO_HS_FAILED:
        break;
    }
    dial_fail(d, why.cause, why.stage, why.sys, "%.120s", why.note);
    return false;
}

static enum tls_verify verify_of(enum endpoint_tls tls)
{
    switch (tls) {
    case ENDPOINT_TLS_VERIFY_FULL:
        return TLS_VERIFY_FULL;
    case ENDPOINT_TLS_VERIFY_CA:
        return TLS_VERIFY_CA;
    case ENDPOINT_TLS_DISABLE:
    case ENDPOINT_TLS_ALLOW:
    case ENDPOINT_TLS_PREFER:
    case ENDPOINT_TLS_REQUIRE:
        break;
    }
    return TLS_VERIFY_NONE;
}

struct tls_ctx *dial_tls_ctx(const struct endpoint_conf *e, struct err *err)
{
    return tls_ctx_client(verify_of(e->tls), e->tls_ca, e->tls_cert, e->tls_key, err);
}
