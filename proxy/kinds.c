/* SPDX-License-Identifier: MIT */
#include "proxy/kinds.h"

#include "pools/http.h"
#include "pools/postgres.h"
#include "pools/redis.h"
#include "proxy/front/http.h"
#include "proxy/front/postgres.h"
#include "proxy/front/redis.h"

const struct kind builtin_kinds[] = {
    {"postgres", &postgres_driver, &postgres_relay},
    {"redis", &redis_driver, &redis_relay},
    {"http", &http_driver, &http_relay},
    {NULL, NULL, NULL},
};
