# SPDX-License-Identifier: MIT
"""Clients that keep a pool busy while something happens to it: of the libraries that people use, and Redis by
hand, too.

No client here connects a second time. A library that does so by itself is found out by what carpool has
accepted (`stayed`).
"""

import asyncio
import itertools
import re
import threading
import time
import traceback

import asyncpg
import httpx
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .base import LOOPBACK, PATIENCE, wait_for
from .postgres import DATABASE
from .rediswire import Resp, RespError, encode

TIMEOUT = 20 * PATIENCE  # of one call


class Crowd:
    """Clients in threads, over one connection each, until told to stop. A subclass says what one does:
    `_ride(n)` goes on while `_goes_on()` and counts in `done[n]`; if it raises, that client is lost."""

    def __init__(self, clients):
        self.done, self.lost = [0] * clients, []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, n):
        try:
            self._ride(n)
        except Exception as e:
            self.lost.append((n, "".join(traceback.format_exception(e))))

    def _goes_on(self):
        return not self._end.is_set()

    def progress(self, more=2, timeout=40):
        """Each client gets that much done from now on, over its old connection."""
        before = list(self.done)
        wait_for(lambda: self.lost or all(d >= b + more for d, b in zip(self.done, before)),
                 timeout, "all clients to make progress")
        assert not self.lost, self.lost

    def stop(self):
        self._end.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(t.is_alive() for t in self._threads), "a client hangs"
        assert not self.lost, self.lost


def stayed(daemon, pool, clients):
    """These clients are all that ever came."""
    came = daemon.metric("carpool_clients_accepted_total", pool=pool)
    assert came == clients, f"{clients} clients connected {came:g} times"


class SqlCrowd(Crowd):
    """`_transaction(conn, n)` again and again; errors are given to `_note(n, error)`, and the connection is
    never given up."""

    def __init__(self, daemon, clients, user="app"):
        self.daemon, self.user = daemon, user
        super().__init__(clients)

    def _ride(self, n):
        with self.daemon.connect(user=self.user) as conn:
            while self._goes_on():
                try:
                    # Not conn.transaction(): psycopg 3.1 cannot be used again after a failed BEGIN.
                    self._transaction(conn, n)
                    self.done[n] += 1
                except psycopg.Error as e:
                    self._note(n, e)
                    if conn.closed or conn.broken:
                        raise
                    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                        conn.execute("rollback")


class Load(SqlCrowd):
    """Short transactions that insert into `table`; stop() says which SQLSTATEs were heard."""

    def __init__(self, daemon, clients, table, user="app"):
        self.table, self.errors = table, []
        super().__init__(daemon, clients, user)

    def _transaction(self, conn, n):
        conn.execute("begin")
        conn.execute(f"insert into {self.table} (n) values ({n})")
        conn.execute("select pg_sleep(0.005)")
        conn.execute("commit")

    def _note(self, n, error):
        self.errors.append(error)

    def stop(self):
        super().stop()
        return {e.sqlstate for e in self.errors}


class AsyncpgLoad(Crowd):
    """The same with asyncpg, which names the statements it prepares."""

    def __init__(self, daemon, clients, table, user="app"):
        self.daemon, self.table, self.user, self.errors = daemon, table, user, []
        super().__init__(clients)

    def _ride(self, n):
        asyncio.run(self._transactions(n))

    async def _transactions(self, n):
        conn = await asyncpg_connect(self.daemon, self.user)
        while self._goes_on():
            try:
                # Not conn.transaction(): asyncpg takes the next one for a savepoint after a failed BEGIN.
                await conn.execute("begin")
                await conn.execute(f"insert into {self.table} (n) values ($1)", n)
                await conn.execute("select pg_sleep(0.005)")
                await conn.execute("commit")
                self.done[n] += 1
            except asyncpg.PostgresError as e:
                self.errors.append(e)
                if conn.is_closed():
                    raise
                if conn.is_in_transaction():
                    await conn.execute("rollback")
        await conn.close(timeout=TIMEOUT)

    def stop(self):
        super().stop()
        return {e.sqlstate for e in self.errors}


