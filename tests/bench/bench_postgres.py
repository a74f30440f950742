# SPDX-License-Identifier: MIT
"""Postgres: pgbench -S through nothing, carpool and PgBouncer. SCRAM-SHA-256 on both sides."""

import contextlib
import glob
import re
from collections import defaultdict

import peers
from harness.base import LOOPBACK, temp_folder
from harness.postgres import DATABASE, PASSWORD, binaries
from measure import LoadFailed, Sample, Target, Workload, generate

POOL = 20
CLIENTS = 32
PREPARED_CLIENTS = POOL  # a session that names a statement keeps its server
CHURNERS = 8             # each in a thread of its own: pgbench connects blocking
SAMPLING = 0.1           # part of the transactions whose time is logged
SCALE = 1

USER = "app"


def percentiles(values):
    if not values:
        raise LoadFailed("pgbench logged no transaction")
    values.sort()
    return values[len(values) // 2], values[min(len(values) - 1, len(values) * 99 // 100)]


def read_log(prefix):
    """Lines of pgbench's transaction logs: (client, microseconds, end in microseconds)."""
    for name in glob.glob(f"{prefix}.*"):
        with open(name, encoding="ascii") as log:
            for line in log:
                f = line.split()
                yield int(f[0]), float(f[2]), int(f[4]) * 1_000_000 + int(f[5])


class Bench:
    title = "Postgres"
    notes = [
        f"pgbench -S (one SELECT by primary key, scale {SCALE}), one pgbench thread, database in"
        f" memory. carpool and PgBouncer have pools of {POOL} servers in transaction mode; direct,"
        " every client has a server of its own.",
        f"Prepared: a carpool session that names a statement keeps its server, so {PREPARED_CLIENTS}"
        f" clients run on the {POOL} servers; PgBouncer before 1.21 has no prepared statements in"
        " transaction mode and is left out.",
        f"New connection each: `pgbench -C`, {CHURNERS} threads; an operation is connecting, logging in"
        " with SCRAM, one SELECT and closing, and its time is that from one operation's end to the"
        " next one's. Most of it is the client's own key derivation (4096 rounds of HMAC), on"
        " the same cores.",
    ]

    def __init__(self, stack, servers, binary):
        self.pg = pg = servers.postgres(local=True)
        stack.callback(servers.forget, pg)
        # Nothing per connection in its log, and the table in its memory.
        for setting in ("log_connections = off", "log_disconnections = off",
                        "shared_buffers = '128MB'", "max_connections = 200"):
            pg.query(f"alter system set {setting}")
        pg.stop()
        pg.start()
        self.folder = temp_folder("pgbench")
        stack.callback(peers.shutil.rmtree, self.folder, True)
        self.pgbench = binaries() / "pgbench"
        self.secret = pg.value("select rolpassword from pg_authid where rolname = %s", USER)
        self._tool(pg.port, 30, "-i", "-q", "-s", SCALE)
        pg.query("alter database orders set synchronous_commit = off")
        self.targets = [Target("direct", pg.port, None, pg.child)]
        for workers in (1, 2):
            self._add(stack.enter_context(contextlib.closing(self._carpool(binary, workers))))
        self._add(stack.enter_context(contextlib.closing(peers.Pgbouncer(
            pg, POOL, USER, PASSWORD, self.secret, DATABASE))))

    def _carpool(self, binary, workers):
        door = peers.Door(binary, {}, workers)
        users = door.write("users", f'"{USER}" "{self.secret}"\n')
        pool = {"name": "orders", "kind": "postgres", "listen": [f"{LOOPBACK}:{door.port}"],
                "upstream": self.pg.url(USER, sslmode="disable"), "mode": "transaction",
                "auth": {"method": "scram", "users_file": str(users)},
                "size": {"min": 1, "max": POOL}}
        door.carpool.write({**door.carpool.config, "pools": [pool]})
        return door.start()

    def _add(self, proxy):
        self.targets.append(Target(proxy.name, proxy.port, proxy.child, self.pg.child))

    def _tool(self, port, seconds, *args):
        return generate([self.pgbench, "-h", LOOPBACK, "-p", port, "-U", USER, *args, DATABASE],
                        seconds, {"PGPASSWORD": PASSWORD, "PGSSLMODE": "disable"})

    def _run(self, target, seconds, mode, clients, churn=False):
        prefix = self.folder / "log"
        for name in glob.glob(f"{prefix}.*"):
            peers.os.unlink(name)
        args = ["-n", "-S", "-M", mode, "-c", clients, "-j", clients if churn else 1, "-l",
                "--log-prefix", prefix, "--sampling-rate", 1 if churn or clients == 1 else SAMPLING]
        if churn:
            args.append("-C")
        if seconds:
            out = self._tool(target.port, seconds, *args, "-T", seconds)
        else:
            out = self._tool(target.port, 2, *args, "-t", 5 if churn else 100)
        done = int(re.search(r"actually processed: (\d+)", out).group(1))
        failed = int((re.search(r"failed transactions: (\d+)", out) or [0, 0])[1])
        rate = float(re.search(r"^tps = ([\d.]+)", out, re.M).group(1))
        if not done or not rate:
            raise LoadFailed("pgbench got nothing done")
        p50, p99 = percentiles(self._cycles(prefix) if churn else
                               [us for _client, us, _end in read_log(prefix)])
        return Sample(done, done / rate, p50, p99, failed)

    @staticmethod
    def _cycles(prefix):
        """pgbench times a transaction without its connection, so take the gaps between their ends."""
        ends = defaultdict(list)
        for client, _us, end in read_log(prefix):
            ends[client].append(end)
        return [b - a for times in ends.values() for a, b in zip(times, times[1:])]

    def workloads(self):
        def of(mode, clients, **more):
            return lambda target, seconds: self._run(target, seconds, mode, clients, **more)

        all_of_one = ("direct", "carpool", "pgbouncer")
        return [
            Workload(f"simple, {CLIENTS} clients", of("simple", CLIENTS)),
            Workload(f"extended, {CLIENTS} clients", of("extended", CLIENTS)),
            Workload(f"prepared, {PREPARED_CLIENTS} clients", of("prepared", PREPARED_CLIENTS),
                     targets=("direct", "carpool")),
            Workload(f"new connection each, {CHURNERS} clients", of("simple", CHURNERS, churn=True),
                     weight=0.6, targets=all_of_one),
            Workload("simple, 1 client", of("simple", 1), weight=0.3, targets=all_of_one, added=True),
        ]
