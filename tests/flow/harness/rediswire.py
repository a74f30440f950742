# SPDX-License-Identifier: MIT
"""RESP by hand: a client that shows every byte's meaning, and a server that does what a test wants."""

import asyncio
import contextlib
import socket

from .base import LOOPBACK, PATIENCE, Loop, free_port
from .carpool import merge


def redis_pool(upstream, **over):
    """A pool named `cache` of at most 4 servers on a free port; `over` is laid on it."""
    return merge({"name": "cache", "kind": "redis", "listen": [f"{LOOPBACK}:{free_port()}"],
                  "upstream": upstream, "size": {"min": 0, "max": 4}}, over)


def through(gate):
    """The upstream behind this relay."""
    return f"redis://{gate.host}:{gate.port}/0"


NO_BREAKER = {"consecutive": 0, "failure_ratio": "0%"}
QUICK_BREAKER = {"open": "100ms..300ms"}


def encode(*args):
    """A command as an array of bulk strings."""
    words = [a if isinstance(a, bytes) else str(a).encode() for a in args]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


class RespError(Exception):
    """An error reply; read() returns it, it is not raised."""

    def __eq__(self, other):
        return isinstance(other, RespError) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))

    @property
    def cause(self):
        """carpool's own word, or None for an error of the server's."""
        words = str(self).split()
        return words[2] if words[:2] == ["ERR", "carpool:"] else None


class Resp:
    """One connection. cmd("GET", "k") is one round trip; write() and read() are its halves."""

    def __init__(self, port, host=LOOPBACK, timeout=20, wrap=None):
        self.sock = socket.create_connection((host, port), timeout=timeout * PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if wrap:
            self.sock = wrap(self.sock)
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.sock.close()

    def write(self, data):
        self.sock.sendall(data)

    def send(self, *args):
        self.write(encode(*args))

    def cmd(self, *args):
        self.send(*args)
        return self.read()

    def read(self):
        """One reply: str, int, bytes, None, list or RespError. EOFError at the end."""
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(f"closed after {line!r}")
        kind, text = line[:1], line[1:-2]
        if kind == b"+":
            return text.decode()
        if kind == b"-":
            return RespError(text.decode())
        if kind == b":":
            return int(text)
        if kind == b"$":
            return None if text == b"-1" else self._bulk(int(text))
        if kind == b"*":
            return None if text == b"-1" else [self.read() for _ in range(int(text))]
        raise AssertionError(f"not RESP2: {line!r}")

    def _bulk(self, n):
        data = self.file.read(n + 2)
        if len(data) < n + 2:
            raise EOFError(f"closed {n + 2 - len(data)} bytes before the end of a string")
        return data[:-2]

    def rest(self):
        """What comes until the other side closes (an RST ends it, too)."""
        out = b""
        with contextlib.suppress(ConnectionResetError):
            while data := self.file.read1(65536):
                out += data
        return out

    def silent(self, seconds=0.3):
        """Does nothing come for so long?"""
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            return self.file.peek(1) == b"" and False
        except TimeoutError:
            # A buffered reader refuses to go on after a timeout: take a new one.
            self.file = self.sock.makefile("rb")
            return True
        finally:
            self.sock.settimeout(before)


HANG_UP, DEAF = object(), object()


class FakeRedis:
    """A server of one's own: `answer(words, conn)` returns bytes to send, None to say nothing, HANG_UP
    to close the connection, DEAF to read nothing more from it.

    Logins are answered well unless `login` says otherwise; `conn` is the number of the connection.
    push() sends bytes nobody asked for, hang_up() closes.
    """

    LOGIN = {b"auth": b"+OK\r\n", b"select": b"+OK\r\n", b"client": b"+OK\r\n",
             b"hello": b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n",
             b"ping": b"+PONG\r\n", b"reset": b"+RESET\r\n",
             b"echo": lambda words, conn: b"$%d\r\n%s\r\n" % (len(words[1]), words[1])}

    def __init__(self, answer=None, login=None, greeting=None):
        self.answer = answer or (lambda words, conn: b"+OK\r\n")
        self.login = {**self.LOGIN, **(login or {})}
        self.greeting = greeting
        self.port, self.host = free_port(), LOOPBACK
        self.accepted = self.open = 0
        self.heard = []  # (connection, words)
        self._writers = {}
        self._loop = Loop()
        self._loop.call(self._listen())

    async def _listen(self):
        self._server = await asyncio.start_server(self._serve, self.host, self.port)

    def url(self):
        return f"redis://{self.host}:{self.port}/0"

    async def _serve(self, reader, writer):
        self.accepted += 1
        self.open += 1
        number = self.accepted
        self._writers[number] = writer
        try:
            if self.greeting:
                writer.write(self.greeting)
                return
            while words := await self._command(reader):
                self.heard.append((number, words))
                name = words[0].lower()
                if name in self.login:
                    reply = self.login[name]
                    reply = reply(words, number) if callable(reply) else reply
                else:
                    reply = self.answer(words, number)
                if reply is HANG_UP:
                    return
                if reply is DEAF:
                    writer.transport.pause_reading()
                    await writer.wait_closed()
                    return
                if reply is not None:
                    writer.write(reply)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            del self._writers[number]
            writer.close()

    @staticmethod
    async def _command(reader):
        line = await reader.readline()
        if not line:
            return None
        words = []
        for _ in range(int(line[1:])):
            size = int((await reader.readline())[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
        return words

    def commands(self, name):
        """Connections on which this command was heard."""
        return [conn for conn, words in self.heard if words[0].lower() == name.lower().encode()]

    def _each(self, action, conn):
        async def act():
            for number, writer in list(self._writers.items()):
                if conn in (None, number):
                    action(writer)
        self._loop.call(act())

    def push(self, data, conn=None):
        self._each(lambda w: w.write(data), conn)

    def hang_up(self, conn=None, reset=False):
        self._each(lambda w: w.transport.abort() if reset else w.close(), conn)

    def close(self):
        async def end():
            self._server.close()
        self._loop.call(end())
        self.hang_up()
        self._loop.close()
