# SPDX-License-Identifier: MIT
"""A throwaway PostgreSQL, or an existing one named by the environment.

Roles (all may log in with SCRAM only):

    app       owner of the database `orders`
    bounded   CONNECTION LIMIT n: the server itself refuses the connection after the n-th, and says
              so in its log. That is how the tests measure that a pool keeps its bound.
    tlsonly   admitted over TLS only

The log has a line for each login and each end of a session, so that numbers of connections come
from the server, not from the daemon under test.
"""

import contextlib
import glob
import os
import re
import shutil
import signal
import threading
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg

from .base import LOOPBACK, RUNAS, Child, Peak, free_port, run, temp_folder, wait_for
from .life import Mortal

SUPERUSER, SUPERPASS = "postgres", "rider-zero"
PASSWORD = "p4ss word/+"  # with characters that an URL must escape
DATABASE = "orders"

CONF = """
listen_addresses = 'localhost'
port = {port}
unix_socket_directories = '{sockets}'
max_connections = 100
superuser_reserved_connections = 5
shared_buffers = 16MB
max_wal_size = 256MB
autovacuum = off
fsync = off
password_encryption = 'scram-sha-256'
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
logging_collector = off
log_destination = 'stderr'
log_connections = on
log_disconnections = on
log_line_prefix = '%m [%p] %q%u@%d '
lc_messages = 'C'
timezone = 'UTC'
log_timezone = 'UTC'
"""

HBA = """
local     all all                    scram-sha-256
hostnossl all tlsonly all            reject
hostssl   all tlsonly all            scram-sha-256
host      all all     127.0.0.1/32   scram-sha-256
host      all all     ::1/128        scram-sha-256
"""


def binaries():
    """The folder of the newest installed server: Debian keeps it out of PATH."""
    found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
    if found:
        return Path(max(found, key=lambda p: int(p.split("/")[4]))).parent
    path = shutil.which("postgres")
    if not path:
        raise RuntimeError("no PostgreSQL server installed: ./dev setup")
    return Path(path).parent


