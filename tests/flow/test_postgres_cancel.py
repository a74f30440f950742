# SPDX-License-Identifier: MIT
"""Queries that are stopped: by CancelRequest, or because their client is gone.

A cancelled query must be the right one, and nobody else may feel it. A client that vanishes takes its
query and its transaction with it, and the server serves on.
"""

import os
import random
import signal
import subprocess
import threading
import time

import psycopg
import pytest
from harness import pgwire
from harness.base import clean_env, wait_for
from harness.pgwire import query
from harness.relays import TO_SERVER


def sleeping(pg, n):
    """The pids of servers in `select n, pg_sleep(60)`."""
    return pg.active(f"select {n}, pg_sleep(60)%")


def test_cancel_stops_the_right_query(orders, pg, workers):
    daemon = orders(workers, size={"max": 2})
    one, two = daemon.wire(), daemon.wire()
    for n, wire in ((1, one), (2, two)):
        wire.send(query(f"select {n}, pg_sleep(60)"))
        wait_for(lambda n=n: sleeping(pg, n), what=f"query {n} to run")
    assert one.cancel()
    error, status = one.results()[2:]
    assert (error.code, status) == ("57014", "I")
    assert sleeping(pg, 2), "the other client's query goes on"
    assert two.quiet(0.2)
    assert two.cancel()
    assert two.results()[2].code == "57014"
    for wire in (one, two):
        assert wire.run("select 3")[0] == [["3"]]
        wire.close()
    assert daemon.all_errors() == {}


def test_cancel_every_second_of_many(orders, pg, workers):
    daemon = orders(workers, size={"max": 8})
    wires = [daemon.wire() for _ in range(8)]
    for n, wire in enumerate(wires):
        wire.send(query(f"select {n}, pg_sleep(60)"))
    wait_for(lambda: len(pg.active("select %, pg_sleep(60)%")) == 8, what="eight queries to run")
    for n in (6, 0, 4, 2):
        assert wires[n].cancel()
        assert wires[n].results()[2].code == "57014"
    assert sorted(n for n in range(8) if sleeping(pg, n)) == [1, 3, 5, 7]
    for n in (1, 3, 5, 7):
        assert wires[n].cancel()
        assert wires[n].results()[2].code == "57014"
    for wire in wires:
        wire.close()


def test_cancel_finds_its_client_among_hundreds(orders, pg, workers):
    daemon = orders(workers, size={"max": 2})
    wires = [daemon.wire() for _ in range(600)]
    for n in (0, 299, 599):
        wires[n].send(query(f"select {n}, pg_sleep(60)"))
        wait_for(lambda n=n: sleeping(pg, n), what="the query")
        assert wires[n].cancel()
        assert wires[n].results()[2].code == "57014"
    for wire in wires:
        wire.close()
    assert daemon.all_errors() == {}


def test_cancel_in_psycopg(orders, pg):
    with orders().connect() as conn:
        stop = threading.Thread(target=lambda: (
            wait_for(lambda: pg.active("select pg_sleep(61)%"), what="the query"), conn.cancel()))
        stop.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("select pg_sleep(61)")
        stop.join()
        assert conn.execute("select 1").fetchone() == (1,)


def test_cancel_inside_a_transaction(orders, pg):
    with orders().wire() as wire:
        wire.run("begin")
        wire.send(query("select 1, pg_sleep(60)"))
        wait_for(lambda: sleeping(pg, 1), what="the query")
        wire.cancel()
        assert wire.results()[2:][0].code == "57014"
        assert wire.run("select 1")[2].code == "25P02"
        assert wire.run("rollback")[3] == "I"


def test_late_cancel_hits_nobody(orders):
    """The only server is at another client's query when the cancel of an idle client arrives."""
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    with daemon.wire() as idle, daemon.wire() as busy:
        for i in range(15):
            assert idle.run("select 1")[0] == [["1"]]
            busy.send(query(f"select {i}, pg_sleep(0.05)"))
            assert idle.cancel()
            rows, _, error, _ = busy.results()
            assert error is None and rows == [[str(i), ""]]


