/* SPDX-License-Identifier: MIT */
/*
 * From accept to logged in: bytes and states. Traps 14, 15 and 17 of the protocol: bounds before
 * memory, nothing in clear between SSLRequest and TLS, unknown users cost what known ones cost.
 */
#include <errno.h>
#include <stdlib.h>

#include "pools/dialer.h"
#include "pools/ledger.h"
#include "proxy/front/postgres_login.h"

enum { TLS_HANDSHAKE = 0x16 }; /* content type of a ClientHello's record */

bool pg_login_new(struct pg_session *s)
{
    s->login = calloc(1, sizeof *s->login);
    if (!s->login)
        return false;
    list_init(&s->login->seat.node);
    return true;
}

void pg_login_free(struct pg_session *s)
{
    if (!s->login)
        return;
    list_remove(&s->login->seat.node);
    pg_params_drop(&s->login->wants);
    pg_auth_fini(&s->login->auth);
    crypto_wipe(s->login, sizeof *s->login);
    free(s->login);
    s->login = NULL;
}

/* ---- proving who it is ---- */

static uint32_t failures_limit(const struct pg_session *s)
{
    uint32_t n = s->base.route->front->n_workers;
    return (s->base.gate->conf->auth.failures + n - 1) / n;
}

static struct pg_failures **failures_of(const struct pg_session *s)
{
    struct pg_route *r = route_door(s->base.route)->state;
    return &r->failures;
}

void pg_login_failed(struct pg_session *s)
{
    pg_failures_note(failures_of(s), &s->login->origin, failures_limit(s),
                     loop_now(session_loop(&s->base)));
}

static void after_step(struct pg_session *s, enum pg_auth_step step, const struct pg_out *out,
                       const struct err *err)
{
    struct pg_login *lg = s->login;
    switch (step) {
    case PG_AUTH_GO_ON:
        pg_say(s, out);
        return;
    case PG_AUTH_WAIT:
        return;
    case PG_AUTH_PROVEN:
        pg_login_place(s, pg_out_span(out));
        return;
    case PG_AUTH_DENIED:
        pg_login_failed(s);
        pg_refuse(s, err, lg->auth.method->sqlstate);
        return;
    case PG_AUTH_BAD:
        pg_refuse(s, err, NULL);
        return;
    }
}

static void hear_carried(struct pg_session *s);

/* An answer from elsewhere; what the client has sent meanwhile waits in s->carry. */
static void on_answer(struct pg_auth *a, enum pg_auth_step step, const struct pg_out *out,
                      const struct err *err)
{
    struct pg_session *s = OWNER(a, struct pg_login, auth)->session;
    after_step(s, step, out, err);
    if (step == PG_AUTH_GO_ON)
        hear_carried(s);
}

bool pg_login_is_asking(const struct pg_session *s, struct err *err)
{
    return s->state == PG_LOGIN && pg_auth_is_asking(&s->login->auth, err);
}

/* Too many failures from there: not even asked. */
static bool is_tried_out(struct pg_session *s)
{
    uint64_t wait_ms = pg_failures_wait(*failures_of(s), &s->login->origin, failures_limit(s),
                                        loop_now(session_loop(&s->base)));
    struct err err;
    if (!wait_ms)
        return false;
    err_set(&err, CAUSE_RATE_LIMITED, STAGE_CLIENT, 0,
            "too many failed logins from there (auth.failures): try again in %llu s",
            (unsigned long long)(wait_ms + 999) / 1000);
    pg_refuse(s, &err, NULL);
    return true;
}

static struct pg_lookups *lookups_of(const struct pg_session *s)
{
    struct pg_route *r = s->base.route->state;
    const struct auth_conf *auth = &s->base.gate->conf->auth;
    return pg_lookups_get(&r->lookups, session_pool(&s->base), session_loop(&s->base), auth->query,
                          auth->query_ttl_ms);
}

static void ask_for_proof(struct pg_session *s)
{
    struct pg_login *lg = s->login;
    struct session *b = &s->base;
    const struct front_conf *conf = b->gate->conf;
    uint8_t buf[PG_AUTH_OUT];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    struct err err;
    lg->session = s;
    lg->auth = (struct pg_auth){
        .guard = b->gate->guard,
        .io = &b->io,
        .tls = b->gate->tls,
        .near_by = pg_origin_is_near(b->peer),
        .name = span_of(lg->user, lg->user_n),
        .keeps_password = conf->login_as == FRONT_LOGIN_CLIENT,
        .server_judges =
            conf->login_as == FRONT_LOGIN_CLIENT && conf->auth.n_users == 0 && !conf->auth.query,
        .lookups = lookups_of(s),
        .helper = pool_ledger(session_pool(b))->dialer->loop,
        .on_answer = on_answer,
    };
    lg->origin = pg_origin_of(b->peer, b->io.fd, lg->auth.name);
    if (is_tried_out(s))
        return;
    pg_framer_init(&s->framer, PG_SIDE_LOGIN);
    pg_become(s, PG_LOGIN);
    after_step(s, pg_auth_begin(&lg->auth, b->door->auth, &out, &err), &out, &err);
}

