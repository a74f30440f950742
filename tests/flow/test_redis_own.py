# SPDX-License-Identifier: MIT
"""What belongs to a connection: transactions, blocking calls, subscriptions, logins. A client gets a
server of its own for it, and the next one finds nothing of it left there."""

import random
import threading
import time

import pytest
import redis
from harness.base import LOOPBACK, SLOW, wait_for
from harness.redis_fixtures import _frail_rd, cache, client, fake, frail_rd, key, rd  # noqa: F401
from harness.rediswire import Resp, RespError, encode, redis_pool

ONE = {"size": {"max": 1}}


# -- transactions


def test_watch_multi_exec(cache, client, key):
    daemon = cache()
    a, b = client(daemon), client(daemon)
    assert a.cmd("SET", key, "1") == "OK"
    assert a.cmd("WATCH", key) == "OK"
    assert a.cmd("GET", key) == b"1"
    assert b.cmd("INCR", key) == 2
    assert a.cmd("MULTI") == "OK"
    assert a.cmd("SET", key, "lost update") == "QUEUED"
    assert a.cmd("EXEC") is None, "the watched key has changed"
    assert a.cmd("GET", key) == b"2"


def test_contention(cache, key, workers):
    """Read-modify-write by WATCH, 8 clients over 3 servers: no update is lost."""
    daemon = cache(workers=workers, size={"max": 3, "acquire_timeout": "30s"})
    failed = []

    def rider():
        try:
            with redis.Redis(host=LOOPBACK, port=daemon.port("cache")) as r:
                for _ in range(12):
                    r.transaction(lambda p: (n := int(p.get(key) or 0), p.multi(),
                                             p.set(key, n + 1)), key)
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=rider) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert failed == []
    with Resp(daemon.port("cache")) as c:
        assert c.cmd("GET", key) == b"96"


def test_a_refused_command_aborts_the_transaction(cache, client, key):
    c = client(cache())
    assert c.cmd("MULTI") == "OK"
    assert c.cmd("SET", key, "1") == "QUEUED"
    assert c.cmd("SUBSCRIBE", "x").cause == "unsupported"
    assert str(c.cmd("EXEC")).startswith("EXECABORT")
    assert c.cmd("GET", key) is None
    assert c.cmd("MULTI") == "OK"
    assert str(c.cmd("GET")).startswith("ERR wrong number"), "the server's own"
    assert str(c.cmd("EXEC")).startswith("EXECABORT")
    assert c.cmd("EXEC") == RespError("ERR EXEC without MULTI")


@pytest.mark.parametrize("leave", ["close", "reset", "quit"])
def test_a_transaction_left_open_does_not_leak(cache, client, key, leave):
    """MULTI and WATCH of a client that goes; the pool has one server, so the next client gets it."""
    daemon = cache(**ONE)
    a, b = client(daemon), client(daemon)
    assert a.cmd("WATCH", key) == "OK"
    assert a.cmd("MULTI") == "OK"
    assert a.cmd("SET", key, "never") == "QUEUED"
    if leave == "reset":
        assert a.cmd("RESET") == "RESET"
        assert a.cmd("GET", key) is None
    else:
        if leave == "quit":
            assert a.cmd("QUIT") == "OK"
        a.close()
    assert b.cmd("GET", key) is None
    assert b.cmd("SET", key, "1") == "OK"
    assert b.cmd("MULTI") == "OK"
    assert b.cmd("INCR", key) == "QUEUED"
    assert b.cmd("EXEC") == [2]


def test_requests_before_a_transaction_come_first(cache, client, key):
    """Shared replies arrive before the client gets a server of its own, in one write of everything."""
    c = client(cache())
    c.write(b"".join([encode("SET", key, "1"), encode("WATCH", key), encode("GET", key),
                      encode("PING"), encode("MULTI"), encode("INCR", key), encode("EXEC"),
                      encode("GET", key), encode("UNWATCH"), encode("INCR", key)]))
    assert [c.read() for _ in range(10)] == ["OK", "OK", b"1", "PONG", "OK", "QUEUED", [2], b"2",
                                            "OK", 3]


