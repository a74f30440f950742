# SPDX-License-Identifier: MIT
"""Clients that keep a pool busy while something happens to it."""

import threading
import time
import traceback

import psycopg

from .base import wait_for
from .rediswire import Resp, RespError, encode


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
