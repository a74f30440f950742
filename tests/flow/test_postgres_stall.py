# SPDX-License-Identifier: MIT
"""Peers that stop: clients that do not read, servers that freeze at any point. Each wait ends at its
deadline, with its cause, and costs nobody else anything."""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest
from harness import pgwire
from harness.base import LOOPBACK, SLOW, wait_for
from harness.pgwire import query
from harness.relays import TO_CLIENT, Half

MIB = 1 << 20
BIG = "select repeat('x', 1000) from generate_series(1, 200000)"


# -- clients that stop reading

def test_stalled_clients_are_closed_and_harm_nobody(orders, pg, workers):
    """Four clients ask for 200 MB each and read nothing. Meanwhile others are served at once and memory
    stays where it was; after `write_stall` the four are closed and their servers serve again."""
    # Without TLS: sanitizers keep what OpenSSL frees for a while, and that would be measured.
    daemon = orders(workers, upstream=pg.url(sslmode="disable"), timeouts={"write_stall": "3s"},
                    size={"max": 5, "acquire_timeout": "20s"})
    with daemon.wire() as other:
        other.run("select 1")
        before = daemon.rss()
        stalled = [daemon.wire() for _ in range(4)]
        begun = time.monotonic()
        for wire in stalled:
            wire.send(query(BIG))
        wait_for(lambda: len(pg.query("select 1 from pg_stat_activity where usename = 'app'"
                                      " and wait_event = 'ClientWrite'")) == 4, what="four held servers")
        slowest, peak = 0.0, 0
        # The log is asked, not the admin API, for the same reason.
        while len(daemon.log_lines("cause=write_stall")) < 4:
            asked = time.monotonic()
            assert other.run("select 1")[0] == [["1"]]
            slowest, peak = max(slowest, time.monotonic() - asked), max(peak, daemon.rss())
            assert asked - begun < 15 * SLOW, "the stalled clients were not closed"
        assert time.monotonic() - begun >= 2.9
        assert slowest < 2, slowest
        assert peak - before < 48 * MIB, "of 800 MB"
    assert daemon.saw("write_stall")
    wait_for(lambda: daemon.servers(state="busy") == 0, what="the leases to end")
    wait_for(lambda: pg.active("select repeat%") == [], what="the queries to be cancelled")
    wait_for(lambda: daemon.metric("carpool_clients", pool="orders") == 0, what="the four to be gone")
    for wire in stalled:
        wire.abort()


def test_slow_reader_is_not_a_stalled_one(orders):
    """Who takes bytes, however slowly, is served to the end: write_stall is for those who take none."""
    daemon = orders(timeouts={"write_stall": "1500ms"})
    wire = daemon.wire(login=False)
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    wire.login()
    wire.send(query("select repeat('x', 1000) from generate_series(1, 10000)"))
    end, taken = time.monotonic() + 3.5, 0
    while time.monotonic() < end:
        wire.buffer += wire.sock.recv(16384)  # some 300 KB a second
        taken += 1
        time.sleep(0.05)
    rows = [kind for kind, _ in wire.until("Z") if kind == "D"]
    assert taken >= 10 and len(rows) == 10000
    assert daemon.all_errors() == {}
    wire.close()


def ended(daemon):
    """Six clients asked for BIG. One whose server was too slow to fill all buffers on the way took what it
    was sent: it is told of the deadline and stays. The others are closed."""
    errors = daemon.all_errors()
    return (sum(errors.values()) >= 6 and daemon.servers(state="busy") == 0 and
            daemon.metric("carpool_clients", pool="orders") == 1 + 6 - errors.get("write_stall", 0))


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_stalled_client_that_has_all_its_answers(orders, mode):
    """No server waits for it, but what it does not take is kept for it: not for ever."""
    daemon = orders(mode=mode, size={"max": 1}, timeouts={"write_stall": "1s"}, limits={"buffer": "64KiB"})
    wire = daemon.wire(login=False)
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.login()

    def answered():
        return daemon.metric("carpool_bytes_total", direction="from_servers")
    for _ in range(300):  # the kernel's buffers are full at some time, and then carpool's
        before = answered()
        with contextlib.suppress(OSError):
            wire.send(query("select repeat('x', 60000)"))
        wait_for(lambda: answered() > before + 60000 or daemon.all_errors(), what="the answer, or the end")
        if daemon.all_errors():
            break
        if wire.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            break
    assert daemon.saw("write_stall")
    wire.abort()


