/* SPDX-License-Identifier: MIT */
/*
 * Where a pool listens: addresses in short and long form, and the ports that are taken when nobody
 * says. Only literals, `localhost` and `*` are addresses, so that nothing has to be resolved.
 */
#include "proxy/conf/conf_private.h"

#include <arpa/inet.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>

#define POOL_LISTENS_MAX 64
#define ALL_LISTENS_MAX 4096
#define HOST_SEPARATORS ", \t\r\n"
#define NOBODY UINT32_MAX /* (uid_t)-1: leave the owner as it is */

/* ---- addresses ------------------------------------------------------------------------------- */

bool conf_is_loopback(const char *literal)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, literal, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, literal, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool no_address(struct conf_build *b, struct conf_place at, struct span text)
{
    char quoted[CONF_QUOTE + 8];
    return conf_error(b, at,
                      "%s is no address: write 127.0.0.1:6432, [::1]:6432, localhost:6432, *:6432 "
                      "or a socket's path",
                      conf_quote(text, quoted));
}

/* One literal in canonical form, or the two that `localhost` and `*` stand for. */
static bool set_hosts(struct conf_build *b, struct conf_place at, struct span host, bool bracketed,
                      struct conf_address *out)
{
    char text[INET6_ADDRSTRLEN] = "", canonical[INET6_ADDRSTRLEN];
    struct in6_addr addr;
    bool local = span_ieq(host, SPAN_LIT("localhost")), all = span_eq(host, SPAN_LIT("*"));
    if (local || all) {
        out->hosts[0] = local ? "127.0.0.1" : "0.0.0.0";
        out->hosts[1] = local ? "::1" : "::";
        out->n = 2;
        return true;
    }
    int family = bracketed || (host.n > 0 && memchr(host.p, ':', host.n)) ? AF_INET6 : AF_INET;
    if (host.n > 0 && host.n < sizeof text)
        memcpy(text, host.p, host.n);
    if (inet_pton(family, text, &addr) != 1)
        return no_address(b, at, host);
    if (family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&addr))
        return conf_error(b, at, "%s is an IPv4 address in IPv6 clothes: write the IPv4 address",
                          text);
    inet_ntop(family, &addr, canonical, sizeof canonical);
    out->hosts[0] = conf_keep(b->arena, span_str(canonical));
    out->n = 1;
    return out->hosts[0] ? true : conf_no_memory(b);
}

bool conf_address(struct conf_build *b, struct conf_place at, struct span text,
                  struct conf_address *out)
{
    char quoted[CONF_QUOTE + 8];
    uint64_t port;
    struct span host = text;
    const uint8_t *colon = text.n > 0 ? memrchr(text.p, ':', text.n) : NULL;
    if (schema_parse_count(text, &port) || (colon && colon == text.p))
        return conf_error(b, at,
                          "%s has no host: write 127.0.0.1:6432 for this machine only, or *:6432",
                          conf_quote(text, quoted));
    if (!colon)
        return no_address(b, at, text);
    host.n = (size_t)(colon - text.p);
    bool bracketed = host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']';
    if (bracketed)
        host = span_of(host.p + 1, host.n - 2);
    else if (memchr(host.p, ':', host.n))
        return conf_error(b, at, "%s has an IPv6 address: write it in brackets, like [::1]:6432",
                          conf_quote(text, quoted));
    if (!schema_parse_count(span_skip(text, (size_t)(colon - text.p) + 1), &port) || port < 1 ||
        port > 65535)
        return conf_error(b, at, "the port of %s is no number from 1 to 65535: write one",
                          conf_quote(text, quoted));
    out->port = (uint16_t)port;
    return set_hosts(b, at, host, bracketed, out);
}

/* ---- one entry ------------------------------------------------------------------------------- */

/*
 * The next entry of the pool's list, NULL after an error. The list has room, conf_listens saw to
 * it.
 */
static struct listen_conf *add_listen(struct conf_build *b, struct conf_place at,
                                      struct conf_pool *pool)
{
    if (b->n_listens == ALL_LISTENS_MAX) {
        conf_error(b, at, "there are more than %d addresses: write fewer", ALL_LISTENS_MAX);
        return NULL;
    }
    b->n_listens++;
    struct listen_conf *l = (struct listen_conf *)(uintptr_t)pool->front.listens;
    l += pool->front.n_listens++;
    *l = (struct listen_conf){
        .mode = 0660, .uid = NOBODY, .gid = NOBODY, .line = at.line, .column = at.column};
    return l;
}

