/* SPDX-License-Identifier: MIT */
/*
 * Upstream URLs.
 *
 *     postgres://user:password@host:5432/database?sslmode=verify-full
 *     redis://:password@host:6379/0          redis+unix:///run/redis.sock?db=0
 *     https://host                           http+unix://%2Frun%2Fapi.sock
 *
 * The text is cut into parts first and variables are put into the parts afterwards, so that a
 * password from the environment may hold any character. Messages never quote a URL: its password is
 * in it.
 */
#include "proxy/conf/conf_private.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/un.h>

#define IN_PASSWORDS "in a password, write / as %%2F, ? as %%3F, # as %%23, @ as %%40"
#define UNIX_PATH_MAX (sizeof((struct sockaddr_un *)0)->sun_path - 1)

static const struct conf_scheme schemes[] = {
    {"postgres", FRONT_POSTGRES, 5432, false}, {"postgresql", FRONT_POSTGRES, 5432, false},
    {"redis", FRONT_REDIS, 6379, false},       {"rediss", FRONT_REDIS, 6379, true},
    {"redis+unix", FRONT_REDIS, 0, false},     {"http", FRONT_HTTP, 80, false},
    {"https", FRONT_HTTP, 443, true},          {"http+unix", FRONT_HTTP, 0, false},
};

struct url {
    struct conf_build *b;
    struct conf_place at;
    bool vars;
    struct conf_scheme scheme;
    struct span user, password, hostport, path, query; /* raw */
    bool has_user, has_password, has_fragment;
    struct conf_query q; /* decoded */
    struct endpoint_conf *e;
};

/* ---- cutting --------------------------------------------------------------------------------- */

/* Position of the first byte of `set` that is not inside a variable; s.n if there is none. */
static size_t find_any(struct span s, const char *set, bool vars)
{
    size_t i = 0;
    while (i < s.n) {
        size_t var = vars ? conf_var_length(s, i) : 0;
        if (var == 0 && s.p[i] != 0 && strchr(set, s.p[i]))
            return i;
        i += var ? var : 1;
    }
    return s.n;
}

static struct span cut(struct span *s, size_t at)
{
    struct span head = span_of(s->p, at);
    *s = span_skip(*s, at);
    return head;
}

static bool scheme_named(const struct conf_build *b, struct span name, struct conf_scheme *out)
{
    for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
        *out = schemes[i];
        if (span_ieq(name, span_str(schemes[i].name)))
            return true;
    }
    for (size_t i = 0; b->options && i < b->options->n_extra; i++) {
        const struct conf_kind *kind = &b->options->extra[i];
        *out = (struct conf_scheme){kind->name, FRONT_OTHER, kind->upstream_port, false};
        if (span_ieq(name, span_str(kind->name)))
            return true;
    }
    return false;
}

bool conf_scheme_of(const struct conf_build *b, struct span raw, struct conf_scheme *out)
{
    const uint8_t *sep = raw.n ? memmem(raw.p, raw.n, "://", 3) : NULL;
    return sep && scheme_named(b, span_of(raw.p, (size_t)(sep - raw.p)), out);
}

static bool split(struct url *u, struct span raw)
{
    const uint8_t *sep = memmem(raw.p, raw.n, "://", 3); /* the scheme was found by it */
    struct span rest = span_skip(raw, (size_t)(sep - raw.p) + 3);
    struct span authority = cut(&rest, find_any(rest, "/?#", u->vars));
    for (size_t at; (at = find_any(authority, "@", u->vars)) < authority.n;) {
        /* the last @ counts: passwords hold unescaped ones */
        size_t before = u->has_user ? (size_t)(authority.p - u->user.p) : 0;
        const uint8_t *start = u->has_user ? u->user.p : authority.p;
        u->user = span_of(start, before + at);
        u->has_user = true;
        authority = span_skip(authority, at + 1);
    }
    /* A password that ends the authority early must not pass for a host, a port or an option. */
    if (find_any(rest, "@", u->vars) < rest.n)
        return conf_error(u->b, u->at, "an @ stands behind a /, ? or #: " IN_PASSWORDS);
    struct span login = u->user;
    u->user = cut(&login, find_any(login, ":", u->vars));
    u->has_password = login.n > 0;
    u->password = login.n > 0 ? span_skip(login, 1) : login;
    u->hostport = authority;
    u->path = cut(&rest, find_any(rest, "?#", u->vars));
    u->query = cut(&rest, find_any(rest, "#", u->vars));
    u->has_fragment = rest.n > 0;
    return !u->has_fragment ||
           conf_error(u->b, u->at, "a # ends the URL: write %%23 if it is part of the password");
}

