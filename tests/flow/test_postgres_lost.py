# SPDX-License-Identifier: MIT
"""A server is lost while a client uses it. The client stays, and is never told a lie about what was done.

Outside a transaction: 08006, ready again. Inside one: 08006, and everything gets 25P02 until the client
ends the transaction, answered as ROLLBACK; or else the second half of a transaction would be committed
without the first. A COMMIT on its way: 08007, nobody knows.
"""

import asyncio
import random
import subprocess
import threading
import time

import asyncpg
import psycopg
import pytest
from harness import pgwire
from harness.base import LOOPBACK, clean_env, wait_for
from harness.pgwire import query
from harness.postgres import psql
from harness.quack import SIMPLE, Quack
from harness.relays import TO_CLIENT, TO_SERVER


def count(server, table):
    return server.value(f"select count(*) from {table}", db="orders")


def notes(server, table):
    return [r[0] for r in server.query(f"select n from {table} order by id", db="orders")]


def servers(daemon):
    return {s["server"] for s in daemon.json("/servers")["servers"]}


@pytest.mark.parametrize("how", ["fin", "rst", "terminated"])
def test_lost_outside_a_transaction(through_gate, pg, workers, how):
    daemon, relay = through_gate(workers, size={"max": 1})
    with daemon.wire() as wire:
        wire.send(query("select 1, pg_sleep(60)"))
        wait_for(lambda: pg.active("select 1, pg_sleep(60)%"), what="the query to run")
        pg.terminate("app") if how == "terminated" else relay.cut(reset=how == "rst")
        rows, tags, error, status = wire.results()
        assert (rows, tags, error.code, status) == ([], [], "08006", "I")
        assert "upstream_closed" in error.fields["M"] and error.fields["S"] == "ERROR"
        assert wire.run("select 2")[0] == [["2"]]
    assert daemon.saw("upstream_closed")


@pytest.mark.parametrize("how", ["fin", "rst", "terminated"])
def test_lost_inside_a_transaction(through_gate, pg, table, workers, how):
    daemon, relay = through_gate(workers, size={"max": 1})
    with daemon.wire() as wire, daemon.wire() as other:
        wire.run("begin")
        wire.run(f"insert into {table} (n) values (1)")
        wire.send(query(f"insert into {table} (n) values (2); select pg_sleep(60)"))
        wait_for(lambda: pg.active("%pg_sleep(60)%"), what="the query to run")
        pg.terminate("app") if how == "terminated" else relay.cut(reset=how == "rst")
        error, status = wire.results()[2:]
        assert (error.code, status) == ("08006", "E")
        assert other.run("select 1")[0] == [["1"]], "the slot is free for others"
        for sql in (f"insert into {table} (n) values (3)", "select 1", "begin", "savepoint a",
                    "rollback to a", f"insert into {table} (n) values (4); commit"):
            rows, tags, error, status = wire.run(sql)
            assert (rows, tags, error.code, status) == ([], [], "25P02", "E"), sql
        assert wire.run("rollback") == ([], ["ROLLBACK"], None, "I")
        assert wire.run(f"insert into {table} (n) values (5)") == ([], ["INSERT 0 1"], None, "I")
    assert notes(pg, table) == [5]


def test_lost_while_the_client_thinks(through_gate, pg, table):
    """The server dies in an open transaction while nothing is asked: the next words hear of it."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.connect(autocommit=False) as conn:
        conn.execute(f"insert into {table} (n) values (1)")
        pg.terminate("app")
        wait_for(lambda: pg.connections("app") == 0, what="the server to be gone")
        with pytest.raises(psycopg.Error) as e:
            conn.execute(f"insert into {table} (n) values (2)")
        assert e.value.sqlstate == "08006"
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            conn.execute("select 1")
        conn.rollback()
        conn.execute(f"insert into {table} (n) values (3)")
        conn.commit()
    assert notes(pg, table) == [3]


def test_lost_in_an_extended_exchange(through_gate, pg, table):
    """Extended protocol: one error, silence until Sync, then ready."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.send(pgwire.parse("select 1, pg_sleep(60)"), pgwire.bind(), pgwire.execute(),
                  pgwire.FLUSH)
        wait_for(lambda: pg.active("select 1, pg_sleep(60)%"), what="the query to run")
        relay.cut()
        assert [k for k, _ in wire.until("E")][-1] == "E"
        wire.send(pgwire.bind(), pgwire.execute(), query("select 7"))
        assert wire.quiet(0.2), "everything up to Sync is swallowed"
        wire.send(pgwire.SYNC)
        assert wire.receive() == ("Z", b"I")
        assert wire.run("select 2")[0] == [["2"]]


