# SPDX-License-Identifier: MIT
"""Changing the file of a running carpool, and stopping it: nobody loses what was finished."""

import asyncio
import itertools
import json
import os
import signal
import socket
import threading
import time

import asyncpg
import psycopg
import pytest
from harness.base import LOOPBACK, SLOW, can_connect, free_port, wait_for
from harness.carpool import postgres_pool
from harness.load import AsyncpgLoad, Load, asyncpg_connect, stayed
from harness.pgwire import Eof, PgError, query


# -- reload

def test_bounds_change_under_load(carpool, bounded, pg, table, workers):
    """max 4 → 1 → 4 while twelve clients work: no error, and the server sees it obeyed."""
    url = bounded(4)
    daemon = carpool(postgres_pool(url, size={"max": 4, "acquire_timeout": "30s"}), workers=workers)
    mark = pg.mark()
    loads = [Load(daemon, 6, table, "bounded"), AsyncpgLoad(daemon, 6, table, "bounded")]

    def all_progress():
        for load in loads:
            load.progress()
    all_progress()
    daemon.change(size={"max": 1})
    daemon.reload()
    wait_for(lambda: pg.connections("bounded") == 1, 20, "the pool to shrink")
    with pg.peak("bounded") as peak:
        all_progress()
    assert peak.value == 1
    pg.set_bound(1)
    all_progress()
    pg.set_bound(4)
    daemon.change(size={"max": 4})
    daemon.reload()
    wait_for(lambda: pg.connections("bounded") > 1, 20, "the pool to grow")
    for load in loads:
        assert load.stop() == set()
    assert pg.refusals(mark) == 0 and daemon.all_errors() == {}
    stayed(daemon, "orders", 12)


def test_reload_by_signal(orders, pg):
    daemon = orders(size={"min": 0, "max": 3})
    daemon.change(size={"min": 2})
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: pg.connections("app") == 2, what="the new minimum to be warmed")


def test_a_bad_file_changes_nothing(orders):
    daemon = orders(size={"max": 2})
    good = daemon.file.read_text()
    with daemon.connect() as conn:
        daemon.file.write_text(good.replace('"max": 2', '"max": 2, "maxx": 7'))
        done = daemon.cli("reload", check=False)
        assert done.returncode != 0 and "maxx" in done.stdout + done.stderr
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: daemon.log_lines("maxx"), what="the log to say what is wrong")
        assert conn.execute("select 1").fetchone() == (1,)
        daemon.file.write_text("{")
        assert daemon.cli("reload", check=False).returncode != 0
        daemon.file.unlink()
        assert daemon.cli("reload", check=False).returncode != 0
        assert conn.execute("select 2").fetchone() == (2,)
    assert daemon.pools()["orders"]
    daemon.file.write_text(good)
    daemon.reload()


def test_pools_and_listeners_come_and_go(carpool, pg):
    first = postgres_pool(pg.url(), name="orders")
    second = postgres_pool(pg.url(), name="reports")
    daemon = carpool(first)
    with daemon.connect("orders") as conn:
        assert not can_connect(LOOPBACK, int(second["listen"][0].rpartition(":")[2]))
        daemon.write({"workers": 1, "pools": [first, second]})
        daemon.reload()
        with daemon.connect("reports") as other:
            assert other.execute("select 1").fetchone() == (1,)
        assert conn.execute("select 2").fetchone() == (2,), "who was connected stays connected"
        old_port, port = daemon.port("orders"), free_port()
        daemon.change("orders", listen=[f"{LOOPBACK}:{port}"])
        daemon.reload()
        wait_for(lambda: not can_connect(LOOPBACK, old_port), what="the old listener to close")
        assert daemon.connect("orders").execute("select 3").fetchone() == (3,)
        assert conn.execute("select 4").fetchone() == (4,)
        daemon.write({"workers": 1, "pools": [second]})
        daemon.reload()
        wait_for(lambda: not can_connect(LOOPBACK, port), what="the removed pool to close its door")
        wait_for(lambda: set(daemon.pools()) == {"reports"}, what="the removed pool to die")


def test_reload_while_a_removed_pool_drains(carpool, pg, workers):
    """Its last transaction goes on, other pools change; only its own name has to wait."""
    leaving = postgres_pool(pg.url(), name="orders")
    staying = postgres_pool(pg.url(), name="reports", size={"min": 0, "max": 3})
    both = {"workers": workers, "drain": {"deadline": "60s"}, "pools": [leaving, staying]}
    daemon = carpool(leaving, staying, workers=workers)
    daemon.write(both)
    daemon.reload()
    with daemon.connect("orders", autocommit=False) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
        daemon.write({**both, "pools": [staying]})
        daemon.reload()
        daemon.change("reports", size={"min": 2})
        daemon.reload()
        wait_for(lambda: daemon.servers("reports") == 2, what="the reload to be in force")
        daemon.write(both)
        again = daemon.cli("reload", check=False)
        assert again.returncode != 0 and "still draining" in again.stdout + again.stderr
        assert conn.execute("select 2").fetchone() == (2,)
        conn.commit()
    wait_for(lambda: daemon.cli("reload", check=False).returncode == 0, what="the pool to come back")
    with daemon.connect("orders") as conn:
        assert conn.execute("select 3").fetchone() == (3,)


