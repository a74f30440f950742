/* SPDX-License-Identifier: MIT */
/*
 * From accept to the first ReadyForQuery. Traps 14, 15 and 17 of the protocol: bounds before
 * memory, nothing in clear between SSLRequest and TLS, unknown users cost what known ones cost.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "pools/ledger.h"
#include "proxy/core/crypto.h"
#include "proxy/front/postgres.h"
#include "proxy/wire/postgres_read.h"

/* ---- who may log in, derived once per load ---- */

struct guard_user {
    const char *name;
    struct scram_verifier verifier;
};

struct guard {
    uint8_t secret[32]; /* for mock verifiers of unknown users */
    const char *database, *pool;
    size_t n;
    struct guard_user users[];
};

void *pg_guard_new(const struct front_conf *front, const struct pool_conf *pool, struct err *err)
{
    size_t n = front->auth.n_users;
    struct guard *g = calloc(1, sizeof *g + n * sizeof g->users[0]);
    if (!g || !crypto_random(g->secret, sizeof g->secret)) {
        free(g);
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0, "no memory or no random bytes");
        return NULL;
    }
    g->database = pool->endpoints[0].database;
    g->pool = pool->name;
    g->n = n;
    for (size_t i = 0; i < n; i++) {
        const struct user_conf *u = &front->auth.users[i];
        struct guard_user *to = &g->users[i];
        uint8_t salt[SCRAM_SALT];
        to->name = u->name;
        if (scram_verifier_parse(&to->verifier, span_str(u->secret)))
            continue;
        if (!crypto_random(salt, sizeof salt) ||
            !scram_verifier_derive(&to->verifier, span_str(u->secret), span_of(salt, sizeof salt),
                                   SCRAM_ITERATIONS)) {
            err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, 0, "user %.64s: no verifier can be derived",
                    u->name);
            free(g);
            return NULL;
        }
    }
    return g;
}

void pg_guard_free(void *guard)
{
    struct guard *g = guard;
    crypto_wipe(g, sizeof *g + g->n * sizeof g->users[0]);
    free(g);
}

static const struct scram_verifier *find_verifier(struct pg_session *s)
{
    const struct guard *g = s->base.gate->guard;
    struct pg_login *lg = s->login;
    for (size_t i = 0; i < g->n; i++)
        if (span_eq(span_str(g->users[i].name), span_of(lg->user, lg->user_n)))
            return &g->users[i].verifier;
    if (!scram_verifier_mock(&lg->mock, span_of(g->secret, sizeof g->secret),
                             span_of(lg->user, lg->user_n)))
        return NULL;
    return &lg->mock;
}

/* ---- welcome ---- */

void pg_login_free(struct pg_session *s)
{
    if (!s->login)
        return;
    pg_params_drop(&s->login->wants);
    scram_fini(&s->login->scram);
    crypto_wipe(s->login, sizeof *s->login);
    free(s->login);
    s->login = NULL;
}

/* The server's parameters with the client's wishes on top. */
static bool make_params(struct pg_session *s, struct pg_params *welcome)
{
    const struct pg_params *wants = s->login->wants;
    s->params = pg_params_take(welcome);
    for (size_t i = 0; i < pg_params_count(wants); i++) {
        struct span name, value, known;
        pg_params_at(wants, i, &name, &value);
        if (pg_param_reported_only(name))
            continue;
        if (pg_params_get(welcome, name, &known) && pg_param_equivalent(name, value, known))
            continue;
        if (!pg_params_set(&s->params, name, value))
            return false;
    }
    return true;
}

static void welcome(struct pg_session *s, struct pg_params *known)
{
    uint8_t buf[PG_PARAMS_BYTES + 2048];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    struct err err;
    if (!make_params(s, known) || !pg_keys_add(s)) {
        err_set(&err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0, "too many startup parameters");
        pg_refuse(s, &err, NULL);
        return;
    }
    pg_put_auth_ok(&out);
    for (size_t i = 0; i < pg_params_count(s->params); i++) {
        struct span name, value, reported;
        pg_params_at(s->params, i, &name, &value);
        if (pg_params_get(known, name, &reported))
            pg_put_parameter(&out, name, value);
    }
    pg_put_backend_key(&out, s->key_pid, span_of(s->key, sizeof s->key));
    pg_put_ready(&out, PG_TX_IDLE);
    pg_login_free(s);
    pg_say(s, &out);
    if (s->base.closed)
        return;
    pg_framer_init(&s->framer, PG_SIDE_CLIENT);
    pg_become(s, PG_IDLE);
    if (s->base.draining) {
        s->base.gate->ops->drain(&s->base);
        return;
    }
    pg_relay_input(s);
}