# -- blocking calls


def test_blocking_pop(cache, client, key, workers):
    daemon = cache(workers=workers)
    a, b = client(daemon), client(daemon)
    a.send("BLPOP", key, 0)
    assert a.silent()
    assert b.cmd("RPUSH", key, "x") == 1, "nobody waits behind a blocking call"
    assert a.read() == [key.encode(), b"x"]
    assert a.cmd("BLPOP", key, "0.1") is None


def test_blocking_calls_outlive_the_request_timeout(cache, client, key):
    daemon = cache(timeouts={"request": "1s"})
    a, b = client(daemon), client(daemon)
    a.write(encode("BLPOP", key, 0) + encode("PING") + encode("GET", key))
    time.sleep(1.4)
    assert b.cmd("RPUSH", key, "late") == 1
    assert [a.read() for _ in range(3)] == [[key.encode(), b"late"], "PONG", None]
    a.write(encode("xREAD", "Block", "100", "STREAMS", key + "s", "$"))
    assert a.read() is None


def test_a_client_that_leaves_frees_its_blocked_server(cache, client, rd, key):
    daemon = cache(**ONE)
    a, b = client(daemon), client(daemon)
    a.send("BLPOP", key, 0)
    wait_for(lambda: rd.info("clients")["blocked_clients"] == 1, 5, "the server to block")
    a.close()
    assert b.cmd("RPUSH", key, "kept") == 1, "the next one waits for a new server, and gets it"
    assert b.cmd("LLEN", key) == 1, "nobody popped it for the client that left"
    assert rd.info("clients")["blocked_clients"] == 0


# -- subscriptions


