# SPDX-License-Identifier: MIT
"""psycopg, asyncpg, redis-py and httpx where a client has to wait, waits in vain, or keeps others waiting: what
these libraries make of it, over the one connection that they have. (While servers are killed, bounds change and the
end is near they are the clients of test_postgres_outage.py, test_redis_lost.py, test_http_retry.py,
test_reload_drain.py, test_redis_limits.py and test_http_drain.py.)"""

import asyncio
import contextlib
import itertools
import threading

import asyncpg
import httpx
import psycopg
import pytest
import redis
from harness.base import PATIENCE, Loop, at_deadline, wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin  # noqa: F401
from harness.httpwire import Http, http_pool, request
from harness.load import asyncpg_connect, httpx_client, redis_py, stayed
from harness.redis_fixtures import key, rd  # noqa: F401
from harness.rediswire import Resp, redis_pool
from harness.relays import TO_CLIENT

MANY = 20_000_000  # bytes: more than kernels keep
TIMEOUT = 20 * PATIENCE


class Psycopg:
    """A library: its `pool` before a server of the test's, its clients, and what they do. `broken` is what it
    raises when its connection has ended."""

    name, broken = "orders", psycopg.OperationalError

    def __init__(self, get):
        self.sequence = f"{get('table')}_id_seq"
        self.upstream = get("pg").url()

    def pool(self, **over):
        return postgres_pool(self.upstream, **over)

    def connect(self, daemon):
        return daemon.connect()

    @contextlib.contextmanager
    def hold(self, daemon):
        """Somebody has the only server."""
        with daemon.wire() as holder:
            holder.run("begin")
            yield
            holder.run("commit")

    def number(self, client):
        """An exchange: its place in the order of service, by the server's own count."""
        return client.execute(f"select nextval('{self.sequence}')").fetchone()[0]

    def well(self, client):
        assert client.execute("select 1").fetchone() == (1,)

    def late(self, client):
        """A request that takes too long: what the client is told."""
        with pytest.raises(psycopg.errors.QueryCanceled) as e:
            client.execute("select pg_sleep(60)")
        return str(e.value)

    def stop_reading(self, client, until):
        """Asks for much, takes a little, and goes on when `until` says so."""
        with client.cursor().copy(f"copy ({self.much()}) to stdout") as copy:
            assert copy.read()
            until()
            for _ in copy:
                pass

    @staticmethod
    def much():
        return f"select repeat('x', 1000) from generate_series(1, {MANY // 1000})"

    def close(self, client):
        client.close()


class Asyncpg(Psycopg):
    broken = asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError

    def connect(self, daemon):
        loop = Loop()
        return loop, loop.call(asyncpg_connect(daemon))

    def number(self, client):
        loop, conn = client
        return loop.call(conn.fetchval(f"select nextval('{self.sequence}')"), TIMEOUT)

    def well(self, client):
        loop, conn = client
        assert loop.call(conn.fetchval("select 1"), TIMEOUT) == 1

    def late(self, client):
        loop, conn = client
        with pytest.raises(asyncpg.QueryCanceledError) as e:
            loop.call(conn.execute("select pg_sleep(60)"), TIMEOUT)
        return str(e.value)

    def stop_reading(self, client, until):
        loop, conn = client
        waited = []

        async def take(_data):
            if not waited:
                waited.append(await asyncio.to_thread(until))
        loop.call(conn.copy_from_query(self.much(), output=take), 2 * TIMEOUT)

    def close(self, client):
        loop, conn = client

        async def end():
            conn.terminate()
        loop.call(end())
        loop.close()


