# SPDX-License-Identifier: MIT
"""What operators see of clients: exchanges that took long (`log.slow` of a pool), and in
pg_stat_activity who is behind a server (`add_host`)."""

import json

import pytest
from harness import pgwire
from harness.base import LOOPBACK, free_port, temp_folder, wait_for
from harness.carpool import postgres_pool
from harness.redis_fixtures import rd  # noqa: F401
from harness.rediswire import Resp, redis_pool


def access(daemon):
    return [json.loads(line) for line in daemon.log_lines('"event":"access"')]


# -- log.slow

@pytest.mark.parametrize("general", ["off", "all"])
def test_slow_exchanges(carpool, pg, general, workers):
    """Slow ones get a line, whatever log.access says; the others only if that says so."""
    daemon = carpool(postgres_pool(pg.url(), log={"slow": "1s"}), workers=workers,
                     log={"access": general, "format": "json"})
    with daemon.wire() as wire:
        for _ in range(20):
            assert wire.run("select 1")[2] is None
        wire.run("begin")
        wire.run("select pg_sleep(0.6)")
        wire.run("select pg_sleep(0.6)")
        wire.run("commit")
        assert wire.run("select 2")[2] is None
    daemon.stop()
    slow = [line for line in access(daemon) if line.get("slow") == "yes"]
    assert len(slow) == 1 and slow[0]["exchange_us"] >= 1_200_000 and slow[0]["outcome"] == "ok"
    assert slow[0]["pool"] == "orders" and list(slow[0])[-2:] == ["outcome", "slow"]
    fast = [line for line in access(daemon) if "slow" not in line]
    assert len(fast) == (21 if general == "all" else 0)


def test_waiting_is_not_slow(carpool, pg):
    """What counts is how long the server was busy with it."""
    daemon = carpool(postgres_pool(pg.url(), size={"max": 1, "acquire_timeout": "20s"},
                                   log={"slow": "1s"}), log={"format": "json"})
    with daemon.wire() as holder, daemon.wire() as late:
        holder.run("begin")
        late.send(pgwire.query("select 1"))
        wait_for(lambda: daemon.waiting() == 1, what="the second to wait")
        holder.run("select pg_sleep(1.2)")
        holder.run("commit")
        assert late.results()[0] == [["1"]]
    daemon.stop()
    (line,) = access(daemon)
    assert line["exchange_us"] > 1_200_000


def test_slow_is_of_one_pool_and_follows_a_reload(carpool, pg):
    pools = [postgres_pool(pg.url()), postgres_pool(pg.url(), name="others", log={"slow": "100ms"})]
    daemon = carpool(*pools, log={"format": "json"})
    with daemon.wire("orders") as a, daemon.wire("others") as b:
        for wire in (a, b):
            assert wire.run("select pg_sleep(0.2)")[2] is None
        wait_for(lambda: access(daemon), what="the line")
        daemon.change("orders", log={"slow": "100ms"})
        daemon.change("others", log={"slow": 0})
        daemon.reload()
        for wire in (a, b):
            assert wire.run("select pg_sleep(0.2)")[2] is None
    daemon.stop()
    assert [line["pool"] for line in access(daemon)] == ["others", "orders"]


def test_slow_commands(carpool, rd):
    """Redis has it as well."""
    daemon = carpool(redis_pool(rd.url(), log={"slow": "300ms"}), log={"format": "json"})
    with Resp(daemon.port("cache")) as c:
        assert c.cmd("PING") == "PONG" and c.cmd("GET", "nothing") is None
        c.cmd("BLPOP", "nobody-pushes-here", "1")
    (line,) = wait_for(lambda: access(daemon), what="the line")
    assert line["pool"] == "cache" and line["slow"] == "yes" and line["exchange_us"] >= 900_000


# -- add_host

def names(pg):
    return {r[0] for r in pg.query("select application_name from pg_stat_activity"
                                   " where usename = 'app'")}


def local(wire):
    return "%s:%d" % wire.sock.getsockname()[:2]


def test_add_host(orders, pg, workers):
    """While a server works for a client, the database shows that client."""
    daemon = orders(workers, add_host=True, size={"max": 1, "acquire_timeout": "20s"})
    with daemon.wire(application_name="billing") as one, daemon.wire() as two:
        for wire, name in ((one, "billing"), (two, "carpool"), (one, "billing")):
            shown = f"{name} - {local(wire)}"
            wire.run("begin")
            assert names(pg) == {shown}
            assert wire.run("show application_name")[0] == [[shown]]
            wire.run("commit")
            assert wire.parameters["application_name"] == shown, "the client is told so, too"


def test_add_host_keeps_the_address_of_a_long_name(orders, pg):
    """The server keeps 63 bytes; it is set once for a client, not for each transaction."""
    daemon = orders(add_host=True, size={"max": 1})
    with daemon.wire(application_name="a-service-" + "x" * 100) as wire:
        wire.run("select 1")
        (name,) = names(pg)
        assert len(name) == 63 and name.startswith("a-service-x") and name.endswith(" - " + local(wire))
        sent = daemon.metric("carpool_bytes_total", pool="orders", direction="to_servers")
        for _ in range(10):
            assert wire.run("select 1")[0] == [["1"]]
        each = (daemon.metric("carpool_bytes_total", pool="orders", direction="to_servers") - sent) / 10
        assert each <= len(pgwire.query("select 1")), "nothing but what the client says"


@pytest.mark.parametrize("shift", ["", "x"])
def test_add_host_does_not_cut_letters(orders, pg, shift):
    """A long name of letters that take two bytes: wherever it is cut, the client is served."""
    daemon = orders(add_host=True, size={"max": 1})
    with daemon.wire(application_name=shift + "\u00e4" * 60) as wire:
        assert wire.run("select 1")[0] == [["1"]]
        (name,) = names(pg)
        assert name.isascii() and name.endswith(" - " + local(wire))


def test_add_host_and_a_name_set_later(orders, pg):
    """As with PgBouncer: a SET is the client's own affair; RESET goes back to the name with the host."""
    daemon = orders(add_host=True, size={"max": 1})
    with daemon.wire(application_name="billing") as wire:
        wire.run("set application_name = 'nightly'")
        wire.run("select 1")
        assert names(pg) == {"nightly"}
        wire.run("reset application_name")
        assert wire.run("show application_name")[0] == [[f"billing - {local(wire)}"]]


def test_no_host_unless_asked_for(orders, pg):
    with orders(size={"max": 1}).wire(application_name="billing") as wire:
        wire.run("select 1")
        assert names(pg) == {"billing"}


def test_add_host_on_a_unix_socket(orders):
    path = temp_folder("sock") / ".s.PGSQL.6432"
    daemon = orders(add_host=True, size={"max": 1},
                    listen=[f"{LOOPBACK}:{free_port()}", {"unix": str(path)}])
    with daemon.wire(path=path, application_name="billing") as wire:
        assert wire.run("show application_name")[0] == [["billing - unix"]]
