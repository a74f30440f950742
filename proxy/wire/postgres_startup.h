/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The packets before a Postgres session is a session: length, then a code instead of a type.
 * (PostgreSQL manual, "SSLRequest", "GSSENCRequest", "CancelRequest", "StartupMessage".) Pure.
 *
 *     TLS_HELLO ---- caller starts TLS (ALPN "postgresql" required), sets .tls ---+
 *     SSL    ------- caller answers 'S' and starts TLS, or 'N' -------------------+--> next packet
 *     GSSENC ------- caller answers 'N' ------------------------------------------+
 *     CANCEL ------- caller forwards, closes without a word
 *     SESSION ------ login
 *
 * SSLRequest and GSSENCRequest are accepted once each, never inside TLS; bytes behind either of
 * them are refused (they would be cleartext slipped in front of what TLS protects). The caller must
 * also check, after it answered 'S', that nothing but TLS came.
 */
#include "proxy/core/err.h"
#include "proxy/core/span.h"

enum {
    PG_STARTUP_MAX = 10000, /* bytes of a packet with its length word, as the server's own bound */
    PG_CANCEL_KEY_MAX = 256,
    PG_PROTOCOL_3_0 = 3 << 16,
    PG_PROTOCOL_3_2 = 3 << 16 | 2,
    /* where a StartupMessage has its version */
    PG_CODE_CANCEL = 1234 << 16 | 5678,
    PG_CODE_SSL = 1234 << 16 | 5679,
    PG_CODE_GSSENC = 1234 << 16 | 5680
};

enum pg_startup_step {
    PG_STARTUP_WAIT,      /* needs more bytes */
    PG_STARTUP_TLS_HELLO, /* the peer speaks TLS at once; nothing consumed */
    PG_STARTUP_SSL,
    PG_STARTUP_GSSENC,
    PG_STARTUP_CANCEL,
    PG_STARTUP_SESSION,
    PG_STARTUP_BAD
};

enum pg_replication { PG_REPLICATION_NO, PG_REPLICATION_PHYSICAL, PG_REPLICATION_LOGICAL };

/* What came before on this connection; zero at first. pg_startup_next() keeps ssl and gssenc, the
 * caller sets tls when the connection is inside TLS. */
struct pg_startup_seen {
    bool ssl, gssenc, tls;
};

struct pg_startup {
    size_t used; /* bytes of `in` this packet took */

    /* CANCEL */
    uint32_t pid;
    struct span key; /* 1 to PG_CANCEL_KEY_MAX bytes */

    /* SESSION; spans point into `in` */
    uint16_t major, minor; /* major is always 3 */
    struct span params;    /* all pairs, for pg_param_next() */
    struct span user;      /* never empty */
    struct span database;  /* the user's name if not given or empty */
    struct span options;   /* empty if not given */
    enum pg_replication replication;
    uint32_t protocol_options; /* parameters whose names begin with "_pq_." */

    /* BAD */
    char sqlstate[6];
    bool silent; /* this is no Postgres client: close without an answer */
};

/*
 * Looks at one packet at the start of `in`. On BAD *err has the sentence and out->sqlstate its
 * code, for an ErrorResponse of severity FATAL (unless out->silent). Of parameters given twice the
 * last wins.
 */
enum pg_startup_step pg_startup_next(struct pg_startup_seen *seen, struct span in,
                                     struct pg_startup *out, struct err *err);

/* Takes the next name and value off `params` (out->params, already checked). False at the end. */
bool pg_param_next(struct span *params, struct span *name, struct span *value);
/* The last value given for `name` (case-sensitive, as the server). False if there is none. */
bool pg_param_get(struct span params, const char *name, struct span *value);
/* Does the name ask for a protocol extension ("_pq_.")? Never forward these. */
bool pg_param_is_protocol_option(struct span name);

enum pg_option {
    PG_OPTION_SETTING,
    PG_OPTION_END,
    PG_OPTION_BAD /* not to be understood */
};

/*
 * Takes the next setting off a startup packet's `options`, which the server reads as words of its
 * command line (pg_split_opts() and process_postgres_switches() of its sources): "-c name=value",
 * "-cname=value" and "--name=value", cut at blanks. A backslash takes the meaning from what follows
 * it, and a dash in a name is an underscore. The server's other switches are BAD: none of them is a
 * matter of a session behind a pool.
 *
 * `text` has room for options->n bytes; the (never empty) name and the value will be in there.
 */
enum pg_option pg_option_next(struct span *options, uint8_t *text, struct span *name,
                              struct span *value);
