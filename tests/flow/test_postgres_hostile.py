# SPDX-License-Identifier: MIT
"""Clients that mean harm, or mean well in odd ways: what one does must not reach another.

A pool of one server unless said otherwise: what one client leaves there, the next one would find.
"""

import threading

import pytest
from harness.carpool import postgres_pool
from harness.pgwire import SYNC, bind, describe, execute, message, parse, query, row


@pytest.fixture
def one(carpool, pg):
    def make(user="app", **over):
        size = {"min": 1, "max": 1, "acquire_timeout": "3s", **over.pop("size", {})}
        return carpool(postgres_pool(pg.url(user), size=size, **over))
    return make


@pytest.fixture
def as_root(pg):
    """A pool's own login that may set anything."""
    pg.query("do $$ begin create role root_app login superuser password 'secret-of-root'; "
             "exception when duplicate_object then null; end $$")
    return pg.url("root_app", "secret-of-root")


def ok(wire, sql):
    rows, tags, error, _ = wire.run(sql)
    assert error is None, error
    return rows


def value(wire, sql):
    return ok(wire, sql)[0][0]


def show(wire, name):
    return value(wire, f"select current_setting('{name}', true)")


def rows(wire):
    got, error = [], None
    for kind, body in wire.until("Z"):
        if kind == "D":
            got.append(row(body))
        elif kind == "E":
            error = body
    return error or got


# ---- settings and roles of one client on another


def test_rollback_behind_a_client_that_left_is_not_a_reset(one):
    """It ends the transaction; what the client had set before is still there."""
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    ok(a, "set my.tenant = 'a'")
    ok(a, "begin")
    a.close()
    assert show(b, "my.tenant") in (None, "")


def test_role_behind_a_client_that_left_in_a_transaction(one, pg):
    pg.query("grant bounded to app")
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    ok(a, "set role bounded")
    ok(a, "begin")
    a.close()
    assert value(b, "select current_user") == "app"


def test_a_set_that_was_not_asked_for_yet_when_its_client_leaves(one):
    """SET and BEGIN in one go: the server is never free in between."""
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    a.send(query("set my.tenant = 'a'"), query("begin"))
    a.until("Z")
    a.until("Z")
    a.close()
    assert show(b, "my.tenant") in (None, "")


@pytest.mark.parametrize("sql", ["set my.tenant = 'a'", "select set_config('my.tenant', 'a', false)"])
def test_the_unnamed_statement_is_bound_in_a_later_batch(one, sql):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    a.send(parse(sql), describe("S"), SYNC)
    a.until("Z")
    a.send(bind(), execute(), SYNC)
    assert a.results()[2] is None
    assert show(b, "my.tenant") in (None, "")
    assert show(a, "my.tenant") == "a"


def test_an_unnamed_reset_is_bound_in_a_later_batch(one):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    ok(a, "set my.tenant = 'x'")
    ok(b, "set my.tenant = 'x'")
    a.send(parse("reset my.tenant"), SYNC)
    a.until("Z")
    a.send(bind(), execute(), SYNC)
    assert a.results()[2] is None
    assert show(b, "my.tenant") == "x"
    assert show(a, "my.tenant") in (None, "")


@pytest.mark.parametrize("sql, left", [
    ("create temp table mine()", "select to_regclass('mine')::text"),
    ("select pg_advisory_lock(7411)",
     "select max(objid::text) from pg_locks where locktype = 'advisory' and objid = 7411 "
     "and pid = pg_backend_pid()"),
])
def test_state_by_the_unnamed_statement_in_a_later_batch(one, sql, left):
    daemon = one(size={"acquire_timeout": "700ms"})
    a, b = daemon.wire(), daemon.wire()
    a.send(parse(sql), describe("S"), SYNC)
    a.until("Z")
    a.send(bind(), execute(), SYNC)
    assert a.results()[2] is None
    assert b.run("select 1")[2].code == "53300"  # kept by a
    a.close()
    assert value(b, left) is None


@pytest.mark.parametrize("behind", ["create temp table mine()", "set my.tenant = 'a'",
                                    "select pg_advisory_lock(7412)"])
