/* SPDX-License-Identifier: MIT */
/*
 * What a session leaves behind on its server, in transaction and statement mode. Settings follow
 * the client: those that the server reports by themselves, those that a SET names because they are
 * asked for before the server is given back. What cannot follow (temporary tables, cursors WITH
 * HOLD, advisory locks, LISTEN, settings that nobody can name) keeps the client on its server until
 * it leaves or says DISCARD ALL; or is refused; or is let be, as `session_state` says.
 *
 *     text sent          trace                 tag comes          transaction ends
 *     SET x = 1    -->   remembers "x"    -->  accounted for -->  asks for x, then gives back
 *     CREATE TEMP  -->   remembers why    -->  pinned
 *     DO ...; SET        nothing               pinned: a SET nobody saw
 */
#include <stdlib.h>

#include "proxy/front/postgres.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_text.h"

enum { NAMES_MAX = 16, NAME_MAX_BYTES = 63 };

struct name {
    uint8_t n;
    uint8_t text[NAME_MAX_BYTES];
};

struct pg_follow {
    unsigned seen;      /* SETs sent whose tags are still to come */
    const char *leaves; /* sent; pins when it is done */
    bool resets, all;   /* a RESET was sent: of `reset`, or of all */
    struct name reset;
    unsigned n; /* settings to be asked for */
    struct name names[NAMES_MAX];
    struct pg_trace unnamed; /* of the unnamed statement: it may be bound in a later batch */
    struct name unnamed_name;
};

static struct pg_follow *have_follow(struct pg_session *s)
{
    if (!s->follow)
        s->follow = calloc(1, sizeof *s->follow);
    return s->follow;
}

void pg_follow_free(struct pg_session *s)
{
    free(s->follow);
    s->follow = NULL;
}

/* ---- what is sent ---- */

bool pg_follow_owes(const struct pg_session *s)
{
    const struct pg_follow *f = s->follow;
    return f && (f->n > 0 || f->leaves || f->resets);
}

static const char *reason_of(enum pg_leaves leaves)
{
    switch (leaves) {
    case PG_LEAVES_SETTINGS:
    case PG_LEAVES_CHARACTERISTICS:
    case PG_LEAVES_SETTING:
        return "a setting that cannot be followed";
    case PG_LEAVES_TEMPORARY:
        return "a temporary table";
    case PG_LEAVES_CURSOR:
        return "a cursor WITH HOLD";
    case PG_LEAVES_LOCK:
        return "an advisory lock of the session";
    case PG_LEAVES_LIBRARY:
        return "a loaded library";
    case PG_LEAVES_NOTHING:
    case PG_LEAVES_RESET:
        break;
    }
    return NULL;
}

/* The server tells of its changes without being asked. */
static bool is_reported(const struct pg_session *s, struct span name)
{
    struct span value;
    return pg_params_get(s->server->origin, name, &value) && !pg_param_reported_only(name);
}

static bool set_name(struct name *to, struct span name)
{
    if (name.n > NAME_MAX_BYTES)
        return false;
    to->n = (uint8_t)name.n;
    if (name.n)
        memcpy(to->text, name.p, name.n);
    return true;
}

/* To be asked for at the end of the transaction. False: too many, or too long. */
static bool remember(struct pg_follow *f, struct span name)
{
    for (unsigned i = 0; i < f->n; i++)
        if (span_ieq(span_of(f->names[i].text, f->names[i].n), name))
            return true;
    if (f->n == NAMES_MAX || !set_name(&f->names[f->n], name))
        return false;
    f->n++;
    return true;
}

static bool remember_characteristics(struct pg_follow *f)
{
    return remember(f, SPAN_LIT("default_transaction_isolation")) &&
           remember(f, SPAN_LIT("default_transaction_deferrable"));
}

/* What came of it is asked for, too: it may be rolled back, or be one of several. (Not of what the
 * client came with: the server knows nothing of that.) */
