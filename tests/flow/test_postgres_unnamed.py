# SPDX-License-Identifier: MIT
"""The unnamed prepared statement in transaction mode: each client has its own, whichever server it is on."""

from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.pgwire import SYNC, bind, close, describe, execute, parse, query
from harness.prepared import answers, rows
from harness.relays import TO_CLIENT

LONG = "select 'long" + "g" * 100_000 + "'"  # longer than what is kept of a statement


def pinned(daemon):
    return [c["pinned"] for c in daemon.json("/clients?pool=orders")["clients"]]


def test_the_unnamed_statement_is_the_clients_where_nothing_is_shared(shared):
    """It keeps no server, and is found on the next one; nobody finds another client's there."""
    daemon = shared(size={"statements": 0})
    a, b, c = daemon.wire(), daemon.wire(), daemon.wire()
    for _ in range(2):
        for wire, text in (a, "mine"), (b, "of another"):
            wire.send(parse(f"select '{text}'"), SYNC)
            assert answers(wire) == "1 Z"
        c.send(bind(), execute(), SYNC)
        assert answers(c) == "E26000 Z"
        for wire, text in (a, "mine"), (b, "of another"):
            wire.send(describe("S"), SYNC, bind(), execute(), SYNC)
            assert answers(wire) == "t T Z"
            assert rows(wire) == [[text]]
        a.send(close("S", ""), SYNC, bind(), SYNC)
        assert [answers(a) for _ in range(2)] == ["3 Z", "E26000 Z"]
    daemon.stop()


def test_one_too_long_to_be_kept_keeps_its_server(shared):
    """From the exchange that only prepares it to the next one that is unnamed, or simple query."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    for before in [], [parse("select 1"), close("S", "nosuch")]:
        a.send(*before, parse(LONG), SYNC)
        assert answers(a).endswith("1 Z")
        for _ in range(2):
            a.send(describe("S"), SYNC, bind(), execute(), SYNC)
            assert [answers(a), answers(a)] == ["t T Z", "2 D C Z"]
        assert sorted(pinned(daemon), key=bool) == [None, "a prepared statement that is not shared"]
        b.send(query("select 2"))
        a.send(query("select 1"))
        assert [rows(a), rows(b)] == [[["1"]], [["2"]]]
        assert pinned(daemon) == [None, None]
    daemon.stop()


def test_one_too_long_to_be_kept_that_is_used_at_once_keeps_no_server(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    for before in [], [close("S", "nosuch")]:
        a.send(*before, parse(LONG), describe("S"), bind(), execute(), SYNC)
        assert answers(a).endswith("1 t T 2 D C Z")
        assert pinned(daemon) == [None, None]
        b.send(query("select 2"))
        assert rows(b) == [["2"]]
    daemon.stop()


def test_the_unnamed_statement_is_another_one_when_it_is_discarded(carpool, pg, gate):
    """It is heard of when the next one, too long to be kept, is on the server."""
    relay = gate(pg.host, pg.port)
    daemon = carpool(postgres_pool(pg.url(host=relay.host, port=relay.port), size={"max": 1}))
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 'mine'"), SYNC)
    assert answers(a) == "1 Z"
    b.send(query("select 1"))
    assert answers(b) == "T D C Z"
    relay.pause(TO_CLIENT)
    a.send(describe("P", "nosuch"), bind(), SYNC, parse("select 'long" + "g" * 100_000 + "'"), SYNC)
    wait_for(lambda: pg.value("select count(*) from pg_stat_activity where query like 'select ''longg%'"
                              " and state = 'idle'"), what="the long one to be prepared")
    relay.resume()
    assert [answers(a) for _ in range(2)] == ["E34000 Z", "1 Z"]
    a.send(bind(), execute(), SYNC)
    assert answers(a) == "2 D C Z"
    daemon.stop()
