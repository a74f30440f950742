# SPDX-License-Identifier: MIT
"""The daemon under test: started from a dictionary, questioned over its admin socket, stopped with proof.

`stop()` asserts that it ended with exit code 0 and that no sanitizer had anything to say, so each test
that uses a Carpool also tests the clean end.

What the admin API calls things is known here and nowhere else: tests ask `waiting("orders")`, not JSON.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from .base import LOOPBACK, PATIENCE, clean_env, die_with_parent, free_port, temp_folder, wait_for
from .pgwire import PgError, Wire
from .postgres import DATABASE, PASSWORD

ROOT = Path(__file__).resolve().parents[3]

SANITIZER = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|LeakSanitizer:"
                       r"|Assertion .* failed")

SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
    "TSAN_OPTIONS": "exitcode=99:second_deadlock_stack=1",
}

# Freed memory stays with the sanitizer for a while: little of it, where memory is measured.
SMALL_QUARANTINE = {"ASAN_OPTIONS": "detect_leaks=1:exitcode=99:quarantine_size_mb=4"}


def find_binary():
    """CARPOOL_BIN, or what the builds leave behind, or None."""
    if named := os.environ.get("CARPOOL_BIN"):
        return Path(named).resolve() if Path(named).exists() else None
    for preset in ("asan", "debug"):
        path = ROOT / "build" / preset / "carpool"
        if path.exists():
            return path
    return None


def merge(base, over):
    """A new dictionary: `over` laid on `base`, level by level; None takes a key away."""
    out = dict(base)
    for key, value in over.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        else:
            out[key] = value
    return out


def postgres_pool(upstream, **over):
    """A pool named `orders` of at most 3 servers on a free port; `over` is laid on it."""
    return merge({"name": "orders", "kind": "postgres", "listen": [f"{LOOPBACK}:{free_port()}"],
                  "upstream": upstream, "mode": "transaction",
                  "size": {"min": 0, "max": 3}}, over)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("carpool", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Answer:
    """One answer of the admin API."""

    def __init__(self, status, fields, body):
        self.status, self.fields, self.body = status, fields, body

    text = property(lambda self: self.body.decode())
    json = property(lambda self: json.loads(self.body))


class Carpool:
    def __init__(self, binary, config=None, text=None, args=(), env=None, start=True):
        self.binary = Path(binary)
        self.folder = temp_folder("cp")
        self.file = self.folder / "carpool.yaml"
        self.socket = self.folder / "admin.sock"
        self.out, self.err = self.folder / "stdout", self.folder / "stderr"
        self.args, self.env, self.proc, self.config = list(args), env or {}, None, {}
        self.source = ["-c", self.file]  # [] or URLs: a daemon without a file
        self.prefix = []  # a command that becomes the daemon: see harness/names.py
        if text is not None:
            self.file.write_text(text)
        else:
            self.write(config or {})
        if start:
            self.start()

    # -- config

    def write(self, config):
        """Write the file anew (JSON is YAML); `reload()` makes a running daemon read it."""
        self.config = merge({"admin": {"socket": str(self.socket)}}, config)
        self.file.write_text(json.dumps(self.config) + "\n")

    def change(self, pool="orders", **over):
        """Lay something on one pool's part of the file."""
        pools = [merge(p, over) if p["name"] == pool else p for p in self.config["pools"]]
        self.write({**self.config, "pools": pools})

    def pool_config(self, pool="orders"):
        return next(p for p in self.config["pools"] if p["name"] == pool)

    def port(self, pool="orders"):
        """The first TCP port the pool listens on."""
        for where in self.pool_config(pool)["listen"]:
            if isinstance(where, str):
                return int(where.rpartition(":")[2])
        raise KeyError(f"{pool} has no TCP listener")

    # -- life

    def environment(self):
        env = {k: v for k, v in clean_env().items() if not k.startswith("CARPOOL_")}
        return {**env, **SANITIZER_OPTIONS, **self.env}

    def start(self, wait=True, stdout=None):
        """`stdout` replaces the file that captures the log (a pipe nobody reads, for example)."""
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            self.proc = subprocess.Popen(
                [*self.prefix, self.binary, "run", *self.source, *self.args],
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout, stderr=err, cwd=self.folder,
                env=self.environment(), start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL))
        if wait:
            wait_for(self._is_ready, 20, "carpool's /ready")
        return self

    def _is_ready(self):
        if not self.alive():
            raise RuntimeError(f"carpool ended with {self.proc.returncode}\n{self.report()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/ready").status == 200
        return False

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    @property
    def pid(self):
        return self.proc.pid

    def signal(self, signo):
        """SIGSTOP is more than sent when this returns: no thread runs any more."""
        self.proc.send_signal(signo)
        if signo == signal.SIGSTOP:
            wait_for(self._is_stopped, what="all threads to be stopped")

    def _is_stopped(self):
        states = [task.joinpath("stat").read_text().rpartition(")")[2].split()[0]
                  for task in Path(f"/proc/{self.pid}/task").iterdir()]
        return set(states) == {"T"}

    def wait(self, timeout=20):
        return self.proc.wait(timeout * PATIENCE)

    def stop(self, timeout=20):
        """SIGTERM, and prove that the end was clean."""
        if self.alive():
            self.signal(signal.SIGTERM)
        self.ended(timeout)

    def ended(self, timeout=20):
        """Wait for an end somebody else has asked for, and prove that it was clean."""
        try:
            code = self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise AssertionError(f"carpool did not end within {timeout * PATIENCE:g} s\n{self.report()}")
        self.no_sanitizer_report()
        assert code == 0, f"carpool ended with {code}\n{self.report()}"

    def no_sanitizer_report(self):
        found = SANITIZER.search(self.err.read_text(errors="replace"))
        assert not found, f"a sanitizer complained\n{self.report()}"

    def close(self):
        """Without proof: for the end of a test that has failed already."""
        if self.alive():
            self.proc.kill()
            self.proc.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what it says

    def log_text(self):
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def log_lines(self, *words):
        """Lines that hold all these words."""
        return [line for line in self.log_text().splitlines() if all(w in line for w in words)]

    def logged(self, *words):
        """The same as soon as there are any: what has happened is written a moment later."""
        return wait_for(lambda: self.log_lines(*words), what=f"{' '.join(words)} in the log")

    def report(self, lines=120):
        """For the people who read failures."""
        parts = []
        for path in (self.file, self.out, self.err):
            if path.exists() and (text := path.read_text(errors="replace").strip()):
                kept = text.splitlines()
                if path is not self.file:
                    kept = kept[-lines:]
                parts += [f"--- {path.name}", *kept]
        return "\n".join(parts)

    def rss(self):
        """Resident memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    # -- admin API

    def request(self, method, path, body=None, timeout=10, headers=None):
        conn = _UnixConnection(self.socket, timeout * PATIENCE)
        with contextlib.closing(conn):
            conn.request(method, path, body, headers or {})
            answer = conn.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def json(self, path):
        answer = self.get(path)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.text}"
        return answer.json

    def stats(self):
        return self.json("/stats")

    def pools(self):
        """{name: what /pools says of it}."""
        data = self.json("/pools")
        return {p["name"]: p for p in (data["pools"] if isinstance(data, dict) else data)}

    def waiting(self, pool="orders"):
        """Clients that wait for a server now."""
        return int(self.pools()[pool]["waiting"])

    def leases(self, pool="orders"):
        """Leases held now."""
        return int(self.pools()[pool]["leases"])

    def servers(self, pool="orders", state=None):
        """Servers that count against the bound now, or those of one state."""
        states = self.pools()[pool]["servers"]
        if state:
            return int(states.get(state, 0))
        return sum(int(n) for name, n in states.items() if name not in ("max", "min", "open"))

    def metrics(self):
        """[(name, labels, value)], read by Prometheus' own parser."""
        answer = self.get("/metrics")
        assert answer.status == 200
        return [(s.name, s.labels, s.value) for family in text_string_to_metric_families(answer.text)
                for s in family.samples]

    def metric(self, name, **labels):
        """The sum of the samples that have these labels; 0.0 when there are none."""
        return sum(value for n, have, value in self.metrics()
                   if n == name and all(have.get(k) == v for k, v in labels.items()))

    def errors(self, cause, pool="orders"):
        return self.metric("carpool_errors_total", pool=pool, cause=cause)

    def all_errors(self, pool="orders"):
        """{cause: count} without zeros."""
        return {labels["cause"]: value for name, labels, value in self.metrics()
                if name == "carpool_errors_total" and labels.get("pool") == pool and value}

    def saw(self, cause, pool="orders"):
        """The cause reached metric, log and admin API: one word everywhere."""
        wait_for(lambda: self.errors(cause, pool) > 0, 5, f"{cause} in carpool_errors_total")
        self.logged(cause)
        assert cause in json.dumps(self.stats()), f"{cause} is not in /stats"
        return True

    # -- command line

    def cli(self, *args, timeout=20, check=True):
        """Run a verb against this daemon; gives the finished process."""
        done = subprocess.run([self.binary, *args], stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=timeout * PATIENCE, cwd=self.folder,
                              env={**self.environment(), "CARPOOL_ADMIN": str(self.socket)})
        found = SANITIZER.search(done.stderr)
        assert not found, f"carpool {' '.join(args)}\n{done.stderr}"
        if check:
            assert done.returncode == 0, (f"carpool {' '.join(args)}: exit {done.returncode}\n"
                                          f"{done.stdout}{done.stderr}")
        return done

    def reload(self):
        return self.cli("reload")

    # -- clients of its Postgres pools

    def dsn(self, pool="orders", user="app", password=None, db=DATABASE, **more):
        more.setdefault("host", LOOPBACK)
        more.setdefault("port", self.port(pool))
        more.setdefault("connect_timeout", int(20 * PATIENCE))
        if password is not None:
            more["password"] = password
        return psycopg.conninfo.make_conninfo("", user=user, dbname=db, **more)

    def connect(self, pool="orders", autocommit=True, **more):
        """A psycopg connection through the pool; it names no statement by itself."""
        conn = psycopg.connect(self.dsn(pool, **more), autocommit=autocommit)
        conn.prepare_threshold = None
        return conn

    async def connect_async(self, pool="orders", autocommit=True, **more):
        conn = await psycopg.AsyncConnection.connect(self.dsn(pool, **more), autocommit=autocommit)
        conn.prepare_threshold = None
        return conn

    def wire(self, pool="orders", **more):
        return Wire(LOOPBACK, self.port(pool), **more)

    def first_error(self, pool="orders", **who):
        """The error a new client meets, at login or at its first query (before a server was ever
        reached carpool has no welcome to give, so it may be either)."""
        try:
            with self.wire(pool, **who) as wire:
                error = wire.run("select 1")[2]
        except PgError as e:
            error = e
        assert error, "a query went well that had to fail"
        return error


__all__ = ["PASSWORD", "SMALL_QUARANTINE", "Carpool", "find_binary", "merge", "postgres_pool"]
