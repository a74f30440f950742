# SPDX-License-Identifier: MIT
"""auth.query: users that only the database knows. Asked once, remembered for a while, never under
anything that a client left behind on a server."""

import asyncio
import hashlib
import threading

import asyncpg
import psycopg
import pytest
from harness import pgwire
from harness.base import LOOPBACK, wait_for
from harness.carpool import PASSWORD
from harness.pgwire import Eof, PgError

QUERY = "select * from lookup.users($1)"

SETUP = """
drop schema if exists lookup cascade;
create schema lookup;
create table lookup.asked (name text, at timestamptz default clock_timestamp());
create function lookup.users(name) returns table (n name, secret text, seconds numeric)
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
  begin
    insert into lookup.asked (name) values ($1::text);
    perform pg_sleep(0.02);
    return query select rolname, rolpassword, extract(epoch from rolvaliduntil)
      - extract(epoch from now()) from pg_authid where rolname = $1 and rolcanlogin;
  end $$;
create function lookup.slow(name) returns table (n name, secret text)
  language plpgsql as $$ begin perform pg_sleep(0.1); end $$;
grant usage on schema lookup to app;
grant execute on all functions in schema lookup to app;
"""
ROLES = {"rita": "", "late": "valid until 'yesterday'", "ever": "valid until 'infinity'",
         "idle": "nologin"}


@pytest.fixture(scope="module")
def roles(pg):
    """Roles of the server that no users_file knows; the function that looks them up."""
    for name, more in ROLES.items():
        pg.query(f"drop role if exists {name}")
        pg.query(f"create role {name} {more or ''} password 'of {name}'"
                 + ("" if "nologin" in more else " login"))
    pg.query(SETUP, db="orders")
    yield pg
    pg.query("drop schema lookup cascade", db="orders")
    for name in ROLES:
        pg.query(f"drop role {name}")


@pytest.fixture
def asked(roles):
    """asked(name): how often the database was asked for it in this test."""
    roles.query("truncate lookup.asked", db="orders")
    return lambda name: roles.value("select count(*) from lookup.asked where name = %s", name,
                                    db="orders")


@pytest.fixture
def door(orders, asked):
    def make(query=QUERY, workers=1, auth=(), **over):
        return orders(workers, auth={"query": query, **dict(auth)}, **over)
    return make


def works(daemon, user, password=None, **more):
    with daemon.connect(user=user, password=password or f"of {user}", **more) as conn:
        return conn.execute("select current_user").fetchone() == ("app",)


def refused(daemon, user, password=None):
    with pytest.raises(PgError) as e:
        daemon.wire(user=user, password=password or f"of {user}").close()
    return e.value.code


def test_users_of_the_database(door, workers):
    daemon = door(workers=workers)
    assert works(daemon, "rita") and works(daemon, "ever")
    assert refused(daemon, "rita", "wrong") == "28P01"
    for name in ("late", "idle", "nobody", "app"):
        assert refused(daemon, name) == "28P01", name
    assert daemon.saw("auth_failed")

    async def talk():
        conn = await asyncpg.connect(host=LOOPBACK, port=daemon.port(), user="rita",
                                     password="of rita", database="orders", ssl=False)
        try:
            return await conn.fetchval("select 1")
        finally:
            await conn.close()
    assert asyncio.run(talk()) == 1


@pytest.mark.parametrize("method", ["md5", "password"])
def test_with_other_methods(door, roles, method):
    secret = "md5" + hashlib.md5(b"of everever").hexdigest()
    roles.query(f"alter role ever password '{secret}'")
    try:
        daemon = door(auth={"method": method})
        assert works(daemon, "rita") and works(daemon, "ever")
        assert refused(daemon, "ever", "wrong") == refused(daemon, "nobody") == "28P01"
    finally:
        roles.query("alter role ever password 'of ever'")


