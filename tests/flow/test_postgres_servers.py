# SPDX-License-Identifier: MIT
"""The life of servers: warm from the start, checked when they come back, replaced when they are old,
and left alone when an operator says so."""

import threading
import time

import psycopg
import pytest
from harness.base import LOOPBACK, SLOW, free_port, wait_for
from harness.carpool import postgres_pool
from harness.pgwire import query
from harness.relays import TO_SERVER


def verdicts(daemon, phase, outcome):
    return daemon.metric("carpool_recycle_verdicts_total", phase=phase, outcome=outcome)


def pid_of(wire):
    return int(wire.run("select pg_backend_pid()")[0][0][0])


# -- how many there are

def test_min_is_kept(orders, pg):
    """Servers that die are replaced up to `min` without any client; after a reload, up to the new `min`."""
    daemon = orders(size={"min": 3, "max": 5})
    assert pg.connections("app") == 3
    before = {r[0] for r in pg.query("select pid from pg_stat_activity where usename = 'app'")}
    assert pg.terminate("app") == 3

    def replaced():
        now = {r[0] for r in pg.query("select pid from pg_stat_activity where usename = 'app'")}
        return len(now) == 3 and not now & before
    wait_for(replaced, 30, "three new servers")
    daemon.change(size={"min": 5})
    daemon.reload()
    wait_for(lambda: daemon.servers(state="idle") == 5, what="the new minimum")
    assert daemon.all_errors() == {}


def test_idle_timeout_stops_at_min(orders, pg, workers):
    daemon = orders(workers, size={"min": 2, "max": 6, "idle_timeout": "1s"})
    wires = [daemon.wire() for _ in range(6)]
    for wire in wires:
        wire.run("begin")
    assert daemon.servers(state="busy") == 6
    for wire in wires:
        wire.run("commit")
    wait_for(lambda: daemon.servers() == 2, 15, "four servers to be closed")
    wait_for(lambda: verdicts(daemon, "idle", "drop_idle") == 4, what="four verdicts")
    wait_for(lambda: pg.connections("app") == 2, what="the server to agree")
    for wire in wires:
        assert wire.run("select 1")[0] == [["1"]]
        wire.close()


def test_lifetime_spares_who_is_at_work(orders, pg):
    """Old servers go between exchanges, never inside one, and not all in the same moment."""
    daemon = orders(size={"min": 4, "max": 4, "max_lifetime": "1s"})
    with daemon.wire() as wire:
        wire.run("begin")
        mine = pid_of(wire)
        wait_for(lambda: verdicts(daemon, "idle", "drop_lifetime") >= 3, 15, "the idle ones to be replaced")
        assert pid_of(wire) == mine
        assert wire.run("commit")[3] == "I"
        wait_for(lambda: pid_of(wire) != mine, what="its own to be replaced, too")
        wait_for(lambda: verdicts(daemon, "return", "drop_lifetime") + verdicts(daemon, "return", "keep") >= 1,
                 what="a verdict")
    assert daemon.all_errors() == {}


# -- checked when they come back

def test_fast_trusts_the_protocol(orders, pg):
    daemon = orders(size={"min": 1, "max": 1})
    with daemon.wire() as wire:
        for _ in range(10):
            wire.run("select 1")
        wait_for(lambda: verdicts(daemon, "return", "keep") == 10, what="the tenth verdict")
        assert daemon.metric("carpool_leases_total") == 10


@pytest.mark.parametrize("how,bytes_each", [("fast", 14), ("verified", 14 + 6)])
def test_verified_adds_a_round_trip(orders, pg, gate, how, bytes_each):
    """The cheapest one there is: an empty query, six bytes."""
    relay = gate(pg.host, pg.port)
    url = pg.url(host=relay.host, port=relay.port, sslmode="disable")
    daemon = orders(upstream=url, size={"min": 1, "max": 1}, check={"on_return": how})
    before = relay.carried[TO_SERVER]
    with daemon.wire() as wire:
        for _ in range(10):
            assert wire.run("select 1")[0] == [["1"]]
    wait_for(lambda: verdicts(daemon, "return", "keep") == 10, what="the last check")
    assert relay.carried[TO_SERVER] - before == 10 * bytes_each


def test_clean_resets_what_is_not_tracked(orders, pg, workers):
    """What `session_state: allow` lets a client leave behind, `clean` takes away."""
    daemon = orders(workers, size={"max": 1, "acquire_timeout": "20s"}, session_state="allow",
                    check={"on_return": "clean"})
    with daemon.wire() as one, daemon.wire() as two:
        pid = pid_of(one)
        one.run("set work_mem = '5MB'")
        assert two.run("show work_mem")[0] == [["4MB"]]
        one.run("create temp table mine (n int)")
        assert two.run("select to_regclass('pg_temp.mine')")[0] == [[None]]
        one.run("select pg_advisory_lock(9)")
        assert two.run("select count(*) from pg_locks where locktype = 'advisory'")[0] == [["0"]]
        assert pid_of(two) == pid, "it was cleaned, not replaced"
    assert daemon.all_errors() == {}


