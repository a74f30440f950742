# SPDX-License-Identifier: MIT
"""The command line as somebody meets it who has read nothing."""

import os
import re
import subprocess
import textwrap

import pytest
from harness.base import clean_env, free_port, LOOPBACK
from harness.carpool import ROOT, SANITIZER, SANITIZER_OPTIONS, postgres_pool

VERBS = ("run", "check", "config", "version", "status", "pools", "stats", "health", "wait", "reload",
         "shutdown", "pause", "resume", "recycle", "breaker", "clients", "servers", "drain")


@pytest.fixture
def call(binary, tmp_path):
    """call(*args, **environment) → finished process."""
    ours = {k: v for k, v in clean_env().items() if not k.startswith("CARPOOL_")}

    def run(*args, **env):
        done = subprocess.run([binary, *args], capture_output=True, text=True, timeout=20, cwd=tmp_path,
                              stdin=subprocess.DEVNULL,
                              env={**ours, **SANITIZER_OPTIONS, **env})
        assert not SANITIZER.search(done.stderr), done.stderr
        return done
    return run


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(call, verb):
    for args in ((verb, "--help"), (verb, "-h"), ("help", verb)):
        done = call(*args)
        assert done.returncode == 0 and done.stderr == "", (args, done.stderr)
        assert done.stdout.startswith(f"usage: carpool {verb}"), done.stdout
        assert all(len(line) <= 100 for line in done.stdout.splitlines()), done.stdout
    assert re.search(rf"\b{verb}\b", call("help").stdout), "the overview names it"


def test_help_belongs_to_the_command_behind_the_dashes(call, carpool, pg):
    daemon = carpool(postgres_pool(pg.url()))
    done = call("wait", "--", "printf", "%s\\n", "--help", CARPOOL_ADMIN=str(daemon.socket))
    assert (done.returncode, done.stdout) == (0, "--help\n")


def test_a_verb_that_does_not_exist(call):
    for args in (("sttaus",), ("help", "sttaus")):
        done = call(*args)
        assert done.returncode == 2 and "sttaus" in done.stderr and "carpool help" in done.stderr


def test_admin_address_in_every_form(call, carpool, pg):
    port = free_port()
    daemon = carpool(postgres_pool(pg.url()), admin={"http": f"{LOOPBACK}:{port}"})
    for where in (f"{LOOPBACK}:{port}", f"localhost:{port}", f"http://{LOOPBACK}:{port}",
                  str(daemon.socket)):
        done = call("status", "-s", where)
        assert done.returncode == 0 and "orders" in done.stdout, (where, done.stderr)
        assert call("health", CARPOOL_ADMIN=where).returncode == 0


@pytest.mark.parametrize("where, word", [("carpool", "HOST:PORT"), (f"https://{LOOPBACK}:1", "http://"),
                                         ("/nowhere/at.all", "/nowhere/at.all"), (f"{LOOPBACK}:1", ":1")])
def test_admin_address_that_is_none(call, where, word):
    done = call("status", "-s", where)
    assert done.returncode == 1 and word in done.stderr and done.stdout == "", done.stderr


def test_unknown_variables_are_pointed_out(call):
    env = {"CARPOOL_LOG_LEVL": "debug", "CARPOOL_POOLS": "redis://db", "CARPOOL_FROBNICATE": "1",
           "CARPOOL_SERVICE_HOST": "10.0.0.1", "CARPOOL_PORT_6432_TCP": "tcp://10.0.0.1:6432"}
    done = call("check", **env)
    assert done.returncode == 0, done.stderr
    assert "CARPOOL_LOG_LEVL" in done.stderr and "did you mean CARPOOL_LOG_LEVEL?" in done.stderr
    assert "CARPOOL_FROBNICATE" in done.stderr and "warning" in done.stderr
    assert "SERVICE_HOST" not in done.stderr and "6432" not in done.stderr, "Kubernetes' own"


def test_variables_beside_a_file_are_pointed_out(call, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("pools: [{ name: a, upstream: '${CARPOOL_UPSTREAM}' }]\n")
    done = call("check", "-c", str(file), CARPOOL_UPSTREAM="redis://db", CARPOOL_LOG_LEVEL="debug",
                CARPOOL_ADMIN_SOCKET="/run/x.sock")
    assert done.returncode == 0 and "CARPOOL_UPSTREAM" not in done.stderr, done.stderr
    assert "CARPOOL_LOG_LEVEL" in done.stderr and "log.level" in done.stderr
    assert "CARPOOL_ADMIN_SOCKET" not in done.stderr, "the verbs read it"
    assert os.path.exists(file)


def examples(path):
    """The configurations in a page: its indented blocks that begin with `pools:`."""
    blocks = re.findall(r"^ {4}pools:\n(?: {4}.*\n|\n(?= {4}))+", (ROOT / path).read_text(), re.M)
    return [textwrap.dedent(block) for block in blocks]


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md", "docs/postgres.md", "docs/redis.md",
                                  "docs/http.md"])
def test_the_examples_of_the_pages_load(call, tmp_path, page):
    users, file = tmp_path / "userlist.txt", tmp_path / "carpool.yaml"
    users.write_text('"app" "secret"\n')
    texts = examples(page)
    assert texts, "the page shows a configuration"
    for text in texts:
        file.write_text(re.sub(r"/etc/\S+/userlist.txt", str(users), text))
        names = re.findall(r"\$\{(\w+)\}", text)
        done = call("check", "-c", str(file), **dict.fromkeys(names, "secret"))
        assert done.returncode == 0 and done.stderr == "", (text, done.stderr)
