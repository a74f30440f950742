/* SPDX-License-Identifier: MIT */
/*
 * Servers of the echo protocol: one exchange at a time, no login, no state to reset. A check is an
 * empty frame, which comes back as it is.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/un.h>

#include "pools/dialer.h"
#include "pools/ledger.h"
#include "tests/echo/echo.h"

/* ---- dialing: a plain connect ---- */

struct echo_dial {
    struct io io;
    struct server *sv;
    struct loop *loop;
};

static void dial_fail(struct echo_dial *d, const struct err *err)
{
    struct server *sv = d->sv;
    struct loop *loop = d->loop;
    struct err copy = *err;
    int fd = io_release(&d->io);
    echo_server_of(sv)->dial = NULL;
    free(d);
    dialer_linger(sv, loop, fd, &copy);
}

static void dial_abort(struct server *sv, const struct err *err)
{
    dial_fail(echo_server_of(sv)->dial, err);
}

static void cannot_connect(struct err *err, const struct server *sv, int why)
{
    err_set(err, CAUSE_DIAL_FAILED, STAGE_CONNECT, why, "%s: %s", sv->endpoint->label,
            strerror(why));
}

static void on_connected(struct io *io)
{
    struct echo_dial *d = OWNER(io, struct echo_dial, io);
    struct server *sv = d->sv;
    int why = io_connect_error(io);
    if (why) {
        struct err err;
        cannot_connect(&err, sv, why);
        dial_fail(d, &err);
        return;
    }
    int fd = io_release(io);
    echo_server_of(sv)->dial = NULL;
    free(d);
    io_tune(fd, (unsigned)sv->conf->tcp.keepalive_ms, (unsigned)sv->conf->tcp.user_timeout_ms);
    io_init(&sv->io, fd, NULL);
    server_dialed(sv, NULL);
}

static void on_early(struct io *io)
{
    (void)io; /* nobody speaks before on_connected(), which asks the socket how it went */
}

static const struct io_ops dial_ops = {.on_readable = on_early, .on_drained = on_connected};

static socklen_t address_of(const struct endpoint_conf *e, struct sockaddr_storage *to)
{
    memset(to, 0, sizeof *to);
    struct sockaddr_un *un = (struct sockaddr_un *)to;
    struct sockaddr_in *in = (struct sockaddr_in *)to;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)to;
    if (e->unix_path) {
        un->sun_family = AF_UNIX;
        if (strlen(e->unix_path) >= sizeof un->sun_path)
            return 0;
        memcpy(un->sun_path, e->unix_path, strlen(e->unix_path));
        return sizeof *un;
    }
    if (inet_pton(AF_INET, e->host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(e->port);
        return sizeof *in;
    }
    if (inet_pton(AF_INET6, e->host, &in6->sin6_addr) != 1)
        return 0;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(e->port);
    return sizeof *in6;
}

static void dial(struct server *sv, struct loop *loop)
{
    struct sockaddr_storage addr;
    struct err err;
    socklen_t len = address_of(sv->endpoint, &addr);
    struct echo_dial *d = calloc(1, sizeof *d);
    if (!len || !d) {
        free(d);
        err_set(&err, CAUSE_DIAL_FAILED, STAGE_RESOLVE, 0, "%s: no memory, or no literal address",
                sv->endpoint->label);
        server_dialed(sv, &err);
        return;
    }
    d->sv = sv;
    d->loop = loop;
    echo_server_of(sv)->dial = d;
    int fd = io_dial((struct sockaddr *)&addr, len);
    io_init(&d->io, fd < 0 ? -1 : fd, NULL);
    if (fd < 0 || !io_attach(&d->io, loop, &dial_ops)) {
        cannot_connect(&err, sv, fd < 0 ? -fd : ENOMEM);
        dial_fail(d, &err);
        return;
    }
    io_pause(&d->io);
    io_await_connect(&d->io);
}

/* ---- on a worker ---- */

static unsigned arrive(struct server *sv)
{
    (void)sv;
    return 1;
}

static enum outcome settle(struct server *sv)
{
    struct echo_server *es = echo_server_of(sv);
    if (sv->io.broken)
        return OUTCOME_DROP_EOF;
    return es->asked || !echo_at_boundary(&es->framer) ? OUTCOME_DROP_DIRTY : OUTCOME_KEEP;
}

static void verify(struct server *sv, const char *statement)
{
    static const uint8_t empty[ECHO_HEAD];
    (void)statement;
    echo_server_of(sv)->asked = true;
    server_send(sv, empty, sizeof empty);
}

static void reset(struct server *sv)
{
    verify(sv, NULL); /* there is nothing to bring back */
}

static bool feed(struct server *sv, struct span bytes, struct err *err)
{
    struct echo_server *es = echo_server_of(sv);
    size_t used;
    if (!es->asked)
        return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_CHECK, 0, "a frame nobody asked for");
    enum echo_step step = echo_walk(&es->framer, bytes, &used, err);
    if (step == ECHO_MORE)
        return true;
    if (step == ECHO_BAD)
        return false;
    if (used != ECHO_HEAD || used < bytes.n)
        return err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_CHECK, 0, "not the frame we sent");
    es->asked = false;
    server_checked(sv, true, OUTCOME_KEEP);
    return true;
}

static void goodbye(struct server *sv)
{
    (void)sv; /* the end-of-file says it */
}

static void fini(struct server *sv)
{
    (void)sv;
}

const struct driver_ops echo_driver = {
    .name = "echo",
    .server_size = sizeof(struct echo_server),
    .dial = dial,
    .dial_abort = dial_abort,
    .arrive = arrive,
    .settle = settle,
    .verify = verify,
    .reset = reset,
    .feed = feed,
    .goodbye = goodbye,
    .fini = fini,
};
