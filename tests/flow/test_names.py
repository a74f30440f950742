# SPDX-License-Identifier: MIT
"""Upstreams by name: the name leads elsewhere, the resolver fails, and servers follow or stay."""

import threading

import pytest
from harness.base import SLOW, free_port, wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin  # noqa: F401
from harness.httpwire import Http, http_pool
from harness.names import Hosts
from harness.redis_fixtures import rd  # noqa: F401
from harness.rediswire import Resp, redis_pool

ONE, TWO = "127.0.0.2", "127.0.0.3"


@pytest.fixture(scope="module")
def _missing():
    hosts = Hosts()
    yield hosts.missing()
    hosts.close()


@pytest.fixture
def hosts(_missing):
    if _missing:
        pytest.skip(_missing)
    made = Hosts()
    yield made
    made.close()


class Database:
    """A kind of pool: how it is made, and how a client of it is served."""

    fixture, name = "pg", "orders"

    def __init__(self, server):
        self.server = server

    def pool(self, port, **over):
        return postgres_pool(self.server.url(host="db", port=port, sslmode="disable"), **over)

    def client(self, daemon):
        return daemon.connect()

    def ask(self, client):
        assert client.execute("select 1").fetchone() == (1,)


class Cache(Database):
    fixture, name = "rd", "cache"

    def pool(self, port, **over):
        return redis_pool(self.server.url(host="db", port=port), **over)

    def client(self, daemon):
        return Resp(daemon.port("cache"))

    def ask(self, client):
        assert client.cmd("GET", "nothing of this name") is None


class Web(Database):
    fixture, name = "origin", "web"

    def pool(self, port, **over):
        return http_pool(f"http://db:{port}", **over)

    def client(self, daemon):
        return Http(daemon.port("web"))

    def ask(self, client):
        assert client.get("/body/5").status == 200


class Stage:
    """Two ways to one server, at the same port of addresses ONE and TWO; `db` is at ONE."""

    def __init__(self, kind, carpool, hosts, gate):
        port = free_port()
        self.kind, self.carpool, self.hosts = kind, carpool, hosts
        server = kind.server
        self.one, self.two = (gate(server.host, server.port, at=(host, port)) for host in (ONE, TWO))
        self.port = port
        hosts.set(db=[ONE])

    def start(self, workers=1, dns_ttl="200ms", **over):
        self.daemon = self.carpool(self.kind.pool(self.port, dns_ttl=dns_ttl, **over), start=False,
                                   workers=workers)
        self.daemon.prefix = self.hosts.prefix
        return self.daemon.start()

    def client(self):
        return self.kind.client(self.daemon)

    def ask(self, client):
        self.kind.ask(client)


@pytest.fixture
def stage(carpool, hosts, gate, request):
    def make(kind):
        return Stage(kind(request.getfixturevalue(kind.fixture)), carpool, hosts, gate)
    return make


every_kind = pytest.mark.parametrize("kind", [Database, Cache, Web], ids=["postgres", "redis", "http"])


@every_kind
def test_idle_servers_leave_an_address_that_left(stage, hosts, kind, workers):
    s = stage(kind)
    daemon = s.start(workers)
    with s.client() as client:
        s.ask(client)
        assert (s.one.open, s.two.open) == (1, 0)
        hosts.set(db=[TWO])
        wait_for(lambda: s.one.open == 0, what="the server to go")
        s.ask(client)
        assert (s.one.open, s.two.open) == (0, 1)
    wait_for(lambda: daemon.log_lines("name_changed", "name=db", f"addresses={TWO}", f"before={ONE}"),
             what="the log to say that the name has moved")
    wait_for(lambda: daemon.log_lines("server_close", "reason=drop_moved"), what="and why the server went")
    assert 'outcome="drop_moved"' in daemon.get("/metrics").text
    assert not daemon.all_errors()


@every_kind
def test_servers_at_work_go_when_they_are_done(stage, hosts, kind, workers):
    """Under load: nobody hears of it."""
    s = stage(kind)
    daemon = s.start(workers)
    done, heard, end = [0] * 6, [], threading.Event()

    def ride(i):
        try:
            with s.client() as client:
                while not end.is_set():
                    s.ask(client)
                    done[i] += 1
        except Exception as e:
            heard.append(repr(e))

    def progress():
        before = list(done)
        wait_for(lambda: heard or all(d > b + 5 for d, b in zip(done, before)), 30, "all to be served")

    riders = [threading.Thread(target=ride, args=(i,)) for i in range(6)]
    for rider in riders:
        rider.start()
    try:
        progress()
        for now, before, to in ((s.two, s.one, TWO), (s.one, s.two, ONE)):
            hosts.set(db=[to])
            wait_for(lambda: before.open == 0 and now.open > 0, 20, "servers to follow the name")
            progress()
    finally:
        end.set()
        for rider in riders:
            rider.join(20 * SLOW)
    assert not heard and not daemon.all_errors()


