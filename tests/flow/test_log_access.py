# SPDX-License-Identifier: MIT
"""`log.access`: a line for each exchange at its end, with what it came to. HTTP's are in test_http_access.py."""

import json

import pytest
from harness.base import LOOPBACK, wait_for
from harness.carpool import postgres_pool
from harness.redis_fixtures import fake, key, rd  # noqa: F401
from harness.rediswire import Resp, redis_pool

FIELDS = ["time", "level", "thread", "event", "pool", "kind", "conn", "client", "user", "lease", "server",
          "endpoint", "wait_us", "exchange_us", "bytes_in", "bytes_out", "outcome"]


def lines(daemon, n):
    """At least n access lines, as JSON."""
    found = wait_for(lambda: (got := daemon.log_lines('"event":"access"')) and len(got) >= n and got, 20,
                     f"{n} access lines")
    parsed = [json.loads(line) for line in found]
    assert all(list(line) == FIELDS for line in parsed), parsed
    return parsed


def test_redis_commands(carpool, rd, key):
    daemon = carpool(redis_pool(rd.url()), log={"access": "all", "format": "json", "level": "error"})
    with Resp(daemon.port("cache")) as c:
        assert c.cmd("SET", key, "x" * 1000) == "OK"
        assert c.cmd("GET", key) == b"x" * 1000
        assert c.cmd("PING") == "PONG"  # carpool's own answer is no exchange
        c.cmd("BLPOP", "nobody-pushes-here", "1")
    first, second, own = lines(daemon, 3)
    assert (first["pool"], first["kind"], first["outcome"]) == ("cache", "redis", "ok")
    assert first["bytes_in"] > 1000 and first["bytes_out"] == len("+OK\r\n")
    assert second["bytes_out"] == len("$1000\r\n") + 1002
    assert first["client"].startswith(f"{LOOPBACK}:") and first["conn"] == second["conn"]
    assert first["endpoint"] == f"{rd.host}:{rd.port}" and first["server"] > 0 and first["lease"] > 0
    assert own["exchange_us"] >= 900_000 and own["outcome"] == "ok" and own["wait_us"] < 900_000


def test_redis_failures(carpool, fake):
    """Only failures: the one that got no reply, and the one whose client did not wait."""
    silent = fake(lambda *_: None)
    daemon = carpool(redis_pool(silent.url(), timeouts={"request": "300ms"}, check={"idle": "1h"}),
                     log={"access": "errors", "format": "json"})
    with Resp(daemon.port("cache")) as c:
        assert c.cmd("GET", "a").cause == "request_timeout"
    with Resp(daemon.port("cache")) as c:
        c.send("BLPOP", "a", "0")
        wait_for(lambda: silent.commands("BLPOP"), what="the call to be under way")
    late, gone = lines(daemon, 2)
    assert late["outcome"] == "request_timeout" and late["endpoint"] == silent.url()[8:].split("/")[0]
    assert late["exchange_us"] >= 290_000
    assert gone["outcome"] == "client_gone"


def test_postgres_transactions(carpool, pg):
    """A line for each transaction, not for each statement; in session mode for each session."""
    daemon = carpool(postgres_pool(pg.url()), postgres_pool(pg.url(), name="whole", mode="session"),
                     log={"access": "all", "format": "json", "level": "error"})
    with daemon.wire() as wire:
        wire.run("begin")
        wire.run("select pg_sleep(0.2)")
        assert wire.run("commit")[3] == "I"
        assert wire.run("select repeat('x', 1000)")[0] == [["x" * 1000]]
        assert wire.run("select 1/0")[2].code == "22012"  # a server's answer like others
    with daemon.wire("whole") as wire:
        for _ in range(5):
            assert wire.run("select 1")[0] == [["1"]]
    found = [line for line in lines(daemon, 4) if line["lease"]]
    rides = [line for line in found if line["pool"] == "orders"]
    whole = [line for line in found if line["pool"] == "whole"]
    assert {(line["kind"], line["outcome"], line["endpoint"]) for line in found} == {
        ("postgres", "ok", f"{pg.host}:{pg.port}")}
    first, second, third = rides[-3:]
    assert first["exchange_us"] >= 200_000 and first["bytes_in"] > len("beginselect pg_sleep(0.2)commit")
    assert second["bytes_out"] > 1000 and second["exchange_us"] < first["exchange_us"]
    assert [line["lease"] for line in rides] == list(range(rides[0]["lease"], rides[0]["lease"] + len(rides)))
    assert {line["user"] for line in found} == {"app"}
    assert third["conn"] == first["conn"] and first["client"].startswith(f"{LOOPBACK}:")
    assert whole[-1]["bytes_in"] >= 5 * len("Q....select 1.")


