/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The Postgres relay. What its files share:
 *
 *     postgres_login.h   from accept to ReadyForQuery: TLS, startup, parameters, cancels
 *     postgres_auth.h    how a client proves who it is
 *     postgres_relay.c   states and leases of a session
 *     postgres_clock.c   its deadlines
 *     postgres_client.c  the client's bytes
 *     postgres_server.c  the server's bytes
 *     postgres_rename.c  prepared statements that follow the client from server to server
 *         postgres_unnamed.c, postgres_rename_answers.c, postgres_dealloc.c  parts of that
 *     postgres_statements.c  what they say, and what each client calls them
 *     postgres_follow.c  what a session leaves on its server: it follows, or the client stays
 *     postgres_ask.c     what it has set is asked for
 *     postgres_pins.c    why a client keeps its server, and until when
 *     postgres_named.c   prepared statements that do not follow it, and reset settings
 *     postgres_settings.c  parameters that follow the client from server to server
 *     postgres_lost.c    what the client hears when its server is lost, or none could be had
 *     postgres_answer.c  what carpool itself says to a client
 *     postgres_outbox.c  pieces of what was read and of our own, on their way in one write
 *     postgres_describe.c  what operators see
 *     postgres_keys.c    cancel keys: from the key a client shows to its session
 *
 *     STARTUP -> (TLS) -> STARTUP -> (LOGIN) -> (PLACING) -> (WELCOME) -> IDLE
 *
 *            message                granted                  parameters fit
 *     IDLE ---------> WAITING ---------------> (SETTING) ---------------------> LINKED
 *      ^                 | refused                                                | |
 *      +-- Sync -- SWALLOWING <-------- server lost in the middle of a batch -----+ |
 *      +------------------- server said 'I', owes nothing ------------------------+ |
 *      +-- ROLLBACK -- FAILED <------- server lost inside a transaction ------------+
 */
#include "pools/postgres.h"
#include "proxy/front/front.h"
#include "proxy/wire/postgres_startup.h"
#include "proxy/wire/postgres_text.h"
#include "proxy/wire/postgres_write.h"

enum pg_state {
    PG_STARTUP,    /* untyped packets */
    PG_TLS,        /* the handshake */
    PG_LOGIN,      /* the client proves who it is */
    PG_PLACING,    /* waits for its pool, of several behind the listener, to be made */
    PG_WELCOME,    /* waits for a first server: nobody knows the parameters yet */
    PG_IDLE,       /* no server */
    PG_WAITING,    /* wants one */
    PG_SETTING,    /* has one that must be set to the client's parameters first */
    PG_LINKED,     /* bytes flow */
    PG_SWALLOWING, /* no server, or none any more: answered by carpool up to Sync */
    PG_FAILED,     /* its transaction died with its server; only ROLLBACK helps */
    PG_STATES
};

/* What carpool's own query on a client's server is for. */
enum pg_errand {
    PG_ERRAND_LINK,  /* to set it to what the client wants, before a byte of the client's */
    PG_ERRAND_AGAIN, /* the same between its messages, in a transaction or a session */
    PG_ERRAND_ASK    /* what its last words have set, when they are done */
};

struct pg_login;      /* needed until logged in, then freed */
#define PG_KEY_MAX 16 /* a cancel key of protocol 3.2, which allows 256 bytes; 4 before */

