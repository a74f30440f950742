# SPDX-License-Identifier: MIT
"""The rules of the house as tables: which room sees which, which file sees which library."""

# A room is a folder; includes are free inside it and go down between rooms, level by level.
# room: (level, archive). Rooms of one level do not see each other.
ROOMS = {
    "proxy": (5, "cp_daemon"),
    "admin": (4, "cp_admin"),
    "proxy/conf": (4, "cp_conf"),
    "proxy/front": (3, "cp_front"),
    "pools": (2, "cp_pools"),
    "proxy/wire": (1, "cp_wire"),
    "health": (1, "cp_health"),
    "proxy/core": (0, "cp_core"),
}

# Tests see what they try and what that sees; the echo protocol is a guest above proxy/front.
TEST_ROOMS = {f"tests/unit/{room.rpartition('/')[2]}": room for room in ROOMS}
TEST_ROOMS["tests/unit/daemon"] = "proxy"
TEST_ROOMS["tests/unit/relays"] = "proxy/front"

DIAL = ["pools/*_dial*.[ch]", "pools/dial.[ch]"]
PROBE = ["health/*probe*.[ch]"]

# header pattern: files that may include it (beside tests). Headers not named here are libc's.
LIBRARIES = {
    "uv.h": ["proxy/core/*", *DIAL, *PROBE],
    "uv/*": ["proxy/core/*", *DIAL, *PROBE],
    "openssl/*": ["proxy/core/*", *DIAL, *PROBE],
    "libpq-fe.h": [*DIAL, *PROBE],
    "libpq/*": [*DIAL, *PROBE],
    "hiredis/*": [*DIAL, *PROBE],
    "curl/*": [*DIAL, *PROBE, "admin/client*", "proxy/cli*"],
    "llhttp.h": ["proxy/wire/*"],
    "yaml.h": ["proxy/conf/*"],
    "jansson.h": ["proxy/conf/*", "admin/*"],
    "cmocka.h": [],
}

# function: what to use instead.
FORBIDDEN = {
    "strcpy": "a bounded copy",
    "strcat": "a bounded copy",
    "sprintf": "snprintf",
    "vsprintf": "vsnprintf",
    "gets": "a bounded read",
    "strtok": "a span walk (strtok keeps a global)",
    "atoi": "a parser that can fail",
    "rand": "getrandom or the thread's own generator",
    "sleep": "a timer",
    "usleep": "a timer",
}

# Writable data at file scope: there are no globals but const tables. "room: symbol" may be excused.
GLOBALS = set()

MAX_COLUMNS = 100