/* A raw part, decoded, kept; NULL for an empty one. */
static bool decode(struct url *u, struct span raw, const char **out)
{
    struct span text;
    struct conf_expand how = {.vars = u->vars, .percent = true};
    *out = NULL;
    if (!conf_expand(u->b, u->at, raw, how, &text))
        return false;
    if (text.n > 0 && memchr(text.p, 0, text.n))
        return conf_error(u->b, u->at, "the URL holds a zero byte: write it without");
    if (text.n > 0 && !(*out = conf_keep(u->b->arena, text)))
        return conf_no_memory(u->b);
    return true;
}

/* ---- the query ------------------------------------------------------------------------------- */

static bool read_query(struct url *u)
{
    char quoted[CONF_QUOTE + 8];
    struct span rest = u->query.n > 0 ? span_skip(u->query, 1) : u->query;
    while (rest.n > 0) {
        struct span one = cut(&rest, find_any(rest, "&", u->vars));
        rest = rest.n > 0 ? span_skip(rest, 1) : rest;
        struct span raw_name = cut(&one, find_any(one, "=", u->vars));
        const char *name, *value;
        if (one.n < 2 || raw_name.n == 0)
            return conf_error(u->b, u->at, "an option of the URL has no value: write ?name=value");
        if (u->q.n == CONF_QUERY_MAX)
            return conf_error(u->b, u->at, "the URL has more than %d options: write fewer",
                              CONF_QUERY_MAX);
        if (!decode(u, raw_name, &name) || !decode(u, span_skip(one, 1), &value))
            return false;
        if (conf_query_value(&u->q, name))
            return conf_error(u->b, u->at, "the option %s is in the URL twice: keep one",
                              conf_quote(span_str(name), quoted));
        u->q.pairs[u->q.n++] = (struct conf_pair){name, value ? value : ""};
    }
    return true;
}

/* ---- host and port --------------------------------------------------------------------------- */

static bool read_port(struct url *u, struct span text)
{
    uint64_t port;
    if (!schema_parse_count(text, &port) || port < 1 || port > 65535)
        return conf_error(
            u->b, u->at,
            "the URL's port is no number from 1 to 65535: write one, and " IN_PASSWORDS);
    u->e->port = (uint16_t)port;
    return true;
}

static bool is_literal(const char *host)
{
    struct in6_addr any;
    return inet_pton(AF_INET, host, &any) == 1 || inet_pton(AF_INET6, host, &any) == 1;
}

static bool host_is_good(struct url *u, const char *host)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strspn(host, allowed);
    if (host[n] == ',')
        return conf_error(u->b, u->at, "one URL has one host: write a list of URLs");
    if (host[n] != 0 || n > 253)
        return conf_error(
            u->b, u->at,
            "the URL's host is no name: write letters, digits, dots and dashes, or an "
            "IPv6 address in brackets");
    return true;
}

static bool set_unix(struct url *u, const char *path)
{
    if (u->scheme.kind == FRONT_POSTGRES)
        path = conf_format(u->b->arena, "%s/.s.PGSQL.%u", path, (unsigned)u->e->port);
    if (!path)
        return conf_no_memory(u->b);
    if (path[0] != '/' || strlen(path) > UNIX_PATH_MAX)
        return conf_error(u->b, u->at,
                          "a Unix socket's path starts with / and has at most %zu bytes: write one",
                          UNIX_PATH_MAX);
    u->e->unix_path = path;
    u->e->label = path;
    return true;
}

