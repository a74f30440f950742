# SPDX-License-Identifier: MIT
"""Redis when things go wrong: stalls, servers that are not well, slow and vanishing clients. (Servers that
are lost: test_redis_lost.py.)"""

import socket
import time

import pytest
import redis
from harness.base import SLOW, Peak, at_deadline, wait_for
from harness.carpool import SMALL_QUARANTINE
from harness.redis_fixtures import cache, client, fake, key, rd  # noqa: F401
from harness.rediswire import NO_BREAKER, QUICK_BREAKER, Resp, RespError, encode, redis_pool, through
from harness.relays import TO_CLIENT


def dials(daemon):
    return daemon.metric("carpool_dials_total", pool="cache")


# -- too late


def test_request_timeout_and_tombstone(cache, client, rd, gate, key, workers):
    """The late reply is swallowed, and the next one belongs to whom it is for."""
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), workers=workers, size={"max": 1}, timeouts={"request": "1s"},
                   check={"timeout": "20s"})
    c = client(daemon)
    assert c.cmd("SET", key, "first") == "OK"
    for _ in range(3):
        slow.pause(TO_CLIENT)
        begun = time.monotonic()
        error = c.cmd("GET", key)
        assert error.cause == "request_timeout"
        assert 0.9 < time.monotonic() - begun < 5 * SLOW
        slow.resume()
        assert c.cmd("SET", key, "second") == "OK"
        assert c.cmd("GET", key) == b"second"
    assert dials(daemon) == 1, "the server was kept"
    daemon.saw("request_timeout", "cache")


def test_tombstones_among_the_living(cache, client, rd, gate, key):
    """One client's requests time out in the middle of others' on the same server."""
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), size={"max": 1}, timeouts={"request": "2s"},
                   check={"timeout": "20s"})
    early, late = client(daemon), client(daemon)
    assert early.cmd("MSET", key + "a", "a", key + "b", "b") == "OK"
    slow.pause(TO_CLIENT)
    early.write(encode("GET", key + "a") + encode("PING") + encode("GET", key + "b"))
    time.sleep(1.6)  # late's time is up so much later
    late.write(encode("GET", key + "b") + encode("ECHO", "e"))
    assert [early.read() for _ in range(3)] == [
        RespError(e) if isinstance(e, str) and e.startswith("ERR") else e
        for e in ("ERR carpool: request_timeout no reply within 2000 ms", "PONG",
                  "ERR carpool: request_timeout no reply within 2000 ms")]
    slow.resume()
    assert [late.read() for _ in range(2)] == [b"b", b"e"]
    assert early.cmd("GET", key + "a") == b"a"
    assert dials(daemon) == 1


def test_writes_that_time_out_say_so(cache, client, rd, gate, key):
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), timeouts={"request": "1s"})
    c = client(daemon)
    assert c.cmd("SET", key, "0") == "OK"
    slow.pause(TO_CLIENT)
    error = c.cmd("INCR", key)
    assert error.cause == "request_timeout" and "outcome unknown" in str(error)
    slow.resume()


def test_a_silent_server_is_dropped(cache, client, rd, gate, key, workers):
    """Nothing comes at all: first the requests time out, then the connection is given up, and with
    the next one all is well."""
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), workers=workers, timeouts={"request": "1s", "close": "200ms"},
                   breaker=NO_BREAKER, check={"timeout": "300ms"})
    clients = [client(daemon) for _ in range(5)]
    assert all(c.cmd("PING") == "PONG" and c.cmd("STRLEN", "x") == 0 for c in clients)
    slow.pause()
    for c in clients:
        c.send("SET", key, "1")
    causes = {c.read().cause for c in clients}
    assert "request_timeout" in causes and causes <= {"request_timeout", "acquire_timeout"}
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="cache",
                                   outcome="drop_timeout") >= 1, 5, "the server to be dropped")
    slow.cut()
    slow.resume()
    for c in clients:
        wait_for(lambda c=c: c.cmd("SET", key, "1") == "OK", 10, "service")


def test_no_progress_while_others_ask(cache, fake, client):
    """A server that owes a reply nobody waits for, and never says a word again, goes although it is in
    use all the time."""
    server = fake(lambda words, conn: None if conn == 1 and words[0] == b"GET" else b"+fine\r\n")
    daemon = cache(server.url(), size={"max": 1}, timeouts={"request": "400ms", "close": "100ms"},
                   check={"timeout": "20s"}, retry={"attempts": 1},
                   breaker=NO_BREAKER)
    a, b = client(daemon), client(daemon)
    a.send("GET", "x")
    time.sleep(0.2)
    b.send("GET", "x")
    assert a.read().cause == "request_timeout"
    a.send("GET", "x")
    errors = [b.read().cause, a.read().cause]
    assert set(errors) == {"request_timeout"}
    wait_for(lambda: a.cmd("SET", "x", "1") == "fine", 5, "another server")
    assert server.accepted >= 2


