# SPDX-License-Identifier: MIT
"""PostgreSQL is down, frozen, silent or coming back. Clients stay connected; every wait ends in time."""

import asyncio
import contextlib
import re
import socket
import threading
import time

import psycopg
import pytest
from harness import pgwire
from harness.base import LOOPBACK, SLOW, at_deadline, can_connect, free_port, wait_for
from harness.carpool import postgres_pool
from harness.load import AsyncpgLoad, Load, stayed
from harness.pgwire import query

# What clients may hear while the server is killed and restarted under load.
OUTAGE_STATES = {"08006", "08007", "08001", "25P02", "53300"}
# The same as causes.
OUTAGE_CAUSES = {"upstream_closed", "outcome_unknown", "outage", "dial_failed", "breaker_open",
                 "acquire_timeout", "upstream_busy"}


def test_killed_under_load_and_back(carpool, frail_pg, frail_table, workers):
    frail_pg.set_bound(3)
    url = frail_pg.url("bounded")
    daemon = carpool(postgres_pool(url, size={"max": 3, "acquire_timeout": "30s"},
                                   breaker={"open": "200ms..1s"}), workers=workers)
    loads = [Load(daemon, 10, frail_table, "bounded"), AsyncpgLoad(daemon, 10, frail_table, "bounded")]
    for load in loads:
        load.progress()
    for _ in range(2):
        frail_pg.kill9()
        wait_for(lambda: not can_connect(frail_pg.host, frail_pg.port), what="the port to close")
        mark = frail_pg.mark()
        frail_pg.start()
        for load in loads:
            load.progress()
        assert frail_pg.refusals(mark) == 0
    states = loads[0].stop() | loads[1].stop()
    assert states <= OUTAGE_STATES, states
    assert "08006" in states or "08007" in states
    assert set(daemon.all_errors()) <= OUTAGE_CAUSES, daemon.all_errors()
    stored = frail_pg.value(f"select count(*) from {frail_table}", db="orders")
    assert stored >= sum(sum(load.done) for load in loads), "what was said to be committed is there"
    stayed(daemon, "orders", 20)


def test_polite_restart_under_load(carpool, frail_pg, frail_table):
    """`pg_ctl restart -m fast`: servers hear FATAL 57P01; to clients it is a lost server."""
    daemon = carpool(postgres_pool(frail_pg.url(), size={"max": 3, "acquire_timeout": "30s"},
                                   breaker={"open": "200ms..1s"}))
    load = Load(daemon, 10, frail_table)
    load.progress()
    frail_pg.stop()
    frail_pg.start()
    load.progress()
    assert load.stop() <= OUTAGE_STATES


def test_waiting_through_a_restart(carpool, frail_pg):
    """Down for a moment, `on_down: wait`: who asks meanwhile waits and never knows."""
    daemon = carpool(postgres_pool(frail_pg.url(), breaker={"open": "100ms..500ms"}))
    with daemon.connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
        frail_pg.kill9()
        answer = []
        rider = threading.Thread(target=lambda: answer.append(conn.execute("select 2").fetchone()))
        rider.start()
        wait_for(lambda: daemon.waiting() == 1, what="the client to wait")
        frail_pg.start()
        rider.join(60)
        assert answer == [(2,)]


def test_outage_wait_ends(carpool, frail_pg, workers):
    daemon = carpool(postgres_pool(frail_pg.url(), timeouts={"outage_wait": "700ms"}), workers=workers)
    with daemon.connect() as conn:
        conn.execute("select 1")
        frail_pg.kill9()
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(psycopg.Error) as e:
                conn.execute("select 1")
            took = time.monotonic() - begun
            assert e.value.sqlstate == "08001"
            assert any(c in str(e.value) for c in ("outage", "breaker_open", "dial_failed"))
            assert 0.5 < took < 8 * SLOW, took
        assert daemon.get("/ready").status == 200, "readiness is carpool's own, not the upstream's"
        frail_pg.start()
        wait_for(lambda: conn.execute("select 3").fetchone(), 20, "service", ignore=psycopg.Error)


def test_on_down_fail(carpool, frail_pg):
    """`on_down: fail`: once the door is known to be shut, nobody waits."""
    daemon = carpool(postgres_pool(frail_pg.url(), on_down="fail", breaker={"consecutive": 2}))
    with daemon.connect() as conn:
        conn.execute("select 1")
        frail_pg.kill9()

        def fails_at_once():
            begun = time.monotonic()
            with pytest.raises(psycopg.Error) as e:
                conn.execute("select 1")
            assert e.value.sqlstate in ("08001", "08006")
            return time.monotonic() - begun < 0.1 and "breaker_open" in str(e.value)
        wait_for(fails_at_once, 15, "the breaker to open")
        assert daemon.saw("breaker_open")
        frail_pg.start()
        wait_for(lambda: conn.execute("select 3").fetchone(), 20, "service", ignore=psycopg.Error)


