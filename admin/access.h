/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Who may ask for what. Pure.
 *
 *   Unix socket           everything: the file's mode has decided already
 *   TCP on loopback       everything, but not to pages in somebody's browser: a foreign Host (a
 *                         name that was made to point here) or Origin is refused, except for
 *                         the open pages
 *   TCP elsewhere         /live, /ready and /metrics; everything else needs the token
 */
#include "proxy/core/span.h"

enum access_door { ACCESS_UNIX, ACCESS_LOOPBACK, ACCESS_OUTSIDE };

struct access_rule {
    enum access_door door;
    const char *host;  /* the configured literal; NULL for a Unix socket */
    const char *token; /* NULL: none is configured */
};

struct access_ask {
    bool open;                               /* the page is for everybody */
    bool changes;                            /* it is no page but an action */
    struct span host, origin, authorization; /* field values; empty: not sent */
};

/* 0: go on. Else the status to refuse with, and *why is a sentence that says what would be
   right. */
unsigned access_check(const struct access_rule *rule, const struct access_ask *ask,
                      const char **why);

/* Of an IPv4 or IPv6 literal. */
bool access_is_loopback(const char *host);
