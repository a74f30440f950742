/* SPDX-License-Identifier: MIT */
/*
 * What a session leaves behind on its server, in transaction and statement mode. Settings follow
 * the client: those that the server reports by themselves, those that a SET names because they are
 * asked for before the server is given back. What cannot follow (temporary tables, cursors WITH
 * HOLD, advisory locks, LISTEN, settings that nobody can name) keeps the client on its server until
 * it ends (postgres_pins.c); or is refused; or is let be, as `session_state` says.
 *
 *     text sent          trace                 tag comes          transaction ends
 *     SET x = 1    -->   remembers "x"    -->  accounted for -->  asks for x, then gives back
 *     CREATE TEMP  -->   remembers why    -->  pinned
 *     DO ...; SET        nothing               pinned: a SET nobody saw
 *     RESET ALL    -->   what was asked   -->  back to what  -->  rolled back: back again
 *                        need not be           it came with
 */
#include "proxy/front/postgres_follow.h"

#include <stdlib.h>

#include "proxy/wire/postgres_read.h"

struct pg_follow *pg_have_follow(struct pg_session *s)
{
    if (!s->follow)
        s->follow = calloc(1, sizeof *s->follow);
    return s->follow;
}

void pg_follow_free(struct pg_session *s)
{
    if (s->follow)
        pg_params_drop(&s->follow->before);
    free(s->follow);
    s->follow = NULL;
}

/* ---- what is sent ---- */

bool pg_follow_owes(const struct pg_session *s)
{
    const struct pg_follow *f = s->follow;
    return f && (f->n > 0 || f->leaves || f->n_resets || f->before);
}

/* The server tells of its changes without being asked. */
static bool is_reported(const struct pg_session *s, struct span name)
{
    struct span value;
    return pg_params_get(s->server->origin, name, &value) && !pg_param_reported_only(name);
}

bool pg_name_set(struct pg_name *to, struct span name)
{
    if (name.n > PG_NAME_BYTES)
        return false;
    to->reset = to->asked = to->set = false;
    to->n = (uint8_t)name.n;
    if (name.n)
        memcpy(to->text, name.p, name.n);
    return true;
}

/* To be asked for when the server is to be given back. False: too many, or too long. */
static bool remember(struct pg_session *s, struct span name)
{
    struct pg_follow *f = s->follow;
    for (unsigned i = 0; i < f->n; i++) {
        if (!span_ieq(pg_name_span(&f->names[i]), name))
            continue;
        f->names[i].reset = false;
        return true;
    }
    if (f->n == PG_NAMES_MAX || !pg_name_set(&f->names[f->n], name))
        return false;
    if (f->n++ == 0)
        f->batch = s->server->flow.ends_sent;
    return true;
}

static bool remember_characteristics(struct pg_session *s)
{
    return remember(s, SPAN_LIT("default_transaction_isolation")) &&
           remember(s, SPAN_LIT("default_transaction_deferrable"));
}

/* No need to ask, if this is done and not rolled back. (RESET ALL leaves the role.) */
static void forget_reset(struct pg_follow *f, struct span name)
{
    for (unsigned i = 0; i < f->n; i++) {
        struct span it = pg_name_span(&f->names[i]);
        if (name.n ? span_ieq(it, name) : !span_ieq(it, SPAN_LIT("role")))
            f->names[i].reset = true;
    }
}

/* What came of it is asked for, too, but not of what the client came with: the server knows nothing
 * of that. */
static enum pg_leaves note_reset_sent(struct pg_session *s, const struct pg_trace *t)
{
    struct span name = t->name, value;
    struct pg_follow *f = s->follow;
    bool session = s->base.gate->conf->mode == FRONT_SESSION;
    if (f->n_resets == PG_RESETS_MAX || !pg_name_set(&f->resets[f->n_resets], name))
        return PG_LEAVES_SETTING;
    struct pg_name *reset = &f->resets[f->n_resets++];
    reset->set = t->set;
    reset->batch = s->server->flow.ends_sent;
    reset->asked = name.n && !session && !is_reported(s, name) &&
                   !(s->startup && pg_params_get(s->startup, name, &value));
    if (reset->asked)
        return remember(s, name) ? PG_LEAVES_NOTHING : PG_LEAVES_SETTING;
    forget_reset(f, name);
    return PG_LEAVES_NOTHING;
}