struct pg_session {
    struct session base;
    enum pg_state state;
    struct pg_framer framer;
    uint32_t user;            /* its name, in the route's `users`; 0: not logged in */
    struct bufq carry;        /* bytes of the client that cannot be used yet */
    struct pg_server *server; /* while SETTING, LINKED */
    struct waiter waiter;     /* its err is also why carpool answers instead of a server */
    struct pg_params *params; /* what the client wants its server set to */
    struct pg_client_statements *statements; /* NULL until it has any */
    struct pg_params *startup;   /* what it asked for when it came in: RESET goes back to that */
    struct pg_params *settled;   /* `params` before the transaction at hand; NULL: as they are */
    struct pg_follow *follow;    /* NULL until it leaves anything on a server */
    uint64_t deadline_ms;        /* when `deadline` is; without meaning if that is NONE */
    uint64_t transaction_due_ms; /* timeouts.transaction; 0: no limit, or none under way */
    struct pg_login *login;
    struct pg_swallow swallow; /* SWALLOWING, FAILED */
    enum pg_errand errand;     /* SETTING */
    bool encoded;              /* SETTING: its encoding; what it says in that follows */
    bool put_off;              /* SETTING: nothing was sent yet, a cancel is on its way */
    bool held;                 /* a message of the client's waits for answers of the server */
    bool asked_copy;           /* held: the server was asked to say what became of a COPY */
    bool resetting;      /* RESET or DISCARD ALL was done: reported values are the server's own */
    bool admitted;       /* counted as an exchange */
    bool unheard;        /* LINKED: no byte of the client's has gone to this server yet */
    bool renames;        /* prepared statements follow the client: the unnamed one ... */
    bool shares;         /* ... and the others, which are shared, under names of ours */
    bool loss_untold;    /* FAILED: nothing was asked when the server was lost */
    bool local_rollback; /* FAILED: an extended ROLLBACK is being answered ... */
    bool rolled_back;    /* ... and was executed: its Sync ends the transaction */
    bool cancelled;      /* its deadline passed: the server's 57014 is ours to explain */
    bool dropping_body;  /* the rest of a replaced message from the server */
    bool drops;          /* the Query at hand may end prepared statements */
    bool reset_sent;     /* a RESET or DISCARD ALL is under way */
    bool ready_late;     /* behind the server's last ReadyForQuery a message was half there */
    uint16_t pins;       /* PG_LEFT() of why it keeps its server, where state of its own lives */
    uint8_t key_n;
    uint8_t replication; /* enum pg_replication: such a client has a server dialed for it alone */
    uint8_t deadline;    /* enum pg_deadline */
    uint8_t told;        /* enum cause: what it heard of us in an exchange that goes on */
    uint8_t tries;       /* servers lost before they got a byte of what it asks now */
    uint32_t renaming;   /* what its statements wait for: names not confirmed, answers of ours */
    uint32_t stall_client,
        stall_server; /* untaken when the stall clock was set: less is progress */
    uint32_t permit;  /* of the service breaker, for the exchange under way; 0: none */
    uint32_t key_pid;
    uint8_t key[PG_KEY_MAX];
    struct list key_node;
    struct deferred begin; /* IDLE: its words in `carry` are used at the end of the turn */
};

enum pg_deadline {
    PG_DEADLINE_NONE,
    PG_DEADLINE_LOGIN,
    PG_DEADLINE_REQUEST,
    PG_DEADLINE_CANCEL,
    PG_DEADLINE_IDLE_TX,
    PG_DEADLINE_IDLE,
    PG_DEADLINE_STALL,
    PG_DEADLINE_SETTING,
};

/* A pool on one worker. */
struct pg_route {
    void *keys; /* of all clients that came in here; NULL until there is one */
    struct pg_statements *statements;
    struct pg_failures *failures; /* of logins; NULL until there is one */
    struct pg_lookups *lookups;   /* of users; NULL until there is one */
    struct pg_users *users;       /* who is logged in; NULL until somebody is */
};

extern const struct relay_ops postgres_relay;

static inline struct pg_session *pg_session_of(struct session *s)
{
    return OWNER(s, struct pg_session, base);
}

/* outbox */
enum { PG_OUTBOX_PIECES = 32, PG_OUTBOX_OWN = 1024 };
/* On the stack of who walks over what was read: the pieces must stay where they are until flush. */
struct pg_outbox {
    struct pg_session *session;
    bool to_server;
    int n;
    size_t own_n;
    struct iovec iov[PG_OUTBOX_PIECES];
    uint8_t own[PG_OUTBOX_OWN];
};
void pg_outbox_init(struct pg_outbox *o, struct pg_session *s, bool to_server);
void pg_outbox_add(struct pg_outbox *o, struct span piece);
/* n bytes to be filled by the caller at once; at most PG_OUTBOX_OWN. */
uint8_t *pg_outbox_own(struct pg_outbox *o, size_t n);
/* What is in it is sent, or dropped if there is nobody to send it to. */
void pg_outbox_flush(struct pg_outbox *o);