def test_a_stalled_transaction_is_over(cache, client, rd, gate, key):
    """A server of one's own that stalls is given up with the transaction."""
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), timeouts={"request": "1s", "close": "200ms"})
    c = client(daemon)
    assert c.cmd("MULTI") == "OK"
    assert c.cmd("SET", key, "1") == "QUEUED"
    slow.pause(TO_CLIENT)
    assert c.cmd("INCR", key).cause == "request_timeout"
    slow.resume()
    assert c.cmd("SET", key, "2").cause == "upstream_closed", "still inside"
    assert str(c.cmd("EXEC")).startswith("EXECABORT")
    assert c.cmd("EXISTS", key) == 0


@pytest.mark.parametrize("ends,words", [("connect", "did not answer within 600 ms"), ("acquire", "no answer"),
                                        ("request", "no answer")])
def test_black_hole(cache, client, black_hole, ends, words):
    """Accepts and never answers: every wait ends at its deadline, and whichever that is, it was for a dial."""
    after = dict.fromkeys(("connect", "acquire", "request"), "30s") | {ends: "600ms"}
    daemon = cache(f"redis://{black_hole.host}:{black_hole.port}/0", size={"acquire_timeout": after["acquire"]},
                   timeouts={"connect": after["connect"], "request": after["request"]},
                   breaker=NO_BREAKER, retry={"attempts": 1})
    c = client(daemon)
    for _ in range(1 if ends == "connect" else 3):  # after a failed dial there is a pause before the next
        with at_deadline(0.6):
            error = c.cmd("GET", "x")
        assert error.cause == "dial_failed" and words in str(error), error
    assert c.cmd("PING") == "PONG"
    assert set(daemon.all_errors("cache")) == {"dial_failed"}


# -- what a server says about itself


def test_loading_opens_the_service_breaker(cache, client, fake):
    loading = b"-LOADING Redis is loading the dataset in memory\r\n"
    server = fake(lambda words, conn: loading)
    daemon = cache(server.url(), breaker=QUICK_BREAKER)
    c = client(daemon)
    said = [c.cmd("GET", "x") for _ in range(8)]
    assert str(said[0]).startswith("LOADING")
    assert said[-1].cause == "breaker_open"
    assert len(server.heard) < 40
    server.answer = lambda words, conn: b"+OK\r\n"
    wait_for(lambda: c.cmd("GET", "x") == "OK", 5, "the trial to pass")
    for _ in range(10):
        wait_for(lambda: c.cmd("GET", "x") == "OK", 5, "service")
    daemon.saw("breaker_open", "cache")


def test_loading_at_login(cache, client, fake):
    """A server that loads is not ready to be in the pool."""
    server = fake(login={b"ping": b"-LOADING Redis is loading the dataset in memory\r\n"})
    daemon = cache(server.url(), breaker=QUICK_BREAKER)
    c = client(daemon)
    error = c.cmd("GET", "x")
    assert error.cause == "dial_failed" and "LOADING" in str(error)
    server.login[b"ping"] = b"+PONG\r\n"
    wait_for(lambda: c.cmd("SET", "x", "1") == "OK", 10, "service")


def test_idle_servers_are_asked(cache, fake):
    """Any answer to PING proves life, but for one: a server that loads is no use to anybody."""
    server = fake(login={b"ping": b"-NOPERM this user has no permissions to run the 'ping' command\r\n"})
    daemon = cache(server.url(), size={"min": 1}, check={"idle": "50ms"},
                   breaker=QUICK_BREAKER)
    wait_for(lambda: len(server.commands("ping")) >= 3, 10, "two pings behind the login's")
    assert set(server.commands("ping")) == {1}
    server.login[b"ping"] = b"-LOADING Redis is loading the dataset in memory\r\n"
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="cache", phase="idle",
                                   outcome="drop_failed") == 1, 10, "it to be dropped")
    server.login[b"ping"] = b"+PONG\r\n"
    wait_for(lambda: daemon.servers("cache", "idle") == 1, 10, "another")


