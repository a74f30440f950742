# SPDX-License-Identifier: MIT
"""What keeps a client on its server in transaction mode ends with its cause: the server is let go of, and
nothing is left on it. In doubt the client stays where it is.

A pool of one server: whether it is free, another client finds out.
"""

import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.pgwire import SYNC, bind, close, describe, execute, parse, query
from harness.prepared import answers


@pytest.fixture
def one(carpool, pg):
    def make(**over):
        size = {"min": 1, "max": 1, "acquire_timeout": "20s", **over.pop("size", {})}
        return carpool(postgres_pool(pg.url(), size=size, **over))
    return make


def well(wire, *statements):
    for sql in statements:
        error = wire.run(sql)[2]
        assert error is None, (sql, error)


def extended(wire, sql):
    wire.send(parse(sql), bind(), execute(), SYNC)
    error = wire.results()[2]
    assert error is None, (sql, error)


def pinned(daemon):
    """Why each of the clients keeps its server, of those that do."""
    return [row["pinned"] for row in daemon.json("/clients")["clients"] if row["pinned"]]


def is_free(daemon):
    wait_for(lambda: daemon.servers(state="busy") == 0, what="the server to be let go of")
    assert pinned(daemon) == []
    return True


def is_kept(daemon, why):
    assert daemon.servers(state="busy") == 1
    return why in pinned(daemon)[0]


ASYNCPG = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"

ENDS = [
    ("listen a", "unlisten *", "LISTEN"),
    ("listen a", " /* all */ UNLISTEN  * ;", "LISTEN"),
    ("select pg_advisory_lock(1), pg_advisory_lock_shared(2)", "select pg_advisory_unlock_all()", "lock"),
    ("select pg_advisory_lock(1)", "select pg_catalog.pg_advisory_unlock_all();", "lock"),
    ("declare c cursor with hold for select 1", "close all", "cursor"),
    ("declare c cursor with hold for select 1", "close c", "cursor"),
    ('declare "C d" cursor with hold for select 1', 'close "C d"', "cursor"),
    ("prepare p as select 1", "deallocate all", "prepared in SQL"),
    ("prepare p as select 1", "deallocate prepare all", "prepared in SQL"),
    ("create temp table pin (a int)", "discard temp", "temporary"),
    ("listen a; select pg_advisory_lock(1)", ASYNCPG, "lock"),
    ("listen a", "discard all", "LISTEN"),
]


@pytest.mark.parametrize("how", [well, extended], ids=["query", "extended"])
@pytest.mark.parametrize("cause, end, why", ENDS)
def test_a_pin_ends_with_its_cause(shared, pg, how, cause, end, why):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    well(a, cause)
    assert is_kept(daemon, why)
    (well if ";\n" in end else how)(a, end)
    assert is_free(daemon)
    assert b.run("select 1")[0] == [["1"]]
    # nothing of it is there for the next one
    assert b.run("select count(*) from pg_cursors where is_holdable")[0] == [["0"]]
    assert b.run("select count(*) from pg_listening_channels()")[0] == [["0"]]
    assert b.run("select count(*) from pg_prepared_statements where from_sql")[0] == [["0"]]
    assert b.run("select to_regclass('pg_temp.pin')")[0] == [[None]]
    assert pg.query("select 1 from pg_locks where locktype = 'advisory'") == []
    daemon.stop()


