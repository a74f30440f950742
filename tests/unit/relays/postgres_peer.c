/* SPDX-License-Identifier: MIT */
#include "tests/unit/relays/postgres_peer.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "pools/postgres.h"
#include "proxy/wire/scram.h"
#include "tests/unit/relays/turns.h"

/* ---- users ---- */

static char verifier[256];

static size_t put_base64(size_t at, const uint8_t *p, size_t n, char behind)
{
    size_t len;
    CHECK(crypto_base64_encode(span_of(p, n), verifier + at, sizeof verifier - at - 2, &len));
    verifier[at + len] = behind;
    return at + len + 1;
}

/* One round of hashing: it is not to take time. */
const char *postgres_verifier(void)
{
    if (verifier[0])
        return verifier;
    struct scram_verifier v;
    CHECK(scram_verifier_derive(&v, SPAN_LIT("secret"), SPAN_LIT("0123456789abcdef"), 1));
    size_t at = (size_t)snprintf(verifier, sizeof verifier, "SCRAM-SHA-256$1:");
    at = put_base64(at, v.salt, v.salt_n, '$');
    at = put_base64(at, v.stored_key, sizeof v.stored_key, ':');
    put_base64(at, v.server_key, sizeof v.server_key, '\0');
    return verifier;
}

/* ---- the server ---- */

enum { READY, COPYING, SLEEPING, SKIPPING };

static uint8_t tx_of(const struct peer *p)
{
    return p->owes[0] ? (uint8_t)p->owes[0] : 'I';
}

static void become(struct peer *p, char tx)
{
    p->owes[0] = tx;
}

static void say(struct peer *p, char type, const void *body, size_t n)
{
    uint8_t head[PG_HEADER] = {(uint8_t)type, 0, 0, (uint8_t)((n + 4) >> 8), (uint8_t)(n + 4)};
    peer_say_bytes(p, head, sizeof head);
    peer_say_bytes(p, body, n);
}

static void say_text(struct peer *p, char type, const char *text)
{
    say(p, type, text, strlen(text) + 1);
}

static void say_ready(struct peer *p)
{
    uint8_t tx = tx_of(p);
    p->state = READY;
    say(p, 'Z', &tx, 1);
}

static void say_error(struct peer *p, const char *code)
{
    char body[64];
    size_t n = (size_t)snprintf(body, sizeof body, "SERROR%cVERROR%cC%s%cMno%c", 0, 0, code, 0, 0);
    say(p, 'E', body, n + 1);
    if (tx_of(p) == 'T')
        become(p, 'E');
}

static void say_columns(struct peer *p)
{
    static const char columns[] = "\0\1x\0\0\0\0\0\0\0\0\0\0\31\377\377\377\377\377\377\0";
    say(p, 'T', columns, sizeof columns);
}

/* Who asks for it is told a user and a secret. */
static void say_user(struct peer *p)
{
    uint8_t body[512] = {0, 2, 0, 0, 0, 3, 'a', 'p', 'p', 0, 0, 0};
    const char *secret = postgres_verifier();
    size_t n = strlen(secret);
    body[12] = (uint8_t)n;
    memcpy(body + 13, secret, n);
    say(p, 'D', body, 13 + n);
    say_text(p, 'C', "SELECT 1");
}

static void say_row(struct peer *p, const char *text)
{
    uint8_t body[64] = {0, 1, 0, 0, 0, (uint8_t)strlen(text)};
    memcpy(body + 6, text, strlen(text));
    say(p, 'D', body, 6 + strlen(text));
    say_text(p, 'C', "SELECT 1");
}

