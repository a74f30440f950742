# SPDX-License-Identifier: MIT
"""One round: a pool, its clients and its events, all of it from a seed; and what was wrong in the end."""

import random
import threading
import time

from harness.base import SLOW, wait_for
from harness.carpool import postgres_pool

from .client import Client
from .happen import Events
from .tally import Tally

CLIENTS = 8
SHORT = {"request": "300ms", "idle_transaction": "200ms", "transaction": "600ms", "client_idle": "200ms"}
ROUND_SECONDS = 60 * SLOW  # then clients begin nothing more

WORLD = """
create table ev_log (grp text, n int, note text);
create table ev_shape (a int); insert into ev_shape values (1);
grant all on ev_log, ev_shape to public;
""" + "".join(f"create role ev_role_{n}; grant ev_role_{n} to bounded;" for n in range(CLIENTS))

FRESH = """truncate ev_log; drop table ev_shape;
create table ev_shape (a int); insert into ev_shape values (1); grant all on ev_shape to public"""


class Excuses:
    """Which errors a client may be told, given the pool and what has begun to happen."""

    def __init__(self, pool):
        self.timeouts, self.begun = pool["timeouts"], set()
        self.refuses = pool["session_state"] == "refuse" and pool["mode"] != "session"

    def begin(self, word):
        self.begun.add(word)

    def happened(self, *words):
        return bool(self.begun.intersection(words))

    def explain(self, error, session):
        table = {
            "53300": True,  # the pool is busy
            "57014": session.targeted if "carpool: request" not in str(error) else "request" in self.timeouts,
            "08006": self.happened("terminate", "restart"),
            "08007": self.happened("terminate", "restart"),
            "08001": self.happened("breaker", "restart") or "no answer" in str(error),
            "57P01": self.happened("drain"),
            "0A000": self.happened("schema") if "cached plan" in str(error) else self.refuses,
            "25P02": self.happened("terminate", "restart"),
            "25P03": "idle_transaction" in self.timeouts,
            "25P04": "transaction" in self.timeouts,
            "57P05": "client_idle" in self.timeouts,
        }
        return table.get(error.code, False)


class Round:
    def __init__(self, seed, mode, pg, restarts=False):
        rng = random.Random(f"{seed} {mode}")
        self.seed, self.mode, self.pg = seed, mode, pg
        self.clients, self.deeds = rng.randrange(4, CLIENTS + 1), 25
        self.workers = rng.choice([1, 2])
        self.pool = self._make_pool(rng)
        self.restarts = restarts
        self.excuses, self.tally = Excuses(self.pool), Tally()
        self.problems, self.lost, self.lock = [], [], threading.Lock()
        state = self.pool["session_state"] if mode != "session" else "pin"
        self.shared, self.refused = state == "allow", ("0A000",) if state == "refuse" else ()

    def _make_pool(self, rng):
        timeouts = {"outage_wait": "4s", "client_login": "30s"}
        for name, value in SHORT.items():
            if rng.random() < 0.25:
                timeouts[name] = value
        return postgres_pool(
            self.pg.url("bounded"), mode=self.mode, timeouts=timeouts,
            size={"max": rng.randrange(1, 4), "acquire_timeout": rng.choice(["300ms", "1s", "2s"]),
                  "statements": rng.choice([0, 2, 500]), "waiters": rng.choice([2, 1024])},
            session_state=rng.choice(["pin", "pin", "refuse", "allow"]),
            limits={"buffer": rng.choice(["16KiB", "256KiB"])},
            check={"on_return": rng.choice(["fast", "fast", "verified", "clean"])})

    def text(self):
        return (f"EVENT_SEED={self.seed} mode {self.mode}, {self.workers} workers, {self.clients} clients, "
                f"{self.pool}")

    # -- for clients and events

    def age(self):
        return time.monotonic() - self.begun

    def is_over(self):
        return self.age() > ROUND_SECONDS

    def wrong(self, text, story=()):
        with self.lock:
            self.problems.append("\n      ".join([text, *story]))

    def count_lost(self, client):
        """An exchange has lost its server. Where more than that is lost, the session's end is told, too."""
        with self.lock:
            if not client.session.has_lost:
                self.lost.append(list(client.story)[-4:])
        client.session.has_lost = True

    # -- from begin to end

    def play(self, make):
        """`make(pool, workers=...)` starts a daemon."""
        self.pg.query(FRESH, db="orders")
        self.pg.set_bound(3)
        mark = self.pg.mark()
        self.daemon = make(self.pool, workers=self.workers)
        self.begun, self.port = time.monotonic(), self.daemon.port()
        people = [Client(self, n) for n in range(self.clients)]
        events = Events(self, people)
        for client in people:
            client.start()
        events.run()
        for client in people:
            client.join(120 * SLOW)
            if client.is_alive():
                self.wrong(f"{client.name} does not end", client.story)
        self._judge(events, mark)

    def _judge(self, events, mark):
        self._look_at_daemon()
        if not self.restarts and len(self.lost) > events.ended:
            self.wrong(f"{len(self.lost)} exchanges lost their server, {events.ended} were ended",
                       [line for story in self.lost for line in story])
        if refusals := self.pg.refusals(mark):
            self.wrong(f"PostgreSQL had to refuse {refusals} servers above the bound")
        for text in self.tally.wrong(self.pg.query(
                "select grp, count(*), count(distinct n) from ev_log group by grp", db="orders")):
            self.wrong(text)

    def _look_at_daemon(self):
        try:
            wait_for(lambda: not self.daemon.pools()["orders"]["clients"], 5, "clients to be gone")
            wait_for(lambda: not self.daemon.leases() and not self.daemon.waiting(), 5, "leases to be over")
            assert not self.daemon.json("/clients")["clients"]
            limit = self.daemon.pool_config()["size"]["max"]
            wait_for(lambda: self.pg.connections("bounded") <= limit, 5, f"no more than {limit} servers")
            with self.daemon.wire(user="bounded") as wire:
                rows, _, error, _ = wire.run("select 'well'")
                assert rows == [["well"]], error
            self.daemon.stop()
        except Exception as e:
            self.wrong(f"at the end: {e!r}\n{self.daemon.json('/clients') if self.daemon.alive() else ''}")