static const char *note_reset_sent(struct pg_session *s, struct span name)
{
    struct pg_follow *f = s->follow;
    struct span value;
    f->resets = set_name(&f->reset, name);
    f->all = name.n == 0;
    bool ask = name.n && !pg_keeps_server(s) && !is_reported(s, name) &&
               !(s->startup && pg_params_get(s->startup, name, &value));
    return ask && !remember(f, name) ? reason_of(PG_LEAVES_SETTING) : NULL;
}

/* NULL: it follows, or there is nothing to follow. */
static const char *note_trace(struct pg_session *s, const struct pg_trace *t, bool runs)
{
    bool reported = t->leaves == PG_LEAVES_SETTING && is_reported(s, t->name);
    struct pg_follow *f;
    if ((t->leaves == PG_LEAVES_NOTHING || reported) && !t->set)
        return NULL;
    f = have_follow(s);
    if (!f)
        return "no memory to follow its settings";
    f->seen += t->set && runs;
    if (t->leaves == PG_LEAVES_RESET)
        return note_reset_sent(s, t->name);
    if (pg_keeps_server(s))
        return NULL;
    if (t->leaves == PG_LEAVES_NOTHING || reported ||
        (t->leaves == PG_LEAVES_SETTING && remember(f, t->name)) ||
        (t->leaves == PG_LEAVES_CHARACTERISTICS && remember_characteristics(f)))
        return NULL;
    return reason_of(t->leaves);
}

static const char *follow(struct pg_session *s, const struct pg_trace *t, bool runs)
{
    const char *why = note_trace(s, t, runs);
    if (!why)
        return NULL;
    if (s->base.gate->conf->session_state == FRONT_STATE_REFUSE)
        return why;
    if (have_follow(s))
        s->follow->leaves = why;
    return NULL;
}

const char *pg_follow_query(struct pg_session *s, struct span text)
{
    const char *why = NULL;
    do {
        struct pg_trace t = pg_text_trace(text);
        if (t.leaves != PG_LEAVES_NOTHING || t.set)
            why = follow(s, &t, true);
    } while (!why && pg_text_next(&text));
    return why;
}

/* Its name points into a text that will be gone. */
static void keep_unnamed(struct pg_follow *f, const struct pg_trace *t)
{
    f->unnamed = *t;
    if (!set_name(&f->unnamed_name, t->name))
        f->unnamed.leaves = PG_LEAVES_SETTINGS;
    f->unnamed.name = span_of(f->unnamed_name.text, f->unnamed_name.n);
}

const char *pg_follow_parse(struct pg_session *s, struct span text, bool unnamed)
{
    struct pg_trace t = pg_text_trace(text);
    bool matters = t.set || t.leaves != PG_LEAVES_NOTHING;
    if (unnamed && (matters || s->follow) && have_follow(s))
        keep_unnamed(s->follow, &t);
    bool may_refuse = s->base.gate->conf->session_state == FRONT_STATE_REFUSE;
    return matters && may_refuse ? follow(s, &t, false) : NULL;
}

void pg_follow_bind(struct pg_session *s, const struct pg_trace *t)
{
    if (!t && s->follow)
        t = &s->follow->unnamed;
    if (t && (t->leaves != PG_LEAVES_NOTHING || t->set))
        (void)follow(s, t, true); /* it was not refused when it was prepared */
}

/* ---- what is done ---- */

/* State is there that nobody refused in time. */
static void pin(struct pg_session *s, const char *why)
{
    struct err err;
    switch (s->base.gate->conf->session_state) {
    case FRONT_STATE_PIN:
        pg_pin(s, why);
        return;
    case FRONT_STATE_REFUSE:
        pg_pin(s, why); /* the server is reset behind it */
        err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
                "%s was left in the session (session_state: refuse)", why);
        pg_refuse(s, &err, NULL);
        return;
    case FRONT_STATE_ALLOW:
        return;
    }
}

/* RESET, SET TO DEFAULT: of a name, of all, or (behind other statements) of nobody knows what. */
static void note_reset(struct pg_session *s, struct pg_outbox *o)
{
    struct pg_follow *f = s->follow;
    if (f && f->resets)
        pg_settings_reset(s, f->all ? span_of(NULL, 0) : span_of(f->reset.text, f->reset.n), o);
    if (f)
        f->resets = false;
}

