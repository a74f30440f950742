# SPDX-License-Identifier: MIT
"""`/clients` and `/servers`, and the verbs that show them: every connection, from its own worker."""

import json
import threading

import pytest
from harness import pgwire
from harness.base import LOOPBACK, wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin  # noqa: F401
from harness.httpwire import http_pool
from harness.redis_fixtures import fake, key, rd  # noqa: F401
from harness.rediswire import Resp, redis_pool


def clients(daemon, pool=None):
    page = daemon.json("/clients" + (f"?pool={pool}" if pool else ""))
    assert page["left_out"] == 0
    return page["clients"]


def only(rows):
    assert len(rows) == 1, rows
    return rows[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_clients_of_postgres(carpool, pg, workers):
    daemon = carpool(postgres_pool(pg.url(), size={"max": 1}), workers=workers)
    assert clients(daemon) == []
    with daemon.connect(application_name="billing") as conn:
        idle = only(clients(daemon))
        assert (idle["pool"], idle["kind"], idle["state"]) == ("orders", "postgres", "idle")
        assert idle["client"].startswith(f"{LOOPBACK}:") and idle["application"] == "billing"
        assert idle["listener"] == f"{LOOPBACK}:{daemon.port()}" and idle["tls"] is False
        assert idle["server"] is None and idle["pinned"] is None
        conn.execute("begin")
        busy = only(clients(daemon, "orders"))
        server = only(daemon.json("/servers")["servers"])
        assert busy["state"] == "in_transaction" and busy["server"] == server["server"]
        assert busy["conn"] == idle["conn"] and busy["age_ms"] >= idle["age_ms"]
        assert (server["state"], server["leases"], server["endpoint"]) == \
            ("busy", 1, f"{pg.host}:{pg.port}")
        with daemon.wire() as other:
            other.send(pgwire.query("select 1"))
            wait_for(lambda: daemon.waiting() == 1, what="the other to wait")
            states = sorted(row["state"] for row in clients(daemon))
            assert states == ["in_transaction", "waiting"]
            wait_for(lambda: any(row["held_ms"] > 100 for row in clients(daemon)), what="held to grow")
            conn.execute("rollback")
            wait_for(lambda: not daemon.waiting(), what="the other's turn")
        conn.execute("listen news")

        def pinned():
            return [row for row in clients(daemon) if row["application"] == "billing"
                    and row["state"] == "idle" and "LISTEN" in (row["pinned"] or "")]
        assert only(wait_for(pinned, what="LISTEN to be seen"))["server"]
    wait_for(lambda: clients(daemon) == [], what="everybody to be gone")


def test_servers(carpool, pg):
    daemon = carpool(postgres_pool(pg.url(), size={"min": 2, "max": 2}))
    with daemon.connect() as conn:
        for _ in range(5):
            conn.execute("select 1")
    wait_for(lambda: daemon.servers(state="idle") == 2, what="two servers")
    rows = daemon.json("/servers")["servers"]
    assert sorted(row["leases_total"] for row in rows)[-1] >= 5
    assert all(row["state"] == "idle" and row["leases"] == 0 and not row["retiring"] for row in rows)
    assert len({row["server"] for row in rows}) == 2
    one = max(rows, key=lambda row: row["leases_total"])
    wait_for(lambda: any(r["server"] == one["server"] and r["idle_ms"] > one["idle_ms"] + 50
                         for r in daemon.json("/servers")["servers"]), what="idle time to pass")


def test_clients_of_redis(carpool, rd, key):
    daemon = carpool(redis_pool(rd.url()))
    with Resp(daemon.port("cache")) as c:
        assert c.cmd("CLIENT", "SETNAME", "worker-7") == "OK"
        row = only(clients(daemon))
        assert (row["kind"], row["state"], row["application"]) == ("redis", "idle", "worker-7")
        assert c.cmd("WATCH", key) == "OK"
        row = only(clients(daemon))
        assert row["pinned"] == "WATCH" and row["server"]
        assert c.cmd("MULTI") == "OK"
        row = only(clients(daemon))
        assert row["pinned"] == "MULTI" and row["state"] == "in_transaction"
        assert c.cmd("DISCARD") == "OK"
        c.send("BLPOP", "nobody-pushes", "0")
        wait_for(lambda: only(clients(daemon))["pinned"] == "a blocking command", what="BLPOP")
        assert only(clients(daemon))["state"] == "active"


def test_clients_of_http(carpool, origin):
    daemon = carpool(http_pool(origin.url()))
    with Resp(daemon.port("web")) as c:  # only its socket
        c.write(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: daemon.stats()["pools"][0]["exchange"]["count"] == 1, what="the answer")
        wait_for(lambda: only(clients(daemon))["state"] == "idle", what="idle")
        c.write(b"GET /echo HTTP/1.1\r\n")
        wait_for(lambda: only(clients(daemon))["state"] == "reading", what="half a request")


def test_tables(carpool, pg):
    daemon = carpool(postgres_pool(pg.url()), postgres_pool(pg.url(), name="more"))
    with daemon.connect(application_name="billing") as conn, daemon.connect("more") as more:
        conn.execute("begin")
        more.execute("select 1")
        wait_for(lambda: daemon.leases("more") == 0, what="the second to be idle")
        out = daemon.cli("clients").stdout.splitlines()
        assert out[0].split()[:4] == ["pool", "conn", "client", "state"] and len(out) == 3
        assert "in_transaction" in out[1] and "billing" in out[1] and "idle" in out[2]
        assert len(daemon.cli("clients", "more").stdout.splitlines()) == 2
        assert json.loads(daemon.cli("clients", "--json").stdout)["left_out"] == 0
        out = daemon.cli("servers", "orders").stdout.splitlines()
        assert len(out) == 2 and "busy" in out[1] and f"{pg.host}:{pg.port}" in out[1]
        assert len(json.loads(daemon.cli("servers", "--json").stdout)["servers"]) == 2
    done = daemon.cli("clients", "nope", check=False)
    assert done.returncode == 1 and "nope" in done.stderr and "orders" in done.stderr
    assert daemon.get("/clients?pool=nope").status == 404


@pytest.mark.parametrize("workers", [1, 2])
def test_more_than_fit(carpool, rd, workers):
    """At most a thousand rows, and how many are left out."""
    daemon = carpool(redis_pool(rd.url()), workers=workers)
    crowd = []
    try:
        for _ in range(1100):
            crowd.append(Resp(daemon.port("cache")))
        wait_for(lambda: daemon.metric("carpool_clients") == 1100, 30, "the crowd")
        page = daemon.json("/clients")
        assert len(page["clients"]) == 1000 and page["left_out"] == 100
        assert len({row["conn"] for row in page["clients"]}) == 1000
        assert {row["worker"] for row in page["clients"]} == set(range(workers))
        assert daemon.cli("clients").stdout.splitlines()[-1] == "and 100 more"
    finally:
        for one in crowd:
            one.close()


def test_asking_while_everything_moves(carpool, pg):
    """Clients come and go, pools are added and removed, at last carpool ends: every answer is whole."""
    daemon = carpool(postgres_pool(pg.url()), workers=2, drain={"deadline": "2s"})
    end, whole = threading.Event(), []

    def ask():
        while not end.is_set():
            for page in ("/clients", "/servers"):
                try:
                    answer = daemon.get(page)
                except OSError:
                    return
                assert answer.status in (200, 409), answer.text
                whole.append(json.loads(answer.text))

    def ride():
        while not end.is_set():
            try:
                with daemon.connect() as conn:
                    conn.execute("select 1")
            except Exception:
                return
    threads = [threading.Thread(target=f) for f in (ask, ask, ride, ride)]
    for thread in threads:
        thread.start()
    try:
        pools = daemon.config["pools"]
        for i in range(6):
            extra = [postgres_pool(pg.url(), name=f"extra{i}", size={"min": 1})]
            daemon.write({**daemon.config, "pools": pools + extra})
            wait_for(lambda: daemon.cli("reload", check=False).returncode == 0, what="the reload")
        daemon.stop()
    finally:
        end.set()
        for thread in threads:
            thread.join(60)
    assert len(whole) > 20 and any(page.get("clients") for page in whole)
