# SPDX-License-Identifier: MIT
"""pg8000: Python to the socket; every statement with parameters is prepared, and kept."""

import io
import re

import pg8000
from riding import DbApi, ride


class Rider(DbApi):
    def __init__(self, *where):
        super().__init__(*where)
        self.conn = pg8000.connect(**self.where)
        self.conn.autocommit = True

    def code(self, error):
        """Old releases give the fields in their order, newer ones by their letters."""
        fields = error.args[0] if error.args else None
        if isinstance(fields, dict):
            return fields.get("C")
        return next((a for a in error.args if re.fullmatch("[0-9A-Z]{5}", str(a))
                     and a not in ("ERROR", "FATAL")), None)

    def begin(self):
        self.conn.autocommit = False

    def end(self, commit):
        self.conn.commit() if commit else self.conn.rollback()
        self.conn.autocommit = True

    def prepared(self, times):
        total, cursor = 0, self.conn.cursor()
        for i in range(int(times)):
            cursor.execute("select cast(%s as int) * 2", (i + 1,))
            total += cursor.fetchone()[0]
            cursor.execute(f"select '{i % 5}' || cast(%s as text)", ("é",))
            assert cursor.fetchone()[0] == f"{i % 5}é"
        return total

    def big(self):
        """Old releases fetch through a portal, which lives as long as the transaction."""
        self.begin()
        try:
            return super().big()
        finally:
            self.end(True)

    def copy(self, n):
        cursor, lines, out = self.conn.cursor(), io.BytesIO(f"{n}\n".encode() * 500), io.BytesIO()
        cursor.execute(f"copy {self.table} (n) from stdin", stream=lines)
        sent = cursor.rowcount
        cursor.execute(f"copy (select n from {self.table} where n = {n}) to stdout", stream=out)
        return f"{sent} {len(out.getvalue().split())}"


ride(Rider)