static bool add_tcp(struct conf_build *b, struct conf_place at, const char *host, uint16_t port,
                    bool optional, struct conf_pool *pool)
{
    const char *label =
        conf_format(b->arena, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, (unsigned)port);
    struct listen_conf *l = label ? add_listen(b, at, pool) : NULL;
    if (!label)
        return conf_no_memory(b);
    if (!l)
        return false;
    l->label = label;
    l->host = host;
    l->port = port;
    l->optional = optional;
    l->loopback = conf_is_loopback(host);
    return true;
}

static bool add_address(struct conf_build *b, struct conf_place at, struct span text,
                        struct conf_pool *pool)
{
    struct conf_address address;
    if (!conf_address(b, at, text, &address))
        return false;
    for (size_t i = 0; i < address.n; i++)
        if (!add_tcp(b, at, address.hosts[i], address.port, i > 0, pool))
            return false;
    return true;
}

static bool set_mode(struct conf_build *b, struct conf_place at, const char *text, mode_t *mode)
{
    size_t digits = strspn(text, "01234567");
    unsigned v = 0;
    for (size_t i = 0; i < digits; i++)
        v = v * 8 + (unsigned)(text[i] - '0');
    if (digits < 3 || digits > 5 || text[digits] != 0 || v > 0777)
        return conf_error(b, at, "mode: write permissions as octal digits, like \"0660\"");
    *mode = (mode_t)v;
    return true;
}

static bool look_up(const char *name, bool group, uint32_t *id)
{
    uint64_t number;
    const struct passwd *pw = group ? NULL : getpwnam(name);
    const struct group *gr = group ? getgrnam(name) : NULL;
    if (pw || gr)
        *id = pw ? pw->pw_uid : gr->gr_gid;
    else if (schema_parse_count(span_str(name), &number) && number < NOBODY)
        *id = (uint32_t)number;
    else
        return false;
    return true;
}

/* "user", "user:group", ":group"; names or numbers. */
static bool set_owner(struct conf_build *b, struct conf_place at, const char *text,
                      struct listen_conf *l)
{
    char user[129], quoted[CONF_QUOTE + 8];
    const char *colon = strchr(text, ':');
    int n = colon ? (int)(colon - text) : (int)strlen(text);
    uint32_t uid = NOBODY, gid = NOBODY;
    snprintf(user, sizeof user, "%.*s", n, text);
    if (*user && !look_up(user, false, &uid))
        return conf_error(b, at, "owner: this machine has no user %s: write one it has",
                          conf_quote(span_str(user), quoted));
    if (colon && !look_up(colon + 1, true, &gid))
        return conf_error(b, at, "owner: this machine has no group %s: write one it has",
                          conf_quote(span_str(colon + 1), quoted));
    l->uid = uid;
    l->gid = gid;
    return true;
}

static bool add_unix(struct conf_build *b, struct conf_place at, const char *path,
                     const struct conf_listen_item *item, struct conf_pool *pool)
{
    if (path[0] != '/' || strlen(path) > 107)
        return conf_error(
            b, at, "a Unix socket's path starts with / and has at most 107 bytes: write one");
    struct listen_conf *l = add_listen(b, at, pool);
    if (!l)
        return false;
    l->unix_path = l->label = path;
    l->loopback = true;
    return set_mode(b, at, item->mode, &l->mode) &&
           (!item->owner || set_owner(b, at, item->owner, l));
}

static bool add_mapping(struct conf_build *b, const struct conf_node *node, struct conf_pool *pool)
{
    struct conf_listen_item item = {0};
    if (!conf_fill_defaults(b, &conf_listen_table, 1, 0, &item))
        return false;
    bool good = conf_fill(b, node, &conf_listen_table, 1, 0, "listen", &item);
    if (!good && !item.address == !item.unix_path)
        return false; /* what is missing may be what is misspelt */
    if (!item.address == !item.unix_path)
        return conf_error(b, node->at,
                          "an entry of listen has an address or a unix path: write one");
    if (item.unix_path)
        return add_unix(b, node->at, item.unix_path, &item, pool) && good;
    if (conf_find(node, "mode") || conf_find(node, "owner"))
        return conf_error(b, node->at, "mode and owner are for Unix sockets: leave them out");
    return add_address(b, node->at, span_str(item.address), pool) && good;
}

