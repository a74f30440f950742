# SPDX-License-Identifier: MIT
"""Session state in transaction mode: settings follow the client, the rest keeps it on its server.

A pool of one server: what one client leaves there, the next one would find.
"""

import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.pgwire import SYNC, Wire, bind, close, execute, parse, query, row
from harness.postgres import PASSWORD
from harness.relays import TO_SERVER


@pytest.fixture
def one(carpool, pg):
    def make(**over):
        size = {"min": 1, "max": 1, "acquire_timeout": "1s", **over.pop("size", {})}
        return carpool(postgres_pool(pg.url(), size=size, **over))
    return make


def value(wire, sql):
    rows, _, error, _ = wire.run(sql)
    assert error is None, error
    return rows[0][0]


def show(wire, name):
    return value(wire, f"select current_setting('{name}', true)")


# ---- settings


@pytest.mark.parametrize("sql, name, want", [
    ("set client_min_messages to warning", "client_min_messages", "warning"),
    ("SET SESSION statement_timeout = '7s'", "statement_timeout", "7s"),
    ("set lock_timeout=1234", "lock_timeout", "1234ms"),
    ("set search_path = pg_catalog, public", "search_path", "pg_catalog, public"),
    ("set my.tenant = 'O''Brien \\ co'", "my.tenant", "O'Brien \\ co"),
    ("select set_config('my.tenant', 'x', false)", "my.tenant", "x"),
    ("set role bounded", "role", "bounded"),
    ("begin; set lock_timeout = 5; commit", "lock_timeout", "5ms"),
    ("set session characteristics as transaction isolation level serializable",
     "default_transaction_isolation", "serializable"),
    ("set time zone 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo"),
])
@pytest.mark.parametrize("extended", [False, True], ids=["query", "extended"])
def test_a_setting_follows_its_client(shared, pg, sql, name, want, extended):
    if "role" in sql:
        pg.query("grant bounded to app")
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    before = show(b, name)
    if extended and ";" not in sql:
        a.send(parse(sql), bind(), execute(), SYNC)
        assert a.results()[2] is None
    else:
        assert a.run(sql)[2] is None
    for _ in range(2):
        assert show(a, name) == want
        assert show(b, name) in (before, ""), "a client finds another client's setting"
    daemon.stop()


def test_a_setting_that_was_rolled_back_does_not_follow(one):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    a.run("begin")
    a.run("set statement_timeout = '7s'")
    a.run("rollback")
    assert show(b, "statement_timeout") == "0"
    assert show(a, "statement_timeout") == "0"
    a.run("begin")
    a.run("set local statement_timeout = '8s'")
    assert show(a, "statement_timeout") == "8s"
    a.run("commit")
    assert show(a, "statement_timeout") == "0"
    daemon.stop()


def test_a_prepared_set_follows_too(shared):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse("set lock_timeout = 99", "s"), SYNC)
    assert a.results()[2] is None
    assert show(b, "lock_timeout") == "0"
    a.send(bind("s"), execute(), SYNC)
    assert a.results()[2] is None
    assert show(b, "lock_timeout") == "0"
    assert show(a, "lock_timeout") == "99ms"
    daemon.stop()


@pytest.mark.parametrize("sql", ["reset all", "discard all"])
def test_reset_returns_to_what_the_client_came_with(shared, sql):
    """Not to what carpool's own login has."""
    daemon = shared()
    a = daemon.wire(application_name="mine", TimeZone="Asia/Tokyo", search_path="pg_catalog")
    b = daemon.wire()
    a.run("set application_name = 'other'")
    a.run("set lock_timeout = 5")
    a.run("set search_path = public")
    a.send(query(sql))
    told = {}
    for kind, body in a.until("Z"):
        if kind == "S":
            name, told_value = body.split(b"\0")[:2]
            told[name.decode()] = told_value.decode()
    assert told == {"application_name": "mine"}
    for _ in range(2):
        assert show(a, "application_name") == "mine"
        assert show(a, "TimeZone") == "Asia/Tokyo"
        assert show(a, "search_path") == "pg_catalog"
        assert show(a, "lock_timeout") == "0"
        assert show(b, "application_name") != "mine"
    daemon.stop()


