/* SPDX-License-Identifier: MIT */
/*
 * One caller of the admin API: reads a request, answers it, reads the next.
 *
 *              request complete            answer sent, keep-alive
 *   READING -------------------> ANSWERING ------------------------> READING
 *      |                          |     |
 *      | end-of-file,             |     | answer sent, last
 *      | idle too long            |     v
 *      v                          |  LINGERING
 *   CLOSED <----------------------+-----'
 *
 * LINGERING: our end-of-file is out; what still comes is thrown away, so that unread bytes do not
 * destroy the answer (RFC 9112 section 9.6).
 *
 * Bounds: the head and body of a request, the time until it is complete, the time an answer may
 * make no progress and the time it may take in all. While an answer is on its way nothing is
 * read, and what came behind a request is not looked at: the connection is then closed after
 * the answer, which a client that pipelines understands.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "admin/admin_private.h"
#include "admin/answer.h"
#include "proxy/wire/http.h"
#include "proxy/wire/http_answer.h"

#define HEAD_MAX 16384
#define BODY_MAX 65536
#define REQUEST_MS 10000 /* from the end of the last answer to the end of the next request */
#define STALL_MS 10000   /* no byte of an answer was taken */
#define ANSWER_MS 60000  /* a whole answer */
#define LINGER_MS 1000
#define CENSUS_MS 5000 /* for all workers to say who is connected */

static const char common_fields[] = "Cache-Control: no-store\r\n"
                                    "X-Content-Type-Options: nosniff\r\n";

enum conn_state { CONN_READING, CONN_ANSWERING, CONN_LINGERING, CONN_CLOSED };

struct conn {
    struct admin_door *door;
    enum conn_state state;
    struct io io;
    struct http_parser *parser;
    struct list node;
    struct timer timer;
    struct deferred after;
    struct census *census; /* the answer waits for it */
    bool head_only;        /* of the request at hand */
    bool last;             /* closed when the answer is out */
    uint64_t since;        /* ms, of the answer */
    size_t unsent;         /* when last looked at */
    char from[80];
};

static struct loop *loop_of(const struct conn *c)
{
    return c->door->admin->loop;
}

static void conn_after(struct deferred *d)
{
    struct conn *c = OWNER(d, struct conn, after);
    struct admin_door *door = c->door;
    http_parser_free(c->parser);
    free(c);
    door->n_conns--;
    door_freed(door);
}

/* Its memory goes at the end of the turn: callers up the stack may still look at the state. */
static void conn_close(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    census_forget(&c->census);
    loop_timer_stop(loop_of(c), &c->timer);
    io_close(&c->io);
    list_remove(&c->node);
    loop_defer(loop_of(c), &c->after);
}

static void await_request(struct conn *c)
{
    c->state = CONN_READING;
    http_parser_reset(c->parser);
    list_remove(&c->node);
    list_push_back(&c->door->conns, &c->node);
    loop_timer_set(loop_of(c), &c->timer, REQUEST_MS);
    io_resume(&c->io);
}

static void linger(struct conn *c)
{
    c->state = CONN_LINGERING;
    io_shutdown(&c->io);
    loop_timer_set(loop_of(c), &c->timer, LINGER_MS);
    io_resume(&c->io);
}

/* ---- answering ---- */

static void answered(struct conn *c)
{
    if (c->io.broken)
        conn_close(c);
    else if (c->last || c->door->admin->closing)
        linger(c);
    else
        await_request(c);
}

