/* SPDX-License-Identifier: MIT */
/*
 * Logging in to Postgres by libpq, on the dialer's thread.
 *
 *   resolve (uv_getaddrinfo; libpq would block) -> PQconnectStart -> poll, PQconnectPoll -> OK
 *
 * libpq never shows the cancel key nor the list of parameters the server reported; PQtrace writes
 * both, so the dial is traced into memory, which is wiped afterwards because it also holds
 * passwords.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libpq-fe.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include "pools/dialer.h"
#include "pools/ledger.h"
#include "pools/postgres.h"
#include "proxy/core/crypto.h"

/* libpq's own word for these, "system", came with version 16 only. */
#define SYSTEM_ROOTS "/etc/ssl/certs/ca-certificates.crt"

struct pg_dial {
    struct pg_server *ps;
    struct loop *loop;
    uv_getaddrinfo_t resolving;
    bool is_resolving;
    bool orphaned; /* aborted while resolving: only the callback is left */
    char hostaddr[INET6_ADDRSTRLEN];
    PGconn *conn;
    struct poller *poller;
    FILE *trace;
    char *trace_text;
    size_t trace_n;
};

/* libpq may close one socket and open another under the same number: watch each step afresh. */
struct poller {
    uv_poll_t poll;
    struct pg_dial *dial;
};

static void on_poller_closed(uv_handle_t *h)
{
    free(h->data);
}

static void unwatch(struct pg_dial *d)
{
    if (!d->poller)
        return;
    d->poller->dial = NULL;
    uv_poll_stop(&d->poller->poll);
    uv_close((uv_handle_t *)&d->poller->poll, on_poller_closed);
    d->poller = NULL;
}

static void end_trace(struct pg_dial *d)
{
    if (!d->trace)
        return;
    if (d->conn)
        PQuntrace(d->conn);
    fclose(d->trace);
    d->trace = NULL;
}

static void dial_free(struct pg_dial *d)
{
    unwatch(d);
    end_trace(d);
    if (d->trace_text)
        crypto_wipe(d->trace_text, d->trace_n);
    free(d->trace_text);
    if (d->is_resolving) {
        d->orphaned = true;
        uv_cancel((uv_req_t *)&d->resolving);
        return;
    }
    free(d);
}

/* Failed: what libpq holds is closed, but the peer's end-of-file is waited for through a
 * duplicate. */
static void fail(struct pg_dial *d, const struct err *err)
{
    struct server *sv = &d->ps->base;
    struct loop *loop = d->loop;
    struct err copy = *err;
    int fd = -1;
    end_trace(d);
    unwatch(d);
    if (d->conn) {
        int sock = PQsocket(d->conn);
        if (sock >= 0)
            fd = dup(sock);
        PQfinish(d->conn);
        d->conn = NULL;
    }
    d->ps->dial = NULL;
    dial_free(d);
    dialer_linger(sv, loop, fd, &copy);
}

void pg_dial_abort(struct server *sv, const struct err *err)
{
    struct pg_dial *d = pg_server_of(sv)->dial;
    CHECK(d != NULL);
    fail(d, err);
}

/* "FATAL:  53300: sorry, too many clients already" and lines that do not matter. */
static void fail_by_message(struct pg_dial *d)
{
    const char *text = PQerrorMessage(d->conn);
    const char *words = text ? text : "";
    const char *at = strstr(words, "FATAL:  ");
    char state[6] = "";
    if (at && strlen(at) > 15 && at[13] == ':') {
        memcpy(state, at + 8, 5);
        words = at + 15;
    }
    /* "connection to server at ..., port 5432 failed: ": the endpoint is named already */
    const char *failed = state[0] ? NULL : strstr(words, " failed: ");
    if (failed)
        words = failed + 9;
    enum cause cause = CAUSE_DIAL_FAILED;
    if (strcmp(state, "53300") == 0)
        cause = CAUSE_UPSTREAM_BUSY;
    else if (strncmp(state, "28", 2) == 0 || strcmp(state, "3D000") == 0)
        cause = CAUSE_UPSTREAM_AUTH;
    else if (strstr(words, "SSL SYSCALL error"))
        cause = CAUSE_DIAL_FAILED; /* cut off: heals, as a wrong certificate does not */
    else if (strstr(words, "certificate") || strstr(words, "SSL"))
        cause = CAUSE_TLS_FAILED;
    int n = (int)strcspn(words, "\n");
    struct err err;
    err_set(&err, cause, state[0] ? STAGE_LOGIN : STAGE_CONNECT, 0, "%s: %.*s%s%s%s",
            d->ps->base.endpoint->label, n > 110 ? 110 : n, words, state[0] ? " (" : "", state,
            state[0] ? ")" : "");
    fail(d, &err);
}

/* ---- what the trace says ---- */

