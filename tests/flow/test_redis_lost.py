# SPDX-License-Identifier: MIT
"""Redis servers that are lost, with requests under way, in transactions, under load: what can be asked again
is, the rest is told, nothing is done twice, and the clients stay."""

import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from harness.base import SLOW, can_connect, wait_for
from harness.load import RedisLoad, RedisPyLoad, redis_py, stayed
from harness.redis_fixtures import _frail_rd, cache, client, fake, frail_rd, key, rd  # noqa: F401
from harness.rediswire import DEAF, HANG_UP, QUICK_BREAKER, Resp, RespError, encode, through

OUTAGE = {"upstream_closed", "dial_failed", "breaker_open", "acquire_timeout"}


def test_reads_are_tried_again(cache, client, fake):
    def answer(words, conn):
        if conn == 1 and words[1] == b"lost":
            return HANG_UP
        return b"$%d\r\n%s\r\n" % (len(words[1]), words[1])
    server = fake(answer)
    daemon = cache(server.url(), size={"max": 1})
    c = client(daemon)
    assert c.cmd("GET", "one") == b"one"
    c.write(encode("GET", "lost") + encode("PING") + encode("GET", "two"))
    assert [c.read() for _ in range(3)] == [b"lost", "PONG", b"two"]
    wait_for(lambda: daemon.metric("carpool_retries_total", pool="cache") >= 1,
             what="the try to be counted")
    assert daemon.all_errors("cache") == {}


def test_writes_are_not(cache, client, fake):
    server = fake(lambda words, conn: HANG_UP if words[1] == b"lost" else b"+OK\r\n")
    daemon = cache(server.url(), size={"max": 1})
    c = client(daemon)
    error = c.cmd("SET", "lost", "1")
    assert error.cause == "upstream_closed" and "outcome unknown" in str(error)
    assert c.cmd("SET", "x", "1") == "OK", "the client stays"
    assert len([1 for _, words in server.heard if words[1:2] == [b"lost"]]) == 1
    daemon.saw("upstream_closed", "cache")


def unread(port):
    """Bytes that wait in the kernel to be read by whoever serves this port."""
    total = 0
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == port and words[3] == "01":
            total += int(words[4].rpartition(":")[2], 16)
    return total


def test_what_was_not_sent_goes_elsewhere(cache, client, fake):
    """The server stops reading and dies: what never left carpool is done on another one, once."""
    server = fake(lambda words, conn: DEAF if conn == 1 else b"+OK\r\n")
    n, value = 900, b"v" * 12000
    daemon = cache(server.url(), size={"max": 1}, limits={"buffer": "16MiB"},
                   timeouts={"request": "20s"})
    c = client(daemon)
    sender = threading.Thread(target=lambda: c.write(b"".join(
        encode("SET", i, value) for i in range(n))))
    sender.start()
    sender.join(60)
    wait_for(lambda: unread(daemon.port("cache")) == 0, 20, "all to be with carpool")
    server.hang_up(1, reset=True)
    got = [c.read() for _ in range(n)]
    errors = [r for r in got if isinstance(r, RespError)]
    assert 1 <= len(errors) < n, "some had left, some had not"
    assert got[:len(errors)] == errors and all(r == "OK" for r in got[len(errors):])
    assert {e.cause for e in errors} == {"upstream_closed"}
    second = [int(words[1]) for conn, words in server.heard
              if conn > 1 and words[0] == b"SET"]
    assert second == list(range(len(errors), n)), "exactly those, in order"


def test_half_a_reply_closes_the_client(cache, client, fake):
    server = fake()
    server.answer = lambda words, conn: b"$10\r\nhalf"
    daemon = cache(server.url(), size={"max": 1})
    c, other = client(daemon), client(daemon)
    c.send("GET", "x")
    assert c.sock.recv(100) == b"$10\r\nhalf"
    server.answer = lambda words, conn: b"+OK\r\n"
    server.hang_up()
    assert c.rest() == b""
    assert other.cmd("SET", "x", "1") == "OK"
    daemon.saw("upstream_closed", "cache")