static void send_answer(struct conn *c, const struct answer *a, bool head_only)
{
    char buf[1024], date[HTTP_DATE_LEN + 1], fields[512];
    struct http_out f = http_out_of(fields, sizeof fields - 1);
    http_out_str(&f, common_fields);
    http_out_str(&f, a->fields);
    CHECK(http_out_fits(&f));
    fields[f.n] = '\0';
    struct http_out out = http_out_of(buf, sizeof buf);
    bool fits = http_reply(&out, &(struct http_reply){.status = a->status,
                                                      .date = http_date(time(NULL), date),
                                                      .content_type = span_str(a->type),
                                                      .body = span_of(a->body, a->n),
                                                      .fields = fields,
                                                      .close = c->last,
                                                      .head = true});
    CHECK(fits);
    const struct iovec iov[] = {{buf, out.n}, {a->body, a->n}};
    io_sendv(&c->io, iov, head_only || a->n == 0 ? 1 : 2);
    c->since = loop_now(loop_of(c));
    c->unsent = io_unsent(&c->io);
    if (c->unsent && !c->io.broken)
        loop_timer_set(loop_of(c), &c->timer, STALL_MS);
    else
        answered(c);
}

static void finish(struct conn *c, struct answer *a)
{
    c->last = c->last || c->door->admin->closing;
    send_answer(c, a, c->head_only);
    answer_fini(a);
}

static void no_memory(struct conn *c)
{
    struct answer a;
    if (answer_refuse(&a, 500, "carpool is out of memory"))
        finish(c, &a);
    else
        conn_close(c);
}

static void on_census(struct census *census, void *arg)
{
    struct conn *c = arg;
    struct answer a;
    c->census = NULL;
    if (answer_census(&a, census))
        finish(c, &a);
    else
        no_memory(c);
}

static bool refuse_field(struct answer *a, unsigned status, const char *sentence,
                         const char *fields)
{
    if (!answer_refuse(a, status, sentence))
        return false;
    a->fields = fields;
    return true;
}

static bool decide(struct conn *c, const struct http_head *head, struct answer *a)
{
    struct target t = target_of(head->method, head->path);
    const struct http_field *origin = http_find_name(head, SPAN_LIT("origin"));
    const struct http_field *auth = http_find(head, HTTP_F_AUTHORIZATION);
    const struct access_ask ask = {
        .open = t.open,
        .changes = t.changes,
        .host = head->host,
        .origin = origin ? origin->value : (struct span){0},
        .authorization = auth ? auth->value : (struct span){0},
    };
    const char *why = "";
    unsigned status = access_check(&c->door->rule, &ask, &why);
    if (status) {
        log_write(loop_of(c)->log, LOG_WARN, "admin_refused", "from=%s status=%u reason=\"%s\"",
                  c->from, status, why);
        return refuse_field(a, status, why,
                            status == 401 ? "WWW-Authenticate: Bearer realm=\"carpool\"\r\n"
                                          : NULL);
    }
    if (t.status == 404)
        return answer_refuse(a, 404, "there is no such page; GET / lists them");
    if (t.status == 405)
        return refuse_field(
            a, 405, t.changes ? "this changes something: ask by POST" : "ask by GET", t.allow);
    const struct asker asker = {loop_of(c), &c->door->admin->hooks, c->from};
    if (!answer_comes_later(&t))
        return answer_make(a, &t, &asker);
    loop_timer_set(loop_of(c), &c->timer, CENSUS_MS);
    return answer_ask(a, &t, &asker, &c->census, on_census, c);
}

/* `more`: bytes came behind the request. */
static void on_request(struct conn *c, bool more)
{
    const struct http_head *head = http_parser_head(c->parser);
    struct answer a = {0};
    c->head_only = head->method == HTTP_M_HEAD;
    c->state = CONN_ANSWERING;
    c->last = more || !head->keep_alive;
    io_pause(&c->io);
    if (!decide(c, head, &a))
        no_memory(c);
    else if (!c->census)
        finish(c, &a);
}

static void on_bad(struct conn *c, const struct http_bad *bad)
{
    struct answer a;
    c->state = CONN_ANSWERING;
    c->last = true;
    c->head_only = false;
    io_pause(&c->io);
    if (answer_refuse(&a, bad->status, bad->reason))
        finish(c, &a);
    else
        conn_close(c);
}

/* ---- reading ---- */