static bool recall_welcome(struct pg_session *s)
{
    struct snapshot *memo = ledger_recall(pool_ledger(session_pool(&s->base)));
    if (!memo)
        return false;
    struct pg_params *known = pg_params_of(memo);
    welcome(s, known);
    pg_params_drop(&known);
    return true;
}

/* The first client of all waits for the first server: only a server knows its parameters. */
static void logged_in(struct pg_session *s)
{
    if (recall_welcome(s))
        return;
    pg_become(s, PG_WELCOME);
    switch (pool_lease(session_pool(&s->base), &s->waiter)) {
    case LEASE_GRANTED:
    case LEASE_REFUSED:
        pg_login_lease(s);
        return;
    case LEASE_WAITING:
        return;
    }
}

void pg_login_lease(struct pg_session *s)
{
    if (!s->waiter.server) {
        struct err err = s->waiter.err;
        pg_refuse(s, &err, NULL);
        return;
    }
    pool_give_back(&s->waiter.server);
    if (!recall_welcome(s)) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "no parameters of a server");
        pg_refuse(s, &err, NULL);
    }
}

/* ---- proving who it is ---- */

static void ask_for_proof(struct pg_session *s)
{
    static const char *const mechanisms[] = {"SCRAM-SHA-256"};
    struct pg_login *lg = s->login;
    uint8_t random[SCRAM_NONCE], buf[64];
    const struct scram_verifier *v = find_verifier(s);
    struct err err;
    if (!v || !crypto_random(random, sizeof random) ||
        !scram_init(&lg->scram, v, random, span_of(NULL, 0))) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CLIENT, 0, "cannot begin authentication");
        pg_refuse(s, &err, NULL);
        return;
    }
    pg_framer_init(&s->framer, PG_SIDE_LOGIN);
    pg_become(s, PG_LOGIN);
    struct pg_out out = pg_out_of(buf, sizeof buf);
    pg_put_auth_sasl(&out, mechanisms, 1);
    pg_say(s, &out);
}

static void deny(struct pg_session *s)
{
    struct err err;
    err_set(&err, CAUSE_AUTH_FAILED, STAGE_CLIENT, 0,
            "password authentication failed for user \"%.*s\"", (int)s->login->user_n,
            s->login->user);
    pg_refuse(s, &err, NULL);
}

static enum scram_verdict hear_proof(struct pg_session *s, struct span body, char *reply,
                                     size_t cap, size_t *n, struct err *err)
{
    struct pg_login *lg = s->login;
    if (lg->proof_sent_first)
        return scram_final(&lg->scram, body, reply, cap, n, err);
    struct span mechanism, data;
    bool has_data;
    if (!pg_read_sasl_initial(body, &mechanism, &has_data, &data) || !has_data) {
        err_set(err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "a malformed SASLInitialResponse");
        return SCRAM_BAD;
    }
    lg->proof_sent_first = true;
    return scram_first(&lg->scram, mechanism, data, reply, cap, n, err);
}

static void on_proof(struct pg_session *s, struct span body)
{
    char reply[SCRAM_OUT_MAX];
    uint8_t buf[SCRAM_OUT_MAX + 64];
    size_t n = 0;
    struct err err;
    struct pg_out out = pg_out_of(buf, sizeof buf);
    switch (hear_proof(s, body, reply, sizeof reply, &n, &err)) {
    case SCRAM_GO_ON:
        pg_put_auth_sasl_continue(&out, span_of(reply, n));
        pg_say(s, &out);
        return;
    case SCRAM_PROVEN:
        pg_put_auth_sasl_final(&out, span_of(reply, n));
        pg_say(s, &out);
        logged_in(s);
        return;
    case SCRAM_DENIED:
        deny(s);
        return;
    case SCRAM_BAD:
        pg_refuse(s, &err, NULL);
        return;
    }
}

/* ---- the startup packet ---- */

