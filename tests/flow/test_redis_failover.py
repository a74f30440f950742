# SPDX-License-Identifier: MIT
"""Redis behind one name: what the server says of itself, tries after a loss, a primary that is demoted."""

import time

import pytest
from harness.base import SLOW, wait_for
from harness.redis_fixtures import cache, client, fake, key, rd  # noqa: F401
from harness.rediswire import HANG_UP, RespError, encode

READONLY = b"-READONLY You can't write against a read only replica.\r\n"


def hello(c):
    words = c.cmd("HELLO", "2")
    return dict(zip(words[::2], words[1::2], strict=True))


# -- what the server is


def test_hello_says_what_the_server_is(cache, client, rd):
    daemon = cache(size={"min": 1})
    wait_for(lambda: daemon.servers("cache", "idle"), what="a server")
    said = hello(client(daemon))
    info = rd.info()
    assert said[b"version"].decode() == info["redis_version"]
    assert said[b"mode"].decode() == info["redis_mode"] and said[b"role"] == b"master"
    assert said[b"server"] == b"redis" and said[b"proto"] == 2


def test_hello_of_others(cache, client, fake):
    """Not Redis, not a primary; and one that is too old to say so itself."""
    words = [b"server", b"valkey", b"version", b"8.1.0", b"mode", b"cluster", b"role", b"replica"]
    server = fake(login={b"hello": encode(*words)})
    daemon = cache(server.url(), size={"min": 1})
    wait_for(lambda: daemon.servers("cache", "idle"), what="a server")
    said = hello(client(daemon))
    assert [said[k] for k in words[::2]] == words[1::2]
    text = b"# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\n# Replication\r\nrole:slave\r\n"
    old = fake(login={b"hello": b"-ERR unknown command `HELLO`\r\n",
                      b"info": b"$%d\r\n%s\r\n" % (len(text), text)})
    daemon = cache(old.url(), size={"min": 1})
    wait_for(lambda: daemon.servers("cache", "idle"), what="a server")
    said = hello(client(daemon))
    assert (said[b"version"], said[b"role"]) == (b"5.0.14", b"replica")


def test_hello_before_any_server(cache, client, fake):
    """Nobody is asked, nothing is made up: the version is the least that can speak HELLO."""
    daemon = cache(fake().url())
    assert hello(client(daemon))[b"version"] == b"6.0.0"


# -- one try after another


def test_tries_are_apart(cache, client, fake):
    """A read that keeps losing its server waits between tries (retry.backoff), within its time."""
    times = []

    def answer(words, conn):
        times.append(time.monotonic())
        return HANG_UP
    server = fake(answer)
    daemon = cache(server.url(), size={"max": 1}, timeouts={"request": "20s"},
                   retry={"attempts": 6, "backoff": "100ms..100ms", "budget": "100%"},
                   breaker={"consecutive": 0, "failure_ratio": "0%"})
    c = client(daemon)
    begun = time.monotonic()
    assert c.cmd("GET", "x").cause == "upstream_closed"
    assert len(times) == 6
    # Five pauses of 1 to 100 ms, evenly distributed: less than 40 ms in all happens once in 20000.
    assert time.monotonic() - begun > 0.04
    wait_for(lambda: daemon.metric("carpool_retries_total", pool="cache") == 5, what="five tries")


def test_a_pause_is_no_longer_than_the_time_that_is_left(cache, client, fake):
    server = fake(lambda words, conn: HANG_UP)
    daemon = cache(server.url(), size={"max": 1}, timeouts={"request": "300ms"},
                   retry={"attempts": 20, "backoff": "1m..1m", "budget": "100%"},
                   breaker={"consecutive": 0, "failure_ratio": "0%"})
    c = client(daemon)
    begun = time.monotonic()
    assert c.cmd("GET", "x").cause == "upstream_closed"
    assert time.monotonic() - begun < 5 * SLOW


def test_order_is_kept_over_a_pause(cache, client, fake):
    """What is asked while an earlier request waits for its next try comes after it."""
    lost = []

    def answer(words, conn):
        if words[1] == b"lost" and not lost:
            lost.append(conn)
            return HANG_UP
        return b"$%d\r\n%s\r\n" % (len(words[1]), words[1])
    server = fake(answer)
    daemon = cache(server.url(), size={"max": 1}, timeouts={"request": "20s"},
                   retry={"backoff": "300ms..300ms"})
    c = client(daemon)
    c.send("GET", "lost")
    wait_for(lambda: lost, what="the loss")
    c.write(encode("GET", "a") + encode("PING") + encode("MULTI") + encode("GET", "b"))
    assert [c.read() for _ in range(3)] == [b"lost", b"a", "PONG"]


