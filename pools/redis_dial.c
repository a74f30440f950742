/* SPDX-License-Identifier: MIT */
/*
 * Logging in to Redis, on the dialer's thread.
 *
 *   resolve (uv_getaddrinfo) -> connect, address by address -> (TLS) -> AUTH SELECT HELLO PING
 *
 * hiredis would resolve blocking, and its TLS writer and ours cannot share a connection, so it is
 * not given the socket: it writes the login and reads the answers through hooks that use carpool's
 * own io, plain or TLS alike. Nothing of it is left when the dial ends, and no byte can stay behind
 * in it.
 *
 * One dial has one socket at a time. An address that refuses costs the upstream nothing, so the
 * next one of the name is tried in the same dial.
 */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <hiredis/sds.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "pools/dialer.h"
#include "pools/ledger.h"
#include "pools/redis.h"
#include "proxy/core/tls.h"

enum stage { RESOLVING, CONNECTING, HANDSHAKE, LOGIN };

/* The commands of the login, in the order they are sent. */
enum word { WORD_AUTH, WORD_SELECT, WORD_NAME, WORD_HELLO, WORD_PING };

struct redis_dial {
    struct redis_server *rs;
    struct loop *loop;
    uv_getaddrinfo_t resolving;
    enum stage stage;
    bool is_resolving;
    bool orphaned; /* aborted while resolving: only the callback is left */
    struct addrinfo *found, *next;
    struct tls_ctx *tls;
    redisContext *hiredis;
    unsigned answered; /* words of the login */
    unsigned n_words;
    enum word words[5];
};

static void dial_free(struct redis_dial *d)
{
    if (d->hiredis)
        redisFreeKeepFd(d->hiredis); /* the socket is our io's */
    d->hiredis = NULL;
    tls_ctx_free(d->tls);
    d->tls = NULL;
    if (d->found)
        uv_freeaddrinfo(d->found);
    d->found = NULL;
    if (d->is_resolving) {
        d->orphaned = true;
        uv_cancel((uv_req_t *)&d->resolving);
        return;
    }
    free(d);
}

/* The socket may still hold a place among the upstream's clients: its end-of-file is waited for. */
static void fail(struct redis_dial *d, const struct err *err)
{
    struct server *sv = &d->rs->base;
    struct loop *loop = d->loop;
    struct err copy = *err;
    int fd = sv->io.fd >= 0 ? io_release(&sv->io) : -1;
    d->rs->dial = NULL;
    dial_free(d);
    dialer_linger(sv, loop, fd, &copy);
}

void redis_dial_abort(struct server *sv, const struct err *err)
{
    struct redis_dial *d = redis_server_of(sv)->dial;
    CHECK(d != NULL);
    fail(d, err);
}

/* ---- hiredis over our io ---- */

static void hook_close(redisContext *c)
{
    (void)c;
}

static ssize_t hook_read(redisContext *c, char *buf, size_t cap)
{
    struct io *io = c->privdata;
    ssize_t n = io_read(io, buf, cap);
    if (n > 0)
        return n;
    if (n == -EAGAIN)
        return 0;
    c->err = n == 0 ? REDIS_ERR_EOF : REDIS_ERR_IO;
    snprintf(c->errstr, sizeof c->errstr, "%s",
             n == 0 ? "it closed the connection" : strerror((int)-n));
    return -1;
}

/* The io keeps what the peer does not take; a broken one says so when it is read. */
static ssize_t hook_write(redisContext *c)
{
    io_send(c->privdata, c->obuf, sdslen(c->obuf));
    return (ssize_t)sdslen(c->obuf);
}

static const redisContextFuncs hooks = {
    .close = hook_close,
    .read = hook_read,
    .write = hook_write,
};

/* ---- the login ---- */