def test_replies_nobody_asked_for(cache, client, fake):
    """Idle or busy: the streams may be out of step, that connection is never used again."""
    server = fake()
    daemon = cache(server.url(), size={"max": 1})
    c = client(daemon)
    assert c.cmd("SET", "x", "1") == "OK"
    server.push(b"+surprise\r\n")
    wait_for(lambda: server.open == 0, 5, "the idle server to go")
    assert c.cmd("SET", "x", "1") == "OK"
    server.answer = lambda words, conn: b"+OK\r\n+again\r\n"
    assert c.cmd("SET", "x", "1") == "OK", "its own answer came first"
    server.answer = lambda words, conn: b"+OK\r\n"
    wait_for(lambda: server.open == 0, 5, "the busy server to go")
    assert c.cmd("GET", "x") == "OK"
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="cache",
                                   outcome="drop_unread") >= 1, what="the verdict to be counted")


@pytest.mark.parametrize("reply", [b"?what\r\n", b"$-5\r\n", b"$3\r\nabcd\r\n", b">1\r\n+x\r\n",
                                   b"*1048577000\r\n$1", b"+" + b"x" * 70000])
def test_nonsense_from_the_server(cache, client, fake, reply):
    server = fake(lambda words, conn: reply)
    daemon = cache(server.url(), size={"max": 2}, timeouts={"request": "1s"})
    c, other = client(daemon), client(daemon)
    c.send("SET", "x", "1")
    with_error = c.sock.recv(200)
    server.answer = lambda words, conn: b"+OK\r\n"
    assert b"upstream_protocol" in with_error or not with_error or reply.startswith(b"*"), with_error
    wait_for(lambda: other.cmd("SET", "x", "1") == "OK", 10, "service for the others")


def test_lost_while_watching(cache, client, frail_rd, key):
    """As if the key had changed: nothing is executed, and the client tries again."""
    daemon = cache(frail_rd.url(), breaker=QUICK_BREAKER)
    c = client(daemon)
    assert c.cmd("WATCH", key) == "OK"
    frail_rd.kill9()
    frail_rd.start()
    wait_for(lambda: c.cmd("MULTI") == "OK", 10, "MULTI")
    assert c.cmd("SET", key, "1") == "QUEUED"
    assert c.cmd("EXEC") is None
    wait_for(lambda: c.cmd("EXISTS", key) == 0, 10, "service")


def test_lost_inside_a_transaction(cache, client, frail_rd, key):
    daemon = cache(frail_rd.url(), breaker=QUICK_BREAKER)
    c = client(daemon)
    assert c.cmd("MULTI") == "OK"
    assert c.cmd("SET", key, "1") == "QUEUED"
    frail_rd.kill9()
    frail_rd.start()
    assert c.cmd("SET", key + "b", "2").cause == "upstream_closed"
    assert str(c.cmd("EXEC")).startswith("EXECABORT")
    wait_for(lambda: c.cmd("EXISTS", key, key + "b") == 0, 10, "service, and nothing executed")


def test_subscribers_of_a_lost_server_are_closed(cache, client, frail_rd, key):
    """They would wait for messages that cannot come."""
    daemon = cache(frail_rd.url())
    c = client(daemon)
    c.send("SUBSCRIBE", key)
    assert c.read()[2] == 1
    frail_rd.kill9()
    assert c.rest() == b""
    daemon.saw("upstream_closed", "cache")


def blocked(daemon):
    """Clients whose blocking command the server has."""
    return sum(row["state"] == "active" and "a blocking command" in str(row)
               for row in daemon.json("/clients")["clients"])


def waits_by_hand(wire, key):
    """The cause it hears instead of an answer."""
    return wire.cmd("BLPOP", key, 0).cause


def waits_by_redis_py(python, key):
    with pytest.raises(redis.ResponseError) as e:
        python.blpop(key)
    return re.search(r"carpool: (\w+)", str(e.value))[1]


def test_killed_under_load_and_back(cache, client, frail_rd, key, workers):
    """Of a crowd each may have had its answer when the server dies; who waits for one hears of it for certain."""
    frail_rd.set_maxclients(3)
    daemon = cache(frail_rd.url(), workers=workers, size={"max": 3}, breaker=QUICK_BREAKER)
    loads = [RedisLoad(daemon, 10, key), RedisPyLoad(daemon, 10, key)]
    for load in loads:
        load.progress()
    wire, python, none = client(daemon), redis_py(daemon), key + ":none"
    for _ in range(2):
        with ThreadPoolExecutor() as threads:
            waits = [threads.submit(waits_by_hand, wire, none), threads.submit(waits_by_redis_py, python, none)]
            wait_for(lambda: blocked(daemon) == 2, what="both to block")
            frail_rd.kill9()
            assert [w.result(20) for w in waits] == ["upstream_closed"] * 2
        wait_for(lambda: not can_connect(frail_rd.host, frail_rd.port), what="the port to close")
        frail_rd.start()
        frail_rd.set_maxclients(3)
        for load in loads:
            load.progress()
        assert frail_rd.refusals() == 0
    for load in loads:
        load.stop()
        assert load.causes <= OUTAGE, load.causes
    assert set(daemon.all_errors("cache")) <= OUTAGE
    python.close()
    stayed(daemon, "cache", 22)


