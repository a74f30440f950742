/* SPDX-License-Identifier: MIT */
/*
 * Who may log in, derived once per load on control's thread and never changed: verifiers, so that a
 * login costs a few hashes; user ids of peers, so that no worker asks the system for names.
 */
#include <pwd.h>
#include <stdlib.h>

#include "pools/pool_conf.h"
#include "proxy/core/schema.h"
#include "proxy/front/postgres_auth.h"

/* Which process may be which user. */
struct peer {
    uid_t uid;
    const char *user;
};

struct pg_guard {
    uint8_t secret[CRYPTO_SHA256]; /* what salts are made of */
    const char *database, *pool;
    const struct auth_conf *auth;
    bool wants_md5, wants_scram; /* some door needs these of passwords */
    bool has_md5;                /* a door that asks for md5 would do so with somebody */
    struct peer *peers;
    size_t n_peers;
    size_t n;
    struct pg_user users[]; /* sorted by name */
};

/* ---- secrets ---- */

static enum pg_secret secret_kind(struct span secret)
{
    struct scram_verifier v;
    if (secret.n == 0)
        return PG_SECRET_NONE;
    if (scram_verifier_parse(&v, secret))
        return PG_SECRET_SCRAM;
    if (secret.n != 3 + CRYPTO_MD5_HEX || memcmp(secret.p, "md5", 3) != 0)
        return PG_SECRET_PLAIN;
    for (size_t i = 3; i < secret.n; i++)
        if (!(secret.p[i] >= '0' && secret.p[i] <= '9') &&
            !(secret.p[i] >= 'a' && secret.p[i] <= 'f'))
            return PG_SECRET_PLAIN;
    return PG_SECRET_MD5;
}

static bool derive_md5(struct pg_user *u, struct span name, struct span secret)
{
    uint8_t both[4096 + 128]; /* bounds of the schema */
    if (secret.n + name.n > sizeof both)
        return false;
    memcpy(both, secret.p, secret.n);
    memcpy(both + secret.n, name.p, name.n);
    bool ok = crypto_md5_hex(span_of(both, secret.n + name.n), u->md5);
    crypto_wipe(both, sizeof both);
    return ok;
}

/* The salt of a known user is made as an unknown one's is: neither changes, or says which it is. */
static bool derive_scram(const struct pg_guard *g, struct pg_user *u, struct span name,
                         struct span secret)
{
    struct scram_verifier mock;
    return scram_verifier_mock(&mock, span_of(g->secret, sizeof g->secret), name) &&
           scram_verifier_derive(&u->verifier, secret, span_of(mock.salt, mock.salt_n),
                                 SCRAM_ITERATIONS);
}

/*
 * Verifiers that a file or the database holds keep their salts for good, so all salts must outlive
 * reloads, restarts and differ between pools: they hang on the pool's own password.
 */
static bool make_secret(struct pg_guard *g, const struct pool_conf *pool)
{
    const char *password = pool->endpoints[0].password;
    struct span name = span_str(pool->name);
    if (!password)
        return crypto_random(g->secret, sizeof g->secret);
    return crypto_hmac_sha256(span_str(password), SPAN_LIT("carpool: salts of logins"),
                              g->secret) &&
           crypto_hmac_sha256(span_of(g->secret, sizeof g->secret), name, g->secret);
}

static bool make_user(const struct pg_guard *g, struct span name, struct span secret, bool derive,
                      struct pg_user *u)
{
    *u = (struct pg_user){.secret = secret_kind(secret)};
    switch (u->secret) {
    case PG_SECRET_SCRAM:
        return scram_verifier_parse(&u->verifier, secret);
    case PG_SECRET_PLAIN:
        if (g->wants_md5 && !derive_md5(u, name, secret))
            return false;
        if (g->wants_scram && derive)
            return derive_scram(g, u, name, secret);
        break;
    case PG_SECRET_MD5:
        memcpy(u->md5, secret.p + 3, CRYPTO_MD5_HEX);
        break;
    case PG_SECRET_NONE:
        break;
    }
    return scram_verifier_mock(&u->verifier, span_of(g->secret, sizeof g->secret), name);
}

bool pg_guard_make(const struct pg_guard *g, struct span name, struct span secret,
                   struct pg_user *out)
{
    return make_user(g, name, secret, false, out);
}

static bool make_users(struct pg_guard *g, struct err *err)
{
    for (size_t i = 0; i < g->auth->n_users; i++) {
        const struct user_conf *u = &g->auth->users[i];
        if (!make_user(g, span_str(u->name), span_str(u->secret), true, &g->users[i]))
            return err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0,
                           "user %.64s: what a login needs cannot be derived from the secret",
                           u->name);
        g->users[i].name = u->name;
        g->n++;
        g->has_md5 = g->has_md5 || g->users[i].md5[0];
    }
    return true;
}

