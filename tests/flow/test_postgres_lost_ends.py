# SPDX-License-Identifier: MIT
"""The end of a transaction that was lost with its server: whatever way the client says it, it is told once what
happened, and no statement runs before that outside of it.
"""

import pytest
from harness.base import wait_for
from harness.pgwire import SYNC, bind, describe, execute, fields, parse, query


def count(server, table):
    return server.value(f"select count(*) from {table}", db="orders")


@pytest.mark.parametrize("ending", ["commit", "END;", " -- done\n COMMIT WORK", "abort",
                                    "rollback work", "/* a /* b */ */ Commit Transaction ;"])
def test_each_way_to_end_a_lost_transaction(through_gate, pg, table, ending):
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.run("begin")
        wire.run(f"insert into {table} (n) values (1)")
        relay.cut()
        wait_for(lambda: relay.open == 0, what="the connection to be gone")
        error, status = wire.run(f"insert into {table} (n) values (2)")[2:]
        assert (error.code, status) == ("08006", "E")
        assert wire.run(ending) == ([], ["ROLLBACK"], None, "I")
        assert wire.run("select 1")[0] == [["1"]]
    assert count(pg, table) == 0


@pytest.mark.parametrize("ending,others", [("ROLLBACK", "SELECT 1"), ("commit", "begin")])
def test_extended_end_of_a_lost_transaction(through_gate, pg, table, ending, others):
    """Drivers end transactions in the extended protocol, too (psycopg does)."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.run("begin")
        wire.run(f"insert into {table} (n) values (1)")
        relay.cut()
        wait_for(lambda: relay.open == 0, what="the connection to be gone")
        assert wire.run("select 1")[2].code == "08006"

        def extended(sql):
            wire.send(parse(sql), bind(), describe(), execute(),
                      SYNC)
            return wire.until("Z")
        said = extended(others)
        assert [k for k, _ in said] == ["E", "Z"] and said[-1][1] == b"E"
        assert fields(said[0][1])["C"] == "25P02"
        said = extended(ending)
        assert [k for k, _ in said] == ["1", "2", "n", "C", "Z"]
        assert said[3][1] == b"ROLLBACK\0" and said[4][1] == b"I"
        assert wire.run("select 2")[0] == [["2"]]
    assert count(pg, table) == 0


@pytest.mark.parametrize("ending", ["ROLLBACK", "COMMIT"])
def test_prepared_end_of_a_lost_transaction(through_gate, pg, table, ending):
    """Drivers prepare what they say often, under a name: also the end of a transaction."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.send(parse(ending, "end"), parse("select 1", "other"), SYNC)
        wire.until("Z")
        wire.run("begin")
        wire.run(f"insert into {table} (n) values (1)")
        relay.cut()
        wait_for(lambda: relay.open == 0, what="the connection to be gone")
        assert wire.run("select 1")[2].code == "08006"

        def bound(name, *more):
            wire.send(*more, bind(name), describe(), execute(), SYNC)
            said = wire.until("Z")
            return [k for k, _ in said], said
        kinds, said = bound("other")
        assert kinds == ["E", "Z"] and said[-1][1] == b"E"
        assert fields(said[0][1])["C"] == "25P02"
        kinds, said = bound("end", describe("S", "end"))
        assert kinds == ["t", "n", "2", "n", "C", "Z"]
        assert said[4][1] == b"ROLLBACK\0" and said[5][1] == b"I"
        kinds, said = bound("other")
        assert kinds == ["2", "T", "D", "C", "Z"]
    assert count(pg, table) == 0


