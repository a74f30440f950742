/* SPDX-License-Identifier: MIT */
/*
 *     [answering] -- P B C D E: error --> [till_sync] -- S: ready --> [answering]
 *          Q F: error, ready                 all but S X: nothing
 *     [untold]: as answering, but also S: error, ready
 */
#include "proxy/wire/postgres_swallow.h"

enum pg_swallow_step pg_swallow_next(struct pg_swallow *s, uint8_t type)
{
    bool untold = s->untold;
    switch (type) {
    case 'X':
        return PG_SWALLOW_END;
    case 'S':
        s->till_sync = s->untold = false;
        return untold ? PG_SWALLOW_ERROR_READY : PG_SWALLOW_READY;
    case 'Q':
    case 'F':
        s->untold = false;
        return s->till_sync ? PG_SWALLOW_NOTHING : PG_SWALLOW_ERROR_READY;
    case 'P':
    case 'B':
    case 'C':
    case 'D':
    case 'E':
        if (s->till_sync)
            return PG_SWALLOW_NOTHING;
        s->till_sync = true;
        s->untold = false;
        return PG_SWALLOW_ERROR;
    default: /* Flush; what is left of a COPY */
        return PG_SWALLOW_NOTHING;
    }
}
