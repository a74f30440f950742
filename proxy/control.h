/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The daemon's head: configuration snapshots, listening sockets, signals, admin, logs; starts and
 * stops the dialer and the workers. Runs on the calling thread until the daemon has ended.
 *
 *     load -> bind -> threads -> attach pools -> serve -> (SIGHUP: load, apply)
 *          -> SIGTERM: not ready, delay, drain fronts -> stop pools -> leave -> join
 */
#include "proxy/conf/conf.h"
#include "proxy/kinds.h"

struct control_args {
    const char *file; /* NULL: from URLs */
    const char *const *urls;
    size_t n_urls;
    const struct kind *kinds;           /* NULL-terminated by name */
    const struct conf_options *options; /* for kinds beyond the three */
};

/* The process' exit status: 0 after an orderly end. */
int control_run(const struct control_args *args);
