# SPDX-License-Identifier: MIT
"""Values of any size pass in bounded memory, both ways: nothing is held but what a peer does not take."""

import hashlib
import struct

from harness.carpool import postgres_pool
from harness.pgwire import SYNC, cstr, execute, message, parse

MIB = 1 << 20
GROWTH = 24 * MIB  # buffers of both sides, and what the sanitizers keep
SMALL_QUARANTINE = {"ASAN_OPTIONS": "detect_leaks=1:exitcode=99:quarantine_size_mb=4"}


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
