# SPDX-License-Identifier: MIT
"""`carpool drain POOL`: nobody new, exchanges under way finish, idle clients are closed; until `resume`."""

import psycopg
import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin  # noqa: F401
from harness.httpwire import http_pool
from harness.pgwire import startup
from harness.redis_fixtures import fake, key, rd  # noqa: F401
from harness.rediswire import Resp, redis_pool


def left(daemon, pool):
    return len(daemon.json(f"/clients?pool={pool}")["clients"])


@pytest.mark.parametrize("workers", [1, 2])
def test_postgres(carpool, pg, workers):
    daemon = carpool(postgres_pool(pg.url()), postgres_pool(pg.url(), name="more"), workers=workers)
    with daemon.connect() as conn, daemon.connect("more") as more, daemon.wire() as idle:
        assert conn.execute("select 1").fetchone() == (1,)
        conn.execute("begin")
        assert "drains" in daemon.cli("drain", "orders").stdout
        wait_for(lambda: left(daemon, "orders") == 1, what="the idle one to be closed")
        with pytest.raises(psycopg.OperationalError, match="draining"):
            daemon.connect().close()
        pool = daemon.stats()["pools"][0]
        assert pool["state"] == "draining" and "carpool resume orders" in pool["hint"] and pool["drained"]
        assert daemon.metric("carpool_pool_drained", pool="orders") == 1
        status = daemon.cli("status", check=False).stdout
        assert "draining" in status and "carpool resume orders" in status
        assert conn.execute("select 2").fetchone() == (2,), "its transaction goes on"
        with pytest.raises(psycopg.OperationalError):
            conn.execute("commit")
            conn.execute("select 3")
        assert more.execute("select 4").fetchone() == (4,), "other pools do not notice"
        wait_for(lambda: left(daemon, "orders") == 0, what="the last one to leave")
    daemon.change(size={"max": 2})
    daemon.reload()
    with pytest.raises(psycopg.OperationalError, match="draining"):
        daemon.connect().close()
    daemon.cli("resume", "orders")
    with daemon.connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    assert daemon.metric("carpool_pool_drained", pool="orders") == 0
    assert daemon.saw("draining")


@pytest.mark.parametrize("workers", [1, 2])
def test_who_is_in_a_transaction_stays_after_resume(carpool, pg, workers):
    daemon = carpool(postgres_pool(pg.url()), workers=workers)
    wires, idle = [daemon.wire() for _ in range(3)], [daemon.wire() for _ in range(4)]
    for wire in wires:
        assert wire.run("begin")[3] == "T"
    daemon.cli("drain", "orders")
    for wire in idle:
        assert wire.farewell().code == "57P01"
    daemon.cli("resume", "orders")
    for wire in wires:
        assert wire.run("commit")[3] == "I"
        assert wire.run("select 1")[0] == [["1"]]
        wire.close()
    assert daemon.all_errors() == {"draining": len(idle)}


def test_postgres_clients_that_log_in(carpool, pg):
    daemon = carpool(postgres_pool(pg.url(), auth={"method": "scram"}))
    with daemon.wire(login=False) as wire:
        wire.send(startup()).until("R")
        daemon.cli("drain", "orders")
        assert wire.farewell().code == "57P01"


def test_redis(carpool, rd, key):
    daemon = carpool(redis_pool(rd.url()))
    with Resp(daemon.port("cache")) as idle, Resp(daemon.port("cache")) as busy:
        assert idle.cmd("SET", key, "1") == "OK" and busy.cmd("MULTI") == "OK"
        assert busy.cmd("INCR", key) == "QUEUED"
        daemon.cli("drain", "cache")
        assert idle.rest() == b""
        with Resp(daemon.port("cache")) as late:
            assert late.read().cause == "draining"
        assert busy.cmd("EXEC") == [2]
        assert busy.rest() == b""
    daemon.cli("resume", "cache")
    with Resp(daemon.port("cache")) as c:
        assert c.cmd("GET", key) == b"2"


def test_http(carpool, origin):
    daemon = carpool(http_pool(origin.url()))
    ask = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
    with Resp(daemon.port("web")) as idle, Resp(daemon.port("web")) as half:
        idle.write(ask)
        wait_for(lambda: daemon.stats()["pools"][0]["exchange"]["count"] == 1, what="an answer")
        half.write(ask[:10])
        wait_for(lambda: {row["state"] for row in daemon.json("/clients")["clients"]} == {"idle", "reading"},
                 what="one idle, one half way")
        daemon.cli("drain", "web")
        assert idle.rest().startswith(b"HTTP/1.1 200")
        half.write(ask[10:])
        last = half.rest()
        assert last.startswith(b"HTTP/1.1 200") and b"onnection: close" in last
        with Resp(daemon.port("web")) as late:
            late.write(ask)
            said = late.rest()
            assert said.startswith(b"HTTP/1.1 503") and b"draining" in said
    daemon.cli("resume", "web")
    with Resp(daemon.port("web")) as c:
        c.write(ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert c.rest().startswith(b"HTTP/1.1 200")