def test_stalled_clients_with_a_request_deadline(orders):
    """Both clocks run: whichever rings first, the clients do not keep the servers, nor stay themselves; and
    since it is none of the server's fault, the breaker does not hear of it."""
    daemon = orders(size={"max": 6, "acquire_timeout": "20s"}, breaker={"consecutive": 5},
                    timeouts={"request": "500ms", "write_stall": "1s", "close": "500ms"})
    stalled = [daemon.wire() for _ in range(6)]
    for wire in stalled:
        wire.send(query(BIG))
    with daemon.wire() as other:
        assert other.run("select 1")[0] == [["1"]]
        wait_for(lambda: ended(daemon), 10, "each request to end, and the stalled clients to be closed")
        for _ in range(10):
            assert other.run("select 1")[0] == [["1"]]
    assert set(daemon.all_errors()) <= {"write_stall", "request_timeout"}
    assert daemon.metric("carpool_breaker_state", breaker="service", state="closed") == 1
    for wire in stalled:
        wire.abort()


@pytest.mark.parametrize("lost", [False, True], ids=["stalls", "and its server is lost"])
def test_stalled_client_of_a_server_that_was_late(orders, pg, gate, lost):
    """The deadline has passed, the cancel is under way, and then the answer comes: the client takes none of
    it. That is no fault of the server's, and the client is not kept."""
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port, sslmode="disable"),
                    size={"max": 1}, breaker={"consecutive": 1},
                    timeouts={"request": "500ms", "write_stall": "2s", "close": "500ms"})
    stalled = daemon.wire()
    relay.hang()  # the cancel gets nowhere
    relay.pause(TO_CLIENT)
    stalled.send(query(BIG))
    wait_for(lambda: relay.accepted == 2, what="the cancel")
    relay.resume()

    def stands_still():
        taken = daemon.metric("carpool_bytes_total", direction="from_servers")
        time.sleep(0.4)
        return taken > MIB and daemon.metric("carpool_bytes_total", direction="from_servers") == taken
    wait_for(stands_still, what="the server to be held back")
    if lost:
        relay.cut()
    wait_for(lambda: daemon.metric("carpool_clients", pool="orders") == 0, what="the client to be closed")
    assert "write_stall" in daemon.all_errors()
    assert "request_timeout" not in daemon.all_errors()
    assert daemon.metric("carpool_breaker_state", breaker="service", state="closed") == 1
    stalled.abort()


def test_stalled_client_over_tls(orders, servers):
    ca = servers.authority
    daemon = orders(tls={"cert": str(ca.cert), "key": str(ca.key)}, timeouts={"write_stall": "700ms"},
                    size={"max": 1, "acquire_timeout": "20s"})
    stalled = daemon.connect(sslmode="require")
    stalled.pgconn.nonblocking = 1
    stalled.pgconn.send_query(BIG.encode())
    stalled.pgconn.flush()
    with daemon.connect(sslmode="require") as other:
        assert other.execute("select 1").fetchone() == (1,)
    assert daemon.saw("write_stall")
    os.close(os.dup(stalled.fileno()))
    stalled.close()


# -- servers that freeze

@pytest.fixture
def frozen():
    """frozen(pid): SIGSTOP one server process; all are woken afterwards."""
    pids = []

    def freeze(pid):
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)
    yield freeze
    for pid in pids:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def backend(wire):
    return int(wire.run("select pg_backend_pid()")[0][0][0])


QUICK = {"timeouts": {"request": "400ms", "close": "300ms"}, "check": {"timeout": "300ms"}}


