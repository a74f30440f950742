# SPDX-License-Identifier: MIT
"""HTTP/1.1: wrk through nothing, carpool, HAProxy and nginx to an nginx that serves files."""

import contextlib
from pathlib import Path

import peers
from harness.base import LOOPBACK
from measure import LoadFailed, Sample, Target, Workload, generate

POOL = 16
CLIENTS = 32
SIZES = {"1 KiB": 1024, "64 KiB": 65536}

REPORT = Path(__file__).resolve().parent / "report.lua"


class Bench:
    title = "HTTP/1.1"
    notes = [
        f"wrk, one thread, keep-alive, answers from files by nginx with one worker. carpool and"
        f" HAProxy (`http-reuse always`) are bounded to {POOL} connections to the origin; nginx as a"
        f" proxy reuses as many (`keepalive {POOL}`) but has no bound with a queue in its free edition,"
        " so it may open one for each client. All add X-Forwarded-For.",
    ]

    def __init__(self, stack, servers, binary):
        self.origin = origin = peers.Origin()
        stack.callback(origin.close)
        self.paths = {name: origin.big(size) for name, size in SIZES.items()}
        self.targets = [Target("direct", origin.port, None, origin.child)]
        door = peers.Door(binary, {"name": "web", "kind": "http", "upstream": origin.url(),
                                   "size": {"min": 1, "max": POOL}})
        self._add(stack.enter_context(contextlib.closing(door.start())))
        for peer in (peers.Haproxy, peers.NginxProxy):
            self._add(stack.enter_context(contextlib.closing(peer(origin, POOL))))

    def _add(self, proxy):
        self.targets.append(Target(proxy.name, proxy.port, proxy.child, self.origin.child))

    def _run(self, target, seconds, size, clients):
        path = self.paths[size]
        if not seconds:
            self._check(target, path, SIZES[size])
        out = generate(["wrk", "-t", 1, "-c", clients, "-d", f"{seconds or 1}s", "--latency",
                        "-s", REPORT, f"http://{LOOPBACK}:{target.port}{path}"], seconds or 1)
        line = next((x for x in out.splitlines() if x.startswith("figures ")), None)
        if not line:
            raise LoadFailed(f"wrk said {out.strip()[-200:]!r}")
        ops, us, p50, p99, errors = map(float, line.split()[1:])
        if not ops:
            raise LoadFailed("wrk got nothing done")
        return Sample(int(ops), us / 1e6, p50, p99, int(errors))

    @staticmethod
    def _check(target, path, size):
        """wrk believes everything: see once that the answer is the file."""
        try:
            status, got = peers.answers(target.port, path)
        except (OSError, peers.http.client.HTTPException) as e:
            raise LoadFailed(f"GET {path}: {e!r}") from None
        if (status, got) != (200, size):
            raise LoadFailed(f"GET {path}: status {status}, {got} bytes")

    def workloads(self):
        def of(size, clients):
            return lambda target, seconds: self._run(target, seconds, size, clients)

        return [Workload(f"{size}, {CLIENTS} clients", of(size, CLIENTS), weight=0.7)
                for size in SIZES] + [
            Workload("1 KiB, 1 client", of("1 KiB", 1), weight=0.3, added=True)]
