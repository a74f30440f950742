/* SPDX-License-Identifier: MIT */
#pragma once
/* A fourth protocol, registered from outside: what its driver and its relay share of one server. */
#include "pools/server.h"
#include "proxy/front/relay.h"
#include "tests/echo/codec.h"

struct echo_dial;

struct echo_server {
    struct server base;
    struct echo_framer framer; /* of what it sends */
    bool asked;                /* a frame is with it that it has not sent back whole */
    struct echo_dial *dial;
};

static inline struct echo_server *echo_server_of(struct server *sv)
{
    return OWNER(sv, struct echo_server, base);
}

extern const struct driver_ops echo_driver;
extern const struct relay_ops echo_relay;