def freezable(orders, local_pg, workers=1, **over):
    return orders(workers, upstream=local_pg.url(), **{"size": {"max": 2}, **QUICK, **over})


def test_server_frozen_in_a_query(orders, local_pg, frozen, workers):
    """SIGSTOP: it answers neither the query nor the cancel. The client hears 57014 request_timeout and
    stays; the server is dropped, and its slot is freed after `close` and counted as abandoned."""
    daemon = freezable(orders, local_pg, workers)
    with daemon.wire() as wire:
        pid = backend(wire)
        wire.send(query("select pg_sleep(30)"))
        wait_for(lambda: local_pg.active("select pg_sleep%"), what="the query to run")
        frozen(pid)
        begun = time.monotonic()
        rows, _, error, status = wire.results()
        took = time.monotonic() - begun
        assert (rows, error.code, status) == ([], "57014", "I")
        assert "request_timeout" in error.fields["M"]
        # the request, then the cancel's own time: check.timeout and a second
        assert took < 5 * SLOW, took
        assert daemon.saw("request_timeout")
        wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", phase="return", outcome="drop_timeout") == 1,
                 what="the verdict to be counted")
        assert backend(wire) != pid, "served by another server"
    wait_for(lambda: daemon.metric("carpool_abandoned_total") == 1, what="the slot to be freed")
    wait_for(lambda: daemon.all_errors() == {"request_timeout": 1}, what="the one cause")


def test_server_frozen_in_a_transaction(orders, local_pg, table, frozen):
    """The transaction is lost with its server: 57014, and only ROLLBACK helps."""
    daemon = freezable(orders, local_pg)
    with daemon.wire() as wire:
        wire.run("begin")
        frozen(backend(wire))
        error, status = wire.run("select 1")[2:]
        assert (error.code, status) == ("57014", "E")
        assert wire.run("select 1")[2].code == "25P02"
        assert wire.run("rollback")[1::2] == (["ROLLBACK"], "I")
        assert wire.run("select 2")[0] == [["2"]]


def test_server_frozen_at_commit(orders, local_pg, frozen):
    """Whether it was committed nobody knows: 08007, never 57014 (which says it was not done)."""
    daemon = freezable(orders, local_pg)
    with daemon.wire() as wire:
        wire.run("begin")
        wire.run("create temp table t (n int) on commit drop")
        frozen(backend(wire))
        error, status = wire.run("commit")[2:]
        assert (error.code, status) == ("08007", "I")
        assert daemon.saw("outcome_unknown")
        assert wire.run("select 2")[0] == [["2"]]


def test_check_that_is_not_answered(orders, pg):
    """`on_return` asks for something that takes too long: the server goes, and no client hears of it."""
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"},
                    check={"on_return": "select pg_sleep(30)", "timeout": "300ms"})
    with daemon.wire() as wire:
        first = backend(wire)
        begun = time.monotonic()
        assert backend(wire) != first
        assert 0.2 < time.monotonic() - begun < 4 * SLOW
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", phase="return",
                                   outcome="drop_timeout") == 2, what="both checks to fail")
    wait_for(lambda: pg.active("select pg_sleep%") == [], what="the checks to be cancelled")
    assert daemon.all_errors() == {} and daemon.metric("carpool_abandoned_total") == 0


def test_server_frozen_while_idle(orders, local_pg, frozen):
    """The ping finds it: when a client comes there is a sound server."""
    daemon = freezable(orders, local_pg, size={"min": 1, "max": 2},
                       check={"idle": "200ms", "timeout": "200ms"})
    with daemon.wire() as wire:
        frozen(backend(wire))
        wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", phase="idle",
                                       outcome="drop_timeout") == 1, what="the ping to fail")
        assert wire.run("select 1")[0] == [["1"]]
    assert daemon.all_errors() == {}