@pytest.mark.parametrize("sqls", [
    ["set role bounded", "reset all"], ["begin; set role bounded; reset all; commit"],
    ["set role bounded", "begin; reset all; rollback"],
    ["begin; set role bounded", "reset all", "select 1", "commit"]])
def test_reset_all_leaves_the_role(one, pg, sqls):
    pg.query("grant bounded to app")
    daemon = one()
    a, b = daemon.wire(search_path="pg_catalog"), daemon.wire()
    for direct in (Wire(pg.host, pg.port, password=PASSWORD), a):
        for sql in sqls:
            assert direct.run(sql)[2] is None
        for _ in range(2):
            assert direct.run("select current_user")[0] == [["bounded"]]
            assert b.run("select current_user")[0] == [["app"]]
    assert a.run("discard all")[2] is None
    assert a.run("select current_user")[0] == [["app"]]
    daemon.stop()


def test_reset_inside_a_transaction(one):
    daemon = one()
    a = daemon.wire(TimeZone="Asia/Tokyo", search_path="pg_catalog")
    a.run("begin")
    a.run("set timezone = 'UTC'")
    a.run("reset timezone")
    assert show(a, "TimeZone") == "Asia/Tokyo"
    a.run("reset all")
    assert show(a, "search_path") == "pg_catalog"
    a.run("rollback")
    assert show(a, "TimeZone") == "Asia/Tokyo"
    assert show(a, "search_path") == "pg_catalog"
    daemon.stop()


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("extended", [False, True], ids=["query", "extended"])
@pytest.mark.parametrize("sql", ["reset all", "set timezone to default", "discard all"])
def test_what_is_sent_behind_a_reset(one, mode, extended, sql):
    """In the same breath: the client's own settings hold for that, too."""
    daemon = one(mode=mode)
    a = daemon.wire(TimeZone="Asia/Tokyo", search_path="pg_catalog")
    a.run("set timezone = 'UTC'")
    reset = [parse(sql), bind(), execute(), SYNC] if extended else [query(sql)]
    show_zone = [parse("show timezone"), bind(), execute(), SYNC]
    a.send(*reset, *show_zone, query("show search_path"), *reset, query("begin; show timezone"), query("commit"))
    heard = [[row(body) for kind, body in a.until("Z") if kind == "D"] for _ in range(6)]
    assert heard == [[], [["Asia/Tokyo"]], [["pg_catalog"]], [], [["Asia/Tokyo"]], []]
    daemon.stop()


@pytest.mark.parametrize("sqls", [
    ("select 1/0; reset search_path", "reset lock_timeout"),
    ("set lock_timeout = 5", "begin; set search_path to default; rollback"),
    ("set lock_timeout = 5", "select 1/0; set search_path to default"),
], ids=["failed before", "rolled back behind", "failed behind"])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_reset_that_was_not_done_does_not_count(one, mode, sqls):
    """Nor is it taken for another one, of a query that was sent in the same breath."""
    daemon = one(mode=mode)
    a = daemon.wire(search_path="pg_catalog")
    a.run("set search_path = public")
    a.send(*map(query, sqls))
    for _ in sqls:
        a.until("Z")
    assert show(a, "search_path") == "public"
    daemon.stop()


@pytest.mark.parametrize("over", [{}, {"mode": "session"}, {"size": {"statements": 0}}],
                         ids=["transaction", "session", "not shared"])
def test_a_reset_that_is_prepared_by_name(one, over):
    daemon = one(**over)
    a = daemon.wire(application_name="mine", TimeZone="Asia/Tokyo", search_path="pg_catalog")
    sqls = {"zone": "set timezone to default", "path": "reset search_path", "all": "reset all", "one": "select 1"}
    a.send(*(parse(sql, name) for name, sql in sqls.items()), SYNC)
    assert a.results()[2] is None
    for names in (["zone", "path"], ["all"]):
        for _ in range(2):
            a.run("set timezone = 'Europe/Rome'")
            a.run("set search_path = public")
            for name in [*names, "one"]:
                a.send(bind(name), execute(), SYNC)
                assert a.results()[2] is None
            assert show(a, "TimeZone") == "Asia/Tokyo"
            assert show(a, "search_path") == "pg_catalog"
            assert show(a, "application_name") == "mine"
    # Names can be given again.
    a.send(close("S", "all"), parse("select 2", "all"), SYNC)
    assert a.results()[2] is None
    a.run("set search_path = public")
    a.send(bind("all"), execute(), SYNC)
    assert a.results()[0] == [["2"]]
    assert show(a, "search_path") == "public"
    daemon.stop()


