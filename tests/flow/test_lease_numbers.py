# SPDX-License-Identifier: MIT
"""A pool of one with many clients: the order of service is the order of asking, whatever they speak.

The judge is carpool's own access log, whose `lease` is the number of an exchange in the order of service.
(test_postgres_order.py asks the server the same question, under load.)
"""

import json
import time

import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin, raw  # noqa: F401
from harness.httpwire import Http, http_pool, reply, request
from harness.pgwire import query
from harness.redis_fixtures import key, rd  # noqa: F401
from harness.rediswire import Resp, redis_pool

CLIENTS = 12
ONE = {"min": 0, "max": 1, "acquire_timeout": "60s"}


class Postgres:
    """Holder and clients run transactions."""

    def __init__(self, request):
        self.pool = postgres_pool(request.getfixturevalue("pg").url(), size=ONE)

    def connect(self, daemon):
        return daemon.wire(timeout=60)

    def hold(self, holder):
        holder.run("begin")

    def release(self, holder):
        holder.run("commit")

    def ask(self, client):
        client.send(query("begin; select 1; commit"))

    def hear(self, client):
        assert client.results()[0] == [["1"]]


class Redis:
    """The holder watches a key; clients block, which takes a server of one's own, too."""

    def __init__(self, request):
        self.pool = redis_pool(request.getfixturevalue("rd").url(), size=ONE)
        self.key = request.getfixturevalue("key")

    def connect(self, daemon):
        return Resp(daemon.port("cache"), timeout=60)

    def hold(self, holder):
        assert holder.cmd("RPUSH", self.key, *range(CLIENTS)) == CLIENTS
        assert holder.cmd("WATCH", self.key) == "OK"

    def release(self, holder):
        assert holder.cmd("UNWATCH") == "OK"

    def ask(self, client):
        client.send("BLPOP", self.key, "0")

    def hear(self, client):
        assert client.read()[0] == self.key.encode()


class Web:
    """The origin answers the holder late."""

    def __init__(self, request):
        self.raw = request.getfixturevalue("raw")
        self.pool = http_pool(self.raw.url(), size=ONE)

    def connect(self, daemon):
        return Http(daemon.port("web"))

    def hold(self, holder):
        holder.send(request("GET", "/hold"))
        self.server = self.raw.accept()
        assert self.server.request().target == "/hold"

    def release(self, holder):
        self.server.send(reply(b"well"))
        assert holder.response().body == b"well"

    def ask(self, client):
        client.send(request("GET", "/ride"))

    def hear(self, client):
        assert self.server.request().target == "/ride"
        self.server.send(reply(b"ride"))
        assert client.response().body == b"ride"


@pytest.mark.parametrize("kind", [Postgres, Redis, Web], ids=["postgres", "redis", "http"])
def test_lease_numbers_follow_the_order_of_asking(carpool, request, workers, kind):
    side = kind(request)
    name = side.pool["name"]
    daemon = carpool(side.pool, workers=workers, log={"access": "all", "format": "json", "level": "error"})
    holder = side.connect(daemon)
    side.hold(holder)
    before = daemon.pools()[name]["leases_total"]
    clients = []
    for n in range(CLIENTS):
        client = side.connect(daemon)
        clients.append(client)
        side.ask(client)
        wait_for(lambda n=n: daemon.waiting(name) == n + 1, what=f"client {n} to wait")
        time.sleep(0.02)  # arrivals of different workers are told apart from 5 ms on
    side.release(holder)
    for client in clients:
        side.hear(client)

    def lines():
        found = [json.loads(line) for line in daemon.log_lines('"event":"access"')]
        rides = [line for line in found if line["lease"] > before]
        return len(rides) >= CLIENTS and rides
    rides = sorted(wait_for(lines, what="a line for each ride"), key=lambda line: line["lease"])
    assert [line["lease"] for line in rides] == list(range(before + 1, before + CLIENTS + 1))
    asked = {f"127.0.0.1:{client.sock.getsockname()[1]}": n for n, client in enumerate(clients)}
    assert [asked[line["client"]] for line in rides] == list(range(CLIENTS))
    assert {(line["outcome"], line["server"]) for line in rides} == {("ok", rides[0]["server"])}
    waits = [line["wait_us"] for line in rides]
    assert min(waits) > 0 and waits[0] >= (CLIENTS - 1) * 20_000, "the first has waited since it asked"
    assert daemon.pools()[name]["leases_total"] == before + CLIENTS
    assert daemon.all_errors(name) == {}
    for client in (*clients, holder):
        client.close()
