# SPDX-License-Identifier: MIT
"""What the linker sees: no archive needs a level that is not below it, no writable globals."""

import re
import subprocess

from rules import GLOBALS, ROOMS

_WRITABLE = re.compile(r"^\.(data|bss|tdata|tbss)(?!\.rel\.ro)|^\*COM\*$")
# What sanitizers and compilers put there themselves.
_COMPILERS = re.compile(r"^(__odr_asan|__asan|__ubsan|__tsan|__func__|\.L|_GLOBAL_)")


def _lines(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def symbols(archive):
    """(defined, undefined): {symbol: object file}. Weak and local symbols do not count."""
    defined, undefined = {}, {}
    for line in _lines("nm", "-A", "-g", str(archive)):
        where, _, rest = line.rpartition(":")
        *_, kind, name = rest.split()
        member = where.rpartition(":")[2] or where
        if kind == "U":
            undefined.setdefault(name, member)
        elif kind.isupper():
            defined.setdefault(name, member)
    return defined, undefined


def check_levels(archives):
    """archives: {room: path}"""
    table = {room: symbols(path) for room, path in archives.items()}
    for room, (defined, undefined) in table.items():
        for name, member in sorted(undefined.items()):
            if name in defined:
                continue
            homes = [other for other in table if name in table[other][0]]
            if homes and not any(ROOMS[home][0] < ROOMS[room][0] for home in homes):
                yield f"{room}: {member} needs {name}() of {homes[0]}, which is not below it"


def check_globals(archives):
    for room, path in archives.items():
        for line in _lines("objdump", "-t", str(path)):
            match = re.match(r"^[0-9a-f]+ .{7} (\S+)\s+[0-9a-f]+ (?:\.hidden )?(\S+)$", line)
            if not match or not _WRITABLE.match(match.group(1)):
                continue
            section, name = match.groups()
            if name == section or _COMPILERS.match(name) or f"{room}: {name}" in GLOBALS:
                continue
            yield f"{room}: {name} is a writable global ({section}); state has an owner"


def find_archives(folder):
    found = {}
    for room, (_, name) in ROOMS.items():
        path = folder / f"lib{name}.a"
        if path.exists():
            found[room] = path
    return found
