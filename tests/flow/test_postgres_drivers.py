# SPDX-License-Identifier: MIT
"""Drivers as they come, in transaction mode, more clients than servers.

Each client is a program of its own (drivers/riders.py says what they can be asked). The pool's user
may have two connections, so the server itself refuses a third; and after each round every client
must have let go of its server: nobody is pinned.
"""

import contextlib
import re

import psycopg
import pytest
from drivers.riders import DRIVERS, FRAMEWORKS, Crowd, Rider
from harness.base import wait_for
from harness.carpool import postgres_pool

SERVERS = 2


@pytest.fixture(params=DRIVERS, ids=lambda d: d.name)
def driver(request):
    """Each of them, or those that a test chooses by `indirect`; all are there after ./dev setup."""
    if why := request.param.missing():
        pytest.skip(why)
    return request.param


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """Where each driver's rider is compiled, once."""
    return {driver.name: tmp_path_factory.mktemp(driver.name)
            for driver in (*DRIVERS, *FRAMEWORKS.values())}


@pytest.fixture
def two_servers(carpool, pg, bounded):
    """A pool of two servers, whose user the server grants no third connection."""
    mark = []

    def make(**over):
        url = bounded(SERVERS)
        mark.append(pg.mark())
        size = {"min": 0, "max": SERVERS, "acquire_timeout": "90s", **over.pop("size", {})}
        return carpool(postgres_pool(url, size=size, **over))
    yield make
    assert not mark or pg.refusals(mark[0]) == 0, "more servers than the bound"


@pytest.fixture
def crowd(tmp_path, programs):
    """crowd(driver, daemon, table): its clients, connected."""
    with contextlib.ExitStack() as stack:
        def make(driver, daemon, table, clients=None, env=()):
            command = driver.command(programs[driver.name])
            riders = []
            for i in range(clients or driver.clients):
                riders.append(Rider(command, daemon, table, env=env,
                                    errors=tmp_path / f"{driver.name}{i}"))
                stack.callback(riders[-1].end)
            return Crowd(riders)
        yield make


def rows_of_clients(daemon):
    data = daemon.json("/clients?pool=orders")
    return data["clients"] if isinstance(data, dict) else data


def all_are_free(daemon, clients):
    """Every client is there, and none has a server: not for a query, not pinned."""
    def free():
        rows = rows_of_clients(daemon)
        return len(rows) == clients and all(
            r["state"] == "idle" and r["server"] is None and r["pinned"] is None for r in rows)
    try:
        wait_for(free, 5)
    except AssertionError:
        raise AssertionError(f"somebody keeps a server: {rows_of_clients(daemon)}") from None


def all_leave(crowd, daemon):
    assert set(crowd.leave()) == {0}
    wait_for(lambda: not rows_of_clients(daemon), 10, "the clients to be gone")
    daemon.stop()


WORK = [
    # (verb, argument for the i-th client, answer)
    ("ping", lambda i: "", "1"),
    ("prepared", lambda i: 12, "156"),
    ("rollback", lambda i: 1000 + i, "1 0"),
    ("commit", lambda i: 2000 + i, "2"),
    ("failed", lambda i: 3000 + i, "22012 25P02 0"),
    ("big", lambda i: "", "4000 4000000"),
    ("pipeline", lambda i: 4000 + i, "20 22012 20"),
    ("copy", lambda i: 5000 + i, "500 500"),
    ("cursor", lambda i: "", "1000"),
]


def test_work(driver, two_servers, table, crowd):
    """All do the same at once; then each is at another place of the list than the others."""
    daemon = two_servers()
    work = [w for w in WORK if driver.can(w[0])]
    clients = crowd(driver, daemon, table)
    for verb, argument, want in work:
        got = clients.do_each(lambda i: (verb, argument(i)))
        assert got == [want] * driver.clients, verb
        all_are_free(daemon, driver.clients)
    for shift in range(len(work)):
        mine = [work[(i + shift) % len(work)] for i in range(driver.clients)]
        got = clients.do_each(lambda i: (mine[i][0], mine[i][1](100 * (shift + 1) + i)))
        assert got == [want for _, _, want in mine], mine
    all_are_free(daemon, driver.clients)
    assert not daemon.all_errors()
    all_leave(clients, daemon)


def test_settings(driver, two_servers, table, crowd):
    """Each client finds its own, wherever it is served, and has not to stay anywhere."""
    daemon = two_servers()
    clients = crowd(driver, daemon, table)
    for base in (70001, 80001):
        assert set(clients.do_each(lambda i: ("set", base + i))) == {"ok"}
        all_are_free(daemon, driver.clients)
        for _ in range(3):
            assert clients.do("show") == [f"{base + i}ms rider {base + i} {base + i}"
                                          for i in range(driver.clients)]
    if driver.can("isolation"):
        assert set(clients.do("isolation")) == {driver.isolation}
    all_are_free(daemon, driver.clients)
    all_leave(clients, daemon)


@pytest.mark.parametrize("driver", [d for d in DRIVERS if d.can("cancel")], indirect=True,
                         ids=lambda d: d.name)