/* options: "-c name=value --name=value", with backslashes before blanks. */
static bool read_options(struct pg_params **wants, struct span options)
{
    char word[512];
    size_t n = 0;
    bool want_pair = false;
    for (size_t i = 0; i <= options.n; i++) {
        uint8_t c = i < options.n ? options.p[i] : ' ';
        if (c == '\\' && i + 1 < options.n) {
            c = options.p[++i];
        } else if (c == ' ' || c == '\t' || c == '\n') {
            if (n == 0)
                continue;
            word[n] = 0;
            char *pair = want_pair ? word : NULL;
            if (!pair && strncmp(word, "--", 2) == 0)
                pair = word + 2;
            else if (!pair && strncmp(word, "-c", 2) == 0 && n > 2)
                pair = word + 2;
            want_pair = !pair && strcmp(word, "-c") == 0;
            n = 0;
            if (!pair && want_pair)
                continue;
            char *eq = pair ? strchr(pair, '=') : NULL;
            if (!eq || eq == pair)
                return false;
            for (char *p = pair; p < eq; p++)
                if (*p == '-')
                    *p = '_';
            if (!pg_params_set(wants, span_of(pair, (size_t)(eq - pair)), span_str(eq + 1)))
                return false;
            continue;
        }
        if (n + 1 >= sizeof word)
            return false;
        word[n++] = (char)c;
    }
    return !want_pair;
}

static bool read_wants(struct pg_login *lg, const struct pg_startup *st)
{
    static const char *const ours[] = {"user", "database", "options", "replication"};
    lg->wants = pg_params_new();
    if (!lg->wants || (st->options.n && !read_options(&lg->wants, st->options)))
        return false;
    struct span rest = st->params, name, value;
    while (pg_param_next(&rest, &name, &value)) {
        bool skip = pg_param_is_protocol_option(name);
        for (size_t i = 0; i < ARRAY_LEN(ours); i++)
            skip = skip || span_eq(name, span_str(ours[i]));
        if (!skip && !pg_params_set(&lg->wants, name, value))
            return false;
    }
    return true;
}

static bool is_served(struct pg_session *s, struct span database)
{
    const struct guard *g = s->base.gate->guard;
    return span_eq(database, span_str(g->database)) || span_eq(database, span_str(g->pool));
}

static void on_session(struct pg_session *s, const struct pg_startup *st)
{
    struct pg_login *lg = s->login;
    struct err err;
    if (s->base.refusal) {
        err = *s->base.refusal;
        pg_refuse(s, &err, NULL);
        return;
    }
    if (s->base.gate->conf->tls.required && !s->base.io.tls) {
        err_set(&err, CAUSE_DENIED, STAGE_CLIENT, 0, "this door wants TLS (sslmode=require)");
        pg_refuse(s, &err, "28000");
        return;
    }
    if (st->replication != PG_REPLICATION_NO) {
        err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
                "replication connections cannot be pooled: connect to the server itself");
        pg_refuse(s, &err, NULL);
        return;
    }
    if (!is_served(s, st->database)) {
        const struct guard *g = s->base.gate->guard;
        err_set(&err, CAUSE_NO_ROUTE, STAGE_CLIENT, 0,
                "database \"%.*s\" is not served here, only \"%s\"",
                (int)(st->database.n > 63 ? 63 : st->database.n), (const char *)st->database.p,
                g->database);
        pg_refuse(s, &err, NULL);
        return;
    }
    lg->user_n = st->user.n < sizeof lg->user ? st->user.n : sizeof lg->user - 1;
    memcpy(lg->user, st->user.p, lg->user_n);
    if (!read_wants(lg, st)) {
        err_set(&err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0,
                "startup options that cannot be understood");
        pg_refuse(s, &err, NULL);
        return;
    }
    if (st->minor > 0 || st->protocol_options > 0) {
        uint8_t buf[PG_STARTUP_MAX + 64];
        struct pg_out out = pg_out_of(buf, sizeof buf);
        pg_put_negotiate(&out, PG_PROTOCOL_3_0, st->params);
        pg_say(s, &out);
    }
    if (s->base.door->auth == AUTH_TRUST)
        logged_in(s);
    else
        ask_for_proof(s);
}

static void begin_tls(struct pg_session *s)
{
    struct session *b = &s->base;
    struct err err;
    b->io.tls = tls_accept(b->gate->tls, b->io.fd);
    if (!b->io.tls) {
        err_set(&err, CAUSE_INTERNAL, STAGE_TLS, ENOMEM, "out of memory");
        session_close(b, &err);
        return;
    }
    s->login->seen.tls = true;
    pg_become(s, PG_TLS);
    pg_login_readable(s);
}

