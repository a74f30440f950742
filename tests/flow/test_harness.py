# SPDX-License-Identifier: MIT
"""The harness stands on its own feet: the servers start, count, refuse, die and come back."""

import asyncio
import threading
import time

import httpx
import psycopg
import pytest
import redis
from harness.base import wait_for
from harness.carpool import merge
from harness.nginx import pattern
from harness.pgwire import Eof, PgError, Wire, query
from harness.postgres import PASSWORD, psql
from harness.relays import TO_CLIENT


def test_postgres_takes_scram_and_tls(local_pg):
    pg = local_pg
    mark = pg.mark()
    with psycopg.connect(pg.dsn(host="localhost", sslmode="verify-full", sslrootcert=str(pg.ca))) as c:
        assert c.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(pg.dsn(password="wrong"))
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry|rejects"):
        psycopg.connect(pg.dsn("tlsonly", sslmode="disable"))
    assert psycopg.connect(pg.dsn(host=str(pg.socket_dir))).execute("select 1").fetchone() == (1,)
    assert 'method=scram-sha-256' in pg.log_since(mark)
    assert psycopg.connect(pg.url()).execute("select 1").fetchone() == (1,)


def test_postgres_counts_and_refuses(pg):
    pg.set_bound(2)
    mark = pg.mark()
    with pg.peak("bounded") as peak:
        two = [psycopg.connect(pg.dsn("bounded")) for _ in range(2)]
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            psycopg.connect(pg.dsn("bounded"))
        wait_for(lambda: peak.value == 2, what="the sampler to see both")
    assert pg.connections("bounded") == 2
    assert pg.refusals(mark) == 1
    for conn in two:
        conn.close()
    wait_for(lambda: pg.connections("bounded") == 0)
    assert pg.logins("bounded", mark) == 2
    assert pg.logged_peak("bounded", mark) in (2, 3)


def test_postgres_dies_and_returns(frail_pg):
    conn = psycopg.connect(frail_pg.dsn())
    frail_pg.kill9()
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(frail_pg.dsn())
    frail_pg.start()
    assert psycopg.connect(frail_pg.dsn()).execute("select 1").fetchone() == (1,)


def test_postgres_freezes(frail_pg):
    wire = Wire(frail_pg.host, frail_pg.port, password=PASSWORD)
    frail_pg.freeze()
    wire.send(query("select 1"))
    assert wire.quiet(0.3)
    frail_pg.thaw()
    assert wire.results()[0] == [["1"]]


def test_wire_client(pg):
    with Wire(pg.host, pg.port, password=PASSWORD) as wire:
        assert wire.run("select 1, null") == ([["1", None]], ["SELECT 1"], None, "I")
        rows, _, error, status = wire.run("begin; select 1/0")
        assert (rows, error.code, status) == ([], "22012", "E")
        assert wire.run("rollback")[1:] == (["ROLLBACK"], None, "I")
        wire.send(query("select pg_sleep(9)"))
        wait_for(lambda: pg.active("%pg_sleep(9)%"), what="the query to run")
        assert wire.cancel()
        assert wire.results()[2].code == "57014"
    with pytest.raises(PgError, match="28P01"):
        Wire(pg.host, pg.port, password="wrong")


def test_psql_runs_a_script(pg):
    done = psql(pg.dsn(), "-At", script="select 1;\nselect nonsense;\nselect 2;\n")
    assert done.stdout == "1\n2\n"
    assert "nonsense" in done.stderr and done.returncode == 0


def test_redis_counts_and_refuses(servers):
    server = servers.redis(requirepass="secret", maxclients=2, tls=True,
                           acl={"rider": "ticket"})
    with server.peak() as peak:
        one = redis.Redis.from_url(server.url())
        one.set("a", 1)
        two = redis.Redis(unix_socket_path=str(server.socket), password="secret")
        assert two.get("a") == b"1"
        with pytest.raises(redis.ConnectionError, match="max number of clients"):
            redis.Redis.from_url(server.url()).ping()
        wait_for(lambda: peak.value == 2, what="the sampler to see both")
    assert server.refusals() == 1 and server.connections() == 2
    assert server.commands()["set"] == 1
    one.connection_pool.disconnect()
    wait_for(lambda: server.connections() == 1)
    tls = redis.Redis(host="localhost", port=server.tls_port, ssl=True, username="rider",
                      password="ticket", ssl_ca_certs=str(server.ca))
    assert tls.get("a") == b"1"
    server.kill9()
    with pytest.raises(redis.ConnectionError):
        two.get("a")
    server.start()
    servers.forget(server)


