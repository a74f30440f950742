# SPDX-License-Identifier: MIT
"""The same bytes to the server itself and through carpool: the same bytes come back.

Several clients at once, each with keys of its own, random commands cut at random places; what carpool
refuses or answers with its own identity is left out. A failure prints its seed.

    DIFF_ROUNDS=500   so many seeds (default: a few, always the same)
    DIFF_SEED=7       the first seed; without DIFF_ROUNDS the only one
"""

import os
import random
import threading

import pytest
import redis
from harness.base import LOOPBACK
from harness.redis_fixtures import _frail_rd, cache, client, fake, frail_rd, key, rd  # noqa: F401
from harness.rediswire import Resp, encode

DEFAULT_SEEDS = 6


def seeds():
    first, rounds = os.environ.get("DIFF_SEED"), os.environ.get("DIFF_ROUNDS")
    if rounds is None:
        return range(DEFAULT_SEEDS) if first is None else [int(first)]
    at = int(first) if first is not None else random.randrange(10**6) * 1000
    return range(at, at + int(rounds))


def inline(*words):
    return " ".join(str(w) for w in words).encode() + b"\r\n"


class Script:
    """A random stream for one client that ends with an ECHO of its mark."""

    def __init__(self, rng, prefix):
        self.rng, self.prefix = rng, prefix
        self.parts = []
        for _ in range(rng.randrange(5, 60)):
            rng.choice(self.KINDS)(self)
        self.mark = f"end-{rng.randrange(10**9)}"
        self.add("UNSUBSCRIBE") if "subscribed" in vars(self) else None
        self.add("PUNSUBSCRIBE") if "subscribed" in vars(self) else None
        self.add("RESET")
        self.add("ECHO", self.mark)

    def add(self, *words):
        plain = all(str(w).isalnum() for w in words)
        self.parts.append(inline(*words) if plain and self.rng.random() < 0.1 else encode(*words))

    def name(self):
        return f"{self.prefix}{self.rng.randrange(4)}"

    def strings(self):
        k, r = self.name(), self.rng
        size = r.choice([0, 1, 10, 1000, 20_000]) if r.random() < 0.95 else 300_000
        self.add(*r.choice([("SET", k, r.randbytes(size)), ("GET", k), ("INCR", k), ("DEL", k),
                            ("APPEND", k, "x" * r.randrange(30)), ("STRLEN", k), ("GETDEL", k),
                            ("MGET", k, self.name()), ("SETRANGE", k, 3, "y"), ("TYPE", k)]))

    def lists(self):
        k, r = self.name() + "l", self.rng
        self.add(*r.choice([("RPUSH", k, *range(r.randrange(1, 40))), ("LRANGE", k, 0, -1),
                            ("LPOP", k), ("LLEN", k), ("BLPOP", k, "0.01"), ("LPOS", k, 3)]))

    def errors(self):
        self.add(*self.rng.choice([("GET",), ("NOSUCH", "a"), ("INCR", self.name() + "l"),
                                   ("EVAL", "return redis.error_reply('My error')", 0), ("",),
                                   ("EVALSHA", "ffff", 0), ("OBJECT", "NOSUCH", "k"),
                                   ("SET", "k", "v", "NONSENSE")]))

    def local(self):
        self.add(*self.rng.choice([("PING",), ("PING", "hey"), ("ECHO", "e"), ("SELECT", "0"), ("SELECT", "x"),
                                   ("PING", "a", "b"), ("CLIENT", "SETNAME", "n"),
                                   ("CLIENT", "GETNAME"), ("ECHO",)]))

    def nothing(self):
        self.parts.append(self.rng.choice([b"\r\n", b"*0\r\n", b"*-1\r\n", b"  \r\n"]))

    def transaction(self):
        r = self.rng
        if r.random() < 0.3:
            self.add("WATCH", self.name())
        if r.random() < 0.1:
            self.add("UNWATCH")
        self.add("MULTI")
        for _ in range(r.randrange(5)):
            r.choice([Script.strings, Script.lists, Script.errors])(self)
        self.add(r.choice(["EXEC", "EXEC", "EXEC", "DISCARD", "RESET"]))

    def scripts(self):
        self.add("EVAL", "return {1, ARGV[1], {false, 'x'}, redis.call('time')[3]}", 0, "a")

    def subscription(self):
        c = self.name()
        self.add("SUBSCRIBE", c, c + "b")
        if self.rng.random() < 0.5:
            self.add("PING")
            self.add("GET", c)
        if self.rng.random() < 0.7:
            self.add("UNSUBSCRIBE", c + "b", c)
        else:
            self.add("RESET")

    def lonely(self):
        self.add(self.rng.choice(["EXEC", "DISCARD", "UNWATCH", "UNSUBSCRIBE"]))

    KINDS = [strings] * 8 + [lists] * 3 + [errors, local, local, nothing, transaction, transaction,
                                            scripts, subscription, lonely]

    def play(self, conn, rng):
        """Sends everything in pieces and gives all that comes up to the mark."""
        data = b"".join(self.parts)
        end = b"$%d\r\n%s\r\n" % (len(self.mark), self.mark.encode())
        heard = []

        def listen():
            got = b""
            while not got.endswith(end):
                more = conn.file.read1(65536)
                if not more:
                    break
                got += more
            heard.append(got)
        ear = threading.Thread(target=listen)
        ear.start()
        at = 0
        while at < len(data):
            n = rng.choice([1, 7, 100, 1000, 5000, 100_000])
            conn.write(data[at:at + n])
            at += n
        ear.join(60)
        assert not ear.is_alive(), f"no end after {data[-300:]!r}"
        return heard[0]


@pytest.mark.parametrize("seed", seeds())
def test_same_bytes(cache, rd, seed):
    rng = random.Random(seed)
    daemon = cache(workers=1 + seed % 2, size={"max": rng.choice([1, 2, 4]),
                                                 "acquire_timeout": "30s"},
                   limits={"buffer": rng.choice(["16KiB", "256KiB"])})
    scripts = [Script(random.Random(f"{seed}/{n}"), f"d{seed}:{n}:") for n in range(8)]
    clean = redis.Redis(host=rd.host, port=rd.port)
    want, got = {}, {}

    def ride(n, port, into, host=LOOPBACK):
        with Resp(port, host=host) as conn:
            into[n] = scripts[n].play(conn, random.Random(n))

    for n in range(8):
        ride(n, rd.port, want, rd.host)
    clean.flushall()
    threads = [threading.Thread(target=ride, args=(n, daemon.port("cache"), got)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    clean.flushall()
    clean.connection_pool.disconnect()
    for n in range(8):
        assert n in got, f"seed {seed}, client {n}"
        if want[n] != got[n]:
            at = next(i for i, (a, b) in enumerate(zip(want[n] + b"?", got[n] + b"!")) if a != b)
            raise AssertionError(f"seed {seed}, client {n}, byte {at}:\n direct  "
                                 f"{want[n][max(0, at - 200):at + 100]!r}\n carpool "
                                 f"{got[n][max(0, at - 200):at + 100]!r}")
