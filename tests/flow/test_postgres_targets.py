# SPDX-License-Identifier: MIT
"""`target`: of several PostgreSQL servers, those of one role; the primary is found again after it moved."""

import threading
import time

import psycopg
import pytest
from harness.base import SLOW, wait_for
from harness.carpool import postgres_pool
from harness.load import SqlCrowd
from harness.pg_pair import OldServer, Pair

# What those may hear whose transaction or statement was under way when the primary went.
CUT_STATES = {"08006", "08007"}


@pytest.fixture(scope="module")
def _pair(servers):
    return Pair(servers)


@pytest.fixture
def pair(_pair):
    yield _pair
    _pair.heal()


@pytest.fixture
def old_server():
    made = []

    def make(**how):
        made.append(OldServer(**how))
        return made[-1]
    yield make
    for server in made:
        server.close()


@pytest.fixture
def pair_table(pair):
    pair.primary.query("drop table if exists targets", db="orders")
    pair.primary.query("create table targets (n int, who text)", db="orders")
    pair.primary.query("grant all on targets to public", db="orders")
    pair.catch_up()
    return "targets"


# Of a pool. One that dies takes one lease along, at most: so many errors, whoever hears them.
SERVERS = 4


def make(carpool, upstreams, workers=1, **over):
    over = {"target": "primary", "size": {"min": 0, "max": SERVERS}, **over}
    return carpool(postgres_pool(upstreams, **over), workers=workers)


def in_recovery(conn):
    answer = conn.execute("select pg_is_in_recovery()").fetchone()[0]
    assert conn.info.parameter_status("in_hot_standby") == ("on" if answer else "off")
    return answer


def at(daemon, server):
    """Servers of the pool that are connected to this one."""
    return [s for s in daemon.json("/servers")["servers"] if s["endpoint"].endswith(f":{server.port}")]


# -- which one


def test_the_primary_wherever_it_stands(carpool, pair, workers):
    daemon = make(carpool, pair.urls(pair.standby, pair.primary), workers)
    conns = [daemon.connect() for _ in range(8)]
    try:
        for conn in conns:
            with conn.transaction():
                assert in_recovery(conn) is False
        daemon.cli("recycle", "orders")
        assert not any(in_recovery(conn) for conn in conns)
    finally:
        for conn in conns:
            conn.close()
    here = daemon.json("/servers")["servers"]
    assert here and all(s["role"] == "primary" for s in here)
    assert "primary" in daemon.cli("servers").stdout
    name = f"127.0.0.1:{pair.standby.port}"
    assert daemon.logged("dial_failed", f"{name} is a standby (target: primary)")
    assert pair.standby.logins("app") <= 2, "the other one is looked at no more than needed"


def test_standbys_only(carpool, pair, workers):
    daemon = make(carpool, pair.urls(pair.primary, pair.standby), workers, target="replica")
    with daemon.connect() as conn:
        assert in_recovery(conn) is True
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("create table nothing ()")
        assert in_recovery(conn) is True
    assert {s["role"] for s in daemon.json("/servers")["servers"]} == {"standby"}
    assert daemon.logged("dial_failed", "is a primary (target: replica)")
    assert not daemon.log_lines("servers_renewed")


def test_any_takes_the_first(carpool, pair):
    for first, other in ((pair.standby, pair.primary), (pair.primary, pair.standby)):
        daemon = make(carpool, pair.urls(first, other), target="any")
        with daemon.connect() as conn:
            assert in_recovery(conn) is (first is pair.standby)
        daemon.stop()


# -- the primary only for lack of a standby


@pytest.mark.parametrize("order", ["standby first", "primary first"])
def test_a_standby_is_preferred(carpool, pair, order, workers):
    hosts = [pair.standby, pair.primary] if order == "standby first" else [pair.primary, pair.standby]
    daemon = make(carpool, pair.urls(*hosts), workers, target="prefer-replica")
    conns = [daemon.connect() for _ in range(4)]
    try:
        for conn in conns:
            assert in_recovery(conn) is True
            conn.execute("begin")
        assert all(in_recovery(conn) for conn in conns)
    finally:
        for conn in conns:
            conn.close()
    assert {s["role"] for s in daemon.json("/servers")["servers"]} == {"standby"}
    looked = daemon.log_lines("dial_failed", "is a primary (target: prefer-replica)")
    assert len(looked) == (0 if order == "standby first" else 1)