def test_new_upstream_by_reload(orders, pg):
    """Clients stay; the next transaction runs on the new upstream, as its user."""
    daemon = orders()
    pg.set_bound(3)
    with daemon.connect() as conn:
        assert conn.execute("select current_user").fetchone() == ("app",)
        daemon.change(upstream=pg.url("bounded"))
        daemon.reload()
        new = wait_for(lambda: daemon.connect(user="bounded"), ignore=psycopg.Error)
        assert new.execute("select current_user").fetchone() == ("bounded",)
        new.close()


def test_workers_need_a_restart(carpool, pg):
    daemon = carpool(postgres_pool(pg.url()), workers=1)
    daemon.write({**daemon.config, "workers": 2})
    done = daemon.cli("reload", check=False)
    wait_for(lambda: "restart" in done.stdout + done.stderr or daemon.log_lines("restart"),
             what="somebody to say that it needs a restart")
    assert daemon.connect().execute("select 1").fetchone() == (1,)


def test_many_reloads_under_load(orders, pg, table):
    daemon = orders(size={"max": 3, "acquire_timeout": "30s"})
    load = Load(daemon, 6, table)
    for i in range(15):
        daemon.change(size={"max": 1 + i % 4}, limits={"clients": 100 + i})
        daemon.reload()
    load.progress()
    assert load.stop() == set()


def test_stop_right_behind_a_reload(carpool, pg, workers):
    """The workers have not opened the new configuration's doors yet when everybody is told to go."""
    for turn in range(4):
        daemon = carpool(*(postgres_pool(pg.url(), name=f"pool{i}") for i in range(8)), workers=workers)
        daemon.change(f"pool{turn}", listen=[f"{LOOPBACK}:{free_port()}"])
        daemon.signal(signal.SIGHUP)
        daemon.signal(signal.SIGTERM)
        daemon.ended()


# -- drain

def finished(pg, table):
    return pg.value(f"select count(*) from {table}", db="orders")


def by_psycopg(daemon, table, numbers, committed):
    """Transactions until the connection ends: the SQLSTATE it ends with. That is between transactions, never
    inside."""
    conn = daemon.connect()
    for i in numbers:
        try:
            conn.execute("begin")
        except psycopg.Error as e:
            return e.sqlstate
        conn.execute(f"insert into {table} (n) values ({i})")
        conn.execute("select pg_sleep(0.01)")
        conn.execute("commit")
        committed.append(i)


def by_asyncpg(daemon, table, numbers, committed):
    async def ride():
        conn = await asyncpg_connect(daemon)
        for i in numbers:
            try:
                await conn.execute("begin")
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as e:
                return getattr(e, "sqlstate", None)
            await conn.execute(f"insert into {table} (n) values ($1)", i)
            await conn.execute("select pg_sleep(0.01)")
            await conn.execute("commit")
            committed.append(i)
    return asyncio.run(ride())


def test_drain_under_load_loses_no_finished_transaction(carpool, pg, table, workers):
    daemon = carpool(postgres_pool(pg.url(), size={"max": 3, "acquire_timeout": "60s"}), workers=workers,
                     drain={"deadline": "60s"})
    committed, ends = [[] for _ in range(12)], []

    def rider(n):
        try:
            ride = by_asyncpg if n % 2 else by_psycopg
            ends.append(ride(daemon, table, range(n * 100_000, (n + 1) * 100_000), committed[n]))
        except Exception as e:
            ends.append(e)

    riders = [threading.Thread(target=rider, args=(n,), daemon=True) for n in range(12)]
    for thread in riders:
        thread.start()
    wait_for(lambda: ends or all(len(c) > 3 for c in committed), what="some work to be done")
    daemon.signal(signal.SIGTERM)
    daemon.ended()
    for thread in riders:
        thread.join(60)
    assert not any(t.is_alive() for t in riders)
    # What the library makes of a goodbye between statements: not always a code, and asyncpg has one of its own.
    assert len(ends) == 12 and set(ends) <= {"57P01", "08003", None}, ends
    stored = [r[0] for r in pg.query(f"select n from {table}", db="orders")]
    assert sorted(stored) == sorted(itertools.chain(*committed))


def test_idle_clients_hear_of_the_end(orders):
    daemon = orders()
    wire = daemon.wire()
    wire.run("select 1")
    daemon.signal(signal.SIGTERM)
    kind, body = wire.receive()
    assert kind == "E"
    error = PgError(body)
    assert (error.fields["S"], error.code) == ("FATAL", "57P01") and "draining" in str(error)
    with pytest.raises(Eof):
        wire.receive()
    daemon.ended(5)