def test_statement_of_ones_own(orders, pg, table):
    """It runs once each time a server comes back; an error in it costs the server, and no client hears."""
    sequence = f"{table}_id_seq"
    daemon = orders(size={"min": 1, "max": 1, "acquire_timeout": "20s"},
                    check={"on_return": f"select nextval('{sequence}')"})
    with daemon.wire() as wire:
        for _ in range(5):
            assert wire.run("select 1")[0] == [["1"]]
        wait_for(lambda: verdicts(daemon, "return", "keep") == 5, what="the fifth check")
        assert pg.value(f"select last_value from {sequence}", db="orders") == 5
        first = pid_of(wire)
        daemon.change(check={"on_return": "select 1/0"})
        daemon.reload()
        wire.run("select 2")
        assert pid_of(wire) != first
        wait_for(lambda: verdicts(daemon, "return", "drop_failed") >= 2, what="the failed checks")
    assert daemon.all_errors() == {}


def test_checkout_peeks(orders, gate, pg):
    """Idle for longer than `checkout_after`, and closed meanwhile: found before a client gets it."""
    relay = gate(pg.host, pg.port)
    daemon = orders(upstream=pg.url(host=relay.host, port=relay.port), size={"max": 1},
                    check={"checkout_after": 0})
    with daemon.wire() as wire:
        for _ in range(5):
            assert wire.run("select 1")[0] == [["1"]]
    wait_for(lambda: verdicts(daemon, "checkout", "keep") >= 4, what="four verdicts")


def test_idle_ping_keeps_sound_servers(orders, pg):
    """Pings are no work for the server's owner: it stays, and its idle time goes on."""
    daemon = orders(size={"min": 1, "max": 1}, check={"idle": "100ms"})
    with daemon.wire() as wire:
        pid = pid_of(wire)
        wait_for(lambda: verdicts(daemon, "idle", "keep") >= 2, 15, "two pings")
        assert pid_of(wire) == pid
    assert daemon.all_errors() == {}


# -- leases that last

def test_leak_warning(orders, pg):
    """A client that keeps its server too long is named once, with the lease; nobody is thrown out."""
    daemon = orders(check={"leak_after": "300ms"})
    with daemon.wire() as wire:
        wire.run("begin")
        line = wait_for(lambda: daemon.log_lines("lease_long", "pool=orders"), 15, "a warning")[0]
        assert " warn " in line and "lease=" in line and "held_ms=" in line
        assert wire.run("commit")[3] == "I"
        for _ in range(5):
            wire.run("select 1")
        assert len(daemon.log_lines("lease_long")) == 1
    assert daemon.all_errors() == {}


# -- by an operator

def test_breaker_forced_open_and_back(orders, pg):
    """open: no dials and no exchanges, at once and in clear words; auto: as configured, at once."""
    daemon = orders(size={"min": 1, "max": 2})
    with daemon.wire() as wire:
        assert wire.run("select 1")[0] == [["1"]]
        daemon.cli("breaker", "orders", "open")
        for _ in range(2):
            begun = time.monotonic()
            error, status = wire.run("select 1")[2:]
            assert (error.code, status) == ("08001", "I") and "breaker_open" in error.fields["M"]
            assert time.monotonic() - begun < 5 * SLOW
        assert daemon.saw("breaker_open")
        daemon.cli("breaker", "orders", "auto")
        assert wire.run("select 2")[0] == [["2"]]


@pytest.mark.parametrize("to", ["open", "closed"])
def test_forced_breaker_outlives_another_upstream(orders, pg, to):
    daemon = orders()
    with daemon.wire() as wire:
        wire.run("select 1")
        daemon.cli("breaker", "orders", to)
        daemon.change(upstream=pg.url() + "?application_name=another")
        daemon.reload()
        assert daemon.stats()["pools"][0]["breaker"] == {"door": f"forced_{to}", "service": f"forced_{to}"}
        error = wire.run("select 1")[2]
        assert (error and error.code) == ("08001" if to == "open" else None)
        daemon.cli("breaker", "orders", "auto")
        assert wire.run("select 2")[0] == [["2"]]


def test_breaker_forced_open_spares_transactions(orders, pg, table):
    daemon = orders()
    with daemon.wire() as wire:
        wire.run("begin")
        daemon.cli("breaker", "orders", "open")
        assert wire.run(f"insert into {table} (n) values (1)")[1] == ["INSERT 0 1"]
        assert wire.run("commit")[1] == ["COMMIT"]
        assert "breaker_open" in str(wire.run("select 1")[2])
        daemon.cli("breaker", "orders", "closed")
        assert wire.run("select 1")[0] == [["1"]]