def test_a_password_that_comes_before_it_is_asked_for(door):
    daemon = door(auth={"method": "password"})
    for _ in range(2):  # looked up, known
        with daemon.wire(login=False, timeout=10) as wire:
            wire.send(pgwire.startup(user="rita"), pgwire.message("p", pgwire.cstr("of rita")),
                      pgwire.query("select 1"))
            assert wire.until("Z") and wire.results()[0] == [["1"]]


def test_the_servers_own_users(door, roles):
    """`query: roles` needs the right to read them."""
    daemon = door("roles")
    with pytest.raises(PgError) as e:
        daemon.wire(user="rita", password="of rita")
    assert "could not be asked" in e.value.fields["M"] and "pg_authid" not in str(e.value.fields)
    wait_for(lambda: daemon.log_lines("auth_query_failed", "42501"), 5, "the reason in the log")
    roles.query("grant select on pg_authid to app", db="orders")
    try:
        assert works(daemon, "rita") and works(daemon, "ever")
        assert refused(daemon, "late") == refused(daemon, "idle") == refused(daemon, "x") == "28P01"
    finally:
        roles.query("revoke select on pg_authid from app", db="orders")


def test_users_of_the_file_are_not_asked_for(door, asked, tmp_path):
    (tmp_path / "users").write_text('"rita" "of the file"\n')
    daemon = door(auth={"users_file": str(tmp_path / "users")})
    assert works(daemon, "rita", "of the file") and works(daemon, "ever")
    assert (asked("rita"), asked("ever")) == (0, 1)


# -- remembered

def test_answers_are_remembered(door, asked):
    daemon = door()
    for _ in range(3):
        assert works(daemon, "rita")
        assert refused(daemon, "nobody") == "28P01"
    assert asked("rita") == asked("nobody") == 1


def test_answers_are_forgotten_in_time(door, asked, roles):
    daemon = door(auth={"query_ttl": "500ms", "failures": 0})
    assert works(daemon, "rita")
    roles.query("alter role rita password 'changed'")
    try:
        wait_for(lambda: refused_or_none(daemon, "rita", "changed") is None, 10, "the new password")
        assert refused(daemon, "rita") == "28P01"
    finally:
        roles.query("alter role rita password 'of rita'")
    assert asked("rita") >= 2


def refused_or_none(daemon, user, password):
    try:
        daemon.wire(user=user, password=password).close()
        return None
    except PgError as e:
        return e.code


def test_an_answer_is_not_good_for_longer_than_its_user(door, roles):
    roles.query("alter role ever valid until 'infinity'")
    daemon = door(auth={"query_ttl": "1h", "failures": 0}, size={"min": 1})
    until = roles.value("select (now() + '3 s')::text")
    roles.query(f"alter role rita valid until '{until}'")
    try:
        assert works(daemon, "rita")
        wait_for(lambda: refused_or_none(daemon, "rita", "of rita") == "28P01", 10, "rita's end")
        assert works(daemon, "ever")
    finally:
        roles.query("alter role rita valid until 'infinity'")


def test_a_reload_with_another_query_forgets(door, roles):
    daemon = door(auth={"failures": 0})
    assert works(daemon, "rita")
    daemon.change(auth={"query": "select $1::name, null::text"})
    daemon.reload()
    wait_for(lambda: refused_or_none(daemon, "rita", "of rita") == "28P01", 10, "the new query")


def test_a_reload_with_another_query_counts_at_once(door, roles):
    """Also while the old one is being answered, for all who come after it."""
    daemon = door("select n, s from (select $1::name n, 'secret'::text s, pg_sleep(2)) x",
                  auth={"failures": 0, "method": "md5"})
    with daemon.wire(login=False) as early:
        early.send(pgwire.startup(user="rita"))
        wait_for(lambda: daemon.leases() == 1, 5, "the question")
        daemon.change(auth={"query": "select $1::name, null::text"})
        daemon.reload()
        assert refused(daemon, "rita", "secret") == refused(daemon, "ever", "secret") == "28P01"
        assert early.until("R"), "who came before is told what was asked for it"
    assert refused(daemon, "rita", "secret") == "28P01"


