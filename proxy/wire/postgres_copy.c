/* SPDX-License-Identifier: MIT */
/*
 * COPY FROM STDIN and the Syncs around it, part of pg_flow (postgres_flow.c).
 *
 * COPY FROM STDIN fails after its CopyInResponse. Behind it the client sent, say,
 *
 *     Sync1  CopyData  CopyDone  Sync2
 *
 * The server read a part of that inside COPY, unknown to us: Sync1 was ignored there, or it came
 * after the error and is answered. Of an extended COPY only Sync2 is certain to be answered, the
 * first Sync behind CopyDone: the anchor. The ones before become "maybe". Then
 *
 *     - anything but ReadyForQuery proves that a maybe in front is not answered: it goes;
 *     - a ReadyForQuery is the maybe's or, if they were all ignored, the one of the next certain
 *       Sync: so that becomes maybe, too. (Who counts ReadyForQuery sees: at least so many, at most
 *       so many.)
 *
 * With other requests among the doubtful Syncs their answers could be mistaken for those of later
 * ones. No client library does that; the flow is "lost" then: it accepts everything and is never
 * idle again.
 */
#include "proxy/wire/postgres_flow_private.h"

/* Is a ReadyForQuery due for what is in the cells from `from` on? */
static bool any_end_due(const struct pg_flow *f, uint32_t from)
{
    for (uint32_t i = from; i < pg_queue_cells(&f->queue); i++)
        if (pg_token_in(pg_queue_cell(&f->queue, i), PG_SET_ENDS))
            return true;
    return false;
}

/* The maybes in front (all Syncs) are not answered. */
void pg_copy_no_maybes(struct pg_flow *f)
{
    while (pg_queue_front_maybe(&f->queue))
        pg_flow_drop_front(f);
}

/*
 * A COPY FROM STDIN went well: the server read up to CopyDone and ignored the Syncs before it. The
 * COPY's own token is not in front while this walks.
 */
static bool drop_copied(struct pg_flow *f)
{
    for (;;) {
        enum pg_token token = pg_queue_pop_any(&f->queue);
        if (token == PG_TOKEN_COPY_END)
            break;
        if (token != PG_TOKEN_SYNC)
            return false; /* another request would have killed it; without CopyDone no end */
        pg_flow_count_gone(f, token);
    }
    return true;
}

bool pg_copy_done(struct pg_flow *f, enum pg_token token)
{
    (void)pg_queue_pop_any(&f->queue);
    if (!drop_copied(f))
        return false;
    if (token == PG_TOKEN_QUERY) { /* goes on, perhaps with another COPY */
        pg_queue_unpop(&f->queue, token);
        return true;
    }
    if (pg_queue_front(&f->queue) == PG_TOKEN_COPY_END)
        pg_queue_pop(&f->queue);
    f->batch |= !any_end_due(f, 0); /* an ignored Sync ended no batch */
    return true;
}

/* Makes the Syncs in front maybe, up to the end of the COPY: its mark, or a request (which the
 * server cannot have read inside it). The COPY's own token is not in front. Returns how many cells
 * these are. */
uint32_t pg_copy_doubt_syncs(struct pg_flow *f)
{
    uint32_t i = 0;
    while (i < pg_queue_cells(&f->queue) && pg_queue_cell(&f->queue, i) == PG_TOKEN_SYNC)
        pg_queue_cell_mark(&f->queue, i++);
    return i;
}

/* Nothing between the doubtful Syncs and the anchor? `end`: the cell behind the Syncs. */
static bool doubt_is_simple(const struct pg_flow *f, uint32_t end)
{
    while (end < pg_queue_cells(&f->queue) && pg_queue_cell(&f->queue, end) == PG_TOKEN_COPY_END)
        end++;
    return end == pg_queue_cells(&f->queue) || pg_queue_cell(&f->queue, end) == PG_TOKEN_SYNC;
}

/* COPY FROM STDIN failed after CopyInResponse; its token is in front. */
void pg_copy_failed(struct pg_flow *f)
{
    enum pg_token token = pg_queue_pop_any(&f->queue);
    uint32_t syncs = pg_copy_doubt_syncs(f);
    if (syncs == 0 || token == PG_TOKEN_QUERY) {
        pg_queue_unpop(&f->queue, token);
        if (token !=
            PG_TOKEN_QUERY) /* a Query discards nothing, and its ReadyForQuery comes first */
            pg_flow_discard_to_sync(f);
        return;
    }
    if (doubt_is_simple(f, syncs))
        f->doubt_open = !any_end_due(f, syncs);
    else
        pg_flow_lose_track(f);
}

/* ReadyForQuery while a maybe Sync is in front: whose is it? */
void pg_copy_ready(struct pg_flow *f)
{
    pg_flow_drop_front(f);
    f->doubt_open = false; /* a Sync was answered: nothing is discarded any longer */
    for (uint32_t i = 0; i < pg_queue_cells(&f->queue); i++) {
        if (pg_queue_cell(&f->queue, i) == PG_TOKEN_COPY_END || pg_queue_cell_maybe(&f->queue, i))
            continue;
        if (pg_queue_cell(&f->queue, i) == PG_TOKEN_SYNC)
            pg_queue_cell_mark(&f->queue, i);
        return;
    }
}
