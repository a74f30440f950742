# SPDX-License-Identifier: MIT
"""Redis: redis-benchmark through nothing, carpool and nutcracker (twemproxy)."""

import contextlib
import csv

import peers
from harness.base import LOOPBACK
from measure import LoadFailed, Sample, Target, Workload, generate

POOL = 4
CLIENTS = 50
SHORT = 2000          # requests of a warm-up; it also tells how many fill a second
CHURN_MOST = 6000     # connections a run, so that the loopback's ports last


class Bench:
    title = "Redis"
    notes = [
        f"redis-benchmark, {CLIENTS} clients, one thread. carpool and nutcracker have {POOL} servers;"
        " direct, every client has its own connection. With pipelines of 16 an operation is still one"
        " command, and redis-benchmark itself is often the busiest process.",
        "The number of requests of a run is chosen by the rate of the run before, so that it fills"
        " its time.",
    ]

    def __init__(self, stack, servers, binary):
        self.redis = servers.redis(local=True, config=["loglevel warning"])
        stack.callback(servers.forget, self.redis)
        self.rates = {}
        self.targets = [Target("direct", self.redis.port, None, self.redis.child)]
        door = peers.Door(binary, {"name": "cache", "kind": "redis", "upstream": self.redis.url(),
                                   "size": {"min": 1, "max": POOL}})
        self._add(stack.enter_context(contextlib.closing(door.start())))
        self._add(stack.enter_context(contextlib.closing(peers.Nutcracker(self.redis, POOL))))

    def _add(self, proxy):
        self.targets.append(Target(proxy.name, proxy.port, proxy.child, self.redis.child))

    def _run(self, target, seconds, test, clients, options, most=None):
        key = (target.name, test, clients, *options)
        n = round(self.rates[key] * seconds) if seconds else min(SHORT, most or SHORT)
        n = max(100, min(n, most) if most else n)
        out = generate(["redis-benchmark", "-h", LOOPBACK, "-p", target.port, "-t", test,
                        "-c", clients, "-n", n, "--csv", *options], max(seconds, 2))
        rows = [r for r in csv.reader(out.splitlines()) if len(r) == 8 and r[0] != "test"]
        if len(rows) != 1:
            raise LoadFailed(f"redis-benchmark said {out.strip()[:200]!r}")
        rate, p50, p99 = (float(rows[0][i]) for i in (1, 4, 6))
        if not rate:
            raise LoadFailed("redis-benchmark got nothing done")
        self.rates[key] = rate
        return Sample(n, n / rate, p50 * 1000, p99 * 1000)

    def workloads(self):
        def of(test, *options, clients=CLIENTS, **more):
            return lambda target, seconds: self._run(target, seconds, test, clients, options, **more)

        def load(name, *options):
            return [Workload(f"{test.upper()}{name}", of(test, *options), weight=0.3)
                    for test in ("set", "get")]

        return [
            *load("", "-P", "1"),
            *load(", pipelines of 16", "-P", "16"),
            *load(", values of 10 kB", "-d", "10000"),
            Workload("GET, new connection each", of("get", "-k", "0", most=CHURN_MOST), weight=0.3),
            Workload("GET, 1 client", of("get", clients=1), weight=0.3, added=True),
        ]
