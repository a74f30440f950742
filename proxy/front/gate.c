/* SPDX-License-Identifier: MIT */
/*
 * What clients come in by, made at each load: certificates, verifiers, limits.
 */
#include <errno.h>
#include <stdlib.h>

#include "proxy/front/front.h"

static void gate_free(struct snapshot *snap)
{
    struct gate *g = OWNER(snap, struct gate, snap);
    if (g->ops->guard_free && g->guard)
        g->ops->guard_free(g->guard);
    tls_ctx_free(g->tls);
    snapshot_drop(&g->config);
    free(g);
}

struct gate *gate_new(const struct relay_ops *ops, const struct front_conf *conf,
                      const struct pool_conf *pool, struct snapshot *config, struct err *err)
{
    struct gate *g = calloc(1, sizeof *g);
    if (!g) {
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, ENOMEM, "out of memory");
        return NULL;
    }
    atomic_store(&g->snap.refs, 1);
    g->snap.free = gate_free;
    g->ops = ops;
    g->conf = conf;
    g->config = snapshot_take(config);
    if (conf->tls.cert) {
        g->tls = tls_ctx_server(conf->tls.cert, conf->tls.key, conf->tls.ca, err);
        if (!g->tls)
            goto bad;
        if (ops->alpn)
            tls_ctx_alpn(g->tls, ops->alpn);
        if (ops->tls_record_max)
            tls_ctx_record_max(g->tls, ops->tls_record_max);
    }
    if (ops->guard_new) {
        g->guard = ops->guard_new(conf, pool, err);
        if (!g->guard)
            goto bad;
    }
    return g;
bad:
    gate_drop(&g);
    return NULL;
}

void gate_drop(struct gate **gate)
{
    if (!*gate)
        return;
    struct snapshot *snap = &(*gate)->snap;
    *gate = NULL;
    snapshot_drop(&snap);
}
