# SPDX-License-Identifier: MIT
"""Postgres: pgbench through nothing, carpool and PgBouncer. SCRAM-SHA-256 on both sides."""

import contextlib
import glob
import os
import re
import shutil
from collections import defaultdict
from pathlib import Path

import peers
from harness.base import LOOPBACK, temp_folder
from harness.pgwire import Wire
from harness.postgres import DATABASE, PASSWORD, binaries
from measure import IDLE, LoadFailed, Sample, Target, Workload, generate, resident

POOL = 20
CLIENTS = 32
CHURNERS = 8             # each in a thread of its own: pgbench connects blocking
READERS = 4
SAMPLING = 0.1           # part of the transactions whose time is logged
SCALE = 1
CROWD_RATE = 15000       # transactions for each second that a crowd is to be measured

USER = "app"

LARGE = "select repeat('x', 100) from generate_series(1, 10000);\n"

NOTES = f"""
pgbench, one thread, `-S`: one SELECT by primary key, scale {SCALE}, in memory. carpool and PgBouncer
have pools of {POOL} servers in transaction mode; direct, every client has a server of its own.
Everything is plain TCP but the workload that says TLS: there direct clients, carpool and PgBouncer
talk TLS to the server.
--
Prepared: PgBouncer before 1.21 has no prepared statements in transaction mode and is left out.
--
Results of 1 MB: ten thousand rows of 100 bytes an answer.
--
2 000 and 10 000 clients: without passwords (`trust`). Their times are those of a queue for {POOL}
servers.
--
New connection each: `pgbench -C`, {CHURNERS} threads. An operation is connecting, logging in with
SCRAM, one SELECT and closing; its time is from one operation's end to the next one's. A good part of
it is the client's own derivation of its key (4096 rounds of HMAC), on the same cores.
"""