def test_the_primary_where_there_is_no_standby(carpool, pair):
    """One that is alone, and one whose standby is down: nobody hears of it, and nobody waits long."""
    daemon = make(carpool, pair.urls(pair.primary), target="prefer-replica")
    with daemon.connect() as conn:
        assert in_recovery(conn) is False
    assert not daemon.log_lines("dial_failed")
    pair.standby.stop()
    daemon = make(carpool, pair.urls(pair.standby, pair.primary), target="prefer-replica", on_down="fail")
    for _ in range(3):
        with daemon.connect() as conn:
            conn.execute("begin")
            assert in_recovery(conn) is False
    assert not daemon.all_errors().get("outage")


def test_a_standby_goes_down_under_load_and_comes_back(carpool, pair, workers):
    """Down, clients lose what they had under way, and the primary serves them; back, it costs nothing."""
    daemon = make(carpool, pair.urls(pair.standby, pair.primary), workers, target="prefer-replica",
                  breaker={"open": "200ms..1s"})
    readers = Readers(daemon, 12)
    readers.settle(daemon, pair.standby, pair.primary)
    pair.standby.kill9()
    readers.settle(daemon, pair.primary, pair.standby, standby=False)
    assert sum(map(len, readers.errors)) <= SERVERS, readers.errors
    assert {e.sqlstate for mine in readers.errors for e in mine} <= CUT_STATES, readers.errors
    errors = [list(e) for e in readers.errors]
    pair.standby.start()
    readers.settle(daemon, pair.standby, pair.primary)
    readers.stop()
    assert readers.errors == errors, "the way back costs nobody anything"
    assert "drop_unfit" in daemon.get("/metrics").text


def test_a_preferred_replica_is_promoted(carpool, pair):
    """It is the primary then: it serves on while it is alone, and its old primary after that."""
    daemon = make(carpool, pair.urls(pair.primary, pair.standby), target="prefer-replica")
    with daemon.connect() as conn:
        assert in_recovery(conn) is True
        pair.primary.stop()
        pair.promote()
        assert in_recovery(conn) is False
        conn.execute("begin")
        assert in_recovery(conn) is False
        conn.execute("commit")
        pair.rejoin()
        wait_for(lambda: in_recovery(conn), 30, "the old primary, now a standby")
    assert not daemon.all_errors().get("outage")


def test_target_by_reload(carpool, pair):
    daemon = make(carpool, pair.urls(pair.standby, pair.primary), target="any")
    with daemon.connect() as conn:
        assert in_recovery(conn) is True
        daemon.change(target="primary")
        daemon.reload()
        wait_for(lambda: in_recovery(conn) is False, 10, "the primary")
        assert in_recovery(conn) is False


def test_only_for_postgres(carpool):
    daemon = carpool(start=False, text="pools: [{name: cache, upstream: 'redis://h', target: primary}]")
    done = daemon.cli("check", "-c", str(daemon.file), check=False)
    assert done.returncode == 1 and "target" in done.stdout + done.stderr


# -- servers that do not report it


def test_older_servers_are_asked(carpool, old_server):
    standby, primary = old_server(standby=True), old_server()
    daemon = make(carpool, [standby.url(), primary.url()])
    with daemon.wire() as wire:
        assert wire.run("write")[2] is None
    assert (primary.writes, standby.writes) == (1, 0)
    assert primary.asked == 1 and standby.asked >= 1
    wait_for(lambda: daemon.log_lines("dial_failed", f":{standby.port} is a standby (target: primary)"),
             what="the log to say why")


def test_nobody_is_asked_without_need(carpool, old_server):
    server = old_server(standby=True)
    daemon = make(carpool, server.url(), target="any")
    with daemon.wire() as wire:
        assert wire.run("select")[2] is None
    assert server.asked == 0


