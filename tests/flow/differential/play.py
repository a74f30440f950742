# SPDX-License-Identifier: MIT
"""Plays a plan against an address: all clients in one thread, each with its own connection.

A transcript is a list of `(place, answer)`: where in the script the answer came, and the message in
comparable form. Three things are not compared as they come:

  - ParameterStatus: what counts is what the client knows at each ReadyForQuery, so changes are told
    with it: `("Z", status, changes)`.
  - NotificationResponse comes at any time: the set is compared, without the sender's pid.
  - BackendKeyData differs by nature.
"""

import re
import selectors
import ssl
import struct
import time
from collections import deque

from harness.base import SLOW
from harness.pgwire import Eof, PgError, Wire

from . import codec
from .due import Due
from .script import Step

PATIENCE = 10  # seconds without any byte before a client gives up


NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

ENDS = ("refused", "nothing came any more", "cannot write", "closed")


class BadPlan(Exception):
    """The plan itself is wrong: PostgreSQL does not answer what it waits for, or a transaction is left
    open, so that a pool of one server could not serve the others."""


class Line:
    """One client's connection and transcript."""

    def __init__(self, number, connect, parameters):
        self.number, self.place = number, "login"
        self.transcript, self.notified = [], []
        self.due, self.out, self.dead = Due(), deque(), False
        self.known, self.tail = {}, ""
        try:
            self.wire = connect(parameters)
        except (PgError, Eof) as e:
            self.wire = None
            self._end("refused", str(e))
            return
        self.known = dict(self.wire.parameters)
        self.told = dict(self.known)
        self._note("login", tuple(sorted(self.known.items())))
        self.sock, self.buffer = self.wire.sock, bytearray(self.wire.buffer)
        self.tls = isinstance(self.sock, ssl.SSLSocket)
        self.sock.setblocking(False)

    def _note(self, *answer):
        self.transcript.append((self.place, answer))

    def _end(self, *why):
        self.dead = True
        self.out.clear()
        self._note(*why)

    def timeout(self):
        self._end(ENDS[1])

    def begin(self, step):
        for message in step.messages:
            self.due.sent(message[0])
        self.out.extend(step.pieces())
        self.tail = ""

    def over(self, step):
        if self.dead:
            return True
        if self.out:
            return False
        if step.wait == "mark":
            if self.tail != "IZ":
                return False
            self.due.settle()
            return True
        return step.wait == "none" or not self.due or (step.wait == "copy" and self.due.copy_in)

    def write(self):
        try:
            n = self.sock.send(self.out[0])
        except NOT_NOW:
            return
        except OSError as e:
            self._end("cannot write", type(e).__name__)
            return
        if n == len(self.out[0]):
            self.out.popleft()
        else:
            self.out[0] = self.out[0][n:]

    def read(self):
        while self._hear() and not self.dead and self.tls:
            pass  # what is decrypted already makes no socket readable

    def _hear(self):
        """True: there was something."""
        try:
            data = self.sock.recv(1 << 18)
        except NOT_NOW:
            return False
        except OSError as e:
            self._end("closed", type(e).__name__)
            return False
        if not data:
            self._end("closed", "end of file")
            return False
        self.buffer += data
        at = 0
        while len(self.buffer) - at >= 5:
            size = struct.unpack_from("!I", self.buffer, at + 1)[0]
            if len(self.buffer) - at < size + 1:
                break
            self._message(chr(self.buffer[at]), bytes(self.buffer[at + 5:at + 1 + size]))
            at += size + 1
        del self.buffer[:at]
        return True

    def _message(self, kind, body):
        self.due.received(kind, body)
        self.tail = (self.tail + kind)[-2:]
        if kind == "A":
            self.notified.append(codec.notification(body))
        elif kind == "S":
            name, value = codec.parameter(body)
            self.known[name] = value
        elif kind == "Z":
            changes = {k: v for k, v in self.known.items() if self.told.get(k) != v}
            self.told.update(changes)
            self._note("Z", body.decode(), tuple(sorted(changes.items())))
        else:
            self._note(*codec.comparable(kind, body))

    def close(self):
        if self.wire:
            self.sock.setblocking(True)
            self.wire.close(polite=True)


def pump(lines, jobs, patience):
    """Runs each line's steps, `jobs[n]` for lines[n], until all are done. One that ends early ends
    it all: nothing good can follow."""
    waiting = {}
    todo = {n: iter(job) for n, job in jobs.items()}
    with selectors.DefaultSelector() as selector:
        for n in jobs:
            if not lines[n].dead:
                selector.register(lines[n].sock, selectors.EVENT_READ, lines[n])
        last = time.monotonic()
        while True:
            for n in list(todo):
                if _advance(lines[n], n, todo, waiting, selector):
                    last = time.monotonic()
            if not todo or any(line.dead for line in lines):
                return
            events = selector.select(1)
            for key, mask in events:
                if mask & selectors.EVENT_READ:
                    key.data.read()
                if mask & selectors.EVENT_WRITE and key.data.out:
                    key.data.write()
            now = time.monotonic()
            if events:
                last = now
            elif now - last > patience:
                for n in todo:
                    lines[n].timeout()