static void answer_byte(struct pg_session *s, char c)
{
    io_send(&s->base.io, &c, 1);
}

/* One packet; true: look for the next one in what is left. */
static bool on_packet(struct pg_session *s, struct span in, size_t *used)
{
    struct pg_startup st = {0};
    struct err err;
    enum pg_startup_step step = pg_startup_next(&s->login->seen, in, &st, &err);
    *used = st.used;
    switch (step) {
    case PG_STARTUP_WAIT:
        return false;
    case PG_STARTUP_TLS_HELLO:
        err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
                "TLS without SSLRequest is not supported (sslnegotiation=postgres)");
        session_close(&s->base, &err);
        return false;
    case PG_STARTUP_SSL:
        if (!s->base.gate->tls || !s->base.peer) { /* never over Unix sockets, as PostgreSQL */
            answer_byte(s, 'N');
            return true;
        }
        answer_byte(s, 'S');
        begin_tls(s);
        return false;
    case PG_STARTUP_GSSENC:
        answer_byte(s, 'N');
        return true;
    case PG_STARTUP_CANCEL:
        pg_keys_cancel(s->base.route, st.pid, st.key);
        session_close(&s->base, NULL);
        return false;
    case PG_STARTUP_SESSION:
        on_session(s, &st);
        return false;
    case PG_STARTUP_BAD:
        if (!st.silent)
            pg_say_error(s, &err, "FATAL", st.sqlstate);
        session_close(&s->base, &err);
        return false;
    }
    return false;
}

static void handshake(struct pg_session *s)
{
    struct err err;
    switch (io_handshake(&s->base.io, &err)) {
    case IO_HS_AGAIN:
        return;
    case IO_HS_DONE:
        pg_become(s, PG_STARTUP);
        pg_login_readable(s);
        return;
    case IO_HS_FAILED:
        session_close(&s->base, &err);
        return;
    }
}

static void on_login_bytes(struct pg_session *s, struct span in)
{
    struct err err;
    while (!s->base.closed && s->state == PG_LOGIN) {
        struct pg_msg m;
        switch (pg_next(&s->framer, &pg_whole_login, in, &m, &err)) {
        case PG_WAIT:
            if (!pg_carry(session_loop(&s->base), &s->carry, in))
                break;
            return;
        case PG_BAD:
        case PG_BODY:
            pg_refuse(s, &err, NULL);
            return;
        case PG_MESSAGE:
            in = span_skip(in, m.raw.n);
            /* What is behind the last proof waits until somebody may read it. */
            if (in.n && !pg_carry(session_loop(&s->base), &s->carry, in))
                break;
            on_proof(s, m.body);
            return;
        }
        err_set(&err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0, "too much sent before logging in");
        pg_refuse(s, &err, NULL);
        return;
    }
}

void pg_login_readable(struct pg_session *s)
{
    struct session *b = &s->base;
    if (s->state == PG_TLS) {
        handshake(s);
        return;
    }
    struct span in;
    ssize_t n = pg_fill(&b->io, &s->carry, &in);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        struct err err;
        err_set(&err, CAUSE_CLIENT_GONE, STAGE_CLIENT, n < 0 ? (int)-n : 0,
                "the client left before it had logged in");
        /* A health check that connects and leaves is no error. */
        session_close(b, s->state == PG_STARTUP && n == 0 && in.n == 0 ? NULL : &err);
        return;
    }
    size_t used = 0;
    while (!b->closed && s->state == PG_STARTUP && in.n) {
        bool more = on_packet(s, in, &used);
        in = span_skip(in, used);
        if (!more)
            break;
    }
    if (b->closed)
        return;
    if (s->state == PG_LOGIN && in.n) {
        on_login_bytes(s, in);
        return;
    }
    if (in.n && (s->state == PG_STARTUP || s->state == PG_WELCOME || s->state == PG_IDLE) &&
        !pg_carry(session_loop(b), &s->carry, in)) {
        struct err err;
        err_set(&err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0, "too much sent before logging in");
        pg_refuse(s, &err, NULL);
        return;
    }
    if (s->state == PG_IDLE && s->carry.len)
        pg_relay_input(s);
}
