# SPDX-License-Identifier: MIT
"""Statement mode: a client gets a server for each query or batch, and whatever it has said before is there.

Who names no transaction mode in other files is tried in this mode, too (the fixture `shared`); how it ends
transaction blocks stands in test_postgres_modes.py.
"""

import pytest
from harness.base import wait_for
from harness.pgwire import FLUSH, SYNC, bind, describe, execute, message, parse, query, row


@pytest.fixture
def two(orders):
    """A daemon of two servers."""
    def make(**over):
        size = {"min": 2, "max": 2, "acquire_timeout": "20s", **over.pop("size", {})}
        return orders(mode="statement", size=size, **over)
    return make


def keep(wire):
    """Keeps a server by a batch that is not over; its pid."""
    wire.send(parse("select pg_backend_pid()"), bind(), execute(), FLUSH)
    return next(row(body)[0] for kind, body in wire.until("C") if kind == "D")


def let_go(wire):
    wire.send(SYNC)
    wire.until("Z")


def on_each(daemon, do):
    """do(pid) where only this server of the two is free, then where only the other is."""
    with daemon.wire() as one, daemon.wire() as two:
        pids = [(wire, keep(wire)) for wire in (one, two)]
        assert pids[0][1] != pids[1][1]
        for wire, pid in pids:
            let_go(wire)
            do(pid)
            assert keep(wire) == pid
        let_go(one)
        let_go(two)


def asked(wire, *messages):
    """Rows and the kinds of all answers up to ReadyForQuery, which says that no transaction is open."""
    wire.send(*messages)
    said = [(kind, body) for kind, body in wire.until("Z") if kind not in "SN"]
    assert said[-1] == ("Z", b"I")
    return [row(body) for kind, body in said if kind == "D"], "".join(kind for kind, _ in said)


def test_prepared_statements_on_both_servers(two):
    """Named once, and the unnamed one of an earlier batch."""
    daemon = two()
    with daemon.wire() as wire:
        wire.send(parse("select pg_backend_pid(), $1::text", "named"), SYNC)
        assert wire.results()[2] is None

        def ask(pid):
            for value in ("a", "b"):
                rows, kinds = asked(wire, bind("named", values=[value]), execute(), SYNC)
                assert (rows, kinds) == ([[pid, value]], "2DCZ")
            wire.send(parse("select pg_backend_pid(), 'unnamed'"), describe("S"), SYNC)
            wire.until("Z")
        on_each(daemon, ask)


        def ask_again(pid):
            assert asked(wire, bind(), execute(), SYNC) == ([[pid, "unnamed"]], "2DCZ")
        on_each(daemon, ask_again)
    assert daemon.all_errors() == {}


def test_settings_on_both_servers(two):
    daemon = two()
    with daemon.wire(application_name="mine") as wire, daemon.wire() as other:
        for sql in ("set my.tenant = 'mine'", "set statement_timeout = '77s'", "set timezone = 'Asia/Tokyo'"):
            assert wire.run(sql)[2] is None
        text = ("select pg_backend_pid(), coalesce(current_setting('my.tenant', true), ''),"
                " current_setting('statement_timeout'), current_setting('timezone'),"
                " current_setting('application_name') = 'mine'")

        def ask(pid):
            assert asked(wire, query(text))[0] == [[pid, "mine", "77s", "Asia/Tokyo", "t"]]
            assert asked(other, query(text))[0] == [[pid, "", "0", "UTC", "f"]]
            rows, _ = asked(wire, parse(text), bind(), execute(), SYNC)
            assert rows == [[pid, "mine", "77s", "Asia/Tokyo", "t"]]
        on_each(daemon, ask)
    assert daemon.all_errors() == {}


def test_portals_with_row_limits_inside_one_batch(two):
    """Two portals, run in turns, some rows at a time: one batch is one transaction of the server's."""
    daemon = two()
    with daemon.wire() as wire:
        def ask(_pid):
            rows, kinds = asked(
                wire, parse("select $1 || n from generate_series(1, 5) n", "s"), bind("s", "p", ["p"]),
                bind("s", "q", ["q"]), execute("p", 2), execute("q", 4), execute("p", 2), execute("q", 4),
                execute("p"), parse("close all", "s2"), bind("s2"), execute(), SYNC)
            assert [r[0] for r in rows] == ["p1", "p2", "q1", "q2", "q3", "q4", "p3", "p4", "q5", "p5"]
            assert kinds == "122DDsDDDDsDDsDCDC12CZ"
            assert asked(wire, parse("deallocate all"), bind(), execute(), SYNC)[1] == "12CZ"
        on_each(daemon, ask)
        wire.send(execute("p"), SYNC)
        assert wire.results()[2].code == "34000", "it was of that batch"
    assert daemon.all_errors() == {}


def test_copy_both_ways(two, table):
    """The server is the client's until the COPY is over, and another's at once."""
    daemon = two(size={"min": 1, "max": 1, "acquire_timeout": "300ms"})
    with daemon.wire() as wire, daemon.wire() as other:
        wire.send(query(f"copy {table} (n, note) from stdin"))
        assert wire.receive()[0] == "G"
        wire.send(message("d", b"1\tone\n"))
        assert other.run("select 1")[2].code == "53300"
        wire.send(message("d", b"2\ttwo\n"), message("c"))
        assert wire.results()[1:] == (["COPY 2"], None, "I")
        assert other.run(f"select sum(n) from {table}")[0] == [["3"]]
        wire.send(parse(f"copy {table} (n) from stdin"), bind(), execute(), SYNC)
        wire.until("G")
        wire.send(message("d", b"no number\n"), message("c"), SYNC)
        assert wire.results()[2].code == "22P02"
        wire.send(query(f"copy (select n, note from {table} order by n) to stdout"))
        assert b"".join(body for kind, body in wire.until("Z") if kind == "d") == b"1\tone\n2\ttwo\n"
        assert other.run("select 1")[0] == [["1"]]
    assert set(daemon.all_errors()) == {"acquire_timeout"}


def test_blocks_that_end_in_their_query_or_batch(two, table):
    """BEGIN is fine where the end of the transaction comes before the server is to be free."""
    daemon = two()
    with daemon.wire() as wire:
        wire.run(f"begin; insert into {table} (n) values (1); commit")
        wire.run(f"begin; insert into {table} (n) values (2); rollback")
        wire.send(parse("begin"), bind(), execute(), parse(f"insert into {table} (n) values (3)"), bind(),
                  execute(), parse("commit"), bind(), execute(), SYNC)
        assert wire.results()[1:] == (["BEGIN", "INSERT 0 1", "COMMIT"], None, "I")
        wire.send(parse(f"insert into {table} (n) values (4)"), bind(), execute(), parse("select 1/0"), bind(),
                  execute(), SYNC)
        assert wire.results()[2].code == "22012"
        assert wire.run(f"select n from {table} order by n")[0] == [["1"], ["3"]]


def test_listener_hears_and_lets_go(two):
    daemon = two(size={"min": 1, "max": 2})
    with daemon.wire() as listener, daemon.wire() as other:
        assert listener.run("listen news")[2] is None
        assert other.run("notify news, 'it rains'")[2] is None
        kind, body = listener.receive()
        assert (kind, body[4:]) == ("A", b"news\0it rains\0")
        assert listener.run("unlisten *")[2] is None
        wait_for(lambda: daemon.servers(state="busy") == 0, what="its server to be let go of")
    assert daemon.all_errors() == {}