# -- no primary


def test_no_primary_is_an_outage(carpool, pair, workers):
    daemon = make(carpool, pair.urls(pair.standby), workers, timeouts={"outage_wait": "1500ms"},
                  breaker={"consecutive": 2})
    begun = time.monotonic()
    error = daemon.first_error()
    assert error.code == "08001"
    assert "outage" in error.fields["M"] and "is a standby (target: primary)" in error.fields["M"]
    assert 1 < time.monotonic() - begun < 6 * SLOW
    assert not daemon.errors("breaker_open")
    assert not daemon.log_lines("state=open")
    assert daemon.stats()["pools"][0]["breaker"]["door"] == "closed"


def test_at_once_with_on_down_fail(carpool, pair):
    daemon = make(carpool, pair.urls(pair.standby), on_down="fail", retry={"attempts": 2},
                  size={"min": 0, "max": 4, "acquire_timeout": "20s"})
    begun = time.monotonic()
    error = daemon.first_error()
    assert error.code == "08001" and "is a standby" in error.fields["M"]
    assert time.monotonic() - begun < 10 * SLOW, "well before acquire_timeout"


def test_a_promoted_standby_is_found_soon(carpool, pair):
    """Clients wait, however long it took: then about a second."""
    daemon = make(carpool, pair.urls(pair.primary, pair.standby), breaker={"open": "30s..30s"})
    with daemon.connect() as conn:
        assert in_recovery(conn) is False
        pair.primary.stop()
        answer = []

        def ask():
            answer.append((in_recovery(conn), time.monotonic()))
        rider = threading.Thread(target=ask)
        rider.start()
        wait_for(lambda: len(daemon.log_lines("is a standby (target: primary)")) >= 8, 30, "a few looks")
        assert not answer
        pair.promote()
        promoted = time.monotonic()
        rider.join(60)
        assert answer and answer[0][0] is False
        assert answer[0][1] - promoted < 8 * SLOW
    pair.rejoin()


# -- switchover


class Riders(SqlCrowd):
    """Clients that write, half of them in transactions; `errors` of each."""

    def __init__(self, daemon, n, table):
        self.table, self.errors = table, [[] for _ in range(n)]
        super().__init__(daemon, n)

    def _transaction(self, conn, n):
        self._end.wait(0.01)
        row = f"insert into {self.table} values ({self.done[n]}, 'rider {n}')"
        if n % 2:
            conn.execute(row)
        else:
            conn.execute("begin")
            conn.execute(row)
            conn.execute("commit")

    def _note(self, n, error):
        self.errors[n].append(error)

    def progress(self, more=5, timeout=40):
        super().progress(more, timeout)


class Readers(Riders):
    """The same, but they only read, and note what they have read from."""

    def __init__(self, daemon, n):
        self.seen = set()
        super().__init__(daemon, n, None)

    def settle(self, daemon, here, there, standby=True):
        """Until all are served here, and not only for a moment: a dial there may have been under way."""
        def settled():
            self.progress(1)  # who has read before has noted it
            self.seen.clear()
            self.progress()
            return self.seen == {standby} and at(daemon, here) and not at(daemon, there)
        wait_for(settled, 60, "the pool to be at one of the two")

    def _transaction(self, conn, n):
        self._end.wait(0.01)
        if n % 2:
            self.seen.add(in_recovery(conn))
        else:
            conn.execute("begin")
            self.seen.add(in_recovery(conn))
            conn.execute("commit")


