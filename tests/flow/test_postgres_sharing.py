# SPDX-License-Identifier: MIT
"""Many riders, few cars: the bound, whose turn it is, and what waiting ends with.

The judge of the bound is the server: the role `bounded` has a CONNECTION LIMIT, and each connection
too many is a line in the server's log.
"""

import asyncio
import random
import time

import psycopg
import pytest
from harness.base import SLOW, wait_for, wait_for_async
from harness.carpool import postgres_pool
from harness.pgwire import query

CLIENTS = 100


def bounded_daemon(carpool, bounded, limit, workers=1, **over):
    url = bounded(limit)
    return carpool(postgres_pool(url, **{"size": {"max": limit, "acquire_timeout": "30s"}, **over}),
                   workers=workers)


def test_hundred_clients_share_three_servers(carpool, bounded, pg, workers):
    daemon = bounded_daemon(carpool, bounded, 3, workers)
    mark = pg.mark()

    async def rider(n):
        conn = await daemon.connect_async(user="bounded")
        pids = set()
        for turn in range(3):
            async with conn.transaction():
                first = await (await conn.execute("select pg_backend_pid()")).fetchone()
                await conn.execute("select pg_sleep(0.002)")
                row = await (await conn.execute("select pg_backend_pid(), %s::int",
                                                (n * 10 + turn,))).fetchone()
                assert row == (first[0], n * 10 + turn), "a transaction stays on its server"
            pids.add(first[0])
        await conn.close()
        return pids

    async def main():
        return set().union(*await asyncio.gather(*(rider(n) for n in range(CLIENTS))))

    with pg.peak("bounded") as peak:
        pids = asyncio.run(main())
    assert peak.value <= 3 and len(pids) <= 3
    assert pg.refusals(mark) == 0
    assert pg.logins("bounded", mark) <= 3
    assert daemon.all_errors() == {}


def test_bound_holds_while_clients_break_off(carpool, bounded, pg, workers):
    """Clients that vanish at any moment cost servers; not one connection too many is opened."""
    daemon = bounded_daemon(carpool, bounded, 3, workers)
    mark = pg.mark()
    dice = random.Random(7)

    async def rough_rider():
        for _ in range(6):
            wire = await asyncio.to_thread(daemon.wire, user="bounded")
            wire.send(query(dice.choice(["select pg_sleep(0.05)", "begin; select 1",
                                         "select generate_series(1, 100000)"])))
            await asyncio.sleep(dice.random() * 0.06)
            wire.abort() if dice.random() < 0.7 else wire.close()

    async def main():
        await asyncio.gather(*(rough_rider() for _ in range(15)))

    with pg.peak("bounded") as peak:
        asyncio.run(main())
        with daemon.connect(user="bounded") as conn:
            assert conn.execute("select 1").fetchone() == (1,)
    assert pg.refusals(mark) == 0 and peak.value <= 3
    wait_for(lambda: daemon.servers(state="busy") == 0, what="all leases to end")


def test_two_pools_do_not_share_servers(carpool, bounded, pg):
    daemon = carpool(postgres_pool(bounded(2), name="orders", size={"max": 2}),
                     postgres_pool(pg.url(), name="reports", size={"max": 2}))
    with daemon.connect("orders", user="bounded") as a, daemon.connect("reports") as b:
        assert a.execute("select current_user").fetchone() == ("bounded",)
        assert b.execute("select current_user").fetchone() == ("app",)


def test_idle_clients_hold_no_server(orders, pg):
    daemon = orders(size={"max": 1})
    clients = [daemon.connect() for _ in range(20)]
    for n, conn in enumerate(clients * 2):
        assert conn.execute("select %s::int", (n,)).fetchone() == (n,)
    assert pg.connections("app") == 1
    for conn in clients:
        conn.close()


def test_min_is_warm_before_ready(orders, pg):
    daemon = orders(size={"min": 2, "max": 4})
    assert daemon.servers(state="idle") == 2
    assert pg.connections("app") == 2


def test_idle_servers_go_down_to_min(orders, pg):
    daemon = orders(size={"min": 1, "max": 4, "idle_timeout": "1s"})

    async def burst():
        conns = [await daemon.connect_async() for _ in range(4)]
        await asyncio.gather(*(c.execute("select pg_sleep(0.2)") for c in conns))
        for c in conns:
            await c.close()
    asyncio.run(burst())
    wait_for(lambda: pg.connections("app") == 1, 15, "idle servers to be closed")
    # a slot is carpool's until the server's end-of-file is read
    wait_for(lambda: daemon.servers() == 1, what="their slots to be free")
    assert pg.connections("app") == 1


def test_old_servers_are_replaced(orders, pg):
    daemon = orders(size={"max": 1, "max_lifetime": "1s"})
    with daemon.connect() as conn:
        first = conn.execute("select pg_backend_pid()").fetchone()
        wait_for(lambda: conn.execute("select pg_backend_pid()").fetchone() != first, 15,
                 "a new server")
    assert daemon.all_errors() == {}


