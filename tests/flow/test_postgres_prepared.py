# SPDX-License-Identifier: MIT
"""Prepared statements in transaction mode: a client's statements follow it from server to server.

Most tests use a pool of one server and several clients: whatever would stay behind on the server, or
be missed on it, meets somebody else there.
"""

import asyncio

import asyncpg
import pytest
from harness.carpool import postgres_pool
from harness.pgwire import SYNC, Wire, bind, close, describe, execute, parse, query
from harness.postgres import PASSWORD
from harness.prepared import answers, message_of, rows, wire_code


def names_on_server(wire):
    wire.send(query("select name from pg_prepared_statements order by name"))
    return [r[0] for r in rows(wire)]


def test_two_clients_with_the_same_name_and_different_texts(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 'a' || $1::text", "get"), SYNC)
    assert answers(a) == "1 Z"
    b.send(parse("select 'b' || $1::text", "get"), SYNC)
    assert answers(b) == "1 Z"
    for _ in range(3):
        a.send(bind("get", values=["1"]), execute(), SYNC)
        b.send(bind("get", values=["2"]), execute(), SYNC)
        assert rows(a) == [["a1"]]
        assert rows(b) == [["b2"]]
    daemon.stop()


def test_clients_share_one_statement_on_the_server(shared):
    daemon = shared()
    wires = [daemon.wire() for _ in range(5)]
    for n, wire in enumerate(wires):
        wire.send(parse("select $1::int + 1", f"name{n}"), describe("S", f"name{n}"), SYNC)
        assert answers(wire) == "1 t T Z"
        wire.send(bind(f"name{n}", values=[str(n)]), execute(), SYNC)
        assert rows(wire) == [[str(n + 1)]]
    assert len(names_on_server(wires[0])) == 1
    daemon.stop()


def test_a_statement_reaches_every_server(carpool, pg, workers):
    daemon = carpool(postgres_pool(pg.url(), size={"min": 0, "max": 4}), workers=workers)
    wires = [daemon.wire() for _ in range(4)]
    for n, wire in enumerate(wires):
        wire.send(parse("select pg_backend_pid(), $1::int", "q"), SYNC)
        assert answers(wire) == "1 Z"
    for wire in wires:  # all four servers in use at once
        wire.send(query("begin"))
        assert answers(wire) == "C Z"
    pids = set()
    for n, wire in enumerate(wires):
        wire.send(bind("q", values=[str(n)]), execute(), SYNC)
        [(pid, value)] = rows(wire)
        pids.add(pid)
        assert value == str(n)
    assert len(pids) == 4
    daemon.stop()


def test_errors_speak_of_the_clients_own_names(shared):
    daemon = shared()
    wire = daemon.wire()
    wire.send(parse("select 1", "mine"), SYNC)
    assert answers(wire) == "1 Z"
    wire.send(parse("select 2", "mine"), SYNC)
    kinds = wire.until("Z")
    assert wire_code(kinds[0][1]) == "42P05"
    assert message_of(kinds[0][1]) == 'prepared statement "mine" already exists'
    wire.send(bind("nobody's"), execute(), SYNC)
    kinds = wire.until("Z")
    assert message_of(kinds[0][1]) == 'prepared statement "nobody\'s" does not exist'
    wire.send(bind("mine", values=["1"]), execute(), SYNC)
    kinds = wire.until("Z")
    assert (wire_code(kinds[0][1]), message_of(kinds[0][1])) == (
        "08P01",
        'bind message supplies 1 parameters, but prepared statement "mine" requires 0')
    wire.send(parse("selec", "other"), SYNC)
    assert answers(wire) == "E42601 Z"
    wire.send(bind("other"), execute(), SYNC)
    kinds = wire.until("Z")
    assert message_of(kinds[0][1]) == 'prepared statement "other" does not exist'
    daemon.stop()


def test_of_several_names_for_a_text_an_error_speaks_of_the_right_one(shared):
    daemon = shared()
    wire = daemon.wire()
    names = [f"name {n}" for n in range(5)]
    wire.send(*(parse("select 1", name) for name in names), SYNC)
    assert answers(wire) == "1 1 1 1 1 Z"
    for name in names:
        wire.send(parse("select 2", name), SYNC)
        assert message_of(wire.until("Z")[0][1]) == f'prepared statement "{name}" already exists'
    daemon.stop()


def test_names_of_ours_cannot_be_guessed_into(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 'secret'", "x"), SYNC)
    assert answers(a) == "1 Z"
    [ours] = names_on_server(a)
    b.send(bind(ours), execute(), SYNC)
    assert answers(b) == "E26000 Z"
    b.send(close("S", ours), SYNC)
    assert answers(b) == "3 Z"
    a.send(bind("x"), execute(), SYNC)
    assert rows(a) == [["secret"]]
    b.send(parse("select 'mine'", ours), bind(ours), execute(), SYNC)
    assert rows(b) == [["mine"]]
    daemon.stop()


def test_close_is_the_clients_alone(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    for wire in (a, b):
        wire.send(parse("select 7", "s"), SYNC)
        assert answers(wire) == "1 Z"
    a.send(close("S", "s"), SYNC)
    assert answers(a) == "3 Z"
    a.send(bind("s"), execute(), SYNC)
    assert answers(a) == "E26000 Z"
    b.send(bind("s"), execute(), SYNC)
    assert rows(b) == [["7"]]
    a.send(parse("select 8", "s"), bind("s"), execute(), SYNC)
    assert rows(a) == [["8"]]
    daemon.stop()


@pytest.mark.parametrize("what,first,then", [
    ("P", "1 2 D s 3 E34000 Z", "2 D D D D C Z"), ("S", "1 2 D s 3 D s Z", "E26000 Z")],
    ids=["portal", "statement"])
def test_portal_and_statement_of_one_name(shared, pg, what, first, then):
    """They are two things: one is closed, the other is still there."""
    daemon = shared()
    for wire in (Wire(pg.host, pg.port, password=PASSWORD), daemon.wire()):
        wire.send(parse("select generate_series(1, 4)", "x"), bind("x", "x"), execute("x", 1),
                  close(what, "x"), execute("x", 1), SYNC, bind("x"), execute(), SYNC)
        assert (answers(wire), answers(wire)) == (first, then)
    daemon.stop()


@pytest.fixture
def namesakes(pg):
    """Tables of one name in two schemas, with a column of one name and two types. One schema is named as
    a role, and the server looks there first for that role."""
    pg.query("grant bounded to app")
    pg.query("create schema bounded; create table bounded.namesake (v text);"
             "insert into bounded.namesake values ('a word'); grant usage on schema bounded to public;"
             "create table public.namesake (v int); insert into public.namesake values (1);"
             "grant select on bounded.namesake, public.namesake to public", db="orders")
    yield
    pg.query("drop schema bounded cascade; drop table public.namesake", db="orders")


@pytest.mark.parametrize("sql", ["set search_path = bounded", "set role bounded"])
def test_one_text_and_two_tables(shared, namesakes, sql):
    """What a name means depends on settings that no server reports: such statements are not shared."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    b.send(query(sql))
    assert answers(b) == "C Z"
    for wire in (a, b):
        wire.send(parse("select v from namesake", "get"), SYNC)
        assert answers(wire) == "1 Z"
    for _ in range(2):
        for wire, want in ((a, "1"), (b, "a word")):
            wire.send(bind("get"), execute(), SYNC)
            assert rows(wire) == [[want]]
            wire.send(parse("select v from namesake"), bind(), execute(), SYNC)
            assert rows(wire) == [[want]]
    assert len(names_on_server(a)) == 2
    daemon.stop()


def test_unnamed_statement_is_found_on_another_server(shared):
    """Parse and Sync first, Bind later: in between another client had the server."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 'a' || $1::text"), describe("S"), SYNC)
    assert answers(a) == "1 t T Z"
    b.send(parse("select 'b'"), bind(), execute(), SYNC)
    assert rows(b) == [["b"]]
    a.send(bind(values=["1"]), execute(), SYNC)
    assert rows(a) == [["a1"]]
    b.send(describe("S"), SYNC)
    assert answers(b) == "t T Z"
    daemon.stop()


def test_unnamed_statement_of_somebody_else_is_nobodys(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 'a'"), SYNC)
    assert answers(a) == "1 Z"
    b.send(bind(), execute(), SYNC)
    kinds = b.until("Z")
    assert wire_code(kinds[0][1]) == "26000"
    assert message_of(kinds[0][1]) == "unnamed prepared statement does not exist"
    a.send(query("select 1"))  # ends it, as a server would
    assert answers(a) == "T D C Z"
    a.send(bind(), execute(), SYNC)
    assert answers(a) == "E26000 Z"
    daemon.stop()


def test_the_bound_of_each_server(shared):
    daemon = shared(size={"statements": 4})
    wire = daemon.wire()
    for n in range(20):
        wire.send(parse(f"select {n}", f"s{n}"), bind(f"s{n}"), execute(), SYNC)
        assert rows(wire) == [[str(n)]]
        assert len(names_on_server(wire)) <= 5
    for n in range(20):
        wire.send(bind(f"s{n}"), execute(), SYNC)
        assert rows(wire) == [[str(n)]]
    assert len(names_on_server(wire)) <= 5
    # More in one batch than the server may keep: kept until the batch is over.
    wire.send(*(m for n in range(20) for m in (bind(f"s{n}"), execute())), SYNC)
    assert rows(wire) == [[str(n)] for n in range(20)]
    daemon.stop()


def test_the_bound_of_texts_on_each_server(one):
    """Few, but long ones: the oldest go, and are there again when they are used."""
    daemon = one(size={"statement_bytes": "64KiB"})
    wire = daemon.wire()
    for _ in range(2):
        for n in range(20):
            wire.send(parse(f"select {n} -- {'x' * 10_000}"), bind(), execute(), SYNC)
            assert rows(wire) == [[str(n)]]
    for n in range(20):
        wire.send(parse(f"select {n} -- {'x' * 10_000}", f"s{n}"), bind(f"s{n}"), execute(), SYNC)
        assert rows(wire) == [[str(n)]]
        assert len(names_on_server(wire)) <= 7 + 1
    for n in range(20):
        wire.send(bind(f"s{n}"), execute(), SYNC)
        assert rows(wire) == [[str(n)]]
    assert len(names_on_server(wire)) <= 7 + 1
    daemon.stop()


def test_too_many_of_one_client(shared):
    daemon = shared(limits={"statements": 3})
    a, b = daemon.wire(), daemon.wire()
    for n in range(3):
        a.send(parse(f"select {n}", f"s{n}"), SYNC)
        assert answers(a) == "1 Z"
    a.send(parse("select 4", "s4"), SYNC)
    kind, body = a.receive()
    assert kind == "E" and wire_code(body) == "54000" and "limits.statements" in message_of(body)
    b.send(query("select 1"))
    assert rows(b) == [["1"]]
    daemon.stop()


def test_settings_that_change_what_a_text_means(shared):
    """The literal was understood under one time zone: another client's zone makes another plan."""
    daemon = shared()
    a, b = daemon.wire(TimeZone="UTC"), daemon.wire(TimeZone="Asia/Tokyo")
    sql = "select extract(epoch from timestamptz '2024-01-01 00:00')::int"
    for wire in (a, b):
        wire.send(parse(sql, "t"), SYNC)
        assert answers(wire) == "1 Z"
    for _ in range(2):
        a.send(bind("t"), execute(), SYNC)
        b.send(bind("t"), execute(), SYNC)
        assert rows(a) == [["1704067200"]]
        assert rows(b) == [[str(1704067200 - 9 * 3600)]]
    daemon.stop()


def test_setting_changed_in_the_same_breath(shared):
    daemon = shared()
    a, b = daemon.wire(TimeZone="UTC"), daemon.wire(TimeZone="UTC")
    sql = "select extract(epoch from timestamptz '2024-01-01 00:00')::int"
    a.send(query("set timezone = 'Asia/Tokyo'"), parse(sql, "t"), SYNC, bind("t"), execute(), SYNC)
    assert (answers(a), answers(a)) == ("C Z", "1 Z")
    assert rows(a) == [[str(1704067200 - 9 * 3600)]]
    b.send(parse(sql, "t"), bind("t"), execute(), SYNC)
    assert rows(b) == [["1704067200"]]
    daemon.stop()


def test_results_that_changed_are_cured_by_the_next_use(carpool, pg):
    daemon = carpool(postgres_pool(pg.url(), size={"min": 0, "max": 3}))
    with daemon.connect() as conn:
        conn.execute("drop table if exists changing")
        conn.execute("create table changing (a int)")
        conn.execute("insert into changing values (1)")
    wires = [daemon.wire() for _ in range(3)]
    for wire in wires:
        wire.send(parse("select * from changing", "c"), SYNC)
        assert answers(wire) == "1 Z"
        wire.send(query("begin"), bind("c"), execute(), SYNC)
        assert answers(wire) == "C Z"
        assert rows(wire) == [["1"]]
    for wire in wires:
        wire.send(query("commit"))
        assert answers(wire) == "C Z"
    with daemon.connect() as conn:
        conn.execute("alter table changing add b int default 2")
    failures = 0
    for _ in range(3):
        for wire in wires:
            wire.send(query("begin"), bind("c"), execute(), SYNC)
            assert answers(wire) == "C Z"
            got = answers(wire)
            assert got in ("2 D C Z", "E0A000 Z")
            failures += got == "E0A000 Z"
        for wire in wires:
            wire.send(query("rollback"))
            assert answers(wire) == "C Z"
    assert failures <= 3, "each transaction under way may fail once"
    daemon.stop()


def test_server_lost_and_the_statements_live_on(shared, pg):
    daemon = shared()
    wire = daemon.wire()
    wire.send(parse("select pg_backend_pid()", "p"), bind("p"), execute(), SYNC)
    [[pid]] = rows(wire)
    pg.terminate()
    for _ in range(3):  # the loss may be told first
        wire.send(bind("p"), execute(), SYNC)
        got = rows(wire)
        if got:
            break
    assert got and got[0][0] != pid
    daemon.stop()


def test_a_very_long_statement_keeps_its_server(one):
    daemon = one()
    a = daemon.wire()
    text = "select '" + "x" * 100_000 + "'"
    a.send(parse(text, "long"), SYNC)
    assert answers(a) == "1 Z"
    a.send(bind("long"), execute(), SYNC)
    assert len(rows(a)[0][0]) == 100_000
    a.send(parse(text), bind(), execute(), SYNC)
    assert len(rows(a)[0][0]) == 100_000
    a.close()
    b = daemon.wire()
    b.send(query("select 1"))
    assert rows(b) == [["1"]]
    daemon.stop()


def test_not_shared_on_request(shared):
    """size.statements: 0 keeps a client that prepares on its server."""
    daemon = shared(size={"statements": 0, "acquire_timeout": "1s", "min": 1})
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 1", "s"), SYNC)
    assert answers(a) == "1 Z"
    assert names_on_server(a) == ["s"]
    b.send(query("select 1"))
    assert answers(b) == "E53300 Z"
    daemon.stop()


@pytest.mark.parametrize("name", ["s", "cp_1", "cp_0"])
def test_names_stay_as_they_are_where_nothing_is_shared(one, name):
    daemon = one(size={"statements": 0})
    wire = daemon.wire()
    wire.send(parse("select $1::int", name), SYNC)
    assert answers(wire) == "1 Z"
    wire.send(describe("S", name), bind(name, values=["1"]), execute(), SYNC)
    assert answers(wire) == "t T 2 D C Z"
    assert names_on_server(wire) == [name]
    wire.send(parse("select 2", name), SYNC, close("S", name), parse("select 3", name), SYNC,
              query(f"deallocate {name}"), bind(name), SYNC)
    assert [answers(wire) for _ in range(4)] == ["E42P05 Z", "3 1 Z", "C Z", "E26000 Z"]
    daemon.stop()


@pytest.mark.parametrize("trickle", [False, True], ids=["whole", "bytes"])
def test_many_shapes_of_messages(shared, trickle):
    daemon = shared()
    a, b = daemon.wire(trickle=trickle), daemon.wire()
    long = "n" * 300
    for _ in range(2):
        a.send(parse("select $1::text", long), bind(long, portal="p" * 100, values=["v" * 3000]),
               execute("p" * 100), close("S", long), SYNC)
        assert answers(a) == "1 2 D C 3 Z"
        b.send(parse("select 2", long), bind(long), execute(), close("S", long), SYNC)
        assert answers(b) == "1 2 D C 3 Z"
    daemon.stop()


# ---- drivers, as they come


def test_psycopg_prepares_by_itself(one):
    daemon = one()
    with daemon.connect() as a, daemon.connect() as b:
        for conn in (a, b):
            conn.prepare_threshold = 1
            conn.prepared_max = 3
        for n in range(40):
            for conn in (a, b):
                with conn.transaction():
                    assert conn.execute(f"select {n % 5}, %s::int", (n,)).fetchone() == (n % 5, n)
    daemon.stop()


def test_asyncpg_with_its_statement_cache(shared):
    daemon = shared()

    async def client(n):
        conn = await asyncpg.connect(host="127.0.0.1", port=daemon.port(), user="app",
                                     database="orders")
        for turn in range(20):
            assert await conn.fetchval("select $1::int * 2", n + turn) == 2 * (n + turn)
            assert await conn.fetchval("select $1::text", "x") == "x"
        statement = await conn.prepare("select $1::int + $2::int")
        assert await statement.fetchval(1, 2) == 3
        await conn.close()

    async def main():
        await asyncio.gather(*(client(n) for n in range(6)))

    asyncio.run(main())
    daemon.stop()


def test_closed_while_its_transaction_is_lost(one):
    """What was closed may be prepared again under its name."""
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("select 1", "x"), SYNC)
    assert answers(a) == "1 Z"
    pid = a.run("begin; select pg_backend_pid()")[0][0][0]
    a.run(f"select pg_terminate_backend({pid})")
    a.send(close("S", "x"), SYNC)
    assert answers(a) == "3 Z"
    assert a.run("rollback")[1] == ["ROLLBACK"]
    a.send(parse("select 2", "x"), bind("x"), execute(), SYNC)
    assert answers(a) == "1 2 D C Z"
