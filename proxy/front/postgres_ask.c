/* SPDX-License-Identifier: MIT */
/*
 * What a client has set, and its server does not report by itself, is asked for before the server
 * is given back: by one query of ours, whose answer the client does not see.
 */
#include "proxy/front/postgres_follow.h"
#include "proxy/wire/postgres_read.h"

static ASIDE bool ask(struct pg_session *s)
{
    uint8_t buf[PG_NAMES_MAX * (PG_NAME_BYTES * 2 + 64)];
    struct pg_follow *f = s->follow;
    struct pg_out o = pg_out_of(buf, sizeof buf);
    for (unsigned i = 0; i < f->n; i++) {
        pg_sql_text(&o, i == 0 ? "SELECT " : ", ");
        pg_sql_text(&o, "pg_catalog.current_setting(");
        pg_sql_literal(&o, pg_name_span(&f->names[i]));
        pg_sql_text(&o, ", true)");
    }
    if (!pg_settings_send(s, &o))
        return false;
    s->errand = PG_ERRAND_ASK;
    return true;
}

bool pg_follow_ask(struct pg_session *s)
{
    return s->follow && s->follow->n > 0 && ask(s);
}

bool pg_follow_unasked(const struct pg_session *s)
{
    return s->follow && s->follow->unasked;
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
        struct span name = pg_name_span(&f->names[i]);
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
    struct pg_follow *f = s->follow;
    bool well = f->n == 0;
    f->n = 0;
    f->unasked = false;
    f->salt = 0;
    if (!well) /* not answered (its own statement_timeout), or too much to be carried about */
        pg_follow_pin(s, PG_LEAVES_SETTING);
}