/* login */
bool pg_login_new(struct pg_session *s);
void pg_login_readable(struct pg_session *s);
void pg_login_lease(struct pg_session *s); /* the waiter of WELCOME has settled */
void pg_login_free(struct pg_session *s);
/* Its time is over, and the client is not to blame: *err says what is. */
MUST_USE bool pg_login_is_asking(const struct pg_session *s, struct err *err);

/* clock: deadlines */
/* In so many milliseconds; it takes the place of the one before. 0: none. */
void pg_set_deadline(struct pg_session *s, enum pg_deadline kind, uint64_t ms);
/* A side takes nothing now: in write_stall at the latest something must have moved. */
void pg_watch_stall(struct pg_session *s);
void pg_watch_if_held_up(struct pg_session *s); /* the same if the client is far behind */
void pg_await_client(struct pg_session *s);     /* to take its answers, then to speak */
void pg_stall_over(struct pg_session *s);       /* the client has taken all */
/* What the client said has ended its deadline; if it asks for nothing (half a message, Flush), it
 * is as idle as before. */
void pg_watch_idle(struct pg_session *s);
/* Something was sent, or a transaction has ended (`anew`): is one under way, and since when? */
void pg_watch_transaction(struct pg_session *s, bool anew);
void pg_on_deadline(struct session *base);

/* relay: states, leases */
const char *pg_state_name(enum pg_state state);
void pg_become(struct pg_session *s, enum pg_state to);
/* Bytes a peer may leave unsent before the other side is not read any more. */
size_t pg_high_water(const struct pg_session *s);
/* Session mode, or session state that lives on the server. */
bool pg_keeps_server(const struct pg_session *s);
/* Neither side has sent anything that is not answered, not even half. */
bool pg_may_release(const struct pg_session *s);
/* No server for what the client asks: told with the first message, then swallowed up to Sync. */
COLD void pg_refuse_exchange(struct pg_session *s, const struct err *err, bool waited);
/* Leases a server, waits for one, or swallows up to Sync. */
void pg_want_server(struct pg_session *s);
/* A CancelRequest: if no server has heard of what the client asks, it hears now that it is not
 * done. False: a server may be at it. */
bool pg_cancel_wait(struct pg_session *s);
/* The server owes nothing and is in no transaction. */
void pg_transaction_end(struct pg_session *s);
/* `cause`: how its exchange ended, for the access log. */
void pg_give_back(struct pg_session *s, enum cause cause);
/* While the session still has its server. */
void pg_note_access(struct pg_session *s, enum cause cause);
/* The exchange counts no more, for limits and breaker; tell_service() first if there was a
 * server. */
void pg_exchange_over(struct pg_session *s);
/* While the session still has its server. `sick`: what shows that it is; NULL: it is well. */
void pg_tell_service(struct pg_session *s, const char *sick);

/* rename */
enum pg_named {
    PG_NAMED_PASS,     /* forward it as it is, and tell the flow */
    PG_NAMED_SENT,     /* done: what is to go out instead is in the outbox, the flow knows */
    PG_NAMED_FULL,     /* not now, as PG_FLOW_FULL: ask again after answers */
    PG_NAMED_TOO_MANY, /* refuse: the client's statements are at their bound */
    PG_NAMED_TOO_LONG, /* refuse: names that are too long to be looked at */
    PG_NAMED_NO_MEMORY,
    PG_NAMED_OTHER
};
/* Ask first. False: not now, as PG_NAMED_FULL. */
bool pg_rename_room(struct pg_session *s);
/* A client's message begins, of a session that renames; what precedes it is in the outbox. */
enum pg_named pg_rename(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *o);
/* Answers of carpool's own whose turn it is, into an outbox to the client; did it add any? Ask
 * after each message of either side while `renaming` is not 0. */