class RedisPy:
    name, broken = "cache", redis.ConnectionError

    def __init__(self, get):
        rd = get("rd")  # noqa: F811
        self.way, self.key = get("gate")(rd.host, rd.port), get("key")
        self.upstream = rd.url(host=self.way.host, port=self.way.port)

    def pool(self, **over):
        return redis_pool(self.upstream, **over)

    def connect(self, daemon):
        return redis_py(daemon)

    @contextlib.contextmanager
    def hold(self, daemon):
        with Resp(daemon.port("cache")) as holder:
            assert holder.cmd("WATCH", self.key) == "OK"
            yield
            assert holder.cmd("UNWATCH") == "OK"

    def number(self, client):
        with client.pipeline() as pipe:
            pipe.watch(self.key + "-not")  # for a server of its own
            pipe.multi()
            pipe.incr(self.key)
            return pipe.execute()[0]

    def well(self, client):
        assert client.exists(self.key + "-not") == 0

    def late(self, client):
        self.way.pause(TO_CLIENT)
        try:
            with pytest.raises(redis.ResponseError) as e:
                client.get(self.key)
        finally:
            self.way.resume()
        return str(e.value)

    def stop_reading(self, client, until):
        client.set(self.key, b"v" * 1_000_000)
        conn = client.connection_pool.get_connection("GET")
        for _ in range(MANY // 1_000_000):
            conn.send_command("GET", self.key)
        until()
        for _ in range(MANY // 1_000_000):
            conn.read_response()

    def close(self, client):
        client.connection_pool.disconnect()


class Httpx:
    name, broken = "web", (httpx.RemoteProtocolError, httpx.ReadError)

    def __init__(self, get):
        self.origin, self.names = get("origin"), itertools.count()
        self.upstream = self.origin.url()

    def pool(self, **over):
        return http_pool(self.upstream, **over)

    def connect(self, daemon):
        return httpx_client(daemon)

    @contextlib.contextmanager
    def hold(self, daemon):
        with Http(daemon.port("web")) as holder:
            holder.send(request("PUT", "/echo", "Content-Length: 4") + b"ab")
            yield
            holder.send(b"cd")
            assert holder.response().status == 200

    def number(self, client):
        target = f"/echo?{next(self.names)}"
        assert client.get(target).status_code == 200
        return [r["target"] for r in self.origin.requests].index(target)

    def well(self, client):
        assert client.get("/status/404").status_code == 404

    def late(self, client):
        answer = client.get("/silent")
        assert answer.status_code == 504
        return answer.text

    def stop_reading(self, client, until):
        with client.stream("GET", f"/chunked/{MANY}") as answer:
            parts = answer.iter_raw()
            assert next(parts)
            until()
            for _ in parts:
                pass

    def close(self, client):
        client.close()


@pytest.fixture(params=[Psycopg, Asyncpg, RedisPy, Httpx], ids=lambda kind: kind.__name__.lower())
def library(request):
    return request.param(request.getfixturevalue)


@pytest.fixture
def riders(library):
    """riders(daemon, n): clients that are connected."""
    made = []

    def make(daemon, n):
        for _ in range(n):
            made.append(library.connect(daemon))
            library.well(made[-1])
        return made
    yield make
    for client in made:
        library.close(client)


def test_a_pool_of_one_keeps_the_order(carpool, library, riders):
    """Who asked first is served first, by the server's own count."""
    daemon = carpool(library.pool(size={"max": 1, "acquire_timeout": "60s"}))
    clients, numbers, threads = riders(daemon, 8), {}, []

    def ride(n):
        numbers[n] = library.number(clients[n])
    with library.hold(daemon):
        wait_for(lambda: daemon.leases(library.name) == 1, what="the server to be taken")
        for n in range(len(clients)):
            threads.append(threading.Thread(target=ride, args=(n,), daemon=True))
            threads[-1].start()
            wait_for(lambda n=n: daemon.waiting(library.name) == n + 1, what=f"client {n} to wait")
    for thread in threads:
        thread.join(60)
    assert list(range(numbers[0], numbers[0] + 8)) == [numbers[n] for n in range(8)]
    assert daemon.all_errors(library.name) == {}
    stayed(daemon, library.name, 9)


def test_a_request_ends_at_its_deadline(carpool, library, riders):
    """It is told in the library's own way, and the connection goes on."""
    daemon = carpool(library.pool(timeouts={"request": "600ms", "close": "200ms"}, check={"timeout": "20s"},
                                  retry={"attempts": 1}))
    client, = riders(daemon, 1)
    for _ in range(2):
        with at_deadline(0.6):
            said = library.late(client)
        assert "carpool: request_timeout" in said
        library.well(client)
    assert daemon.all_errors(library.name) == {"request_timeout": 2}
    stayed(daemon, library.name, 1)


def test_who_stops_reading_is_let_go(carpool, library, riders):
    """In the middle of a large answer, for timeouts.write_stall: others get its server."""
    daemon = carpool(library.pool(size={"max": 1, "acquire_timeout": "60s"}, timeouts={"write_stall": "1s"}))
    stopped, other = riders(daemon, 2)

    def until():
        library.well(other)
        assert daemon.saw("write_stall", library.name)
    with pytest.raises(library.broken):
        library.stop_reading(stopped, until)
    assert daemon.all_errors(library.name) == {"write_stall": 1}
    library.well(other)
    stayed(daemon, library.name, 2)
