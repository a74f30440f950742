/* SPDX-License-Identifier: MIT */
/*
 * Logging in to Postgres by libpq, on the dialer's thread.
 *
 *   an address (dial.h; libpq would block) -> PQconnectStart -> poll, PQconnectPoll -> role -> OK
 *
 * libpq never shows the cancel key nor the list of parameters the server reported; PQtrace writes
 * both, so the dial is traced into memory, which is wiped afterwards because it also holds
 * passwords.
 */
#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include "pools/dial.h"
#include "pools/dialer.h"
#include "pools/ledger.h"
#include "pools/password_dial.h"
#include "pools/postgres.h"
#include "proxy/core/crypto.h"

/* libpq's own word for these, "system", came with version 16 only. */
#define SYSTEM_ROOTS "/etc/ssl/certs/ca-certificates.crt"

struct pg_dial {
    struct dial base;
    PGconn *conn;
    struct password_wait wait;
    bool waiting; /* for the password's command */
    FILE *trace;
    char *trace_text;
    size_t trace_n;
};

static struct pg_dial *pg_dial_of(struct dial *d)
{
    return OWNER(d, struct pg_dial, base);
}

static void end_trace(struct pg_dial *pd)
{
    if (!pd->trace)
        return;
    if (pd->conn)
        PQuntrace(pd->conn);
    fclose(pd->trace);
    pd->trace = NULL;
}

/* What libpq holds is closed; the peer's end-of-file will be waited for through a duplicate. */
static void stop(struct dial *d)
{
    struct pg_dial *pd = pg_dial_of(d);
    if (pd->waiting)
        password_cancel(&pd->wait);
    pd->waiting = false;
    end_trace(pd);
    if (pd->trace_text)
        crypto_wipe(pd->trace_text, pd->trace_n);
    free(pd->trace_text);
    pd->trace_text = NULL;
    if (!pd->conn)
        return;
    int sock = PQsocket(pd->conn);
    io_init(&d->sv->io, sock >= 0 ? fcntl(sock, F_DUPFD_CLOEXEC, 0) : -1, NULL);
    PQfinish(pd->conn);
    pd->conn = NULL;
}

/* Has this process none left? libpq 17 says nothing at all then. */
static bool lacks_descriptors(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd < 0 && (errno == EMFILE || errno == ENFILE);
}

