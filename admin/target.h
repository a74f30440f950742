/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * What a request asks for: method and path to a page or an action. Pure.
 */
#include "proxy/wire/http.h"

enum page_id {
    PAGE_INDEX,
    PAGE_LIVE,
    PAGE_READY,
    PAGE_METRICS,
    PAGE_STATS,
    PAGE_POOLS,
    PAGE_CLIENTS,
    PAGE_SERVERS,
    PAGE_CONFIG,
    PAGE_RELOAD,
    PAGE_SHUTDOWN,
    PAGE_PAUSE,
    PAGE_RESUME,
    PAGE_RECYCLE,
    PAGE_DRAIN,
    PAGE_BREAKER,
};

struct target {
    unsigned status;    /* 0: go on; 404 or 405 */
    enum page_id page;  /* with status 0 or 405 */
    bool open;          /* probes and scrapers: for everybody who reaches the address */
    bool changes;       /* asked for by POST */
    const char *action; /* "pause"; NULL for pages */
    const char *allow;  /* with 405: a line for the answer's head, with CRLF */
    struct span pool;   /* of an action on a pool, as sent; points into the request */
    struct span query;  /* after '?' */
};

struct target target_of(enum http_method method, struct span path);

/* The value of a query's parameter; empty if it is not there. Nothing is decoded: no value that
   means something here needs it. */
struct span target_param(struct span query, struct span name);