def test_nobody_listens(orders):
    """From the very start: the port is closed, the client is told why, within its time."""
    port = free_port()
    daemon = orders(upstream=f"postgres://app:x@{LOOPBACK}:{port}/orders",
                    timeouts={"outage_wait": "500ms"})
    begun = time.monotonic()
    error = daemon.first_error()
    assert error.code == "08001" and time.monotonic() - begun < 5 * SLOW
    wait_for(lambda: daemon.errors("dial_failed") > 0, what="the failed dials to be counted")
    assert daemon.logged("dial_failed", str(port))


def test_name_that_does_not_resolve(orders):
    daemon = orders(upstream="postgres://app:x@no-such-host.invalid:5432/orders",
                    timeouts={"outage_wait": "500ms"})
    assert daemon.first_error().code == "08001"
    wait_for(lambda: daemon.log_lines("no-such-host.invalid"), what="the log to name the host")


class Down:
    """What can be wrong with an upstream, and what the client is to hear of it."""

    def __init__(self, pg, gate, servers):
        self.pg, self.gate, self.servers = pg, gate, servers

    def nobody_listens(self):
        return f"postgres://app:x@{LOOPBACK}:1/orders", f"{LOOPBACK}:1: cannot connect: Connection refused"

    def several_hosts(self):
        return ([f"postgres://app:x@{LOOPBACK}:{port}/orders" for port in (1, 2, 3)],
                "cannot connect: Connection refused")

    def unknown_name(self):
        return "postgres://app:x@no-such-host.invalid:5432/orders", "no-such-host.invalid:5432: cannot resolve"

    def known_and_unknown_name(self):
        return (["postgres://app:x@no-such-host.invalid:5432/orders", f"postgres://app:x@{LOOPBACK}:1/orders"],
                (f"{LOOPBACK}:1: cannot connect", "no-such-host.invalid:5432: cannot resolve"))

    def cut_in_the_login(self):
        way = self.gate(LOOPBACK, 1)  # takes the connection, and closes it
        return f"postgres://app:x@{LOOPBACK}:{way.port}/orders?sslmode=disable", "closed the connection"

    def cut_in_the_handshake(self):
        way = self.gate(LOOPBACK, 1)
        return f"postgres://app:x@{LOOPBACK}:{way.port}/orders?sslmode=require", f"{LOOPBACK}:{way.port}: "

    def wrong_password(self):
        return self.pg.url(password="wrong"), "password authentication failed"

    def untrusted(self):
        return (self.pg.url(host="localhost", sslmode="verify-full",
                            sslrootcert=str(self.servers.authority.other_ca)), "certificate")


@pytest.fixture
def down(local_pg, gate, servers):
    return Down(local_pg, gate, servers)


@pytest.mark.parametrize("what", ["nobody_listens", "several_hosts", "unknown_name",
                                  "known_and_unknown_name", "cut_in_the_login", "cut_in_the_handshake"])
def test_who_asks_waits_for_its_return(orders, down, what):
    """Longer than for a busy pool, and then hears what was wrong with the last dial."""
    upstream, words = getattr(down, what)()
    daemon = orders(upstream=upstream, size={"acquire_timeout": "300ms"}, breaker={"open": "200ms..500ms"},
                    timeouts={"outage_wait": "1500ms"})
    begun = time.monotonic()
    error = daemon.first_error()
    took = time.monotonic() - begun
    assert error.code == "08001" and "carpool: outage" in error.fields["M"], error
    assert any(w in error.fields["M"] for w in ([words] if isinstance(words, str) else words)), error
    assert 1.4 < took < 8 * SLOW, took
    assert set(daemon.all_errors()) <= {"outage", "dial_failed"}


@pytest.mark.parametrize("what,cause", [("wrong_password", "upstream_auth"), ("untrusted", "tls_failed")])
def test_what_does_not_heal_is_not_waited_for(orders, down, what, cause):
    upstream, words = getattr(down, what)()
    daemon = orders(upstream=upstream, timeouts={"outage_wait": "60s"}, size={"acquire_timeout": "60s"})
    for _ in range(2):
        begun = time.monotonic()
        error = daemon.first_error()
        assert error.code == "08001" and f"carpool: {cause}" in error.fields["M"], error
        assert words in error.fields["M"], error
        assert time.monotonic() - begun < 20 * SLOW


def test_no_right_to_connect(orders, local_pg):
    """Nor is a right that is missing; once it is granted, who asks again is served."""
    local_pg.query("create database closed")
    local_pg.query("revoke connect on database closed from public")
    try:
        daemon = orders(upstream=local_pg.url(db="closed"), timeouts={"outage_wait": "60s"},
                        size={"min": 0, "acquire_timeout": "60s"})
        begun = time.monotonic()
        error = daemon.first_error(database="closed")
        assert error.code == "42501" and "permission denied for database" in error.fields["M"], error
        assert time.monotonic() - begun < 20 * SLOW
        local_pg.query("grant connect on database closed to public")
        wait_for(lambda: daemon.wire(database="closed").close() is None, 20, "a login", ignore=pgwire.PgError)
        daemon.stop()
    finally:
        local_pg.query("drop database closed with (force)")