def test_breaker_forced_closed_never_opens(orders):
    """closed: dials go on however often they fail (their own backoff stays)."""
    daemon = orders(upstream=f"postgres://app:x@{LOOPBACK}:{free_port()}/orders", on_down="fail",
                    size={"min": 0}, breaker={"consecutive": 1, "open": "60s..60s"})
    daemon.cli("breaker", "orders", "closed")
    for _ in range(2):
        assert "dial_failed" in str(daemon.first_error())
    assert daemon.metric("carpool_breaker_state", breaker="door", state="forced_closed") == 1
    assert daemon.errors("breaker_open") == 0
    daemon.cli("breaker", "orders", "auto")
    wait_for(lambda: "breaker_open" in str(daemon.first_error()), 20, "the breaker to open by itself")


def test_pause_survives_everything(orders, pg, workers):
    """Paused: recycle and reload do not let anybody through; resume does, all at once."""
    daemon = orders(workers, size={"min": 1, "max": 3, "acquire_timeout": "30s"})
    daemon.cli("pause", "orders")
    wires = [daemon.wire() for _ in range(6)]
    for wire in wires:
        wire.send(query("select 1"))
    wait_for(lambda: daemon.waiting() == 6, what="six waiting clients")
    daemon.cli("recycle", "orders")
    daemon.change(size={"max": 2})
    daemon.reload()
    assert daemon.pools()["orders"]["paused"] and daemon.pools()["orders"]["state"] == "paused"
    assert daemon.waiting() == 6
    daemon.cli("resume", "orders")
    for wire in wires:
        assert wire.results()[0] == [["1"]]
        wire.close()
    assert daemon.all_errors() == {}


# -- pools come and go

def test_removed_pool_lets_transactions_finish(carpool, pg, table):
    """Removed by a reload: idle clients are told at once, a transaction may end, then nothing is left."""
    first, second = postgres_pool(pg.url()), postgres_pool(pg.url(), name="reports")
    daemon = carpool(first, second)
    with daemon.wire("orders") as busy, daemon.wire("orders") as idle, daemon.wire("reports") as other:
        busy.run("begin")
        other.run("select 1")
        daemon.write({"workers": 1, "pools": [second]})
        daemon.reload()
        assert idle.receive()[0] == "E" and idle.eof()
        assert busy.run(f"insert into {table} (n) values (1)")[1] == ["INSERT 0 1"]
        busy.send(query("commit"))
        assert [kind for kind, _ in busy.until("Z")] == ["C", "Z"]
        kind, body = busy.receive()
        assert kind == "E" and b"57P01" in body and b"draining" in body
        wait_for(lambda: set(daemon.pools()) == {"reports"}, what="the pool to be gone")
        assert other.run("select 2")[0] == [["2"]]
        assert daemon.logged("pool_removed", "orders")
        daemon.write({"workers": 1, "pools": [first, second]})
        daemon.reload()
        with daemon.wire("orders") as again:
            assert again.run("select 3")[0] == [["3"]]


def test_removed_pool_ends_at_the_deadline(carpool, pg):
    first, second = postgres_pool(pg.url()), postgres_pool(pg.url(), name="reports")
    daemon = carpool(first, second, workers=2, drain={"deadline": "500ms"})
    with daemon.wire("orders") as busy:
        busy.run("begin")
        daemon.write({"workers": 2, "drain": {"deadline": "500ms"}, "pools": [second]})
        daemon.reload()
        begun = time.monotonic()
        assert busy.eof()
        assert time.monotonic() - begun < 5 * SLOW
        wait_for(lambda: set(daemon.pools()) == {"reports"}, what="the pool to be gone")


def test_pools_come_and_go_under_load(carpool, pg, workers):
    """A pool is added, used and removed, again and again, while another one works."""
    stays = postgres_pool(pg.url())
    daemon = carpool(stays, workers=workers, drain={"deadline": "1s"})
    end, surprises, turns = threading.Event(), [], [0]

    def rider():
        try:
            with daemon.wire() as wire:
                while not end.is_set():
                    assert wire.run("select 1")[0] == [["1"]]
                    turns[0] += 1
        except Exception as e:
            surprises.append(e)
    riders = [threading.Thread(target=rider) for _ in range(4)]
    for thread in riders:
        thread.start()
    for n in range(4):
        guest = postgres_pool(pg.url(), name=f"guest{n % 2}", size={"min": 1, "max": 2})
        daemon.write({**daemon.config, "pools": [stays, guest]})
        wait_for(lambda: daemon.cli("reload", check=False).returncode == 0, what="the reload")
        with daemon.connect(guest["name"]) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
            daemon.write({**daemon.config, "pools": [stays]})
            wait_for(lambda: daemon.cli("reload", check=False).returncode == 0, what="the reload")
            with pytest.raises(psycopg.OperationalError):
                for _ in range(200):
                    conn.execute("select 1")
                    time.sleep(0.01)
        wait_for(lambda: set(daemon.pools()) == {"orders"}, what="the guest to be gone")
    end.set()
    for thread in riders:
        thread.join(60)
    assert not surprises and turns[0] > 20
    wait_for(lambda: pg.connections("app") <= 3, what="the guests' servers to be gone")
