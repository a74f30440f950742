/* SPDX-License-Identifier: MIT */
/*
 * The server's rules, seen from outside: which answer fits the oldest request, and what an error or
 * a COPY does to the requests behind it. (PostgreSQL manual, "Message Flow"; the server's main
 * loop.) What a failed COPY leaves unknown is the matter of postgres_copy.c.
 */
#include "proxy/wire/postgres_flow_private.h"
#include "proxy/wire/postgres_read.h"
#include "proxy/wire/postgres_text.h"

void pg_flow_init(struct pg_flow *f)
{
    *f = (struct pg_flow){.tx = PG_TX_IDLE, .copy = PG_COPY_NONE};
    pg_queue_init(&f->queue);
}

void pg_flow_fini(struct pg_flow *f)
{
    pg_queue_fini(&f->queue);
}

/* --- tokens --- */

void pg_flow_count_gone(struct pg_flow *f, enum pg_token token)
{
    f->described = false;
    if (!pg_token_in(token, PG_SET_ENDS))
        return;
    f->ends_seen++;
    f->errored = false;
}

/* The front token is answered, or will not be. */
void pg_flow_drop_front(struct pg_flow *f)
{
    pg_flow_count_gone(f, pg_queue_front(&f->queue));
    pg_queue_pop(&f->queue);
}

/* The front token will not be answered. */
static void lose_front(struct pg_flow *f)
{
    enum pg_token token = pg_queue_front(&f->queue);
    f->renamed_lost += pg_token_in(token, PG_SET_RENAMED);
    f->query_skipped |= token == PG_TOKEN_QUERY;
    pg_flow_drop_front(f);
}

/* Nothing is known of what is in the queue. */
void pg_flow_lose_track(struct pg_flow *f)
{
    for (enum pg_token t; (t = pg_queue_pop_any(&f->queue)) != PG_TOKEN_NONE;)
        f->renamed_lost += pg_token_in(t, PG_SET_RENAMED);
    pg_queue_fini(&f->queue);
    f->copy = PG_COPY_NONE;
    f->lost = true;
}

/* --- the client's messages --- */

static enum pg_token token_of(uint8_t type, struct span prefix)
{
    switch (type) {
    case 'Q':
        return PG_TOKEN_QUERY;
    case 'F':
        return PG_TOKEN_FUNCTION;
    case 'S':
        return PG_TOKEN_SYNC;
    case 'P':
        return PG_TOKEN_PARSE;
    case 'B':
        return PG_TOKEN_BIND;
    case 'C':
        return PG_TOKEN_CLOSE;
    case 'D': /* a kind that does not exist is answered by an error: either will do */
        return prefix.n && prefix.p[0] == 'S' ? PG_TOKEN_DESCRIBE_STATEMENT
                                              : PG_TOKEN_DESCRIBE_PORTAL;
    case 'E':
        return PG_TOKEN_EXECUTE;
    case 'c':
    case 'f':
        return PG_TOKEN_COPY_END;
    default:
        return PG_TOKEN_NONE;
    }
}

static void note_commit(struct pg_flow *f, enum pg_token token, struct span prefix)
{
    struct span text = prefix;
    if (token == PG_TOKEN_PARSE) {
        const uint8_t *nul = prefix.n ? memchr(prefix.p, 0, prefix.n) : NULL;
        text = nul ? span_skip(prefix, (size_t)(nul - prefix.p) + 1) : (struct span){0};
    }
    enum pg_verb verb = pg_text_look(text).verb;
    if (verb != PG_VERB_COMMIT && verb != PG_VERB_PREPARE)
        return;
    pg_flow_note_commit(f); /* ends with its own ReadyForQuery, or that of the Sync to come */
}

