# SPDX-License-Identifier: MIT
"""What a wire heard, in short: for tests that send the extended protocol by hand."""

from harness.pgwire import row


def answers(wire):
    """Types of the messages up to ReadyForQuery, with the errors' codes."""
    out = []
    for kind, body in wire.until("Z"):
        out.append("E" + wire_code(body) if kind == "E" else kind)
    return " ".join(k for k in out if k not in ("S", "N"))


def wire_code(body):
    return next(part[1:].decode() for part in body.split(b"\0") if part[:1] == b"C")


def message_of(body):
    return next(part[1:].decode() for part in body.split(b"\0") if part[:1] == b"M")


def rows(wire):
    return [row(body) for kind, body in wire.until("Z") if kind == "D"]