def test_switchover_under_load(carpool, pair, pair_table, workers):
    """There and back. Each time clients lose what they had under way, and nothing is done twice."""
    daemon = make(carpool, pair.urls(pair.primary, pair.standby), workers)
    riders = Riders(daemon, 12, pair_table)
    riders.progress()
    for turn in (1, 2):
        pair.primary.stop()
        pair.promote()
        riders.progress()
        assert sum(map(len, riders.errors)) <= SERVERS * turn, riders.errors
        pair.rejoin()
        riders.progress()
    riders.stop()
    assert sum(map(len, riders.errors)) <= SERVERS * 2, riders.errors
    assert {e.sqlstate for mine in riders.errors for e in mine} <= CUT_STATES, riders.errors
    assert set(daemon.all_errors()) <= {"upstream_closed", "outcome_unknown", "dial_failed"}
    rows = dict(pair.primary.query("select who, count(distinct n) from targets group by 1", db="orders"))
    assert [rows[f"rider {i}"] >= n for i, n in enumerate(riders.done)] == [True] * 12, (rows, riders.done)
    doubles = pair.primary.query("select who, n from targets group by 1, 2 having count(*) > 1",
                                 db="orders")
    errors = sum(len(e) for e in riders.errors)
    assert len(doubles) <= errors, "a number comes twice only where the first try was said to be unknown"


def test_a_planned_switchover_costs_nobody_anything(carpool, pair, pair_table, workers):
    """Pause, wait until nobody has a server, switch over, resume: whoever begins meanwhile waits, longer
    than a busy pool would let him, and no transaction is lost or done twice."""
    daemon = make(carpool, pair.urls(pair.primary, pair.standby), workers,
                  size={"min": 0, "max": SERVERS, "acquire_timeout": "1s"})
    riders = Riders(daemon, 12, pair_table)
    riders.progress()
    for _ in range(2):
        daemon.cli("pause", "orders")
        paused = time.monotonic()
        wait_for(lambda: daemon.leases() == 0, what="transactions to end")
        wait_for(lambda: daemon.waiting() == 12, what="all to wait")
        pair.primary.stop()
        pair.promote()
        # Nothing can be seen of who is still patient: only time shows it.
        time.sleep(max(0, 3 - (time.monotonic() - paused)))
        assert (daemon.waiting(), riders.errors) == (12, [[]] * 12)
        daemon.cli("resume", "orders")
        riders.progress()
        pair.rejoin()
        riders.progress()
    riders.stop()
    assert riders.errors == [[]] * 12
    rows = pair.primary.query("select who, count(*), count(distinct n) from targets group by 1",
                              db="orders")
    assert sorted(rows) == sorted((f"rider {i}", n, n) for i, n in enumerate(riders.done))
    assert not {"outage", "acquire_timeout", "paused"} & set(daemon.all_errors())


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_who_had_nothing_open_never_knows(carpool, pair, pair_table, mode):
    """Autocommit statements and transactions that begin while there is no primary wait for one."""
    daemon = make(carpool, pair.urls(pair.primary, pair.standby), mode=mode)
    if mode == "session":
        pair.primary.stop()  # sessions that have a server go with it; these have none yet
    single, block = (daemon.connect() if mode == "transaction" else None for _ in range(2))
    heard = []

    def write(conn, *statements):
        try:
            with conn or daemon.connect() as mine:
                for sql in statements:
                    mine.execute(sql)
            heard.append("done")
        except psycopg.Error as e:
            heard.append(e)

    if mode == "transaction":
        for conn in (single, block):
            conn.execute(f"insert into {pair_table} values (0, 'before')")
        pair.primary.stop()
    insert = f"insert into {pair_table} values (1, 'meanwhile')"
    riders = [threading.Thread(target=write, args=(single, insert)),
              threading.Thread(target=write, args=(block, "begin", insert, "commit"))]
    for rider in riders:
        rider.start()
    wait_for(lambda: daemon.waiting() == 2, what="both to wait")
    pair.promote()
    for rider in riders:
        rider.join(60)
    assert heard == ["done", "done"], heard
    assert pair.primary.value("select count(*) from targets where n = 1", db="orders") == 2
    pair.rejoin()


def test_killed_primary_and_old_one_back_as_standby(carpool, pair, pair_table):
    """The pool is on the new primary; what was the old one's connections are gone for good."""
    daemon = make(carpool, pair.urls(pair.primary, pair.standby))
    with daemon.connect() as conn:
        conn.execute(f"insert into {pair_table} values (1, 'old')")
        pair.primary.stop()
        pair.promote()
        conn.execute(f"insert into {pair_table} values (2, 'new')")
        pair.rejoin()
        for _ in range(20):
            conn.execute(f"insert into {pair_table} values (3, 'new')")
        daemon.cli("recycle", "orders")
        conn.execute(f"insert into {pair_table} values (4, 'new')")
        assert not at(daemon, pair.standby) and at(daemon, pair.primary)
    assert not daemon.errors("outage")


