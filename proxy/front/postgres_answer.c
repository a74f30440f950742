/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "pools/ledger.h"
#include "proxy/front/postgres.h"

const char *pg_sqlstate(enum cause cause, bool commit)
{
    switch (cause) {
    case CAUSE_ACQUIRE_TIMEOUT:
    case CAUSE_QUEUE_FULL:
    case CAUSE_UPSTREAM_BUSY:
    case CAUSE_PAUSED:
    case CAUSE_TOO_MANY_CLIENTS:
    case CAUSE_OVERLOADED:
        return "53300"; /* too_many_connections */
    case CAUSE_RATE_LIMITED:
        return "53400"; /* configuration_limit_exceeded */
    case CAUSE_OUTAGE:
    case CAUSE_BREAKER_OPEN:
    case CAUSE_DIAL_FAILED:
    case CAUSE_UPSTREAM_AUTH:
    case CAUSE_TLS_FAILED:
        return "08001"; /* sqlclient_unable_to_establish_sqlconnection */
    case CAUSE_REQUEST_TIMEOUT:
    case CAUSE_CANCELLED:
        return "57014"; /* query_canceled */
    case CAUSE_IDLE_TIMEOUT:
    case CAUSE_CLIENT_TIMEOUT:
    case CAUSE_WRITE_STALL:
        return "57P05"; /* idle_session_timeout */
    case CAUSE_UPSTREAM_CLOSED:
        return commit ? "08007" : "08006";
    case CAUSE_OUTCOME_UNKNOWN:
        return "08007"; /* transaction_resolution_unknown */
    case CAUSE_UPSTREAM_PROTOCOL:
    case CAUSE_CLIENT_PROTOCOL:
        return "08P01"; /* protocol_violation */
    case CAUSE_AUTH_FAILED:
        return "28P01"; /* invalid_password */
    case CAUSE_DENIED:
        return "42501"; /* insufficient_privilege */
    case CAUSE_TOO_LARGE:
        return "54000"; /* program_limit_exceeded */
    case CAUSE_NO_ROUTE:
        return "3D000"; /* invalid_catalog_name */
    case CAUSE_UNSUPPORTED:
        return "0A000"; /* feature_not_supported */
    case CAUSE_DRAINING:
    case CAUSE_KILLED:
        return "57P01"; /* admin_shutdown */
    case CAUSE_CLIENT_GONE:
        return "08006";
    case CAUSE_NONE:
    case CAUSE_INTERNAL:
    case CAUSE_COUNT:
        break;
    }
    return "XX000"; /* internal_error */
}

static const char *const hints[CAUSE_COUNT] = {
    [CAUSE_ACQUIRE_TIMEOUT] =
        "Raise size.max, shorten transactions, or raise size.acquire_timeout.",
    [CAUSE_QUEUE_FULL] = "Raise size.waiters or size.max.",
    [CAUSE_TOO_MANY_CLIENTS] = "Raise limits.clients.",
    [CAUSE_UPSTREAM_BUSY] =
        "The database itself allows no more connections: lower size.max, or raise its limit.",
    [CAUSE_PAUSED] = "Somebody ran \"carpool pause\"; \"carpool resume\" ends it.",
    [CAUSE_OUTAGE] = "Is the database up, and does carpool reach it? See \"carpool status\".",
    [CAUSE_DIAL_FAILED] = "Is the database up, and does carpool reach it? See \"carpool status\".",
    [CAUSE_UPSTREAM_AUTH] =
        "The database refuses carpool's own login: check user, password and database.",
    [CAUSE_OUTCOME_UNKNOWN] =
        "The transaction may or may not have been committed: look before you repeat it.",
};

void pg_say(struct pg_session *s, const struct pg_out *out)
{
    CHECK(!out->overflow);
    if (out->n)
        io_send(&s->base.io, out->p, out->n);
}

/* Who got no server hears how many others want one. The waiter itself, which has just left the
 * queue, counts as one of them. */
static void put_crowd(const struct pg_session *s, enum cause cause, char *text, size_t cap)
{
    struct pool_crowd crowd;
    bool waited = cause != CAUSE_QUEUE_FULL;
    uint64_t own = waited ? elapsed_ms(loop_now(session_loop(&s->base)), s->waiter.since_ms) : 0;
    pool_crowd(session_pool(&s->base), &crowd);
    snprintf(text, cap, " servers=%u/%u busy=%u dialing=%u waiting=%u oldest_wait_ms=%llu",
             crowd.open, crowd.max, crowd.busy, crowd.dialing, crowd.waiting + waited,
             (unsigned long long)(own > crowd.oldest_ms ? own : crowd.oldest_ms));
    size_t n = strlen(text);
    if (crowd.group_max)
        snprintf(text + n, cap - n, " group=%u/%u", crowd.group_open, crowd.group_max);
}

static bool is_about_a_crowd(enum cause cause)
{
    return cause == CAUSE_ACQUIRE_TIMEOUT || cause == CAUSE_QUEUE_FULL ||
           cause == CAUSE_UPSTREAM_BUSY || cause == CAUSE_PAUSED;
}

void pg_say_error(struct pg_session *s, const struct err *err, const char *severity,
                  const char *sqlstate)
{
    uint8_t buf[1024];
    char message[256], detail[256];
    snprintf(message, sizeof message, "carpool: %s: %s", cause_word(err->cause), err->note);
    int n = snprintf(detail, sizeof detail, "conn=%u pool=%s", s->base.id,
                     pool_ledger(session_pool(&s->base))->name);
    if (is_about_a_crowd(err->cause))
        put_crowd(s, err->cause, detail + n, sizeof detail - (size_t)n);
    struct pg_out out = pg_out_of(buf, sizeof buf);
    pg_put_error(&out, &(struct pg_report){
                           .severity = severity,
                           .sqlstate = sqlstate ? sqlstate : pg_sqlstate(err->cause, false),
                           .message = message,
                           .detail = detail,
                           .hint = hints[err->cause],
                       });
    pg_say(s, &out);
}

void pg_say_ready(struct pg_session *s, uint8_t status)
{
    uint8_t buf[8];
    struct pg_out out = pg_out_of(buf, sizeof buf);
    pg_put_ready(&out, status);
    pg_say(s, &out);
}

void pg_refuse(struct pg_session *s, const struct err *err, const char *sqlstate)
{
    if (s->base.closed)
        return;
    pg_say_error(s, err, "FATAL", sqlstate);
    session_close(&s->base, err);
}

void pg_break_off(struct pg_session *s, const struct err *err, const char *sqlstate)
{
    bool torn = s->server && (!pg_at_boundary(&s->server->framer) || s->dropping_body);
    if (torn)
        session_close(&s->base, err);
    else
        pg_refuse(s, err, sqlstate);
}
