/* SPDX-License-Identifier: MIT */
/* What no key can say alone: bounds of two, files that fit each other, addresses used twice. */
#include "proxy/conf/conf_private.h"

#include <string.h>

#include "proxy/core/tls.h"

/* ---- one pool -------------------------------------------------------------------------------- */

static bool check_size(struct conf_build *b, const struct conf_node *map, const struct size_conf *s)
{
    return s->min <= s->max ||
           conf_error(b, conf_at(map, "size", "min"),
                      "size.min (%u) is larger than size.max (%u): write a smaller min", s->min,
                      s->max);
}

/* Kernels count keepalive in whole seconds; anything finer would be a promise not kept. */
static bool check_tcp(struct conf_build *b, const struct conf_node *map, const struct tcp_conf *tcp)
{
    return tcp->keepalive_ms % 1000 == 0 ||
           conf_error(b, conf_at(map, "tcp", "keepalive"),
                      "keepalive is counted in whole seconds: write 30s");
}

static bool check_return(struct conf_build *b, const struct conf_node *map,
                         const struct conf_pool *pool)
{
    const struct check_conf *check = &pool->pool.check;
    struct conf_place at = conf_at(map, "check", "on_return");
    if (pool->front.kind == FRONT_HTTP && check->on_return != CHECK_FAST)
        return conf_error(b, at, "on_return: http has no session to verify: write fast");
    if (check->on_return == CHECK_STATEMENT && strlen(check->statement) > CHECK_STATEMENT_MAX)
        return conf_error(b, at,
                          "on_return: a statement of %zu bytes, where %d are allowed: "
                          "write a function, and call it",
                          strlen(check->statement), CHECK_STATEMENT_MAX);
    return true;
}

/* Somebody has to log in to the servers. */
bool conf_check_logins(struct conf_build *b, const struct conf_node *map,
                       const struct conf_pool *pool)
{
    const struct front_conf *f = &pool->front;
    if (f->kind != FRONT_POSTGRES || pool->pool.n_endpoints == 0)
        return true;
    const struct endpoint_conf *e = pool->pool.endpoints;
    if (e->user || (f->login_as == FRONT_LOGIN_CLIENT && !f->auth.query))
        return true;
    if (f->auth.query)
        return conf_error(b, conf_at(map, "auth", "query"),
                          "auth.query needs a user of its own: write it in the upstream's URL");
    return conf_error(b, (struct conf_place){e->line, e->column},
                      "the URL has no user: write postgres://user@host/database");
}

/*
 * The files are loaded once here, so that `carpool check` finds what the door would stumble over.
 */
static bool check_tls_files(struct conf_build *b, const struct conf_node *map,
                            const struct tls_conf *tls)
{
    struct err err = {0};
    struct tls_ctx *ctx = tls_ctx_server(tls->cert, tls->key, tls->ca, &err);
    if (!ctx)
        return conf_error(b, conf_at(map, "tls", "cert"), "tls: %s; check cert, key and ca",
                          err.note);
    tls_ctx_free(ctx);
    return true;
}

static bool check_tls(struct conf_build *b, const struct conf_node *map, const struct front_conf *f)
{
    const struct tls_conf *tls = &f->tls;
    struct conf_place at = conf_at(map, "tls", NULL);
    bool tcp = f->n_listens == 0; /* by default */
    if (!tls->cert != !tls->key)
        return conf_error(b, at, "tls.cert and tls.key belong together: write both");
    if (!tls->cert && (tls->ca || tls->required))
        return conf_error(b, at, "tls has no certificate to show: write cert and key");
    for (size_t i = 0; i < f->n_listens; i++)
        tcp = tcp || f->listens[i].host;
    if (tls->cert && !tcp)
        conf_warn(b, at, "tls is for TCP addresses, and the pool listens on none");
    return !tls->cert || check_tls_files(b, map, tls);
}

bool conf_check_pool(struct conf_build *b, const struct conf_node *map,
                     const struct conf_pool *pool)
{
    bool good = check_size(b, map, &pool->pool.size);
    good = check_tcp(b, map, &pool->pool.tcp) && good;
    good = check_return(b, map, pool) && good;
    good = conf_check_logins(b, map, pool) && good;
    return check_tls(b, map, &pool->front) && good;
}

/* ---- addresses ------------------------------------------------------------------------------- */

static bool is_any(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

/* Would the second bind fail? */
static bool collide(const struct listen_conf *a, const struct listen_conf *b)
{
    if (a->unix_path || b->unix_path)
        return a->unix_path && b->unix_path && strcmp(a->unix_path, b->unix_path) == 0;
    bool same_family = !strchr(a->host, ':') == !strchr(b->host, ':');
    return a->port == b->port &&
           (strcmp(a->host, b->host) == 0 || (same_family && (is_any(a->host) || is_any(b->host))));
}

static bool used_before(struct conf_build *b, const struct conf_pool *pool,
                        const struct listen_conf *l)
{
    struct conf_place at = {l->line, l->column};
    for (const struct conf_pool *p = b->pools; p <= pool; p++) {
        for (size_t i = 0; i < p->front.n_listens; i++) {
            const struct listen_conf *other = &p->front.listens[i];
            if (other == l)
                return true;
            if (collide(l, other))
                return conf_error(b, at,
                                  "%s is taken by %s of pool %s in line %u: write another one",
                                  l->label, other->label, p->name ? p->name : "?", other->line);
        }
    }
    return true;
}

static bool used_by_admin(struct conf_build *b, const struct listen_conf *l)
{
    const struct admin_conf *admin = &b->config->admin;
    struct listen_conf http = {.host = admin->host, .port = admin->port};
    struct listen_conf socket = {.unix_path = admin->socket};
    struct conf_place at = {l->line, l->column};
    if (admin->socket && collide(l, &socket))
        return conf_error(b, at, "%s is the admin API's socket: write another path", l->label);
    if (admin->host && collide(l, &http))
        return conf_error(b, at, "%s is taken by admin.http: write another port", l->label);
    return true;
}

bool conf_check_all(struct conf_build *b)
{
    bool good = true;
    for (size_t i = 0; i < b->config->n_pools; i++) {
        const struct front_conf *f = &b->pools[i].front;
        for (size_t j = 0; j < f->n_listens; j++) {
            good = used_before(b, &b->pools[i], &f->listens[j]) && good;
            good = used_by_admin(b, &f->listens[j]) && good;
        }
    }
    return good;
}
