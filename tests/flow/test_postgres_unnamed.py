# SPDX-License-Identifier: MIT
"""The unnamed prepared statement in transaction mode: each client has its own, whichever server it is on."""

from harness.pgwire import SYNC, bind, close, describe, execute, parse
from harness.prepared import answers, rows


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