def test_cancel(driver, two_servers, table, crowd):
    daemon = two_servers(size={"min": SERVERS})  # a query that waits for a dial is not cancelled
    clients = crowd(driver, daemon, table)
    riders = list(clients)
    for at in range(0, len(riders), SERVERS):  # as many as can run at once
        some = riders[at:at + SERVERS]
        for rider in some:
            rider.ask("cancel")
        assert [rider.answer() for rider in some] == ["57014"] * len(some)
    assert clients.do("ping") == ["1"] * driver.clients
    all_are_free(daemon, driver.clients)
    all_leave(clients, daemon)


def test_a_lost_server(driver, two_servers, table, crowd, pg):
    """Who had it learns that it is lost; nobody has to connect again."""
    daemon = two_servers()
    clients = crowd(driver, daemon, table)
    assert clients.do("ping") == ["1"] * driver.clients
    if driver.can("prepared"):
        assert clients.do("prepared", 12) == ["156"] * driver.clients
    before = {row["conn"] for row in rows_of_clients(daemon)}

    all_are_free(daemon, driver.clients)
    wait_for(lambda: daemon.servers(state="dialing") == 0, what="the last dial")
    pg.terminate("bounded")  # while all are idle: nobody is told
    wait_for(lambda: daemon.servers() == 0, what="carpool to see it")
    assert clients.do("ping") == ["1"] * driver.clients

    some = list(clients)[:SERVERS]
    for rider in some:
        rider.ask("slow", 61)
    wait_for(lambda: len(pg.asleep("%pg_sleep(61)%", "bounded")) == SERVERS, 20, "the statements")
    pg.terminate("bounded")
    assert [rider.answer() for rider in some] == ["08006"] * SERVERS
    assert clients.do("ping") == ["1"] * driver.clients
    if driver.can("prepared"):
        assert clients.do("prepared", 12) == ["156"] * driver.clients
    assert {row["conn"] for row in rows_of_clients(daemon)} == before, "somebody connected again"
    all_are_free(daemon, driver.clients)
    all_leave(clients, daemon)


PINS = [
    # (driver, verb that leaves state, its answer, why it keeps its server)
    ("psycopg2", "prepare_in_sql", "ok", "a statement prepared in SQL"),
    ("asyncpg", "listen", "ok", "LISTEN"),
]


@pytest.mark.parametrize("name, verb, answer, why", PINS, ids=[p[0] for p in PINS])
def test_habits_that_keep_a_server(name, verb, answer, why, two_servers, table, crowd):
    """They work, can be seen, and end with DISCARD ALL; other clients go on meanwhile."""
    driver = next(d for d in DRIVERS if d.name == name)
    if missing := driver.missing():
        pytest.skip(missing)
    daemon = two_servers()
    clients = crowd(driver, daemon, table, clients=3)
    one, *others = clients
    assert one.do(verb) == answer
    for _ in range(3):
        assert [rider.do("ping") for rider in others] == ["1", "1"]
    pinned = [row["pinned"] for row in rows_of_clients(daemon) if row["pinned"]]
    assert pinned == [why]
    if name == "psycopg2":
        assert one.do("execute_in_sql", 21) == "42"
    assert one.do("forget") == "ok"
    all_are_free(daemon, 3)
    all_leave(clients, daemon)


@pytest.mark.parametrize("driver", [d for d in DRIVERS if d.name in ("asyncpg", "psycopg")],
                         indirect=True, ids=lambda d: d.name)
def test_notifications(driver, two_servers, table, crowd):
    """In transaction mode who listens hears what others send, over the server it keeps: while it waits for
    that and does nothing else, and what came before it asked."""
    daemon = two_servers()
    clients = crowd(driver, daemon, table, clients=4)
    one, another, *senders = clients
    assert one.do("listen") == "ok"
    for turn, sender in enumerate(senders * 2):
        one.ask("hear")
        assert sender.do("notify", f"turn{turn}") == "ok"
        assert one.answer() == f"turn{turn}"
    for n in range(3):
        assert senders[n % 2].do("notify", f"early{n}") == "ok"
    assert [one.do("hear") for _ in range(3)] == ["early0", "early1", "early2"]
    assert [row["pinned"] for row in rows_of_clients(daemon) if row["pinned"]] == ["LISTEN"]
    assert one.do("forget") == "ok"
    all_are_free(daemon, 4)
    assert another.do("listen") == "ok", "and it is another one's turn"
    assert one.do("notify", "other") == "ok"
    assert another.do("hear") == "other"
    assert another.do("forget") == "ok"
    all_are_free(daemon, 4)
    all_leave(clients, daemon)


def test_a_cursor_with_hold_that_is_closed_keeps_nothing(two_servers, table, crowd):
    """PDO closes what it has declared WITH HOLD by name, when the statement is collected."""
    driver = next(d for d in DRIVERS if d.name == "php")
    if missing := driver.missing():
        pytest.skip(missing)
    daemon = two_servers()
    clients = crowd(driver, daemon, table, clients=3)
    for _ in range(3):
        assert [rider.do("scroll") for rider in clients] == ["1"] * 3
    all_are_free(daemon, 3)
    all_leave(clients, daemon)


