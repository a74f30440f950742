# SPDX-License-Identifier: MIT
"""Are the flags of a hardened build in the binary? Asks the ELF file, by readelf. Exit 1 if not.

    hardening.py FOLDER              FOLDER/carpool of a configured build, with debug information:
                                     what the file as a whole shows, and each of our sources' flags
    hardening.py --stripped BINARY   what the file as a whole shows

What a machine's instructions do not have is not asked for. The level of _FORTIFY_SOURCE leaves no
mark of its own in the file: the build's commands are asked for it.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

# In every compilation unit, as gcc records it among the debug information.
UNIT_FLAGS = ["-fstack-protector-strong", "-fstack-clash-protection"]
UNIT_FLAGS_OF = {
    "Advanced Micro Devices X86-64": ["-fcf-protection"],
    "AArch64": ["-mbranch-protection"],
}


def _readelf(binary, *options):
    return subprocess.run(["readelf", "-W", *options, binary], check=True, capture_output=True,
                          text=True, errors="replace").stdout


def check_file(binary):
    """What the loader sees: position, segments, what is imported."""
    head, segments, dynamic = (_readelf(binary, option) for option in ("-h", "-l", "-d"))
    imports = re.findall(r" UND (\w+)", _readelf(binary, "--dyn-syms"))
    flags = {kind: flags.replace(" ", "") for kind, flags in re.findall(
        r"^  (GNU_STACK|GNU_RELRO) +(?:0x\w+ +){5}([RWE ]{3})", segments, re.MULTILINE)}
    if not re.search(r"Type: +DYN", head) or "INTERP" not in segments:
        yield "not position-independent (-fPIE -pie)"
    if "GNU_RELRO" not in flags:
        yield "no RELRO (-z relro)"
    if not re.search(r"\(FLAGS(_1)?\).*NOW\b", dynamic):
        yield "symbols are bound late, so that RELRO is not full (-z now)"
    if flags.get("GNU_STACK") != "RW":
        yield "the stack is executable (-z noexecstack)"
    if re.search(r"^  LOAD +(?:0x\w+ +){5}RWE", segments, re.MULTILINE):
        yield "a segment is writable and executable"
    for tag in re.findall(r"\((TEXTREL|RPATH|RUNPATH)\)", dynamic):
        yield f"the dynamic section has {tag}"
    if "__stack_chk_fail" not in imports:
        yield "no stack protector (-fstack-protector-strong)"
    if not any(re.fullmatch(r"__(?!stack)\w+_chk", name) for name in imports):
        yield "no fortified function is called (_FORTIFY_SOURCE)"


def check_units(binary):
    """What each of our sources was compiled with."""
    machine = re.search(r"Machine: +(.*)", _readelf(binary, "-h")).group(1).strip()
    wanted = UNIT_FLAGS + UNIT_FLAGS_OF.get(machine, [])
    info = _readelf(binary, "--debug-dump=info", "--dwarf-depth=1")
    units = re.findall(r"DW_AT_producer.*: (GNU .*|clang .*)\n.*\n.*DW_AT_name.*: (.*)", info)
    if not units:
        yield "no debug information tells what the sources were compiled with (-g)"
    for producer, name in units:
        given = [word for word in producer.split() if not word.endswith("=none")]
        missing = [flag for flag in wanted
                   if not any(word.partition("=")[0] == flag for word in given)]
        if missing:
            yield f"{name}: compiled without {' '.join(missing)}"


def _fortify_level(command, *more):
    words = shlex.split(command)
    run = subprocess.run(
        [*words[:words.index("-o")], *more, "-E", "-dM", "-include", "features.h", "-x", "c", "-"],
        check=True, input="", capture_output=True, text=True)
    match = re.search(r"#define __USE_FORTIFY_LEVEL (\d)", run.stdout)
    return int(match.group(1)) if match else 0


def check_fortify(folder):
    """The best level that compiler and C library have, in every command."""
    best, levels = None, {}  # levels by the flags that decide it
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        command = entry["command"]
        if best is None:
            best = _fortify_level(command, "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3")
        flags = tuple(word for word in shlex.split(command) if word.startswith(("-O", "-D", "-U")))
        if flags in levels:
            continue
        levels[flags] = _fortify_level(command)
        if levels[flags] != best:
            yield (f"{entry['file']} and others: _FORTIFY_SOURCE is {levels[flags]} where {best} "
                   "is possible")


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--stripped", action="store_true")
    parser.add_argument("what", type=Path)
    options = parser.parse_args(arguments)
    if options.stripped:
        found = list(check_file(options.what))
    else:
        binary = options.what / "carpool"
        found = [*check_file(binary), *check_units(binary), *check_fortify(options.what)]
    for line in found:
        print(f"    {line}")
    print(f"hardening of {options.what}: {len(found) or 'ok'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
