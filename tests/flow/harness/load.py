# SPDX-License-Identifier: MIT
"""Clients that keep a pool busy while something happens to it."""

import threading
import traceback

import psycopg

from .base import wait_for


class Load:
    """Clients in threads that run short transactions until told to stop, and never reconnect."""

    def __init__(self, daemon, clients, table, user="app"):
        self.daemon, self.table, self.user = daemon, table, user
        self.done = [0] * clients
        self.errors, self.lost = [], []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ride, args=(n,), daemon=True)
                         for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ride(self, n):
        try:
            conn = self.daemon.connect(user=self.user, autocommit=True)
            while not self._end.is_set():
                try:
                    # Not conn.transaction(): psycopg 3.1 cannot be used again after a failed BEGIN.
                    conn.execute("begin")
                    conn.execute(f"insert into {self.table} (n) values ({n})")
                    conn.execute("select pg_sleep(0.005)")
                    conn.execute("commit")
                    self.done[n] += 1
                except psycopg.Error as e:
                    self.errors.append(e)
                    if conn.closed or conn.broken:
                        raise
                    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                        conn.execute("rollback")
            conn.close()
        except Exception as e:
            self.lost.append((n, "".join(traceback.format_exception(e))))

    def progress(self, more=2, timeout=40):
        """Each client gets that many transactions done from now on, over its old connection."""
        before = list(self.done)
        wait_for(lambda: self.lost or all(d >= b + more for d, b in zip(self.done, before)),
                 timeout, "all clients to make progress")
        assert not self.lost, self.lost

    def stop(self):
        self._end.set()
        for thread in self._threads:
            thread.join(40)
        assert not any(t.is_alive() for t in self._threads), "a client hangs"
        assert not self.lost, self.lost
        return {e.sqlstate for e in self.errors}
