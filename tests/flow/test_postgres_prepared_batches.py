# SPDX-License-Identifier: MIT
"""Prepared statements in transaction mode, many messages at once: pipelines, what an error in a batch discards,
a COPY in the middle, Flush.
"""

import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.pgwire import (FLUSH, SYNC, Wire, bind, close, describe, execute, message, parse, query)
from harness.postgres import PASSWORD
from harness.prepared import answers, rows
from harness.relays import TO_CLIENT


def test_pipelines_and_errors_in_them(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 1", "x"), parse("select 1", "y"), close("S", "x"),
           parse("select 3", "x"), bind("x"), execute(), bind("y", portal="p"), execute("p"), SYNC)
    assert answers(a) == "1 1 3 1 2 D C 2 D C Z"
    # Behind an error nothing counts: neither new names nor closed ones.
    a.send(parse("selec", "z"), parse("select 4", "w"), close("S", "y"), SYNC,
           bind("w"), SYNC, bind("y"), execute(), SYNC)
    assert answers(a) == "E42601 Z"
    assert answers(a) == "E26000 Z"
    assert answers(a) == "2 D C Z"
    # The server's statement is given again where its Parse was discarded.
    b.send(parse("select 4", "w"), SYNC)
    assert answers(b) == "1 Z"
    b.send(bind("w"), execute(), SYNC)
    assert rows(b) == [["4"]]
    daemon.stop()


@pytest.mark.parametrize("between", [[], [parse("select 'third'"), query("select 2")]],
                         ids=["one", "two"])
@pytest.mark.parametrize("behind", [[], [parse("select 'second'")]], ids=["query", "query and parse"])
@pytest.mark.parametrize("there", [True, False], ids=["there", "not there"])
def test_queries_that_are_discarded(shared, between, behind, there):
    """Behind an error all is discarded up to Sync, simple queries as well: the unnamed statement is what it
    was before."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 'first'", "" if there else "named"), SYNC)
    assert answers(a) == "1 Z"
    a.send(describe("P", "nosuch"), query("select 1"), *between, *behind, SYNC, bind(), execute(), SYNC)
    assert answers(a) == "E34000 Z"
    for turn in range(2):
        if turn:
            a.send(bind(), execute(), SYNC)
        if there:
            assert rows(a) == [["first"]]
        else:
            assert answers(a) == "E26000 Z"
        b.send(parse("select 'of another'"), SYNC)
        assert answers(b) == "1 Z"
    daemon.stop()


@pytest.mark.parametrize("behind", [[], [query("select 2")], [query("select 2"), query("select 3")]],
                         ids=["alone", "query", "queries"])
def test_an_unnamed_statement_that_failed_is_gone(shared, behind):
    """Also where simple queries stand behind it, which are discarded with its batch."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    for there in (False, True):
        if there:
            a.send(parse("select 1"), SYNC)
            assert answers(a) == "1 Z"
        a.send(parse("select nosuch"), *behind, SYNC)
        assert answers(a) == "E42703 Z"
        for _ in range(2):
            a.send(bind(), execute(), SYNC)
            assert answers(a) == "E26000 Z"
            b.send(parse("select 'of another'"), SYNC)
            assert answers(b) == "1 Z"
    daemon.stop()


@pytest.mark.parametrize("behind", [[SYNC], []], ids=["sync", "no sync"])
def test_a_query_ends_what_is_parsed_before_it(shared, behind):
    """Its Parse is behind another one, and answered only when the query was sent."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 1", "x"), parse("select 2"), *behind, query("select 3"))
    assert [answers(a) for _ in range(1 + len(behind))][-1].endswith("T D C Z")
    for _ in range(2):
        a.send(bind(), execute(), SYNC)
        assert answers(a) == "E26000 Z"
        b.send(parse("select 'of another'"), SYNC)
        assert answers(b) == "1 Z"
    # If the query is discarded, it is still there.
    a.send(parse("select 4", "y"), parse("select 5"), describe("P", "nosuch"), query("select 6"), SYNC)
    assert answers(a) == "1 1 E34000 Z"
    b.send(parse("select 'of another'"), SYNC)
    assert answers(b) == "1 Z"
    a.send(bind(), execute(), SYNC)
    assert rows(a) == [["5"]]
    # Nor does one that is discarded with a later batch end it.
    a.send(parse("select 7", "z"), parse("select 8"), SYNC, describe("P", "nosuch"), query("select 9"), SYNC,
           bind(), execute(), SYNC)
    assert [answers(a) for _ in range(3)] == ["1 1 Z", "E34000 Z", "2 D C Z"]
    daemon.stop()


@pytest.mark.parametrize("fails", [describe("P", "nosuch"), parse("selec", "x")], ids=["portal", "parse"])
def test_the_unnamed_statement_is_discarded_on_its_way(shared, fails):
    """The server is given it with a batch that fails before: the next one, sent already, does not find what
    another client left there."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 'mine'"), SYNC)
    assert answers(a) == "1 Z"
    b.send(parse("select 'of another'"), SYNC)
    assert answers(b) == "1 Z"
    a.send(fails, bind(), execute(), SYNC, bind(), execute(), SYNC, bind(), execute(), SYNC)
    assert answers(a).startswith("E")
    assert [rows(a), rows(a)] == [[["mine"]], [["mine"]]]
    daemon.stop()