static void logged_in(struct redis_dial *d)
{
    struct redis_server *rs = d->rs;
    struct server *sv = &rs->base;
    const redisReader *reader = d->hiredis->reader;
    if (reader->len != reader->pos || io_unsent(&sv->io)) {
        struct err err;
        err_set(&err, CAUSE_UPSTREAM_PROTOCOL, STAGE_LOGIN, 0, "%s sent more than it was asked for",
                sv->endpoint->label);
        fail(d, &err);
        return;
    }
    io_detach(&sv->io);
    rs->dial = NULL;
    dial_free(d);
    server_dialed(sv, NULL);
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* What an error during the login means; CAUSE_NONE: nothing that matters. */
static enum cause judge(enum word word, const char *text)
{
    if (starts_with(text, "ERR max number of clients"))
        return CAUSE_UPSTREAM_BUSY;
    if (starts_with(text, "NOAUTH") || starts_with(text, "WRONGPASS") || word == WORD_AUTH)
        return CAUSE_UPSTREAM_AUTH;
    if (starts_with(text, "LOADING") || starts_with(text, "MASTERDOWN") ||
        starts_with(text, "DENIED") || word == WORD_SELECT)
        return CAUSE_DIAL_FAILED;
    /* A user without the right to PING, a server before HELLO, one that cannot save: good
     * enough. */
    return CAUSE_NONE;
}

/* HELLO's reply: name, value, name, value. */
static void note_version(struct redis_server *rs, const redisReply *r)
{
    if (r->type != REDIS_REPLY_ARRAY)
        return;
    for (size_t i = 0; i + 1 < r->elements; i += 2) {
        const redisReply *name = r->element[i], *value = r->element[i + 1];
        if (name->type != REDIS_REPLY_STRING || value->type != REDIS_REPLY_STRING ||
            strcmp(name->str, "version") != 0)
            continue;
        char *dot;
        unsigned long major = strtoul(value->str, &dot, 10);
        unsigned long minor = *dot == '.' ? strtoul(dot + 1, NULL, 10) : 0;
        if (major < 1000 && minor < 100)
            rs->version = (unsigned)(major * 100 + minor);
        return;
    }
}

/* One answer. False: the dial is over. */
static bool on_answer(struct redis_dial *d, const redisReply *r)
{
    enum word word = d->words[d->answered++];
    if (word == WORD_HELLO)
        note_version(d->rs, r);
    if (r->type != REDIS_REPLY_ERROR)
        return true;
    enum cause cause = judge(word, r->str);
    if (cause == CAUSE_NONE)
        return true;
    struct err err;
    err_set(&err, cause, STAGE_LOGIN, 0, "%s: %.120s", d->rs->base.endpoint->label, r->str);
    fail(d, &err);
    return false;
}

static void read_answers(struct redis_dial *d)
{
    redisContext *c = d->hiredis;
    bool well = redisBufferRead(c) == REDIS_OK;
    for (;;) {
        void *reply = NULL;
        if (redisGetReplyFromReader(c, &reply) != REDIS_OK || (!reply && !well)) {
            struct err err;
            err_set(&err,
                    c->err == REDIS_ERR_PROTOCOL ? CAUSE_UPSTREAM_PROTOCOL : CAUSE_DIAL_FAILED,
                    STAGE_LOGIN, 0, "%s: %.100s while logging in", d->rs->base.endpoint->label,
                    c->errstr);
            fail(d, &err);
            return;
        }
        if (!reply)
            return;
        bool on = on_answer(d, reply);
        freeReplyObject(reply);
        if (!on)
            return;
        if (d->answered == d->n_words) {
            logged_in(d);
            return;
        }
    }
}

static void add_word(struct redis_dial *d, enum word word, int argc, const char **argv)
{
    redisAppendCommandArgv(d->hiredis, argc, argv, NULL);
    d->words[d->n_words++] = word;
}

static void no_memory(struct redis_dial *d)
{
    struct err err;
    err_set(&err, CAUSE_INTERNAL, STAGE_LOGIN, ENOMEM, "out of memory");
    fail(d, &err);
}

static void log_in(struct redis_dial *d)
{
    struct server *sv = &d->rs->base;
    const struct endpoint_conf *e = sv->endpoint;
    redisOptions options = {.type = REDIS_CONN_USERFD, .options = REDIS_OPT_NONBLOCK};
    options.endpoint.fd = sv->io.fd;
    d->stage = LOGIN;
    d->hiredis = redisConnectWithOptions(&options);
    if (!d->hiredis || d->hiredis->err) {
        no_memory(d);
        return;
    }
    d->hiredis->funcs = &hooks;
    d->hiredis->privdata = &sv->io;
    if (e->password && e->user)
        add_word(d, WORD_AUTH, 3, (const char *[]){"AUTH", e->user, e->password});
    else if (e->password)
        add_word(d, WORD_AUTH, 2, (const char *[]){"AUTH", e->password});
    if (e->database && strcmp(e->database, "0") != 0)
        add_word(d, WORD_SELECT, 2, (const char *[]){"SELECT", e->database});
    add_word(d, WORD_NAME, 3, (const char *[]){"CLIENT", "SETNAME", "carpool"});
    add_word(d, WORD_HELLO, 2, (const char *[]){"HELLO", "2"});
    add_word(d, WORD_PING, 1, (const char *[]){"PING"});
    int done = 0;
    if (redisBufferWrite(d->hiredis, &done) != REDIS_OK)
        no_memory(d);
}

/* ---- TLS ---- */

static void shake_hands(struct redis_dial *d)
{
    struct server *sv = &d->rs->base;
    struct err err, why;
    switch (io_handshake(&sv->io, &why)) {
    case IO_HS_AGAIN:
        return;
    case IO_HS_DONE:
        log_in(d);
        return;
    case IO_HS_FAILED:
        err_set(&err, why.cause, why.stage, why.sys, "%s: %.120s", sv->endpoint->label, why.note);
        fail(d, &err);
        return;
    }
}

static enum tls_verify verify_of(enum endpoint_tls tls)
{
    switch (tls) {
    case ENDPOINT_TLS_VERIFY_FULL:
        return TLS_VERIFY_FULL;
    case ENDPOINT_TLS_VERIFY_CA:
        return TLS_VERIFY_CA;
    case ENDPOINT_TLS_DISABLE:
    case ENDPOINT_TLS_ALLOW:
    case ENDPOINT_TLS_PREFER:
    case ENDPOINT_TLS_REQUIRE:
        break;
    }
    return TLS_VERIFY_NONE;
}

static void begin_tls(struct redis_dial *d)
{
    struct server *sv = &d->rs->base;
    const struct endpoint_conf *e = sv->endpoint;
    struct err err;
    d->stage = HANDSHAKE;
    d->tls = tls_ctx_client(verify_of(e->tls), e->tls_ca, e->tls_cert, e->tls_key, &err);
    if (!d->tls) {
        fail(d, &err);
        return;
    }
    sv->io.tls = tls_connect(d->tls, sv->io.fd, e->host, NULL);
    if (!sv->io.tls) {
        no_memory(d);
        return;
    }
    shake_hands(d);
}

/* ---- connecting ---- */

static void try_next(struct redis_dial *d, int last_error);

static void on_connected(struct redis_dial *d)
{
    struct server *sv = &d->rs->base;
    int e = io_connect_error(&sv->io);
    if (e) {
        io_close(&sv->io);
        try_next(d, e);
        return;
    }
    io_tune(sv->io.fd, (unsigned)sv->conf->tcp.keepalive_ms,
            (unsigned)sv->conf->tcp.user_timeout_ms);
    if (sv->endpoint->tls == ENDPOINT_TLS_DISABLE)
        log_in(d);
    else
        begin_tls(d);
}

static struct redis_dial *dial_of(struct io *io)
{
    return redis_server_of(OWNER(io, struct server, io))->dial;
}

static void step(struct io *io, bool readable)
{
    struct redis_dial *d = dial_of(io);
    switch (d->stage) {
    case RESOLVING:
        break;
    case CONNECTING:
        if (!readable)
            on_connected(d);
        break;
    case HANDSHAKE:
        shake_hands(d);
        break;
    case LOGIN:
        if (readable)
            read_answers(d);
        break;
    }
}

static void on_readable(struct io *io)
{
    step(io, true);
}

static void on_drained(struct io *io)
{
    step(io, false);
}

static const struct io_ops dial_io_ops = {.on_readable = on_readable, .on_drained = on_drained};

/* True: the socket is on its way; false: the address cannot even be tried, *error says why. */
static bool dial_address(struct redis_dial *d, const struct sockaddr *addr, socklen_t len,
                         int *error)
{
    struct server *sv = &d->rs->base;
    int fd = io_dial(addr, len);
    if (fd < 0) {
        *error = -fd;
        return false;
    }
    io_init(&sv->io, fd, NULL);
    if (!io_attach(&sv->io, d->loop, &dial_io_ops)) {
        io_close(&sv->io);
        *error = ENOMEM;
        return false;
    }
    d->stage = CONNECTING;
    io_await_connect(&sv->io);
    return true;
}

static void try_next(struct redis_dial *d, int last_error)
{
    while (d->next) {
        const struct addrinfo *a = d->next;
        d->next = a->ai_next;
        if (dial_address(d, a->ai_addr, a->ai_addrlen, &last_error))
            return;
    }
    struct err err;
    err_set(&err, CAUSE_DIAL_FAILED, STAGE_CONNECT, last_error, "%s: %s",
            d->rs->base.endpoint->label, strerror(last_error));
    fail(d, &err);
}

static void dial_unix(struct redis_dial *d)
{
    const char *path = d->rs->base.endpoint->unix_path;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int error = ENAMETOOLONG;
    if (strlen(path) < sizeof un.sun_path) {
        memcpy(un.sun_path, path, strlen(path) + 1);
        if (dial_address(d, (const struct sockaddr *)&un, sizeof un, &error))
            return;
    }
    try_next(d, error);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct redis_dial *d = req->data;
    loop_turn(d->loop);
    d->is_resolving = false;
    if (d->orphaned) {
        uv_freeaddrinfo(found);
        free(d);
        return;
    }
    if (status != 0 || !found) {
        struct err err;
        err_set(&err, CAUSE_DIAL_FAILED, STAGE_RESOLVE, 0, "%s: cannot resolve the name: %s",
                d->rs->base.endpoint->label, uv_strerror(status));
        uv_freeaddrinfo(found);
        fail(d, &err);
        return;
    }
    d->found = d->next = found;
    try_next(d, 0);
}

void redis_dial(struct server *sv, struct loop *loop)
{
    struct redis_server *rs = redis_server_of(sv);
    const struct endpoint_conf *e = sv->endpoint;
    struct err err;
    struct redis_dial *d = calloc(1, sizeof *d);
    if (!d) {
        err_set(&err, CAUSE_INTERNAL, STAGE_CONNECT, ENOMEM, "out of memory");
        server_dialed(sv, &err);
        return;
    }
    d->rs = rs;
    d->loop = loop;
    rs->dial = d;
    if (e->unix_path) {
        dial_unix(d);
        return;
    }
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)e->port);
    struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICSERV | (e->literal ? AI_NUMERICHOST : AI_ADDRCONFIG),
    };
    d->resolving.data = d;
    d->is_resolving = true;
    if (uv_getaddrinfo(&loop->uv, &d->resolving, on_resolved, e->host, port, &hints) != 0) {
        d->is_resolving = false;
        err_set(&err, CAUSE_INTERNAL, STAGE_RESOLVE, 0, "%s: cannot start resolving", e->label);
        fail(d, &err);
    }
}
