/* SPDX-License-Identifier: MIT */
#pragma once
/* The protocols this program speaks: name, driver, relay. A test program adds its own. */
#include "pools/driver.h"
#include "proxy/front/relay.h"

struct kind {
    const char *name;
    const struct driver_ops *driver;
    const struct relay_ops *relay;
};

/* The three, in a NULL-terminated list. */
extern const struct kind builtin_kinds[];
