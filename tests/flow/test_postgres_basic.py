# SPDX-License-Identifier: MIT
"""Postgres through carpool, as drivers use it: what works direct works through the pool."""

import asyncio
import hashlib
import os
import stat

import asyncpg
import psycopg
import pytest
from harness.base import free_port, wait_for_async
from harness.carpool import PASSWORD
from harness.postgres import psql

MIB = 1 << 20


def test_psycopg_queries(orders, pg, workers):
    with orders(workers).connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
        assert conn.execute("select %s::int + %s", (40, 2)).fetchone() == (42,)
        assert conn.execute("select %b::bytea", (b"\0\xff",)).fetchone() == (b"\0\xff",)
        assert conn.execute("select null, '', 'äö'").fetchone() == (None, "", "äö")
        assert conn.execute("").description is None
        direct = psycopg.connect(pg.dsn())
        for name in ("server_version", "server_encoding", "TimeZone", "integer_datetimes",
                     "standard_conforming_strings", "DateStyle", "IntervalStyle"):
            assert (conn.info.parameter_status(name)
                    == direct.info.parameter_status(name)), name
        direct.close()


def test_several_statements_and_notices(orders):
    with orders().connect() as conn:
        notices = []
        conn.add_notice_handler(lambda n: notices.append(n.message_primary))
        cur = conn.execute("select 1; select 2; do $$ begin raise notice 'beep'; end $$; select 3")
        results = [cur.fetchone()]
        while cur.nextset():
            results.append(cur.fetchone() if cur.description else None)
        assert results == [(1,), (2,), None, (3,)]
        assert notices == ["beep"]


def test_asyncpg(orders, workers):
    daemon = orders(workers)

    async def main():
        conn = await asyncpg.connect(host="127.0.0.1", port=daemon.port(), user="app",
                                     database="orders", ssl=False)
        assert await conn.fetchval("select $1::int * 2", 21) == 42
        async with conn.transaction():
            await conn.execute("create temp table t (n int) on commit drop")
            await conn.executemany("insert into t values ($1)", [(i,) for i in range(100)])
            assert await conn.fetchval("select sum(n) from t") == 4950
            async for row in conn.cursor("select n from t order by n limit 3"):
                assert row["n"] < 3
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.fetchval("select 1/0")
        with pytest.raises(asyncpg.QueryCanceledError):
            await conn.execute("set statement_timeout = 50; select pg_sleep(5)")
        await conn.execute("reset statement_timeout")
        assert await conn.fetchval("select 1") == 1
        await conn.close()
    asyncio.run(main())


def test_psql(orders, table):
    daemon = orders()
    done = psql(daemon.dsn(), "-At", script=f"""
        select version() like 'PostgreSQL%';
        begin; insert into {table} (n) select generate_series(1, 5); commit;
        select count(*) from {table};
        \\copy {table} (n) from stdin
10
20
\\.
        select sum(n) from {table};
        \\d {table}
    """)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:3] == ["t", "5", "45"]
    assert done.returncode == 0


def test_unix_socket_both_sides(carpool, local_pg):
    port = free_port()
    config = {"name": "orders", "kind": "postgres", "mode": "transaction", "size": {"max": 2}}
    daemon = carpool(start=False)
    path = daemon.folder / f".s.PGSQL.{port}"
    upstream = str(local_pg.socket_dir).replace("/", "%2F")
    daemon.write({"pools": [{**config, "listen": [{"unix": str(path), "mode": "0640"}],
                             "upstream": local_pg.url(host=upstream)}]})
    daemon.start()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    with psycopg.connect(host=str(daemon.folder), port=port, user="app", dbname="orders") as conn:
        assert conn.execute("select inet_server_addr()").fetchone() == (None,)
    daemon.stop()
    assert not path.exists()