def test_an_open_transaction_stays(stage, hosts):
    s = stage(Database)
    daemon = s.start()
    with s.client() as client:
        client.execute("begin")
        pid = client.execute("select pg_backend_pid()").fetchone()
        hosts.set(db=[TWO])
        wait_for(lambda: [x for x in daemon.json("/servers")["servers"] if x["retiring"] == "drop_moved"],
                 what="it to be seen")
        assert client.execute("select pg_backend_pid()").fetchone() == pid
        client.execute("commit")
        wait_for(lambda: s.one.open == 0, what="the server to go")
        s.ask(client)
        assert s.two.open == 1


def test_only_what_has_left_goes(stage, hosts):
    s = stage(Database)
    s.start()
    with s.client() as a, s.client() as b:
        a.execute("begin")
        a.execute("select 1")
        assert s.one.open == 1
        hosts.set(db=[ONE, TWO])
        s.one.refuse()
        b.execute("begin")
        b.execute("select 1")
        stays = b.execute("select pg_backend_pid()").fetchone()
        assert (s.one.open, s.two.open) == (1, 1)
        hosts.set(db=[TWO])
        a.execute("commit")
        b.execute("commit")
        wait_for(lambda: s.one.open == 0, what="the server that was left behind to go")
        assert s.two.open == 1
        assert b.execute("select pg_backend_pid()").fetchone() == stays


@every_kind
def test_a_resolver_that_fails_changes_nothing(stage, hosts, kind):
    s = stage(kind)
    daemon = s.start()
    with s.client() as client:
        s.ask(client)
        hosts.set()
        wait_for(lambda: daemon.log_lines("name_failed", "name=db"), what="the log to say so")
        daemon.cli("recycle", kind.name)
        wait_for(lambda: s.one.open == 0, what="the old server to go")
        s.ask(client)
        assert s.one.open == 1, "a new one, where the name led to before"
        hosts.set(db=[TWO])
        wait_for(lambda: daemon.log_lines("name_well", "name=db"), what="the resolver to be well")
        wait_for(lambda: s.one.open == 0, what="servers to follow the name")
        s.ask(client)
        assert s.two.open == 1
    assert len(daemon.log_lines("name_failed")) == 1, "said once"
    assert not daemon.all_errors()


def test_an_unknown_name_is_an_outage(stage, hosts):
    s = stage(Database)
    hosts.set()
    daemon = s.start(timeouts={"outage_wait": "500ms"})
    error = daemon.first_error()
    assert error.code == "08001" and "cannot resolve the name" in error.fields["M"]
    hosts.set(db=[TWO])
    wait_for(lambda: daemon.connect().close() or s.two.open == 1, 20, "service", ignore=Exception)


@every_kind
def test_a_dial_that_fails_asks_anew(stage, hosts, kind):
    """However long the answer was to be good."""
    s = stage(kind)
    s.start(dns_ttl="1h")
    with s.client() as client:
        s.ask(client)
        hosts.set(db=[TWO])
        s.one.refuse()
        s.one.cut()
        wait_for(lambda: s.one.open == 0, what="the way to be gone")

        def served():
            with s.client() as another:
                s.ask(another)
                return s.two.open == 1
        wait_for(served, 20, "service at the new address", ignore=Exception)


@every_kind
def test_without_a_ttl_servers_stay_and_dials_ask(stage, hosts, kind):
    s = stage(kind)
    daemon = s.start(dns_ttl=0)
    with s.client() as client:
        s.ask(client)
        hosts.set(db=[TWO])
        for _ in range(3):
            s.ask(client)
        assert (s.one.open, s.two.open) == (1, 0)
        daemon.cli("recycle", kind.name)
        wait_for(lambda: s.one.open == 0, what="the old server to go")
        s.ask(client)
        assert (s.one.open, s.two.open) == (0, 1)
    assert not daemon.log_lines("name_changed") and not daemon.log_lines("drop_moved")