/* Other statements than before and after it would be the same text now: see pg_follow_salt(). */
static void note_parses(struct pg_session *s)
{
    struct pg_follow *f = s->follow;
    if (!f->salt)
        f->salt = ((uint64_t)s->base.id << 32 | ++f->salts) * UINT64_C(0x9e3779b97f4a7c15);
}

/* NOTHING: it follows, or there is nothing to follow. */
static enum pg_leaves note_trace(struct pg_session *s, const struct pg_trace *t, bool runs)
{
    bool reported = t->leaves == PG_LEAVES_SETTING && is_reported(s, t->name);
    struct pg_follow *f = pg_have_follow(s);
    if (!f)
        return PG_LEAVES_SETTINGS;
    f->seen += t->set && runs;
    if (s->base.gate->conf->mode == FRONT_SESSION)
        return t->leaves == PG_LEAVES_RESET ? note_reset_sent(s, t) : PG_LEAVES_NOTHING;
    if (t->parses && runs)
        note_parses(s);
    if (t->leaves == PG_LEAVES_RESET)
        return note_reset_sent(s, t);
    if (t->leaves == PG_LEAVES_CURSOR && runs)
        pg_pins_declare(s, t->name);
    if (t->leaves == PG_LEAVES_NOTHING || reported ||
        (t->leaves == PG_LEAVES_SETTING && remember(s, t->name)) ||
        (t->leaves == PG_LEAVES_CHARACTERISTICS && remember_characteristics(s)))
        return PG_LEAVES_NOTHING;
    return t->leaves;
}

static bool matters(const struct pg_trace *t)
{
    return t->leaves != PG_LEAVES_NOTHING || t->set || t->parses;
}

static enum pg_leaves follow(struct pg_session *s, const struct pg_trace *t, bool runs)
{
    enum pg_leaves what = matters(t) ? note_trace(s, t, runs) : PG_LEAVES_NOTHING;
    if (what == PG_LEAVES_NOTHING || s->base.gate->conf->session_state == FRONT_STATE_REFUSE)
        return what;
    if (pg_have_follow(s))
        s->follow->leaves |= 1u << what;
    return PG_LEAVES_NOTHING;
}

enum pg_leaves pg_follow_query(struct pg_session *s, struct span text)
{
    enum pg_leaves why;
    do {
        struct pg_trace t = pg_text_trace(text);
        s->drops |= t.drops;
        s->reset_sent |= t.resets;
        if (s->pins)
            pg_pins_sent(s, &t);
        why = follow(s, &t, true);
    } while (!why && pg_text_next(&text));
    return why;
}

/* Its name points into a text that will be gone. */
static void keep_unnamed(struct pg_follow *f, const struct pg_trace *t)
{
    f->unnamed = *t;
    if (!pg_name_set(&f->unnamed_name, t->name)) {
        f->unnamed.leaves = PG_LEAVES_SETTINGS;
        f->unnamed.ends = 0;
    }
    f->unnamed.name = pg_name_span(&f->unnamed_name);
}

static void note_unnamed(struct pg_session *s, const struct pg_trace *t)
{
    if ((matters(t) || t->ends || t->drops || t->resets || s->follow) && pg_have_follow(s))
        keep_unnamed(s->follow, t);
}

void pg_follow_unnamed(struct pg_session *s, struct span text)
{
    struct pg_trace t = pg_text_trace(text);
    note_unnamed(s, &t);
}

enum pg_leaves pg_follow_parse(struct pg_session *s, struct span text, bool unnamed)
{
    struct pg_trace t = pg_text_trace(text);
    if (unnamed)
        note_unnamed(s, &t);
    bool may_refuse = s->base.gate->conf->session_state == FRONT_STATE_REFUSE;
    return matters(&t) && may_refuse ? follow(s, &t, false) : PG_LEAVES_NOTHING;
}

void pg_follow_bind(struct pg_session *s, const struct pg_trace *t)
{
    if (!t && s->follow)
        t = &s->follow->unnamed;
    s->reset_sent |= t && t->resets;
    if (s->pins)
        pg_pins_sent(s, t);
    if (t)
        (void)follow(s, t, true); /* it was not refused when it was prepared */
}

