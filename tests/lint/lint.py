# SPDX-License-Identifier: MIT
"""Keeps the house's walls: run by ./dev lint. Exit 1 if anything was found.

    lint.py --build build/asan     (a configured build whose archives are up to date)
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import archives
import compilers
import text
from source import c_sources, script_sources

ROOT = Path(__file__).resolve().parents[2]


def scripts(root):
    for path in script_sources(root):
        name = path.relative_to(root).as_posix()
        yield from text.check_script(path, name)
        if path.suffix == ".sh" or name in ("dev", ".ci/run"):
            run = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
            if run.returncode:
                yield f"{name}: {run.stderr.rstrip()}"


def each(check, sources):
    for source in sources:
        yield from check(source)


def report_largest(sources):
    """Size is a question: which second idea has moved in?"""
    files = sorted(((len(s.lines), s.path) for s in sources), reverse=True)
    functions = sorted(
        ((size, name, f"{s.path}:{line}") for s in sources for name, line, size in s.functions()),
        reverse=True,
    )
    for size, path in files[:3]:
        print(f"largest files      {size:5} lines  {path}")
    for size, name, where in functions[:3]:
        print(f"largest functions  {size:5} lines  {name} ({where})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=Path, required=True)
    build = parser.parse_args().build.resolve()
    os.chdir(ROOT)

    sources = list(c_sources(ROOT))
    architecture = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    built = archives.find_archives(build / "lib")
    checks = [
        ("includes", each(text.check_includes, sources)),
        ("forbidden functions", each(text.check_functions, sources)),
        ("form", each(text.check_form, sources)),
        ("scripts", scripts(ROOT)),
        ("map", text.check_map(architecture, [source.path for source in sources])),
        ("levels (nm)", archives.check_levels(built)),
        ("globals", archives.check_globals(built)),
        ("headers alone", compilers.check_headers(build, sources)),
        ("clang", compilers.check_clang(build, sources)),
        ("format", compilers.check_format(sources)),
    ]
    problems = 0
    for name, check in checks:
        found = list(check)
        if found == ["skipped"]:
            print(f"{name}: skipped, the tool is not installed")
            continue
        print(f"{name}: {len(found) or 'ok'}")
        for line in found:
            print(f"    {line}")
        problems += len(found)
    report_largest([source for source in sources if not source.path.startswith("tests/")])
    print(f"lint: {len(sources)} C files, {len(built)} archives, {problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
