# SPDX-License-Identifier: MIT
"""What one client leaves on a server, or says at odd moments, is never another's: not a table, a statement, a byte."""

import pytest
from harness.base import wait_for
from harness.pgwire import FLUSH, SYNC, bind, describe, execute, fields, message, parse, query


def kinds(wire):
    """What is said up to ReadyForQuery; (letters, SQLSTATE of the last error)."""
    said = wire.until("Z")
    errors = [fields(body)["C"] for kind, body in said if kind == "E"]
    return "".join(kind for kind, _ in said), errors[-1] if errors else None


def test_the_end_of_a_query_that_comes_in_pieces_is_looked_at(orders):
    """Long in front, and a temporary table at the end: whoever makes one keeps its server."""
    daemon = orders(size={"max": 2})
    text = query(f"select '{'x' * 700}'; create temp table leak (a int)")
    with daemon.wire() as slow, daemon.wire() as other:
        slow.send(text[:650])
        assert other.run("select 1")[0] == [["1"]]  # the one worker has seen the first piece, too
        slow.send(text[650:])
        assert slow.results()[2:] == (None, "I")
        row = next(c for c in daemon.json("/clients?pool=orders")["clients"] if c["pinned"])
        assert row["server"] is not None
        assert other.run("select * from leak")[2].code == "42P01"
        assert slow.run("select * from leak")[2] is None
    wait_for(lambda: daemon.leases() == 0, what="the pin to end")
    with daemon.wire() as later:
        assert later.run("select * from leak")[2].code == "42P01"


def test_what_a_text_too_long_to_be_read_leaves_behind_goes(orders):
    """Its end is not looked at: the server is cleaned before anybody else gets it."""
    daemon = orders(size={"max": 1})
    with daemon.wire() as wire, daemon.wire() as other:
        wire.send(query(f"select '{'x' * 100_000}'; create temp table leak (a int)"))
        assert wire.results()[2] is None
        assert other.run("select * from leak")[2].code == "42P01"


@pytest.mark.parametrize("new", ["long", "deallocate"])
def test_the_unnamed_statement_of_another_client(orders, new):
    """The client's own was discarded with its batch: what is used then is nobody's, not the other client's."""
    daemon = orders(size={"max": 1})
    with daemon.wire() as theirs, daemon.wire() as wire:
        wire.send(parse("select 1", "p"), SYNC)
        assert kinds(wire) == ("1Z", None)
        theirs.send(parse("select 'theirs'"), bind(), execute(), SYNC)
        assert kinds(theirs) == ("12DCZ", None)
        text = f"select 1 -- {'x' * 70_000}" if new == "long" else "deallocate p"
        wire.send(bind("nosuch"), parse(text), SYNC)
        assert kinds(wire) == ("EZ", "26000")
        wire.send(bind(), describe(), execute(), SYNC)
        assert kinds(wire) == ("EZ", "26000")


@pytest.mark.parametrize("ends", ["statement", "query"])
def test_words_behind_a_copy_that_has_failed_already(orders, table, ends):
    """Said before its failure was read, and so done by the server after all: it stays with nobody."""
    daemon = orders(size={"max": 1})
    with daemon.wire() as wire, daemon.wire() as other:
        wire.send(query(f"copy {table} (n) from stdin"))
        wire.until("G")
        wire.send(message("d", b"not a number\n"), *(
            (parse("select 'theirs'", "a"), SYNC) if ends == "statement"
            else (query("create temp table leak (a int)"),)))
        wire.until("Z")
        wire.send(message("c"), FLUSH)
        wire.send(query("select 1"))
        while not any(kind == "D" for kind, _ in wire.until("Z")):
            pass
        other.send(bind("a"), execute(), SYNC)
        assert kinds(other) == ("EZ", "26000")
        assert other.run("select * from leak")[2].code == "42P01"
