# SPDX-License-Identifier: MIT
"""psycopg2: no prepared statements of its own, transactions begun by the driver, named cursors."""

import io

import psycopg2
from riding import DbApi, ride


class Rider(DbApi):
    def __init__(self, *where):
        super().__init__(*where)
        self.conn = psycopg2.connect(host=self.where["host"], port=self.where["port"],
                                     user=self.where["user"], dbname=self.where["database"])
        self.conn.autocommit = True

    def code(self, error):
        return getattr(error, "pgcode", None)

    def begin(self):
        self.conn.autocommit = False

    def end(self, commit):
        self.conn.commit() if commit else self.conn.rollback()
        self.conn.autocommit = True

    def prepare_in_sql(self):
        """What people do who want them with psycopg2."""
        self.sql("prepare twice (int) as select $1 * 2")

    def execute_in_sql(self, n):
        return self.value(f"execute twice ({n})")

    def forget(self):
        self.sql("discard all")

    def isolation(self):
        """Set by the driver: with the BEGIN, and in autocommit for the session."""
        seen = []
        for level in ("SERIALIZABLE", "REPEATABLE READ"):
            self.conn.set_session(isolation_level=level, autocommit=False)
            seen.append(self.value("show transaction_isolation"))
            self.conn.rollback()
        self.conn.set_session(isolation_level="SERIALIZABLE", autocommit=True)
        seen.append(self.value("show transaction_isolation"))
        self.conn.set_session(isolation_level="DEFAULT", autocommit=True)
        seen.append(self.value("show transaction_isolation"))
        return ",".join(seen)

    def copy(self, n):
        lines = "".join(f"{n}\n" for _ in range(500))
        with self.conn.cursor() as cursor:
            cursor.copy_expert(f"copy {self.table} (n) from stdin", io.StringIO(lines))
            sent, out = cursor.rowcount, io.StringIO()
            cursor.copy_expert(f"copy (select n from {self.table} where n = {n}) to stdout", out)
        return f"{sent} {len(out.getvalue().split())}"

    def cursor(self):
        self.begin()
        with self.conn.cursor(name="portions") as cursor:
            cursor.itersize = 100
            cursor.execute("select generate_series(1, 1000)")
            seen = sum(1 for _ in cursor)
        self.end(True)
        return seen


ride(Rider)