def test_a_stampede_asks_once(door, asked):
    daemon, results = door(), []

    def one():
        try:
            with daemon.wire(user="rita", password="of rita") as wire:
                results.append(wire.run("select 1")[0])
        except (PgError, Eof, OSError) as e:
            results.append(e)
    threads = [threading.Thread(target=one) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [[["1"]]] * 20
    assert asked("rita") == 1


# -- under nothing that a client left behind

EVIL = """
create schema if not exists evil;
create table if not exists evil.pg_authid (rolname name, rolpassword text);
delete from evil.pg_authid;
insert into evil.pg_authid values ('rita', '{}');
"""


@pytest.mark.parametrize("how", ["options", "set", "temporary"])
def test_clients_cannot_answer_for_the_database(door, roles, how):
    """A client that may log in prepares the pool's only server to let others in."""
    roles.query("grant select on pg_authid to app; grant create on database orders to app",
                db="orders")
    secret = "md5" + hashlib.md5(b"guessedrita").hexdigest()
    daemon = door("select rolname, rolpassword from pg_authid where rolname = $1", size={"max": 1},
                  auth={"method": "md5"})
    try:
        options = "-c search_path=evil,pg_catalog" if how == "options" else ""
        with daemon.connect(user="ever", password="of ever", options=options) as conn:
            conn.execute(EVIL.format(secret))
            if how == "set":
                conn.execute("set search_path = evil, pg_catalog")
            if how == "temporary":
                conn.execute("create temporary table pg_authid as select * from evil.pg_authid")
                conn.execute("grant select on pg_temp.pg_authid to public")
        assert refused(daemon, "rita", "guessed") == "28P01"
        assert works(daemon, "rita")
    finally:
        roles.query("drop schema if exists evil cascade; revoke select on pg_authid from app;"
                    " revoke create on database orders from app", db="orders")


@pytest.mark.parametrize("left", ["set statement_timeout = 1", "set role rita"])
def test_what_a_client_left_does_not_count(door, roles, left):
    """Timeouts and roles that a client sets on the pool's only server."""
    roles.query("grant rita to app")
    daemon = door(size={"max": 1})
    with daemon.connect(user="ever", password="of ever") as conn:
        conn.execute(left)
    try:
        daemon.wire(user="rita", password="of rita").close()
    finally:
        roles.query("revoke rita from app")


def test_the_server_is_left_as_it_was(door):
    """Settings, names of statements, transactions: the next client finds no trace of a lookup."""
    daemon = door(size={"max": 1})
    with daemon.connect(user="rita", password="of rita", options="-c search_path=lookup") as conn:
        assert refused(daemon, "nobody") == "28P01"
        assert conn.execute("show search_path").fetchone() == ("lookup",)
        assert conn.execute("show statement_timeout").fetchone() == ("0",)
        assert conn.execute("select name from pg_prepared_statements").fetchall() == []
    assert daemon.servers() == 1


# -- bounds and failures

def test_strangers_do_not_keep_the_pool_busy(door):
    """However many names are made up, two servers at most are asked."""
    daemon, most, codes = door("select n, secret from lookup.slow($1)", size={"max": 6}), [0], []

    def one(i):
        codes.append(refused_or_none(daemon, f"name{i}", "x"))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(20)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        most[0] = max(most[0], daemon.leases())
    for t in threads:
        t.join()
    assert codes == ["28P01"] * 20
    assert 1 <= most[0] <= 2


@pytest.mark.parametrize("query,said", [
    ("select nonsense", "42703"),
    ("select $1::name", "its row cannot be read"),
    ("select $1::name, 'a', 'soon'", "its row cannot be read"),
    ("select $1::name, repeat('x', 2000)", "its row cannot be read"),
    ("select $1::name, 'x' from generate_series(1, 2)", "more than one row"),
    ("select $1::name, 1/0::text::int", "22012"),
])
def test_queries_that_do_not_answer(door, query, said):
    daemon = door(query)
    for _ in range(2):
        with pytest.raises(PgError) as e:
            daemon.wire(user="rita", password="of rita")
        assert e.value.code == "XX000" and "could not be asked" in e.value.fields["M"]
    wait_for(lambda: len(daemon.log_lines("auth_query_failed", said)) == 2, 5,
             "two failures: a failure is not an answer")
    assert daemon.errors("auth_failed") == 0
    assert daemon.servers() == 1, "the server is as good as before"


@pytest.mark.parametrize("query", [
    "select 'other', 'x' where $1::name = 'rita'", "select $1::name, null::text",
    "select null, 'x' where $1::name = 'rita'", "select $1::name, 'x' where false",
    "select $1::name, 'x', -1", "select $1::name, 'x', '-Infinity'"])
def test_answers_that_let_nobody_in(door, query):
    daemon = door(query, auth={"method": "md5"})
    assert refused(daemon, "rita", "x") == "28P01"


def test_passwords_of_a_table_serve_md5(door):
    """What the answers above would open, were they good ones."""
    with door("select $1::name, 'x', 60", auth={"method": "md5"}).wire(user="rita", password="x"):
        pass
    assert refused(door("select $1::name, 'x', 60"), "rita", "x") == "28P01", "not SCRAM"


def test_a_query_that_does_not_end(door):
    daemon = door("select $1::name, pg_sleep(60)::text", timeouts={"client_login": "30s"})
    with pytest.raises(PgError) as e:
        daemon.wire(user="rita", password="x", timeout=30)
    assert "could not be asked" in e.value.fields["M"]
    wait_for(lambda: daemon.log_lines("auth_query_failed"), 5, "the reason in the log")


def test_clients_that_leave_while_they_are_looked_up(door):
    daemon = door("select n, secret from lookup.slow($1)")
    for i in range(10):
        wire = daemon.wire(login=False)
        wire.send(pgwire.startup(f"gone{i % 5}"))
        wire.abort()
    assert refused(daemon, "here") == "28P01"
    wait_for(lambda: daemon.leases() == 0, 10, "the lookups to end")


def test_database_down(door, orders, gate, asked, pg):
    """Who may log in cannot be known: the outage is told, and no password judged."""
    path = gate(pg.host, pg.port)
    daemon = door(upstream=pg.url(host=path.host, port=path.port),
                  timeouts={"outage_wait": "300ms", "connect": "1s"}, size={"acquire_timeout": "1s"})
    path.refuse()
    with pytest.raises(PgError) as e:
        daemon.wire(user="rita", password="of rita")
    assert e.value.code == "08001"
    assert daemon.errors("auth_failed") == 0


@pytest.mark.parametrize("held_by,code", [("outage", "08001"), ("pause", "53300"), ("query", "53300")])
def test_a_login_that_the_database_holds_up(door, gate, pg, held_by, code):
    """client_login is over first: not the client is to blame."""
    path = gate(pg.host, pg.port)
    slow = "select $1::name, null::text from (select pg_sleep(4)) s"
    daemon = door(QUERY if held_by != "query" else slow, upstream=pg.url(host=path.host, port=path.port),
                  timeouts={"client_login": "1s"})
    if held_by == "pause":
        daemon.cli("pause", "orders")
    elif held_by == "outage":
        path.refuse()
    with pytest.raises(PgError, match="could not be asked") as e:
        daemon.wire(user="rita", password="of rita")
    assert e.value.code == code
    assert daemon.errors("client_timeout") == 0


def test_stop_while_a_lookup_is_under_way(door, roles):
    """The end is clean whatever a lookup is doing."""
    daemon = door("select $1::name, pg_sleep(3)::text")
    wire = daemon.wire(login=False)
    wire.send(pgwire.startup("rita"))
    wait_for(lambda: roles.active("%pg_sleep(3)%"), 10, "the lookup to run")
    daemon.stop()


def test_psycopg_sees_the_refusal(door):
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        door().connect(user="nobody", password="x")


def test_one_user_is_one_lookup_with_trust_elsewhere(orders, asked):
    """Trusted doors ask nobody."""
    daemon = orders(auth={"method": "trust", "query": QUERY})
    assert works(daemon, "whoever", PASSWORD)
    assert asked("whoever") == 0
