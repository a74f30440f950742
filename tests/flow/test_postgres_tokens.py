# SPDX-License-Identifier: MIT
"""Passwords that change: `password_command` with a lifetime, and files that are read again on reload."""

import shlex
import time

import pytest
from harness import pgwire
from harness.base import SLOW, wait_for
from harness.carpool import postgres_pool
from harness.postgres import PASSWORD

ROLE = "rotating"


@pytest.fixture
def role(pg):
    """A role whose password a test may change; none of its connections is left of an earlier test, whose
    carpool may have opened them again to its very end."""
    if not pg.query("select 1 from pg_roles where rolname = %s", ROLE):
        pg.query(f"create role {ROLE} login")

    def change(password):
        pg.query(f"alter role {ROLE} password '{password}'")
    pg.terminate(ROLE)
    wait_for(lambda: pg.connections(ROLE) == 0, what="its sessions to end")
    change(PASSWORD)
    return change


@pytest.fixture
def command(tmp_path):
    """A script that says what is in `said`, and writes a line for each of its runs."""
    class Command:
        said, runs_file, script = tmp_path / "said", tmp_path / "runs", tmp_path / "script"

        def __init__(self):
            self.say(PASSWORD)
            self.runs_file.touch()
            self.do('cat "$SAID"')

        def say(self, text):
            self.said.write_text(text + "\n")

        def do(self, body):
            self.script.write_text(f"SAID={shlex.quote(str(self.said))}\n"
                                   f"echo run >>{shlex.quote(str(self.runs_file))}\n{body}\n")

        line = property(lambda self: f"sh {shlex.quote(str(self.script))}")
        runs = property(lambda self: len(self.runs_file.read_text().splitlines()))
    return Command()


def upstream(pg, command, ttl="10m", **more):
    return [{"url": f"postgres://{ROLE}@{pg.host}:{pg.port}/orders", "password_command": command.line,
             "password_command_ttl": ttl, **more}]


def again(daemon, pg):
    """A new server is opened for the next query."""
    pg.terminate(ROLE)
    wait_for(lambda: daemon.servers() == 0, what="the servers to be gone")


def test_one_run_for_many_dials(orders, pg, role, command):
    """Four dials at once, one run; later dials take what it said."""
    command.do('sleep 0.3; cat "$SAID"')
    daemon = orders(upstream=upstream(pg, command), size={"min": 4, "max": 4})
    wait_for(lambda: daemon.servers(state="idle") == 4, what="the servers to be open")
    assert command.runs == 1
    with daemon.wire() as wire:
        assert wire.run("select current_user")[0] == [[ROLE]]
    pg.terminate(ROLE)
    wait_for(lambda: daemon.metric("carpool_dials_total") >= 8 or pg.connections(ROLE) == 4,
             what="them to be opened again")
    assert command.runs == 1
    assert PASSWORD not in daemon.log_text() and command.line not in daemon.log_text()


def test_one_run_for_many_databases(orders, pg, role, command):
    names = ["orders", "postgres"]
    command.do('sleep 0.3; cat "$SAID"')
    daemon = orders(upstream=upstream(pg, command), databases=names, size={"min": 1, "max": 1})

    def open_in_all():
        return all(daemon.servers(f"orders:{db}", state="idle") == 1 for db in names)
    wait_for(open_in_all, what="a server in each")
    dials = daemon.metric("carpool_dials_total")
    pg.terminate(ROLE)
    wait_for(lambda: daemon.metric("carpool_dials_total") >= dials + len(names) and open_in_all(),
             what="them to be opened again")
    assert command.runs == 1


def test_the_lifetime_ends(orders, pg, role, command):
    daemon = orders(upstream=upstream(pg, command, ttl="1s"), size={"max": 1})
    with daemon.wire() as wire:
        wire.run("select 1")
        runs = command.runs

        def one_more():
            again(daemon, pg)
            assert wire.run("select 1")[2] is None
            return command.runs > runs
        wait_for(one_more, 10, "another run")


def test_a_refused_password_is_asked_for_again(orders, pg, role, command):
    """The token was revoked before its time: the next dial has a new one."""
    daemon = orders(upstream=upstream(pg, command), size={"max": 1}, breaker={"open": "100ms..200ms"})
    with daemon.wire() as wire:
        assert wire.run("select 1")[2] is None
        role("another")
        command.say("another")
        again(daemon, pg)
        wait_for(lambda: wire.run("select 1")[2] is None, 10, "the new password to be used")
        assert command.runs == 2


def test_a_reload_asks_again(orders, pg, role, command):
    daemon = orders(upstream=upstream(pg, command), size={"max": 1})
    with daemon.wire() as wire:
        assert wire.run("select 1")[2] is None
        daemon.reload()
        again(daemon, pg)
        assert wire.run("select 1")[2] is None
        assert command.runs == 2