/* B <tab> n <tab> ParameterStatus <tab> "name" "value" */
static bool read_parameter(struct pg_server *ps, const char *line, size_t n)
{
    const char *end = line + n;
    const char *a = memchr(line, '"', n);
    const char *b = a ? memchr(a + 1, '"', (size_t)(end - a - 1)) : NULL;
    if (!b || end - b < 4 || b[2] != '"')
        return false;
    const char *v = b + 3, *last = end;
    while (last > v && last[-1] != '"')
        last--;
    if (last <= v)
        return false;
    return pg_params_set(&ps->params, span_of(a + 1, (size_t)(b - a - 1)),
                         span_of(v, (size_t)(last - 1 - v)));
}

static bool read_trace(struct pg_dial *d)
{
    struct pg_server *ps = d->ps;
    ps->params = pg_params_new();
    if (!ps->params)
        return false;
    for (char *line = d->trace_text, *end; line && *line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        size_t n = end ? (size_t)(end - line) : strlen(line);
        char *what = memmem(line, n, "\tParameterStatus\t", 17);
        if (what && line[0] == 'B' && !read_parameter(ps, what, n - (size_t)(what - line)))
            return false;
        what = memmem(line, n, "\tBackendKeyData\t", 16);
        if (!what || line[0] != 'B')
            continue;
        char *rest;
        ps->pid = (uint32_t)strtol(what + 16, &rest, 10);
        uint32_t key = (uint32_t)strtol(rest, NULL, 10);
        for (int i = 0; i < 4; i++)
            ps->key[i] = (uint8_t)(key >> (24 - 8 * i));
        ps->key_n = 4;
    }
    ps->origin = pg_params_take(ps->params);
    return true;
}

static void logged_in(struct pg_dial *d)
{
    struct pg_server *ps = d->ps;
    struct server *sv = &ps->base;
    struct err err;
    end_trace(d);
    unwatch(d);
    PQsetnonblocking(d->conn, 1);
    int fd = PQsocket(d->conn);
    struct tls_conn *tls = NULL;
    if (PQgetssl(d->conn)) {
        tls = tls_adopt(PQgetssl(d->conn));
        if (!tls)
            goto no_memory;
    }
    if (!read_trace(d))
        goto no_memory;
    ps->addr_n = sizeof ps->addr;
    if (getpeername(fd, (struct sockaddr *)&ps->addr, &ps->addr_n) != 0)
        ps->addr_n = 0;
    io_tune(fd, (unsigned)sv->conf->tcp.keepalive_ms, (unsigned)sv->conf->tcp.user_timeout_ms);
    pg_framer_init(&ps->framer, PG_SIDE_SERVER);
    pg_flow_init(&ps->flow);
    io_init(&sv->io, fd, tls);
    sv->library_fd = true;
    ps->conn = (struct pg_conn *)d->conn;
    d->conn = NULL;
    ps->dial = NULL;
    dial_free(d);
    server_dialed(sv, NULL);
    return;
no_memory:
    tls_conn_free(tls);
    pg_params_drop(&ps->params);
    err_set(&err, CAUSE_INTERNAL, STAGE_LOGIN, ENOMEM, "out of memory");
    fail(d, &err);
}

void pg_conn_free(struct pg_conn *conn)
{
    PQfinish((PGconn *)conn);
}

/* ---- stepping through the login ---- */

static void step(struct pg_dial *d);

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status; /* PQconnectPoll finds out and says it better */
    (void)events;
    struct poller *p = poll->data;
    loop_turn(OWNER(poll->loop, struct loop, uv));
    if (p->dial)
        step(p->dial);
}

static bool watch(struct pg_dial *d, int events)
{
    struct poller *p = calloc(1, sizeof *p);
    if (!p)
        return false;
    if (uv_poll_init(&d->loop->uv, &p->poll, PQsocket(d->conn)) != 0) {
        free(p);
        return false;
    }
    p->poll.data = p;
    p->dial = d;
    d->poller = p;
    return uv_poll_start(&p->poll, events, on_poll) == 0;
}

static void step(struct pg_dial *d)
{
    PostgresPollingStatusType status = PQconnectPoll(d->conn);
    unwatch(d);
    if (status == PGRES_POLLING_OK) {
        logged_in(d);
        return;
    }
    if ((status == PGRES_POLLING_READING && watch(d, UV_READABLE)) ||
        (status == PGRES_POLLING_WRITING && watch(d, UV_WRITABLE)))
        return;
    fail_by_message(d);
}

static const char *sslmode_word(enum endpoint_tls tls)
{
    switch (tls) {
    case ENDPOINT_TLS_DISABLE:
        return "disable";
    case ENDPOINT_TLS_ALLOW:
        return "allow";
    case ENDPOINT_TLS_PREFER:
        return "prefer";
    case ENDPOINT_TLS_REQUIRE:
        return "require";
    case ENDPOINT_TLS_VERIFY_CA:
        return "verify-ca";
    case ENDPOINT_TLS_VERIFY_FULL:
        return "verify-full";
    }
    return "prefer";
}

