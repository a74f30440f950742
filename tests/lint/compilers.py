# SPDX-License-Identifier: MIT
"""Checks by compilers: each header alone, every file under clang, the format."""

import json
import os
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

FORMATTER = "clang-format-19"
SECOND_COMPILER = "clang-19"


def _in_parallel(work, items):
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for lines in pool.map(work, items):
            yield from lines


def _flags(build):
    """Include paths, definitions and warnings of the last configured build, without sanitizers."""
    flags = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        for word, following in zip(words, words[1:] + [""]):
            keep = word.startswith(("-I", "-D", "-W", "-std=")) and word not in flags
            if keep:
                flags.append(word)
            elif word == "-isystem" and following not in flags:
                flags += [word, following]
    return flags


def _syntax(compiler, flags, what, text=None):
    run = subprocess.run(
        [compiler, *flags, "-Werror", "-fsyntax-only", "-x", "c", "-" if text is not None else what],
        input=text, capture_output=True, text=True,
    )
    if run.returncode == 0:
        return []
    return [f"{what}: does not compile by {compiler}:\n{run.stderr.rstrip()}"]


def check_headers(build, sources):
    flags = _flags(build)
    headers = [source.path for source in sources if source.path.endswith(".h")]
    return _in_parallel(
        lambda path: _syntax("gcc", flags, path, f'#include "{path}"\n'), headers
    )


def check_clang(build, sources):
    if not shutil.which(SECOND_COMPILER):
        return ["skipped"]
    flags = [*_flags(build), "-Wno-string-conversion"]
    # libFuzzer's entry points have no header to be declared in; ./dev fuzz compiles them.
    files = [
        source.path for source in sources
        if source.path.endswith(".c") and not source.path.startswith("tests/fuzz/")
    ]
    return _in_parallel(lambda path: _syntax(SECOND_COMPILER, flags, path), files)


def check_format(sources):
    if not shutil.which(FORMATTER):
        return ["skipped"]
    paths = [source.path for source in sources]
    if not paths:
        return []
    run = subprocess.run(
        [FORMATTER, "--dry-run", "--Werror", *paths], capture_output=True, text=True
    )
    found = {}
    for line in run.stderr.splitlines():
        if "[-Wclang-format-violations]" in line:
            path, number, *_ = line.split(":")
            found.setdefault(path, number)
    if run.returncode and not found:
        return [run.stderr.rstrip()]
    return [f"{path}:{number}: not formatted (./dev fmt)" for path, number in found.items()]