def test_errors_leave_the_session_usable(orders, table):
    with orders().connect() as conn:
        for sql, state in (("selec 1", "42601"), ("select * from nowhere", "42P01"),
                           ("select 1/0", "22012"), ("set timezone to 'nonsense'", "22023")):
            with pytest.raises(psycopg.Error) as e:
                conn.execute(sql)
            assert e.value.sqlstate == state
            assert conn.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.Error) as e:
            conn.execute("select %s::int / %s::int", (1, 0))  # extended protocol
        assert e.value.sqlstate == "22012"
        assert conn.execute("select %s", ("x",)).fetchone() == ("x",)


def test_failed_transaction_stays_failed(orders, table):
    with orders(size={"max": 1}).connect() as conn:
        conn.execute("begin")
        conn.execute(f"insert into {table} (n) values (1)")
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("select 1/0")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            conn.execute("select 1")
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        conn.execute("rollback")
        with conn.transaction(), pytest.raises(psycopg.errors.DivisionByZero):
            with conn.transaction():  # a savepoint
                conn.execute(f"insert into {table} (n) values (2)")
                conn.execute("select 1/0")
        assert conn.execute(f"select count(*) from {table}").fetchone() == (0,)


def test_pipeline_mode(orders, table):
    with orders().connect() as conn:
        with conn.pipeline():
            cursors = [conn.execute("select %s::int", (i,)) for i in range(50)]
        assert [c.fetchone()[0] for c in cursors] == list(range(50))
        with pytest.raises(psycopg.Error):
            with conn.pipeline() as p:
                conn.execute(f"insert into {table} (n) values (%s)", (1,))
                conn.execute("select 1/%s::int", (0,))
                conn.execute(f"insert into {table} (n) values (%s)", (2,))
                p.sync()
        # one Sync: the failing statement took the insert before it along
        assert conn.execute(f"select count(*) from {table}").fetchone() == (0,)
        with conn.pipeline() as p:
            conn.execute(f"insert into {table} (n) values (%s)", (3,))
            p.sync()
        assert conn.execute(f"select n from {table}").fetchall() == [(3,)]


def test_server_side_cursor(orders):
    with orders().connect(autocommit=False) as conn:
        with conn.cursor("riders") as cur:
            cur.execute("select generate_series(1, 5000)")
            cur.itersize = 700
            assert sum(row[0] for row in cur) == 5000 * 5001 // 2


def test_named_statements_keep_working(orders, workers):
    """A session that names a statement finds it again, whatever other clients do meanwhile."""
    daemon = orders(workers, size={"max": 4})
    with daemon.connect() as one, daemon.connect() as two:
        for conn in (one, two):
            conn.prepare_threshold = 0
        for i in range(20):
            for conn in (one, two):
                assert conn.execute("select %s::int + 1", (i,)).fetchone() == (i + 1,)


def test_copy_in_and_out(orders, table, workers):
    with orders(workers).connect() as conn, conn.cursor() as cur:
        with cur.copy(f"copy {table} (n, note) from stdin") as copy:
            for i in range(50_000):
                copy.write_row((i, f"rider {i}"))
        assert cur.execute(f"select count(*), sum(n) from {table}").fetchone() == (50_000, 1249975000)
        with cur.copy(f"copy (select n from {table} order by n) to stdout") as copy:
            data = b"".join(copy)
        assert data == b"".join(b"%d\n" % i for i in range(50_000))
        with cur.copy(f"copy {table} to stdout with binary") as copy:
            assert len(b"".join(copy)) > MIB


def test_copy_that_fails(orders, table):
    with orders(size={"max": 1}).connect() as conn, conn.cursor() as cur:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            with cur.copy(f"copy {table} (n) from stdin") as copy:
                copy.write(b"1\nnot a number\n")
                for i in range(20_000):
                    copy.write(b"%d\n" % i)  # keeps coming after the server has given up
        assert cur.execute(f"select count(*) from {table}").fetchone() == (0,)
        # Which of the two psycopg raises depends on its age.
        with pytest.raises((psycopg.errors.QueryCanceled, RuntimeError)):
            with cur.copy(f"copy {table} (n) from stdin") as copy:
                copy.write(b"1\n")
                raise RuntimeError("the rider gets off")
        with pytest.raises(psycopg.errors.UndefinedTable):
            with cur.copy("copy nowhere from stdin") as copy:
                copy.write(b"1\n")
        assert cur.execute(f"select count(*) from {table}").fetchone() == (0,)


