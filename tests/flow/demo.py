# SPDX-License-Identifier: MIT
"""What pooling saves, shown on throwaway servers: `./dev demo [--check]`.

Starts PostgreSQL, Redis and nginx on free loopback ports, each with a bound of its own that it enforces
itself, puts carpool in front, and drives 200 real clients of each kind through it. What the servers
report about their connections is printed; then a client that connects anew for each request is timed
direct and through carpool. Without --check everything stays up until Ctrl-C.
"""

import argparse
import asyncio
import os
import signal
import ssl
import statistics
import sys
import time

from harness.base import LOOPBACK, free_port
from harness.carpool import Carpool, find_binary, merge
from harness.postgres import DATABASE
from harness.servers import Servers

KINDS = ["postgres", "redis", "http"]

CLIENTS = 200
TURNS = 20          # requests of each client
RECONNECTS = 60     # requests of the client that connects anew each time
BOUNDS = {"postgres": 10, "redis": 4, "http": 10}


class Ride:
    """One kind: its server, its pool, its clients, and what the server says about it afterwards."""

    kind = None

    def __init__(self, servers):
        self.bound = BOUNDS[self.kind]
        self.port = free_port()
        self.served, self.failed, self.took = 0, [], 0.0
        self.server = self.start(servers)

    def pool(self, **more):
        return merge({"name": self.kind, "kind": self.kind, "listen": [f"{LOOPBACK}:{self.port}"],
                      "upstream": self.upstream(),
                      "size": {"min": 1, "max": self.bound, "acquire_timeout": "30s"}}, more)

    async def drive(self):
        """All clients at once, each keeps its connection for all its requests."""
        begun = time.monotonic()
        with self.server.peak(*self.peak_of()) as peak:
            results = await asyncio.gather(*(self.rider(n) for n in range(CLIENTS)),
                                           return_exceptions=True)
        self.took = time.monotonic() - begun
        self.peak = peak.value
        self.failed = [r for r in results if isinstance(r, Exception)]
        self.served = sum(r for r in results if isinstance(r, int))

    def peak_of(self):
        return ()

    def make_room(self):
        """The pool may hold all that the server allows: the direct client needs a place, too."""

    def compare(self):
        """Median seconds of one request with a connection of its own: (direct, through carpool)."""
        def timed(once):
            spans = []
            for _ in range(RECONNECTS):
                begun = time.perf_counter()
                once()
                spans.append(time.perf_counter() - begun)
            return statistics.median(spans)
        self.make_room()
        for once in (self.once_direct, self.once_through):
            once()  # the first of each pays for imports and warm-up
        return timed(self.once_direct), timed(self.once_through)


class PostgresRide(Ride):
    kind = "postgres"
    what = "transactions"
    versus = "SCRAM login"

    def start(self, servers):
        server = servers.postgres(local=True, bound=self.bound)
        self.mark = server.mark()
        return server

    def upstream(self):
        return self.server.url("bounded")

    def peak_of(self):
        return ("bounded",)

    def dsn(self):
        return f"host={LOOPBACK} port={self.port} user=bounded dbname={DATABASE}"

    async def rider(self, n):
        import psycopg
        conn = await psycopg.AsyncConnection.connect(self.dsn(), autocommit=True)
        conn.prepare_threshold = None
        async with conn:
            for turn in range(TURNS):
                async with conn.transaction():
                    row = await (await conn.execute("select %s::int", (n * TURNS + turn,))).fetchone()
                assert row == (n * TURNS + turn,), "an answer for somebody else"
        return TURNS

    def numbers(self):
        return {"most at once": self.peak, "opened": self.server.logins("bounded", self.mark),
                "refused": self.server.refusals(self.mark)}

    def once_direct(self):
        self._once(self.server.dsn("app"))  # `bounded` may be full

    def once_through(self):
        self._once(self.dsn())

    @staticmethod
    def _once(dsn):
        import psycopg
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert conn.execute("select 1").fetchone() == (1,)

    def hint(self):
        return f"psql 'host={LOOPBACK} port={self.port} user=bounded dbname={DATABASE}'"


class RedisRide(Ride):
    kind = "redis"
    what = "commands"
    versus = "AUTH"

    def start(self, servers):
        server = servers.redis(maxclients=self.bound, requirepass="kept-apart")
        self.before = server.accepted()
        return server

    def upstream(self):
        return self.server.url()

    async def rider(self, n):
        import redis.asyncio
        client = redis.asyncio.Redis(host=LOOPBACK, port=self.port, single_connection_client=True)
        async with client:
            for turn in range(TURNS):
                if turn % 2 == 0:
                    await client.set(f"rider:{n}", turn)
                else:
                    assert int(await client.get(f"rider:{n}")) == turn - 1
        return TURNS

    def numbers(self):
        return {"most at once": self.peak, "opened": self.server.accepted() - self.before,
                "refused": self.server.refusals()}

    def make_room(self):
        self.server.set_maxclients(self.bound + 1)

    def once_direct(self):
        self._once(self.server.port, self.server.password)

    def once_through(self):
        self._once(self.port, None)

    @staticmethod
    def _once(port, password):
        import redis
        with redis.Redis(host=LOOPBACK, port=port, password=password) as client:
            client.ping()
            client.connection_pool.disconnect()

    def hint(self):
        return f"redis-cli -p {self.port}"


