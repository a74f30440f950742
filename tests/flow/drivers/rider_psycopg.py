# SPDX-License-Identifier: MIT
"""psycopg 3 as it comes: prepares what is said five times, has pipelines, COPY, named cursors."""

import psycopg
from riding import DbApi, ride


class Rider(DbApi):
    def __init__(self, *where):
        super().__init__(*where)
        self.conn = psycopg.connect(host=self.where["host"], port=self.where["port"],
                                    user=self.where["user"], dbname=self.where["database"],
                                    autocommit=True)

    def begin(self):
        self.conn.autocommit = False

    def end(self, commit):
        self.conn.commit() if commit else self.conn.rollback()
        self.conn.autocommit = True

    def prepared(self, times):
        """By itself from the sixth time on, and at once where it is told so; the oldest go when
        there are more than `prepared_max`."""
        self.conn.prepared_max = 3
        total = 0
        for i in range(int(times)):
            total += self.conn.execute("select %s::int * 2", (i + 1,)).fetchone()[0]
            text = self.conn.execute(f"select '{i % 5}' || %s::text", ("é",), prepare=True)
            assert text.fetchone()[0] == f"{i % 5}é"
        return total

    def pipeline(self, n):
        with self.conn.pipeline():
            for _ in range(20):
                self.conn.execute(f"insert into {self.table} (n) values (%s)", (int(n),))
        before = self.count(n)
        try:
            with self.conn.pipeline():
                self.conn.execute(f"insert into {self.table} (n) values (%s)", (int(n),))
                self.conn.execute("select 1 / %s::int", (0,))
                self.conn.execute(f"insert into {self.table} (n) values (%s)", (int(n),))
            code = "00000"
        except psycopg.Error as e:
            code = e.sqlstate
        return f"{before} {code} {self.count(n)}"

    def copy(self, n):
        with self.conn.cursor() as cursor:
            with cursor.copy(f"copy {self.table} (n) from stdin") as copy:
                for _ in range(500):
                    copy.write_row((n,))
            sent = cursor.rowcount
            with cursor.copy(f"copy (select n from {self.table} where n = {n}) to stdout") as copy:
                return f"{sent} {sum(1 for _ in copy.rows())}"

    def cursor(self):
        with self.conn.transaction(), self.conn.cursor(name="portions") as cursor:
            cursor.itersize = 100
            cursor.execute("select generate_series(1, %s)", (1000,))
            return sum(1 for _ in cursor)

    def listen(self):
        self.sql(f"listen {self.table}")
        self.news = self.conn.notifies()

    def hear(self):
        return next(self.news).payload

    def notify(self, payload):
        self.sql(f"select pg_notify('{self.table}', '{payload}')")

    def forget(self):
        self.news.close()
        self.sql("discard all")


ride(Rider)
