# SPDX-License-Identifier: MIT
"""What the riders written in Python share: see riders.py for what a rider is asked and answers.

A rider is a subclass of `Rider` whose methods are the verbs. `DbApi` has most of them in terms of
what DB-API drivers agree on; what each does in its own way (prepared statements, COPY, cancel,
pipelines) is in the driver's own file.
"""

import sys
import threading

ROWS, WIDTH = 4000, 1000  # of the verb `big`


class Rider:
    def __init__(self, host, port, user, database, table):
        self.where = {"host": host, "port": int(port), "user": user, "database": database}
        self.table = table

    def answer(self, line):
        verb, *args = line.split()
        try:
            done = getattr(self, verb)(*args)
            return "ok" if done is None else str(done)
        except Exception as e:  # the one who asked shall see it, whatever it is
            text = " ".join(f"{type(e).__name__}: {e}".split())
            return f"error {self.code(e) or '-'} {text}"

    def code(self, error):
        """The SQLSTATE of a driver's exception, None for others."""
        return getattr(error, "sqlstate", None)


def ride(make):
    """make(host, port, user, database, table): connect, then answer line by line until the end."""
    rider = make(*sys.argv[1:6])
    print("ready", flush=True)
    for line in sys.stdin:
        print(rider.answer(line), flush=True)
    rider.close()


class DbApi(Rider):
    """`self.conn` is a connection in autocommit mode; `begin()` and `end()` make a transaction."""

    def sql(self, text):
        cursor = self.conn.cursor()
        cursor.execute(text)
        rows = cursor.fetchall() if cursor.description else None
        cursor.close()
        return rows

    def value(self, text):
        return self.sql(text)[0][0]

    def refused(self, text):
        """The SQLSTATE that this statement gets."""
        try:
            self.sql(text)
        except Exception as e:
            return self.code(e) or repr(e)
        return "00000"

    def begin(self):
        raise NotImplementedError

    def end(self, commit):
        raise NotImplementedError

    def close(self):
        self.conn.close()

    def count(self, n):
        return self.value(f"select count(*) from {self.table} where n = {n}")

    # -- verbs

    def ping(self):
        return self.value("select 1")

    def rollback(self, n):
        self.begin()
        self.sql(f"insert into {self.table} (n) values ({n})")
        inside = self.count(n)
        self.end(False)
        return f"{inside} {self.count(n)}"

    def commit(self, n):
        self.begin()
        self.sql(f"insert into {self.table} (n) values ({n})")
        self.sql("savepoint here")
        self.sql(f"insert into {self.table} (n) values ({n})")
        self.sql("rollback to savepoint here")
        self.sql(f"insert into {self.table} (n) values ({n})")
        self.end(True)
        return self.count(n)

    def failed(self, n):
        self.begin()
        self.sql(f"insert into {self.table} (n) values ({n})")
        codes = self.refused("select 1/0"), self.refused("select 1")
        self.end(False)
        return " ".join([*codes, str(self.count(n))])

    def big(self):
        rows = self.sql(f"select g, repeat('x', {WIDTH}) from generate_series(1, {ROWS}) g")
        return f"{len(rows)} {sum(len(text) for _, text in rows)}"

    def set(self, number):
        self.sql(f"set statement_timeout = {number}")
        self.sql(f"set application_name to 'rider {number}'")
        self.sql(f"set my.rider = '{number}'")

    def show(self):
        return " ".join(self.value(f"show {name}") for name in
                        ("statement_timeout", "application_name", "my.rider"))

    def slow(self, seconds):
        return self.refused(f"select pg_sleep({seconds})")

    def cancel(self):
        """From a thread, again and again until it is over: the first one may come before the query runs."""
        over = threading.Event()

        def stop():
            while not over.wait(0.3):
                self.conn.cancel()
        thread = threading.Thread(target=stop)
        thread.start()
        code = self.refused("select pg_sleep(60)")
        over.set()
        thread.join()
        return code
