# SPDX-License-Identifier: MIT
"""What clients may use up: exchanges a second, exchanges at once, connections; and what idle ones cost."""

import resource
import time

import pytest
from harness import pgwire
from harness.base import SLOW, wait_for
from harness.carpool import ROOT, Carpool, postgres_pool
from harness.pgwire import PgError, query

CLIENTS = 2000


# -- limits.rate

def test_rate(orders, workers):
    """A second's worth at once, then as they come; who is too fast hears 53400, stays, and may come back."""
    daemon = orders(workers, size={"min": 1}, limits={"rate": 40})
    share = 40 // workers
    with daemon.wire() as wire:
        wait_for(lambda: wire.run("select 1")[2] is None)  # the welcome may have taken one
        begun, well, refused = time.monotonic(), 1, 0
        while refused < 5 and well < 400:
            rows, _, error, status = wire.run("select 1")
            assert status == "I"
            if error is None:
                well += 1
                continue
            refused += 1
            assert error.code == "53400" and "rate_limited" in error.fields["M"]
        took = time.monotonic() - begun
        assert share * 0.9 <= well <= share * (1.1 + took) + 2, (well, took)
        wait_for(lambda: wire.run("select 2")[0] == [["2"]], 5, "the rate to allow one more")
    assert daemon.errors("rate_limited") >= 5 and daemon.saw("rate_limited")


def test_rate_counts_exchanges_not_statements(orders):
    """A transaction is one exchange however long it is; a pipeline up to its Sync is one, too."""
    daemon = orders(size={"min": 1}, limits={"rate": 5})
    with daemon.wire() as wire:
        wire.run("begin")
        for _ in range(30):
            assert wire.run("select 1")[0] == [["1"]]
        assert wire.run("commit")[3] == "I"
        for _ in range(30):
            wire.send(pgwire.parse("select 1"), pgwire.bind(), pgwire.execute())
        wire.send(pgwire.SYNC)
        assert len([1 for kind, _ in wire.until("Z") if kind == "D"]) == 30
    assert daemon.all_errors() == {}


def test_rate_of_an_extended_exchange(orders):
    """Refused as a whole: one error, nothing runs, ready at Sync."""
    daemon = orders(size={"min": 1}, limits={"rate": 1})
    with daemon.wire() as wire:
        assert wire.run("select 1")[2] is None

        def refused():
            wire.send(pgwire.parse("select 1"), pgwire.bind(), pgwire.describe(), pgwire.execute(),
                      pgwire.SYNC)
            said = wire.until("Z")
            return said[0][0] == "E" and said
        said = wait_for(refused, what="one too many in a second", interval=0)
        assert [kind for kind, _ in said] == ["E", "Z"] and PgError(said[0][1]).code == "53400"


# -- limits.in_flight

def test_in_flight(orders, pg):
    """Two at once, waiting ones included: the third hears 53300 overloaded at once, and may come back."""
    daemon = orders(size={"max": 1, "acquire_timeout": "30s"}, limits={"in_flight": 2})
    runs, waits, late = daemon.wire(), daemon.wire(), daemon.wire()
    runs.run("begin")
    waits.send(query("select 2"))
    wait_for(lambda: daemon.waiting() == 1, what="the second to wait")
    begun = time.monotonic()
    error, status = late.run("select 3")[2:]
    assert (error.code, status) == ("53300", "I") and "overloaded" in error.fields["M"]
    assert time.monotonic() - begun < 5 * SLOW
    assert runs.run("select 1")[0] == [["1"]], "what is under way goes on"
    runs.run("commit")
    assert waits.results()[0] == [["2"]]
    assert late.run("select 3")[0] == [["3"]]
    assert daemon.saw("overloaded")
    for wire in (runs, waits, late):
        wire.close()
    wait_for(lambda: daemon.metric("carpool_clients") == 0, what="all clients to be gone")