def test_max_number_of_clients_is_busy_not_down(carpool, servers, client, key):
    """Somebody else uses the server's places up: carpool serves with what it gets."""
    server = servers.redis(local=True, maxclients=3)
    others = [redis.Redis(host=server.host, port=server.port, single_connection_client=True)
              for _ in range(2)]
    assert all(o.ping() for o in others)
    daemon = carpool(redis_pool(server.url(), size={"min": 0, "max": 4,
                                                    "acquire_timeout": "400ms"}))
    a, b, c = client(daemon), client(daemon), client(daemon)
    assert a.cmd("SET", key, "1") == "OK"
    a.send("BLPOP", key + "l", 0)
    wait_for(lambda: server.info("clients")["blocked_clients"] == 1, 5, "a to block")
    error = b.cmd("GET", key)
    assert error.cause in ("upstream_busy", "acquire_timeout"), error
    wait_for(lambda: daemon.log_lines("dial_failed", "cause=upstream_busy"), 5, "the cause")
    assert daemon.metric("carpool_breaker_state", pool="cache", breaker="door", state="open") == 0
    for o in others:
        o.connection_pool.disconnect()
        o.close()
    wait_for(lambda: c.cmd("RPUSH", key + "l", "x") == 1, 10, "a place")
    assert a.read() == [(key + "l").encode(), b"x"]
    servers.forget(server)


def test_old_servers_without_reset(cache, client, fake):
    """Before 6.2 there is no RESET: what was reserved for one client is closed after it."""
    server = fake(lambda words, conn: b"+OK\r\n", login={b"hello": b"-ERR unknown command 'HELLO'\r\n"})
    daemon = cache(server.url(), size={"max": 1})
    c = client(daemon)
    c.send("SOMETHING")
    assert c.read() == "OK"
    assert c.cmd("SET", "x", "1") == "OK"
    assert server.accepted == 2 and server.commands("reset") == []


# -- clients


def test_a_slow_reader_is_closed_and_nobody_waits(carpool, rd, client, key):
    """It asks for much and reads nothing. Others share its server and never notice; what is kept for it is
    bounded, and it is gone long before its time is up."""
    daemon = carpool(redis_pool(rd.url(), size={"max": 1}, limits={"buffer": "16KiB"},
                                timeouts={"write_stall": "10m"}), env=SMALL_QUARANTINE)
    slow, other = client(daemon), client(daemon)
    assert other.cmd("SET", key, b"v" * 100_000) == "OK"
    start = daemon.rss()
    with Peak(daemon.rss) as rss:
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.write(encode("GET", key) * 300)
        begun = time.monotonic()
        for _ in range(50):
            assert other.cmd("STRLEN", key) == 100_000
        assert time.monotonic() - begun < 5 * SLOW
        wait_for(lambda: daemon.errors("write_stall", "cache") == 1, 10, "it to be closed")
        assert other.cmd("GET", key) == b"v" * 100_000
    assert rss.value - start < 24 << 20, "64 times the buffer, and what sanitizers keep"
    daemon.saw("write_stall", "cache")


def test_a_client_that_takes_nothing(cache, client, key):
    daemon = cache(timeouts={"write_stall": "300ms"})
    c = client(daemon)
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert c.cmd("SET", key, b"v" * 8_000_000) == "OK"
    c.send("GET", key)
    wait_for(lambda: daemon.errors("write_stall", "cache") == 1, 10, "it to be closed")


def test_clients_that_leave_in_the_middle(cache, client, key, workers):
    """Requests under way when their client goes: their replies reach nobody, least of all others."""
    daemon = cache(workers=workers, size={"max": 2})
    stay = client(daemon)
    for turn in range(40):
        with Resp(daemon.port("cache")) as c:
            c.write(encode("EVAL", "local s=0 for i=1,20000 do s=s+i end return 'gone'", 0) * 3
                    + encode("GET", key)[:turn % 20])
            if turn % 3 == 0:
                c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        assert stay.cmd("ECHO", turn) == str(turn).encode()
        assert stay.cmd("SET", key, turn) == "OK"
        assert stay.cmd("GET", key) == str(turn).encode()


def test_idle_clients_are_closed_when_told_so(cache, client, key):
    daemon = cache(size={"min": 1}, timeouts={"client_idle": "1s"})
    c, subscriber = client(daemon), client(daemon)
    subscriber.send("SUBSCRIBE", key)
    assert subscriber.read()[2] == 1
    assert c.cmd("PING") == "PONG"
    assert c.rest() == b""
    assert subscriber.silent(1.3), "waiting for messages is not idleness"
    daemon.saw("client_timeout", "cache")