/* A message that asks for an answer, and one that the server may look for in COPY. */
static enum pg_flow_step client_token(struct pg_flow *f, enum pg_token token, struct span prefix)
{
    bool sync = token == PG_TOKEN_SYNC;
    if (f->doubt_open && !sync && token != PG_TOKEN_COPY_END)
        pg_flow_lose_track(f);
    if (f->lost || (f->skipping && !sync))
        return PG_FLOW_OK; /* the latter: discarded */
    if (token == PG_TOKEN_COPY_END && f->queue.due == 0)
        return PG_FLOW_OK; /* late or lost: ignored */
    if (!pg_queue_push(&f->queue, token))
        return PG_FLOW_FULL;
    if (token == PG_TOKEN_COPY_END)
        return PG_FLOW_OK;
    f->requests++;
    if (token == PG_TOKEN_QUERY || token == PG_TOKEN_PARSE)
        note_commit(f, token, prefix);
    if (pg_token_in(token, PG_SET_ENDS)) {
        bool mixes = !sync && (f->batch || pg_flow_is_mixed(f));
        f->ends_sent++;
        f->mixed_end = mixes ? f->ends_sent : f->ends_seen;
    }
    f->batch = pg_token_in(token, PG_SET_EXTENDED);
    if (sync)
        f->skipping = f->doubt_open = false;
    return PG_FLOW_OK;
}

enum pg_flow_step pg_flow_client(struct pg_flow *f, uint8_t type, struct span prefix)
{
    enum pg_token token = token_of(type, prefix);
    if (token != PG_TOKEN_NONE)
        return client_token(f, token, prefix);
    if (type == 'X')
        f->terminated = true;
    return type == 'X' || type == 'H' || type == 'd' ? PG_FLOW_OK : PG_FLOW_VIOLATION;
}

bool pg_flow_room(struct pg_flow *f)
{
    return pg_queue_reserve(&f->queue, PG_QUEUE_HERE / 2);
}

void pg_flow_renamed(struct pg_flow *f, enum pg_token token)
{
    CHECK(pg_token_in(token, PG_SET_RENAMED) && !pg_flow_discards(f));
    CHECK(pg_queue_push(&f->queue, token)); /* there was room */
    f->batch = true;
    f->requests++;
}

bool pg_flow_copy_ends(const struct pg_flow *f)
{
    for (uint32_t i = 0; f->copy == PG_COPY_IN && i < pg_queue_cells(&f->queue); i++)
        if (pg_queue_cell(&f->queue, i) == PG_TOKEN_COPY_END)
            return true;
    return false;
}

enum pg_token pg_flow_local(struct pg_flow *f)
{
    enum pg_token token = pg_queue_front(&f->queue);
    if (!pg_token_in(token, PG_SET_LOCAL) || f->copy != PG_COPY_NONE)
        return PG_TOKEN_NONE;
    pg_flow_drop_front(f);
    return token;
}

bool pg_flow_is_settled(const struct pg_flow *f)
{
    for (uint32_t i = 0; i < pg_queue_cells(&f->queue); i++)
        if (pg_queue_cell(&f->queue, i) != PG_TOKEN_SYNC)
            return false;
    return !f->errored;
}

void pg_flow_note_commit(struct pg_flow *f)
{
    f->commit_sent = true;
    f->commit_end = f->ends_sent + 1;
}

/* --- the server's messages --- */

static __attribute__((noinline)) bool tag_ends_transaction(struct span prefix)
{
    struct pg_cur c = pg_cur_of(prefix);
    struct span tag = pg_cur_cstr(&c);
    return span_eq(tag, SPAN_LIT("COMMIT")) || span_eq(tag, SPAN_LIT("ROLLBACK")) ||
           span_eq(tag, SPAN_LIT("PREPARE TRANSACTION"));
}

static void commit_settled(struct pg_flow *f)
{
    if (f->commit_end == f->ends_seen + 1)
        f->commit_sent = false;
}

/* CommandComplete, EmptyQueryResponse, PortalSuspended. */
static bool server_complete(struct pg_flow *f, uint8_t type, struct span prefix)
{
    enum pg_token token = pg_queue_front(&f->queue);
    if (type == 'C' && !pg_counts_rows(prefix) && tag_ends_transaction(prefix))
        commit_settled(f);
    bool copied = f->copy == PG_COPY_IN;
    f->copy = PG_COPY_NONE;
    if (copied)
        return pg_copy_done(f, token);
    if (token == PG_TOKEN_EXECUTE)
        pg_flow_drop_front(f);
    return true;
}

/* An extended message failed: everything up to the next Sync is discarded. */
void pg_flow_discard_to_sync(struct pg_flow *f)
{
    f->parse_failed = pg_queue_front(&f->queue) == PG_TOKEN_PARSE;
    f->parse_end = f->ends_seen;
    f->renamed_failed = pg_token_in(pg_queue_front(&f->queue), PG_SET_RENAMED);
    lose_front(f);
    while (f->queue.due > 0 && pg_queue_front(&f->queue) != PG_TOKEN_SYNC)
        lose_front(f);
    f->skipping = f->queue.due == 0;
    f->errored = true;
}

