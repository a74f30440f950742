# SPDX-License-Identifier: MIT
"""A PostgreSQL primary with a streaming standby that can trade places, and a server of no version.

    pair = Pair(servers)
    pair.primary.stop(); pair.promote(); pair.rejoin()      a switchover, step by step

`pair.primary` and `pair.standby` are whoever has the role now.
"""

import asyncio
import contextlib
import shutil
import struct
import threading

from .base import LOOPBACK, RUNAS, Loop, free_port, run, temp_folder, wait_for
from .pgwire import WELCOME, cstr, message
from .postgres import CONF, SUPERPASS, SUPERUSER, Postgres, binaries

REPLICATION = "host replication all 127.0.0.1/32 scram-sha-256\n"


class Standby(Postgres):
    """A copy of another server, made by pg_basebackup, that follows it."""

    def __init__(self, other):
        self.ca = None
        self.admin = SUPERUSER, SUPERPASS
        self._conn, self._lock = None, threading.Lock()
        self.host, self.port = LOOPBACK, free_port()
        self.folder = self.socket_dir = temp_folder("pg")
        self.data, self.log = self.folder / "data", self.folder / "log"
        self.log.touch()
        RUNAS.own(self.folder)
        copy_of(self, other)
        self.start()


def copy_of(server, other):
    """The data of `server`, which is down, are from now on those of `other`, which it will follow."""
    shutil.rmtree(server.data, ignore_errors=True)
    run([binaries() / "pg_basebackup", "-D", server.data, "-d", other.dsn(*other.admin, db="postgres"),
         "-X", "stream", "-c", "fast", "--no-sync"], cwd="/", **RUNAS.kwargs)
    with open(server.data / "postgresql.conf", "a") as conf:
        conf.write(CONF.format(port=server.port, sockets=server.folder))
    follow(server, other)


def follow(server, other):
    """A server that is down will come back as the standby of `other`."""
    source = other.dsn(*other.admin, db="postgres").replace("'", "''")
    with open(server.data / "postgresql.conf", "a") as conf:
        conf.write(f"primary_conninfo = '{source}'\nwal_retrieve_retry_interval = '100ms'\n"
                   "wal_keep_size = 64MB\n")
    (server.data / "standby.signal").touch()
    RUNAS.own(server.data / "standby.signal")


class Pair:
    def __init__(self, servers):
        self.primary = servers.postgres(local=True)
        with open(self.primary.data / "pg_hba.conf", "a") as hba:
            hba.write(REPLICATION)
        self.primary.query("select pg_reload_conf()")
        self.standby = Standby(self.primary)
        servers._keep(self.standby)
        self.catch_up()

    def catch_up(self):
        """All that the primary has written is on the standby."""
        def done():
            at = self.primary.value("select pg_current_wal_lsn()")
            return self.standby.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", at)
        wait_for(done, 30, "the standby to catch up", ignore=Exception)

    def promote(self):
        """The standby takes over; who was the primary has to be stopped before."""
        assert self.standby.value("select pg_promote()")
        self.primary, self.standby = self.standby, self.primary

    def rejoin(self):
        """Who stepped down politely comes back as the standby of the new primary."""
        follow(self.standby, self.primary)
        self.standby.start()
        self.catch_up()

    def heal(self):
        """After a test: both are up, with one role each, whatever the test has done."""
        if not self.primary.child.alive():
            self.primary.start()
        if not self.standby.child.alive():
            if self.standby.data.joinpath("standby.signal").exists():
                self.standby.start()
            else:
                copy_of(self.standby, self.primary)
                self.standby.start()
        self.primary.terminate("app")
        self.catch_up()

    def urls(self, *order):
        return [server.url() for server in order]


class OldServer:
    """Speaks the protocol as versions before 14 do: it does not report in_hot_standby. It knows four
    statements: the question for its role, BEGIN, `write`, and the rest, which always works."""

    def __init__(self, standby=False):
        self.standby, self.asked, self.writes, self.logins = standby, 0, 0, 0
        self._loop = Loop()
        self.server = self._loop.call(self._listen())
        self.port = self.server.sockets[0].getsockname()[1]

    async def _listen(self):
        return await asyncio.start_server(self._serve, LOOPBACK, 0)

    def url(self):
        return f"postgres://app:x@{LOOPBACK}:{self.port}/orders?sslmode=disable"

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            size, = struct.unpack("!I", await reader.readexactly(4))
            await reader.readexactly(size - 4)
            self.logins += 1
            writer.write(WELCOME)
            while True:
                kind, size = struct.unpack("!cI", await reader.readexactly(5))
                body = await reader.readexactly(size - 4)
                if kind == b"X":
                    break
                if kind == b"Q":
                    writer.write(self._answer(body[:-1].decode()) + message("Z", b"I"))
        with contextlib.suppress(OSError):
            writer.close()

    def _answer(self, sql):
        if "pg_is_in_recovery" in sql:
            self.asked += 1
            name = cstr("pg_is_in_recovery") + struct.pack("!IHIHIH", 0, 0, 16, 1, 0xffffffff, 0)
            value = struct.pack("!HI", 1, 1) + (b"t" if self.standby else b"f")
            return (message("T", struct.pack("!H", 1) + name) + message("D", value)
                    + message("C", cstr("SELECT 1")))
        if sql == "write" and self.standby:
            fields = ["SERROR", "VERROR", "C25006", "Mcannot execute it in a read-only transaction"]
            return message("E", b"".join(map(cstr, fields)) + b"\0")
        self.writes += sql == "write"
        return message("C", cstr("SELECT 0")) if sql else message("I")

    def close(self):
        self._loop.close()
