/* SPDX-License-Identifier: MIT */
/* What stands behind the ? of an upstream URL: libpq's names, with one meaning for every kind. */
#include "proxy/conf/conf_private.h"

#include <string.h>

const char *const conf_tls_words[] = {"disable", "allow",     "prefer",
                                      "require", "verify-ca", "verify-full"};

static const char *const tls_options[] = {"sslmode", "sslrootcert", "sslcert", "sslkey"};

/* Query options of libpq that are passed on, and those that carpool has keys of its own for. */
static const struct {
    const char *name, *instead; /* NULL: passed on */
} postgres_options[] = {
    {"application_name", NULL},
    {"fallback_application_name", NULL},
    {"client_encoding", NULL},
    {"options", NULL},
    {"channel_binding", NULL},
    {"sslcrl", NULL},
    {"sslcrldir", NULL},
    {"sslsni", NULL},
    {"ssl_min_protocol_version", NULL},
    {"ssl_max_protocol_version", NULL},
    {"requirepeer", NULL},
    {"connect_timeout", "write timeouts.connect"},
    {"keepalives", "write tcp.keepalive"},
    {"keepalives_idle", "write tcp.keepalive"},
    {"keepalives_interval", "write tcp.keepalive"},
    {"keepalives_count", "write tcp.keepalive"},
    {"tcp_user_timeout", "write tcp.user_timeout"},
    {"target_session_attrs", "list the upstreams with their priorities, and write target: primary"},
    {"load_balance_hosts", "list the upstreams with their priorities"},
    {"hostaddr", "write the address as the host"},
    {"gssencmode", "leave it out: GSS encryption cannot be relayed"},
    {"replication", "leave it out: replication connections cannot be pooled"},
    {"sslpassword", "name a key file without a password as sslkey"},
    {"passfile", "write password_file"},
    {"service", "write the upstream's host, user and database"},
};

const char *conf_query_value(const struct conf_query *q, const char *name)
{
    for (size_t i = 0; i < q->n; i++)
        if (strcmp(q->pairs[i].name, name) == 0)
            return q->pairs[i].value;
    return NULL;
}

static bool is_ours(const struct conf_scheme *scheme, const char *name)
{
    static const char *const postgres[] = {"host", "port", "user", "password", "dbname"};
    for (size_t i = 0; i < ARRAY_LEN(tls_options); i++)
        if (strcmp(name, tls_options[i]) == 0)
            return true;
    for (size_t i = 0; scheme->kind == FRONT_POSTGRES && i < ARRAY_LEN(postgres); i++)
        if (strcmp(name, postgres[i]) == 0)
            return true;
    return scheme->kind == FRONT_REDIS && strcmp(name, "db") == 0;
}

/* Is the option passed on? Says what to do when it cannot be. */
static bool option_is_good(struct conf_build *b, struct conf_place at,
                           const struct conf_scheme *scheme, const char *name)
{
    char quoted[CONF_QUOTE + 8];
    conf_quote(span_str(name), quoted);
    const char *like = NULL;
    for (size_t i = 0; scheme->kind == FRONT_POSTGRES && i < ARRAY_LEN(postgres_options); i++) {
        const char *known = postgres_options[i].name, *instead = postgres_options[i].instead;
        if (strcmp(known, name) == 0)
            return !instead ||
                   conf_error(b, at, "the option %s does not work here: %s", quoted, instead);
        if (!instead && schema_looks_like(span_str(name), span_str(known)))
            like = known;
    }
    for (size_t i = 0; i < ARRAY_LEN(tls_options) && !like; i++)
        like = schema_looks_like(span_str(name), span_str(tls_options[i])) ? tls_options[i] : NULL;
    return conf_error(b, at, "%s:// URLs have no option %s: %s%s%s", scheme->name, quoted,
                      like ? "did you mean " : "leave it out", like ? like : "", like ? "?" : "");
}

static bool keep_options(struct conf_build *b, struct conf_place at,
                         const struct conf_scheme *scheme, const struct conf_query *q,
                         struct endpoint_conf *e)
{
    struct conf_pair *kept = conf_alloc(b->arena, q->n, sizeof *kept);
    size_t n = 0;
    bool good = true;
    if (!kept)
        return conf_no_memory(b);
    for (size_t i = 0; i < q->n; i++) {
        if (is_ours(scheme, q->pairs[i].name))
            continue;
        good = option_is_good(b, at, scheme, q->pairs[i].name) && good;
        kept[n++] = q->pairs[i];
    }
    e->options = n > 0 ? kept : NULL;
    e->n_options = n;
    return good;
}

static bool set_tls_files(struct conf_build *b, struct conf_place at, const struct conf_query *q,
                          struct endpoint_conf *e)
{
    const char *names[] = {"sslrootcert", "sslcert", "sslkey"};
    const char **fields[] = {&e->tls_ca, &e->tls_cert, &e->tls_key};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *path = conf_query_value(q, names[i]);
        if (!path || (i == 0 && strcmp(path, "system") == 0))
            continue;
        if (e->tls == ENDPOINT_TLS_DISABLE)
            return conf_error(b, at,
                              "%s is given, but TLS is not used here: leave it out or use "
                              "TLS",
                              names[i]);
        if (!(*fields[i] = conf_readable(b, at, path)))
            return false;
    }
    return (!e->tls_cert == !e->tls_key) ||
           conf_error(b, at, "sslcert and sslkey belong together: write both");
}

static bool set_tls(struct conf_build *b, struct conf_place at, const struct conf_scheme *scheme,
                    const struct conf_query *q, struct endpoint_conf *e)
{
    bool postgres = scheme->kind == FRONT_POSTGRES;
    const char *mode = conf_query_value(q, "sslmode");
    unsigned tls = scheme->tls ? ENDPOINT_TLS_VERIFY_FULL
                   : postgres  ? ENDPOINT_TLS_PREFER
                               : ENDPOINT_TLS_DISABLE;
    if (mode) {
        for (tls = 0; tls < ARRAY_LEN(conf_tls_words) && strcmp(conf_tls_words[tls], mode) != 0;)
            tls++;
        if (tls == ARRAY_LEN(conf_tls_words))
            return conf_error(b, at,
                              "sslmode is none of disable, allow, prefer, require, "
                              "verify-ca, verify-full: write one of them");
        if (!postgres && !scheme->tls && tls != ENDPOINT_TLS_DISABLE)
            return conf_error(b, at, "%s:// never uses TLS: leave sslmode out, or write %s://",
                              scheme->name, scheme->kind == FRONT_HTTP ? "https" : "rediss");
        if (!postgres && scheme->tls && tls < ENDPOINT_TLS_REQUIRE)
            return conf_error(b, at,
                              "%s:// always uses TLS: write sslmode=require, verify-ca or "
                              "verify-full",
                              scheme->name);
    }
    if (e->unix_path) /* libpq, too, never uses TLS there */
        tls = ENDPOINT_TLS_DISABLE;
    e->tls = (enum endpoint_tls)tls;
    return set_tls_files(b, at, q, e);
}

bool conf_url_options(struct conf_build *b, struct conf_place at, const struct conf_scheme *scheme,
                      const struct conf_query *q, struct endpoint_conf *e)
{
    bool tls = set_tls(b, at, scheme, q, e);
    return keep_options(b, at, scheme, q, e) && tls;
}