@pytest.mark.parametrize("pinned", [False, True])
def test_behind_discard_all_in_a_pipeline(one, behind, pinned):
    daemon = one(size={"acquire_timeout": "700ms"})
    a, b = daemon.wire(), daemon.wire()
    if pinned:
        ok(a, "listen x")
    a.send(query("discard all"), query(behind))
    assert a.results()[2] is None
    assert a.results()[2] is None
    error = b.run("select 1")[2]
    if not error:
        assert show(b, "my.tenant") in (None, "")
        assert value(b, "select to_regclass('mine')::text") is None
        assert value(b, "select count(*)::text from pg_locks where locktype = 'advisory' "
                        "and pid = pg_backend_pid()") == "0"


@pytest.mark.parametrize("sql", [
    "SELECT SET_CONFIG('my.tenant', 'a', false)",
    "select set_config('my' || '.tenant', 'a', false)",
    "select set_config('my.tenant', 'a',false), coalesce(null, true)",
    "select set_config('my.tenant', 'x, true)', 1=2)",
    "set local.tenant = 'a'", "set role.tenant = 'a'", "set schema.tenant = 'a'",
    "set transaction.tenant = 'a'", "set constraints.tenant = 'a'", "set session.tenant = 'a'",
    "set names.tenant = 'a'", "set time.tenant = 'a'", "set xml.tenant = 'a'",
    'set "my"."tenant" = \'a\'',
    "create table if not exists made_by_hostile as select set_config('my.tenant', 'a', false)",
])
def test_settings_in_disguise(one, sql):
    daemon = one(size={"acquire_timeout": "700ms"})
    a, b = daemon.wire(), daemon.wire()
    ok(a, sql)
    left = b.run("select name, setting from (values ('my.tenant'), ('local.tenant'), "
                 "('role.tenant'), ('schema.tenant'), ('transaction.tenant'), ('names.tenant'), "
                 "('constraints.tenant'), ('session.tenant'), ('time.tenant'), ('xml.tenant')) n(name), "
                 "current_setting(name, true) setting where setting <> ''")
    assert left[2] is None or left[2].code == "53300"  # a keeps it
    assert left[0] == []


def test_an_advisory_lock_in_capitals(one):
    daemon = one(size={"acquire_timeout": "700ms"})
    a, b = daemon.wire(), daemon.wire()
    ok(a, "SELECT PG_ADVISORY_LOCK(7413)")
    assert b.run("select 1")[2].code == "53300"


def test_select_into_temp(one):
    daemon = one(size={"acquire_timeout": "700ms"})
    a, b = daemon.wire(), daemon.wire()
    ok(a, "select 1 as n into temp mine")
    error = b.run("select * from mine")[2]
    assert error is not None


@pytest.mark.parametrize("sql", ['reset "my"."tenant"', "reset my.tenant; reset my.other",
                                 "reset my.other; reset my.tenant"])
def test_resets_in_disguise(one, sql):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    ok(a, "set my.tenant = 'x'")
    ok(b, "set my.tenant = 'x'")
    ok(a, "select 1")
    ok(a, sql)
    a2 = show(a, "my.tenant")
    a.close()
    assert a2 in (None, "")
    assert show(b, "my.tenant") == "x"


def test_reset_that_is_rolled_back(one):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    ok(a, "set my.tenant = 'x'")
    for sql in ("begin", "reset my.tenant", "rollback"):
        ok(a, sql)
    assert show(a, "my.tenant") == "x"
    assert show(b, "my.tenant") in (None, "")
    assert show(a, "my.tenant") == "x"


def test_reset_session_authorization_ends_a_role(one, pg):
    pg.query("grant bounded to app")
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    ok(a, "set role bounded")
    ok(b, "set role bounded")
    ok(a, "select 1")
    ok(a, "reset session authorization")
    b_is, a_is = value(b, "select current_user"), value(a, "select current_user")
    assert b_is == "bounded"
    assert a_is == "app"


@pytest.mark.parametrize("setting", ["log_min_duration_statement = 77777",
                                     "session_replication_role = replica"])
def test_a_role_without_rights_does_not_spoil_its_server(carpool, as_root, setting):
    """What only the login may set must be set, and taken back, as the login."""
    daemon = carpool(postgres_pool(as_root, size={"min": 0, "max": 1}))
    a, b = daemon.wire(), daemon.wire()
    ok(a, f"set {setting}")
    ok(a, "set role bounded")
    name, want = setting.split(" = ")
    assert value(b, f"select setting from pg_settings where name = '{name}'") != want
    assert value(b, "select current_user") != "bounded"
    assert value(a, f"select setting from pg_settings where name = '{name}'") == want
    assert value(a, "select current_user") == "bounded"


