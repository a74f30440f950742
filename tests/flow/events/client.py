# SPDX-License-Identifier: MIT
"""A client's life: one session after the other, one deed after the other, by its own source of chance."""

import collections
import random
import socket
import threading
import time
import traceback

from harness.base import LOOPBACK
from harness.pgwire import Eof, PgError, Wire, startup

from . import deeds, episodes
from .episodes import Abandoned
from .line import SILENCE, Gone, Line, Pace, Silence
from .session import Session, own_value

DEEDS = [(8, deeds.ask), (6, deeds.write), (6, deeds.pipeline), (5, deeds.named), (4, deeds.batch),
         (4, deeds.portal), (4, deeds.copy_in), (3, deeds.copy_out), (4, deeds.rows), (5, deeds.sleep),
         (3, deeds.mistake), (4, deeds.idle), (5, deeds.settings), (2, deeds.discard), (2, deeds.notify),
         (1, deeds.long_text), (8, episodes.transaction), (1, episodes.forbidden), (2, episodes.listening),
         (1, episodes.advisory), (4, deeds.leave), (4, deeds.vanish)]
# What nobody else may find: not where state is left to whoever comes next.
OWN = [(3, episodes.temporary), (2, episodes.sql_statement), (1, episodes.held_cursor)]


class Client(threading.Thread):
    def __init__(self, play, number):
        super().__init__(name=f"client {number}", daemon=True)
        self.round, self.number = play, number
        self.session = self.line = self.key = None
        self.sessions = self.groups = 0
        self.heard, self.story = [], collections.deque(maxlen=14)
        self.deeds = DEEDS + ([] if play.shared else OWN)

    def run(self):
        for number in range(self.round.deeds):
            if self.round.is_over():
                break
            rng = random.Random(f"{self.round.seed} {self.number} {number}")
            try:
                self._next(rng)
            except Abandoned:
                pass
            except Gone as gone:
                self._judge_end(gone)
                self.forget()
            except Silence as e:
                self.wrong(str(e))
                self.forget()
            except Exception:
                self.wrong(traceback.format_exc())
                self.forget()
        self.leave(random.Random(0))

    def _next(self, rng):
        if self.session is None and not self._arrive(rng):
            time.sleep(0.05)
            return
        weights, functions = zip(*self.deeds)
        deed = rng.choices(functions, weights)[0]
        self.tell(f"{self.session.name}: {deed.__name__}")
        deed(self, rng)

    def _arrive(self, rng):
        self.sessions += 1
        came_with = {"application_name": own_value("application_name", self.number, self.sessions)}
        if rng.random() < 0.3:
            came_with["timezone"] = own_value("timezone", self.number, 0)
        self.session = Session(self.number, self.sessions, came_with)
        wire = Wire(LOOPBACK, self.round.port, login=False, timeout=SILENCE)
        try:
            wire.hear_welcome(startup("bounded", **came_with))
        except (PgError, Eof, OSError) as e:
            self._judge_refusal(e)
            wire.sock.close()
            self.session = None
            return False
        self.line, self.key = Line(wire, self._notified), wire.key
        return True

    # -- what deeds do

    def say(self, *units, pace=None):
        """Units at once; each is judged by its answer."""
        self._there()
        try:
            answers = self.line.talk(b"".join(unit.data for unit in units), len(units), pace or Pace())
        except Gone as gone:
            self._judge(units, gone.answers)
            raise
        self._judge(units, answers)
        return answers

    def say_in_two(self, unit, then, rng):
        """`then` makes the rest of a unit of what came first."""
        self._there()
        answer = self.line.ask_first(unit.data, self.pace(rng))
        if answer.status is None:
            if rest := then(answer):
                self.line.finish(answer, rest, self.pace(rng))
            else:
                self.line.finish(answer, b"", Pace())
        elif rest := then(answer):
            raise AssertionError(f"ReadyForQuery before Sync: {answer}")
        self._judge([unit], [answer])
        return answer

    def say_forbidden(self, data, ends, words):
        """What carpool ends the client for, where it gets so far: then there are no answers."""
        self._there()
        try:
            answers = self.line.talk(data, ends, Pace())
        except Gone as gone:
            if words not in str(gone.error):
                raise
            self.forget()
            return None
        for answer in answers:
            self.tell(f"  {answer}")
            if answer.error is None and answer.status != "I":
                self.wrong(f"{words!r} was not said")
        return answers

    def leave(self, rng):
        """Politely or not; nothing is under way."""
        if self.line is None:
            return
        try:
            if stray := self.line.stray():
                self.wrong(f"messages that nobody asked for: {stray}")
            self.line.wire.abort() if rng.random() < 0.3 else self.line.wire.close(rng.random() < 0.7)
        finally:
            self.forget()

    def vanish(self, rng):
        """In the middle of something, or of a message."""
        make = rng.choice([deeds.written_unit, deeds.marked, deeds.named_unit])
        data = b"".join(make(self, rng).data for _ in range(rng.randrange(1, 4)))
        self.line.only_send(data[:rng.randrange(1, len(data) + 1)])
        time.sleep(rng.choice([0.0, 0.0, 0.005, 0.05]))
        if rng.random() < 0.3:
            try:
                self.line.sock.shutdown(socket.SHUT_WR)
                self.line.drained()
            except OSError:
                pass
        elif rng.random() < 0.6:
            self.line.wire.abort()
        self.forget()

    def forget(self):
        if self.line:
            self.line.sock.close()
        self.session = self.line = None  # the key is kept: a late cancel must harm nobody

    def group(self):
        self.groups += 1
        return f"c{self.number}g{self.groups}"

    def pace(self, rng):
        cut = rng.random() if rng.random() < 0.25 else None
        return Pace(cut, rng.choice([0.0, 0.01, 0.2]))

    def slow(self, rng):
        return Pace(sip=rng.choice([1000, 8000]), rest=0.001) if rng.random() < 0.5 else self.pace(rng)

    # -- what is wrong

    def tell(self, text):
        self.story.append(f"{self.round.age():7.3f} {text}")

    def wrong(self, text):
        self.tell(f"WRONG: {text}")
        self.round.wrong(f"client {self.number}: {text}", self.story)

    def _there(self):
        if self.line is None:
            raise Abandoned

    def _judge(self, units, answers):
        for unit, answer in zip(units, answers):
            self.tell(f"  {unit.data[:70]} -> {answer}")
            if answer.error is None:
                self._judge_rows(unit, answer)
            elif answer.code not in unit.expected and not self._excused(unit, answer):
                self.wrong(f"an error without an excuse: {answer.error}")
            if answer.status not in ((unit.status,) if answer.error is None else (unit.status, "I", "E")):
                self.wrong(f"transaction status {answer.status}, not {unit.status}")
            if unit.on:
                unit.on(answer)
        if any(answer.code in deeds.LOST for answer in answers):
            self.session.lost()
            self.round.count_lost(self)
        elif answers:
            self.session.has_lost = False

    def _judge_rows(self, unit, answer):
        if callable(unit.rows):
            if complaint := unit.rows(answer.rows):
                self.wrong(complaint)
        elif unit.rows is not None and answer.rows != unit.rows:
            self.wrong(f"{len(answer.rows)} rows {str(answer.rows)[:300]}, "
                       f"not {len(unit.rows)} {str(unit.rows)[:300]}")

    def _excused(self, unit, answer):
        """Rows before the error are the right ones, too."""
        if isinstance(unit.rows, list) and answer.rows != unit.rows[:len(answer.rows)]:
            self.wrong(f"rows before an error: {str(answer.rows)[:300]}, not {str(unit.rows)[:300]}")
        return self.round.excuses.explain(answer.error, self.session)

    def _judge_end(self, gone):
        self.tell(f"  {gone}")
        if gone.error is None:
            self.wrong(f"an end without a word ({gone})")
        elif not self.round.excuses.explain(gone.error, self.session):
            self.wrong(f"ended without an excuse: {gone}")
        elif gone.error.code in deeds.LOST:
            self.round.count_lost(self)

    def _judge_refusal(self, error):
        self.tell(f"  refused: {error!r}")
        if not isinstance(error, PgError):
            self.wrong(f"refused without a word: {error!r}")
        elif not self.round.excuses.explain(error, self.session):
            self.wrong(f"refused without an excuse: {error}")

    def _notified(self, channel, word):
        self.heard.append(word)
        if channel not in self.session.channels and not self.round.shared:
            self.wrong(f"heard {word} on {channel} without listening")
