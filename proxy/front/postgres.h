/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The Postgres relay. What its files share:
 *
 *     postgres_login.c   from accept to ReadyForQuery: TLS, startup, authentication, cancels
 *     postgres_relay.c   states, leases and deadlines of a session
 *     postgres_client.c  the client's bytes
 *     postgres_server.c  the server's bytes
 *     postgres_settings.c  parameters that follow the client from server to server
 *     postgres_lost.c    what the client hears when its server is lost, or none could be had
 *     postgres_answer.c  what carpool itself says to a client
 *     postgres_keys.c    cancel keys: from the key a client shows to its session
 *
 *     STARTUP -> (TLS) -> STARTUP -> (LOGIN) -> (WELCOME) -> IDLE
 *
 *            message                granted                  parameters fit
 *     IDLE ---------> WAITING ---------------> (SETTING) ---------------------> LINKED
 *      ^                 | refused: swallowed up to Sync                          | |
 *      +-----------------+                                                        | |
 *      +------------------- server said 'I', owes nothing ------------------------+ |
 *      +-- ROLLBACK -- FAILED <------- server lost inside a transaction ------------+
 */
#include "pools/postgres.h"
#include "proxy/front/front.h"
#include "proxy/wire/postgres_startup.h"
#include "proxy/wire/postgres_write.h"
#include "proxy/wire/scram.h"

enum pg_state {
    PG_STARTUP, /* untyped packets */
    PG_TLS,     /* the handshake */
    PG_LOGIN,   /* the client proves who it is */
    PG_WELCOME, /* waits for a first server: nobody knows the parameters yet */
    PG_IDLE,    /* no server */
    PG_WAITING, /* wants one */
    PG_SETTING, /* has one that must be set to the client's parameters first */
    PG_LINKED,  /* bytes flow */
    PG_FAILED,  /* its transaction died with its server; only ROLLBACK helps */
    PG_STATES
};

/* Needed until logged in, then freed. */
struct pg_login {
    struct pg_startup_seen seen;
    bool negotiate; /* the client asked for more than 3.0 */
    bool proof_sent_first;
    struct scram scram;
    struct scram_verifier mock;
    struct pg_params *wants; /* startup parameters */
    char user[128];
    size_t user_n;
};

struct pg_session {
    struct session base;
    enum pg_state state;
    struct pg_framer framer;
    struct bufq carry;        /* bytes of the client that cannot be used yet */
    struct pg_server *server; /* while SETTING, LINKED */
    struct waiter waiter;     /* its err is also why carpool answers instead of a server */
    struct pg_params *params; /* what the client wants its server set to */
    struct pg_login *login;
    struct pg_swallow swallow; /* with refusal: answered by carpool up to Sync */
    bool swallowing;
    bool admitted;       /* counted as an exchange */
    bool pinned;         /* session state lives on the server: keep it */
    bool loss_untold;    /* FAILED: nothing was asked when the server was lost */
    bool local_rollback; /* FAILED: an extended ROLLBACK is being answered */
    bool cancelled;      /* its deadline passed: the server's 57014 is ours to explain */
    bool dropping_body;  /* the rest of a replaced message from the server */
    bool client_gone;
    uint8_t deadline;                  /* enum pg_deadline */
    size_t stall_client, stall_server; /* untaken when the stall clock was set: less is progress */
    uint32_t permit; /* of the service breaker, for the exchange under way; 0: none */
    uint32_t key_pid;
    uint8_t key[4];
    struct list key_node;
};

enum pg_deadline {
    PG_DEADLINE_NONE,
    PG_DEADLINE_LOGIN,
    PG_DEADLINE_REQUEST,
    PG_DEADLINE_CANCEL,
    PG_DEADLINE_IDLE_TX,
    PG_DEADLINE_IDLE,
    PG_DEADLINE_STALL,
};

extern const struct relay_ops postgres_relay;

static inline struct pg_session *pg_session_of(struct session *s)
{
    return OWNER(s, struct pg_session, base);
}

/* login */
void pg_login_readable(struct pg_session *s);
void pg_login_lease(struct pg_session *s); /* the waiter of WELCOME has settled */
void pg_login_free(struct pg_session *s);
void *pg_guard_new(const struct front_conf *front, const struct pool_conf *pool, struct err *err);
void pg_guard_free(void *guard);

/* relay: states, leases, deadlines */
const char *pg_state_name(enum pg_state state);
void pg_become(struct pg_session *s, enum pg_state to);
void pg_set_deadline(struct pg_session *s, enum pg_deadline kind, uint64_t ms);
/* A side takes nothing now: in write_stall at the latest something must have moved. */
void pg_watch_stall(struct pg_session *s);
/* Bytes a peer may leave unsent before the other side is not read any more. */
size_t pg_high_water(const struct pg_session *s);
/* Session mode, or session state that lives on the server. */
bool pg_keeps_server(const struct pg_session *s);
/* Neither side has sent anything that is not answered, not even half. */
bool pg_may_release(const struct pg_session *s);
/* Leases a server, waits for one, or swallows up to Sync. */
void pg_want_server(struct pg_session *s);
/* The server owes nothing and is in no transaction. */
void pg_transaction_end(struct pg_session *s);
void pg_give_back(struct pg_session *s);
/* The exchange counts no more, for limits and breaker; tell_service() first if there was a
 * server. */
void pg_exchange_over(struct pg_session *s);
void pg_tell_service(struct pg_session *s, bool well);

/* client */
void pg_client_readable(struct session *base);
/* What was carried over, after a change of state; uses the loop's scratch memory. */
void pg_relay_input(struct pg_session *s);

/* server */
extern const struct holder_ops pg_holder_ops;
void pg_note_parameter(struct pg_session *s, struct span body);

/* settings */
/* The lease in the waiter becomes the session's server, set to its parameters first if need be. */
void pg_link_up(struct pg_session *s);
/* One message of the answer; true: that was the last, call pg_settings_done(). */
bool pg_setting_one(struct pg_session *s, const struct pg_msg *m, enum pg_flow_step step);
void pg_settings_done(struct pg_session *s);

/* lost */
void pg_lose_server(struct pg_session *s, const struct err *why, enum outcome outcome);
/* One message of a client whose request gets no server, or whose transaction is lost. */
void pg_swallow_one(struct pg_session *s, const struct pg_msg *m);
void pg_failed_one(struct pg_session *s, const struct pg_msg *m);

/* answer */
const char *pg_sqlstate(enum cause cause, bool commit);
void pg_say(struct pg_session *s, const struct pg_out *out);
/* ErrorResponse for err; severity "ERROR" or "FATAL". sqlstate NULL: by its cause. */
void pg_say_error(struct pg_session *s, const struct err *err, const char *severity,
                  const char *sqlstate);
void pg_say_ready(struct pg_session *s, uint8_t status);
/* FATAL, then the session ends. */
void pg_refuse(struct pg_session *s, const struct err *err, const char *sqlstate);

/* keys */
void *pg_keys_new(void);
void pg_keys_free(void *keys);
bool pg_keys_add(struct pg_session *s);
void pg_keys_remove(struct pg_session *s);
/* Any worker: finds the session the key belongs to and cancels what it runs. */
void pg_keys_cancel(struct route *r, uint32_t pid, struct span key);
