/* SPDX-License-Identifier: MIT */
/*
 * Logging in to Redis, on the dialer's thread.
 *
 *   an address (dial.h) -> connect -> (TLS) -> AUTH SELECT HELLO PING
 *
 * What the server says of itself in HELLO is kept; one that does not know HELLO is asked for INFO.
 *
 * hiredis would resolve blocking, and its TLS writer and ours cannot share a connection, so it is
 * not given the socket: it writes the login and reads the answers through hooks that use carpool's
 * own io, plain or TLS alike. Nothing of it is left when the dial ends, and no byte can stay behind
 * in it.
 */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <hiredis/sds.h>
#include <stdio.h>
#include <stdlib.h>

#include "pools/dial.h"
#include "pools/redis.h"
#include "proxy/core/tls.h"

/* The commands of the login, in the order they are sent. */
enum word { WORD_AUTH, WORD_SELECT, WORD_NAME, WORD_HELLO, WORD_PING, WORD_INFO };

struct redis_dial {
    struct dial base;
    struct tls_ctx *tls;
    redisContext *hiredis;
    unsigned answered; /* words of the login */
    unsigned n_words;
    enum word words[6];
};

static struct redis_dial *redis_dial_of(struct dial *d)
{
    return OWNER(d, struct redis_dial, base);
}