def test_server_that_takes_nothing(orders, pg, gate, table):
    """A client sends a large COPY, the server's end takes none of it: over after write_stall, although
    there is no request deadline."""
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1},
                    timeouts={"write_stall": "700ms", "close": "300ms"})
    with daemon.wire(timeout=60) as wire:
        wire.send(query(f"copy {table} (note) from stdin"))
        assert wire.receive()[0] == "G"
        relay.pause()
        chunk = pgwire.message("d", (b"x" * 1023 + b"\n") * 64)
        sender = threading.Thread(target=wire.send, args=(chunk,) * 400)
        sender.start()
        kind, body = wire.receive()
        assert (kind, pgwire.fields(body)["C"]) == ("E", "57P05") and wire.receive() == ("Z", b"I")
        assert daemon.saw("write_stall")
        relay.resume()
        sender.join(60)  # nobody waits for what it still has to say
        wire.send(pgwire.message("c"))
        assert wire.run("select 1")[0] == [["1"]]


# -- servers that freeze while carpool logs in

SASL = pgwire.message("R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")
SILENCES = {"at once": (), "after SSLRequest": (b"N",), "after the first byte": (b"N", SASL[:1]),
            "in the login": (b"N", SASL), "in half a message": (b"N", SASL[:12]),
            "after login": (b"N", pgwire.message("R", b"\0\0\0\0"))}


@pytest.mark.parametrize("when", SILENCES)
def test_silence_while_logging_in(orders, when):
    half = Half(*SILENCES[when])
    try:
        daemon = orders(upstream=f"postgres://app:x@{LOOPBACK}:{half.port}/orders",
                        size={"max": 2, "acquire_timeout": "20s"},
                        timeouts={"connect": "250ms", "outage_wait": "600ms"})
        begun = time.monotonic()
        error = daemon.first_error()
        took = time.monotonic() - begun
        assert error.code == "08001" and "outage" in error.fields["M"], error
        assert 0.5 < took < 4 * SLOW, took
        assert half.accepted >= 1
        assert daemon.saw("dial_failed")
        wait_for(lambda: daemon.metric("carpool_dial_failures_total", cause="dial_failed") >= 1,
                 what="the dial to be counted")
    finally:
        half.close()


@pytest.mark.parametrize("when", ["at once", "in the login"])
@pytest.mark.parametrize("ssl", [b"N", b"S"], ids=["plain", "tls"])
def test_hanging_up_while_logging_in(orders, when, ssl):
    """An upstream that goes down in the middle of a login or of a TLS handshake is down, and waited for:
    only a certificate that is wrong does not heal by waiting."""
    half = Half(*({"at once": (), "in the login": (ssl,)}[when]), leaves=True)
    try:
        daemon = orders(upstream=f"postgres://app:x@{LOOPBACK}:{half.port}/orders",
                        size={"max": 1, "acquire_timeout": "600ms"}, timeouts={"outage_wait": "2s"})
        begun = time.monotonic()
        error = daemon.first_error()
        assert error.code == "08001" and "outage" in error.fields["M"], error
        assert time.monotonic() - begun > 1.8
        wait_for(lambda: set(daemon.all_errors()) == {"dial_failed", "outage"}, what="both causes")
    finally:
        half.close()


ANSWER = (pgwire.message("T", b"\0\1n\0" + b"\0" * 6 + b"\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0") +
          pgwire.message("D", b"\0\1\0\0\0\x017") + pgwire.message("C", b"SELECT 1\0") +
          pgwire.message("Z", b"I"))


def test_server_that_freezes_behind_its_answer(orders):
    """With `on_return: verified` nobody but carpool ever waits for such a server."""
    half = Half(b"N", pgwire.WELCOME, ANSWER)
    try:
        daemon = orders(upstream=f"postgres://app:x@{LOOPBACK}:{half.port}/orders",
                        size={"min": 1, "max": 1, "acquire_timeout": "20s"},
                        check={"on_return": "verified", "timeout": "200ms"},
                        timeouts={"close": "100ms"})
        with daemon.wire() as wire:
            for _ in range(3):
                assert wire.run("select 7")[0] == [["7"]]
        assert half.accepted >= 3
        wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", phase="return",
                                       outcome="drop_timeout") >= 2, what="two verdicts")
        assert daemon.all_errors() == {}
    finally:
        half.close()