def _advance(line, n, todo, waiting, selector):
    """Begins steps until one has to be waited for; true if something was begun or ended."""
    moved = False
    while not line.dead and (n not in waiting or line.over(waiting[n][1])):
        nxt = next(todo[n], None)
        moved = True
        if nxt is None:
            break
        line.place = nxt[0]
        waiting[n] = nxt
        line.begin(nxt[1])
    else:
        if not line.dead:
            want = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.out else 0)
            if selector.get_key(line.sock).events != want:
                selector.modify(line.sock, want, line)
            return moved
    del todo[n]
    if line.wire and line.sock in selector.get_map():
        selector.unregister(line.sock)
    return True


def steps_of(script, only=None):
    for m, episode in enumerate(script.episodes):
        if only is None or m == only:
            for k, step in enumerate(episode.all_steps()):
                yield f"episode {m} step {k}", step
            yield f"episode {m} over", None


def _checked(line, steps, reference):
    """The steps; of the reference run each episode must leave its client idle."""
    for place, step in steps:
        if step is not None:
            yield place, step
        elif reference and not line.due.idle():
            raise BadPlan(f"client {line.number}, {place}: status {line.due.status}, "
                          f"due {line.due.tokens}, batch {line.due.batch}")


def play(plan, connect, notify, reference=False, patience=PATIENCE):
    """Transcripts and notifications of all clients. `connect(parameters)` → Wire; `notify(channel)`
    sends the notification that ends the waiting for others."""
    patience *= SLOW
    lines = [Line(n, connect, script.parameters) for n, script in enumerate(plan.scripts)]
    try:
        if plan.order is None:
            pump(lines, {n: _checked(lines[n], steps_of(s), reference)
                         for n, s in enumerate(plan.scripts)}, patience)
        else:
            turns = [0] * len(lines)
            for n in plan.order:
                if any(line.dead for line in lines):
                    break
                pump(lines, {n: _checked(lines[n], steps_of(plan.scripts[n], turns[n]), reference)},
                     patience)
                turns[n] += 1
        if not any(line.dead for line in lines) and b"listen" in b"".join(m[1].lower() for s in plan.scripts for e in s.episodes
                                 for t in e.all_steps() for m in t.messages):
            _collect(lines, notify, patience)
        if reference and (dead := [line for line in lines if line.dead]):
            raise BadPlan(f"client {dead[0].number}: {dead[0].transcript[-3:]}")
        return [(line.transcript, sorted(line.notified)) for line in lines]
    finally:
        for line in lines:
            line.close()


LISTENING = Step([codec.query("select pg_catalog.pg_listening_channels()")])


def _collect(lines, notify, patience):
    """Waits until each line has all notifications sent so far: they come in order of commit."""
    missing = {}
    for n, line in enumerate(lines):
        pump(lines, {n: [("at the end", LISTENING)]}, patience)
        rows = [a[1] for place, a in line.transcript if place == "at the end" and a[0] == "D"]
        missing[n] = {row[6:].decode() for row in rows}
    for channel in set().union(*missing.values()):
        notify(channel)
    end = time.monotonic() + patience
    for n, line in enumerate(lines):
        while not line.dead and time.monotonic() < end and any(
                (channel, "the end") not in line.notified for channel in missing[n]):
            line.read()
            time.sleep(0.001)


def _lenient(answers):
    """What must be the same where statements have other names on servers, and may be missing there.

    In a failed transaction a server cannot be made to parse what it never heard of, so what is wrong
    with a Bind comes second there: every error is as good as another. And of two names of one
    statement an error may tell the other.
    """
    out, status = [], "I"
    for answer in answers:
        if answer[0] == "Z":
            status = answer[1]
        elif answer[0] == "E" and status == "E":
            answer = "E", "something failed before"
        elif answer[0] == "E" and ("C", "08P01") in answer[1]:
            answer = "E", re.sub(r'statement ".*" requires', "statement requires", dict(answer[1])["M"])
        out.append(answer)
    return out


def difference(want, got, lenient=False):
    """None, or (client, text) for the first difference of two results of play(). `lenient`: see
    _lenient()."""
    # Where a client has ended before its time, the others were stopped, too: it comes first.
    for n in sorted(range(len(want)), key=lambda n: not _ended(got[n][0])):
        (a, noted_a), (b, noted_b) = want[n], got[n]
        answers_a, answers_b = [x[1] for x in a], [x[1] for x in b]
        if lenient:
            answers_a, answers_b = _lenient(answers_a), _lenient(answers_b)
        if answers_a != answers_b:
            at = next((i for i, (x, y) in enumerate(zip(answers_a, answers_b)) if x != y),
                      min(len(a), len(b)))
            return n, "\n".join([f"client {n}, answer {at}:", *_around("direct", a, at),
                                 *_around("carpool", b, at)])
        if noted_a != noted_b:
            return n, f"client {n}, notifications:\n  direct  {noted_a}\n  carpool {noted_b}"
    return None


def _ended(transcript):
    return bool(transcript) and transcript[-1][1][0] in ENDS


def _around(name, transcript, at):
    out = [f"  {name}:"]
    for i in range(max(0, at - 4), min(len(transcript), at + 4)):
        place, answer = transcript[i]
        out.append(f"  {'>' if i == at else ' '} [{place}] {codec.show_answer(answer)}")
    return out + ([f"  > (nothing more)"] if at >= len(transcript) else [])
