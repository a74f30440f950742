/* SPDX-License-Identifier: MIT */
/*
 * HTTP clients, at every tick and without every allocation. The origin is a small one; the first
 * part of a path says how it answers, the last part is what it answers, and tells whose it is:
 *
 *     GET /for-a  /chunked/for-a  /close/for-a  /eof/for-a  /later/for-a  /stale/for-a  /big
 *     GET /surplus/for-a
 *     POST /for-a (when all of the body has come)  /early/for-a (before)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pools/http.h"
#include "proxy/front/http.h"
#include "tests/unit/relays/play.h"
#include "tests/unit/relays/turns.h"

#define BIG 100000

/* ---- messages, as both sides of the test read them ---- */

struct message {
    struct span head; /* with its empty line */
    bool whole, chunked, until_close;
    size_t length; /* of a body that has one */
    char body[32]; /* its beginning, without chunks */
    size_t raw;    /* bytes of a whole message */
};

static bool find(struct span in, const char *what, size_t *at)
{
    const uint8_t *p = in.n ? memmem(in.p, in.n, what, strlen(what)) : NULL;
    *at = p ? (size_t)(p - in.p) : 0;
    return p != NULL;
}

static bool has(struct span head, const char *field)
{
    size_t at;
    return find(head, field, &at);
}

static bool read_head(struct span in, struct message *m)
{
    size_t end, at;
    *m = (struct message){.whole = false};
    if (!find(in, "\r\n\r\n", &end))
        return false;
    m->head = span_of(in.p, end + 4);
    m->chunked = has(m->head, "\r\nTransfer-Encoding: chunked\r\n");
    if (find(m->head, "\r\nContent-Length: ", &at))
        m->length = strtoul((const char *)in.p + at + 18, NULL, 10);
    else
        m->until_close = !m->chunked;
    return true;
}

static void note_body(struct message *m, size_t *had, struct span piece)
{
    size_t n = sizeof m->body - 1 - *had;
    n = piece.n < n ? piece.n : n;
    if (n)
        memcpy(m->body + *had, piece.p, n);
    *had += n;
}

/* The bytes of a chunked body; 0: not whole. */
static size_t read_chunks(struct span in, struct message *m)
{
    size_t at = 0, had = 0, nl;
    for (;;) {
        struct span rest = span_skip(in, at);
        if (!find(rest, "\r\n", &nl))
            return 0;
        size_t n = strtoul((const char *)rest.p, NULL, 16);
        if (rest.n < nl + 2 + n + 2)
            return 0;
        if (n)
            note_body(m, &had, span_of(rest.p + nl + 2, n));
        at += nl + 2 + n + 2;
        if (n == 0)
            return at;
    }
}

static void read_body(struct span in, struct message *m)
{
    size_t had = 0;
    size_t n = m->chunked ? read_chunks(in, m) : m->length;
    m->whole = m->chunked ? n > 0 : in.n >= n;
    if (!m->chunked)
        note_body(m, &had, span_of(in.p, m->whole ? n : 0));
    m->raw = m->head.n + n;
}

/* ---- the origin ---- */

enum { AT_HEAD, IN_BODY, DEAF, LATER };

static bool starts(const char *path, const char *with)
{
    return strncmp(path, with, strlen(with)) == 0;
}

static void say_ok(struct peer *p, const char *fields, const char *body)
{
    char text[256];
    snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\n%sContent-Length: %zu\r\n\r\n%s", fields,
             strlen(body), body);
    peer_say(p, text);
}

static void say_big(struct peer *p)
{
    static char big[BIG];
    char head[64];
    memset(big, 'x', sizeof big);
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BIG);
    peer_say(p, head);
    peer_say_bytes(p, big, BIG);
}

