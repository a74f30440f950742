# SPDX-License-Identifier: MIT
"""Faults on the wire: a relay that misbehaves on command, and a server that never answers."""

import asyncio
import contextlib
import socket
import struct
import threading

from .base import LOOPBACK, Loop, free_port

TO_SERVER, TO_CLIENT = "to_server", "to_client"
CHUNK = 65536
ESTABLISHED = 1  # tcpi_state


def _reset(writer):
    """Close with RST: what a crashed machine or a firewall does."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _is_held(writer):
    """Whether the other side still holds this connection: the kernel knows of its end before we read it."""
    sock = writer.get_extra_info("socket")
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED
    except OSError:
        return False


class Gate:
    """A TCP relay in front of a server: `Gate(host, port)` or `Gate(path=unix_socket)`; it listens
    `at` an address, or at a free port of the loopback address.

        pause(direction=None)   bytes of that direction (default: both) wait here
        resume()                and go on
        cut(reset=False)        all connections end now (FIN, or RST)
        hang(on=True)           new connections are accepted, and nothing more happens
        park(on=True)           new connections are accepted and wait; they go on when it is off
        refuse(on=True)         nobody listens: connection refused
        trickle(on=True)        one byte a write, each in a segment of its own
        accepted, open          connections ever, and those whose end is not yet out at both sides
        held(), peak            those that the client has not ended: now, at most
        carried                 {direction: bytes}
    """

    def __init__(self, host=None, port=None, path=None, at=None):
        self.upstream = (host, port, path)
        self.host, self.port = at or (LOOPBACK, free_port())
        self.accepted = self.open = self.peak = 0
        self.carried = {TO_SERVER: 0, TO_CLIENT: 0}
        self._links, self._trickle, self._hang = {}, False, False
        self._loop = Loop()
        self._loop.call(self._setup())

    async def _setup(self):
        self._may_pass = {TO_SERVER: asyncio.Event(), TO_CLIENT: asyncio.Event()}
        self._may_begin = asyncio.Event()
        for event in [self._may_begin, *self._may_pass.values()]:
            event.set()
        await self._listen()

    async def _listen(self):
        self._server = await asyncio.start_server(self._accept, self.host, self.port,
                                                  reuse_address=True, backlog=1024)

    async def _accept(self, reader, writer):
        self.accepted += 1
        self.open += 1
        writers = [writer]
        self._links[asyncio.current_task()] = writers
        self.peak = max(self.peak, self.held())
        try:
            if self._hang:
                await reader.read()  # until the client leaves
                return
            await self._may_begin.wait()
            host, port, path = self.upstream
            up_reader, up_writer = await (asyncio.open_unix_connection(path) if path
                                          else asyncio.open_connection(host, port))
            writers.append(up_writer)
            for w in writers:
                with contextlib.suppress(OSError):
                    w.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.gather(self._carry(reader, up_writer, TO_SERVER),
                                 self._carry(up_reader, writer, TO_CLIENT))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            del self._links[asyncio.current_task()]  # a second cut has nothing to cancel here
            for w in writers:
                w.close()
            for w in writers:  # who sees that it is no longer open finds its end at the other side
                with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(w.wait_closed(), 1)
            self.open -= 1

    async def _carry(self, reader, writer, direction):
        try:
            while data := await reader.read(CHUNK):
                await self._may_pass[direction].wait()
                self.carried[direction] += len(data)  # before: who has got them finds them counted
                if self._trickle:
                    for i in range(len(data)):
                        await self._may_pass[direction].wait()
                        writer.write(data[i:i + 1])
                        await writer.drain()
                        await asyncio.sleep(0)
                else:
                    writer.write(data)
                    await writer.drain()
            await self._may_pass[direction].wait()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            _reset(writer)
            raise

    def held(self):
        return sum(_is_held(writers[0]) for writers in list(self._links.values()))

    def _do(self, action):
        async def act():
            return action()
        return self._loop.call(act())

    def pause(self, direction=None):
        self._do(lambda: [e.clear() for d, e in self._may_pass.items() if direction in (None, d)])

    def resume(self):
        self._do(lambda: [e.set() for e in self._may_pass.values()])

    def trickle(self, on=True):
        self._trickle = on

    def hang(self, on=True):
        self._hang = on

    def park(self, on=True):
        self._do(self._may_begin.clear if on else self._may_begin.set)

    def cut(self, reset=False):
        def act():
            for task, writers in list(self._links.items()):
                if reset:
                    for w in writers:
                        _reset(w)
                task.cancel()
        self._do(act)

    def refuse(self, on=True):
        async def act():
            if on and self._server:
                self._server.close()
                self._server = None
            elif not on and self._server is None:
                await self._listen()
        self._loop.call(act())

    def close(self):
        self.refuse()
        self.cut()
        self._loop.close()


class BlackHole:
    """Accepts connections, reads what comes and never says a word; `accepted` and `open` count."""

    def __init__(self):
        self._gate = Gate(LOOPBACK, 1)
        self._gate.hang()
        self.host, self.port = self._gate.host, self._gate.port

    accepted = property(lambda self: self._gate.accepted)
    open = property(lambda self: self._gate.open)
    peak = property(lambda self: self._gate.peak)

    def close(self):
        self._gate.close()


class Half:
    """A server that says the given words, one after each packet it gets, and then nothing more, or (with
    `leaves`) closes at the next packet."""

    def __init__(self, *words, leaves=False):
        self.words, self.leaves = words, leaves
        self.host, self.port = LOOPBACK, free_port()
        self.accepted = 0
        self._conns = []
        self._sock = socket.create_server((self.host, self.port))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            self.accepted += 1
            self._conns.append(conn)
            threading.Thread(target=self._talk, args=(conn,), daemon=True).start()

    def _talk(self, conn):
        with contextlib.suppress(OSError), conn:
            for word in self.words:
                if not conn.recv(CHUNK):
                    return
                conn.sendall(word)
            while conn.recv(CHUNK) and not self.leaves:
                pass

    def close(self):
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for conn in self._conns:
            conn.close()
