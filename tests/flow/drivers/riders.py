# SPDX-License-Identifier: MIT
"""Riders: programs in many languages, each one client with one driver as it comes.

A rider is started with HOST PORT USER DATABASE TABLE, connects, says `ready`, and from then on
answers each line of its standard input with one line. It leaves at the end of the input. Verbs:

    ping            1
    prepared K      prepares two or more statements in its own way, runs each K times between one
                    another, forgets some: K * (K + 1)
    rollback N      a transaction with one row of n = N, rolled back: rows inside, rows after
    commit N        a transaction with two rows, and one undone by a savepoint: rows after
    failed N        a transaction with an error, a statement behind it: both codes, rows after
    big             a result of 4 MB: rows, bytes
    pipeline N      20 inserts sent at once; 3 of which one fails: rows before, its code, rows after
    copy N          COPY in 500 rows, COPY them out: both numbers
    cursor          1000 rows in portions inside a transaction: rows
    set N, show     three settings: one that servers report, two that they do not
    cancel          a long statement, cancelled from this side: its code
    slow SECONDS    pg_sleep: its code
    isolation       the levels that it asked for, as the server saw them
    listen, hear    to notifications of the table's name; the next one's payload, waited for
    notify TEXT     sends one
    forget          DISCARD ALL

Whatever goes wrong otherwise is answered by `error CODE TEXT`.
"""

import selectors
import shutil
import subprocess
import sys
from pathlib import Path

from harness.base import LOOPBACK, SLOW, clean_env, die_with_parent

HERE = Path(__file__).resolve().parent
JAR = "/usr/share/java/postgresql.jar"
PATIENCE = 120  # seconds for one answer, on a machine with much else to do


