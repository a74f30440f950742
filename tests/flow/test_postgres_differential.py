# SPDX-License-Identifier: MIT
"""Random valid messages of several clients get the same answers from carpool as from PostgreSQL itself.

    DIFF_ROUNDS=500   so many seeds for each case (default: a few, always the same)
    DIFF_SEED=7       the first seed; without DIFF_ROUNDS the only one
    DIFF_REPLAY=file  plays the plan a failure has left, in each case that is selected (-k prepared-one)
    DIFF_AVOID=regex  SELECT 1 instead of SQL that matches: to look past a difference that is known
    DIFF_SHRINK=30    seconds for making a plan that differs smaller

A failure prints its seed, the difference and the smallest plan found. See differential/__init__.py.
"""

import functools
import os
import random
import tempfile
from pathlib import Path

import pytest
from differential import statements
from differential.generate import make_plan
from differential.play import BadPlan, difference, play
from differential.script import Plan
from differential.shrink import shrink
from harness.base import LOOPBACK, wait_for
from harness.carpool import Carpool, postgres_pool
from harness.pgwire import Wire
from harness.postgres import PASSWORD

# Profiles whose statements may be unknown to the server (play.difference).
LENIENT = {"prepared", "blockless", "piped", "pipedless", "pipedloose"}
DEFAULT_SEEDS = 8
BLOCK = 10  # seeds a test: each has a limit of time
SHRINK_SECONDS = float(os.environ.get("DIFF_SHRINK", "30"))

SHAPES = {
    "one": dict(workers=1, mode="transaction", size={"max": 1}),
    "two": dict(workers=2, mode="transaction", size={"max": 2}),
    "each": dict(workers=1, mode="transaction", size={"max": statements.CLIENTS}),
    "few": dict(workers=1, mode="transaction", size={"max": 1, "statements": 2}),
    "tight": dict(workers=2, mode="transaction", size={"max": 2, "statements": 3}, session_state="allow",
                  limits={"buffer": "16KiB"}),
    "statement": dict(workers=2, mode="statement", size={"max": 2}),
    "session": dict(workers=2, mode="session", size={"max": statements.CLIENTS}),
    "tls": dict(workers=2, mode="transaction", size={"max": 2}, tls={"required": True}),
}
CASES = [("plain", "one"), ("plain", "two"), ("plain", "session"), ("prepared", "one"),
         ("prepared", "two"), ("blockless", "statement"), ("session", "session"), ("pinned", "each"),
         ("loose", "each"), ("plain", "tls"), ("prepared", "tls"), ("prepared", "few"), ("piped", "few"),
         ("piped", "tight"), ("pipedsession", "session"), ("pipedless", "statement"), ("pipedloose", "each")]


def blocks():
    """[(first seed, last seed)]"""
    rounds, seed = os.environ.get("DIFF_ROUNDS"), os.environ.get("DIFF_SEED")
    if seed is not None and rounds is None:
        return [(int(seed), int(seed))]
    if rounds is None:
        return [(0, DEFAULT_SEEDS - 1)]
    first = int(seed) if seed is not None else random.randrange(10**6) * 1000
    return [(at, min(at + BLOCK, first + int(rounds)) - 1)
            for at in range(first, first + int(rounds), BLOCK)]


class Bench:
    """Plays plans: each on fresh tables, and each time through a fresh daemon."""

    def __init__(self, pg, binary, authority):
        self.pg, self.binary, self.authority = pg, binary, authority
        own = [statements.prefix(n) for n in range(statements.CLIENTS)]
        pg.query(statements.SHARED + "".join(statements.OWN.replace("{t}", t) for t in own), db="orders")
        self.fresh = statements.RESET_SHARED + "".join(
            statements.RESET_OWN.replace("{t}", t) for t in own)

    def reset(self):
        wait_for(lambda: self.pg.connections("app") == 0, 20, "sessions of the last run to end")
        self.pg.query(self.fresh, db="orders")

    def notify(self, channel):
        self.pg.query(f"notify {channel}, 'the end'", db="orders")

    def direct(self, plan, **more):
        self.reset()
        return play(plan, lambda p: Wire(self.pg.host, self.pg.port, password=PASSWORD, **p),
                    self.notify, reference=True, **more)

    @functools.lru_cache(maxsize=64)
    def reference(self, profile, seed):
        plan = make_plan(seed, profile)
        if pattern := os.environ.get("DIFF_AVOID"):
            plan.avoid(pattern)
        return plan, self.direct(plan)

    def through(self, plan, shape, **more):
        self.reset()
        shape = dict(SHAPES[shape])
        workers = shape.pop("workers")
        pool = postgres_pool(self.pg.url(), **shape)
        pool["size"]["acquire_timeout"] = "60s"
        if tls := "tls" in pool:
            pool["tls"] = {"cert": str(self.authority.cert), "key": str(self.authority.key), **pool["tls"]}
        daemon = Carpool(self.binary, {"workers": workers, "pools": [pool]})
        try:
            got = play(plan, lambda p: Wire(LOOPBACK, daemon.port(), timeout=20, tls=tls, **p),
                       self.notify, **more)
            daemon.stop()
            return got
        finally:
            daemon.close()

    def compare(self, plan, profile, shape, **more):
        return difference(self.direct(plan, **more), self.through(plan, shape, **more),
                          profile in LENIENT)

    def differs(self, plan, profile, shape):
        """For shrinking: quick to give up."""
        try:
            return self.compare(plan, profile, shape, patience=1) is not None
        except BadPlan:
            return False

    def complain(self, plan, profile, shape, seed, text):
        small = shrink(plan, lambda p: self.differs(p, profile, shape), SHRINK_SECONDS)
        again = self.compare(small, profile, shape) if small is not plan else None
        with tempfile.NamedTemporaryFile("w", prefix="diff-", suffix=".json", delete=False) as file:
            file.write(small.dump())
        raise AssertionError(
            f"{profile}, {shape}: DIFF_SEED={seed}\n{text}\n\nthe smallest plan that differs ({small.size()} messages of "
            f"{plan.size()}; DIFF_REPLAY={file.name}):\n{small.text()}\n\nits difference:\n"
            f"{again[1] if again else '(as above)'}")


@pytest.fixture(scope="module")
def bench(servers, binary):
    pg = servers.postgres()
    yield Bench(pg, binary, servers.authority)


@pytest.mark.parametrize("first,last", blocks(), ids=lambda n: str(n))
@pytest.mark.parametrize("profile,shape", CASES, ids=["-".join(c) for c in CASES])
def test_same_answers(bench, profile, shape, first, last):
    if replay := os.environ.get("DIFF_REPLAY"):
        plan = Plan.load(Path(replay).read_text())
        if found := bench.compare(plan, profile, shape):
            pytest.fail(f"{found[1]}\n\n{plan.text()}", pytrace=False)
        return
    for seed in range(first, last + 1):
        plan, want = bench.reference(profile, seed)
        found = difference(want, bench.through(plan, shape), profile in LENIENT)
        if found:
            bench.complain(plan, profile, shape, seed, found[1])
