# SPDX-License-Identifier: MIT
"""Each wait ends at its deadline, with its own word, and leaves nothing behind on the server.

(Dials: test_postgres_outage.py. Logins: test_postgres_wire.py. Peers that take nothing:
test_postgres_stall.py.)
"""

import time

import pytest
from harness import pgwire
from harness.base import SLOW, wait_for
from harness.pgwire import Eof, PgError, query


def farewell(wire):
    """The last message before the end of file, as a PgError."""
    last = None
    try:
        while True:
            last = wire.receive()
    except (Eof, ConnectionError):
        assert last and last[0] == "E", last
        return PgError(last[1])


def first_error_of_many(wire):
    """Short statements, one after the other, until one fails."""
    while True:
        wire.send(query("select pg_sleep(0.02)"))
        kind = None
        while kind != "Z":
            kind, body = wire.receive()
            if kind == "E":
                return PgError(body)


def open_transactions(pg):
    return pg.query("select pid from pg_stat_activity where usename = 'app' and state <> 'idle'")


@pytest.fixture
def short(orders):
    """One server, and transactions that must be done within a second and a half."""
    def make(workers=1, limit="1500ms", **over):
        over = {"timeouts": {"transaction": limit, **over.pop("timeouts", {})}, **over}
        return orders(workers, size={"max": 1, "acquire_timeout": "20s"}, **over)
    return make


# -- timeouts.transaction

def test_long_transaction_of_short_statements(short, pg, table, workers):
    """It is busy all the time, and no statement is long: only its own clock ends it. FATAL 25P04, as
    PostgreSQL's transaction_timeout says it; rolled back, and its server serves others."""
    daemon = short(workers, timeouts={"idle_transaction": "10s", "request": "10s"})
    with daemon.wire() as wire, daemon.wire() as other:
        begun = time.monotonic()
        wire.run("begin")
        wire.run(f"insert into {table} (n) values (1)")
        error = first_error_of_many(wire)
        took = time.monotonic() - begun
        assert (error.code, error.fields["S"]) == ("25P04", "FATAL")
        assert "request_timeout" in error.fields["M"] and "timeouts.transaction" in error.fields["M"]
        assert 1.4 < took < 8 * SLOW, took
        assert other.run(f"select count(*) from {table}")[0] == [["0"]], "rolled back"
    assert daemon.saw("request_timeout")


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_long_transaction_in_a_statement(short, pg, table, mode):
    """What runs is cancelled on the server."""
    daemon = short(mode=mode)
    wire = daemon.wire()
    wire.run("begin")
    wire.run(f"insert into {table} (n) values (1)")
    wire.send(query("select 1, pg_sleep(60)"))
    assert farewell(wire).code == "25P04"
    wait_for(lambda: not open_transactions(pg), 5, "the statement to end on the server")
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]


def test_long_statement_alone_is_a_transaction(short, pg):
    daemon = short()
    wire = daemon.wire()
    wire.send(pgwire.parse("select 2, pg_sleep(60)"), pgwire.bind(), pgwire.execute(), pgwire.SYNC)
    assert farewell(wire).code == "25P04"
    wait_for(lambda: not open_transactions(pg), 5, "the statement to end on the server")


def test_silent_transaction_is_long_too(short, pg, table):
    daemon = short()
    wire = daemon.wire()
    wire.run("begin")
    wire.run(f"insert into {table} (n) values (1)")
    assert farewell(wire).code == "25P04"
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]


def test_long_transaction_in_the_middle_of_a_row(short):
    """Nothing can be said behind half a row: the client is closed, and the log says why."""
    daemon = short(limit="3s", limits={"buffer": "16KiB"})
    wire = daemon.wire()
    wire.send(query("select repeat('x', 50000000)"))
    wire.read(100_000)  # and no more for now
    wait_for(lambda: daemon.errors("request_timeout") == 1, what="the transaction to be ended")
    assert wire.eof()
    with daemon.wire() as other:
        assert other.run("select 1")[0] == [["1"]]


@pytest.mark.parametrize("mode", ["transaction", "session", "statement"])
def test_many_short_transactions(short, mode):
    """Each has its own clock, also those of one pipeline, and of a session that keeps its server."""
    daemon = short(mode=mode, limit="1500ms")
    with daemon.wire() as wire:
        wire.run("select 1")
        begun = time.monotonic()
        one = (pgwire.parse("select pg_sleep(0.3)"), pgwire.bind(), pgwire.execute(), pgwire.SYNC)
        wire.send(*one * 8)
        for _ in range(8):
            assert [k for k, _ in wire.until("Z")] == ["1", "2", "D", "C", "Z"]
        for _ in range(4):
            assert wire.run("select pg_sleep(0.3)")[2] is None
        assert time.monotonic() - begun > 2.5
        assert wire.quiet(1.8), "and no clock runs between them"
        assert wire.run("select 2")[0] == [["2"]]
    assert daemon.all_errors() == {}


