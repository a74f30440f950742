/* SPDX-License-Identifier: MIT */
/*
 * Where somebody else says who the client is: the kernel on a Unix socket (peer), the authority
 * that signed its certificate (cert). The client need not say a word. A name map turns their names
 * into users; without one both must be the same. The user must be one of the door's in any case.
 */
#include <sys/socket.h>

#include "proxy/core/tls.h"
#include "proxy/front/postgres_auth.h"

static enum pg_auth_step start_peer(struct pg_auth *a, struct pg_out *out, struct err *err)
{
    (void)out;
    struct ucred cred = {0};
    socklen_t n = sizeof cred;
    if (getsockopt(a->io->fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) != 0 || n != sizeof cred ||
        cred.pid == 0) /* not a Unix socket */
        return pg_auth_denied(a, "peer", err);
    if (a->user->mock || !pg_guard_peer(a->guard, cred.uid, a->name))
        return pg_auth_denied(a, "peer", err);
    return PG_AUTH_PROVEN;
}

const struct pg_auth_method pg_auth_peer = {
    .name = "peer",
    .sqlstate = "28000",
    .start = start_peer,
};

static bool is_user(void *arg, struct span name)
{
    const struct pg_auth *a = arg;
    return pg_guard_named(a->guard, name, a->name);
}

static enum pg_auth_step start_cert(struct pg_auth *a, struct pg_out *out, struct err *err)
{
    (void)out;
    if (!a->io->tls) {
        err_set(err, CAUSE_DENIED, STAGE_CLIENT, 0,
                "this door wants a client certificate (sslmode=require, sslcert, sslkey)");
        return PG_AUTH_BAD;
    }
    if (a->user->mock || !tls_peer_is(a->io->tls, is_user, a))
        return pg_auth_denied(a, "certificate", err);
    return PG_AUTH_PROVEN;
}

const struct pg_auth_method pg_auth_cert = {
    .name = "cert",
    .sqlstate = "28000",
    .start = start_cert,
};