def test_upstream_that_never_answers(orders, black_hole, workers):
    """It accepts and says nothing. Each wait ends at its deadline, and says what was waited for."""
    url = f"postgres://app:x@{LOOPBACK}:{black_hole.port}/orders"
    daemon = orders(workers, upstream=url, size={"max": 2, "acquire_timeout": "600ms"},
                    timeouts={"connect": "20s"})
    for _ in range(2):
        with at_deadline(0.6):
            error = daemon.first_error()
        said = error.fields["M"]
        assert error.code == "08001" and said.startswith("carpool: dial_failed: ") and "no answer" in said, error
    assert black_hole.peak <= 2, "one dial is one socket, and there are two at most"
    assert daemon.saw("dial_failed")


def test_upstream_whose_network_is_gone(orders):
    """Nothing answers, not even a refusal, as from a host that is off. A listener whose queue is full
    drops what knocks."""
    with socket.create_server((LOOPBACK, 0), backlog=0) as gone, contextlib.ExitStack() as queue:
        host, port = gone.getsockname()
        for _ in range(3):
            knock = queue.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex((host, port))
        daemon = orders(upstream=f"postgres://app:x@{host}:{port}/orders",
                        size={"max": 2, "acquire_timeout": "600ms"})
        error = daemon.first_error()
        assert error.code == "08001" and "dial_failed" in error.fields["M"], error
        assert re.search(rf"dialing {host}:{port} for \d\.\d s", error.fields["M"]), error


def test_connect_timeout(orders, black_hole):
    url = f"postgres://app:x@{LOOPBACK}:{black_hole.port}/orders"
    daemon = orders(upstream=url, size={"max": 2, "acquire_timeout": "20s"},
                    timeouts={"connect": "300ms", "outage_wait": "1s"})
    begun = time.monotonic()
    assert daemon.first_error().code == "08001"
    assert time.monotonic() - begun < 6 * SLOW
    assert daemon.saw("dial_failed")
    assert black_hole.peak <= 2


def test_silent_server_in_use(orders, pg, gate):
    """The path to a live server goes dark in the middle of a query; `request` bounds it."""
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1},
                    timeouts={"request": "500ms", "connect": "1s", "close": "500ms"})
    with daemon.wire() as wire:
        assert wire.run("select 1")[0] == [["1"]]
        relay.pause()
        begun = time.monotonic()
        error, status = wire.run("select 2")[2:]
        assert (error.code, status) == ("57014", "I")
        assert time.monotonic() - begun < 5 * SLOW
        assert daemon.saw("request_timeout")
        relay.resume()
        wait_for(lambda: wire.run("select 3")[0] == [["3"]], 20, "service")


def test_frozen_server_does_not_take_idle_connections_along(carpool, frail_pg):
    """All of PostgreSQL stops for a while; checks find out, and afterwards everything goes on."""
    daemon = carpool(postgres_pool(frail_pg.url(), size={"max": 2, "acquire_timeout": "1s"},
                                   timeouts={"request": "700ms", "connect": "700ms", "close": "500ms",
                                             "outage_wait": "1s"}, breaker={"open": "100ms..500ms"}))
    with daemon.wire() as wire:
        wire.run("select 1")
        frail_pg.freeze()
        begun = time.monotonic()
        assert wire.run("select 2")[2].code in ("57014", "08001", "53300")
        assert time.monotonic() - begun < 6 * SLOW
        frail_pg.thaw()
        wait_for(lambda: wire.run("select 3")[0] == [["3"]], 20, "service")


def test_dials_back_off(orders, gate, pg):
    """Ten waiting clients and a closed door make a few polite tries, not a storm."""
    relay = gate(pg.host, pg.port)
    relay.hang()
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 10},
                    timeouts={"connect": "100ms", "outage_wait": "2s"})

    async def main():
        async def rider():
            with pytest.raises(psycopg.Error):
                conn = await daemon.connect_async()
                await conn.execute("select 1")
        await asyncio.gather(*(rider() for _ in range(10)))
    asyncio.run(main())
    assert relay.peak <= 4, "at most four dials in flight"
    assert relay.accepted <= 40, relay.accepted


def test_server_that_starts_up(carpool, frail_pg):
    """57P03 `the database system is starting up` is an outage that ends, not an answer for clients."""
    daemon = carpool(postgres_pool(frail_pg.url(), breaker={"open": "100ms..500ms"}))
    with daemon.connect() as conn:
        conn.execute("select 1")
        frail_pg.stop("immediate")  # next start has to recover
        answer = []
        rider = threading.Thread(target=lambda: answer.append(conn.execute("select 2").fetchone()))
        rider.start()
        frail_pg.start()
        rider.join(60)
        assert answer == [(2,)]


def test_idle_check_finds_a_dead_path(orders, gate, pg):
    """`check.idle`: a server behind a dark path is found and replaced without any client."""
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"min": 1, "max": 2},
                    check={"idle": "1s", "timeout": "300ms"}, timeouts={"close": "300ms"})
    first = relay.accepted
    relay.pause()
    wait_for(lambda: relay.accepted > first, 20, "a new dial")
    relay.resume()
    with daemon.wire() as wire:
        wire.send(query("select 1"))
        assert wire.results()[0] == [["1"]]
