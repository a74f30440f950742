/* SPDX-License-Identifier: MIT */
/* The access log of Redis: a line for each command that was meant for a server. */
#include "proxy/front/redis.h"

/* A request that waits for a server may still know the one that it was taken back from. */
static const struct server *carrier_of(const struct redis_request *r)
{
    bool waits = r->state == REDIS_REQ_QUEUED;
    return waits || !r->call.server ? NULL : &r->call.server->base;
}

void redis_access_write(struct redis_client *c, const struct redis_request *r, enum cause cause)
{
    uint64_t now = loop_usec(redis_loop(c)), all = now > r->since_us ? now - r->since_us : 0;
    bool waits = r->state == REDIS_REQ_QUEUED;
    session_access(&c->base, &(struct access_line){
                                 .server = carrier_of(r),
                                 .cause = cause,
                                 .wait_us = waits ? all : r->wait_us,
                                 .exchange_us = waits || all < r->wait_us ? 0 : all - r->wait_us,
                                 .bytes_in = r->size,
                                 .bytes_out = r->told,
                             });
}