def test_postgres_failures(carpool, pg):
    """Each with the cause that the client was told, also where nobody carried it."""
    daemon = carpool(postgres_pool(pg.url(), size={"min": 1, "max": 1, "acquire_timeout": "1s"},
                                   timeouts={"request": "500ms"}),
                     log={"access": "errors", "format": "json", "level": "error"})
    with daemon.wire() as holder, daemon.wire() as late:
        holder.run("begin")
        assert late.run("select 1")[2].fields["M"].startswith("carpool: acquire_timeout")
        holder.run("commit")
        assert late.run("select 1")[2] is None
        assert holder.run("select pg_sleep(20)")[2].code == "57014"
        wait_for(lambda: daemon.servers(state="idle") == 1, what="the cancel to be over")
        assert late.run("select pg_terminate_backend(pg_backend_pid())")[2].code == "08006"
    waited, slow, lost = lines(daemon, 3)
    assert {line["user"] for line in (waited, slow, lost)} == {"app"}, "also where nobody carried it"
    assert (waited["outcome"], waited["lease"], waited["server"], waited["endpoint"]) == (
        "acquire_timeout", 0, 0, "-")
    # The timeout counts from the beginning of the turn in which the client came.
    assert waited["wait_us"] >= 980_000 and waited["exchange_us"] == 0
    assert lost["outcome"] == "upstream_closed" and lost["server"] > 0
    assert lost["wait_us"] == 0, "that was another time"
    assert slow["outcome"] == "request_timeout" and slow["exchange_us"] >= 500_000
    assert lost["lease"] > slow["lease"] > 0


def test_who_waited(carpool, fake):
    """A server of one's own, and two who want it: the wait is no part of the exchange."""
    silent = fake(lambda *_: None)
    daemon = carpool(redis_pool(silent.url(), size={"max": 1}, check={"idle": "1h"}),
                     log={"access": "all", "format": "json"})
    with Resp(daemon.port("cache")) as one, Resp(daemon.port("cache")) as two:
        one.send("BLPOP", "a", "0")
        wait_for(lambda: silent.commands("BLPOP"), what="the first call")
        two.send("BLPOP", "b", "0")
        wait_for(lambda: daemon.waiting("cache") == 1, what="the second to wait")
        two.close()
        (line,) = lines(daemon, 1)
        assert line["outcome"] == "client_gone" and line["server"] == 0
        assert line["wait_us"] > 0 and line["exchange_us"] == 0


@pytest.mark.parametrize("access", ["off", "errors"])
def test_nothing_is_said_of_what_went_well(carpool, rd, key, access):
    daemon = carpool(redis_pool(rd.url()), log={"access": access, "format": "json"})
    with Resp(daemon.port("cache")) as c:
        for _ in range(50):
            assert c.cmd("SET", key, "1") == "OK"
    daemon.stop()
    assert not daemon.log_lines('"event":"access"')


@pytest.mark.parametrize("everywhere,here", [("off", "all"), ("all", "off"), ("all", "errors"), ("off", "default")])
def test_a_pool_of_its_own_mind(carpool, rd, key, everywhere, here):
    """`log.access` of a pool says it for that pool alone, and follows a reload."""
    daemon = carpool(start=False)
    daemon.write({"log": {"format": "json", "access": everywhere},
                  "pools": [{**redis_pool(rd.url()), "name": "one", "log": {"access": here}},
                            {**redis_pool(rd.url()), "name": "other"}]})
    daemon.start()
    with Resp(daemon.port("one")) as one, Resp(daemon.port("other")) as other:
        assert one.cmd("SET", key, "1") == other.cmd("SET", key, "1") == "OK"
        daemon.change("one", log={"access": "all"})
        daemon.change("other", log={"access": "all"})
        daemon.reload()
        assert one.cmd("GET", key) == other.cmd("GET", key) == b"1"
    daemon.stop()
    pools = [json.loads(line)["pool"] for line in daemon.log_lines('"event":"access"')]
    assert pools.count("one") == 1 + (here == "all")
    assert pools.count("other") == 1 + (everywhere == "all")


def test_a_reload_switches_it(carpool, rd, key):
    daemon = carpool(redis_pool(rd.url()), log={"format": "json"})
    with Resp(daemon.port("cache")) as c:
        assert c.cmd("SET", key, "1") == "OK"
        daemon.write({**daemon.config, "log": {"format": "json", "access": "all"}})
        daemon.reload()
        assert c.cmd("GET", key) == b"1"
        assert [line["bytes_out"] for line in lines(daemon, 1)] == [len("$1\r\n1\r\n")]
