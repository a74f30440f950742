# SPDX-License-Identifier: MIT
"""The admin API and the verbs of the command line, on a pool of Postgres."""

import http.client
import json
import re
import socket
import stat
import subprocess
import time

import psycopg
import pytest
from harness.base import LOOPBACK, SLOW, free_port, wait_for
from harness.carpool import postgres_pool
from harness.pgwire import query


def test_probes(orders):
    daemon = orders()
    assert daemon.get("/live").status == daemon.get("/ready").status == 200
    assert daemon.get("/nowhere").status == 404
    assert daemon.request("DELETE", "/live").status in (404, 405)
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600
    assert daemon.cli("health").returncode == 0


def test_ready_does_not_depend_on_upstreams(orders):
    begun = time.monotonic()
    daemon = orders(upstream=f"postgres://app:x@{LOOPBACK}:{free_port()}/orders", size={"min": 0})
    assert time.monotonic() - begun < 10 * SLOW
    assert daemon.get("/ready").status == 200


def test_health_of_nobody(orders):
    daemon = orders()
    daemon.stop()
    assert daemon.cli("health", check=False).returncode != 0
    assert daemon.cli("status", check=False).returncode != 0


def test_metrics_follow_the_rules(orders):
    daemon = orders(size={"max": 2})
    with daemon.connect() as conn:
        conn.execute("select 1")
    answer = daemon.get("/metrics")
    assert answer.fields["content-type"].startswith("text/plain")
    samples = daemon.metrics()
    assert samples
    for name, labels, value in samples:
        assert re.fullmatch(r"carpool_[a-z0-9_]+", name), name
        assert value == value, f"{name} is not a number"
    for family in set(re.findall(r"^# TYPE (\S+) counter$", answer.text, re.M)):
        assert family.endswith("_total"), family
    assert len(samples) == len({(n, tuple(sorted(lab.items()))) for n, lab, _ in samples})
    helped = set(re.findall(r"^# HELP (\S+) \S", answer.text, re.M))
    typed = set(re.findall(r"^# TYPE (\S+) ", answer.text, re.M))
    assert helped == typed


def test_numbers_add_up(orders, pg, workers):
    """What carpool counts is what the server saw."""
    daemon = orders(workers, size={"max": 2})
    before = pg.value("select xact_commit from pg_stat_database where datname = 'orders'")
    with daemon.connect() as conn:
        for _ in range(30):
            conn.execute("select 1")
    assert daemon.pools()["orders"]["leases_total"] >= 30
    wait_for(lambda: daemon.leases() == daemon.waiting() == daemon.servers(state="busy") == 0,
             what="the last lease to end")
    assert 1 <= daemon.servers() <= 2
    daemon.stop()
    wait_for(lambda: pg.value("select xact_commit from pg_stat_database where datname = 'orders'")
             - before >= 30, what="the server's statistics")


def test_pools_stats_status(orders):
    daemon = orders(size={"max": 2})
    with daemon.connect() as conn:
        conn.execute("select 1")
        assert "orders" in daemon.cli("status").stdout
        assert "orders" in daemon.cli("pools").stdout
        assert "orders" in daemon.cli("stats").stdout
        stats = json.loads(daemon.cli("stats", "--json").stdout)
        assert "orders" in json.dumps(stats)
        for word in ("p50", "p90", "p99", "max"):
            assert word in json.dumps(stats)
        assert set(daemon.pools()) == {"orders"}


