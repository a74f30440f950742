# SPDX-License-Identifier: MIT
"""Checks that read text: includes, forbidden functions, the first lines, the width of lines."""

import fnmatch
import re

from rules import FORBIDDEN, LIBRARIES, MAX_COLUMNS, ROOMS, TEST_ROOMS

_FORBIDDEN = re.compile(r"(?<![\w.>])(%s)\s*\(" % "|".join(FORBIDDEN))


def check_includes(source, rooms=ROOMS):
    is_test = source.path.startswith("tests/")
    for line, kind, header in source.includes():
        complaint = None
        if kind == "<":
            if not is_test:
                complaint = _library(source.path, header)
        else:
            complaint = _own(source.room, header, rooms)
        if complaint:
            yield f"{source.path}:{line}: {complaint}"


def _library(path, header):
    for pattern, allowed in LIBRARIES.items():
        if fnmatch.fnmatch(header, pattern):
            # A room's pattern does not reach into the rooms below its folder.
            if not any(_in_room(path, rule) for rule in allowed):
                return f"<{header}> has no business here (allowed: {' '.join(allowed) or 'tests'})"
    return None


def _in_room(path, rule):
    return path.count("/") == rule.count("/") and fnmatch.fnmatch(path, rule)


def _own(room, header, rooms):
    if "/" not in header or ".." in header:
        return f'"{header}": write includes from the root of the repository'
    other = header.rpartition("/")[0]
    if room == other or room.startswith("tests/") and other.startswith("tests/"):
        return None
    if other.startswith("tests/"):
        return f'"{header}": the product does not know its tests'
    if other not in rooms:
        return f'"{header}": {other} is not a room'
    if room.startswith("tests/"):
        tried = TEST_ROOMS.get(room)
        if tried is None or tried == other or rooms[other][0] < rooms[tried][0]:
            return None
        return f'"{header}": tests of {tried} see it and what is below it'
    if room not in rooms:
        return f"{room} is not a room (a new one belongs into tests/lint/rules.py)"
    if rooms[other][0] >= rooms[room][0]:
        return f'"{header}": {room} (L{rooms[room][0]}) does not see {other} (L{rooms[other][0]})'
    return None


def check_functions(source):
    for match in _FORBIDDEN.finditer(source.code):
        name = match.group(1)
        yield (
            f"{source.path}:{source.line_of(match.start())}: "
            f"{name}() is not used here: take {FORBIDDEN[name]}"
        )


def check_form(source):
    if not source.lines or "SPDX-License-Identifier: MIT" not in source.lines[0]:
        yield f"{source.path}:1: the first line is /* SPDX-License-Identifier: MIT */"
    if source.path.endswith(".h") and "#pragma once" not in source.lines:
        yield f"{source.path}:1: a header says #pragma once"
    for number, line in enumerate(source.lines, 1):
        if len(line) > MAX_COLUMNS:
            yield f"{source.path}:{number}: {len(line)} columns, {MAX_COLUMNS} are the limit"
        if line != line.rstrip() or "\t" in line:
            yield f"{source.path}:{number}: tab or trailing space"


def check_script(path, name):
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines and not any("SPDX-License-Identifier: MIT" in line for line in lines[:3]):
        yield f"{name}:1: no SPDX line"


def check_map(page, paths):
    """docs/architecture.md names every file of the rooms, and no other: `name.[ch]` in the first
    column below the heading of the folder."""
    named, folder = set(), None
    for line in page.splitlines():
        if line.startswith("#"):
            heading = re.fullmatch(r"### `([\w/]+/)`", line)
            folder = heading and heading.group(1)
        elif folder and line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", line.split("|")[1]):
                stem, both, _ = name.partition(".[ch]")
                named |= {folder + stem + end for end in (".c", ".h")} if both else {folder + name}
    missing = {path for path in paths if not path.startswith("tests/")} - named
    yield from (f"docs/architecture.md: does not name {path}" for path in sorted(missing))
    yield from (f"docs/architecture.md: there is no {path}" for path in sorted(named - set(paths)))
