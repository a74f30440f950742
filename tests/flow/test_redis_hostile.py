# SPDX-License-Identifier: MIT
"""Clients that mean harm, and servers that lie: nobody else may notice."""

import socket
import threading
import time

import pytest
from harness.base import SLOW, Peak, wait_for
from harness.carpool import SMALL_QUARANTINE
from harness.redis_fixtures import cache, client, fake, key, rd  # noqa: F401
from harness.rediswire import RespError, encode, redis_pool

ONE = {"size": {"max": 1}}


def works(daemon, c, key, n=1):
    """`c` is served, and hears its own answers."""
    for i in range(n):
        assert c.cmd("SET", key, i) == "OK"
        assert c.cmd("GET", key) == str(i).encode()


# -- framing


@pytest.mark.parametrize("data", [
    b"*-2\r\n", b"*1048577\r\n", b"*4294967297\r\n", b"*18446744073709551617\r\n", b"*01\r\n", b"*+1\r\n",
    b"* 1\r\n", b"*1 \r\n", b"*\r\n", b"*1\n$4\nPING\n", b"*1\r\n$-1\r\n", b"*1\r\n$536870913\r\n",
    b"*1\r\n$4294967300\r\nPING\r\n", b"*1\r\n$04\r\nPING\r\n", b"*1\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\n$4\r\nPINGxx", b"*1\r\n$3\r\nPING\r\n", b"*1\r\n\r\n$4\r\nPING\r\n", b"*1\r\n:4\r\n",
    b"*1\r\n$4\x00\r\nPING\r\n", b"*2\r\n$3\r\nGET\r\n$-1\r\n", b"*1\x00\r\n$4\r\nPING\r\n",
    b"+PING\r\n\x00\r\n", b"*2\r\n$4\r\nECHO\r\n$1000000000000000\r\n"],
    ids=repr)
def test_lengths_that_lie(cache, client, key, data):
    """What comes first is answered, then one error at most, then the end; never another's reply."""
    daemon = cache(**ONE)
    good, bad = client(daemon), client(daemon)
    assert good.cmd("SET", key, "mine") == "OK"
    bad.write(encode("GET", key) + data + encode("SET", key, "theirs") * 3)
    assert bad.read() == b"mine"
    rest = bad.rest()
    assert rest.count(b"\r\n") <= 2 and b"OK" not in rest, rest
    assert good.cmd("GET", key) == b"mine"
    assert daemon.metric("carpool_dials_total", pool="cache") == 1


def test_line_breaks_inside_strings(cache, client, key):
    """They are data, in keys, values, names and errors."""
    daemon = cache(**ONE)
    c, other = client(daemon), client(daemon)
    nasty = b"x\r\n+OK\r\n*1\r\n$8\r\nFLUSHALL\r\n"
    assert c.cmd("SET", nasty, nasty) == "OK"
    assert c.cmd("GET", nasty) == nasty
    assert isinstance(c.cmd(nasty), RespError)
    assert isinstance(c.cmd("CLIENT", nasty), RespError)
    assert isinstance(c.cmd("CLIENT", "SETNAME", nasty), RespError)
    assert isinstance(c.cmd("HELLO", "2", nasty), RespError)
    assert isinstance(c.cmd("CLIENT", "SETINFO", nasty, "x"), RespError)
    assert isinstance(c.cmd("SELECT", nasty), RespError)
    assert c.cmd("ECHO", nasty) == nasty
    works(daemon, other, key)
    assert c.cmd("GET", nasty) == nasty


def test_inline_and_arrays_in_turn(cache, client, key):
    daemon = cache(**ONE)
    c = client(daemon)
    c.write(b"SET %s 1\r\n" % key.encode() + encode("INCR", key) + b"*0\r\n\r\nINCR %s\n" % key.encode()
            + b"*-1\r\nMULTI\r\n" + encode("INCR", key) + b"EXEC\r\n" + encode("GET", key))
    assert [c.read() for _ in range(7)] == ["OK", 2, 3, "OK", "QUEUED", [4], b"4"]


def test_a_million_arguments(carpool, rd, client, key):
    """As many as the protocol allows, as small as they come; others are served meanwhile."""
    daemon = carpool(redis_pool(rd.url(), size={"max": 2}), env=SMALL_QUARANTINE)
    c, other = client(daemon), client(daemon)
    works(daemon, other, key + "o")
    start = daemon.rss()
    n = 1024 * 1024 - 2
    data = b"*%d\r\n" % (n + 2) + encode("RPUSH", key)[4:] + b"$1\r\nx\r\n" * n
    with Peak(daemon.rss) as rss:
        sender = threading.Thread(target=lambda: c.write(data))
        sender.start()
        works(daemon, other, key + "o", 20)
        assert c.read() == n
        sender.join(60)
        assert other.cmd("LLEN", key) == n
    assert rss.value - start < 24 << 20


# -- what one client sets up is not another's