static void respond(struct peer *p)
{
    const char *path = p->owes, *body = strrchr(path, '/') + 1;
    if (starts(path, "/chunked/")) {
        peer_say(p, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfor-\r\n");
        peer_say(p, "1\r\n");
        peer_say(p, body + 4);
        peer_say(p, "\r\n0\r\n\r\n");
    } else if (starts(path, "/close/")) {
        say_ok(p, "Connection: close\r\n", body);
        peer_close(p);
    } else if (starts(path, "/eof/")) {
        peer_say(p, "HTTP/1.1 200 OK\r\n\r\n");
        peer_say(p, body);
        peer_close(p);
    } else if (starts(path, "/stale/")) {
        say_ok(p, "", body);
        p->state = LATER;
        p->due_ms = turns_now() + 20; /* then it closes */
        p->owes[0] = '\0';
    } else if (starts(path, "/surplus/")) { /* what nobody asked for */
        say_ok(p, "", body);
        say_ok(p, "", "surplus");
    } else if (starts(path, "/big")) {
        say_big(p);
    } else {
        say_ok(p, "", body);
    }
}

static void on_request(struct peer *p, const struct message *m)
{
    const uint8_t *path = memchr(m->head.p, '/', m->head.n);
    const uint8_t *end = memchr(path, ' ', m->head.n - (size_t)(path - m->head.p));
    snprintf(p->owes, sizeof p->owes, "%.*s", (int)(end - path), (const char *)path);
    if (has(m->head, "\r\nExpect: 100-continue\r\n"))
        peer_say(p, "HTTP/1.1 100 Continue\r\n\r\n");
    if (starts(p->owes, "/early/")) {
        say_ok(p, "Connection: close\r\n", strrchr(p->owes, '/') + 1);
        p->state = DEAF;
    }
}

static void on_whole_request(struct peer *p)
{
    p->state = AT_HEAD;
    if (starts(p->owes, "/later/")) {
        p->state = LATER;
        p->due_ms = turns_now() + 50;
        return;
    }
    respond(p);
}

static void serve(struct peer *p)
{
    if (p->state == LATER && p->due_ms)
        return;
    if (p->state == LATER && !p->owes[0]) {
        peer_close(p); /* stale */
        return;
    }
    if (p->state == LATER) {
        p->state = AT_HEAD;
        respond(p);
    }
    struct message m;
    while (p->far >= 0 && p->state != LATER && p->state != DEAF && read_head(peer_in(p), &m)) {
        if (p->state == AT_HEAD) {
            p->state = IN_BODY;
            on_request(p, &m);
        }
        read_body(span_skip(peer_in(p), m.head.n), &m);
        if (!m.whole || p->state == DEAF)
            return;
        peer_use(p, m.raw);
        on_whole_request(p);
    }
}

static bool born(struct server *sv, int far)
{
    (void)far;
    const struct http_limits limits = HTTP_LIMITS_RESPONSE;
    http_server_of(sv)->parser = http_parser_new(HTTP_KIND_RESPONSE, &limits);
    return http_server_of(sv)->parser != NULL;
}

/* ---- clients ---- */

/* One response; 0: not whole. */
static size_t take_response(struct span got, unsigned *status, struct message *m)
{
    static const char start[] = "HTTP/1.1 ";
    if (!read_head(got, m))
        return 0;
    *status = 0;
    if (starts((const char *)got.p, start))
        *status = (unsigned)strtoul((const char *)got.p + sizeof start - 1, NULL, 10);
    if (*status >= 100 && *status < 200)
        return m->head.n;
    struct span rest = span_skip(got, m->head.n);
    if (m->until_close)
        m->length = rest.n;
    read_body(rest, m);
    return m->whole ? m->raw : 0;
}

static unsigned answers(struct span got, bool *well)
{
    struct message m;
    unsigned n = 0, status;
    size_t used;
    *well = true;
    while (*well && (used = take_response(got, &status, &m)) > 0) {
        *well = status >= 100 && status < 600;
        n += status >= 200;
        got = span_skip(got, used);
    }
    *well = *well && (got.n < 9 || starts((const char *)got.p, "HTTP/1.1 "));
    return n;
}

/* What a drain lets end is an exchange, and there is none. */
static bool is_within(struct span got)
{
    (void)got;
    return false;
}

/* "100 200:for-a 503:..." */
static void show(struct span got, char *out, size_t cap)
{
    struct message m;
    unsigned status;
    size_t used, n = 0;
    out[0] = '\0';
    while ((used = take_response(got, &status, &m)) > 0 && n < cap) {
        n += (size_t)snprintf(out + n, cap - n, "%s%u%s%s", n ? " " : "", status,
                              m.body[0] ? ":" : "", m.body);
        got = span_skip(got, used);
    }
    if (got.n && n < cap)
        snprintf(out + n, cap - n, " and %zu bytes", got.n);
}

#define GET_(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"
#define POST_(path, fields, body) "POST " path " HTTP/1.1\r\nHost: h\r\n" fields "\r\n" body

static const struct step keep_alive[] = {
    COMES('a'),
    COMES('b'),
    COMES('c'),
    SAYS('a', GET_("/for-a") GET_("/chunked/for-a"), 2),
    SAYS('b', GET_("/later/for-b"), 1),
    SAYS('c', "GET /for-c HTTP/1.1\r\nHo", 0),
    HEARS('a', "200:for-a 200:for-a"),
    SAYS('c', "st: h\r\n\r\n", 1),
    HEARS('b', "200:for-b"),
    HEARS('c', "200:for-c"),
    SAYS('a', GET_("/close/for-a"), 1),
    HEARS('a', "200:for-a"),
    SAYS('a', GET_("/eof/for-a"), 1),
    HEARS('a', "200:for-a"),
    SAYS('b', "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n" GET_("/for-b"), 2),
    HEARS('b', "200 200:for-b"),
};

static const struct step uploads[] = {
    COMES('a'),
    COMES('b'),
    SAYS('a', POST_("/for-a", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), 0),
    SAYS('b', POST_("/for-b", "Content-Length: 10\r\n", "12345"), 0),
    SAYS('a', "6\r\n world\r\n", 0),
    SAYS('b', "67890", 1),
    HEARS('b', "200:for-b"),
    SAYS('a', "0\r\n\r\n", 1),
    HEARS('a', "200:for-a"),
    SAYS('b', POST_("/for-b", "Content-Length: 5\r\nExpect: 100-continue\r\n", ""), 0),
    HEARS('b', "100"),
    SAYS('b', "hello", 1),
    HEARS('b', "200:for-b"),
    SAYS('a', POST_("/early/for-a", "Content-Length: 100000\r\n", "hello"), 1),
    HEARS('a', "200:for-a"),
};

/* Connections that were closed while they were idle. */
static const struct step stale[] = {
    COMES('a'),
    SAYS('a', GET_("/stale/for-a"), 1),
    HEARS('a', "200:for-a"),
    PASS(19),
    SAYS('a', GET_("/later/for-a"), 0),
    PASS(2),
    HEARS('a', "200:for-a"),
    SAYS('a', GET_("/stale/for-a"), 1),
    HEARS('a', "200:for-a"),
    PASS(30),
    SAYS('a', POST_("/for-a", "Content-Length: 5\r\n", "hello"), 1),
    HEARS('a', "200:for-a"),
    SAYS('a', GET_("/surplus/for-a") GET_("/for-a"), 2),
    HEARS('a', "200:for-a 200:for-a"),
    SAYS('a', "BREW /for-a HTTP/1.1\r\nHost: h\r\n\r\n", 1),
    HEARS('a', "501:carpool: unsupported at client:"),
};

static const struct step big[] = {
    COMES('a'),
    COMES('b'),
    SAYS('a', GET_("/big"), 1),
    SAYS('b', GET_("/for-b") GET_("/for-b"), 2),
    HEARS('a', "200:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    HEARS('b', "200:for-b 200:for-b"),
    SAYS('a', "GET /for-a HTTP/1.0\r\n\r\n", 1),
    HEARS('a', "200:for-a"),
};

/* More than one worker should have: the last ones are handed over. */
static const struct step crowd[] = {
    COMES('a'),
    COMES('b'),
    COMES('c'),
    COMES('d'),
    SAYS('a', GET_("/for-a"), 1),
    HEARS('a', "200:for-a"),
    COMES('e'),
    COMES('f'),
    COMES('g'),
    SAYS('g', GET_("/for-g"), 1),
    HEARS('g', "200:for-g"),
    LEAVES('a'),
    LEAVES('b'),
    LEAVES('c'),
    LEAVES('d'),
    LEAVES('f'),
    PASS(5),
};

static const struct step proof[] = {
    COMES('a'),
    SAYS('a', GET_("/for-a") GET_("/for-a") GET_("/for-a"), 3), /* trials: these close breakers */
    HEARS('a', "200:for-a 200:for-a 200:for-a"),
    SAYS('a', POST_("/for-a", "Content-Length: 5\r\n", "hello"), 1),
    HEARS('a', "200:for-a"),
};

/* One too many comes. */
static const struct step guests[] = {
    COMES('a'),
    SAYS('a', GET_("/for-a"), 1),
    HEARS('a', "200:for-a"),
    COMES('b'),
    SAYS('b', GET_("/for-b"), 1),
    HEARS('b', "503:carpool: too_many_clients at cl"),
    LEAVES('a'),
    PASS(5),
    COMES('c'),
    SAYS('c', GET_("/for-c"), 1),
    HEARS('c', "200:for-c"),
};

static void one_client(struct depot_plan *plan)
{
    plan->front.limits.clients = 1;
}

static const struct script scripts[] = {
    {SCRIPT(keep_alive)},
    {SCRIPT(uploads)},
    {SCRIPT(stale)},
    {SCRIPT(big), .workers = 2, .elsewhere = "b"},
    {SCRIPT_AS("keep_alive_elsewhere", keep_alive), .workers = 2, .elsewhere = "b"},
    {SCRIPT_AS("bytes", proof), .chop = 17},
    {SCRIPT(crowd), .workers = 2},
    {SCRIPT(guests), .conf = one_client},
    {SCRIPT_AS("trials", proof), .on_trial = true},
    {SCRIPT_AS("trials_of_two", proof), .on_trial = true, .conf = depot_two_endpoints},
    {SCRIPT_AS("uploads_in_pieces", uploads), .chop = 19},
};

/* ---- costs ---- */

#define GETS_ONE(who, tag) SAYS(who, GET_("/" tag), 1), HEARS(who, "200:" tag)

static const struct step exchanges[] = {
    COMES('a'),
    COMES('b'),
    GETS_ONE('a', "for-a"),
    GETS_ONE('b', "for-b"),
    COUNTS,
    GETS_ONE('a', "for-a"),
    COSTS(2, 2, 0, 0),
    COUNTS,
    GETS_ONE('a', "for-a"),
    GETS_ONE('b', "for-b"),
    COSTS(4, 4, 0, 0),
    COUNTS, /* before what cannot be asked twice: a look whether the server is still there */
    SAYS('b', POST_("/for-b", "Content-Length: 5\r\n", "hello"), 1),
    HEARS('b', "200:for-b"),
    COSTS(3, 2, 0, 0),
};

static const struct step idle[] = {
    COMES('a'),
    GETS_ONE('a', "for-a"),
    COMES('b'),
    GETS_ONE('b', "for-b"),
    COUNTS,
    COMES('c'),
    GETS_ONE('c', "for-c"),
    COMES('d'),
    GETS_ONE('d', "for-d"),
    COMES('e'),
    GETS_ONE('e', "for-e"),
    HOLDS(3 * 1024),
};

static const struct script costs[] = {{SCRIPT(exchanges)}, {SCRIPT(idle)}};

static struct protocol make_protocol(void)
{
    struct protocol p = {
        .name = "http",
        .plan = depot_plan(),
        .serve = serve,
        .answers = answers,
        .show = show,
        .is_within = is_within,
        .garbage = "@@ what is this \r\n\r\n",
        .scripts = scripts,
        .n_scripts = ARRAY_LEN(scripts),
        .costs = costs,
        .n_costs = ARRAY_LEN(costs),
        .proof = {SCRIPT(proof)},
    };
    p.plan.relay = &http_relay;
    p.plan.driver = &http_driver;
    p.plan.born = born;
    p.plan.front.kind = FRONT_HTTP;
    p.plan.front.kind_name = "http";
    return p;
}

int main(void)
{
    struct protocol p = make_protocol();
    return play_all(&p);
}