def test_nothing_is_executed_twice(cache, rd, gate, key, workers):
    """Connections are cut at random under pipelines of INCR and GET. Each answer is in step, and the
    counters end between what was confirmed and what may have been executed."""
    bad = gate(rd.host, rd.port)
    daemon = cache(through(bad), workers=workers, size={"max": 3},
                   breaker={"consecutive": 0, "failure_ratio": "0%"},
                   retry={"budget": "100%"})
    end, wrong = threading.Event(), []
    sure, maybe = [0] * 8, [0] * 8

    def rider(n):
        rng, last = random.Random(n), 0
        with Resp(daemon.port("cache")) as c:
            while not end.is_set():
                turns = rng.randrange(1, 30)
                c.write((encode("INCR", f"{key}:{n}") + encode("GET", f"{key}:{n}")) * turns)
                for _ in range(turns):
                    got, seen = c.read(), c.read()
                    if isinstance(got, RespError):
                        maybe[n] += "outcome unknown" in str(got)
                        if got.cause not in OUTAGE:
                            wrong.append((n, got))
                    elif last < got <= sure[n] + maybe[n] + 1:
                        sure[n] += 1
                        last = got
                    else:
                        wrong.append((n, got, last, sure[n], maybe[n]))
                    if not isinstance(seen, RespError) and int(seen or 0) < last:
                        wrong.append((n, "stale", seen, last))

    def safe(n):
        try:
            rider(n)
        except Exception as e:
            wrong.append((n, repr(e)))
    threads = [threading.Thread(target=safe, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    rng, turn = random.Random(99), 0
    while turn < 30 or not sum(maybe):
        before = sum(sure)
        wait_for(lambda: wrong or sum(sure) > before + 5, what="answers between two cuts")
        time.sleep(rng.random() * 0.1)
        bad.cut(reset=turn % 2 == 0)
        turn += 1
    end.set()
    for t in threads:
        t.join(60)
    assert wrong == [] and not any(t.is_alive() for t in threads)
    for n in range(8):
        value = int(rd.admin().get(f"{key}:{n}"))
        assert sure[n] <= value <= sure[n] + maybe[n]
    assert sum(sure) > 100 and sum(maybe) > 0
    assert daemon.metric("carpool_retries_total", pool="cache") > 0


def test_frozen_under_load(cache, frail_rd, key):
    """SIGSTOP for longer than the deadline: errors, then everything goes on over the same clients."""
    daemon = cache(frail_rd.url(), timeouts={"request": "300ms", "close": "300ms"},
                   breaker=QUICK_BREAKER)
    load = RedisLoad(daemon, 10, key)
    load.progress()
    frail_rd.freeze()
    wait_for(lambda: "request_timeout" in load.causes, 5, "timeouts")
    time.sleep(1)
    frail_rd.thaw()
    load.progress()
    load.stop()
    assert load.causes <= OUTAGE | {"request_timeout"}, load.causes


def test_down_at_first(cache, client, frail_rd, key):
    """on_down: fail. Errors at once in Redis' own shape; the client stays and is served later."""
    frail_rd.kill9()
    daemon = cache(frail_rd.url(), breaker=QUICK_BREAKER)
    c = client(daemon)
    causes = set()
    for _ in range(20):
        begun = time.monotonic()
        causes.add(c.cmd("GET", key).cause)
        assert time.monotonic() - begun < 5 * SLOW
    assert causes <= {"dial_failed", "breaker_open"}, causes
    # A pipeline fails as a whole, not command after command.
    begun = time.monotonic()
    c.write(encode("GET", key) * 100)
    assert {c.read().cause for _ in range(100)} <= {"dial_failed", "breaker_open"}
    assert time.monotonic() - begun < 8 * SLOW
    assert c.cmd("MULTI").cause in ("dial_failed", "breaker_open")
    assert str(c.cmd("EXEC")).startswith("EXECABORT")
    frail_rd.start()
    wait_for(lambda: c.cmd("SET", key, "1") == "OK", 10, "service")
