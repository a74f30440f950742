# SPDX-License-Identifier: MIT
"""Prepared statements in transaction mode, when what they are about has changed since."""

import pytest
from harness.pgwire import SYNC, bind, execute, parse
from harness.prepared import answers, rows


@pytest.mark.parametrize("sql,value,change", [
    ("select n from {t} where note = $1", "a", "alter table {t} alter note type int using 7"),
    ("update {t} set note = $1", "a", "alter table {t} alter note type int using 7"),
    ("select $1::{t}_mood", "a", "drop type {t}_mood; create type {t}_mood as enum ('7')")])
def test_parameters_that_changed_are_cured_by_the_next_use(shared, pg, table, sql, value, change):
    """The server keeps the types that it took them for when the statement was prepared for the first client of
    all: who prepares it today is not to be told of them for ever."""
    pg.query(f"create type {table}_mood as enum ('a')", db="orders")
    daemon = shared()
    a = daemon.wire()
    a.send(parse(sql.format(t=table), "s"), bind("s", values=[value]), execute(), SYNC)
    assert "E" not in answers(a)
    pg.query(change.format(t=table), db="orders")
    for turn in range(3):
        b = daemon.wire()
        b.send(parse(sql.format(t=table), "x"), bind("x", values=["7"]), execute(), SYNC)
        assert "E" not in answers(b) or turn == 0
        b.close()
    a.send(bind("s", values=["7"]), execute(), SYNC)
    assert "E" not in answers(a)
    daemon.stop()


@pytest.mark.parametrize("word", ["now", " NOW "])
def test_the_time_at_which_a_statement_is_prepared(shared, word):
    """It is that of the client's own Parse, not of the first one of all."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    text = f"select '{word}'::timestamptz >= $1::timestamptz, $1 = '2000-01-01'"
    a.send(parse(text, "n"), bind("n", values=["2000-01-01"]), execute(), SYNC)
    assert rows(a) == [["t", "t"]]
    for wire in b, a, b:
        [[start]] = wire.run("select clock_timestamp()")[0]
        wire.send(parse(text, start), bind(start, values=[start]), execute(), SYNC)
        assert rows(wire) == [["t", "f"]]
        wire.send(bind(start, values=[start]), execute(), SYNC)
        assert rows(wire) == [["t", "f"]]
    daemon.stop()