def succeeds(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


class Driver:
    """`command(folder)` gives what starts a rider; what has to be compiled is compiled there."""

    clients = 6

    def __init__(self, name, package, lacks=(), **more):
        self.name, self.package, self.lacks = name, package, set(lacks)
        self.__dict__.update(more)

    def can(self, verb):
        return verb not in self.lacks

    def missing(self):
        """What this machine lacks to run it, None: nothing."""
        return None if self.found() else f"{self.package} is not installed: ./dev setup"


class Python(Driver):
    def found(self):
        return succeeds(sys.executable, "-c", f"import {self.module}")

    def command(self, _folder):
        return [sys.executable, HERE / f"rider_{self.name}.py"]


class Script(Driver):
    def found(self):
        return shutil.which(self.needs[0]) and succeeds(*self.needs)

    def command(self, _folder):
        return [self.needs[0], HERE / self.script]


class Libpq(Driver):
    def found(self):
        return shutil.which("gcc") and succeeds("pkg-config", "libpq")

    def command(self, folder):
        program = folder / "rider"
        if not program.exists():
            asked = ["pkg-config", "--cflags", "--libs", "libpq"]
            flags = subprocess.check_output(asked, text=True).split()
            subprocess.run(["gcc", "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                            "-o", program, HERE / "rider.c", *flags], check=True)
        return [program]


class Java(Driver):
    clients = 4  # each is a virtual machine of its own

    def found(self):
        return shutil.which("javac") and Path(JAR).exists()

    def missing(self):
        """A JDK is for whoever has one; ./dev setup adds the driver to it."""
        return super().missing() if shutil.which("javac") else "there is no JDK (javac)"

    def command(self, folder):
        if not (folder / "Rider.class").exists():
            subprocess.run(["javac", "-encoding", "UTF-8", "-cp", JAR, "-d", folder,
                            HERE / "Rider.java"], check=True)
        return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m", "-Xshare:auto",
                "-cp", f"{folder}:{JAR}", "Rider"]


DRIVERS = [
    Libpq("libpq", "libpq-dev", lacks=["isolation"]),
    Python("psycopg2", "python3-psycopg2", module="psycopg2", lacks=["prepared", "pipeline"],
           isolation="serializable,repeatable read,serializable,read committed"),
    Python("psycopg", "python3-psycopg", module="psycopg", lacks=["isolation"]),
    Python("asyncpg", "python3-asyncpg", module="asyncpg",
           isolation="serializable,repeatable read"),
    Python("pg8000", "python3-pg8000", module="pg8000",
           lacks=["pipeline", "cursor", "cancel", "isolation"]),
    Script("php", "php-pgsql", needs=["php", "-r", "exit(extension_loaded('pdo_pgsql') ? 0 : 1);"],
           script="rider.php", lacks=["pipeline", "cancel", "isolation"]),
    Script("ruby", "ruby-pg", needs=["ruby", "-e", "require 'pg'"], script="rider.rb",
           lacks=["isolation"]),
    Script("perl", "libdbd-pg-perl", needs=["perl", "-MDBD::Pg", "-e", "1"], script="rider.pl",
           lacks=["pipeline", "isolation"]),
    Java("jdbc", "libpostgresql-jdbc-java",
         isolation="serializable,serializable,read committed"),
]

FRAMEWORKS = {
    "django": Python("django", "python3-django or python3-psycopg2", module="django, psycopg2"),
    "sqlalchemy": Python("sqlalchemy", "python3-sqlalchemy, python3-psycopg2 or python3-asyncpg",
                         module="sqlalchemy, psycopg2, asyncpg"),
}


class Failed(AssertionError):
    """A rider answered with an error, or not at all."""


class Rider:
    """One client. `ask` sends a line; `answer` waits for the next one."""

    def __init__(self, command, daemon, table, user="app", database="orders", errors=None, env=()):
        where = [LOOPBACK, str(daemon.port()), user, database, table]
        self.errors = open(errors, "a+", encoding="utf-8")
        self.proc = subprocess.Popen(
            [*map(str, command), *where], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, env=clean_env(PYTHONUNBUFFERED="1", **dict(env)), bufsize=0,
            start_new_session=True, preexec_fn=die_with_parent(9))
        self.buffer = b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.proc.stdout, selectors.EVENT_READ)

    def ask(self, *words):
        self.asked = " ".join(map(str, words))
        self.proc.stdin.write(self.asked.encode() + b"\n")

    def answer(self):
        while b"\n" not in self.buffer:
            if not self.selector.select(PATIENCE * SLOW):
                raise Failed(f"{self.asked}: no answer within {PATIENCE * SLOW:g} s")
            data = self.proc.stdout.read(65536)
            if not data:
                self.proc.wait(10)
                self.errors.seek(0)
                raise Failed(f"{self.asked}: the rider left with {self.proc.returncode}\n"
                             + self.errors.read())
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        text = line.decode()
        if text.startswith("error"):
            raise Failed(f"{self.asked}: {text}")
        return text

    def do(self, *words):
        self.ask(*words)
        return self.answer()

    def leave(self):
        """The end of its input is the end of the rider, in its driver's own way."""
        self.proc.stdin.close()
        code = self.proc.wait(PATIENCE * SLOW)
        self.end()
        return code

    def end(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.selector.close()
        for pipe in (self.proc.stdin, self.proc.stdout, self.errors):
            pipe.close()


class Crowd:
    """Many riders of one kind; all are asked before the first answer is awaited."""

    def __init__(self, riders):
        self.riders = riders
        for rider in riders:
            rider.asked = "connecting"
            said = rider.answer()
            assert said == "ready", said

    def __iter__(self):
        return iter(self.riders)

    def do(self, verb, *args):
        """All of them do the same at once."""
        return self.do_each(lambda _: (verb, *args))

    def do_each(self, words):
        """words(i): what the i-th is asked."""
        for i, rider in enumerate(self.riders):
            rider.ask(*words(i))
        return [rider.answer() for rider in self.riders]

    def leave(self):
        for rider in self.riders:
            rider.proc.stdin.close()
        return [rider.leave() for rider in self.riders]
