/* SPDX-License-Identifier: MIT */
/*
 * What a Redis server says of itself when it is dialed (HELLO, or INFO where that is not known),
 * and the pool's memory of it: clients ask carpool's HELLO for it, and RESET depends on the
 * version.
 */
#include <stdio.h>
#include <stdlib.h>

#include "pools/ledger.h"
#include "pools/redis.h"

static void keep(char *to, size_t cap, struct span text)
{
    snprintf(to, cap, "%.*s", (int)(text.n < cap ? text.n : cap - 1), (const char *)text.p);
}

void redis_about_field(struct redis_about *a, struct span name, struct span value)
{
    if (span_eq(name, SPAN_LIT("server")))
        keep(a->server, sizeof a->server, value);
    else if (span_eq(name, SPAN_LIT("version")) || span_eq(name, SPAN_LIT("redis_version")))
        keep(a->version, sizeof a->version, value);
    else if (span_eq(name, SPAN_LIT("mode")) || span_eq(name, SPAN_LIT("redis_mode")))
        keep(a->mode, sizeof a->mode, value);
    else if (span_eq(name, SPAN_LIT("role")))
        /* INFO of old servers has the old word. */
        keep(a->role, sizeof a->role,
             span_eq(value, SPAN_LIT("slave")) ? SPAN_LIT("replica") : value);
}

static size_t find(struct span text, uint8_t c)
{
    const uint8_t *at = text.n ? memchr(text.p, c, text.n) : NULL;
    return at ? (size_t)(at - text.p) : text.n;
}

void redis_about_info(struct redis_about *a, struct span text)
{
    while (text.n > 0) {
        size_t n = find(text, '\n');
        struct span line = span_of(text.p, n);
        text = span_skip(text, n < text.n ? n + 1 : n);
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
        size_t colon = find(line, ':');
        if (colon < line.n)
            redis_about_field(a, span_of(line.p, colon), span_skip(line, colon + 1));
    }
}

/* ---- the pool's memory ---- */

struct memo {
    struct snapshot snap;
    struct redis_about about;
};

static void memo_free(struct snapshot *snap)
{
    free(OWNER(snap, struct memo, snap));
}

static unsigned version_of(const struct redis_about *a)
{
    char *dot;
    unsigned long major = strtoul(a->version, &dot, 10);
    unsigned long minor = *dot == '.' ? strtoul(dot + 1, NULL, 10) : 0;
    return major < 1000 && minor < 100 ? (unsigned)(major * 100 + minor) : 0;
}

void redis_about_remember(struct redis_server *rs)
{
    rs->version = version_of(&rs->about);
    struct memo *m = rs->about.version[0] ? malloc(sizeof *m) : NULL;
    if (!m)
        return;
    atomic_init(&m->snap.refs, 1);
    m->snap.free = memo_free;
    m->about = rs->about;
    struct snapshot *ref = &m->snap;
    ledger_remember(rs->base.ledger, ref);
    snapshot_drop(&ref);
}

bool redis_about_recall(struct ledger *l, struct redis_about *out)
{
    struct snapshot *ref = ledger_recall(l);
    if (!ref)
        return false;
    *out = OWNER(ref, struct memo, snap)->about;
    snapshot_drop(&ref);
    return true;
}