def test_nginx_counts_and_refuses(servers):
    server = servers.nginx(limit=1)
    with httpx.Client(base_url=server.url()) as client:
        assert client.get("/echo").text.startswith("GET /echo host=")
        assert client.get(server.big(100_000)).content == pattern(100_000)
        assert client.get("/status/204").status_code == 204
        server.big(3000)
        with client.stream("GET", server.big(20_000, "slow")) as slow:
            assert slow.status_code == 200
        client.get("/echo")
        assert server.connections() >= 1
    mark = server.mark()
    with httpx.Client(base_url=server.url()) as one, httpx.Client(base_url=server.url()) as two:
        with one.stream("GET", "/slow/20000"):
            assert two.get("/sized/3000").status_code == 503
    wait_for(lambda: [r["status"] for r in server.requests(mark) if "3000" in r["request"]] == [503],
             what="nginx to log it")
    assert server.refusals(mark) == 1
    assert server.get("/echo", tls=True).startswith(b"GET /echo")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(server.url(tls=True))
    server.kill9()
    server.start()
    servers.forget(server)


def test_origin_misbehaves(servers):
    origin = servers.origin()
    with httpx.Client(base_url=origin.url(), timeout=5) as client:
        echo = client.post("/echo", content=b"hello").json()
        assert (echo["method"], echo["body"]) == ("POST", "hello")
        assert client.post("/echo", content=iter([b"a", b"b"])).json()["body"] == "ab"
        assert client.get("/chunked/2500").content == pattern(2500)
        assert client.get("/continue").text == "done\n"
        assert client.get("/status/503").status_code == 503
        assert client.head("/body/10").headers["content-length"] == "10"
        for path in ("/close", "/reset", "/half", "/half-chunked", "/garbage"):
            with pytest.raises(httpx.HTTPError):
                client.get(path)
        with pytest.raises(httpx.HTTPError):
            client.get("/once/x")
        assert client.get("/once/x").text == "again\n"
    assert origin.requests[0]["method"] == "POST" and origin.accepted >= 6
    servers.forget(origin)


def test_gate_and_black_hole(pg, gate, black_hole):
    relay = gate(pg.host, pg.port)
    wire = Wire(relay.host, relay.port, password=PASSWORD)
    assert wire.run("select 1")[0] == [["1"]]
    relay.pause(TO_CLIENT)
    wire.send(query("select 2"))
    assert wire.quiet(0.2)
    relay.resume()
    assert wire.results()[0] == [["2"]]
    relay.trickle()
    assert wire.run("select repeat('x', 1000)")[0] == [["x" * 1000]]
    assert (relay.accepted, relay.open, relay.peak) == (1, 1, 1)
    relay.cut()
    with pytest.raises(Eof):
        wire.receive()
    wait_for(lambda: relay.open == 0)
    relay.refuse()
    with pytest.raises(ConnectionRefusedError):
        Wire(relay.host, relay.port, login=False)
    relay.refuse(False)
    relay.trickle(False)
    wire = Wire(relay.host, relay.port, password=PASSWORD)
    relay.cut(reset=True)
    with pytest.raises((Eof, ConnectionResetError)):
        wire.receive()
    hole = Wire(black_hole.host, black_hole.port, login=False)
    hole.send(b"hello?")
    assert hole.quiet(0.1)
    wait_for(lambda: black_hole.open == 1)


def test_waiting_is_bounded():
    begun = time.monotonic()
    with pytest.raises(AssertionError, match="the moon"):
        wait_for(lambda: 0, 0.1, "the moon")
    assert time.monotonic() - begun < 5
    assert wait_for(iter([0, 0, 7]).__next__) == 7


def test_merge_of_settings():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a": {"b": 9, "c": None}, "e": 4}) == {"a": {"b": 9}, "d": 3, "e": 4}
    assert base["a"]["b"] == 1


def test_async_clients_work_beside_threads(pg):
    async def two():
        conns = [await psycopg.AsyncConnection.connect(pg.dsn(), autocommit=True) for _ in range(2)]
        out = await asyncio.gather(*(c.execute("select pg_sleep(0.05)") for c in conns))
        for c in conns:
            await c.close()
        return len(out)
    assert asyncio.run(two()) == 2
    assert threading.active_count() < 50
