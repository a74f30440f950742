# SPDX-License-Identifier: MIT
"""DEALLOCATE and DISCARD ALL in SQL, of statements that were prepared by protocol, in transaction mode: for the
client that says it they end; whoever shares them keeps them.
"""

import pytest
from harness.pgwire import SYNC, bind, close, describe, execute, parse, query
from harness.prepared import answers, message_of, rows, wire_code


def prepare(wire, **texts):
    for name, text in texts.items():
        wire.send(parse(text, name), SYNC)
        assert answers(wire) == "1 Z"


@pytest.mark.parametrize("extended", [False, True], ids=["query", "extended"])
@pytest.mark.parametrize("name, spelled", [("s", "s"), ("s", "S"), ("S x", '"S x"')])
def test_deallocate_in_sql(shared, name, spelled, extended):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    for wire in (a, b):
        wire.send(parse("select 7", name), SYNC)
        assert answers(wire) == "1 Z"
    sql = f"deallocate {spelled}"
    a.send(*([parse(sql), bind(), execute(), SYNC] if extended else [query(sql)]))
    assert answers(a) == ("1 2 C Z" if extended else "C Z")
    a.send(bind(name), execute(), SYNC)
    assert answers(a) == "E26000 Z"
    b.send(bind(name), execute(), SYNC)
    assert rows(b) == [["7"]]
    daemon.stop()


def test_deallocate_that_fails_leaves_the_statement(one):
    daemon = one()
    wire = daemon.wire()
    wire.send(parse("select 7", "s"), SYNC)
    assert answers(wire) == "1 Z"
    wire.send(query("begin"), query("selec"), query("deallocate s"), query("rollback"))
    assert [answers(wire) for _ in range(4)] == ["C Z", "E42601 Z", "E25P02 Z", "C Z"]
    wire.send(bind("s"), execute(), SYNC)
    assert rows(wire) == [["7"]]
    daemon.stop()


@pytest.mark.parametrize("sql", ["deallocate all", "discard all"])
def test_forgetting_all(shared, sql):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    for wire in (a, b):
        wire.send(parse("select 7", "s"), SYNC)
        assert answers(wire) == "1 Z"
    a.send(query(sql))
    assert answers(a) == "C Z"
    a.send(bind("s"), execute(), SYNC)
    assert answers(a) == "E26000 Z"
    b.send(bind("s"), execute(), SYNC)
    assert rows(b) == [["7"]]
    # What comes behind it in the same breath is not forgotten.
    a.send(query(sql), parse("select 9", "s"), SYNC, bind("s"), execute(), SYNC)
    assert answers(a) == "C Z"
    assert answers(a) == "1 Z"
    assert rows(a) == [["9"]]
    daemon.stop()


