# SPDX-License-Identifier: MIT
"""A database that takes connections and breaks the protocol: the service breaker opens, and clients hear
`breaker_open` at once, in a word that log, metric and admin use too, until trials have gone well.

(What an operator opens by hand is in test_postgres_servers.py, what nobody can dial in
test_postgres_outage.py.)
"""

import contextlib
import time

import pytest
from harness import pgwire
from harness.base import LOOPBACK, SLOW, wait_for
from harness.pgwire import SYNC, Wire, bind, execute, message, parse
from harness.quack import SIMPLE, Quack

NONSENSE = {
    "a type that does not exist": message("~", b"what?"),
    "a length that cannot be": b"T\0\0\0\1",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an answer too many": SIMPLE + SIMPLE,
}


@pytest.fixture
def quack():
    made = Quack()
    yield made
    made.close()


def extended(wire):
    """Like run(), over the extended protocol, as a pipeline of two."""
    wire.send(parse("select 1"), bind(), execute(), parse("select 2"), bind(), execute(), SYNC)
    return wire.results()


def service(daemon, state):
    return daemon.metric("carpool_breaker_state", pool="orders", breaker="service", state=state) == 1


@pytest.mark.parametrize("what", NONSENSE)
def test_broken_protocol_opens_the_breaker(orders, quack, what, workers):
    """Three violations in a row; from then on nobody waits, and the database is left in peace."""
    daemon = orders(workers, upstream=quack.url(), breaker={"consecutive": 3, "open": "1m..1m"})
    with daemon.wire() as one, daemon.wire() as two, daemon.wire() as three:
        assert one.run("select 1")[0] == [["1"]]
        quack.answer = NONSENSE[what]
        for wire in (one, two, three):
            assert service(daemon, "closed")
            with contextlib.suppress(pgwire.Eof):
                wire.run("select 1")  # what it hears depends on what was said before; see the causes
            wait_for(lambda: quack.asked and daemon.servers(state="busy") == 0, what="the server to be dropped")
        wait_for(lambda: service(daemon, "open"), what="the breaker to open")
        quack.answer = SIMPLE
        accepted, asked = quack.accepted, quack.asked
        with Wire(LOOPBACK, daemon.port()) as wire:
            for ask in (lambda: wire.run("select 1"), lambda: extended(wire), lambda: wire.run("begin")):
                begun = time.monotonic()
                rows, tags, error, status = ask()
                assert (rows, tags, error.code, status) == ([], [], "08001", "I")
                assert error.fields["M"].startswith("carpool: breaker_open: ")
                assert error.fields["S"] == "ERROR" and "pool=orders" in error.fields["D"]
                assert time.monotonic() - begun < 5 * SLOW
        assert (quack.accepted, quack.asked) == (accepted, asked)
    for cause in ("breaker_open", "upstream_protocol"):
        wait_for(lambda c=cause: daemon.errors(c) == 3, what=f"{cause} to be counted")
        assert daemon.saw(cause)
    pool = daemon.stats()["pools"][0]
    assert pool["breaker"] == {"door": "closed", "service": "open"}
    assert pool["state"] == "tripped" and "trial" in pool["hint"]
    status = daemon.cli("status", check=False)
    assert "tripped" in status.stdout and "until a trial" in status.stdout


def test_it_closes_when_trials_go_well(orders, quack):
    """While it tries, one request at a time reaches the database; three good ones in a row close it."""
    daemon = orders(upstream=quack.url(), breaker={"consecutive": 2, "open": "300ms..1s"})
    with daemon.wire() as wire:
        quack.answer = NONSENSE["a type that does not exist"]
        for _ in range(2):
            assert wire.run("select 1")[2].code == "08P01"
        assert "breaker_open" in str(wire.run("select 1")[2])
        quack.answer = SIMPLE
        wait_for(lambda: wire.run("select 1")[0] == [["1"]], 10, "a trial that goes well")
        wait_for(lambda: wire.run("select 1")[0] == [["1"]] and service(daemon, "closed"), 10,
                 "the breaker to close")
        for _ in range(20):
            assert wire.run("select 1")[0] == [["1"]]
    assert set(daemon.all_errors()) == {"upstream_protocol", "breaker_open"}


def test_errors_of_sql_do_not_open_it(orders, pg):
    """Neither do deadlines the server obeys, nor servers that were ended: it answers, and as it should."""
    daemon = orders(breaker={"consecutive": 2}, timeouts={"request": "300ms"})
    with daemon.wire() as wire:
        for _ in range(4):
            assert wire.run("select 1/0")[2].code == "22012"
            assert wire.run("no sql")[2].code == "42601"
            assert wire.run("select pg_sleep(20)")[2].code == "57014"
            assert wire.run("select pg_terminate_backend(pg_backend_pid())")[2].code == "08006"
        assert wire.run("select 1")[0] == [["1"]]
    assert service(daemon, "closed")
