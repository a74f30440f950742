/* SPDX-License-Identifier: MIT */
/*
 * How clients of an address prove who they are: the method the file names, unless it cannot work
 * there; the users when no file names them; the names that others give them.
 */
#include "proxy/conf/conf_private.h"

#include <string.h>

#define MAP_MAX 10000

/* ---- addresses ------------------------------------------------------------------------------- */

/* What an address asks of clients when it asks for something. */
static enum auth_method strong_method(enum front_kind kind)
{
    return kind == FRONT_POSTGRES ? AUTH_SCRAM : kind == FRONT_REDIS ? AUTH_PASSWORD : AUTH_TRUST;
}

static bool method_is_good(struct conf_build *b, struct conf_place at, const struct front_conf *f)
{
    enum auth_method m = f->auth.method, strong = strong_method(f->kind);
    return m == AUTH_AUTO || m == AUTH_TRUST || m == strong || f->kind == FRONT_POSTGRES ||
           conf_error(b, at,
                      "method: a pool of kind %s knows trust and password: write one of them",
                      f->kind_name);
}

/* What a method asks for that an address does not have. */
static bool address_serves(struct conf_build *b, struct conf_place at, const struct front_conf *f,
                           const struct listen_conf *l)
{
    if (l->auth == AUTH_TRUST && strong_method(f->kind) != AUTH_TRUST && !l->loopback)
        return conf_error(b, at,
                          "trust on %s would let everybody in: write method: %s, or listen on "
                          "loopback or a Unix socket",
                          l->label, f->kind == FRONT_POSTGRES ? "scram" : "password");
    if (f->kind != FRONT_POSTGRES)
        return true;
    if (l->auth == AUTH_PASSWORD && !l->loopback && !f->tls.cert)
        return conf_error(b, at,
                          "method: password on %s would send passwords in clear: write tls.cert "
                          "and tls.key, or method: scram",
                          l->label);
    if (l->auth == AUTH_CERT && !f->tls.ca)
        return conf_error(b, at,
                          "method: cert needs the authority of the clients' certificates: write "
                          "tls.ca, tls.cert and tls.key");
    return true;
}

static bool decide_address(struct conf_build *b, struct conf_place at, const struct front_conf *f,
                           struct listen_conf *l)
{
    enum auth_method m = f->auth.method, strong = strong_method(f->kind);
    if (m == AUTH_AUTO)
        m = !l->loopback || f->auth.users_file || f->auth.query ? strong : AUTH_TRUST;
    if ((m == AUTH_PEER && !l->unix_path) || (m == AUTH_CERT && l->unix_path))
        m = strong;
    l->auth = m;
    return address_serves(b, at, f, l);
}

/* The pool's own login, for doors that ask for one when nobody named users. */
static bool own_user(struct conf_build *b, struct conf_place at, const struct listen_conf *l,
                     struct conf_pool *pool)
{
    const struct endpoint_conf *e = pool->pool.endpoints;
    if (pool->pool.n_endpoints == 0)
        return false; /* has been said */
    if (pool->front.login_as == FRONT_LOGIN_CLIENT && l->auth == AUTH_PASSWORD)
        return true; /* the server knows them */
    if (pool->front.login_as == FRONT_LOGIN_CLIENT)
        return conf_error(b, at,
                          "clients on %s must log in, and with login_as: client nobody is named: "
                          "write auth.users_file, or auth.method: password",
                          l->label);
    if (!e->password && l->auth != AUTH_PEER && l->auth != AUTH_CERT)
        return conf_error(b, at,
                          "clients on %s must log in, but the upstream has no password to ask for: "
                          "write auth.users_file, or listen on loopback or a Unix socket",
                          l->label);
    struct user_conf *user = conf_alloc(b->arena, 1, sizeof *user);
    if (!user)
        return conf_no_memory(b);
    *user = (struct user_conf){e->user ? e->user : "default", e->password};
    pool->front.auth.users = user;
    pool->front.auth.n_users = 1;
    return true;
}

/* ---- the name map ---------------------------------------------------------------------------- */

