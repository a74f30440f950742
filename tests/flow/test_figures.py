# SPDX-License-Identifier: MIT
"""What /stats, /metrics and /pools say, against what a relay in front of the server and the clients counted."""

import time

import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin  # noqa: F401
from harness.httpwire import Http, http_pool
from harness.redis_fixtures import key, rd  # noqa: F401
from harness.rediswire import Resp, redis_pool
from harness.pgwire import query
from harness.relays import TO_CLIENT, TO_SERVER

N = 60


def pg_ask(wire, n):
    assert wire.run(f"select repeat('x', {n * 100})")[0] == [["x" * n * 100]]


def redis_ask(wire, n):
    assert wire.cmd("SET", "figures", "x" * n * 50) == "OK"
    assert wire.cmd("GET", "figures") == b"x" * n * 50


def http_ask(wire, n):
    assert len(wire.get(f"/body/{n * 100}").body) == n * 100


def pg_slow(wire):
    assert wire.run("select pg_sleep(0.2)")[2] is None


def redis_slow(wire):
    assert wire.cmd("BLPOP", "nobody-pushes-here", "0.2") is None


def http_slow(wire):
    assert wire.get("/delay/200").status == 200


def pg_late(wire, _relay):
    assert wire.run("select pg_sleep(30)")[2].code == "57014"


def redis_late(wire, relay):
    redis_ask(wire, 1)  # its worker has a server
    relay.pause(TO_CLIENT)
    assert wire.cmd("GET", "figures").cause == "request_timeout"
    relay.resume()


def http_late(wire, _relay):
    assert wire.get("/silent").status == 504


# kind: the fixture, a pool, a client, an exchange of n hundred bytes, one of 200 ms, one that takes too long
KINDS = {
    "postgres": ("pg", "orders", postgres_pool, lambda d: d.wire(), pg_ask, pg_slow, pg_late),
    "redis": ("rd", "cache", redis_pool, lambda d: Resp(d.port("cache")), redis_ask, redis_slow, redis_late),
    "http": ("origin", "web", http_pool, lambda d: Http(d.port("web")), http_ask, http_slow, http_late),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_true(carpool, request, gate, kind, workers):
    fixture, name, pool, connect, ask, slow, late = KINDS[kind]
    upstream = request.getfixturevalue(fixture)
    relay = gate(upstream.host, upstream.port)
    url = upstream.url(sslmode="disable") if kind == "postgres" else upstream.url()
    url = url.replace(f"{upstream.host}:{upstream.port}", f"{relay.host}:{relay.port}")
    each = 2 if kind == "redis" else 1  # exchanges of one ask()
    daemon = carpool(pool(url, size={"min": 0, "max": 4}, timeouts={"request": "1s"}, check={"idle": "1h"},
                          breaker={"consecutive": 0, "failure_ratio": "0%"}), workers=workers)

    def figures():
        return next(p for p in daemon.stats()["pools"] if p["name"] == name)

    def at_rest():
        now = figures()
        return not (now["leases"] or now["waiting"]) and now["servers"]["open"] == now["servers"]["idle"] and now

    def grown(after, before, *path):
        for step in path:
            after, before = after.get(step, 0), before.get(step, 0)
        return after - before

    with connect(daemon) as wire:
        ask(wire, 1)
        before, carried = wait_for(at_rest, what="the first exchange to be over"), dict(relay.carried)
        assert before["servers"]["open"] == 1 and before["clients"] == 1
        for n in range(N):
            ask(wire, n)
        after = wait_for(at_rest, what="the last exchange to be over")
        for name_of_way, way in ("to_servers", TO_SERVER), ("from_servers", TO_CLIENT):
            moved = grown(after, before, "bytes", name_of_way)
            wait_for(lambda: relay.carried[way] - carried[way] >= moved, what=f"the relay to count {moved} bytes")
            assert relay.carried[way] - carried[way] == moved > N, name_of_way
        assert grown(after, before, "exchange", "count") == N * each
        assert grown(after, before, "acquire", "count") == grown(after, before, "leases_total")
        assert 1 <= grown(after, before, "leases_total") <= N * each
        assert kind == "redis" or grown(after, before, "leases_total") == N
        assert grown(after, before, "verdicts", "return", "keep") == grown(after, before, "leases_total")
        assert grown(after, before, "waits") == grown(after, before, "retries") == 0
        assert after["errors"] == {} and after["dials"]["failed"] == 0
        # One of 200 ms, and the shape of the histogram.
        slow(wire)
        after = wait_for(at_rest, what="the slow one to be over")
        times = after["exchange"]
        assert times["max_us"] >= 200_000 > 0 and times["count"] == before["exchange"]["count"] + N * each + 1
        assert times["p50_us"] <= times["p90_us"] <= times["p99_us"] <= times["max_us"]
        # Errors, as clients heard them.
        for _ in range(2):
            late(wire, relay)
            wire.close()
            wire = connect(daemon)
        ask(wire, 1)
        after = wait_for(at_rest, 20, "everything to be over")
        assert after["errors"] == {"request_timeout": 2}
        wire.close()
    wait_for(lambda: figures()["clients"] == 0, what="the client to be gone")
    after = figures()
    assert after["clients_accepted"] == 3 and after["clients_refused"] == 0
    cancels = 2 if kind == "postgres" else 0  # connections of their own, not of the pool
    assert after["dials"]["total"] == relay.accepted - cancels
    # An origin that answers nothing does not hear that it was left, either.
    wait_for(lambda: relay.open == figures()["servers"]["open"] + figures()["abandoned"], what="connections to be gone")
    assert after["abandoned"] == (2 if kind == "http" else 0)
    # Three pages, the same numbers.
    row = daemon.pools()[name]
    assert {key: after[key] for key in row} == row
    assert daemon.metric("carpool_errors_total", pool=name, cause="request_timeout") == 2
    for metric, value in {"leases_total": after["leases_total"], "waits_total": after["waits"],
                          "retries_total": after["retries"], "dials_total": after["dials"]["total"],
                          "exchange_seconds_count": after["exchange"]["count"],
                          "acquire_seconds_count": after["acquire"]["count"]}.items():
        assert daemon.metric(f"carpool_{metric}", pool=name) == value, metric
    for way, value in after["bytes"].items():
        assert daemon.metric("carpool_bytes_total", pool=name, direction=way) == value
    for phase, verdicts in after["verdicts"].items():
        for outcome, value in verdicts.items():
            assert daemon.metric("carpool_recycle_verdicts_total", pool=name, phase=phase, outcome=outcome) == value


def test_who_waits_is_counted(carpool, pg):
    """One server, one who has it, one who waits: each number by the one that it is about."""
    daemon = carpool(postgres_pool(pg.url(), size={"max": 1}))
    with daemon.wire() as holder, daemon.wire() as late:
        holder.run("begin")
        before = daemon.stats()["pools"][0]
        late.send(query("select 1"))
        begun = time.monotonic()
        wait_for(lambda: daemon.waiting() == 1, what="the second to wait")
        assert daemon.leases() == 1 and daemon.servers(state="busy") == 1
        assert holder.run("commit")[2] is None
        assert late.results()[0] == [["1"]]
        waited_us = (time.monotonic() - begun) * 1e6
        wait_for(lambda: daemon.leases() == 0, what="both to be done")
        after = daemon.stats()["pools"][0]
        assert after["waits"] == before["waits"] + 1 and after["waiting"] == 0
        assert 0 < after["acquire"]["max_us"] <= max(before["acquire"]["max_us"], waited_us * 1.2)
