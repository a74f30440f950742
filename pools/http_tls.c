/* SPDX-License-Identifier: MIT */
/*
 * TLS towards HTTP upstreams, on the dialer's thread. Reading a bundle of authorities takes longer
 * than the handshake, so the contexts of an identity are made once per configuration and kept in
 * its ledger: a reload reads the files again.
 */
#include <errno.h>
#include <stdlib.h>

#include "pools/dial.h"
#include "pools/http.h"
#include "pools/ledger.h"

struct contexts {
    struct snapshot snap;
    struct snapshot *config; /* what they were made from */
    size_t n;
    struct tls_ctx *ctx[]; /* by endpoint; NULL: could not be made, ask again */
};

static void contexts_free(struct snapshot *snap)
{
    struct contexts *c = OWNER(snap, struct contexts, snap);
    for (size_t i = 0; i < c->n; i++)
        tls_ctx_free(c->ctx[i]);
    snapshot_drop(&c->config);
    free(c);
}

static struct contexts *contexts_new(const struct server *sv)
{
    size_t n = sv->conf->n_endpoints;
    struct contexts *c = calloc(1, sizeof *c + n * sizeof(struct tls_ctx *));
    if (!c)
        return NULL;
    atomic_store(&c->snap.refs, 1);
    c->snap.free = contexts_free;
    c->config = snapshot_take(sv->snap);
    c->n = n;
    struct err unused;
    for (size_t i = 0; i < n; i++)
        if (sv->conf->endpoints[i].tls != ENDPOINT_TLS_DISABLE)
            c->ctx[i] = dial_tls_ctx(&sv->conf->endpoints[i], &unused);
    return c;
}

/* The remembered contexts, made anew if the configuration is another. NULL: no memory. */
static struct contexts *contexts_of(struct server *sv)
{
    struct snapshot *memo = ledger_recall(sv->ledger);
    struct contexts *c = memo ? OWNER(memo, struct contexts, snap) : NULL;
    if (c && c->config == sv->snap)
        return c;
    snapshot_drop(&memo);
    c = contexts_new(sv);
    if (c)
        ledger_remember(sv->ledger, &c->snap);
    return c;
}

struct tls_conn *http_tls_connect(struct server *sv, int fd, struct err *err)
{
    const struct endpoint_conf *e = sv->endpoint;
    struct contexts *c = contexts_of(sv);
    struct tls_ctx *kept = c ? c->ctx[sv->endpoint_at] : NULL;
    struct tls_ctx *fresh = kept ? NULL : dial_tls_ctx(e, err);
    struct tls_conn *tls = NULL;
    if (kept || fresh) {
        tls = tls_connect(kept ? kept : fresh, fd, e->host, "http/1.1");
        if (!tls)
            err_set(err, CAUSE_INTERNAL, STAGE_TLS, ENOMEM, "out of memory");
    }
    tls_ctx_free(fresh); /* the connection holds a reference of its own */
    struct snapshot *memo = c ? &c->snap : NULL;
    snapshot_drop(&memo);
    return tls;
}