@pytest.mark.parametrize("goes_on", ["bind", "query", "sync"])
def test_lost_while_the_client_awaits_nothing_of_its_batch(through_gate, goes_on):
    """Prepared and described, as asyncpg does it, but not run yet: told with the next message, not before."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.send(pgwire.parse("select 1", "one"), pgwire.describe("S", "one"), pgwire.FLUSH)
        wire.until("T")
        relay.cut()
        wait_for(lambda: daemon.errors("upstream_closed") == 1, what="the loss to be seen")
        assert wire.quiet(0.2), "nothing was asked"
        wire.send({"bind": pgwire.bind("one") + pgwire.execute() + pgwire.SYNC,
                   "query": query("select 2"), "sync": pgwire.SYNC}[goes_on])
        said = wire.until("Z")
        assert [k for k, _ in said] == ["E", "Z"] and said[1][1] == b"I"
        assert pgwire.fields(said[0][1])["C"] == "08006"
        assert wire.run("select 3")[0] == [["3"]]
        assert daemon.errors("upstream_closed") == 1


def test_asyncpg_goes_on_after_a_loss_between_prepare_and_run(through_gate):
    """Its statement is prepared on a server that is gone when it is run: one error, and the connection lives."""
    daemon, relay = through_gate(size={"max": 1})

    async def ride():
        conn = await asyncpg.connect(host=LOOPBACK, port=daemon.port(), user="app",
                                     database="orders")
        statement = await conn.prepare("select 41 + 1")
        relay.cut()
        while daemon.servers():
            await asyncio.sleep(0.01)
        try:
            assert await statement.fetchval() == 42
        except asyncpg.PostgresConnectionError as e:
            assert e.sqlstate == "08006"
        assert await conn.fetchval("select 42") == 42
        await conn.close()
    asyncio.run(asyncio.wait_for(ride(), 60))


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_nothing_is_said_behind_half_a_row(orders, mode):
    """The client has half of it, and must not take what is said next for the other half."""
    row = pgwire.message("D", b"\0\1\0\0\x0b\xb8" + b"x" * 3000)
    server = Quack()
    try:
        daemon = orders(mode=mode, upstream=server.url(), size={"max": 1})
        with daemon.wire() as wire:
            wire.run("select 1")
            server.answer = SIMPLE[:27] + row[:-100]
            wire.send(query("select"))
            wire.read(27 + len(row) - 100)
            server.answer = None
            wire.send(query("leave"))
            assert wire.farewell() is None
        assert daemon.all_errors() == {"upstream_closed": 1}
    finally:
        server.close()


def test_lost_in_a_pipeline(through_gate, pg, table):
    """Two Syncs were sent: the answers that never came are made up for, one ready each."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.send(pgwire.parse("select pg_sleep(60)"), pgwire.bind(), pgwire.execute(), pgwire.SYNC,
                  pgwire.parse("select 5"), pgwire.bind(), pgwire.execute(), pgwire.SYNC,
                  query("select 6"))
        wait_for(lambda: pg.active("select pg_sleep(60)%"), what="the first query to run")
        relay.cut()
        for _ in range(3):
            said = wire.until("Z")
            assert [k for k, _ in said].count("E") == 1
            assert pgwire.fields(next(b for k, b in said if k == "E"))["C"] == "08006"
            assert "D" not in [k for k, _ in said]
        assert wire.run("select 2")[0] == [["2"]]


