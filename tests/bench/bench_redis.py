# SPDX-License-Identifier: MIT
"""Redis: redis-benchmark through nothing, carpool and nutcracker (twemproxy)."""

import contextlib
import csv

import peers
from harness.base import LOOPBACK
from measure import LoadFailed, Sample, Target, Workload, generate

POOL = 4
CLIENTS = 50
SHORT = 2000              # requests of a warm-up; it also tells how many fill a second
CHURN_MOST = 6000         # connections a run, so that the loopback's ports last
KEY = "key:__rand_int__"  # what redis-benchmark names its one key

NOTES = f"""
redis-benchmark, one thread, {CLIENTS} clients, values of 3 bytes unless said otherwise. carpool and
nutcracker have {POOL} servers; direct, every client has a connection of its own. In pipelines an
operation is still one command; there redis-benchmark itself is often the busiest process.
--
The number of requests of a run is chosen by the rate of the run before, so that it fills its time;
with new connections it is at most {CHURN_MOST}, so that the loopback's ports last.
"""


class Bench:
    title = "Redis"
    notes = NOTES

    def __init__(self, stack, servers, binary):
        self.redis = servers.redis(local=True, config=["loglevel warning"])
        stack.callback(servers.forget, self.redis)
        self.rates = {}
        self.targets = [Target("direct", self.redis.port, None, self.redis.child)]
        door = peers.Door(binary, {"name": "cache", "kind": "redis", "upstream": self.redis.url(),
                                   "size": {"min": 1, "max": POOL}})
        for start in (door.start, lambda: peers.Nutcracker(self.redis, POOL)):
            self._add(stack.enter_context(contextlib.closing(start())))

    def _add(self, proxy):
        self.targets.append(Target(proxy.name, proxy.port, proxy.child, self.redis.child))

    def _run(self, target, seconds, test, clients, options, size, most=None):
        if test == "get":
            self.redis.admin().set(KEY, "x" * size)
        key = (target.name, test, clients, size, *options)
        n = round(self.rates[key] * seconds) if seconds else min(SHORT, most or SHORT)
        n = max(100, min(n, most) if most else n)
        out = generate(["redis-benchmark", "-h", LOOPBACK, "-p", target.port, "-t", test,
                        "-c", clients, "-n", n, "-d", size, "--csv", *options], max(seconds, 2))
        rows = [r for r in csv.reader(out.splitlines()) if len(r) == 8 and r[0] != "test"]
        if len(rows) != 1:
            raise LoadFailed(f"redis-benchmark said {out.strip()[:200]!r}")
        rate, p50, p99 = (float(rows[0][i]) for i in (1, 4, 6))
        if not rate:
            raise LoadFailed("redis-benchmark got nothing done")
        self.rates[key] = rate
        return Sample(n, n / rate, p50 * 1000, p99 * 1000)

    def workloads(self):
        def of(test, *options, clients=CLIENTS, size=3, **more):
            return lambda target, seconds: self._run(target, seconds, test, clients, options, size,
                                                     **more)

        def load(name, *options, **more):
            return [Workload(f"{test.upper()}{name}", self.targets, of(test, *options, **more),
                             weight=0.2) for test in ("set", "get")]

        return [
            *load("", "-P", "1"),
            *load(", pipelines of 16", "-P", "16"),
            *load(", values of 10 kB", size=10000),
            Workload("GET, new connection each", self.targets,
                     of("get", "-k", "0", most=CHURN_MOST), weight=0.2),
            Workload("GET, 1 client", self.targets, of("get", clients=1), weight=0.2,
                     added=True),
        ]