STATE = {
    "multi": encode("MULTI") + encode("SET", "leak", "1"),
    "watch": encode("WATCH", "leak"),
    "subscribe": encode("SUBSCRIBE", "leak"),
    "psubscribe": encode("PSUBSCRIBE", "*"),
    "tracking": encode("CLIENT", "TRACKING", "ON", "BCAST"),
    "select": encode("SELECT", "3") + encode("SET", "leak", "1"),
    "reply off": encode("CLIENT", "REPLY", "OFF") + encode("SET", "leak", "1"),
    "reply skip": encode("CLIENT", "REPLY", "SKIP"),
    "monitor": encode("MONITOR"),
    "no-evict": encode("CLIENT", "NO-EVICT", "ON"),
    "asking": encode("ASKING"),
    "readonly": encode("READONLY"),
    "unknown": encode("NOSUCH", "x"),
    "name": encode("CLIENT", "SETNAME", "leak"),
    "script select": encode("EVAL", "redis.call('SELECT', 3) return redis.call('SET', 'leak', '1')", 0),
    "script resp": encode("EVAL", "redis.setresp(3) return redis.call('PING')", 0),
    "blocked": encode("BLPOP", "leak-none", "0"),
    "half": b"*3\r\n$3\r\nSET\r\n$4\r\nleak\r\n$200000\r\nabc",
    "half array": b"*3\r\n$3\r\nSET\r\n$4\r\nle",
}


@pytest.mark.parametrize("how", ["fin", "reset", "word"])
@pytest.mark.parametrize("state", STATE, ids=str)
def test_state_does_not_leak(cache, client, rd, key, state, how):
    """A client leaves something behind; the next one on the same connection finds nothing of it."""
    rd.admin().delete("leak")
    daemon = cache(**ONE)
    with_state = client(daemon)
    with_state.write(STATE[state])
    if how == "word" and state not in ("blocked", "half", "half array"):
        with_state.write(encode("RESET"))
    elif how == "reset":
        with_state.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    if how != "word" or state in ("blocked", "half", "half array"):
        with_state.close()
    c = client(daemon)
    for n in range(5):
        assert c.cmd("SET", key, n) == "OK"
        assert c.cmd("GET", key) == str(n).encode()
        assert c.cmd("EVAL", "return redis.call('GET', KEYS[1])", 1, key) == str(n).encode()
    assert c.cmd("MULTI") == "OK"
    assert c.cmd("INCR", key) == "QUEUED"
    assert c.cmd("EXEC") == [5]
    rd.admin().publish("leak", "x")
    rd.admin().set("leak-other", "x")
    assert c.cmd("GET", key) == b"5"
    assert c.cmd("CLIENT", "GETNAME") is None
    info = next(x for x in rd.clients() if x["name"] == "carpool")
    assert (info["db"], info["sub"], info["psub"], info["multi"], info["resp"]) == ("0", "0", "0", "-1", "2")
    assert "t" not in info["flags"] and "e" not in info["flags"] and "r" not in info["flags"]


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "users"
    path.write_text("app: apple pie\nother: pear\n")
    path.chmod(0o600)
    return path


def test_scripts_of_several_users_are_alone(cache, client, users, key):
    """With several users a script has its server to itself, and that is verified clean after it."""
    daemon = cache(auth={"method": "password", "users_file": str(users)}, size={"max": 2})
    a, b = client(daemon), client(daemon)
    assert a.cmd("AUTH", "app", "apple pie") == "OK" and b.cmd("AUTH", "other", "pear") == "OK"
    for i in range(5):
        assert a.cmd("EVAL", "return ARGV[1]", 0, i) == str(i).encode()
        assert b.cmd("SET", key, i) == "OK"
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="cache", phase="return", outcome="keep") >= 1,
             what="a verdict")
    assert daemon.all_errors("cache") == {}


def test_a_reset_cannot_be_answered_in_advance(cache, client, fake):
    """A script made the server say one reply too many, of the kind a reset wants to hear: the true ones
    would be the next client's. The last thing a reset asks cannot be guessed, so the server is dropped."""
    server = fake(lambda words, conn: b"$%d\r\n%s\r\n" % (len(words[-1]), words[-1]),
                  login={b"reset": lambda words, conn: b"+RESET\r\n" * (2 if conn == 1 else 1),
                         b"echo": lambda words, conn: conn > 1 and encode(words[1])[4:] or None})
    daemon = cache(server.url(), **ONE)
    c, other = client(daemon), client(daemon)
    assert c.cmd("NOSUCHCOMMAND", "x") == b"x"
    for word in ("one", "two", "three"):
        assert other.cmd("GET", word) == word.encode()
    assert server.accepted == 2 and daemon.logged("check_failed")
    assert c.cmd("NOSUCHCOMMAND", "x") == b"x"
    assert other.cmd("GET", "four") == b"four" and server.accepted == 2, "a true reset keeps it"