def test_a_frozen_primary_is_left(carpool, pair, pair_table, gate, workers):
    """The way to the primary goes dark, another one is promoted: once it is found, idle connections to
    the old one are used no more, though nothing has closed them."""
    way = gate(pair.primary.host, pair.primary.port)
    urls = [pair.primary.url(host=way.host, port=way.port), pair.standby.url()]
    daemon = make(carpool, urls, workers, size={"min": 0, "max": 4}, timeouts={"connect": "500ms",
                                                                              "close": "300ms"})
    conns = [daemon.connect() for _ in range(4)]
    for conn in conns:
        conn.execute("begin")
        conn.execute("select 1")
    for conn in conns[1:]:
        conn.execute("commit")
    wait_for(lambda: daemon.servers(state="idle") == 3, what="idle servers")
    way.pause()
    pair.primary.stop("immediate")
    pair.standby.value("select pg_promote()")
    pair.primary, pair.standby = pair.standby, pair.primary
    # One more server than there are: a dial, which fails at the old and finds the new primary.
    daemon.change(size={"min": 4})
    daemon.reload()
    pair.standby.data.joinpath("standby.signal").unlink(missing_ok=True)
    conns[0].close()
    wait_for(lambda: at(daemon, pair.primary), 20, "the new primary")
    wait_for(lambda: not [s for s in daemon.json("/servers")["servers"]
                          if s["endpoint"].endswith(f":{way.port}") and s["state"] == "idle"],
             10, "the old ones to go")
    begun = time.monotonic()
    for conn in conns[1:]:
        conn.execute(f"insert into {pair_table} values (5, 'new')")
        conn.close()
    assert time.monotonic() - begun < 5 * SLOW
    way.resume()


def test_a_promoted_replica_is_left(carpool, pair):
    """It keeps its sessions when it is promoted, and says so with the next answer."""
    daemon = make(carpool, pair.urls(pair.primary, pair.standby), target="replica")
    with daemon.connect() as conn:
        assert in_recovery(conn) is True
        pair.primary.stop()
        pair.promote()
        assert in_recovery(conn) is False, "the answer that carries the news"
        wait_for(lambda: not at(daemon, pair.primary), what="its servers to go")
        pair.rejoin()
        assert in_recovery(conn) is True
        assert {s["role"] for s in daemon.json("/servers")["servers"]} == {"standby"}


# -- refused writes


def test_own_read_only_is_no_reason(carpool, pair, workers):
    """A client that breaks its own READ ONLY costs the pool nothing but a question."""
    daemon = make(carpool, pair.urls(pair.primary, pair.standby), workers, size={"min": 0, "max": 1})
    with daemon.connect() as conn:
        pid = conn.execute("select pg_backend_pid()").fetchone()
        for _ in range(5):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), conn.transaction():
                conn.execute("set transaction read only")
                conn.execute("create table nothing ()")
        assert conn.execute("select pg_backend_pid()").fetchone() == pid
    assert not daemon.log_lines("servers_renewed")


def test_a_primary_that_was_demoted_behind_our_back(carpool, old_server):
    """A relay or a pooler in between hides the restart: one refused write, and it is left."""
    one, two = old_server(), old_server(standby=True)
    daemon = make(carpool, [one.url(), two.url()], size={"min": 0, "max": 2})
    with daemon.wire() as wire, daemon.wire() as other:
        for w in (wire, other):
            assert w.run("write")[2] is None
        one.standby, two.standby = True, False
        assert wire.run("write")[2].code == "25006"
        wait_for(lambda: daemon.log_lines("servers_renewed", f":{one.port}"), what="the news")
        for w in (wire, other):
            assert w.run("write")[2] is None
    assert (one.writes, two.writes) == (2, 2)