def test_end_prepared_when_the_transaction_is_lost(through_gate, pg):
    """The first transaction that a driver ends is the lost one: the statement is there ever after."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        for lost in (True, False):
            wire.run("begin")
            if lost:
                relay.cut()
                wait_for(lambda: relay.open == 0, what="the connection to be gone")
                assert wire.run("select 1")[2].code == "08006"
                wire.send(parse("ROLLBACK", "end"))
            wire.send(bind("end"), execute(), SYNC)
            said = wire.until("Z")
            assert [k for k, _ in said][-3:] == ["2", "C", "Z"] and said[-1][1] == b"I"


@pytest.mark.parametrize("name", ["", "end"])
@pytest.mark.parametrize("ending", ["ROLLBACK", "COMMIT"])
def test_end_that_is_only_prepared_ends_nothing(through_gate, pg, table, ending, name):
    """What comes between is still of the lost transaction."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        for told in (True, False):
            wire.run("begin")
            wire.send(parse(f"insert into {table} (n) values (1)"), bind(),
                      execute(), SYNC)
            assert wire.results()[2:] == (None, "T")
            lost = daemon.errors("upstream_closed")
            relay.cut()
            wait_for(lambda: daemon.errors("upstream_closed") > lost, what="the loss to be noticed")
            assert not told or wire.run("select 1")[2].code == "08006"
            wire.send(parse(ending, name), describe("S", name), SYNC)
            said = wire.until("Z")
            first_word = not told and ending == "COMMIT"
            again = not told and name  # it is there already, as on a server
            kinds = [k for k, _ in said]
            assert kinds == (["E", "Z"] if first_word or again else ["1", "t", "n", "Z"])
            assert said[-1][1] == b"E"
            if name or not told:  # a query ends the unnamed one
                assert wire.run(f"insert into {table} (n) values (2)")[3] == "E"
            if told:
                wire.send(bind(name), execute(), SYNC)
                assert wire.results() == ([], ["ROLLBACK"], None, "I")
                wire.send(bind(name), execute(), SYNC)
                assert wire.results() == ([], [ending], None, "I"), "and not what was prepared before"
            else:
                assert wire.run("rollback") == ([], ["ROLLBACK"], None, "I")
    assert count(pg, table) == 0


def test_end_that_was_only_begun_does_not_end_the_next_one(through_gate):
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        for messages in ([parse("ROLLBACK"), query("rollback")], [SYNC]):
            wire.run("begin")
            relay.cut()
            wait_for(lambda: relay.open == 0, what="the connection to be gone")
            assert wire.run("select 1")[3] == "E"
            wire.send(*messages)
            status = wire.until("Z")[-1][1]
        assert status == b"E"


def test_prepared_commit_is_the_first_to_hear_of_the_loss(through_gate, pg, table):
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.send(parse("commit", "end"), SYNC)
        wire.until("Z")
        wire.run("begin")
        wire.run(f"insert into {table} (n) values (1)")
        relay.cut()
        wait_for(lambda: daemon.errors("upstream_closed") == 1, what="the loss to be noticed")
        wire.send(bind("end"), execute(), SYNC)
        said = wire.until("Z")
        assert [k for k, _ in said] == ["E", "Z"] and said[-1][1] == b"I"
        assert fields(said[0][1])["C"] == "08006"
        assert wire.run("select 1")[0] == [["1"]]
    assert count(pg, table) == 0


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_commit_is_the_first_to_hear_of_the_loss(through_gate, pg, table, extended):
    """COMMIT fails, and is the end of the transaction, as with PostgreSQL itself."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.run("begin")
        wire.run(f"insert into {table} (n) values (1)")
        relay.cut()
        wait_for(lambda: daemon.errors("upstream_closed") == 1, what="the loss to be noticed")
        if extended:
            wire.send(parse("commit"), bind(), execute(), SYNC)
        else:
            wire.send(query("commit"))
        said = wire.until("Z")
        assert [k for k, _ in said] == ["E", "Z"] and said[-1][1] == b"I"
        assert fields(said[0][1])["C"] == "08006"
        assert wire.run("select 1")[0] == [["1"]]
    assert count(pg, table) == 0


@pytest.mark.parametrize("last", [query("select 1"), query("selec"), parse("select 8")],
                         ids=["query", "bad query", "parse"])
def test_the_unnamed_statement_ends_as_on_a_server(through_gate, last):
    """By the next of its kind, or a simple query, also by those that are refused."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.send(parse("rollback", "end"), SYNC)
        wire.until("Z")
        wire.run("begin")
        wire.send(parse("select 7"), SYNC)
        wire.until("Z")
        relay.cut()
        wait_for(lambda: daemon.errors("upstream_closed") == 1, what="the loss to be noticed")
        wire.send(last, SYNC)
        assert wire.until("Z")[-1] == ("Z", b"E")
        if last[:1] == b"Q":
            wire.until("Z")
        wire.send(bind("end"), execute(), SYNC, bind(), SYNC)
        assert wire.until("Z")[-1] == ("Z", b"I")
        assert fields(wire.until("Z")[0][1])["C"] == "26000"
