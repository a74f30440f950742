/* SPDX-License-Identifier: MIT */
#pragma once
/* Private to redis_commands.c and redis_table.c: one row per command, in strcmp() order. */
#include "proxy/wire/redis_commands.h"

enum {
    REDIS_ROW_RETRY = 1,      /* may be sent again after a loss */
    REDIS_ROW_MULTI = 2,      /* may be forwarded between MULTI and EXEC */
    REDIS_ROW_SCRIPT = 4,     /* runs a script */
    REDIS_ROW_SWEEPING = 8,   /* touches a whole database */
    REDIS_ROW_STREAM = 16,    /* XREAD, XREADGROUP: BLOCK among the options makes it BLOCKING */
    REDIS_ROW_CONTAINER = 32, /* has subcommands; an unknown one is refused ... */
    REDIS_ROW_OPEN = 64,      /* ... or, for a container that holds nothing dangerous, is UNKNOWN */
};

/* Why a command is refused, as an index of redis_reasons. */
enum redis_reason {
    REDIS_WHY_NONE,
    REDIS_WHY_ADMIN,
    REDIS_WHY_CLUSTER,
    REDIS_WHY_DEBUG,
    REDIS_WHY_MIGRATE,
    REDIS_WHY_POOL_CLIENTS,
    REDIS_WHY_REPLICATION,
    REDIS_WHY_SYNC_WAIT,
    REDIS_WHY_TRAFFIC,
    REDIS_WHY_USERS,
    REDIS_WHY_COUNT
};

struct redis_row {
    const char *name; /* lower case; subcommands as "container|subcommand" */
    uint8_t class;    /* enum redis_class */
    uint8_t id;       /* enum redis_id */
    uint8_t flags;
    uint8_t why; /* enum redis_reason */
};

enum { REDIS_NAME_LONGEST = 32 }; /* no name in the table is longer */

extern const struct redis_row redis_rows[];
extern const size_t redis_rows_n;
extern const char *const redis_reasons[REDIS_WHY_COUNT];
