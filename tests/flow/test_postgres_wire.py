# SPDX-License-Identifier: MIT
"""Postgres at the level of bytes: slow peers, garbage, order, and when a server may change hands."""

import random
import socket
import struct

import pytest
from harness import pgwire
from harness.base import wait_for
from harness.pgwire import PgError, query
from harness.postgres import PASSWORD

MIB = 1 << 20


def kinds(messages):
    return "".join(k for k, _ in messages)


# -- slow peers

def test_client_that_sends_byte_by_byte(orders, table, workers):
    daemon = orders(workers)
    with daemon.wire(trickle=True) as wire:
        assert wire.run("select 'slowly'")[0] == [["slowly"]]
        wire.send(pgwire.parse("select $1::int + 1"), pgwire.bind(values=["41"]), pgwire.describe(),
                  pgwire.execute(), pgwire.SYNC)
        assert [pgwire.row(b) for k, b in wire.until("Z") if k == "D"] == [["42"]]
        wire.send(query(f"copy {table} (n) from stdin"))
        assert wire.receive()[0] == "G"
        wire.send(*(pgwire.message("d", b"%d\n" % i) for i in range(20)), pgwire.message("c"))
        assert wire.results()[1] == ["COPY 20"]


def test_server_that_answers_byte_by_byte(orders, pg, gate, workers):
    relay = gate(pg.host, pg.port)
    relay.trickle()
    daemon = orders(workers, upstream=pg.url(host=relay.host, port=relay.port, sslmode="disable"))
    with daemon.wire() as wire:
        assert wire.run("select repeat('x', 3000), 7")[0] == [["x" * 3000, "7"]]
        wire.send(pgwire.parse("select n from generate_series(1, 20) n"), pgwire.bind(),
                  pgwire.execute(), pgwire.SYNC)
        assert len([1 for k, _ in wire.until("Z") if k == "D"]) == 20
        assert wire.run("select 1/0")[2].code == "22012"


def test_client_that_stops_reading(orders, pg):
    """200 MiB wait for a client that does not read: nobody's memory holds them, others are served,
    and when it goes on it gets every byte."""
    daemon = orders(size={"max": 2})
    with daemon.wire() as other:
        other.run("select 1")
        wire = daemon.wire(timeout=30)
        before = daemon.rss()
        wire.send(query("select repeat(chr(97 + n % 26), 1048576) from generate_series(0, 199) n"))
        wait_for(lambda: pg.query("select 1 from pg_stat_activity where wait_event = 'ClientWrite'"
                                  " and usename = 'app'"), 20, "the server to be held back")
        for _ in range(20):
            assert other.run("select 1")[0] == [["1"]]
        assert daemon.rss() - before < 24 * MIB
        rows = [body for kind, body in wire.until("Z") if kind == "D"]
        assert len(rows) == 200
        assert all(body[6:] == bytes([97 + n % 26]) * MIB for n, body in enumerate(rows))
        wire.close()


def test_stalled_client_loses_its_server(orders, pg):
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"}, timeouts={"write_stall": "700ms"})
    stalled = daemon.wire()
    stalled.send(query("select repeat('x', 1000) from generate_series(1, 200000)"))
    with daemon.wire() as other:
        assert other.run("select 1")[0] == [["1"]]
    assert daemon.saw("write_stall")
    stalled.abort()


def test_server_that_stops_reading(orders, pg, gate, table):
    """A COPY into a path that takes nothing: the client is held back, memory is not filled."""
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1})
    with daemon.wire(timeout=2) as wire:
        wire.send(query(f"copy {table} (note) from stdin"))
        assert wire.receive()[0] == "G"
        before = daemon.rss()
        relay.pause()
        chunk = pgwire.message("d", (b"x" * 1023 + b"\n") * 64)
        sent = 0
        with pytest.raises(TimeoutError):
            for _ in range(3000):
                wire.sock.send(chunk)  # may be partial: this connection is not used any more
                sent += len(chunk)
        assert sent < 100 * MIB and daemon.rss() - before < 24 * MIB
        relay.resume()
        wire.abort()


# -- garbage