class Template:
    """`initdb` once a session; each server starts from a copy."""

    def __init__(self):
        self.folder = temp_folder("pgt")
        self.data = self.folder / "data"
        pwfile = self.folder / "pw"
        pwfile.write_text(SUPERPASS + "\n")
        RUNAS.own(self.folder)
        run([binaries() / "initdb", "-D", self.data, "-U", SUPERUSER, "-A", "scram-sha-256",
             "--pwfile", pwfile, "--no-sync", "-E", "UTF8", "--locale", "C.UTF-8"], cwd="/",
            **RUNAS.kwargs)
        (self.data / "pg_hba.conf").write_text(HBA)

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(Mortal):
    """See the top of this file. `fault` is None for a local server (servers.py explains)."""

    name, at_the_end = "postgres", signal.SIGQUIT

    def __init__(self, template=None, authority=None, address=None, admin=None, fault=None,
                 bound=3):
        self.fault = fault
        self.admin = admin or (SUPERUSER, SUPERPASS)
        self.ca = None
        self.socket_dir = None
        self._conn, self._lock = None, threading.Lock()
        if address:
            self.host, self.port = address
        else:
            self._prepare(template, authority)
        self.start()
        self._roles()
        self.set_bound(bound)

    def _prepare(self, template, authority):
        self.host, self.port = LOOPBACK, free_port()
        self.folder = temp_folder("pg")
        self.socket_dir = self.folder
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.log.touch()
        shutil.copytree(template.data, self.data)
        self.ca = authority.ca
        authority.give(self.data)
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(CONF.format(port=self.port, sockets=self.socket_dir))
        RUNAS.own(self.folder)
        self.data.chmod(0o700)

    def _roles(self):
        have = {r[0] for r in self.query("select rolname from pg_roles")}
        for role in ("app", "bounded", "tlsonly"):
            if role not in have:
                self.query(f"create role {role} login password '{PASSWORD}'")
        if not self.query("select 1 from pg_database where datname = %s", DATABASE):
            self.query(f"create database {DATABASE} owner app")
            self.query("grant create on schema public to public", db=DATABASE)

    # -- life and death

    def _spawn(self):
        return Child([binaries() / "postgres", "-D", self.data], self.log, cwd="/", **RUNAS.kwargs)

    def _answers(self):
        with contextlib.suppress(psycopg.OperationalError):
            with psycopg.connect(self.dsn(*self.admin, db="postgres"), connect_timeout=5) as conn:
                return conn.execute("select 1").fetchone()
        return None

    def stop(self, mode="fast"):
        """A polite stop; clients hear FATAL 57P01."""
        super().stop({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])

    def close(self):
        if self._conn:
            self._conn.close()
        super().close()

    # -- addresses

    def dsn(self, user="app", password=PASSWORD, db=DATABASE, host=None, port=None, **more):
        """A libpq connection string straight to this server."""
        return psycopg.conninfo.make_conninfo(
            "", user=user, password=password, dbname=db, host=host or self.host,
            port=port or self.port, **more)

    def url(self, user="app", password=PASSWORD, db=DATABASE, host=None, port=None, **more):
        """What goes into `upstream:`."""
        tail = "?" + urlencode(more, safe="/") if more else ""
        return (f"postgres://{quote(user, safe='')}:{quote(password, safe='')}@"
                f"{host or self.host}:{port or self.port}/{db}{tail}")

    # -- what the server says

    def query(self, sql, *params, db="postgres"):
        """Run one statement as superuser, outside any transaction; rows or None."""
        with self._lock:
            for attempt in (1, 2):
                try:
                    if db != "postgres":
                        with psycopg.connect(self.dsn(*self.admin, db=db), autocommit=True,
                                             connect_timeout=20) as conn:
                            return self._run(conn, sql, params)
                    if self._conn is None or self._conn.closed:
                        self._conn = psycopg.connect(self.dsn(*self.admin, db=db), autocommit=True,
                                                     connect_timeout=20)
                        self._conn.prepare_threshold = None
                    return self._run(self._conn, sql, params)
                except psycopg.OperationalError:
                    self._conn = None  # it was restarted meanwhile
                    if attempt == 2:
                        raise

    @staticmethod
    def _run(conn, sql, params):
        cur = conn.execute(sql, params or None)
        return cur.fetchall() if cur.description else None

    def value(self, sql, *params, db="postgres"):
        """The first column of the first row."""
        return self.query(sql, *params, db=db)[0][0]

    def set_bound(self, limit):
        self.query(f"alter role bounded connection limit {int(limit)}")

    def connections(self, user="app"):
        """Client sessions of a role that exist now."""
        return self.value("select count(*) from pg_stat_activity where usename = %s"
                          " and backend_type = 'client backend'", user)

    def activity(self, like, user="app"):
        """(pid, state) of the sessions whose current or last statement matches."""
        return self.query("select pid, state from pg_stat_activity where usename = %s"
                          " and query like %s", user, like)

    def asleep(self, like, user="app"):
        """The pids of those that are inside pg_sleep(): `active` they are from Parse on."""
        return [r[0] for r in self.query("select pid from pg_stat_activity where usename = %s and query"
                                         " like %s and wait_event = 'PgSleep'", user, like)]

    def active(self, like, user="app"):
        return [pid for pid, state in self.activity(like, user) if state == "active"]

    def terminate(self, user="app"):
        """End all sessions of a role; says how many there were."""
        return self.value("select count(pg_terminate_backend(pid)) from pg_stat_activity"
                          " where usename = %s", user)

    def clear(self):
        """Nobody is left of a test before: a session that sleeps does not see that its client has gone."""
        for user in ("app", "bounded"):
            if self.terminate(user):
                wait_for(lambda u=user: self.connections(u) == 0, what="old sessions to end")

    def peak(self, user="app", every=0.01):
        """with pg.peak("bounded") as p: ... p.value: the most sessions seen at once."""
        conn = psycopg.connect(self.dsn(*self.admin, db="postgres"), autocommit=True)
        conn.prepare_threshold = 1
        sampler = Peak(lambda: conn.execute(
            "select count(*) from pg_stat_activity where usename = %s"
            " and backend_type = 'client backend'", (user,)).fetchone()[0], every)
        return _Closing(sampler, conn)

    # -- its log

    def log_text(self):
        return self.fault("logs", self.name) if self.fault else self.log.read_text(errors="replace")

    def mark(self):
        """A place in the log; give it to the functions below to look only at what came after."""
        return len(self.log_text())

    def log_since(self, mark=0):
        return self.log_text()[mark:]

    def refusals(self, mark=0):
        """How often the server had to say that there are too many connections."""
        return len(re.findall(r"FATAL: .*(?:too many (?:connections|clients)|remaining connection slots)",
                              self.log_since(mark)))

    def _sessions(self, user, mark):
        """The log's story of a role: +1 and -1 as sessions were admitted and ended."""
        authorized, open_pids = set(), set()
        for line in self.log_since(mark).splitlines():
            pid = (re.search(r"UTC \[(\d+)\]", line) or [None, None])[1]
            if f"connection authorized: user={user} " in line:
                authorized.add(pid)
                open_pids.add(pid)
                yield 1
            elif pid in open_pids and ("disconnection: session" in line or "FATAL: " in line):
                open_pids.discard(pid)
                yield -1
                if "too many connections" in line:
                    authorized.discard(pid)
        self._admitted = len(authorized)

    def logins(self, user="app", mark=0):
        """How many sessions of a role were opened."""
        list(self._sessions(user, mark))
        return self._admitted

    def logged_peak(self, user="app", mark=0):
        """The most sessions of a role at once by the log's login and logout lines.

        A login is written before the limit is checked, and lines of different processes may trade
        places: an estimate for show. The exact judge is `refusals`.
        """
        now = best = 0
        for step in self._sessions(user, mark):
            now += step
            best = max(best, now)
        return best


class _Closing:
    """A sampler that also closes its connection."""

    def __init__(self, sampler, conn):
        self.sampler, self.conn = sampler, conn

    def __enter__(self):
        return self.sampler.__enter__()

    def __exit__(self, *exc):
        self.sampler.__exit__(*exc)
        self.conn.close()


def psql(dsn, *args, script=None, timeout=60, cwd=None):
    """Run psql (no start-up file, no pager); gives the finished process with text output."""
    import subprocess
    return subprocess.run(["psql", "-X", "-q", "-d", dsn, *args], input=script, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, cwd=cwd,
                          env={**{k: v for k, v in os.environ.items() if not k.startswith("PG")},
                               "LC_ALL": "C.UTF-8"})