@pytest.mark.parametrize("body,reason", [
    ("echo first >&2; echo the vault is sealed >&2; exit 3", "(exit 3): the vault is sealed"),
    ("kill -9 $$", "(exit 137)"),
    ("true", "printed nothing"),
    ("echo s3cret-one; echo s3cret-two", "not one line"),
    ("yes s3cret | head -c 100000", "not one line"),
], ids=["fails", "killed", "nothing", "two lines", "too long"])
def test_a_command_that_fails(orders, pg, role, command, body, reason):
    """The client and the log say what the command said last on its standard error; then it heals."""
    command.do(body)
    daemon = orders(upstream=upstream(pg, command), size={"max": 1, "acquire_timeout": "1s"},
                    breaker={"open": "100ms..200ms"})
    error = daemon.first_error()
    assert error.code == "08001" and "upstream_auth" in error.fields["M"], error
    wait_for(lambda: daemon.log_lines("dial_failed", reason), what="the log to say why")
    assert daemon.saw("upstream_auth")
    assert "s3cret" not in daemon.log_text() and "s3cret" not in str(error.fields)
    command.do('cat "$SAID"')

    def heals():
        with daemon.wire() as wire:
            return wire.run("select 1")[0] == [["1"]]
    wait_for(heals, 15, "service", ignore=Exception)


def test_a_slow_command_blocks_nobody(carpool, pg, role, command):
    """Other pools are dialed meanwhile; the dial that waits for it ends at its timeout; and carpool
    stops though it still runs."""
    command.do("sleep 60")
    daemon = carpool(postgres_pool(upstream(pg, command), name="slow", size={"acquire_timeout": "5s"},
                                   timeouts={"connect": "700ms", "outage_wait": "1s"}),
                     postgres_pool(pg.url(), size={"max": 2}))
    begun = time.monotonic()
    with daemon.wire("slow", login=False) as stuck:
        stuck.send(pgwire.startup())
        wait_for(lambda: command.runs == 1, what="the command to run")
        with daemon.wire("orders") as wire:
            assert wire.run("select 1")[0] == [["1"]]
        kind, _ = stuck.receive()
        assert kind in "ER" and time.monotonic() - begun < 10 * SLOW
    wait_for(lambda: daemon.log_lines("dial_failed", "pool=slow"), what="the dial to end")
    assert command.runs == 1, "it still runs: nobody starts another"
    begun = time.monotonic()
    daemon.stop()
    assert time.monotonic() - begun < 10 * SLOW


def test_the_command_inherits_nothing(orders, pg, role, command, tmp_path):
    """No descriptor of carpool's: neither sockets of clients nor of servers."""
    seen = tmp_path / "fds"
    command.do(f'ls -l /proc/self/fd >{shlex.quote(str(seen))}; cat "$SAID"')
    daemon = orders(upstream=upstream(pg, command, ttl="1s"), size={"max": 3}, auth={"method": "trust"})
    wires = [daemon.wire() for _ in range(3)]
    for wire in wires:
        wire.run("begin")
    said = [line.split()[-3:] for line in seen.read_text().splitlines()[1:]]
    assert len(said) >= 4 and not [to for fd, _, to in said if int(fd) > 2 and "socket" in to], said
    for wire in wires:
        wire.close()


def test_password_file_is_read_again(orders, pg, role, tmp_path):
    """Rotation: the server's password, then the file, then a reload; open servers serve on."""
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")
    daemon = orders(upstream=[{"url": f"postgres://{ROLE}@{pg.host}:{pg.port}/orders",
                               "password_file": str(secret)}], size={"max": 1})
    with daemon.wire() as wire:
        pid = wire.run("select pg_backend_pid()")[0]
        role("rotated")
        secret.write_text("rotated\n")
        daemon.reload()
        wait_for(lambda: wire.run("select 1")[2] is None)
        again(daemon, pg)
        rows, _, error, _ = wire.run("select pg_backend_pid()")
        assert error is None and rows != pid
    assert daemon.errors("upstream_auth") == 0


@pytest.mark.parametrize("url,more,said", [
    ("postgres://a:b@db/x", {"password_command": "x"}, "given twice"),
    ("postgres://a@db/x", {"password_command": "x", "password_file": "/dev/null"}, "given twice"),
    ("redis://db", {"password_command": "x"}, "is for postgres"),
])
def test_what_check_says(carpool, url, more, said):
    daemon = carpool({"name": "p", "listen": ["127.0.0.1:6432"], "upstream": [{"url": url, **more}]},
                     start=False)
    done = daemon.cli("check", "-c", daemon.file, check=False)
    assert done.returncode == 1 and said in done.stdout + done.stderr