struct map_list {
    struct conf_build *b;
    struct name_map *names;
    size_t n;
};

static bool add_name(struct map_list *l, const struct conf_item *item, const struct conf_node *to)
{
    struct span user;
    if (!conf_scalar(l->b, to, "map", &user))
        return false;
    if (item->key.n == 0 || user.n == 0 || memchr(item->key.p, 0, item->key.n))
        return conf_error(l->b, item->at, "map: a name is empty: write name: user");
    struct name_map *entry = &l->names[l->n++];
    entry->from = conf_keep(l->b->arena, item->key);
    entry->to = conf_keep(l->b->arena, user);
    return entry->from && entry->to ? true : conf_no_memory(l->b);
}

static bool add_names(struct map_list *l, const struct conf_item *item)
{
    bool good = true;
    if (item->value->type == CONF_SCALAR)
        return add_name(l, item, item->value);
    if (item->value->type != CONF_LIST)
        return conf_error(l->b, item->at, "map: write name: user, or name: [user, user]");
    for (const struct conf_item *to = item->value->items; to; to = to->next)
        good = add_name(l, item, to->value) && good;
    return good;
}

static bool read_map(struct conf_build *b, const struct conf_node *node, struct auth_conf *auth)
{
    struct map_list l = {.b = b};
    size_t n = 0;
    bool good = true;
    if (node->type != CONF_MAP)
        return conf_error(b, node->at, "map is a mapping: write map: { name: user }");
    for (const struct conf_item *i = node->items; i; i = i->next)
        n += i->value->type == CONF_LIST ? i->value->n_items : 1;
    if (n > MAP_MAX)
        return conf_error(b, node->at, "map has more than %d names: write fewer", MAP_MAX);
    if (!(l.names = conf_alloc(b->arena, n ? n : 1, sizeof *l.names)))
        return conf_no_memory(b);
    for (const struct conf_item *i = node->items; i; i = i->next)
        good = add_names(&l, i) && good;
    auth->map = l.names;
    auth->n_map = l.n;
    return good;
}

/* `map:` is read here, since no row has its form. */
static bool find_map(struct conf_build *b, const struct conf_node *map, struct front_conf *f)
{
    const struct conf_item *auth = conf_find(map, "auth");
    const struct conf_item *names = auth ? conf_find(auth->value, "map") : NULL;
    if (!names || conf_is_null(names->value))
        return true;
    if (f->kind != FRONT_POSTGRES)
        return conf_error(b, names->at, "map is only for pools of kind postgres: leave it out");
    if (f->auth.method != AUTH_PEER && f->auth.method != AUTH_CERT)
        return conf_error(b, names->at, "map is for method: peer and cert: leave it out");
    return read_map(b, names->value, &f->auth);
}

/* ---- the whole ------------------------------------------------------------------------------- */

bool conf_decide_auth(struct conf_build *b, const struct conf_node *map, struct conf_pool *pool)
{
    struct front_conf *f = &pool->front;
    struct listen_conf *listens = (struct listen_conf *)(uintptr_t)f->listens;
    struct conf_place at = conf_at(map, "auth", "method");
    bool good = method_is_good(b, at, f) && find_map(b, map, f);
    if (good && f->auth.query && f->auth.method == AUTH_PEER && f->auth.n_map == 0)
        return conf_error(b, at,
                          "method: peer with auth.query needs to know whom the system's "
                          "users may be: write map: { name: user }");
    if (f->auth.users_file &&
        !conf_users(b, conf_at(map, "auth", "users_file"), f->auth.users_file, f->kind, &f->auth))
        return false;
    bool decided = good;
    for (size_t i = 0; good && i < f->n_listens; i++) {
        bool known = decide_address(b, at, f, &listens[i]);
        struct conf_place where = {listens[i].line, listens[i].column};
        bool unnamed = !f->auth.query && (f->auth.n_users == 0 || !f->auth.users[0].secret);
        if (known && listens[i].auth != AUTH_TRUST && unnamed)
            known = own_user(b, where, &listens[i], pool);
        decided = decided && known;
    }
    return decided;
}