def test_cancel_storm_around_short_queries(orders):
    """Cancels race with the end of their query: they hit it or nothing, never the next client."""
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    victim, bystander = daemon.wire(), daemon.wire()
    dice, hits = random.Random(3), 0
    for _ in range(25):
        victim.send(query("select pg_sleep(0.01)"))
        bystander.send(query("select pg_sleep(0.01), 'through'"))
        time.sleep(dice.random() * 0.025)  # any moment will do: this is what varies
        victim.cancel()
        error = victim.results()[2]
        assert error is None or error.code == "57014"
        hits += error is not None
        assert bystander.results()[0] == [["", "through"]]
    victim.close()
    bystander.close()


def test_cancel_with_a_wrong_key_does_nothing(orders, pg):
    daemon = orders()
    with daemon.wire() as wire:
        wire.send(query("select 1, pg_sleep(60)"))
        wait_for(lambda: sleeping(pg, 1), what="the query")
        pid, secret = wire.key
        for key in ((pid, bytes(b ^ 1 for b in secret)), (pid ^ 1, secret), (0, b"\0\0\0\0"),
                    (pid, secret[:2]), (pid, secret + b"x" * 28)):
            wire.key = key
            assert wire.cancel(), "the connection is closed without a word"
        assert wire.quiet(0.2) and sleeping(pg, 1)
        wire.key = pid, secret
        wire.cancel()
        assert wire.results()[2].code == "57014"


@pytest.mark.parametrize("extended", [False, True], ids=["query", "extended"])
def test_cancel_ends_the_wait_for_a_server(orders, workers, extended):
    """As a cancel does on a server: the statement fails, the session goes on, and nobody else feels it."""
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "60s"})
    with daemon.wire() as holder, daemon.wire() as tired, daemon.wire() as patient:
        holder.run("begin")
        if extended:
            tired.send(pgwire.parse("select 1"), pgwire.bind(), pgwire.execute(), pgwire.SYNC)
        else:
            tired.send(query("select 1"))
        wait_for(lambda: daemon.waiting() == 1, what="the client to wait")
        patient.send(query("select 'served'"))
        wait_for(lambda: daemon.waiting() == 2, what="the other client to wait")
        assert tired.cancel()
        rows, _, error, status = tired.results()
        assert (rows, error.code, status) == ([], "57014", "I")
        assert "cancelled" in error.fields["M"]
        wait_for(lambda: daemon.waiting() == 1, what="its place in the queue to be free")
        holder.run("commit")
        assert patient.results()[0] == [["served"]]
        assert tired.run("select 2")[0] == [["2"]]
    wait_for(lambda: daemon.all_errors() == {"cancelled": 1}, what="the one error to be counted")


def test_cancel_ends_one_statement_of_those_that_wait(orders):
    """What the client has sent behind it waits in its own turn."""
    daemon = orders(size={"max": 1, "acquire_timeout": "60s"})
    with daemon.wire() as holder, daemon.wire() as eager:
        holder.run("begin")
        eager.send(query("select 1"), query("select 2"))
        wait_for(lambda: daemon.waiting() == 1, what="the client to wait")
        eager.cancel()
        assert eager.results()[2].code == "57014"
        holder.run("commit")
        assert eager.results()[0] == [["2"]]


@pytest.fixture
def one_behind_a_gate(orders, pg, gate):
    """One server, reached through a relay; (daemon, relay)."""
    relay = gate(pg.host, pg.port)
    return orders(upstream=pg.url(host=relay.host, port=relay.port),
                  size={"max": 1, "acquire_timeout": "30s"}, check={"timeout": "20s"}), relay


def test_cancels_under_way_are_bounded(one_behind_a_gate, pg):
    """A client that cancels and cancels does not flood the database with connections."""
    daemon, relay = one_behind_a_gate
    with daemon.wire() as wire:
        wire.send(query("select 1, pg_sleep(60)"))
        wait_for(lambda: sleeping(pg, 1), what="the query")
        relay.pause()
        for _ in range(30):
            assert wire.cancel()
        wait_for(lambda: relay.open > 1, what="a cancel to be on its way")
        relay.resume()
        assert wire.results()[2].code == "57014"
        assert relay.accepted <= 1 + 4, relay.accepted
        assert wire.run("select 2")[0] == [["2"]]