static ASIDE enum pg_flow_step server_error(struct pg_flow *f, struct span prefix)
{
    struct pg_fields fields;
    pg_copy_no_maybes(f); /* they have nothing to commit, so they cannot fail */
    bool copying = f->copy == PG_COPY_IN;
    f->copy = PG_COPY_NONE;
    enum pg_token token = pg_queue_front(&f->queue);
    if (pg_read_error(prefix, &fields) && !pg_fields_fatal(&fields))
        commit_settled(f); /* a COMMIT that failed; a dying server's last word says nothing of it */
    if (token == PG_TOKEN_NONE) {
        if (!f->batch)
            return PG_FLOW_ASYNC;
        f->skipping = f->errored = true; /* a timeout between two messages of a batch */
        return PG_FLOW_OK;
    }
    f->errored = true;
    if (copying)
        pg_copy_failed(f);
    else if (pg_token_in(token, PG_SET_EXTENDED))
        pg_flow_discard_to_sync(f);
    return PG_FLOW_OK;
}

static enum pg_flow_step server_ready(struct pg_flow *f, struct span prefix)
{
    uint8_t status;
    if (!pg_read_ready(prefix, &status) || f->copy != PG_COPY_NONE ||
        !(f->lost || pg_token_in(pg_queue_front(&f->queue), PG_SET_ENDS)))
        return PG_FLOW_VIOLATION;
    f->tx = status;
    if (f->queue.maybe && pg_queue_front_maybe(&f->queue))
        pg_copy_ready(f);
    else if (!f->lost)
        pg_flow_drop_front(f);
    return PG_FLOW_READY;
}

/* Which requests a message may answer. */
static unsigned fitting(const struct pg_flow *f, uint8_t type)
{
    switch (type) {
    case '1':
        return PG_SET(PARSE) | PG_SET(NAMED) | PG_SET(PARSE_OWN);
    case '2':
        return PG_SET(BIND);
    case '3':
        return PG_SET(CLOSE) | PG_SET(NAMED) | PG_SET(CLOSE_OWN);
    case 't':
        return f->described ? 0 : PG_SET(DESCRIBE_STATEMENT);
    case 'T':
        return PG_SET(QUERY) | PG_SET(DESCRIBE_PORTAL) |
               (f->described ? PG_SET(DESCRIBE_STATEMENT) : 0);
    case 'n':
        return PG_SET(DESCRIBE_PORTAL) | (f->described ? PG_SET(DESCRIBE_STATEMENT) : 0);
    case 'D':
    case 'C':
    case 'I':
    case 'G':
    case 'H':
    case 'd':
    case 'c':
        return PG_SET(QUERY) | PG_SET(EXECUTE);
    case 's':
        return PG_SET(EXECUTE);
    case 'W':
        return PG_SET(QUERY);
    case 'V':
        return PG_SET(FUNCTION);
    default: /* logins, negotiation: not here */
        return 0;
    }
}

/* COPY allows only its own messages. In replication a result follows without a CommandComplete, and
 * a base backup may be several in a row. */
static bool fits_copy(enum pg_copy copy, uint8_t type)
{
    switch (copy) {
    case PG_COPY_NONE:
        return type != 'd' && type != 'c';
    case PG_COPY_IN:
        return type == 'C';
    case PG_COPY_OUT:
        return type == 'C' || type == 'd' || type == 'c' || type == 'T' || type == 'H';
    case PG_COPY_BOTH:
        return type == 'C' || type == 'd' || type == 'c' || type == 'T';
    }
    return false;
}