def test_lost_during_copy_in(through_gate, pg, table):
    daemon, relay = through_gate(size={"max": 1})
    with daemon.connect() as conn, conn.cursor() as cur:
        with pytest.raises(psycopg.Error) as e:
            with cur.copy(f"copy {table} (n) from stdin") as copy:
                copy.write(b"1\n")
                relay.cut()
                wait_for(lambda: relay.open == 0, what="the connection to be gone")
                for i in range(100_000):
                    copy.write(b"%d\n" % i)
        assert e.value.sqlstate == "08006"
        assert conn.execute(f"select count(*) from {table}").fetchone() == (0,)


@pytest.mark.parametrize("what", ["copy", "bind"])
def test_lost_in_the_middle_of_a_message_of_the_client(through_gate, table, pg, what):
    """The rest of it is data still, whatever it looks like, and the session goes on behind it."""
    daemon, relay = through_gate(size={"max": 1})
    smuggled = query(f"insert into {table} (n) values (666)")
    data = pgwire.SYNC * 40_000 + smuggled + pgwire.SYNC * 10
    with daemon.wire() as wire:
        if what == "copy":
            wire.send(query(f"copy {table} (n) from stdin"))
            wire.until("G")
            whole = pgwire.message("d", data)
        else:
            whole = pgwire.parse("select length($1::text)") + pgwire.bind(values=(data,))
        half = len(whole) - len(data) + 5 * 30_000
        seen = relay.carried[TO_SERVER]
        wire.send(whole[:half])
        wait_for(lambda: relay.carried[TO_SERVER] - seen >= half, what="the first half to pass")
        relay.cut(reset=True)
        error = next(body for kind, body in wire.until("E") if kind == "E")
        assert pgwire.fields(error)["C"] == "08006"
        wire.send(whole[half:], pgwire.message("c") if what == "copy" else pgwire.SYNC)
        wire.until("Z")
        assert wire.run("select 1")[0] == [["1"]]
    assert count(pg, table) == 0


def test_lost_in_the_middle_of_a_row(through_gate, pg):
    """Half a row went out already: nothing can be said any more, so the client is closed."""
    daemon, relay = through_gate(size={"max": 1})
    wire = daemon.wire()
    wire.send(query("select repeat('x', 200000000)"))
    wire.read(1_000_000)
    relay.cut(reset=True)
    assert wire.eof()
    wait_for(lambda: daemon.log_lines("upstream_closed"), what="the log to say why")
    with daemon.wire() as other:
        assert other.run("select 1")[0] == [["1"]]
    assert daemon.errors("upstream_closed") == 1


def test_commit_in_flight_is_unknown(through_gate, pg, table):
    """The server commits, its answer is lost: 08007, neither success nor failure is claimed."""
    daemon, relay = through_gate(size={"max": 1})
    with daemon.wire() as wire:
        wire.run("begin")
        wire.run(f"insert into {table} (n) values (1)")
        relay.pause(TO_CLIENT)
        wire.send(query("commit"))
        wait_for(lambda: count(pg, table) == 1, what="the server to commit")
        relay.cut()
        relay.resume()
        error, status = wire.results()[2:]
        assert (error.code, status) == ("08007", "I")
        assert "outcome_unknown" in error.fields["M"]
        assert wire.run("select 1")[0] == [["1"]]
    assert daemon.saw("outcome_unknown")


def test_idle_servers_that_died_are_not_noticed_by_clients(orders, pg, workers):
    daemon = orders(workers, size={"min": 3, "max": 3})
    with daemon.connect() as conn:
        for _ in range(5):
            old = servers(daemon)
            pg.terminate("app")
            wait_for(lambda: not old & servers(daemon), what="carpool to see their end")
            assert conn.execute("select 1").fetchone() == (1,)
            wait_for(lambda: daemon.servers(state="idle") == 3, what="the minimum to be restored")
    assert daemon.errors("upstream_closed") == 0


def test_reset_between_leases_hits_no_client(through_gate, pg):
    """The connection is cut while idle, again and again; each query finds a sound server."""
    daemon, relay = through_gate(size={"max": 2}, check={"checkout_after": 0})
    with daemon.connect() as conn:
        for i in range(10):
            assert conn.execute("select %s::int", (i,)).fetchone() == (i,)
            relay.cut(reset=i % 2 == 0)
            wait_for(lambda: relay.open == 0, what="the connection to be gone")