def percentiles(values):
    if not values:
        raise LoadFailed("pgbench logged no transaction")
    values.sort()
    return values[len(values) // 2], values[min(len(values) - 1, len(values) * 99 // 100)]


def read_log(prefix):
    """pgbench's transaction logs: (client, microseconds, end in microseconds)."""
    for name in glob.glob(f"{prefix}.*"):
        with open(name, encoding="ascii") as log:
            for line in log:
                f = line.split()
                yield int(f[0]), float(f[2]), int(f[4]) * 1_000_000 + int(f[5])


def gaps(prefix):
    """pgbench times a transaction without its connection: take the time between their ends."""
    ends = defaultdict(list)
    for client, _us, end in read_log(prefix):
        ends[client].append(end)
    return [b - a for times in ends.values() for a, b in zip(times, times[1:])]


class Bench:
    title = "Postgres"
    notes = NOTES

    def __init__(self, stack, servers, binary):
        self.stack, self.binary = stack, binary
        self.pg = pg = servers.postgres(local=True)
        stack.callback(servers.forget, pg)
        # Nothing per connection in its log, and the table in its memory.
        for setting in ("log_connections = off", "log_disconnections = off",
                        "shared_buffers = '128MB'", "max_connections = 200"):
            pg.query(f"alter system set {setting}")
        pg.stop()
        pg.start()
        self.folder = temp_folder("pgbench")
        stack.callback(shutil.rmtree, self.folder, True)
        self.pgbench = binaries() / "pgbench"
        self.secret = pg.value("select rolpassword from pg_authid where rolname = %s", USER)
        self.large = self.folder / "large.sql"
        self.large.write_text(LARGE)
        self.direct = Target("direct", pg.port, None, pg.child)
        self.carpool, self.carpool_2 = self._carpool(1), self._carpool(2)
        self.pgbouncer = self._pgbouncer("disable")
        self._tool(self.direct, 30, "-i", "-q", "-s", SCALE)

    def _keep(self, proxy, tls=False):
        self.stack.callback(proxy.close)
        return Target(proxy.name, proxy.port, proxy.child, self.pg.child, tls)

    def _carpool(self, workers, sslmode="disable", trust=False):
        door = peers.Door(self.binary, {}, workers)
        users = door.write("users", f'"{USER}" "{self.secret}"\n')
        door.configure({"name": "orders", "kind": "postgres", "mode": "transaction",
                        "upstream": self.pg.url(USER, sslmode=sslmode),
                        "auth": {"method": "trust"} if trust else
                                {"method": "scram", "users_file": str(users)},
                        "limits": {"clients": 15000},
                        "size": {"min": 1, "max": POOL, "waiters": 15000,
                                 "acquire_timeout": "60s"}})
        return self._keep(door.start(), sslmode != "disable")

    def _pgbouncer(self, sslmode, auth="scram-sha-256"):
        return self._keep(peers.Pgbouncer(self.pg, POOL, USER, PASSWORD, self.secret, DATABASE,
                                          sslmode, auth), sslmode != "disable")

    def _tool(self, target, seconds, *args):
        direct_tls = target.tls and target.proxy is None
        address = ["-h", LOOPBACK, "-p", target.port, "-U", USER]
        return generate([self.pgbench, *address, *args, DATABASE], seconds, {
            "PGPASSWORD": PASSWORD, "PGSSLMODE": "require" if direct_tls else "disable"})

    def _run(self, target, seconds, mode, clients, work=("-S",), churn=False):
        prefix = self.folder / "log"
        for name in glob.glob(f"{prefix}.*"):
            os.unlink(name)
        many = clients >= CLIENTS
        args = ["-n", *work, "-M", mode, "-c", clients, "-j", clients if churn else 1, "-l",
                "--log-prefix", prefix, "--sampling-rate", SAMPLING if many else 1]
        if churn:
            args.append("-C")
        if clients > CLIENTS:  # with -T, connecting would count
            length = ["-t", max(2, round((seconds or 0.2) * CROWD_RATE / clients))]
        else:
            length = ["-T", max(1, round(seconds))] if seconds else ["-t", 5 if churn else 50]
        out = self._tool(target, (seconds or 2) + clients / 100, *args, *length)
        done = int(re.search(r"actually processed: (\d+)", out).group(1))
        failed = int((re.search(r"failed transactions: (\d+)", out) or [0, 0])[1])
        rate = float(re.search(r"^tps = ([\d.]+)", out, re.M).group(1))
        if not done or not rate:
            raise LoadFailed("pgbench got nothing done")
        times = gaps(prefix) if churn else [us for _client, us, _end in read_log(prefix)]
        return Sample(done, done / rate, *percentiles(times), failed)

    def workloads(self):
        def of(mode, clients, **more):
            return lambda target, seconds: self._run(target, seconds, mode, clients, **more)

        two = [self.direct, self.carpool]
        three = [*two, self.pgbouncer]
        crowd = [self._carpool(1, trust=True), self._pgbouncer("disable", "trust")]
        tls = [Target("direct", self.pg.port, None, self.pg.child, True),
               self._carpool(1, "require"), self._pgbouncer("require")]
        return [
            Workload(f"simple, {CLIENTS} clients",
                     [*two, self.carpool_2, self.pgbouncer], of("simple", CLIENTS)),
            Workload(f"simple, {CLIENTS} clients, TLS", tls, of("simple", CLIENTS), 0.7),
            Workload(f"extended, {CLIENTS} clients", three, of("extended", CLIENTS)),
            Workload(f"prepared, {CLIENTS} clients",
                     three if peers.Pgbouncer.prepares() else two, of("prepared", CLIENTS)),
            Workload("simple, 2 000 clients", crowd, of("simple", 2000)),
            Workload("simple, 10 000 clients", crowd, of("simple", 10000)),
            Workload(f"results of 1 MB, {READERS} clients", three,
                     of("simple", READERS, work=("-f", self.large)), 0.5),
            Workload(f"new connection each, {CHURNERS} clients", three,
                     of("simple", CHURNERS, churn=True), 0.6),
            Workload("simple, 1 client", three, of("simple", 1), 0.3, added=True),
        ]

    def extra(self, tell):
        """Memory of idle clients that are logged in: what the process grows by, for each."""
        crowd = [self._carpool(1, trust=True), self._pgbouncer("disable", "trust")]
        said = []
        for target in crowd:
            tell(f"{IDLE} idle clients: {target.name}")
            before = resident(target.proxy)
            with contextlib.ExitStack() as stack:
                for _ in range(IDLE):
                    stack.enter_context(Wire(LOOPBACK, target.port, user=USER, database=DATABASE))
                said.append(f"{target.name} {(resident(target.proxy) - before) / IDLE / 1024:.2f} KiB")
        return f"Resident memory of each of {IDLE} idle clients that are logged in: {', '.join(said)}."
