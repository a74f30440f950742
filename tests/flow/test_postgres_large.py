# SPDX-License-Identifier: MIT
"""Values of any size pass in bounded memory, both ways: nothing is held but what a peer does not take."""

import contextlib
import hashlib
import socket
import struct
import time

import pytest
from harness.base import Peak, wait_for
from harness.carpool import SMALL_QUARANTINE, postgres_pool
from harness.pgwire import SYNC, cstr, execute, message, parse, query
from harness.quack import DONE, READY, Quack

MIB = 1 << 20
LITTLE = 16 * MIB
GROWTH = 24 * MIB  # buffers of both sides, and what the sanitizers keep


def skip(wire, size):
    """Reads a body without keeping it; its digest."""
    digest = hashlib.md5(wire.buffer[:size])
    left = size - min(size, len(wire.buffer))
    wire.buffer = wire.buffer[size:]
    while left:
        data = wire.sock.recv(min(left, MIB))
        assert data
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()


def bodies(wire):
    """{type: (size, digest)} of the messages up to ReadyForQuery."""
    out = {}
    while True:
        kind, size = struct.unpack("!cI", wire.read(5))
        out[kind.decode()] = size - 4, skip(wire, size - 4)
        if kind == b"Z":
            return out


def test_a_large_row(carpool, pg, workers):
    daemon = carpool(postgres_pool(pg.url(), size={"min": 1, "max": 2}), workers=workers,
                     env=SMALL_QUARANTINE)
    wire = daemon.wire(timeout=60)
    wire.run("select 1")
    before = daemon.rss()
    wire.send(parse("select repeat('carpool ', $1::int)"),
              message("B", b"\0\0" + struct.pack("!HHI", 0, 1, 8) + b"20000000" + b"\0\0"),
              execute(), SYNC)
    size, _ = bodies(wire)["D"]
    assert size == 160_000_000 + 6
    assert daemon.rss() - before < GROWTH
    daemon.stop()


def test_a_large_value_from_the_client(carpool, pg, workers):
    daemon = carpool(postgres_pool(pg.url(), size={"min": 1, "max": 2}), workers=workers,
                     env=SMALL_QUARANTINE)
    wire = daemon.wire(timeout=60)
    wire.run("select 1")
    before = daemon.rss()
    part, parts = b"0123456789abcdef" * 4096, 1000
    body = cstr("") + cstr("large") + struct.pack("!HHI", 0, 1, len(part) * parts)
    wire.send(parse("select md5($1), length($1)", "large"),
              b"B" + struct.pack("!I", 4 + len(body) + len(part) * parts + 2) + body)
    want = hashlib.md5()
    for _ in range(parts):
        wire.sock.sendall(part)
        want.update(part)
    wire.send(b"\0\0", execute(), SYNC)
    rows, _, error, _ = wire.results()
    assert error is None
    assert rows == [[want.hexdigest(), str(len(part) * parts)]]
    assert daemon.rss() - before < GROWTH
    daemon.stop()


# ---- as long as a message can be

LONGEST = 0x3fffffff  # the server's own bound on a length word


def pour(sock, size, told=lambda n: None):
    block = memoryview(bytes(MIB))
    while size:
        n = sock.send(block[:size])
        size -= n
        told(n)


def swallow(sock, size):
    block = memoryview(bytearray(MIB))
    while size:
        got = sock.recv_into(block, min(size, MIB))
        assert got, f"the end, {size} bytes too early"
        size -= got


class Vast(Quack):
    """Answers a query with one row of any length, and takes messages of any length."""

    length, poured = LONGEST, 0

    def note(self, n):
        self.poured += n

    def is_held_back(self):
        before = self.poured
        time.sleep(0.1)
        return before == self.poured > 0

    def _serve(self, conn):
        with contextlib.suppress(OSError, struct.error, AssertionError), conn:
            swallow(conn, struct.unpack("!I", conn.recv(4, socket.MSG_WAITALL))[0] - 4)
            conn.sendall(self.welcome)
            self.taken = []
            while True:
                kind, length = struct.unpack("!cI", conn.recv(5, socket.MSG_WAITALL))
                swallow(conn, length - 4)
                self.taken.append((kind.decode(), length))
                if kind == b"Q":
                    conn.sendall(b"D" + struct.pack("!I", self.length))
                    pour(conn, min(self.length, LONGEST) - 4, self.note)
                    conn.sendall(DONE + READY)
                elif kind == b"S":
                    conn.sendall(message("1") + message("2") + DONE + READY)


@pytest.fixture
def vast(carpool):
    """A daemon in front of such a server, and the server."""
    made = Vast()
    yield carpool(postgres_pool(made.url(), size={"min": 1, "max": 1}), env=SMALL_QUARANTINE), made
    made.close()


def test_the_longest_row(vast):
    daemon, server = vast
    with daemon.wire(timeout=60) as wire, Peak(daemon.rss) as memory:
        before = daemon.rss()
        wire.send(query("select 1"))
        assert wire.sock.recv(5, socket.MSG_WAITALL) == b"D" + struct.pack("!I", LONGEST)
        wait_for(server.is_held_back, what="the server to be held back")
        swallow(wire.sock, LONGEST - 4)
        assert [kind for kind, _ in wire.until("Z")] == ["C", "Z"]
    assert memory.samples > 10 and memory.value - before < LITTLE
    assert daemon.all_errors() == {}


def test_the_longest_value_from_the_client(vast):
    daemon, server = vast
    with daemon.wire(timeout=60) as wire, Peak(daemon.rss) as memory:
        before = daemon.rss()
        wire.send(parse("select length($1)"), b"B" + struct.pack("!I", LONGEST),
                  cstr("") + cstr("") + struct.pack("!HHI", 0, 1, LONGEST - 16))
        pour(wire.sock, LONGEST - 16 + 2)
        wire.send(execute(), SYNC)
        assert [kind for kind, _ in wire.until("Z")] == ["1", "2", "C", "Z"]
        assert server.taken[-4:] == [("P", 25), ("B", LONGEST), ("E", 9), ("S", 4)]
    assert memory.samples > 10 and memory.value - before < LITTLE
    assert daemon.all_errors() == {}


def test_longer_than_the_longest(vast):
    """Refused by its head, on either side."""
    daemon, server = vast
    with daemon.wire() as wire:
        server.length = LONGEST + 1
        wire.send(query("select 1"))
        error = wire.results()[2]
        assert error.code == "08P01" and "message too large" in error.fields["M"]
    with daemon.wire() as wire:
        wire.send(b"B" + struct.pack("!I", LONGEST + 1))
        kind, body = wire.receive()
        assert kind == "E" and b"C54000\0" in body and b"message too large" in body
        assert wire.eof()