# What is sent, and what is said to it: None to who is no client of PostgreSQL at all.
GARBAGE = {
    "nothing": (b"", None), "one byte": (b"\0", None), "half a length": (b"\0\0\0", None),
    "length zero": (b"\0\0\0\0", None), "length seven": (b"\0\0\0\x07" + b"abc", None),
    "length negative": (b"\xff\xff\xff\xff" + b"x" * 64, None),
    "length huge": (b"\x7f\xff\xff\xff" + b"x" * 64, None),
    "ten thousand and one": (struct.pack("!II", 10001, pgwire.VERSION_3_0) + b"x" * 9993, None),
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None), "redis": (b"*1\r\n$4\r\nPING\r\n", None),
    "short cancel": (pgwire.untyped(pgwire.CANCEL, b"\0\0"), None),
    "version 2": (pgwire.untyped(2 << 16, b"user\0app\0\0"), ("0A000", "only version 3")),
    "version 4": (pgwire.untyped(4 << 16), ("0A000", "only version 3")),
    "no user": (pgwire.untyped(pgwire.VERSION_3_0, b"database\0orders\0\0"), ("28000", "no user name")),
    "no end": (pgwire.untyped(pgwire.VERSION_3_0, b"user\0app\0"), ("08P01", "packet layout")),
    "odd": (pgwire.untyped(pgwire.VERSION_3_0, b"user\0app\0database\0"), ("08P01", "packet layout")),
}


def hears(wire, code, sentence):
    """The last word to it is FATAL with this code, and says what is wrong; then it is closed."""
    error = wire.farewell()
    assert error and (error.fields["S"], error.code) == ("FATAL", code), error
    assert error.fields["M"].startswith("carpool: ") and sentence in error.fields["M"], error
    return True


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_at_the_door(orders, what):
    daemon = orders(timeouts={"client_login": "1s"})
    wire = daemon.wire(login=False)
    sent, answer = GARBAGE[what]
    wire.send(sent)
    if what in ("nothing", "one byte", "half a length"):
        wire.sock.shutdown(socket.SHUT_WR)
    assert hears(wire, *answer) if answer else wire.farewell() is None
    with daemon.wire() as good:
        assert good.run("select 1")[0] == [["1"]]


def test_silence_at_the_door_ends(orders):
    daemon = orders(timeouts={"client_login": "500ms"})
    silent, half = daemon.wire(login=False), daemon.wire(login=False)
    half.send(pgwire.startup()[:-3])
    assert silent.eof() and half.eof()
    assert daemon.saw("client_timeout")


def test_random_garbage_at_the_door(orders):
    daemon = orders(timeouts={"client_login": "1s"})
    dice = random.Random(11)
    for _ in range(60):
        wire = daemon.wire(login=False)
        try:
            wire.send(dice.randbytes(dice.randint(1, 3000)))
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.eof()
        except ConnectionError:
            pass
    assert daemon.connect().execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("message,code,sentence", [
    (b"?\0\0\0\x04", "08P01", "unknown message"), (b"Q\0\0\0\x03", "08P01", "impossible length"),
    (b"Q\0\0\0\0", "08P01", "impossible length"), (b"Q\x80\0\0\0", "54000", "message too large"),
    (b"Q\x7f\xff\xff\xff" + b"x" * 100, "54000", "message too large"),
    (b"S\0\x10\0\0" + b"x" * 100, "54000", "message too large"), (b"\0" * 64, "08P01", "unknown message"),
    (b"p\0\0\0\x04", "08P01", "unknown message"), (b"R\0\0\0\x08\0\0\0\0", "08P01", "unknown message")],
    ids=lambda value: repr(value)[:20])
def test_garbage_in_a_session(orders, pg, table, message, code, sentence):
    """The session ends, with a reason; its open transaction is gone, the server serves the next client."""
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    wire = daemon.wire()
    wire.run("begin")
    wire.run(f"insert into {table} (n) values (1)")
    wire.send(message)
    assert hears(wire, code, sentence)
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]
    wait_for(lambda: pg.query("select 1 from pg_stat_activity where usename = 'app'"
                              " and state like 'idle in%%'") == [], what="the transaction to end")