/* A host as decoded: a name, a literal, or (from the root) the path of a Unix socket. */
static bool set_host(struct url *u, const char *host)
{
    bool unix_scheme = u->scheme.port == 0;
    if (host[0] == '/' && (unix_scheme || u->scheme.kind == FRONT_POSTGRES))
        return set_unix(u, host);
    if (unix_scheme)
        return conf_error(u->b, u->at, "a %s URL names a socket, no host: write %s:///path",
                          u->scheme.name, u->scheme.name);
    if (host[0] == '/')
        return conf_error(u->b, u->at, "a Unix socket needs its own scheme: write %s+unix:///path",
                          u->scheme.name);
    bool literal = is_literal(host);
    if (!literal && !host_is_good(u, host))
        return false;
    bool colons = strchr(host, ':') != NULL;
    u->e->host = host;
    u->e->literal = literal;
    u->e->label =
        conf_format(u->b->arena, colons ? "[%s]:%u" : "%s:%u", host, (unsigned)u->e->port);
    return u->e->label ? true : conf_no_memory(u->b);
}

/* "[::1]:5432" and the like, variables already put in. */
static bool read_bracketed(struct url *u, struct span text, struct span *host)
{
    const uint8_t *end = memchr(text.p, ']', text.n);
    struct span rest = end ? span_of(end + 1, text.n - (size_t)(end + 1 - text.p)) : text;
    char literal[INET6_ADDRSTRLEN] = "";
    struct in6_addr any;
    *host = end ? span_of(text.p + 1, (size_t)(end - text.p) - 1) : text;
    if (host->n < sizeof literal)
        memcpy(literal, host->p, host->n);
    if (!end || inet_pton(AF_INET6, literal, &any) != 1 || (rest.n > 0 && rest.p[0] != ':'))
        return conf_error(u->b, u->at,
                          "the brackets hold no IPv6 address: write one like [::1]:5432");
    return rest.n == 0 || read_port(u, span_skip(rest, 1));
}

static bool read_hostport(struct url *u, const char **host)
{
    struct span text;
    *host = NULL;
    if (!conf_expand(u->b, u->at, u->hostport, (struct conf_expand){.vars = u->vars}, &text))
        return false;
    if (text.n > 0 && text.p[0] == '[') {
        struct span inner;
        if (!read_bracketed(u, text, &inner))
            return false;
        *host = conf_keep(u->b->arena, inner);
        return *host ? true : conf_no_memory(u->b);
    }
    const uint8_t *colon = text.n > 0 ? memchr(text.p, ':', text.n) : NULL;
    if (colon && memrchr(text.p, ':', text.n) != colon && !memchr(text.p, ',', text.n))
        return conf_error(
            u->b, u->at,
            "the URL's host has several colons: write an IPv6 address in brackets, and "
            ": in a user's name as %%3A");
    struct span name = colon ? span_of(text.p, (size_t)(colon - text.p)) : text;
    if (text.n > 0 && memchr(text.p, ',', text.n))
        return host_is_good(u, ",");
    struct span port = colon ? span_skip(text, name.n + 1) : span_of(NULL, 0);
    bool vars = u->vars;
    u->vars = false; /* they are in it already */
    bool good = decode(u, name, host);
    u->vars = vars;
    return good && (!colon || read_port(u, port));
}

/* ---- by kind --------------------------------------------------------------------------------- */

static bool set_login(struct url *u)
{
    return decode(u, u->user, &u->e->user) && decode(u, u->password, &u->e->password);
}

/* The path without its leading slash, decoded; NULL if empty. */
static bool path_name(struct url *u, const char **name)
{
    return decode(u, u->path.n > 0 ? span_skip(u->path, 1) : u->path, name);
}

static const char *first(const char *a, const char *b)
{
    return a ? a : b && *b ? b : NULL;
}

static bool postgres_url(struct url *u)
{
    struct endpoint_conf *e = u->e;
    const char *host, *name;
    if (!set_login(u) || !read_hostport(u, &host) || !path_name(u, &name))
        return false;
    if (conf_query_value(&u->q, "port") && !read_port(u, span_str(conf_query_value(&u->q, "port"))))
        return false;
    host = first(host, conf_query_value(&u->q, "host"));
    e->user = first(e->user, conf_query_value(&u->q, "user"));
    e->password = first(e->password, conf_query_value(&u->q, "password"));
    e->database = first(first(name, conf_query_value(&u->q, "dbname")), e->user);
    if (!host)
        return conf_error(u->b, u->at, "the URL has no host: write postgres://user@host/database");
    if (!e->database)
        e->database = "postgres"; /* nobody said anything */
    return set_host(u, host);
}

