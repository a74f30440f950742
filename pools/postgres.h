/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Postgres servers: what driver, dial, cancel and the relay share of one connection.
 *
 * The dial (postgres_dial.c) logs in by libpq and leaves the socket, the cancel key and what the
 * server reported. From then on carpool speaks the protocol itself; the PGconn is kept for its SSL
 * object and freed with the server.
 */
#include "pools/postgres_params.h"
#include "pools/postgres_prepared.h"
#include "pools/server.h"
#include "proxy/wire/postgres.h"
#include "proxy/wire/postgres_flow.h"

#define PG_CARRY_MAX (96 * 1024) /* an incomplete message that must be seen whole */

struct pg_conn; /* libpq's PGconn */
struct pg_check;

struct pg_server {
    struct server base;
    struct pg_framer framer;
    struct pg_flow flow;
    struct pg_params *params; /* what it is set to now */
    struct pg_params *origin; /* what it reported at login */
    struct bufq carry;        /* an incomplete message; empty while idle */
    struct pg_prepared_cache *prepared;
    /* Whose unnamed statement it has (a session's id; 0: nobody's), and which of that client's. */
    uint32_t unnamed_of, unnamed_id;
    bool asked;        /* a query of carpool's own, sent while a session had it, is unanswered */
    bool reset_needed; /* a session used it: DISCARD ALL before anybody else */
    bool check_failed;
    bool role_doubted; /* it refused to write: is it the primary still? Asked when it comes back */
    uint32_t pid;
    uint8_t key_n;
    uint8_t key[32];
    struct sockaddr_storage addr; /* the peer's, for cancels */
    socklen_t addr_n;
    struct pg_conn *conn;
};

/* For who is not told: t on a standby. */
#define PG_ROLE_QUERY "SELECT pg_catalog.pg_is_in_recovery()"

extern const struct driver_ops postgres_driver;

static inline struct pg_server *pg_server_of(struct server *sv)
{
    return OWNER(sv, struct pg_server, base);
}

/* Nothing that it says is half there: neither a message nor its header. */
static inline bool pg_server_is_whole(const struct pg_server *ps)
{
    return pg_at_boundary(&ps->framer) && !ps->carry.len;
}

/*
 * Sends a CancelRequest for whatever the server does now, over a connection of its own (TLS if the
 * server has TLS) from the dialer's thread. The server is held until that connection has closed: no
 * later statement can be hit. False: no memory, or too many under way.
 */
bool pg_cancel(struct pg_server *ps);

/* postgres_dial.c */
void pg_dial(struct server *sv, struct loop *loop);
void pg_conn_free(struct pg_conn *conn);

/* ---- postgres_role.c: which role it has, while it is open; on its worker ---- */

/* A parameter that it reported. */
void pg_role_reported(struct pg_server *ps, struct span name, struct span value);
/* An ErrorResponse's body. */
void pg_role_error(struct pg_server *ps, struct span body);
/* The DataRow that answers PG_ROLE_QUERY. */
void pg_role_row(struct pg_server *ps, struct span body);

/*
 * Reads what there is behind what was carried over, into the loop's scratch memory. Returns the
 * bytes to look at (in *in), or what io_read said (0, negative) with *in empty. Afterwards
 * pg_carry() keeps what could not be used; false: too much, or no memory.
 */
ssize_t pg_fill(struct io *io, struct bufq *carry, struct span *in);
MUST_USE bool pg_carry(struct loop *loop, struct bufq *carry, struct span rest);