# Of a type and a length that can be; what is wrong inside is the server's to say.
MALFORMED = [
    b"Q", b"Qabcde", b"Sxxxx", b"P", b"Pa\0", b"P\0a\0x", b"Pa\0b\0\xff\xff", b"B", b"B\0",
    b"B\0\0\0\1", b"Ba\0\0\0\1", b"B\0known\0\0\1", b"E", b"E\0\0", b"E\0\0\0\0",
    b"C", b"CZx\0", b"CSx", b"CPx", b"CSx\0y", b"D", b"DX", b"DSx", b"DZx\0", b"F", b"F\0", b"F\0\0\0\1\0\1",
]


def test_malformed_messages(orders, pg):
    """Whatever is wrong with them, the client hears of it as from the server, and goes on."""
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})

    def story(wire):
        wire.send(pgwire.parse("select 1", "known"), pgwire.SYNC)
        wire.until("Z")
        for malformed in MALFORMED:
            wire.send(pgwire.message(malformed[:1].decode(), malformed[1:]))
            if malformed[:1] not in b"QSF":
                wire.send(pgwire.SYNC)
            (kind, error), ready = wire.until("Z")
            assert kind == "E", malformed
            yield malformed, PgError(error).code, PgError(error).fields["M"], ready
        wire.close()
    with pgwire.Wire(pg.host, pg.port, password=PASSWORD) as direct, daemon.wire() as wire:
        for want, got in zip(story(direct), story(wire), strict=True):
            assert got == want
    with daemon.wire() as other:
        assert other.run("select 1")[0] == [["1"]]
    assert daemon.all_errors() == {}


def test_client_protocol_is_the_cause(orders):
    daemon = orders()
    wire = daemon.wire()
    wire.send(b"?\0\0\0\x04")
    assert hears(wire, "08P01", "client_protocol")
    assert daemon.saw("client_protocol")


def test_server_that_talks_nonsense(orders, servers):
    """An HTTP origin where PostgreSQL should be."""
    origin = servers.origin()
    daemon = orders(upstream=f"postgres://app:x@127.0.0.1:{origin.port}/orders",
                    timeouts={"outage_wait": "300ms", "connect": "500ms"})
    assert daemon.first_error().code == "08001"
    servers.forget(origin)


# -- order and hand-over

def test_many_queries_in_one_write(orders, workers):
    with orders(workers).wire() as wire:
        wire.send(*(query(f"select {i}") for i in range(200)))
        assert [wire.results()[0] for _ in range(200)] == [[[str(i)]] for i in range(200)]


def test_empty_query_and_function_call(orders):
    with orders().wire() as wire:
        wire.send(query(""))
        assert kinds(wire.until("Z")) == "IZ"
        wire.send(pgwire.call(1299))  # now()
        said = wire.until("Z")
        assert kinds(said) == "VZ" and len(said[0][1]) > 10
        wire.send(pgwire.call(4_000_000_000))
        assert kinds(wire.until("Z")) == "EZ"
        assert wire.run("select 1")[0] == [["1"]]


def test_errors_until_sync(orders):
    """After an error of the extended protocol all is skipped up to Sync, simple queries too; the
    error itself comes at once."""
    with orders(size={"max": 1}).wire() as wire:
        wire.send(pgwire.parse("selec"), pgwire.FLUSH)
        assert kinds(wire.until("E")) == "E"
        wire.send(pgwire.bind(), pgwire.execute(), query("select 1"), pgwire.SYNC, query("select 2"))
        assert kinds(wire.until("Z")) == "Z"
        assert wire.results()[0] == [["2"]]


def test_unnamed_statement_stays_until_sync(orders, workers):
    """Parse and Flush without Sync opens a transaction: another client must not get this server."""
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "400ms"})
    with daemon.wire() as one, daemon.wire() as two:
        one.send(pgwire.parse("select 41 + 1"), pgwire.describe("S"), pgwire.FLUSH)
        assert kinds(one.until("T")) == "1tT"
        assert two.run("select 1")[2].code == "53300"
        one.send(pgwire.bind(), pgwire.execute(), pgwire.SYNC)
        assert kinds(one.until("Z")) == "2DCZ"
        assert two.run("select 2")[0] == [["2"]]


def test_server_is_kept_while_more_was_sent(orders, pg):
    """Two pipelined transactions of one client: no other client gets in between with the server in a
    state that is not clean."""
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    with daemon.wire() as one, daemon.wire() as two:
        one.send(query("begin"), query("select pg_sleep(0.2)"), query("set local work_mem = '7MB'"),
                 query("commit"), query("begin"), query("show work_mem"), query("commit"))
        two.send(query("show work_mem"))
        answers = [one.results() for _ in range(7)]
        assert [a[3] for a in answers] == list("TTTITTI")
        assert answers[5][0] != [["7MB"]]
        assert two.results()[0] != [["7MB"]]