def test_reset_in_session_mode(one):
    daemon = one(mode="session")
    a = daemon.wire(application_name="mine", search_path="pg_catalog")
    a.run("discard all")
    assert show(a, "application_name") == "mine"
    assert show(a, "search_path") == "pg_catalog"
    daemon.stop()


def test_settings_that_trickle_in_are_followed(orders, pg, gate):
    """What the server says it has set comes in single bytes: it is understood, and nobody is pinned."""
    relay = gate(pg.host, pg.port)
    relay.trickle()
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1})
    a, b = daemon.wire(), daemon.wire()
    for n in range(5):
        assert a.run(f"set my.tenant = 'tenant {n}'")[2] is None
        assert show(b, "my.tenant") in (None, "")
        assert show(a, "my.tenant") == f"tenant {n}"
    daemon.stop()


def test_client_that_leaves_while_its_settings_are_asked_for(orders, pg, gate):
    """The server is reset behind it, not dropped."""
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1},
                    check={"timeout": "30s"})
    b = daemon.wire()
    pid = value(b, "select pg_backend_pid()")
    with Wire(pg.host, pg.port, password=PASSWORD) as holder:
        holder.run("begin; select pg_advisory_xact_lock(4711)")
        a = daemon.wire()
        a.send(query("select set_config('my.tenant', 'mine', false)"
                     " from (select pg_advisory_xact_lock(4711)) x"))
        wait_for(lambda: pg.active("select set_config(%"), what="the statement to run")
        relay.pause(TO_SERVER)  # what is asked behind it does not get there
        holder.run("commit")
    assert a.results()[0] == [["mine"]]
    a.close()
    wait_for(lambda: daemon.servers(state="checking") == 1, what="the server to be reset")
    relay.resume()
    assert value(b, "select pg_backend_pid()") == pid
    assert show(b, "my.tenant") in (None, "")
    daemon.stop()


def test_server_that_is_lost_while_it_is_set_for_a_client(orders, pg, gate):
    """Nothing of the client's has reached it: another one is set, and the client never knows."""
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"min": 1, "max": 1})
    with daemon.wire(search_path="pg_catalog, public") as wire:
        wait_for(lambda: daemon.servers(state="idle") == 1, what="the server to be idle")
        accepted = relay.accepted
        relay.pause(TO_SERVER)
        wire.send(query("show search_path"))
        wait_for(lambda: daemon.json("/clients")["clients"][0]["state"] == "active",
                 what="the settings to be on their way")
        relay.cut()
        relay.resume()
        assert wire.results() == ([["pg_catalog, public"]], ["SHOW"], None, "I")
        assert relay.accepted == accepted + 1
    assert daemon.all_errors() == {}


@pytest.mark.parametrize("wish", ["German", "sql, european", "iso,ymd", "postgres"])
def test_date_style_is_told_as_the_server_tells_it(shared, pg, wish):
    daemon = shared()
    with Wire(pg.host, pg.port, password=PASSWORD, DateStyle=wish) as direct, \
            daemon.wire(DateStyle=wish) as wire:
        assert wire.parameters["DateStyle"] == direct.parameters["DateStyle"]
        assert show(wire, "DateStyle") == direct.parameters["DateStyle"]
    daemon.stop()


# ---- what cannot follow

STATE = [
    ("create temp table t (a int)", "a temporary table"),
    ("CREATE  /* x */ TEMPORARY VIEW v AS SELECT 1", "a temporary table"),
    ("begin; declare c cursor with hold for select 1; commit", None),
    ("select pg_advisory_lock(1)", "an advisory lock"),
    ("select pg_try_advisory_lock_shared(2)", "an advisory lock"),
    ("listen news", "LISTEN"),
    ("prepare p as select 1", "prepared in SQL"),
    ("set session authorization app", "cannot be followed"),
    ("select ';', E'\\';', $a$;$a$; listen news", "LISTEN"),
    ("select 1; create temp table t (a int)", "a temporary table"),
]