static void feed(struct conn *c, struct span in)
{
    while (c->state == CONN_READING) {
        size_t used;
        struct http_event ev;
        enum http_step step = http_parser_feed(c->parser, in, &used, &ev);
        in = span_skip(in, used);
        switch (step) {
        case HTTP_STEP_MORE:
            return;
        case HTTP_STEP_HEAD:
            if (ev.head->expect_continue)
                io_send(&c->io, HTTP_CONTINUE.p, HTTP_CONTINUE.n);
            break;
        case HTTP_STEP_BODY: /* no action takes anything from it */
            break;
        case HTTP_STEP_END:
            on_request(c, in.n > 0);
            return;
        case HTTP_STEP_BAD:
            on_bad(c, &ev.bad);
            return;
        }
    }
}

static void on_readable(struct io *io)
{
    struct conn *c = OWNER(io, struct conn, io);
    uint8_t *buf = loop_of(c)->scratch;
    ssize_t n = io_read(io, buf, LOOP_READ_MAX);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        conn_close(c);
        return;
    }
    if (c->state == CONN_READING)
        feed(c, span_of(buf, (size_t)n));
}

static void on_drained(struct io *io)
{
    struct conn *c = OWNER(io, struct conn, io);
    if (c->state == CONN_ANSWERING)
        answered(c);
}

static const struct io_ops conn_io_ops = {.on_readable = on_readable, .on_drained = on_drained};

static void on_timer(struct timer *t)
{
    struct conn *c = OWNER(t, struct conn, timer);
    struct answer a;
    if (c->census) {
        census_forget(&c->census);
        if (answer_refuse(&a, 503, "not every worker answered in time"))
            finish(c, &a);
        else
            conn_close(c);
        return;
    }
    uint64_t now = loop_now(loop_of(c));
    size_t unsent = io_unsent(&c->io);
    if (c->state == CONN_ANSWERING && unsent < c->unsent && now - c->since < ANSWER_MS) {
        c->unsent = unsent;
        loop_timer_set(loop_of(c), &c->timer, STALL_MS);
        return;
    }
    conn_close(c);
}

/* ---- life ---- */

void conn_open(struct admin_door *door, int fd, const struct sockaddr *peer)
{
    const struct http_limits limits = {.head = HEAD_MAX,
                                       .line = 8192,
                                       .target = 2048,
                                       .fields = 100,
                                       .extensions = 1024,
                                       .trailers = 1024,
                                       .body = BODY_MAX};
    struct conn *c = calloc(1, sizeof *c);
    struct http_parser *parser = http_parser_new(HTTP_KIND_REQUEST, &limits);
    if (!c || !parser)
        goto no_memory;
    c->door = door;
    c->parser = parser;
    list_init(&c->node);
    timer_init(&c->timer, on_timer);
    deferred_init(&c->after, conn_after);
    if (door->path)
        memcpy(c->from, "unix", sizeof "unix");
    else
        io_addr_text(peer, sizeof(struct sockaddr_storage), c->from, sizeof c->from);
    io_init(&c->io, fd, NULL);
    if (!io_attach(&c->io, door->admin->loop, &conn_io_ops))
        goto no_memory;
    door->n_conns++;
    await_request(c);
    return;
no_memory:
    http_parser_free(parser);
    free(c);
    close(fd);
}

bool conn_evict(struct admin_door *door)
{
    LIST_EACH(n, &door->conns) {
        struct conn *c = OWNER(n, struct conn, node);
        if (c->state != CONN_READING)
            continue;
        conn_close(c);
        return true;
    }
    return false;
}

void conn_close_all(struct admin_door *door)
{
    LIST_EACH(n, &door->conns) {
        struct conn *c = OWNER(n, struct conn, node);
        c->last = true;
        if (c->state != CONN_ANSWERING)
            conn_close(c);
        else
            loop_timer_set(loop_of(c), &c->timer, LINGER_MS);
    }
}
