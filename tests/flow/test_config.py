# SPDX-License-Identifier: MIT
"""`carpool check` and `carpool config`: what is wrong is said with its place, and what would be right."""

import os
import re
import subprocess

import pytest
from harness.base import clean_env
from harness.carpool import SANITIZER, SANITIZER_OPTIONS

GOOD = """\
workers: 1
log: { level: info, format: text }
admin: { socket: /tmp/never-made.sock }
pools:
  - name: orders
    kind: postgres
    listen: ["127.0.0.1:6432"]
    upstream: postgres://app:secret-word@db.example:5432/orders
    mode: transaction
    size: { min: 1, max: 20, acquire_timeout: 3s }
    timeouts: { connect: 5s, request: 0 }
    retry: { attempts: 3, backoff: 25ms..250ms, budget: 20% }
    limits: { clients: 10000, buffer: 256KiB }
"""


@pytest.fixture
def carpool_cli(binary, tmp_path):
    """cli(*args, text=file contents, **environment) → finished process; `FILE` stands for the file."""
    def run(*args, text=None, **env):
        path = tmp_path / "carpool.yaml"
        if text is not None:
            path.write_text(text)
        done = subprocess.run([binary, *(str(path) if a == "FILE" else a for a in args)],
                              capture_output=True, text=True, timeout=20, cwd=tmp_path,
                              stdin=subprocess.DEVNULL, env={**clean_env(), **SANITIZER_OPTIONS, **env})
        assert not SANITIZER.search(done.stderr), done.stderr
        done.said = done.stdout + done.stderr
        return done
    return run


def test_good_file(carpool_cli):
    done = carpool_cli("check", "-c", "FILE", text=GOOD)
    assert done.returncode == 0, done.said
    assert "error" not in done.said and "secret-word" not in done.said


# What is put instead of what, where the error is (line, column), and what must be said.
BAD = {
    "unknown key": ("max: 20", "maxx: 20", 10, 21, ["maxx", "max"]),
    "unknown table": ("retry:", "retyr:", 12, 5, ["retyr", "retry"]),
    "unknown top key": ("workers: 1", "wrokers: 1", 1, 1, ["wrokers", "workers"]),
    "not a number": ("max: 20", "max: many", 10, 26, ["many"]),
    "negative": ("max: 20", "max: -1", 10, 26, ["-1"]),
    "zero servers": ("max: 20", "max: 0", 10, 26, ["0"]),
    "no unit": ("acquire_timeout: 3s", "acquire_timeout: 3", 10, 47, ["3s"]),
    "unknown unit": ("buffer: 256KiB", "buffer: 256Kb", 13, 39, ["256Kb"]),
    "not a percentage": ("budget: 20%", "budget: 120%", 12, 57, ["120%"]),
    "range backwards": ("25ms..250ms", "250ms..25ms", 12, 36, ["250ms"]),
    "unknown word": ("mode: transaction", "mode: transcation", 9, 11, ["transcation", "transaction"]),
    "unknown kind": ("kind: postgres", "kind: postgers", 6, 11, ["postgers", "postgres"]),
    "min above max": ("min: 1", "min: 21", 10, None, ["min", "max"]),
    "list for a number": ("workers: 1", "workers: [1]", 1, 10, ["workers"]),
    "bad port": ("127.0.0.1:6432", "127.0.0.1:66432", 7, None, ["66432"]),
    "bad address": ("127.0.0.1:6432", "127.0.0.256:6432", 7, None, ["127.0.0.256"]),
    "scheme of another kind": ("postgres://", "redis://", 8, None, ["redis"]),
    "unknown scheme": ("postgres://", "oracle://", 8, None, ["oracle"]),
    "unknown variable": ("secret-word", "${NO_SUCH_VARIABLE}", 8, None, ["NO_SUCH_VARIABLE"]),
    "key twice": ("mode: transaction", "kind: postgres", 9, 5, ["kind"]),
    "tab": ("    mode:", "\tmode:", 9, None, []),
    "not closed": ("budget: 20% }", "budget: 20%", None, None, []),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files(carpool_cli, what):
    old, new, line, column, words = BAD[what]
    assert GOOD.count(old) == 1
    done = carpool_cli("check", "-c", "FILE", text=GOOD.replace(old, new))
    assert done.returncode == 1, done.said
    found = re.search(r"carpool\.yaml:(\d+):(\d+): (.*)", done.said)
    assert found, done.said
    if line:
        assert int(found[1]) == line, done.said
    if column:
        assert int(found[2]) == column, done.said
    for word in words:
        assert word in found[3], done.said
    assert "secret-word" not in done.said


@pytest.mark.parametrize("typo,meant", [("maxx", "max"), ("acquire_timout", "acquire_timeout"),
                                        ("Max", "max"), ("idle-timeout", "idle_timeout")])
def test_suggestions(carpool_cli, typo, meant):
    done = carpool_cli("check", "-c", "FILE", text=GOOD.replace("max: 20", f"max: 20, {typo}: 7"))
    assert done.returncode == 1
    assert re.search(rf"{typo}.*\b{meant}\b", done.said), done.said


def test_every_error_is_told(carpool_cli):
    text = GOOD.replace("max: 20", "maxx: 20").replace("level: info", "level: loud") \
        .replace("mode: transaction", "mode: taxi").replace("attempts: 3", "attempts: x")
    done = carpool_cli("check", "-c", "FILE", text=text)
    assert done.returncode == 1
    lines = [int(n) for n in re.findall(r"carpool\.yaml:(\d+):\d+:", done.said)]
    assert lines == sorted(lines) and set(lines) >= {2, 9, 10, 12}, done.said


def test_two_pools_of_one_name(carpool_cli):
    second = GOOD[GOOD.index("  - name"):].replace("6432", "6433")
    done = carpool_cli("check", "-c", "FILE", text=GOOD + second)
    assert done.returncode == 1
    assert re.search(r"carpool\.yaml:14:\d+: .*orders", done.said), done.said


def test_two_pools_at_one_address(carpool_cli):
    second = GOOD[GOOD.index("  - name"):].replace("name: orders", "name: reports")
    done = carpool_cli("check", "-c", "FILE", text=GOOD + second)
    assert done.returncode == 1 and "127.0.0.1:6432" in done.said


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "pools: []\n", "workers: 1\n", "- a\n- b\n",
                                  "pools: 7\n", "just words\n", "\x00\x01\x02", "a: &a [*a, *a]\n",
                                  "pools:\n  - name: x\n", "%YAML 9.9\n---\n", "{" * 500,
                                  "pools:\n  - {name: x, upstream: 'postgres://'}\n"])