def test_sql_does_not_know_the_protocols_statements(two_servers):
    """The server has it under another name. The session goes on."""
    daemon = two_servers()
    with daemon.connect() as conn:
        conn.pgconn.prepare(b"mine", b"select 42")
        assert conn.pgconn.exec_prepared(b"mine", []).get_value(0, 0) == b"42"
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            conn.execute("execute mine")
        names = [name for name, in conn.execute("select name from pg_prepared_statements")]
        assert names and all(re.fullmatch(r"cp_\d+", name) for name in names)
        assert conn.pgconn.exec_prepared(b"mine", []).get_value(0, 0) == b"42"


def test_what_a_pool_of_asyncpg_says_between_its_users(two_servers, table, crowd):
    driver = next(d for d in DRIVERS if d.name == "asyncpg")
    daemon = two_servers()
    clients = crowd(driver, daemon, table)
    assert set(clients.do_each(lambda i: ("set", 70001 + i))) == {"ok"}
    assert set(clients.do("types")) == {"ok"}
    assert set(clients.do("reset")) == {"ok"}
    assert {shown.split(" ")[0] for shown in clients.do("show")} == {"0"}
    all_are_free(daemon, driver.clients)
    all_leave(clients, daemon)


# ---- frameworks


def framework(name):
    if missing := FRAMEWORKS[name].missing():
        pytest.skip(missing)
    return FRAMEWORKS[name]


@pytest.mark.parametrize("atomic", ["off", "on"], ids=["autocommit", "atomic"])
@pytest.mark.parametrize("age", ["0", "60", "none"])
def test_django(age, atomic, two_servers, table, crowd):
    """Each request gets a connection, or keeps one for the next, as CONN_MAX_AGE says."""
    daemon, number = two_servers(), 6
    env = {"DJANGO_CONN_MAX_AGE": age, "DJANGO_ATOMIC": atomic, "DJANGO_CURSORS": "off"}
    clients = crowd(framework("django"), daemon, table, number, env)
    kept = 0 if age == "0" else number
    for verb, want in [("ping", "1"), ("add", "2"), ("fail", "500"), ("error", "22012 25P02 0"),
                       ("iterate", "300"), ("iterate_inside", "300"), ("locked", "1")]:
        n = 1000 * len(verb) + 7
        got = clients.do_each(lambda i: (verb,) if verb == "ping" else (verb, n + i))
        assert got == [want] * number, verb
        all_are_free(daemon, kept)
        if verb == "fail":
            left = "0" if atomic == "on" else "1"
            assert set(clients.do_each(lambda i: ("count", n + i))) == {left}
    assert set(clients.do("zone")) == {"Asia/Tokyo"}, "Django's own setting of its sessions"
    all_are_free(daemon, kept)
    assert not daemon.all_errors()
    all_leave(clients, daemon)


@pytest.mark.parametrize("atomic", ["off", "on"], ids=["autocommit", "atomic"])
def test_django_iterates_with_a_cursor_on_the_server(atomic, two_servers, table, crowd):
    """Outside of transactions it is declared WITH HOLD, and closed when the iterator is used up."""
    daemon = two_servers()
    env = {"DJANGO_CONN_MAX_AGE": "none", "DJANGO_ATOMIC": atomic}
    clients = crowd(framework("django"), daemon, table, 1, env)
    assert clients.do("iterate", 7) == ["300"]
    all_are_free(daemon, 1)
    assert clients.do("ping") == ["1"]
    all_leave(clients, daemon)


def test_sqlalchemy(two_servers, table, crowd):
    daemon, number = two_servers(), 5
    clients = crowd(framework("sqlalchemy"), daemon, table, number)
    for verb, want in [("add", "2"), ("rollback", "1 0"), ("failed", "22012 25P02 0"),
                       ("isolation", "serializable,repeatable read,read committed,read committed"),
                       ("stream", "1000"), ("unpooled", "6"), ("asynchronous", "8 22012")]:
        n = 1000 * len(verb) + 7
        numbered = verb not in ("isolation", "stream")
        got = clients.do_each(lambda i: (verb, n + i) if numbered else (verb,))
        assert got == [want] * number, verb
        wait_for(lambda: not any(r["pinned"] or r["server"] for r in rows_of_clients(daemon)),
                 what="every client to be free")
    all_leave(clients, daemon)


def test_sqlalchemy_and_a_lost_server(two_servers, table, crowd, pg):
    """Its ping before use is answered by another server: nothing is connected anew."""
    daemon, number = two_servers(), 5
    clients = crowd(framework("sqlalchemy"), daemon, table, number)
    assert clients.do("ping") == ["1"] * number
    all_are_free(daemon, number)
    wait_for(lambda: daemon.servers(state="dialing") == 0, what="the last dial")
    before = {row["conn"] for row in rows_of_clients(daemon)}
    pg.terminate("bounded")
    wait_for(lambda: daemon.servers() == 0, what="carpool to see it")
    assert clients.do("ping") == ["1"] * number
    assert {row["conn"] for row in rows_of_clients(daemon)} == before
    all_leave(clients, daemon)