# -- pipelines and slow readers


def test_a_pipeline_of_blocking_calls(cache, client, key):
    """A thousand of them, for ever, on one server; the others are served, and it ends with the client."""
    daemon = cache(size={"max": 2})
    c, other = client(daemon), client(daemon)
    c.write(encode("BLPOP", key, "0") * 1000)
    wait_for(lambda: daemon.leases("cache") == 1, what="it to have its server")
    works(daemon, other, key + "o", 10)
    for i in range(300):
        other.send("RPUSH", key, i)
    assert [c.read()[1] for _ in range(300)] == [str(i).encode() for i in range(300)]
    c.close()
    wait_for(lambda: daemon.leases("cache") == 0, what="the server to be free again")


def test_every_buffer_full_then_gone(cache, client, key):
    """Blocked for ever, the path behind it filled up to the last byte, then gone: its end-of-file cannot
    arrive. The server is free again after timeouts.write_stall."""
    daemon = cache(**ONE, timeouts={"write_stall": "500ms"})
    c = client(daemon)
    c.send("BLPOP", key, "0")
    wait_for(lambda: daemon.leases("cache") == 1, what="the blocking call to have its server")
    c.sock.setblocking(False)
    block, full = encode("SET", key + "x", "x" * 50_000), 0.0
    at, begun = 0, time.monotonic()
    while not full or time.monotonic() - full < 0.2:  # full for a while: nothing moves any more
        try:
            at = (at + c.sock.send(block[at:])) % len(block)
            full = 0.0
        except BlockingIOError:
            full = full or time.monotonic()
        assert time.monotonic() - begun < 30
    c.close()
    wait_for(lambda: daemon.leases("cache") == 0, 10, "the server to be free again")
    daemon.saw("write_stall", "cache")
    assert client(daemon).cmd("SET", key, "1") == "OK"


def test_a_blocked_client_with_a_short_pipeline_stays(cache, client, key):
    daemon = cache(size={"max": 2}, timeouts={"write_stall": "300ms"})
    c, other = client(daemon), client(daemon)
    c.write(encode("BLPOP", key, "0") + encode("SET", key + "x", "x" * 60_000) * 2 + encode("PING"))
    assert c.silent(1.0)
    assert other.cmd("RPUSH", key, "v") == 1
    assert [c.read() for _ in range(4)] == [[key.encode(), b"v"], "OK", "OK", "PONG"]


def test_a_slow_reader_of_one_reply_keeps_nobody(cache, client, key):
    """Half a large reply taken, then nothing: the others on the same server do not wait for it."""
    daemon = cache(**ONE, limits={"buffer": "64KiB"})
    slow, other = client(daemon), client(daemon)
    assert other.cmd("SET", key, b"v" * 400_000) == "OK"
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    slow.write(encode("GET", key) + encode("ECHO", "behind"))
    begun = time.monotonic()
    works(daemon, other, key + "o", 100)
    assert time.monotonic() - begun < 5 * SLOW
    assert slow.read() == b"v" * 400_000
    assert slow.read() == b"behind"


def test_xread_that_blocks_in_any_spelling(cache, client, key):
    daemon = cache(size={"max": 2}, timeouts={"request": "1s"})
    other = client(daemon)
    calls = [("XREAD", "bLoCk", "1500", "STREAMS", key, "$"), ("xread", "COUNT", "1", "BLOCK", "1500",
             "STREAMS", key, "$")]
    for call in calls:
        c = client(daemon)
        c.send(*call)
        works(daemon, other, key + "o", 3)
        assert c.read() is None, "the call ended, not its deadline"
    assert other.cmd("XGROUP", "CREATE", key, "block", "$", "MKSTREAM") == "OK"
    assert other.cmd("XREADGROUP", "GROUP", "block", "block", "STREAMS", key, ">") is None


# -- the log


def test_refusals_are_explained_and_do_not_flood(cache, client, key):
    """Each line has its reason, also of what the client does not hear; the log is spared the rest."""
    daemon = cache()
    c = client(daemon)
    assert c.cmd("MULTI") == "OK"
    for _ in range(500):
        assert c.cmd("MONITOR").cause == "denied"
    assert str(c.cmd("EXEC")).startswith("EXECABORT")
    c.write(encode("CLIENT", "REPLY", "OFF") + encode("DEBUG", "SLEEP", "0") + encode("CLIENT", "REPLY", "ON"))
    assert c.read() == "OK"
    wait_for(lambda: daemon.errors("denied", "cache") == 501, what="all of them to be counted")
    lines = daemon.log_lines("client_error", "cause=denied")
    assert 1 <= len(lines) < 250
    assert all('reason=""' not in line and "reason=" in line for line in lines)
    wait_for(lambda: c.cmd("MONITOR").cause == "denied" and daemon.log_lines("left_out="), 5,
             "what was left out to be said", interval=0.1)