static void note_set(struct pg_session *s)
{
    if (s->follow && s->follow->seen > 0)
        s->follow->seen--;
    else
        pin(s, "a SET inside other statements");
}

/* What keeps a server, of those that need not stay anyway. */
static void note_state(struct pg_session *s, struct span tag)
{
    if (s->follow && s->follow->leaves) {
        pin(s, s->follow->leaves);
        s->follow->leaves = NULL;
    }
    if (span_eq(tag, SPAN_LIT("SET")))
        note_set(s);
    else if (span_eq(tag, SPAN_LIT("PREPARE")))
        pin(s, "a statement prepared in SQL");
    else if (span_eq(tag, SPAN_LIT("LISTEN")))
        pin(s, "LISTEN");
}

void pg_follow_tag(struct pg_session *s, struct span body, struct pg_outbox *o)
{
    struct span tag;
    if (!pg_read_complete(body, &tag))
        return;
    if (!s->renames &&
        (span_eq(tag, SPAN_LIT("DISCARD ALL")) || span_eq(tag, SPAN_LIT("DEALLOCATE ALL"))))
        pg_prepared_forget(s->server->prepared); /* of sessions from before a reload */
    if (!pg_keeps_server(s))
        note_state(s, tag);
    if (span_eq(tag, SPAN_LIT("RESET")) || span_eq(tag, SPAN_LIT("SET"))) {
        note_reset(s, o);
    } else if (span_eq(tag, SPAN_LIT("DISCARD ALL"))) {
        pg_settings_reset(s, span_of(NULL, 0), o);
        if (pg_flow_due(&s->server->flow) <= 1) /* else: for what was sent behind it */
            s->pinned = NULL;
    }
}

void pg_follow_ready(struct pg_session *s)
{
    if (!s->follow || pg_flow_due(&s->server->flow) > 0)
        return;
    s->follow->seen = 0;
    if (s->server->flow.tx != PG_TX_IDLE)
        return; /* a portal may still be run */
    s->follow->resets = false;
    s->follow->leaves = NULL;
}

/* ---- asking ---- */

bool pg_follow_ask(struct pg_session *s)
{
    uint8_t buf[NAMES_MAX * (NAME_MAX_BYTES * 2 + 64)];
    struct pg_follow *f = s->follow;
    struct pg_out o = pg_out_of(buf, sizeof buf);
    if (!f || f->n == 0)
        return false;
    for (unsigned i = 0; i < f->n; i++) {
        pg_sql_text(&o, i == 0 ? "SELECT " : ", ");
        pg_sql_text(&o, "pg_catalog.current_setting(");
        pg_sql_literal(&o, span_of(f->names[i].text, f->names[i].n));
        pg_sql_text(&o, ", true)");
    }
    if (!pg_settings_send(s, &o))
        return false;
    s->errand = PG_ERRAND_ASK;
    return true;
}

/* One column for each name. */
static bool take_row(struct pg_session *s, struct span body)
{
    struct pg_follow *f = s->follow;
    struct pg_cur c = pg_cur_of(body);
    if (pg_cur_u16(&c) != f->n)
        return false;
    for (unsigned i = 0; i < f->n; i++) {
        int32_t len = pg_cur_i32(&c);
        struct span value = len < 0 ? span_of(NULL, 0) : pg_cur_bytes(&c, (size_t)len);
        struct span name = span_of(f->names[i].text, f->names[i].n);
        if (len == 0)
            value.p = (const uint8_t *)""; /* empty, which is not absent */
        if (c.bad || !pg_params_set(&s->params, name, value) ||
            !pg_params_set(&s->server->params, name, value))
            return false;
    }
    return true;
}

void pg_follow_row(struct pg_session *s, struct span body)
{
    if (take_row(s, body))
        s->follow->n = 0;
}

void pg_follow_asked(struct pg_session *s)
{
    if (s->follow->n == 0)
        return;
    /* Not answered (a timeout or a cancel that came late), or too much to be carried about. */
    s->follow->n = 0;
    pin(s, reason_of(PG_LEAVES_SETTING));
}

void pg_follow_forget(struct pg_session *s)
{
    if (s->follow)
        s->follow->n = 0;
}