def test_in_flight_is_given_back(orders, pg):
    """However an exchange ends (well, an error, a lost server, a vanished client, a timeout), it is over."""
    daemon = orders(size={"max": 1, "acquire_timeout": "300ms"}, limits={"in_flight": 1})
    with daemon.wire() as wire:
        wire.run("select 1/0")
        assert wire.run("select 1")[0] == [["1"]]
        wire.run("begin")
        pg.terminate("app")
        assert wire.run("select 1")[2].code == "08006"
        wire.run("rollback")
        assert wire.run("select 1")[0] == [["1"]]
        gone = daemon.wire()
        gone.send(query("select pg_sleep(30)"))
        wait_for(lambda: pg.active("select pg_sleep%"), what="the query to run")
        assert wire.run("select 1")[2].code == "53300"
        gone.abort()
        wait_for(lambda: wire.run("select 1")[0] == [["1"]], what="the place to be free")
        daemon.cli("pause", "orders")
        assert "paused" in str(wire.run("select 1")[2])
        daemon.cli("resume", "orders")
        assert wire.run("select 1")[0] == [["1"]]


# -- what idle clients cost

@pytest.fixture
def many_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    if before[1] < CLIENTS + 200:
        pytest.skip(f"no more than {before[1]} descriptors are allowed here")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def cost_of_idle_clients(daemon):
    """Logs CLIENTS clients in and out again; (bytes of resident memory per client, seconds per login)."""
    with daemon.wire() as wire:
        wire.run("select 1")
    wait_for(lambda: daemon.metric("carpool_clients") == 0, what="the first client to be gone")
    fds, before, begun = daemon.descriptors(), daemon.rss(), time.monotonic()
    wires = [daemon.wire() for _ in range(CLIENTS)]
    took, grown = time.monotonic() - begun, daemon.rss() - before
    wait_for(lambda: daemon.metric("carpool_clients") == CLIENTS, what="the last client to be counted")
    # give or take the connection of an admin question that is just being closed
    wait_for(lambda: abs(daemon.descriptors() - fds - CLIENTS) <= 2, what="one descriptor each")
    wait_for(lambda: daemon.pools()["orders"]["leases"] == 0, what="all leases of their logins to end")
    for wire in wires[::100]:
        assert wire.run("select 1")[0] == [["1"]]
    for i, wire in enumerate(wires):
        wire.close() if i % 2 else wire.abort()
    wait_for(lambda: daemon.metric("carpool_clients") == 0, 20, "all clients to be gone")
    wait_for(lambda: daemon.descriptors() <= fds, what="their descriptors to be closed")
    wait_for(lambda: daemon.waiting() == daemon.servers(state="busy") == 0, what="all leases to end")
    return grown / CLIENTS, took / CLIENTS


def is_current(build):
    """Does it exist, and is it younger than everything it was made of?"""
    sources = [p for room in ("proxy", "pools", "health") for p in (ROOT / room).rglob("*.[ch]")]
    return build.exists() and build.stat().st_mtime > max(p.stat().st_mtime for p in sources)


def test_two_thousand_idle_clients(carpool, pg, many_descriptors, binary):
    """Descriptors, slots and leases are all accounted for when they have left; their memory is printed,
    that of the release build when there is one (sanitizers multiply it)."""
    daemon = carpool(postgres_pool(pg.url(), size={"min": 1, "max": 3}))
    each, seconds = cost_of_idle_clients(daemon)
    print(f"{CLIENTS} idle clients: {each:.0f} bytes each, {seconds * 1e6:.0f} us a login ({binary})")
    release = ROOT / "build" / "release" / "carpool"
    if is_current(release) and release != binary:
        other = Carpool(release, {"workers": 1, "pools": [postgres_pool(pg.url(), size={"min": 1})]})
        try:
            each, seconds = cost_of_idle_clients(other)
            print(f"{CLIENTS} idle clients: {each:.0f} bytes each, {seconds * 1e6:.0f} us a login "
                  f"({release})")
            assert each < 2048
            other.stop()
        finally:
            other.close()