# -- the others

def test_idle_in_transaction(orders, pg, table):
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"}, timeouts={"idle_transaction": "1s"})
    wire = daemon.wire()
    wire.run("begin")
    assert wire.run("select pg_sleep(1.3)")[2] is None, "who waits for the server is not idle"
    wire.run(f"insert into {table} (n) values (1)")
    error = farewell(wire)
    assert (error.code, error.fields["S"]) == ("25P03", "FATAL") and "idle_timeout" in error.fields["M"]
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_client_idle(orders, mode):
    daemon = orders(mode=mode, size={"max": 1}, timeouts={"client_idle": "1s"})
    wire = daemon.wire()
    assert wire.run("select pg_sleep(1.3)")[2] is None
    wire.run("begin")
    assert wire.quiet(1.3), "in a transaction it is not between exchanges"
    wire.run("commit")
    error = farewell(wire)
    assert (error.code, error.fields["S"]) == ("57P05", "FATAL")
    assert "client_timeout" in error.fields["M"]
    wait_for(lambda: daemon.leases() == 0, what="its server to be free")


@pytest.mark.parametrize("words", [pgwire.SYNC, pgwire.FLUSH, query("select 1")[:3]],
                         ids=["sync", "flush", "half"])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_words_that_ask_for_nothing_are_idle(orders, mode, words):
    """Also half a message: whoever stops there is as silent as before."""
    daemon = orders(mode=mode, size={"max": 1}, timeouts={"client_idle": "500ms"})
    wire = daemon.wire()
    wire.run("select 1")
    wire.send(words)
    assert farewell(wire).code == "57P05"


@pytest.mark.parametrize("words", [pgwire.FLUSH, query("select 1")[:3]], ids=["flush", "half"])
@pytest.mark.parametrize("limit", ["0", "200ms"])
def test_words_that_ask_for_nothing_are_idle_in_a_transaction(orders, words, limit):
    daemon = orders(size={"max": 1}, timeouts={"idle_transaction": "500ms", "request": limit})
    wire = daemon.wire()
    wire.run("begin")
    wire.send(words)
    assert farewell(wire).code == "25P03"


def test_request_timeout_keeps_server_and_transaction(orders, pg, table):
    """The statement alone is cancelled: the same server goes on, once it has said that it is ready."""
    daemon = orders(size={"max": 1}, timeouts={"request": "1s"})
    with daemon.wire() as wire, daemon.wire() as other:
        pid = wire.run("select pg_backend_pid()")[0]
        wire.run("begin")
        wire.run("savepoint a")
        error, status = wire.run("select 1, pg_sleep(60)")[2:]
        assert (error.code, status) == ("57014", "E") and "request_timeout" in error.fields["M"]
        assert wire.run("rollback to a")[3] == "T"
        assert wire.run(f"insert into {table} (n) values (1)")[2] is None
        assert wire.run("commit")[3] == "I"
        assert other.run("select pg_backend_pid()")[0] == pid
        assert other.run(f"select count(*) from {table}")[0] == [["1"]]


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_request_timeout_of_each_in_a_pipeline(orders, pg, mode):
    """The clock of one is not that of the next, and an answered cancel not awaited again."""
    daemon = orders(mode=mode, size={"max": 1}, timeouts={"request": "1s"}, check={"timeout": "1ms"})
    with daemon.wire() as wire:
        pid = wire.run("select pg_backend_pid()")[0]
        quick, slow = "select pg_sleep(0.6)", "select pg_sleep(60)"
        # PostgreSQL signals the process and then its group: one cancel may be felt twice
        calm = ("do $$ begin perform pg_sleep(0.3); exception when query_canceled then perform pg_sleep(0.3); "
                "end $$")
        wire.send(*map(query, [quick, quick, slow, calm, slow, calm, slow]))
        codes = [error and error.code for _, _, error, _ in (wire.results() for _ in range(7))]
        assert codes == [None, None, "57014", None, "57014", None, "57014"]
        assert wire.run("select pg_backend_pid()")[0] == pid
    assert daemon.all_errors() == {"request_timeout": 3}


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_request_timeout_that_comes_late(orders, pg, gate, mode):
    """The statement was done before its cancel arrived: the next one is not hit, nor blamed later on."""
    relay = gate(pg.host, pg.port)
    daemon = orders(mode=mode, upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1},
                    timeouts={"request": "1s", "idle_transaction": "1s"}, check={"timeout": "20s"})
    with daemon.wire() as wire:
        wire.run("begin")
        relay.park()
        assert wire.run("select pg_sleep(1.5)")[2:] == (None, "T")
        wire.send(query("select pg_sleep(0.3)"))
        assert wire.quiet(1.2), "it waits, and is not idle"
        relay.park(False)
        assert wire.results()[2:] == (None, "T")
        wire.run("set statement_timeout = '50ms'")
        error = wire.run("select pg_sleep(60)")[2]
        assert error.code == "57014" and "request_timeout" not in error.fields["M"]
        wire.run("rollback")
    assert daemon.all_errors() == {}