bool pg_rename_local(struct pg_session *s, struct pg_outbox *to_client);
/* The flow was told of a server's message. True: it answers one of ours, the client must not see
 * it. */
bool pg_rename_told(struct pg_session *s, const struct pg_msg *m);
static inline bool pg_rename_answer(struct pg_session *s, const struct pg_msg *m)
{
    bool matters = s->renaming > 0 || m->type == 'C' || m->type == 'E';
    return s->renames && matters && pg_rename_told(s, m);
}
/* An ErrorResponse that names a statement as the server does; before pg_rename_answer(). True: it
 * is in the outbox in the client's words, what precedes it must be there. */
bool pg_rename_error(struct pg_session *s, const struct pg_msg *m, struct pg_outbox *to_client);
/* Its unnamed statement is on its server alone, and may still be used: it was only prepared. */
bool pg_unnamed_stays(const struct pg_session *s);
/* The session lets its server go. */
void pg_rename_unlink(struct pg_session *s);
void pg_rename_free(struct pg_session *s);

/* client */
void pg_client_readable(struct session *base);
/* At the end of the turn: what it said while it was IDLE. */
void pg_begin(struct deferred *d);
/* What was carried over, after a change of state; uses the loop's scratch memory. */
void pg_relay_input(struct pg_session *s);

/* server */
extern const struct holder_ops pg_holder_ops;

/* follow */
/* What is sent instead of a statement: a syntax error, with a letter ('a' + enum pg_leaves) that
 * says why. */
#define PG_REFUSED "carpool_refused_"
/* A query, or a statement to be prepared, is sent. Not NOTHING: it is to be refused, since it would
 * leave this behind. */
enum pg_leaves pg_follow_query(struct pg_session *s, struct span text);
enum pg_leaves pg_follow_parse(struct pg_session *s, struct span text, bool unnamed);
/* The unnamed statement is this one after all. */
void pg_follow_unnamed(struct pg_session *s, struct span text);
/* A statement is bound, to be run; t NULL: the unnamed one. */
void pg_follow_bind(struct pg_session *s, const struct pg_trace *t);
/* A statement is prepared, or bound, that has a name and does not follow the client. */
void pg_follow_parse_named(struct pg_session *s, struct span name, struct span text);
void pg_follow_bind_named(struct pg_session *s, struct span name);
/* A Close is sent while a cursor WITH HOLD keeps the server: of its portal, perhaps. */
void pg_pins_close(struct pg_session *s, struct span body);
/* CommandComplete, which is in the outbox to the client. May end the session. */
void pg_follow_tag(struct pg_session *s, struct span body, struct pg_outbox *to_client);
/* Before the first ParameterStatus behind them, which stands at the end of a query, or
 * ReadyForQuery: RESETs that were done count. What is told for that goes to the outbox, and what
 * precedes it must be there. */
void pg_follow_reset(struct pg_session *s, struct pg_outbox *to_client);
/* ReadyForQuery. */
void pg_follow_ready(struct pg_session *s);
/* The transaction is over. True: SETTING now, to ask for what it has set; then pg_follow_row() with
 * the answer, and pg_follow_asked(). */
bool pg_follow_ask(struct pg_session *s);
void pg_follow_row(struct pg_session *s, struct span body);
void pg_follow_asked(struct pg_session *s);
/* What the client knows to be set was not asked for yet: it is gone with this server. */
bool pg_follow_unasked(const struct pg_session *s);
/* Something that it sets was sent, and how that ended was not asked for. */
bool pg_follow_owes(const struct pg_session *s);
/* 0, or what tells statements that are read now from those of the same text that are read under the
 * settings the server is known to have. */
