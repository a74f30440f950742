# SPDX-License-Identifier: MIT
"""Replication connections, in session mode: the server's own tools through carpool. Each has a server dialed for
it alone, which nobody else gets afterwards."""

import signal
import subprocess

import pytest
from harness import pgwire
from harness.base import LOOPBACK, wait_for
from harness.carpool import postgres_pool
from harness.postgres import PASSWORD, binaries

HBA = "host replication all 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture(scope="module")
def source(servers):
    """A server that lets itself be replicated, physically and logically."""
    pg = servers.postgres(local=True)
    pg.query("alter role app replication")
    with open(pg.data / "pg_hba.conf", "a") as hba:
        hba.write(HBA)
    with open(pg.data / "postgresql.conf", "a") as conf:
        conf.write("wal_level = logical\nmax_wal_senders = 8\nmax_replication_slots = 8\n")
    pg.stop()
    pg.start()
    yield pg
    servers.forget(pg)


@pytest.fixture
def door(carpool, source):
    def make(workers=1, **over):
        return carpool(postgres_pool(source.url(), **{"mode": "session", **over}), workers=workers)
    return make


@pytest.fixture
def tool(request):
    """tool(daemon, name, *args): one of PostgreSQL's own programs, on the daemon's port; ended with the test."""
    running = []

    def start(daemon, name, *args, db="orders"):
        proc = subprocess.Popen(
            [binaries() / name, "-h", LOOPBACK, "-p", str(daemon.port()), "-U", "app", "-w", *args],
            env={"PGPASSWORD": PASSWORD, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(proc)
        return proc
    yield start
    for proc in running:
        if proc.poll() is None:
            proc.kill()
        proc.communicate()


def ended(proc, timeout=60):
    out, err = proc.communicate(timeout=timeout)
    assert proc.returncode == 0, f"{proc.args}: {proc.returncode}\n{out}\n{err}"
    return out


def streams(source):
    """Who streams by now: a server that is only logged in may still be exchanged for another."""
    return [name for (name,) in source.query("select application_name from pg_stat_replication "
                                             "where state = 'streaming'")]


def senders(source):
    return [name for (name,) in source.query("select application_name from pg_stat_replication")]


def test_pg_receivewal(door, source, tool, tmp_path, workers):
    daemon = door(workers)
    proc = tool(daemon, "pg_receivewal", "-D", str(tmp_path), "--no-loop")
    wait_for(lambda: streams(source) == ["pg_receivewal"], what="the stream to begin")
    assert daemon.servers("orders:replication:pg_receivewal") == 1
    source.query("create table if not exists noise (n int)", db="orders")
    source.query("insert into noise select generate_series(1, 1000)", db="orders")
    source.query("select pg_switch_wal()")
    wait_for(lambda: [f for f in tmp_path.iterdir() if f.suffix != ".partial"], 30,
             "a whole segment")
    with daemon.connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,), "others work beside it"
    proc.send_signal(signal.SIGINT)
    ended(proc)
    wait_for(lambda: senders(source) == [], what="the server to be let go")
    wait_for(lambda: "orders:replication:pg_receivewal" not in daemon.pools(), 20, "its pool to go")


def test_pg_recvlogical(door, source, tool, workers):
    daemon = door(workers)
    source.query("create table if not exists news (n int)", db="orders")
    ended(tool(daemon, "pg_recvlogical", "-d", "orders", "--slot", "one", "--create-slot",
               "-P", "test_decoding"))
    try:
        proc = tool(daemon, "pg_recvlogical", "-d", "orders", "--slot", "one", "--start", "-f", "-",
                    "--no-loop")
        wait_for(lambda: streams(source) == ["pg_recvlogical"], what="the stream to begin")
        source.query("insert into news values (4711)", db="orders")
        for line in proc.stdout:
            if "n[integer]:4711" in line:
                break
        proc.send_signal(signal.SIGINT)
        ended(proc)
    finally:
        wait_for(lambda: senders(source) == [], what="the slot to be free")
        ended(tool(daemon, "pg_recvlogical", "-d", "orders", "--slot", "one", "--drop-slot"))


def test_pg_basebackup(door, source, tool, tmp_path):
    """Megabytes of COPY, and a second connection for the log meanwhile."""
    daemon = door()
    ended(tool(daemon, "pg_basebackup", "-D", str(tmp_path / "copy"), "-X", "stream", "-c", "fast"))
    assert (tmp_path / "copy" / "PG_VERSION").exists()
    assert subprocess.run([binaries() / "pg_verifybackup", tmp_path / "copy"],
                          capture_output=True).returncode == 0


def test_settings_of_logical_ones_are_kept(door):
    """A subscriber asks for formats; they hold on its own server."""
    daemon = door()
    with daemon.wire(replication="database", options="-c datestyle=ISO,DMY") as wire:
        assert wire.run("show datestyle")[0] == [["ISO, DMY"]]
        assert wire.run("IDENTIFY_SYSTEM")[0][0][3] == "orders"


def test_nobody_else_gets_the_server(door):
    daemon = door(size={"min": 0, "max": 1})
    pids = set()
    for _ in range(3):
        with daemon.wire(replication="database", application_name="x") as wire:
            pids.add(wire.run("select pg_backend_pid()")[0][0][0])
        wait_for(lambda: daemon.servers("orders:orders:replication:x") == 0, what="it to go")
    assert len(pids) == 3


def test_only_in_session_mode(door):
    for mode in ("transaction", "statement"):
        daemon = door(mode=mode)
        for kind in ("true", "database"):
            with pytest.raises(pgwire.PgError) as e:
                daemon.wire(replication=kind).close()
            assert e.value.code == "0A000" and "mode: session" in str(e.value)


def test_the_server_dies_under_a_stream(door, source, tool, tmp_path):
    daemon = door()
    proc = tool(daemon, "pg_receivewal", "-D", str(tmp_path), "--no-loop")
    wait_for(lambda: streams(source) == ["pg_receivewal"], what="the stream to begin")
    source.query("select pg_terminate_backend(pid) from pg_stat_replication")
    assert proc.wait(30) != 0
    proc = tool(daemon, "pg_receivewal", "-D", str(tmp_path), "--no-loop")
    wait_for(lambda: streams(source) == ["pg_receivewal"], what="the next one to begin")


def test_a_stop_does_not_wait_for_streams(carpool, door, source, tool, tmp_path):
    daemon = door()
    proc = tool(daemon, "pg_receivewal", "-D", str(tmp_path), "--no-loop")
    wait_for(lambda: streams(source) == ["pg_receivewal"], what="the stream to begin")
    daemon.signal(signal.SIGTERM)
    daemon.ended()
    assert "drain_deadline" not in daemon.log_text()
    assert proc.wait(30) != 0