def test_a_tiny_statement_timeout_does_not_spoil_its_server(one):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    ok(a, "set jit_above_cost = 0; set jit_inline_above_cost = 0; set jit_optimize_above_cost = 0;"
          "set jit = on; set statement_timeout = 2")
    a.run("select 1")
    error = b.run("select 1")[2]
    assert error is None or error.code == "53300", "b pays for it"  # a keeps it
    a.close()
    for _ in range(3):
        assert show(b, "statement_timeout") == "0"


@pytest.mark.parametrize("size", [3000, 9000, 20000, 70000])
def test_a_long_setting(one, size):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    text = "x" * size
    ok(a, f"set my.tenant = '{text}'")
    error = b.run("select 1")[2]
    if error is None:
        assert show(b, "my.tenant") in (None, "")
    assert show(a, "my.tenant") == text


def test_seventy_settings(one):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    for n in range(70):
        ok(a, f"set my.s{n} = 'v{n}'")
    error = b.run("select 1")[2]
    if error is None:
        assert [show(b, f"my.s{n}") or "" for n in range(70)] == [""] * 70
    assert [show(a, f"my.s{n}") for n in range(70)] == [f"v{n}" for n in range(70)]


@pytest.mark.parametrize("encoding", ["latin1", "sjis"])
def test_settings_in_another_encoding(one, encoding):
    """The server reads what it is told in the encoding it is set to at that moment."""
    text = {"latin1": "caf\u00e9", "sjis": "\u30bd'"}[encoding]
    raw = text.replace("'", "''").encode(encoding)
    daemon = one()
    a, b = daemon.wire(client_encoding=encoding), daemon.wire()
    a.send(message("Q", b"set my.tenant = '" + raw + b"'\0"))
    assert a.results()[2] is None
    for _ in range(2):
        assert show(b, "my.tenant") in (None, "")
        a.send(query("select convert_to(current_setting('my.tenant'), 'utf8')::text"))
        got, _, error, _ = a.results()
        assert error is None
        assert bytes.fromhex(got[0][0][2:]).decode() == text


def test_a_setting_whose_asking_is_cancelled(one):
    """Cancel requests at every moment around the question."""
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    for n in range(20):
        a.send(query(f"set my.tenant = 'v{n}'"))
        a.cancel()
        a.until("Z")
        assert show(b, "my.tenant") in (None, "")


# ---- statements


@pytest.mark.parametrize("hidden", [False, True])
def test_deallocate_of_a_name_of_ours(one, hidden):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    b.send(parse("select 'b'", "get"), SYNC)
    b.until("Z")
    ok(a, "select 1; deallocate cp_1" if hidden else "deallocate cp_1")
    b.send(bind("get"), execute(), SYNC)
    assert rows(b) == [["b"]]


def test_a_second_parse_of_a_name_whose_statement_somebody_took_away(one):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    for wire in (a, b):
        wire.send(parse("select 'right'", "get"), SYNC)
        wire.until("Z")
    ok(a, "do $$ begin execute 'deallocate all'; end $$")
    a.send(parse("select 'wrong'", "get"), SYNC)
    a.until("Z")
    b.send(bind("get"), execute(), SYNC)
    got = rows(b)
    assert got == [["right"]] or isinstance(got, bytes)
    b.send(bind("get"), execute(), SYNC)
    assert rows(b) == [["right"]]


def test_parse_behind_a_copy_that_is_not_answered_yet(one, table):
    daemon = one()
    a, b = daemon.wire(), daemon.wire()
    a.send(query(f"copy {table} (n) from stdin"))
    a.until("G")
    a.send(message("d", b"1\n"), message("c"), parse("select 'a'", "get"), SYNC)
    a.until("Z")
    a.until("Z")
    a.send(bind("get"), execute(), SYNC)
    assert rows(a) == [["a"]]
    b.send(bind("get"), execute(), SYNC)
    assert isinstance(rows(b), bytes), "b uses a statement of a's"
    b.send(parse("select 'b'", "get"), SYNC)
    assert isinstance(rows(b), list)
    b.send(bind("get"), execute(), SYNC)
    assert rows(b) == [["b"]]


def test_a_flood_of_parses_without_sync(one):
    """What is waited for is looked through for each message: it must not become long."""
    daemon = one(limits={"statements": 100000})
    a = daemon.wire(timeout=60)
    n = 30000
    thread = threading.Thread(
        target=lambda: a.sock.sendall(b"".join(parse("select 1", f"s{i}") for i in range(n)) + SYNC))
    thread.start()
    assert [kind for kind, _ in a.until("Z")] == ["1"] * n + ["Z"]
    thread.join()