def test_a_client_that_leaves_in_a_pause(cache, client, fake):
    server = fake(lambda words, conn: HANG_UP)
    daemon = cache(server.url(), size={"max": 1}, retry={"backoff": "1m..1m"},
                   timeouts={"request": "0s"})
    c = client(daemon)
    c.send("GET", "x")
    wait_for(lambda: server.commands("get"), what="the first try")
    c.sock.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER: leaves with a reset
    c.close()
    wait_for(lambda: daemon.metric("carpool_clients", pool="cache") == 0, what="it to be gone")


# -- failover


def test_a_demoted_primary_is_left(cache, client, servers, gate, key, workers):
    """The name moves to another server and the old primary lives on as its replica: one write fails,
    the next ones go to the new primary, whatever connections there were."""
    old, new = servers.redis(local=True), servers.redis(local=True)
    new.admin().config_set("repl-diskless-sync-delay", 0)
    name = gate(old.host, old.port)
    daemon = cache(f"redis://{name.host}:{name.port}/0", workers=workers, size={"min": 3, "max": 4},
                   timeouts={"close": "1s"})
    clients = [client(daemon) for _ in range(8)]
    for i, c in enumerate(clients):
        assert c.cmd("SET", f"{key}{i}", "1") == "OK"
    wait_for(lambda: daemon.servers("cache") >= 3, what="some servers")
    name.upstream = (new.host, new.port, None)
    old.admin().replicaof(new.host, new.port)
    wait_for(lambda: old.info("replication")["master_link_status"] == "up", 20, "replication")
    said = clients[0].cmd("SET", key, "2")
    assert isinstance(said, RespError) and str(said).startswith("READONLY"), said
    for c in clients:
        wait_for(lambda c=c: c.cmd("SET", key, "3") == "OK", 5, "a server that takes writes")
    assert new.admin().get(key) == "3"
    wait_for(lambda: not any(c["name"] == "carpool" for c in old.clients()), what="the old ones to close")
    assert daemon.logged("servers_renewed", "READONLY")
    for server in (old, new):
        servers.forget(server)


def test_the_client_that_met_it_goes_on_at_once(cache, client, fake):
    """One error, and the very next command of the same client is served by a new connection."""
    demoted = {1}
    server = fake(lambda words, conn: READONLY if conn in demoted else b"+OK\r\n")
    daemon = cache(server.url(), size={"max": 1})
    c = client(daemon)
    assert str(c.cmd("SET", "x", "1")).startswith("READONLY")
    assert [c.cmd("SET", "x", "1") for _ in range(5)] == ["OK"] * 5
    assert server.accepted == 2


def test_own_servers_are_left_too(cache, client, fake):
    server = fake(lambda words, conn: READONLY if conn == 1 and words[0] == b"SET" else b"+OK\r\n")
    daemon = cache(server.url(), size={"max": 1})
    c = client(daemon)
    assert c.cmd("MULTI") == "OK"
    assert str(c.cmd("SET", "x", "1")).startswith("READONLY")
    assert c.cmd("DISCARD") == "OK"
    assert c.cmd("SET", "x", "1") == "OK"
    assert server.accepted == 2


@pytest.mark.parametrize("word", [b"READONLY no", b"MASTERDOWN no", b"LOADING wait"])
def test_an_upstream_that_always_says_so_is_not_dialed_all_the_time(cache, client, fake, word):
    """A replica on purpose, or a script that says so: the pool is renewed once in a few seconds."""
    server = fake(lambda words, conn: b"-%s\r\n" % word)
    daemon = cache(server.url(), breaker={"consecutive": 0, "failure_ratio": "0%"})
    c, begun = client(daemon), time.monotonic()
    for _ in range(200):
        assert str(c.cmd("SET", "x", "1")).startswith(word.decode())
    renewals = 1 + (time.monotonic() - begun) // 5
    assert server.accepted <= 3 * renewals
    assert len(daemon.logged("servers_renewed")) <= renewals