/* "FATAL:  53300: sorry, too many clients already" and lines that do not matter. */
static void fail_by_message(struct dial *d)
{
    const char *text = PQerrorMessage(pg_dial_of(d)->conn);
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
    if (!*words && lacks_descriptors())
        words = strerror(EMFILE);
    enum cause cause = CAUSE_DIAL_FAILED;
    if (!state[0] && strstr(words, strerror(EMFILE)))
        cause = CAUSE_INTERNAL; /* of ours there are no descriptors left */
    else if (strcmp(state, "53300") == 0)
        cause = CAUSE_UPSTREAM_BUSY;
    else if (strcmp(state, "57P03") == 0 &&
             (d->sv->conf->target == TARGET_PRIMARY || d->sv->conf->target == TARGET_REPLICA))
        d->sv->unfit = true; /* it starts up, or is a standby that takes no logins: may be soon */
    else if (strcmp(state, "3D000") == 0)
        cause = CAUSE_NO_ROUTE;
    else if (strncmp(state, "28", 2) == 0)
        cause = CAUSE_UPSTREAM_AUTH;
    else if (strcmp(state, "42501") == 0)
        cause = CAUSE_DENIED; /* no right to connect to the database, or to replicate */
    else if (strstr(words, "SSL SYSCALL error") || strstr(words, "unexpected eof") ||
             strstr(words, "closed unexpectedly"))
        cause = CAUSE_DIAL_FAILED; /* cut off: heals, as a wrong certificate does not */
    else if (strstr(words, "certificate") || strstr(words, "SSL"))
        cause = CAUSE_TLS_FAILED;
    if (cause == CAUSE_UPSTREAM_AUTH && d->sv->endpoint->password_command)
        password_refused(d->sv->ledger->dialer, d->sv->endpoint);
    int n = (int)strcspn(words, "\n");
    dial_fail(d, cause, state[0] ? STAGE_LOGIN : STAGE_CONNECT, 0, "%.*s%s%s%s", n > 110 ? 110 : n,
              words, state[0] ? " (" : "", state, state[0] ? ")" : "");
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

static bool read_trace(const struct pg_dial *pd, struct pg_server *ps)
{
    ps->params = pg_params_new();
    if (!ps->params)
        return false;
    for (char *line = pd->trace_text, *end; line && *line; line = end ? end + 1 : NULL) {
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

static void logged_in(struct dial *d)
{
    struct pg_dial *pd = pg_dial_of(d);
    struct server *sv = d->sv;
    struct pg_server *ps = pg_server_of(sv);
    void *ssl = PQgetssl(pd->conn);
    struct tls_conn *tls = ssl ? tls_adopt(ssl, PQsocket(pd->conn)) : NULL;
    end_trace(pd);
    if ((ssl && !tls) || !read_trace(pd, ps)) {
        tls_conn_free(tls);
        pg_params_drop(&ps->params);
        dial_no_memory(d);
        return;
    }
    PQsetnonblocking(pd->conn, 1);
    int fd = PQsocket(pd->conn);
    ps->addr_n = sizeof ps->addr;
    if (getpeername(fd, (struct sockaddr *)&ps->addr, &ps->addr_n) != 0)
        ps->addr_n = 0;
    io_tune(fd, (unsigned)sv->conf->tcp.keepalive_ms, (unsigned)sv->conf->tcp.user_timeout_ms);
    pg_framer_init(&ps->framer, PG_SIDE_SERVER);
    pg_flow_init(&ps->flow);
    io_init(&sv->io, fd, tls);
    sv->library_fd = true;
    ps->conn = (struct pg_conn *)pd->conn;
    pd->conn = NULL;
    dial_well(d);
}

void pg_conn_free(struct pg_conn *conn)
{
    PQfinish((PGconn *)conn);
}

/* ---- primary or standby ---- */

static void cannot_tell(struct dial *d, const char *why)
{
    dial_fail(d, CAUSE_DIAL_FAILED, STAGE_LOGIN, 0, "cannot tell primary from standby: %.*s",
              (int)strcspn(why, "\n"), why);
}

/* The answer to the question for its role, as far as it is there. */
static void take_role(struct dial *d, int fd, int status, int events)
{
    struct pg_dial *pd = pg_dial_of(d);
    (void)fd, (void)status, (void)events;
    if (!PQconsumeInput(pd->conn)) {
        fail_by_message(d);
        return;
    }
    while (!PQisBusy(pd->conn)) {
        PGresult *answer = PQgetResult(pd->conn);
        if (!answer) { /* it is ready for more */
            dial_unwatch(d);
            if (d->sv->role == ROLE_UNKNOWN)
                cannot_tell(d, PQerrorMessage(pd->conn));
            else if (dial_role(d, d->sv->role))
                logged_in(d);
            return;
        }
        if (PQntuples(answer) == 1)
            d->sv->role = *PQgetvalue(answer, 0, 0) == 't' ? ROLE_STANDBY : ROLE_PRIMARY;
        PQclear(answer);
    }
}

/* Reported since version 14; before that, and by poolers in between, it has to be asked for. */
static void learn_role(struct dial *d)
{
    struct pg_dial *pd = pg_dial_of(d);
    const char *standby = PQparameterStatus(pd->conn, "in_hot_standby");
    if (standby) {
        if (dial_role(d, strcmp(standby, "on") == 0 ? ROLE_STANDBY : ROLE_PRIMARY))
            logged_in(d);
        return;
    }
    if (d->sv->conf->target == TARGET_ANY)
        logged_in(d);
    else if (!PQsendQuery(pd->conn, PG_ROLE_QUERY))
        cannot_tell(d, PQerrorMessage(pd->conn));
    else if (!dial_watch(d, PQsocket(pd->conn), UV_READABLE, take_role))
        dial_no_memory(d);
}

/* ---- stepping through the login ---- */

static void step(struct dial *d, int fd, int status, int events);

static void poll_login(struct dial *d)
{
    PGconn *conn = pg_dial_of(d)->conn;
    PostgresPollingStatusType status = PQconnectPoll(conn);
    dial_unwatch(d);
    if (status == PGRES_POLLING_OK) {
        learn_role(d);
        return;
    }
    if ((status == PGRES_POLLING_READING && dial_watch(d, PQsocket(conn), UV_READABLE, step)) ||
        (status == PGRES_POLLING_WRITING && dial_watch(d, PQsocket(conn), UV_WRITABLE, step)))
        return;
    fail_by_message(d);
}

static void step(struct dial *d, int fd, int status, int events)
{
    (void)status; /* PQconnectPoll finds out and says it better */
    (void)events;
    int refused = 0;
    socklen_t n = sizeof refused;
    if (d->stage == STAGE_CONNECT && getsockopt(fd, SOL_SOCKET, SO_ERROR, &refused, &n) == 0 &&
        refused) {
        dial_refused(d, refused);
        return;
    }
    d->stage = STAGE_LOGIN;
    poll_login(d);
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
static void log_in(struct dial *d, const char *password)
{
    struct pg_dial *pd = pg_dial_of(d);
    const struct endpoint_conf *e = d->sv->endpoint;
    struct keywords kw = {0};
    char port[8], dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
    snprintf(port, sizeof port, "%u", e->port);
    if (e->unix_path) {
        const char *slash = strrchr(e->unix_path, '/');
        snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - e->unix_path) : 0, e->unix_path);
        add(&kw, "host", dir);
    } else {
        add(&kw, "host", e->host);
        add(&kw, "hostaddr", d->host);
    }
    add(&kw, "port", port);
    add(&kw, "user", e->user);
    add(&kw, "password", password);
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
    pd->conn = PQconnectStartParams(kw.k, kw.v, 0);
    pd->trace = open_memstream(&pd->trace_text, &pd->trace_n);
    if (!pd->conn || !pd->trace) {
        dial_no_memory(d);
        return;
    }
    if (PQstatus(pd->conn) == CONNECTION_BAD) {
        fail_by_message(d);
        return;
    }
    PQsetErrorVerbosity(pd->conn, PQERRORS_VERBOSE);
    PQtrace(pd->conn, pd->trace);
    PQsetTraceFlags(pd->conn, PQTRACE_SUPPRESS_TIMESTAMPS);
    if (!dial_watch(d, PQsocket(pd->conn), UV_WRITABLE, step))
        dial_no_memory(d);
}

static void on_password(struct password_wait *w, const char *password, const struct err *err)
{
    struct pg_dial *pd = OWNER(w, struct pg_dial, wait);
    pd->waiting = false;
    if (err) {
        dial_fail(&pd->base, err->cause, err->stage, err->sys, "%.150s", err->note);
        return;
    }
    pd->base.stage = STAGE_CONNECT;
    log_in(&pd->base, password);
}

static void start(struct dial *d)
{
    struct pg_dial *pd = pg_dial_of(d);
    const struct endpoint_conf *e = d->sv->endpoint;
    if (!e->password_command) {
        log_in(d, e->password);
        return;
    }
    pd->wait.done = on_password;
    pd->waiting = true;
    d->stage = STAGE_LOGIN;
    const char *password = password_get(d->sv->ledger->dialer, d->sv->snap, e, &pd->wait);
    if (password)
        on_password(&pd->wait, password, NULL);
}

static const struct dial_ops ops = {
    .size = sizeof(struct pg_dial),
    .start = start,
    .stop = stop,
};

void pg_dial(struct server *sv, struct loop *loop)
{
    dial_begin(sv, loop, &ops);
}
