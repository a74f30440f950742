# SPDX-License-Identifier: MIT
"""Redis when things go wrong: stalls, losses, wrong replies, slow and vanishing clients."""

import random
import socket
import threading
import time

import pytest
import redis
from harness.base import LOOPBACK, SLOW, can_connect, wait_for
from harness.redis_fixtures import _frail_rd, cache, client, fake, frail_rd, key, rd  # noqa: F401
from harness.rediswire import DEAF, HANG_UP, Resp, RespError, encode, redis_pool
from harness.relays import TO_CLIENT, TO_SERVER

OUTAGE = {"upstream_closed", "dial_failed", "breaker_open", "acquire_timeout"}
QUICK_BREAKER = {"open": "100ms..300ms"}


def through(gate):
    return f"redis://{gate.host}:{gate.port}/0"


def dials(daemon):
    return daemon.metric("carpool_dials_total", pool="cache")


# -- too late


def test_request_timeout_and_tombstone(cache, client, rd, gate, key, workers):
    """The late reply is swallowed, and the next one belongs to whom it is for."""
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), workers=workers, size={"max": 1}, timeouts={"request": "300ms"},
                   check={"timeout": "20s"})
    c = client(daemon)
    assert c.cmd("SET", key, "first") == "OK"
    for _ in range(3):
        slow.pause(TO_CLIENT)
        begun = time.monotonic()
        error = c.cmd("GET", key)
        assert error.cause == "request_timeout"
        assert 0.25 < time.monotonic() - begun < 2 * SLOW
        slow.resume()
        assert c.cmd("SET", key, "second") == "OK"
        assert c.cmd("GET", key) == b"second"
    assert dials(daemon) == 1, "the server was kept"
    daemon.saw("request_timeout", "cache")


def test_tombstones_among_the_living(cache, client, rd, gate, key):
    """One client's requests time out in the middle of others' on the same server."""
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), size={"max": 1}, timeouts={"request": "500ms"},
                   check={"timeout": "20s"})
    early, late = client(daemon), client(daemon)
    assert early.cmd("MSET", key + "a", "a", key + "b", "b") == "OK"
    slow.pause(TO_CLIENT)
    early.write(encode("GET", key + "a") + encode("PING") + encode("GET", key + "b"))
    time.sleep(0.4)
    late.write(encode("GET", key + "b") + encode("ECHO", "e"))
    assert [early.read() for _ in range(3)] == [
        RespError(e) if isinstance(e, str) and e.startswith("ERR") else e
        for e in ("ERR carpool: request_timeout no reply within 500 ms", "PONG",
                  "ERR carpool: request_timeout no reply within 500 ms")]
    slow.resume()
    assert [late.read() for _ in range(2)] == [b"b", b"e"]
    assert early.cmd("GET", key + "a") == b"a"
    assert dials(daemon) == 1


def test_writes_that_time_out_say_so(cache, client, rd, gate, key):
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), timeouts={"request": "200ms"})
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
    daemon = cache(through(slow), workers=workers, timeouts={"request": "300ms", "close": "200ms"},
                   breaker={"consecutive": 0, "failure_ratio": "0%"}, check={"timeout": "300ms"})
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
                   breaker={"consecutive": 0, "failure_ratio": "0%"})
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
    daemon = cache(through(slow), timeouts={"request": "300ms", "close": "200ms"})
    c = client(daemon)
    assert c.cmd("MULTI") == "OK"
    assert c.cmd("SET", key, "1") == "QUEUED"
    slow.pause(TO_CLIENT)
    assert c.cmd("INCR", key).cause == "request_timeout"
    slow.resume()
    assert c.cmd("SET", key, "2").cause == "upstream_closed", "still inside"
    assert str(c.cmd("EXEC")).startswith("EXECABORT")
    assert c.cmd("EXISTS", key) == 0


def test_black_hole(cache, client, black_hole):
    """Accepts and never answers: every wait ends at its deadline."""
    daemon = cache(f"redis://{black_hole.host}:{black_hole.port}/0",
                   size={"acquire_timeout": "500ms"}, timeouts={"connect": "200ms"})
    c = client(daemon)
    for _ in range(3):
        begun = time.monotonic()
        assert c.cmd("GET", "x").cause in ("dial_failed", "acquire_timeout", "breaker_open")
        assert time.monotonic() - begun < 3 * SLOW
    assert c.cmd("PING") == "PONG"


