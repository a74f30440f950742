/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Where the admin API listens: the `admin:` mapping. Plain values, filled by proxy/conf. Declared
 * here because admin/ reads it and proxy/conf fills it: neighbours do not include each other.
 */
#include <stdint.h>

#define ADMIN_SOCKET_DEFAULT "/run/carpool/admin.sock"

struct admin_conf {
    const char *socket; /* Unix socket path; NULL: none */
    const char *http;   /* "127.0.0.1:9601" as written; NULL: no TCP */
    const char *host;   /* of http: an IPv4 or IPv6 literal without brackets; NULL: no TCP */
    uint16_t port;      /* of http */
    /* Secret that POST and private pages need over a TCP address that is not loopback; NULL: there
       they are refused. token_file is where it came from, if from a file. */
    const char *token, *token_file;
};