@pytest.mark.parametrize("sql, why", STATE)
def test_state_keeps_its_server(shared, sql, why):
    daemon = shared()
    a, b = daemon.wire(), daemon.wire()
    blocks = daemon.pool_config()["mode"] == "transaction"
    for part in sql.split("; ") if why is None and blocks else [sql]:
        assert a.run(part)[2] is None
    rows, _, error, _ = b.run("select 1")
    assert error is not None and error.code == "53300", "the server should be kept"
    pid = value(a, "select pg_backend_pid()")
    assert value(a, "select pg_backend_pid()") == pid
    a.run("discard all")
    assert b.run("select 1")[0] == [["1"]]
    assert a.run("select 1")[0] == [["1"]]
    daemon.stop()


@pytest.mark.parametrize("sql", [
    "create temp table gone (a int) on commit drop", "create table if not exists ordinary (a int)", "select pg_advisory_xact_lock(1)",
    "set local lock_timeout = 5", "set transaction isolation level serializable",
    "select set_config('my.x', '1', true)", "declare c cursor for select 1", "set names 'UTF8'",
])
def test_what_ends_with_the_transaction_keeps_nothing(one, sql):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    a.run("begin")
    assert a.run(sql)[2] is None
    a.run("commit")
    assert b.run("select 1")[0] == [["1"]]
    daemon.stop()


def test_a_client_that_leaves_its_state_leaves_a_clean_server(shared):
    daemon = shared()
    a = daemon.wire()
    a.run("create temp table t (a int)")
    a.run("select pg_advisory_lock(77)")
    a.close()
    b = daemon.wire()
    wait_for(lambda: daemon.servers(state="busy") == 0, what="the server to come back")
    assert b.run("select * from t")[2].code == "42P01"
    assert value(b, "select count(*) from pg_locks where locktype = 'advisory'") == "0"
    daemon.stop()


@pytest.mark.parametrize("sql, why", STATE)
def test_state_refused(one, sql, why):
    daemon = one(session_state="refuse")
    a, b = daemon.wire(), daemon.wire()
    if why is None:
        a.run("begin")
        _, _, error, status = a.run(sql.split("; ")[1])
        assert status == "E"
        a.run("rollback")
    else:
        _, _, error, _ = refused(a, sql)
    assert error.code == "0A000" and "session_state" in str(error)
    assert why is None or why in str(error)
    assert b.run("select 1")[0] == [["1"]]
    assert b.run("select pg_advisory_unlock_all()")[2] is None
    daemon.stop()


def refused(wire, sql):
    """The error, whether the session goes on or ends with it."""
    wire.send(query(sql))
    rows, error = [], None
    for kind, body in wire.until("Z", "E"):
        if kind == "E":
            from harness.pgwire import PgError
            error = PgError(body)
    return rows, [], error, None


def test_refused_statements_leave_the_session_usable(shared):
    daemon = shared(session_state="refuse")
    a = daemon.wire()
    _, _, error, status = a.run("create temp table t (a int)")
    assert (error.code, status) == ("0A000", "I")
    a.send(parse("create temp table t (a int)", "s"), bind("s"), execute(), SYNC)
    assert a.results()[2].code == "0A000"
    a.send(parse("create temp table t (a int)"), bind(), execute(), SYNC)
    assert a.results()[2].code == "0A000"
    assert a.run("select 1")[0] == [["1"]]
    assert a.run("carpool_refused")[2].code == "42601"
    for words in [(query("create temp table t (a int)"), query("load 'plpgsql'")),
                  (parse("create temp table t (a int)"), SYNC, parse("load 'plpgsql'", "t"), SYNC)]:
        a.send(*words)
        for why in ("a temporary table", "a loaded library"):
            error = a.results()[2]
            assert error.code == "0A000" and why in error.fields["M"], error
    daemon.stop()


def test_state_allowed(shared):
    daemon = shared(session_state="allow")
    a, b = daemon.wire(), daemon.wire()
    a.run("create temp table t (a int)")
    assert b.run("select count(*) from t")[0] == [["0"]]
    daemon.stop()
