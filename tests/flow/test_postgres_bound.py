# SPDX-License-Identifier: MIT
"""The bound, under everything at once, with the server as judge.

The role's CONNECTION LIMIT is the bound in force: one connection more, for a moment, is a FATAL in the
server's log. Meanwhile: load, clients that break off, servers terminated one by one, recycle, and
reloads that move `size.max` up and down. Which action comes when is random, from a seed that is printed.
"""

import os
import random
import threading
import time

import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.load import Load
from harness.pgwire import Eof, PgError, query

SECONDS = float(os.environ.get("CARPOOL_TEST_BOUND_SECONDS", "6"))

# What clients may hear when their server is terminated under them.
LOST = {"08006", "08007", "25P02"}


class Rough:
    """Clients that connect, ask and vanish in the middle, until stopped."""

    def __init__(self, daemon, dice, n):
        self.daemon, self._end, self.surprises = daemon, threading.Event(), []
        self.dice = [random.Random(dice.random()) for _ in range(n)]
        self.threads = [threading.Thread(target=self._ride, args=(d,), daemon=True) for d in self.dice]
        for thread in self.threads:
            thread.start()

    def _ride(self, dice):
        while not self._end.is_set():
            try:
                wire = self.daemon.wire(user="bounded")
                for _ in range(dice.randint(0, 3)):
                    wire.run("select 1")
                wire.send(query(dice.choice(["select pg_sleep(0.03)", "begin; select 1", "select 1",
                                             "select generate_series(1, 20000)"])))
                time.sleep(dice.random() * 0.04)
                wire.abort() if dice.random() < 0.7 else wire.close()
            except (PgError, Eof, ConnectionError):
                pass
            except Exception as e:
                self.surprises.append(e)
                return

    def stop(self):
        self._end.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(t.is_alive() for t in self.threads) and not self.surprises, self.surprises


class Bound:
    """Moves the pool's bound; the server's limit follows as soon as, and never later than, it may."""

    def __init__(self, daemon, pg, now):
        self.daemon, self.pg, self.now = daemon, pg, now

    def move(self, to):
        if to > self.now:
            self.pg.set_bound(to)
        self.daemon.change(size={"max": to})
        self.daemon.reload()
        if to < self.now:
            # Both: a dial that was under way is a slot before the server knows whose it is.
            wait_for(lambda: self.daemon.metric("carpool_pool_open", pool="orders") <= to
                     and self.pg.connections("bounded") <= to, 20, f"the pool to shrink to {to}")
            self.pg.set_bound(to)
        self.now = to


def terminate_one(pg, dice):
    pids = [r[0] for r in pg.query("select pid from pg_stat_activity where usename = 'bounded'")]
    for pid in dice.sample(pids, min(len(pids), dice.randint(1, 2))):
        pg.query("select pg_terminate_backend(%s)", pid)


def test_bound_under_random_load(carpool, bounded, pg, table, workers):
    seed = int(os.environ.get("CARPOOL_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"seed {seed}, {workers} workers")
    dice = random.Random(seed)
    daemon = carpool(postgres_pool(bounded(4), size={"max": 4, "acquire_timeout": "60s"},
                                   timeouts={"close": "20s"}), workers=workers)
    mark, bound = pg.mark(), Bound(daemon, pg, 4)
    load = Load(daemon, 10, table, "bounded")
    load.progress(1)
    rough = Rough(daemon, dice, 3)
    done = {"terminate": 0, "recycle": 0, "max": 0}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        action = dice.choice(list(done))
        if action == "terminate":
            terminate_one(pg, dice)
        elif action == "recycle":
            daemon.cli("recycle", "orders")
        else:
            bound.move(dice.randint(1, 6))
        done[action] += 1
        assert pg.refusals(mark) == 0, (seed, done)
        open_now = daemon.metric("carpool_pool_open", pool="orders")
        assert pg.connections("bounded") <= bound.now, (seed, done)
        assert 0 <= open_now <= 6
        time.sleep(dice.random() * 0.1)
    rough.stop()
    load.progress(1)
    states = load.stop()
    print(f"{done}, {sum(load.done)} transactions, {pg.logins('bounded', mark)} logins")
    assert states <= LOST, states
    assert pg.refusals(mark) == 0
    assert daemon.errors("upstream_busy") == 0
    assert daemon.metric("carpool_abandoned_total") == 0, "no slot was freed before its server had ended"
    wait_for(lambda: daemon.servers(state="busy") == daemon.waiting() == 0, what="all leases to end")
    committed = pg.value(f"select count(*) from {table}", db="orders")
    assert committed >= sum(load.done)
    wait_for(lambda: daemon.servers() == daemon.metric("carpool_pool_open", pool="orders"),
             what="the books to agree")


def test_bound_when_the_server_is_slow_to_let_go(carpool, bounded, pg, gate, workers):
    """A path that delays end-of-file: closing servers count, so nothing is dialed in their place early."""
    bounded(2)
    relay = gate(pg.host, pg.port)
    url = pg.url("bounded", host=relay.host, port=relay.port)
    daemon = carpool(postgres_pool(url, size={"min": 2, "max": 2, "acquire_timeout": "30s"},
                                   timeouts={"close": "20s"}), workers=workers)
    mark = pg.mark()
    for _ in range(3):
        relay.pause()  # goodbyes do not get through
        daemon.cli("recycle", "orders")
        wait_for(lambda: daemon.servers(state="closing") == 2, what="both to be closing")
        assert daemon.servers(state="dialing") == 0 and relay.open == 2
        relay.resume()
        wait_for(lambda: daemon.servers(state="idle") == 2, what="two new ones")
    assert pg.refusals(mark) == 0
    assert daemon.metric("carpool_abandoned_total") == 0


@pytest.mark.parametrize("size", [1, 5])
def test_bound_while_clients_connect_at_once(carpool, bounded, pg, workers, size):
    """Forty first requests in the same moment, on an empty pool."""
    daemon = carpool(postgres_pool(bounded(size), size={"max": size, "acquire_timeout": "30s"}),
                     workers=workers)
    mark = pg.mark()
    wires = [daemon.wire(login=False) for _ in range(40)]
    for wire in wires:
        wire.sock.settimeout(30)
    barrier = threading.Barrier(len(wires))

    def ride(wire):
        barrier.wait()
        wire.login(user="bounded")
        assert wire.run("select pg_sleep(0.005)")[2] is None
        wire.close()
    threads = [threading.Thread(target=ride, args=(wire,)) for wire in wires]
    with pg.peak("bounded") as peak:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert pg.refusals(mark) == 0 and peak.value <= size
    assert daemon.all_errors() == {}