@pytest.mark.parametrize("sslmode", ["require", "disable"])
def test_cancel_is_encrypted_as_its_server_is(orders, local_pg, gate, sslmode):
    """The key opens any query of the session: it is never sent in clear where the session is not."""
    relay = gate(local_pg.host, local_pg.port)
    daemon = orders(upstream=local_pg.url(host=relay.host, port=relay.port, sslmode=sslmode),
                    size={"max": 1})
    with daemon.wire() as wire:
        wire.send(query("select 1, pg_sleep(60)"))
        wait_for(lambda: sleeping(local_pg, 1), what="the query")
        before = relay.carried[TO_SERVER]
        wire.cancel()
        assert wire.results()[2].code == "57014"
        wait_for(lambda: relay.open == 1, what="the cancel's connection to be closed")
        sent = relay.carried[TO_SERVER] - before
        assert sent > 200 if sslmode == "require" else sent == 16, "a handshake, or a bare CancelRequest"


@pytest.mark.parametrize("leaves", [False, True])
def test_cancel_behind_its_statement(orders, frail_pg, gate, leaves):
    """It comes when its statement is done, and would hit what carpool asks the server then: it does not."""
    relay = gate(frail_pg.host, frail_pg.port)
    daemon = orders(upstream=frail_pg.url(host=relay.host, port=relay.port),
                    size={"max": 1, "acquire_timeout": "5s"}, check={"timeout": "20s"})
    with daemon.wire() as wire, daemon.wire() as other, \
            psycopg.connect(frail_pg.dsn(*frail_pg.admin, db="orders"), autocommit=True) as root:
        wire.run("select 1")
        relay.pause(TO_SERVER)
        relay.park()
        wire.send(query("set my.tenant = 'a'"))
        assert wire.cancel()
        wait_for(lambda: relay.open > 1, what="the cancel to be on its way")
        root.execute("begin")  # and no other server finds a function
        root.execute("lock table pg_proc in access exclusive mode")
        relay.resume()
        assert wire.results()[1:] == (["SET"], None, "I")
        if leaves:
            wire.close()
        relay.park(False)
        wait_for(lambda: relay.open == 1, what="the cancel to be over")
        root.execute("rollback")
        assert other.run("select current_setting('my.tenant', true)")[0][0][0] in (None, "")
        assert leaves or wire.run("select current_setting('my.tenant', true)")[0] == [["a"]]
        assert daemon.all_errors() == {}


def test_cancel_while_a_server_is_being_set(one_behind_a_gate, pg):
    """The client's own settings are on their way to its server, its statement is not: that one ends, and
    the server serves on."""
    daemon, relay = one_behind_a_gate
    with daemon.wire() as first, daemon.wire(search_path="pg_catalog") as wire:
        pid = first.run("select pg_backend_pid()")[0]
        relay.pause(TO_SERVER)
        wire.send(query("create table never (a int)"))
        wait_for(lambda: daemon.servers(state="busy") == 1, what="the client to have the server")
        wire.cancel()
        error, status = wire.results()[2:]
        assert (error.code, status) == ("57014", "I")
        relay.resume()
        assert wire.run("show search_path")[0] == [["pg_catalog"]]
        assert first.run("select pg_backend_pid()")[0] == pid, "the server was not dropped"
        assert first.run("select to_regclass('public.never')")[0] == [[None]]


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_server_waits_for_a_cancel_that_is_under_way(orders, local_pg, gate, sslmode):
    """The query ends by itself while its cancel hangs in the network: nobody gets that server before it
    is known where the cancel has gone. If that never is, nobody gets it at all, unless nothing was said
    yet that could still arrive."""
    relay = gate(local_pg.host, local_pg.port)
    daemon = orders(upstream=local_pg.url(host=relay.host, port=relay.port, sslmode=sslmode),
                    size={"max": 1, "acquire_timeout": "30s"})
    backend = query("select pg_backend_pid()")
    with daemon.wire() as wire, daemon.wire() as other:
        first = wire.run("select pg_backend_pid()")[0]
        relay.hang()
        wire.send(query("select 1, pg_sleep(2)"))
        wait_for(lambda: local_pg.active("select 1, pg_sleep(2)%"), what="the query")
        wire.cancel()
        wait_for(lambda: relay.open == 2, what="the cancel to hang")
        relay.hang(False)
        assert wire.results()[2] is None
        other.send(backend)
        assert other.quiet(1) and relay.open == 2, "the server is held"
        rows, _, error, _ = other.results()
        assert error is None and (rows == first) == (sslmode == "require")
        wait_for(lambda: relay.open == 1, what="the cancel to be gone, and its server where it must")


def test_secrets_differ(orders):
    """Keys of clients are carpool's own: the server's key would open other clients' queries."""
    daemon = orders(size={"max": 1})
    wires = [daemon.wire() for _ in range(10)]
    assert len({w.key for w in wires}) == len({w.key[1] for w in wires}) == 10
    for wire in wires:
        wire.close()


