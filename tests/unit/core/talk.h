/* SPDX-License-Identifier: MIT */
#pragma once
/* Two ends that speak TLS: a is the client, b the server. Their certificate is made for the run. */
#include "tests/unit/core/ends.h"

#define TALK_NAME "db.test" /* what the certificate is for, beside 127.0.0.1 */

extern char talk_cert[64], talk_key[64]; /* its files */
/* For cmocka_run_group_tests. */
int talk_make_identity(void **state);
int talk_drop_identity(void **state);

struct talk {
    struct ends e;
    struct tls_ctx *server, *client;
};

/* Up to the end of the handshake, well or not. */
void talk_begin(struct talk *t, enum tls_verify verify, const char *ca, const char *host);
void talk_open(struct talk *t); /* well */
/* The server sends no longer records than record_max, nor than the client has asked for: one of
 * TLSEXT_max_fragment_length_*. */
void talk_open_short(struct talk *t, size_t record_max, uint8_t asked);
void talk_close(struct talk *t);

/* For ends_until(). */
bool both_shaken(const struct ends *e); /* or not, for good */
bool a_ended(const struct ends *e);
bool b_got_hello(const struct ends *e);