def test_files_that_are_no_configuration(carpool_cli, text):
    done = carpool_cli("check", "-c", "FILE", text=text)
    assert done.returncode == 1 and "carpool.yaml" in done.said


def test_file_that_is_not_there(carpool_cli):
    done = carpool_cli("check", "-c", "/nowhere/carpool.yaml")
    assert done.returncode == 1 and "/nowhere/carpool.yaml" in done.said


def test_trust_beyond_loopback_is_an_error(carpool_cli):
    text = GOOD.replace("127.0.0.1:6432", "0.0.0.0:6432")
    assert carpool_cli("check", "-c", "FILE", text=text).returncode == 0
    done = carpool_cli("check", "-c", "FILE",
                       text=text.replace("mode: transaction", "auth: { method: trust }"))
    assert done.returncode == 1
    assert re.search(r"carpool\.yaml:\d+:\d+: .*trust", done.said), done.said


def test_variables_and_secret_files(carpool_cli, tmp_path):
    text = GOOD.replace("secret-word", "${ORDERS_PASSWORD}").replace("max: 20", "max: ${MAX}")
    done = carpool_cli("check", "-c", "FILE", text=text, ORDERS_PASSWORD="hush-hush", MAX="7")
    assert done.returncode == 0 and "hush-hush" not in done.said
    done = carpool_cli("check", "-c", "FILE", text=text, ORDERS_PASSWORD="hush-hush", MAX="-7")
    assert done.returncode == 1 and "hush-hush" not in done.said


def test_json_is_yaml(carpool_cli):
    text = '{"pools": [{"name": "a", "upstream": "postgres://app:x@db/orders"}]}'
    assert carpool_cli("check", "-c", "FILE", text=text).returncode == 0


def test_run_refuses_a_bad_file(carpool_cli):
    done = carpool_cli("run", "-c", "FILE", text=GOOD.replace("max: 20", "maxx: 20"))
    assert done.returncode == 1 and re.search(r"carpool\.yaml:10:21: .*maxx", done.said)


def test_config_lists_every_key(carpool_cli):
    """Type, default, range and what a reload does, for each key of the documented example."""
    said = carpool_cli("config").stdout
    for key in ("workers", "level", "format", "access", "socket", "http", "token_file", "delay",
                "deadline", "name", "kind", "listen", "upstream", "mode", "method", "users_file",
                "cert", "key", "min", "max", "waiters", "acquire_timeout", "idle_timeout",
                "max_lifetime", "on_return", "idle", "checkout_after", "timeout", "connect", "request",
                "idle_transaction", "client_idle", "write_stall", "outage_wait", "attempts", "backoff",
                "budget", "consecutive", "failure_ratio", "min_requests", "open", "clients",
                "in_flight", "rate", "buffer", "keepalive", "user_timeout"):
        assert re.search(rf"\b{key}\b", said), key
    for default in ("20", "1024", "3s", "10m", "30m", "25ms..250ms", "20%", "256KiB"):
        assert default in said, default


def test_documentation_knows_every_key(carpool_cli):
    """docs/configuration.md is made from the same rows as `carpool config`."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(os.path.join(root, "docs", "configuration.md")) as file:
        page = file.read()
    said = carpool_cli("config").stdout
    for key in re.findall(r"^\s+([a-z_]+)\s+(?:count|duration|size|percent|string|one of)", said, re.M):
        assert f"`{key}`" in page, key
