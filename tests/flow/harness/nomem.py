# SPDX-License-Identifier: MIT
"""A daemon whose workers run out of memory once, at an allocation of the test's choice.

A small library is laid under the daemon (LD_PRELOAD). It counts what threads named `worker...` ask for by
malloc and calloc, and lets the one fail that brings the count in a file, shared with the test, to zero. realloc is left alone: libuv ends the process where that fails.
"""

import mmap
import struct
import subprocess

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

struct shared { _Atomic long countdown; };
static struct shared *shared;
/* What a sanitizer has in the place of malloc, where there is one. */
extern void *__interceptor_malloc(size_t) __attribute__((weak));
extern void *__interceptor_calloc(size_t, size_t) __attribute__((weak));
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("NOMEM_FILE");
    int fd = path ? open(path, O_RDWR) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        shared = map;
}

static int fails(void)
{
    if (!shared || atomic_load(&shared->countdown) <= 0)
        return 0;
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    if (strncmp(name, "worker", 6) != 0)
        return 0;
    return atomic_fetch_sub(&shared->countdown, 1) == 1;
}

void *malloc(size_t n)
{
    if (fails())
        return NULL;
    return __interceptor_malloc ? __interceptor_malloc(n) : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    if (fails())
        return NULL;
    return __interceptor_calloc ? __interceptor_calloc(n, size) : __libc_calloc(n, size);
}
"""


class NoMemory:
    """`env` for the daemon. fail(n): the nth allocation from now on fails; 0: none."""

    def __init__(self, folder):
        library, source, self.file = folder / "nomem.so", folder / "nomem.c", folder / "nomem"
        source.write_text(SOURCE)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
        self.file.write_bytes(bytes(8))
        with open(self.file, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), 8)
        self.env = {"LD_PRELOAD": str(library), "NOMEM_FILE": str(self.file),
                    "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=1:exitcode=99"}

    def fail(self, n):
        self._map[:8] = struct.pack("q", n)

    @property
    def failed(self):
        """Has it come so far?"""
        return struct.unpack("q", self._map[:8])[0] <= 0
