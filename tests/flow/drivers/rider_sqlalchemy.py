# SPDX-License-Identifier: MIT
"""SQLAlchemy's engines and sessions with their usual habits, over psycopg2 and over asyncpg.

One process is an application whose engine has a pool of its own, of two connections that it pings
before use (`pool_pre_ping`).
"""

import asyncio

import sqlalchemy as sa
from riding import Rider, ride
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, registry
from sqlalchemy.pool import NullPool


class Application(Rider):
    def __init__(self, *where):
        super().__init__(*where)
        address = "{user}@{host}:{port}/{database}".format(**self.where)
        self.engine = sa.create_engine(f"postgresql+psycopg2://{address}", pool_pre_ping=True,
                                       pool_size=2, future=True)
        self.bare = sa.create_engine(f"postgresql+psycopg2://{address}", poolclass=NullPool,
                                     future=True)
        self.loop = asyncio.new_event_loop()
        self.other = create_async_engine(f"postgresql+asyncpg://{address}", pool_pre_ping=True,
                                         pool_size=2)
        self.notes = sa.Table(
            self.table, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("n", sa.Integer), sa.Column("note", sa.Text))
        self.Note = type("Note", (), {})
        registry().map_imperatively(self.Note, self.notes)
        self.ping()

    def code(self, error):
        return getattr(getattr(error, "orig", None), "pgcode", None)

    def close(self):
        self.engine.dispose()
        self.loop.run_until_complete(self.other.dispose())

    def selected(self, n):
        return sa.select(sa.func.count()).where(self.notes.c.n == int(n))

    def count(self, n):
        with self.engine.connect() as conn:
            return conn.scalar(self.selected(n))

    def ping(self):
        with self.engine.connect() as conn:
            return conn.scalar(sa.text("select 1"))

    def add(self, n):
        """A session: one flush, a savepoint that is rolled back, a commit."""
        with Session(self.engine) as session:
            self.note(session, n)
            with session.begin_nested() as here:
                self.note(session, n)
                session.flush()
                here.rollback()
            self.note(session, n)
            session.commit()
        return self.count(n)

    def note(self, session, n):
        note = self.Note()
        note.n = int(n)
        session.add(note)

    def rollback(self, n):
        with Session(self.engine) as session:
            self.note(session, n)
            session.flush()
            inside = session.scalar(self.selected(n))
            session.rollback()
        return f"{inside} {self.count(n)}"

    def failed(self, n):
        codes = []
        with self.engine.connect() as conn:
            conn.execute(self.notes.insert().values(n=int(n)))
            for sql in ("select 1/0", "select 1"):
                try:
                    conn.execute(sa.text(sql))
                except sa.exc.DBAPIError as e:
                    codes.append(self.code(e))
        return " ".join([*codes, str(self.count(n))])

    def isolation(self):
        seen = []
        for level in ("SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"):
            with self.engine.connect().execution_options(isolation_level=level) as conn:
                seen.append(conn.scalar(sa.text("show transaction_isolation")))
        with self.engine.connect() as conn:
            seen.append(conn.scalar(sa.text("show transaction_isolation")))
        return ",".join(seen)

    def stream(self):
        """yield_per / stream_results: a named cursor of psycopg2's."""
        with self.engine.connect() as conn:
            rows = conn.execution_options(stream_results=True, max_row_buffer=100).execute(
                sa.text("select generate_series(1, 1000)"))
            return sum(1 for _ in rows)

    def unpooled(self, n):
        """NullPool: a connection for each use, as people do behind a pooler."""
        for _ in range(3):
            with self.bare.begin() as conn:
                conn.execute(self.notes.insert(), [{"n": int(n)}, {"n": int(n)}])
        return self.count(n)

    def asynchronous(self, n):
        return self.loop.run_until_complete(self._asynchronous(int(n)))

    async def _asynchronous(self, n):
        async with self.other.begin() as conn:
            for _ in range(8):
                await conn.execute(self.notes.insert().values(n=n))
        async with self.other.connect() as conn:
            rows = await conn.stream(sa.select(self.notes.c.id).where(self.notes.c.n == n))
            seen = [row async for row in rows]
            try:
                await conn.execute(sa.text("select 1 / :zero"), {"zero": 0})
                code = "00000"
            except sa.exc.DBAPIError as e:
                code = e.orig.pgcode
        return f"{len(seen)} {code}"


ride(Application)