uint64_t pg_follow_salt(const struct pg_session *s);
void pg_follow_lost(struct pg_session *s); /* the server */
/* An ErrorResponse. */
void pg_follow_failed(struct pg_follow *f);
void pg_follow_free(struct pg_session *s);

/* pins: why it keeps its server */
COLD void pg_pin(struct pg_session *s, enum pg_leaves why);
/* Completes "keeps its server: ". */
const char *pg_pin_word(enum pg_leaves what);
const char *pg_pinned_by(const struct pg_session *s); /* NULL: nothing pins it */

/* settings */
void pg_sql_text(struct pg_out *o, const char *text);
/* A string constant that means the same whatever standard_conforming_strings is. */
void pg_sql_literal(struct pg_out *o, struct span v);
/* SETTING now, with this query of our own under way; or put off: a cancel of the client's may still
 * arrive, and it is not to hit what the client did not ask for. False: it cannot be sent. */
bool pg_settings_send(struct pg_session *s, const struct pg_out *text);
/* No cancel is on its way any more: what was put off is sent. */
void pg_settings_unheld(struct pg_session *s);
/* A linked server is no longer set to what the client wants: between two of its messages it is set
 * again. False: nothing to do. */
bool pg_settings_again(struct pg_session *s);
/* RESET of a name, or (empty) of all was done by the server, which went back to its own values: the
 * client goes back to those it came with, and hears of what changes for it. */
void pg_settings_reset(struct pg_session *s, struct span name, struct pg_outbox *to_client);
/* That was rolled back: what the server does not report is as it was. */
void pg_settings_restore(struct pg_session *s, struct pg_params *before);
/* A parameter that the server reported while LINKED. False: that is no news for the client. */
bool pg_settings_reported(struct pg_session *s, struct span body);
/* The transaction that has changed them is lost with its server: the client is told of those that
 * servers report. */
void pg_settings_lost(struct pg_session *s, bool rolled_back);
/* The lease in the waiter becomes the session's server, set to its parameters first if need be. */
void pg_link_up(struct pg_session *s);
/* One message of the answer; true: that was the last, call pg_settings_done(). */
bool pg_setting_one(struct pg_session *s, const struct pg_msg *m, enum pg_flow_step step);
void pg_settings_done(struct pg_session *s);

/* lost */
/* LINKED: the server was gone before it took a byte of the client's. All of them, from where it was
 * leased, are in the carry again. */
COLD void pg_lose_unheard(struct pg_session *s);
COLD void pg_lose_server(struct pg_session *s, const struct err *why, enum outcome outcome);
/* One message of a client whose request gets no server, or whose transaction is lost. */
void pg_swallow_one(struct pg_session *s, const struct pg_msg *m);
void pg_failed_one(struct pg_session *s, const struct pg_msg *m);

/* answer */
const char *pg_sqlstate(enum cause cause, bool commit);
void pg_say(struct pg_session *s, const struct pg_out *out);
/* ErrorResponse for err; severity "ERROR" or "FATAL". sqlstate NULL: by its cause. */
COLD void pg_say_error(struct pg_session *s, const struct err *err, const char *severity,
                       const char *sqlstate);
void pg_say_ready(struct pg_session *s, uint8_t status);
/* FATAL, then the session ends. */
COLD void pg_refuse(struct pg_session *s, const struct err *err, const char *sqlstate);
/* The same in the middle of anything: without a word if half a message is out. */
COLD void pg_break_off(struct pg_session *s, const struct err *err, const char *sqlstate);

/* describe */
void pg_describe(const struct session *base, struct census_client *row);

/* keys */
void *pg_keys_new(void);
void pg_keys_free(void *keys);
/* Bytes of the secret that a client of this protocol version gets. */
uint8_t pg_keys_size(uint32_t version);
bool pg_keys_add(struct pg_session *s); /* s->key_n is set */
void pg_keys_remove(struct pg_session *s);
/* Any worker: finds the session the key belongs to and cancels what it runs. */
void pg_keys_cancel(struct route *r, uint32_t pid, struct span key);