const struct pg_user *pg_guard_user(const struct pg_guard *g, struct span name)
{
    size_t lo = 0, hi = g->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        struct span other = span_str(g->users[mid].name);
        size_t n = other.n < name.n ? other.n : name.n;
        int order = n ? memcmp(other.p, name.p, n) : 0;
        if (order == 0 && other.n == name.n)
            return &g->users[mid];
        if (order < 0 || (order == 0 && other.n < name.n))
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

struct span pg_guard_password(const struct pg_guard *g, struct span name)
{
    const struct pg_user *u = pg_guard_user(g, name);
    if (!u || u->secret != PG_SECRET_PLAIN)
        return span_of(NULL, 0);
    return span_str(g->auth->users[u - g->users].secret);
}

bool pg_guard_mock(const struct pg_guard *g, struct span name, struct pg_user *out)
{
    uint8_t inner[CRYPTO_SHA256];
    *out = (struct pg_user){.secret = g->has_md5 ? PG_SECRET_MD5 : PG_SECRET_SCRAM, .mock = true};
    return crypto_random(inner, sizeof inner) &&
           (!g->wants_md5 || crypto_md5_hex(span_of(inner, sizeof inner), out->md5)) &&
           scram_verifier_mock(&out->verifier, span_of(g->secret, sizeof g->secret), name);
}

/* ---- those whom others name ---- */

static bool same(const char *text, struct span s)
{
    return span_eq(span_str(text), s);
}

/* The system's user of that name, or the number it is written as. */
static bool look_up(const char *name, uid_t *uid)
{
    uint64_t number;
    const struct passwd *pw = getpwnam(name);
    if (!pw && (!schema_parse_count(span_str(name), &number) || number >= UINT32_MAX))
        return false;
    *uid = pw ? pw->pw_uid : (uid_t)number;
    return true;
}

/* Users the system does not have are nobody's: they may appear by the next load. */
static bool make_peers(struct pg_guard *g)
{
    const struct auth_conf *auth = g->auth;
    size_t n = auth->n_map ? auth->n_map : auth->n_users;
    g->peers = calloc(n ? n : 1, sizeof *g->peers);
    for (size_t i = 0; g->peers && i < n; i++) {
        const char *from = auth->n_map ? auth->map[i].from : auth->users[i].name;
        const char *to = auth->n_map ? auth->map[i].to : auth->users[i].name;
        uid_t uid;
        if (look_up(from, &uid))
            g->peers[g->n_peers++] = (struct peer){uid, to};
    }
    return g->peers != NULL;
}

bool pg_guard_peer(const struct pg_guard *g, uid_t uid, struct span user)
{
    for (size_t i = 0; i < g->n_peers; i++)
        if (g->peers[i].uid == uid && same(g->peers[i].user, user))
            return true;
    return false;
}

bool pg_guard_named(const struct pg_guard *g, struct span name, struct span user)
{
    for (size_t i = 0; i < g->auth->n_map; i++)
        if (same(g->auth->map[i].from, name) && same(g->auth->map[i].to, user))
            return true;
    return g->auth->n_map == 0 && span_eq(name, user);
}

/* ---- the whole ---- */

void *pg_guard_new(const struct front_conf *front, const struct pool_conf *pool, struct err *err)
{
    size_t n = front->auth.n_users;
    struct pg_guard *g = calloc(1, sizeof *g + n * sizeof g->users[0]);
    if (!g || !make_secret(g, pool)) {
        free(g);
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0, "no memory or no random bytes");
        return NULL;
    }
    g->database = pool->endpoints[0].database;
    g->pool = pool->name;
    g->auth = &front->auth;
    bool peers = false;
    for (size_t i = 0; i < front->n_listens; i++) {
        enum auth_method m = front->listens[i].auth;
        g->wants_md5 = g->wants_md5 || m == AUTH_MD5;
        g->wants_scram = g->wants_scram || m == AUTH_SCRAM || m == AUTH_PASSWORD;
        peers = peers || m == AUTH_PEER;
    }
    if (!make_users(g, err)) {
        pg_guard_free(g);
        return NULL;
    }
    if (peers && !make_peers(g)) {
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0, "out of memory");
        pg_guard_free(g);
        return NULL;
    }
    return g;
}

void pg_guard_free(void *guard)
{
    struct pg_guard *g = guard;
    free(g->peers);
    crypto_wipe(g, sizeof *g + g->n * sizeof g->users[0]);
    free(g);
}

bool pg_guard_serves(const struct pg_guard *g, struct span database)
{
    return same(g->database, database) || same(g->pool, database);
}

const char *pg_guard_database(const struct pg_guard *g)
{
    return g->database;
}