# -- lost servers


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
    assert daemon.metric("carpool_retries_total", pool="cache") >= 1
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
    sender.join(20)
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
    assert daemon.metric("carpool_recycle_verdicts_total", pool="cache",
                         outcome="drop_unread") >= 1


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


class Riders:
    """Clients that set and get until told to stop and never reconnect."""

    def __init__(self, daemon, n, key):
        self.done, self.causes, self.lost = [0] * n, set(), []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ride, args=(daemon, i, f"{key}:{i}"),
                                          daemon=True) for i in range(n)]
        for t in self._threads:
            t.start()

    def _ride(self, daemon, n, key):
        try:
            with Resp(daemon.port("cache")) as c:
                turn = 0
                while not self._end.is_set():
                    turn += 1
                    c.write(encode("SET", key, turn) + encode("GET", key))
                    put, got = c.read(), c.read()
                    for reply in (put, got):
                        if isinstance(reply, RespError):
                            assert reply.cause or "LOADING" in str(reply), reply
                            self.causes.add(reply.cause)
                            time.sleep(0.01)
                    if put == "OK" and not isinstance(got, RespError):
                        # None: it died in between, and the second answer is of an empty server.
                        assert got in (str(turn).encode(), None), (turn, got)
                        self.done[n] += 1
        except Exception as e:
            self.lost.append((n, repr(e)))

    def progress(self, more=5, timeout=30):
        before = list(self.done)
        wait_for(lambda: self.lost or all(d >= b + more for d, b in zip(self.done, before)),
                 timeout, "all clients to make progress")
        assert not self.lost, self.lost

    def stop(self):
        self._end.set()
        for t in self._threads:
            t.join(30)
        assert not any(t.is_alive() for t in self._threads)
        assert not self.lost, self.lost


def test_killed_under_load_and_back(cache, frail_rd, key, workers):
    frail_rd.set_maxclients(3)
    daemon = cache(frail_rd.url(), workers=workers, size={"max": 3}, breaker=QUICK_BREAKER)
    load = Riders(daemon, 20, key)
    load.progress()
    for _ in range(2):
        frail_rd.kill9()
        wait_for(lambda: not can_connect(frail_rd.host, frail_rd.port), what="the port to close")
        frail_rd.start()
        frail_rd.set_maxclients(3)
        load.progress()
        assert frail_rd.refusals() == 0
    load.stop()
    assert load.causes <= OUTAGE, load.causes
    assert set(daemon.all_errors("cache")) <= OUTAGE


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
    rng = random.Random(99)
    for turn in range(30):
        time.sleep(rng.random() * 0.1)
        bad.cut(reset=turn % 2 == 0)
    end.set()
    for t in threads:
        t.join(30)
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
    load = Riders(daemon, 10, key)
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
        assert time.monotonic() - begun < 2 * SLOW
    assert causes <= {"dial_failed", "breaker_open"}, causes
    # A pipeline fails as a whole, not command after command.
    begun = time.monotonic()
    c.write(encode("GET", key) * 100)
    assert {c.read().cause for _ in range(100)} <= {"dial_failed", "breaker_open"}
    assert time.monotonic() - begun < 3 * SLOW
    assert c.cmd("MULTI").cause in ("dial_failed", "breaker_open")
    assert str(c.cmd("EXEC")).startswith("EXECABORT")
    frail_rd.start()
    wait_for(lambda: c.cmd("SET", key, "1") == "OK", 10, "service")


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


def test_a_slow_reader_is_closed_and_nobody_waits(cache, client, key):
    """It asks for much and reads nothing. Others share its server and never notice."""
    daemon = cache(size={"max": 1}, limits={"buffer": "16KiB"})
    slow, other = client(daemon), client(daemon)
    assert other.cmd("SET", key, b"v" * 100_000) == "OK"
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.write(encode("GET", key) * 300)
    begun = time.monotonic()
    for _ in range(50):
        assert other.cmd("STRLEN", key) == 100_000
    assert time.monotonic() - begun < 5 * SLOW
    wait_for(lambda: daemon.errors("write_stall", "cache") == 1, 10, "it to be closed")
    assert other.cmd("GET", key) == b"v" * 100_000
    assert daemon.rss() < 400_000_000
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
    daemon = cache(timeouts={"client_idle": "300ms"})
    c, subscriber = client(daemon), client(daemon)
    subscriber.send("SUBSCRIBE", key)
    assert subscriber.read()[2] == 1
    assert c.cmd("PING") == "PONG"
    assert c.rest() == b""
    assert subscriber.silent(0.5), "waiting for messages is not idleness"
    daemon.saw("client_timeout", "cache")