def test_subscribe_and_publish(cache, key, workers):
    daemon = cache(workers=workers)
    with redis.Redis(host=LOOPBACK, port=daemon.port("cache")) as r:
        sub = r.pubsub()
        sub.subscribe(key)
        sub.psubscribe(key + "*")
        assert [sub.get_message(timeout=5)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
        for n in range(50):
            assert r.publish(key, n) == 2
        got = [sub.get_message(timeout=5)["data"] for _ in range(100)]
        assert got == [str(n // 2).encode() for n in range(100)]
        sub.ping()
        assert sub.get_message(timeout=5)["type"] == "pong"
        sub.close()


def test_subscribed_wire(cache, client, key):
    """Several channels at once, PING's other shape, what is not allowed, and the way back."""
    daemon = cache()
    c, other = client(daemon), client(daemon)
    c.send("SUBSCRIBE", key + "a", key + "b")
    assert c.read() == [b"subscribe", (key + "a").encode(), 1]
    assert c.read() == [b"subscribe", (key + "b").encode(), 2]
    assert c.cmd("PING") == [b"pong", b""]
    assert "only (P|S)SUBSCRIBE" in str(c.cmd("GET", "x"))
    assert other.cmd("PUBLISH", key + "b", "hi") == 1
    assert c.read() == [b"message", (key + "b").encode(), b"hi"]
    c.send("UNSUBSCRIBE")
    assert sorted(c.read()[1] for _ in range(2)) == [(key + "a").encode(), (key + "b").encode()]
    assert c.cmd("PING") == "PONG"
    assert c.cmd("SET", key, "1") == "OK"
    assert other.cmd("PUBLISH", key + "b", "hi") == 0


@pytest.mark.parametrize("leave", ["close", "unsubscribe", "reset"])
def test_subscriptions_do_not_leak(cache, client, rd, key, leave):
    daemon = cache(**ONE)
    a, b = client(daemon), client(daemon)
    a.send("SUBSCRIBE", key)
    assert a.read()[2] == 1
    assert rd.admin().publish(key, "x") == 1
    if leave == "close":
        a.close()
    elif leave == "unsubscribe":
        assert a.read()[0] == b"message"
        assert a.cmd("UNSUBSCRIBE", key)[2] == 0
    else:
        assert a.read()[0] == b"message"
        assert a.cmd("RESET") == "RESET"
    assert b.cmd("SET", key, "1") == "OK"
    assert b.cmd("GET", key) == b"1"
    assert rd.admin().publish(key, "y") == 0
    assert b.cmd("GET", key) == b"1"


def test_messages_during_the_reset(cache, client, rd, key):
    """A client leaves while messages pour in: RESET is answered behind them, and the server is kept."""
    daemon = cache(**ONE)
    a, b = client(daemon), client(daemon)
    stop = threading.Event()

    def publish():
        with redis.Redis(host=rd.host, port=rd.port) as r:
            while not stop.is_set():
                r.publish(key, "m" * 50)
    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(5):
            a.send("SUBSCRIBE", key)
            assert a.read()[0] == b"subscribe"
            for _ in range(20):
                assert a.read()[0] == b"message"
            a.close()
            assert b.cmd("SET", key, "1") == "OK"
            a = client(daemon)
    finally:
        stop.set()
        thread.join(60)
    assert daemon.metric("carpool_dials_total", pool="cache") == 1
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="cache", phase="return",
                                   outcome="keep") >= 5, what="the verdicts to be counted")


# -- other state of a connection


def test_unknown_commands_are_reset_after(cache, client, rd):
    """What nobody knows may have changed the connection."""
    daemon = cache(**ONE)
    c = client(daemon)
    before = rd.commands().get("reset", 0)
    assert str(c.cmd("NOSUCH")).startswith("ERR unknown command")
    assert c.cmd("STRLEN", "x") == 0
    wait_for(lambda: rd.commands().get("reset", 0) == before + 1, 5, "a RESET")


def test_sticky_state_ends_with_the_server(cache, client, rd):
    daemon = cache(**ONE)
    a, b = client(daemon), client(daemon)
    assert a.cmd("CLIENT", "NO-EVICT", "ON") == "OK"
    a.close()
    assert b.cmd("STRLEN", "x") == 0
    flags = [entry["flags"] for entry in rd.clients() if entry["name"] == "carpool"]
    assert flags and all("e" not in f for f in flags)


def test_the_login_is_renewed_by_a_reset(carpool, servers, client):
    """RESET forgets user and database; both are back before anybody else gets the server."""
    server = servers.redis(local=True)
    server.admin().acl_setuser("limited", enabled=True, passwords=["+pw2"], keys=["*"],
                               commands=["+@all", "-flushall"])
    daemon = carpool(redis_pool(server.url("limited", "pw2", db=3), size={"min": 0, "max": 1}))
    a, b = client(daemon), client(daemon)
    assert a.cmd("MULTI") == "OK"
    assert a.cmd("SET", "where", "three") == "QUEUED"
    a.close()
    assert b.cmd("ACL", "WHOAMI") == b"limited"
    assert b.cmd("SET", "where", "db3") == "OK"
    with redis.Redis(host=server.host, port=server.port, db=3) as direct:
        assert direct.get("where") == b"db3"
    assert str(b.cmd("FLUSHALL")).startswith("NOPERM")
    assert daemon.metric("carpool_dials_total", pool="cache") == 1
    servers.forget(server)


def test_own_servers_have_a_bound(cache, client, key):
    """At most all but one: somebody must carry the others."""
    daemon = cache(size={"max": 3, "acquire_timeout": "1s"})
    first, second, third, other = (client(daemon) for _ in range(4))
    for c in (first, second):
        c.send("SUBSCRIBE", key)
        assert c.read()[2] == 1
    assert third.cmd("SUBSCRIBE", key).cause == "acquire_timeout"
    assert third.cmd("SET", key, "1") == "OK"
    assert other.cmd("GET", key) == b"1"
    second.close()
    wait_for(lambda: isinstance(third.cmd("SUBSCRIBE", key), list), 5, "a place")


def test_waiting_for_an_own_server_holds_nobody_up(cache, client, key):
    """All servers that may be reserved are; one client waits for another. Shared commands go on."""
    daemon = cache(size={"max": 2, "acquire_timeout": "20s"})
    first, second, other, late = (client(daemon) for _ in range(4))
    first.send("SUBSCRIBE", key)
    assert first.read()[2] == 1
    assert other.cmd("SET", key, "1") == "OK"
    second.send("SUBSCRIBE", key)
    wait_for(lambda: daemon.waiting("cache") == 1, 5, "the second to wait")
    begun = time.monotonic()
    for _ in range(20):
        assert other.cmd("GET", key) == b"1"
    late.write(encode("GET", key) * 5)
    assert [late.read() for _ in range(5)] == [b"1"] * 5
    assert time.monotonic() - begun < 5 * SLOW
    first.close()
    assert second.read()[2] == 1


def test_an_exclusive_lease_under_shared_load(cache, client, key, workers):
    """A pool of one, busy with shared commands: who needs all of the server gets it in turn."""
    daemon = cache(workers=workers, size={"max": 1, "acquire_timeout": "20s"})
    stop, failed = threading.Event(), []

    def rider(n):
        try:
            with Resp(daemon.port("cache")) as c:
                while not stop.is_set():
                    assert c.cmd("SET", f"{key}{n}", n) == "OK"
                    assert c.cmd("GET", f"{key}{n}") == str(n).encode()
        except Exception as e:
            failed.append(e)
    threads = [threading.Thread(target=rider, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    try:
        c = client(daemon)
        for i in range(10):
            assert c.cmd("WATCH", key) == "OK"
            assert c.cmd("MULTI") == "OK"
            assert c.cmd("INCR", key) == "QUEUED"
            assert c.cmd("EXEC") == [i + 1]
    finally:
        stop.set()
        for t in threads:
            t.join(60)
    assert failed == []


def test_big_values_among_small_ones(cache, client, key):
    """Values of megabytes in both directions do not hold up what others ask."""
    daemon = cache()
    big, small = client(daemon), client(daemon)
    value = random.Random(3).randbytes(4_000_000)
    assert small.cmd("SET", key + "s", "1") == "OK"
    data = encode("SET", key, value)
    big.write(data[:1_000_000])
    begun = time.monotonic()
    for _ in range(20):
        assert small.cmd("INCR", key + "s") > 1
    assert time.monotonic() - begun < 5 * SLOW
    big.write(data[1_000_000:])
    assert big.read() == "OK"
    big.send("GET", key)
    assert small.cmd("GET", key + "s") == b"21"
    assert big.read() == value


# -- who may come in


@pytest.fixture
def users(tmp_path):
    file = tmp_path / "users"
    file.write_text("app: apple pie\ndefault: letmein\n")
    file.chmod(0o600)
    return {"method": "password", "users_file": str(file)}


def test_login(cache, client, users, key):
    daemon = cache(auth=users)
    c = client(daemon)
    for words in (["GET", key], ["PING"], ["SUBSCRIBE", "x"], ["MULTI"]):
        assert c.cmd(*words) == RespError("NOAUTH Authentication required. (carpool: denied)")
    assert str(c.cmd("HELLO", "2")).startswith("NOAUTH HELLO must be called")
    assert str(c.cmd("AUTH", "wrong")).startswith("WRONGPASS")
    assert str(c.cmd("AUTH", "app", "letmein")).startswith("WRONGPASS")
    assert str(c.cmd("AUTH", "nobody", "letmein")).startswith("WRONGPASS")
    assert c.cmd("GET", key) == RespError("NOAUTH Authentication required. (carpool: denied)")
    assert c.cmd("AUTH", "app", "apple pie") == "OK"
    assert c.cmd("SET", key, "1") == "OK"
    daemon.saw("auth_failed", "cache")
    assert "apple pie" not in daemon.log_text() and "letmein" not in daemon.log_text()


def test_login_by_hello_and_of_the_default_user(cache, client, users, key):
    daemon = cache(auth=users)
    c = client(daemon)
    assert b"server" in c.cmd("HELLO", "2", "AUTH", "app", "apple pie", "SETNAME", "me")
    assert c.cmd("CLIENT", "GETNAME") == b"me"
    with redis.Redis(host=LOOPBACK, port=daemon.port("cache"), password="letmein") as r:
        assert r.set(key, "1")
    with redis.Redis(host=LOOPBACK, port=daemon.port("cache"), password="no") as r:
        with pytest.raises(redis.RedisError, match="WRONGPASS|invalid username"):
            r.get(key)


def test_before_login_little_is_taken(cache, client, users):
    daemon = cache(auth=users)
    for data, what in ((b"*11\r\n", b"unauthenticated multibulk length"),
                       (b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", b"unauthenticated bulk length")):
        c = client(daemon)
        c.write(data)
        assert c.rest() == b"-ERR Protocol error: " + what + b" (carpool: client_protocol)\r\n"


def test_login_takes_too_long(cache, client, users):
    daemon = cache(auth=users, timeouts={"client_login": "200ms"})
    c = client(daemon)
    assert c.rest() == b""
    daemon.saw("client_timeout", "cache")


def test_trust_takes_any_password(cache, client, key):
    """Clients come with the password they had for the server itself."""
    c = client(cache())
    assert c.cmd("AUTH", "whatever") == "OK"
    assert c.cmd("AUTH", "someone", "whatever") == "OK"
    assert c.cmd("SET", key, "1") == "OK"


def test_upstream_login(carpool, servers, client):
    server = servers.redis(local=True, requirepass="right")
    good = carpool(redis_pool(server.url()))
    assert client(good).cmd("SET", "a", "1") == "OK"
    for password in ("wrong", ""):
        daemon = carpool(redis_pool(server.url(password=password)))
        error = client(daemon).cmd("GET", "a")
        assert error.cause in ("upstream_auth", "breaker_open"), error
        daemon.saw("upstream_auth" if error.cause == "upstream_auth" else "breaker_open", "cache")
        assert daemon.logged("dial_failed", "cause=upstream_auth")
    servers.forget(server)


def test_a_client_that_leaves_with_a_backlog_frees_its_server(cache, key):
    """Blocked for ever, so much sent behind it that it is not read any more, then gone."""
    daemon = cache(**ONE)
    gone = Resp(daemon.port("cache"))
    gone.write(encode("BLPOP", key, "0"))
    wait_for(lambda: daemon.leases("cache") == 1, what="the blocking call to have its server")
    # More than carpool reads ahead, no more than fits: else the end of file cannot be sent at all.
    gone.write(encode("SET", key + "x", "x" * 120_000) * 2)
    gone.close()
    wait_for(lambda: daemon.leases("cache") == 0, what="the server to be free again")
    with Resp(daemon.port("cache")) as next_one:
        assert next_one.cmd("SET", key, "1") == "OK"


@pytest.mark.parametrize("limit,word", [({"rate": 2}, "rate_limited"),
                                        ({"in_flight": 1}, "overloaded")])
def test_limits_of_exchanges(cache, key, limit, word):
    daemon = cache(limits=limit)
    with Resp(daemon.port("cache")) as c:
        c.write(encode("SET", key, "1") * 4)
        replies = [c.read() for _ in range(4)]
        assert replies[0] == "OK"
        assert replies[-1].cause == word
    assert daemon.saw(word, "cache")


def test_after_a_refused_subscription(cache, client, key):
    """There is nothing to wait for, and nothing is thrown away: what follows is done, and whole."""
    daemon = cache(size={"max": 1, "acquire_timeout": "300ms"})
    holder, c = client(daemon), client(daemon)
    holder.send("BLPOP", f"{key}:nothing", 0)
    wait_for(lambda: daemon.leases("cache") == 1, what="the only server to be taken")
    assert c.cmd("SUBSCRIBE", "channel").cause in ("acquire_timeout", "queue_full")
    holder.close()
    wait_for(lambda: daemon.leases("cache") == 0, what="the server to be free")
    value = b"v" * 300_000
    c.write(encode("SET", key, value) + encode("GET", f"{key}:other") + encode("STRLEN", key))
    assert [c.read() for _ in range(3)] == ["OK", None, len(value)]
