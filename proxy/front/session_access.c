/* SPDX-License-Identifier: MIT */
/*
 * The access log: one line an exchange, through the ring of the worker, so that a log that nobody
 * reads costs lines and not time. Every line has the same fields in the same order, and slow=yes at
 * its end if it took longer than the pool's log.slow; docs/admin.md describes them.
 */
#include <stdio.h>

#include "proxy/front/front.h"

#define USER_MAX 64

/* Names come from clients: what would end the quotes, or the line, does not stand in them. */
static const char *user_text(struct span user, char buf[USER_MAX])
{
    size_t n = user.n < USER_MAX - 1 ? user.n : USER_MAX - 1;
    for (size_t i = 0; i < n; i++)
        buf[i] = user.p[i] < 0x20 || user.p[i] >= 0x7f || user.p[i] == '"' ? '?' : (char)user.p[i];
    buf[n] = '\0';
    return buf;
}

/* The clock of an exclusive lease is the server's own; times of two workers may differ a little. */
static uint64_t since(uint64_t now, uint64_t then)
{
    return now > then ? now - then : 0;
}

static void measure(const struct loop *loop, struct access_line *line)
{
    const struct server *sv = line->server;
    const struct waiter *w = line->waiter;
    if (!w)
        return;
    uint64_t until = sv ? sv->leased_us : loop_usec(loop);
    line->wait_us = w->since_us ? since(until, w->since_us) : 0;
    if (!sv)
        return;
    line->exchange_us = since(loop_usec(loop), sv->leased_us);
    line->bytes_in = sv->lease_in;
    line->bytes_out = sv->lease_out;
}

void session_access_write(struct session *s, const struct access_line *asked)
{
    struct access_line line = *asked;
    char peer[64], user[USER_MAX];
    const struct server *sv = line.server;
    measure(session_loop(s), &line);
    uint64_t slow_ms = pool_conf(s->route->pool)->log.slow_ms;
    bool slow = slow_ms && line.exchange_us > slow_ms * 1000;
    if (!slow && !session_access_wanted(s, line.cause != CAUSE_NONE))
        return;
    log_exchange(session_loop(s)->log,
                 "pool=%s kind=%s conn=%u client=%s user=\"%s\" lease=%u server=%u endpoint=%s "
                 "wait_us=%llu exchange_us=%llu bytes_in=%llu bytes_out=%llu outcome=%s%s%s",
                 pool_ledger(s->route->pool)->name, s->gate->conf->kind_name, s->id,
                 session_peer(s, peer, sizeof peer), user_text(line.user, user),
                 sv ? sv->lease_no : 0, sv ? sv->id : 0, sv ? sv->endpoint->label : "-",
                 (unsigned long long)line.wait_us, (unsigned long long)line.exchange_us,
                 (unsigned long long)line.bytes_in, (unsigned long long)line.bytes_out,
                 line.cause == CAUSE_NONE ? "ok" : cause_word(line.cause), slow ? " slow=yes" : "",
                 line.more ? line.more : "");
}
