/* SPDX-License-Identifier: MIT */
#include "admin/access.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "proxy/core/crypto.h"

bool access_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) != 1)
        return false;
    return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

/* "[::1]:9601" -> "::1", "localhost:9601" -> "localhost" */
static struct span without_port(struct span host)
{
    if (host.n && host.p[0] == '[') {
        const uint8_t *end = memchr(host.p, ']', host.n);
        return end ? span_of(host.p + 1, (size_t)(end - host.p) - 1) : host;
    }
    const uint8_t *colon = host.n ? memchr(host.p, ':', host.n) : NULL;
    return colon ? span_of(host.p, (size_t)(colon - host.p)) : host;
}

/* No Host at all comes from an old client, never from a browser. */
static bool is_own_host(const struct access_rule *rule, struct span host)
{
    if (host.n == 0)
        return true;
    struct span name = without_port(host);
    return span_ieq(name, SPAN_LIT("localhost")) || span_eq(name, SPAN_LIT("127.0.0.1")) ||
           span_eq(name, SPAN_LIT("::1")) || (rule->host && span_ieq(name, span_str(rule->host)));
}

/* A page of ours says where it came from: the same host and port. Nobody else's may do anything. */
static bool is_own_origin(struct span origin, struct span host)
{
    const struct span schemes[] = {SPAN_LIT("http://"), SPAN_LIT("https://")};
    if (origin.n == 0)
        return true;
    for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
        struct span scheme = schemes[i];
        if (origin.n > scheme.n && span_ieq(span_of(origin.p, scheme.n), scheme) &&
            span_ieq(span_skip(origin, scheme.n), host))
            return true;
    }
    return false;
}

/* Compares hashes of equal length, so that not even the token's length shows in the time it
   takes. */
static bool is_token(struct span authorization, const char *token)
{
    const struct span scheme = SPAN_LIT("Bearer ");
    if (authorization.n <= scheme.n || !span_ieq(span_of(authorization.p, scheme.n), scheme))
        return false;
    struct span given = span_skip(authorization, scheme.n);
    while (given.n && given.p[0] == ' ')
        given = span_skip(given, 1);
    uint8_t a[CRYPTO_SHA256], b[CRYPTO_SHA256];
    bool good = crypto_sha256(given, a) && crypto_sha256(span_str(token), b) &&
                crypto_equal(span_of(a, sizeof a), span_of(b, sizeof b));
    crypto_wipe(a, sizeof a);
    crypto_wipe(b, sizeof b);
    return good;
}

static unsigned check_loopback(const struct access_rule *rule, const struct access_ask *ask,
                               const char **why)
{
    if (!is_own_host(rule, ask->host)) {
        *why = "the Host field names somebody else: ask localhost or the address itself";
        return 403;
    }
    if (ask->changes && !is_own_origin(ask->origin, ask->host)) {
        *why = "pages of other origins may change nothing here";
        return 403;
    }
    return 0;
}

static unsigned check_outside(const struct access_rule *rule, const struct access_ask *ask,
                              const char **why)
{
    if (!rule->token) {
        *why = "on this address only /live, /ready and /metrics are open: set admin.token_file and "
               "send the token, or use the Unix socket";
        return 403;
    }
    if (is_token(ask->authorization, rule->token))
        return 0;
    *why = "this needs `Authorization: Bearer` with the token of admin.token_file";
    return 401;
}

unsigned access_check(const struct access_rule *rule, const struct access_ask *ask,
                      const char **why)
{
    if (ask->open)
        return 0;
    switch (rule->door) {
    case ACCESS_UNIX:
        return 0;
    case ACCESS_LOOPBACK:
        return check_loopback(rule, ask, why);
    case ACCESS_OUTSIDE:
        return check_outside(rule, ask, why);
    }
    return 403;
}
