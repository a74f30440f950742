# SPDX-License-Identifier: MIT
"""The events: what somebody else does while clients work, at moments of chance."""

import contextlib
import random
import signal
import struct
import time

import psycopg
from harness.base import LOOPBACK, SLOW
from harness.pgwire import CANCEL, Wire, untyped

RELOADS = [("size", {"max": 1}), ("size", {"max": 2}), ("size", {"max": 3}), ("size", {"statements": 3}),
           ("size", {"acquire_timeout": "700ms"}), ("limits", {"buffer": "16KiB"}),
           ("limits", {"buffer": "256KiB"}), ("check", {"on_return": "clean"}),
           ("check", {"on_return": "fast"})]


class Events:
    def __init__(self, play, clients):
        self.round, self.clients, self.pg = play, clients, play.pg
        self.ended = 0  # backends
        self.story = []
        kinds = [(10, self.cancel), (3, self.terminate), (1, self.reload), (1, self.pause), (1, self.drain),
                 (1, self.recycle), (1, self.breaker), (2, self.schema)]
        rng = random.Random(f"{play.seed} {play.mode} events")
        quiet = rng.sample(range(1, len(kinds)), rng.randrange(1, 6))  # few at a time: clearer who did it
        self.kinds = [kind for n, kind in enumerate(kinds) if n not in quiet]
        if play.restarts:
            self.kinds.append((1, self.restart))

    def run(self):
        weights, functions = zip(*self.kinds)
        number = 0
        while any(client.is_alive() for client in self.clients) and not self.round.is_over():
            rng = random.Random(f"{self.round.seed} {self.round.mode} event {number}")
            number += 1
            time.sleep(rng.uniform(0.01, 0.15))
            event = rng.choices(functions, weights)[0]
            self.story.append(f"{self.round.age():7.3f} {event.__name__}")
            event(rng)
        self.order("resume")
        self.order("breaker?to=auto")

    def order(self, what):
        answer = self.round.daemon.request("POST", f"/pools/orders/{what}")
        if answer.status != 200:
            self.round.wrong(f"{what}: {answer.status} {answer.text}")

    # -- one by one

    def cancel(self, rng):
        """For somebody's key, which may be that of a session that is over."""
        client = rng.choice(self.clients)
        session, key = client.session, client.key
        if key is None:
            return
        if session:
            session.targeted = True
        pid, secret = key
        with contextlib.suppress(OSError), contextlib.closing(
                Wire(LOOPBACK, self.round.port, login=False, timeout=20 * SLOW).sock) as sock:
            sock.sendall(untyped(CANCEL, struct.pack("!I", pid) + secret))
            if rng.random() < 0.7:
                sock.recv(1)

    def terminate(self, rng):
        self.round.excuses.begin("terminate")
        found = self.pg.query("select pid from pg_stat_activity where usename = 'bounded'")
        if found:
            self.ended += 1
            self.pg.query("select pg_terminate_backend(%s)", rng.choice(found)[0])

    def reload(self, rng):
        part, change = rng.choice(RELOADS)
        self.round.daemon.change(**{part: change})
        self.round.daemon.signal(signal.SIGHUP)

    def pause(self, rng):
        self.order("pause")
        time.sleep(rng.choice([0.05, 0.3, 0.8]))
        self.order("resume")

    def drain(self, rng):
        self.round.excuses.begin("drain")
        self.order("drain")
        time.sleep(rng.choice([0.02, 0.2]))
        self.order("resume")

    def recycle(self, _rng):
        self.order("recycle")

    def breaker(self, rng):
        self.round.excuses.begin("breaker")
        self.order("breaker?to=open")
        time.sleep(rng.choice([0.02, 0.2]))
        self.order(f"breaker?to={rng.choice(['auto', 'closed'])}")

    def schema(self, rng):
        """What a prepared statement gives becomes something else."""
        self.round.excuses.begin("schema")
        what = rng.choice(["add column if not exists b int", "drop column if exists b"])
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            self.pg.query(f"set lock_timeout = '200ms'; alter table ev_shape {what}", db="orders")

    def restart(self, rng):
        self.round.excuses.begin("restart")
        rng.choice([self.pg.kill9, self.pg.stop, lambda: self.pg.stop("immediate")])()
        time.sleep(rng.choice([0.0, 0.3, 1.0]))
        self.pg.start()