def test_version_and_help(binary):
    done = subprocess.run([binary, "version"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout)
    done = subprocess.run([binary, "nonsense"], capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "nonsense" in done.stderr


def test_pause_and_resume(orders, workers):
    """Paused: what runs may end, what comes waits; resumed: it goes on. Nobody is thrown out."""
    daemon = orders(workers, size={"max": 2, "acquire_timeout": "20s"})
    busy, late = daemon.wire(), daemon.wire()
    busy.run("begin")
    daemon.cli("pause", "orders")
    assert busy.run("select 1")[0] == [["1"]]
    late.send(query("select 2"))
    wait_for(lambda: daemon.waiting() == 1, what="the client to wait")
    assert busy.run("commit")[3] == "I"
    assert late.quiet(0.3)
    daemon.cli("resume", "orders")
    assert late.results()[0] == [["2"]]
    for wire in (busy, late):
        wire.close()
    assert daemon.all_errors() == {}


@pytest.mark.parametrize("on_down,bound", [("wait", 1.0), ("fail", 0.3)])
def test_paused_for_too_long(orders, on_down, bound):
    """It counts as an outage: who is patient in one waits as long."""
    daemon = orders(size={"min": 1, "max": 2, "acquire_timeout": "300ms"}, on_down=on_down,
                    timeouts={"outage_wait": "1s"})
    with daemon.wire() as wire:
        wire.run("select 1")
        daemon.cli("pause", "orders")
        begun = time.monotonic()
        error, status = wire.run("select 2")[2:]
        assert time.monotonic() - begun > 0.9 * bound
        assert (error.code, status) == ("53300", "I")
        assert "paused" in error.fields["M"]
        assert daemon.saw("paused")
        daemon.cli("resume", "orders")
        assert wire.run("select 3")[0] == [["3"]]


def test_recycle(orders, pg, workers):
    """All servers are replaced, the busy one when it is free; no client notices."""
    daemon = orders(workers, size={"min": 2, "max": 2, "acquire_timeout": "20s"})
    with daemon.wire() as busy, daemon.wire() as other:
        old = {r[0] for r in pg.query("select pid from pg_stat_activity where usename = 'app'")}
        busy.run("begin")
        mine = int(busy.run("select pg_backend_pid()")[0][0][0])
        daemon.cli("recycle", "orders")
        assert int(busy.run("select pg_backend_pid()")[0][0][0]) == mine
        assert busy.run("commit")[3] == "I"
        for wire in (busy, other):
            wait_for(lambda w=wire: int(w.run("select pg_backend_pid()")[0][0][0]) not in old, 10,
                     "a new server")
        wait_for(lambda: not old & {r[0] for r in pg.query("select pid from pg_stat_activity")},
                 what="the old servers to be gone")
    assert daemon.all_errors() == {}


def test_where_the_verbs_ask(orders):
    """--socket, --config, $CARPOOL_ADMIN, in this order."""
    daemon = orders()
    assert "orders" in daemon.cli("status", "-c", str(daemon.file)).stdout
    assert "orders" in daemon.cli("status", "-s", str(daemon.socket), "-c", "/nowhere").stdout
    done = daemon.cli("status", "--socket=/nowhere/admin.sock", check=False)
    assert done.returncode == 1 and "/nowhere/admin.sock" in done.stderr
    assert daemon.cli("status", "-c", "/nowhere/carpool.yaml", check=False).returncode == 1
    for wrong in (["status", "orders"], ["pause"], ["pause", "a", "b"], ["status", "--nonsense"],
                  ["breaker", "orders"], ["status", "-s"]):
        done = daemon.cli(*wrong, check=False)
        assert done.returncode == 2 and "usage: carpool" in done.stderr, wrong


def test_verbs_for_a_pool_that_is_not_there(orders):
    daemon = orders()
    for verb in ("pause", "resume", "recycle"):
        done = daemon.cli(verb, "nosuchpool", check=False)
        assert done.returncode != 0 and "nosuchpool" in done.stdout + done.stderr


def test_breaker_by_hand(orders):
    """An operator's word: no server is opened, then as configured."""
    daemon = orders(size={"min": 0, "max": 2, "acquire_timeout": "400ms"},
                    timeouts={"outage_wait": "400ms"})
    daemon.cli("breaker", "orders", "open")
    assert "forced_open" in daemon.cli("status").stdout
    for breaker in ("door", "service"):
        for state in ("closed", "open", "half_open", "forced_open", "forced_closed"):
            assert daemon.metric("carpool_breaker_state", breaker=breaker,
                                 state=state) == (state == "forced_open")
    assert daemon.first_error()
    assert daemon.metric("carpool_dials_total") == 0
    daemon.cli("breaker", "orders", "auto")
    with daemon.wire() as wire:
        assert wire.run("select 3")[0] == [["3"]]
    assert daemon.cli("breaker", "orders", "ajar", check=False).returncode == 2


def test_reload_and_shutdown_by_verb(orders):
    daemon = orders()
    daemon.change(size={"max": 7})
    assert "in force" in daemon.reload().stdout
    assert daemon.pools()["orders"]["servers"]["max"] == 7
    assert daemon.metric("carpool_pool_max", pool="orders") == 7
    daemon.file.write_text("pools: nonsense\n")
    done = daemon.cli("reload", check=False)
    assert done.returncode == 1
    assert "carpool.yaml:1:" in done.stderr and "nothing was changed" in done.stderr
    assert daemon.pools()["orders"]["servers"]["max"] == 7
    daemon.cli("shutdown")
    daemon.ended()


def test_status_says_what_is_wrong(orders):
    daemon = orders(upstream=f"postgres://app:x@{LOOPBACK}:{free_port()}/orders",
                    size={"min": 1}, timeouts={"connect": "500ms"})
    wait_for(lambda: daemon.pools()["orders"]["state"] == "down", 10, "the pool to be down")
    said = daemon.cli("status").stdout
    assert "down" in said and "dial_failed" in said and "check that the server runs" in said


def test_changes_need_post(orders):
    daemon = orders()
    answer = daemon.get("/pools/orders/pause")
    assert (answer.status, answer.fields["allow"]) == (405, "POST")
    with daemon.connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_admin_on_loopback_tcp(carpool, pg):
    port = free_port()
    daemon = carpool(start=False)
    daemon.write({"pools": [postgres_pool(pg.url())],
                  "admin": {"socket": str(daemon.socket), "http": f"{LOOPBACK}:{port}"}})
    daemon.start()

    def status(path, method="GET", **fields):
        conn = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
        conn.request(method, path, headers=fields)
        code = conn.getresponse().status
        conn.close()
        return code
    for path in ("/live", "/ready", "/metrics", "/stats", "/pools", "/config"):
        assert status(path) == 200, path
    # A page in a browser of this machine may not reach in.
    assert status("/pools/orders/pause", "POST", Origin="http://evil.example") == 403
    assert status("/pools/orders/pause", "POST", Host="evil.example") == 403
    assert status("/stats", Host="evil.example") == 403
    assert daemon.pools()["orders"]["paused"] is False
    assert status("/pools/orders/pause", "POST") == 200
    assert daemon.pools()["orders"]["paused"] is True
    assert daemon.cli("status", "-s", f"http://{LOOPBACK}:{port}").returncode == 0


def test_admin_on_other_addresses_needs_the_token(carpool, pg):
    """Probes and scrapers come from outside; everything else needs the token."""
    port = free_port()
    daemon = carpool(start=False)
    (daemon.folder / "token").write_text("open-sesame\n")
    daemon.write({"pools": [postgres_pool(pg.url())],
                  "admin": {"socket": str(daemon.socket), "http": f"0.0.0.0:{port}",
                            "token_file": str(daemon.folder / "token")}})
    daemon.start()

    def status(path, token=None, method="GET"):
        conn = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
        conn.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        code = conn.getresponse().status
        conn.close()
        return code
    for path in ("/live", "/ready", "/metrics"):
        assert status(path) == 200
    for path in ("/stats", "/pools", "/config"):
        assert status(path) in (401, 403)
        assert status(path, "open-sesam") in (401, 403)
        assert status(path, "open-sesame") == 200
    assert daemon.cli("status").returncode == 0


def test_garbage_at_the_admin_socket(orders):
    daemon = orders()
    for garbage in (b"\0" * 100, b"GET\r\n\r\n", b"GET /" + b"x" * 100_000, b"POST /reload HTTP/1.1\r\n"
                    b"Content-Length: 99999999999999\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(daemon.socket))
            try:
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass
    assert daemon.get("/live").status == 200


def test_wait_runs_a_command_when_ready(orders):
    daemon = orders()
    done = daemon.cli("wait", "--", "echo", "riders welcome")
    assert "riders welcome" in done.stdout
    daemon.stop()
    done = daemon.cli("wait", "--timeout", "500ms", "--", "echo", "no", check=False)
    assert done.returncode == 1 and "not running" in done.stderr and done.stdout == ""


def test_blocked_stdout_stops_nothing(carpool, pg):
    """Nobody reads the log: it is dropped and counted, clients are served."""
    daemon = carpool(postgres_pool(pg.url()), log={"level": "debug", "access": "all"}, start=False)
    reader = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE)  # a pipe that fills up
    try:
        daemon.start(stdout=reader.stdin)
        with daemon.connect() as conn:
            for i in range(3000):
                assert conn.execute("select %s::int", (i,)).fetchone() == (i,)
        assert daemon.get("/live").status == 200
        daemon.stop()
    finally:
        reader.kill()
        reader.wait()


def test_log_as_json(carpool, pg):
    daemon = carpool(postgres_pool(pg.url()), log={"format": "json", "level": "debug"})
    with daemon.connect() as conn:
        with pytest.raises(psycopg.Error):
            conn.execute("selec")
    daemon.stop()
    lines = [json.loads(line) for line in daemon.out.read_text().splitlines()]
    assert lines and all(isinstance(line, dict) for line in lines)
