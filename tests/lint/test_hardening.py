# SPDX-License-Identifier: MIT
"""hardening.py finds each flag that is gone, and nothing else."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import hardening

# A buffer on the stack for the protector, a size known at run time for _FORTIFY_SOURCE=3.
CODE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv)
{
    char line[64], *copy = malloc((size_t)argc);
    if (!copy || !fgets(line, argc, stdin))
        return 1;
    memcpy(copy, line, strlen(argv[0]));
    snprintf(line, (size_t)argc, "%s", argv[0]);
    return puts(copy) + puts(line);
}
"""
OF_MACHINE = {"x86_64": ["-fcf-protection=full"], "aarch64": ["-mbranch-protection=standard"]}
COMPILE = ["-g", "-O2", "-fPIE", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3",
           "-fstack-protector-strong", "-fstack-clash-protection",
           *OF_MACHINE.get(platform.machine(), [])]
LINK = ["-pie", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"]


def build(folder, compile_flags, link_flags):
    """A folder as a configured build leaves it."""
    (folder / "main.c").write_text(CODE)
    command = ["gcc", *compile_flags, "-o", "main.o", "-c", "main.c"]
    subprocess.run(command, cwd=folder, check=True)
    subprocess.run(["gcc", *link_flags, "-o", "carpool", "main.o"], cwd=folder, check=True)
    (folder / "compile_commands.json").write_text(json.dumps(
        [{"file": "main.c", "command": " ".join(command)}]))
    return folder


def look(folder):
    binary = folder / "carpool"
    return [*hardening.check_file(binary), *hardening.check_units(binary),
            *hardening.check_fortify(folder)]


def test_all_of_them(tmp_path):
    assert look(build(tmp_path, COMPILE, LINK)) == []
    assert hardening.main([str(tmp_path)]) == 0


@pytest.mark.parametrize("flag, instead, said", [
    ("-pie", "-no-pie", "not position-independent"),
    ("-Wl,-z,relro", "-Wl,-z,norelro", "no RELRO"),
    ("-Wl,-z,now", "-Wl,-z,lazy", "bound late"),
    ("-Wl,-z,noexecstack", "-Wl,-z,execstack", "stack is executable"),
    ("-pie", "-pie -Wl,-rpath,/tmp", "RUNPATH"),
    ("-fstack-clash-protection", "-fno-stack-clash-protection", "without -fstack-clash-protection"),
    *((flag, f"{flag.partition('=')[0]}=none", f"without {flag.partition('=')[0]}")
      for flag in OF_MACHINE.get(platform.machine(), [])),
])
def test_one_is_gone(tmp_path, flag, instead, said):
    def without(flags):
        return " ".join(instead if one == flag else one for one in flags).split()
    found = look(build(tmp_path, without(COMPILE), without(LINK)))
    assert len(found) == 1 and said in found[0], found


def test_the_stack_protector_is_gone(tmp_path):
    flags = [flag for flag in COMPILE if not flag.startswith("-fstack-protector")]
    found = look(build(tmp_path, [*flags, "-fno-stack-protector"], LINK))
    assert [line.partition(" (")[0] for line in found] == [
        "no stack protector", "main.c: compiled without -fstack-protector-strong"]


@pytest.mark.parametrize("level, problems", [(3, 0), (2, 1), (0, 2)])
def test_fortify_levels(tmp_path, level, problems):
    flags = [flag for flag in COMPILE if not flag.startswith("-D_FORTIFY")]
    found = look(build(tmp_path, [*flags, f"-D_FORTIFY_SOURCE={level}"], LINK))
    assert len(found) == problems, found
    assert all("_FORTIFY_SOURCE" in line for line in found)


def test_a_stripped_file_tells_of_itself_only(tmp_path):
    folder = build(tmp_path, COMPILE, LINK)
    subprocess.run(["strip", "carpool"], cwd=folder, check=True)
    assert hardening.main(["--stripped", str(folder / "carpool")]) == 0
    assert hardening.main([str(folder)]) == 1  # nothing says how it was compiled