def test_deallocate_among_other_statements(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    for wire in (a, b):
        prepare(wire, s="select 7", t="select 8", u="select 9")
    a.send(query("select 'x; deallocate u'; deallocate s;\n-- that\ndeallocate prepare \"t\"; select 1/1"))
    assert answers(a) == "T D C C C T D C Z"
    for name, want in (("s", "E26000 Z"), ("t", "E26000 Z"), ("u", "2 D C Z")):
        a.send(bind(name), execute(), SYNC)
        assert answers(a) == want
    for name, want in (("s", "7"), ("t", "8"), ("u", "9")):
        b.send(bind(name), execute(), SYNC)
        assert rows(b) == [[want]]
    daemon.stop()


def test_statements_before_an_error_end_what_they_name(shared):
    daemon = shared()
    wire = daemon.wire()
    prepare(wire, s="select 7", t="select 8")
    wire.send(query("deallocate s; select 1/0; deallocate t"))
    assert answers(wire) == "C E22012 Z"
    wire.send(bind("s"), execute(), SYNC, bind("t"), execute(), SYNC)
    assert [answers(wire), answers(wire)] == ["E26000 Z", "2 D C Z"]
    wire.send(query("deallocate s; select 1"))
    kinds = wire.until("Z")
    assert message_of(kinds[0][1]) == 'prepared statement "s" does not exist'
    daemon.stop()


@pytest.mark.parametrize("name", ["", "d"], ids=["unnamed", "named"])
def test_deallocate_that_was_prepared(shared, name):
    """It ends what the name means when it is run, as often as it is run."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    prepare(a, **{name: "deallocate s"})
    prepare(b, s="select 7")
    for text in ("select 7", "select 8"):
        a.send(query("select 1")) if name else None  # ends the unnamed one
        if name:
            assert answers(a) == "T D C Z"
        prepare(a, s=text)
        a.send(bind(name), execute(), SYNC, bind("s"), execute(), SYNC)
        assert [answers(a), answers(a)] == ["2 C Z", "E26000 Z"]
    a.send(bind(name), execute(), SYNC)
    kinds = a.until("Z")
    error = next(body for kind, body in kinds if kind == "E")
    assert (wire_code(error), message_of(error)) == ("26000", 'prepared statement "s" does not exist')
    b.send(bind("s"), execute(), SYNC)
    assert rows(b) == [["7"]]
    daemon.stop()


@pytest.mark.parametrize("name", ["", "d"], ids=["unnamed", "named"])
def test_deallocate_of_what_is_prepared_in_the_same_breath(shared, name):
    daemon = shared()
    wire = daemon.wire()
    wire.send(parse("deallocate s", name), parse("select 7", "s"), bind("s"), execute(), bind(name), execute(),
              bind("s"), SYNC)
    assert answers(wire) == "1 1 2 D C 2 C E26000 Z"
    wire.send(parse("deallocate s", name), SYNC, parse("select 7", "s"), SYNC, bind(name), execute(), SYNC,
              parse("select 8", "s"), bind("s"), execute(), SYNC)
    want = ["1 Z", "1 Z", "2 C Z", "1 2 D C Z"] if not name else ["E42P05 Z", "1 Z", "2 C Z", "1 2 D C Z"]
    assert [answers(wire) for _ in range(4)] == want
    daemon.stop()


ALL = ["deallocate all", "discard all", "select 1; deallocate all"]


@pytest.mark.parametrize("sql", ALL)
def test_all_behind_which_names_are_used(shared, sql):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    for wire in (a, b):
        prepare(wire, s="select 7")
    first = "C Z" if sql != ALL[2] else "T D C C Z"
    a.send(query(sql), bind("s"), execute(), SYNC, describe("S", "s"), SYNC, close("S", "s"), SYNC,
           parse("select 7", "s"), bind("s"), execute(), SYNC, parse("select 7", "t"), SYNC,
           bind("s"), execute(), bind("t"), execute(), SYNC)
    assert [answers(a) for _ in range(7)] == [first, "E26000 Z", "E26000 Z", "3 Z", "1 2 D C Z", "1 Z",
                                              "2 D C 2 D C Z"]
    b.send(bind("s"), execute(), SYNC)
    assert rows(b) == [["7"]]
    daemon.stop()


def test_all_by_a_client_that_has_prepared_nothing(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    prepare(a, s="select 7")
    b.send(query("discard all"), parse("select 7", "x"), SYNC, bind("x"), execute(), SYNC)
    assert [answers(b) for _ in range(3)] == ["C Z", "1 Z", "2 D C Z"]
    a.send(bind("s"), execute(), SYNC)
    assert rows(a) == [["7"]]
    daemon.stop()


@pytest.mark.parametrize("name", ["", "d"], ids=["unnamed", "named"])
def test_all_in_one_batch(shared, name):
    """Without a Sync behind it: what is prepared behind it stays."""
    daemon = shared()
    wire = daemon.wire()
    prepare(wire, s="select 7", t="select 8", **({"d": "deallocate all"} if name else {}))
    wire.send(*([] if name else [parse("deallocate all")]), bind(name), execute(), parse("select 7", "s"),
              bind("s"), execute(), SYNC, bind("s"), execute(), SYNC, bind("t"), execute(), SYNC)
    first = "2 C 1 2 D C Z" if name else "1 2 C 1 2 D C Z"
    assert [answers(wire) for _ in range(3)] == [first, "2 D C Z", "E26000 Z"]
    daemon.stop()


def test_all_that_fails(shared):
    daemon = shared()
    wire = daemon.wire()
    prepare(wire, s="select 7")
    wire.send(query("select 1; discard all"), bind("s"), execute(), SYNC)
    assert [answers(wire) for _ in range(2)] == ["T D C E25001 Z", "2 D C Z"]
    wire.send(query("selec; deallocate all"), parse("select 7", "s"), SYNC, bind("s"), execute(), SYNC)
    assert [answers(wire) for _ in range(3)] == ["E42601 Z", "E42P05 Z", "2 D C Z"]
    daemon.stop()