# -- clients that vanish

def serves_on(daemon, pg):
    """The one server is free again, and no transaction is left open on the server's side."""
    with daemon.wire() as wire:
        rows, _, error, status = wire.run("select 42")
        assert (rows, error, status) == ([["42"]], None, "I")
    wait_for(lambda: pg.query("select 1 from pg_stat_activity where usename = 'app'"
                              " and state <> 'idle'") == [], what="the servers to be idle")
    wait_for(lambda: daemon.servers(state="busy") == 0, what="the lease to end")


def test_client_killed_in_a_query(orders, pg, workers):
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "20s"})
    client = subprocess.Popen(["psql", "-X", "-d", daemon.dsn(), "-c", "select 1, pg_sleep(60)"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=clean_env())
    wait_for(lambda: sleeping(pg, 1), what="the query to run")
    os.kill(client.pid, signal.SIGKILL)
    client.wait()
    wait_for(lambda: not sleeping(pg, 1), 5, "the query to be cancelled on the server")
    serves_on(daemon, pg)
    wait_for(lambda: daemon.errors("client_gone") == 1, what="the client to be counted")


@pytest.mark.parametrize("polite", [True, False], ids=["terminate", "reset"])
def test_client_leaves_a_transaction(orders, pg, table, workers, polite):
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "20s"})
    wire = daemon.wire()
    wire.run("begin")
    wire.run(f"insert into {table} (n) values (1)")
    wire.run(f"lock table {table} in access exclusive mode")
    wire.close() if polite else wire.abort()
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]], "rolled back, unlocked"
        assert other.run("select now() = statement_timestamp()")[0] == [["t"]], "no open transaction"
    serves_on(daemon, pg)


def test_client_leaves_a_copy(orders, pg, table):
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    wire = daemon.wire()
    wire.send(query(f"copy {table} (n) from stdin"))
    assert wire.receive()[0] == "G"
    wire.send(pgwire.message("d", b"1\n2\n"))
    wire.abort()
    serves_on(daemon, pg)
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]


def test_client_leaves_in_the_middle_of_a_result(orders, pg, workers):
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "20s"})
    for leave in ("close", "abort"):
        wire = daemon.wire()
        wire.send(query("select repeat('x', 1000) from generate_series(1, 1000000)"))
        wire.read(100_000)
        getattr(wire, leave)()
        serves_on(daemon, pg)


def test_client_leaves_in_the_middle_of_a_message(orders, pg, table):
    """Half a query was sent when the client vanished: the server must never see that half."""
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    whole = query(f"insert into {table} (n) values (1) -- " + "x" * 100_000)
    for cut in (1, 4, 5, 6, 1000, len(whole) - 1):
        wire = daemon.wire()
        wire.send(whole[:cut])
        wire.abort()
    serves_on(daemon, pg)
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]


def test_client_leaves_a_pipeline_without_sync(orders, pg, table):
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"})
    wire = daemon.wire()
    wire.send(pgwire.parse(f"insert into {table} (n) values (1)"), pgwire.bind(), pgwire.execute(),
              pgwire.FLUSH)
    assert [k for k, _ in wire.until("C")] == ["1", "2", "C"]
    wire.abort()
    serves_on(daemon, pg)
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]], "no Sync, no commit"


def test_request_timeout_cancels_the_query(orders, pg):
    daemon = orders(size={"max": 1}, timeouts={"request": "400ms"})
    with daemon.wire() as wire:
        begun = time.monotonic()
        rows, _, error, status = wire.run("select 1, pg_sleep(60)")
        assert time.monotonic() - begun < 10
        assert (rows, error.code, status) == ([], "57014", "I")
        assert "request_timeout" in error.fields["M"]
        wait_for(lambda: not sleeping(pg, 1), 5, "the query to end on the server")
        assert wire.run("select 2")[0] == [["2"]]
    assert daemon.saw("request_timeout")


def test_silent_transaction_does_not_block_the_pool(orders, pg):
    daemon = orders(size={"max": 1, "acquire_timeout": "20s"},
                    timeouts={"idle_transaction": "500ms"})
    with daemon.wire() as lazy, daemon.wire() as other:
        lazy.run("begin")
        assert other.run("select 1")[0] == [["1"]]
    assert daemon.saw("idle_timeout")
