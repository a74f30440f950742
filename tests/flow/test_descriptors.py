# SPDX-License-Identifier: MIT
"""No descriptor is left (EMFILE): that is carpool's own trouble. Who is connected is served, who comes
waits at the door, no upstream gets the blame, nothing spins; and all is well again once there are some."""

import contextlib
import resource
import time
from pathlib import Path

import pytest
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin  # noqa: F401
from harness.httpwire import Http, http_pool, refused
from harness.pgwire import query
from harness.redis_fixtures import fake  # noqa: F401
from harness.rediswire import FakeRedis, Resp, RespError, redis_pool

LEFT = 12  # descriptors that the daemon may still open
MORE = 8   # clients above that
PATIENT = {"timeouts": {"client_login": "10m"}}  # most of the crowd says nothing for a while
TOUCHY = {"breaker": {"consecutive": 2, "failure_ratio": "0%"}}


def admin_connections(daemon):
    """As the kernel sees them: each has the path of the socket that listens."""
    return Path("/proc/net/unix").read_text().count(f"{daemon.socket}\n") - 1


@contextlib.contextmanager
def room_for(daemon, more):
    """The daemon may open so many descriptors more; the limit is given. Inside nobody asks the admin API:
    it would take one, or wait at its door."""
    wait_for(lambda: admin_connections(daemon) == 0, what="the harness' own connections to be closed")
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    limit = daemon.descriptors() + more
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield limit
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def crowded(daemon, connect):
    """More clients than the daemon has descriptors for: some are in, the others wait at the door. They
    are given; at the end of the block the limit is what it was."""
    crowd = []
    try:
        with room_for(daemon, LEFT) as limit:
            crowd += [connect() for _ in range(LEFT + MORE)]
            daemon.logged("accept_paused", "Too many open files")
            wait_for(lambda: daemon.descriptors() == limit, what="all to be taken")
            yield crowd
    finally:
        for one in crowd:
            one.sock.close()
            getattr(one, "file", one.sock).close()  # a reader keeps the socket open


def cpu_seconds(daemon):
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_clients_wait_at_the_door(orders, workers):
    daemon = orders(workers, size={"min": 1, "max": 1, "acquire_timeout": "60s"}, **PATIENT)
    with daemon.wire() as rider, crowded(daemon, lambda: daemon.wire(login=False)) as crowd:
        for n in range(20):
            assert rider.run(f"select {n}")[0] == [[str(n)]]
        lines, begun, cpu = len(daemon.log_lines("accept_paused")), time.monotonic(), cpu_seconds(daemon)
        said = wait_for(lambda: (n := len(daemon.log_lines("accept_paused")) - lines) >= 4 * workers and n,
                        20, "the door to be tried again and again")
        took = time.monotonic() - begun
        # One line a second of each worker, however often it is tried; some may have been on their way.
        assert said <= workers * (took + 2)
        assert cpu_seconds(daemon) - cpu < 0.5 * took + 0.1, "it spins"
        soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft + 2 * MORE, hard))
        for wire in crowd:
            assert wire.login().run("select 1")[0] == [["1"]]
    wait_for(lambda: daemon.pools()["orders"]["clients"] == 0, what="all of them to be gone")
    assert daemon.all_errors() == {}


def test_a_dial_that_finds_none_is_not_the_servers_fault(orders, workers):
    """Its door stays open, who waits is served by what there is, and has a server of its own when
    descriptors are back."""
    daemon = orders(workers, size={"min": 1, "max": 2, "acquire_timeout": "5m"}, **PATIENT, **TOUCHY)
    wait_for(lambda: daemon.servers(state="idle") == 1, what="the first server")
    with daemon.wire() as one, daemon.wire() as two:
        assert one.run("begin")[2] is None
        with crowded(daemon, lambda: daemon.wire(login=False)):
            two.send(query("select 2"))
            failed = wait_for(lambda: (lines := daemon.log_lines("dial_failed"))[4:] and lines, 30,
                              "the dial to be tried again and again")
            assert all("cause=internal" in line and "Too many open files" in line for line in failed)
            assert one.run("commit")[2] is None
            assert two.results()[0] == [["2"]]
            assert one.run("begin")[2] is None
            two.send(query("select 3"))
            wait_for(lambda: len(daemon.log_lines("dial_failed")) > len(failed), 30, "one more try")
        assert two.results()[0] == [["3"]], "while the other one keeps his"
        assert one.run("commit")[2] is None
    assert not daemon.log_lines("breaker=door")
    assert daemon.stats()["pools"][0]["breaker"]["door"] == "closed"
    assert set(daemon.all_errors()) == {"internal"}


def ask_redis(client):
    answer = client.cmd("GET", "k")
    return answer.cause if isinstance(answer, RespError) else answer.decode()


def ask_http(client):
    answer = client.get("/body/4")
    return "well" if answer.status == 200 else refused(answer, 500, "internal") and "internal"


@pytest.fixture
def upstream(request, origin):
    """(config of a pool, makes a client, asks it: "well" or the cause)"""
    if request.param == "http":
        yield http_pool(origin.url(), **PATIENT, **TOUCHY), Http, ask_http
        return
    server = FakeRedis(lambda _words, _conn: b"$4\r\nwell\r\n")
    yield redis_pool(server.url(), **PATIENT, **TOUCHY), Resp, ask_redis
    server.close()


@pytest.mark.parametrize("upstream", ["redis", "http"], indirect=True)
def test_no_upstream_gets_the_blame(carpool, upstream):
    """No server yet, and none can be dialed: told as it is, and over as soon as it is over."""
    pool, connect, ask = upstream
    pool["size"] = {"min": 0, "max": 2, "acquire_timeout": "60s"}
    daemon = carpool(pool)
    port = daemon.port(pool["name"])
    with connect(port) as rider:
        with crowded(daemon, lambda: connect(port)):
            for _ in range(3):
                assert ask(rider) == "internal"
        assert ask(rider) == "well"
    assert not daemon.log_lines("breaker=door")
    assert set(daemon.all_errors(pool["name"])) == {"internal"}


def test_the_last_descriptor_is_the_sockets(carpool, servers, fake):
    """None is left for the file of authorities: that says nothing about the upstream's certificate."""
    server = fake()
    ca = f"sslmode=verify-ca&sslrootcert={servers.authority.ca}"
    daemon = carpool(redis_pool(f"rediss://{server.host}:{server.port}/0?{ca}", **TOUCHY))
    with Resp(daemon.port("cache")) as rider:
        wait_for(lambda: daemon.pools()["cache"]["clients"] == 1, what="the client to be in")
        with room_for(daemon, 1):
            for _ in range(3):
                assert ask_redis(rider) == "internal"
    assert daemon.logged("dial_failed", "stage=tls", "Too many open files")
    assert not daemon.log_lines("breaker=door")
    assert set(daemon.all_errors("cache")) == {"internal"}
