# SPDX-License-Identifier: MIT
"""A pool of one with many clients: the order of service is the order of arrival.

The judge is the server: each exchange takes the next number of a sequence, so the numbers are those of the
leases. Arrival is when the client has sent its request; what arrives within MARGIN of each other may be
served in any order (clients of two workers are told apart from 5 ms on, and the machine may be busy).
"""

import selectors
import signal
import threading
import time

import pytest
from harness.base import SLOW, wait_for
from harness.pgwire import SYNC, bind, execute, parse, query, row

CLIENTS, RIDES = 20, 6
MARGIN = 0.2 * SLOW


@pytest.fixture
def sequence(pg, table):
    return f"{table}_id_seq"


class Rider:
    """A client in a loop of its own making: ask, wait, ask again. `rides`: (sent, number of the lease)."""

    def __init__(self, daemon, text):
        self.wire, self.text = daemon.wire(timeout=30), text
        self.rides = []

    def ask(self):
        self.sent = time.monotonic()
        self.wire.send(query(self.text))

    def hear(self):
        rows, _, error, _ = self.wire.results()
        assert error is None, error
        self.rides.append((self.sent, int(rows[0][0])))


def in_order(rides):
    """Nobody was served before another who had asked earlier by more than the margin."""
    rides = sorted(rides, key=lambda ride: ride[1])
    latest = 0.0
    for sent, number in rides:
        assert sent > latest - MARGIN, f"lease {number} overtook, by {latest - sent:.3f} s"
        latest = max(latest, sent)
    return True


def test_order_under_load(orders, sequence, workers):
    """Twenty clients, one server, six rides each: every lease goes to who has waited longest. Leases and
    rides are the same number: nobody was given the server twice for one request, or in vain."""
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "60s"})
    riders = [Rider(daemon, f"select nextval('{sequence}'), pg_sleep(0.02)") for _ in range(CLIENTS)]
    before = daemon.pools()["orders"]["leases_total"]
    with selectors.DefaultSelector() as ready:
        for rider in riders:
            ready.register(rider.wire.sock, selectors.EVENT_READ, rider)
            rider.ask()
        left = CLIENTS * RIDES
        while left:
            events = ready.select(60)
            assert events, "nobody is served any more"
            for key, _ in events:
                key.data.hear()
                left -= 1
                if len(key.data.rides) < RIDES:
                    key.data.ask()
    rides = [ride for rider in riders for ride in rider.rides]
    numbers = sorted(number for _, number in rides)
    assert numbers == list(range(numbers[0], numbers[0] + len(rides)))
    in_order(rides)
    wait_for(lambda: daemon.pools()["orders"]["leases_total"] - before == len(rides),
             what="a lease for each ride")
    assert daemon.all_errors() == {}
    for rider in riders:
        rider.wire.close()


def test_order_survives_a_lost_server(orders, pg, sequence, workers):
    """The only server is terminated while twelve clients wait: they keep their places."""
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "60s"})
    holder = Rider(daemon, "begin; select 1")
    holder.ask()
    holder.wire.results()
    riders = []
    for n in range(12):
        riders.append(Rider(daemon, f"select nextval('{sequence}')"))
        riders[-1].ask()
        wait_for(lambda n=n: daemon.waiting() == n + 1, what=f"client {n} to wait")
        time.sleep(0.02)  # arrivals of different workers are told apart from 5 ms on
    assert pg.terminate("app") == 1
    for rider in riders:
        rider.hear()
    numbers = [rider.rides[0][1] for rider in riders]
    assert numbers == sorted(numbers)
    for rider in riders:
        rider.wire.close()
    holder.wire.close()


def test_who_leaves_the_queue_moves_nobody(orders, sequence, workers):
    """Every second of twelve waiting clients leaves: the others are served in their order."""
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "60s"})
    with daemon.wire() as holder:
        holder.run("begin")
        riders = []
        for n in range(12):
            riders.append(Rider(daemon, f"select nextval('{sequence}')"))
            riders[-1].ask()
            wait_for(lambda n=n: daemon.waiting() == n + 1, what=f"client {n} to wait")
            time.sleep(0.02)  # as above
        for rider in riders[1::2]:
            rider.wire.abort()
        wait_for(lambda: daemon.waiting() == 6, what="the others to be forgotten")
        holder.run("commit")
        for rider in riders[::2]:
            rider.hear()
        numbers = [rider.rides[0][1] for rider in riders[::2]]
        assert numbers == list(range(numbers[0], numbers[0] + 6))
    for rider in riders[::2]:
        rider.wire.close()


def test_a_pool_of_one_moves_between_workers(orders, sequence):
    """Two workers, one server, each worker's clients in bursts: neither starves the other."""
    daemon = orders(2, size={"max": 1, "acquire_timeout": "60s"})
    served = [0] * 8
    start = threading.Barrier(len(served))

    def ride(n):
        with daemon.wire(timeout=30) as wire:
            start.wait(30)  # who came later has waited for nobody
            while max(served) < 40:
                for _ in range(5):  # a burst in one write: five transactions
                    wire.send(query("select 1"))
                for _ in range(5):
                    assert wire.results()[0] == [["1"]]
                served[n] += 1
    threads = [threading.Thread(target=ride, args=(n,)) for n in range(len(served))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert min(served) >= 0.3 * max(served), served
    assert daemon.all_errors() == {}


@pytest.mark.parametrize("kind", ["simple", "extended", "one is long"])
def test_what_is_read_at_once_is_served_in_the_order_in_which_it_came(orders, sequence, kind):
    """Twenty clients speak while carpool stands still. It finds all of them at once, and one worker needs no
    margin."""
    daemon = orders(size={"max": 1, "acquire_timeout": "60s"})
    sql = f"select nextval('{sequence}')"
    texts = [query(sql)] * CLIENTS
    if kind == "extended":
        texts = [parse(sql) + bind() + execute() + SYNC] * CLIENTS
    elif kind != "simple":
        texts[7] = query(sql + " -- " + "x" * 100_000)
    wires = [daemon.wire(timeout=30) for _ in texts]
    assert wires[0].run("select 1")[2] is None
    daemon.signal(signal.SIGSTOP)
    try:
        for wire, text in zip(wires, texts):
            wire.send(text)
    finally:
        daemon.signal(signal.SIGCONT)
    numbers = []
    for wire in wires:
        rows = [row(body) for kind, body in wire.until("Z") if kind == "D"]
        numbers.append(int(rows[0][0]))
        wire.close()
    assert numbers == list(range(numbers[0], numbers[0] + CLIENTS))