def test_close_of_its_portal_ends_a_cursor(shared, pg):
    """Of the last one; libpq 17 and what is built on it close cursors so."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    well(a, "declare c cursor with hold for select 1", 'declare "C" cursor with hold for select 2')
    for batch, last in (([close("P", "c")], False),
                        ([close("P", "nosuch"), close("S", "C")], False),
                        ([parse("selec"), close("P", "C")], False),  # is not done any more
                        ([close("P", "C")], True)):
        a.send(*batch, SYNC)
        a.until("Z")
        assert is_free(daemon) if last else is_kept(daemon, "cursor")
    assert b.run("select count(*) from pg_cursors where is_holdable")[0] == [["0"]]
    daemon.stop()


@pytest.mark.parametrize("how", [well, extended], ids=["query", "extended"])
def test_all_reasons_must_be_over(shared, how):
    daemon = shared()
    a = daemon.wire()
    well(a, "listen a", "select pg_advisory_lock(1)", "create temp table pin (a int)",
         "declare c cursor with hold for select 1", "declare d cursor with hold for select 1")
    for sql in ("unlisten *", "discard temp", "close c", "select pg_advisory_unlock_all()"):
        how(a, sql)
        assert is_kept(daemon, "")
    how(a, "close d")
    assert is_free(daemon)
    daemon.stop()


@pytest.mark.parametrize("cause, what", [
    ("listen a", ["unlisten a"]),
    ("select pg_advisory_lock(1)", ["select pg_advisory_unlock(1)"]),
    ("select pg_advisory_lock(1)", ["select pg_advisory_unlock_all() where false"]),
    ("select pg_advisory_lock(1)", ["select pg_advisory_unlock_all(); select 1"]),
    ("listen a", ["begin", "unlisten *", "rollback"]),
    ("listen a", ["begin", "savepoint s", "unlisten *", "rollback to s", "commit"]),
    ("listen a", ["begin", "unlisten *", "listen b", "commit"]),
    ("listen a", ["unlisten *; listen b"]),
    ("create temp table pin (a int)", ["begin", "discard temp", "rollback"]),
    ("create temp table pin (a int)", ["drop table pin"]),
    ("create temp table pin (a int)", ["discard plans", "discard sequences"]),
    ("declare c cursor with hold for select 1; declare d cursor with hold for select 1", ["close c"]),
    ("prepare p as select 1", ["deallocate p"]),
    ("listen a", ["close all", "deallocate all", "discard temp", "reset all"]),
])
def test_in_doubt_it_stays(one, cause, what):
    daemon = one()
    a = daemon.wire()
    well(a, cause)
    well(a, *what)
    assert is_kept(daemon, "")
    well(a, "discard all")
    assert is_free(daemon)
    daemon.stop()


@pytest.mark.parametrize("sql", ["unlisten *; select 1/0", "select 1/0; unlisten *"])
def test_what_fails_ends_nothing(shared, sql):
    daemon = shared()
    a = daemon.wire()
    well(a, "listen a")
    assert a.run(sql)[2].code == "22012"
    assert is_kept(daemon, "LISTEN")
    daemon.stop()


@pytest.mark.parametrize("what", [["begin", "unlisten *", "commit"], ["begin", "unlisten *", "end"]])
def test_a_pin_ends_when_its_transaction_is_committed(one, what):
    daemon = one()
    a = daemon.wire()
    well(a, "listen a")
    for sql in what:
        assert is_kept(daemon, "LISTEN")
        well(a, sql)
    assert is_free(daemon)
    daemon.stop()


def test_what_waits_behind_the_end_counts(shared):
    """LISTEN is on its way already when the answer to UNLISTEN comes."""
    daemon = shared()
    a = daemon.wire()
    well(a, "listen a")
    a.send(query("unlisten *"), query("listen b"))
    assert a.results()[1] == ["UNLISTEN"]
    assert a.results()[1] == ["LISTEN"]
    assert is_kept(daemon, "LISTEN")
    a.send(parse("unlisten *"), bind(), execute(), parse("listen c"), bind(), execute(), SYNC)
    assert a.results()[1] == ["UNLISTEN", "LISTEN"]
    assert is_kept(daemon, "LISTEN")
    daemon.stop()


def test_settings_of_a_pinned_client_follow_it_afterwards(shared):
    """They were not asked for while it kept its server."""
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    well(a, "listen a", "set my.tenant = 'mine'", "set statement_timeout = '7s'", "unlisten *")
    assert is_free(daemon)
    assert b.run("select current_setting('my.tenant', true)")[0] in ([[None]], [[""]])
    assert b.run("show statement_timeout")[0] == [["0"]]
    assert a.run("show my.tenant")[0] == [["mine"]]
    assert a.run("show statement_timeout")[0] == [["7s"]]
    daemon.stop()


def test_reset_behind_a_pin_goes_back_to_what_the_client_came_with(shared):
    """As asyncpg does when a connection goes back to its pool."""
    daemon = shared()
    a, b = daemon.wire(search_path="pg_catalog", lock_timeout="9s"), daemon.wire()
    well(a, "listen a", "set search_path = public", "set lock_timeout = '1s'", ASYNCPG)
    assert is_free(daemon)
    assert b.run("show search_path")[0] != [["pg_catalog"]]
    assert a.run("show search_path")[0] == [["pg_catalog"]]
    assert a.run("show lock_timeout")[0] == [["9s"]]
    daemon.stop()


@pytest.mark.parametrize("end", ["rollback", "commit"])
@pytest.mark.parametrize("reset", ["reset all", "reset statement_timeout"])
def test_reset_inside_a_transaction_counts_when_it_is_committed(one, reset, end):
    daemon = one()
    a, b = daemon.wire(search_path="pg_catalog"), daemon.wire()
    well(a, "set statement_timeout = '7s'", "set search_path = public", "begin", reset)
    assert a.run("show statement_timeout")[0] == [["0"]]
    well(a, end)
    kept = end == "rollback"
    for wire in (b, a, b, a):
        assert wire.run("show statement_timeout")[0] == ([["7s"]] if kept and wire is a else [["0"]])
    path = "public" if kept or reset != "reset all" else "pg_catalog"
    assert a.run("show search_path")[0] == [[path]]
    assert is_free(daemon)
    daemon.stop()


@pytest.mark.parametrize("undone", [True, False])
def test_reset_and_savepoints(one, undone):
    """Which side of the RESET the transaction was rolled back to, only the server knows: it is asked."""
    daemon = one()
    a, b = daemon.wire(search_path="pg_catalog"), daemon.wire()
    well(a, "set statement_timeout = '7s'", "set search_path = public", "begin")
    well(a, *(["savepoint s", "reset all"] if undone else ["reset all", "savepoint s"]))
    well(a, "rollback to s", "commit")
    assert is_free(daemon)
    for wire in (b, a, b, a):
        kept = undone and wire is a
        assert wire.run("show statement_timeout")[0] == ([["7s"]] if kept else [["0"]])
    assert a.run("show search_path")[0] == ([["public"]] if undone else [["pg_catalog"]])
    daemon.stop()


def test_reset_that_fails_with_its_query_changes_nothing(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    well(a, "set statement_timeout = '7s'")
    assert a.run("reset all; select 1/0")[2].code == "22012"
    assert b.run("show statement_timeout")[0] == [["0"]]
    assert a.run("show statement_timeout")[0] == [["7s"]]
    daemon.stop()


def test_reset_that_is_lost_with_its_server_changes_nothing(one, pg):
    daemon = one()
    a = daemon.wire()
    well(a, "set statement_timeout = '7s'", "begin", "reset all")
    pg.terminate()
    assert a.run("select 1")[2].code in ("08006", "25P02")
    well(a, "rollback")
    assert a.run("show statement_timeout")[0] == [["7s"]]
    daemon.stop()


@pytest.mark.parametrize("sql", ["set local transform_null_equals = on", "set transform_null_equals = on",
                                 "select set_config('transform_null_equals', 'on', true)"])
def test_what_is_read_under_a_local_setting_is_not_shared(one, sql):
    """`null = null` is another statement while transform_null_equals is on, which no server reports."""
    text = "select 1 where null::int = null"
    daemon = one()
    a, b = daemon.wire(), daemon.wire()

    def ask(wire, name):
        wire.send(bind(name), execute(), SYNC)
        rows, _, error, _ = wire.results()
        assert error is None, error
        return rows

    def prepare(wire, name):
        wire.send(parse(text, name), SYNC)
        assert wire.results()[2] is None

    prepare(b, "plain")
    assert ask(b, "plain") == []
    well(a, "begin", sql)
    prepare(a, "local")
    assert ask(a, "local") == [["1"]], "not what the other client has prepared"
    well(a, "rollback")
    prepare(b, "again")
    assert ask(b, "again") == ask(b, "plain") == [], "nor the other way round"
    daemon.stop()


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "pipelined"])
@pytest.mark.parametrize("behind", [[parse("select 1")], [parse("select 1"), close("S", "")],
                                    [parse("set work_mem = '7MB'"), parse("select 1")]],
                         ids=["parse", "parse and close", "two"])
def test_a_parse_that_is_discarded_hides_nothing(shared, behind, apart):
    """The unnamed statement that was there before is run: what it leaves counts."""
    daemon = shared()
    a = daemon.wire()
    a.send(parse("create temp table left_here (v int)"), SYNC)
    assert answers(a) == "1 Z"
    a.send(describe("P", "nosuch"), *behind, SYNC)
    if apart:
        assert answers(a) == "E34000 Z"
    a.send(bind(), execute(), SYNC)
    if not apart:
        assert answers(a) == "E34000 Z"
    assert answers(a) == "2 C Z"
    assert is_kept(daemon, "temporary table")


@pytest.mark.parametrize("name, first, value", [("DateStyle", "ISO", "German, DMY"),
                                                ("search_path", "public", "pg_catalog"),
                                                ("work_mem", "6MB", "'7MB'")])
@pytest.mark.parametrize("reset", ["reset all", "reset {}"])
def test_the_tag_of_a_set_is_not_that_of_a_reset(one, name, first, value, reset):
    """A RESET that waits behind a SET, and then is never done."""
    daemon = one()
    a, b = daemon.wire(options=f"-c {name}={first}"), daemon.wire()
    well(a, f"set {name} = {value}")
    a.send(query("set lock_timeout = 5000"), query("begin"), query("select 1/0"), query(reset.format(name)),
           query("rollback"))
    for _ in range(5):
        a.until("Z")
    well(b, "select 1")
    assert a.run(f"show {name}")[0] == [[value.strip("'")]]


def test_a_reset_that_is_bound_and_never_run(one):
    daemon = one()
    a = daemon.wire()
    well(a, "set DateStyle = German")
    a.send(parse("reset all", "r"), SYNC, parse("set local search_path = alt"), bind(), execute(), bind("r"),
           SYNC)
    assert answers(a) == "1 Z"
    assert "DateStyle" not in str([body for kind, body in a.until("Z") if kind == "S"])
    assert a.run("show DateStyle")[0] == [["German, DMY"]]


@pytest.mark.parametrize("reset", ["set role to default", "set role = default", "reset session_authorization",
                                   "set session_authorization to default",
                                   "set session authorization default", "reset session authorization"])
@pytest.mark.parametrize("failed", [False, True], ids=["first", "behind a failed one"])
def test_every_way_back_to_the_role_of_the_login(one, pg, reset, failed):
    """What is noted of the server's role is what it has: the next client is not to run as somebody else."""
    pg.query("grant bounded to app")
    daemon = one()
    a, b = [daemon.wire(options="-c role=bounded") for _ in range(2)]
    look = "select current_user::text"
    if failed:
        well(a, "begin")
        for sql in ("select 1/0", "reset all", "commit and chain"):
            a.run(sql)
    well(a, reset)
    assert a.run(look)[0] == [["bounded"]]
    a.run("commit")
    assert b.run(look)[0] == [["bounded"]]
    assert a.run(look)[0] == [["bounded"]]