static enum pg_flow_step server_answer(struct pg_flow *f, uint8_t type, struct span prefix)
{
    if (f->queue.maybe)
        pg_copy_no_maybes(f);
    if (!fits_copy((enum pg_copy)f->copy, type) ||
        !pg_token_in(pg_queue_front(&f->queue), fitting(f, type)))
        return PG_FLOW_VIOLATION;
    switch (type) {
    case 't':
        f->described = true;
        break;
    case 'T':
        f->copy = PG_COPY_NONE;
        if (pg_queue_front(&f->queue) != PG_TOKEN_QUERY)
            pg_flow_drop_front(f);
        break;
    case '1':
    case '2':
    case '3':
    case 'n':
        f->renamed_done = pg_token_in(pg_queue_front(&f->queue), PG_SET_RENAMED);
        f->own_done = pg_token_in(pg_queue_front(&f->queue), PG_SET_OWN);
        pg_flow_drop_front(f);
        break;
    case 'C':
    case 'I':
    case 's':
        return server_complete(f, type, prefix) ? PG_FLOW_OK : PG_FLOW_VIOLATION;
    case 'G':
        f->copy = PG_COPY_IN;
        break;
    case 'H':
        f->copy = PG_COPY_OUT;
        break;
    case 'W':
        f->copy = PG_COPY_BOTH;
        break;
    default: /* D d c V: more to come */
        break;
    }
    return PG_FLOW_OK;
}

enum pg_flow_step pg_flow_server(struct pg_flow *f, uint8_t type, struct span prefix)
{
    f->renamed_done = f->renamed_failed = f->own_done = false;
    f->parse_failed = f->query_skipped = false;
    if (f->lost && type != 'Z')
        return PG_FLOW_OK;
    switch (type) {
    case 'N':
    case 'A':
    case 'S':
        return f->queue.due > 0 || f->batch ? PG_FLOW_OK : PG_FLOW_ASYNC;
    case 'E':
        return server_error(f, prefix);
    case 'Z':
        return server_ready(f, prefix);
    default:
        return server_answer(f, type, prefix);
    }
}

/* --- questions --- */

static bool is_quiet(const struct pg_flow *f)
{
    return f->tx == PG_TX_IDLE && f->copy == PG_COPY_NONE && !f->batch && !f->skipping &&
           !f->doubt_open && !f->terminated && !f->lost;
}

bool pg_flow_is_idle(const struct pg_flow *f)
{
    return f->queue.due == 0 && is_quiet(f);
}

bool pg_flow_is_doubtful(const struct pg_flow *f)
{
    return f->queue.due > 0 && f->queue.due == f->queue.maybe && is_quiet(f);
}

bool pg_flow_is_busy(const struct pg_flow *f)
{
    return f->queue.due > f->queue.maybe || f->copy != PG_COPY_NONE || f->lost;
}

bool pg_flow_commit_in_flight(const struct pg_flow *f)
{
    return f->commit_sent && (int32_t)(f->commit_end - f->ends_seen) > 0;
}

/* --- without a server --- */

/* What an abandoned request gets. `told`: its error went out already. */
static enum pg_swallow_step abandon_token(struct pg_swallow *s, enum pg_token token, bool told)
{
    bool batch_told = told || s->till_sync;
    if (pg_token_in(token, PG_SET_OWN))
        return PG_SWALLOW_NOTHING; /* what it was added for follows */
    if (pg_token_in(token, PG_SET_EXTENDED))
        return pg_swallow_next(s, 'E');
    if (token == PG_TOKEN_SYNC) {
        s->till_sync = false;
        return batch_told ? PG_SWALLOW_READY : PG_SWALLOW_ERROR_READY;
    }
    if (s->till_sync)
        return PG_SWALLOW_NOTHING;
    return told ? PG_SWALLOW_READY : PG_SWALLOW_ERROR_READY;
}

bool pg_flow_abandon(struct pg_flow *f, struct pg_swallow *s, enum pg_swallow_step *step)
{
    if (f->lost) {
        f->lost = false;
        *step = PG_SWALLOW_END;
        return true;
    }
    if (f->copy ==
        PG_COPY_IN) { /* its client will send a Sync after it: the ones inside do not count */
        enum pg_token token = pg_queue_pop_any(&f->queue);
        (void)pg_copy_doubt_syncs(f);
        pg_queue_unpop(&f->queue, token);
    }
    f->copy = PG_COPY_NONE;
    while (f->queue.due > 0) {
        enum pg_token token = pg_queue_front(&f->queue);
        bool maybe = pg_queue_front_maybe(&f->queue), told = f->errored;
        pg_flow_drop_front(f);
        if (maybe)
            continue;
        *step = abandon_token(s, token, told);
        if (*step != PG_SWALLOW_NOTHING)
            return true;
    }
    if (f->skipping || f->doubt_open)
        s->till_sync = true;
    s->untold = f->batch && !s->till_sync; /* all answered, but not ended: it is lost */
    return false;
}