uint64_t pg_follow_salt(const struct pg_session *s)
{
    return s->follow ? s->follow->salt : 0;
}

/* ---- what is done ---- */

void pg_follow_pin(struct pg_session *s, enum pg_leaves why)
{
    struct err err;
    switch (s->base.gate->conf->session_state) {
    case FRONT_STATE_PIN:
        pg_pin(s, why);
        return;
    case FRONT_STATE_REFUSE:
        pg_pin(s, why); /* the server is reset behind it */
        err_set(&err, CAUSE_UNSUPPORTED, STAGE_CLIENT, 0,
                "%s was left in the session (session_state: refuse)", pg_pin_word(why));
        pg_refuse(s, &err, NULL);
        return;
    case FRONT_STATE_ALLOW:
        return;
    }
}

static void drop_resets(struct pg_follow *f)
{
    f->n_resets -= f->n_reset;
    memmove(f->resets, f->resets + f->n_reset, f->n_resets * sizeof f->resets[0]);
    f->n_reset = 0;
    f->undone = false;
}

/* The tag of a RESET, or of a SET, which may be one TO DEFAULT: the first of its kind that was
 * sent in this batch is done. False: there is none. */
static bool note_reset(struct pg_follow *f, bool set, uint32_t batch)
{
    if (f->undone)
        drop_resets(f);
    unsigned i = f->n_reset;
    while (i < f->n_resets && (f->resets[i].set != set || f->resets[i].batch != batch))
        i++;
    if (i == f->n_resets)
        return false;
    struct pg_name done = f->resets[i];
    memmove(f->resets + f->n_reset + 1, f->resets + f->n_reset,
            (i - f->n_reset) * sizeof f->resets[0]);
    f->resets[f->n_reset++] = done;
    return true;
}

void pg_follow_reset(struct pg_session *s, struct pg_outbox *to_client)
{
    struct pg_follow *f = s->follow;
    if (!f || f->n_reset == 0)
        return;
    if (!s->settled) /* it may be rolled back later */
        s->settled = pg_params_take(s->params);
    for (unsigned i = 0; i < f->n_reset && !f->undone; i++) {
        if (!f->before && !f->resets[i].asked) {
            f->before = pg_params_take(s->settled);
            f->end = (struct pg_end){0};
        }
        pg_settings_reset(s, pg_name_span(&f->resets[i]), to_client);
    }
    drop_resets(f);
}

static void note_set(struct pg_session *s)
{
    if (s->follow && s->follow->seen > 0)
        s->follow->seen--;
    else
        pg_follow_pin(s, PG_LEAVES_SETTINGS);
}

/* What keeps a server, of those that need not stay anyway. */
static void note_state(struct pg_session *s, struct span tag)
{
    struct pg_follow *f = s->follow;
    for (unsigned what = 0; f && f->leaves; what++) {
        if (f->leaves & 1u << what)
            pg_follow_pin(s, (enum pg_leaves)what);
        f->leaves &= ~(1u << what);
    }
    if (span_eq(tag, SPAN_LIT("SET")))
        note_set(s);
    else if (span_eq(tag, SPAN_LIT("PREPARE")))
        pg_follow_pin(s, PG_LEAVES_PREPARED);
    else if (span_eq(tag, SPAN_LIT("LISTEN")))
        pg_follow_pin(s, PG_LEAVES_LISTEN);
}

/* How a transaction ends; ROLLBACK TO a savepoint says ROLLBACK, too. */
static void note_end(struct pg_follow *f, struct span tag)
{
    f->end.committed |=
        span_eq(tag, SPAN_LIT("COMMIT")) || span_eq(tag, SPAN_LIT("PREPARE TRANSACTION"));
    if (span_eq(tag, SPAN_LIT("ROLLBACK")))
        pg_follow_failed(f);
}

/* Nothing of it is left; but what was sent behind it may leave something. */
static void note_discarded(struct pg_session *s, struct pg_outbox *o)
{
    pg_settings_reset(s, span_of(NULL, 0), o);
    pg_settings_reset(s, SPAN_LIT("role"), o);
    if (pg_flow_due(&s->server->flow) > 1)
        return;
    if (s->follow)
        s->follow->n = 0;
    pg_pins_none(s);
}

