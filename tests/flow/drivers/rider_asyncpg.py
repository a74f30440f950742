# SPDX-License-Identifier: MIT
"""asyncpg as it comes: every query is a prepared statement, kept in a cache of the client's."""

import asyncio

import asyncpg
from riding import ROWS, WIDTH, Rider, ride


class AsyncRider(Rider):
    def __init__(self, *where):
        super().__init__(*where)
        self.loop = asyncio.new_event_loop()
        self.conn = self.loop.run_until_complete(asyncpg.connect(ssl=False, **self.where))

    def close(self):
        self.loop.run_until_complete(self.conn.close())

    def answer(self, line):
        verb, *args = line.split()
        return super().answer(" ".join(["run", verb, *args]))

    def run(self, verb, *args):
        return self.loop.run_until_complete(getattr(self, "do_" + verb)(*args))

    async def count(self, n):
        return await self.conn.fetchval(f"select count(*) from {self.table} where n = $1", int(n))

    async def insert(self, n):
        await self.conn.execute(f"insert into {self.table} (n) values ($1)", int(n))

    async def refused(self, text, *args, **more):
        try:
            await self.conn.fetch(text, *args, **more)
        except asyncpg.PostgresError as e:
            return e.sqlstate
        except asyncio.TimeoutError:
            return "timeout"
        return "00000"

    # -- verbs

    async def do_ping(self):
        return await self.conn.fetchval("select 1")

    async def do_prepared(self, times):
        twice = await self.conn.prepare("select $1::int * 2")
        total = 0
        for i in range(int(times)):
            total += await twice.fetchval(i + 1)
            # more texts than the cache holds would take long: a few, again and again
            assert await self.conn.fetchval(f"select '{i % 5}' || $1::text", "é") == f"{i % 5}é"
        return total

    async def do_rollback(self, n):
        tx = self.conn.transaction()
        await tx.start()
        await self.insert(n)
        inside = await self.count(n)
        await tx.rollback()
        return f"{inside} {await self.count(n)}"

    async def do_commit(self, n):
        async with self.conn.transaction():
            await self.insert(n)
            inner = self.conn.transaction()  # a savepoint
            await inner.start()
            await self.insert(n)
            await inner.rollback()
            await self.insert(n)
        return await self.count(n)

    async def do_failed(self, n):
        tx = self.conn.transaction()
        await tx.start()
        await self.insert(n)
        codes = await self.refused("select 1 / $1::int", 0), await self.refused("select 1")
        await tx.rollback()
        return " ".join([*codes, str(await self.count(n))])

    async def do_isolation(self):
        seen = []
        for level in ("serializable", "repeatable_read"):
            async with self.conn.transaction(isolation=level, readonly=True):
                seen.append(await self.conn.fetchval("show transaction_isolation"))
        return ",".join(seen)

    async def do_big(self):
        rows = await self.conn.fetch(
            "select g, repeat('x', $1::int) t from generate_series(1, $2::int) g", WIDTH, ROWS)
        return f"{len(rows)} {sum(len(row['t']) for row in rows)}"

    async def do_pipeline(self, n):
        """executemany sends all Binds behind one Parse."""
        sql = f"insert into {self.table} (n, note) select $1::int, 1 / $2::int"
        await self.conn.executemany(sql, [(int(n), 1)] * 20)
        before = await self.count(n)
        try:
            await self.conn.executemany(sql, [(int(n), 1), (int(n), 0), (int(n), 1)])
            code = "00000"
        except asyncpg.PostgresError as e:
            code = e.sqlstate
        return f"{before} {code} {await self.count(n)}"

    async def do_copy(self, n):
        said = await self.conn.copy_records_to_table(
            self.table, columns=["n"], records=[(int(n),)] * 500)
        out = []

        async def keep(data):
            out.append(data)
        await self.conn.copy_from_query(f"select n from {self.table} where n = {n}", output=keep)
        return f"{said.split()[1]} {len(b''.join(out).split())}"

    async def do_set(self, number):
        await self.conn.execute(f"set statement_timeout = {number}")
        await self.conn.execute(f"set application_name to 'rider {number}'")
        await self.conn.execute(f"set my.rider = '{number}'")

    async def do_show(self):
        return " ".join([await self.conn.fetchval(f"show {name}") for name in
                         ("statement_timeout", "application_name", "my.rider")])

    async def do_slow(self, seconds):
        return await self.refused(f"select pg_sleep({seconds})")

    async def do_cursor(self):
        seen = 0
        async with self.conn.transaction():
            async for _ in self.conn.cursor("select generate_series(1, $1::int)", 1000,
                                            prefetch=100):
                seen += 1
        return seen

    async def do_cancel(self):
        """A timeout of the driver's sends a CancelRequest, and the query's error is awaited."""
        assert await self.refused("select pg_sleep(60)", timeout=1) == "timeout"
        return "57014"

    async def do_reset(self):
        """What a pool of asyncpg's does when a connection comes back to it."""
        await self.conn.reset()

    async def do_types(self):
        """Types that the driver asks the server about, in a query it prepares itself."""
        await self.conn.set_type_codec("json", encoder=str, decoder=str, schema="pg_catalog")
        assert await self.conn.fetchval("select $1::json", '{"a": 1}') == '{"a": 1}'
        assert len(await self.conn.fetchval("select array[int4range(1, 5)]")) == 1

    async def do_listen(self):
        self.news = asyncio.Queue()
        await self.conn.add_listener(self.table, lambda _conn, _pid, _channel, payload:
                                     self.news.put_nowait(payload))

    async def do_hear(self):
        return await self.news.get()

    async def do_notify(self, payload):
        await self.conn.execute("select pg_notify($1, $2)", self.table, payload)

    async def do_forget(self):
        await self.conn.execute("discard all")


ride(AsyncRider)