async def asyncpg_connect(daemon, user="app"):
    return await asyncpg.connect(host=LOOPBACK, port=daemon.port(), user=user, database=DATABASE, ssl=False,
                                 timeout=TIMEOUT, command_timeout=TIMEOUT)


class RedisLoad(Crowd):
    """Clients that set and get; `causes` is what they heard."""

    def __init__(self, daemon, clients, key):
        self.daemon, self.key, self.causes = daemon, key, set()
        super().__init__(clients)

    def _ride(self, n):
        key, turn = f"{self.key}:{n}", 0
        with Resp(self.daemon.port("cache")) as c:
            while self._goes_on():
                turn += 1
                c.write(encode("SET", key, turn) + encode("GET", key))
                put, got = c.read(), c.read()
                for reply in (put, got):
                    if isinstance(reply, RespError):
                        assert reply.cause or "LOADING" in str(reply), reply
                        self.causes.add(reply.cause)
                        time.sleep(0.01)
                if put == "OK" and not isinstance(got, RespError):
                    # None: it died in between, and the second answer is of an empty server.
                    assert got in (str(turn).encode(), None), (turn, got)
                    self.done[n] += 1

    def progress(self, more=5, timeout=30):
        super().progress(more, timeout)


class RedisPyLoad(RedisLoad):
    """The same with redis-py: pipelines, every other one between MULTI and EXEC."""

    def _ride(self, n):
        key = f"{self.key}:py{n}"
        with redis_py(self.daemon) as c:
            for turn in itertools.count(1):
                if not self._goes_on():
                    return
                try:
                    pipe = c.pipeline(transaction=turn % 2 == 0)
                    put, got = pipe.set(key, turn).get(key).execute()
                except redis.ResponseError as e:
                    said = re.search(r"carpool: (\w+)", str(e))
                    assert said, e
                    self.causes.add(said[1])
                    time.sleep(0.01)
                    continue
                # None: as above, where nothing keeps the two together.
                assert put and got in (str(turn).encode(), *([None] if turn % 2 else [])), (turn, put, got)
                self.done[n] += 1


class WatchLoad(RedisLoad):
    """Transactions of redis-py that watch their key: each needs a server of its own for a while."""

    def _ride(self, n):
        key = f"{self.key}:watch{n}"
        with redis_py(self.daemon) as c:
            while self._goes_on():
                told = c.transaction(lambda pipe: (pipe.get(key), pipe.multi(), pipe.incr(key)), key)
                self.done[n] += 1
                assert told == [self.done[n]], (told, self.done[n])


def redis_py(daemon, pool="cache"):
    """A client of redis-py that has one connection, and asks nothing twice."""
    return redis.Redis(host=LOOPBACK, port=daemon.port(pool), max_connections=1,
                       socket_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0))


class HttpxLoad(Crowd):
    """Clients of httpx that ask, and never for long of nobody; `counts` of what they heard."""

    def __init__(self, daemon, clients, pause=0.0):
        self.daemon, self.counts, self.pause = daemon, {}, pause
        super().__init__(clients)

    def _ride(self, n):
        with httpx_client(self.daemon) as client:
            for turn in itertools.count():
                if not self._goes_on():
                    return
                answer = client.get("/")
                key = answer.status_code
                if key != 200:
                    key = (key, answer.headers["proxy-status"].split('"')[1].split(" ")[0])
                    time.sleep(0.02)
                else:
                    self.done[n] += 1
                self.counts[key] = self.counts.get(key, 0) + 1
                if self.pause:
                    self._end.wait(self.pause * (1 + (turn + n) % 3 / 10))

    def progress(self, more=3, timeout=40):
        super().progress(more, timeout)

    def stop(self):
        super().stop()
        return self.counts


def httpx_client(daemon, pool="web"):
    """A client of httpx that has one connection, and keeps it for as long as it is let."""
    limits = httpx.Limits(max_keepalive_connections=1, max_connections=1, keepalive_expiry=None)
    return httpx.Client(base_url=f"http://{LOOPBACK}:{daemon.port(pool)}", timeout=TIMEOUT, limits=limits,
                        trust_env=False)
