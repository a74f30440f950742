# SPDX-License-Identifier: MIT
"""Prepared statements in transaction mode, when what they are about has changed since."""

import pytest
from harness.pgwire import SYNC, bind, execute, parse
from harness.prepared import answers


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
