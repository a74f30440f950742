# SPDX-License-Identifier: MIT
"""All three protocols in one daemon of two workers, under load and faults: then everything is given back,
and after a drain nothing is left. (Leaks of memory are the sanitizer's to find, when the daemon ends.)"""

import contextlib
import random
import signal
import threading
import time

import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import nginx  # noqa: F401
from harness.httpwire import Closed, Http, http_pool
from harness.pgwire import Eof, PgError
from harness.redis_fixtures import key, rd  # noqa: F401
from harness.rediswire import Resp, redis_pool

POOLS = ("orders", "cache", "web")
GONE = (Eof, PgError, Closed, EOFError, OSError)
MOST = 4


class Crowd:
    """Clients of all kinds: short and long exchanges, some polite, some not. `done` counts per pool."""

    def __init__(self, daemon, dice, key, each=6):
        self.daemon, self.key = daemon, key
        self.done = dict.fromkeys(POOLS, 0)
        self.surprises, self._end = [], threading.Event()
        rides = {"orders": self.postgres, "cache": self.redis, "web": self.http}
        self._threads = [threading.Thread(target=self._run, args=(pool, rides[pool], random.Random(dice.random())),
                                          daemon=True) for pool in POOLS for _ in range(each)]
        for thread in self._threads:
            thread.start()

    def _run(self, pool, ride, dice):
        while not self._end.is_set():
            try:
                ride(dice, lambda: self._count(pool))
            except GONE:
                time.sleep(0.01)  # cut off, or refused: come back
            except Exception as e:
                self.surprises.append(e)
                return

    def _count(self, pool):
        self.done[pool] += 1
        return not self._end.is_set()

    def postgres(self, dice, goes_on):
        with contextlib.closing(self.daemon.wire()) as wire:
            for _ in range(20):
                sql = dice.choice(["select 1", "begin; select 1; commit", "select pg_sleep(0.01)",
                                   "select generate_series(1, 5000)", "listen flow; select 1"])
                if wire.run(sql)[2] is None and not goes_on():
                    return
            if dice.random() < 0.5:
                wire.run("begin")
                wire.abort()

    def redis(self, dice, goes_on):
        with Resp(self.daemon.port("cache")) as c:
            for _ in range(20):
                words = dice.choice([("INCR", self.key), ("GET", self.key), ("WATCH", self.key), ("UNWATCH",),
                                     ("BLPOP", "nothing-" + self.key, "0.01")])
                reply = c.cmd(*words)
                if not isinstance(reply, Exception) and not goes_on():
                    return
            if dice.random() < 0.5:
                c.send("BLPOP", "nothing-" + self.key, "0")  # and leaves

    def http(self, dice, goes_on):
        with Http(self.daemon.port("web")) as c:
            for _ in range(20):
                if c.get(dice.choice(["/", "/small", "/nothing"])).status < 500 and not goes_on():
                    return
            if dice.random() < 0.5:
                c.send(b"GET / HTTP/1.1\r\nHost:")
                c.reset()

    def progress(self, more=20):
        before = dict(self.done)
        wait_for(lambda: self.surprises or all(self.done[p] >= before[p] + more for p in POOLS), 40,
                 "all three pools to serve")
        assert not self.surprises, self.surprises

    def stop(self):
        self._end.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(t.is_alive() for t in self._threads), "a client hangs"
        assert not self.surprises, self.surprises


@pytest.fixture
def town(carpool, pg, rd, nginx, gate):  # noqa: F811
    """(daemon, gates): each upstream behind a relay that can be harmed."""
    gates = {"orders": gate(pg.host, pg.port), "cache": gate(rd.host, rd.port),
             "web": gate(nginx.host, nginx.port)}
    size = {"min": 0, "max": MOST, "acquire_timeout": "20s"}
    quick = {"size": size, "breaker": {"open": "100ms..300ms"}, "check": {"idle": "200ms"}}
    daemon = carpool(
        postgres_pool(pg.url(host=gates["orders"].host, port=gates["orders"].port), **quick),
        redis_pool(rd.url(host=gates["cache"].host, port=gates["cache"].port), **quick),
        http_pool(nginx.url(host=gates["web"].host, port=gates["web"].port), **quick), workers=2)
    return daemon, gates


def harm(dice, daemon, gates, crowd):
    """One bad thing, and its end."""
    name = dice.choice(POOLS)
    what = dice.choice(["cut", "reset", "refuse", "stall", "recycle", "pause", "shrink"])
    if what in ("cut", "reset"):
        gates[name].cut(reset=what == "reset")
    elif what == "refuse":
        gates[name].refuse()
        gates[name].cut()
        time.sleep(0.1)
        gates[name].refuse(False)
    elif what == "stall":
        gates[name].pause()
        time.sleep(0.1)
        gates[name].resume()
    elif what == "recycle":
        daemon.cli("recycle", name)
    elif what == "pause":
        daemon.cli("pause", name)
        daemon.cli("resume", name)
    else:
        for most in (1, MOST):
            daemon.change(name, size={"max": most})
            daemon.reload()
    assert all(gate.held() <= MOST or pool == "orders" for pool, gate in gates.items())
    return what


def at_rest(daemon):
    """Nobody is there, and what servers there are stand idle; the books agree."""
    for pool in daemon.stats()["pools"]:
        servers = pool["servers"]
        if pool["clients"] or pool["waiting"] or pool["leases"] or servers["idle"] != servers["open"]:
            return False
        assert servers["open"] <= MOST
    return True


def test_everything_is_given_back_and_nothing_is_left(town, pg, rd, nginx, key):  # noqa: F811
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    dice = random.Random(seed)
    daemon, gates = town
    wait_for(lambda: at_rest(daemon), what="the daemon to be at rest")
    bare = daemon.descriptors()
    crowd, done = Crowd(daemon, dice, key), []
    crowd.progress()
    end = time.monotonic() + 5
    while time.monotonic() < end or len(done) < 10:
        done.append(harm(dice, daemon, gates, crowd))
    crowd.progress()
    crowd.stop()
    print(done, crowd.done)

    wait_for(lambda: at_rest(daemon), 30, "everything to be given back")
    servers = {row["server"] for row in daemon.json("/servers")["servers"]}
    idle = sum(daemon.servers(name) for name in POOLS)
    assert len(servers) == idle
    wait_for(lambda: daemon.descriptors() - sum(daemon.servers(name) for name in POOLS) <= bare, 10,
             "descriptors to be as before")
    assert daemon.json("/clients") == {"left_out": 0, "clients": []}
    for pool in daemon.stats()["pools"]:
        assert pool["abandoned"] == 0, pool["name"]

    crowd = Crowd(daemon, dice, key)
    crowd.progress()
    daemon.signal(signal.SIGTERM)
    daemon.ended()
    crowd.stop()
    wait_for(lambda: all(gate.open == 0 for gate in gates.values()), what="all connections to be closed")
    assert len(daemon.log_lines(" stopped ")) == 1 and not daemon.log_lines(" drain_deadline ")
    lines = daemon.log_lines(" server_open ") + daemon.log_lines(" server_close ")
    opened = [line for line in lines if " server_open " in line]
    assert len(opened) == len(lines) - len(opened), "every server that was opened was closed"