static bool add_entry(struct conf_build *b, const struct conf_node *node, struct conf_pool *pool)
{
    struct span text;
    if (node->type == CONF_MAP)
        return add_mapping(b, node, pool);
    if (!conf_scalar(b, node, "listen", &text))
        return false;
    if (text.n == 0 || text.p[0] != '/')
        return add_address(b, node->at, text, pool);
    const struct conf_listen_item item = {.mode = "0660"};
    const char *path = conf_keep(b->arena, text);
    return path ? add_unix(b, node->at, path, &item, pool) : conf_no_memory(b);
}

/* ---- lists ----------------------------------------------------------------------------------- */

static bool make_room(struct conf_build *b, size_t entries, struct conf_pool *pool)
{
    pool->front.n_listens = 0;
    pool->front.listens = conf_alloc(b->arena, entries * 2, sizeof *pool->front.listens);
    return pool->front.listens ? true : conf_no_memory(b);
}

bool conf_listens(struct conf_build *b, const struct conf_node *node, struct conf_pool *pool)
{
    bool list = node->type == CONF_LIST, good = true;
    size_t n = list ? node->n_items : 1;
    if (n == 0 || n > POOL_LISTENS_MAX)
        return conf_error(b, node->at, "listen has %zu addresses: write 1 to %d", n,
                          POOL_LISTENS_MAX);
    if (!make_room(b, n, pool))
        return false;
    if (!list)
        return add_entry(b, node, pool);
    for (const struct conf_item *item = node->items; item; item = item->next)
        good = add_entry(b, item->value, pool) && good;
    return good;
}

uint16_t conf_local_port(const struct conf_build *b, enum front_kind kind, const char *name)
{
    static const uint16_t ports[] = {
        [FRONT_POSTGRES] = 6432, [FRONT_REDIS] = 6380, [FRONT_HTTP] = 8081};
    for (size_t i = 0; b->options && i < b->options->n_extra; i++)
        if (kind == FRONT_OTHER && strcmp(b->options->extra[i].name, name) == 0)
            return b->options->extra[i].local_port;
    CHECK(kind != FRONT_OTHER);
    return ports[kind];
}

static bool port_is_taken(const struct conf_build *b, uint16_t port)
{
    if (b->config->admin.port == port)
        return true;
    for (size_t i = 0; i < b->config->n_pools; i++)
        for (size_t j = 0; j < b->pools[i].front.n_listens; j++)
            if (b->pools[i].front.listens[j].port == port)
                return true;
    return false;
}

static bool add_default_host(struct conf_build *b, struct conf_place at, struct span host,
                             uint16_t port, struct conf_pool *pool)
{
    struct conf_address address;
    bool bracketed = host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']';
    if (bracketed)
        host = span_of(host.p + 1, host.n - 2);
    if (!set_hosts(b, at, host, bracketed, &address))
        return false;
    for (size_t i = 0; i < address.n; i++)
        if (!add_tcp(b, at, address.hosts[i], port, i > 0, pool))
            return false;
    return true;
}

/* The next host of a list, empty at its end; *rest moves behind it. */
static struct span next_host(const char **rest)
{
    const char *p = *rest + strspn(*rest, HOST_SEPARATORS);
    size_t n = strcspn(p, HOST_SEPARATORS);
    *rest = p + n;
    return span_of(p, n);
}

static size_t count_hosts(const char *hosts)
{
    size_t n = 0;
    while (next_host(&hosts).n > 0)
        n++;
    return n;
}

bool conf_default_listens(struct conf_build *b, struct conf_place at, const char *hosts,
                          struct conf_pool *pool)
{
    uint16_t port = conf_local_port(b, pool->front.kind, pool->front.kind_name);
    size_t n = hosts ? count_hosts(hosts) : 0;
    bool good = true;
    if (n == 0) {
        hosts = "localhost";
        n = 1;
    }
    if (n > POOL_LISTENS_MAX)
        return conf_error(b, at, "there are more than %d addresses: write fewer", POOL_LISTENS_MAX);
    if (pool->front.kind < FRONT_OTHER && b->next_port[pool->front.kind] > port)
        port = b->next_port[pool->front.kind];
    while (port_is_taken(b, port) && port < 65535)
        port++;
    if (pool->front.kind < FRONT_OTHER)
        b->next_port[pool->front.kind] = port;
    if (!make_room(b, n, pool))
        return false;
    for (struct span host; (host = next_host(&hosts)).n > 0;)
        good = add_default_host(b, at, host, port, pool) && good;
    return good;
}