void pg_follow_tag(struct pg_session *s, struct span body, struct pg_outbox *o)
{
    struct span tag;
    if ((!s->follow && pg_counts_rows(body)) || !pg_read_complete(body, &tag))
        return;
    if (!s->renames &&
        (span_eq(tag, SPAN_LIT("DISCARD ALL")) || span_eq(tag, SPAN_LIT("DEALLOCATE ALL"))))
        pg_prepared_forget(s->server->prepared, UINT32_MAX); /* of sessions from before a reload */
    if (s->follow) {
        s->follow->n_done++;
        note_end(s->follow, tag);
    }
    if (s->base.gate->conf->mode != FRONT_SESSION)
        note_state(s, tag);
    bool set = span_eq(tag, SPAN_LIT("SET")), known = true;
    if (s->follow && (set || span_eq(tag, SPAN_LIT("RESET"))))
        known = note_reset(s->follow, set, s->server->flow.ends_seen);
    else if (span_eq(tag, SPAN_LIT("DISCARD ALL")))
        note_discarded(s, o);
    if (!known && !set && s->base.gate->conf->mode != FRONT_SESSION)
        pg_follow_pin(s, PG_LEAVES_SETTINGS);
}

void pg_follow_failed(struct pg_follow *f)
{
    f->end.failed = true;
    f->undone = f->n_reset > 0;
    pg_pins_failed(f);
}

/* Rolled back to a point before a RESET, or behind it? The server knows, of what it was set to
 * since (see pg_settings_again()), and of what is the same to carpool and to it. */
static bool ask_for_all(struct pg_session *s, const struct pg_params *before)
{
    for (size_t i = 0; i < pg_params_count(before); i++) {
        struct span name, value, now, has;
        pg_params_at(before, i, &name, &value);
        if (pg_params_get(s->server->origin, name, &value))
            continue;
        bool set = pg_params_get(s->params, name, &now) &&
                   pg_params_get(s->server->params, name, &has) && span_eq(now, has);
        if ((pg_params_get(s->startup, name, &value) && !set) || !remember(s, name))
            return false;
    }
    return true;
}

/* The transaction that has reset settings is over. */
static void settle_reset(struct pg_session *s)
{
    struct pg_follow *f = s->follow;
    struct pg_params *before = f->before;
    f->before = NULL;
    if (f->end.failed && f->end.committed) {
        if (!ask_for_all(s, before))
            pg_follow_pin(s, PG_LEAVES_SETTINGS);
    } else if (f->end.failed) {
        pg_settings_restore(s, before);
    } else {
        unsigned n = 0;
        for (unsigned i = 0; i < f->n; i++)
            if (!f->names[i].reset)
                f->names[n++] = f->names[i];
        f->n = n;
    }
    pg_params_drop(&before);
}

void pg_follow_ready(struct pg_session *s)
{
    struct pg_follow *f = s->follow;
    bool idle = s->server->flow.tx == PG_TX_IDLE;
    if (!f)
        return;
    if (idle && f->before)
        settle_reset(s);
    if (idle && f->n > 0 && (int32_t)(s->server->flow.ends_seen - f->batch) > 0)
        f->unasked = true;
    if (pg_flow_due(&s->server->flow) > 0)
        return;
    f->seen = 0;
    pg_pins_ready(s, idle);
    if (s->server->flow.tx == PG_TX_FAILED)
        f->n_resets = f->n_reset = 0; /* what failed, too, has no tag */
    if (!idle)
        return; /* a portal may still be run */
    f->end = (struct pg_end){0};
    f->n_resets = f->n_reset = 0;
    f->leaves = 0;
    if (f->n == 0)
        f->salt = 0;
}

void pg_follow_lost(struct pg_session *s)
{
    struct pg_follow *f = s->follow;
    if (!f)
        return;
    pg_params_drop(&f->before);
    f->seen = f->leaves = f->n = 0;
    f->unasked = false;
    f->n_resets = f->n_reset = 0;
    f->salt = 0;
    f->end = (struct pg_end){0};
    pg_pins_failed(f);
    pg_pins_ready(s, true);
}