static void stop(struct dial *d)
{
    struct redis_dial *rd = redis_dial_of(d);
    if (rd->hiredis)
        redisFreeKeepFd(rd->hiredis); /* the socket is our io's */
    rd->hiredis = NULL;
    tls_ctx_free(rd->tls);
    rd->tls = NULL;
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

static void logged_in(struct dial *d)
{
    struct io *io = &d->sv->io;
    const redisReader *reader = redis_dial_of(d)->hiredis->reader;
    if (reader->len != reader->pos || io_unsent(io)) {
        dial_fail(d, CAUSE_UPSTREAM_PROTOCOL, STAGE_LOGIN, 0, "it sent more than it was asked for");
        return;
    }
    io_detach(io);
    dial_well(d);
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
static void note_hello(struct redis_server *rs, const redisReply *r)
{
    if (r->type != REDIS_REPLY_ARRAY)
        return;
    for (size_t i = 0; i + 1 < r->elements; i += 2) {
        const redisReply *name = r->element[i], *value = r->element[i + 1];
        if (name->type == REDIS_REPLY_STRING && value->type == REDIS_REPLY_STRING)
            redis_about_field(&rs->about, span_of(name->str, name->len),
                              span_of(value->str, value->len));
    }
}

static void add_word(struct redis_dial *rd, enum word word, int argc, const char **argv)
{
    redisAppendCommandArgv(rd->hiredis, argc, argv, NULL);
    rd->words[rd->n_words++] = word;
}

/* It does not know HELLO. False: the dial is over. */
static bool ask_info(struct dial *d)
{
    int done = 0;
    struct redis_dial *rd = redis_dial_of(d);
    add_word(rd, WORD_INFO, 1, (const char *[]){"INFO"});
    if (redisBufferWrite(rd->hiredis, &done) == REDIS_OK)
        return true;
    dial_no_memory(d);
    return false;
}

/* One answer. False: the dial is over. */
static bool on_answer(struct dial *d, const redisReply *r)
{
    struct redis_dial *rd = redis_dial_of(d);
    enum word word = rd->words[rd->answered++];
    if (word == WORD_HELLO)
        note_hello(redis_server_of(d->sv), r);
    if (word == WORD_INFO && r->type == REDIS_REPLY_STRING)
        redis_about_info(&redis_server_of(d->sv)->about, span_of(r->str, r->len));
    if (r->type != REDIS_REPLY_ERROR)
        return true;
    enum cause cause = judge(word, r->str);
    if (cause == CAUSE_NONE)
        return word != WORD_HELLO || ask_info(d);
    dial_fail(d, cause, STAGE_LOGIN, 0, "%.120s", r->str);
    return false;
}

static void read_answers(struct dial *d)
{
    struct redis_dial *rd = redis_dial_of(d);
    redisContext *c = rd->hiredis;
    bool well = redisBufferRead(c) == REDIS_OK;
    for (;;) {
        void *reply = NULL;
        if (redisGetReplyFromReader(c, &reply) != REDIS_OK || (!reply && !well)) {
            dial_fail(d, c->err == REDIS_ERR_PROTOCOL ? CAUSE_UPSTREAM_PROTOCOL : CAUSE_DIAL_FAILED,
                      STAGE_LOGIN, 0, "%.100s while logging in", c->errstr);
            return;
        }
        if (!reply)
            return;
        bool on = on_answer(d, reply);
        freeReplyObject(reply);
        if (!on)
            return;
        if (rd->answered == rd->n_words) {
            logged_in(d);
            return;
        }
    }
}

static void log_in(struct dial *d)
{
    struct redis_dial *rd = redis_dial_of(d);
    const struct endpoint_conf *e = d->sv->endpoint;
    redisOptions options = {.type = REDIS_CONN_USERFD, .options = REDIS_OPT_NONBLOCK};
    options.endpoint.fd = d->sv->io.fd;
    d->stage = STAGE_LOGIN;
    rd->hiredis = redisConnectWithOptions(&options);
    if (!rd->hiredis || rd->hiredis->err) {
        dial_no_memory(d);
        return;
    }
    rd->hiredis->funcs = &hooks;
    rd->hiredis->privdata = &d->sv->io;
    if (e->password && e->user)
        add_word(rd, WORD_AUTH, 3, (const char *[]){"AUTH", e->user, e->password});
    else if (e->password)
        add_word(rd, WORD_AUTH, 2, (const char *[]){"AUTH", e->password});
    if (e->database && strcmp(e->database, "0") != 0)
        add_word(rd, WORD_SELECT, 2, (const char *[]){"SELECT", e->database});
    add_word(rd, WORD_NAME, 3, (const char *[]){"CLIENT", "SETNAME", "carpool"});
    add_word(rd, WORD_HELLO, 2, (const char *[]){"HELLO", "2"});
    add_word(rd, WORD_PING, 1, (const char *[]){"PING"});
    int done = 0;
    if (redisBufferWrite(rd->hiredis, &done) != REDIS_OK)
        dial_no_memory(d);
}

/* ---- before the login ---- */

static void shake_hands(struct dial *d)
{
    if (dial_shake_hands(d))
        log_in(d);
}

static void begin_tls(struct dial *d)
{
    struct redis_dial *rd = redis_dial_of(d);
    const struct endpoint_conf *e = d->sv->endpoint;
    struct io *io = &d->sv->io;
    struct err why;
    d->stage = STAGE_TLS;
    rd->tls = dial_tls_ctx(e, &why);
    if (!rd->tls) {
        dial_fail(d, why.cause, why.stage, why.sys, "%.120s", why.note);
        return;
    }
    io->tls = tls_connect(rd->tls, io->fd, e->host, NULL);
    if (io->tls)
        shake_hands(d);
    else
        dial_no_memory(d);
}

static void on_connected(struct dial *d)
{
    struct server *sv = d->sv;
    int e = io_connect_error(&sv->io);
    if (e) {
        dial_refused(d, e);
        return;
    }
    io_tune(sv->io.fd, (unsigned)sv->conf->tcp.keepalive_ms,
            (unsigned)sv->conf->tcp.user_timeout_ms);
    if (sv->endpoint->tls == ENDPOINT_TLS_DISABLE)
        log_in(d);
    else
        begin_tls(d);
}

static struct dial *dial_of(struct io *io)
{
    return OWNER(io, struct server, io)->dial;
}

static void on_readable(struct io *io)
{
    struct dial *d = dial_of(io);
    if (d->stage == STAGE_TLS)
        shake_hands(d);
    else if (d->stage == STAGE_LOGIN)
        read_answers(d);
}

static void on_drained(struct io *io)
{
    struct dial *d = dial_of(io);
    if (d->stage == STAGE_CONNECT)
        on_connected(d);
    else if (d->stage == STAGE_TLS)
        shake_hands(d);
}

static const struct io_ops dial_io_ops = {.on_readable = on_readable, .on_drained = on_drained};

static void start(struct dial *d)
{
    struct io *io = &d->sv->io;
    int fd = io_dial((const struct sockaddr *)&d->addr, d->addr_n);
    if (fd < 0) {
        dial_refused(d, -fd);
        return;
    }
    io_init(io, fd, NULL);
    if (io_attach(io, d->loop, &dial_io_ops))
        io_await_connect(io);
    else
        dial_no_memory(d);
}

static const struct dial_ops ops = {
    .size = sizeof(struct redis_dial),
    .start = start,
    .stop = stop,
};

void redis_dial(struct server *sv, struct loop *loop)
{
    dial_begin(sv, loop, &ops);
}