def test_a_flood_of_long_parses_without_sync(one):
    """Texts that no answer has come for count, too (limits.statement_bytes)."""
    daemon = one()
    a = daemon.wire(timeout=30)
    try:
        for n in range(1500):
            a.send(parse(f"select {n} /*{'x' * 64000}*/", f"s{n}"))
    except OSError:
        pass
    assert daemon.saw("too_large")


def test_a_pipeline_of_many_messages(one):
    daemon = one()
    a = daemon.wire(timeout=60)
    n = 30000
    one_of = parse("select $1::text") + bind(values=["x"]) + execute()
    thread = threading.Thread(target=lambda: a.sock.sendall(one_of * n + SYNC))
    thread.start()
    kinds = [kind for kind, _ in a.until("Z")]
    thread.join()
    assert kinds.count("D") == n
    assert kinds[-1] == "Z"


def test_errors_that_speak_of_names_like_ours(one):
    daemon = one()
    a = daemon.wire()
    a.send(parse("select 1", "mine"), SYNC)
    a.until("Z")
    for name in ("cp_0", "cp_1"):
        error = a.run(f'select 1 from "{name}"')[2]
        assert error.fields["M"] == f'relation "{name}" does not exist'


def test_a_refused_parse_leaves_the_unnamed_statement(one):
    daemon = one(session_state="refuse")
    a = daemon.wire()
    a.send(parse("select 'still here'"), SYNC)
    a.until("Z")
    a.send(parse("create temp table x()", "named"), SYNC)
    assert isinstance(rows(a), bytes)
    a.send(bind(), execute(), SYNC)
    assert rows(a) == [["still here"]]


def test_a_portal_that_is_run_in_a_later_batch(one):
    daemon = one(size={"acquire_timeout": "700ms"})
    a, b = daemon.wire(), daemon.wire()
    ok(a, "begin")
    a.send(parse("select pg_advisory_lock(7414)"), bind(portal="p"), SYNC)
    a.until("Z")
    a.send(execute("p"), SYNC)
    a.until("Z")
    ok(a, "commit")
    assert b.run("select 1")[2].code == "53300"


def test_a_pipeline_that_ends_in_the_middle_of_a_transaction_with_a_role(one, pg):
    pg.query("grant bounded to app")
    daemon = one()
    for leave in ("close", "abort"):
        a, b = daemon.wire(), daemon.wire()
        a.send(query("set role bounded; begin; select 1"))
        a.until("Z")
        getattr(a, leave)()
        assert value(b, "select current_user") == "app"


def test_a_statement_on_return_that_discards(one):
    """check.on_return: the user's own DISCARD ALL takes statements and settings away."""
    daemon = one(check={"on_return": "discard all"})
    a = daemon.wire()
    ok(a, "set my.tenant = 'a'")
    a.send(parse("select current_setting('my.tenant')", "get"), SYNC)
    a.until("Z")
    for _ in range(3):
        a.send(bind("get"), execute(), SYNC)
        assert rows(a) == [["a"]]


def test_after_a_reload_without_shared_statements(one):
    """Who came before it shares its server with who came after it."""
    daemon = one()
    a = daemon.wire()
    a.send(parse("select 'a'"), SYNC)
    a.until("Z")
    a.send(parse("select 'named'", "get"), SYNC)
    a.until("Z")
    a.send(parse("select 'a'"), SYNC)
    a.until("Z")
    daemon.change(size={"statements": 0})
    daemon.reload()
    b = daemon.wire()
    b.send(parse("select 'b'"), SYNC)
    b.until("Z")
    ok(b, "select 1")
    b.send(parse("select 'b'"), SYNC)
    b.until("Z")
    a.send(bind(), execute(), SYNC)
    assert rows(a) == [["a"]]
    ok(b, "deallocate all")
    a.send(bind("get"), execute(), SYNC)
    assert rows(a) == [["named"]]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_client_that_leaves_while_its_settings_are_asked_for(one, cut):
    daemon = one()
    b = daemon.wire()
    for _ in range(3):
        a = daemon.wire()
        a.send(query("set my.tenant = 'a'"), query("begin")[:cut])
        a.abort() if cut % 2 else a.close(polite=False)
        assert show(b, "my.tenant") in (None, "")
