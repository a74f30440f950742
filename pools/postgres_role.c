/* SPDX-License-Identifier: MIT */
/*
 * Primary or standby: what a server is at login the dial finds out (postgres_dial.c); here is what
 * becomes of it later. A standby that is promoted keeps its sessions and reports the change. A
 * primary ends its sessions when it steps down, but something between it and us may hide that:
 * then writes are refused, for which a client's own READ ONLY may be the reason as well, so the
 * server is asked before anything is concluded.
 */
#include "pools/ledger.h"
#include "pools/pool.h"
#include "pools/postgres.h"
#include "proxy/wire/postgres_read.h"

static void judge(struct pg_server *ps)
{
    struct server *sv = &ps->base;
    struct loop *loop = sv->io.loop;
    if (server_fits_target(sv))
        return;
    server_retire(sv, OUTCOME_DROP_UNFIT);
    /* Replicas are many, each says so itself; the primary is one: other servers are its, too. */
    if (sv->conf->target == TARGET_PRIMARY && ledger_renew(sv->ledger, loop_now(loop)))
        log_write(loop->log, LOG_WARN, "servers_renewed",
                  "pool=%s endpoint=%s reason=\"it is no longer the primary\"", sv->ledger->name,
                  sv->endpoint->label);
}

void pg_role_reported(struct pg_server *ps, struct span name, struct span value)
{
    if (!span_eq(name, SPAN_LIT("in_hot_standby")))
        return;
    ps->base.role = span_eq(value, SPAN_LIT("on")) ? ROLE_STANDBY : ROLE_PRIMARY;
    judge(ps);
}

void pg_role_error(struct pg_server *ps, struct span body)
{
    struct pg_fields f;
    if (ps->base.conf->target == TARGET_PRIMARY && pg_read_error(body, &f) &&
        span_eq(f.sqlstate, SPAN_LIT("25006")))
        ps->role_doubted = true;
}

void pg_role_row(struct pg_server *ps, struct span body)
{
    /* columns, length, value: one, of one byte */
    static const uint8_t head[] = {0, 1, 0, 0, 0, 1};
    if (body.n != sizeof head + 1 || memcmp(body.p, head, sizeof head) != 0)
        return;
    ps->role_doubted = false;
    ps->base.role = body.p[sizeof head] == 't' ? ROLE_STANDBY : ROLE_PRIMARY;
    judge(ps);
}
