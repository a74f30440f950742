/* SPDX-License-Identifier: MIT */
#pragma once
/* Sockets to listen on, for the admin API. Control's thread, before anything runs. */
#include <sys/stat.h>

#include "proxy/core/err.h"

/*
 * A Unix socket with mode 0600 from its first moment; its folder is made (0755) if it is
 * missing. A file that nobody listens on is replaced. *made tells the file from one that comes
 * later at the same path. -1 and *err on failure.
 */
int listen_unix(const char *path, struct stat *made, struct err *err);

/* Removes the file, unless another has taken its place. */
void listen_unlink(const char *path, const struct stat *made);

/* host: an IPv4 or IPv6 literal without brackets. -1 and *err on failure. */
int listen_tcp(const char *host, uint16_t port, struct err *err);