/* What a text would answer: between its first quotes. */
static void tag_of(const char *text, char tag[32])
{
    const char *from = strchr(text, '\'');
    snprintf(tag, 32, "%.*s", from ? (int)strcspn(from + 1, "'") : 1, from ? from + 1 : "?");
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static void query(struct peer *p, const char *text)
{
    char tag[32];
    static const char *const tags[] = {"SET", "RESET", "DISCARD ALL", "LISTEN"};
    tag_of(text, tag);
    if (!*text) {
        say(p, 'I', "", 0);
    } else if (begins(text, "ROLLBACK") || begins(text, "COMMIT")) {
        say_text(p, 'C', tx_of(p) == 'E' ? "ROLLBACK" : text);
        become(p, 'I');
    } else if (tx_of(p) == 'E') {
        say_error(p, "25P02");
    } else if (begins(text, "BEGIN")) {
        say_text(p, 'C', text);
        become(p, 'T');
    } else if (begins(text, "SLEEP")) {
        p->state = SLEEPING;
        p->due_ms = turns_now() + 50;
        return;
    } else if (begins(text, "COPY")) {
        p->state = COPYING;
        say(p, 'G', "\0\0\0", 3);
        return;
    } else if (begins(text, "FAIL") || begins(text, "carpool_refused")) {
        say_error(p, "42601");
    } else if (begins(text, "SELECT")) {
        say_columns(p);
        say_row(p, begins(text, "SELECT pg_catalog") ? "set" : tag);
    } else {
        for (size_t i = 0; i < ARRAY_LEN(tags); i++)
            if (begins(text, tags[i]))
                say_text(p, 'C', tags[i]);
        if (begins(text, "DISCARD ALL"))
            memset(p->notes, 0, sizeof p->notes);
    }
    say_ready(p);
}

/* What the server was asked to prepare under this name; or a place for it. */
static unsigned statement_at(const struct peer *p, const char *name)
{
    unsigned at = ARRAY_LEN(p->notes);
    for (unsigned i = ARRAY_LEN(p->notes); i-- > 0;) {
        if (p->notes[i][1][0] && strcmp(p->notes[i][0], name) == 0)
            return i;
        if (!p->notes[i][1][0])
            at = i;
    }
    CHECK(at < ARRAY_LEN(p->notes));
    return at;
}

static void fails(struct peer *p, const char *code)
{
    say_error(p, code);
    p->state = SKIPPING;
}

static void parse(struct peer *p, const char *body)
{
    unsigned i = statement_at(p, body);
    const char *text = body + strlen(body) + 1;
    if (begins(text, "FAIL") || tx_of(p) == 'E') {
        fails(p, "42601");
        return;
    }
    if (*body && p->notes[i][1][0]) {
        fails(p, "42P05");
        return;
    }
    snprintf(p->notes[i][0], sizeof p->notes[i][0], "%.31s", body);
    tag_of(text, p->notes[i][1]);
    say(p, '1', "", 0);
}

/* Bind and Describe: the statement is behind so many bytes. */
static bool knows(struct peer *p, const char *name)
{
    p->left = statement_at(p, name);
    if (p->notes[p->left][1][0])
        return true;
    fails(p, "26000");
    return false;
}

static void describe(struct peer *p, const char *body)
{
    if (*body == 'S' && !knows(p, body + 1))
        return;
    if (*body == 'S')
        say(p, 't', "\0", 2);
    say_columns(p);
}

static void extended(struct peer *p, uint8_t type, const char *body)
{
    if (p->state == SKIPPING && type != 'S')
        return;
    switch (type) {
    case 'P':
        parse(p, body);
        return;
    case 'B':
        if (knows(p, body + strlen(body) + 1))
            say(p, '2', "", 0);
        return;
    case 'D':
        describe(p, body);
        return;
    case 'E':
        if (strcmp(p->notes[p->left][1], "who") == 0)
            say_user(p);
        else
            say_row(p, p->notes[p->left][1]);
        return;
    case 'C':
        if (*body == 'S')
            p->notes[statement_at(p, body + 1)][1][0] = '\0';
        say(p, '3', "", 0);
        return;
    case 'S':
        say_ready(p);
        return;
    default:
        return;
    }
}

static void copying(struct peer *p, uint8_t type)
{
    if (type == 'c')
        say_text(p, 'C', "COPY 1");
    else if (type == 'f')
        say_error(p, "57014");
    if (type == 'c' || type == 'f')
        say_ready(p);
}

static void on_message(struct peer *p, uint8_t type, const char *body)
{
    if (type == 'X')
        peer_close(p);
    else if (p->state == COPYING)
        copying(p, type);
    else if (type == 'Q')
        query(p, body);
    else
        extended(p, type, body);
}

static void wake(struct peer *p, bool cancelled)
{
    p->state = READY;
    p->due_ms = 0;
    if (cancelled) {
        say_error(p, "57014");
    } else {
        say_columns(p);
        say_row(p, "slept");
    }
    say_ready(p);
}

/* Keys are the numbers of far ends. */
static void cancel_one(struct peer *p, void *arg)
{
    if (p->far == *(int *)arg && p->state == SLEEPING)
        wake(p, true);
}

void postgres_serve(struct peer *p)
{
    struct span in = peer_in(p);
    if (p->state == SLEEPING && p->due_ms)
        return;
    if (p->state == SLEEPING)
        wake(p, false);
    if (in.n >= 16 && in.p[0] == 0) { /* CancelRequest */
        int far = (int)pg_be32(in.p + 8);
        peers_each(cancel_one, &far);
        peer_close(p);
        return;
    }
    while (p->far >= 0 && p->state != SLEEPING && (in = peer_in(p)).n >= PG_HEADER && in.p[0]) {
        size_t n = 1 + (size_t)pg_be32(in.p + 1);
        char body[512] = "";
        if (in.n < n)
            return;
        CHECK(n - PG_HEADER < sizeof body);
        memcpy(body, in.p + PG_HEADER, n - PG_HEADER);
        peer_use(p, n);
        on_message(p, in.p[0], body);
    }
}

static bool set(struct pg_server *ps, const char *name, const char *value)
{
    return pg_params_set(&ps->params, span_str(name), span_str(value));
}

bool postgres_born(struct server *sv, int far)
{
    struct pg_server *ps = pg_server_of(sv);
    ps->params = pg_params_new();
    if (!ps->params || !set(ps, "server_version", "15.0") || !set(ps, "client_encoding", "UTF8") ||
        !set(ps, "application_name", "")) {
        pg_params_drop(&ps->params);
        return false;
    }
    ps->origin = pg_params_take(ps->params);
    ps->pid = (uint32_t)far;
    ps->key_n = 4;
    ps->addr.ss_family = AF_INET;
    ps->addr_n = sizeof(struct sockaddr_in);
    pg_framer_init(&ps->framer, PG_SIDE_SERVER);
    pg_flow_init(&ps->flow);
    return true;
}

/* ---- what clients get ---- */

/* One message; 0: not whole, or (SIZE_MAX) none. */
size_t postgres_take(struct span got, uint8_t *type, struct span *body)
{
    if (got.n == 0)
        return 0;
    if (!memchr("RSKZTDCEINGAt123ncHWsv", got.p[0], 22))
        return SIZE_MAX;
    if (got.n < PG_HEADER)
        return 0;
    size_t n = 1 + (size_t)pg_be32(got.p + 1);
    if (n < PG_HEADER || n > 100000)
        return SIZE_MAX;
    if (got.n < n)
        return 0;
    *type = got.p[0];
    *body = span_of(got.p + PG_HEADER, n - PG_HEADER);
    return n;
}

/* In a transaction, or with state of its own (LISTEN; in session mode all is), or half a COPY. */
bool postgres_is_within(struct span got)
{
    uint8_t type = 0;
    struct span body;
    size_t used;
    bool within = false;
    while ((used = postgres_take(got, &type, &body)) > 0 && used != SIZE_MAX) {
        within = type == 'Z' ? body.p[0] != 'I' : type == 'G' || (within && type != 'C');
        got = span_skip(got, used);
    }
    return within;
}

unsigned postgres_answers(struct span got, bool *well)
{
    uint8_t type;
    struct span body;
    unsigned n = 0;
    size_t used;
    while ((used = postgres_take(got, &type, &body)) > 0 && used != SIZE_MAX) {
        n += type == 'Z';
        got = span_skip(got, used);
    }
    *well = used != SIZE_MAX;
    return n;
}

static const char *detail(uint8_t type, struct span body, char buf[32])
{
    struct span code;
    const uint8_t *at;
    switch (type) {
    case 'R':
        snprintf(buf, 32, "%u", body.p[3]);
        return buf;
    case 'Z':
        snprintf(buf, 32, ":%c", body.p[0]);
        return buf;
    case 'C':
        snprintf(buf, 32, ":%s", (const char *)body.p);
        return buf;
    case 'D':
        snprintf(buf, 32, ":%.*s", (int)(body.n > 6 ? body.n - 6 : 0), (const char *)body.p + 6);
        return buf;
    case 'E':
        at = memmem(body.p, body.n, "\0C", 2);
        code = at ? span_of(at + 2, 5) : span_of("?", 1);
        snprintf(buf, 32, ":%.*s", (int)code.n, (const char *)code.p);
        return buf;
    default:
        return "";
    }
}

void postgres_show(struct span got, char *out, size_t cap)
{
    uint8_t type;
    struct span body;
    size_t used, n = 0;
    char buf[32];
    out[0] = '\0';
    while ((used = postgres_take(got, &type, &body)) > 0 && used != SIZE_MAX && n < cap) {
        n += (size_t)snprintf(out + n, cap - n, "%s%c%s", n ? " " : "", type,
                              detail(type, body, buf));
        got = span_skip(got, used);
    }
    if (got.n && n < cap)
        snprintf(out + n, cap - n, " and %zu bytes", got.n);
}
