/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Asks a running carpool's admin API: what the command line uses. Blocks, bounded in time;
 * never in the daemon.
 */
#include "proxy/core/base.h"

struct client;

/*
 * where: the path of the Unix socket, or "http://HOST:PORT". token may be NULL. Both are copied. An
 * answer must be complete within timeout_ms. NULL when memory is out.
 */
struct client *client_new(const char *where, const char *token, unsigned timeout_ms);
void client_free(struct client *client);

struct client_answer {
    long status;
    char *body; /* NUL-terminated; free() it */
    size_t n;
    const char *where; /* as given; lives as long as the client */
};

/*
 * method: "GET" or "POST"; path begins with '/'. False: nobody answered, and `why` (of `cap`
 * bytes) says so in a sentence that names the place. Any status is an answer.
 */
bool client_ask(struct client *client, const char *method, const char *path,
                struct client_answer *out, char *why, size_t cap);