@pytest.mark.parametrize("size", [1, 8191, 8192, 65536, MIB, 32 * MIB])
def test_one_large_value(orders, size):
    with orders().connect() as conn:
        value = conn.execute("select repeat('x', %s::int)", (size,)).fetchone()[0]
        assert len(value) == size and set(value) == {"x"}


def test_large_parameter_is_intact(orders):
    data = os.urandom(16 * MIB)
    with orders().connect() as conn:
        digest, size = conn.execute("select md5(v), length(v) from (select %b::bytea as v) x",
                                    (data,)).fetchone()
        assert (digest, size) == (hashlib.md5(data).hexdigest(), len(data))


def test_many_rows_keep_their_order(orders, workers):
    with orders(workers).connect() as conn:
        rows = conn.execute("select n, md5(n::text) from generate_series(1, 200000) n").fetchall()
        assert len(rows) == 200_000
        assert all(n == i for i, (n, _) in enumerate(rows, 1))
        assert rows[-1][1] == hashlib.md5(b"200000").hexdigest()


def test_many_clients_come_and_go(orders, pg):
    daemon = orders(size={"max": 2})
    mark = pg.mark()
    for i in range(100):
        with daemon.connect() as conn:
            assert conn.execute("select %s::int", (i,)).fetchone() == (i,)
    assert pg.logins("app", mark) <= 2
    assert daemon.all_errors() == {}


def test_session_mode_keeps_state(orders, workers):
    daemon = orders(workers, mode="session", size={"max": 2})
    with daemon.connect() as one, daemon.connect() as two:
        one.execute("set work_mem = '5MB'")
        one.execute("create temp table mine (n int)")
        one.execute("prepare twice (int) as select $1 * 2")
        one.execute("select pg_advisory_lock(7)")
        pids = {c.execute("select pg_backend_pid()").fetchone() for c in (one, two)}
        assert len(pids) == 2
        for _ in range(5):
            assert one.execute("show work_mem").fetchone() == ("5MB",)
            assert two.execute("show work_mem").fetchone() != ("5MB",)
        one.execute("insert into mine values (1)")
        assert one.execute("execute twice (21)").fetchone() == (42,)
        assert two.execute("select pg_try_advisory_lock(7)").fetchone() == (False,)


def test_session_mode_hands_over_clean(orders):
    """The next client of the same server finds nothing of the one before."""
    daemon = orders(mode="session", size={"max": 1})
    with daemon.connect() as one:
        one.execute("set work_mem = '5MB'")
        one.execute("create temp table mine (n int)")
        one.execute("prepare twice (int) as select $1 * 2")
        one.execute("listen gossip")
        one.execute("select pg_advisory_lock(8)")
    with daemon.connect() as two:
        assert two.execute("show work_mem").fetchone() != ("5MB",)
        assert two.execute("select to_regclass('pg_temp.mine')").fetchone() == (None,)
        assert two.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
        assert two.execute("select count(*) from pg_listening_channels()").fetchone() == (0,)
        assert two.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() \
            == (0,)


def test_session_mode_waits_for_a_leaving_client(orders):
    daemon = orders(mode="session", size={"max": 1, "acquire_timeout": "10s"})
    one = daemon.connect()
    one.execute("select 1")

    async def main():
        two = await daemon.connect_async()
        task = asyncio.create_task(two.execute("select 2"))
        await wait_for_async(lambda: daemon.waiting() == 1, what="the second client to wait")
        one.close()
        assert await (await task).fetchone() == (2,)
        await two.close()
    asyncio.run(main())


def test_password_is_told_to_nobody(orders, pg):
    daemon = orders()
    daemon.connect().close()
    assert PASSWORD not in daemon.log_text()
    assert PASSWORD not in daemon.get("/config").text
    assert PASSWORD.encode() not in open(f"/proc/{daemon.pid}/cmdline", "rb").read()
