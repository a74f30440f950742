# SPDX-License-Identifier: MIT
"""HTTP/1.1: wrk through nothing, carpool, HAProxy and nginx to an nginx that serves files."""

import contextlib
import http.client
from pathlib import Path

import peers
from harness.base import LOOPBACK
from measure import IDLE, LoadFailed, Sample, Target, Workload, generate, resident

POOL = 16
CLIENTS = 32
SIZES = {"1 KiB": 1024, "64 KiB": 65536}

REPORT = Path(__file__).resolve().parent / "report.lua"


NOTES = f"""
wrk, one thread, keep-alive; the origin is nginx with one worker, the answers are files. carpool and
HAProxy (`http-reuse always`) are bounded to {POOL} connections to the origin; nginx as a proxy keeps
as many (`keepalive {POOL}`), but its free edition has no queue for a bounded upstream, so under load
it opens one for each client. All add X-Forwarded-For.
"""


class Bench:
    title = "HTTP/1.1"
    notes = NOTES

    def __init__(self, stack, servers, binary):
        self.origin = origin = peers.Origin()
        stack.callback(origin.close)
        stack.callback(origin.child.stop)  # while the master can still reap its worker
        self.paths = {name: origin.big(size) for name, size in SIZES.items()}
        self.targets = [Target("direct", origin.port, None, origin.child)]
        door = peers.Door(binary, {"name": "web", "kind": "http", "upstream": origin.url(),
                                   "size": {"min": 1, "max": POOL}})
        for start in (door.start, lambda: peers.Haproxy(origin, POOL),
                      lambda: peers.NginxProxy(origin, POOL)):
            self._add(stack.enter_context(contextlib.closing(start())))

    def _add(self, proxy):
        self.targets.append(Target(proxy.name, proxy.port, proxy.child, self.origin.child))

    def _run(self, target, seconds, size, clients):
        path = self.paths[size]
        if not seconds:
            self._check(target, path, SIZES[size])
            return None
        seconds = max(1, round(seconds))
        out = generate(["wrk", "-t", 1, "-c", clients, "-d", f"{seconds}s", "--latency",
                        "-s", REPORT, f"http://{LOOPBACK}:{target.port}{path}"], seconds)
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
        except (OSError, http.client.HTTPException) as e:
            raise LoadFailed(f"GET {path}: {e!r}") from None
        if (status, got) != (200, size):
            raise LoadFailed(f"GET {path}: status {status}, {got} bytes")

    def workloads(self):
        def of(size, clients):
            return lambda target, seconds: self._run(target, seconds, size, clients)

        def load(size):
            return Workload(f"{size}, {CLIENTS} clients", self.targets, of(size, CLIENTS), weight=0.7)

        one = Workload("1 KiB, 1 client", self.targets, of("1 KiB", 1), weight=0.3, added=True)
        return [*map(load, SIZES), one]

    def extra(self, tell):
        """Memory of clients that have asked once and keep their connection: what the process grows by, for each."""
        target = self.targets[1]
        tell(f"{IDLE} idle clients: {target.name}")
        with contextlib.ExitStack() as stack:
            clients = []

            def ask():
                clients.append(stack.enter_context(contextlib.closing(
                    http.client.HTTPConnection(LOOPBACK, target.port, timeout=20))))
                clients[-1].request("GET", self.paths["1 KiB"])
                clients[-1].getresponse().read()

            for _ in range(POOL):
                ask()
            before = resident(target.proxy)
            for _ in range(IDLE):
                ask()
            each = (resident(target.proxy) - before) / IDLE / 1024
        return f"Resident memory of each of {IDLE} idle clients that have asked before: {target.name} {each:.2f} KiB."
