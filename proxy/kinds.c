/* SPDX-License-Identifier: MIT */
#include "proxy/kinds.h"

#include "pools/postgres.h"
#include "proxy/front/postgres.h"

const struct kind builtin_kinds[] = {
    {"postgres", &postgres_driver, &postgres_relay},
    {NULL, NULL, NULL},
};