#define KEYWORDS 24

struct keywords {
    const char *k[KEYWORDS + 1], *v[KEYWORDS + 1];
    int n;
};

static void add(struct keywords *kw, const char *k, const char *v)
{
    if (!v || kw->n >= KEYWORDS)
        return;
    kw->k[kw->n] = k;
    kw->v[kw->n++] = v;
}

/* Starts the login at an address; a Unix socket's directory stands in for the host. */
static void start(struct pg_dial *d)
{
    const struct endpoint_conf *e = d->ps->base.endpoint;
    struct keywords kw = {0};
    char port[8], dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
    snprintf(port, sizeof port, "%u", e->port);
    if (e->unix_path) {
        const char *slash = strrchr(e->unix_path, '/');
        snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - e->unix_path) : 0, e->unix_path);
        add(&kw, "host", dir);
    } else {
        add(&kw, "host", e->host);
        add(&kw, "hostaddr", d->hostaddr);
    }
    add(&kw, "port", port);
    add(&kw, "user", e->user);
    add(&kw, "password", e->password);
    add(&kw, "dbname", e->database);
    add(&kw, "sslmode", sslmode_word(e->tls));
    if (e->tls == ENDPOINT_TLS_VERIFY_CA || e->tls == ENDPOINT_TLS_VERIFY_FULL)
        add(&kw, "sslrootcert", e->tls_ca ? e->tls_ca : SYSTEM_ROOTS);
    add(&kw, "sslcert", e->tls_cert);
    add(&kw, "sslkey", e->tls_key);
    add(&kw, "gssencmode", "disable");
    add(&kw, "passfile", "/dev/null");
    add(&kw, "fallback_application_name", "carpool");
    for (size_t i = 0; i < e->n_options; i++)
        add(&kw, e->options[i].name, e->options[i].value);
    d->conn = PQconnectStartParams(kw.k, kw.v, 0);
    d->trace = open_memstream(&d->trace_text, &d->trace_n);
    struct err err;
    if (!d->conn || !d->trace) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CONNECT, ENOMEM, "out of memory");
        fail(d, &err);
        return;
    }
    if (PQstatus(d->conn) == CONNECTION_BAD) {
        fail_by_message(d);
        return;
    }
    PQsetErrorVerbosity(d->conn, PQERRORS_VERBOSE);
    PQtrace(d->conn, d->trace);
    PQsetTraceFlags(d->conn, PQTRACE_SUPPRESS_TIMESTAMPS);
    if (!watch(d, UV_WRITABLE)) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CONNECT, ENOMEM, "out of memory");
        fail(d, &err);
    }
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct pg_dial *d = req->data;
    loop_turn(d->loop);
    d->is_resolving = false;
    if (d->orphaned) {
        uv_freeaddrinfo(found);
        free(d);
        return;
    }
    struct server *sv = &d->ps->base;
    struct err err;
    if (status != 0 || !found) {
        err_set(&err, CAUSE_DIAL_FAILED, STAGE_RESOLVE, 0, "%s: cannot resolve the name: %s",
                sv->endpoint->label, uv_strerror(status));
        uv_freeaddrinfo(found);
        fail(d, &err);
        return;
    }
    /* One dial, one socket: names with several addresses are walked through dial by dial. */
    unsigned n = 0;
    for (struct addrinfo *a = found; a; a = a->ai_next)
        n++;
    struct addrinfo *pick = found;
    for (unsigned i = sv->turn % n; i > 0; i--)
        pick = pick->ai_next;
    getnameinfo(pick->ai_addr, pick->ai_addrlen, d->hostaddr, sizeof d->hostaddr, NULL, 0,
                NI_NUMERICHOST);
    uv_freeaddrinfo(found);
    start(d);
}

void pg_dial(struct server *sv, struct loop *loop)
{
    struct pg_server *ps = pg_server_of(sv);
    const struct endpoint_conf *e = sv->endpoint;
    struct err err;
    struct pg_dial *d = calloc(1, sizeof *d);
    if (!d) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CONNECT, ENOMEM, "out of memory");
        server_dialed(sv, &err);
        return;
    }
    d->ps = ps;
    d->loop = loop;
    ps->dial = d;
    if (e->unix_path || e->literal) {
        if (e->host)
            snprintf(d->hostaddr, sizeof d->hostaddr, "%s", e->host);
        start(d);
        return;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    d->resolving.data = d;
    d->is_resolving = true;
    if (uv_getaddrinfo(&loop->uv, &d->resolving, on_resolved, e->host, NULL, &hints) != 0) {
        d->is_resolving = false;
        err_set(&err, CAUSE_INTERNAL, STAGE_RESOLVE, 0, "%s: cannot start resolving", e->label);
        fail(d, &err);
    }
}
