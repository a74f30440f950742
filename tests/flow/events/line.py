# SPDX-License-Identifier: MIT
"""One client's connection: sends and reads at the same time, in the pace it is told; counts the answers."""

import select
import struct
import time
from collections import deque

from harness.base import SLOW
from harness.pgwire import PgError, row

SILENCE = 25 * SLOW  # seconds without a byte that nothing here explains


class Gone(Exception):
    """The connection is over. `error` is its last word, `answers` what was answered of the exchange."""

    def __init__(self, error, how, answers):
        super().__init__(f"{how}, last word: {error}")
        self.error, self.answers = error, answers


class Silence(Exception):
    """Neither an answer nor an end."""


class Pace:
    """How an exchange goes over the wire: cut at `cut` (a share of the bytes) for `pause` seconds; read in
    sips of so many bytes, with a rest behind each."""

    def __init__(self, cut=None, pause=0.0, sip=65536, rest=0.0):
        self.cut, self.pause, self.sip, self.rest = cut, pause, sip, rest

    def pieces(self, data):
        """[(bytes, seconds before them)]"""
        at = int(len(data) * self.cut) if self.cut is not None else 0
        parts = [(data[:at], 0.0), (data[at:], self.pause if at else 0.0)]
        return [part for part in parts if part[0]]


class Answer:
    """All that came up to one ReadyForQuery."""

    def __init__(self):
        self.rows, self.tags, self.copied, self.kinds = [], [], [], ""
        self.error = self.status = None

    @property
    def code(self):
        return self.error.code if self.error else None

    def take(self, kind, body):
        self.kinds += kind
        if kind == "D":
            self.rows.append(row(body))
        elif kind == "C":
            self.tags.append(body[:-1].decode())
        elif kind == "d":
            self.copied.append(body.decode())
        elif kind == "E":
            self.error = PgError(body)
        elif kind == "Z":
            self.status = body.decode()

    def __str__(self):
        rows = f"{len(self.rows)} rows" if self.rows else ""
        return f"{self.kinds[-40:]} {rows} {self.tags} {self.error or ''} {self.status}"


class Line:
    def __init__(self, wire, notified):
        self.wire, self.sock, self.notified = wire, wire.sock, notified
        self.sock.setblocking(False)
        self.buffer = bytearray(wire.buffer)
        self.out, self.fatal = deque(), None
        self.mute = self.over = False

    def talk(self, data, ends, pace):
        """Send it and read until so many ReadyForQuery have come."""
        answers = [Answer()]
        self._queue(data, pace)
        try:
            while len(answers) <= ends:
                kind, body = self._receive(pace)
                answers[-1].take(kind, body)
                if kind == "Z":
                    answers.append(Answer())
        except Gone as gone:
            gone.answers = answers[:-1]
            raise
        return answers[:-1]

    def ask_first(self, data, pace):
        """Send the beginning of what goes on as the first answer says: COPY, and what is flushed."""
        answer = Answer()
        self._queue(data, pace)
        while not answer.kinds or answer.kinds[-1] not in "GECsZ":
            answer.take(*self._receive(pace))
        return answer

    def finish(self, answer, data, pace):
        """The rest, into the same answer."""
        self._queue(data, pace)
        while answer.status is None:
            answer.take(*self._receive(pace))
        return answer

    def stray(self):
        """What has come that nobody waits for."""
        try:
            self.buffer += self.sock.recv(65536)
        except OSError:
            pass
        kinds = ""
        while len(self.buffer) >= 5:
            kinds += chr(self.buffer[0])
            del self.buffer[:struct.unpack_from("!I", self.buffer, 1)[0] + 1]
        return kinds.strip("ANSE")  # an error may be the end, of which nobody was told yet

    def only_send(self, data):
        """What fits, and no look at what comes."""
        try:
            self.sock.send(data)
        except OSError:
            pass

    def drained(self):
        """Whatever is still sent is read until the end; its last word, or None."""
        pace = Pace()
        self._queue(b"", pace)
        try:
            while True:
                self._receive(pace)
        except Gone as gone:
            return gone.error

    # -- bytes

    def _queue(self, data, pace):
        self.out.extend(pace.pieces(data))
        self.ready = time.monotonic() + (self.out[0][1] if self.out else 0)
        self.heard = time.monotonic()

    def _receive(self, pace):
        while True:
            if len(self.buffer) >= 5:
                size = struct.unpack_from("!I", self.buffer, 1)[0] + 1
                if len(self.buffer) >= size:
                    kind, body = chr(self.buffer[0]), bytes(self.buffer[5:size])
                    del self.buffer[:size]
                    if self._is_answer(kind, body):
                        return kind, body
                    continue
            self._turn(pace)

    def _is_answer(self, kind, body):
        if kind == "A":
            self.notified(*(part.decode() for part in body[4:].split(b"\0")[:2]))
        elif kind == "E":
            error = PgError(body)
            self.fatal = error if error.fields.get("V", error.fields["S"]) == "FATAL" else None
        return kind not in "ANS"

    def _turn(self, pace):
        now = time.monotonic()
        if self.over:
            raise Gone(self.fatal, self.over, [])
        if now - self.heard > SILENCE:
            raise Silence(f"nothing came for {SILENCE:g} s")
        writing = [self.sock] if self.out and not self.mute and now >= self.ready else []
        wait = 0.5 if writing or not self.out or self.mute else max(0.0, self.ready - now)
        readable, writable, _ = select.select([self.sock], writing, [], wait)
        if writable:
            self._write()
        if readable:
            self._read(pace)

    def _write(self):
        data, _ = self.out.popleft()
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.mute = True  # what it had to say may still be read
            return
        self.heard = time.monotonic()
        if sent < len(data):
            self.out.appendleft((data[sent:], 0.0))
        elif self.out:
            self.ready = self.heard + self.out[0][1]

    def _read(self, pace):
        try:
            data = self.sock.recv(pace.sip)
        except BlockingIOError:
            return
        except OSError as e:
            self.over = type(e).__name__
            return
        if not data:
            self.over = "end of file" + (" in half a message" if self.buffer else "")
        self.buffer += data
        self.heard = time.monotonic()
        if pace.rest:
            time.sleep(pace.rest)
