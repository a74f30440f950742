/* SPDX-License-Identifier: MIT */
#include "proxy/front/postgres.h"

void pg_outbox_init(struct pg_outbox *o, struct pg_session *s, bool to_server)
{
    o->session = s;
    o->to_server = to_server;
    o->n = 0;
    o->own_n = 0;
}

void pg_outbox_flush(struct pg_outbox *o)
{
    struct pg_session *s = o->session;
    int n = o->n;
    o->n = 0;
    o->own_n = 0;
    if (n == 0)
        return;
    if (o->to_server && s->server && server_sendv(&s->server->base, o->iov, n)) {
        s->unheard = false;
        s->tries = 0;
    }
    if (!o->to_server && !s->base.closed)
        io_sendv(&s->base.io, o->iov, n);
}

static void add(struct pg_outbox *o, const void *p, size_t n)
{
    struct iovec *last = o->n > 0 ? &o->iov[o->n - 1] : NULL;
    if (last && (const uint8_t *)last->iov_base + last->iov_len == p) {
        last->iov_len += n;
        return;
    }
    o->iov[o->n++] = (struct iovec){.iov_base = (void *)(uintptr_t)p, .iov_len = n};
}

void pg_outbox_add(struct pg_outbox *o, struct span s)
{
    if (s.n == 0)
        return;
    if (o->n == PG_OUTBOX_PIECES)
        pg_outbox_flush(o);
    add(o, s.p, s.n);
}

uint8_t *pg_outbox_own(struct pg_outbox *o, size_t n)
{
    CHECK(n <= sizeof o->own);
    if (o->n == PG_OUTBOX_PIECES || n > sizeof o->own - o->own_n)
        pg_outbox_flush(o);
    uint8_t *p = o->own + o->own_n;
    o->own_n += n;
    if (n)
        add(o, p, n);
    return p;
}