def test_half_a_message_keeps_the_server(orders):
    """One that nobody answers, and that the server throws away: the next client's first words would be its
    other half."""
    late = pgwire.message("d", b"x" * 100_000)
    daemon = orders(size={"max": 1, "acquire_timeout": "400ms"})
    with daemon.wire() as one, daemon.wire() as two:
        one.send(query("select pg_backend_pid()"), late[:50_000])
        [[pid]] = one.results()[0]
        assert two.run("select 1")[2].code == "53300"
        one.send(late[50_000:])
        wait_for(lambda: daemon.servers(state="idle") == 1, what="the server to be free")
        assert two.run("select pg_backend_pid()")[0] == [[pid]]
        assert one.run("select pg_backend_pid()")[0] == [[pid]]


def test_named_portal_over_several_executes(orders):
    with orders(size={"max": 1}).wire() as wire:
        wire.run("begin")
        wire.send(pgwire.parse("select generate_series(1, 5)", "s"), pgwire.bind("s", "p"),
                  pgwire.execute("p", 2), pgwire.SYNC)
        assert kinds(wire.until("Z")) == "12DDsZ"
        wire.send(pgwire.execute("p", 0), pgwire.close("P", "p"), pgwire.close("S", "s"), pgwire.SYNC)
        assert kinds(wire.until("Z")) == "DDDC33Z"
        assert wire.run("commit")[3] == "I"


def test_copy_with_sync_inside(orders, table):
    """Sync before CopyDone is ignored by the server: its answer must not be waited for."""
    with orders(size={"max": 1}).wire() as wire:
        wire.send(pgwire.parse(f"copy {table} (n) from stdin"), pgwire.bind(), pgwire.execute(),
                  pgwire.FLUSH)
        assert kinds(wire.until("G")) == "12G"
        wire.send(pgwire.message("d", b"1\n"), pgwire.SYNC, pgwire.message("d", b"2\n"),
                  pgwire.message("c"), pgwire.SYNC)
        assert kinds(wire.until("Z")) == "CZ"
        wire.send(query(f"copy {table} (n) from stdin"))
        assert wire.receive()[0] == "G"
        wire.send(pgwire.message("d", b"x\n"), pgwire.message("f", b"no\0"), query("select 1"))
        assert kinds(wire.until("Z")) == "EZ"
        assert wire.results()[0] == [["1"]]
        assert wire.run(f"select count(*) from {table}")[0] == [["2"]]


def test_newer_minor_version_is_negotiated(orders):
    with orders().wire(login=False) as wire:
        wire.send(pgwire.startup(version=(3 << 16) + 9, **{"_pq_.unheard_of": "1"}))
        messages = wire.until("Z")
        assert messages[0][0] == "v"
        count, = struct.unpack("!I", messages[0][1][4:8])
        assert count == 1 and messages[0][1][8:] == b"_pq_.unheard_of\0"
        assert wire.run("select 1")[0] == [["1"]]


def test_application_name_and_user_settings(orders, pg):
    daemon = orders(size={"max": 1})
    with daemon.wire(application_name="rider-7") as wire:
        assert wire.parameters["server_version"].startswith(
            pg.value("show server_version").split(" ")[0])
        assert wire.run("select 1")[0] == [["1"]]


def test_replication_is_refused(orders):
    with pytest.raises(PgError) as e:
        orders().wire(replication="database")
    assert "unsupported" in str(e.value)


def test_wrong_database_is_no_route(orders):
    with pytest.raises(PgError) as e:
        orders().wire(database="elsewhere")
    assert e.value.code == "3D000"


def test_socket_close_without_goodbye_frees_everything(orders):
    """Descriptors do not pile up."""
    daemon = orders()
    with daemon.wire() as wire:
        wire.run("select 1")
    before = daemon.descriptors()
    for how in ["close", "abort"] * 20:
        wire = daemon.wire()
        wire.run("select 1")
        getattr(wire, how)()
    wait_for(lambda: daemon.descriptors() <= before + 1, what="descriptors to be closed")