static void on_proof(struct pg_session *s, struct span body)
{
    uint8_t buf[PG_AUTH_OUT];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    struct err err;
    after_step(s, pg_auth_hear(&s->login->auth, body, &out, &err), &out, &err);
}

/* ---- packets ---- */

static void negotiate(struct pg_session *s, const struct pg_startup *st)
{
    uint8_t buf[PG_STARTUP_MAX + 64];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    bool newer = st->minor > (PG_PROTOCOL_3_2 & 0xffff);
    uint32_t version = newer ? PG_PROTOCOL_3_2 : PG_PROTOCOL_3_0 | st->minor;
    s->key_n = pg_keys_size(version);
    if (!newer && st->protocol_options == 0)
        return;
    pg_put_negotiate(&out, version, st->params);
    pg_say(s, &out);
}

static void on_session(struct pg_session *s, const struct pg_startup *st)
{
    struct err err;
    const char *sqlstate;
    if (!pg_login_read(s, st, &err, &sqlstate)) {
        pg_refuse(s, &err, sqlstate);
        return;
    }
    negotiate(s, st);
    if (s->base.door->auth == AUTH_TRUST)
        pg_login_place(s, span_of(NULL, 0));
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
        err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0, "this door has no TLS (pools[].tls)");
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
        if (s->login->direct_tls && !tls_alpn_agreed(s->base.io.tls)) {
            err_set(&err, CAUSE_CLIENT_PROTOCOL, STAGE_TLS, 0,
                    "TLS without SSLRequest must name the protocol (ALPN postgresql)");
            session_close(&s->base, &err);
            return;
        }
        pg_become(s, PG_STARTUP);
        pg_login_readable(s);
        return;
    case IO_HS_FAILED:
        session_close(&s->base, &err);
        return;
    }
}

/* ---- bytes ---- */

static bool keep(struct pg_session *s, struct span in)
{
    struct err err;
    if (in.n == 0 || pg_carry(session_loop(&s->base), &s->carry, in))
        return true;
    err_set(&err, CAUSE_TOO_LARGE, STAGE_CLIENT, 0, "too much sent before logging in");
    pg_refuse(s, &err, NULL);
    return false;
}

/* One message at most: what is behind it waits until somebody may read it. */
static void on_login_bytes(struct pg_session *s, struct span in)
{
    struct err err;
    struct pg_msg m;
    if (s->login->auth.waiting) {
        (void)keep(s, in); /* its words, or its name, are being weighed */
        return;
    }
    switch (pg_next(&s->framer, &pg_whole_login, in, &m, &err)) {
    case PG_WAIT:
        (void)keep(s, in);
        return;
    case PG_BAD:
    case PG_BODY:
        pg_refuse(s, &err, NULL);
        return;
    case PG_MESSAGE:
        if (keep(s, span_skip(in, m.raw.n)))
            on_proof(s, m.body);
        return;
    }
}

/* A client may say its password before it is asked: nothing more may come then. */
static void hear_carried(struct pg_session *s)
{
    struct loop *loop = session_loop(&s->base);
    size_t n = s->carry.len;
    if (s->base.closed || n == 0)
        return;
    bufq_peek(&s->carry, loop->scratch, n);
    bufq_clear(&loop->chunks, &s->carry);
    on_login_bytes(s, span_of(loop->scratch, n));
}

/* A ClientHello without SSLRequest: seen before it is read, for OpenSSL is to read it. */
static bool begins_with_tls(const struct pg_session *s)
{
    const struct pg_startup_seen *seen = &s->login->seen;
    uint8_t first;
    return s->base.gate->tls && s->base.peer && !seen->tls && !seen->ssl && !seen->gssenc &&
           !s->carry.len && recv(s->base.io.fd, &first, 1, MSG_PEEK) == 1 && first == TLS_HANDSHAKE;
}

void pg_login_readable(struct pg_session *s)
{
    struct session *b = &s->base;
    if (s->state == PG_TLS) {
        handshake(s);
        return;
    }
    if (s->state == PG_STARTUP && begins_with_tls(s)) {
        s->login->direct_tls = true;
        begin_tls(s);
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
    if ((s->state == PG_STARTUP || s->state == PG_PLACING || s->state == PG_WELCOME ||
         s->state == PG_IDLE) &&
        !keep(s, in))
        return;
    if (s->state == PG_IDLE && s->carry.len)
        pg_relay_input(s);
}
