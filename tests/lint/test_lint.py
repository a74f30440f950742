# SPDX-License-Identifier: MIT
"""The lint finds what it is there to find, and leaves alone what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import archives
import text
from source import Source
from wrap import wrap


def source(root, path, content):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return Source(root, file)


@pytest.mark.parametrize("path, include, allowed", [
    ("pools/pool.c", '"pools/ledger.h"', True),
    ("pools/pool.c", '"health/breaker.h"', True),
    ("pools/pool.c", '"proxy/front/session.h"', False),
    ("pools/pool.c", '"pool.h"', False),
    ("pools/pool.c", '"tests/echo/echo.h"', False),
    ("health/breaker.c", '"proxy/wire/postgres.h"', False),
    ("admin/stats.c", '"proxy/conf/conf.h"', False),
    ("proxy/main.c", '"proxy/conf/conf.h"', True),
    ("proxy/core/loop.c", '"proxy/worker.h"', False),
    ("proxy/core/loop.c", "<uv.h>", True),
    ("proxy/worker.c", "<uv.h>", False),
    ("proxy/core/tls.c", "<openssl/ssl.h>", True),
    ("proxy/front/session.c", "<openssl/ssl.h>", False),
    ("pools/postgres_dial.c", "<libpq-fe.h>", True),
    ("pools/postgres_driver.c", "<libpq-fe.h>", False),
    ("health/redis_probe.c", "<hiredis/async.h>", True),
    ("proxy/wire/http.c", "<llhttp.h>", True),
    ("pools/http_driver.c", "<llhttp.h>", False),
    ("admin/client.c", "<curl/curl.h>", True),
    ("admin/server.c", "<curl/curl.h>", False),
    ("proxy/core/schema.c", "<yaml.h>", False),
    ("proxy/core/base.c", "<stdio.h>", True),
    ("tests/unit/pools/test_pool.c", '"proxy/front/session.h"', False),
    ("tests/unit/pools/test_pool.c", '"proxy/core/list.h"', True),
    ("tests/unit/pools/test_pool.c", "<cmocka.h>", True),
    ("pools/pool.c", "<cmocka.h>", False),
])
def test_includes(tmp_path, path, include, allowed):
    found = list(text.check_includes(source(tmp_path, path, f"#include {include}\n")))
    assert bool(found) != allowed, found


def test_forbidden_functions_are_seen_in_code_only(tmp_path):
    file = source(tmp_path, "pools/x.c", (
        "/* strcpy(a, b) */\n"
        'const char *s = "sprintf(x)";\n'
        "int random = my_rand() + x->rand() + snprintf(0, 0);\n"
        "void f(void) { strcpy(a, b); }\n"
    ))
    assert [line.split(":")[1] for line in text.check_functions(file)] == ["4"]


def test_form(tmp_path):
    good = "/* SPDX-License-Identifier: MIT */\n#pragma once\n"
    assert list(text.check_form(source(tmp_path, "pools/x.h", good))) == []
    bad = f"#include <stdio.h>\n\tint x; /* {'x' * 100} */ \n"
    assert len(list(text.check_form(source(tmp_path, "pools/y.h", bad)))) == 4


def test_function_sizes(tmp_path):
    file = source(tmp_path, "pools/x.c", (
        "static const int table[] = {\n    1,\n};\n"
        "struct x {\n    int y;\n};\n"
        "static int one(int a,\n               int b)\n{\n    return a;\n}\n"
        "int two(void)\n{\n    return 2;\n}\n"
    ))
    assert list(file.functions()) == [("one", 7, 5), ("two", 12, 4)]


def archive(root, name, code):
    (root / f"{name}.c").write_text(code)
    subprocess.run(["gcc", "-fPIE", "-c", f"{name}.c"], cwd=root, check=True)
    subprocess.run(["ar", "crs", f"{name}.a", f"{name}.o"], cwd=root, check=True)
    return root / f"{name}.a"


def test_levels(tmp_path):
    built = {
        "proxy/core": archive(tmp_path, "core", "int up(void); int core(void) { return up(); }"),
        "pools": archive(tmp_path, "pools", "int core(void); int up(void) { return core(); }"),
    }
    found = list(archives.check_levels(built))
    assert len(found) == 1 and "proxy/core: core.o needs up() of pools" in found[0]


def test_globals(tmp_path):
    built = {"pools": archive(tmp_path, "g", (
        "const char *const fine[] = {\"a\", \"b\"}; static const int fine2 = 3;\n"
        "static int counter; int bump(void) { return ++counter + fine2; }\n"
    ))}
    found = list(archives.check_globals(built))
    assert len(found) == 1 and "counter" in found[0]


def test_wrap_fills_prose_and_keeps_diagrams():
    words = "word " * 30
    diagram = " *   dialing ──→ " + "live " * 30
    lines = ["/*", f" * {words.strip()}", " * and the end.", " *", diagram, " */"]
    wrapped = wrap(lines)
    assert max(len(line) for line in wrapped if line != diagram) <= 100
    assert diagram in wrapped
    assert " ".join(line[3:] for line in wrapped[1:3]) == f"{words.strip()} and the end."
    assert wrap(wrapped) == wrapped


def test_wrap_takes_all_of_a_comment_whose_lines_have_no_stars():
    lines = ["    /* " + "word " * 18 + "overlong it is,", "       and goes on. */", "    int n;"]
    wrapped = wrap(lines)
    assert max(map(len, wrapped)) <= 100 and wrapped[-1] == "    int n;"
    assert wrapped[1] == "     * overlong it is, and goes on. */"


def test_wrap_closes_one_line_comments():
    assert wrap(["/* " + "word " * 25 + "*/"])[-1] == " * word word word word word word */"


def test_map_names_every_file_and_no_other():
    page = "### `pools/`\n\n| `pool.[ch]`, `dial.c` | leases |\n\n### Around\n\n| `tests/` | |\n"
    paths = ["pools/pool.c", "pools/pool.h", "pools/dial.c", "tests/unit/pools/test_pool.c"]
    assert list(text.check_map(page, paths)) == []
    assert list(text.check_map(page, paths[1:] + ["health/window.c"])) == [
        "docs/architecture.md: does not name health/window.c",
        "docs/architecture.md: there is no pools/pool.c",
    ]
