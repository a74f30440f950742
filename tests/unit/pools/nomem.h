/* SPDX-License-Identifier: MIT */
#pragma once
/* tests/unit/nomem.h for pools: the far ends of fake_io.h are closed by its own means. */
#include "tests/unit/nomem.h"
#include "tests/unit/pools/fake_io.h"

int __wrap_close(int fd)
{
    if (fd < 1000000)
        return __real_close(fd);
    fake_close(fd);
    return 0;
}