static bool set_redis_db(struct url *u, const char *text)
{
    uint64_t db;
    const char *number = first(text, conf_query_value(&u->q, "db"));
    u->e->database = "0";
    if (!number)
        return true;
    if (!schema_parse_count(span_str(number), &db) || db > 1000000)
        return conf_error(u->b, u->at, "the database of Redis is a number: write redis://host/0");
    u->e->database = conf_format(u->b->arena, "%u", (unsigned)db);
    return u->e->database ? true : conf_no_memory(u->b);
}

/* redis+unix:///path, http+unix:///path; the path as a percent-encoded host works too. */
static bool unix_url(struct url *u, bool *path_used)
{
    const char *host, *path;
    if (!read_hostport(u, &host) || !decode(u, u->path, &path))
        return false;
    *path_used = !host;
    if (!host && !path)
        return conf_error(u->b, u->at, "the URL has no socket: write %s:///path", u->scheme.name);
    return set_host(u, host ? host : path);
}

static bool tcp_url(struct url *u)
{
    const char *host;
    if (!read_hostport(u, &host))
        return false;
    if (!host)
        return conf_error(u->b, u->at, "the URL has no host: write %s://host", u->scheme.name);
    return set_host(u, host);
}

static bool redis_url(struct url *u)
{
    bool path_used = false;
    const char *name = NULL;
    if (!set_login(u) || !(u->scheme.port == 0 ? unix_url(u, &path_used) : tcp_url(u)))
        return false;
    return (path_used || path_name(u, &name)) && set_redis_db(u, name);
}

static bool http_url(struct url *u)
{
    bool path_used = false;
    if (u->has_user)
        return conf_error(u->b, u->at,
                          "credentials in an http URL would not be used: leave them to the client");
    if (!(u->scheme.port == 0 ? unix_url(u, &path_used) : tcp_url(u)))
        return false;
    return path_used || u->path.n <= 1 ||
           conf_error(u->b, u->at, "paths are not rewritten: write the URL without one");
}

static bool other_url(struct url *u)
{
    return set_login(u) && tcp_url(u) && path_name(u, &u->e->database);
}

static bool by_kind(struct url *u)
{
    switch (u->scheme.kind) {
    case FRONT_POSTGRES:
        return postgres_url(u);
    case FRONT_REDIS:
        return redis_url(u);
    case FRONT_HTTP:
        return http_url(u);
    case FRONT_OTHER:
        return other_url(u);
    }
    return false;
}

bool conf_unknown_scheme(struct conf_build *b, struct conf_place at, struct span raw)
{
    char quoted[CONF_QUOTE + 8];
    const uint8_t *sep = raw.n ? memmem(raw.p, raw.n, "://", 3) : NULL;
    struct span name = span_of(raw.p, sep ? (size_t)(sep - raw.p) : 0);
    for (size_t i = 0; i < name.n; i++) /* anything else could be a piece of a secret */
        if (name.n > 16 ||
            !strchr("abcdefghijklmnopqrstuvwxyz0123456789+-", ascii_lower(name.p[i])))
            name.n = 0;
    return conf_error(b, at,
                      "%s is no URL of a known kind: write postgres://, redis://, rediss://, "
                      "redis+unix://, http://, https:// or http+unix://",
                      name.n > 0 ? conf_quote(name, quoted) : "this");
}

bool conf_url(struct conf_build *b, struct conf_place at, struct span raw, bool vars,
              enum front_kind kind, const char *kind_name, struct endpoint_conf *out)
{
    struct url u = {.b = b, .at = at, .vars = vars, .e = out};
    if (vars && raw.n > 1 && raw.p[0] == '$') { /* the whole URL is a variable */
        if (!conf_expand(b, at, raw, (struct conf_expand){.vars = true}, &raw))
            return false;
        u.vars = false;
    }
    if (!conf_scheme_of(b, raw, &u.scheme))
        return conf_unknown_scheme(b, at, raw);
    if (!split(&u, raw))
        return false;
    if (u.scheme.kind != kind || (kind == FRONT_OTHER && strcmp(u.scheme.name, kind_name) != 0))
        return conf_error(b, at, "a %s:// URL does not fit a pool of kind %s: change one of them",
                          u.scheme.name, kind_name);
    out->port = u.scheme.port;
    out->priority = 1;
    out->line = at.line;
    out->column = at.column;
    if (!read_query(&u))
        return false;
    bool good = by_kind(&u);
    return conf_url_options(b, at, &u.scheme, &u.q, out) && good;
}
