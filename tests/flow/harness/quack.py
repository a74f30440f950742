# SPDX-License-Identifier: MIT
"""An upstream that says it is PostgreSQL and answers whatever a test wants it to."""

import contextlib
import socket
import threading

from . import pgwire
from .base import LOOPBACK, free_port
from .pgwire import message

READY, DONE = message("Z", b"I"), message("C", b"SELECT 1\0")
SIMPLE = message("T", b"\0\1a\0" + b"\0" * 18) + message("D", b"\0\1\0\0\0\0011") + DONE + READY


class Quack:
    """Says it is PostgreSQL. Each query is answered by `answer` (None: it leaves), or what `reply` is made
    to say; `asked` counts them, `texts` has those of simple ones. `say` talks out of turn."""

    welcome = pgwire.WELCOME

    def __init__(self):
        self.port, self.answer = free_port(), SIMPLE
        self.accepted = self.asked = 0
        self.texts = []
        self._lock, self._conns = threading.Lock(), []
        self._sock = socket.create_server((LOOPBACK, self.port))
        threading.Thread(target=self._listen, daemon=True).start()

    def url(self):
        return f"postgres://app:x@{LOOPBACK}:{self.port}/orders?sslmode=disable"

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self._sock.accept()
                self.accepted += 1
                self._conns.append(conn)
                threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        with contextlib.suppress(OSError, IndexError), conn, conn.makefile("rb") as hear:
            hear.read(int.from_bytes(hear.read(4), "big") - 4)
            conn.sendall(self.welcome)
            while (kind := hear.read(1)) and kind != b"X":
                body = hear.read(int.from_bytes(hear.read(4), "big") - 4)
                if kind in b"QS":
                    with self._lock:
                        self.asked += 1
                        self.texts += [body[:-1].decode()] * (kind == b"Q")
                    words = self.reply(kind, body[:-1].decode())
                    if words is None:
                        return
                    conn.sendall(words)

    def reply(self, kind, _sql):
        """To a query, or to the Sync of a batch."""
        if kind == b"Q" or self.answer is not SIMPLE:
            return self.answer
        return message("1") + message("2") + DONE + READY

    def say(self, words):
        """To everybody who is still there."""
        for conn in self._conns:
            with contextlib.suppress(OSError):
                conn.sendall(words)

    def close(self):
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for conn in self._conns:
            conn.close()