def test_first_come_first_served(orders, table, workers):
    """A pool of one: who asked first is served first, however many wait."""
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "30s"})
    with daemon.connect() as holder:
        holder.execute("begin")
        wires = []
        for n in range(12):
            wires.append(daemon.wire())
            wires[-1].send(query(f"insert into {table} (n) values ({n})"))
            wait_for(lambda n=n: daemon.waiting() == n + 1, what=f"client {n} to wait")
            time.sleep(0.02)  # arrivals of different workers are told apart from 5 ms on
        holder.execute("commit")
        for wire in wires:
            assert wire.results()[1] == ["INSERT 0 1"]
            wire.close()
        assert [r[0] for r in holder.execute(f"select n from {table} order by id")] == list(range(12))


def test_fair_under_load(orders, workers):
    """With a pool of one nobody starves: after a while all clients got about the same."""
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "30s"})
    served = [0] * 16

    async def rider(n):
        conn = await daemon.connect_async()
        while max(served) < 100:
            await conn.execute("select 1")
            served[n] += 1
        await conn.close()

    async def main():
        await asyncio.gather(*(rider(n) for n in range(len(served))))
    asyncio.run(main())
    assert min(served) >= 0.4 * max(served), served


def test_acquire_timeout(orders, workers):
    daemon = orders(workers, size={"min": 1, "max": 1, "acquire_timeout": "500ms"})
    with daemon.connect() as holder, daemon.connect() as late:
        holder.execute("begin")
        begun = time.monotonic()
        with pytest.raises(psycopg.errors.TooManyConnections) as e:
            late.execute("select 1")
        took = time.monotonic() - begun
        assert "acquire_timeout" in str(e.value)
        assert 0.4 < took < 5 * SLOW, took
        assert late.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        holder.execute("commit")
        assert late.execute("select 2").fetchone() == (2,)
    wait_for(lambda: daemon.errors("acquire_timeout") == 1, what="it to be counted")
    assert daemon.saw("acquire_timeout")


def test_acquire_timeout_of_a_pipeline(orders):
    """What was not started is not started: the whole pipeline fails, and the next one works."""
    daemon = orders(size={"min": 1, "max": 1, "acquire_timeout": "300ms"})
    with daemon.connect() as holder, daemon.connect() as late:
        holder.execute("begin")
        with pytest.raises(psycopg.Error, match="acquire_timeout"):
            with late.pipeline():
                for i in range(3):
                    late.execute("select %s::int", (i,))
        holder.execute("commit")
        with late.pipeline():
            cursors = [late.execute("select %s::int", (i,)) for i in range(3)]
        assert [c.fetchone() for c in cursors] == [(0,), (1,), (2,)]


def test_queue_full(orders):
    daemon = orders(size={"max": 1, "waiters": 2, "acquire_timeout": "20s"})

    async def main():
        holder, *waiters, late = [await daemon.connect_async() for _ in range(4)]
        await holder.execute("begin")
        tasks = [asyncio.create_task(c.execute("select 1")) for c in waiters]
        await wait_for_async(lambda: daemon.waiting() == 2, what="two waiters")
        with pytest.raises(psycopg.errors.TooManyConnections, match="queue_full"):
            await late.execute("select 1")
        await holder.execute("commit")
        await asyncio.gather(*tasks)
        assert await (await late.execute("select 3")).fetchone() == (3,)
        for conn in (holder, *waiters, late):
            await conn.close()
    asyncio.run(main())
    assert daemon.saw("queue_full")


def test_too_many_clients(orders):
    daemon = orders(limits={"clients": 5})
    clients = [daemon.connect() for _ in range(5)]
    with pytest.raises(psycopg.OperationalError, match="too_many_clients"):
        daemon.connect()
    assert daemon.saw("too_many_clients")
    for conn in clients:
        assert conn.execute("select 1").fetchone() == (1,)
    clients.pop().close()

    def again():
        with daemon.connect() as conn:
            return conn.execute("select 1").fetchone()
    assert wait_for(again, ignore=psycopg.OperationalError) == (1,)
    for conn in clients:
        conn.close()


def test_a_waiter_that_leaves_is_forgotten(orders):
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    with daemon.connect() as holder:
        holder.execute("begin")
        gone = daemon.wire()
        gone.send(query("select 1"))
        stays = daemon.wire()
        stays.send(query("select 2"))
        wait_for(lambda: daemon.waiting() == 2, what="two waiters")
        gone.abort()
        wait_for(lambda: daemon.waiting() == 1, what="the vanished client to be forgotten")
        holder.execute("commit")
        assert stays.results()[0] == [["2"]]
        stays.close()


def test_upstream_that_is_full_is_busy_not_down(carpool, bounded, pg):
    """The server's own limit is below the pool's: carpool shrinks and queues, nobody fails."""
    url = bounded(2)
    daemon = carpool(postgres_pool(url, size={"max": 6, "acquire_timeout": "30s"}))

    async def rider(n):
        conn = await daemon.connect_async(user="bounded")
        for _ in range(4):
            await conn.execute("select pg_sleep(0.01)")
        await conn.close()

    async def main():
        await asyncio.gather(*(rider(n) for n in range(20)))
    asyncio.run(main())
    errors = daemon.all_errors()
    assert set(errors) <= {"upstream_busy"}, errors
    wait_for(lambda: daemon.errors("upstream_busy") >= 1, what="it to be counted")
    assert not daemon.log_lines("breaker_open")