def test_open_transaction_may_finish(orders, pg, table):
    daemon = orders()
    wire = daemon.wire()
    wire.run("begin")
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: not can_connect(LOOPBACK, daemon.port()), what="the door to close")
    assert wire.run(f"insert into {table} (n) values (1)")[1] == ["INSERT 0 1"]
    assert daemon.alive()
    wire.send(query("commit"))
    assert [k for k, _ in wire.until("Z")] == ["C", "Z"], "the answer comes before the goodbye"
    assert PgError(wire.receive()[1]).code == "57P01"
    daemon.ended(5)
    assert finished(pg, table) == 1


def test_deadline_ends_what_is_left(carpool, pg, table):
    daemon = carpool(postgres_pool(pg.url()), drain={"deadline": "1s"})
    wire = daemon.wire()
    wire.run("begin")
    wire.run(f"insert into {table} (n) values (1)")
    begun = time.monotonic()
    daemon.signal(signal.SIGTERM)
    daemon.ended(10)
    assert 0.8 < time.monotonic() - begun < 5 * SLOW
    assert PgError(wire.receive()[1]).code == "57P01" and wire.eof()
    assert finished(pg, table) == 0
    wait_for(lambda: pg.connections("app") == 0, what="no session to be left on the server")


def test_deadline_tells_who_is_cut_off(carpool, pg):
    """Who still runs or waits hears why, as of a server that shuts down; half a row cannot be followed."""
    daemon = carpool(postgres_pool(pg.url(), size={"max": 2}), drain={"deadline": "300ms"})
    runs, torn, waits = daemon.wire(), daemon.wire(), daemon.wire()
    runs.send(query("select pg_sleep(60)"))
    torn.send(query("select repeat('x', 100000000)"))
    torn.read(100)
    wait_for(lambda: daemon.leases() == 2, what="both servers to be taken")
    waits.send(query("select 1"))
    wait_for(lambda: daemon.waiting() == 1, what="the third client to wait")
    daemon.signal(signal.SIGTERM)
    for wire in runs, waits:
        said = PgError(wire.receive()[1])
        assert (said.code, said.fields["S"]) == ("57P01", "FATAL") and "draining" in str(said)
        assert wire.eof()
    daemon.ended(10)
    wait_for(lambda: pg.connections("app") == 0, what="no session to be left on the server")


def test_second_signal_stops_now(carpool, pg):
    daemon = carpool(postgres_pool(pg.url()), drain={"deadline": "60s"})
    wire = daemon.wire()
    wire.run("begin")
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: not can_connect(LOOPBACK, daemon.port()), what="the drain to begin")
    begun = time.monotonic()
    daemon.signal(signal.SIGTERM)
    daemon.wait(10)
    assert time.monotonic() - begun < 7 * SLOW
    daemon.no_sanitizer_report()


def test_delay_before_the_door_closes(carpool, pg):
    """`drain.delay`: not ready at once, so that balancers look away, but still serving."""
    daemon = carpool(postgres_pool(pg.url()), drain={"delay": "1500ms"})
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: daemon.get("/ready").status == 503, what="/ready to say no")
    assert daemon.get("/live").status == 200
    with daemon.connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    daemon.ended(15)


def test_waiting_clients_when_draining(orders):
    """Who waits for a server gets it, if one becomes free in time."""
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    holder, waiter = daemon.wire(), daemon.wire()
    holder.run("begin")
    waiter.send(query("select 2"))
    wait_for(lambda: daemon.waiting() == 1, what="the second client to wait")
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: not can_connect(LOOPBACK, daemon.port()), what="the drain to begin")
    holder.run("commit")
    said = waiter.results()
    assert said[0] == [["2"]] or said[2].code in ("57P01", "53300"), said
    daemon.ended()


def test_shutdown_verb(orders):
    daemon = orders()
    with daemon.connect() as conn:
        conn.execute("select 1")
    daemon.cli("shutdown")
    daemon.ended()
    assert not os.path.exists(daemon.socket)


def test_nothing_is_left_behind(carpool, pg):
    """After a drain the server has no session of ours; ports and socket files are free at once."""
    daemon = carpool(postgres_pool(pg.url(), size={"min": 3, "max": 5}), workers=2)
    wait_for(lambda: pg.connections("app") == 3, what="the pool to be warm")
    port = daemon.port()
    daemon.stop()
    assert pg.connections("app") == 0
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
    daemon.start()
    assert daemon.connect().execute("select 1").fetchone() == (1,)


def test_restart_over_a_stale_socket(carpool, pg):
    """Killed with -9, the socket files stay: the next start takes them over."""
    config = postgres_pool(pg.url())
    daemon = carpool(start=False)
    path = daemon.folder / ".s.PGSQL.6432"
    daemon.write({"pools": [{**config, "listen": [*config["listen"], {"unix": str(path)}]}]})
    daemon.start()
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    assert path.exists() and daemon.socket.exists()
    daemon.start()
    assert psycopg.connect(host=str(daemon.folder), port=6432, user="app", dbname="orders")
    second = carpool(start=False)
    second.write(json.loads(daemon.file.read_text()))
    second.start(wait=False)
    assert second.wait() != 0, "a living daemon's address is not taken away"
    second.proc = None
    assert daemon.connect().execute("select 1").fetchone() == (1,)