class HttpRide(Ride):
    kind = "http"
    what = "requests"
    versus = "TLS handshake"

    def start(self, servers):
        server = servers.nginx(local=True, limit=self.bound)
        self.path = server.big(2000, "sized")
        self.mark, self.before = server.mark(), server.counts()[1]
        self.context = ssl.create_default_context(cafile=server.ca)
        return server

    def upstream(self):
        return self.server.url(tls=True) + f"?sslrootcert={self.server.ca}"

    def client(self, kind, base):
        return kind(base_url=base, verify=self.context, trust_env=False, timeout=60)

    async def rider(self, _n):
        import httpx
        async with self.client(httpx.AsyncClient, f"http://{LOOPBACK}:{self.port}") as client:
            for _ in range(TURNS):
                answer = await client.get(self.path)
                assert answer.status_code == 200 and len(answer.content) == 2000
        return TURNS

    def numbers(self):
        # stub_status counts the questions of the harness, too: the access log does not
        rows = self.server.requests(self.mark)
        return {"most at once": self.peak, "opened": len({r["connection"] for r in rows}),
                "refused": self.server.refusals(self.mark)}

    def once_direct(self):
        self._once(self.server.url(tls=True))

    def once_through(self):
        self._once(f"http://{LOOPBACK}:{self.port}")

    def _once(self, base):
        import httpx
        with self.client(httpx.Client, base) as client:
            assert client.get(self.path).status_code == 200

    def hint(self):
        return f"curl http://{LOOPBACK}:{self.port}/echo"


RIDES = {ride.kind: ride for ride in (PostgresRide, RedisRide, HttpRide)}


def tell(ride):
    """Print what one kind's server reported; the list of what is wrong with it."""
    seen = ride.numbers()
    # nginx and Redis close slowly: what counts as opened may include a replaced connection or two
    per = ride.served / max(1, seen["opened"])
    print(f"\n{ride.kind}: {CLIENTS} clients, {ride.served} {ride.what} in {ride.took:.1f} s")
    print(f"  the server saw  at most {seen['most at once']} connections at once (its limit: {ride.bound}), "
          f"{seen['opened']} opened in all, {seen['refused']} refused")
    print(f"  so              {CLIENTS} riders shared {seen['opened']} cars, each car carried "
          f"{per:.0f} {ride.what}")
    direct, through = ride.compare()
    print(f"  connecting anew for each request: direct {direct * 1e3:.2f} ms (TCP, {ride.versus}), "
          f"through carpool {through * 1e3:.2f} ms: {direct / through:.1f} times as fast")
    wrong = []
    if ride.failed:
        wrong.append(f"{len(ride.failed)} clients failed, the first with: {ride.failed[0]!r}")
    if ride.served != CLIENTS * TURNS:
        wrong.append(f"{ride.served} of {CLIENTS * TURNS} {ride.what} were served")
    if seen["refused"]:
        wrong.append(f"the server refused {seen['refused']} connections")
    if seen["most at once"] > ride.bound:
        wrong.append(f"{seen['most at once']} connections at once, {ride.bound} allowed")
    if not 1 <= seen["opened"] <= CLIENTS / 2:
        wrong.append(f"{seen['opened']} connections opened: that is no sharing")
    if ride.numbers()["refused"]:
        wrong.append("the server refused connections while connecting anew")
    if ride.kind != "redis" and direct <= through:
        wrong.append("connecting anew is not faster through carpool")
    return [f"{ride.kind}: {w}" for w in wrong]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with a verdict")
    parser.add_argument("kinds", nargs="*", default=KINDS, help=f"default: {' '.join(KINDS)}")
    options = parser.parse_args()
    binary = find_binary()
    if not binary:
        sys.exit("demo: no carpool binary (CARPOOL_BIN); run `./dev build`")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    servers, daemon = Servers(), None
    try:
        print("starting throwaway servers on 127.0.0.1: " + ", ".join(options.kinds))
        rides = [RIDES[kind](servers) for kind in options.kinds]
        admin = f"{LOOPBACK}:{free_port()}"
        daemon = Carpool(binary, start=False)
        daemon.write({"admin": {"http": admin}, "pools": [ride.pool() for ride in rides]})
        daemon.start()
        print(f"carpool {binary} runs, pid {daemon.pid}")
        wrong = []
        for ride in rides:
            asyncio.run(ride.drive())
            wrong += tell(ride)
        print(f"\nadmin: http://{admin}/stats  /pools  /metrics  (or curl --unix-socket {daemon.socket})")
        if not options.check:
            for ride in rides:
                print(f"  try: {ride.hint()}")
            print("Ctrl-C ends everything.")
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
        try:
            daemon.stop()
        except AssertionError as e:
            wrong.append(str(e))
        if wrong:
            print("\n" + daemon.report(60))
        for line in wrong:
            print(f"wrong: {line}")
        print(f"demo: {'FAILED' if wrong else 'passed'}, {len(wrong)} complaints")
        return 1 if wrong else 0
    except KeyboardInterrupt:
        return 130
    finally:
        if daemon:
            daemon.close()
        servers.close()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
