# SPDX-License-Identifier: MIT
"""Twenty carpools in front of a server that cannot hold the sum of their `max`: they cannot talk to each
other, and share it all the same, each by what it hears when it dials.
"""

import contextlib
import threading
import time

import pytest
from harness.base import SLOW, wait_for
from harness.carpool import postgres_pool
from harness.pgwire import PgError

DAEMONS, CLIENTS, MAX, PLACES = 20, 2, 5, 30
THINK_S = 0.1
ACQUIRE_S = 3


class Rider(threading.Thread):
    """A client that keeps a transaction open while `rush` is on, and then asks now and then. It counts its
    answers; `refused`: what it heard instead of one, and after how long."""

    def __init__(self, daemon, rush, end):
        super().__init__(daemon=True)
        self.carpool, self.rush, self.end = daemon, rush, end
        self.begun, self.answers, self.refused, self.odd = False, 0, [], None

    def ask(self, wire, sql):
        begun = time.monotonic()
        error = wire.run(sql)[2]
        if error:
            self.refused.append((error.code, time.monotonic() - begun))
        return error is None

    def connect(self):
        """Nobody can be welcomed before there was a first server."""
        while not self.end.is_set():
            begun = time.monotonic()
            try:
                return self.carpool.wire(timeout=30 * SLOW)
            except PgError as e:
                self.refused.append((e.code, time.monotonic() - begun))
                self.begun = True
        return contextlib.nullcontext()

    def run(self):
        try:
            with self.connect() as wire:
                inside = self.ask(wire, "begin")
                self.begun = True
                self.rush.wait()
                if inside:
                    assert self.ask(wire, "commit")
                while not self.end.wait(THINK_S):
                    self.answers += self.ask(wire, "select 1")
        except Exception as e:
            self.odd = e


def refusals(pg):
    return pg.log.read_text(errors="replace").count("too many connections for role")


@pytest.mark.alone  # forty clients and twenty daemons
def test_twenty_carpools_share_a_crowded_server(carpool, local_pg, bounded):
    url = bounded(PLACES, local_pg)
    try:
        drill(carpool, local_pg, url)
    finally:
        local_pg.set_bound(3)


def drill(carpool, pg, url):
    size = {"min": 0, "max": MAX, "idle_timeout": "1s", "acquire_timeout": f"{ACQUIRE_S}s"}
    daemons = [carpool(postgres_pool(url, size=size), start=False) for _ in range(DAEMONS)]
    for daemon in daemons:
        daemon.start(wait=False)
    for daemon in daemons:
        wait_for(daemon._is_ready, 60, "all carpools to be ready")
    rush, end, before = threading.Event(), threading.Event(), refusals(pg)
    riders = [Rider(daemon, rush, end) for daemon in daemons for _ in range(CLIENTS)]
    for rider in riders:
        rider.start()
    wait_for(lambda: all(rider.begun or rider.odd for rider in riders), 30, "everybody's place, or a word")
    rushed = sum(len(rider.refused) for rider in riders)
    rush.set()
    wait_for(lambda: all(rider.answers >= 10 or rider.odd for rider in riders), 30, "answers for everybody")
    settled, begun = refusals(pg), time.monotonic()
    counts = [rider.answers for rider in riders]
    wait_for(lambda: time.monotonic() > begun + 5 and
             all(rider.answers >= n + 10 or rider.odd for rider, n in zip(riders, counts)), 30, "more of them")
    calm = (refusals(pg) - settled) / (time.monotonic() - begun)
    end.set()
    for rider in riders:
        rider.join(30 * SLOW)
    assert [rider.odd for rider in riders if rider.odd] == []
    told = [refused for rider in riders for refused in rider.refused]
    assert {code for code, _ in told} <= {"53300"}
    assert all(took < (ACQUIRE_S + 5) * SLOW for _, took in told)
    print(f"{settled - before} refusals at first, then {calm:.1f} a second; {len(told)} clients were told; "
          f"answers of each: {min(counts)} to {max(counts)}")
    assert rushed >= DAEMONS * CLIENTS - PLACES and settled > before, "there was not enough for all"
    assert calm <= DAEMONS / 2, "no storm: not one dial of each in two seconds"
    wait_for(lambda: sum(daemon.servers() for daemon in daemons) <= PLACES, what="the last dial's end")
    for daemon in daemons:
        assert daemon.metric("carpool_breaker_state", pool="orders", breaker="door", state="closed") == 1