def test_the_unnamed_statement_on_its_way_fails(shared, pg, table):
    """What is sent behind the failure hears the same, as it would of a statement that the server has."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse(f"select n from {table}"), SYNC)
    assert answers(a) == "1 Z"
    b.send(parse("select 'of another'"), SYNC)
    assert answers(b) == "1 Z"
    pg.query(f"alter table {table} rename to {table}_gone", db="orders")
    a.send(bind(), execute(), SYNC, describe("S"), SYNC)
    assert [answers(a) for _ in range(2)] == ["E42P01 Z", "E42P01 Z"]
    pg.query(f"alter table {table}_gone rename to {table}", db="orders")
    a.send(bind(), execute(), SYNC, bind(), execute(), SYNC)
    assert [answers(a) for _ in range(2)] == ["2 C Z", "2 C Z"]
    daemon.stop()


def test_an_old_query_between_messages_and_a_new_server(carpool, pg):
    """Servers count their batches each for itself: a doubt on one is nothing to wait for on another."""
    daemon = carpool(postgres_pool(pg.url(), size={"max": 2}))
    a, b = daemon.wire(), daemon.wire()
    for _ in range(5):
        a.run("select 1")
    a.send(parse("select 'first'"), SYNC, parse("select 1", "x"), query("select 2"))
    assert [answers(a) for _ in range(2)] == ["1 Z", "1 T D C Z"]
    assert b.run("begin")[3] == "T"  # a's next server is another one
    a.send(bind(), execute(), SYNC)
    assert answers(a) == "E26000 Z"
    daemon.stop()


def test_parse_inside_a_failed_transaction(one):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    b.send(parse("select 1", "known"), SYNC)
    assert answers(b) == "1 Z"
    a.send(query("begin"), query("selec"), parse("select 1", "known"), SYNC,
           parse("rollback", "end"), SYNC, bind("end"), execute(), SYNC)
    assert [answers(a) for _ in range(5)] == ["C Z", "E42601 Z", "E25P02 Z", "1 Z", "2 C Z"]
    a.send(bind("known"), SYNC)
    assert answers(a) == "E26000 Z"
    daemon.stop()


def test_a_statement_used_in_a_failed_transaction(one):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 1", "s"), SYNC)
    assert answers(a) == "1 Z"
    b.send(query("discard all"))
    assert answers(b) == "C Z"
    a.send(query("begin"), query("selec"), bind("s"), execute(), SYNC, query("rollback"))
    assert [answers(a) for _ in range(4)] == ["C Z", "E42601 Z", "E25P02 Z", "C Z"]
    a.send(bind("s"), execute(), SYNC)
    assert rows(a) == [["1"]]
    daemon.stop()


@pytest.mark.parametrize("end", ["c", "f"], ids=["done", "fail"])
def test_a_batch_goes_on_behind_a_copy(shared, pg, end):
    """The server says what became of the COPY only at the Sync that ends the whole batch."""
    daemon = shared()
    seen = []
    for wire in (Wire(pg.host, pg.port, password=PASSWORD), daemon.wire()):
        wire.run("create table if not exists behind_copy (a int)")
        wire.send(parse("copy behind_copy from stdin"), bind(), execute(), FLUSH)
        assert [kind for kind, _ in wire.until("G")] == ["1", "2", "G"]
        wire.send(message("d", b"1\n"), message(end, b"" if end == "c" else b"no\0"),
                  parse("select 5", "x"), bind("x"), execute(), SYNC)
        seen.append(answers(wire))
    assert seen[0] == seen[1] == ("C 1 2 D C Z" if end == "c" else "E57014 Z")
    daemon.stop()


@pytest.mark.parametrize("end", ["c", "f"], ids=["done", "fail"])
def test_a_message_waits_and_then_for_a_copy(carpool, pg, gate, end):
    """First for the batch before, whose last answer and the COPY's first one come together."""
    relay = gate(pg.host, pg.port)
    daemon = carpool(postgres_pool(pg.url(host=relay.host, port=relay.port), size={"max": 1}))
    wire = daemon.wire()
    wire.run("create table if not exists behind_copy (a int)")
    relay.pause(TO_CLIENT)
    wire.send(query("select 1"), query("select pg_sleep(0.2)"), parse("select 5", "x"), SYNC,
              parse("copy behind_copy from stdin"), bind(), execute(), message("d", b"1\n"),
              message(end, b"" if end == "c" else b"no\0"), bind("x"), execute(), SYNC)
    wait_for(lambda: pg.value("select count(*) from pg_stat_activity where query like 'copy behind%'"
                              " and state = 'active' and wait_event = 'ClientRead'"), what="the COPY")
    relay.resume()
    assert [answers(wire) for _ in range(3)] == ["T D C Z", "T D C Z", "1 Z"]
    assert answers(wire) == ("1 2 G C 2 D C Z" if end == "c" else "1 2 G E57014 Z")
    daemon.stop()


def test_flush_shows_answers_at_once(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    b.send(parse("select 1", "x"), SYNC)
    assert answers(b) == "1 Z"
    a.send(parse("select 1", "y"), FLUSH)
    assert a.receive()[0] == "1"
    a.send(describe("S", "y"), FLUSH)
    assert [a.receive()[0] for _ in range(2)] == ["t", "T"]
    a.send(close("S", "y"), FLUSH)
    assert a.receive()[0] == "3"
    a.send(SYNC)
    assert answers(a) == "Z"
    daemon.stop()
