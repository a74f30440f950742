/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Messages that no server will answer: the checkout failed, or the server was lost. Says for each
 * what the client must get, so that every request is answered as a server would after an error: an
 * extended message's error is told once, then everything is dropped up to Sync, which is answered.
 * Pure.
 */
#include "proxy/core/base.h"

enum pg_swallow_step {
    PG_SWALLOW_NOTHING,     /* drop the message, no answer */
    PG_SWALLOW_ERROR,       /* ErrorResponse; everything up to Sync is dropped from now on */
    PG_SWALLOW_ERROR_READY, /* ErrorResponse and ReadyForQuery */
    PG_SWALLOW_READY,       /* ReadyForQuery */
    PG_SWALLOW_END          /* the client says goodbye */
};

struct pg_swallow {
    bool till_sync; /* zero at first; while true, go on swallowing */
    /* A batch is open and nothing of it is due, so that its error waits for the next message, even
     * if that is its Sync. While true, go on swallowing. */
    bool untold;
};

/* A message of type `type` came. */
enum pg_swallow_step pg_swallow_next(struct pg_swallow *s, uint8_t type);