# -- carpool's own limits


def test_busy_pool(cache, client, key):
    daemon = cache(size={"max": 1, "acquire_timeout": "300ms", "waiters": 1})
    a, b, c = client(daemon), client(daemon), client(daemon)
    a.send("BLPOP", key, 0)
    assert a.silent(0.2)
    b.write(encode("GET", key) + encode("GET", key))
    wait_for(lambda: daemon.waiting("cache") == 1, 5, "b to wait")
    assert c.cmd("GET", key).cause == "queue_full"
    assert [b.read().cause for _ in range(2)] == ["acquire_timeout"] * 2
    daemon.saw("acquire_timeout", "cache")
    daemon.saw("queue_full", "cache")


def test_paused(cache, client, key):
    daemon = cache(size={"acquire_timeout": "300ms"})
    c = client(daemon)
    assert c.cmd("SET", key, "1") == "OK"
    daemon.cli("pause", "cache")
    assert c.cmd("GET", key).cause == "paused"
    c.send("GET", key)
    daemon.cli("resume", "cache")
    assert c.read() == b"1"
    daemon.saw("paused", "cache")


def test_recycle_replaces_all_servers(cache, rd, key, workers):
    daemon = cache(workers=workers)
    load = Riders(daemon, 10, key)
    load.progress()
    before = {e["id"] for e in rd.clients() if e["name"] == "carpool"}
    daemon.cli("recycle", "cache")
    load.progress(20)
    wait_for(lambda: not before & {e["id"] for e in rd.clients()}, 10, "the old ones to go")
    load.stop()
    assert load.causes == set()


def test_drain_under_load(cache, key, workers):
    """SIGTERM: what was asked is answered, then connections end; no reply is lost or cut."""
    daemon = cache(workers=workers)
    wrong, ended = [], []

    def rider(n):
        c = Resp(daemon.port("cache"))
        turn, asked = 0, False
        try:
            while True:
                turn += 1
                asked = False
                c.send("INCR", f"{key}:{n}")
                asked = True
                if c.read() != turn:
                    wrong.append((n, turn))
                    return
        except (EOFError, OSError) as e:
            if isinstance(e, EOFError) and "b''" not in str(e):
                wrong.append((n, turn, e))
            ended.append((n, turn, asked))
        finally:
            c.close()
    threads = [threading.Thread(target=rider, args=(n,)) for n in range(10)]
    for t in threads:
        t.start()
    time.sleep(0.3)
    idle = Resp(daemon.port("cache"))
    assert idle.cmd("PING") == "PONG"
    daemon.stop()
    for t in threads:
        t.join(20)
    assert wrong == [] and len(ended) == 10
    assert idle.rest() == b""
    idle.close()


def test_drain_lets_transactions_finish(cache, client, key):
    daemon = cache()
    c, sub = client(daemon), client(daemon)
    sub.send("SUBSCRIBE", key)
    assert sub.read()[2] == 1
    assert c.cmd("MULTI") == "OK"
    assert c.cmd("SET", key, "1") == "QUEUED"
    daemon.signal(15)
    assert sub.rest() == b"", "nothing of a subscriber's is under way"
    assert c.cmd("EXEC") == ["OK"]
    assert c.rest() == b""
    daemon.ended()


def test_drain_deadline(carpool, rd, key):
    """A client that blocks for ever does not keep carpool alive."""
    daemon = carpool(redis_pool(rd.url()), drain={"deadline": "300ms"})
    with Resp(daemon.port("cache")) as c:
        c.send("BLPOP", key, 0)
        assert c.silent(0.2)
        daemon.signal(15)
        assert c.rest() == b""
    daemon.ended()


def test_many_servers_of_commands(cache, client, rd, gate, key):
    """A gate that stops taking bytes: clients' pipelines are bounded, and all is done when it goes on."""
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), size={"max": 1}, timeouts={"request": "60s"})
    clients = [client(daemon) for _ in range(4)]
    assert all(c.cmd("STRLEN", "x") == 0 for c in clients)
    slow.pause(TO_SERVER)
    n, value = 400, b"v" * 10_000
    senders = [threading.Thread(target=c.write, args=(encode("SET", f"{key}{i}", value) * n,))
               for i, c in enumerate(clients)]
    for t in senders:
        t.start()
    time.sleep(0.5)
    slow.resume()
    for c in clients:
        assert [c.read() for _ in range(n)] == ["OK"] * n
    for t in senders:
        t.join(20)
    assert daemon.all_errors("cache") == {}