def test_cancelled_server_is_not_lent_before_it_is_ready(orders, pg):
    """The server answers a cancel late: nobody else gets it meanwhile."""
    # PostgreSQL signals the process and then its group: one cancel may be felt twice
    slow = ("do $$ begin perform pg_sleep(60); exception when query_canceled then "
            "begin perform pg_sleep(2); exception when query_canceled then perform pg_sleep(2); end; end $$")
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"}, timeouts={"request": "300ms"},
                    check={"timeout": "5s"})
    with daemon.wire() as wire, daemon.wire() as other:
        wire.run("select 1")
        wire.send(query(slow))
        wait_for(lambda: pg.active("do %"), what="it to run")
        other.send(query("select 'next'"))
        assert wire.results()[2:] == (None, "I"), "it swallowed the cancel and went well"
        rows, _, error, _ = other.results()
        assert (rows, error) == ([["next"]], None)


# -- a client that leaves in a transaction, and a server that does not answer the ROLLBACK

def test_rollback_that_is_not_answered(orders, pg, gate):
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1},
                    check={"timeout": "400ms"}, timeouts={"close": "400ms", "connect": "1s"})
    wire = daemon.wire()
    wire.run("begin")
    wire.run("select 1")
    relay.pause()
    begun = time.monotonic()
    wire.abort()
    wait_for(lambda: daemon.servers() == 0, 10, "the server to be dropped")
    assert time.monotonic() - begun < 6 * SLOW
    relay.resume()
    with daemon.wire() as other:
        wait_for(lambda: other.run("select 1")[0] == [["1"]], 10, "a new server")


# -- busy and down are told apart

def test_busy_comes_with_figures(orders, workers):
    """53300: how many servers there are, what they do, who else waits, and what to turn."""
    daemon = orders(workers, size={"max": 2, "acquire_timeout": "3s"})
    holders = [daemon.wire(), daemon.wire()]
    for wire in holders:
        wire.run("begin")
    waiters = [daemon.wire() for _ in range(3)]
    for i, wire in enumerate(waiters):
        wire.send(query("select 1"))
        wait_for(lambda i=i: daemon.waiting() == i + 1, what="it to wait")
        if i == 0:  # the others come a second later: they still wait when this one gives up
            holders[0].run("select pg_sleep(1)")
    error = waiters[0].results()[2]
    assert error.code == "53300" and "acquire_timeout" in error.fields["M"]
    said = dict(pair.split("=") for pair in error.fields["D"].split())
    assert said["pool"] == "orders" and said["servers"] == "2/2" and said["busy"] == "2"
    assert said["dialing"] == "0" and said["waiting"] == "3", said
    assert 3000 <= int(said["oldest_wait_ms"]) < 8000 * SLOW, said
    assert "size.max" in error.fields["H"]
    for wire in holders + waiters:
        wire.close()


def test_full_queue_comes_with_figures(orders):
    daemon = orders(size={"max": 1, "waiters": 1, "acquire_timeout": "20s"})
    with daemon.wire() as holder, daemon.wire() as waits, daemon.wire() as late:
        holder.run("begin")
        waits.send(query("select 1"))
        wait_for(lambda: daemon.waiting() == 1, what="it to wait")
        error = late.run("select 1")[2]
        assert error.code == "53300" and "queue_full" in error.fields["M"]
        said = dict(pair.split("=") for pair in error.fields["D"].split())
        assert (said["servers"], said["busy"], said["waiting"]) == ("1/1", "1", "1")
        assert "size.waiters" in error.fields["H"]
        holder.run("commit")
        assert waits.results()[0] == [["1"]]


def test_down_names_the_last_dial_error(orders, pg, gate):
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1},
                    timeouts={"outage_wait": "2s"})
    with daemon.wire() as wire:
        wire.run("select 1")
        relay.refuse()
        relay.cut()
        wait_for(lambda: daemon.servers() == 0, what="the server to be gone")
        error = wire.run("select 1")[2]
        assert error.code == "08001" and "outage" in error.fields["M"]
        assert f"{relay.host}:{relay.port}" in error.fields["M"] and "refused" in error.fields["M"]
        assert "servers=" not in error.fields["D"]