# -- psql without ON_ERROR_STOP: it goes on with the next line of the script, whatever happened

def test_half_transaction_of_a_psql_script(orders, pg, table):
    daemon = orders(size={"max": 1})
    done = psql(daemon.dsn(), "-At", script=f"""
        \\unset ON_ERROR_STOP
        \\set QUIET off
        begin;
        insert into {table} (n) values (1);
        select pg_terminate_backend(pg_backend_pid());
        insert into {table} (n) values (2);
        commit;
        insert into {table} (n) values (3);
        select 'still here';
    """)
    assert notes(pg, table) == [3], f"half a transaction\n{done.stdout}{done.stderr}"
    assert "ROLLBACK" in done.stdout and "COMMIT" not in done.stdout
    assert "still here" in done.stdout
    assert "current transaction is aborted" in done.stderr
    assert "connection to server was lost" not in done.stderr
    assert done.returncode == 0


def test_half_transaction_with_the_server_killed(orders, frail_pg, frail_table, tmp_path):
    """The same, with all of PostgreSQL killed in the middle, and started again."""
    daemon = orders(upstream=frail_pg.url(), size={"max": 1, "acquire_timeout": "30s"})
    asks, go = tmp_path / "asks", tmp_path / "go"
    script = f"""
        \\set QUIET off
        begin;
        insert into {frail_table} (n) values (1);
        \\! touch {asks}; i=0; while [ ! -e {go} ] && [ $i -lt 600 ]; do sleep 0.05; i=$((i+1)); done
        insert into {frail_table} (n) values (2);
        commit;
        insert into {frail_table} (n) values (3);
        select 'still here';
    """
    client = subprocess.Popen(["psql", "-X", "-q", "-At", "-d", daemon.dsn()], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=clean_env())
    client.stdin.write(script)
    client.stdin.close()
    client.stdin = None
    wait_for(asks.exists, 20, "psql to reach the middle")
    frail_pg.kill9()
    frail_pg.start()
    go.touch()
    said, _ = client.communicate(timeout=40)
    assert notes(frail_pg, frail_table) == [3], f"half a transaction\n{said}"
    assert "still here" in said and "ROLLBACK" in said and client.returncode == 0


def test_no_transaction_is_torn_under_random_cuts(through_gate, pg, table):
    """Pairs of rows, each in a transaction, while the servers' connections are cut at random."""
    daemon, relay = through_gate(size={"max": 3, "acquire_timeout": "30s"})
    end = threading.Event()
    states, committed, finished = set(), [], []

    def rider(n):
        with daemon.connect() as conn:
            for i in range(1000):
                if end.is_set():
                    break
                pair = n * 1000 + i
                try:
                    conn.execute("begin")
                    conn.execute(f"insert into {table} (n, note) values ({pair}, 'a')")
                    conn.execute(f"insert into {table} (n, note) values ({pair}, 'b')")
                    conn.execute("commit")
                    committed.append(pair)
                except psycopg.Error as e:
                    states.add(e.sqlstate)
                    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                        conn.execute("rollback")  # answered by carpool itself: nothing can cut it
            finished.append(n)

    riders = [threading.Thread(target=rider, args=(n,)) for n in range(6)]
    for thread in riders:
        thread.start()
    for i in range(15):
        before = len(committed)
        wait_for(lambda: len(committed) > before, 20, "a transaction between two cuts")
        time.sleep(random.random() * 0.1)  # the moment is left to chance on purpose
        relay.cut(reset=i % 2 == 0)
    end.set()
    for thread in riders:
        thread.join(60)
    assert len(finished) == len(riders), "every client stays connected"
    torn = pg.query(f"select n, count(*) from {table} group by n having count(*) <> 2", db="orders")
    assert torn == []
    stored = {r[0] for r in pg.query(f"select distinct n from {table}", db="orders")}
    assert set(committed) <= stored, "what was said to be committed is there"
    assert states <= {"08006", "08007", "25P02"}, states
    assert len(committed) >= 15
